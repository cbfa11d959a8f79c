//! The columns of Parquet and Arrow IPC files of one source, as one table.
//!
//! Files may differ in their columns: they are united by name, also inside structs, and what a file lacks is null. The
//! differences of encoding are taken away: there is one type of text, of bytes, of lists.

use std::collections::HashSet;

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::compute::CastOptions;
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Field, Fields, Schema};
use datafusion::common::nested_struct::cast_column;
use datafusion::error::DataFusionError;

use crate::PipelineError;
use crate::row::columns::list_of;
use crate::units::InputFile;

/// A field without the differences of encoding.
fn plain(field: &Field) -> Field {
    Field::new(field.name(), plain_type(field.data_type()), true)
}

fn plain_type(of: &DataType) -> DataType {
    match of {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            list_of(plain_type(item.data_type()))
        }
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(|field| plain(field)).collect::<Fields>())
        }
        other => other.clone(),
    }
}

/// A column in its plain type.
pub(crate) fn plain_column(column: &ArrayRef) -> Result<ArrayRef, PipelineError> {
    cast_to(column, &plain_type(column.data_type()))
}

pub(super) fn cast_to(column: &ArrayRef, wanted: &DataType) -> Result<ArrayRef, PipelineError> {
    if column.data_type() == wanted {
        return Ok(column.clone());
    }
    match cast_column(column, wanted, &CastOptions::default()) {
        // Files were united by what they say first. One that says something else further on, because it is damaged,
        // lacks what was asked for: a struct has none of the fields.
        Err(DataFusionError::Plan(_)) => Ok(new_null_array(wanted, column.len())),
        cast => Ok(cast?),
    }
}

/// The columns of several files, each with the first file that has it.
#[derive(Default)]
pub(crate) struct United {
    columns: Vec<(Field, String)>,
    clashes: Vec<Clash>,
}

/// A column, or a field of one, of which no type holds what two files have.
#[derive(Clone, Debug)]
pub(crate) struct Clash {
    /// Its name, `a.b` of the field `b` of the column `a`.
    pub(crate) column: String,
    there: String,
    here: String,
}

impl Clash {
    /// The error of somebody who asks for it.
    pub(crate) fn error(&self, source: &str) -> PipelineError {
        let Self { column, there, here } = self.clone();
        PipelineError::Columns { name: source.to_owned(), column, there, here }
    }
}

impl United {
    /// Takes the columns of a file. One that is of another kind than in a file before keeps its type, and a field of one
    /// vanishes: that matters to nobody but who asks for it.
    pub(crate) fn add(&mut self, file: &InputFile, schema: &Schema) {
        let Self { columns, clashes } = self;
        for field in schema.fields().iter().map(|field| plain(field)) {
            let Some((known, first)) = columns.iter_mut().find(|(known, _)| known.name() == field.name())
            else {
                columns.push((field, file.below.clone()));
                continue;
            };
            let mut clash = |(column, there, here): Differing| {
                let (there, here) = (format!("{there} in `{first}`"), format!("{here} in `{}`", file.below));
                clashes.push(Clash { column, there, here });
            };
            let mut lost = Vec::new();
            match merge(known.name(), known.data_type(), field.data_type(), &mut lost) {
                Ok(merged) => *known = Field::new(known.name(), merged, true),
                Err(differing) => clash(differing),
            }
            lost.into_iter().for_each(clash);
        }
    }

    /// The columns, of which one that is null in every file is text; and those that differ.
    pub(crate) fn finish(self) -> (Vec<Field>, Vec<Clash>) {
        let Self { columns, clashes } = self;
        let lost: HashSet<&str> = clashes.iter().map(|clash| clash.column.as_str()).collect();
        let settled = |(field, _): (Field, String)| {
            let of = without(field.name(), field.data_type(), &lost);
            Field::new(field.name(), settle(&of), true)
        };
        let fields = columns.into_iter().map(settled).collect();
        (fields, clashes)
    }
}

