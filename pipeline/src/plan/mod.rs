//! From a configuration to what will be done: sources with their files, columns and units, and the DataFusion plan of
//! each source.

pub(crate) mod identity;
mod retry;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use object_store::ObjectStoreExt;
use rayon::ThreadPool;
use schemas::shard::{BATCH_ROWS, ShardMetadata};
use schemas::{FORMAT_VERSION, RowLayout, Tokenizer, Vocabulary};
use serde_json::Value;

use crate::PipelineError;
use crate::config::{Filling, LatentKind, PreprocessConfig, TokenizerConfig, TrainTokenizer};
use crate::dataset::version::{Version, settle};
use crate::document::Composer;
use crate::document::pack::Packing;
use crate::engine::memory::Memory;
use crate::engine::session::thread_pool;
use crate::engine::stage::stage;
use crate::host::passed_over::PassedOver;
use crate::host::stop::Stop;
use crate::job::tokenizer_training;
use crate::operators::deduplicate::Deduplicate;
use crate::operators::encode::Encode;
use crate::operators::pack::Pack;
use crate::operators::runtime::Runtime;
use crate::operators::tokenize::Tokenize;
use crate::operators::write::Write;
use crate::picture::codec::ImageCodec;
use crate::plan::identity::{check_same, portable_config};
use crate::read::batch::{BATCH_BYTES, PICTURE_ROWS};
use crate::read::lines::Lines;
use crate::source::{Columns, SourcePlan, plan_columns};
use crate::storage::commit::{Location, Retried, SPLITS};
use crate::units::{Planning, Resolver, Rows, Unit, plan_units, unit_id};

/// Text that a tokenizer learns from when it is only to give an idea of the job.
const SKETCH_BYTES: u64 = 2 << 20;

/// Everything a job needs from outside.
#[derive(Clone)]
pub struct Environment {
    /// Opens addresses.
    pub resolver: Arc<dyn Resolver>,
    /// Where the dataset goes.
    pub output: Location,
    /// The codec that `codec.path` names; needed where a source has images.
    pub codec: Option<Arc<dyn ImageCodec>>,
    /// Cores to use.
    pub threads: usize,
    /// Set it to stop the job: what is finished stays.
    pub stop: Stop,
    /// How often the right to write to a store is renewed.
    pub lease_period: Duration,
    /// Run nothing but those refused rows of a finished dataset again that may pass now.
    pub retry_rejects: bool,
}

impl Environment {
    /// A lease of five seconds, nothing to stop it.
    pub fn new(resolver: Arc<dyn Resolver>, output: Location, threads: usize) -> Self {
        Self {
            resolver,
            output,
            codec: None,
            threads: threads.max(1),
            stop: Stop::default(),
            lease_period: Duration::from_secs(5),
            retry_rejects: false,
        }
    }
}

/// What a preprocessing job will do.
#[derive(Clone)]
pub struct PreprocessPlan {
    pub(crate) config: PreprocessConfig,
    pub(crate) environment: Environment,
    pub(crate) sources: Vec<SourcePlan>,
    /// The tokenizer, unless it is to be trained.
    pub(crate) tokenizer: Option<Tokenizer>,
    pub(crate) pool: Arc<ThreadPool>,
    /// Shared by everything that the job reads and does.
    pub(crate) memory: Arc<Memory>,
    /// Held by the unit whose pictures are encoded.
    pub(crate) device: Arc<Mutex<()>>,
    /// What makes the dataset this one.
    pub(crate) portable: Value,
    /// The version that is built on.
    pub(crate) base: Option<Version>,
    /// What units run again, by their names.
    pub(crate) retries: Arc<HashMap<String, Retried>>,
    /// Rows of settled units that are refused and may pass later, where it matters for deduplication.
    pub(crate) refused: HashMap<String, Vec<Rows>>,
}

impl fmt::Debug for PreprocessPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreprocessPlan")
            .field("config", &self.config)
            .field("sources", &self.sources)
            .finish()
    }
}

