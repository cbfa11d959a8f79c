//! Checkpoints: all that a run needs to go on exactly, and all that sampling needs, in one folder.
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
//! noticed, and the one before it is used.

mod error;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use schemas::{StreamCursor, content_hash};

pub use error::CheckpointError;
pub use state::CheckpointState;

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

/// What is saved.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// Updates done.
    pub step: u64,
    /// Mean loss of the steps since the checkpoint before.
    pub loss: Option<f64>,
    /// Where the data stands.
    pub cursor: StreamCursor,
    /// The resolved config.
    pub config: &'a TrainConfig,
    /// The weights.
    pub weights: &'a Tensors,
    /// The optimizer's state.
    pub optimizer: &'a Tensors,
    /// The averaged weights.
    pub average: Option<&'a Tensors>,
    /// Tokenizer and codec.
    pub companions: &'a Companions,
}

/// The files of a checkpoint that never change.
#[derive(Clone, Debug, Default)]
pub struct Companions {
    /// File name of the tokenizer.
    pub tokenizer_name: String,
    /// Its bytes.
    pub tokenizer: Vec<u8>,
    /// Ids that begin and end a document.
    pub markers: Option<(u32, u32)>,
    /// Fingerprint of the codec that made the latents.
    pub codec_fingerprint: Option<String>,
    /// Side in pixels of the pictures that the latents were made from.
    pub picture_size: Option<u32>,
    /// Positions of the longest rows of the datasets.
    pub context: Option<u32>,
    /// Files of the codec by name, if they are kept.
    pub codec: BTreeMap<String, Vec<u8>>,
}

/// The folder `checkpoints` of a run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| CheckpointError::Io { path, source }
}

impl Checkpoints {
    /// Those of a run, which need not exist yet.
    pub fn of(run: &Path) -> Self {
        Self { folder: run.join("checkpoints") }
    }

    /// Steps that have a folder, ascending. Whether they are whole is not looked at.
    ///
    /// # Errors
    ///
    /// If the folder can't be listed.
    pub fn steps(&self) -> Result<Vec<u64>, CheckpointError> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(io_error(&self.folder))?,
        };
        let mut steps = Vec::new();
        for entry in entries {
            let name = entry.map_err(io_error(&self.folder))?.file_name();
            steps.extend(name.to_str().and_then(|name| name.strip_prefix("step-")?.parse::<u64>().ok()));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// Where the checkpoint of a step is, or would be.
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step:08}"))
    }

    /// The newest whole one, and what is wrong with those that are newer; `None` if there are none at all.
    ///
    /// # Errors
    ///
    /// If there are some and none is whole.
    pub fn newest(&self) -> Result<Option<(Checkpoint, Vec<String>)>, CheckpointError> {
        let mut damage = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            match Checkpoint::open_step(&self.path(step)) {
                Ok(checkpoint) => return Ok(Some((checkpoint, damage))),
                Err(error @ CheckpointError::Newer { .. }) => return Err(error),
                Err(error) => damage.push(first_line(&error)),
            }
        }
        if damage.is_empty() {
            return Ok(None);
        }
        let run = self.folder.parent().unwrap_or(&self.folder).to_owned();
        Err(CheckpointError::AllDamaged { run, damage })
    }

    /// Removes what a killed process left half-written.
    ///
    /// # Errors
    ///
    /// If it can't be removed.
    pub fn clean(&self) -> Result<(), CheckpointError> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Ok(()) };
        for entry in entries {
            let path = entry.map_err(io_error(&self.folder))?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with('.') && (name.ends_with(".partial") || name.ends_with(".old")) {
                fs::remove_dir_all(&path).map_err(io_error(&path))?;
            }
        }
        Ok(())
    }

    /// Writes a checkpoint and gives its folder. One of the same step, which was found damaged, is replaced.
    ///
    /// # Errors
    ///
    /// If the disk refuses; nothing is left under the final name then.
    pub fn save(&self, snapshot: &Snapshot<'_>) -> Result<PathBuf, CheckpointError> {
        let path = self.path(snapshot.step);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let partial = self.folder.join(format!(".{name}.partial"));
        remove_folder(&partial)?;
        fs::create_dir_all(&partial).map_err(io_error(&partial))?;
        let written = write_files(&partial, snapshot).and_then(|()| sync_folder(&partial));
        if let Err(error) = written {
            // The first error is the one to report; a leftover is removed at the next start at the latest.
            let _ = fs::remove_dir_all(&partial);
            return Err(error);
        }
        let old = self.folder.join(format!(".{name}.old"));
        remove_folder(&old)?;
        if path.exists() {
            fs::rename(&path, &old).map_err(io_error(&path))?;
        }
        fs::rename(&partial, &path).map_err(io_error(&path))?;
        sync_folder(&self.folder)?;
        remove_folder(&old)?;
        Ok(path)
    }

    /// Removes all but the newest `keep` and the best: the one with the lowest mean loss.
    ///
    /// # Errors
    ///
    /// If one can't be removed.
    pub fn prune(&self, keep: usize) -> Result<(), CheckpointError> {
        let steps = self.steps()?;
        let loss = |step: u64| read_state(&self.path(step)).ok().and_then(|state| state.loss);
        let best =
            steps.iter().filter_map(|&step| Some((loss(step)?, step))).min_by(|a, b| a.0.total_cmp(&b.0));
        let surplus = steps.len().saturating_sub(keep);
        for &step in &steps[..surplus] {
            if best.is_none_or(|(_, best)| best != step) {
                // Renamed first, so that no half-removed folder ever stands under the name of a whole one.
                let (path, old) = (self.path(step), self.folder.join(format!(".step-{step:08}.old")));
                fs::rename(&path, &old).map_err(io_error(&path))?;
                remove_folder(&old)?;
            }
        }
        Ok(())
    }
}