/// A type without the fields of these names: a file behind those that differ may have brought one back.
fn without(column: &str, of: &DataType, lost: &HashSet<&str>) -> DataType {
    match of {
        DataType::List(item) => list_of(without(column, item.data_type(), lost)),
        DataType::Struct(fields) => {
            let kept = fields.iter().filter_map(|field| {
                let below = format!("{column}.{}", field.name());
                let of = without(&below, field.data_type(), lost);
                (!lost.contains(below.as_str())).then(|| Field::new(field.name(), of, true))
            });
            DataType::Struct(kept.collect())
        }
        other => other.clone(),
    }
}

fn settle(of: &DataType) -> DataType {
    match of {
        DataType::Null => DataType::Utf8,
        DataType::List(item) => list_of(settle(item.data_type())),
        DataType::Struct(fields) => DataType::Struct(
            fields.iter().map(|field| Field::new(field.name(), settle(field.data_type()), true)).collect(),
        ),
        other => other.clone(),
    }
}

/// A column, and its types in two files that don't go together.
type Differing = (String, DataType, DataType);

/// The type that holds the values of both: a null of anything, wider numbers, more fields. Fields that differ are `lost`.
fn merge(
    column: &str,
    there: &DataType,
    here: &DataType,
    lost: &mut Vec<Differing>,
) -> Result<DataType, Differing> {
    match (there, here) {
        (a, b) if a == b => Ok(a.clone()),
        (DataType::Null, other) | (other, DataType::Null) => Ok(other.clone()),
        (DataType::List(a), DataType::List(b)) => {
            merge(column, a.data_type(), b.data_type(), lost).map(list_of)
        }
        (DataType::Struct(a), DataType::Struct(b)) => Ok(merge_fields(column, a, b, lost)),
        (a, b) => {
            let united =
                wider(a, b).or_else(|| decimal(a, b)).or_else(|| moment(a, b)).or_else(|| bytes(a, b));
            united.ok_or_else(|| (column.to_owned(), a.clone(), b.clone()))
        }
    }
}

/// The decimal that holds the numbers of both, or a float beside one.
fn decimal(a: &DataType, b: &DataType) -> Option<DataType> {
    let is_decimal = |of: &DataType| digits(of).is_some() && !of.is_integer();
    if is_decimal(a) && b.is_floating() || a.is_floating() && is_decimal(b) {
        return Some(DataType::Float64);
    }
    let ((whole, fraction), (other_whole, other_fraction)) = (digits(a)?, digits(b)?);
    let (whole, fraction) = (whole.max(other_whole), fraction.max(other_fraction));
    let (precision, scale) = (u8::try_from(whole + fraction.max(0)).ok()?, i8::try_from(fraction).ok()?);
    match precision {
        0..=DECIMAL128_MAX_PRECISION => Some(DataType::Decimal128(precision, scale)),
        precision if precision <= DECIMAL256_MAX_PRECISION => Some(DataType::Decimal256(precision, scale)),
        _ => None,
    }
}

/// Digits before and behind the point.
fn digits(of: &DataType) -> Option<(i16, i16)> {
    let whole = match of {
        DataType::Int8 | DataType::UInt8 => 3,
        DataType::Int16 | DataType::UInt16 => 5,
        DataType::Int32 | DataType::UInt32 => 10,
        DataType::Int64 => 19,
        DataType::UInt64 => 20,
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => {
            return Some((i16::from(*precision) - i16::from(*scale), i16::from(*scale)));
        }
        _ => return None,
    };
    Some((whole, 0))
}

/// The date, time, moment or duration that holds those of both, in the finer unit.
fn moment(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{Date32, Date64, Duration, Time32, Time64, Timestamp};
    match (a, b) {
        (Date32, Date64) | (Date64, Date32) => Some(Date64),
        (Date32 | Date64, Timestamp(unit, None)) | (Timestamp(unit, None), Date32 | Date64) => {
            Some(Timestamp(*unit, None))
        }
        (Timestamp(a, None), Timestamp(b, None)) => Some(Timestamp(*a.max(b), None)),
        (Timestamp(a, Some(zone)), Timestamp(b, Some(other))) => {
            // Moments are the same in every zone.
            let zone = if zone == other { zone.clone() } else { "UTC".into() };
            Some(Timestamp(*a.max(b), Some(zone)))
        }
        (Duration(a), Duration(b)) => Some(Duration(*a.max(b))),
        (Time32(a), Time32(b)) => Some(Time32(*a.max(b))),
        (Time64(a), Time64(b)) => Some(Time64(*a.max(b))),
        (Time32(_), Time64(unit)) | (Time64(unit), Time32(_)) => Some(Time64(*unit)),
        _ => None,
    }
}

