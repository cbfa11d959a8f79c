//! The decoded pictures of sources, for training a codec.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use futures::StreamExt;

use crate::PipelineError;
use crate::config::{MEMORY_BYTES, PictureConfig, SourceConfig, check_sources};
use crate::engine::memory::Memory;
use crate::engine::session::thread_pool;
use crate::engine::stage::stage;
use crate::host::observer::{Event, Observer};
use crate::host::stop::Stop;
use crate::operators::items::{Part, from_batch};
use crate::operators::runtime::Runtime;
use crate::row::columns::Kind;
use crate::source::{Columns, Planning, plan_source};
use crate::storage::disk::read_at;
use crate::storage::resolver::Resolver;

/// Bytes of a unit: small ones make a better sample of a large corpus.
const UNIT_BYTES: u64 = 32 << 20;

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
    /// Where each crop lies, and behind it the number of its unit among those of all sources.
    places: Vec<(usize, usize)>,
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
        let absent = || io::Error::new(io::ErrorKind::NotFound, format!("picture {index} of {}", self.count));
        let start = self.places.get(index).ok_or_else(absent)?.0 * bytes;
        if let Some(crop) = self.memory.get(start..start + bytes) {
            return Ok(Cow::Borrowed(crop));
        }
        let file = self.file.as_ref().ok_or_else(absent)?;
        let mut crop = vec![0; bytes];
        read_at(file, &mut crop, (start - self.memory.len()) as u64)?;
        Ok(Cow::Owned(crop))
    }

    fn push(&mut self, unit: usize, crop: &[u8]) -> io::Result<()> {
        self.places.push((self.count, unit));
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

/// Decodes the pictures of sources, in the order of sources, files and rows, in the way preprocessing does.
///
/// Where there are more than the limit, each source gives its share by `weight`, from units that are drawn by a hash of their number, so that the same
/// inputs give the same pictures.
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
    let memory = Memory::new(MEMORY_BYTES as usize);
    let planner = Runtime::new(memory, pool.clone(), request.stop.clone());
    let planning = Planning { runtime: &planner, resolver, output: None };
    let mut runtime = planner.clone();
    let size = request.size as usize;
    let mut set =
        PictureSet { size, count: 0, memory: Vec::new(), file: None, places: Vec::new(), rejected: 0 };
    let (mut sources, mut number) = (Vec::new(), 0);
    for (index, source) in request.sources.iter().enumerate().filter(|(_, source)| source.shape.has_images())
    {
        let weight = source.weight;
        let source = plan_source(index as u16, source, UNIT_BYTES, planning).await?;
        source.passed_over().cloned().for_each(|passed| observer.event(Event::PassedOver(passed)));
        let decode = source.decode(request.pictures.rules(request.size), 0, pool.clone());
        let plan = stage(decode, source.rows(&source.units, Columns::Document).await?);
        runtime.inputs.extend(source.inputs());
        let units = drawn_order(index, source.units.len());
        sources.push(Drawn { plan, weight, units: units.into(), first: number, read: 0 });
        number += source.units.len();
    }
    let context = runtime.session()?.task_ctx();
    while set.count < request.limit && sources.iter().any(|source| !source.units.is_empty()) {
        let wanted = request.limit - set.count;
        let weights: f64 =
            sources.iter().filter(|source| !source.units.is_empty()).map(|source| source.weight).sum();
        for source in sources.iter_mut().filter(|source| !source.units.is_empty()) {
            let share = (wanted as f64 * source.weight / weights).ceil() as usize;
            let limit = (set.count + share.max(1)).min(request.limit);
            while set.count < limit && !source.units.is_empty() {
                source.read_unit(&context, limit, &mut set, &*observer).await?;
            }
        }
    }
    set.places.sort_by_key(|&(place, unit)| (unit, place));
    Ok(set)
}

/// A source whose pictures are drawn, unit by unit.
struct Drawn {
    plan: Arc<dyn ExecutionPlan>,
    weight: f64,
    /// Units that are not read to their end, in the order in which they are drawn.
    units: VecDeque<usize>,
    /// The number of its first unit among those of all sources.
    first: usize,
    /// Pictures of the next unit that were taken before.
    read: usize,
}

impl Drawn {
    /// Takes pictures of the next unit until there are `limit` of all.
    async fn read_unit(
        &mut self,
        context: &Arc<TaskContext>,
        limit: usize,
        set: &mut PictureSet,
        observer: &dyn Observer,
    ) -> Result<(), PipelineError> {
        let Some(&partition) = self.units.front() else { return Ok(()) };
        let batches = self.plan.execute(partition, context.clone())?;
        let before = set.count;
        if unit_pictures(batches, (self.first + partition, self.read), limit, set, observer).await? {
            self.units.pop_front();
            self.read = 0;
        } else {
            self.read += set.count - before;
        }
        Ok(())
    }
}

/// The units of a source in the order in which they are drawn.
fn drawn_order(source: usize, units: usize) -> Vec<usize> {
    let key = |unit: &usize| *blake3::hash(format!("{source} {unit}").as_bytes()).as_bytes();
    let mut order: Vec<usize> = (0..units).collect();
    order.sort_by_cached_key(key);
    order
}

/// Takes the pictures of a unit behind the first `skipped`, until there are `limit` of all; whether it was read to its end.
async fn unit_pictures(
    mut batches: SendableRecordBatchStream,
    (unit, mut skipped): (usize, usize),
    limit: usize,
    set: &mut PictureSet,
    observer: &dyn Observer,
) -> Result<bool, PipelineError> {
    let failed = |source| PipelineError::Io { operation: "write", path: "temporary file".to_owned(), source };
    while let Some(batch) = batches.next().await.transpose()? {
        let (before, rejected_before, mut rows) = (set.count, set.rejected, 0);
        for item in from_batch(&batch)? {
            let images = item.parts.iter().filter(|part| matches!(part, Part::Image(_))).count();
            if skipped == 0 && images > 0 && set.count == limit {
                return Ok(false);
            }
            let is_new = skipped == 0;
            rows += u64::from(is_new && item.kind != Kind::End);
            set.rejected += u64::from(is_new && item.kind == Kind::Reject);
            for part in item.parts {
                match part {
                    Part::Image(_) if skipped > 0 => skipped -= 1,
                    Part::Image(_) if set.count == limit => return Ok(false),
                    Part::Image(crop) => set.push(unit, &crop).map_err(failed)?,
                    _ => {}
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
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_are_found_in_memory_and_in_the_file() {
        let (memory, places) = (Vec::new(), Vec::new());
        let mut set = PictureSet { size: 1, count: 0, memory, file: None, places, rejected: 0 };
        set.push(0, &[1, 2, 3]).expect("in memory");
        set.file = Some(tempfile::tempfile().expect("a file"));
        set.push(0, &[4, 5, 6]).expect("in the file");
        set.push(0, &[7, 8, 9]).expect("in the file");
        let crop = |index: usize| set.rgb(index).expect("there").to_vec();
        assert_eq!((crop(0), crop(1), crop(2)), (vec![1, 2, 3], vec![4, 5, 6], vec![7, 8, 9]));
        assert!(set.rgb(3).is_err());
    }
}
