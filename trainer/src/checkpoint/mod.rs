//! Checkpoints: all that a run needs to go on exactly, and all that sampling needs, in one folder. It knows the config and the
//! model, and knows nothing about how a run makes its steps.
//!
//! ```text
//! RUN/checkpoints/step-00002000/
//!   model.safetensors       weights
//!   optimizer.safetensors   first.NAME, second.NAME: the moments of AdamW
//!   ema.safetensors         averaged weights, where the run keeps an average
//!   tokenizer.model         or tokenizer.json
//!   config.toml             the resolved config
//!   codec/                  the image codec, if below 64 MiB
//!   state.json              step, cursor, and the BLAKE3 of every other file
//! ```
//!
//! A folder is written beside its place, synced, and renamed, `state.json` last, so that a folder under its name is
//! whole. All files are checked against `state.json` before one is believed: a checkpoint whose disk lost a block is
//! noticed, and the one before it is used. Only checkpoints that were found whole count among those that are kept, so
//! a run that ever had a whole checkpoint has one at any moment. Entries of the folder `checkpoints` that the program
//! would not write itself are left alone.

mod error;
mod snapshot;
mod state;
mod steps;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use burn::tensor::Device;

pub use error::CheckpointError;
pub use snapshot::{Companions, Snapshot};
pub use state::CheckpointState;
pub use steps::Checkpoints;

use crate::config::TrainConfig;
use crate::model::{ModelPlan, Transfusion};
use crate::weights::{self, Tensors, WeightsError};

/// Version of the layout that this program writes, and the last that it reads.
const FORMAT: u32 = 1;
const STATE: &str = "state.json";
const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const AVERAGE: &str = "ema.safetensors";
const CONFIG: &str = "config.toml";
/// A larger codec is not copied into every checkpoint.
pub(crate) const LARGEST_CODEC_BYTES: u64 = 64 << 20;

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| CheckpointError::Io { path, source }
}

fn read_state(folder: &Path) -> Result<CheckpointState, CheckpointError> {
    let path = folder.join(STATE);
    let bytes = fs::read(&path).map_err(io_error(&path))?;
    let state = CheckpointState::from_bytes(&bytes).map_err(|what| CheckpointError::State { path, what })?;
    let newer = |what: String| Err(CheckpointError::Newer { path: folder.to_owned(), what });
    if state.format > FORMAT {
        return newer(format!("version {} of the layout", state.format));
    }
    match state.features.first() {
        Some(feature) => newer(format!("the feature `{feature}`")),
        None => Ok(state),
    }
}

/// Which weights of a checkpoint are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// The average where there is one, else the last weights.
    #[default]
    Best,
    /// The last weights.
    Last,
}

/// A whole checkpoint: every file has been checked.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    state: CheckpointState,
    config: TrainConfig,
}

impl Checkpoint {
    /// Opens a step folder, or the newest whole step of a run. The second value says what is wrong with newer ones.
    ///
    /// # Errors
    ///
    /// If the path is neither, or no checkpoint is whole.
    pub fn open(path: &Path) -> Result<(Self, Vec<String>), CheckpointError> {
        if path.join(STATE).is_file() {
            return Ok((Self::open_step(path)?, Vec::new()));
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() && steps::is_step_name(&name) {
            // A step folder without its state: say what is missing.
            return Ok((Self::open_step(path)?, Vec::new()));
        }
        if !path.join("checkpoints").is_dir() {
            let run = path.to_owned();
            let is_run = path.join(CONFIG).is_file();
            return Err(if is_run {
                CheckpointError::None { run }
            } else {
                CheckpointError::NotOne { path: run }
            });
        }
        Checkpoints::of(path).newest()?.ok_or_else(|| CheckpointError::None { run: path.to_owned() })
    }

    fn open_step(folder: &Path) -> Result<Self, CheckpointError> {
        Self::read_step(folder).map_err(|error| unless_pruned(folder, error))
    }

    fn read_step(folder: &Path) -> Result<Self, CheckpointError> {
        let state = read_state(folder)?;
        for (name, expected) in &state.files {
            check_file(folder, name, expected)?;
        }
        let path = folder.join(CONFIG);
        let text = fs::read_to_string(&path).map_err(io_error(&path))?;
        let config = toml::from_str(&text);
        let config = config.map_err(|source| CheckpointError::Config { path, source: Box::new(source) })?;
        Ok(Self { folder: folder.to_owned(), state, config })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Step, cursor, fingerprints.
    pub fn state(&self) -> &CheckpointState {
        &self.state
    }

    /// The resolved config of the run.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// File name and bytes of the tokenizer.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub fn tokenizer(&self) -> Result<(String, Vec<u8>), CheckpointError> {
        let named = |name: &&String| name.starts_with("tokenizer.");
        let missing = || CheckpointError::State {
            path: self.folder.join(STATE),
            what: "it lists no tokenizer".to_owned(),
        };
        let name = self.state.files.keys().find(named).ok_or_else(missing)?;
        let path = self.folder.join(name);
        let bytes = fs::read(&path).map_err(io_error(&path));
        Ok((name.clone(), bytes.map_err(|error| unless_pruned(&self.folder, error))?))
    }

    /// That the checkpoint is gone, if it is: what was read from its folder failed for that reason.
    pub fn pruned(&self) -> Option<CheckpointError> {
        (!self.folder.is_dir()).then(|| CheckpointError::Pruned { path: self.folder.clone() })
    }

    /// The folder of the codec, if the checkpoint holds it.
    pub fn codec(&self) -> Option<PathBuf> {
        let held = self.state.files.keys().any(|name| name.starts_with("codec/"));
        held.then(|| self.folder.join("codec"))
    }

    /// The last weights.
    ///
    /// # Errors
    ///
    /// If they can't be read.
    pub fn weights(&self) -> Result<Tensors, CheckpointError> {
        self.tensors(MODEL)
    }

    /// The averaged weights, where the run keeps an average.
    ///
    /// # Errors
    ///
    /// If they can't be read.
    pub fn average(&self) -> Result<Option<Tensors>, CheckpointError> {
        let held = self.state.files.contains_key(AVERAGE);
        held.then(|| self.tensors(AVERAGE)).transpose()
    }

    /// The optimizer's state.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub fn optimizer(&self) -> Result<Tensors, CheckpointError> {
        self.tensors(OPTIMIZER)
    }

