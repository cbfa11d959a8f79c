//! The Arrow columns of a packed row, one definition for writer and reader.
//!
//! | column | type |
//! | --- | --- |
//! | `tokens` | FixedSizeList of UInt16 (UInt32 where the last id needs it), `context` long |
//! | `spans` | List of Struct {document, start, len: UInt32; modality: UInt8; image: UInt32 or null; loss: Boolean} |
//! | `images` | List of Struct {channels, height, width: UInt16; moments: Boolean; latent: List of Float16} |
//! | `sources` | List of Struct {source: UInt16; file: UInt32; row: UInt64; id: Utf8 or null; first_token: UInt64; order: UInt8} |

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Float16Array, ListArray, RecordBatch,
    StringArray, StructArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Field, Fields, Float16Type, Schema, SchemaRef, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;

use crate::{Latent, Modality, Order, Provenance, Row, RowError, RowLayout, Span, TokenWidth};

/// Why a record batch is not a batch of rows.
#[derive(Debug, thiserror::Error)]
pub enum ColumnsError {
    /// The columns are not those of the format.
    #[error("column `{column}` is `{found}`, the format has `{expected}`")]
    Type {
        /// Name of the column.
        column: String,
        /// Its type in the format.
        expected: String,
        /// Its type here.
        found: String,
    },
    /// A value outside its range.
    #[error("column `{column}` has the value {value}, which the format does not know")]
    Value {
        /// Name of the column.
        column: &'static str,
        /// The value.
        value: u64,
    },
    /// A row that breaks an invariant.
    #[error("row {row} of the batch is damaged")]
    Row {
        /// Index of the row in the batch.
        row: usize,
        /// The invariant.
        #[source]
        source: RowError,
    },
    /// Arrow's own complaint.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

fn span_fields() -> Fields {
    Fields::from(vec![
        Field::new("document", DataType::UInt32, false),
        Field::new("start", DataType::UInt32, false),
        Field::new("len", DataType::UInt32, false),
        Field::new("modality", DataType::UInt8, false),
        Field::new("image", DataType::UInt32, true),
        Field::new("loss", DataType::Boolean, false),
    ])
}

fn latent_item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Float16, false))
}

fn image_fields() -> Fields {
    Fields::from(vec![
        Field::new("channels", DataType::UInt16, false),
        Field::new("height", DataType::UInt16, false),
        Field::new("width", DataType::UInt16, false),
        Field::new("moments", DataType::Boolean, false),
        Field::new("latent", DataType::List(latent_item()), false),
    ])
}

fn source_fields() -> Fields {
    Fields::from(vec![
        Field::new("source", DataType::UInt16, false),
        Field::new("file", DataType::UInt32, false),
        Field::new("row", DataType::UInt64, false),
        Field::new("id", DataType::Utf8, true),
        Field::new("first_token", DataType::UInt64, false),
        Field::new("order", DataType::UInt8, false),
    ])
}

fn item_of(fields: Fields) -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Struct(fields), false))
}

fn token_item(layout: &RowLayout) -> Arc<Field> {
    let width = match layout.vocabulary.width() {
        TokenWidth::U16 => DataType::UInt16,
        TokenWidth::U32 => DataType::UInt32,
    };
    Arc::new(Field::new("item", width, false))
}

/// The columns of a dataset with this layout, without metadata.
pub fn shard_schema(layout: &RowLayout) -> Schema {
    let tokens = DataType::FixedSizeList(token_item(layout), layout.context as i32);
    Schema::new(vec![
        Field::new("tokens", tokens, false),
        Field::new("spans", DataType::List(item_of(span_fields())), false),
        Field::new("images", latents_type(), false),
        Field::new("sources", DataType::List(item_of(source_fields())), false),
    ])
}

/// Bytes that a row takes in a shard without compression, for budgets and for rolling shards by size.
pub fn row_bytes(row: &Row, layout: &RowLayout) -> usize {
    let token_bytes = match layout.vocabulary.width() {
        TokenWidth::U16 => 2,
        TokenWidth::U32 => 4,
    };
    let latents: usize = row.images().iter().map(|image| 12 + 2 * image.values.len()).sum();
    let ids: usize = row.sources().iter().map(|source| source.id.as_ref().map_or(0, String::len) + 30).sum();
    row.tokens().len() * token_bytes + row.spans().len() * 19 + latents + ids
}

fn lists<'a>(
    field: Arc<Field>,
    lengths: impl Iterator<Item = usize> + 'a,
    values: ArrayRef,
) -> Result<ArrayRef, ArrowError> {
    Ok(Arc::new(ListArray::try_new(field, OffsetBuffer::from_lengths(lengths), values, None)?))
}

