//! Which columns a source's files have, and of which type.
//!
//! JSON has no schema, so rows are looked at: the first thousand of each of up to eight files, spread over the list.
//! A column that is null in all of them and that the source's SQL names is looked for further, so a column that starts
//! with ten thousand nulls gets its real type; so is one that none of them has. Either look takes 64 MiB of a source at
//! most, whatever its size. The result is a function of the files alone.
//!
//! Where values of one column differ in kind (object, list, or one of the others), the kind of most of them is that of
//! a column that the source names, objects before lists before the others where they are as many: one odd row must not
//! hide the fields of all others. A column that nobody names is text then, so that no row fails for it. The names of a
//! CSV file are its first line. Its values are text, or numbers where another file has numbers in that column.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use serde_json::Value;

use super::sample::Allowance;
use super::united::wider;
use super::values::spelled;
use super::{Input, Pick, RawRow, csv_names, read_rows};
use crate::PipelineError;
use crate::config::Format;
use crate::row::columns::list_of;
use crate::units::InputFile;

const ROWS: u64 = 1000;
const FILES: usize = 8;

/// Bytes, decompressed, that one look at a source takes at most.
pub(crate) const SCAN_BYTES: u64 = 64 << 20;

/// Bytes in which the names of a CSV file's columns are.
const NAMES_BYTES: u64 = 4 << 20;

/// How far files are looked into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The first rows of some files.
    #[default]
    FirstRows,
    /// Every row of the first files.
    FirstFiles,
    /// Every row of every file.
    Whole,
}

/// What was found by looking at rows.
#[derive(Debug, Default)]
pub(crate) struct Inferred {
    pub(crate) fields: Vec<Field>,
    /// The file of the first refused row, and why it is refused.
    pub(crate) refused: Option<(String, String)>,
    /// Whether it ended before the files did, at its bound.
    pub(crate) cut: bool,
    /// Columns that matter and were null up to there.
    pub(crate) unknown: Vec<String>,
}

/// The columns of files that have none of their own. `named` are the names that matter, `typed` those whose type is
/// given.
pub(crate) fn infer(
    input: &Input,
    files: &[InputFile],
    named: &HashSet<String>,
    typed: &HashSet<String>,
    extent: Extent,
) -> Result<Inferred, PipelineError> {
    let mut inference = Inference {
        named,
        typed,
        rows: SeenColumns::default(),
        records: SeenColumns::default(),
        refused: None,
    };
    let mut left = if extent == Extent::Whole { u64::MAX } else { SCAN_BYTES };
    if extent != Extent::FirstRows {
        for file in files {
            left -= inference.scan(input, file, left, |_| true)?;
        }
        return Ok(inference.finish(left == 0));
    }
    let chosen: Vec<&InputFile> = files.iter().step_by(files.len().div_ceil(FILES).max(1)).collect();
    for (index, file) in chosen.iter().enumerate() {
        let (mut rows, share) = (0, left / (chosen.len() - index) as u64);
        left -= inference.scan(input, file, share, |_| {
            rows += 1;
            rows < ROWS
        })?;
    }
    // Of one file, further looks would see the same.
    let mut cut = left == 0 && files.len() == 1;
    left = if cut { 0 } else { SCAN_BYTES };
    for file in files {
        if left == 0 || !inference.is_unknown() {
            break;
        }
        left -= inference.scan(input, file, left, Inference::is_unknown)?;
        cut |= left == 0 && inference.is_unknown();
    }
    Ok(inference.finish(cut))
}

/// What has been seen so far.
struct Inference<'a> {
    named: &'a HashSet<String>,
    /// Columns whose type is given.
    typed: &'a HashSet<String>,
    rows: SeenColumns,
    /// Columns of CSV files, whose values are all text: what they spell.
    records: SeenColumns,
    refused: Option<(String, String)>,
}

