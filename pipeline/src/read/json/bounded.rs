//! Values of JSON, up to a number of them: a line of `[0,0,0,…` takes forty times its length as values.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::row::reject::RejectReason;

/// Values of the picked fields of one row, at most: about 150 MB of them. A field of an object counts twice, for its name.
pub(super) const MOST_VALUES: usize = 1 << 21;

/// What the error says of a row that has more.
const TOO_MANY: &str = "it has too many values";

/// Why a row is refused for which the parser said this.
pub(crate) fn reason(error: &serde_json::Error) -> RejectReason {
    match error.is_data() && error.to_string().starts_with(TOO_MANY) {
        true => RejectReason::RowTooLarge,
        false => RejectReason::InvalidJson,
    }
}

/// One value, of as many as are left.
#[derive(Clone, Copy)]
pub(super) struct Bounded<'a>(pub(super) &'a Cell<usize>);

impl Bounded<'_> {
    fn count<E: Error>(self, values: usize) -> Result<(), E> {
        let left = self.0.get().checked_sub(values);
        let left = left.ok_or_else(|| E::custom(format_args!("{TOO_MANY}, the limit is {MOST_VALUES}")))?;
        self.0.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.count(1)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            self.count(1)?;
            fields.insert(key, map.next_value_seed(self)?);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse_object;
    use super::*;
    use crate::read::Pick;

    /// Whatever the value, it is the one that the parser makes of it by itself.
    #[test]
    fn values_are_those_of_the_parser() {
        let text = r#"{"a": [1, -2, 3.5, 1e400, 18446744073709551615, 1e30, null, true, "\u00e9 x", "", {}],
            "b": {"z": 1, "y": [[]], "z": {"deep": [{"er": false}]}}, "c": "plain", "d": 0.1, "e": -0.0}"#;
        let text = text.replace("1e400, ", "");
        let expected: Value = serde_json::from_str(&text).expect("JSON");
        let found = parse_object(&text, &Pick::All).expect("JSON");
        assert_eq!(Value::Object(found).to_string(), expected.to_string());
        assert!(parse_object(r#"{"a": 1e400}"#, &Pick::All).is_err());
    }

    #[test]
    fn a_row_of_too_many_values_is_too_large() {
        let list = |zeros: usize| format!("{{\"a\": [0{}]}}", ",0".repeat(zeros - 1));
        assert!(parse_object(&list(MOST_VALUES - 1), &Pick::All).is_ok());
        let error = parse_object(&list(MOST_VALUES), &Pick::All).expect_err("too many");
        assert_eq!(reason(&error), RejectReason::RowTooLarge);
        assert!(error.to_string().starts_with("it has too many values, the limit is 2097152"), "{error}");
        let nobody = Pick::Only(vec!["b".to_owned()]);
        assert!(parse_object(&list(MOST_VALUES), &nobody).is_ok(), "what nobody asks for takes no memory");
        let objects = format!("{{\"a\": [{}{{}}]}}", "{\"b\":0},".repeat(MOST_VALUES / 3 + 1));
        assert_eq!(
            parse_object(&objects, &Pick::All).map_err(|error| reason(&error)),
            Err(RejectReason::RowTooLarge)
        );
        let broken = parse_object("{\"a\": [0,", &Pick::All).expect_err("it is cut off");
        assert_eq!(reason(&broken), RejectReason::InvalidJson);
    }
}
