//! Rows between the operators: what a row became so far, and the Arrow columns that carry it.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, ListArray, RecordBatch, StringArray, StructArray,
    UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{
    DataType, Field, Fields, Schema, SchemaRef, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use half::f16;
use schemas::{Latent, row_hash};

use crate::PipelineError;
use crate::config::{CaptionChoice, Shape, Template};
use crate::document::numbered;
use crate::row::columns::{
    DETAIL, EXCERPT, FILE, KIND, Kind, REASON, ROW, SINGLE_CAPTION, UNIT, column, texts,
};
use crate::row::reject::{Reject, RejectReason};

/// A row on its way.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) unit: String,
    /// Index of the file in the unit.
    pub(crate) file: u32,
    pub(crate) row: u64,
    pub(crate) kind: Kind,
    pub(crate) reject: Option<Reject>,
    /// Remarks, joined by commas.
    pub(crate) warnings: Option<String>,
    pub(crate) id: Option<String>,
    /// Of a pair the captions, each of which makes a document, and then the image.
    pub(crate) parts: Vec<Part>,
}

/// A part of a document.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Part {
    Text(String),
    /// An encoded picture, or its pixels once it is decoded.
    Image(Vec<u8>),
    Latent(Latent),
}

impl Item {
    /// Makes it a refused row, of which the first text is shown.
    pub(crate) fn refuse(&mut self, reject: Reject) {
        self.kind = Kind::Reject;
        self.reject = Some(reject.showing(first_text(&self.parts)));
        self.parts.clear();
    }
}

/// The first text of a row that is not empty.
pub(crate) fn first_text(parts: &[Part]) -> &[u8] {
    let texts = parts.iter().filter_map(|part| if let Part::Text(text) = part { Some(text) } else { None });
    texts.map(String::as_bytes).find(|text| !text.is_empty()).unwrap_or_default()
}

/// What is made of the captions of a row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Captioning {
    pub(crate) choice: CaptionChoice,
    /// Text around each caption; none: the caption alone.
    pub(crate) templates: Vec<String>,
}

impl Captioning {
    /// All captions as they are: what a row says, whatever is made of it.
    pub(crate) fn content() -> Self {
        Self { choice: CaptionChoice::Each, templates: Vec::new() }
    }
}

/// The names of files in units, for choices by the hash of a row.
pub(crate) struct Choice<'a> {
    pub(crate) seed: u64,
    pub(crate) source: &'a str,
    /// Path of a file of a unit.
    pub(crate) path: &'a (dyn Fn(&str, u32) -> String + Sync),
    pub(crate) captioning: &'a Captioning,
}

impl Choice<'_> {
    fn hash(&self, item: &Item, purpose: &str) -> u64 {
        row_hash(self.seed, self.source, &(self.path)(&item.unit, item.file), item.row, purpose)
    }

    /// The texts of the documents that a row's captions make.
    fn texts(&self, item: &Item, captions: Vec<&str>) -> Vec<String> {
        let count = captions.len().max(1) as u64;
        match self.captioning.choice {
            CaptionChoice::Hash => {
                let chosen = (self.hash(item, "caption") % count) as usize;
                captions.get(chosen).map(|caption| self.framed(item, 0, caption)).into_iter().collect()
            }
            CaptionChoice::All => vec![self.each(item, &captions).join("\n")],
            CaptionChoice::Each => self.each(item, &captions),
        }
    }

    fn each(&self, item: &Item, captions: &[&str]) -> Vec<String> {
        captions.iter().enumerate().map(|(number, caption)| self.framed(item, number, caption)).collect()
    }

    /// A caption in the template that the row's hash chooses for it.
    fn framed(&self, item: &Item, number: usize, caption: &str) -> String {
        let templates = &self.captioning.templates;
        let chosen = match templates.len() {
            0 => return caption.to_owned(),
            1 => 0,
            count => self.hash(item, &numbered("template", number)) % count as u64,
        };
        templates[chosen as usize].replace(Template::PLACE, caption)
    }
}

