//! What a job would do, predicted from a sample of its input. Nothing is written.
//!
//! Of each source up to eight units are read, spread over the list, and of each unit four megabytes or a few hundred rows
//! with pictures, from its start (more units where all of them have no more than that); where that is all there is, the prediction is exact but for deduplication. Documents are
//! made and packed as in the job, with one difference: latents are blank, so the codec's time is not in it. Counts grow with
//! the bytes of the input; padding has two parts, a share of all positions and the rows that are open where a unit ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use schemas::shard::{BATCH_ROWS, ShardWriter};
use schemas::{Row, RowLayout, Tokenizer, row_bytes};
use serde::Serialize;

use crate::PipelineError;
use crate::host::error::BoxError;
use crate::operators::documents::batch::Documents;
use crate::operators::runtime::Runtime;
use crate::operators::shards::pack::UnitPacker;
use crate::picture::codec::{CodecInfo, CodecMemory, ImageCodec, LatentBatch, RgbBatch};
use crate::plan::PreprocessPlan;
use crate::read::{Input, sample};
use crate::row::columns::RowKind;
use crate::source::SourcePlan;
use crate::storage::commit::UnitReport;
use crate::units::Unit;

/// Units of a source that are looked into.
const UNITS: usize = 8;

/// Bytes and rows of a unit that are read. A picture costs as much as thousands of words.
const UNIT_BYTES: u64 = 4 << 20;
const PICTURE_ROWS: u64 = 256;

/// What a job would do.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Estimate {
    /// Whether all of the input was looked at.
    pub exact: bool,
    /// Bytes of the input.
    pub bytes: u64,
    /// Bytes of it that were looked at.
    pub sampled_bytes: u64,
    /// What would become of each source.
    pub sources: Vec<SourceEstimate>,
    /// Memory of the job beside the codec, at most.
    pub memory_bytes: u64,
    /// Units that run at a time.
    pub units_at_once: usize,
    /// Memory of the codec, where there is one.
    pub codec_weight_bytes: Option<u64>,
    /// Memory that it takes for a batch.
    pub codec_activation_bytes: Option<u64>,
}

/// What would become of one source.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SourceEstimate {
    /// Its name.
    pub name: String,
    /// Its files.
    pub files: usize,
    /// Its units.
    pub units: usize,
    /// Bytes of its files.
    pub bytes: u64,
    /// Bytes that were looked at.
    pub sampled_bytes: u64,
    /// Rows in the files.
    pub read: u64,
    /// Rows that become documents.
    pub kept: u64,
    /// Rows that are refused, by reason.
    pub rejects: BTreeMap<String, u64>,
    /// Documents, repetitions by weight counted.
    pub documents: u64,
    /// Images of the documents.
    pub images: u64,
    /// Text positions.
    pub tokens: u64,
    /// Image positions.
    pub patches: u64,
    /// Padding positions.
    pub padding: u64,
    /// Rows of the dataset.
    pub rows: u64,
    /// Shards.
    pub shards: u64,
    /// Bytes of the shards.
    pub shard_bytes: u64,
}

impl SourceEstimate {
    /// Rows that are refused.
    pub fn rejected(&self) -> u64 {
        self.rejects.values().sum()
    }
}

impl PreprocessPlan {
    /// Reads a sample and predicts what the job does.
    ///
    /// # Errors
    ///
    /// If a source can't be read or a tokenizer not be trained, or it is told to stop.
    pub async fn estimate(&self) -> Result<Estimate, PipelineError> {
        self.environment.stop.until(self.estimated()).await
    }

