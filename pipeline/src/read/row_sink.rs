//! Rows of files without columns of their own, as record batches of the plan.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray, new_null_array};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::arrow::json::ReaderBuilder;
use serde_json::{Map, Value};

use super::batch::{BATCH_BYTES, Emit, Parts, Target, without_place_holders};
use super::buffer::{LARGE_ROW, RowMemory, column_of_one};
use super::nested::ColumnPath;
use super::place::{MATCHED, Matched, Slot, slots, whole};
use super::table::{ImageColumns, PATHS, Scalar};
use super::values::{conform, kind_name, spelled};
use super::{ImageRef, Input, RawRow};
use crate::PipelineError;
use crate::config::{ColumnType, Format};
use crate::row::columns::ID;
use crate::row::reject::{Reject, RejectReason, json_beginning};

/// Collects the rows of a file into batches.
pub(crate) struct RowSink<'a> {
    target: Target,
    input: &'a Input,
    /// The columns that are asked for, those inside others first: they are looked at, the others are taken.
    scalars: Vec<Scalar>,
    schema: SchemaRef,
    /// Whether values are texts that may spell numbers.
    spelled: bool,
    rows: Vec<RawRow>,
    bytes: usize,
    read: u64,
    emit: &'a mut Emit<'a>,
}

impl<'a> RowSink<'a> {
    pub(crate) fn new(target: Target, input: &'a Input, format: Format, emit: &'a mut Emit<'a>) -> Self {
        let wanted = |scalar: &&Scalar| target.schema.field_with_name(scalar.field.name()).is_ok();
        let mut scalars: Vec<Scalar> = target.table.scalars.iter().filter(wanted).cloned().collect();
        scalars.sort_by_key(|scalar| !scalar.from.is_nested() && scalar.field.name() != ID);
        let schema =
            Arc::new(Schema::new(scalars.iter().map(|scalar| scalar.field.clone()).collect::<Vec<_>>()));
        let spelled = format == Format::Csv;
        Self { target, input, scalars, schema, spelled, rows: Vec::new(), bytes: 0, read: 0, emit }
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
        if self.rows.len() >= self.target.batch_rows() || self.bytes >= BATCH_BYTES {
            self.flush()
        } else {
            Ok(true)
        }
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
            let (fields_of_row, images_of_row, reject) = self.typed(row);
            fields.push(fields_of_row);
            images.push(images_of_row);
            parts.rejects.push(reject);
        }
        parts.scalars = scalars(&self.schema, fields, memory)?;
        self.target.emit_with_images(self.input, parts, images, &mut *self.emit)
    }

    /// The fields of a row, each in the type of its column, its images in their order, and why it can't be used. Of a
    /// refused row the fields are kept too: one may be its id.
    fn typed(&self, mut row: RawRow) -> (Map<String, Value>, Vec<ImageRef>, Option<Reject>) {
        let images = if row.reject.is_none() { self.images(&mut row) } else { Ok(Images::default()) };
        let (mut fields, wrong) = self.conform(row.fields);
        let placed = images.and_then(|images| match (&self.target.table.images, images.numbers) {
            (ImageColumns::Many { texts, .. }, Some(numbers)) => {
                place(&mut fields, texts, images.refs, &numbers)
            }
            (ImageColumns::Many { texts, .. }, None) => {
                let text = |place: usize| fields.get(texts).is_none_or(|texts| has_text(texts, place));
                Ok(without_place_holders(images.refs, text))
            }
            _ => Ok(images.refs),
        });
        match (row.reject.or(wrong), placed) {
            (None, Ok(images)) => (fields, images, None),
            (Some(reject), _) | (None, Err(reject)) => (fields, Vec::new(), Some(reject)),
        }
    }

    fn images(&self, row: &mut RawRow) -> Result<Images, Reject> {
        match &self.target.table.images {
            ImageColumns::None => Ok(Images::default()),
            ImageColumns::One { from: None } => {
                let image = std::mem::replace(&mut row.image, ImageRef::Absent);
                Ok(Images { refs: vec![image], numbers: None })
            }
            ImageColumns::One { from: Some(from) } => {
                open_way(from, &row.fields)?;
                let image = image_ref(from.value(&row.fields), &from.root)?;
                Ok(Images { refs: vec![image], numbers: None })
            }
            ImageColumns::Many { name, from, matched, .. } => {
                let values = list(from, name, &row.fields)?;
                let numbers = matched.then(|| values.iter().map(matched_text).collect());
                let refs = values.into_iter().map(|value| listed_ref(value, name));
                Ok(Images { refs: refs.collect::<Result<_, _>>()?, numbers })
            }
        }
    }

    /// Values in the types of their columns, null where they can't be; the first that can't is the reason.
    fn conform(&self, mut fields: Map<String, Value>) -> (Map<String, Value>, Option<Reject>) {
        let (mut conformed, mut wrong) = (Map::new(), None);
        for Scalar { field, from } in &self.scalars {
            if field.name() == ID {
                conformed.insert(ID.to_owned(), id_text(from.value(&fields)));
                continue;
            }
            if let Err(reject) = open_way(from, &fields) {
                wrong.get_or_insert(reject);
            }
            let mut value = from.take(&mut fields);
            if self.spelled {
                value = spelled(value, field.data_type());
            }
            let kind = kind_name(&value);
            let odd = odd_item(field.name(), &value, field.data_type());
            let strict = self.target.table.text == *field.name();
            let plain = value.is_string() || value.is_null();
            let beginning = if plain { Vec::new() } else { json_beginning(&value) };
            let way_out = if strict || from.is_nested() { None } else { type_for(&value, field.data_type()) };
            let value = conform(value, field.data_type(), strict).unwrap_or_else(|| {
                let way_out = way_out.map(|of| typed_key(field.name(), of)).unwrap_or_default();
                let expected = type_name(field.data_type());
                let detail = odd
                    .unwrap_or_else(|| format!("`{}` is {kind}, expected {expected}{way_out}", field.name()));
                wrong.get_or_insert(Reject::new(RejectReason::WrongType, detail).showing(&beginning));
                Value::Null
            });
            conformed.insert(field.name().clone(), value);
        }
        (conformed, wrong)
    }
}

