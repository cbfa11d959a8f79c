//! Exact deduplication: of rows with the same content the first by (source, file, row) is kept; where there are
//! earlier versions of the dataset, what they hold comes first, and is read again for that.
//!
//! The content of a row is its texts, all of its captions, and the bytes of its pictures as they lie in the files, after `where` and
//! `select`. It is found by reading the sources once before they are packed; 16 bytes of BLAKE3 are remembered for
//! each row, reserved from the job's memory, so a corpus with more rows than that allows ends with a clear error and
//! not in the machine's swap.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, FixedSizeBinaryArray, RecordBatch, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type, UInt64Type};
use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_plan::ExecutionPlan;
use futures::{StreamExt, TryStreamExt, stream};
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::document::Shape;
use crate::error::PipelineError;
use crate::operators::items::{Captioning, Choice, Item, Part, from_columns};
use crate::operators::stage::{Operator, Work};
use crate::plan::{PreprocessPlan, run_session, stage};
use crate::read::table::Kind;
use crate::source::{Columns, SourcePlan, UnitFiles};
use crate::units::Unit;

const HASH_BYTES: i32 = 16;

/// Memory that a remembered row takes, the free places of the table counted.
const ROW_BYTES: usize = 40;

/// Rows that are copies of earlier ones, by unit.
#[derive(Debug, Default)]
pub(crate) struct Duplicates(HashMap<String, HashSet<(u32, u64)>>);

impl Duplicates {
    /// Whether the row is a copy.
    pub(crate) fn contains(&self, unit: &str, file: u32, row: u64) -> bool {
        self.0.get(unit).is_some_and(|rows| rows.contains(&(file, row)))
    }
}

/// Hashes the rows of a source.
#[derive(Clone, Debug)]
struct HashRows {
    source: String,
    seed: u64,
    shape: Shape,
    files: Arc<UnitFiles>,
    pool: Arc<ThreadPool>,
}

fn hash_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("file", DataType::UInt32, false),
        Field::new("row", DataType::UInt64, false),
        Field::new("hash", DataType::FixedSizeBinary(HASH_BYTES), false),
    ]))
}

impl Operator for HashRows {
    fn name(&self) -> &'static str {
        "HashRowsExec"
    }

    fn describe(&self) -> String {
        format!("shape={}", self.shape.name())
    }

    fn schema(&self) -> SchemaRef {
        hash_schema()
    }

    fn start(&self) -> Box<dyn Work> {
        Box::new(self.clone())
    }
}

impl Work for HashRows {
    fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, PipelineError> {
        let path = |unit: &str, file: u32| self.files.path(unit, file).to_owned();
        // Rows are compared by what they say, not by what chance makes of it.
        let captioning = Captioning::content();
        let choice = Choice { seed: self.seed, source: &self.source, path: &path, captioning: &captioning };
        let mut items = from_columns(&batch, self.shape, &choice)?;
        items.retain(|item| item.kind == Kind::Row);
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let hashes: Vec<[u8; 16]> = self.pool.install(|| items.par_iter().map(content).collect());
        let failed = |error: arrow::error::ArrowError| PipelineError::Plan(error.into());
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from_iter_values(items.iter().map(|item| item.file))),
            Arc::new(UInt64Array::from_iter_values(items.iter().map(|item| item.row))),
            Arc::new(FixedSizeBinaryArray::try_from_iter(hashes.iter()).map_err(failed)?),
        ];
        Ok(vec![RecordBatch::try_new(hash_schema(), columns).map_err(failed)?])
    }
}

