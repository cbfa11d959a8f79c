//! Exact deduplication: of rows with the same content the first by (source, file, row) is kept; where there are
//! earlier versions of the dataset, what they hold comes first, and is read again for that.
//!
//! The content of a row is its texts, all of its captions, and the bytes of its pictures as they lie in the files, after
//! `where` and `select`. It is found by reading the sources once before they are packed: 16 bytes of BLAKE3 of each row are sorted
//! by DataFusion, which spills to disk what does not fit into its share of the job's memory, and of equal neighbours all
//! but the first are copies. Their places, sorted again, lie in a temporary file that each unit reads along with its
//! rows. So neither the rows nor the copies of a corpus have to fit into memory; the disk needs 32 bytes a row.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt8Type, UInt32Type, UInt64Type};
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use futures::{StreamExt, stream};
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::PipelineError;
use crate::config::Shape;
use crate::document::{Part, not_blank};
use crate::engine::session::sort_session;
use crate::engine::stage::{Operator, Partition, Work, ahead, stage};
use crate::host::threads::blocking;
use crate::operators::duplicates::{Duplicates, PLACE_BYTES, io_error};
use crate::operators::runtime::Runtime;
use crate::operators::source_rows::{CaptionRules, Image, RowReader, SourceRow};
use crate::plan::PreprocessPlan;
use crate::row::columns::{FILE, KIND, ROW, RowKind, texts};
use crate::source::{Columns, SourcePlan};
use crate::units::{Rows, Unit};

/// Rows of a batch of hashes.
const HASH_ROWS: usize = 8192;

/// Hashes the rows of a source.
#[derive(Clone, Debug)]
struct HashRows {
    rows: RowReader,
}

/// The columns of hashes: the content's, then the place, all of which a copy differs in from the first.
fn hash_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("high", DataType::UInt64, false),
        Field::new("low", DataType::UInt64, false),
        Field::new("unit", DataType::UInt32, false),
        Field::new("file", DataType::UInt32, false),
        Field::new("row", DataType::UInt64, false),
    ]))
}

/// The columns of [`hash_schema`] that say where a row is.
const PLACE: [usize; 3] = [2, 3, 4];

impl Operator for HashRows {
    fn name(&self) -> &'static str {
        "HashRowsExec"
    }

    fn describe(&self) -> String {
        format!("shape={}", self.rows.shape.name())
    }

    fn schema(&self) -> SchemaRef {
        hash_schema()
    }

    fn start(&self, partition: &Partition<'_>) -> Result<Box<dyn Work>, PipelineError> {
        let pool = Runtime::of(partition.task)?.pool.clone();
        Ok(Box::new(HashingRows { operator: self.clone(), pool, rows: Vec::new() }))
    }
}

struct HashingRows {
    operator: HashRows,
    pool: Arc<ThreadPool>,
    /// Hash, file and row.
    rows: Vec<([u64; 2], u32, u64)>,
}

impl Work for HashingRows {
    fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, PipelineError> {
        let kinds = batch[KIND].as_primitive::<UInt8Type>().values().clone();
        self.rows.extend(self.operator.hashes(&batch, &self.pool)?);
        let ends = kinds.iter().any(|&kind| RowKind::of(kind) == RowKind::End);
        if self.rows.len() < HASH_ROWS && !ends || self.rows.is_empty() {
            return Ok(Vec::new());
        }
        let rows = std::mem::take(&mut self.rows);
        let column = |of: fn(&([u64; 2], u32, u64)) -> u64| -> ArrayRef {
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(of)))
        };
        let columns: Vec<ArrayRef> = vec![
            column(|row| row.0[0]),
            column(|row| row.0[1]),
            Arc::new(UInt32Array::from_value(0, rows.len())),
            Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.1))),
            column(|row| row.2),
        ];
        Ok(vec![RecordBatch::try_new(hash_schema(), columns).map_err(arrow_error)?])
    }

    fn held(&self, ready: usize) -> usize {
        ready + 32 * self.rows.capacity()
    }
}

impl HashRows {
    fn hashes(
        &self,
        batch: &RecordBatch,
        pool: &ThreadPool,
    ) -> Result<Vec<([u64; 2], u32, u64)>, PipelineError> {
        if self.rows.shape == Shape::Text {
            return self.text_hashes(batch, pool);
        }
        let mut rows = self.rows.rows(batch)?;
        rows.retain(|row| row.kind == RowKind::Row);
        let hash = |row: &SourceRow| (content(row.parts.iter().map(part_bytes)), row.file, row.row);
        Ok(pool.install(|| rows.par_iter().map(hash).collect()))
    }