/// A unit as a person is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitSummary {
    /// Its name.
    pub unit: String,
    /// Name of its source.
    pub source: String,
    /// Its files.
    pub files: usize,
    /// Their size.
    pub bytes: u64,
}

impl PreprocessPlan {
    /// Checks the configuration, lists the files, finds their columns, and opens the tokenizer.
    ///
    /// # Errors
    ///
    /// If a value can't be, an address can't be opened or holds nothing, a column is not there, a codec is missing, or it
    /// is told to stop.
    pub async fn try_new(config: PreprocessConfig, environment: Environment) -> Result<Self, PipelineError> {
        let stop = environment.stop.clone();
        stop.until(Self::make(config, environment)).await
    }

    async fn make(config: PreprocessConfig, environment: Environment) -> Result<Self, PipelineError> {
        config.check()?;
        check_codec(&config, environment.codec.as_deref())?;
        let tokenizer = match &config.tokenizer.model {
            Some(uri) => Some(open_tokenizer(uri, &config.tokenizer, &*environment.resolver).await?),
            None => None,
        };
        let pool = thread_pool(environment.threads)?;
        let memory = Arc::new(Memory::new(usize::try_from(config.memory_bytes).unwrap_or(usize::MAX)));
        let mut sources = Vec::with_capacity(config.sources.len());
        for (index, source) in config.sources.iter().enumerate() {
            let planning = Planning {
                memory: &memory,
                pool: &pool,
                resolver: &*environment.resolver,
                output: Some(&environment.output),
                stop: &environment.stop,
            };
            sources.push(plan_columns(index as u16, source, planning).await?);
        }
        let portable = portable_config(&config, tokenizer.as_ref(), &environment, &sources)?;
        let base = Version::newest(&environment.output).await?;
        if let Some(base) = &base {
            check_same(&environment.output, &base.manifest.config, &portable)?;
        }
        let mut plan = Self {
            config,
            environment,
            sources,
            tokenizer,
            pool,
            memory,
            device: Arc::default(),
            portable,
            base,
            retries: Arc::default(),
            refused: HashMap::new(),
        };
        plan.settle()?;
        plan.plan_units().await?;
        Ok(plan)
    }

    /// Sets the files aside that an earlier version of the dataset has.
    fn settle(&mut self) -> Result<(), PipelineError> {
        const SHOWN: usize = 5;
        let Some(base) = &self.base else { return Ok(()) };
        let (mut changed, mut count) = (Vec::new(), 0);
        for source in &mut self.sources {
            match settle(&mut source.listing, source.index, &base.manifest) {
                Ok(settled) => source.settled = settled,
                Err(files) => {
                    count += files.len();
                    changed.extend(files.into_iter().take(SHOWN - changed.len().min(SHOWN)));
                }
            }
        }
        if count == 0 {
            return Ok(());
        }
        Err(PipelineError::InputChanged { output: self.environment.output.show(""), count, changed })
    }

    /// Makes the units that are to be done: those of new files, or of rows that are run again.
    async fn plan_units(&mut self) -> Result<(), PipelineError> {
        let retry = self.environment.retry_rejects;
        if retry && self.base.is_none() {
            return Err(PipelineError::NotFinished { output: self.environment.output.show("") });
        }
        let mut retried = Vec::new();
        for source in &mut self.sources {
            source.input.lines = Some(Arc::new(Lines::new(self.config.unit_bytes)));
            let pending = match &self.base {
                Some(base) if retry || self.config.deduplicate => {
                    retry::pending(&self.environment.output, &base.manifest, source).await?
                }
                _ => Vec::new(),
            };
            source.units = if retry {
                pending.iter().map(|pending| pending.unit(source)).collect()
            } else {
                let (name, listing) = (&source.config.name, &source.listing);
                let (from, bytes) = (source.settled.files, self.config.unit_bytes);
                plan_units(name, source.index, listing, from, &source.input, bytes).await?
            };
            for pending in pending {
                self.refused.entry(pending.root.id).or_default().push(pending.rows);
                retried.push(pending.retried);
            }
        }
        if self.config.deduplicate {
            self.chain_names();
        }
        self.sources.iter_mut().for_each(SourcePlan::name_files);
        if retry {
            let units = self.sources.iter().flat_map(|source| &source.units);
            self.retries = Arc::new(units.map(|unit| unit.id.clone()).zip(retried).collect());
        }
        Ok(())
    }

