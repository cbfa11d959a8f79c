//! `PackExec`: rows of a source to documents, and documents to rows of the dataset.
//!
//! Documents are made on all threads of the job, a batch at a time; placing them is sequential within a unit. The
//! batches that leave hold at most 64 packed rows, or one chunk of the table of rejects, or the report that ends a
//! unit.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, StructArray, UInt8Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rayon::ThreadPool;
use rayon::prelude::*;
use schemas::shard::BATCH_ROWS;
use schemas::{
    Modality, Row, RowLayout, SourceStatistics, Span, encode_rows, row_bytes, row_hash, shard_schema, share,
};
use serde::{Deserialize, Serialize};

use super::items::{Captioning, Choice, Item, Part, first_text, from_batch, from_columns};
use super::stage::{Operator, Work};
use crate::deduplicate::Duplicates;
use crate::document::{Composer, Document, Origin, Part as DocumentPart, Shape};
use crate::observer::{Event, Observer};
use crate::pack::Packer;
use crate::read::table::Kind;
use crate::reject::{Reject, excerpt};
use crate::rejects::RejectLine;
use crate::source::UnitFiles;
use crate::{PipelineError, error::BoxError};

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

/// The two datasets of a job.
pub(crate) const SPLITS: usize = 2;

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

/// What became of a unit, in both datasets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct UnitReport {
    /// Counts of the dataset and of the validation dataset.
    pub(crate) statistics: [SourceStatistics; SPLITS],
}

/// Packs a source.
#[derive(Clone)]
pub(crate) struct Pack {
    pub(crate) source: u16,
    pub(crate) name: String,
    pub(crate) shape: Shape,
    pub(crate) weight: f64,
    pub(crate) validation: f64,
    pub(crate) composer: Composer,
    pub(crate) files: Arc<UnitFiles>,
    pub(crate) duplicates: Arc<Duplicates>,
    pub(crate) pool: Arc<ThreadPool>,
    pub(crate) observer: Arc<dyn Observer>,
}

impl std::fmt::Debug for Pack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pack").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Operator for Pack {
    fn name(&self) -> &'static str {
        "PackExec"
    }

    fn describe(&self) -> String {
        let Composer { tokenizer, layout, packing, .. } = &self.composer;
        let vocabulary = tokenizer.vocabulary_size();
        format!(
            "shape={}, vocabulary={vocabulary}, context={}, packing={packing:?}",
            self.shape.name(),
            layout.context
        )
    }

    fn schema(&self) -> SchemaRef {
        packed_schema(&self.composer.layout)
    }

    fn start(&self) -> Box<dyn Work> {
        Box::new(Packing { operator: self.clone(), unit: None })
    }
}

struct Packing {
    operator: Pack,
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
    packer: Option<Packer>,
    rows: Vec<Row>,
}

/// A row that became documents: one, or one for each caption.
struct Made {
    documents: Vec<Document>,
    copies: u64,
    split: usize,
}

impl Work for Packing {
    fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, PipelineError> {
        let items = self.items(&batch)?;
        drop(batch);
        let operator = &self.operator;
        let made: Vec<_> =
            operator.pool.install(|| items.into_par_iter().map(|item| operator.make(item)).collect());
        let mut ready = Vec::new();
        let mut event = Progress::default();
        for (item, made) in made {
            event.count(&item, &made);
            self.take(item, made, &mut ready)?;
        }
        self.operator.observer.event(event.into());
        Ok(ready)
    }