fn heads(batch: &RecordBatch) -> Result<Vec<Item>, PipelineError> {
    let (units, reasons, details) = (texts(batch, UNIT)?, texts(batch, REASON)?, texts(batch, DETAIL)?);
    let excerpts = texts(batch, EXCERPT)?;
    let (ids, warnings) = (texts(batch, "id")?, texts(batch, "warnings")?);
    let files = column(batch, FILE, &DataType::UInt32)?;
    let rows = column(batch, ROW, &DataType::UInt64)?;
    let kinds = column(batch, KIND, &DataType::UInt8)?;
    let (Some(units), Some(files), Some(rows), Some(kinds)) = (units, files, rows, kinds) else {
        let what = "a batch without its own columns".to_owned();
        return Err(PipelineError::Plan(datafusion::error::DataFusionError::Internal(what)));
    };
    let text = |column: &Option<StringArray>, row: usize| {
        column.as_ref().filter(|column| column.is_valid(row)).map(|column| column.value(row).to_owned())
    };
    let item = |row: usize| {
        let reason = text(&reasons, row).and_then(|name| RejectReason::from_name(&name));
        Item {
            unit: units.value(row).to_owned(),
            file: files.as_primitive::<UInt32Type>().value(row),
            row: rows.as_primitive::<UInt64Type>().value(row),
            kind: Kind::of(kinds.as_primitive::<UInt8Type>().value(row)),
            reject: reason.map(|reason| Reject {
                reason,
                detail: text(&details, row).unwrap_or_default(),
                excerpt: text(&excerpts, row).unwrap_or_default(),
            }),
            warnings: text(&warnings, row),
            id: text(&ids, row),
            parts: Vec::new(),
        }
    };
    Ok((0..batch.num_rows()).map(item).collect())
}

/// The texts of a batch of text columns alone. A row without the text its shape needs gives none.
pub(crate) fn texts_from_columns(
    batch: &RecordBatch,
    shape: Shape,
    choice: &Choice<'_>,
) -> Result<Vec<String>, PipelineError> {
    if shape == Shape::Pair {
        let captions = Captions::of(batch)?;
        let items = heads(batch)?;
        let rows = items.iter().enumerate().filter(|(_, item)| item.kind == Kind::Row);
        return Ok(rows
            .flat_map(|(row, item)| captions.of_row(row, item, choice).unwrap_or_default())
            .collect());
    }
    let parts = from_columns(batch, shape, choice)?.into_iter().flat_map(|item| item.parts);
    Ok(parts.filter_map(|part| if let Part::Text(text) = part { Some(text) } else { None }).collect())
}

/// The parts of a row of a batch.
type PartsOf<'a> = dyn Fn(usize, &Item) -> Result<Vec<Part>, Reject> + 'a;

/// The items of a batch of the source's own columns. A row without what its shape needs becomes a reject.
pub(crate) fn from_columns(
    batch: &RecordBatch,
    shape: Shape,
    choice: &Choice<'_>,
) -> Result<Vec<Item>, PipelineError> {
    let mut items = heads(batch)?;
    let parts: Box<PartsOf<'_>> = match shape {
        Shape::Text => {
            let text = texts(batch, "text")?;
            Box::new(move |row, _| {
                Ok(vec![Part::Text(required(text.as_ref(), row, RejectReason::MissingText)?)])
            })
        }
        Shape::Pair => {
            let captions = Captions::of(batch)?;
            let images = column(batch, "image", &DataType::Binary)?;
            Box::new(move |row, item| {
                let captions = captions.of_row(row, item, choice)?;
                let images = images.as_ref().map(|images| images.as_binary::<i32>());
                let image =
                    images.filter(|images| images.is_valid(row)).map(|images| images.value(row).to_vec());
                let image =
                    image.ok_or_else(|| Reject::new(RejectReason::MissingImage, "there is no image"))?;
                Ok(captions.into_iter().map(Part::Text).chain([Part::Image(image)]).collect())
            })
        }
        Shape::Interleaved => {
            let texts = column(batch, "texts", &crate::row::columns::texts_type())?;
            let images = column(batch, "images", &crate::row::columns::pictures_type())?;
            Box::new(move |row, _| Ok(interleave(texts.as_ref(), images.as_ref(), row)))
        }
    };
    for (row, item) in items.iter_mut().enumerate().filter(|(_, item)| item.kind == Kind::Row) {
        match parts(row, item) {
            Ok(parts) => item.parts = parts,
            Err(reject) => item.refuse(reject),
        }
    }
    Ok(items)
}

