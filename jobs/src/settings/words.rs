//! What serde and TOML say of a value, in a person's words: a text, a list, a table, a whole number from 0 to 255.

/// A message of serde in a person's words; messages of other forms stay as they are.
pub(super) fn plain(message: &str) -> String {
    let parts = [("invalid type: ", ""), ("invalid value: ", ""), ("invalid length ", "a list of ")];
    for (prefix, before) in parts {
        let Some((found, wanted)) =
            message.strip_prefix(prefix).and_then(|rest| rest.split_once(", expected "))
        else {
            continue;
        };
        let found = if before.is_empty() { found_words(found) } else { format!("{before}{found}") };
        return format!("found {found}, expected {}", wanted_words(wanted));
    }
    if let Some((wanted, found)) =
        message.strip_prefix("wanted ").and_then(|rest| rest.split_once(", found "))
    {
        return format!("found {}, expected {}", found_words(found), wanted_words(wanted));
    }
    if message.contains("too large to fit in target type") || message.contains("integer number overflowed") {
        return "a whole number is out of range: they go up to 9,223,372,036,854,775,807".to_owned();
    }
    message.to_owned()
}

/// What was found.
fn found_words(found: &str) -> String {
    let quoted = || found.split('`').nth(1).unwrap_or_default();
    match found.split([' ', '`', '"']).next().unwrap_or_default() {
        "integer" => quoted().parse::<i128>().map_or_else(|_| quoted().to_owned(), whole),
        "floating" => quoted().parse::<f64>().map_or_else(|_| quoted().to_owned(), number),
        "boolean" => format!("`{}`", quoted()),
        "string" => format!("the text {}", found.trim_start_matches("string ")),
        "sequence" | "array" | "tuple" => "a list".to_owned(),
        "map" | "table" | "struct" | "newtype" => "a table".to_owned(),
        "unit" | "Option" | "null" => "nothing".to_owned(),
        "datetime" | "byte" | "character" => format!("a {found}"),
        _ => found.to_owned(),
    }
}

/// What was expected.
fn wanted_words(wanted: &str) -> String {
    let wanted = wanted.trim();
    if let Some((low, high)) = range_of(wanted) {
        return format!("a whole number from {} to {}", whole(low), whole(high));
    }
    match wanted {
        "usize" | "u64" | "u128" => "a whole number, 0 or more".to_owned(),
        "isize" | "i64" | "i128" | "integer" | "an integer" => "a whole number".to_owned(),
        "f32" | "f64" | "float" | "a floating point number" => "a number".to_owned(),
        "bool" | "a boolean" => "`true` or `false`".to_owned(),
        "a string" | "string" | "str" | "path string" | "a borrowed string" | "a character" => {
            "a text".to_owned()
        }
        "a sequence" | "array" | "a tuple" => "a list".to_owned(),
        "a map" | "map" | "table" => "a table".to_owned(),
        "unit" | "unit variant" | "variant identifier" | "string or table" => {
            "the name of one of its values, as a text".to_owned()
        }
        "option" => "a value".to_owned(),
        _ => phrase(wanted),
    }
}

/// What stands with a name of a type in the program.
fn phrase(wanted: &str) -> String {
    let first = wanted.split(' ').next().unwrap_or_default();
    match first {
        "struct" | "newtype" => "a table".to_owned(),
        "enum" | "unit" => "the name of one of its values, as a text".to_owned(),
        "tuple" => "a list".to_owned(),
        "internally" | "adjacently" => "a table".to_owned(),
        _ => match wanted.strip_prefix("an array of length ").or(wanted.strip_prefix("a tuple of size ")) {
            Some(length) => format!("a list of {length}"),
            None => wanted.to_owned(),
        },
    }
}