impl Inference<'_> {
    /// Looks at the rows of a file for as long as `more` of them are wanted and no more than so many bytes are read; gives
    /// how many were.
    fn scan(
        &mut self,
        input: &Input,
        file: &InputFile,
        bytes: u64,
        mut more: impl FnMut(&Self) -> bool,
    ) -> Result<u64, PipelineError> {
        if bytes == 0 {
            return Ok(0);
        }
        let allowance = Arc::new(Allowance::new(bytes));
        if file.format == Format::Csv {
            // Of a line that is cut short the last name would be none.
            let first = Input { allowance: Some(Arc::new(Allowance::new(NAMES_BYTES))), ..input.clone() };
            for name in csv_names(&first, file, self.named)? {
                self.records.of(&name);
            }
        }
        let mut visit = |row: RawRow| {
            self.add(file, row);
            Ok(more(self))
        };
        let input = Input { allowance: Some(allowance.clone()), ..input.clone() };
        read_rows(&input, file, &Pick::All, false, &mut visit)?;
        Ok(bytes - allowance.left())
    }

    fn add(&mut self, file: &InputFile, row: RawRow) {
        if let Some(reject) = row.reject {
            let refused = || (file.path.to_string(), format!("row {}: {reject}", row.row));
            self.refused.get_or_insert_with(refused);
        } else if file.format == Format::Csv {
            row.fields.into_iter().for_each(|(name, value)| self.records.of(&name).add_spelled(value));
        } else {
            row.fields.into_iter().for_each(|(name, value)| self.rows.of(&name).add(value));
        }
    }

    fn is_unknown(&self) -> bool {
        [&self.rows, &self.records]
            .iter()
            .any(|columns| columns.0.iter().any(|(name, seen)| self.has_unknown(name, seen)))
    }

    fn has_unknown(&self, name: &String, seen: &Seen) -> bool {
        !self.typed.contains(name) && seen.is_unknown(name, self.named)
    }

    /// The columns that matter and have been null in every row.
    fn null_columns(&self) -> Vec<String> {
        let columns = self.rows.0.iter().chain(&self.records.0);
        let null = columns.filter(|(name, seen)| seen.is_null() && self.has_unknown(name, seen));
        null.map(|(name, _)| name.clone()).collect()
    }

    fn finish(self, cut: bool) -> Inferred {
        let unknown = if cut { self.null_columns() } else { Vec::new() };
        let rows = self.rows.0.into_iter();
        let mut fields: Vec<Field> =
            rows.map(|(name, seen)| Field::new(&name, seen.settled(&name, self.named), true)).collect();
        for (name, seen) in self.records.0 {
            match fields.iter_mut().find(|field| *field.name() == name) {
                Some(field) => {
                    let of = beside_records(field.data_type(), &seen.scalar);
                    *field = Field::new(name, of, true);
                }
                None => fields.push(Field::new(name, DataType::Utf8, true)),
            }
        }
        Inferred { fields, refused: self.refused, cut, unknown }
    }
}

/// The type of a column that rows have as `of` and records of CSV files as texts that spell `spelled`.
fn beside_records(of: &DataType, spelled: &DataType) -> DataType {
    match of {
        DataType::Int64 | DataType::Float64 => wider(of, spelled).unwrap_or_else(|| of.clone()),
        DataType::Boolean => DataType::Boolean,
        DataType::List(item) if *item.data_type() == DataType::Utf8 => of.clone(),
        _ => DataType::Utf8,
    }
}

/// What was seen of columns, in the order of their first appearance.
#[derive(Default)]
struct SeenColumns(Vec<(String, Seen)>);

impl SeenColumns {
    fn of(&mut self, name: &str) -> &mut Seen {
        let index = self.0.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            self.0.push((name.to_owned(), Seen::default()));
            self.0.len() - 1
        });
        &mut self.0[index].1
    }
}

