//! `ShardsExec`: documents to packed rows, and these to shards; refused rows to their table; and the commit of each unit.
//!
//! Documents are placed in order ([`pack`]), and rows are written as they are closed ([`mod@write`]), so of a unit no more is
//! held than its open rows and a batch of closed ones. The row that ends a unit commits it; its receipt is the only row
//! that leaves here.

pub(crate) mod pack;
mod write;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use object_store::path::Path;
use schemas::shard::{Compression, ShardMetadata};
use schemas::{Row, RowLayout};

use self::pack::UnitPacker;
use self::write::UnitWriter;
use super::documents::batch::Documents;
use super::runtime::Runtime;
use crate::PipelineError;
use crate::config::Shape;
use crate::document::pack::Packing;
use crate::engine::stage::{Operator, Partition, Work};
use crate::host::observer::Event;
use crate::row::columns::RowKind;
use crate::row::reject_table::RejectLine;
use crate::storage::commit::{Commit, Retried};
use crate::units::UnitFiles;

/// Packs a source, writes shards and commits units.
#[derive(Clone, Debug)]
pub(crate) struct Shards {
    /// Index and name of the source.
    pub(crate) source: u16,
    pub(crate) name: String,
    pub(crate) shape: Shape,
    pub(crate) packing: Packing,
    pub(crate) files: Arc<UnitFiles>,
    /// Without the files, which differ from unit to unit.
    pub(crate) metadata: ShardMetadata,
    pub(crate) compression: Compression,
    pub(crate) shard_bytes: u64,
    /// What units run again, by their names.
    pub(crate) retries: Arc<HashMap<String, Retried>>,
    /// The parts of units whose lines are counted, by the names of the units.
    pub(crate) parts: Arc<HashMap<String, (Path, u64)>>,
}

/// The columns of receipts.
fn receipt_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("unit", DataType::Utf8, false),
        Field::new("receipt", DataType::Utf8, false),
    ]))
}

/// The commits in a batch of receipts.
pub(crate) fn receipts(batch: &RecordBatch) -> Result<Vec<Commit>, PipelineError> {
    let receipts = batch.column(1).as_string::<i32>();
    receipts.iter().flatten().map(|text| serde_json::from_str(text).map_err(format_error)).collect()
}

fn receipt(commit: &Commit) -> Result<RecordBatch, PipelineError> {
    let json = serde_json::to_string_pretty(commit).map_err(format_error)?;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![commit.unit.as_str()])),
        Arc::new(StringArray::from(vec![json])),
    ];
    Ok(RecordBatch::try_new(receipt_schema(), columns)?)
}

fn format_error(error: impl std::error::Error + Send + Sync + 'static) -> PipelineError {
    PipelineError::Format(Box::new(error))
}

impl Operator for Shards {
    fn name(&self) -> &'static str {
        "ShardsExec"
    }

    fn describe(&self) -> String {
        let RowLayout { context, patch, .. } = self.metadata.layout();
        let Self { packing, shard_bytes, compression, .. } = self;
        format!(
            "context={context}, patch={patch}, packing={packing:?}, shard_bytes={shard_bytes}, compression={compression:?}"
        )
    }

    fn schema(&self) -> SchemaRef {
        receipt_schema()
    }

    fn ahead(&self) -> usize {
        1
    }

    fn start(&self, partition: &Partition<'_>) -> Result<Box<dyn Work>, PipelineError> {
        let runtime = Runtime::of(partition.task)?;
        Ok(Box::new(ShardsWork { operator: Arc::new(self.clone()), runtime, unit: None }))
    }
}

struct ShardsWork {
    operator: Arc<Shards>,
    runtime: Arc<Runtime>,
    unit: Option<OpenUnit>,
}

/// A unit whose end has not come.
struct OpenUnit {
    packer: UnitPacker,
    writer: UnitWriter,
}

impl Work for ShardsWork {
    fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, PipelineError> {
        let documents = Documents::of(&batch);
        let (mut counts, mut receipts) = (RowCounts::default(), Vec::new());
        let patch = self.operator.metadata.vocabulary.patch();
        for row in 0..documents.len() {
            counts.count(&documents, row, patch);
            if let Some(commit) = self.document(&documents, row)? {
                receipts.push(receipt(&commit)?);
            }
        }
        self.runtime.observer.event(counts.into());
        Ok(receipts)
    }

    fn held(&self, ready: usize) -> usize {
        ready + self.unit.as_ref().map_or(0, |unit| unit.packer.bytes() + unit.writer.bytes())
    }
}

impl ShardsWork {
    /// Takes a document, a refused row, or the end of a unit, which gives its commit.
    fn document(&mut self, documents: &Documents<'_>, row: usize) -> Result<Option<Commit>, PipelineError> {
        let Self { operator, runtime, unit } = self;
        let OpenUnit { packer, writer } = unit.get_or_insert_with(|| OpenUnit {
            packer: UnitPacker::new(
                operator.source,
                operator.shape,
                operator.metadata.layout(),
                operator.packing,
            ),
            writer: UnitWriter::new(documents.unit(row), operator.clone(), runtime.clone()),
        });
        let mut write = |split: usize, packed: Row| writer.row(split, packed);
        packer.add(documents, row, &mut write)?;
        match documents.kind(row) {
            RowKind::Reject => writer.reject(operator.reject_line(documents, row))?,
            RowKind::End => {
                let report = packer.finish(documents.row(row), &mut write)?;
                return self.unit.take().map(|unit| unit.writer.commit(report)).transpose();
            }
            _ => {}
        }
        Ok(None)
    }
}

impl Shards {
    fn reject_line(&self, documents: &Documents<'_>, row: usize) -> RejectLine {
        let reject = documents.reject(row);
        RejectLine {
            source: self.name.clone(),
            file: self.files.path(documents.unit(row), documents.file(row)).to_owned(),
            row: documents.row(row),
            id: documents.id(row).map(str::to_owned),
            reason: reject.reason.name().to_owned(),
            detail: reject.detail,
            excerpt: Some(reject.excerpt).filter(|excerpt| !excerpt.is_empty()),
        }
    }
}

/// What went through of a batch.
#[derive(Default)]
struct RowCounts {
    rows: u64,
    rejected: u64,
    tokens: u64,
    images: u64,
}

impl RowCounts {
    fn count(&mut self, documents: &Documents<'_>, row: usize, patch: u32) {
        let kind = documents.kind(row);
        self.rows += u64::from(kind != RowKind::End && documents.counts(row));
        self.rejected += u64::from(kind == RowKind::Reject);
        if kind == RowKind::Row {
            let (tokens, copies) = (documents.tokens(row), u64::from(documents.copies(row)));
            let images = documents.images(row);
            let patches = if images > 0 { tokens.iter().filter(|&&token| token == patch).count() } else { 0 };
            self.tokens += (tokens.len() - patches) as u64 * copies;
            self.images += images as u64 * copies;
        }
    }
}

impl From<RowCounts> for Event {
    fn from(counts: RowCounts) -> Self {
        let RowCounts { rows, rejected, tokens, images } = counts;
        Self::Rows { rows, rejected, tokens, images }
    }
}
