//! What Parquet and Arrow IPC files share: they have columns and types of their own.
//!
//! Files of one source may differ in their columns: they are united by name, also inside structs, and what a file
//! lacks is null. The differences of encoding are taken away: there is one type of text, of bytes, of lists.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, ListBuilder, RecordBatch, StringArray, StringBuilder, StructArray,
    new_null_array,
};
use arrow::compute::CastOptions;
use arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Field, Fields, Float64Type, Int64Type,
    Schema,
};
use bytes::Bytes;
use datafusion::common::nested_struct::cast_column;
use datafusion::error::DataFusionError;

use super::batch::{Emit, Parts, TEXT_ROWS, Target, without_place_holders};
use super::nested::column_below;
use super::place::{MATCHED, Matched, Slot, slots, whole};
use super::table::ImageColumns;
use super::{ImageRef, Input};
use crate::PipelineError;
use crate::row::columns::list_of;
use crate::row::reject::{Reject, RejectReason};
use crate::units::InputFile;

/// The fields of a struct that name a picture's file, in the order in which they are looked for.
pub(crate) const PATHS: [&str; 3] = ["path", "file_name", "image_name"];

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

fn cast_to(column: &ArrayRef, wanted: &DataType) -> Result<ArrayRef, PipelineError> {
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

/// The row that stands for the rest of a file that can't be read.
pub(crate) fn refused(
    target: &Target,
    row: u64,
    reject: Reject,
    emit: &mut Emit<'_>,
) -> Result<bool, PipelineError> {
    let parts =
        Parts { rows: vec![row], rejects: vec![Some(reject)], images: vec![Vec::new()], ..Parts::default() };
    emit(target.assemble(&parts)?)
}

/// Rows that can't be read, those of them that are asked for; gives how many these are and whether more are wanted.
pub(crate) fn refused_rows(
    target: &Target,
    rows: Range<u64>,
    reject: &Reject,
    emit: &mut Emit<'_>,
) -> Result<(u64, bool), PipelineError> {
    let asked = |row: &u64| target.only.as_ref().is_none_or(|only| only.contains(row));
    let mut rows = rows.filter(asked).peekable();
    let mut read = 0;
    while rows.peek().is_some() {
        let rows: Vec<u64> = rows.by_ref().take(TEXT_ROWS).collect();
        let count = rows.len();
        read += count as u64;
        let (rejects, images) = (vec![Some(reject.clone()); count], vec![Vec::new(); count]);
        if !emit(target.assemble(&Parts { rows, rejects, images, ..Parts::default() })?)? {
            return Ok((read, false));
        }
    }
    Ok((read, true))
}

/// The rows of a batch as a file has them, in the columns of the plan. `numbers` are those of its rows.
pub(crate) fn convert(
    input: &Input,
    target: &Target,
    batch: &RecordBatch,
    numbers: Vec<u64>,
    emit: &mut Emit<'_>,
) -> Result<bool, PipelineError> {
    let rows = batch.num_rows();
    let mut parts = Parts {
        rows: numbers,
        rejects: vec![None; rows],
        images: vec![Vec::new(); rows],
        ..Parts::default()
    };
    for scalar in &target.table.scalars {
        let name = scalar.field.name();
        if target.schema.field_with_name(name).is_ok()
            && let Some(column) = scalar.from.column(batch)?
        {
            let cast = cast_to(&column, scalar.field.data_type())?;
            if *name == target.table.text {
                refuse_no_utf8(name, &column, &cast, &mut parts.rejects);
            }
            parts.scalars.insert(name.clone(), cast);
        }
    }
    let images = images(target, batch, &mut parts)?;
    target.give(input, parts, images, emit)
}

/// Refuses rows whose bytes are no text: the cast makes null of them.
fn refuse_no_utf8(name: &str, column: &ArrayRef, texts: &ArrayRef, rejects: &mut [Option<Reject>]) {
    for (row, reject) in rejects.iter_mut().enumerate() {
        if let Some(bytes) = no_utf8(column, texts, row) {
            let detail = format!("`{name}` is not UTF-8");
            *reject = Some(Reject::new(RejectReason::InvalidUtf8, detail).showing(&bytes));
        }
    }
}

/// The bytes of a row, or of an item of its list, that became null as a text.
fn no_utf8(column: &ArrayRef, texts: &ArrayRef, row: usize) -> Option<Vec<u8>> {
    match column.data_type() {
        _ if column.is_null(row) => None,
        DataType::Binary => texts.is_null(row).then(|| column.as_binary::<i32>().value(row).to_vec()),
        DataType::List(_) => {
            let (items, texts) = (column.as_list::<i32>().value(row), texts.as_list_opt::<i32>()?.value(row));
            (0..items.len()).find_map(|item| no_utf8(&items, &texts, item))
        }
        _ => None,
    }
}

/// The images of each row; the texts of documents that say where their images belong are put in order on the way.
fn images(
    target: &Target,
    batch: &RecordBatch,
    parts: &mut Parts,
) -> Result<Vec<Vec<ImageRef>>, PipelineError> {
    let none = || vec![Vec::new(); batch.num_rows()];
    match &target.table.images {
        ImageColumns::One { from: Some(from) } if target.table.wants_images(&target.schema) => {
            let column = from.column(batch)?;
            Ok(column.map_or_else(none, |column| {
                image_refs(&column).into_iter().map(|image| vec![image]).collect()
            }))
        }
        ImageColumns::Many { from, texts, matched, .. } => {
            let Some(column) = from.column(batch)? else { return Ok(none()) };
            let Some(lists) = column.as_list_opt::<i32>() else { return Ok(none()) };
            let images = many_each(lists);
            if *matched {
                place(texts, lists, images, parts)
            } else {
                Ok(beside_texts(parts.scalars.get(texts), images))
            }
        }
        _ => Ok(none()),
    }
}

fn many_each(lists: &ListArray) -> Vec<Vec<ImageRef>> {
    let list = |row: usize| if lists.is_null(row) { Vec::new() } else { listed_refs(&lists.value(row)) };
    (0..lists.len()).map(list).collect()
}

/// The entries of a list as images. Null is the place of something else; a struct stands for an image.
fn listed_refs(entries: &ArrayRef) -> Vec<ImageRef> {
    let mut images = image_refs(entries);
    if matches!(entries.data_type(), DataType::Struct(_)) {
        for (_, image) in images.iter_mut().enumerate().filter(|(entry, _)| entries.is_valid(*entry)) {
            *image = image.take_listed();
        }
    }
    images
}

/// The images of lists whose places are those of the texts.
fn beside_texts(texts: Option<&ArrayRef>, images: Vec<Vec<ImageRef>>) -> Vec<Vec<ImageRef>> {
    let texts = texts.and_then(|texts| texts.as_list_opt::<i32>());
    let has_text = |row: usize, place: usize| {
        let Some(texts) = texts else { return true };
        let of_row = texts.is_valid(row).then(|| texts.value(row));
        of_row.is_some_and(|texts| place < texts.len() && texts.is_valid(place))
    };
    let rows = images.into_iter().enumerate();
    rows.map(|(row, images)| without_place_holders(images, |place| has_text(row, place))).collect()
}

/// Puts texts and images into the order that the images' numbers of texts say: two lists of one length.
fn place(
    texts_name: &str,
    images: &ListArray,
    refs: Vec<Vec<ImageRef>>,
    parts: &mut Parts,
) -> Result<Vec<Vec<ImageRef>>, PipelineError> {
    let numbers = matched_texts(images.values())?;
    let texts = parts.scalars.get(texts_name).and_then(|column| column.as_list_opt::<i32>().cloned());
    let mut placed_texts = ListBuilder::new(StringBuilder::new());
    let mut placed = Vec::with_capacity(refs.len());
    for (row, images_of_row) in refs.into_iter().enumerate() {
        let start = images.value_offsets()[row] as usize;
        let matched = &numbers[start..start + images_of_row.len()];
        let texts = texts.as_ref().filter(|texts| texts.is_valid(row)).map(|texts| texts.value(row));
        let texts = texts.as_ref().and_then(|texts| texts.as_string_opt::<i32>());
        match slots(texts.map_or(0, StringArray::len), matched) {
            Ok(slots) => placed.push(take_slots(&slots, texts, images_of_row, &mut placed_texts)),
            Err(reject) => {
                parts.rejects[row].get_or_insert(reject);
                placed.push(Vec::new());
                placed_texts.append(true);
            }
        }
    }
    if let Some(column) = parts.scalars.get_mut(texts_name) {
        *column = Arc::new(placed_texts.finish());
    }
    Ok(placed)
}

/// The numbers of texts that images give.
fn matched_texts(images: &ArrayRef) -> Result<Vec<Matched>, PipelineError> {
    let null = || Err("null".to_owned());
    let Some(numbers) = column_below(images, &[MATCHED.to_owned()]).map_err(failed)? else {
        return Ok(vec![null(); images.len()]);
    };
    if numbers.data_type().is_floating() {
        let numbers = cast_to(&numbers, &DataType::Float64)?;
        let numbers = numbers.as_primitive::<Float64Type>();
        return Ok(numbers.iter().map(|number| number.map_or_else(null, whole)).collect());
    }
    let numbers = cast_to(&numbers, &DataType::Int64)?;
    let numbers = numbers.as_primitive::<Int64Type>();
    Ok(numbers.iter().map(|number| number.map_or_else(null, Ok)).collect())
}

fn failed(error: arrow::error::ArrowError) -> PipelineError {
    PipelineError::Plan(error.into())
}

fn take_slots(
    slots: &[Slot],
    texts: Option<&StringArray>,
    mut images: Vec<ImageRef>,
    placed: &mut ListBuilder<StringBuilder>,
) -> Vec<ImageRef> {
    let mut refs = Vec::with_capacity(slots.len());
    for slot in slots {
        match *slot {
            Slot::Text(index) => {
                let text = texts.filter(|texts| texts.is_valid(index)).map(|texts| texts.value(index));
                placed.values().append_option(text);
                refs.push(ImageRef::Absent);
            }
            Slot::Image(index) => {
                placed.values().append_null();
                refs.push(images[index].take_listed());
            }
        }
    }
    placed.append(true);
    refs
}

/// Images in a column of bytes, of paths, or of structs of `bytes` and `path` as Hugging Face datasets writes them.
fn image_refs(column: &ArrayRef) -> Vec<ImageRef> {
    let rows = 0..column.len();
    match column.data_type() {
        DataType::Struct(_) => {
            let fields = column.as_struct();
            rows.map(|row| if fields.is_null(row) { ImageRef::Absent } else { struct_image(fields, row) })
                .collect()
        }
        _ => rows.map(|row| plain_image(column, row)).collect(),
    }
}

fn struct_image(fields: &StructArray, row: usize) -> ImageRef {
    let names = ["bytes"].into_iter().chain(PATHS);
    let images = names.filter_map(|name| fields.column_by_name(name)).map(|column| plain_image(column, row));
    images.into_iter().find(|image| *image != ImageRef::Absent).unwrap_or(ImageRef::Absent)
}

fn plain_image(column: &ArrayRef, row: usize) -> ImageRef {
    if column.is_null(row) {
        return ImageRef::Absent;
    }
    match column.data_type() {
        DataType::Binary => ImageRef::Bytes(Bytes::copy_from_slice(column.as_binary::<i32>().value(row))),
        DataType::Utf8 => ImageRef::Path(column.as_string::<i32>().value(row).to_owned()),
        _ => ImageRef::Absent,
    }
}

#[cfg(test)]
mod tests {
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