/// An id is a text, whatever it is written as.
fn id_text(value: Value) -> Value {
    match value {
        Value::Null | Value::String(_) => value,
        other => Value::String(other.to_string()),
    }
}

/// Refuses a row in which the way to a column ends at what is no object.
fn open_way(from: &ColumnPath, fields: &Map<String, Value>) -> Result<(), Reject> {
    let Some((name, value)) = from.blocked(fields) else { return Ok(()) };
    let detail = format!("`{name}` is {}, expected an object", kind_name(value));
    Err(Reject::new(RejectReason::WrongType, detail).showing(&json_beginning(value)))
}

/// The images of a row, and the numbers of the texts that they stand before, where the row has them.
#[derive(Default)]
struct Images {
    refs: Vec<ImageRef>,
    numbers: Option<Vec<Matched>>,
}

/// An entry of a list as an image. Null is the place of something else; an object stands for an image.
fn listed_ref(value: Value, name: &str) -> Result<ImageRef, Reject> {
    let is_object = value.is_object();
    match image_ref(value, name)? {
        ImageRef::Absent if is_object => Ok(ImageRef::Nameless),
        image => Ok(image),
    }
}

/// A value as an image; one that can't be is a reject of the row.
fn image_ref(value: Value, name: &str) -> Result<ImageRef, Reject> {
    let wrong = |kind: &str| {
        Err(Reject::new(RejectReason::WrongType, format!("`{name}` is {kind}, expected a path")))
    };
    match value {
        Value::Null => Ok(ImageRef::Absent),
        Value::String(path) => Ok(ImageRef::Path(path)),
        Value::Object(fields) => match PATHS.iter().find_map(|name| fields.get(*name)) {
            Some(Value::String(path)) => Ok(ImageRef::Path(path.clone())),
            Some(Value::Null) => Ok(ImageRef::Absent),
            _ => wrong("an object without a `path`"),
        },
        other => wrong(kind_name(&other)),
    }
}

