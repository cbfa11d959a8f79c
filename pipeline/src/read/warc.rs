//! Texts of web pages as Common Crawl publishes them: WET files, which are WARC records of the type `conversion`.
//!
//! A record is a line `WARC/1.0`, header lines, a blank line and as many bytes as `Content-Length` says. The columns are
//! `text`, `id` (`WARC-Record-ID`), `url` (`WARC-Target-URI`), `date` (`WARC-Date`) and `language`
//! (`WARC-Identified-Content-Language`). Rows are numbered by their record in the file, from 0, with `warcinfo`, which is
//! about the file and no row. Records of other types, such as pages as a server sent them, are no text and are refused.
//!
//! A record whose length does not lead to the next one is refused, and what follows up to the next record with it.

use std::io::{BufRead, Error, ErrorKind};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::buffer::RowBuffer;
use super::json::{Line, next_line};
use super::{MAX_ROW_BYTES, Pick, RawRow, Visit, damaged};
use crate::PipelineError;
use crate::engine::memory::Memory;
use crate::row::reject::RejectReason;
use crate::units::InputFile;

/// Bytes of the header of a record, at most.
const HEADER_BYTES: usize = 1 << 20;

/// The columns that come from a header.
const COLUMNS: [(&str, &str); 4] = [
    ("id", "warc-record-id"),
    ("url", "warc-target-uri"),
    ("date", "warc-date"),
    ("language", "warc-identified-content-language"),
];

/// Visits the records of a file.
pub(crate) fn read(
    reader: Box<dyn BufRead + Send>,
    file: &InputFile,
    pick: &Pick,
    memory: &Arc<Memory>,
    visit: &mut Visit<'_>,
) -> Result<(), PipelineError> {
    let mut records = match Records::open(reader, memory) {
        Ok(records) => records,
        Err(error) => return visit(damaged(error, file, 0)?).map(|_| ()),
    };
    for row in 0.. {
        let met = match records.next() {
            Ok(Some(met)) => met,
            Ok(None) => return Ok(()),
            Err(error) => return visit(damaged(error, file, row)?).map(|_| ()),
        };
        if let Some(parsed) = records.row(row, met, pick)?
            && !visit(parsed)?
        {
            return Ok(());
        }
    }
    Ok(())
}

/// What stands at a place where a record may begin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Record,
    Other,
    End,
}

/// A record that was met.
enum Record {
    /// A text, which is in the buffer.
    Text(RecordHeader),
    /// What is about the file.
    Info,
    /// A record of another type.
    OtherType(String),
    TooLong(u64),
    Broken(&'static str),
}

/// The lines of a header: names in small letters, and values.
#[derive(Default)]
struct RecordHeader(Vec<(String, String)>);

impl RecordHeader {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Takes a line; `false` if it is none of a header.
    fn add(&mut self, line: &[u8]) -> bool {
        let line = String::from_utf8_lossy(line);
        match (line.starts_with([' ', '\t']), self.0.last_mut(), line.split_once(':')) {
            // A line that goes on.
            (true, Some((_, value)), _) => {
                value.push(' ');
                value.push_str(line.trim());
            }
            (false, _, Some((name, value))) => {
                self.0.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
            _ => return false,
        }
        true
    }
}

struct Records {
    reader: Box<dyn BufRead + Send>,
    line: RowBuffer,
    body: RowBuffer,
    start: std::io::Result<Start>,
}

impl Records {
    fn open(reader: Box<dyn BufRead + Send>, memory: &Arc<Memory>) -> std::io::Result<Self> {
        let (line, body) = (RowBuffer::new(memory), RowBuffer::new(memory));
        let mut records = Self { reader, line, body, start: Ok(Start::End) };
        records.start = Ok(records.find_start()?);
        Ok(records)
    }

    /// Reads a record, and where the next one begins: that shows whether its length was right. What damages the file
    /// behind a record is an error of the next one.
    fn next(&mut self) -> std::io::Result<Option<Record>> {
        let met = match std::mem::replace(&mut self.start, Ok(Start::End))? {
            Start::End => return Ok(None),
            Start::Record => self.record()?,
            Start::Other => Record::Broken("no record begins here"),
        };
        self.start = self.find_start();
        if !matches!(self.start, Ok(Start::Other)) {
            return Ok(Some(met));
        }
        self.start = self.skip();
        Ok(Some(match met {
            Record::Broken(what) => Record::Broken(what),
            _ => Record::Broken("its `Content-Length` does not lead to the end of the record"),
        }))
    }

