//! Comma-separated values with a line of names. Every value is text, an empty one is null; numbers are compared in
//! SQL after a `cast`, or their column is one of numbers (`types`). A row is a record, numbered from 0 behind the line
//! of names.
//!
//! What a quote means is [`Dialect`]'s affair. Files with tabs are often written without any quoting, and a caption that
//! begins with a quote would go on up to the next one, rows later: unless the source says something else, quotes are
//! letters in such a file where its first mebibyte has one that can't be the end of a value.
//!
//! The CSV crate takes the end of the file for the end of a quote, and text behind a quote for more of its value, so
//! [`Quotes`] watches what it reads: a quote that is not closed where its value ends, lines further on, is a reject.

use std::collections::{HashSet, VecDeque};
use std::io::{BufRead, Read};

use serde_json::{Map, Value};

use super::united::repeated;
use super::{MAX_ROW_BYTES, Pick, RawRow, Visit, damaged, stream};
use crate::PipelineError;
use crate::row::reject::RejectReason;
use crate::units::InputFile;
use crate::units::names::has_extension;

/// What a source says of its CSV files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dialect {
    /// What stands between values; by default a comma, or a tab where the name says so.
    pub(crate) delimiter: Option<u8>,
    pub(crate) quote: Quote,
}

/// What stands around values that have delimiters or line ends in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Quote {
    /// `"`, unless a file with tabs shows that it means nothing there.
    #[default]
    ByFile,
    /// Nothing does.
    Never,
    /// This character.
    With(u8),
}

impl Dialect {
    /// The dialect that a source's keys `delimiter` and `quote` say.
    pub(crate) fn of(delimiter: Option<&str>, quote: Option<&str>) -> Self {
        let byte = |text: &str| text.bytes().next();
        let quote = match quote {
            None => Quote::ByFile,
            Some(quote) => byte(quote).map_or(Quote::Never, Quote::With),
        };
        Self { delimiter: delimiter.and_then(byte), quote }
    }
}