    fn held(&self) -> usize {
        let datasets = self.unit.iter().flat_map(|unit| &unit.datasets);
        datasets.map(|dataset| dataset.packer.as_ref().map_or(0, Packer::bytes)).sum()
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
    fn count(&mut self, item: &Item, made: &Result<Option<Made>, Reject>) {
        self.rows += u64::from(item.kind != Kind::End);
        match made {
            Ok(Some(made)) => {
                for document in &made.documents {
                    self.tokens += document.text_positions() as u64 * made.copies;
                    self.images += document.images().len() as u64 * made.copies;
                }
            }
            Ok(None) => {}
            Err(_) => self.rejected += 1,
        }
    }
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

impl Pack {
    /// A row's document, how often and where it goes; nothing for a row that is set aside.
    fn make(&self, mut item: Item) -> (Item, Result<Option<Made>, Reject>) {
        let parts = std::mem::take(&mut item.parts);
        let made = match (item.kind, item.reject.take()) {
            (Kind::End, _) => Ok(None),
            (_, Some(reject)) => Err(reject),
            (Kind::Reject, None) => {
                Err(Reject::new(crate::reject::RejectReason::BadEntry, "no reason was given"))
            }
            (Kind::Row, None) if self.is_duplicate(&item) => Ok(None),
            (Kind::Row, None) => {
                let beginning = excerpt(first_text(&parts));
                self.compose(&item, parts).map_err(|reject| Reject { excerpt: beginning, ..reject })
            }
        };
        (item, made)
    }

    fn is_duplicate(&self, item: &Item) -> bool {
        item.kind == Kind::Row && self.duplicates.contains(&item.unit, item.file, item.row)
    }

    fn compose(&self, item: &Item, parts: Vec<Part>) -> Result<Option<Made>, Reject> {
        let path = self.files.path(&item.unit, item.file);
        let hash = |purpose| row_hash(self.composer.seed, &self.name, path, item.row, purpose);
        let origin = Origin {
            source: self.source,
            source_name: &self.name,
            file: item.file,
            path,
            row: item.row,
            id: item.id.as_deref(),
        };
        let documents = self.documents(parts, &origin)?;
        let extra = u64::from(share(hash("repeat")) < self.weight.fract());
        let copies = self.weight.trunc() as u64 + extra;
        let split = usize::from(share(hash("split")) < self.validation);
        // What a model is judged by is not weighted.
        let copies = if split == 1 { 1 } else { copies };
        Ok((copies > 0).then_some(Made { documents, copies, split }))
    }

    /// The documents of a row: all of them, or none.
    fn documents(&self, mut parts: Vec<Part>, origin: &Origin<'_>) -> Result<Vec<Document>, Reject> {
        if self.shape != Shape::Pair {
            return self.document(parts, origin).map(|document| vec![document]);
        }
        let Some(Part::Latent(image)) = parts.pop() else { return Err(without_parts()) };
        let captions = parts.iter().enumerate().map(|(number, caption)| match caption {
            Part::Text(caption) => self.composer.numbered_pair(number, caption, image.clone(), origin),
            _ => Err(without_parts()),
        });
        let documents = captions.collect::<Result<Vec<_>, _>>()?;
        if documents.is_empty() { Err(without_parts()) } else { Ok(documents) }
    }

    fn document(&self, parts: Vec<Part>, origin: &Origin<'_>) -> Result<Document, Reject> {
        let mut parts = parts.into_iter();
        match self.shape {
            Shape::Text => match parts.next() {
                Some(Part::Text(text)) => self.composer.text(&text, origin),
                _ => Err(without_parts()),
            },
            Shape::Pair | Shape::Interleaved => {
                let part = |part| match part {
                    Part::Text(text) => Some(DocumentPart::Text(text)),
                    Part::Latent(image) => Some(DocumentPart::Image(image)),
                    Part::Image(_) => None,
                };
                self.composer.interleaved(parts.filter_map(part).collect(), origin)
            }
        }
    }
}

fn without_parts() -> Reject {
    Reject::new(crate::reject::RejectReason::MissingText, "the row has not the parts of its shape")
}

impl Packing {
    fn items(&self, batch: &RecordBatch) -> Result<Vec<Item>, PipelineError> {
        if self.operator.shape.has_images() {
            return from_batch(batch);
        }
        let path = |unit: &str, file: u32| self.operator.files.path(unit, file).to_owned();
        // Only texts come here without having been decoded, and a text has no captions.
        let captioning = Captioning::default();
        let choice = Choice {
            seed: self.operator.composer.seed,
            source: &self.operator.name,
            path: &path,
            captioning: &captioning,
        };
        from_columns(batch, self.operator.shape, &choice)
    }

    fn take(
        &mut self,
        item: Item,
        made: Result<Option<Made>, Reject>,
        ready: &mut Vec<RecordBatch>,
    ) -> Result<(), PipelineError> {
        let operator = &self.operator;
        let unit = self.unit.get_or_insert_with(|| UnitState::new(&item.unit, &operator.composer));
        let layout = operator.composer.layout;
        if let Some(warnings) = &item.warnings {
            let counts = &mut unit.report.statistics[0].warnings;
            *counts.entry(warnings.clone()).or_default() += 1;
        }
        match made {
            Err(reject) => unit.refuse(&item, &reject, operator, ready)?,
            Ok(Some(made)) => unit.place(made, &layout, ready)?,
            Ok(None) if operator.is_duplicate(&item) => unit.report.statistics[0].deduplicated += 1,
            Ok(None) => {}
        }
        if item.kind == Kind::End
            && let Some(unit) = self.unit.take()
        {
            unit.finish(item.row, &layout, ready)?;
        }
        Ok(())
    }
}

impl UnitState {
    fn new(name: &str, composer: &Composer) -> Self {
        let dataset =
            || Dataset { packer: Some(Packer::new(composer.layout, composer.packing)), rows: Vec::new() };
        Self {
            name: name.to_owned(),
            datasets: [dataset(), dataset()],
            report: UnitReport::default(),
            rejects: String::new(),
        }
    }

    fn refuse(
        &mut self,
        item: &Item,
        reject: &Reject,
        operator: &Pack,
        ready: &mut Vec<RecordBatch>,
    ) -> Result<(), PipelineError> {
        let statistics = &mut self.report.statistics[0];
        statistics.rejected += 1;
        *statistics.rejects.entry(reject.reason.name().to_owned()).or_default() += 1;
        let line = RejectLine {
            source: operator.name.clone(),
            file: operator.files.path(&item.unit, item.file).to_owned(),
            row: item.row,
            id: item.id.clone(),
            reason: reject.reason.name().to_owned(),
            detail: reject.detail.clone(),
            excerpt: (!reject.excerpt.is_empty()).then(|| reject.excerpt.clone()),
        };
        line.append_to(&mut self.rejects).map_err(damaged)?;
        if self.rejects.len() > 1 << 20 {
            ready.push(self.text(Content::Rejects, &operator.composer.layout)?);
        }
        Ok(())
    }

    fn place(
        &mut self,
        made: Made,
        layout: &RowLayout,
        ready: &mut Vec<RecordBatch>,
    ) -> Result<(), PipelineError> {
        let Made { documents, copies, split } = made;
        let statistics = &mut self.report.statistics[split];
        statistics.kept += 1;
        for document in documents {
            statistics.documents += copies;
            for _ in 0..copies {
                statistics.document_length.add(document.len() as u64);
            }
            statistics.images += document.images().len() as u64 * copies;
            let Dataset { packer: Some(packer), rows } = &mut self.datasets[split] else { return Ok(()) };
            let mut emit = |row| {
                rows.push(row);
                Ok::<(), PipelineError>(())
            };
            for _ in 1..copies {
                packer.push(document.clone(), &mut emit)?;
            }
            packer.push(document, emit)?;
        }
        self.give(split, false, layout, ready)
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
            let dataset = &mut self.datasets[split];
            if let Some(packer) = dataset.packer.take() {
                let rows = &mut dataset.rows;
                packer.finish(|row| {
                    rows.push(row);
                    Ok::<(), PipelineError>(())
                })?;
            }
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
