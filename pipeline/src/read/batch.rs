//! Rows of a file as record batches of the plan.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, ListBuilder, RecordBatch, RecordBatchOptions, StringArray, UInt8Array,
    UInt32Array, UInt64Array, new_null_array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use datafusion::arrow::json::ReaderBuilder;
use serde_json::{Map, Value};

use super::buffer::{LARGE_ROW, RowMemory, column_of_one};
use super::infer::{conform, kind_name};
use super::table::{DETAIL, FILE, ImageColumns, KIND, Kind, REASON, ROW, Table, UNIT};
use super::{ImageRef, Input, RawRow, pictures};
use crate::PipelineError;
use crate::picture::PictureRules;
use crate::reject::{Reject, RejectReason};

/// Rows of a batch of texts, and of a batch with pictures.
pub(crate) const TEXT_ROWS: usize = 512;
pub(crate) const PICTURE_ROWS: usize = 32;
pub(crate) const BATCH_BYTES: usize = 4 << 20;

/// Encoded pictures of a batch, at most: a column of bytes can't hold more than two gigabytes.
const BATCH_PICTURE_BYTES: usize = 1 << 30;

/// Takes a batch on; `false` ends the reading.
pub(crate) type Emit<'a> = dyn FnMut(RecordBatch) -> Result<bool, PipelineError> + 'a;

/// Where the rows of a batch come from and which columns it has.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) table: Arc<Table>,
    /// The columns of `table` that are asked for.
    pub(crate) schema: SchemaRef,
    pub(crate) unit: String,
    pub(crate) file: u32,
    /// Folder of the file, which paths of pictures are relative to.
    pub(crate) folder: String,
}

/// Everything but the columns that a reader makes itself.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) rows: Vec<u64>,
    pub(crate) rejects: Vec<Option<Reject>>,
    /// Images of each row: at most one for a pair.
    pub(crate) images: Vec<Vec<Option<Bytes>>>,
    pub(crate) scalars: HashMap<String, ArrayRef>,
}

impl Target {
    fn wants_images(&self) -> bool {
        self.table.wants_images(&self.schema)
    }

    /// Fetches the images of rows; a row whose image can't be had is a reject.
    pub(crate) fn fetch(
        &self,
        input: &Input,
        images: Vec<Vec<ImageRef>>,
        rejects: &mut [Option<Reject>],
    ) -> Vec<Vec<Option<Bytes>>> {
        let lengths: Vec<usize> = images.iter().map(Vec::len).collect();
        let mut fetched =
            pictures::resolve(input, &self.folder, images.into_iter().flatten().collect()).into_iter();
        let mut total = 0;
        let row = |(length, reject): (usize, &mut Option<Reject>)| {
            let mut images = Vec::with_capacity(length);
            for image in fetched.by_ref().take(length) {
                total += image.as_ref().map_or(0, |image| image.as_ref().map_or(0, Bytes::len));
                match image {
                    Ok(_) if total > BATCH_PICTURE_BYTES => {
                        let detail = "pictures of neighbouring rows take too much memory together";
                        reject.get_or_insert_with(|| Reject::new(RejectReason::RowTooLarge, detail));
                    }
                    Ok(image) => images.push(image),
                    Err(error) => {
                        reject.get_or_insert(error);
                    }
                }
            }
            images
        };
        lengths.into_iter().zip(rejects).map(row).collect()
    }

    /// The batch of these rows.
    pub(crate) fn assemble(&self, parts: &Parts) -> Result<RecordBatch, PipelineError> {
        let rows = parts.rows.len();
        let columns: Vec<ArrayRef> =
            self.schema.fields().iter().map(|field| self.column(field, parts, rows)).collect();
        batch(self.schema.clone(), columns, rows)
    }

