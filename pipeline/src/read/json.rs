//! JSON lines, with physical line numbers, where a bad line is a row like any other. A `.json` file may be one list of
//! objects instead ([`list`]), or objects that go on over several lines ([`objects`]).

mod bounded;
mod large;
mod list;
mod objects;

use std::cell::Cell;
use std::fmt;
use std::io::BufRead;
use std::sync::Arc;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

pub(crate) use self::bounded::reason;
use self::bounded::{Bounded, MOST_VALUES};
use super::buffer::{LARGE_ROW, RowBuffer};
use super::{MAX_ROW_BYTES, Pick, RawRow, Visit, damaged, stream};
use crate::PipelineError;
use crate::engine::memory::Memory;
use crate::row::reject::RejectReason;
use crate::units::{FilePart, InputFile};

/// One line, without its end.
pub(crate) enum Line {
    /// Its bytes are in the buffer.
    Whole,
    /// It was longer than a row may be and has been skipped.
    TooLong,
    /// There is none left.
    End,
}

/// Appends one line to `buffer` and counts its bytes, end included; `\n` and `\r\n` end a line, the last one may have no
/// end. Of a line with which the buffer would be too long nothing is left, nor of what was in it.
pub(crate) fn append_line(reader: &mut dyn BufRead, buffer: &mut RowBuffer) -> std::io::Result<(Line, u64)> {
    let (mut bytes, mut too_long) = (0, false);
    let before = buffer.len();
    loop {
        let chunk = match reader.fill_buf() {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if chunk.is_empty() {
            break;
        }
        let end = memchr::memchr(b'\n', chunk);
        let taken = end.unwrap_or(chunk.len());
        too_long |= buffer.len() + taken > MAX_ROW_BYTES;
        if too_long {
            buffer.clear();
        } else {
            buffer.extend(&chunk[..taken])?;
        }
        let used = end.map_or(chunk.len(), |end| end + 1);
        reader.consume(used);
        bytes += used as u64;
        if end.is_some() {
            break;
        }
    }
    if buffer.len() > before && buffer.last() == Some(&b'\r') {
        buffer.pop();
    }
    let line = match (bytes, too_long) {
        (0, _) => Line::End,
        (_, true) => Line::TooLong,
        (_, false) => Line::Whole,
    };
    Ok((line, bytes))
}

/// Reads one line into `buffer`, as [`append_line`] does.
pub(crate) fn next_line(reader: &mut dyn BufRead, buffer: &mut RowBuffer) -> std::io::Result<(Line, u64)> {
    buffer.clear();
    append_line(reader, buffer)
}

/// Bytes of a file that say how its objects stand in it.
pub(crate) const FIRST_BYTES: usize = 4096;

/// Whether a file that begins so has its objects in something else than a line each.
pub(crate) fn spans_lines(file: &InputFile, first: &[u8]) -> bool {
    list::may_be(file) && (list::begins(first) || objects::begin(first))
}

/// Visits the rows of a file. Blank lines are no rows, but count as lines.
pub(crate) fn read(
    mut reader: Box<dyn BufRead + Send>,
    file: &InputFile,
    pick: &Pick,
    memory: &Arc<Memory>,
    visit: &mut Visit<'_>,
) -> Result<(), PipelineError> {
    if file.part.is_none() && list::may_be(file) {
        let (first, whole) = stream::beginning(reader, FIRST_BYTES);
        match spans_lines(file, &first) {
            true if list::begins(&first) => return list::read(whole, file, pick, memory, visit),
            true => return objects::read(whole, file, pick, memory, visit),
            false => reader = whole,
        }
    }
    let mut line = RowBuffer::new(memory);
    let part = file.part.unwrap_or(FilePart { start: 0, end: u64::MAX, first_row: Some(0) });
    let first_row = part.first_row.unwrap_or(0);
    let mut position = part.start;
    if part.start > 0 {
        // The line that the part before began, or the end of its last one.
        match next_line(&mut *reader, &mut line) {
            Ok((_, bytes)) => position = part.start - 1 + bytes,
            Err(error) => return visit(damaged(error, file, first_row)?).map(|_| ()),
        }
    }
    for row in first_row.. {
        if position >= part.end {
            return Ok(());
        }
        let met = next_line(&mut *reader, &mut line);
        position += met.as_ref().map_or(0, |(_, bytes)| *bytes);
        let parsed = match met {
            Ok((Line::End, _)) => return Ok(()),
            Ok((Line::TooLong, _)) => RawRow::bad(
                row,
                RejectReason::RowTooLarge,
                format!("line is longer than {MAX_ROW_BYTES} bytes"),
            ),
            Ok((Line::Whole, _)) => match parse_whole(&mut line, row, pick)? {
                Some(parsed) => parsed,
                None => continue,
            },
            Err(error) => {
                visit(damaged(error, file, row)?)?;
                return Ok(());
            }
        };
        if !visit(parsed)? {
            return Ok(());
        }
    }
    Ok(())
}

pub(crate) const BOM: &[u8] = b"\xef\xbb\xbf";

fn parse_whole(line: &mut RowBuffer, row: u64, pick: &Pick) -> Result<Option<RawRow>, PipelineError> {
    if line.len() > LARGE_ROW
        && let Some(parsed) = large::parse(line, row, pick)?
    {
        return Ok(Some(parsed));
    }
    let Some(parsed) = parse_line(line, row, pick) else { return Ok(None) };
    // The fields are held in the memory of the line, which is not needed any more.
    let memory = if line.len() > LARGE_ROW { line.take()?.1 } else { None };
    Ok(Some(RawRow { memory, ..parsed }))
}

fn parse_line(line: &[u8], row: u64, pick: &Pick) -> Option<RawRow> {
    let line = line.strip_prefix(BOM).unwrap_or(line);
    if line.iter().all(u8::is_ascii_whitespace) {
        return None;
    }
    let bad = |reason, detail: String| Some(RawRow::bad(row, reason, detail).showing(line));
    let text = match std::str::from_utf8(line) {
        Ok(text) => text,
        Err(error) => {
            return bad(RejectReason::InvalidUtf8, format!("byte {} is not UTF-8", error.valid_up_to()));
        }
    };
    match parse_object(text, pick) {
        Ok(fields) => Some(RawRow::good(row, fields, line.len())),
        Err(error) if line.contains(&b'\r') => {
            bad(RejectReason::InvalidJson, format!("{error}; `\\n` ends a line, `\\r` alone does not"))
        }
        Err(error) if line.contains(&0) => {
            bad(RejectReason::InvalidJson, format!("{error}; there are NUL bytes in the line"))
        }
        Err(error) if error.is_eof() && line.trim_ascii_start().starts_with(b"{") => {
            let way_out = "an object stands in one line, or over several in a file named `.json`";
            bad(RejectReason::InvalidJson, format!("{error}; {way_out}"))
        }
        Err(error) => bad(reason(&error), error.to_string()),
    }
}

/// The picked fields of a JSON object; the others are checked but not kept.
pub(crate) fn parse_object(text: &str, pick: &Pick) -> serde_json::Result<Map<String, Value>> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let fields = Picked(pick).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(fields)
}

