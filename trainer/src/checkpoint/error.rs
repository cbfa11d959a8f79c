//! Faults of a checkpoint.

use std::io;
use std::path::PathBuf;

use crate::limits::gigabytes;
use crate::model::ModelError;
use crate::weights::WeightsError;

/// Why a checkpoint can't be written or used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Neither a run nor a step folder.
    #[error("`{}` is neither a run nor a checkpoint\nhint: name the `run` of a training config, or a folder `checkpoints/step-...` in it", path.display())]
    NotOne {
        /// The path.
        path: PathBuf,
    },
    /// A run without checkpoints.
    #[error("run `{}` has no checkpoint yet", run.display())]
    None {
        /// The run.
        run: PathBuf,
    },
    /// A run whose checkpoints are all damaged.
    #[error("run `{}` has no whole checkpoint: {}\nhint: bring a copy of one back, or start anew under another `run`", run.display(), damage.join("; "))]
    AllDamaged {
        /// The run.
        run: PathBuf,
        /// The faults of each, newest first.
        damage: Vec<String>,
    },
    /// A checkpoint that was there and is not any more.
    #[error("checkpoint `{}` was removed while it was read: a run keeps its newest checkpoints and the best\nhint: try again with the run's name, which stands for its newest checkpoint; `checkpoint.keep` says how many are kept", path.display())]
    Pruned {
        /// The folder.
        path: PathBuf,
    },
    /// A whole checkpoint behind the one that a run goes on from.
    #[error("checkpoint `{}` was written meanwhile, behind step {current} that this run would go on from\nhint: start again with `--resume`", path.display())]
    Further {
        /// The folder.
        path: PathBuf,
        /// The step that the run would go on from.
        current: u64,
    },
    /// `state.json` that is not one.
    #[error("`{}` can't be read: {what}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// The fault.
        what: String,
    },
    /// A file that doesn't have its checksum.
    #[error("`{}` is damaged: `state.json` has the checksum `{expected}`, the file `{found}`\nhint: use an earlier checkpoint", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Checksum in `state.json`.
        expected: String,
        /// Checksum of the file.
        found: String,
    },
    /// A later version of the layout.
    #[error("checkpoint `{}` needs {what}, which this program doesn't know", path.display())]
    Newer {
        /// The folder.
        path: PathBuf,
        /// The version or feature needed.
        what: String,
    },
    /// Tensors that can't be read or don't fit the config.
    #[error("`{}`: {source}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// Why.
        source: WeightsError,
    },
    /// A config that can't be read.
    #[error("`{}` can't be read", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<toml::de::Error>,
    },
    /// A config that makes no model.
    #[error("the config of checkpoint `{}` makes no model", path.display())]
    Model {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: ModelError,
    },
    /// More memory than there is.
    #[error(
        "checkpoint `{}` needs about {} of memory while its weights are loaded, {} can be had\nhint: end other programs, or use a machine with more memory",
        path.display(), gigabytes(*needed_bytes), gigabytes(*available_bytes)
    )]
    Memory {
        /// The folder.
        path: PathBuf,
        /// The memory needed.
        needed_bytes: u64,
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
