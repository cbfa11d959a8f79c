//! Columns inside columns: `meta.caption` is the field `caption` of the column `meta`.
//!
//! A column that is itself named so comes first. The way may lead through a list of objects and gives a list then.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, make_array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field};
use arrow::error::ArrowError;
use serde_json::{Map, Value};

use super::united::plain_column;
use crate::PipelineError;
use crate::row::columns::list_of;

/// Where a column's values are: a column of the file and the way into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColumnPath {
    pub(crate) root: String,
    below: Vec<String>,
}

impl ColumnPath {
    /// A column of the file.
    pub(crate) fn root(name: &str) -> Self {
        Self { root: name.to_owned(), below: Vec::new() }
    }

    /// The column of that name, and its type.
    pub(crate) fn find(name: &str, fields: &[Field]) -> Option<(Self, DataType)> {
        if let Some(field) = fields.iter().find(|field| field.name() == name) {
            return Some((Self::root(name), field.data_type().clone()));
        }
        fields.iter().find_map(|field| {
            let rest = name.strip_prefix(field.name().as_str())?.strip_prefix('.')?;
            let (below, of) = find_below(field.data_type(), rest)?;
            Some((Self { root: field.name().clone(), below }, of))
        })
    }

    /// Its value in a JSON object; null where the way ends.
    pub(crate) fn value(&self, fields: &Map<String, Value>) -> Value {
        fields.get(&self.root).map_or(Value::Null, |value| value_below(value, &self.below))
    }

    /// Its value, which need not stay.
    pub(crate) fn take(&self, fields: &mut Map<String, Value>) -> Value {
        if self.below.is_empty() { fields.remove(&self.root).unwrap_or_default() } else { self.value(fields) }
    }

    /// The value in a JSON object that ends the way early: what is no object, list or null has no fields. And its name.
    pub(crate) fn blocked<'a>(&self, fields: &'a Map<String, Value>) -> Option<(String, &'a Value)> {
        let (depth, value) = blocked_below(fields.get(&self.root)?, &self.below)?;
        let way = [std::slice::from_ref(&self.root), &self.below[..depth]].concat();
        Some((way.join("."), value))
    }

    /// Whether it lies inside another column.
    pub(crate) fn is_nested(&self) -> bool {
        !self.below.is_empty()
    }

    /// Its values in a batch, in the plain types of [`super::columnar`]; `None` if the file has no such column.
    pub(crate) fn column(&self, batch: &RecordBatch) -> Result<Option<ArrayRef>, PipelineError> {
        let Some(root) = batch.column_by_name(&self.root) else { return Ok(None) };
        Ok(column_below(&plain_column(root)?, &self.below)?)
    }
}

fn find_below(of: &DataType, name: &str) -> Option<(Vec<String>, DataType)> {
    match of {
        DataType::Struct(fields) => {
            let fields: Vec<Field> = fields.iter().map(|field| field.as_ref().clone()).collect();
            let (ColumnPath { root, below }, of) = ColumnPath::find(name, &fields)?;
            Some(([vec![root], below].concat(), of))
        }
        DataType::List(item) => {
            let (below, of) = find_below(item.data_type(), name)?;
            Some((below, list_of(of)))
        }
        _ => None,
    }
}

fn value_below(value: &Value, below: &[String]) -> Value {
    match (value, below.split_first()) {
        (value, None) => value.clone(),
        (Value::Object(fields), Some((first, rest))) => {
            fields.get(first).map_or(Value::Null, |value| value_below(value, rest))
        }
        (Value::Array(values), Some(_)) => {
            Value::Array(values.iter().map(|value| value_below(value, below)).collect())
        }
        _ => Value::Null,
    }
}

fn blocked_below<'a>(value: &'a Value, below: &[String]) -> Option<(usize, &'a Value)> {
    let (first, rest) = below.split_first()?;
    match value {
        Value::Null => None,
        Value::Object(fields) => {
            blocked_below(fields.get(first)?, rest).map(|(depth, value)| (depth + 1, value))
        }
        Value::Array(values) => values.iter().find_map(|value| blocked_below(value, below)),
        other => Some((0, other)),
    }
}