    /// Where copies are dropped, what becomes of a unit depends on all units before it: so does its name then, and a
    /// commit that was made with other files before it is not taken for this unit's.
    fn chain_names(&mut self) {
        let mut before = blake3::Hasher::new();
        for unit in self.base.iter().flat_map(|base| &base.manifest.units) {
            before.update(unit.unit.as_bytes());
        }
        for source in &mut self.sources {
            for unit in &mut source.units {
                before.update(unit.id.as_bytes());
                unit.id = unit_id(&source.config.name, &before);
            }
        }
    }

    pub(crate) fn unit_count(&self) -> usize {
        self.sources.iter().map(|source| source.units.len()).sum()
    }

    /// New files that this plan leaves alone.
    pub(crate) fn waiting_files(&self) -> usize {
        let new = |source: &SourcePlan| source.listing.files.len() - source.settled.files;
        if self.environment.retry_rejects { self.sources.iter().map(new).sum() } else { 0 }
    }

    /// Files that the addresses of the sources lead to and that are not read.
    pub fn passed_over(&self) -> Vec<PassedOver> {
        self.sources.iter().flat_map(|source| source.passed_over()).cloned().collect()
    }

    /// The configuration that it was made from.
    pub fn config(&self) -> &PreprocessConfig {
        &self.config
    }

    /// The codec that its pictures go through.
    pub fn codec(&self) -> Option<Arc<dyn ImageCodec>> {
        self.environment.codec.clone().filter(|_| self.has_images())
    }

    /// The units in the order of the dataset.
    pub fn units(&self) -> Vec<UnitSummary> {
        let summary = |source: &SourcePlan, unit: &Unit| UnitSummary {
            unit: unit.id.clone(),
            source: source.config.name.clone(),
            files: unit.files.len(),
            bytes: unit.bytes,
        };
        self.sources
            .iter()
            .flat_map(|source| source.units.iter().map(move |unit| summary(source, unit)))
            .collect()
    }

    /// The plan of each source, as DataFusion's EXPLAIN shows it. A tokenizer that is still to be trained is trained on
    /// a small sample for it.
    ///
    /// # Errors
    ///
    /// If the plan can't be made, or it is told to stop.
    pub async fn explain(&self) -> Result<String, PipelineError> {
        self.environment.stop.until(self.explained()).await
    }

    async fn explained(&self) -> Result<String, PipelineError> {
        let tokenizer = self.some_tokenizer().await?;
        let mut text = String::new();
        for source in &self.sources {
            let plan = self.physical_plan(source, &source.units, &tokenizer).await?;
            text.push_str(&format!("source {}\n{}", source.config.name, displayable(&*plan).indent(false)));
        }
        Ok(text)
    }

    /// The job's tokenizer, or one of its size that has learned from little.
    pub(crate) async fn some_tokenizer(&self) -> Result<Tokenizer, PipelineError> {
        match (&self.tokenizer, self.config.tokenizer.train) {
            (Some(tokenizer), _) => Ok(tokenizer.clone()),
            (None, Some(settings)) => {
                let sample_bytes = settings.sample_bytes.min(SKETCH_BYTES);
                tokenizer_training::sketch(self, TrainTokenizer { sample_bytes, ..settings })
                    .await
                    .map(|(tokenizer, _)| tokenizer)
            }
            (None, None) => Err(PipelineError::Config {
                key: "tokenizer".to_owned(),
                expected: "`tokenizer.model` or `tokenizer.train`".to_owned(),
                found: "absent".to_owned(),
            }),
        }
    }

