//! The decoded pictures of sources, for training a codec.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use futures::StreamExt;
use rayon::ThreadPool;

use crate::PipelineError;
use crate::config::{MEMORY_BYTES, PictureConfig, SourceConfig, check_sources};
use crate::document::Part;
use crate::engine::memory::Memory;
use crate::engine::session::thread_pool;
use crate::host::observer::{Event, Observer};
use crate::host::stop::Stop;
use crate::host::threads::blocking;
use crate::operators::documents::crops::Decoder;
use crate::operators::runtime::Runtime;
use crate::operators::source_rows::{Image, RowReader, SourceRow};
use crate::row::columns::RowKind;
use crate::source::{Columns, Planning, plan_source};
use crate::storage::resolver::Resolver;

/// Bytes of a unit: small ones make a better sample of a large corpus.
const UNIT_BYTES: u64 = 32 << 20;

/// Square RGB crops: rows of red, green, blue bytes.
#[derive(Debug, Default)]
pub struct PictureSet {
    size: usize,
    crops: Vec<Crop>,
    rejected: u64,
}

#[derive(Debug)]
struct Crop {
    /// The number of its unit among those of all sources.
    unit: usize,
    rgb: Vec<u8>,
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
        self.crops.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.crops.is_empty()
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
    /// # Panics
    ///
    /// If there is no such crop.
    pub fn rgb(&self, index: usize) -> &[u8] {
        &self.crops[index].rgb
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
    let mut set = PictureSet { size: request.size as usize, ..PictureSet::default() };
    let (mut sources, mut number) = (Vec::new(), 0);
    for (index, source) in request.sources.iter().enumerate().filter(|(_, source)| source.shape.has_images())
    {
        let weight = source.weight;
        let source = plan_source(index as u16, source, UNIT_BYTES, planning).await?;
        source.passed_over().cloned().for_each(|passed| observer.event(Event::PassedOver(passed)));
        let reader = CropReader {
            rows: source.row_reader(0, source.captions()),
            decoder: Decoder {
                rules: request.pictures.rules(request.size),
                pixels: runtime.memory.pixels.clone(),
            },
            pool: pool.clone(),
        };
        let plan = source.rows(&source.units, Columns::Document).await?;
        runtime.inputs.extend(source.inputs());
        let units = drawn_order(index, source.units.len());
        sources.push(Drawn {
            plan,
            reader: Arc::new(reader),
            weight,
            units: units.into(),
            first: number,
            read: 0,
        });
        number += source.units.len();
    }
    let context = runtime.session()?.task_ctx();
    while set.len() < request.limit && sources.iter().any(|source| !source.units.is_empty()) {
        let wanted = request.limit - set.len();
        let weights: f64 =
            sources.iter().filter(|source| !source.units.is_empty()).map(|source| source.weight).sum();
        for source in sources.iter_mut().filter(|source| !source.units.is_empty()) {
            let share = (wanted as f64 * source.weight / weights).ceil() as usize;
            let limit = (set.len() + share.max(1)).min(request.limit);
            while set.len() < limit && !source.units.is_empty() {
                source.read_unit(&context, limit, &mut set, &*observer).await?;
            }
        }
    }
    set.crops.sort_by_key(|crop| crop.unit);
    Ok(set)
}

/// A source whose pictures are drawn, unit by unit.
struct Drawn {
    plan: Arc<dyn ExecutionPlan>,
    reader: Arc<CropReader>,
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
        let before = set.len();
        if unit_pictures((batches, &self.reader), (self.first + partition, self.read), limit, set, observer)
            .await?
        {
            self.units.pop_front();
            self.read = 0;
        } else {
            self.read += set.len() - before;
        }
        Ok(())
    }
}

/// Makes crops of the pictures of a source.
struct CropReader {
    rows: RowReader,
    decoder: Decoder,
    pool: Arc<ThreadPool>,
}

impl CropReader {
    /// The rows of a batch, decoded. Blocks.
    fn read(&self, batch: &RecordBatch) -> Result<Vec<SourceRow>, PipelineError> {
        let mut rows = self.rows.rows(batch)?;
        self.pool.install(|| self.decoder.decode(&mut rows));
        Ok(rows)
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
    (mut batches, reader): (SendableRecordBatchStream, &Arc<CropReader>),
    (unit, mut skipped): (usize, usize),
    limit: usize,
    set: &mut PictureSet,
    observer: &dyn Observer,
) -> Result<bool, PipelineError> {
    while let Some(batch) = batches.next().await.transpose()? {
        let (before, rejected_before, mut count) = (set.len(), set.rejected, 0);
        let reader = reader.clone();
        for row in blocking(move || reader.read(&batch)).await? {
            let images = row.parts.iter().filter(|part| matches!(part, Part::Image(_))).count();
            if skipped == 0 && images > 0 && set.len() == limit {
                return Ok(false);
            }
            let is_new = skipped == 0;
            count += u64::from(is_new && row.kind != RowKind::End);
            set.rejected += u64::from(is_new && row.kind == RowKind::Reject);
            for part in row.parts {
                match part {
                    Part::Image(_) if skipped > 0 => skipped -= 1,
                    Part::Image(_) if set.len() == limit => return Ok(false),
                    Part::Image(Image::Crop(rgb)) => set.crops.push(Crop { unit, rgb }),
                    _ => {}
                }
            }
        }
        observer.event(Event::Rows {
            rows: count,
            rejected: set.rejected - rejected_before,
            tokens: 0,
            images: (set.len() - before) as u64,
        });
    }
    Ok(true)
}
