//! The drawn corpus as a few Parquet files: `image` (PNG bytes) and `caption`, as a user's own would look.
//!
//! Few files of many rows instead of one small file a picture: a hundred thousand of those take a file system longer
//! than drawing them takes.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use datafusion::parquet::arrow::ArrowWriter;
use rayon::prelude::*;

use crate::shapes::{Corpus, Example};

/// Pictures of a file. Each file is packed by itself, so several can be worked on at once.
pub(super) const FILE_PICTURES: u64 = 8192;
/// Rows of a row group.
const GROUP: u64 = 2048;

/// Writes the first `pictures` examples of `corpus` into `folder` and gives the size of all files in bytes.
pub(super) fn write(corpus: &Corpus, pictures: u64, folder: &Path) -> anyhow::Result<u64> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create the folder `{}`", folder.display()))?;
    let starts: Vec<u64> = (0..pictures).step_by(FILE_PICTURES as usize).collect();
    let sizes: Vec<u64> = starts
        .par_iter()
        .map(|&start| {
            let path = folder.join(format!("pictures-{:03}.parquet", start / FILE_PICTURES));
            let range = start..(start + FILE_PICTURES).min(pictures);
            write_file(corpus, range, &path).with_context(|| format!("cannot write `{}`", path.display()))
        })
        .collect::<anyhow::Result<_>>()?;
    Ok(sizes.iter().sum())
}

fn write_file(corpus: &Corpus, range: std::ops::Range<u64>, path: &Path) -> anyhow::Result<u64> {
    let first = batch(corpus, range.start..(range.start + GROUP).min(range.end))?;
    let mut writer = ArrowWriter::try_new(File::create(path)?, first.schema(), None)?;
    writer.write(&first)?;
    for start in range.clone().step_by(GROUP as usize).skip(1) {
        writer.flush()?;
        writer.write(&batch(corpus, start..(start + GROUP).min(range.end))?)?;
    }
    writer.close()?;
    Ok(fs::metadata(path)?.len())
}

fn batch(corpus: &Corpus, range: std::ops::Range<u64>) -> anyhow::Result<RecordBatch> {
    let (pictures, captions): (Vec<Vec<u8>>, Vec<String>) = range
        .map(|index| {
            let Example { scene, picture } = corpus.example(index);
            (picture.png(), scene.caption())
        })
        .unzip();
    let images: ArrayRef = Arc::new(BinaryArray::from_iter_values(pictures));
    let captions: ArrayRef = Arc::new(StringArray::from_iter_values(captions));
    Ok(RecordBatch::try_from_iter([("image", images), ("caption", captions)])?)
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::shapes::{Picture, Subset};

    #[test]
    fn the_files_hold_the_examples_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let corpus = Corpus { seed: 5, subset: Subset::Training };
        write(&corpus, FILE_PICTURES + 10, folder.path()).unwrap();
        let last = File::open(folder.path().join("pictures-001.parquet")).unwrap();
        let mut batches = ParquetRecordBatchReaderBuilder::try_new(last).unwrap().build().unwrap();
        let batch = batches.next().unwrap().unwrap();
        assert_eq!(batch.num_rows(), 10);
        let Example { scene, picture } = corpus.example(FILE_PICTURES + 3);
        assert_eq!(batch["caption"].as_string::<i32>().value(3), scene.caption());
        let png = batch["image"].as_binary::<i32>().value(3);
        let read = image::load_from_memory(png).unwrap().to_rgb8();
        assert_eq!(Picture::from_bytes(read.as_raw()).bytes(), picture.bytes());
    }
}