    /// What plans of this job find where they run; whoever runs one adds what comes later: a tokenizer, copies, who is
    /// told of progress.
    pub(crate) fn runtime(&self) -> Runtime {
        Runtime {
            inputs: self.sources.iter().flat_map(SourcePlan::inputs).collect(),
            codec: self.environment.codec.clone(),
            device: self.device.clone(),
            outputs: Some(self.outputs()),
            ..Runtime::new(self.memory.clone(), self.pool.clone(), self.environment.stop.clone())
        }
    }

    /// Units that may run at a time, within the cores and the memory.
    pub(crate) fn units_at_once(&self) -> usize {
        let bytes = self.sources.iter().map(|source| self.unit_bytes(source)).max().unwrap_or(0);
        self.memory.units(bytes, self.environment.threads)
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

    pub(crate) fn layout(&self, tokenizer: &Tokenizer) -> RowLayout {
        let vocabulary = Vocabulary::text(tokenizer.vocabulary_size());
        RowLayout { context: self.config.context, patch: self.patch(), vocabulary }
    }

    pub(crate) fn patch(&self) -> u32 {
        self.config.codec.as_ref().map_or(1, |codec| codec.patch)
    }

    pub(crate) fn has_images(&self) -> bool {
        self.config.sources.iter().any(|source| source.shape.has_images())
    }

    /// The dataset and its validation dataset.
    pub(crate) fn outputs(&self) -> [Location; SPLITS] {
        [self.environment.output.clone(), self.environment.output.child("validation")]
    }

    pub(crate) fn packing(&self) -> Packing {
        match self.config.packing {
            Filling::BestFit => Packing::BestFit { window: self.config.window },
            Filling::Sequence => Packing::Sequence,
        }
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
            plan = stage(source.decode(rules, seed, self.pool.clone()), plan);
            let encode = Encode {
                codec: codec.clone(),
                size: config.size,
                batch: config.batch,
                latent: config.latent,
                seed,
                source: name.clone(),
                files: source.files.clone(),
                device: self.device.clone(),
                pool: self.pool.clone(),
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
            pool: self.pool.clone(),
        };
        Ok(stage(tokenize, plan))
    }
}

fn check_codec(config: &PreprocessConfig, codec: Option<&dyn ImageCodec>) -> Result<(), PipelineError> {
    let Some(source) = config.sources.iter().find(|source| source.shape.has_images()) else { return Ok(()) };
    let (Some(codec), Some(settings)) = (codec, &config.codec) else {
        return Err(PipelineError::NoCodec { name: source.name.clone() });
    };
    let factor = codec.info().downsampling.max(1);
    if !settings.size.is_multiple_of(factor) {
        return Err(PipelineError::Config {
            key: "codec.size".to_owned(),
            found: settings.size.to_string(),
            expected: format!(
                "a multiple of {factor}: the codec makes one position of {factor} x {factor} pixels"
            ),
        });
    }
    let side = settings.size / factor;
    if side == 0 || !side.is_multiple_of(settings.patch) {
        return Err(PipelineError::CodecShape { height: side, width: side, patch: settings.patch });
    }
    let patches = u64::from(side / settings.patch).pow(2);
    if patches + 4 > u64::from(config.context) {
        return Err(PipelineError::Config {
            key: "context".to_owned(),
            found: config.context.to_string(),
            expected: format!("more than the {patches} patches of an image and its markers"),
        });
    }
    Ok(())
}

async fn open_tokenizer(
    uri: &str,
    config: &TokenizerConfig,
    resolver: &dyn Resolver,
) -> Result<Tokenizer, PipelineError> {
    let failed = |source| PipelineError::Tokenizer { uri: uri.to_owned(), source };
    let (store, path) = resolver.resolve(uri).map_err(failed)?;
    let found = store.get(&path).await.map_err(|error| failed(Box::new(error)))?;
    let bytes: Bytes = found.bytes().await.map_err(|error| failed(Box::new(error)))?;
    Tokenizer::with_markers(&bytes, &config.markers()).map_err(|error| failed(Box::new(error)))
}