fn token_array(rows: &[Row], layout: &RowLayout) -> Result<ArrayRef, ArrowError> {
    let count = rows.len() * layout.context as usize;
    let values: ArrayRef = match layout.vocabulary.width() {
        TokenWidth::U16 => {
            let mut ids: Vec<u16> = Vec::with_capacity(count);
            // `try_new` of a row has checked every id against the vocabulary, so none is cut here.
            rows.iter().for_each(|row| ids.extend(row.tokens().iter().map(|&id| id as u16)));
            Arc::new(UInt16Array::from(ids))
        }
        TokenWidth::U32 => {
            let mut ids: Vec<u32> = Vec::with_capacity(count);
            rows.iter().for_each(|row| ids.extend_from_slice(row.tokens()));
            Arc::new(UInt32Array::from(ids))
        }
    };
    Ok(Arc::new(FixedSizeListArray::try_new(token_item(layout), layout.context as i32, values, None)?))
}

fn span_array(rows: &[Row]) -> Result<ArrayRef, ArrowError> {
    let spans = || rows.iter().flat_map(|row| row.spans().iter());
    let values = StructArray::try_new(
        span_fields(),
        vec![
            Arc::new(UInt32Array::from_iter_values(spans().map(|span| span.document))),
            Arc::new(UInt32Array::from_iter_values(spans().map(|span| span.start))),
            Arc::new(UInt32Array::from_iter_values(spans().map(|span| span.len))),
            Arc::new(UInt8Array::from_iter_values(spans().map(|span| span.modality as u8))),
            Arc::new(UInt32Array::from_iter(spans().map(|span| span.image))),
            Arc::new(BooleanArray::from_iter(spans().map(|span| Some(span.loss)))),
        ],
        None,
    )?;
    lists(item_of(span_fields()), rows.iter().map(|row| row.spans().len()), Arc::new(values))
}

/// The type of the column `images`: a list of latents a row.
pub fn latents_type() -> DataType {
    DataType::List(item_of(image_fields()))
}

/// The latents of rows as a column of [`latents_type`].
///
/// # Errors
///
/// Arrow's, where a batch has more than two billion values.
pub fn encode_latents(rows: &[&[Latent]]) -> Result<ArrayRef, ArrowError> {
    let images = || rows.iter().flat_map(|images| images.iter());
    let mut values = Vec::with_capacity(images().map(|image| image.values.len()).sum());
    images().for_each(|image| values.extend_from_slice(&image.values));
    let values = Float16Array::from(values);
    let latents = lists(latent_item(), images().map(|image| image.values.len()), Arc::new(values))?;
    let values = StructArray::try_new(
        image_fields(),
        vec![
            Arc::new(UInt16Array::from_iter_values(images().map(|image| image.channels))),
            Arc::new(UInt16Array::from_iter_values(images().map(|image| image.height))),
            Arc::new(UInt16Array::from_iter_values(images().map(|image| image.width))),
            Arc::new(BooleanArray::from_iter(images().map(|image| Some(image.moments)))),
            latents,
        ],
        None,
    )?;
    lists(item_of(image_fields()), rows.iter().map(|images| images.len()), Arc::new(values))
}

fn source_array(rows: &[Row]) -> Result<ArrayRef, ArrowError> {
    let sources = || rows.iter().flat_map(|row| row.sources().iter());
    let values = StructArray::try_new(
        source_fields(),
        vec![
            Arc::new(UInt16Array::from_iter_values(sources().map(|source| source.source))),
            Arc::new(UInt32Array::from_iter_values(sources().map(|source| source.file))),
            Arc::new(UInt64Array::from_iter_values(sources().map(|source| source.row))),
            Arc::new(StringArray::from_iter(sources().map(|source| source.id.as_deref()))),
            Arc::new(UInt64Array::from_iter_values(sources().map(|source| source.first_token))),
            Arc::new(UInt8Array::from_iter_values(sources().map(|source| source.order as u8))),
        ],
        None,
    )?;
    lists(item_of(source_fields()), rows.iter().map(|row| row.sources().len()), Arc::new(values))
}