    /// The same for texts, which are hashed where they lie.
    fn text_hashes(
        &self,
        batch: &RecordBatch,
        pool: &ThreadPool,
    ) -> Result<Vec<([u64; 2], u32, u64)>, PipelineError> {
        let Some(column) = texts(batch, "text")? else { return Ok(Vec::new()) };
        let files = batch[FILE].as_primitive::<UInt32Type>().values();
        let rows = batch[ROW].as_primitive::<UInt64Type>().values();
        let kinds = batch[KIND].as_primitive::<UInt8Type>().values();
        let hash = |column: &StringArray, row: usize| {
            // What is blank is refused, however often it comes.
            let is_text = RowKind::of(kinds[row]) == RowKind::Row
                && column.is_valid(row)
                && not_blank(column.value(row)).is_ok();
            let text = || content(std::iter::once((0, column.value(row).as_bytes())));
            is_text.then(|| (text(), files[row], rows[row]))
        };
        let all = (0..batch.num_rows()).into_par_iter();
        Ok(pool.install(|| all.filter_map(|row| hash(&column, row)).collect()))
    }
}

fn arrow_error(error: arrow::error::ArrowError) -> PipelineError {
    PipelineError::Plan(error.into())
}

fn part_bytes(part: &Part<Image>) -> (u8, &[u8]) {
    match part {
        Part::Text(text) => (0, text.as_bytes()),
        Part::Image(Image::File(bytes)) => (1, bytes),
        Part::Image(_) => (2, &[]),
    }
}

/// Hash of a row's parts, each behind its kind and length.
fn content<'a>(parts: impl Iterator<Item = (u8, &'a [u8])>) -> [u64; 2] {
    let mut hasher = blake3::Hasher::new();
    for (kind, bytes) in parts {
        hasher.update(&[kind]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }
    let hash = hasher.finalize();
    let half =
        |at: usize| hash.as_bytes()[at..at + 8].iter().fold(0, |half, byte| half << 8 | u64::from(*byte));
    [half(0), half(8)]
}

/// Reads all sources and finds the copies among what is to be done: first what earlier versions hold is read, then that.
pub(crate) async fn find(plan: &PreprocessPlan) -> Result<Duplicates, PipelineError> {
    let context = plan.runtime.session()?.task_ctx();
    let mut readers = Vec::new();
    for source in &plan.sources {
        add_readers(plan, source, &source.settled.units, &mut readers).await?;
    }
    // A copy in what is settled was not packed, or is refused: neither is anything to be done about.
    let settled = readers.len();
    for source in &plan.sources {
        add_readers(plan, source, &source.units, &mut readers).await?;
    }
    let open = move |reader: Reader| reader.open(context.clone());
    let rows = stream::iter(readers).map(open).flatten_unordered(plan.units_at_once());
    let rows = Box::pin(RecordBatchStreamAdapter::new(hash_schema(), rows));
    // A quarter together: the units that are read may hold a half, and a large row the last quarter.
    let sixteenth = plan.runtime.memory.limit() / 16;
    let session = |parts: usize| sort_session(&plan.runtime.memory, parts * sixteenth);
    let sorted = sort(rows, &[0, 1, 2, 3, 4], session(3)?.task_ctx())?;
    let places = sort(copies(sorted, settled as u32), &PLACE, session(1)?.task_ctx())?;
    let units = plan.units().into_iter().map(|unit| unit.unit).collect();
    write(places, units, settled as u32).await
}

/// One unit's hashes, to be read.
struct Reader {
    physical: Arc<dyn ExecutionPlan>,
    partition: usize,
    /// Number of the unit in the order of the dataset.
    unit: u32,
    /// Rows that were refused: they are not in the dataset, even if they could be now.
    refused: Vec<Rows>,
}

async fn add_readers(
    plan: &PreprocessPlan,
    source: &SourcePlan,
    units: &[Unit],
    readers: &mut Vec<Reader>,
) -> Result<(), PipelineError> {
    let physical = hashes(plan, source, units).await?;
    for (partition, unit) in units.iter().enumerate() {
        let refused = plan.refused.get(&unit.id).cloned().unwrap_or_default();
        readers.push(Reader { physical: physical.clone(), partition, unit: readers.len() as u32, refused });
    }
    Ok(())
}

impl Reader {
    /// The hashes with the number of the unit in them.
    fn open(self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = match self.physical.execute(self.partition, context) {
            Ok(rows) => ahead(rows, 1),
            Err(error) => failed(error),
        };
        let named = rows.map(move |batch| {
            let batch = self.without_refused(batch?)?;
            let mut columns = batch.columns().to_vec();
            columns[PLACE[0]] = Arc::new(UInt32Array::from_value(self.unit, batch.num_rows()));
            Ok(RecordBatch::try_new(hash_schema(), columns)?)
        });
        Box::pin(RecordBatchStreamAdapter::new(hash_schema(), named))
    }

    fn without_refused(&self, batch: RecordBatch) -> PlanResult<RecordBatch> {
        if self.refused.is_empty() {
            return Ok(batch);
        }
        let files = batch.column(PLACE[1]).as_primitive::<UInt32Type>().values();
        let rows = batch.column(PLACE[2]).as_primitive::<UInt64Type>().values();
        let refused = |file: &u32, row: &u64| {
            self.refused.iter().any(|rows| rows.get(file).is_some_and(|rows| rows.contains(row)))
        };
        let kept = files.iter().zip(rows).map(|(file, row)| !refused(file, row));
        Ok(filter_record_batch(&batch, &BooleanArray::from(kept.collect::<Vec<_>>()))?)
    }
}

fn failed(error: DataFusionError) -> SendableRecordBatchStream {
    let once = stream::once(std::future::ready(Err(error)));
    Box::pin(RecordBatchStreamAdapter::new(hash_schema(), once))
}

async fn hashes(
    plan: &PreprocessPlan,
    source: &SourcePlan,
    units: &[Unit],
) -> Result<Arc<dyn ExecutionPlan>, PipelineError> {
    // Rows are compared by what they say, not by what chance makes of it.
    let operator = HashRows { rows: source.row_reader(plan.config.seed, CaptionRules::content()) };
    Ok(stage(operator, source.rows(units, Columns::Document).await?))
}

/// Rows sorted by these columns, by DataFusion, which spills what exceeds the memory of `context`.
fn sort(
    rows: SendableRecordBatchStream,
    by: &[usize],
    context: Arc<TaskContext>,
) -> PlanResult<SendableRecordBatchStream> {
    let schema = rows.schema();
    let expression = |&index: &usize| {
        let column = Column::new(schema.field(index).name(), index);
        PhysicalSortExpr::new_default(Arc::new(column))
    };
    let missing = || DataFusionError::Internal("a sort by nothing".to_owned());
    let order = LexOrdering::new(by.iter().map(expression)).ok_or_else(missing)?;
    let partition = Arc::new(Once { schema: schema.clone(), rows: Mutex::new(Some(rows)) });
    let table = StreamingTableExec::try_new(schema, vec![partition], None, [], false, None)?;
    SortExec::new(order, Arc::new(table)).execute(0, context)
}

/// A stream as a partition that is read once.
struct Once {
    schema: SchemaRef,
    rows: Mutex<Option<SendableRecordBatchStream>>,
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Once")
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).take();
        rows.unwrap_or_else(|| failed(DataFusionError::Internal("a stream was read twice".to_owned())))
    }
}

