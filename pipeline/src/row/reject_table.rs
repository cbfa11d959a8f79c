//! The table of a unit's refused rows: `rejects/UNIT.parquet` in the output.
//!
//! Its bytes are a function of the rows: one order, one compression, no name of a program version in it. It is written
//! in row groups of a few megabytes, so that a unit of nothing but refused rows takes no more memory than another.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use bytes::Bytes;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

use crate::PipelineError;
use crate::row::reject::RejectReason;

/// Bytes of a row group, at most (one batch more at worst).
const GROUP_BYTES: usize = 2 << 20;

/// Bytes of rows, as JSON, that are written together. The bytes of a table depend on that.
const BATCH_BYTES: usize = 1 << 20;

/// A refused row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectLine {
    /// Name of the source.
    pub source: String,
    /// Path of the file below the source's fixed prefix.
    pub file: String,
    /// Physical line or record, from 0.
    pub row: u64,
    /// The row's own id, where it was read.
    pub id: Option<String>,
    /// Name of the reason.
    pub reason: String,
    /// What was found.
    pub detail: String,
    /// The beginning of what was refused, where there is something to show.
    pub excerpt: Option<String>,
}

impl RejectLine {
    /// Whether another attempt on the same row may succeed.
    pub fn may_pass_later(&self) -> bool {
        RejectReason::from_name(&self.reason).is_some_and(RejectReason::may_pass_later)
    }

    /// Whether the row is refused still. `retried`: another unit has run the rows of its table again, and has those
    /// that were refused again in its own.
    pub fn stands(&self, retried: bool) -> bool {
        !(retried && self.may_pass_later())
    }
}

/// The path of a unit's table below the dataset.
pub(crate) fn table_name(unit: &str) -> String {
    format!("rejects/{unit}.parquet")
}

fn schema() -> SchemaRef {
    let text = |name, nullable| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        text("source", false),
        text("file", false),
        Field::new("row", DataType::UInt64, false),
        text("id", true),
        text("reason", false),
        text("detail", false),
        text("excerpt", true),
    ]))
}

fn format_error(error: impl std::error::Error + Send + Sync + 'static) -> PipelineError {
    PipelineError::Format(Box::new(error))
}

/// Writes a table.
pub(crate) struct RejectWriter<W: Write + Send> {
    writer: ArrowWriter<W>,
    /// Rows that are written together.
    pending: Vec<RejectLine>,
    /// Their size as lines of JSON.
    pending_bytes: usize,
    rows: u64,
}

impl<W: Write + Send> RejectWriter<W> {
    pub(crate) fn try_new(target: W) -> Result<Self, PipelineError> {
        let properties = WriterProperties::builder()
            .set_created_by("transfusion".to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .build();
        let writer = ArrowWriter::try_new(target, schema(), Some(properties)).map_err(format_error)?;
        Ok(Self { writer, pending: Vec::new(), pending_bytes: 0, rows: 0 })
    }

    /// Takes a row.
    pub(crate) fn push(&mut self, line: RejectLine) -> Result<(), PipelineError> {
        self.pending_bytes += serde_json::to_vec(&line).map_err(format_error)?.len() + 1;
        self.pending.push(line);
        if self.pending_bytes > BATCH_BYTES { self.write_pending() } else { Ok(()) }
    }

    fn write_pending(&mut self) -> Result<(), PipelineError> {
        let lines = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        if lines.is_empty() {
            return Ok(());
        }
        self.rows += lines.len() as u64;
        self.writer.write(&batch(&lines)?).map_err(format_error)?;
        if self.writer.in_progress_size() > GROUP_BYTES {
            self.writer.flush().map_err(format_error)?;
        }
        Ok(())
    }

    /// Bytes that it holds.
    pub(crate) fn held(&self) -> usize {
        self.writer.memory_size() + self.pending_bytes
    }

    /// The target, and the number of rows.
    pub(crate) fn finish(mut self) -> Result<(W, u64), PipelineError> {
        self.write_pending()?;
        Ok((self.writer.into_inner().map_err(format_error)?, self.rows))
    }
}

fn batch(lines: &[RejectLine]) -> Result<RecordBatch, PipelineError> {
    let text = |of: fn(&RejectLine) -> Option<&str>| Arc::new(StringArray::from_iter(lines.iter().map(of)));
    let rows = UInt64Array::from_iter_values(lines.iter().map(|line| line.row));
    let columns: Vec<Arc<dyn Array>> = vec![
        text(|line| Some(&line.source)),
        text(|line| Some(&line.file)),
        Arc::new(rows),
        text(|line| line.id.as_deref()),
        text(|line| Some(&line.reason)),
        text(|line| Some(&line.detail)),
        text(|line| line.excerpt.as_deref()),
    ];
    RecordBatch::try_new(schema(), columns).map_err(format_error)
}

/// Reads a table, a batch of rows at a time.
pub struct RejectTable {
    batches: ParquetRecordBatchReader,
}

impl RejectTable {
    /// Opens the bytes of a table.
    ///
    /// # Errors
    ///
    /// If they are no table of refused rows.
    pub fn open(bytes: Bytes) -> Result<Self, PipelineError> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(format_error)?;
        let names = |schema: &Schema| -> Vec<String> {
            schema.fields().iter().map(|field| field.name().clone()).collect()
        };
        if names(builder.schema()) != names(&schema()) {
            return Err(PipelineError::Format("it has other columns than a table of refused rows".into()));
        }
        Ok(Self { batches: builder.build().map_err(format_error)? })
    }
}

