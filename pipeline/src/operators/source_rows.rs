//! Rows of a source as structs: what they hold and what became of them so far.
//!
//! A [`RowReader`] makes them of a batch of the source's own columns, one after the other, and a row becomes a struct
//! once on its way: pictures lie where they lay in the batch until they are decoded.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, ListArray, RecordBatch, StringArray};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, UInt8Type, UInt32Type, UInt64Type};
use datafusion::error::DataFusionError;
use schemas::{Latent, row_hash};

use crate::PipelineError;
use crate::config::{CaptionChoice, Shape, Template};
use crate::document::{Part, numbered};
use crate::row::columns::{
    DETAIL, EXCERPT, FILE, KIND, REASON, ROW, RowKind, SINGLE_CAPTION, UNIT, column, pictures_type, texts,
    texts_type,
};
use crate::row::reject::{Reject, RejectReason};
use crate::units::UnitFiles;

/// A row of a source.
#[derive(Clone, Debug)]
pub(crate) struct SourceRow {
    pub(crate) unit: String,
    /// Index of the file in the unit.
    pub(crate) file: u32,
    pub(crate) row: u64,
    pub(crate) kind: RowKind,
    pub(crate) reject: Option<Reject>,
    /// Remarks, joined by commas.
    pub(crate) warnings: Option<String>,
    pub(crate) id: Option<String>,
    /// Of a pair the captions, each of which makes a document, and then the image.
    pub(crate) parts: Vec<Part<Image>>,
}

/// An image on its way.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Image {
    /// The bytes of a picture's file.
    File(Buffer),
    /// Its pixels: rows of red, green, blue bytes.
    Crop(Vec<u8>),
    Latent(Latent),
}

impl SourceRow {
    /// Makes it a refused row, of which the first text is shown.
    pub(crate) fn refuse(&mut self, reject: Reject) {
        self.kind = RowKind::Reject;
        self.reject = Some(reject.showing(first_text(&self.parts)));
        self.parts.clear();
    }

    /// Bytes that its parts hold.
    pub(crate) fn bytes(&self) -> usize {
        let bytes = |part: &Part<Image>| match part {
            Part::Text(text) => text.len(),
            Part::Image(Image::File(file)) => file.len(),
            Part::Image(Image::Crop(crop)) => crop.len(),
            Part::Image(Image::Latent(latent)) => 2 * latent.values.len(),
        };
        self.parts.iter().map(bytes).sum()
    }
}

/// The first text of a row that is not empty.
pub(crate) fn first_text(parts: &[Part<Image>]) -> &[u8] {
    let texts = parts.iter().filter_map(|part| if let Part::Text(text) = part { Some(text) } else { None });
    texts.map(String::as_bytes).find(|text| !text.is_empty()).unwrap_or_default()
}

/// What the hashes of a source's rows are made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct RowHashes {
    pub(crate) seed: u64,
    /// Name of the source.
    pub(crate) source: String,
    pub(crate) files: Arc<UnitFiles>,
}

impl RowHashes {
    /// The hash of a row for a purpose.
    pub(crate) fn of(&self, unit: &str, file: u32, row: u64, purpose: &str) -> u64 {
        row_hash(self.seed, &self.source, self.files.path(unit, file), row, purpose)
    }
}

/// What is made of the captions of a row.
#[derive(Clone, Debug, Default)]
pub(crate) struct CaptionRules {
    pub(crate) choice: CaptionChoice,
    /// Text around each caption; none: the caption alone.
    pub(crate) templates: Vec<String>,
}

impl CaptionRules {
    /// All captions as they are: what a row says, whatever is made of it.
    pub(crate) fn content() -> Self {
        Self { choice: CaptionChoice::Each, templates: Vec::new() }
    }
}

/// Makes rows of the batches of a source.
#[derive(Clone, Debug)]
pub(crate) struct RowReader {
    pub(crate) shape: Shape,
    pub(crate) captions: CaptionRules,
    pub(crate) hashes: RowHashes,
}

/// The parts of a row of a batch.
type PartsOf<'a> = dyn Fn(usize, &SourceRow) -> Result<Vec<Part<Image>>, Reject> + 'a;