/// Rows as one record batch of `schema` (that of [`shard_schema`], with whatever metadata).
///
/// # Errors
///
/// If a row is not of `layout`.
pub fn encode_rows(rows: &[Row], layout: &RowLayout, schema: SchemaRef) -> Result<RecordBatch, ColumnsError> {
    let images: Vec<&[Latent]> = rows.iter().map(Row::images).collect();
    let columns =
        vec![token_array(rows, layout)?, span_array(rows)?, encode_latents(&images)?, source_array(rows)?];
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// The rows of a record batch, every invariant checked again.
///
/// # Errors
///
/// If columns differ from the format, a value is outside its range, or a row breaks an invariant.
pub fn decode_rows(batch: &RecordBatch, layout: &RowLayout) -> Result<Vec<Row>, ColumnsError> {
    check_columns(batch, layout)?;
    (0..batch.num_rows()).map(|row| decode_row(batch, row, layout)).collect()
}

fn check_columns(batch: &RecordBatch, layout: &RowLayout) -> Result<(), ColumnsError> {
    for expected in shard_schema(layout).fields() {
        let found = batch.column_by_name(expected.name()).map(|column| column.data_type());
        if found != Some(expected.data_type()) {
            return Err(ColumnsError::Type {
                column: expected.name().clone(),
                expected: expected.data_type().to_string(),
                found: found.map_or_else(|| "absent".to_owned(), ToString::to_string),
            });
        }
    }
    Ok(())
}

fn decode_row(batch: &RecordBatch, row: usize, layout: &RowLayout) -> Result<Row, ColumnsError> {
    let list = |name: &str| batch[name].as_list::<i32>().value(row);
    let tokens = decode_tokens(batch["tokens"].as_fixed_size_list(), row);
    let spans = decode_spans(list("spans").as_struct())?;
    let images = decode_latents(list("images").as_struct());
    let sources = decode_sources(list("sources").as_struct())?;
    Row::try_new(tokens, spans, images, sources, layout).map_err(|source| ColumnsError::Row { row, source })
}

fn decode_tokens(column: &FixedSizeListArray, row: usize) -> Vec<u32> {
    let values = column.value(row);
    match values.as_primitive_opt::<UInt16Type>() {
        Some(ids) => ids.values().iter().map(|&id| u32::from(id)).collect(),
        None => values.as_primitive::<UInt32Type>().values().to_vec(),
    }
}

fn decode_spans(spans: &StructArray) -> Result<Vec<Span>, ColumnsError> {
    let number = |index: usize| spans.column(index).as_primitive::<UInt32Type>();
    let (documents, starts, lens, images) = (number(0), number(1), number(2), number(4));
    let modalities = spans.column(3).as_primitive::<UInt8Type>();
    let losses = spans.column(5).as_boolean();
    let modality = |value: u8| match value {
        0 => Ok(Modality::Text),
        1 => Ok(Modality::Image),
        2 => Ok(Modality::Padding),
        _ => Err(ColumnsError::Value { column: "spans.modality", value: value.into() }),
    };
    let span = |index: usize| {
        Ok(Span {
            document: documents.value(index),
            start: starts.value(index),
            len: lens.value(index),
            modality: modality(modalities.value(index))?,
            image: images.is_valid(index).then(|| images.value(index)),
            loss: losses.value(index),
        })
    };
    (0..spans.len()).map(span).collect()
}

/// The latents of one row of a column of [`latents_type`].
///
/// # Panics
///
/// If its fields are others.
pub fn decode_latents(images: &StructArray) -> Vec<Latent> {
    let number = |index: usize| images.column(index).as_primitive::<UInt16Type>();
    let (channels, heights, widths) = (number(0), number(1), number(2));
    let moments = images.column(3).as_boolean();
    let latents = images.column(4).as_list::<i32>();
    let values = |index: usize| -> ScalarBuffer<half::f16> {
        latents.value(index).as_primitive::<Float16Type>().values().clone()
    };
    (0..images.len())
        .map(|index| Latent {
            channels: channels.value(index),
            height: heights.value(index),
            width: widths.value(index),
            moments: moments.value(index),
            values: values(index).to_vec(),
        })
        .collect()
}

fn decode_sources(sources: &StructArray) -> Result<Vec<Provenance>, ColumnsError> {
    let long = |index: usize| sources.column(index).as_primitive::<UInt64Type>();
    let indexes = sources.column(0).as_primitive::<UInt16Type>();
    let files = sources.column(1).as_primitive::<UInt32Type>();
    let (rows, first_tokens) = (long(2), long(4));
    let ids = sources.column(3).as_string::<i32>();
    let orders = sources.column(5).as_primitive::<UInt8Type>();
    let order = |value: u8| match value {
        0 => Ok(Order::CaptionFirst),
        1 => Ok(Order::ImageFirst),
        2 => Ok(Order::Neither),
        _ => Err(ColumnsError::Value { column: "sources.order", value: value.into() }),
    };
    let provenance = |index: usize| {
        Ok(Provenance {
            source: indexes.value(index),
            file: files.value(index),
            row: rows.value(index),
            id: ids.is_valid(index).then(|| ids.value(index).to_owned()),
            first_token: first_tokens.value(index),
            order: order(orders.value(index))?,
        })
    };
    (0..sources.len()).map(provenance).collect()
}
