//! `ShardWriteExec`: packed rows to shards, and the commit of each unit.
//!
//! A shard is written to a temporary file and gets its place, under a name made from its content, when it is whole.
//! The last batch of a unit commits it; its receipt is the only row that leaves here. A unit of rows that are run again
//! commits nothing where all of them were refused as before: the next attempt must find them as they were.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::sum;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt8Type, UInt64Type};
use object_store::path::Path;
use schemas::shard::{Compression, ShardMetadata, ShardWriter};
use schemas::{RejectsRecord, ShardRecord};
use tokio::runtime::Handle;

use super::pack::Content;
use crate::PipelineError;
use crate::engine::stage::{Operator, Partition, Work};
use crate::host::stop::Stop;
use crate::read::lines::Lines;
use crate::row::reject_table::{RejectWriter, table_name};
use crate::storage::commit::{Commit, Retried, SPLITS, UnitReport, commit_name};
use crate::storage::location::{Hashing, Location, Temporary};
use crate::units::UnitFiles;

/// Writes shards and commits units.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) source: u16,
    pub(crate) outputs: [Location; SPLITS],
    /// Without the files, which differ from unit to unit.
    pub(crate) metadata: ShardMetadata,
    pub(crate) compression: Compression,
    pub(crate) shard_bytes: u64,
    pub(crate) files: Arc<UnitFiles>,
    /// What units run again, by their names.
    pub(crate) retries: Arc<HashMap<String, Retried>>,
    /// The parts of units whose lines are counted, by the names of the units.
    pub(crate) parts: Arc<HashMap<String, (Path, u64)>>,
    pub(crate) lines: Option<Arc<Lines>>,
    pub(crate) handle: Handle,
    pub(crate) stop: Stop,
}

/// The columns of receipts.
pub(crate) fn receipt_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("unit", DataType::Utf8, false),
        Field::new("receipt", DataType::Utf8, false),
    ]))
}

/// The commits in a batch of receipts.
pub(crate) fn receipts(batch: &RecordBatch) -> Result<Vec<Commit>, PipelineError> {
    let receipts = batch.column(1).as_string::<i32>();
    receipts.iter().flatten().map(|text| serde_json::from_str(text).map_err(format_error)).collect()
}

fn format_error(error: impl std::error::Error + Send + Sync + 'static) -> PipelineError {
    PipelineError::Format(Box::new(error))
}

impl Operator for Write {
    fn name(&self) -> &'static str {
        "ShardWriteExec"
    }

    fn describe(&self) -> String {
        format!("shard_bytes={}, compression={:?}", self.shard_bytes, self.compression)
    }

    fn schema(&self) -> SchemaRef {
        receipt_schema()
    }

    fn ahead(&self) -> usize {
        1
    }

    fn start(&self, _: &Partition<'_>) -> Result<Box<dyn Work>, PipelineError> {
        Ok(Box::new(Writing {
            operator: self.clone(),
            open: [None, None],
            shards: Default::default(),
            rejects: None,
        }))
    }
}

struct Writing {
    operator: Write,
    open: [Option<OpenShard>; SPLITS],
    shards: [Vec<ShardRecord>; SPLITS],
    rejects: Option<OpenRejects>,
}

struct OpenRejects {
    file: Temporary,
    writer: RejectWriter<Hashing<BufWriter<File>>>,
}

struct OpenShard {
    file: Temporary,
    writer: ShardWriter<Hashing<BufWriter<File>>>,
    record: ShardRecord,
    /// Before compression.
    raw_bytes: u64,
}

impl Work for Writing {
    fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, PipelineError> {
        let unit = batch.column(0).as_string::<i32>().value(0).to_owned();
        let split = usize::from(batch.column(1).as_primitive::<UInt8Type>().value(0)).min(SPLITS - 1);
        let content = batch.column(2).as_primitive::<UInt8Type>().value(0);
        let text = || batch.column(3).as_string::<i32>().value(0);
        if content == Content::Rows as u8 {
            self.rows(&unit, split, &batch)?;
            return Ok(Vec::new());
        }
        if content == Content::Rejects as u8 {
            self.add_rejects(text())?;
            return Ok(Vec::new());
        }
        let report: UnitReport = serde_json::from_str(text()).map_err(format_error)?;
        self.commit(&unit, report).map(|receipt| vec![receipt])
    }

    fn held(&self, ready: usize) -> usize {
        let shards = self.open.iter().flatten().count() * BUFFER_BYTES;
        ready + shards + self.rejects.as_ref().map_or(0, |rejects| BUFFER_BYTES + rejects.writer.held())
    }
}

impl Writing {
    fn rows(&mut self, unit: &str, split: usize, batch: &RecordBatch) -> Result<(), PipelineError> {
        let number = |column: usize| sum(batch.column(column).as_primitive::<UInt64Type>()).unwrap_or(0);
        let bytes = number(7);
        let full = |shard: &OpenShard| shard.raw_bytes + bytes > self.operator.shard_bytes;
        if self.open[split].as_ref().is_some_and(full) {
            self.close(unit, split)?;
        }
        if self.open[split].is_none() {
            self.open[split] = Some(self.operator.open(unit, split)?);
        }
        let Some(shard) = &mut self.open[split] else { return Ok(()) };
        let rows = RecordBatch::from(batch.column(8).as_struct());
        shard.writer.push_batch(&rows).map_err(format_error)?;
        shard.raw_bytes += bytes;
        shard.record.rows += batch.num_rows() as u64;
        shard.record.tokens += number(4);
        shard.record.patches += number(5);
        shard.record.padding += number(6);
        Ok(())
    }