impl RowReader {
    /// The rows of a batch of the source's own columns. One without what its shape needs is refused.
    pub(crate) fn rows(&self, batch: &RecordBatch) -> Result<Vec<SourceRow>, PipelineError> {
        let mut rows = heads(batch)?;
        let parts = self.parts_of(batch)?;
        for (place, row) in rows.iter_mut().enumerate().filter(|(_, row)| row.kind == RowKind::Row) {
            match parts(place, row) {
                Ok(parts) => row.parts = parts,
                Err(reject) => row.refuse(reject),
            }
        }
        Ok(rows)
    }

    fn parts_of(&self, batch: &RecordBatch) -> Result<Box<PartsOf<'_>>, PipelineError> {
        Ok(match self.shape {
            Shape::Text => {
                let text = texts(batch, "text")?;
                Box::new(move |row, _| {
                    Ok(vec![Part::Text(required(text.as_ref(), row, RejectReason::MissingText)?)])
                })
            }
            Shape::Pair => {
                let captions = CaptionColumns::of(batch)?;
                let images = column(batch, "image", &DataType::Binary)?;
                Box::new(move |row, head| {
                    let captions = captions.of_row(row, head, self)?;
                    let images = images.as_ref().map(|images| images.as_binary::<i32>());
                    let image = images.filter(|images| images.is_valid(row)).map(|images| file(images, row));
                    let image =
                        image.ok_or_else(|| Reject::new(RejectReason::MissingImage, "there is no image"))?;
                    Ok(captions.into_iter().map(Part::Text).chain([Part::Image(image)]).collect())
                })
            }
            Shape::Interleaved => {
                let texts = column(batch, "texts", &texts_type())?;
                let images = column(batch, "images", &pictures_type())?;
                Box::new(move |row, _| Ok(interleave(texts.as_ref(), images.as_ref(), row)))
            }
        })
    }

    /// The texts of a batch of text columns alone. A row without the text its shape needs gives none.
    pub(crate) fn texts(&self, batch: &RecordBatch) -> Result<Vec<String>, PipelineError> {
        if self.shape == Shape::Pair {
            let captions = CaptionColumns::of(batch)?;
            let heads = heads(batch)?;
            let rows = heads.iter().enumerate().filter(|(_, head)| head.kind == RowKind::Row);
            return Ok(rows
                .flat_map(|(row, head)| captions.of_row(row, head, self).unwrap_or_default())
                .collect());
        }
        let parts = self.rows(batch)?.into_iter().flat_map(|row| row.parts);
        Ok(parts.filter_map(|part| if let Part::Text(text) = part { Some(text) } else { None }).collect())
    }

    fn hash(&self, row: &SourceRow, purpose: &str) -> u64 {
        self.hashes.of(&row.unit, row.file, row.row, purpose)
    }

    /// The texts of the documents that a row's captions make.
    fn captions_as_texts(&self, row: &SourceRow, captions: Vec<&str>) -> Vec<String> {
        let count = captions.len().max(1) as u64;
        match self.captions.choice {
            CaptionChoice::Hash => {
                let chosen = (self.hash(row, "caption") % count) as usize;
                captions.get(chosen).map(|caption| self.framed(row, 0, caption)).into_iter().collect()
            }
            CaptionChoice::All => vec![self.each(row, &captions).join("\n")],
            CaptionChoice::Each => self.each(row, &captions),
        }
    }

    fn each(&self, row: &SourceRow, captions: &[&str]) -> Vec<String> {
        captions.iter().enumerate().map(|(number, caption)| self.framed(row, number, caption)).collect()
    }

    /// A caption in the template that the row's hash chooses for it.
    fn framed(&self, row: &SourceRow, number: usize, caption: &str) -> String {
        let templates = &self.captions.templates;
        let chosen = match templates.len() {
            0 => return caption.to_owned(),
            1 => 0,
            count => self.hash(row, &numbered("template", number)) % count as u64,
        };
        templates[chosen as usize].replace(Template::PLACE, caption)
    }
}