fn range_of(kind: &str) -> Option<(i128, i128)> {
    Some(match kind {
        "u8" => (0, u8::MAX.into()),
        "u16" => (0, u16::MAX.into()),
        "u32" => (0, u32::MAX.into()),
        "i8" => (i8::MIN.into(), i8::MAX.into()),
        "i16" => (i16::MIN.into(), i16::MAX.into()),
        "i32" => (i32::MIN.into(), i32::MAX.into()),
        "a nonzero u8" => (1, u8::MAX.into()),
        "a nonzero u16" => (1, u16::MAX.into()),
        "a nonzero u32" => (1, u32::MAX.into()),
        _ => return None,
    })
}

/// A whole number with its thousands apart.
fn whole(number: i128) -> String {
    let sign = if number < 0 { "-" } else { "" };
    match u64::try_from(number.unsigned_abs()) {
        Ok(size) => format!("{sign}{}", crate::terminal::thousands(size)),
        Err(_) => format!("{:e}", number as f64),
    }
}

fn number(number: f64) -> String {
    let size = number.abs();
    if size != 0.0 && size.is_finite() && !(1e-5..1e15).contains(&size) {
        format!("{number:e}")
    } else {
        number.to_string()
    }
}

/// A whole number of the command line, within `range`; for clap.
pub(crate) fn within<T>(range: std::ops::RangeInclusive<u64>) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: TryFrom<u64>,
{
    move |text| {
        let (low, high) = (range.start(), range.end());
        let read = text.parse::<u64>().ok().filter(|number| range.contains(number));
        read.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
            format!("expected a whole number from {} to {}", whole((*low).into()), whole((*high).into()))
        })
    }
}

/// A number of the command line, within `range`; for clap.
pub(crate) fn between(range: std::ops::RangeInclusive<f64>) -> impl Fn(&str) -> Result<f64, String> + Clone {
    move |text| {
        let read = text.parse::<f64>().ok().filter(|number| range.contains(number));
        read.ok_or_else(|| {
            format!("expected a number from {} to {}", number(*range.start()), number(*range.end()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_called_what_a_person_calls_them() {
        for (message, expected) in [
            (
                "invalid type: string \"x\", expected u32",
                "found the text \"x\", expected a whole number from 0 to 4,294,967,295",
            ),
            (
                "invalid type: string \"x\", expected usize",
                "found the text \"x\", expected a whole number, 0 or more",
            ),
            ("invalid value: integer `-5`, expected u64", "found -5, expected a whole number, 0 or more"),
            ("invalid value: integer `300`, expected u8", "found 300, expected a whole number from 0 to 255"),
            (
                "invalid type: map, expected unit variant",
                "found a table, expected the name of one of its values, as a text",
            ),
            ("invalid type: integer `3`, expected a string", "found 3, expected a text"),
            ("invalid type: boolean `true`, expected f64", "found `true`, expected a number"),
            (
                "invalid type: string \"a\", expected struct CheckpointConfig",
                "found the text \"a\", expected a table",
            ),
            ("invalid length 2, expected an array of length 3", "found a list of 2, expected a list of 3"),
            ("invalid type: sequence, expected a map", "found a list, expected a table"),
            ("something else", "something else"),
        ] {
            assert_eq!(plain(message), expected);
        }
        let vast = format!("invalid type: floating point `1{}.0`, expected u64", "0".repeat(300));
        assert_eq!(plain(&vast), "found 1e300, expected a whole number, 0 or more");
    }

    #[test]
    fn flags_know_their_ranges() {
        let threads = within::<u16>(1..=1024);
        assert_eq!(threads("1024"), Ok(1024));
        for wrong in ["0", "1025", "65535", "-1", "x", "1.5", "99999999999999999999999"] {
            assert_eq!(threads(wrong), Err("expected a whole number from 1 to 1,024".to_owned()));
        }
        let weight = between(0.0..=1e6);
        assert_eq!(weight("0.5"), Ok(0.5));
        for wrong in ["-1", "nan", "inf", "1e300", "x"] {
            assert_eq!(weight(wrong), Err("expected a number from 0 to 1000000".to_owned()));
        }
    }
}