fn first_line(error: &CheckpointError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

fn remove_folder(path: &Path) -> Result<(), CheckpointError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path)(error)),
        _ => Ok(()),
    }
}

/// Makes names in a folder durable, where the system can.
fn sync_folder(path: &Path) -> Result<(), CheckpointError> {
    if cfg!(unix) {
        File::open(path).and_then(|folder| folder.sync_all()).map_err(io_error(path))
    } else {
        Ok(())
    }
}

fn write_files(folder: &Path, snapshot: &Snapshot<'_>) -> Result<(), CheckpointError> {
    let mut writer = FileWriter { folder, files: BTreeMap::new() };
    writer.tensors(MODEL, snapshot.weights)?;
    writer.tensors(OPTIMIZER, snapshot.optimizer)?;
    if let Some(average) = snapshot.average {
        writer.tensors(AVERAGE, average)?;
    }
    let config = toml::to_string(snapshot.config).expect("a config holds nothing that TOML can't say");
    writer.write(CONFIG, config.as_bytes())?;
    let companions = snapshot.companions;
    writer.write(&companions.tokenizer_name, &companions.tokenizer)?;
    for (name, bytes) in &companions.codec {
        writer.write(&format!("codec/{name}"), bytes)?;
    }
    let state = CheckpointState {
        format: FORMAT,
        features: Vec::new(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        step: snapshot.step,
        loss: snapshot.loss,
        cursor: snapshot.cursor.clone(),
        tokenizer: content_hash(&companions.tokenizer),
        bos: companions.markers.map(|(bos, _)| bos),
        eos: companions.markers.map(|(_, eos)| eos),
        codec: companions.codec_fingerprint.clone(),
        picture_size: companions.picture_size,
        context: companions.context,
        files: std::mem::take(&mut writer.files),
    };
    writer.write(STATE, &state.to_bytes())
}

struct FileWriter<'a> {
    folder: &'a Path,
    files: BTreeMap<String, String>,
}

impl FileWriter<'_> {
    fn tensors(&mut self, name: &str, tensors: &Tensors) -> Result<(), CheckpointError> {
        let wrong = |source| CheckpointError::Weights { path: self.folder.join(name), source };
        let bytes = weights::to_bytes(tensors).map_err(wrong)?;
        self.write(name, &bytes)
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        let path = self.folder.join(name);
        let write = || {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            let mut file = File::create(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(io_error(&path))?;
        self.files.insert(name.to_owned(), content_hash(bytes));
        Ok(())
    }
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
        if path.is_dir() && name.starts_with("step-") {
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
        Ok((name.clone(), fs::read(&path).map_err(io_error(&path))?))
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

    /// What the model is built from.
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

    fn tensors(&self, name: &str) -> Result<Tensors, CheckpointError> {
        let path = self.folder.join(name);
        let bytes = fs::read(&path).map_err(io_error(&path))?;
        weights::from_bytes(&bytes).map_err(|source| CheckpointError::Weights { path, source })
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
