//! From a configuration to what will be done: sources with their files, columns and units, and the DataFusion plan of
//! each source.
//!
//! It decides and writes nothing. It knows nothing about how a job runs: no lease, no progress, no manifest.

mod check;
mod environment;
pub(crate) mod identity;
pub(crate) mod physical;
mod retry;
mod settle;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use schemas::{RowLayout, Tokenizer, Vocabulary};
use serde_json::Value;

use self::check::{check_codec, open_tokenizer};
pub use self::environment::Environment;
use crate::PipelineError;
use crate::config::{PackingMethod, PreprocessConfig};
use crate::document::pack::Packing;
use crate::engine::memory::Memory;
use crate::engine::session::thread_pool;
use crate::host::passed_over::PassedOver;
use crate::operators::runtime::Runtime;
use crate::picture::codec::ImageCodec;
use crate::plan::identity::{check_same, portable_config};
use crate::plan::settle::settle;
use crate::read::lines::Lines;
use crate::source::{Planning, SourcePlan, plan_columns};
use crate::storage::commit::{Retried, SPLITS};
use crate::storage::location::Location;
use crate::storage::version::Version;
use crate::units::{Rows, Unit, unit_id};

/// What a preprocessing job will do.
#[derive(Clone)]
pub struct PreprocessPlan {
    pub(crate) config: PreprocessConfig,
    pub(crate) environment: Environment,
    pub(crate) sources: Vec<SourcePlan>,
    /// The tokenizer, unless it is to be trained.
    pub(crate) tokenizer: Option<Tokenizer>,
    /// What its plans find where they run; whoever runs one adds what comes later: a tokenizer, copies, who is told of
    /// progress.
    pub(crate) runtime: Runtime,
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

/// A unit, for people.
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
        let memory = Memory::new(usize::try_from(config.memory_bytes).unwrap_or(usize::MAX));
        let runtime = Runtime {
            codec: environment.codec.clone(),
            outputs: Some(outputs(&environment.output)),
            ..Runtime::new(memory, thread_pool(environment.threads)?, environment.stop.clone())
        };
        let mut sources = Vec::with_capacity(config.sources.len());
        for (index, source) in config.sources.iter().enumerate() {
            let planning = Planning {
                runtime: &runtime,
                resolver: &*environment.resolver,
                output: Some(&environment.output),
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
            runtime,
            portable,
            base,
            retries: Arc::default(),
            refused: HashMap::new(),
        };
        plan.settle()?;
        plan.plan_units().await?;
        plan.runtime.inputs = plan.sources.iter().flat_map(SourcePlan::inputs).collect();
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
                source.plan_units(source.settled.files, self.config.unit_bytes).await?
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
        outputs(&self.environment.output)
    }

    pub(crate) fn packing(&self) -> Packing {
        match self.config.packing {
            PackingMethod::BestFit => Packing::BestFit { window: self.config.window },
            PackingMethod::Sequence => Packing::Sequence,
        }
    }
}

fn outputs(output: &Location) -> [Location; SPLITS] {
    [output.clone(), output.child("validation")]
}
