//! The plan of operators that DataFusion runs for a source.

use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;
use schemas::shard::{BATCH_ROWS, ShardMetadata};
use schemas::{FORMAT_VERSION, RowLayout, Tokenizer};

use super::PreprocessPlan;
use crate::PipelineError;
use crate::config::CodecConfig;
use crate::engine::stage::stage;
use crate::operators::deduplicate::Deduplicate;
use crate::operators::documents::DocumentRules;
use crate::operators::documents::images::ImageDocuments;
use crate::operators::documents::latents::Encoding;
use crate::operators::documents::texts::TextDocuments;
use crate::operators::shards::Shards;
use crate::read::batch::{BATCH_BYTES, PICTURE_ROWS};
use crate::source::{Columns, SourcePlan};
use crate::units::Unit;

impl PreprocessPlan {
    /// Units that may run at a time, within the cores and the memory.
    pub(crate) fn units_at_once(&self) -> usize {
        let bytes = self.sources.iter().map(|source| self.unit_bytes(source)).max().unwrap_or(0);
        self.runtime.memory.units(bytes, self.environment.threads)
    }

    /// About the memory that a unit of this source holds at most.
    fn unit_bytes(&self, source: &SourcePlan) -> usize {
        let (context, window) = (self.config.context as usize, self.config.window);
        // What was read, its columns and its ids are on their way at the same time; a reader is ahead by four ranges.
        let reading = (16 << 20) + 6 * BATCH_BYTES;
        let images = source.config.shape.has_images().then(|| self.image_bytes()).flatten();
        let (pictures, latents) = images.unwrap_or_default();
        let row = 4 * context + latents;
        row.saturating_mul(window + 4 * BATCH_ROWS).saturating_add(reading + pictures)
    }

    /// Bytes of the pictures that wait in a unit, and of the latents in a full row.
    fn image_bytes(&self) -> Option<(usize, usize)> {
        let (config, encoding) = (self.config.codec.as_ref()?, self.encoding()?);
        let side = config.size / encoding.codec.downsampling.max(1);
        let patches = ((side / config.patch) as usize).pow(2);
        let pictures = 4 * PICTURE_ROWS * encoding.crop_bytes() + encoding.batch_bytes() + (32 << 20);
        Some((pictures, encoding.latent_bytes() * (self.config.context as usize / (patches + 4))))
    }

    /// How pictures are encoded, where there is a codec.
    fn encoding(&self) -> Option<Encoding> {
        let (config, codec) = (self.config.codec.as_ref()?, self.environment.codec.as_ref()?);
        let &CodecConfig { size, batch, latent, .. } = config;
        Some(Encoding { codec: codec.info().clone(), size, batch, latent })
    }

    fn metadata(&self, tokenizer: &Tokenizer) -> ShardMetadata {
        let fingerprint = tokenizer.fingerprint().to_owned();
        ShardMetadata { tokenizer: fingerprint, ..self.metadata_of(&self.layout(tokenizer)) }
    }

    /// All that shards say but the tokenizer and the files of their unit.
    pub(crate) fn metadata_of(&self, layout: &RowLayout) -> ShardMetadata {
        let codec = self.environment.codec.as_ref().filter(|_| self.has_images());
        ShardMetadata {
            format: FORMAT_VERSION,
            context: layout.context,
            patch: layout.patch,
            vocabulary: layout.vocabulary,
            tokenizer: String::new(),
            codec: codec.map(|codec| codec.info().fingerprint.clone()),
            sources: self.config.sources.iter().map(|source| source.name.clone()).collect(),
            files: Vec::new(),
        }
    }

    /// The whole plan of these units of a source, one partition a unit.
    pub(crate) async fn physical_plan(
        &self,
        source: &SourcePlan,
        units: &[Unit],
        tokenizer: &Tokenizer,
    ) -> Result<Arc<dyn ExecutionPlan>, PipelineError> {
        let documents = self.documents(source, units, tokenizer).await?;
        let shards = Shards {
            source: source.index,
            name: source.config.name.clone(),
            shape: source.config.shape,
            packing: self.packing(),
            files: source.files.clone(),
            metadata: self.metadata(tokenizer),
            compression: self.config.compression,
            shard_bytes: self.config.shard_bytes,
            retries: self.retries.clone(),
            parts: Arc::new(source.counted_parts(units)),
        };
        Ok(stage(shards, documents))
    }

    /// The part of the plan that gives the documents of units.
    pub(crate) async fn documents(
        &self,
        source: &SourcePlan,
        units: &[Unit],
        tokenizer: &Tokenizer,
    ) -> Result<Arc<dyn ExecutionPlan>, PipelineError> {
        let mut plan = source.rows(units, Columns::Document).await?;
        if self.config.deduplicate {
            plan = stage(Deduplicate { schema: plan.schema() }, plan);
        }
        let rules = DocumentRules {
            source: source.index,
            rows: source.row_reader(self.config.seed, source.captions()),
            weight: source.config.weight,
            validation: self.config.split.validation,
            layout: self.layout(tokenizer),
            packing: self.packing(),
            caption_first: self.config.caption_first_share,
        };
        if !source.config.shape.has_images() {
            return Ok(stage(TextDocuments { rules }, plan));
        }
        let no_codec = || PipelineError::NoCodec { name: source.config.name.clone() };
        let encoding = self.encoding().ok_or_else(no_codec)?;
        let pictures = self.config.pictures.rules(encoding.size);
        Ok(stage(ImageDocuments { rules, pictures, encoding }, plan))
    }
}