fn required(column: Option<&StringArray>, row: usize, missing: RejectReason) -> Result<String, Reject> {
    let text = column.filter(|column| column.is_valid(row)).map(|column| column.value(row).to_owned());
    text.ok_or_else(|| Reject::new(missing, "absent or null"))
}

struct Captions {
    column: CaptionColumn,
    /// What a row has whose list in `column` has no captions.
    single: CaptionColumn,
}

enum CaptionColumn {
    None,
    One(StringArray),
    Many(ListArray),
}

impl CaptionColumn {
    fn of(batch: &RecordBatch, name: &str) -> Result<Self, PipelineError> {
        let is_list =
            |column: &ArrayRef| matches!(column.data_type(), DataType::List(_) | DataType::LargeList(_));
        if batch.column_by_name(name).is_some_and(is_list) {
            let lists = column(batch, name, &crate::row::columns::texts_type())?;
            return Ok(lists.map_or(Self::None, |lists| Self::Many(lists.as_list::<i32>().clone())));
        }
        Ok(texts(batch, name)?.map_or(Self::None, Self::One))
    }

    /// The captions of a row that are not null.
    fn of_row(&self, row: usize) -> Vec<String> {
        match self {
            Self::One(column) if column.is_valid(row) => vec![column.value(row).to_owned()],
            Self::Many(lists) if lists.is_valid(row) => {
                lists.value(row).as_string::<i32>().iter().flatten().map(str::to_owned).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Captions {
    fn of(batch: &RecordBatch) -> Result<Self, PipelineError> {
        let of = |name| CaptionColumn::of(batch, name);
        Ok(Self { column: of("caption")?, single: of(SINGLE_CAPTION)? })
    }

    /// The texts of the row's documents, at least one.
    fn of_row(&self, row: usize, item: &Item, choice: &Choice<'_>) -> Result<Vec<String>, Reject> {
        let mut captions = self.column.of_row(row);
        if captions.iter().all(|caption| is_blank(caption)) {
            captions.extend(self.single.of_row(row));
        }
        if captions.is_empty() {
            let detail = match self.column {
                CaptionColumn::Many(_) => "absent, null or an empty list",
                _ => "absent or null",
            };
            return Err(Reject::new(RejectReason::MissingCaption, detail));
        }
        Ok(choice.texts(item, usable(&captions)?))
    }
}

fn is_blank(caption: &str) -> bool {
    caption.trim().is_empty()
}

/// The captions that are not blank; a template would hide that one is.
fn usable(captions: &[String]) -> Result<Vec<&str>, Reject> {
    let captions: Vec<&str> =
        captions.iter().map(String::as_str).filter(|caption| !is_blank(caption)).collect();
    if captions.is_empty() {
        return Err(Reject::new(RejectReason::Empty, "nothing but white space"));
    }
    Ok(captions)
}

/// Texts and images in their order; at one place the text stands first.
fn interleave(texts: Option<&ArrayRef>, images: Option<&ArrayRef>, row: usize) -> Vec<Part> {
    let list = |column: Option<&ArrayRef>| {
        column.filter(|column| column.is_valid(row)).map(|column| column.as_list::<i32>().value(row))
    };
    let (texts, images) = (list(texts), list(images));
    let length = |list: &Option<ArrayRef>| list.as_ref().map_or(0, |list| list.len());
    let mut parts = Vec::new();
    for place in 0..length(&texts).max(length(&images)) {
        let valid = |list: &&ArrayRef| place < list.len() && list.is_valid(place);
        if let Some(texts) = texts.as_ref().filter(valid) {
            parts.push(Part::Text(texts.as_string::<i32>().value(place).to_owned()));
        }
        if let Some(images) = images.as_ref().filter(valid) {
            parts.push(Part::Image(images.as_binary::<i32>().value(place).to_vec()));
        }
    }
    parts
}

fn part_fields() -> Fields {
    Fields::from(vec![
        Field::new("text", DataType::Utf8, true),
        Field::new("image", DataType::Binary, true),
        Field::new("channels", DataType::UInt16, true),
        Field::new("height", DataType::UInt16, true),
        Field::new("width", DataType::UInt16, true),
        Field::new("moments", DataType::Boolean, true),
        Field::new("latent", DataType::Binary, true),
    ])
}

fn part_item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Struct(part_fields()), false))
}

/// The columns of items.
pub(crate) fn item_schema() -> SchemaRef {
    let mut fields = crate::row::columns::system_fields();
    fields.extend([
        Field::new("warnings", DataType::Utf8, true),
        Field::new("id", DataType::Utf8, true),
        Field::new("parts", DataType::List(part_item()), false),
    ]);
    Arc::new(Schema::new(fields))
}

/// Items as a batch of [`item_schema`].
pub(crate) fn to_batch(items: &[Item]) -> Result<RecordBatch, PipelineError> {
    let text = |of: fn(&Item) -> Option<&str>| -> ArrayRef {
        Arc::new(StringArray::from_iter(items.iter().map(of)))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(items.iter().map(|item| &item.unit))),
        Arc::new(UInt32Array::from_iter_values(items.iter().map(|item| item.file))),
        Arc::new(UInt64Array::from_iter_values(items.iter().map(|item| item.row))),
        Arc::new(UInt8Array::from_iter_values(items.iter().map(|item| item.kind as u8))),
        text(|item| item.reject.as_ref().map(|reject| reject.reason.name())),
        text(|item| item.reject.as_ref().map(|reject| reject.detail.as_str())),
        text(|item| item.reject.as_ref().map(|reject| reject.excerpt.as_str())),
        text(|item| item.warnings.as_deref()),
        text(|item| item.id.as_deref()),
        part_column(items)?,
    ];
    RecordBatch::try_new(item_schema(), columns).map_err(PipelineError::from)
}