struct Picked<'a>(&'a Pick);

impl<'de> DeserializeSeed<'de> for Picked<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Picked<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Map::new();
        let left = Cell::new(MOST_VALUES);
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if self.0.wants(&key) {
                fields.insert(key.into_owned(), map.next_value_seed(Bounded(&left))?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::testing::rows;
    use super::*;
    use crate::config::{Format, TextSplit};

    async fn read(bytes: &[u8]) -> Vec<(u64, String)> {
        let rows = rows(bytes.to_vec(), Format::JsonLines, TextSplit::File).await;
        let show = |row: &RawRow| match &row.reject {
            Some(reject) => reject.reason.name().to_owned(),
            None => Value::Object(row.fields.clone()).to_string(),
        };
        rows.iter().map(|row| (row.row, show(row))).collect()
    }

    fn pairs(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
        expected.iter().map(|&(row, text)| (row, text.to_owned())).collect()
    }

    #[tokio::test]
    async fn lines_are_numbered_as_they_lie() {
        let found = read(
            b"\xef\xbb\xbf{\"a\":1}\r\n\n  \t\n{\"a\":\nnot\n{\"a\":\"\xff\"}\n[1]\n{\"a\":2} x\n{\"a\":3}",
        )
        .await;
        let expected = [
            (0, "{\"a\":1}"),
            (3, "invalid_json"),
            (4, "invalid_json"),
            (5, "invalid_utf8"),
            (6, "invalid_json"),
            (7, "invalid_json"),
            (8, "{\"a\":3}"),
        ];
        assert_eq!(found, pairs(&expected));
        assert!(read(b"").await.is_empty());
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).expect("writes");
        encoder.finish().expect("finishes")
    }

    /// Several members in one gzip file, several frames in one zstd file: every one is read.
    #[tokio::test]
    async fn every_member_and_frame_is_read() {
        let expected = pairs(&[(0, "{\"a\":1}"), (1, "{\"a\":2}")]);
        assert_eq!(read(&[gzip("{\"a\":1}\n"), gzip("{\"a\":2}\n")].concat()).await, expected);
        let frame = |text: &str| zstd::encode_all(text.as_bytes(), 1).expect("compresses");
        assert_eq!(read(&[frame("{\"a\":1}\n"), frame("{\"a\":2}\n")].concat()).await, expected);
    }

    #[tokio::test]
    async fn a_stream_that_is_cut_off_is_one_reject_behind_its_whole_rows() {
        let text: String = (0..20_000).map(|row| format!("{{\"a\":{row}}}\n")).collect();
        let whole = gzip(&text);
        let found = read(&whole[..whole.len() / 2]).await;
        let (last, good) = found.split_last().expect("rows");
        assert_eq!(last.1, "bad_entry");
        assert!(good.len() > 100 && good.iter().all(|(_, text)| text.starts_with("{\"a\":")));
    }

    #[test]
    fn only_picked_fields_are_kept() {
        let pick = Pick::Only(vec!["b".to_owned()]);
        let fields =
            parse_object(r#"{"a": {"deep": [1, 2]}, "b": "x", "c": null}"#, &pick).expect("an object");
        assert_eq!(Value::Object(fields).to_string(), r#"{"b":"x"}"#);
    }
}
