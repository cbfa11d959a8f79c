//! The shards of a unit, its table of refused rows, and its commit.
//!
//! A shard is written to a temporary file and gets its place, under a name made from its content, when it is whole. A
//! unit of rows that are run again commits nothing where all of them were refused as before: the next attempt must find
//! them as they were.

use std::fs::File;
use std::io::BufWriter;
use std::sync::Arc;

use schemas::shard::{BATCH_ROWS, ShardMetadata, ShardWriter};
use schemas::{RejectsRecord, Row, ShardRecord, row_bytes};
use tokio::runtime::Handle;

use super::{Shards, format_error};
use crate::PipelineError;
use crate::operators::runtime::Runtime;
use crate::row::reject_table::{RejectLine, RejectWriter, table_name};
use crate::storage::commit::{Commit, SPLITS, UnitReport, commit_name};
use crate::storage::location::{Hashing, Location, Temporary};

/// Writes a unit.
pub(super) struct UnitWriter {
    unit: String,
    operator: Arc<Shards>,
    runtime: Arc<Runtime>,
    /// Rows of the next batch of each dataset.
    batches: [Batch; SPLITS],
    open: [Option<OpenShard>; SPLITS],
    shards: [Vec<ShardRecord>; SPLITS],
    rejects: Option<OpenRejects>,
}

/// Rows that are written together.
#[derive(Default)]
struct Batch {
    rows: Vec<Row>,
    bytes: usize,
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

impl UnitWriter {
    pub(super) fn new(unit: &str, operator: Arc<Shards>, runtime: Arc<Runtime>) -> Self {
        let (batches, open, shards) = Default::default();
        Self { unit: unit.to_owned(), operator, runtime, batches, open, shards, rejects: None }
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        let rows: usize = self.batches.iter().map(|batch| batch.bytes).sum();
        let shards = self.open.iter().flatten().count() * BUFFER_BYTES;
        rows + shards + self.rejects.as_ref().map_or(0, |rejects| BUFFER_BYTES + rejects.writer.held())
    }

    /// Takes a row of a dataset.
    pub(super) fn row(&mut self, split: usize, row: Row) -> Result<(), PipelineError> {
        let batch = &mut self.batches[split];
        batch.bytes += row_bytes(&row, &self.operator.metadata.layout());
        batch.rows.push(row);
        if batch.rows.len() == BATCH_ROWS { self.write_batch(split) } else { Ok(()) }
    }

    /// Writes the rows that wait. A shard that they would make too large is closed before.
    fn write_batch(&mut self, split: usize) -> Result<(), PipelineError> {
        let Batch { rows, bytes } = std::mem::take(&mut self.batches[split]);
        if rows.is_empty() {
            return Ok(());
        }
        let full = |shard: &OpenShard| shard.raw_bytes + bytes as u64 > self.operator.shard_bytes;
        if self.open[split].as_ref().is_some_and(full) {
            self.close(split)?;
        }
        let shard = match &mut self.open[split] {
            Some(shard) => shard,
            None => {
                self.open[split].insert(OpenShard::new(&self.unit, split, &self.operator, &self.runtime)?)
            }
        };
        shard.raw_bytes += bytes as u64;
        rows.into_iter().try_for_each(|row| shard.push(row))
    }

    fn close(&mut self, split: usize) -> Result<(), PipelineError> {
        let Some(OpenShard { file, writer, mut record, .. }) = self.open[split].take() else { return Ok(()) };
        let (checksum, bytes) = finished(writer.finish().map_err(format_error)?)?;
        let part = self.shards[split].len();
        record.path = format!("shards/{}-{part:04}-{}.arrow", self.unit, &checksum[..16]);
        (record.checksum, record.bytes) = (checksum, bytes);
        let put = self.output(split)?.put_file(&record.path, file, &self.runtime.stop);
        Handle::current().block_on(put)?;
        self.shards[split].push(record);
        Ok(())
    }

    /// Takes a refused row.
    pub(super) fn reject(&mut self, line: RejectLine) -> Result<(), PipelineError> {
        let rejects = match &mut self.rejects {
            Some(rejects) => rejects,
            None => {
                let file = self.output(0)?.temporary()?;
                let writer = RejectWriter::try_new(target(&file)?)?;
                self.rejects.insert(OpenRejects { file, writer })
            }
        };
        rejects.writer.push(line)
    }