/// The values of a list; nothing is an empty one.
fn list(from: &ColumnPath, name: &str, fields: &Map<String, Value>) -> Result<Vec<Value>, Reject> {
    open_way(from, fields)?;
    match from.value(fields) {
        Value::Array(values) => Ok(values),
        Value::Null => Ok(Vec::new()),
        other => {
            let detail = format!("`{name}` is {}, expected a list", kind_name(&other));
            Err(Reject::new(RejectReason::WrongType, detail))
        }
    }
}

fn has_text(texts: &Value, place: usize) -> bool {
    texts.get(place).is_some_and(|text| !text.is_null())
}

fn matched_text(image: &Value) -> Matched {
    let number = image.get(MATCHED).unwrap_or(&Value::Null);
    match (number.as_i64(), number.as_f64()) {
        (Some(number), _) => Ok(number),
        (None, Some(number)) => whole(number),
        (None, None) => Err(String::from_utf8_lossy(&json_beginning(number)).into_owned()),
    }
}

/// Puts texts and images into the order that the images say: two lists of one length.
fn place(
    fields: &mut Map<String, Value>,
    texts_name: &str,
    mut images: Vec<ImageRef>,
    numbers: &[Matched],
) -> Result<Vec<ImageRef>, Reject> {
    let mut texts = match fields.remove(texts_name) {
        Some(Value::Array(texts)) => texts,
        _ => Vec::new(),
    };
    let slots = slots(texts.len(), numbers)?;
    let mut text = |slot: &Slot| match *slot {
        Slot::Text(index) => texts[index].take(),
        Slot::Image(_) => Value::Null,
    };
    let placed = slots.iter().map(&mut text).collect();
    fields.insert(texts_name.to_owned(), Value::Array(placed));
    let image = |slot: &Slot| match *slot {
        Slot::Text(_) => ImageRef::Absent,
        Slot::Image(index) => images[index].take_listed(),
    };
    Ok(slots.iter().map(image).collect())
}

/// The first item of a list that is not of the list's type, for a message.
fn odd_item(name: &str, value: &Value, of: &DataType) -> Option<String> {
    let (Value::Array(values), DataType::List(item)) = (value, of) else { return None };
    let fits = |value: &Value| match item.data_type() {
        DataType::Utf8 => value.is_string(),
        DataType::Int64 => value.is_i64(),
        _ => true,
    };
    let place = values.iter().position(|value| !value.is_null() && !fits(value))?;
    let (found, expected) = (kind_name(&values[place]), type_name(item.data_type()));
    Some(format!("item {place} of `{name}` is {found}, expected {expected}"))
}

/// The type that would hold a value too, of a column that holds none of its kind.
fn type_for(value: &Value, of: &DataType) -> Option<ColumnType> {
    match (value, of) {
        (Value::Number(_), DataType::Int64) => Some(ColumnType::Double),
        (_, DataType::Int64 | DataType::Float64 | DataType::Boolean) => Some(ColumnType::Varchar),
        _ => None,
    }
}

/// The key of a source that gives a column another type, for a message.
fn typed_key(column: &str, of: ColumnType) -> String {
    let bare = column.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let key = if bare { column.to_owned() } else { format!("{column:?}") };
    format!("; `types = {{ {key} = \"{}\" }}` takes it", of.name())
}

fn type_name(of: &DataType) -> String {
    match of {
        DataType::Utf8 => "a text".to_owned(),
        DataType::List(_) => "a list".to_owned(),
        DataType::Struct(_) => "an object".to_owned(),
        DataType::Boolean => "a boolean".to_owned(),
        DataType::Int64 | DataType::UInt64 => "a whole number".to_owned(),
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
    let others = Arc::new(Schema::new(others));
    let mut decoder = ReaderBuilder::new(others.clone()).with_batch_size(rows.len()).build_decoder()?;
    decoder.serialize(&rows)?;
    if let Some(batch) = decoder.flush()? {
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
