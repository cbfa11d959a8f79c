//! The runtime of a session: what operators find in the process that they run in.
//!
//! An operator of a plan holds plain data alone: settings, names, sizes. Memory, threads, stores, the device and whoever
//! is told of progress belong to the process, and whoever makes a session puts them into its configuration, where each
//! operator finds them when it starts. So a plan could be sent to another process, which has a runtime of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::prelude::SessionContext;
use rayon::ThreadPool;
use schemas::Tokenizer;

use super::duplicates::Duplicates;
use crate::PipelineError;
use crate::engine::memory::Memory;
use crate::engine::session::run_session;
use crate::host::observer::{Observer, Silent};
use crate::host::stop::Stop;
use crate::picture::codec::ImageCodec;
use crate::read::Input;
use crate::storage::commit::SPLITS;
use crate::storage::location::Location;

/// What all plans of a job share in a process.
#[derive(Clone)]
pub(crate) struct Runtime {
    /// What operators reserve from.
    pub(crate) memory: Arc<Memory>,
    /// What computes.
    pub(crate) pool: Arc<ThreadPool>,
    pub(crate) stop: Stop,
    pub(crate) observer: Arc<dyn Observer>,
    /// How the files of sources are read, by the names of the sources.
    pub(crate) inputs: HashMap<String, Input>,
    /// Rows that are copies.
    pub(crate) duplicates: Arc<Duplicates>,
    pub(crate) codec: Option<Arc<dyn ImageCodec>>,
    /// Held by the unit whose batch the codec computes.
    pub(crate) device: Arc<Mutex<()>>,
    pub(crate) tokenizer: Option<Tokenizer>,
    /// The dataset and its validation dataset.
    pub(crate) outputs: Option<[Location; SPLITS]>,
}

impl Runtime {
    /// One for plans that read: without copies, codec, tokenizer and outputs.
    pub(crate) fn new(memory: Memory, pool: Arc<ThreadPool>, stop: Stop) -> Self {
        Self {
            memory: Arc::new(memory),
            pool,
            stop,
            observer: Arc::new(Silent),
            inputs: HashMap::new(),
            duplicates: Arc::default(),
            codec: None,
            device: Arc::default(),
            tokenizer: None,
            outputs: None,
        }
    }

    /// The runtime of the session that a plan runs in.
    pub(crate) fn of(task: &TaskContext) -> Result<Arc<Self>, PipelineError> {
        present(task.session_config().get_extension(), "runtime")
    }

    /// A session to run plans in.
    pub(crate) fn session(&self) -> Result<SessionContext, PipelineError> {
        run_session(&self.memory, Arc::new(self.clone()))
    }

    /// How the files of a source are read.
    pub(crate) fn input(&self, source: &str) -> Result<&Input, PipelineError> {
        present(self.inputs.get(source), "input")
    }

    pub(crate) fn codec(&self) -> Result<Arc<dyn ImageCodec>, PipelineError> {
        present(self.codec.clone(), "codec")
    }

    pub(crate) fn tokenizer(&self) -> Result<Tokenizer, PipelineError> {
        present(self.tokenizer.clone(), "tokenizer")
    }

    pub(crate) fn outputs(&self) -> Result<&[Location; SPLITS], PipelineError> {
        present(self.outputs.as_ref(), "output")
    }
}

fn present<T>(found: Option<T>, what: &str) -> Result<T, PipelineError> {
    let absent = || DataFusionError::Internal(format!("the session of a plan has no {what} for it"));
    found.ok_or_else(|| PipelineError::Plan(absent()))
}