/// The rows of a batch without their parts.
fn heads(batch: &RecordBatch) -> Result<Vec<SourceRow>, PipelineError> {
    let (units, reasons, details) = (texts(batch, UNIT)?, texts(batch, REASON)?, texts(batch, DETAIL)?);
    let excerpts = texts(batch, EXCERPT)?;
    let (ids, warnings) = (texts(batch, "id")?, texts(batch, "warnings")?);
    let files = column(batch, FILE, &DataType::UInt32)?;
    let rows = column(batch, ROW, &DataType::UInt64)?;
    let kinds = column(batch, KIND, &DataType::UInt8)?;
    let (Some(units), Some(files), Some(rows), Some(kinds)) = (units, files, rows, kinds) else {
        let what = "a batch without its own columns".to_owned();
        return Err(PipelineError::Plan(DataFusionError::Internal(what)));
    };
    let text = |column: &Option<StringArray>, row: usize| {
        column.as_ref().filter(|column| column.is_valid(row)).map(|column| column.value(row).to_owned())
    };
    let source_row = |row: usize| {
        let reason = text(&reasons, row).and_then(|name| RejectReason::from_name(&name));
        SourceRow {
            unit: units.value(row).to_owned(),
            file: files.as_primitive::<UInt32Type>().value(row),
            row: rows.as_primitive::<UInt64Type>().value(row),
            kind: RowKind::of(kinds.as_primitive::<UInt8Type>().value(row)),
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
    Ok((0..batch.num_rows()).map(source_row).collect())
}

/// The bytes of a picture, where they lie.
fn file(pictures: &BinaryArray, row: usize) -> Image {
    let offsets = pictures.value_offsets();
    let (start, end) = (offsets[row] as usize, offsets[row + 1] as usize);
    Image::File(pictures.values().slice_with_length(start, end - start))
}

fn required(column: Option<&StringArray>, row: usize, missing: RejectReason) -> Result<String, Reject> {
    let text = column.filter(|column| column.is_valid(row)).map(|column| column.value(row).to_owned());
    text.ok_or_else(|| Reject::new(missing, "absent or null"))
}

struct CaptionColumns {
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
            let lists = column(batch, name, &texts_type())?;
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

impl CaptionColumns {
    fn of(batch: &RecordBatch) -> Result<Self, PipelineError> {
        let of = |name| CaptionColumn::of(batch, name);
        Ok(Self { column: of("caption")?, single: of(SINGLE_CAPTION)? })
    }

    /// The texts of the row's documents, at least one.
    fn of_row(&self, row: usize, head: &SourceRow, reader: &RowReader) -> Result<Vec<String>, Reject> {
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
        Ok(reader.captions_as_texts(head, usable(&captions)?))
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
fn interleave(texts: Option<&ArrayRef>, images: Option<&ArrayRef>, row: usize) -> Vec<Part<Image>> {
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
            parts.push(Part::Image(file(images.as_binary(), place)));
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(row: u64) -> SourceRow {
        SourceRow {
            unit: "u".to_owned(),
            file: 0,
            row,
            kind: RowKind::Row,
            reject: None,
            warnings: None,
            id: None,
            parts: Vec::new(),
        }
    }

    fn made(number: u64, choice: CaptionChoice, templates: &[&str], captions: &[&str]) -> Vec<String> {
        let templates = templates.iter().map(|text| (*text).to_owned()).collect();
        let captions_of = CaptionRules { choice, templates };
        let hashes = RowHashes { source: "s".to_owned(), ..RowHashes::default() };
        let reader = RowReader { shape: Shape::Pair, captions: captions_of, hashes };
        reader.captions_as_texts(&row(number), captions.to_vec())
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
    fn pictures_lie_where_they_lay_in_the_batch() {
        let pictures = BinaryArray::from_vec(vec![b"ab", b"", b"cde"]).slice(1, 2);
        assert_eq!(file(&pictures, 0), Image::File(Buffer::from(b"")));
        let Image::File(bytes) = file(&pictures, 1) else { panic!("a file") };
        assert_eq!(&*bytes, b"cde");
        assert_eq!(bytes.as_ptr(), pictures.value(1).as_ptr());
    }
}