    fn close(&mut self, unit: &str, split: usize) -> Result<(), PipelineError> {
        let Some(OpenShard { file, writer, mut record, .. }) = self.open[split].take() else { return Ok(()) };
        let (buffered, checksum, bytes) = writer.finish().map_err(format_error)?.finish();
        buffered.into_inner().map_err(|error| format_error(error.into_error()))?;
        let part = self.shards[split].len();
        record.path = format!("shards/{unit}-{part:04}-{}.arrow", &checksum[..16]);
        (record.checksum, record.bytes) = (checksum, bytes);
        let output = &self.operator.outputs[split];
        self.operator.handle.block_on(output.put_file(&record.path, file, &self.operator.stop))?;
        self.shards[split].push(record);
        Ok(())
    }

    fn add_rejects(&mut self, lines: &str) -> Result<(), PipelineError> {
        if self.rejects.is_none() {
            let file = self.operator.outputs[0].temporary()?;
            let writer = RejectWriter::try_new(target(&file)?)?;
            self.rejects = Some(OpenRejects { file, writer });
        }
        self.rejects.iter_mut().try_for_each(|rejects| rejects.writer.push(lines))
    }

    fn close_rejects(&mut self, unit: &str) -> Result<Option<RejectsRecord>, PipelineError> {
        let Some(OpenRejects { file, writer }) = self.rejects.take() else { return Ok(None) };
        let (hashing, rows) = writer.finish()?;
        let (buffered, checksum, bytes) = hashing.finish();
        buffered.into_inner().map_err(|error| format_error(error.into_error()))?;
        let path = table_name(unit);
        let (output, stop) = (&self.operator.outputs[0], &self.operator.stop);
        self.operator.handle.block_on(output.put_file(&path, file, stop))?;
        Ok(Some(RejectsRecord { path, rows, bytes, checksum }))
    }

    fn commit(&mut self, unit: &str, report: UnitReport) -> Result<RecordBatch, PipelineError> {
        for split in 0..SPLITS {
            self.close(unit, split)?;
        }
        let retries = self.operator.retries.get(unit).cloned();
        let shards = std::mem::take(&mut self.shards);
        let first_row = self.operator.first_row(unit);
        let mut commit = Commit { unit: unit.to_owned(), shards, report, rejects: None, retries, first_row };
        if !commit.is_in_vain() {
            commit.rejects = self.close_rejects(unit)?;
            commit = self.operator.handle.block_on(self.operator.commit_once(commit))?;
        }
        let json = serde_json::to_string_pretty(&commit).map_err(format_error)?;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![unit])) as ArrayRef,
            Arc::new(StringArray::from(vec![json])) as ArrayRef,
        ];
        RecordBatch::try_new(receipt_schema(), columns).map_err(format_error)
    }
}

/// Bytes that are written to a temporary file at once.
const BUFFER_BYTES: usize = 1 << 20;

fn target(file: &Temporary) -> Result<Hashing<BufWriter<File>>, PipelineError> {
    let failed =
        |source| PipelineError::Io { operation: "open", path: "a temporary file".to_owned(), source };
    Ok(Hashing::new(BufWriter::with_capacity(BUFFER_BYTES, file.handle().map_err(failed)?)))
}

impl Write {
    /// The number of a unit's first row, where lines were counted for it.
    fn first_row(&self, unit: &str) -> Option<u64> {
        let (path, start) = self.parts.get(unit)?;
        self.lines.as_ref()?.known_first_row(path, *start)
    }

    /// Puts a commit, and gives the one that counts: where one is there already, a process wrote it that died or was
    /// taken for dead before it could say so.
    async fn commit_once(&self, commit: Commit) -> Result<Commit, PipelineError> {
        let output = &self.outputs[0];
        let json = serde_json::to_vec_pretty(&commit).map_err(format_error)?;
        if output.create(&commit_name(&commit.unit), json).await? {
            return Ok(commit);
        }
        Ok(output.read_commit(&commit.unit).await?.unwrap_or(commit))
    }

    fn open(&self, unit: &str, split: usize) -> Result<OpenShard, PipelineError> {
        let file = self.outputs[split].temporary()?;
        let target = target(&file)?;
        let metadata = ShardMetadata { files: self.files.files(unit).to_vec(), ..self.metadata.clone() };
        let writer = ShardWriter::try_new(target, &metadata, self.compression).map_err(format_error)?;
        let record = ShardRecord {
            path: String::new(),
            unit: unit.to_owned(),
            source: self.source,
            bytes: 0,
            checksum: String::new(),
            rows: 0,
            tokens: 0,
            patches: 0,
            padding: 0,
        };
        Ok(OpenShard { file, writer, record, raw_bytes: 0 })
    }
}
