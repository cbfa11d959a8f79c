//! Which columns a source's files have, and of which type.
//!
//! JSON has no schema, so rows are looked at: the first thousand of each of up to eight files, spread over the list.
//! A column that is null in all of them and that the source's SQL names is looked for further, up to the end of the
//! corpus, so a column that starts with ten thousand nulls gets its real type. The result is a function of the files
//! alone. Where values of one column differ in kind, the column is text and holds the JSON of the others.

use std::collections::HashSet;

use arrow::datatypes::{DataType, Field, Fields};
use serde_json::{Map, Value};

use super::columnar::list_of;
use super::{Input, Pick, RawRow, read_rows};
use crate::PipelineError;
use crate::units::InputFile;

const ROWS: u64 = 1000;
const FILES: usize = 8;

/// The columns of files that have none of their own. `named` are the names that matter; with `whole`, every row is
/// looked at.
pub(crate) fn infer(
    input: &Input,
    files: &[InputFile],
    named: &HashSet<String>,
    whole: bool,
) -> Result<Vec<Field>, PipelineError> {
    let mut columns = Columns::default();
    let step = files.len().div_ceil(FILES).max(1);
    for file in files.iter().step_by(if whole { 1 } else { step }) {
        look(input, file, &mut columns, if whole { u64::MAX } else { ROWS })?;
    }
    if columns.unknown(named) {
        for file in files {
            let mut visit = |row: RawRow| {
                columns.add(row.fields);
                Ok(columns.unknown(named))
            };
            read_rows(input, file, &Pick::All, false, &mut visit)?;
            if !columns.unknown(named) {
                break;
            }
        }
    }
    Ok(columns.finish())
}

fn look(input: &Input, file: &InputFile, columns: &mut Columns, limit: u64) -> Result<(), PipelineError> {
    let mut rows = 0;
    let mut visit = |row: RawRow| {
        columns.add(row.fields);
        rows += 1;
        Ok(rows < limit)
    };
    read_rows(input, file, &Pick::All, false, &mut visit)
}

/// Types of columns, in the order of their first appearance.
#[derive(Default)]
struct Columns(Vec<(String, DataType)>);

impl Columns {
    fn add(&mut self, fields: Map<String, Value>) {
        for (name, value) in fields {
            let found = type_of(&value);
            match self.0.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = merge(known, &found),
                None => self.0.push((name, found)),
            }
        }
    }

    fn unknown(&self, named: &HashSet<String>) -> bool {
        self.0.iter().any(|(name, found)| is_unknown(name, found, named))
    }

    fn finish(self) -> Vec<Field> {
        self.0.into_iter().map(|(name, found)| Field::new(name, settled(found), true)).collect()
    }
}

/// Whether no value of a column that matters has been seen; of an object that matters, of one of its fields.
fn is_unknown(name: &str, found: &DataType, named: &HashSet<String>) -> bool {
    match found {
        DataType::Null => named.contains(name),
        DataType::List(item) => is_unknown(name, item.data_type(), named),
        DataType::Struct(fields) if named.contains(name) => {
            fields.iter().any(|field| is_unknown(field.name(), field.data_type(), named))
        }
        _ => false,
    }
}

fn type_of(value: &Value) -> DataType {
    match value {
        Value::Null => DataType::Null,
        Value::Bool(_) => DataType::Boolean,
        Value::Number(number) if number.is_i64() => DataType::Int64,
        Value::Number(_) => DataType::Float64,
        Value::String(_) => DataType::Utf8,
        Value::Array(values) => {
            list_of(values.iter().map(type_of).fold(DataType::Null, |known, found| merge(&known, &found)))
        }
        Value::Object(fields) => DataType::Struct(
            fields.iter().map(|(name, value)| Field::new(name, type_of(value), true)).collect::<Fields>(),
        ),
    }
}

