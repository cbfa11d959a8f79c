//! A `.json` file that is one list of objects, element by element.
//!
//! The elements are told apart by brackets and quotes alone, so one that is no JSON is a row like any other, and no
//! more than one element is held. Rows are numbered by their place in the list. Further lists behind it (files that were
//! put together) are read on; anything else there is one reject.

use std::io::BufRead;
use std::sync::Arc;

use super::{BOM, parse_whole};
use crate::PipelineError;
use crate::engine::memory::Memory;
use crate::read::buffer::RowBuffer;
use crate::read::{MAX_ROW_BYTES, Pick, RawRow, Visit, damaged};
use crate::row::reject::RejectReason;
use crate::units::InputFile;
use crate::units::names::has_extension;

/// Whether a file may be a list by its name: `.jsonl` never is one.
pub(crate) fn may_be(file: &InputFile) -> bool {
    has_extension(&file.below, "json")
}

/// Whether these first bytes of a file begin a list.
pub(crate) fn begins(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
    bytes.trim_ascii_start().first() == Some(&b'[')
}

/// Visits the elements.
pub(super) fn read(
    reader: Box<dyn BufRead + Send>,
    file: &InputFile,
    pick: &Pick,
    memory: &Arc<Memory>,
    visit: &mut Visit<'_>,
) -> Result<(), PipelineError> {
    let element = RowBuffer::new(memory);
    let mut elements = Elements { reader, place: ListState::Before, element, too_long: false };
    let mut row = 0;
    loop {
        let met = match elements.next() {
            Ok(met) => met,
            Err(error) => return visit(damaged(error, file, row)?).map(|_| ()),
        };
        let parsed = match (&met, elements.too_long) {
            (ListEvent::Cut, _) => {
                let what = "the rest of the file is damaged: it ends before its list does";
                return visit(RawRow::bad(row, RejectReason::BadEntry, what)).map(|_| ());
            }
            (_, true) => {
                let detail = format!("element is longer than {MAX_ROW_BYTES} bytes");
                Some(RawRow::bad(row, RejectReason::RowTooLarge, detail))
            }
            (_, false) => parse_whole(&mut elements.element, row, pick)?,
        };
        let last = matches!(met, ListEvent::Last);
        let parsed = match parsed {
            // An empty list, or a comma behind the last element.
            None if last => None,
            None => Some(RawRow::bad(row, RejectReason::InvalidJson, "nothing between two commas")),
            parsed => parsed,
        };
        if let Some(parsed) = parsed {
            row += 1;
            if !visit(parsed)? {
                return Ok(());
            }
        }
        if !last {
            continue;
        }
        match elements.behind() {
            Ok(Behind::List) => {}
            Ok(Behind::End) => return Ok(()),
            Ok(Behind::Other) => {
                let what = "the rest of the file stands behind the end of the list and is no list";
                let bad = RawRow::bad(row, RejectReason::InvalidJson, what);
                return visit(bad.showing(&elements.element)).map(|_| ());
            }
            Err(error) => return visit(damaged(error, file, row)?).map(|_| ()),
        }
    }
}

/// Where the reader stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ListState {
    /// Before the list.
    Before,
    /// In the list, inside so many brackets of the element.
    Inside(u32),
    /// In a text, behind a backslash or not.
    Text { depth: u32, escaped: bool },
    /// Behind the list.
    Behind,
}

/// What was met.
enum ListEvent {
    /// An element and a comma.
    Element,
    /// The last element, or nothing, and the end of the list.
    Last,
    /// The end of the file.
    Cut,
}

/// What stands behind a list.
enum Behind {
    /// Another list, whose bracket has been read.
    List,
    /// The end of the file.
    End,
    /// Something else, of which the beginning is in the buffer.
    Other,
}

/// Bytes of what stands behind a list that are enough to show it.
pub(super) const SHOWN_BYTES: usize = 512;

struct Elements {
    reader: Box<dyn BufRead + Send>,
    place: ListState,
    element: RowBuffer,
    too_long: bool,
}

impl Elements {
    fn next(&mut self) -> std::io::Result<ListEvent> {
        self.element.clear();
        self.too_long = false;
        loop {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if chunk.is_empty() {
                return Ok(ListEvent::Cut);
            }
            let mut place = self.place;
            let (mut start, mut used) = (0, 0);
            let mut ended = None;
            for &byte in chunk {
                used += 1;
                let before = place;
                place = step(place, byte);
                match (before, byte) {
                    (ListState::Before, _) => start = used,
                    (ListState::Inside(0), b',') => ended = Some(ListEvent::Element),
                    (ListState::Inside(0), b']') => ended = Some(ListEvent::Last),
                    _ => {}
                }
                if ended.is_some() {
                    break;
                }
            }
            self.place = place;
            let content = &chunk[start..used - usize::from(ended.is_some())];
            self.too_long |= self.element.len() + content.len() > MAX_ROW_BYTES;
            if !self.too_long {
                self.element.extend(content)?;
            }
            self.reader.consume(used);
            if let Some(met) = ended {
                return Ok(met);
            }
        }
    }