fn part_column(items: &[Item]) -> Result<ArrayRef, arrow::error::ArrowError> {
    let parts = || items.iter().flat_map(|item| item.parts.iter());
    let latent = |part: &'_ Part| if let Part::Latent(latent) = part { Some(shape_of(latent)) } else { None };
    let side = |of: fn(&(u16, u16, u16)) -> u16| -> ArrayRef {
        Arc::new(UInt16Array::from_iter(parts().map(|part| latent(part).as_ref().map(of))))
    };
    let texts = parts().map(|part| if let Part::Text(text) = part { Some(text.as_str()) } else { None });
    let images =
        parts().map(|part| if let Part::Image(bytes) = part { Some(bytes.as_slice()) } else { None });
    let latents =
        parts().map(|part| if let Part::Latent(latent) = part { Some(latent_bytes(latent)) } else { None });
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter(texts)),
        Arc::new(BinaryArray::from_iter(images)),
        side(|shape| shape.0),
        side(|shape| shape.1),
        side(|shape| shape.2),
        Arc::new(BooleanArray::from_iter(
            parts().map(|part| if let Part::Latent(latent) = part { Some(latent.moments) } else { None }),
        )),
        Arc::new(BinaryArray::from_iter(latents)),
    ];
    let values = StructArray::try_new(part_fields(), columns, None)?;
    let offsets = OffsetBuffer::from_lengths(items.iter().map(|item| item.parts.len()));
    Ok(Arc::new(ListArray::try_new(part_item(), offsets, Arc::new(values), None)?))
}

fn shape_of(latent: &Latent) -> (u16, u16, u16) {
    (latent.channels, latent.height, latent.width)
}