    /// Passes over blank lines.
    fn find_start(&mut self) -> std::io::Result<Start> {
        loop {
            match next_line(&mut *self.reader, &mut self.line)?.0 {
                Line::End => return Ok(Start::End),
                Line::Whole if self.line.is_empty() => {}
                Line::Whole if self.line.starts_with(b"WARC/") => return Ok(Start::Record),
                Line::Whole | Line::TooLong => return Ok(Start::Other),
            }
        }
    }

    /// Passes over everything up to the next record.
    fn skip(&mut self) -> std::io::Result<Start> {
        loop {
            match self.find_start()? {
                Start::Other => {}
                start => return Ok(start),
            }
        }
    }

    fn record(&mut self) -> std::io::Result<Record> {
        let Some(header) = self.header()? else { return Ok(Record::Broken("its header can't be read")) };
        let Some(length) = header.get("content-length").and_then(|length| length.parse().ok()) else {
            return Ok(Record::Broken("its header has no `Content-Length`"));
        };
        self.body.clear();
        match header.get("warc-type") {
            Some("conversion") if length > MAX_ROW_BYTES as u64 => {
                self.content(length, false)?;
                Ok(Record::TooLong(length))
            }
            Some("conversion") => {
                self.content(length, true)?;
                Ok(Record::Text(header))
            }
            of => {
                self.content(length, false)?;
                Ok(match of {
                    Some("warcinfo") => Record::Info,
                    Some(of) => Record::OtherType(of.to_owned()),
                    None => Record::Broken("its header has no `WARC-Type`"),
                })
            }
        }
    }

    /// The header of a record; `None` if it is none.
    fn header(&mut self) -> std::io::Result<Option<RecordHeader>> {
        let (mut header, mut bytes) = (RecordHeader::default(), 0);
        loop {
            match next_line(&mut *self.reader, &mut self.line)?.0 {
                Line::End => return Err(ends_early()),
                Line::Whole if self.line.is_empty() => return Ok(Some(header)),
                Line::Whole => {
                    bytes += self.line.len();
                    if bytes > HEADER_BYTES || !header.add(&self.line) {
                        return Ok(None);
                    }
                }
                Line::TooLong => return Ok(None),
            }
        }
    }

    /// Reads the bytes of a record, or passes over them.
    fn content(&mut self, length: u64, keep: bool) -> std::io::Result<()> {
        let mut left = length;
        while left > 0 {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if chunk.is_empty() {
                return Err(ends_early());
            }
            let used = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if keep {
                self.body.extend(&chunk[..used])?;
            }
            self.reader.consume(used);
            left -= used as u64;
        }
        Ok(())
    }

    /// The row of a record; what is about the file is none.
    fn row(&mut self, row: u64, met: Record, pick: &Pick) -> Result<Option<RawRow>, PipelineError> {
        let bad = |reason, detail: String| Ok(Some(RawRow::bad(row, reason, detail)));
        let header = match met {
            Record::Text(header) => header,
            Record::Info => return Ok(None),
            Record::OtherType(of) => {
                let detail = format!(
                    "record is a `{of}`, expected a `conversion`; texts of web pages are in WET files, which end in \
                     `.warc.wet.gz`"
                );
                return bad(RejectReason::WrongType, detail);
            }
            Record::TooLong(length) => {
                let detail = format!("record has {length} bytes, the limit is {MAX_ROW_BYTES}");
                return bad(RejectReason::RowTooLarge, detail);
            }
            Record::Broken(what) => {
                return bad(RejectReason::BadEntry, format!("record is broken: {what}"));
            }
        };
        let length = self.body.len();
        let (bytes, memory) = self.body.take()?;
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let detail = format!("byte {} is not UTF-8", error.utf8_error().valid_up_to());
                let bad = RawRow::bad(row, RejectReason::InvalidUtf8, detail);
                return Ok(Some(bad.showing(error.as_bytes())));
            }
        };
        let mut fields = Map::new();
        if pick.wants("text") {
            fields.insert("text".to_owned(), Value::String(text));
        }
        for (column, name) in COLUMNS.iter().filter(|(column, _)| pick.wants(column)) {
            let value = header.get(name).map_or(Value::Null, |value| Value::String(value.to_owned()));
            fields.insert((*column).to_owned(), value);
        }
        Ok(Some(RawRow { memory, ..RawRow::good(row, fields, length) }))
    }
}

