//! Documents between the operators: the columns of `DocumentsExec`, and how `ShardsExec` reads them.
//!
//! A row is a document with the ids of all its positions, or a part of one: a long text comes in several rows, the last of
//! which `ends`. Refused rows and the ends of units have no ids. A row of the source may give several documents.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, ListArray, RecordBatch, StringArray, UInt8Array, UInt32Array,
    UInt64Array, new_null_array,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt8Type, UInt32Type, UInt64Type};
use schemas::{Latent, Order, Provenance, RowLayout, decode_latents, encode_latents, latents_type};

use super::Outcome;
use crate::PipelineError;
use crate::config::Shape;
use crate::document::Document;
use crate::operators::source_rows::SourceRow;
use crate::row::columns::{DETAIL, EXCERPT, FILE, KIND, REASON, ROW, RowKind, UNIT, system_fields, texts};
use crate::row::reject::{Reject, RejectReason};

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

/// The columns that a batch of documents has from the rows that they were made of.
pub(super) struct RowColumns {
    unit: ArrayRef,
    file: ArrayRef,
    row: ArrayRef,
    /// Why the row was refused: reason, detail, excerpt.
    reject: [ArrayRef; 3],
    warnings: ArrayRef,
    id: ArrayRef,
}

/// A text of a reject.
type RejectText = fn(&Reject) -> &str;

/// What is written of a reject, in the order of its columns.
const REJECT: [(&str, RejectText); 3] = [
    (REASON, |reject| reject.reason.name()),
    (DETAIL, |reject| &reject.detail),
    (EXCERPT, |reject| &reject.excerpt),
];

impl RowColumns {
    /// Those of the rows of `batch`, one document of each.
    pub(super) fn of_batch(batch: &RecordBatch, outcomes: &[Outcome]) -> Result<Self, PipelineError> {
        let own = |name: &str| batch[name].clone();
        let text = |name: &str| -> Result<ArrayRef, PipelineError> {
            let absent = || new_null_array(&DataType::Utf8, batch.num_rows());
            Ok(texts(batch, name)?.map_or_else(absent, |column| Arc::new(column) as ArrayRef))
        };
        // Most batches have no reject, and then nothing has to be written anew.
        let refused = outcomes.iter().any(|outcome| outcome.reject.is_some());
        let reject = |(name, of): (&str, RejectText)| -> Result<ArrayRef, PipelineError> {
            if !refused {
                return text(name);
            }
            let before = texts(batch, name)?;
            let before = |row| before.as_ref().and_then(|column| value(column, row));
            let rejects = outcomes.iter().enumerate();
            let rejects =
                rejects.map(|(row, outcome)| outcome.reject.as_ref().map(of).or_else(|| before(row)));
            Ok(Arc::new(StringArray::from_iter(rejects)))
        };
        Ok(Self {
            unit: own(UNIT),
            file: own(FILE),
            row: own(ROW),
            reject: [reject(REJECT[0])?, reject(REJECT[1])?, reject(REJECT[2])?],
            warnings: text("warnings")?,
            id: text("id")?,
        })
    }

    /// Those of these rows, one for each document.
    fn of_rows<'a>(rows: impl Iterator<Item = &'a SourceRow> + Clone) -> Self {
        let text = |of: &dyn Fn(&'a SourceRow) -> Option<&'a str>| -> ArrayRef {
            Arc::new(StringArray::from_iter(rows.clone().map(of)))
        };
        Self {
            unit: text(&|row| Some(row.unit.as_str())),
            file: Arc::new(UInt32Array::from_iter_values(rows.clone().map(|row| row.file))),
            row: Arc::new(UInt64Array::from_iter_values(rows.clone().map(|row| row.row))),
            reject: REJECT.map(|(_, of)| text(&|row| row.reject.as_ref().map(of))),
            warnings: text(&|row| row.warnings.as_deref()),
            id: text(&|row| row.id.as_deref()),
        }
    }
}

/// What is in documents, one after the other.
pub(super) struct DocumentColumns {
    /// The ids of all of them.
    pub(super) ids: Vec<u32>,
    /// How many of them each has.
    pub(super) lengths: Vec<usize>,
    /// Whether each row is the end of its document; off for a part of a long text.
    pub(super) ends: bool,
    /// How many documents of its row stand before each.
    pub(super) earlier: Vec<u32>,
    /// All that only documents with images have.
    pub(super) images: Option<ImageColumns>,
}

/// Order, ends of parts and images of each document.
#[derive(Default)]
pub(super) struct ImageColumns {
    orders: Vec<u8>,
    part_ends: Vec<Vec<u32>>,
    images: Vec<Vec<Latent>>,
}

impl ImageColumns {
    /// Those of documents of texts.
    fn none(count: usize) -> Self {
        Self {
            orders: vec![Order::Neither as u8; count],
            part_ends: vec![Vec::new(); count],
            images: vec![Vec::new(); count],
        }
    }
}