    fn column(&self, field: &Field, parts: &Parts, rows: usize) -> ArrayRef {
        let text = |of: fn(&Reject) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter(parts.rejects.iter().map(|reject| reject.as_ref().map(of))))
        };
        match field.name().as_str() {
            UNIT => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&self.unit, rows))),
            FILE => Arc::new(UInt32Array::from_value(self.file, rows)),
            ROW => Arc::new(UInt64Array::from(parts.rows.clone())),
            KIND => {
                let kind = |reject: &Option<Reject>| if reject.is_some() { Kind::Reject } else { Kind::Row };
                Arc::new(UInt8Array::from_iter_values(parts.rejects.iter().map(|reject| kind(reject) as u8)))
            }
            REASON => text(|reject| reject.reason.name()),
            DETAIL => text(|reject| &reject.detail),
            name => match (&self.table.images, name) {
                (ImageColumns::One { .. }, "image") => Arc::new(arrow::array::BinaryArray::from_iter(
                    parts.images.iter().map(|images| first(images)),
                )),
                (ImageColumns::One { .. }, "width" | "height") => {
                    let side = |images: &Vec<Option<Bytes>>| {
                        let (width, height) = first(images).and_then(|bytes| header(bytes))?;
                        Some(if name == "width" { width } else { height })
                    };
                    Arc::new(UInt32Array::from_iter(parts.images.iter().map(side)))
                }
                (ImageColumns::Many { from }, name) if name == from => image_lists(&parts.images),
                _ => match parts.scalars.get(name) {
                    Some(column) => column.clone(),
                    None => new_null_array(field.data_type(), rows),
                },
            },
        }
    }

    /// The row that ends a unit and says how many rows were read.
    pub(crate) fn end(&self, read: u64) -> Result<RecordBatch, PipelineError> {
        let column = |field: &Arc<Field>| -> ArrayRef {
            match field.name().as_str() {
                UNIT => Arc::new(StringArray::from(vec![self.unit.as_str()])),
                FILE => Arc::new(UInt32Array::from(vec![0])),
                ROW => Arc::new(UInt64Array::from(vec![read])),
                KIND => Arc::new(UInt8Array::from(vec![Kind::End as u8])),
                _ => new_null_array(field.data_type(), 1),
            }
        };
        batch(self.schema.clone(), self.schema.fields().iter().map(column).collect(), 1)
    }
}

/// Width and height as shown, whatever the picture's size.
fn header(bytes: &[u8]) -> Option<(u32, u32)> {
    let rules = PictureRules { min_side: 0, max_pixels: u64::MAX, ..PictureRules::default() };
    rules.probe(bytes).ok().map(|probe| (probe.width, probe.height))
}

fn first(images: &[Option<Bytes>]) -> Option<&Bytes> {
    images.first().and_then(Option::as_ref)
}

fn image_lists(rows: &[Vec<Option<Bytes>>]) -> ArrayRef {
    let mut lists = ListBuilder::new(BinaryBuilder::new());
    for row in rows {
        for image in row {
            lists.values().append_option(image.as_deref());
        }
        lists.append(true);
    }
    Arc::new(lists.finish())
}

/// A batch, also of no columns.
pub(crate) fn batch(
    schema: SchemaRef,
    columns: Vec<ArrayRef>,
    rows: usize,
) -> Result<RecordBatch, PipelineError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema, columns, &options)
        .map_err(|error| PipelineError::Plan(error.into()))
}

/// Collects the rows of a file into batches.
pub(crate) struct RowSink<'a> {
    target: Target,
    input: &'a Input,
    scalars: SchemaRef,
    rows: Vec<RawRow>,
    bytes: usize,
    read: u64,
    emit: &'a mut Emit<'a>,
}

impl<'a> RowSink<'a> {
    pub(crate) fn new(target: Target, input: &'a Input, emit: &'a mut Emit<'a>) -> Self {
        let wanted = |field: &&Field| target.schema.field_with_name(field.name()).is_ok();
        let scalars =
            Arc::new(Schema::new(target.table.scalars.iter().filter(wanted).cloned().collect::<Vec<_>>()));
        Self { target, input, scalars, rows: Vec::new(), bytes: 0, read: 0, emit }
    }

    /// Takes a row; `false` if no more are wanted.
    pub(crate) fn push(&mut self, row: RawRow) -> Result<bool, PipelineError> {
        self.read += 1;
        // A large row is a batch of its own, so that it need not be copied to stand beside others.
        if row.bytes >= LARGE_ROW && !self.flush()? {
            return Ok(false);
        }
        self.bytes += row.bytes;
        self.rows.push(row);
        let limit = if self.target.wants_images() { PICTURE_ROWS } else { TEXT_ROWS };
        if self.rows.len() >= limit || self.bytes >= BATCH_BYTES { self.flush() } else { Ok(true) }
    }

    /// Gives the pending rows away, and the number of all rows.
    pub(crate) fn finish(mut self) -> Result<(u64, bool), PipelineError> {
        let more = self.flush()?;
        Ok((self.read, more))
    }

