//! Documents between the operators: the columns of `TokenizeExec`, and how `PackExec` reads them.
//!
//! A row is a document with the ids of all its positions, or a part of one: a long text comes in several rows, the last of
//! which `ends`. Refused rows and the ends of units have no ids. A row of the source may give several documents.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, ListArray, RecordBatch, StringArray, UInt8Array, UInt32Array,
    new_null_array,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt8Type, UInt32Type, UInt64Type};
use schemas::{Latent, Order, Provenance, RowLayout, decode_latents, encode_latents, latents_type};

use crate::PipelineError;
use crate::config::Shape;
use crate::document::Document;
use crate::row::columns::{DETAIL, EXCERPT, FILE, KIND, Kind, REASON, ROW, UNIT, system_fields, texts};
use crate::row::reject::{Reject, RejectReason};

/// What becomes of a row.
#[derive(Clone, Debug)]
pub(crate) struct Fate {
    pub(crate) kind: Kind,
    pub(crate) reject: Option<Reject>,
    /// The dataset that it goes to.
    pub(crate) split: u8,
    /// How often it is packed.
    pub(crate) copies: u32,
}

impl Fate {
    pub(crate) fn of(kind: Kind) -> Self {
        Self { kind, reject: None, split: 0, copies: 0 }
    }
}

/// What rows became, in the order of the rows.
pub(crate) struct Contents {
    /// The ids of all of them.
    pub(crate) ids: Vec<u32>,
    /// How many of them each has.
    pub(crate) lengths: Vec<usize>,
    /// Whether each row is the end of its document; off for a part of a long text.
    pub(crate) ends: bool,
    /// How many documents of its row stand before each.
    pub(crate) earlier: Vec<u32>,
    /// All that only documents with images have.
    pub(crate) images: Option<ImageContents>,
}

/// Order, ends of parts and images of each row.
#[derive(Default)]
pub(crate) struct ImageContents {
    pub(crate) orders: Vec<u8>,
    pub(crate) part_ends: Vec<Vec<u32>>,
    pub(crate) images: Vec<Vec<Latent>>,
}

fn ids_field() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::UInt32, false))
}

/// The columns of documents.
pub(crate) fn document_schema() -> SchemaRef {
    let ids = || DataType::List(ids_field());
    let mut fields = system_fields();
    fields.extend([
        Field::new("warnings", DataType::Utf8, true),
        Field::new("id", DataType::Utf8, true),
        Field::new("tokens", ids(), false),
        Field::new("ends", DataType::Boolean, false),
        Field::new("split", DataType::UInt8, false),
        Field::new("earlier", DataType::UInt32, false),
        Field::new("copies", DataType::UInt32, false),
        Field::new("order", DataType::UInt8, false),
        Field::new("part_ends", ids(), false),
        Field::new("images", latents_type(), false),
    ]);
    Arc::new(Schema::new(fields))
}

/// The batch of documents made from the rows of `batch`, one of each, whose own columns it takes over.
pub(crate) fn to_batch(
    batch: &RecordBatch,
    fates: &[Fate],
    contents: Contents,
) -> Result<RecordBatch, PipelineError> {
    let count = fates.len();
    let of = |name: &str| {
        let missing =
            || PipelineError::Plan(datafusion::error::DataFusionError::Internal(format!("no {name}")));
        batch.column_by_name(name).cloned().ok_or_else(missing)
    };
    let text = |name: &str| -> Result<ArrayRef, PipelineError> {
        let column = texts(batch, name)?;
        Ok(column
            .map_or_else(|| new_null_array(&DataType::Utf8, count), |column| Arc::new(column) as ArrayRef))
    };
    // Most batches have no reject, and then nothing has to be written anew.
    let refused = fates.iter().any(|fate| fate.reject.is_some());
    let reject = |name, of: fn(&Reject) -> &str| -> Result<ArrayRef, PipelineError> {
        if !refused {
            return text(name);
        }
        let before = texts(batch, name)?;
        let before = |row| before.as_ref().and_then(|column| value(column, row));
        let rejects = fates.iter().enumerate();
        let rejects = rejects.map(|(row, fate)| fate.reject.as_ref().map(of).or_else(|| before(row)));
        Ok(Arc::new(StringArray::from_iter(rejects)))
    };
    let ImageColumns { order, part_ends, images } = ImageColumns::of(contents.images, count)?;
    let columns: Vec<ArrayRef> = vec![
        of(UNIT)?,
        of(FILE)?,
        of(ROW)?,
        Arc::new(UInt8Array::from_iter_values(fates.iter().map(|fate| fate.kind as u8))),
        reject(REASON, |reject| reject.reason.name())?,
        reject(DETAIL, |reject| &reject.detail)?,
        reject(EXCERPT, |reject| &reject.excerpt)?,
        text("warnings")?,
        text("id")?,
        lists(contents.ids, contents.lengths.into_iter())?,
        Arc::new(BooleanArray::from(vec![contents.ends; count])),
        Arc::new(UInt8Array::from_iter_values(fates.iter().map(|fate| fate.split))),
        Arc::new(UInt32Array::from(contents.earlier)),
        Arc::new(UInt32Array::from_iter_values(fates.iter().map(|fate| fate.copies))),
        order,
        part_ends,
        images,
    ];
    RecordBatch::try_new(document_schema(), columns).map_err(PipelineError::from)
}

struct ImageColumns {
    order: ArrayRef,
    part_ends: ArrayRef,
    images: ArrayRef,
}

