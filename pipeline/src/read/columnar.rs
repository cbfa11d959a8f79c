//! What Parquet and Arrow IPC files share: they have columns and types of their own.
//!
//! Files of one source may differ in their columns: they are united by name, also inside structs, and what a file
//! lacks is null. The differences of encoding are taken away: there is one type of text, of bytes, of lists.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, ListBuilder, RecordBatch, StringArray, StringBuilder, StructArray,
};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use bytes::Bytes;

use super::batch::{Emit, Parts, Target, without_place_holders};
use super::nested::column_below;
use super::place::{MATCHED, Matched, Slot, slots, whole};
use super::table::{ImageColumns, PATHS};
use super::united::cast_to;
use super::{ImageRef, Input};
use crate::PipelineError;
use crate::engine::session::TEXT_ROWS;
use crate::row::reject::{Reject, RejectReason};

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
    target.emit_with_images(input, parts, images, emit)
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
            Ok(slots) => placed.push(place_slots(&slots, texts, images_of_row, &mut placed_texts)),
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
    let Some(numbers) = column_below(images, &[MATCHED.to_owned()])? else {
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

fn place_slots(
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