fn ends_early() -> Error {
    Error::new(ErrorKind::UnexpectedEof, "it ends inside a record")
}

#[cfg(test)]
mod tests {
    use super::super::testing::rows;
    use super::*;
    use crate::config::{Format, TextSplit};

    fn record(of: &str, header: &str, body: &str) -> String {
        let length = body.len();
        format!("WARC/1.0\r\nWARC-Type: {of}\r\n{header}Content-Length: {length}\r\n\r\n{body}\r\n\r\n")
    }

    fn page(number: u32, body: &str) -> String {
        let header = format!(
            "WARC-Target-URI: http://a.org/{number}\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n\
             WARC-Record-ID: <urn:uuid:{number}>\r\nWARC-Identified-Content-Language: eng,\r\n deu\r\n"
        );
        record("conversion", &header, body)
    }

    async fn read(text: &str) -> Vec<String> {
        let rows = rows(text.as_bytes().to_vec(), Format::Warc, TextSplit::File).await;
        let show = |row: &RawRow| match &row.reject {
            Some(reject) => format!("{} {reject}", row.row),
            None => format!("{} {}", row.row, row.fields["text"]),
        };
        rows.iter().map(show).collect()
    }

    #[tokio::test]
    async fn conversions_are_rows() {
        let info = record("warcinfo", "WARC-Filename: a\r\n", "isPartOf: x\r\n");
        let pages = [page(1, "one\nWARC/1.0\r\n\r\ntwo\n"), page(2, "")].concat();
        let rows = rows(format!("{info}{pages}").into_bytes(), Format::Warc, TextSplit::File).await;
        let expected = serde_json::json!({"text": "one\nWARC/1.0\r\n\r\ntwo\n", "id": "<urn:uuid:1>",
            "url": "http://a.org/1", "date": "2024-01-01T00:00:00Z", "language": "eng, deu"});
        assert_eq!(Value::Object(rows[0].fields.clone()), expected);
        assert_eq!(rows.iter().map(|row| row.row).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(rows[1].fields["text"], "");
        assert!(read(&info).await.is_empty() && read("").await.is_empty());
    }

    #[tokio::test]
    async fn other_records_are_refused_by_their_type() {
        let text = [record("response", "", "HTTP/1.1 200 OK\r\n\r\n<html>"), page(1, "one")].concat();
        let found = read(&text).await;
        assert!(
            found[0].starts_with("0 wrong_type: record is a `response`, expected a `conversion`"),
            "{found:?}"
        );
        assert_eq!(found[1], "1 \"one\"");
    }

    #[tokio::test]
    async fn broken_records_are_rejects_and_the_next_is_read() {
        let good = page(9, "good");
        let cases = [
            ("junk\nmore\n\n".to_owned(), "no record begins here"),
            (
                "WARC/1.0\r\nWARC-Type: conversion\r\n\r\nx\r\n\r\n".to_owned(),
                "its header has no `Content-Length`",
            ),
            ("WARC/1.0\r\nContent-Length: 1\r\n\r\nx\r\n\r\n".to_owned(), "its header has no `WARC-Type`"),
            ("WARC/1.0\r\nno header\r\n\r\nx\r\n\r\n".to_owned(), "its header can't be read"),
            (page(1, "cut short").replace("Length: 9", "Length: 3"), "its `Content-Length` does not lead"),
        ];
        for (text, what) in cases {
            let found = read(&format!("{text}{good}")).await;
            assert_eq!(found.len(), 2, "{found:?}");
            assert!(found[0].starts_with(&format!("0 bad_entry: record is broken: {what}")), "{found:?}");
            assert_eq!(found[1], "1 \"good\"");
        }
        let found = read(&format!("{good}{}", &good[..good.len() - 6])).await;
        assert_eq!(found[0], "0 \"good\"");
        assert!(
            found[1].starts_with("1 bad_entry: the rest of the file is damaged: it ends inside"),
            "{found:?}"
        );
    }
}