/// What was seen of a column: how many values of each kind, and what is in them. Nulls don't count.
struct Seen {
    objects: u64,
    fields: SeenColumns,
    lists: u64,
    items: Option<Box<Seen>>,
    scalars: u64,
    scalar: DataType,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            objects: 0,
            fields: SeenColumns::default(),
            lists: 0,
            items: None,
            scalars: 0,
            scalar: DataType::Null,
        }
    }
}

impl Seen {
    fn add(&mut self, value: Value) {
        match value {
            Value::Null => {}
            Value::Object(fields) => {
                self.objects += 1;
                fields.into_iter().for_each(|(name, value)| self.fields.of(&name).add(value));
            }
            Value::Array(values) => {
                self.lists += 1;
                let items = self.items.get_or_insert_default();
                values.into_iter().for_each(|value| items.add(value));
            }
            scalar => {
                self.scalars += 1;
                self.scalar = wider_scalar(&self.scalar, &scalar_type(&scalar));
            }
        }
    }

    /// Adds a text as the number that it spells. One that spells none says nothing of the others.
    fn add_spelled(&mut self, text: Value) {
        let number = [DataType::Int64, DataType::Float64].iter().fold(text, spelled);
        if number.is_string() {
            self.scalars += 1;
        } else {
            self.add(number);
        }
    }

    /// Whether every value was null.
    fn is_null(&self) -> bool {
        (self.objects, self.lists, self.scalars) == (0, 0, 0)
    }

    /// Whether no value of a column that matters has been seen; of an object that matters, of one of its fields.
    fn is_unknown(&self, name: &str, named: &HashSet<String>) -> bool {
        match (self.objects, self.lists, self.scalars) {
            (0, 0, 0) => named.contains(name),
            (0, _, 0) => self.items.as_ref().is_none_or(|items| items.is_unknown(name, named)),
            (_, 0, 0) if named.contains(name) => {
                self.fields.0.iter().any(|(field, seen)| seen.is_unknown(field, named))
            }
            _ => false,
        }
    }

    /// The type of the column. What was never seen is text.
    fn settled(&self, name: &str, named: &HashSet<String>) -> DataType {
        let items = || self.items.as_ref().map_or(DataType::Utf8, |items| items.settled(name, named));
        let kinds = [self.objects, self.lists, self.scalars].into_iter().filter(|count| *count > 0).count();
        // A single text among lists of texts.
        if kinds == 2 && self.objects == 0 && self.scalar == DataType::Utf8 && items() == DataType::Utf8 {
            return list_of(DataType::Utf8);
        }
        if kinds == 0 || kinds > 1 && !named.contains(name) {
            return DataType::Utf8;
        }
        if self.objects >= self.lists.max(self.scalars) {
            return self.structure(named);
        }
        if self.lists >= self.scalars { list_of(items()) } else { self.scalar.clone() }
    }

    fn structure(&self, named: &HashSet<String>) -> DataType {
        let fields = self.fields.0.iter();
        let fields: Vec<Field> =
            fields.map(|(name, seen)| Field::new(name, seen.settled(name, named), true)).collect();
        if fields.is_empty() { DataType::Utf8 } else { DataType::Struct(fields.into()) }
    }
}

fn scalar_type(value: &Value) -> DataType {
    match value {
        Value::Bool(_) => DataType::Boolean,
        Value::Number(number) if number.is_i64() => DataType::Int64,
        Value::Number(_) => DataType::Float64,
        _ => DataType::Utf8,
    }
}