    fn flush(&mut self) -> Result<bool, PipelineError> {
        self.bytes = 0;
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return Ok(true);
        }
        let mut parts = Parts::default();
        let (mut fields, mut images) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        let mut memory = None;
        for mut row in rows {
            memory = memory.or(row.memory.take());
            parts.rows.push(row.row);
            images.push(self.take_images(&mut row));
            let (conformed, reject) = match self.conform(row.fields) {
                Ok(conformed) => (conformed, row.reject),
                Err(reject) => (Map::new(), row.reject.or(Some(reject))),
            };
            fields.push(conformed);
            parts.rejects.push(reject);
        }
        if self.target.wants_images() {
            for (images, reject) in images.iter_mut().zip(&parts.rejects) {
                if reject.is_some() {
                    images.clear();
                }
            }
            parts.images = self.target.fetch(self.input, images, &mut parts.rejects);
        }
        parts.scalars = scalars(&self.scalars, fields, memory)?;
        let batch = self.target.assemble(&parts)?;
        (self.emit)(batch)
    }

    /// The images of a row, in order; a field that can't be one is a reject of the row.
    fn take_images(&self, row: &mut RawRow) -> Vec<ImageRef> {
        if row.reject.is_some() {
            return Vec::new();
        }
        let (values, name) = match &self.target.table.images {
            ImageColumns::None => return Vec::new(),
            ImageColumns::One { from: None } => {
                return vec![std::mem::replace(&mut row.image, ImageRef::Absent)];
            }
            ImageColumns::One { from: Some(from) } => {
                (vec![row.fields.get(from).cloned().unwrap_or_default()], from)
            }
            ImageColumns::Many { from } => match row.fields.get(from).cloned().unwrap_or_default() {
                Value::Array(values) => (values, from),
                Value::Null => (Vec::new(), from),
                other => (vec![Value::Bool(false), other], from),
            },
        };
        let image = |value: Value| match value {
            Value::Null => Ok(ImageRef::Absent),
            Value::String(path) => Ok(ImageRef::Path(path)),
            Value::Object(mut fields) => match fields.remove("path").or_else(|| fields.remove("file_name")) {
                Some(Value::String(path)) => Ok(ImageRef::Path(path)),
                _ => Err("an object without a `path`"),
            },
            other => Err(kind_name(&other)),
        };
        match values.into_iter().map(image).collect::<Result<Vec<_>, _>>() {
            Ok(images) => images,
            Err(kind) => {
                let detail = format!("`{name}` is {kind}, expected a path");
                row.reject = Some(Reject::new(RejectReason::WrongType, detail));
                Vec::new()
            }
        }
    }

    fn conform(&self, mut fields: Map<String, Value>) -> Result<Map<String, Value>, Reject> {
        let mut conformed = Map::new();
        for field in self.scalars.fields() {
            let value = fields.remove(field.name()).unwrap_or_default();
            let kind = kind_name(&value);
            let strict = self.target.table.strict.contains(field.name());
            let wrong = || {
                let detail = format!("`{}` is {kind}, expected {}", field.name(), type_name(field));
                Reject::new(RejectReason::WrongType, detail)
            };
            let value = conform(value, field.data_type(), strict).ok_or_else(wrong)?;
            conformed.insert(field.name().clone(), value);
        }
        Ok(conformed)
    }
}

fn type_name(field: &Field) -> String {
    match field.data_type() {
        DataType::Utf8 => "a text".to_owned(),
        DataType::List(_) => "a list".to_owned(),
        DataType::Struct(_) => "an object".to_owned(),
        DataType::Boolean => "a boolean".to_owned(),
        DataType::Int64 => "a whole number".to_owned(),
        DataType::Float64 => "a number".to_owned(),
        other => other.to_string(),
    }
}

/// The columns of rows whose values have the types of `schema`. Texts are put together here, the one of a lone row
/// without a copy; the others are a matter for Arrow.
fn scalars(
    schema: &SchemaRef,
    mut rows: Vec<Map<String, Value>>,
    memory: RowMemory,
) -> Result<HashMap<String, ArrayRef>, PipelineError> {
    if schema.fields().is_empty() || rows.is_empty() {
        return Ok(HashMap::new());
    }
    let mut columns = HashMap::new();
    let (texts, others): (Vec<_>, Vec<_>) =
        schema.fields().iter().cloned().partition(|field| *field.data_type() == DataType::Utf8);
    for field in texts {
        let values = rows.iter_mut().map(|row| row.get_mut(field.name()).map(Value::take));
        columns.insert(field.name().clone(), text_column(values, memory.clone())?);
    }
    if others.is_empty() {
        return Ok(columns);
    }
    let failed = |error: arrow::error::ArrowError| PipelineError::Plan(error.into());
    let others = Arc::new(Schema::new(others));
    let mut decoder =
        ReaderBuilder::new(others.clone()).with_batch_size(rows.len()).build_decoder().map_err(failed)?;
    decoder.serialize(&rows).map_err(failed)?;
    if let Some(batch) = decoder.flush().map_err(failed)? {
        let named = others.fields().iter().map(|field| field.name().clone());
        columns.extend(named.zip(batch.columns().iter().cloned()));
    }
    Ok(columns)
}

fn text_column(
    values: impl ExactSizeIterator<Item = Option<Value>>,
    memory: RowMemory,
) -> Result<ArrayRef, PipelineError> {
    let rows = values.len();
    let mut values =
        values.map(|value| if let Some(Value::String(text)) = value { Some(text) } else { None });
    if rows == 1 {
        return match values.next().flatten() {
            Some(text) => column_of_one(text, memory),
            None => Ok(new_null_array(&DataType::Utf8, 1)),
        };
    }
    Ok(Arc::new(StringArray::from_iter(values)))
}
