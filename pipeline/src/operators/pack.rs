//! `PackExec`: documents to rows of the dataset.
//!
//! Placing them is sequential within a unit; texts are encoded meanwhile. The batches that leave hold at most 64 packed
//! rows, or one chunk of the table of rejects, or the report that ends a unit.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, StructArray, UInt8Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use schemas::shard::BATCH_ROWS;
use schemas::{Modality, Row, RowLayout, SourceStatistics, Span, encode_rows, row_bytes, shard_schema};

use super::documents::Documents;
use super::runtime::Runtime;
use crate::PipelineError;
use crate::config::Shape;
use crate::document::pack::{Packer, Packing as Filling};
use crate::engine::stage::{Operator, Partition, Work};
use crate::host::error::BoxError;
use crate::host::observer::{Event, Observer};
use crate::row::columns::Kind;
use crate::row::reject_table::RejectLine;
use crate::storage::commit::{SPLITS, UnitReport};
use crate::units::UnitFiles;

/// What a batch behind this operator holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Content {
    /// Packed rows.
    Rows = 0,
    /// Lines of the table of rejects.
    Rejects = 1,
    /// The counts of a unit, its last batch.
    Report = 2,
}

/// The columns behind this operator. `row` holds the columns of a shard; in batches that are no rows a blank one.
pub(crate) fn packed_schema(layout: &RowLayout) -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("unit", DataType::Utf8, false),
        Field::new("split", DataType::UInt8, false),
        Field::new("content", DataType::UInt8, false),
        Field::new("text", DataType::Utf8, true),
        Field::new("tokens", DataType::UInt64, false),
        Field::new("patches", DataType::UInt64, false),
        Field::new("padding", DataType::UInt64, false),
        Field::new("bytes", DataType::UInt64, false),
        Field::new("row", DataType::Struct(shard_schema(layout).fields().clone()), false),
    ]))
}

/// Packs a source.
#[derive(Clone, Debug)]
pub(crate) struct Pack {
    pub(crate) source: u16,
    pub(crate) name: String,
    pub(crate) shape: Shape,
    pub(crate) layout: RowLayout,
    pub(crate) packing: Filling,
    pub(crate) files: Arc<UnitFiles>,
}

impl Operator for Pack {
    fn name(&self) -> &'static str {
        "PackExec"
    }

    fn describe(&self) -> String {
        let Self { layout, packing, .. } = self;
        format!("context={}, patch={}, packing={packing:?}", layout.context, layout.patch)
    }

    fn schema(&self) -> SchemaRef {
        packed_schema(&self.layout)
    }

    fn ahead(&self) -> usize {
        1
    }

    fn start(&self, partition: &Partition<'_>) -> Result<Box<dyn Work>, PipelineError> {
        let observer = Runtime::of(partition.task)?.observer.clone();
        Ok(Box::new(Packing { operator: self.clone(), observer, unit: None }))
    }
}

struct Packing {
    operator: Pack,
    observer: Arc<dyn Observer>,
    unit: Option<UnitState>,
}

struct UnitState {
    name: String,
    datasets: [Dataset; SPLITS],
    report: UnitReport,
    rejects: String,
}

/// One dataset's share of a unit.
struct Dataset {
    packer: Packer,
    rows: Vec<Row>,
    /// Positions of the text whose parts are coming.
    positions: usize,
}

impl Work for Packing {
    fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, PipelineError> {
        let documents = Documents::of(&batch);
        let mut ready = Vec::new();
        let mut progress = Progress::default();
        for row in 0..documents.len() {
            progress.count(&documents, row, &self.operator.layout);
            self.take(&documents, row, &mut ready)?;
        }
        self.observer.event(progress.into());
        Ok(ready)
    }

    fn held(&self, ready: usize) -> usize {
        let datasets = self.unit.iter().flat_map(|unit| &unit.datasets);
        let rows = |rows: &[Row]| rows.iter().map(|row| row_bytes(row, &self.operator.layout)).sum::<usize>();
        ready + datasets.map(|dataset| dataset.packer.bytes() + rows(&dataset.rows)).sum::<usize>()
    }
}

#[derive(Default)]
struct Progress {
    rows: u64,
    rejected: u64,
    tokens: u64,
    images: u64,
}

impl Progress {
    fn count(&mut self, documents: &Documents<'_>, row: usize, layout: &RowLayout) {
        let kind = documents.kind(row);
        self.rows += u64::from(kind != Kind::End && documents.counts(row));
        self.rejected += u64::from(kind == Kind::Reject);
        if kind == Kind::Row {
            let (tokens, copies) = (documents.tokens(row), u64::from(documents.copies(row)));
            let images = documents.images(row);
            let patches = if images > 0 { count(tokens, layout.vocabulary.patch()) } else { 0 };
            self.tokens += (tokens.len() - patches) as u64 * copies;
            self.images += images as u64 * copies;
        }
    }
}

