//! Values of JSON as values of columns.

use arrow::datatypes::DataType;
use serde_json::{Map, Number, Value};

/// A text as the value of this type that it spells; one that spells none is left as it is.
pub(crate) fn spelled(value: Value, of: &DataType) -> Value {
    let Value::String(text) = &value else { return value };
    let text = text.trim();
    let found = match of {
        DataType::Boolean => text.to_ascii_lowercase().parse().ok().map(Value::Bool),
        DataType::Int64 => text.parse::<i64>().ok().map(Value::from),
        DataType::UInt64 => text.parse::<u64>().ok().map(Value::from),
        DataType::Float64 => text.parse().ok().and_then(Number::from_f64).map(Value::Number),
        _ => None,
    };
    found.unwrap_or(value)
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
        (Value::Number(value), DataType::UInt64) => value.is_u64().then_some(Value::Number(value)),
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
    use crate::row::columns::list_of;

    #[test]
    fn values_are_brought_to_their_column() {
        let conformed = |value, wanted, strict| conform(value, &wanted, strict);
        assert_eq!(conformed(json!(["a"]), DataType::Utf8, true), None);
        assert_eq!(conformed(json!(["a"]), DataType::Utf8, false), Some(json!("[\"a\"]")));
        assert_eq!(conformed(json!(1.5), DataType::Int64, false), None);
        assert_eq!(conformed(json!("one"), list_of(DataType::Utf8), true), Some(json!(["one"])));
    }
}