    async fn estimated(&self) -> Result<Estimate, PipelineError> {
        let tokenizer = self.some_tokenizer().await?;
        let blank = |codec: &Arc<dyn ImageCodec>| Arc::new(Blank(codec.clone())) as Arc<dyn ImageCodec>;
        let runtime = Runtime {
            codec: self.environment.codec.as_ref().map(blank),
            tokenizer: Some(tokenizer.clone()),
            ..self.runtime.clone()
        };
        let mut sources = Vec::with_capacity(self.sources.len());
        for source in &self.sources {
            let mut sample = SampleCounts::default();
            for unit in spread(source) {
                self.sample(source, unit, &tokenizer, &runtime, &mut sample).await?;
            }
            sources.push(self.extrapolate(source, sample, &self.layout(&tokenizer)));
        }
        let sum = |of: fn(&SourceEstimate) -> u64| sources.iter().map(of).sum();
        let (bytes, sampled_bytes) = (sum(|source| source.bytes), sum(|source| source.sampled_bytes));
        let settings = self.config.codec.as_ref().filter(|_| self.has_images());
        let codec = self.environment.codec.as_ref().zip(settings);
        let codec = codec.map(|(codec, settings)| codec.memory(settings.batch, settings.size as usize));
        Ok(Estimate {
            exact: bytes == sampled_bytes,
            bytes,
            sampled_bytes,
            sources,
            memory_bytes: self.config.memory_bytes,
            units_at_once: self.units_at_once(),
            codec_weight_bytes: codec.map(|memory| memory.weights),
            codec_activation_bytes: codec.map(|memory| memory.activations),
        })
    }

    /// Reads the beginning of a unit and packs it.
    async fn sample(
        &self,
        source: &SourcePlan,
        unit: &Unit,
        tokenizer: &Tokenizer,
        runtime: &Runtime,
        sample: &mut SampleCounts,
    ) -> Result<(), PipelineError> {
        let rows = if source.config.shape.has_images() { PICTURE_ROWS } else { u64::MAX };
        let limit = Arc::new(sample::SampleLimit::new(UNIT_BYTES, rows));
        let mut input = Input { sample: Some(limit.clone()), ..source.input.clone() };
        if !is_small(source) {
            // Choices by the numbers of lines are the same on average.
            input.lines = None;
        }
        let mut runtime = runtime.clone();
        runtime.inputs.insert(source.config.name.clone(), input);
        let layout = self.layout(tokenizer);
        let plan = self.documents(source, std::slice::from_ref(unit), tokenizer).await?;
        let mut batches = plan.execute(0, runtime.session()?.task_ctx())?;
        let mut packer = UnitPacker::new(source.index, source.config.shape, layout, self.packing());
        while let Some(batch) = batches.next().await.transpose()? {
            let documents = Documents::of(&batch);
            for row in 0..documents.len() {
                packer.add(&documents, row, &mut |_, row| sample.keep(row, &layout, false))?;
                if documents.kind(row) == RowKind::End {
                    let read = documents.row(row);
                    let report = packer.finish(read, &mut |_, row| sample.keep(row, &layout, true))?;
                    sample.add(&report);
                }
            }
        }
        sample.units += 1;
        // What is read to its end counts as its size, also where a reader skips what nobody needs.
        sample.bytes += if limit.is_full() { limit.bytes().min(unit.bytes) } else { unit.bytes };
        Ok(())
    }

    fn extrapolate(&self, source: &SourcePlan, sample: SampleCounts, layout: &RowLayout) -> SourceEstimate {
        let bytes: u64 = source.units.iter().map(|unit| unit.bytes).sum();
        let grow = |count: u64| scale(count, bytes, sample.bytes);
        let (tokens, patches) = (grow(sample.tokens), grow(sample.patches));
        let padding = if bytes == sample.bytes {
            sample.padding + sample.last_padding
        } else {
            let last = scale(sample.last_padding, source.units.len() as u64, sample.units);
            scale(sample.padding, tokens + patches, sample.used) + last
        };
        let rows = (tokens + patches + padding).div_ceil(layout.context.into());
        let (empty, compressed) = self.written(&sample, layout);
        let row_bytes = sample.row_bytes(layout) * rows as f64;
        let shards = source.units.iter().map(|unit| {
            let of_unit = scale(row_bytes as u64, unit.bytes, bytes);
            of_unit.div_ceil(self.config.shard_bytes).max(u64::from(rows > 0))
        });
        let shards: u64 = shards.sum();
        let shard_bytes = shards * empty + (row_bytes * compressed) as u64;
        SourceEstimate {
            name: source.config.name.clone(),
            files: source.listing.files.len(),
            units: source.units.len(),
            bytes,
            sampled_bytes: sample.bytes,
            read: grow(sample.read),
            kept: grow(sample.kept),
            rejects: sample.rejects.iter().map(|(reason, count)| (reason.clone(), grow(*count))).collect(),
            documents: grow(sample.documents),
            images: grow(sample.images),
            tokens,
            patches,
            padding,
            rows,
            shards,
            shard_bytes,
        }
    }

