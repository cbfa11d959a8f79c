//! What is seen while the model trains: the same prompts, drawn again and again.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use anyhow::Context;

use super::folder::Folder;
use super::model::picture;
use crate::sample::Made;
use crate::shapes::{Example, Picture, SIDE, Verdict, judge, milestones, png};
use crate::terminal::Printer;

/// Each pixel of a sheet's pictures becomes so many squared.
const ZOOM: usize = 4;
/// Pixels around a picture of a sheet.
const FRAME: usize = 6;

/// Pictures drawn at one moment of the training, one a prompt.
pub(super) struct Moment {
    /// Steps done.
    pub(super) step: u64,
    /// Each picture with what of it is right.
    pub(super) pictures: Vec<(Picture, Verdict)>,
}

/// Judges what a run draws of the [`milestones`], and writes it side by side.
pub(super) struct Growth<'a> {
    printer: &'a Printer,
    seed: u64,
    folder: Folder<'a>,
    failure: RefCell<Option<anyhow::Error>>,
}

impl<'a> Growth<'a> {
    /// Sheets are written into `samples` of the folder.
    pub(super) fn new(printer: &'a Printer, seed: u64, folder: Folder<'a>) -> Self {
        Self { printer, seed, folder, failure: RefCell::default() }
    }

    /// Shows what was drawn at `step`. A failure is kept for [`Self::finish`]: the training goes on.
    pub(super) fn add(&self, step: u64, made: &[Made]) {
        if let Err(error) = self.try_add(step, made) {
            self.failure.borrow_mut().get_or_insert(error);
        }
    }

    fn try_add(&self, step: u64, made: &[Made]) -> anyhow::Result<()> {
        let pictures = made.iter().map(picture).collect::<anyhow::Result<Vec<_>>>()?;
        let pictures = judged(pictures, self.seed);
        let name = format!("samples/step-{step:08}.png");
        self.folder.write(&name, &sheet(&pictures))?;
        if self.printer.shows_progress() {
            let right = pictures.iter().filter(|(_, verdict)| verdict.wholly).count();
            let (of, sheet) = (pictures.len(), self.folder.shown(&name));
            self.printer.paragraph(&format!("{right} of {of} drawn right: {sheet}"));
        }
        Ok(())
    }

    /// Ends it.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        match self.failure.into_inner() {
            Some(error) => Err(error.context("cannot judge the samples of the run")),
            None => Ok(()),
        }
    }
}

fn judged(pictures: Vec<Picture>, seed: u64) -> Vec<(Picture, Verdict)> {
    let judge = |(picture, asked): (Picture, Example)| {
        let verdict = judge(&picture, &asked.scene);
        (picture, verdict)
    };
    pictures.into_iter().zip(milestones(seed)).map(judge).collect()
}

/// Every moment of a run, read back from its folder of samples.
pub(super) fn moments(samples: &Path, seed: u64) -> anyhow::Result<Vec<Moment>> {
    let moment = |folder: &String| {
        let step = folder.strip_prefix("step-")?.parse().ok()?;
        Some((step, samples.join(folder)))
    };
    names(samples)?.iter().filter_map(moment).map(|(step, folder)| read_moment(step, &folder, seed)).collect()
}

fn read_moment(step: u64, folder: &Path, seed: u64) -> anyhow::Result<Moment> {
    let files = names(folder)?.into_iter().filter(|name| name.ends_with(".png"));
    let read = |name: String| {
        let path = folder.join(name);
        let opened = image::open(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        Ok(Picture::from_bytes(opened.to_rgb8().as_raw()))
    };
    Ok(Moment { step, pictures: judged(files.map(read).collect::<anyhow::Result<_>>()?, seed) })
}

/// Names in a folder in order.
fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    let mut names: Vec<String> = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<anyhow::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// Pictures in a line, enlarged, framed green where right and red where wrong.
fn sheet(pictures: &[(Picture, Verdict)]) -> Vec<u8> {
    let cell = SIDE * ZOOM + 2 * FRAME;
    let (width, height) = (cell * pictures.len(), cell);
    let bytes: Vec<Vec<u8>> = pictures.iter().map(|(picture, _)| picture.bytes()).collect();
    let mut rgb = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let (picture, right) = (&bytes[x / cell], pictures[x / cell].1.wholly);
            rgb.extend(cell_pixel(picture, right, x % cell, y));
        }
    }
    png(&rgb, width, height)
}

fn cell_pixel(picture: &[u8], right: bool, x: usize, y: usize) -> [u8; 3] {
    let inside = FRAME..FRAME + SIDE * ZOOM;
    if inside.contains(&x) && inside.contains(&y) {
        let pixel = (y - FRAME) / ZOOM * SIDE + (x - FRAME) / ZOOM;
        return std::array::from_fn(|channel| picture[3 * pixel + channel]);
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
    use crate::shapes::{Corpus, Subset};

    #[test]
    fn a_sheet_shows_the_pictures_in_their_frames() {
        let Example { scene, picture } = Corpus { seed: 0, subset: Subset::Singles }.example(0);
        let verdict = judge(&picture, &scene);
        let file = sheet(&[(picture.clone(), verdict), (picture.clone(), Verdict::default())]);
        let read = image::load_from_memory(&file).unwrap().to_rgb8();
        let cell = (SIDE * ZOOM + 2 * FRAME) as u32;
        assert_eq!(read.dimensions(), (2 * cell, cell));
        assert_eq!(read.get_pixel(FRAME as u32 - 1, 20).0, [29, 122, 62]);
        assert_eq!(read.get_pixel(cell + FRAME as u32 - 1, 20).0, [179, 38, 30]);
        assert_eq!(read.get_pixel(FRAME as u32, FRAME as u32).0[..], picture.bytes()[..3]);
    }
}
