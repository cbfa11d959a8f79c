//! Comma-separated values with a line of names. Every value is text, an empty one is null; numbers are compared in
//! SQL after a `cast`, or their column is one of numbers (`types`). A row is a record, numbered from 0 behind the line
//! of names.
//!
//! The CSV crate takes the end of the file for the end of a quote, so [`Quotes`] watches what it reads: a quote that is
//! not closed is a reject.

use std::collections::HashSet;
use std::io::{BufRead, Read};

use serde_json::{Map, Value};

use super::columnar::repeated;
use super::{Input, MAX_ROW_BYTES, Pick, RawRow, Visit, damaged, stream};
use crate::PipelineError;
use crate::names::has_extension;
use crate::reject::RejectReason;
use crate::units::InputFile;

/// Visits the records of a file.
pub(crate) fn read(
    reader: Box<dyn BufRead + Send>,
    file: &InputFile,
    pick: &Pick,
    visit: &mut Visit<'_>,
) -> Result<(), PipelineError> {
    let mut reader = open(reader, file);
    let names = match reader.byte_headers() {
        Ok(names) => names.iter().map(name).collect::<Vec<_>>(),
        Err(error) => return visit(refused(error, file, 0)?).map(|_| ()),
    };
    if reader.get_ref().is_open() {
        return visit(not_closed(&csv::ByteRecord::from(names), 0)).map(|_| ());
    }
    if let Pick::Only(_) = pick {
        repeated(file, names.iter().map(String::as_str), |name| pick.wants(name))?;
    }
    let mut record = csv::ByteRecord::new();
    for row in 0.. {
        let parsed = match reader.read_byte_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) if reader.get_ref().is_open() => not_closed(&record, row),
            Ok(true) => parse(&record, &names, pick, row),
            Err(error) => return visit(refused(error, file, row)?).map(|_| ()),
        };
        if !visit(parsed)? {
            return Ok(());
        }
    }
    Ok(())
}

/// The names of the columns of a file, none if they can't be read.
///
/// # Errors
///
/// If one of these names stands there twice.
pub(crate) fn names(
    input: &Input,
    file: &InputFile,
    asked: &HashSet<String>,
) -> Result<Vec<String>, PipelineError> {
    let mut reader = open(stream::open(input, file).reader, file);
    let names: Vec<String> = match reader.byte_headers() {
        Ok(names) => names.iter().map(name).collect(),
        // It is met again when the file is read.
        Err(_) => return Ok(Vec::new()),
    };
    if reader.get_ref().is_open() {
        return Ok(Vec::new());
    }
    repeated(file, names.iter().map(String::as_str), |name| asked.contains(name))?;
    Ok(names)
}

fn open(reader: Box<dyn BufRead + Send>, file: &InputFile) -> csv::Reader<Quotes> {
    let delimiter = if has_extension(&file.below, "tsv") { b'\t' } else { b',' };
    csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(Quotes::new(reader, delimiter))
}

fn not_closed(record: &csv::ByteRecord, row: u64) -> RawRow {
    let detail = "a quote is not closed: the rest of the file stands in it";
    let beginning: Vec<&[u8]> = record.iter().collect();
    RawRow::bad(row, RejectReason::BadEntry, detail).showing(&beginning.join(&b", "[..]))
}

/// Where a byte of a CSV file stands, as the CSV crate tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Where a value begins.
    Start,
    Plain,
    Quoted,
    /// Behind a quote in quotes, which ends them unless another one follows.
    Quote,
}

/// What a CSV reader reads, and whether it has ended inside quotes.
struct Quotes {
    inner: Box<dyn BufRead + Send>,
    delimiter: u8,
    place: Place,
    /// Bytes of the record so far.
    record: usize,
    /// Whether no byte has been read yet.
    fresh: bool,
    ended: bool,
}

impl Quotes {
    fn new(inner: Box<dyn BufRead + Send>, delimiter: u8) -> Self {
        Self { inner, delimiter, place: Place::Start, record: 0, fresh: true, ended: false }
    }

    /// Whether the file has ended inside quotes. The record that was read last is the one that they stand in.
    fn is_open(&self) -> bool {
        self.ended && self.place == Place::Quoted
    }

    fn step(&mut self, byte: u8) {
        self.record += 1;
        self.place = match (self.place, byte) {
            (Place::Start | Place::Quote, b'"') => Place::Quoted,
            (Place::Quoted, b'"') => Place::Quote,
            (Place::Quoted, _) => Place::Quoted,
            (_, b'\n' | b'\r') => {
                self.record = 0;
                Place::Start
            }
            (_, byte) if byte == self.delimiter => Place::Start,
            _ => Place::Plain,
        };
    }
}

