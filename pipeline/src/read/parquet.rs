//! Parquet files, through DataFusion's Parquet crate, with record numbers.
//!
//! Row groups are read one after the other. A page that can't be decoded ends its row group: the rows of the group that
//! are still to come are refused one by one, because the footer says how many they are, and the next group is read.
//! Only where the footer contradicts itself is one reject all that there is.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::parquet::arrow::ProjectionMask;
use datafusion::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use datafusion::parquet::arrow::async_reader::{
    AsyncFileReader, MetadataFetch, ParquetRecordBatchStreamBuilder,
};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use super::batch::{BATCH_BYTES, Emit, Target};
use super::buffer::LARGE_ROW;
use super::columnar::{convert, refused, refused_rows};
use super::{Input, stream};
use crate::PipelineError;
use crate::engine::memory::Taken;
use crate::row::reject::{Reject, RejectReason};
use crate::units::{FilePart, InputFile};

type Builder = ParquetRecordBatchStreamBuilder<RangeReader>;

/// Bytes at the end of a file that are read first: enough for the footer of most.
const FOOTER_BYTES: usize = 64 << 10;

/// A file for the Parquet crate, with the retries of every other reader.
struct RangeReader {
    input: Input,
    file: InputFile,
}

impl AsyncFileReader for RangeReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        if range.start > range.end || range.end > self.file.bytes {
            let what = format!("it claims bytes {} to {} of {}", range.start, range.end, self.file.bytes);
            return futures::future::ready(Err(ParquetError::General(what))).boxed();
        }
        let bytes = stream::get_range(&self.input, &self.file, range);
        bytes.map(|bytes| bytes.map_err(|error| ParquetError::External(Box::new(error)))).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        let bytes = self.file.bytes;
        let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER_BYTES));
        async move { reader.load_and_finish(Footer(self), bytes).await.map(Arc::new) }.boxed()
    }
}

/// A footer that is longer than this is damaged.
const MAX_FOOTER_BYTES: u64 = 256 << 20;

/// The footer of a file.
struct Footer<'a>(&'a mut RangeReader);

impl MetadataFetch for Footer<'_> {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        let bytes = range.end.saturating_sub(range.start);
        if bytes > MAX_FOOTER_BYTES {
            let what = format!("its footer claims to have {bytes} bytes");
            return futures::future::ready(Err(ParquetError::General(what))).boxed();
        }
        self.0.get_bytes(range)
    }
}

/// The columns of a file, or why it can't be read; then it is met again as a reject.
pub(crate) fn schema(input: &Input, file: &InputFile) -> Result<Result<SchemaRef, String>, PipelineError> {
    Ok(open(input, file)?.map(|builder| builder.schema().clone()))
}

/// Opens a file; one that is damaged says what is wrong with it.
fn open(input: &Input, file: &InputFile) -> Result<Result<Builder, String>, PipelineError> {
    let reader = RangeReader { input: input.clone(), file: file.clone() };
    match input.handle.block_on(Builder::new(reader)) {
        Ok(builder) => Ok(Ok(builder)),
        Err(error) => damage(error).map(Err),
    }
}

/// What is wrong with a file; a store that fails is an error.
fn damage(error: ParquetError) -> Result<String, PipelineError> {
    match error {
        ParquetError::External(inner) => match inner.downcast::<PipelineError>() {
            Ok(error) => Err(*error),
            Err(inner) => Ok(inner.to_string()),
        },
        other => Ok(other.to_string()),
    }
}

fn rejected(what: &str) -> Reject {
    Reject::new(RejectReason::BadEntry, format!("the rest of the file is damaged: {what}"))
}

/// Compressed bytes and rows of each row group; empty for a file that can't be opened, which is a reject later.
pub(crate) fn row_groups(input: &Input, file: &InputFile) -> Result<Vec<(u64, u64)>, PipelineError> {
    let Ok(builder) = open(input, file)? else { return Ok(Vec::new()) };
    let groups = builder.metadata().row_groups().iter();
    Ok(groups.map(|group| (group.compressed_size().max(0) as u64, group.num_rows().max(0) as u64)).collect())
}