/// Texts are bytes where a file does not say that they are texts.
fn bytes(a: &DataType, b: &DataType) -> Option<DataType> {
    let pair = matches!((a, b), (DataType::Utf8, DataType::Binary) | (DataType::Binary, DataType::Utf8));
    pair.then_some(DataType::Binary)
}

fn merge_fields(column: &str, there: &Fields, here: &Fields, lost: &mut Vec<Differing>) -> DataType {
    let mut fields: Vec<Field> = there.iter().map(|field| field.as_ref().clone()).collect();
    for field in here {
        match fields.iter_mut().find(|known| known.name() == field.name()) {
            Some(known) => {
                let below = format!("{column}.{}", field.name());
                match merge(&below, known.data_type(), field.data_type(), lost) {
                    Ok(merged) => *known = Field::new(field.name(), merged, true),
                    Err(differing) => lost.push(differing),
                }
            }
            None => fields.push(field.as_ref().clone()),
        }
    }
    DataType::Struct(fields.into())
}

/// The number type that holds the values of both.
pub(crate) fn wider(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{Float16, Float32, Float64, Int64, UInt64};
    let bits = |of: &DataType| of.primitive_width().unwrap_or(0);
    let whole = |of: &DataType| of.is_integer();
    let float = |of: &DataType| matches!(of, Float16 | Float32 | Float64);
    let same_kind = a.is_signed_integer() && b.is_signed_integer()
        || a.is_unsigned_integer() && b.is_unsigned_integer()
        || float(a) && float(b);
    if same_kind {
        return Some(if bits(a) >= bits(b) { a.clone() } else { b.clone() });
    }
    match (whole(a) || float(a)) && (whole(b) || float(b)) {
        // No type holds all whole numbers of both.
        true if whole(a) && whole(b) && (*a == UInt64 || *b == UInt64) => None,
        true if whole(a) && whole(b) => Some(Int64),
        true => Some(Float64),
        false => None,
    }
}

