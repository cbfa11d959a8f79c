//! Parquet files, through DataFusion's Parquet crate, with record numbers. A page that can't be decoded ends its file
//! with one reject.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::parquet::arrow::ProjectionMask;
use datafusion::parquet::arrow::arrow_reader::ArrowReaderOptions;
use datafusion::parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use super::batch::{BATCH_BYTES, Emit, Target};
use super::buffer::LARGE_ROW;
use super::columnar::{convert, refused};
use super::{Input, stream};
use crate::PipelineError;
use crate::memory::Taken;
use crate::reject::{Reject, RejectReason};
use crate::units::InputFile;

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
        let bytes = stream::get_range(&self.input, &self.file, range);
        bytes.map(|bytes| bytes.map_err(|error| ParquetError::External(Box::new(error)))).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        let bytes = self.file.bytes;
        let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER_BYTES));
        async move { reader.load_and_finish(self, bytes).await.map(Arc::new) }.boxed()
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
    let needed = target.table.needed(&target.schema);
    let roots = builder.schema().fields().iter().enumerate();
    let chosen = roots.filter(|(_, field)| needed.contains(field.name())).map(|(index, _)| index);
    let mask = ProjectionMask::roots(builder.parquet_schema(), chosen);
    let rows = target.batch_rows().min(BATCH_BYTES / row_bytes(builder.metadata(), &mask).max(1)).max(1);
    // Held until the file is read.
    let _memory = group_memory(input, builder.metadata(), &mask)?;
    let average = file.bytes / (builder.metadata().file_metadata().num_rows().max(1) as u64);
    let mut builder = builder.with_projection(mask).with_batch_size(rows);
    if let Some(part) = file.part {
        builder = builder.with_row_groups((part.start as usize..part.end as usize).collect());
    }
    let first = file.part.map_or(0, |part| part.first_row);
    let built = builder.build();
    let mut stream = match built {
        Ok(stream) => stream,
        Err(error) => return Ok((1, refused(target, first, rejected(&damage(error)?), emit)?)),
    };
    let (mut row, mut read) = (0, 0);
    while let Some(batch) = input.handle.block_on(stream.next()) {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                return Ok((read + 1, refused(target, first + row, rejected(&damage(error)?), emit)?));
            }
        };
        let (chosen, numbers) = target.asked_for(&batch, first + row)?;
        row += batch.num_rows() as u64;
        read += numbers.len() as u64;
        if !numbers.is_empty() && !emit(convert(input, target, &chosen, numbers)?)? {
            return Ok((read, false));
        }
        if let Some(sample) = &input.sample {
            sample.add_bytes(average * batch.num_rows() as u64);
            sample.add_rows(batch.num_rows() as u64);
        }
        if input.is_enough() {
            break;
        }
    }
    Ok((read, true))
}

/// The memory for a row group's columns, which are fetched whole, where it is much.
fn group_memory(
    input: &Input,
    metadata: &ParquetMetaData,
    mask: &ProjectionMask,
) -> Result<Option<Taken>, PipelineError> {
    let bytes = |group: &RowGroupMetaData| -> i64 {
        let columns = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
        columns.map(|(_, column)| column.compressed_size()).sum()
    };
    let largest = metadata.row_groups().iter().map(bytes).max().unwrap_or(0);
    let largest = usize::try_from(largest).unwrap_or(0);
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
        let bytes: i64 = columns.map(|(_, column)| column.uncompressed_size()).sum();
        bytes / group.num_rows().max(1)
    };
    let largest = metadata.row_groups().iter().map(average).max();
    largest.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0)
}