/// The field of a column of structs, or of lists of structs.
pub(crate) fn column_below(column: &ArrayRef, below: &[String]) -> Result<Option<ArrayRef>, ArrowError> {
    let Some((first, rest)) = below.split_first() else { return Ok(Some(column.clone())) };
    match column.data_type() {
        DataType::Struct(_) => {
            let fields = column.as_struct();
            match fields.column_by_name(first) {
                Some(inner) => column_below(&masked(inner, fields.nulls())?, rest),
                None => Ok(None),
            }
        }
        DataType::List(_) => {
            let lists = column.as_list::<i32>();
            let Some(values) = column_below(lists.values(), below)? else { return Ok(None) };
            let item = Arc::new(Field::new("item", values.data_type().clone(), true));
            let lists = ListArray::try_new(item, lists.offsets().clone(), values, lists.nulls().cloned())?;
            Ok(Some(Arc::new(lists)))
        }
        _ => Ok(None),
    }
}

/// The field of a struct is null where the struct is.
fn masked(column: &ArrayRef, nulls: Option<&NullBuffer>) -> Result<ArrayRef, ArrowError> {
    if nulls.is_none() || column.data_type() == &DataType::Null {
        return Ok(column.clone());
    }
    let nulls = NullBuffer::union(nulls, column.nulls());
    Ok(make_array(column.to_data().into_builder().nulls(nulls).build()?))
}

#[cfg(test)]
mod tests {
    use arrow::array::{StringArray, StructArray};
    use serde_json::json;

    use super::*;

    fn field(name: &str, of: DataType) -> Field {
        Field::new(name, of, true)
    }

    fn columns() -> Vec<Field> {
        let inner = DataType::Struct(vec![field("raw", DataType::Utf8)].into());
        let meta = vec![field("a.b", DataType::Int64), field("all", list_of(inner))];
        vec![field("meta", DataType::Struct(meta.into())), field("meta.x", DataType::Boolean)]
    }

    #[test]
    fn dots_lead_into_columns_unless_a_column_is_named_so() {
        let find =
            |name: &str| ColumnPath::find(name, &columns()).map(|(path, of)| (path.root, path.below, of));
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(find("meta.x"), Some(("meta.x".to_owned(), vec![], DataType::Boolean)));
        assert_eq!(find("meta.a.b"), Some(("meta".to_owned(), owned(&["a.b"]), DataType::Int64)));
        let raw = find("meta.all.raw");
        assert_eq!(raw, Some(("meta".to_owned(), owned(&["all", "raw"]), list_of(DataType::Utf8))));
        assert_eq!(find("meta.all.other"), None);
        assert_eq!(find("met"), None);
    }

    #[test]
    fn values_of_objects_are_found() {
        let (path, _) = ColumnPath::find("meta.all.raw", &columns()).expect("there");
        let value = |value: Value| path.value(value.as_object().expect("an object"));
        assert_eq!(value(json!({"meta": {"all": [{"raw": "x"}, {}, null]}})), json!(["x", null, null]));
        assert_eq!(value(json!({"meta": {"all": null}})), Value::Null);
        assert_eq!(value(json!({"meta": "a text"})), Value::Null);
        assert_eq!(value(json!({})), Value::Null);
        let blocked = |value: Value| {
            let fields = value.as_object().expect("an object");
            path.blocked(fields).map(|(name, value)| (name, value.clone()))
        };
        assert_eq!(blocked(json!({"meta": {"all": [{"raw": "x"}, null]}})), None);
        assert_eq!(blocked(json!({"meta": 5})), Some(("meta".to_owned(), json!(5))));
        assert_eq!(blocked(json!({"meta": {"all": [{}, true]}})), Some(("meta.all".to_owned(), json!(true))));
    }

    #[test]
    fn a_field_is_null_where_its_struct_is() {
        let values: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("b"), None]));
        let nulls = NullBuffer::from(vec![true, false, true]);
        let fields = vec![field("caption", DataType::Utf8)];
        let meta = StructArray::try_new(fields.into(), vec![values], Some(nulls)).expect("a struct");
        let batch = RecordBatch::try_from_iter([("meta", Arc::new(meta) as ArrayRef)]).expect("a batch");
        let schema = batch.schema();
        let fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        let (path, _) = ColumnPath::find("meta.caption", &fields).expect("there");
        let found = path.column(&batch).expect("reads").expect("a column");
        let found: Vec<Option<&str>> = found.as_string::<i32>().iter().collect();
        assert_eq!(found, [Some("a"), None, None]);
    }
}