    fn close_rejects(&mut self) -> Result<Option<RejectsRecord>, PipelineError> {
        let Some(OpenRejects { file, writer }) = self.rejects.take() else { return Ok(None) };
        let (hashing, rows) = writer.finish()?;
        let (checksum, bytes) = finished(hashing)?;
        let path = table_name(&self.unit);
        Handle::current().block_on(self.output(0)?.put_file(&path, file, &self.runtime.stop))?;
        Ok(Some(RejectsRecord { path, rows, bytes, checksum }))
    }

    /// Writes what is left and commits the unit.
    pub(super) fn commit(mut self, report: UnitReport) -> Result<Commit, PipelineError> {
        for split in 0..SPLITS {
            self.write_batch(split)?;
            self.close(split)?;
        }
        let retries = self.operator.retries.get(&self.unit).cloned();
        let (shards, first_row) = (std::mem::take(&mut self.shards), self.first_row()?);
        let mut commit =
            Commit { unit: self.unit.clone(), shards, report, rejects: None, retries, first_row };
        if commit.is_in_vain() {
            return Ok(commit);
        }
        commit.rejects = self.close_rejects()?;
        Handle::current().block_on(commit_once(self.output(0)?, commit))
    }

    fn output(&self, split: usize) -> Result<&Location, PipelineError> {
        Ok(&self.runtime.outputs()?[split])
    }

    /// The number of the unit's first row, where lines were counted for it.
    fn first_row(&self) -> Result<Option<u64>, PipelineError> {
        let Some((path, start)) = self.operator.parts.get(&self.unit) else { return Ok(None) };
        let lines = &self.runtime.input(&self.operator.name)?.lines;
        Ok(lines.as_ref().and_then(|lines| lines.known_first_row(path, *start)))
    }
}

/// Puts a commit, and gives the one that counts: where one is there already, a process wrote it that died or was taken
/// for dead before it could say so.
async fn commit_once(output: &Location, commit: Commit) -> Result<Commit, PipelineError> {
    let json = serde_json::to_vec_pretty(&commit).map_err(format_error)?;
    if output.create(&commit_name(&commit.unit), json).await? {
        return Ok(commit);
    }
    Ok(output.read_commit(&commit.unit).await?.unwrap_or(commit))
}

/// Bytes that are written to a temporary file at once.
const BUFFER_BYTES: usize = 1 << 20;

fn target(file: &Temporary) -> Result<Hashing<BufWriter<File>>, PipelineError> {
    let failed =
        |source| PipelineError::Io { operation: "open", path: "a temporary file".to_owned(), source };
    Ok(Hashing::new(BufWriter::with_capacity(BUFFER_BYTES, file.handle().map_err(failed)?)))
}

/// The checksum and the bytes of a file that is written.
fn finished(target: Hashing<BufWriter<File>>) -> Result<(String, u64), PipelineError> {
    let (buffered, checksum, bytes) = target.finish();
    buffered.into_inner().map_err(|error| format_error(error.into_error()))?;
    Ok((checksum, bytes))
}

impl OpenShard {
    fn new(unit: &str, split: usize, operator: &Shards, runtime: &Runtime) -> Result<Self, PipelineError> {
        let file = runtime.outputs()?[split].temporary()?;
        let metadata =
            ShardMetadata { files: operator.files.files(unit).to_vec(), ..operator.metadata.clone() };
        let writer = ShardWriter::try_new(target(&file)?, &metadata, operator.compression);
        let record = ShardRecord {
            path: String::new(),
            unit: unit.to_owned(),
            source: operator.source,
            bytes: 0,
            checksum: String::new(),
            rows: 0,
            tokens: 0,
            patches: 0,
            padding: 0,
        };
        Ok(Self { file, writer: writer.map_err(format_error)?, record, raw_bytes: 0 })
    }

    fn push(&mut self, row: Row) -> Result<(), PipelineError> {
        self.record.rows += 1;
        self.record.tokens += u64::from(row.text_positions());
        self.record.patches += u64::from(row.patch_positions());
        self.record.padding += row.tokens().len() as u64 - u64::from(row.used());
        self.writer.push(row).map_err(format_error)
    }
}
