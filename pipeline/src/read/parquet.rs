//! Parquet files, through DataFusion's Parquet crate, with record numbers.
//!
//! Files of one source may differ in their columns: they are united by name, also inside structs, and what a file
//! lacks is null. A page that can't be decoded ends its file with one reject.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StructArray};
use arrow::compute::CastOptions;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use bytes::Bytes;
use datafusion::common::nested_struct::cast_column;
use datafusion::parquet::arrow::ProjectionMask;
use datafusion::parquet::arrow::arrow_reader::ArrowReaderOptions;
use datafusion::parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use super::batch::{BATCH_BYTES, Emit, PICTURE_ROWS, Parts, TEXT_ROWS, Target};
use super::buffer::LARGE_ROW;
use super::table::ImageColumns;
use super::{ImageRef, Input, stream};
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

/// The columns of all files, united by name.
pub(crate) fn columns(input: &Input, name: &str, files: &[InputFile]) -> Result<Vec<Field>, PipelineError> {
    let mut united: Option<(Schema, &InputFile)> = None;
    for file in files {
        // A file that is no Parquet is met again when it is read, as a reject.
        let Ok(builder) = open(input, file)? else { continue };
        let schema =
            Schema::new(builder.schema().fields().iter().map(|field| plain(field)).collect::<Vec<_>>());
        united = Some(match united {
            None => (schema, file),
            Some((known, first)) => {
                let differ = |error: arrow::error::ArrowError| PipelineError::Config {
                    key: format!("source.{name}.uri"),
                    expected: format!("files with the same columns as `{}`", first.below),
                    found: format!("`{}`, which differs: {error}", file.below),
                };
                (Schema::try_merge([known, schema]).map_err(differ)?, first)
            }
        });
    }
    Ok(united
        .map(|(schema, _)| schema.fields().iter().map(|field| field.as_ref().clone()).collect())
        .unwrap_or_default())
}

/// A field without the differences of encoding: one type of text, of bytes, of lists.
fn plain(field: &Field) -> Field {
    Field::new(field.name(), plain_type(field.data_type()), true)
}

fn plain_type(of: &DataType) -> DataType {
    match of {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            DataType::List(Arc::new(Field::new("item", plain_type(item.data_type()), true)))
        }
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(|field| plain(field)).collect::<Fields>())
        }
        other => other.clone(),
    }
}

fn open(input: &Input, file: &InputFile) -> Result<Result<Builder, Reject>, PipelineError> {
    let reader = RangeReader { input: input.clone(), file: file.clone() };
    match input.handle.block_on(Builder::new(reader)) {
        Ok(builder) => Ok(Ok(builder)),
        Err(error) => rejected(error).map(Err),
    }
}

/// A file that is damaged is a reject, a store that fails is an error.
fn rejected(error: ParquetError) -> Result<Reject, PipelineError> {
    let error = match error {
        ParquetError::External(inner) => match inner.downcast::<PipelineError>() {
            Ok(error) => return Err(*error),
            Err(inner) => ParquetError::External(inner),
        },
        other => other,
    };
    Ok(Reject::new(RejectReason::BadEntry, format!("the rest of the file is damaged: {error}")))
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
        Err(reject) => return Ok((1, refused(target, 0, reject, emit)?)),
    };
    let needed = target.table.needed(&target.schema);
    let roots = builder.schema().fields().iter().enumerate();
    let chosen = roots.filter(|(_, field)| needed.contains(field.name())).map(|(index, _)| index);
    let mask = ProjectionMask::roots(builder.parquet_schema(), chosen);
    let rows = if target.table.wants_images(&target.schema) { PICTURE_ROWS } else { TEXT_ROWS };
    let rows = rows.min(BATCH_BYTES / row_bytes(builder.metadata(), &mask).max(1)).max(1);
    // Held until the file is read.
    let _memory = group_memory(input, builder.metadata(), &mask)?;
    let mut builder = builder.with_projection(mask).with_batch_size(rows);
    if let Some(part) = file.part {
        builder = builder.with_row_groups((part.start as usize..part.end as usize).collect());
    }
    let first = file.part.map_or(0, |part| part.first_row);
    let average = file.bytes / (builder.metadata().file_metadata().num_rows().max(1) as u64);
    let built = builder.build();
    let mut stream = match built {
        Ok(stream) => stream,
        Err(error) => return Ok((1, refused(target, first, rejected(error)?, emit)?)),
    };
    let mut row = 0;
    while let Some(batch) = input.handle.block_on(stream.next()) {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return Ok((row + 1, refused(target, first + row, rejected(error)?, emit)?)),
        };
        let converted = convert(input, target, &batch, first + row)?;
        row += batch.num_rows() as u64;
        if !emit(converted)? {
            return Ok((row, false));
        }
        if let Some(meter) = &input.sample {
            meter.bytes.fetch_add(average * batch.num_rows() as u64, Ordering::Relaxed);
            meter.rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        }
        if input.is_enough() {
            break;
        }
    }
    Ok((row, true))
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