fn count(tokens: &[u32], wanted: u32) -> usize {
    tokens.iter().filter(|&&token| token == wanted).count()
}

impl From<Progress> for Event {
    fn from(progress: Progress) -> Self {
        let Progress { rows, rejected, tokens, images } = progress;
        Self::Rows { rows, rejected, tokens, images }
    }
}

fn damaged(error: impl Into<BoxError>) -> PipelineError {
    PipelineError::Format(error.into())
}

impl Packing {
    fn take(
        &mut self,
        documents: &Documents<'_>,
        row: usize,
        ready: &mut Vec<RecordBatch>,
    ) -> Result<(), PipelineError> {
        let operator = &self.operator;
        let unit = self.unit.get_or_insert_with(|| UnitState::new(documents.unit(row), operator));
        if documents.counts(row)
            && let Some(warnings) = documents.warnings(row)
        {
            let counts = &mut unit.report.statistics[0].warnings;
            *counts.entry(warnings.to_owned()).or_default() += 1;
        }
        match documents.kind(row) {
            Kind::Row => unit.place(documents, row, operator, ready)?,
            Kind::Reject => unit.refuse(documents, row, operator, ready)?,
            Kind::Duplicate => unit.report.statistics[0].deduplicated += 1,
            Kind::Aside => {}
            Kind::End => {
                if let Some(unit) = self.unit.take() {
                    unit.finish(documents.row(row), &operator.layout, ready)?;
                }
            }
        }
        Ok(())
    }
}

impl UnitState {
    fn new(name: &str, operator: &Pack) -> Self {
        let dataset = || Dataset {
            packer: Packer::new(operator.layout, operator.packing),
            rows: Vec::new(),
            positions: 0,
        };
        Self {
            name: name.to_owned(),
            datasets: [dataset(), dataset()],
            report: UnitReport::default(),
            rejects: String::new(),
        }
    }

    fn refuse(
        &mut self,
        documents: &Documents<'_>,
        row: usize,
        operator: &Pack,
        ready: &mut Vec<RecordBatch>,
    ) -> Result<(), PipelineError> {
        let reject = documents.reject(row);
        let statistics = &mut self.report.statistics[0];
        statistics.rejected += 1;
        *statistics.rejects.entry(reject.reason.name().to_owned()).or_default() += 1;
        let line = RejectLine {
            source: operator.name.clone(),
            file: operator.files.path(documents.unit(row), documents.file(row)).to_owned(),
            row: documents.row(row),
            id: documents.id(row).map(str::to_owned),
            reason: reject.reason.name().to_owned(),
            detail: reject.detail,
            excerpt: Some(reject.excerpt).filter(|excerpt| !excerpt.is_empty()),
        };
        line.append_to(&mut self.rejects).map_err(damaged)?;
        if self.rejects.len() > 1 << 20 {
            ready.push(self.text(Content::Rejects, &operator.layout)?);
        }
        Ok(())
    }

    fn place(
        &mut self,
        documents: &Documents<'_>,
        row: usize,
        operator: &Pack,
        ready: &mut Vec<RecordBatch>,
    ) -> Result<(), PipelineError> {
        let (split, copies, ends) = (documents.split(row), documents.copies(row), documents.ends(row));
        for _ in 0..copies {
            if operator.shape.has_images() {
                let document = documents.document(row, operator.shape, operator.source, &operator.layout);
                let Dataset { packer, rows, .. } = &mut self.datasets[split];
                packer.push(document, |row| keep(rows, row))?;
            } else {
                self.place_text(documents, row, operator, ready)?;
            }
        }
        let positions = &mut self.datasets[split].positions;
        *positions += documents.tokens(row).len();
        if ends {
            let positions = std::mem::take(positions) as u64;
            let statistics = &mut self.report.statistics[split];
            statistics.kept += u64::from(documents.counts(row));
            statistics.documents += u64::from(copies);
            statistics.images += documents.images(row) as u64 * u64::from(copies);
            (0..copies).for_each(|_| statistics.document_length.add(positions));
        }
        self.give(split, false, &operator.layout, ready)
    }