/// Reads a file; gives the number of rows and whether more are wanted.
pub(crate) fn read(
    input: &Input,
    file: &InputFile,
    target: &Target,
    emit: &mut Emit<'_>,
) -> Result<(u64, bool), PipelineError> {
    let builder = match open(input, file)? {
        Ok(builder) => builder,
        Err(what) => return Ok((1, refused(target, 0, rejected(&what), emit)?)),
    };
    let metadata = builder.metadata().clone();
    let needed = target.table.needed(&target.schema);
    let roots = builder.schema().fields().iter().enumerate();
    let chosen = roots.filter(|(_, field)| needed.contains(field.name())).map(|(index, _)| index);
    let mask = ProjectionMask::roots(builder.parquet_schema(), chosen);
    let batch_rows = target.batch_rows().min(BATCH_BYTES / row_bytes(&metadata, &mask).max(1)).max(1);
    // Held until the file is read.
    let _memory = group_memory(input, file, &metadata, &mask)?;
    let average = file.bytes / (metadata.file_metadata().num_rows().max(1) as u64);
    let groups = metadata.row_groups();
    let part = file.part.unwrap_or(FilePart { start: 0, end: groups.len() as u64, first_row: Some(0) });
    let first_row = part.first_row.unwrap_or(0);
    let columns = ArrowReaderMetadata::try_new(metadata.clone(), ArrowReaderOptions::new());
    let columns = match columns {
        Ok(columns) => columns,
        Err(error) => return Ok((1, refused(target, first_row, rejected(&damage(error)?), emit)?)),
    };
    let mut reading = GroupReader { input, target, average, row: first_row, read: 0, emit };
    for (index, group) in groups.iter().enumerate().take(part.end as usize).skip(part.start as usize) {
        let Some(rows) = group_rows(group) else {
            let what = format!("row group {index} has other numbers of rows in its columns");
            let more = refused(target, reading.row, rejected(&what), reading.emit)?;
            return Ok((reading.read + 1, more));
        };
        let reader = RangeReader { input: input.clone(), file: file.clone() };
        let builder = Builder::new_with_metadata(reader, columns.clone())
            .with_projection(mask.clone())
            .with_batch_size(batch_rows)
            .with_row_groups(vec![index]);
        if !reading.group(index, builder, rows)? {
            return Ok((reading.read, false));
        }
        if input.is_enough() {
            break;
        }
    }
    Ok((reading.read, true))
}

/// The rows of a row group, if its columns don't contradict that: each has a value or more a row.
fn group_rows(group: &RowGroupMetaData) -> Option<u64> {
    let rows = group.num_rows();
    let fits = group.columns().iter().all(|column| rows <= column.num_values());
    u64::try_from(rows).ok().filter(|_| fits)
}

/// Rows of a damaged group that are refused one by one. A footer that speaks of more is not to be trusted.
const MOST_LOST: u64 = 1 << 24;

/// How far a file is read.
struct GroupReader<'a, 'e> {
    input: &'a Input,
    target: &'a Target,
    /// Bytes of the file for a row.
    average: u64,
    /// Number of the next row.
    row: u64,
    read: u64,
    emit: &'a mut Emit<'e>,
}

impl GroupReader<'_, '_> {
    /// Reads a row group of so many rows; gives whether more are wanted.
    fn group(&mut self, index: usize, builder: Builder, rows: u64) -> Result<bool, PipelineError> {
        let end = self.row.saturating_add(rows);
        let what = match builder.build() {
            Ok(mut stream) => loop {
                match self.input.handle.block_on(stream.next()) {
                    Some(Ok(batch)) => {
                        // No more than the footer says: the numbers of the next group's rows depend on it.
                        let left = usize::try_from(end - self.row).unwrap_or(usize::MAX);
                        if !self.batch(&batch.slice(0, batch.num_rows().min(left)))? {
                            return Ok(false);
                        }
                    }
                    Some(Err(error)) => break damage(error)?,
                    None => break "it ends early".to_owned(),
                }
                if self.input.is_enough() {
                    return Ok(true);
                }
            },
            Err(error) => damage(error)?,
        };
        let detail = format!("row group {index} is damaged from this row or one before it on: {what}");
        let reject = Reject::new(RejectReason::BadEntry, detail);
        let lost = if end - self.row > MOST_LOST { self.row..self.row + 1 } else { self.row..end };
        let (read, more) = refused_rows(self.target, lost, &reject, self.emit)?;
        (self.row, self.read) = (end, self.read + read);
        Ok(more)
    }

    fn batch(&mut self, batch: &RecordBatch) -> Result<bool, PipelineError> {
        let rows = batch.num_rows() as u64;
        let (chosen, numbers) = self.target.asked_for(batch, self.row)?;
        self.row += rows;
        self.read += numbers.len() as u64;
        if !numbers.is_empty() && !convert(self.input, self.target, &chosen, numbers, self.emit)? {
            return Ok(false);
        }
        if let Some(sample) = &self.input.sample {
            sample.add_bytes(self.average * rows);
            sample.add_rows(rows);
        }
        Ok(true)
    }
}

/// The memory for a row group's columns, which are fetched whole, where it is much.
fn group_memory(
    input: &Input,
    file: &InputFile,
    metadata: &ParquetMetaData,
    mask: &ProjectionMask,
) -> Result<Option<Taken>, PipelineError> {
    let bytes = |group: &RowGroupMetaData| -> i64 {
        let columns = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
        columns.map(|(_, column)| column.compressed_size().max(0)).fold(0, i64::saturating_add)
    };
    let largest = metadata.row_groups().iter().map(bytes).max().unwrap_or(0);
    // What a damaged footer claims beyond the file is never read.
    let largest = usize::try_from(largest.min(i64::try_from(file.bytes).unwrap_or(i64::MAX))).unwrap_or(0);
    if largest <= LARGE_ROW {
        return Ok(None);
    }
    let mut taken = input.memory.rows.take(largest);
    taken.settle(largest)?;
    Ok(Some(taken))
}

/// Bytes of an average row in these columns, of the row group where it is largest.
fn row_bytes(metadata: &ParquetMetaData, mask: &ProjectionMask) -> usize {
    let average = |group: &RowGroupMetaData| {
        let columns = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
        let bytes = columns.map(|(_, column)| column.uncompressed_size().max(0)).fold(0, i64::saturating_add);
        bytes / group.num_rows().max(1)
    };
    let largest = metadata.row_groups().iter().map(average).max();
    largest.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0)
}
