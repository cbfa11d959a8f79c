//! Comma-separated values with a line of names. Every value is text, an empty one is null; numbers are compared in
//! SQL after a `cast`. A row is a record, numbered from 0 behind the line of names.

use std::io::BufRead;

use serde_json::{Map, Value};

use super::{Pick, RawRow, Visit, damaged};
use crate::PipelineError;
use crate::reject::RejectReason;
use crate::units::InputFile;

/// Visits the records of a file.
pub(crate) fn read(
    reader: Box<dyn BufRead + Send>,
    file: &InputFile,
    pick: &Pick,
    visit: &mut Visit<'_>,
) -> Result<(), PipelineError> {
    let delimiter = if file.below.contains(".tsv") { b'\t' } else { b',' };
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(reader);
    let names = match reader.byte_headers() {
        Ok(names) => names.iter().map(name).collect::<Vec<_>>(),
        Err(error) => return visit(refused(error, file, 0)?).map(|_| ()),
    };
    let mut record = csv::ByteRecord::new();
    for row in 0.. {
        let parsed = match reader.read_byte_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => parse(&record, &names, pick, row),
            Err(error) => return visit(refused(error, file, row)?).map(|_| ()),
        };
        if !visit(parsed)? {
            return Ok(());
        }
    }
    Ok(())
}

fn name(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)).into_owned()
}

/// Records of any length are read, so only the stream itself can fail.
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
}
