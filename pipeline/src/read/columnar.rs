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
use arrow::datatypes::{DataType, Field, Fields, Float64Type, Int64Type, Schema};
use bytes::Bytes;
use datafusion::common::nested_struct::cast_column;
use datafusion::error::DataFusionError;

use super::batch::{Emit, Parts, TEXT_ROWS, Target, without_place_holders};
use super::nested::column_below;
use super::place::{MATCHED, Matched, Slot, slots, whole};
use super::table::ImageColumns;
use super::{ImageRef, Input};
use crate::PipelineError;
use crate::reject::{Reject, RejectReason};
use crate::units::InputFile;

/// The fields of a struct that name a picture's file, in the order in which they are looked for.
pub(crate) const PATHS: [&str; 3] = ["path", "file_name", "image_name"];

/// A list of values that may be null.
pub(crate) fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}

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
pub(crate) struct United(Vec<(Field, String)>);

impl United {
    /// Takes the columns of a file.
    ///
    /// # Errors
    ///
    /// If a column is of another kind than in a file before.
    pub(crate) fn add(
        &mut self,
        source: &str,
        file: &InputFile,
        schema: &Schema,
    ) -> Result<(), PipelineError> {
        for field in schema.fields().iter().map(|field| plain(field)) {
            let Some((known, first)) = self.0.iter_mut().find(|(known, _)| known.name() == field.name())
            else {
                self.0.push((field, file.below.clone()));
                continue;
            };
            let merged = merge(known.name(), known.data_type(), field.data_type());
            let merged = merged.map_err(|(column, there, here)| PipelineError::Columns {
                name: source.to_owned(),
                column,
                there: format!("{there} in `{first}`"),
                here: format!("{here} in `{}`", file.below),
            })?;
            *known = Field::new(known.name(), merged, true);
        }
        Ok(())
    }

    /// The columns; one that is null in every file is text.
    pub(crate) fn finish(self) -> Vec<Field> {
        let settled = |field: Field| Field::new(field.name(), settle(field.data_type()), true);
        self.0.into_iter().map(|(field, _)| settled(field)).collect()
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
type Clash = (String, DataType, DataType);

/// The type that holds the values of both: a null of anything, wider numbers, more fields.
fn merge(column: &str, there: &DataType, here: &DataType) -> Result<DataType, Clash> {
    match (there, here) {
        (a, b) if a == b => Ok(a.clone()),
        (DataType::Null, other) | (other, DataType::Null) => Ok(other.clone()),
        (DataType::List(a), DataType::List(b)) => merge(column, a.data_type(), b.data_type()).map(list_of),
        (DataType::Struct(a), DataType::Struct(b)) => merge_fields(column, a, b),
        (a, b) => wider(a, b).ok_or_else(|| (column.to_owned(), a.clone(), b.clone())),
    }
}

fn merge_fields(column: &str, there: &Fields, here: &Fields) -> Result<DataType, Clash> {
    let mut fields: Vec<Field> = there.iter().map(|field| field.as_ref().clone()).collect();
    for field in here {
        match fields.iter_mut().find(|known| known.name() == field.name()) {
            Some(known) => {
                let below = format!("{column}.{}", field.name());
                *known = Field::new(field.name(), merge(&below, known.data_type(), field.data_type())?, true);
            }
            None => fields.push(field.as_ref().clone()),
        }
    }
    Ok(DataType::Struct(fields.into()))
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
        united.add("s", &file("1"), &first).expect("fits");
        united.add("s", &file("2"), &second).expect("fits");
        let expected = [
            ("a", DataType::Int64),
            ("m", structure(vec![("x", DataType::Boolean), ("y", DataType::Utf8), ("z", DataType::Float32)])),
            ("n", DataType::Utf8),
            ("b", DataType::Utf8),
        ];
        let found: Vec<_> =
            united.finish().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect();
        assert_eq!(found, expected.map(|(name, of)| (name.to_owned(), of)));
    }

    #[test]
    fn columns_that_do_not_fit_are_named_with_both_files() {
        let mut united = United::default();
        let of = |of| schema(vec![("m", structure(vec![("x", of)]))]);
        united.add("s", &file("1.parquet"), &of(DataType::Int64)).expect("fits");
        let error =
            united.add("s", &file("2.parquet"), &of(DataType::Utf8)).expect_err("a number and a text");
        let expected = "column `m.x` of source `s` is Int64 in `1.parquet` and Utf8 in `2.parquet`";
        assert_eq!(error.to_string(), expected);
        assert!(error.hint().is_some());
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