fn latent_bytes(latent: &Latent) -> Vec<u8> {
    latent.values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The items of a batch of [`item_schema`].
pub(crate) fn from_batch(batch: &RecordBatch) -> Result<Vec<Item>, PipelineError> {
    let mut items = heads(batch)?;
    let lists = batch["parts"].as_list::<i32>();
    for (row, item) in items.iter_mut().enumerate() {
        item.parts = read_parts(lists.value(row).as_struct());
    }
    Ok(items)
}

fn read_parts(parts: &StructArray) -> Vec<Part> {
    let (texts, images) = (parts.column(0).as_string::<i32>(), parts.column(1).as_binary::<i32>());
    let side = |column: usize, part: usize| parts.column(column).as_primitive::<UInt16Type>().value(part);
    let (moments, latents) = (parts.column(5).as_boolean(), parts.column(6).as_binary::<i32>());
    let latent = |part: usize| Latent {
        channels: side(2, part),
        height: side(3, part),
        width: side(4, part),
        moments: moments.value(part),
        values: latents
            .value(part)
            .chunks_exact(2)
            .map(|pair| f16::from_le_bytes([pair[0], pair[1]]))
            .collect(),
    };
    (0..parts.len())
        .map(|part| match (texts.is_valid(part), images.is_valid(part)) {
            (true, _) => Part::Text(texts.value(part).to_owned()),
            (_, true) => Part::Image(images.value(part).to_vec()),
            _ => Part::Latent(latent(part)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(row: u64) -> Item {
        Item {
            unit: "u".to_owned(),
            file: 0,
            row,
            kind: Kind::Row,
            reject: None,
            warnings: None,
            id: None,
            parts: Vec::new(),
        }
    }

    fn made(row: u64, choice: CaptionChoice, templates: &[&str], captions: &[&str]) -> Vec<String> {
        let captioning =
            Captioning { choice, templates: templates.iter().map(|text| (*text).to_owned()).collect() };
        let path = |_: &str, _: u32| "file".to_owned();
        let choice = Choice { seed: 0, source: "s", path: &path, captioning: &captioning };
        choice.texts(&item(row), captions.to_vec())
    }

    #[test]
    fn captions_become_one_document_or_several() {
        use CaptionChoice::{All, Each, Hash};
        let captions = ["a", "b", "c"];
        assert_eq!(made(0, All, &[], &captions), ["a\nb\nc"]);
        assert_eq!(made(0, Each, &[], &captions), captions);
        assert_eq!(
            made(0, Each, &["<{caption}> {caption}"], &["x", "{caption}"]),
            ["<x> x", "<{caption}> {caption}"]
        );
        let chosen: std::collections::BTreeSet<String> =
            (0..50).flat_map(|row| made(row, Hash, &["1 {caption}", "2 {caption}"], &captions)).collect();
        assert_eq!(chosen.into_iter().collect::<Vec<_>>(), ["1 a", "1 b", "1 c", "2 a", "2 b", "2 c"]);
    }

    #[test]
    fn each_caption_of_a_row_has_its_own_draw() {
        let texts: Vec<String> = (0..30)
            .flat_map(|row| made(row, CaptionChoice::Each, &["1{caption}", "2{caption}"], &["", ""]))
            .collect();
        let pairs: std::collections::BTreeSet<&[String]> = texts.chunks(2).collect();
        assert_eq!(pairs.len(), 4, "{pairs:?}");
    }

    #[test]
    fn items_survive_their_columns() {
        let latent =
            Latent { channels: 1, height: 1, width: 1, moments: true, values: vec![f16::ONE, f16::NEG_ONE] };
        let item = |row, parts| Item {
            unit: "u".to_owned(),
            file: 3,
            row,
            kind: Kind::Row,
            reject: None,
            warnings: Some("exif_bad".to_owned()),
            id: Some("x".to_owned()),
            parts,
        };
        let mut items = vec![
            item(5, vec![Part::Text("a".to_owned()), Part::Image(vec![1, 2]), Part::Latent(latent)]),
            item(6, Vec::new()),
        ];
        items[1].refuse(Reject::new(RejectReason::Empty, "white space"));
        let back = from_batch(&to_batch(&items).expect("a batch")).expect("items");
        assert_eq!(format!("{back:?}"), format!("{items:?}"));
    }
}