    /// Bytes of a shard without rows, and what a byte of rows takes in one.
    fn written(&self, sample: &SampleCounts, layout: &RowLayout) -> (u64, f64) {
        let metadata = self.metadata_of(layout);
        let written = |rows: &[Row]| {
            let mut writer = ShardWriter::try_new(Vec::new(), &metadata, self.config.compression)?;
            rows.iter().try_for_each(|row| writer.push(row.clone()))?;
            writer.finish().map(|bytes| bytes.len() as u64)
        };
        let raw: usize = sample.some_rows.iter().map(|row| row_bytes(row, layout)).sum();
        match (written(&[]), written(&sample.some_rows)) {
            (Ok(empty), Ok(full)) if raw > 0 => (empty, full.saturating_sub(empty) as f64 / raw as f64),
            _ => (0, 1.0),
        }
    }
}

/// Up to [`UNITS`] of a source's units, evenly spread; all of them where these are no more bytes of text.
fn spread(source: &SourcePlan) -> impl Iterator<Item = &Unit> {
    let units = &source.units;
    let all = !source.config.shape.has_images() && is_small(source);
    let chosen = if all { units.len() } else { units.len().min(UNITS) };
    (0..chosen).map(move |index| &units[index * units.len() / chosen])
}

/// Whether a source has no more bytes than are read of the units of a large one.
fn is_small(source: &SourcePlan) -> bool {
    source.units.iter().map(|unit| unit.bytes).sum::<u64>() <= UNITS as u64 * UNIT_BYTES
}

/// `count` of `part`, for `whole`.
fn scale(count: u64, whole: u64, part: u64) -> u64 {
    if part == 0 || whole == part {
        return count;
    }
    (count as f64 * whole as f64 / part as f64).round() as u64
}

/// What a sample has.
#[derive(Default)]
struct SampleCounts {
    bytes: u64,
    units: u64,
    read: u64,
    kept: u64,
    rejects: BTreeMap<String, u64>,
    documents: u64,
    images: u64,
    tokens: u64,
    patches: u64,
    /// Of the rows that were closed before their unit ended.
    used: u64,
    padding: u64,
    /// Of the rows that were open where it ended.
    last_padding: u64,
    rows: u64,
    raw_bytes: u64,
    some_rows: Vec<Row>,
}

impl SampleCounts {
    /// Adds the counts of a unit, of both datasets together.
    fn add(&mut self, report: &UnitReport) {
        let [main, _] = &report.statistics;
        self.read += main.read;
        for (reason, count) in &main.rejects {
            *self.rejects.entry(reason.clone()).or_default() += count;
        }
        for statistics in &report.statistics {
            self.kept += statistics.kept;
            self.documents += statistics.documents;
            self.images += statistics.images;
            self.tokens += statistics.tokens;
            self.patches += statistics.patches;
        }
    }

    fn keep(&mut self, row: Row, layout: &RowLayout, last: bool) -> Result<(), PipelineError> {
        let padding = u64::from(layout.context - row.used());
        match last {
            true => self.last_padding += padding,
            false => {
                self.padding += padding;
                self.used += u64::from(row.used());
            }
        }
        self.rows += 1;
        self.raw_bytes += row_bytes(&row, layout) as u64;
        if self.some_rows.len() < BATCH_ROWS {
            self.some_rows.push(row);
        }
        Ok(())
    }

    fn row_bytes(&self, layout: &RowLayout) -> f64 {
        match self.rows {
            0 => 2.0 * f64::from(layout.context),
            rows => self.raw_bytes as f64 / rows as f64,
        }
    }
}

/// A codec that computes nothing and gives latents of the right size.
#[derive(Debug)]
struct Blank(Arc<dyn ImageCodec>);

impl ImageCodec for Blank {
    fn info(&self) -> &CodecInfo {
        self.0.info()
    }

    fn encode(&self, images: &RgbBatch, moments: bool) -> Result<LatentBatch, BoxError> {
        let (channels, side) =
            (usize::from(self.info().channels), images.size / self.info().downsampling.max(1) as usize);
        let mut blank = LatentBatch { channels, height: side, width: side, moments, values: Vec::new() };
        blank.values = vec![0.0; images.images * blank.image_values()];
        Ok(blank)
    }

    fn memory(&self, images: usize, size: usize) -> CodecMemory {
        self.0.memory(images, size)
    }
}
