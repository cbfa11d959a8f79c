//! Plain text: the file, what stands between blank lines, or each line is a document. The row's number is that of its
//! first line.

use std::io::BufRead;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::buffer::{RowBuffer, RowMemory};
use super::json::{Line, append_line};
use super::{MAX_ROW_BYTES, RawRow, Visit, damaged};
use crate::PipelineError;
use crate::config::TextSplit;
use crate::engine::memory::Memory;
use crate::row::reject::RejectReason;
use crate::units::InputFile;

/// Visits the documents of a file.
pub(crate) fn read(
    mut reader: Box<dyn BufRead + Send>,
    file: &InputFile,
    split: TextSplit,
    memory: &Arc<Memory>,
    visit: &mut Visit<'_>,
) -> Result<(), PipelineError> {
    let mut document = TextDocument::new(memory);
    for number in 0.. {
        let start = document.bytes.len();
        let met = match append_line(&mut *reader, &mut document.bytes) {
            Ok((met, _)) => met,
            Err(error) => {
                visit(damaged(error, file, number)?)?;
                return Ok(());
            }
        };
        match met {
            Line::End => break,
            Line::TooLong => {
                document.too_long(start, number);
                if split == TextSplit::Line && !visit_document(&mut document, visit)? {
                    return Ok(());
                }
            }
            Line::Whole => {
                let blank = document.bytes[start..].iter().all(u8::is_ascii_whitespace);
                let ends = match split {
                    TextSplit::File => false,
                    TextSplit::BlankLine => blank,
                    TextSplit::Line => true,
                };
                if split == TextSplit::File || !blank {
                    document.keep(start, number)?;
                } else {
                    document.bytes.truncate(start);
                }
                if ends && !visit_document(&mut document, visit)? {
                    return Ok(());
                }
            }
        }
    }
    // An empty file is a row, an empty one: it is counted and never silent.
    if split == TextSplit::File && document.bytes.is_empty() && !document.is_too_long {
        visit(good(0, String::new(), None))?;
        return Ok(());
    }
    visit_document(&mut document, visit)?;
    Ok(())
}

struct TextDocument {
    bytes: RowBuffer,
    first_line: u64,
    is_too_long: bool,
}

impl TextDocument {
    fn new(memory: &Arc<Memory>) -> Self {
        Self { bytes: RowBuffer::new(memory), first_line: 0, is_too_long: false }
    }

    /// Makes what was appended behind `start` a line of the document.
    fn keep(&mut self, start: usize, number: u64) -> Result<(), PipelineError> {
        if self.is_too_long {
            self.bytes.clear();
            return Ok(());
        }
        if start == 0 {
            self.first_line = number;
        }
        let failed = |error: std::io::Error| {
            error.downcast().unwrap_or_else(|error| PipelineError::Format(error.into()))
        };
        self.bytes.extend(b"\n").map_err(failed)
    }

    fn too_long(&mut self, start: usize, number: u64) {
        if start == 0 && !self.is_too_long {
            self.first_line = number;
        }
        self.is_too_long = true;
    }
}

fn visit_document(document: &mut TextDocument, visit: &mut Visit<'_>) -> Result<bool, PipelineError> {
    let first_line = document.first_line;
    if std::mem::take(&mut document.is_too_long) {
        document.bytes.clear();
        let detail = format!("document is longer than {MAX_ROW_BYTES} bytes");
        return visit(RawRow::bad(first_line, RejectReason::RowTooLarge, detail));
    }
    if document.bytes.is_empty() {
        return Ok(true);
    }
    let (mut bytes, memory) = document.bytes.take()?;
    // The end of the last line belongs to the file, not to the document.
    bytes.pop();
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    match String::from_utf8(bytes) {
        Ok(text) => visit(good(first_line, text, memory)),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let bytes = error.into_bytes();
            // A little of what stands before it, from the start of a character.
            let inside = |byte: &u8| byte & 0xc0 == 0x80;
            let before = at.saturating_sub(20);
            let before = before + bytes[before..at].iter().take_while(|byte| inside(byte)).count();
            let bad = RawRow::bad(first_line, RejectReason::InvalidUtf8, format!("byte {at} is not UTF-8"));
            visit(bad.showing(&bytes[before..]))
        }
    }
}

fn good(row: u64, text: String, memory: RowMemory) -> RawRow {
    let bytes = text.len();
    let fields: Map<String, Value> = [("text".to_owned(), Value::String(text))].into_iter().collect();
    RawRow { memory, ..RawRow::good(row, fields, bytes) }
}

#[cfg(test)]
mod tests {
    use super::super::testing::rows;
    use super::*;
    use crate::config::Format;

    async fn read(text: &str, split: TextSplit) -> Vec<(u64, String)> {
        let rows = rows(text.as_bytes().to_vec(), Format::Text, split).await;
        rows.iter().map(|row| (row.row, row.fields["text"].as_str().expect("text").to_owned())).collect()
    }

    #[tokio::test]
    async fn documents_are_files_blocks_or_lines() {
        let text = "\u{feff}one\r\ntwo\n\n \n\nthree\n";
        let owned =
            |rows: &[(u64, &str)]| rows.iter().map(|&(row, text)| (row, text.to_owned())).collect::<Vec<_>>();
        assert_eq!(read(text, TextSplit::File).await, owned(&[(0, "one\ntwo\n\n \n\nthree")]));
        assert_eq!(read(text, TextSplit::BlankLine).await, owned(&[(0, "one\ntwo"), (5, "three")]));
        assert_eq!(read(text, TextSplit::Line).await, owned(&[(0, "one"), (1, "two"), (5, "three")]));
        assert_eq!(read("", TextSplit::File).await, owned(&[(0, "")]));
        assert!(read("\n\n", TextSplit::BlankLine).await.is_empty());
    }
}
