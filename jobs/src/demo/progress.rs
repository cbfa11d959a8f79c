//! What is seen while the model trains: the same prompts, drawn again and again.

use std::cell::RefCell;
use std::path::PathBuf;

use anyhow::{Context, anyhow};

use super::drawing::{Corpus, Picture, SIDE, Sample, Subset, png};
use super::report::{Moment, Timeline};
use super::scorer::{Verdict, judge};
use crate::printer::Printer;
use crate::sample::{Made, Piece};

/// Each pixel of a sheet's pictures becomes so many squared.
const ZOOM: usize = 4;
/// Pixels around a picture of a sheet.
const FRAME: usize = 6;

/// What the run of the demo draws at intervals: three singles and three pairs.
fn scenes(seed: u64) -> Vec<Sample> {
    let corpus = |subset| Corpus { seed: seed.wrapping_add(3 << 40), subset };
    let sample = |subset| move |index| corpus(subset).sample(index);
    (0..3).map(sample(Subset::Singles)).chain((0..3).map(sample(Subset::Pairs))).collect()
}

/// Their captions, as they stand in `sample.prompts`.
pub(crate) fn prompts(seed: u64) -> Vec<String> {
    scenes(seed).iter().map(|sample| sample.scene.caption()).collect()
}

/// Judges what a run drew of [`prompts`], and keeps it.
pub(crate) struct Growth<'a> {
    printer: &'a Printer,
    seed: u64,
    folder: PathBuf,
    scenes: Vec<Sample>,
    moments: RefCell<Vec<Moment>>,
    failure: RefCell<Option<anyhow::Error>>,
}

impl<'a> Growth<'a> {
    /// Sheets are written into `folder`.
    ///
    /// # Errors
    ///
    /// If the folder can't be made.
    pub(crate) fn new(printer: &'a Printer, seed: u64, folder: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        let (moments, failure) = Default::default();
        Ok(Self { printer, seed, folder, scenes: scenes(seed), moments, failure })
    }

    /// Takes in what was drawn at `step`. A failure is kept for [`Self::finish`]: the training goes on.
    pub(crate) fn add(&self, step: u64, made: &[Made]) {
        if let Err(error) = self.try_add(step, made) {
            self.failure.borrow_mut().get_or_insert(error);
        }
    }

    fn try_add(&self, step: u64, made: &[Made]) -> anyhow::Result<()> {
        let judged = made.iter().zip(&self.scenes).map(|(made, asked)| {
            let picture = picture(made)?;
            let verdict = judge(&picture, &asked.scene);
            Ok((picture, verdict))
        });
        let pictures = judged.collect::<anyhow::Result<Vec<(Picture, Verdict)>>>()?;
        let path = self.folder.join(format!("step-{step:08}.png"));
        std::fs::write(&path, sheet(&pictures))
            .with_context(|| format!("cannot write `{}`", path.display()))?;
        let right = pictures.iter().filter(|(_, verdict)| verdict.wholly).count();
        if self.printer.shows_progress() {
            let of = pictures.len();
            self.printer.note(&format!("  {right} of {of} drawn right, side by side in {}", path.display()));
        }
        self.moments.borrow_mut().push(Moment { step, pictures });
        Ok(())
    }

    /// All that was seen.
    ///
    /// # Errors
    ///
    /// The first moment that failed.
    pub(crate) fn finish(self) -> anyhow::Result<Timeline> {
        match self.failure.into_inner() {
            Some(error) => Err(error.context("cannot judge the samples of the run")),
            None => Ok(Timeline { prompts: prompts(self.seed), moments: self.moments.into_inner() }),
        }
    }
}

/// The picture that a prompt gave.
fn picture(made: &Made) -> anyhow::Result<Picture> {
    let picture = made.pieces.iter().find_map(|piece| match piece {
        Piece::Picture(picture) => Some(Picture::from_bytes(&picture.rgb)),
        Piece::Text(_) => None,
    });
    picture.ok_or_else(|| anyhow!("a prompt to draw gave no picture"))
}

/// Pictures in a line, enlarged, framed green where right and red where wrong.
fn sheet(pictures: &[(Picture, Verdict)]) -> Vec<u8> {
    let cell = SIDE * ZOOM + 2 * FRAME;
    let (width, height) = (cell * pictures.len(), cell);
    let mut rgb = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let (picture, verdict) = &pictures[x / cell];
            rgb.extend(cell_pixel(picture, verdict.wholly, x % cell, y));
        }
    }
    png(&rgb, width, height)
}

fn cell_pixel(picture: &Picture, right: bool, x: usize, y: usize) -> [u8; 3] {
    let inside = FRAME..FRAME + SIDE * ZOOM;
    if inside.contains(&x) && inside.contains(&y) {
        let pixel = (y - FRAME) / ZOOM * SIDE + (x - FRAME) / ZOOM;
        return std::array::from_fn(|channel| {
            (picture.0[3 * pixel + channel].clamp(0.0, 1.0) * 255.0).round() as u8
        });
    }
    let rim = FRAME - 2..FRAME + SIDE * ZOOM + 2;
    match (rim.contains(&x) && rim.contains(&y), right) {
        (false, _) => [255; 3],
        (true, true) => [29, 122, 62],
        (true, false) => [179, 38, 30],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_shows_the_pictures_in_their_frames() {
        let sample = Corpus { seed: 0, subset: Subset::Singles }.sample(0);
        let verdict = judge(&sample.picture, &sample.scene);
        let picture = sample.picture;
        let file = sheet(&[(picture.clone(), verdict), (picture.clone(), Verdict::default())]);
        let read = image::load_from_memory(&file).unwrap().to_rgb8();
        let cell = (SIDE * ZOOM + 2 * FRAME) as u32;
        assert_eq!(read.dimensions(), (2 * cell, cell));
        assert_eq!(read.get_pixel(FRAME as u32 - 1, 20).0, [29, 122, 62]);
        assert_eq!(read.get_pixel(cell + FRAME as u32 - 1, 20).0, [179, 38, 30]);
        assert_eq!(read.get_pixel(FRAME as u32, FRAME as u32).0[..], picture.bytes()[..3]);
    }
}
