//! The decoded pictures of sources, for training a codec.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use datafusion::physical_plan::SendableRecordBatchStream;
use futures::StreamExt;

use crate::config::{PictureConfig, SourceConfig, check_sources};
use crate::error::PipelineError;
use crate::memory::{DEFAULT_BYTES, Memory};
use crate::observer::{Event, Observer};
use crate::operators::items::{Part, from_batch};
use crate::plan::{run_session, stage, thread_pool};
use crate::read::table::Kind;
use crate::source::{Columns, plan_source};
use crate::stop::Stop;
use crate::units::{Planning, Resolver};

/// Bytes up to which crops are kept in memory; the others lie in a temporary file.
const IN_MEMORY: usize = 256 << 20;

/// Square RGB crops, one behind the other: rows of red, green, blue bytes.
#[derive(Debug)]
pub struct PictureSet {
    size: usize,
    count: usize,
    memory: Vec<u8>,
    /// What is behind `memory`.
    file: Option<File>,
    rejected: u64,
}

/// What [`pictures`] reads and how.
pub struct PictureRequest<'a> {
    /// The sources; those of texts are left out.
    pub sources: &'a [SourceConfig],
    /// Side of the crops, in pixels.
    pub size: u32,
    /// Which pictures are taken and how.
    pub pictures: PictureConfig,
    /// Pictures, at most.
    pub limit: usize,
    /// Cores to use.
    pub threads: usize,
    /// Set it to stop reading.
    pub stop: Stop,
}

impl PictureSet {
    /// Number of crops.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Side of a crop.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Rows that had no usable picture.
    pub fn rejected(&self) -> u64 {
        self.rejected
    }

    /// One crop: `size * size * 3` bytes, by row, column and channel.
    ///
    /// # Errors
    ///
    /// If there is no such crop or the temporary file can't be read.
    pub fn rgb(&self, index: usize) -> io::Result<Cow<'_, [u8]>> {
        let bytes = self.size * self.size * 3;
        let start = index * bytes;
        if let Some(crop) = self.memory.get(start..start + bytes) {
            return Ok(Cow::Borrowed(crop));
        }
        let absent = || io::Error::new(io::ErrorKind::NotFound, format!("picture {index} of {}", self.count));
        let file = self.file.as_ref().filter(|_| index < self.count).ok_or_else(absent)?;
        let mut crop = vec![0; bytes];
        read_at(file, &mut crop, (start - self.memory.len()) as u64)?;
        Ok(Cow::Owned(crop))
    }

    fn push(&mut self, crop: &[u8]) -> io::Result<()> {
        self.count += 1;
        if self.file.is_none() && self.memory.len() + crop.len() <= IN_MEMORY {
            self.memory.extend_from_slice(crop);
            return Ok(());
        }
        let mut file = match self.file.take() {
            Some(file) => file,
            None => tempfile::tempfile()?,
        };
        file.write_all(crop)?;
        self.file = Some(file);
        Ok(())
    }
}

#[cfg(unix)]
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(not(unix))]
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(buffer)
}

/// Decodes the pictures of sources, in the order of sources, files and rows, in the way preprocessing does.
///
/// # Errors
///
/// If a source can't be read, or it is told to stop. Pictures that can't be used are counted and left out.
pub async fn pictures(
    request: PictureRequest<'_>,
    resolver: &dyn Resolver,
    observer: Arc<dyn Observer>,
) -> Result<PictureSet, PipelineError> {
    let stop = request.stop.clone();
    stop.until(read_pictures(request, resolver, observer)).await
}

async fn read_pictures(
    request: PictureRequest<'_>,
    resolver: &dyn Resolver,
    observer: Arc<dyn Observer>,
) -> Result<PictureSet, PipelineError> {
    check_sources(request.sources)?;
    let pool = thread_pool(request.threads)?;
    let memory = Arc::new(Memory::new(DEFAULT_BYTES as usize));
    let planning = Planning { memory: &memory, resolver, output: None, stop: &request.stop };
    let size = request.size as usize;
    let mut set = PictureSet { size, count: 0, memory: Vec::new(), file: None, rejected: 0 };
    for (index, source) in request.sources.iter().enumerate().filter(|(_, source)| source.shape.has_images())
    {
        let source = plan_source(index as u16, source, 128 << 20, planning).await?;
        source.passed_over().cloned().for_each(|passed| observer.event(Event::PassedOver(passed)));
        let decode = source.decode(request.pictures.rules(request.size), 0, pool.clone());
        let physical = stage(decode, source.rows(&source.units, Columns::Document).await?);
        for partition in 0..source.units.len() {
            if set.count < request.limit {
                let context = run_session(&memory)?.task_ctx();
                let batches = physical.execute(partition, context)?;
                unit_pictures(batches, request.limit, &mut set, &*observer).await?;
            }
        }
    }
    Ok(set)
}

async fn unit_pictures(
    mut batches: SendableRecordBatchStream,
    limit: usize,
    set: &mut PictureSet,
    observer: &dyn Observer,
) -> Result<(), PipelineError> {
    let failed = |source| PipelineError::Io { operation: "write", path: "temporary file".to_owned(), source };
    while let Some(batch) = batches.next().await.transpose()? {
        let (before, rejected_before, mut rows) = (set.count, set.rejected, 0);
        for item in from_batch(&batch)? {
            rows += u64::from(item.kind != Kind::End);
            set.rejected += u64::from(item.kind == Kind::Reject);
            for part in item.parts {
                if let Part::Image(crop) = part {
                    if set.count == limit {
                        return Ok(());
                    }
                    set.push(&crop).map_err(failed)?;
                }
            }
        }
        observer.event(Event::Rows {
            rows,
            rejected: set.rejected - rejected_before,
            tokens: 0,
            images: (set.count - before) as u64,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_are_found_in_memory_and_in_the_file() {
        let mut set = PictureSet { size: 1, count: 0, memory: Vec::new(), file: None, rejected: 0 };
        set.push(&[1, 2, 3]).expect("in memory");
        set.file = Some(tempfile::tempfile().expect("a file"));
        set.push(&[4, 5, 6]).expect("in the file");
        set.push(&[7, 8, 9]).expect("in the file");
        let crop = |index: usize| set.rgb(index).expect("there").to_vec();
        assert_eq!((crop(0), crop(1), crop(2)), (vec![1, 2, 3], vec![4, 5, 6], vec![7, 8, 9]));
        assert!(set.rgb(3).is_err());
    }
}