impl DocumentColumns {
    /// The batch of the documents, with the columns of their rows and what became of these.
    pub(super) fn batch(self, rows: RowColumns, outcomes: &[Outcome]) -> Result<RecordBatch, PipelineError> {
        let count = outcomes.len();
        let small = |of: fn(&Outcome) -> u8| -> ArrayRef {
            Arc::new(UInt8Array::from_iter_values(outcomes.iter().map(of)))
        };
        let ImageColumns { orders, part_ends, images } =
            self.images.unwrap_or_else(|| ImageColumns::none(count));
        let images: Vec<&[Latent]> = images.iter().map(Vec::as_slice).collect();
        let [reason, detail, excerpt] = rows.reject;
        let columns: Vec<ArrayRef> = vec![
            rows.unit,
            rows.file,
            rows.row,
            small(|outcome| outcome.kind as u8),
            reason,
            detail,
            excerpt,
            rows.warnings,
            rows.id,
            lists(self.ids, self.lengths.into_iter())?,
            Arc::new(BooleanArray::from(vec![self.ends; count])),
            small(|outcome| outcome.split),
            Arc::new(UInt32Array::from(self.earlier)),
            Arc::new(UInt32Array::from_iter_values(outcomes.iter().map(|outcome| outcome.copies))),
            Arc::new(UInt8Array::from(orders)),
            lists(part_ends.concat(), part_ends.iter().map(Vec::len))?,
            encode_latents(&images)?,
        ];
        Ok(RecordBatch::try_new(document_schema(), columns)?)
    }
}

fn lists(values: Vec<u32>, lengths: impl Iterator<Item = usize>) -> Result<ArrayRef, PipelineError> {
    let values = UInt32Array::new(ScalarBuffer::from(values), None);
    let column =
        ListArray::try_new(ids_field(), OffsetBuffer::from_lengths(lengths), Arc::new(values), None)?;
    Ok(Arc::new(column))
}

/// Documents of rows with images, of which a batch is made.
#[derive(Default)]
pub(super) struct DocumentBuilder {
    rows: Vec<SourceRow>,
    /// The row of each document.
    places: Vec<usize>,
    outcomes: Vec<Outcome>,
    ids: Vec<u32>,
    lengths: Vec<usize>,
    earlier: Vec<u32>,
    images: ImageColumns,
}

impl DocumentBuilder {
    /// A row with its documents. One without any stands for itself.
    pub(super) fn push(&mut self, row: SourceRow, outcome: Outcome, documents: Vec<Document>) {
        self.rows.push(row);
        if documents.is_empty() {
            self.push_document(0, outcome, None);
            return;
        }
        for (earlier, document) in documents.into_iter().enumerate() {
            self.push_document(earlier as u32, outcome.clone(), Some(document));
        }
    }

    fn push_document(&mut self, earlier: u32, outcome: Outcome, document: Option<Document>) {
        self.places.push(self.rows.len() - 1);
        self.outcomes.push(outcome);
        self.earlier.push(earlier);
        let (mut tokens, mut images, mut part_ends, mut order) =
            (Vec::new(), Vec::new(), Vec::new(), Order::Neither);
        if let Some(document) = document {
            (tokens, images, part_ends) = (document.tokens, document.images, document.part_ends);
            order = document.provenance.order;
        }
        self.lengths.push(tokens.len());
        self.ids.extend(tokens);
        self.images.orders.push(order as u8);
        self.images.part_ends.push(part_ends.into_iter().map(|end| end as u32).collect());
        self.images.images.push(images);
    }

    pub(super) fn finish(self) -> Result<RecordBatch, PipelineError> {
        let Self { rows, places, outcomes, ids, lengths, earlier, images } = self;
        let rows = RowColumns::of_rows(places.iter().map(|&place| &rows[place]));
        DocumentColumns { ids, lengths, ends: true, earlier, images: Some(images) }.batch(rows, &outcomes)
    }
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

    pub(crate) fn kind(&self, row: usize) -> RowKind {
        RowKind::of(self.kinds[row])
    }

    pub(crate) fn id(&self, row: usize) -> Option<&'a str> {
        value(self.ids, row)
    }

    /// Remarks, joined by commas.
    pub(crate) fn warnings(&self, row: usize) -> Option<&'a str> {
        value(self.warnings, row)
    }

    /// Why a row was refused.
    pub(crate) fn reason(&self, row: usize) -> RejectReason {
        let named = value(self.reasons, row).and_then(RejectReason::from_name);
        named.unwrap_or(RejectReason::BadEntry)
    }

    /// The reason, what was found, and the beginning of what was refused.
    pub(crate) fn reject(&self, row: usize) -> Reject {
        let detail = value(self.details, row).unwrap_or("no reason was given");
        let excerpt = value(self.excerpts, row).unwrap_or_default().to_owned();
        Reject { excerpt, ..Reject::new(self.reason(row), detail) }
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
