//! The plan of operators that DataFusion runs for a source.

use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;
use schemas::shard::{BATCH_ROWS, ShardMetadata};
use schemas::{FORMAT_VERSION, RowLayout, Tokenizer};

use super::PreprocessPlan;
use crate::PipelineError;
use crate::config::LatentKind;
use crate::document::Composer;
use crate::engine::stage::stage;
use crate::operators::deduplicate::Deduplicate;
use crate::operators::encode::Encode;
use crate::operators::pack::Pack;
use crate::operators::tokenize::Tokenize;
use crate::operators::write::Write;
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
        let (config, codec) = (self.config.codec.as_ref()?, self.environment.codec.as_ref()?);
        let side = (config.size / codec.info().downsampling.max(1)) as usize;
        let patches = (side / config.patch as usize).pow(2);
        let parts = if config.latent == LatentKind::Moments { 2 } else { 1 };
        let latent = 2 * parts * usize::from(codec.info().channels) * side * side;
        let crop = 3 * (config.size as usize).pow(2);
        let pictures = 4 * PICTURE_ROWS * crop + 4 * config.batch * crop + (32 << 20);
        Some((pictures, latent * (self.config.context as usize / (patches + 4))))
    }

    fn composer(&self, tokenizer: &Tokenizer) -> Composer {
        Composer {
            tokenizer: tokenizer.clone(),
            layout: self.layout(tokenizer),
            packing: self.packing(),
            caption_first: self.config.caption_first_share,
            seed: self.config.seed,
        }
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
        let pack = Pack {
            source: source.index,
            name: source.config.name.clone(),
            shape: source.config.shape,
            layout: self.layout(tokenizer),
            packing: self.packing(),
            files: source.files.clone(),
        };
        let write = Write {
            source: source.index,
            outputs: self.outputs(),
            metadata: self.metadata(tokenizer),
            compression: self.config.compression,
            shard_bytes: self.config.shard_bytes,
            files: source.files.clone(),
            retries: self.retries.clone(),
            parts: Arc::new(source.counted_parts(units)),
            lines: source.input.lines.clone(),
            handle: source.input.handle.clone(),
            stop: self.environment.stop.clone(),
        };
        Ok(stage(write, stage(pack, documents)))
    }

    /// The part of the plan that gives the documents of units.
    pub(crate) async fn documents(
        &self,
        source: &SourcePlan,
        units: &[Unit],
        tokenizer: &Tokenizer,
    ) -> Result<Arc<dyn ExecutionPlan>, PipelineError> {
        let (seed, name) = (self.config.seed, &source.config.name);
        let mut plan = source.rows(units, Columns::Document).await?;
        if self.config.deduplicate {
            plan = stage(Deduplicate { schema: plan.schema() }, plan);
        }
        if source.config.shape.has_images()
            && let (Some(codec), Some(config)) = (&self.environment.codec, &self.config.codec)
        {
            let rules = self.config.pictures.rules(config.size);
            plan = stage(source.decode(rules, seed, self.runtime.pool.clone()), plan);
            let encode = Encode {
                codec: codec.clone(),
                size: config.size,
                batch: config.batch,
                latent: config.latent,
                seed,
                source: name.clone(),
                files: source.files.clone(),
                device: self.runtime.device.clone(),
                pool: self.runtime.pool.clone(),
            };
            plan = stage(encode, plan);
        }
        let tokenize = Tokenize {
            source: source.index,
            name: name.clone(),
            shape: source.config.shape,
            weight: source.config.weight,
            validation: self.config.split.validation,
            composer: self.composer(tokenizer),
            files: source.files.clone(),
            pool: self.runtime.pool.clone(),
        };
        Ok(stage(tokenize, plan))
    }
}