impl Read for Quotes {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.ended = bytes == 0 && !buffer.is_empty();
        // A byte order mark is no part of the first name.
        let mark = std::mem::take(&mut self.fresh) && buffer[..bytes].starts_with(b"\xef\xbb\xbf");
        for &byte in &buffer[if mark { 3 } else { 0 }..bytes] {
            self.step(byte);
        }
        if self.record > MAX_ROW_BYTES {
            let what = format!("a record is longer than {MAX_ROW_BYTES} bytes; is a quote not closed?");
            return Err(std::io::Error::other(what));
        }
        Ok(bytes)
    }
}

fn name(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)).into_owned()
}

/// Only the stream itself can fail, or a record is too long.
fn refused(error: csv::Error, file: &InputFile, row: u64) -> Result<RawRow, PipelineError> {
    let error = match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => std::io::Error::other(format!("{other:?}")),
    };
    damaged(error, file, row)
}

fn parse(record: &csv::ByteRecord, names: &[String], pick: &Pick, row: u64) -> RawRow {
    if record.len() != names.len() {
        let detail = format!("record has {} values for {} columns", record.len(), names.len());
        let beginning: Vec<&[u8]> = record.iter().take(names.len() + 1).collect();
        return RawRow::bad(row, RejectReason::WrongType, detail).showing(&beginning.join(&b", "[..]));
    }
    let mut fields = Map::new();
    for (name, value) in names.iter().zip(record).filter(|(name, _)| pick.wants(name)) {
        let value = match std::str::from_utf8(value) {
            Ok("") => Value::Null,
            Ok(text) => Value::String(text.to_owned()),
            Err(_) => {
                let detail = format!("`{name}` is not UTF-8");
                return RawRow::bad(row, RejectReason::InvalidUtf8, detail).showing(value);
            }
        };
        fields.insert(name.clone(), value);
    }
    RawRow::good(row, fields, record.as_slice().len())
}

#[cfg(test)]
mod tests {
    use super::super::testing::rows;
    use super::*;
    use crate::config::{Format, TextSplit};

    #[tokio::test]
    async fn records_may_be_quoted_and_bad_ones_are_rejects() {
        let bytes = b"\xef\xbb\xbftext,n\n\"a, \"\"b\"\"\nc\",1\nd\n\xff,2\ne,\n".to_vec();
        let rows = rows(bytes, Format::Csv, TextSplit::File).await;
        let show = |row: &RawRow| match &row.reject {
            Some(reject) => reject.reason.name().to_owned(),
            None => Value::Object(row.fields.clone()).to_string(),
        };
        let found: Vec<_> = rows.iter().map(show).collect();
        let expected =
            [r#"{"text":"a, \"b\"\nc","n":"1"}"#, "wrong_type", "invalid_utf8", r#"{"text":"e","n":null}"#];
        assert_eq!(found, expected);
    }

    async fn reasons(text: &str) -> Vec<String> {
        let rows = rows(text.as_bytes().to_vec(), Format::Csv, TextSplit::File).await;
        let show = |row: &RawRow| match &row.reject {
            Some(reject) => format!("{} {}", row.row, reject.detail),
            None => Value::Object(row.fields.clone()).to_string(),
        };
        rows.iter().map(show).collect()
    }

    /// The rest of a file behind a quote that nobody closes used to be a document.
    #[tokio::test]
    async fn a_quote_that_is_not_closed_is_a_reject() {
        let open = "a quote is not closed: the rest of the file stands in it";
        let long = "x\n".repeat(20_000);
        for last in ["\"", "\"b\nc\n", "\"b\"\"", "\"\"\"", &format!("\"{long}")] {
            let found = reasons(&format!("text\na\n{last}")).await;
            assert_eq!(found, [r#"{"text":"a"}"#.to_owned(), format!("1 {open}")], "{last}");
        }
        assert_eq!(reasons("text,\"n\na,1\n").await, [format!("0 {open}")]);
        for closed in ["\"b\"", "\"b\"\n", "\"b\"\r\n", "b\"", "b\"c\n"] {
            let found = reasons(&format!("\u{feff}\"text\"\n{closed}")).await;
            assert!(found.len() == 1 && found[0].starts_with("{\"text\":\"b"), "{closed}: {found:?}");
        }
        assert_eq!(reasons("\u{feff}\"text\"\n\"b\"c\"\n\"d\"").await.len(), 2);
    }
}
