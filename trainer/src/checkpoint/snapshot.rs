//! The contents of a checkpoint, and how they are written: file after file, tensor after tensor, each file synced and hashed on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use schemas::{StreamCursor, content_hash};

use super::state::CheckpointState;
use super::{AVERAGE, CONFIG, CheckpointError, FORMAT, MODEL, OPTIMIZER, STATE, io_error};
use crate::config::TrainConfig;
use crate::device::ComputedOn;
use crate::durable;
use crate::weights::{self, UnreadTensors};

/// The contents of a checkpoint.
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
    pub weights: UnreadTensors<'a>,
    /// The optimizer's state.
    pub optimizer: UnreadTensors<'a>,
    /// The averaged weights.
    pub average: Option<UnreadTensors<'a>>,
    /// The machine that computed the last step.
    pub computed_on: Option<&'a ComputedOn>,
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

/// Writes all files of a checkpoint into an empty folder, `state.json` last, and makes them durable.
pub(super) fn write(folder: &Path, snapshot: &Snapshot<'_>) -> Result<(), CheckpointError> {
    let mut writer = FileWriter { folder, files: BTreeMap::new(), folders: BTreeSet::new() };
    writer.tensors(MODEL, &snapshot.weights)?;
    writer.tensors(OPTIMIZER, &snapshot.optimizer)?;
    if let Some(average) = &snapshot.average {
        writer.tensors(AVERAGE, average)?;
    }
    let config = toml::to_string(snapshot.config).expect("a config holds nothing that TOML can't say");
    writer.bytes(CONFIG, config.as_bytes())?;
    let companions = snapshot.companions;
    writer.bytes(&companions.tokenizer_name, &companions.tokenizer)?;
    for (name, bytes) in &companions.codec {
        writer.bytes(&format!("codec/{name}"), bytes)?;
    }
    let state = state(snapshot, std::mem::take(&mut writer.files));
    writer.bytes(STATE, &state.to_bytes())?;
    writer.sync_folders()
}

fn state(snapshot: &Snapshot<'_>, files: BTreeMap<String, String>) -> CheckpointState {
    let companions = snapshot.companions;
    CheckpointState {
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
        computed_on: snapshot.computed_on.cloned(),
        context: companions.context,
        files,
    }
}

struct FileWriter<'a> {
    folder: &'a Path,
    /// BLAKE3 by name of what was written.
    files: BTreeMap<String, String>,
    /// Folders below the checkpoint's own that files were put in.
    folders: BTreeSet<PathBuf>,
}

impl FileWriter<'_> {
    fn tensors(&mut self, name: &str, tensors: &UnreadTensors<'_>) -> Result<(), CheckpointError> {
        self.write(name, |out| weights::write(tensors, out))
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.write(name, |out| out.write_all(bytes))
    }

    fn write(
        &mut self,
        name: &str,
        content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), CheckpointError> {
        let path = self.folder.join(name);
        if let Some(parent) = path.parent().filter(|parent| *parent != self.folder) {
            durable::create_folders(parent).map_err(io_error(parent))?;
            self.folders.insert(parent.to_owned());
        }
        let checksum = write_hashed(&path, content).map_err(io_error(&path))?;
        self.files.insert(name.to_owned(), checksum);
        Ok(())
    }

    fn sync_folders(&self) -> Result<(), CheckpointError> {
        let own = self.folder.to_owned();
        let mut folders = self.folders.iter().chain([&own]);
        folders.try_for_each(|folder| durable::sync_folder(folder).map_err(io_error(folder)))
    }
}

/// Writes and syncs a file and gives the BLAKE3 of its content.
fn write_hashed(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<String> {
    let file = Hashed { file: File::create(path)?, hasher: blake3::Hasher::new() };
    let mut out = BufWriter::with_capacity(1 << 20, file);
    content(&mut out)?;
    let Hashed { file, hasher } = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// A file and the hash of what went into it.
struct Hashed {
    file: File,
    hasher: blake3::Hasher,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
