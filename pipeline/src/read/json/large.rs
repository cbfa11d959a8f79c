//! A JSON line whose longest text is far larger than the rest: the text is freed of its escapes where it lies and becomes the
//! field, so a line of 200 MB takes 200 MB and not three times that.

use std::ops::Range;

use memchr::{memchr, memchr2};
use serde_json::{Map, Value};

use super::parse_object;
use crate::PipelineError;
use crate::read::buffer::RowBuffer;
use crate::read::{Pick, RawRow};

/// The row of a line, `None` where the line is of another kind or broken; it is untouched then.
pub(crate) fn parse(line: &mut RowBuffer, row: u64, pick: &Pick) -> Result<Option<RawRow>, PipelineError> {
    let Some((fields, key, text)) = without_longest_text(line, pick) else { return Ok(None) };
    let length = line.len();
    let (bytes, memory) = line.take()?;
    let text = unescaped(bytes, text);
    Ok(Some(RawRow { memory, ..RawRow::good(row, with_text(fields, key, text), length) }))
}

fn with_text(mut fields: Map<String, Value>, key: String, text: String) -> Map<String, Value> {
    if let Some(field) = fields.get_mut(&key) {
        *field = Value::String(text);
    }
    fields
}

/// The fields with an empty text in the place of the longest one, its key, and where it lies.
fn without_longest_text(line: &[u8], pick: &Pick) -> Option<(Map<String, Value>, String, Range<usize>)> {
    let whole = std::str::from_utf8(line).ok()?;
    let (key, text) = longest_text(line)?;
    if !is_text(&line[text.clone()]) {
        return None;
    }
    let rest = [&whole[..text.start], &whole[text.end..]].concat();
    let fields = parse_object(&rest, pick).ok()?;
    let key: String = serde_json::from_str(&whole[key.start - 1..key.end + 1]).ok()?;
    // Of a key that is there twice the last one counts, which may be another one.
    let is_it = fields.get(&key).and_then(Value::as_str) == Some("");
    is_it.then_some((fields, key, text))
}

/// Where the longest text of the object's own fields lies, and its key, both without quotes.
fn longest_text(line: &[u8]) -> Option<(Range<usize>, Range<usize>)> {
    let (mut depth, mut is_value, mut at) = (0_usize, false, 0);
    let (mut key, mut longest) = (0..0, None::<(Range<usize>, Range<usize>)>);
    while at < line.len() {
        match line[at] {
            b'"' => {
                let end = string_end(line, at + 1)?;
                match (depth, is_value) {
                    (1, false) => key = at + 1..end,
                    (1, true) if longest.as_ref().is_none_or(|(_, text)| end - at > text.len()) => {
                        longest = Some((key.clone(), at + 1..end));
                    }
                    _ => {}
                }
                at = end;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b':' if depth == 1 => is_value = true,
            b',' if depth == 1 => is_value = false,
            _ => {}
        }
        at += 1;
    }
    longest
}

/// The quote that ends the string whose content begins at `at`.
fn string_end(line: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr2(b'"', b'\\', line.get(at..)?)?;
        if line[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// Whether these bytes can stand in a JSON string.
fn is_text(bytes: &[u8]) -> bool {
    if bytes.iter().any(|&byte| byte < b' ') {
        return false;
    }
    let mut at = 0;
    while let Some(run) = memchr(b'\\', &bytes[at..]) {
        at += run;
        match escape(&bytes[at..]) {
            Some((_, length)) => at += length,
            None => return false,
        }
    }
    true
}

/// The character of the escape at the start of `bytes`, and the escape's length.
fn escape(bytes: &[u8]) -> Option<(char, usize)> {
    let character = match bytes.get(1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unicode_escape(bytes),
        _ => return None,
    };
    Some((character, 2))
}

fn unicode_escape(bytes: &[u8]) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        let digits = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
        u16::from_str_radix(digits, 16).ok()
    };
    let first = unit(0)?;
    if let Some(character) = char::from_u32(first.into()) {
        return Some((character, 6));
    }
    let pair = char::decode_utf16([first, unit(6)?]).next()?;
    pair.ok().map(|character| (character, 12))
}

/// The text that lies at `text`, in the memory of the line. No escape is shorter than what it stands for.
fn unescaped(mut bytes: Vec<u8>, text: Range<usize>) -> String {
    bytes.truncate(text.end);
    let (mut from, mut to) = (text.start, 0);
    while from < bytes.len() {
        let run = memchr(b'\\', &bytes[from..]).unwrap_or(bytes.len() - from);
        bytes.copy_within(from..from + run, to);
        (from, to) = (from + run, to + run);
        if let Some((character, length)) = bytes.get(from..).and_then(escape) {
            to += character.encode_utf8(&mut bytes[to..]).len();
            from += length;
        }
    }
    bytes.truncate(to);
    String::from_utf8(bytes).expect("the line is UTF-8, and so is every escape that was checked")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::memory::Memory;

    fn parsed(line: &str, pick: &Pick) -> Option<Map<String, Value>> {
        let mut buffer = RowBuffer::new(&Arc::new(Memory::new(1 << 20)));
        buffer.extend(line.as_bytes()).expect("fits");
        let row = parse(&mut buffer, 7, pick).expect("no memory is needed");
        assert_eq!(row.is_none(), !buffer.is_empty(), "what is not taken is untouched");
        row.map(|row| row.fields)
    }

    #[test]
    fn a_line_has_the_fields_that_serde_finds() {
        for line in [
            r#"{"id": 7, "text": "plain", "t": "x"}"#,
            r#"{"text": "a\n\t\"\\\/\b\f\r é \u00e9 \ud83d\ude00 \u4e2d b", "n": {"text": "a much longer one that is nested"}}"#,
            r#" {"a\"b": "quote in the key, longest", "text": "c"} "#,
            r#"{"text": "x", "list": ["longer than all of the others"], "text2": "yy"}"#,
            r#"{"text": ""}"#,
        ] {
            let expected = parse_object(line, &Pick::All).expect("JSON");
            assert_eq!(parsed(line, &Pick::All), Some(expected), "{line}");
        }
    }

    #[test]
    fn what_is_no_such_line_is_left_to_serde() {
        for line in [
            r#"{"text": "\x"}"#,
            r#"{"text": "\ud83d"}"#,
            r#"{"text": "\ud83d\u0041"}"#,
            r#"{"text": "\u+123"}"#,
            "{\"text\": \"a\u{1}\"}",
            r#"{"text": "a"#,
            r#"{"text": "a"} x"#,
            r#"{"text": "the longer one", "text": "b"}"#,
            r#"{"n": 1}"#,
            r#"["text", "long"]"#,
            "}",
        ] {
            assert_eq!(parsed(line, &Pick::All), None, "{line}");
        }
        // A text that nobody asks for is skipped by serde too.
        let pick = Pick::Only(vec!["id".to_owned()]);
        assert_eq!(parsed(r#"{"id": 1, "text": "long"}"#, &pick), None);
    }
}