fn merge(known: &DataType, found: &DataType) -> DataType {
    match (known, found) {
        (DataType::Null, other) | (other, DataType::Null) => other.clone(),
        (a, b) if a == b => a.clone(),
        (DataType::Int64, DataType::Float64) | (DataType::Float64, DataType::Int64) => DataType::Float64,
        (DataType::List(a), DataType::List(b)) => list_of(merge(a.data_type(), b.data_type())),
        // A single text among lists of texts.
        (DataType::List(item), DataType::Utf8) | (DataType::Utf8, DataType::List(item))
            if matches!(item.data_type(), DataType::Null | DataType::Utf8) =>
        {
            list_of(DataType::Utf8)
        }
        (DataType::Struct(a), DataType::Struct(b)) => {
            let mut fields: Vec<Field> = a.iter().map(|field| field.as_ref().clone()).collect();
            for field in b {
                match fields.iter_mut().find(|known| known.name() == field.name()) {
                    Some(known) => {
                        *known = Field::new(known.name(), merge(known.data_type(), field.data_type()), true)
                    }
                    None => fields.push(field.as_ref().clone()),
                }
            }
            DataType::Struct(fields.into())
        }
        _ => DataType::Utf8,
    }
}

/// What was never seen is text.
fn settled(found: DataType) -> DataType {
    match found {
        DataType::Null => DataType::Utf8,
        DataType::List(field) => list_of(settled(field.data_type().clone())),
        DataType::Struct(fields) if fields.is_empty() => DataType::Utf8,
        DataType::Struct(fields) => DataType::Struct(
            fields
                .iter()
                .map(|field| Field::new(field.name(), settled(field.data_type().clone()), true))
                .collect(),
        ),
        other => other,
    }
}

/// A value as one of its column's type, `None` if it can't be. Values of a text column that are no text become their
/// JSON, unless the column is `strict`.
pub(crate) fn conform(value: Value, wanted: &DataType, strict: bool) -> Option<Value> {
    match (value, wanted) {
        (Value::Null, _) => Some(Value::Null),
        (Value::String(text), DataType::Utf8) => Some(Value::String(text)),
        (_, DataType::Utf8) if strict => None,
        (value, DataType::Utf8) => Some(Value::String(value.to_string())),
        (Value::Bool(value), DataType::Boolean) => Some(Value::Bool(value)),
        (Value::Number(value), DataType::Int64) => value.is_i64().then_some(Value::Number(value)),
        (Value::Number(value), DataType::Float64) => Some(Value::Number(value)),
        (Value::Array(values), DataType::List(field)) => {
            let conformed = values.into_iter().map(|value| conform(value, field.data_type(), strict));
            conformed.collect::<Option<Vec<_>>>().map(Value::Array)
        }
        // A single text among lists of texts.
        (Value::String(text), DataType::List(field)) if *field.data_type() == DataType::Utf8 => {
            Some(Value::Array(vec![Value::String(text)]))
        }
        (Value::Object(mut fields), DataType::Struct(wanted)) => {
            let conformed = wanted.iter().map(|field| {
                let value = fields.remove(field.name()).unwrap_or(Value::Null);
                Some((field.name().clone(), conform(value, field.data_type(), strict)?))
            });
            conformed.collect::<Option<Map<_, _>>>().map(Value::Object)
        }
        _ => None,
    }
}

/// The kind of a value, for a message.
pub(crate) const fn kind_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn inferred(rows: &[Value]) -> Vec<(String, DataType)> {
        let mut columns = Columns::default();
        for row in rows {
            columns.add(row.as_object().expect("an object").clone());
        }
        columns.finish().into_iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
    }

    #[test]
    fn types_grow_and_never_shrink() {
        let found = inferred(&[
            json!({"a": null, "b": 1, "c": [], "d": "x", "e": {"x": 1}}),
            json!({"a": true, "b": 1.5, "c": ["y"], "d": 3, "e": {"y": null}}),
        ]);
        let fields = vec![Field::new("x", DataType::Int64, true), Field::new("y", DataType::Utf8, true)];
        let expected = [
            ("a", DataType::Boolean),
            ("b", DataType::Float64),
            ("c", list_of(DataType::Utf8)),
            ("d", DataType::Utf8),
            ("e", DataType::Struct(fields.into())),
        ];
        assert_eq!(found, expected.map(|(name, found)| (name.to_owned(), found)));
    }

    #[test]
    fn values_are_brought_to_their_column() {
        let conformed = |value, wanted, strict| conform(value, &wanted, strict);
        assert_eq!(conformed(json!(["a"]), DataType::Utf8, true), None);
        assert_eq!(conformed(json!(["a"]), DataType::Utf8, false), Some(json!("[\"a\"]")));
        assert_eq!(conformed(json!(1.5), DataType::Int64, false), None);
        assert_eq!(conformed(json!("one"), list_of(DataType::Utf8), true), Some(json!(["one"])));
    }
}