/// Hash of a row's parts, each behind its kind and length.
fn content(item: &Item) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for part in &item.parts {
        let (kind, bytes) = match part {
            Part::Text(text) => (0_u8, text.as_bytes()),
            Part::Image(bytes) => (1, bytes.as_slice()),
            Part::Latent(_) => (2, &[][..]),
        };
        hasher.update(&[kind]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    hash
}

/// Reads all sources and finds the copies: first what earlier versions hold, then what is to be done.
pub(crate) async fn find(plan: &PreprocessPlan) -> Result<Duplicates, PipelineError> {
    let context = run_session(plan.environment.memory_bytes)?.task_ctx();
    let reservation = MemoryConsumer::new("deduplicate").register(context.memory_pool());
    let mut found =
        Found { plan, context, reservation, seen: HashSet::new(), duplicates: Duplicates::default() };
    for source in &plan.sources {
        found.add(source, &source.settled.units).await?;
    }
    // A copy in what is settled was not packed, or is refused: neither is anything to be done about.
    found.duplicates = Duplicates::default();
    for source in &plan.sources {
        found.add(source, &source.units).await?;
    }
    Ok(found.duplicates)
}

struct Found<'a> {
    plan: &'a PreprocessPlan,
    context: Arc<TaskContext>,
    reservation: MemoryReservation,
    seen: HashSet<u128>,
    duplicates: Duplicates,
}

impl Found<'_> {
    async fn add(&mut self, source: &SourcePlan, units: &[Unit]) -> Result<(), PipelineError> {
        let physical = hashes(self.plan, source, units).await?;
        let hashed = stream::iter(units.iter().enumerate())
            .map(|(partition, unit)| {
                let (physical, context) = (physical.clone(), self.context.clone());
                async move { unit_hashes(physical, partition, context).await.map(|rows| (unit, rows)) }
            })
            .buffered(self.plan.environment.threads);
        let mut hashed = std::pin::pin!(hashed);
        while let Some((unit, rows)) = hashed.try_next().await? {
            self.reservation.try_grow(rows.len() * ROW_BYTES)?;
            // A row that was refused is not in the dataset, even if it could be now.
            let refused = self.plan.refused.get(&unit.id);
            let refused = |file: u32, row: u64| {
                refused
                    .into_iter()
                    .flatten()
                    .any(|rows| rows.get(&file).is_some_and(|rows| rows.contains(&row)))
            };
            for (file, row, hash) in rows {
                if !refused(file, row) && !self.seen.insert(hash) {
                    self.duplicates.0.entry(unit.id.clone()).or_default().insert((file, row));
                }
            }
        }
        Ok(())
    }
}

async fn hashes(
    plan: &PreprocessPlan,
    source: &SourcePlan,
    units: &[Unit],
) -> Result<Arc<dyn ExecutionPlan>, PipelineError> {
    let operator = HashRows {
        source: source.config.name.clone(),
        seed: plan.config.seed,
        shape: source.config.shape,
        files: source.files.clone(),
        pool: plan.pool.clone(),
    };
    Ok(stage(operator, source.rows(units, Columns::Document).await?))
}

async fn unit_hashes(
    physical: Arc<dyn ExecutionPlan>,
    partition: usize,
    context: Arc<TaskContext>,
) -> Result<Vec<(u32, u64, u128)>, PipelineError> {
    let task = SpawnedTask::spawn(async move {
        let batches: Vec<RecordBatch> = physical.execute(partition, context)?.try_collect().await?;
        Ok::<_, PipelineError>(batches)
    });
    let batches = match task.join_unwind().await {
        Ok(batches) => batches?,
        Err(error) => return Err(PipelineError::Format(Box::new(error))),
    };
    let rows = batches.iter().flat_map(|batch| {
        let files = batch.column(0).as_primitive::<UInt32Type>();
        let rows = batch.column(1).as_primitive::<UInt64Type>();
        let hashes = batch.column(2).as_fixed_size_binary();
        let hash =
            |row: usize| hashes.value(row).iter().fold(0, |hash: u128, byte| hash << 8 | u128::from(*byte));
        (0..batch.num_rows()).map(move |row| (files.value(row), rows.value(row), hash(row)))
    });
    Ok(rows.collect())
}
