//! Why a run can't start or go on.

use std::io;
use std::path::{Path, PathBuf};

use super::memory::Memory;
use crate::checkpoint::CheckpointError;
use crate::codec::CodecError;
use crate::config::ConfigError;
use crate::device::DeviceError;
use crate::limits::gigabytes;
use crate::log::LogError;
use crate::model::ModelError;
use crate::objective::{ObjectiveConfigError, PrepareError};
use crate::stream::StreamError;
use crate::weights::WeightsError;

/// Advice for a number that stopped being one. To go on from the last checkpoint would do the same steps again.
fn after_divergence(run: Option<&Path>) -> String {
    let gentler = "a lower `schedule.rate` or a longer `schedule.warm-up`";
    match run {
        Some(run) => format!(
            "start a new run from the last checkpoint's weights with {gentler}: another `run`, with `init = \"{}\"`",
            run.display()
        ),
        None => format!("start again with {gentler}"),
    }
}

fn parts(of: &Memory) -> String {
    let parts = [
        ("weights", of.weights),
        ("gradients", of.gradients),
        ("optimizer", of.optimizer),
        ("average", of.average),
        ("activations of a micro-batch", of.activations),
        ("rows held ready", of.rows),
    ];
    let named = parts.into_iter().filter(|(_, bytes)| *bytes > 0);
    named.map(|(name, bytes)| format!("{name} {}", gigabytes(bytes))).collect::<Vec<_>>().join(", ")
}

/// Why a run can't start or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A value of the config.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The `[model]` table.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The `[diffusion]` table.
    #[error(transparent)]
    Objective(#[from] ObjectiveConfigError),
    /// The `device` key.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The data.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Weights of a checkpoint that don't fit the model.
    #[error("the checkpoint of step {step} doesn't fit the model of its config: {source}")]
    Weights {
        /// Its step.
        step: u64,
        /// Why.
        source: WeightsError,
    },
    /// A run that would be overwritten.
    #[error("run `{}` has checkpoints already, the newest of step {step}\nhint: `--resume` continues it; another `run` starts anew", run.display())]
    RunExists {
        /// Its folder.
        run: PathBuf,
        /// Its newest step.
        step: u64,
    },
    /// Another process that trains in the same folder.
    #[error("run `{}` is being trained by another process\nhint: wait for it, stop it, or choose another `run`", run.display())]
    RunInUse {
        /// Its folder.
        run: PathBuf,
    },
    /// A config that speaks against the checkpoint's.
    #[error(
        "`{key}` is `{given}`, the run was started with `{saved}`\nhint: set it back, since a resumed run keeps all that decides what is learned; or start a new one from these weights: another `run`, with `init = \"{}\"`",
        run.display()
    )]
    Changed {
        /// The key.
        key: String,
        /// Its value in the checkpoint.
        saved: String,
        /// Its value now.
        given: String,
        /// The run.
        run: PathBuf,
    },
    /// Fewer steps than are done.
    #[error("`steps` is `{steps}`, the run has done {done}\nhint: set `steps` to more than {done} to go on")]
    AlreadyFurther {
        /// Steps of the config.
        steps: u64,
        /// Steps done.
        done: u64,
    },
    /// Datasets that one model can't be trained on.
    #[error(
        "datasets `{first}` and `{other}` can't be mixed: they differ in {what}\nhint: pack both with the same tokenizer, codec and patch size"
    )]
    Mix {
        /// The first dataset.
        first: String,
        /// The other one.
        other: String,
        /// The property that differs.
        what: &'static str,
    },
    /// A dataset of codes.
    #[error(
        "dataset `{uri}` holds the codes of a VQ codec, the objective `transfusion` needs latents\nhint: pack it again with a VAE as `[codec]`"
    )]
    Codes {
        /// The dataset.
        uri: String,
    },
    /// Rows that don't fit the model.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// A codec that can't be read.
    #[error(transparent)]
    CodecFile(#[from] CodecError),
    /// A codec that did not make the latents.
    #[error("codec `{}` has the fingerprint `{found}`, the dataset was made with `{expected}`\nhint: set `codec` to the folder that `transfusion preprocess` was given", path.display())]
    Codec {
        /// Its folder.
        path: PathBuf,
        /// The dataset's.
        expected: String,
        /// The folder's.
        found: String,
    },
    /// A loss or gradient that is no number. The checkpoints before it are untouched.
    #[error(
        "{what} is not finite at step {step}; the batch had {rows}\nhint: {}",
        after_divergence(run.as_deref())
    )]
    NotFinite {
        /// The step.
        step: u64,
        /// The number that isn't finite.
        what: &'static str,
        /// The rows of the batch: source, file and row of each document.
        rows: String,
        /// The run, if it has a checkpoint to start again from.
        run: Option<PathBuf>,
    },
    /// Weights of another model.
    #[error(
        "the weights of `{}` are not those of this run's model; different are: {differences}\nhint: set these as `config.toml` of the checkpoint has them, or leave `init` out to start from fresh weights",
        path.display()
    )]
    Init {
        /// The path of `init`.
        path: PathBuf,
        /// The differences, with both values.
        differences: String,
    },
    /// More memory than there is.
    #[error(
        "the run needs about {} of memory, {} can be had: {}\nhint: a smaller `micro-batch` takes less for the step, a smaller model less for the rest",
        gigabytes(needed.total()), gigabytes(*available_bytes), parts(needed)
    )]
    Memory {
        /// The memory that the run needs.
        needed: Box<Memory>,
        /// The memory there is.
        available_bytes: u64,
    },
    /// The system's complaint.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl From<LogError> for TrainError {
    fn from(LogError { path, source }: LogError) -> Self {
        Self::Io { path, source }
    }
}