    /// A text or a part of one. A long one leaves a few rows at a time.
    fn place_text(
        &mut self,
        documents: &Documents<'_>,
        row: usize,
        operator: &Pack,
        ready: &mut Vec<RecordBatch>,
    ) -> Result<(), PipelineError> {
        let provenance = documents.provenance(row, operator.source);
        let (split, ends) = (documents.split(row), documents.ends(row));
        let mut parts =
            documents.tokens(row).chunks(BATCH_ROWS * operator.layout.context as usize).peekable();
        while let Some(part) = parts.next() {
            let Dataset { packer, rows, .. } = &mut self.datasets[split];
            packer.text(part, &provenance, ends && parts.peek().is_none(), |row| keep(rows, row))?;
            self.give(split, false, &operator.layout, ready)?;
        }
        Ok(())
    }

    /// Gives full batches of rows away, at the end of a unit the last one too.
    fn give(
        &mut self,
        split: usize,
        all: bool,
        layout: &RowLayout,
        ready: &mut Vec<RecordBatch>,
    ) -> Result<(), PipelineError> {
        let rows = &mut self.datasets[split].rows;
        while rows.len() >= BATCH_ROWS || all && !rows.is_empty() {
            let rest = rows.split_off(rows.len().min(BATCH_ROWS));
            let full = std::mem::replace(rows, rest);
            self.report.statistics[split].count_rows(&full);
            ready.push(row_batch(&self.name, split, &full, layout)?);
        }
        Ok(())
    }

    fn finish(
        mut self,
        read: u64,
        layout: &RowLayout,
        ready: &mut Vec<RecordBatch>,
    ) -> Result<(), PipelineError> {
        for split in 0..SPLITS {
            let Dataset { packer, rows, .. } = &mut self.datasets[split];
            packer.finish(|row| keep(rows, row))?;
            self.give(split, true, layout, ready)?;
        }
        if !self.rejects.is_empty() {
            ready.push(self.text(Content::Rejects, layout)?);
        }
        let [main, validation] = &mut self.report.statistics;
        main.read = read;
        main.filtered = read.saturating_sub(main.kept + main.rejected + main.deduplicated);
        validation.read = validation.kept;
        self.rejects = serde_json::to_string(&self.report).map_err(damaged)?;
        ready.push(self.text(Content::Report, layout)?);
        Ok(())
    }

    /// A batch of one line that holds the pending text.
    fn text(&mut self, content: Content, layout: &RowLayout) -> Result<RecordBatch, PipelineError> {
        let text = std::mem::take(&mut self.rejects);
        packed_batch(&self.name, 0, content, Some(text), &[blank(layout)?], layout)
    }
}

fn keep(rows: &mut Vec<Row>, row: Row) -> Result<(), PipelineError> {
    rows.push(row);
    Ok(())
}

/// A row of nothing but padding.
fn blank(layout: &RowLayout) -> Result<Row, PipelineError> {
    let span = Span {
        document: 0,
        start: 0,
        len: layout.context,
        modality: Modality::Padding,
        image: None,
        loss: false,
    };
    let tokens = vec![layout.vocabulary.padding(); layout.context as usize];
    Row::try_new(tokens, vec![span], Vec::new(), Vec::new(), layout).map_err(damaged)
}

fn row_batch(
    unit: &str,
    split: usize,
    rows: &[Row],
    layout: &RowLayout,
) -> Result<RecordBatch, PipelineError> {
    packed_batch(unit, split, Content::Rows, None, rows, layout)
}

fn packed_batch(
    unit: &str,
    split: usize,
    content: Content,
    text: Option<String>,
    rows: &[Row],
    layout: &RowLayout,
) -> Result<RecordBatch, PipelineError> {
    let count = rows.len();
    let number = |of: &dyn Fn(&Row) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(of)))
    };
    let shard = encode_rows(rows, layout, Arc::new(shard_schema(layout))).map_err(damaged)?;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(unit, count))),
        Arc::new(UInt8Array::from_value(split as u8, count)),
        Arc::new(UInt8Array::from_value(content as u8, count)),
        Arc::new(StringArray::from_iter(std::iter::repeat_n(text, count))),
        number(&|row| row.text_positions().into()),
        number(&|row| row.patch_positions().into()),
        number(&|row| (layout.context - row.used()).into()),
        number(&|row| row_bytes(row, layout) as u64),
        Arc::new(StructArray::from(shard)),
    ];
    RecordBatch::try_new(packed_schema(layout), columns).map_err(damaged)
}

trait CountRows {
    fn count_rows(&mut self, rows: &[Row]);
}

impl CountRows for SourceStatistics {
    fn count_rows(&mut self, rows: &[Row]) {
        for row in rows {
            self.tokens += u64::from(row.text_positions());
            self.patches += u64::from(row.patch_positions());
            self.padding += row.tokens().len() as u64 - u64::from(row.used());
            self.images_per_row.add(row.images().len() as u64);
        }
    }
}
