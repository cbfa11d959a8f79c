//! A `.json` file of objects that go on over several lines, as programs write them to be read by people: one, or several
//! behind each other.
//!
//! The objects are told apart by brackets and quotes alone, as the elements of a list are, and are numbered by their
//! place. What stands behind an object and begins no other is one reject.

use std::io::{BufRead, Read};
use std::sync::Arc;

use serde::de::IgnoredAny;

use super::list::{ListState, SHOWN_BYTES, step};
use super::{BOM, parse_whole};
use crate::PipelineError;
use crate::engine::memory::Memory;
use crate::read::buffer::RowBuffer;
use crate::read::{MAX_ROW_BYTES, Pick, RawRow, Visit, damaged};
use crate::row::reject::RejectReason;
use crate::units::InputFile;

/// Whether these first bytes of a file begin an object that goes on in the next line. A line that is cut off is followed
/// by a whole one, and such a file is read by lines.
pub(crate) fn begin(first: &[u8]) -> bool {
    let first = first.strip_prefix(BOM).unwrap_or(first);
    let mut lines = first.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let (Some(line), Some(next)) = (lines.next(), lines.next()) else { return false };
    let is_object = |line: &[u8]| line.trim_ascii_start().first() == Some(&b'{');
    let read = |json: &[u8]| serde_json::from_slice::<IgnoredAny>(json);
    let goes_on = |json: &[u8]| read(json).is_err_and(|error| error.is_eof());
    let both = [line, b"\n", next].concat();
    is_object(line)
        && goes_on(line)
        && !(is_object(next) && read(next).is_ok())
        && (read(&both).is_ok() || goes_on(&both))
}

/// Visits the objects.
pub(super) fn read(
    reader: Box<dyn BufRead + Send>,
    file: &InputFile,
    pick: &Pick,
    memory: &Arc<Memory>,
    visit: &mut Visit<'_>,
) -> Result<(), PipelineError> {
    let mut objects = Objects { reader, object: RowBuffer::new(memory), too_long: false };
    for row in 0.. {
        let parsed = match objects.next() {
            Ok(ObjectEvent::Object) if objects.too_long => {
                let detail = format!("object is longer than {MAX_ROW_BYTES} bytes");
                RawRow::bad(row, RejectReason::RowTooLarge, detail)
            }
            Ok(ObjectEvent::Object) => match parse_whole(&mut objects.object, row, pick)? {
                Some(parsed) => parsed,
                None => return Ok(()),
            },
            Ok(ObjectEvent::End) => return Ok(()),
            Ok(ObjectEvent::Cut) => {
                let what = "the rest of the file is damaged: it ends before its object does";
                return visit(RawRow::bad(row, RejectReason::BadEntry, what)).map(|_| ());
            }
            Ok(ObjectEvent::Other) => {
                let what = "the rest of the file stands behind the end of an object and is none";
                let bad = RawRow::bad(row, RejectReason::InvalidJson, what);
                return visit(bad.showing(&objects.object)).map(|_| ());
            }
            Err(error) => return visit(damaged(error, file, row)?).map(|_| ()),
        };
        if !visit(parsed)? {
            return Ok(());
        }
    }
    Ok(())
}

/// What was met.
enum ObjectEvent {
    /// An object.
    Object,
    /// The end of the file.
    End,
    /// The end of the file, inside an object.
    Cut,
    /// Something else, of which the beginning is in the buffer.
    Other,
}

struct Objects {
    reader: Box<dyn BufRead + Send>,
    object: RowBuffer,
    too_long: bool,
}