/// Of sorted hashes, the rows of units from `first` on that have the hash of the row before.
fn copies(sorted: SendableRecordBatchStream, first: u32) -> SendableRecordBatchStream {
    let mut last = None;
    let copies = sorted.map(move |batch| {
        let batch = batch?;
        let half = |column: usize| batch.column(column).as_primitive::<UInt64Type>().values().iter();
        let units = batch.column(PLACE[0]).as_primitive::<UInt32Type>().values().iter();
        let is_copy = half(0)
            .zip(half(1))
            .zip(units)
            .map(|((&high, &low), &unit)| last.replace((high, low)) == Some((high, low)) && unit >= first);
        Ok(filter_record_batch(&batch, &BooleanArray::from(is_copy.collect::<Vec<_>>()))?)
    });
    Box::pin(RecordBatchStreamAdapter::new(hash_schema(), copies))
}

/// Writes sorted places to a temporary file. The first of `units` has the number `first`.
async fn write(
    mut places: SendableRecordBatchStream,
    units: Vec<String>,
    first: u32,
) -> Result<Duplicates, PipelineError> {
    let mut file = None;
    let mut ranges: HashMap<u32, Range<u64>> = HashMap::new();
    let mut position = 0;
    while let Some(batch) = places.next().await.transpose()? {
        let number = |column: usize| batch.column(column).as_primitive::<UInt32Type>().values().clone();
        let rows = batch.column(PLACE[2]).as_primitive::<UInt64Type>().values().clone();
        let mut bytes = Vec::with_capacity(PLACE_BYTES as usize * batch.num_rows());
        for ((&unit, file), row) in number(PLACE[0]).iter().zip(&number(PLACE[1])).zip(&rows) {
            bytes.extend_from_slice(&file.to_le_bytes());
            bytes.extend_from_slice(&row.to_le_bytes());
            position += PLACE_BYTES;
            ranges.entry(unit).or_insert(position - PLACE_BYTES..position).end = position;
        }
        if bytes.is_empty() {
            continue;
        }
        let mut output = match file.take() {
            Some(output) => output,
            None => BufWriter::new(tempfile::tempfile().map_err(io_error("create"))?),
        };
        let written = blocking(move || output.write_all(&bytes).map(|()| output).map_err(io_error("write")));
        file = Some(written.await?);
    }
    let file = file.map(|file| file.into_inner().map_err(|error| io_error("write")(error.into_error())));
    let named = |(unit, range): (u32, Range<u64>)| Some((units.get((unit - first) as usize)?.clone(), range));
    Ok(Duplicates { file: file.transpose()?, units: ranges.into_iter().filter_map(named).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::memory::Memory;
    use crate::operators::duplicates::UnitDuplicates;

    /// Hashes of 60 units of 1,000 rows each, in the order of an unlucky day; every third row of a unit has the content of
    /// the same row in the unit before.
    fn corpus() -> SendableRecordBatchStream {
        let batch = |unit: u32| {
            let rows = 0..1000_u64;
            let hash =
                move |row: u64| if row.is_multiple_of(3) { row } else { row + 10_000 * u64::from(unit) };
            let hashes: Vec<u64> =
                rows.clone().map(|row| hash(row).wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
            let columns: Vec<ArrayRef> = vec![
                Arc::new(UInt64Array::from(hashes)),
                Arc::new(UInt64Array::from(vec![7; 1000])),
                Arc::new(UInt32Array::from_value(unit, 1000)),
                Arc::new(UInt32Array::from_iter_values(rows.clone().map(|row| row as u32 / 400))),
                Arc::new(UInt64Array::from_iter_values(rows.map(|row| row % 400))),
            ];
            Ok(RecordBatch::try_new(hash_schema(), columns)?)
        };
        let units = (0..60).map(|unit| (unit * 37) % 60).map(batch).collect::<Vec<_>>();
        Box::pin(RecordBatchStreamAdapter::new(hash_schema(), stream::iter(units)))
    }

    async fn found(bytes: usize) -> Vec<(usize, u32, u64)> {
        let memory = Memory::new(2 * bytes);
        let context = || sort_session(&memory, bytes).expect("a session").task_ctx();
        let sorted = sort(corpus(), &[0, 1, 2, 3, 4], context()).expect("a plan");
        let places = sort(copies(sorted, 0), &PLACE, context()).expect("a plan");
        let units: Vec<String> = (0..60).map(|unit| format!("u{unit}")).collect();
        let duplicates = write(places, units.clone(), 0).await.expect("found");
        let mut found = Vec::new();
        let mut at = UnitDuplicates::default();
        for (index, unit) in units.iter().enumerate() {
            for row in 0..1000_u64 {
                let (file, row) = (row as u32 / 400, row % 400);
                if duplicates.contains(&mut at, unit, file, row).expect("reads") {
                    found.push((index, file, row));
                }
            }
        }
        assert_eq!(memory.pool().reserved(), 0);
        assert!(memory.peak() > 0, "the sorts reserve from the pool of the job");
        found
    }

    /// The sort holds 60,000 rows of 32 bytes; with a tenth of that it has to spill, and finds the same.
    #[tokio::test]
    async fn copies_are_found_whether_or_not_they_fit_into_memory() {
        let expected: Vec<_> = (1..60)
            .flat_map(|unit| (0..1000_u64).step_by(3).map(move |row| (unit, row as u32 / 400, row % 400)))
            .collect();
        assert_eq!(found(64 << 20).await, expected);
        assert_eq!(found(600 << 10).await, expected);
    }

    /// A row that comes too late would be taken for no copy.
    #[test]
    fn rows_out_of_their_order_are_an_error() {
        let duplicates =
            Duplicates { file: Some(tempfile::tempfile().expect("a file")), ..Duplicates::default() };
        let mut at = UnitDuplicates::default();
        let mut ask = |unit, file, row| duplicates.contains(&mut at, unit, file, row);
        for (unit, file, row) in [("u0", 0, 0), ("u0", 0, 7), ("u0", 1, 3), ("u1", 0, 0), ("u1", 0, 2)] {
            assert!(!ask(unit, file, row).expect("in order"));
        }
        let error = ask("u1", 0, 1).expect_err("out of order");
        assert!(matches!(error, PipelineError::Plan(DataFusionError::Internal(_))), "{error}");
    }
}