impl ImageColumns {
    fn of(contents: Option<ImageContents>, count: usize) -> Result<Self, PipelineError> {
        let contents = contents.unwrap_or_else(|| ImageContents {
            orders: vec![Order::Neither as u8; count],
            part_ends: vec![Vec::new(); count],
            images: vec![Vec::new(); count],
        });
        let images: Vec<&[Latent]> = contents.images.iter().map(Vec::as_slice).collect();
        Ok(Self {
            order: Arc::new(UInt8Array::from(contents.orders)),
            part_ends: lists(contents.part_ends.concat(), contents.part_ends.iter().map(Vec::len))?,
            images: encode_latents(&images)?,
        })
    }
}

fn lists(values: Vec<u32>, lengths: impl Iterator<Item = usize>) -> Result<ArrayRef, PipelineError> {
    let values = UInt32Array::new(ScalarBuffer::from(values), None);
    let column = ListArray::try_new(ids_field(), OffsetBuffer::from_lengths(lengths), Arc::new(values), None);
    column.map(|column| Arc::new(column) as ArrayRef).map_err(PipelineError::from)
}

/// A batch of documents, to be read row by row.
pub(crate) struct Documents<'a> {
    units: &'a StringArray,
    files: &'a [u32],
    rows: &'a [u64],
    kinds: &'a [u8],
    reasons: &'a StringArray,
    details: &'a StringArray,
    excerpts: &'a StringArray,
    warnings: &'a StringArray,
    ids: &'a StringArray,
    tokens: &'a [u32],
    starts: &'a [i32],
    ends: &'a BooleanArray,
    splits: &'a [u8],
    earlier: &'a [u32],
    copies: &'a [u32],
    orders: &'a [u8],
    part_ends: &'a ListArray,
    images: &'a ListArray,
}

impl<'a> Documents<'a> {
    /// The documents of a batch of [`document_schema`].
    pub(crate) fn of(batch: &'a RecordBatch) -> Self {
        let text = |name| batch[name].as_string::<i32>();
        let number = |name| batch[name].as_primitive::<UInt32Type>().values().as_ref();
        let small = |name| batch[name].as_primitive::<UInt8Type>().values().as_ref();
        let list = |name| batch[name].as_list::<i32>();
        Self {
            units: text(UNIT),
            files: number(FILE),
            rows: batch[ROW].as_primitive::<UInt64Type>().values(),
            kinds: small(KIND),
            reasons: text(REASON),
            details: text(DETAIL),
            excerpts: text(EXCERPT),
            warnings: text("warnings"),
            ids: text("id"),
            tokens: list("tokens").values().as_primitive::<UInt32Type>().values(),
            starts: list("tokens").value_offsets(),
            ends: batch["ends"].as_boolean(),
            splits: small("split"),
            earlier: number("earlier"),
            copies: number("copies"),
            orders: small("order"),
            part_ends: list("part_ends"),
            images: list("images"),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn unit(&self, row: usize) -> &'a str {
        self.units.value(row)
    }

    pub(crate) fn file(&self, row: usize) -> u32 {
        self.files[row]
    }

    pub(crate) fn row(&self, row: usize) -> u64 {
        self.rows[row]
    }

    pub(crate) fn kind(&self, row: usize) -> Kind {
        Kind::of(self.kinds[row])
    }

    pub(crate) fn id(&self, row: usize) -> Option<&'a str> {
        value(self.ids, row)
    }

    /// Remarks, joined by commas.
    pub(crate) fn warnings(&self, row: usize) -> Option<&'a str> {
        value(self.warnings, row)
    }

    /// Why it was refused.
    pub(crate) fn reject(&self, row: usize) -> Reject {
        match value(self.reasons, row).and_then(RejectReason::from_name) {
            Some(reason) => {
                let excerpt = value(self.excerpts, row).unwrap_or_default().to_owned();
                Reject { excerpt, ..Reject::new(reason, value(self.details, row).unwrap_or_default()) }
            }
            None => Reject::new(RejectReason::BadEntry, "no reason was given"),
        }
    }

    pub(crate) fn tokens(&self, row: usize) -> &'a [u32] {
        &self.tokens[self.starts[row] as usize..self.starts[row + 1] as usize]
    }

    /// Whether the document ends here.
    pub(crate) fn ends(&self, row: usize) -> bool {
        self.ends.value(row)
    }

    pub(crate) fn split(&self, row: usize) -> usize {
        self.splits[row].into()
    }

    /// Whether a row of the source ends with this as its first document, and is to be counted.
    pub(crate) fn counts(&self, row: usize) -> bool {
        self.ends(row) && self.earlier[row] == 0
    }

    /// How often it is to be packed.
    pub(crate) fn copies(&self, row: usize) -> u32 {
        self.copies[row]
    }

    pub(crate) fn provenance(&self, row: usize, source: u16) -> Provenance {
        let order = match self.orders[row] {
            0 => Order::CaptionFirst,
            1 => Order::ImageFirst,
            _ => Order::Neither,
        };
        let id = self.id(row).map(str::to_owned);
        Provenance { source, file: self.file(row), row: self.row(row), id, first_token: 0, order }
    }

    /// Number of images.
    pub(crate) fn images(&self, row: usize) -> usize {
        self.images.value_length(row) as usize
    }

    /// A document with images, which is whole in its row.
    pub(crate) fn document(&self, row: usize, shape: Shape, source: u16, layout: &RowLayout) -> Document {
        let ends = self.part_ends.value(row);
        let ends = ends.as_primitive::<UInt32Type>().values().iter().map(|&end| end as usize).collect();
        let images = decode_latents(self.images.value(row).as_struct());
        let tokens = self.tokens(row).to_vec();
        Document::restored(tokens, images, ends, shape, self.provenance(row, source), layout)
    }
}

fn value(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}