impl Objects {
    fn next(&mut self) -> std::io::Result<ObjectEvent> {
        self.object.clear();
        self.too_long = false;
        match self.first()? {
            None => return Ok(ObjectEvent::End),
            Some(b'{') => {}
            Some(_) => return self.other(),
        }
        let mut place = ListState::Inside(0);
        loop {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if chunk.is_empty() {
                return Ok(ObjectEvent::Cut);
            }
            let end = chunk.iter().position(|byte| {
                place = step(place, *byte);
                place == ListState::Inside(0)
            });
            let used = end.map_or(chunk.len(), |end| end + 1);
            self.too_long |= self.object.len() + used > MAX_ROW_BYTES;
            if self.too_long {
                self.object.clear();
            } else {
                self.object.extend(&chunk[..used])?;
            }
            self.reader.consume(used);
            if end.is_some() {
                return Ok(ObjectEvent::Object);
            }
        }
    }

    /// The first byte behind white space and byte order marks, which stays.
    fn first(&mut self) -> std::io::Result<Option<u8>> {
        loop {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let skipped = |byte: &u8| byte.is_ascii_whitespace() || BOM.contains(byte);
            match (chunk.is_empty(), chunk.iter().position(|byte| !skipped(byte))) {
                (true, _) => return Ok(None),
                (false, Some(0)) => return Ok(chunk.first().copied()),
                (false, start) => {
                    let blank = start.unwrap_or(chunk.len());
                    self.reader.consume(blank);
                }
            }
        }
    }

    fn other(&mut self) -> std::io::Result<ObjectEvent> {
        let mut shown = Vec::new();
        Read::take(&mut self.reader, SHOWN_BYTES as u64).read_to_end(&mut shown)?;
        self.object.extend(&shown)?;
        Ok(ObjectEvent::Other)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::config::Format;
    use crate::read::csv::Dialect;
    use crate::read::testing::rows_of;

    async fn read_named(name: &str, text: &str) -> Vec<(u64, String)> {
        let rows = rows_of(name, text.as_bytes().to_vec(), Format::JsonLines, Dialect::default()).await;
        let show = |row: &RawRow| match &row.reject {
            Some(reject) => reject.reason.name().to_owned(),
            None => Value::Object(row.fields.clone()).to_string(),
        };
        rows.iter().map(|row| (row.row, show(row))).collect()
    }

    fn owned(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
        expected.iter().map(|&(row, text)| (row, text.to_owned())).collect()
    }

    /// Each line of such a file used to be a reject.
    #[tokio::test]
    async fn objects_over_several_lines_are_rows() {
        let one = "\u{feff}\n{\n  \"text\": \"a } \\\" {\",\n  \"tags\": [\n    {\"x\": 1}\n  ]\n}\n";
        let row = (0, r#"{"text":"a } \" {","tags":[{"x":1}]}"#);
        assert_eq!(read_named("a.json", one).await, owned(&[row]));
        assert_eq!(read_named("a.JSON", one.trim_end()).await, owned(&[row]));
        let two = format!("{one}{{\"text\": \"b\"}}{{\n\"text\": 1 2\n}}\n");
        let expected = [row, (1, r#"{"text":"b"}"#), (2, "invalid_json")];
        assert_eq!(read_named("a.json", &two).await, owned(&expected));
        assert_eq!(read_named("a.json", &format!("{one},\n{one}")).await, owned(&[row, (1, "invalid_json")]));
        let cut = format!("{one}{{\n\"text\":");
        assert_eq!(read_named("a.json", &cut).await, owned(&[row, (1, "bad_entry")]));
    }

    /// A broken first line says nothing of the lines behind it.
    #[tokio::test]
    async fn lines_stay_lines() {
        for first in ["{\"text\":", "{\"text\": [", "{", "{\"text\": \"a", "not"] {
            let found = read_named("a.json", &format!("{first}\n{{\"text\":\"b\"}}\n")).await;
            assert_eq!(found, owned(&[(0, "invalid_json"), (1, r#"{"text":"b"}"#)]), "{first}");
        }
        let found = read_named("a.jsonl", "{\n\"text\": \"a\"\n}\n").await;
        assert_eq!(found, owned(&[(0, "invalid_json"), (1, "invalid_json"), (2, "invalid_json")]));
    }
}