/// Sees that no column that is asked for stands twice in a file: which of the two is meant nobody knows.
pub(crate) fn repeated<'a>(
    file: &InputFile,
    names: impl IntoIterator<Item = &'a str>,
    asked: impl Fn(&str) -> bool,
) -> Result<(), PipelineError> {
    let mut seen = HashSet::new();
    match names.into_iter().find(|name| !seen.insert(*name) && asked(name)) {
        Some(column) => {
            Err(PipelineError::Repeated { path: file.path.to_string(), column: column.to_owned() })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{StringArray, StructArray};

    use super::*;
    use crate::config::Format;

    /// A footer and a batch of a damaged file may name the fields of a struct differently.
    #[test]
    fn a_struct_without_the_fields_that_are_wanted_is_null() {
        let of = |name: &str| DataType::Struct(Fields::from(vec![Field::new(name, DataType::Utf8, true)]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["x", "y"]));
        let DataType::Struct(fields) = of("a") else { unreachable!() };
        let column: ArrayRef = Arc::new(StructArray::new(fields, vec![texts], None));
        let cast = cast_to(&column, &of("b")).expect("nulls");
        assert_eq!((cast.data_type(), cast.null_count()), (&of("b"), 2));
    }

    fn file(below: &str) -> InputFile {
        InputFile {
            path: below.into(),
            below: below.to_owned(),
            bytes: 0,
            e_tag: None,
            format: Format::Parquet,
            part: None,
        }
    }

    fn schema(fields: Vec<(&str, DataType)>) -> Schema {
        Schema::new(fields.into_iter().map(|(name, of)| Field::new(name, of, false)).collect::<Vec<_>>())
    }

    fn structure(fields: Vec<(&str, DataType)>) -> DataType {
        DataType::Struct(fields.into_iter().map(|(name, of)| Field::new(name, of, true)).collect())
    }

    #[test]
    fn columns_of_several_files_are_united_by_name() {
        let mut united = United::default();
        let first = schema(vec![
            ("a", DataType::Int32),
            ("m", structure(vec![("x", DataType::Null), ("y", DataType::LargeUtf8)])),
            ("n", DataType::Null),
        ]);
        let second = schema(vec![
            ("m", structure(vec![("z", DataType::Float32), ("x", DataType::Boolean)])),
            ("a", DataType::UInt8),
            ("b", DataType::Utf8View),
        ]);
        united.add(&file("1"), &first);
        united.add(&file("2"), &second);
        let expected = [
            ("a", DataType::Int64),
            ("m", structure(vec![("x", DataType::Boolean), ("y", DataType::Utf8), ("z", DataType::Float32)])),
            ("n", DataType::Utf8),
            ("b", DataType::Utf8),
        ];
        let (fields, clashes) = united.finish();
        assert!(clashes.is_empty());
        let found: Vec<_> =
            fields.iter().map(|field| (field.name().clone(), field.data_type().clone())).collect();
        assert_eq!(found, expected.map(|(name, of)| (name.to_owned(), of)));
    }

    #[test]
    fn columns_that_do_not_fit_are_named_with_both_files() {
        let mut united = United::default();
        let of = |of| schema(vec![("m", structure(vec![("x", of), ("y", DataType::Utf8)]))]);
        united.add(&file("1.parquet"), &of(DataType::Int64));
        united.add(&file("2.parquet"), &of(DataType::Utf8));
        united.add(&file("3.parquet"), &of(DataType::Int64));
        let (fields, clashes) = united.finish();
        assert_eq!(fields[0].data_type(), &structure(vec![("y", DataType::Utf8)]));
        let error = clashes[0].error("s");
        let expected = "column `m.x` of source `s` is Int64 in `1.parquet` and Utf8 in `2.parquet`";
        assert_eq!(error.to_string(), expected);
        assert!(error.hint().is_some());
    }

    #[test]
    fn types_that_differ_only_in_width_are_united() {
        use DataType::{
            Binary, Boolean, Date32, Date64, Decimal128, Decimal256, Float32, Float64, Int32, Int64, Time32,
            Time64, Timestamp, UInt64, Utf8,
        };
        use arrow::datatypes::TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
        let zone = |name: &str| Some(name.into());
        let cases = [
            (Decimal128(7, 5), Decimal128(8, 5), Some(Decimal128(8, 5))),
            (Decimal128(7, 5), Decimal128(6, 2), Some(Decimal128(9, 5))),
            (Decimal128(38, 0), Decimal128(38, 10), Some(Decimal256(48, 10))),
            (Decimal128(7, 5), Int32, Some(Decimal128(15, 5))),
            (Decimal128(7, 5), Float32, Some(Float64)),
            (Int64, UInt64, Some(Decimal128(20, 0))),
            (Date32, Date64, Some(Date64)),
            (Date32, Timestamp(Second, None), Some(Timestamp(Second, None))),
            (Timestamp(Second, None), Timestamp(Nanosecond, None), Some(Timestamp(Nanosecond, None))),
            (
                Timestamp(Microsecond, zone("UTC")),
                Timestamp(Millisecond, zone("+01:00")),
                Some(Timestamp(Microsecond, zone("UTC"))),
            ),
            (Timestamp(Second, None), Timestamp(Second, zone("UTC")), None),
            (Time32(Second), Time64(Microsecond), Some(Time64(Microsecond))),
            (Utf8, Binary, Some(Binary)),
            (Utf8, Int64, None),
            (Boolean, Int64, None),
        ];
        for (a, b, expected) in cases {
            for (a, b) in [(&a, &b), (&b, &a)] {
                assert_eq!(merge("n", a, b, &mut Vec::new()).ok(), expected, "{a} and {b}");
            }
        }
    }

    #[test]
    fn numbers_become_wide_enough() {
        use DataType::{Float32, Float64, Int8, Int64, UInt16, UInt64};
        assert_eq!(wider(&Int8, &Int64), Some(Int64));
        assert_eq!(wider(&UInt16, &UInt64), Some(UInt64));
        assert_eq!(wider(&UInt16, &Int8), Some(Int64));
        assert_eq!(wider(&UInt64, &Int8), None);
        assert_eq!(wider(&Float32, &Int8), Some(Float64));
        assert_eq!(wider(&Float32, &DataType::Utf8), None);
    }
}
