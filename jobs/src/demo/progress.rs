//! What is seen while the model trains: the same prompts, drawn again and again.

use std::cell::RefCell;
use std::path::PathBuf;

use anyhow::Context;
use schemas::Tokenizer;
use trainer::codec::Codec;
use trainer::model::Transfusion;
use trainer::objective::Objective;

use super::artist::Artist;
use super::drawing::{Corpus, Picture, SIDE, Sample, Subset, png};
use super::report::{Moment, Timeline};
use super::scorer::{Verdict, judge};
use crate::printer::Printer;

/// Each pixel of a sheet's pictures becomes so many squared.
const ZOOM: usize = 4;
/// Pixels around a picture of a sheet.
const FRAME: usize = 6;

/// Draws the same prompts at every look, and keeps what came.
pub(crate) struct Looks<'a> {
    printer: &'a Printer,
    tokenizer: Tokenizer,
    codec: &'a Codec,
    objective: Objective,
    seed: u64,
    folder: PathBuf,
    prompts: Vec<Sample>,
    moments: RefCell<Vec<Moment>>,
    failure: RefCell<Option<anyhow::Error>>,
}

impl<'a> Looks<'a> {
    /// Three singles and three pairs; sheets are written into `folder`.
    ///
    /// # Errors
    ///
    /// If the folder can't be made.
    pub(crate) fn new(
        printer: &'a Printer,
        tokenizer: Tokenizer,
        codec: &'a Codec,
        objective: Objective,
        seed: u64,
        folder: PathBuf,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        let corpus = |subset| Corpus { seed: seed.wrapping_add(3 << 40), subset };
        let sample = |subset| move |index| corpus(subset).sample(index);
        let prompts = (0..3).map(sample(Subset::Singles)).chain((0..3).map(sample(Subset::Pairs))).collect();
        let (moments, failure) = Default::default();
        Ok(Self { printer, tokenizer, codec, objective, seed, folder, prompts, moments, failure })
    }

    /// Draws the prompts with the model of `step`. A failure is kept for [`Self::finish`]: the training goes on.
    pub(crate) fn look(&self, step: u64, model: &Transfusion) {
        if let Err(error) = self.try_look(step, model) {
            self.failure.borrow_mut().get_or_insert(error);
        }
    }

    fn try_look(&self, step: u64, model: &Transfusion) -> anyhow::Result<()> {
        let Self { tokenizer, codec, objective, seed, .. } = self;
        let artist = Artist { model, tokenizer, codec, objective, seed: *seed };
        let drawn = artist.draw(&self.prompt_texts())?;
        let judged = drawn.into_iter().zip(&self.prompts);
        let pictures: Vec<(Picture, Verdict)> = judged
            .map(|(picture, asked)| {
                let verdict = judge(&picture, &asked.scene);
                (picture, verdict)
            })
            .collect();
        let path = self.folder.join(format!("step-{step:08}.png"));
        std::fs::write(&path, sheet(&pictures))
            .with_context(|| format!("cannot write `{}`", path.display()))?;
        let right = pictures.iter().filter(|(_, verdict)| verdict.wholly).count();
        if self.printer.shows_progress() {
            let of = pictures.len();
            self.printer
                .note(&format!("step {step}: {right} of {of} prompts drawn right, see {}", path.display()));
        }
        self.moments.borrow_mut().push(Moment { step, pictures });
        Ok(())
    }

    fn prompt_texts(&self) -> Vec<String> {
        self.prompts.iter().map(|prompt| prompt.scene.caption()).collect()
    }

    /// All that was seen.
    ///
    /// # Errors
    ///
    /// The first look that failed.
    pub(crate) fn finish(self) -> anyhow::Result<Timeline> {
        let prompts = self.prompt_texts();
        match self.failure.into_inner() {
            Some(error) => Err(error.context("cannot draw samples")),
            None => Ok(Timeline { prompts, moments: self.moments.into_inner() }),
        }
    }
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