/// Visits the records of a file.
pub(crate) fn read(
    reader: Box<dyn BufRead + Send>,
    file: &InputFile,
    dialect: Dialect,
    pick: &Pick,
    visit: &mut Visit<'_>,
) -> Result<(), PipelineError> {
    let mut reader = open(reader, file, dialect);
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
        let read = reader.read_byte_record(&mut record);
        let end = reader.position().byte();
        let torn = reader.get_mut().torn_before(end);
        let parsed = match (read, torn) {
            (Ok(false), _) => return Ok(()),
            (Ok(true), _) if reader.get_ref().is_open() => not_closed(&record, row),
            (Ok(true), Some(lines)) => torn_apart(&record, row, lines),
            (Ok(true), None) => parse(&record, &names, pick, row),
            (Err(error), _) => return visit(refused(error, file, row)?).map(|_| ()),
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
    reader: Box<dyn BufRead + Send>,
    file: &InputFile,
    dialect: Dialect,
    asked: &HashSet<String>,
) -> Result<Vec<String>, PipelineError> {
    let mut reader = open(reader, file, dialect);
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

/// Bytes at the beginning of a file with tabs that show whether quotes stand around its values.
const BEGINNING: usize = 1 << 20;

fn open(reader: Box<dyn BufRead + Send>, file: &InputFile, dialect: Dialect) -> csv::Reader<Quotes> {
    let by_name = if has_extension(&file.below, "tsv") { b'\t' } else { b',' };
    let delimiter = dialect.delimiter.unwrap_or(by_name);
    let (quote, tabs, reader) = match dialect.quote {
        Quote::Never => (None, false, reader),
        Quote::With(quote) => (Some(quote), false, reader),
        Quote::ByFile if delimiter != b'\t' => (Some(b'"'), false, reader),
        Quote::ByFile => {
            let (beginning, reader) = stream::beginning(reader, BEGINNING);
            let quoted = is_quoted(&beginning, beginning.len() < BEGINNING);
            (quoted.then_some(b'"'), true, reader)
        }
    };
    let mut builder = csv::ReaderBuilder::new();
    builder.delimiter(delimiter).flexible(true).quoting(quote.is_some());
    let quotes =
        Quotes { inner: reader, scan: QuoteScan::new(delimiter, quote, tabs), fresh: true, ended: false };
    builder.quote(quote.unwrap_or(b'"')).from_reader(quotes)
}

/// Whether quotes can stand around the values of a file with tabs that begins so, and is no longer if `ended`.
fn is_quoted(beginning: &[u8], ended: bool) -> bool {
    let mut scan = QuoteScan::new(b'\t', Some(b'"'), true);
    let content = beginning.strip_prefix(b"\xef\xbb\xbf").unwrap_or(beginning);
    content.iter().for_each(|byte| scan.step(*byte));
    if ended {
        scan.end();
    }
    !scan.has_text_behind_quote && scan.torn.is_empty() && !(ended && scan.place == QuoteState::Quoted)
}

const TAKE_AS_THEY_ARE: &str = "with `quote = \"\"` quotes are taken as they are";

fn not_closed(record: &csv::ByteRecord, row: u64) -> RawRow {
    let detail = format!("a quote is not closed: the rest of the file stands in it; {TAKE_AS_THEY_ARE}");
    let beginning: Vec<&[u8]> = record.iter().collect();
    RawRow::bad(row, RejectReason::BadEntry, detail).showing(&beginning.join(&b", "[..]))
}

fn torn_apart(record: &csv::ByteRecord, row: u64, lines: u64) -> RawRow {
    let further = if lines == 1 { "1 further line".to_owned() } else { format!("{lines} further lines") };
    let detail =
        format!("a quote is not closed where its value ends: {further} stand in it; {TAKE_AS_THEY_ARE}");
    let beginning: Vec<&[u8]> = record.iter().collect();
    RawRow::bad(row, RejectReason::BadEntry, detail).showing(&beginning.join(&b", "[..]))
}

/// Where a byte of a CSV file stands, as the CSV crate tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum QuoteState {
    /// Where a value begins.
    Start,
    Plain,
    Quoted,
    /// Behind a quote in quotes, which ends them unless another one follows.
    Quote,
}

/// Follows the quotes of a CSV file.
struct QuoteScan {
    delimiter: u8,
    quote: Option<u8>,
    /// Whether values have no delimiter in them, so that lines with as many values as there are names are records.
    tabs: bool,
    place: QuoteState,
    /// Bytes so far.
    at: u64,
    /// Bytes of the record so far.
    record: usize,
    /// Line ends in the quotes of the record, and of the value.
    lines: u64,
    value_lines: u64,
    /// Delimiters of the line so far, in quotes or not.
    delimiters: u64,
    /// Delimiters of the first line.
    of_names: Option<u64>,
    /// Whether each line of the record has as many.
    even: bool,
    /// Whether text stands behind a quote that could be the end of a value.
    has_text_behind_quote: bool,
    /// Places in records that begin in one line and end in another for a quote that is none, and these lines.
    torn: VecDeque<(u64, u64)>,
}

impl QuoteScan {
    fn new(delimiter: u8, quote: Option<u8>, tabs: bool) -> Self {
        Self {
            delimiter,
            quote,
            tabs,
            place: QuoteState::Start,
            at: 0,
            record: 0,
            lines: 0,
            value_lines: 0,
            delimiters: 0,
            of_names: None,
            even: true,
            has_text_behind_quote: false,
            torn: VecDeque::new(),
        }
    }

    fn step(&mut self, byte: u8) {
        self.at += 1;
        self.record += 1;
        let is_quote = Some(byte) == self.quote;
        self.place = match (self.place, byte) {
            (QuoteState::Start, _) if is_quote => {
                self.value_lines = 0;
                QuoteState::Quoted
            }
            (QuoteState::Quote, _) if is_quote => QuoteState::Quoted,
            (QuoteState::Quoted, _) if is_quote => QuoteState::Quote,
            (QuoteState::Quoted, b'\n') => {
                self.lines += 1;
                self.value_lines += 1;
                self.end_line();
                return;
            }
            (QuoteState::Quoted, _) => QuoteState::Quoted,
            (_, b'\n' | b'\r') => {
                // A line end of two bytes ends the record with its first, and is one line end.
                if self.record > 1 {
                    self.end_line();
                    self.end_record();
                }
                self.record = 0;
                QuoteState::Start
            }
            (_, byte) if byte == self.delimiter => QuoteState::Start,
            (QuoteState::Quote, _) => {
                self.has_text_behind_quote = true;
                if self.value_lines > 0 {
                    self.torn.push_back((self.at, self.lines));
                }
                QuoteState::Plain
            }
            _ => QuoteState::Plain,
        };
        self.delimiters += u64::from(byte == self.delimiter);
    }

    fn end_line(&mut self) {
        let of_names = *self.of_names.get_or_insert(self.delimiters);
        self.even &= self.delimiters == of_names && of_names > 0;
        self.delimiters = 0;
    }

    fn end_record(&mut self) {
        if self.tabs && self.even && self.lines > 0 {
            self.torn.push_back((self.at.saturating_sub(1), self.lines));
        }
        (self.lines, self.even) = (0, true);
    }

    /// Behind the last byte.
    fn end(&mut self) {
        if self.record > 0 && self.place != QuoteState::Quoted {
            self.end_line();
            self.end_record();
        }
        self.record = 0;
    }
}

/// What a CSV reader reads, and whether it has ended inside quotes.
struct Quotes {
    inner: Box<dyn BufRead + Send>,
    scan: QuoteScan,
    /// Whether no byte has been read yet.
    fresh: bool,
    ended: bool,
}

impl Quotes {
    /// Whether the file has ended inside quotes. The record that was read last is the one that they stand in.
    fn is_open(&self) -> bool {
        self.ended && self.scan.place == QuoteState::Quoted
    }

    /// The lines that stand in the quotes of a record which ends there, if it is torn.
    fn torn_before(&mut self, end: u64) -> Option<u64> {
        let mut lines = None;
        while let Some((_, found)) = self.scan.torn.pop_front_if(|(at, _)| *at <= end) {
            lines = Some(found);
        }
        lines
    }
}

impl Read for Quotes {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.ended = bytes == 0 && !buffer.is_empty();
        if self.ended {
            self.scan.end();
        }
        // A byte order mark is no part of the first name.
        let mark = std::mem::take(&mut self.fresh) && buffer[..bytes].starts_with(b"\xef\xbb\xbf");
        let mark = if mark { 3 } else { 0 };
        self.scan.at += mark as u64;
        for &byte in &buffer[mark..bytes] {
            self.scan.step(byte);
        }
        if self.scan.record > MAX_ROW_BYTES {
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
    use super::super::testing::{rows, rows_of};
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
        reasons_of(text, Dialect::default()).await
    }

    async fn reasons_of(text: &str, dialect: Dialect) -> Vec<String> {
        let name = if text.contains('\t') { "a.tsv" } else { "a.csv" };
        let rows = rows_of(name, text.as_bytes().to_vec(), Format::Csv, dialect).await;
        let show = |row: &RawRow| match &row.reject {
            Some(reject) => format!("{} {}", row.row, reject.detail.split(';').next().unwrap_or_default()),
            None => Value::Object(row.fields.clone()).to_string(),
        };
        rows.iter().map(show).collect()
    }

    /// The captions of a file with tabs.
    async fn captions(text: &str, quote: Option<&str>) -> Vec<String> {
        let rows = rows_of("a.tsv", text.as_bytes().to_vec(), Format::Csv, Dialect::of(None, quote)).await;
        let show = |row: &RawRow| match &row.reject {
            Some(reject) => format!("{} {}", row.row, reject.reason),
            None => row.fields["caption"].as_str().unwrap_or_default().to_owned(),
        };
        rows.iter().map(show).collect()
    }

    /// Of published captions without quoting a lone quote used to swallow the rows up to the next one.
    #[tokio::test]
    async fn lone_quotes_of_a_file_with_tabs_are_letters() {
        let swallowing =
            "caption\turl\na cat\tu1\n\"a quote opens\tu2\nthree\tu3\nand closes\"\tu4\nfive\tu5\n";
        let all = ["a cat", "\"a quote opens", "three", "and closes\"", "five"];
        assert_eq!(captions(swallowing, None).await, all);
        assert_eq!(captions(&swallowing.replace('\n', "\r\n"), None).await, all);
        assert_eq!(captions(swallowing, Some("")).await, all);
        for (line, caption) in [
            ("\"The Dark Knight\" is a film\tu", "\"The Dark Knight\" is a film"),
            ("\"not closed\tu", "\"not closed"),
            ("5\" wide\tu", "5\" wide"),
        ] {
            assert_eq!(captions(&format!("caption\turl\nx\tu\n{line}\n"), None).await, ["x", caption]);
        }
        // Who says that they are quotes has them as such; text behind one that ends a value shows that it does not.
        assert_eq!(captions(swallowing, Some("\"")).await.len(), 3);
        let torn = "caption\turl\n\"opens\tu2\nthree \"four\" five\tu4\n\"six\"\tu5\n";
        assert_eq!(captions(torn, Some("\"")).await, ["0 bad_entry", "six"]);
        assert_eq!(captions("caption\turl\n'a\tb'\tu\n", Some("'")).await, ["a\tb"]);
    }

    #[tokio::test]
    async fn quoted_values_of_a_file_with_tabs_stay_quoted() {
        let text = "caption\turl\n\"one, \"\"two\"\"\"\tu\n\"tab\tin it\"\tu\n\"three\nlines\n\"\tu\nplain \"x\"\tu\n";
        let found = captions(text, None).await;
        assert_eq!(found, ["one, \"two\"", "tab\tin it", "three\nlines\n", "plain \"x\""]);
        let last = "url\tcaption\nu\t\"one\ntwo\"\nu\tthree\n";
        assert_eq!(captions(last, None).await, ["one\ntwo", "three"]);
    }

    /// Beyond the beginning that is looked at, rows are refused and not swallowed.
    #[tokio::test]
    async fn a_late_lone_quote_is_a_reject() {
        let plain = "plain\tu\n".repeat(BEGINNING / 8 + 1);
        let rows = plain.lines().count();
        for late in ["\"opens\tu\ncloses\"\tu\n", "\"opens\tu\nthen \"x\" closes\tu\n"] {
            let found = captions(&format!("caption\turl\n{plain}{late}last\tu\n"), None).await;
            assert_eq!(found[rows..], [format!("{rows} bad_entry"), "last".to_owned()], "{late}");
        }
    }

    #[tokio::test]
    async fn a_quote_that_ends_inside_another_text_is_a_reject() {
        let found = reasons("text,n\n\"opens,1\ntwo,2\nthree \"four\" five,3\nsix,6\n").await;
        let torn = "0 a quote is not closed where its value ends: 2 further lines stand in it";
        assert_eq!(found, [torn, r#"{"text":"six","n":"6"}"#]);
        let found = reasons("text,n\n\"a\nb\",1\n\"c\"d,2\n").await;
        assert_eq!(found, [r#"{"text":"a\nb","n":"1"}"#, r#"{"text":"cd","n":"2"}"#]);
    }

    #[tokio::test]
    async fn another_delimiter_is_said() {
        let found = reasons_of("text;n\n\"a;b\";1\n", Dialect::of(Some(";"), None)).await;
        assert_eq!(found, [r#"{"text":"a;b","n":"1"}"#]);
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