    /// Looks behind a list. White space is passed over, and the byte order mark of a file that was put behind another.
    fn behind(&mut self) -> std::io::Result<Behind> {
        self.element.clear();
        for byte in std::io::Read::bytes(&mut self.reader) {
            match byte? {
                byte if self.element.is_empty() && byte.is_ascii_whitespace() => {}
                b'[' if self.element.is_empty() => {
                    self.place = ListState::Inside(0);
                    return Ok(Behind::List);
                }
                byte => self.element.extend(&[byte])?,
            }
            match &*self.element {
                BOM => self.element.clear(),
                shown if shown.len() == SHOWN_BYTES => break,
                _ => {}
            }
        }
        Ok(if self.element.is_empty() { Behind::End } else { Behind::Other })
    }
}

/// Where the reader stands behind a byte.
pub(super) fn step(place: ListState, byte: u8) -> ListState {
    match (place, byte) {
        (ListState::Before, b'[') => ListState::Inside(0),
        (ListState::Inside(depth), b'"') => ListState::Text { depth, escaped: false },
        (ListState::Inside(0), b']') => ListState::Behind,
        (ListState::Inside(depth), b'[' | b'{') => ListState::Inside(depth + 1),
        (ListState::Inside(depth), b']' | b'}') => ListState::Inside(depth.saturating_sub(1)),
        (ListState::Text { depth, escaped: false }, b'"') => ListState::Inside(depth),
        (ListState::Text { depth, escaped }, byte) => {
            ListState::Text { depth, escaped: !escaped && byte == b'\\' }
        }
        (place, _) => place,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::config::Format;

    fn read_list(text: &str) -> Vec<(u64, String)> {
        let file = InputFile {
            path: "a.json".into(),
            below: "a.json".to_owned(),
            bytes: text.len() as u64,
            e_tag: None,
            format: Format::JsonLines,
            part: None,
        };
        let mut rows = Vec::new();
        let mut visit = |row: RawRow| {
            let shown = match &row.reject {
                Some(reject) => reject.reason.name().to_owned(),
                None => Value::Object(row.fields).to_string(),
            };
            rows.push((row.row, shown));
            Ok(true)
        };
        // A byte at a time: no element may depend on where a chunk ends.
        let reader = std::io::BufReader::with_capacity(1, std::io::Cursor::new(text.to_owned().into_bytes()));
        let memory = Arc::new(Memory::new(1 << 30));
        read(Box::new(reader), &file, &Pick::All, &memory, &mut visit).expect("reads");
        rows
    }

    fn owned(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
        expected.iter().map(|&(row, text)| (row, text.to_owned())).collect()
    }

    #[test]
    fn elements_are_rows() {
        let text =
            "\u{feff} [\n {\"a\": \"x, ]}\\\"\"},\n{\"a\": [1, {\"b\": []}]} , 5, {\"a\" 1},\n{\"a\":3}\n]\n";
        let expected = [
            (0, r#"{"a":"x, ]}\""}"#),
            (1, r#"{"a":[1,{"b":[]}]}"#),
            (2, "invalid_json"),
            (3, "invalid_json"),
            (4, r#"{"a":3}"#),
        ];
        assert_eq!(read_list(text), owned(&expected));
        assert_eq!(read_list("[]"), []);
        assert_eq!(read_list("[{\"a\":1},]"), owned(&[(0, "{\"a\":1}")]));
        assert_eq!(read_list("[{\"a\":1},,{\"a\":2}]")[1].1, "invalid_json");
    }

    /// What stands behind a list used to vanish without a trace.
    #[test]
    fn what_stands_behind_a_list_is_read_on_or_refused() {
        let two = owned(&[(0, "{\"a\":1}"), (1, "{\"a\":2}")]);
        assert_eq!(read_list("[{\"a\":1}]\n\n[]\u{feff}[{\"a\":2}]\n"), two);
        for behind in ["{\"a\":2}", "]", "x", ", [{\"a\":2}]", "\u{feff}y"] {
            let found = read_list(&format!("[{{\"a\":1}}]\n{behind}\n[{{\"a\":3}}]"));
            assert_eq!(found, owned(&[(0, "{\"a\":1}"), (1, "invalid_json")]), "{behind}");
        }
        assert_eq!(read_list("[]\0"), owned(&[(0, "invalid_json")]));
        assert_eq!(read_list("[{\"a\":1}] [{"), owned(&[(0, "{\"a\":1}"), (1, "bad_entry")]));
    }

    #[test]
    fn a_list_that_is_cut_off_keeps_its_whole_elements() {
        assert_eq!(read_list("[{\"a\":1}, {\"a\":"), owned(&[(0, "{\"a\":1}"), (1, "bad_entry")]));
        assert_eq!(read_list("["), owned(&[(0, "bad_entry")]));
    }

    #[test]
    fn lists_are_known_by_name_and_first_byte() {
        assert!(begins(b"\n\t ["));
        assert!(begins(b"\xef\xbb\xbf["));
        assert!(!begins(b"{\"a\": []}"));
        let file = |below: &str| InputFile {
            path: below.into(),
            below: below.to_owned(),
            bytes: 0,
            e_tag: None,
            format: Format::JsonLines,
            part: None,
        };
        assert!(may_be(&file("a.json")) && may_be(&file("b/A.JSON.gz")));
        assert!(!may_be(&file("a.jsonl")) && !may_be(&file("a.json.txt")));
    }
}