impl Iterator for RejectTable {
    type Item = Result<Vec<RejectLine>, PipelineError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.batches.next()?.map_err(format_error).and_then(|batch| lines(&batch)))
    }
}

fn lines(batch: &RecordBatch) -> Result<Vec<RejectLine>, PipelineError> {
    let wrong = || PipelineError::Format("a column has another type than in a table of refused rows".into());
    let text = |column: usize| batch.column(column).as_string_opt::<i32>().ok_or_else(wrong);
    let (source, file, id) = (text(0)?, text(1)?, text(3)?);
    let (reason, detail, excerpt) = (text(4)?, text(5)?, text(6)?);
    let rows = batch.column(2).as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?;
    let maybe = |column: &StringArray, row: usize| column.is_valid(row).then(|| column.value(row).to_owned());
    let line = |row: usize| RejectLine {
        source: source.value(row).to_owned(),
        file: file.value(row).to_owned(),
        row: rows.value(row),
        id: maybe(id, row),
        reason: reason.value(row).to_owned(),
        detail: detail.value(row).to_owned(),
        excerpt: maybe(excerpt, row),
    };
    Ok((0..batch.num_rows()).map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(row: u64) -> RejectLine {
        RejectLine {
            source: "web".to_owned(),
            file: format!("ü {}.jsonl", row / 1000),
            row,
            id: row.is_multiple_of(3).then(|| format!("id-{row}")),
            reason: "invalid_utf8".to_owned(),
            detail: format!("byte {row} is not UTF-8"),
            excerpt: (!row.is_multiple_of(5)).then(|| schemas::content_hash(&row.to_le_bytes())),
        }
    }

    fn table(rows: u64) -> Vec<u8> {
        let mut writer = RejectWriter::try_new(Vec::new()).expect("a writer");
        for row in 0..rows {
            writer.push(line(row)).expect("written");
            assert!(writer.held() < 2 * GROUP_BYTES + 3 * BATCH_BYTES, "{}", writer.held());
        }
        let (bytes, written) = writer.finish().expect("a table");
        assert_eq!(written, rows);
        bytes
    }

    #[test]
    fn rows_come_back_and_bytes_are_the_same_each_time() {
        let bytes = table(3000);
        assert_eq!(bytes, table(3000));
        let read = RejectTable::open(bytes.into()).expect("a table");
        let lines: Vec<_> = read.collect::<Result<Vec<_>, _>>().expect("rows").concat();
        assert_eq!(lines, (0..3000).map(line).collect::<Vec<_>>());
    }

    #[test]
    fn a_table_of_many_rows_is_written_in_groups() {
        let bytes = Bytes::from(table(100_000));
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("a table");
        assert!(builder.metadata().num_row_groups() > 1, "{}", builder.metadata().num_row_groups());
    }

    #[test]
    fn what_is_no_table_is_refused() {
        assert!(RejectTable::open(Bytes::from_static(b"PAR1")).is_err());
        assert!(RejectTable::open(Bytes::new()).is_err());
    }
}