fn refused(target: &Target, row: u64, reject: Reject, emit: &mut Emit<'_>) -> Result<bool, PipelineError> {
    let parts =
        Parts { rows: vec![row], rejects: vec![Some(reject)], images: vec![Vec::new()], ..Parts::default() };
    emit(target.assemble(&parts)?)
}

fn convert(
    input: &Input,
    target: &Target,
    batch: &RecordBatch,
    first: u64,
) -> Result<RecordBatch, PipelineError> {
    let rows = batch.num_rows();
    let mut parts = Parts {
        rows: (first..first + rows as u64).collect(),
        rejects: vec![None; rows],
        images: vec![Vec::new(); rows],
        ..Parts::default()
    };
    for field in &target.table.scalars {
        if let Some(column) = batch.column_by_name(field.name())
            && target.schema.field_with_name(field.name()).is_ok()
        {
            let column = cast_column(column, field.data_type(), &CastOptions::default())?;
            parts.scalars.insert(field.name().clone(), column);
        }
    }
    if target.table.wants_images(&target.schema) {
        let images = match &target.table.images {
            ImageColumns::One { from: Some(from) } => match batch.column_by_name(from) {
                Some(column) => one_each(column)?,
                None => vec![Vec::new(); rows],
            },
            ImageColumns::Many { from } => match batch.column_by_name(from) {
                Some(column) => many_each(column)?,
                None => vec![Vec::new(); rows],
            },
            _ => vec![Vec::new(); rows],
        };
        parts.images = target.fetch(input, images, &mut parts.rejects);
    }
    target.assemble(&parts)
}

fn one_each(column: &ArrayRef) -> Result<Vec<Vec<ImageRef>>, PipelineError> {
    Ok(image_refs(column)?.into_iter().map(|image| vec![image]).collect())
}

fn many_each(column: &ArrayRef) -> Result<Vec<Vec<ImageRef>>, PipelineError> {
    let lists = cast_column(column, &plain_type(column.data_type()), &CastOptions::default())?;
    let Some(lists) = lists.as_list_opt::<i32>() else {
        return Ok(vec![Vec::new(); column.len()]);
    };
    let list = |row: usize| {
        if lists.is_null(row) { Ok(Vec::new()) } else { image_refs(&lists.value(row)) }
    };
    (0..lists.len()).map(list).collect()
}

/// Images in a column of bytes, of paths, or of structs of `bytes` and `path` as Hugging Face datasets writes them.
fn image_refs(column: &ArrayRef) -> Result<Vec<ImageRef>, PipelineError> {
    let column = cast_column(column, &plain_type(column.data_type()), &CastOptions::default())?;
    let rows = 0..column.len();
    Ok(match column.data_type() {
        DataType::Struct(_) => {
            let fields = column.as_struct();
            rows.map(|row| if fields.is_null(row) { ImageRef::Absent } else { struct_image(fields, row) })
                .collect()
        }
        _ => rows.map(|row| plain_image(&column, row)).collect(),
    })
}

fn struct_image(fields: &StructArray, row: usize) -> ImageRef {
    let image =
        |name: &str| fields.column_by_name(name).map_or(ImageRef::Absent, |column| plain_image(column, row));
    match image("bytes") {
        ImageRef::Absent => image("path"),
        found => found,
    }
}

fn plain_image(column: &ArrayRef, row: usize) -> ImageRef {
    if column.is_null(row) {
        return ImageRef::Absent;
    }
    match column.data_type() {
        DataType::Binary => ImageRef::Bytes(Bytes::copy_from_slice(column.as_binary::<i32>().value(row))),
        DataType::Utf8 => ImageRef::Path(column.as_string::<i32>().value(row).to_owned()),
        _ => ImageRef::Absent,
    }
}
