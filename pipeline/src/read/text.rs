//! Plain text: the file, what stands between blank lines, or each line is a document. The row's number is that of its
//! first line.

use std::io::BufRead;

use serde_json::{Map, Value};

use super::json::{Line, next_line};
use super::{MAX_ROW_BYTES, RawRow, Visit, damaged};
use crate::PipelineError;
use crate::config::TextSplit;
use crate::reject::RejectReason;
use crate::units::InputFile;

/// Visits the documents of a file.
pub(crate) fn read(
    mut reader: Box<dyn BufRead + Send>,
    file: &InputFile,
    split: TextSplit,
    visit: &mut Visit<'_>,
) -> Result<(), PipelineError> {
    let mut document = Document::default();
    let mut line = Vec::new();
    for number in 0.. {
        let met = match next_line(&mut *reader, &mut line) {
            Ok((met, _)) => met,
            Err(error) => {
                visit(damaged(error, file, number)?)?;
                return Ok(());
            }
        };
        match met {
            Line::End => break,
            Line::TooLong => document.too_long = true,
            Line::Whole => {
                let blank = line.iter().all(u8::is_ascii_whitespace);
                let ends = match split {
                    TextSplit::File => false,
                    TextSplit::BlankLine => blank,
                    TextSplit::Line => true,
                };
                if split == TextSplit::File || !blank {
                    document.push(&line, number);
                }
                if ends && !visit_document(&mut document, visit)? {
                    return Ok(());
                }
            }
        }
    }
    // An empty file is a row, an empty one: it is counted and never silent.
    if split == TextSplit::File && document.bytes.is_empty() && !document.too_long {
        visit(good(0, String::new()))?;
        return Ok(());
    }
    visit_document(&mut document, visit)?;
    Ok(())
}

#[derive(Default)]
struct Document {
    bytes: Vec<u8>,
    first_line: u64,
    too_long: bool,
}

impl Document {
    fn push(&mut self, line: &[u8], number: u64) {
        if self.bytes.is_empty() {
            self.first_line = number;
        }
        self.too_long |= self.bytes.len() + line.len() > MAX_ROW_BYTES;
        if !self.too_long {
            self.bytes.extend_from_slice(line);
            self.bytes.push(b'\n');
        }
    }
}

fn visit_document(document: &mut Document, visit: &mut Visit<'_>) -> Result<bool, PipelineError> {
    let Document { mut bytes, first_line, too_long } = std::mem::take(document);
    if too_long {
        let detail = format!("document is longer than {MAX_ROW_BYTES} bytes");
        return visit(RawRow::bad(first_line, RejectReason::RowTooLarge, detail));
    }
    if bytes.is_empty() {
        return Ok(true);
    }
    // The end of the last line belongs to the file, not to the document.
    bytes.pop();
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    match String::from_utf8(bytes) {
        Ok(text) => visit(good(first_line, text)),
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

fn good(row: u64, text: String) -> RawRow {
    let bytes = text.len();
    let fields: Map<String, Value> = [("text".to_owned(), Value::String(text))].into_iter().collect();
    RawRow::good(row, fields, bytes)
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