fn wider_scalar(known: &DataType, found: &DataType) -> DataType {
    match (known, found) {
        (DataType::Null, other) => other.clone(),
        (a, b) if a == b => a.clone(),
        (a, b) => wider(a, b).unwrap_or(DataType::Utf8),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn inferred_for(named: &[&str], rows: &[Value]) -> Vec<(String, DataType)> {
        let named = named.iter().map(|name| (*name).to_owned()).collect();
        let mut inference = Inference {
            named: &named,
            typed: &HashSet::new(),
            rows: SeenColumns::default(),
            records: SeenColumns::default(),
            refused: None,
        };
        for row in rows {
            let fields = row.as_object().expect("an object").clone();
            fields.into_iter().for_each(|(name, value)| inference.rows.of(&name).add(value));
        }
        let fields = inference.finish(false).fields.into_iter();
        fields.map(|field| (field.name().clone(), field.data_type().clone())).collect()
    }

    fn inferred(rows: &[Value]) -> Vec<(String, DataType)> {
        inferred_for(&[], rows)
    }

    fn structure(name: &str, of: DataType) -> DataType {
        DataType::Struct(vec![Field::new(name, of, true)].into())
    }

    /// One odd row used to make text of all the others.
    #[test]
    fn the_kind_of_most_values_is_that_of_a_named_column() {
        let rows = [
            json!({"meta": {"t": "x"}, "n": [1], "s": "x"}),
            json!({"meta": "odd", "n": 2, "s": {"x": 1}}),
            json!({"meta": {"t": {"a": 1}}, "n": 3, "s": ["y"]}),
            json!({"meta": {"t": "y"}, "n": null, "s": "z"}),
        ];
        let of = |found: &[(String, DataType)], name: &str| {
            found.iter().find(|(known, _)| known == name).map(|(_, of)| of.clone())
        };
        let found = inferred_for(&["meta", "n", "s", "t"], &rows);
        assert_eq!(of(&found, "meta"), Some(structure("t", DataType::Utf8)));
        assert_eq!(of(&found, "n"), Some(DataType::Int64));
        assert_eq!(of(&found, "s"), Some(DataType::Utf8));
        // Objects come first where kinds are as many; nobody fails for what nobody names.
        let even = inferred_for(&["meta"], &rows[..2]);
        assert_eq!(of(&even, "meta"), Some(structure("t", DataType::Utf8)));
        assert_eq!(of(&inferred(&rows), "meta"), Some(DataType::Utf8));
        let texts = inferred_for(&["c"], &[json!({"c": "x"}), json!({"c": "y"}), json!({"c": ["z"]})]);
        assert_eq!(of(&texts, "c"), Some(list_of(DataType::Utf8)));
    }

    #[test]
    fn texts_are_the_numbers_that_they_spell() {
        let cases = [
            ("7", DataType::Int64, json!(7)),
            (" -1.5e2 ", DataType::Float64, json!(-150.0)),
            ("7", DataType::Float64, json!(7.0)),
            ("1.5", DataType::Int64, json!("1.5")),
            ("nan", DataType::Float64, json!("nan")),
            ("True", DataType::Boolean, json!(true)),
            ("7", DataType::Utf8, json!("7")),
        ];
        for (text, of, expected) in cases {
            assert_eq!(spelled(json!(text), &of), expected, "{text} as {of}");
        }
        assert_eq!(beside_records(&DataType::Int64, &DataType::Float64), DataType::Float64);
        assert_eq!(beside_records(&DataType::Int64, &DataType::Utf8), DataType::Int64);
    }

    #[test]
    fn types_grow_and_never_shrink() {
        let found = inferred(&[
            json!({"a": null, "b": 1, "c": [], "d": "x", "e": {"x": 1}}),
            json!({"a": true, "b": 1.5, "c": ["y"], "d": 3, "e": {"y": null}}),
        ]);
        let fields = vec![Field::new("x", DataType::Int64, true), Field::new("y", DataType::Utf8, true)];
        let expected = [
            ("a", DataType::Boolean),
            ("b", DataType::Float64),
            ("c", list_of(DataType::Utf8)),
            ("d", DataType::Utf8),
            ("e", DataType::Struct(fields.into())),
        ];
        assert_eq!(found, expected.map(|(name, found)| (name.to_owned(), found)));
    }
}