    /// The plan of the model.
    ///
    /// # Errors
    ///
    /// If the config says nothing that can be built.
    pub fn plan(&self) -> Result<ModelPlan, CheckpointError> {
        let wrong = |source| CheckpointError::Model { path: self.folder.clone(), source };
        let config = self.config.model.config().map_err(|error| CheckpointError::State {
            path: self.folder.join(CONFIG),
            what: error.to_string(),
        })?;
        ModelPlan::from_resolved(&config).map_err(wrong)
    }

    /// The model, ready for use on `device`.
    ///
    /// # Errors
    ///
    /// If config and weights don't fit each other.
    pub fn model(&self, which: Which, device: &Device) -> Result<Transfusion, CheckpointError> {
        let average = if which == Which::Best { self.average()? } else { None };
        let (name, tensors) = match average {
            Some(average) => (AVERAGE, average),
            None => (MODEL, self.weights()?),
        };
        let plan = self.plan()?;
        let misfit = |source| CheckpointError::Weights { path: self.folder.join(name), source };
        let (expected, found) =
            (plan.parameters().total(), tensors.values().map(|tensor| tensor.values.len() as u64).sum());
        if expected > found {
            return Err(misfit(WeightsError::Count { expected, found }));
        }
        weights::fill(Transfusion::new(&plan, 0, device), tensors).map_err(misfit)
    }

    /// Whether [`Checkpoint::model`] fits into the memory that is left. At its peak it holds the numbers twice: as the
    /// file has them, and as tensors.
    ///
    /// # Errors
    ///
    /// If it needs more, with the figures.
    pub fn check_memory(&self, which: Which, available_bytes: u64) -> Result<(), CheckpointError> {
        let has_average = self.state.files.contains_key(AVERAGE);
        let name = if which == Which::Best && has_average { AVERAGE } else { MODEL };
        let path = self.folder.join(name);
        let bytes = fs::metadata(&path).map_err(io_error(&path));
        let bytes = bytes.map_err(|error| unless_pruned(&self.folder, error))?.len();
        let needed_bytes = bytes.saturating_mul(2);
        match needed_bytes > available_bytes {
            true => Err(CheckpointError::Memory { path: self.folder.clone(), needed_bytes, available_bytes }),
            false => Ok(()),
        }
    }

    fn tensors(&self, name: &str) -> Result<Tensors, CheckpointError> {
        let path = self.folder.join(name);
        let bytes = fs::read(&path).map_err(io_error(&path));
        let bytes = bytes.map_err(|error| unless_pruned(&self.folder, error))?;
        weights::from_bytes(&bytes).map_err(|source| CheckpointError::Weights { path, source })
    }
}

/// The error, or that the whole folder has gone: the run that it belongs to goes on and keeps only some checkpoints.
fn unless_pruned(folder: &Path, error: CheckpointError) -> CheckpointError {
    match folder.is_dir() {
        true => error,
        false => CheckpointError::Pruned { path: folder.to_owned() },
    }
}

/// Names come from a file that may be of other origin, so they may not lead out of the folder.
fn check_file(folder: &Path, name: &str, expected: &str) -> Result<(), CheckpointError> {
    let safe =
        |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':', '\0']);
    if !name.split('/').all(safe) {
        let what = format!("it names the file `{name}`, which leads out of the checkpoint");
        return Err(CheckpointError::State { path: folder.join(STATE), what });
    }
    let path = folder.join(name);
    let found = hash_file(&path).map_err(io_error(&path))?;
    if found == expected {
        return Ok(());
    }
    Err(CheckpointError::Damaged { path, expected: expected.to_owned(), found })
}

fn hash_file(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}
