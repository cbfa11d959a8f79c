//! What a URI holds: a dataset, a lone shard, or a run. Opened here for every command that reads one.

use anyhow::{Context, anyhow};
use arrow::buffer::Buffer;
use schemas::shard::Shard;
use schemas::{Manifest, Row, Tokenizer, manifest_name};

use crate::errors::hinted;
use crate::store::Place;

/// A dataset whose newest manifest has been read and checked.
#[derive(Debug)]
pub(crate) struct Dataset {
    /// Its folder.
    pub(crate) place: Place,
    /// The newest manifest.
    pub(crate) manifest: Manifest,
    /// File name of the manifest.
    pub(crate) name: String,
    /// Checksum of the manifest.
    pub(crate) checksum: String,
}

/// The bytes of a dataset's newest manifest, not yet believed.
pub(crate) struct ManifestFile {
    pub(crate) name: String,
    pub(crate) bytes: bytes::Bytes,
}

/// Reads the newest manifest below `place`; `None` where there is none. Versions are probed by name, never listed.
pub(crate) async fn newest_manifest(place: &Place) -> anyhow::Result<Option<ManifestFile>> {
    let mut newest = None;
    for version in 1.. {
        let name = manifest_name(version);
        match place.join(&name).read_if_there().await? {
            Some(bytes) => newest = Some(ManifestFile { name, bytes }),
            None => break,
        }
    }
    Ok(newest)
}

impl Dataset {
    /// Opens the dataset at `place`, `None` where there is no manifest.
    ///
    /// # Errors
    ///
    /// If the manifest can't be read, is damaged, or is of a later format.
    pub(crate) async fn open(place: &Place) -> anyhow::Result<Option<Self>> {
        let Some(file) = newest_manifest(place).await? else { return Ok(None) };
        let parsed = Manifest::from_bytes(&file.bytes);
        let hint = "restore the file from a copy, or pack the dataset again with `transfusion preprocess`";
        let (manifest, checksum) = parsed
            .with_context(|| format!("cannot use `{}`", place.join(&file.name).uri))
            .map_err(|error| hinted(error, hint))?;
        Ok(Some(Self { place: place.clone(), manifest, name: file.name, checksum }))
    }

    /// Reads shard `index` of the manifest and checks its bytes.
    ///
    /// # Errors
    ///
    /// If it is missing, has another checksum, or is no shard.
    pub(crate) async fn shard(&self, index: usize) -> anyhow::Result<Shard> {
        let record = &self.manifest.shards[index];
        let place = self.place.join(&record.path);
        let bytes = place.read().await?;
        let found = schemas::content_hash(&bytes);
        if found != record.checksum {
            return Err(hinted(
                anyhow!(
                    "shard `{}` is damaged: its checksum is `{found}`, the manifest has `{}`",
                    place.uri,
                    record.checksum
                ),
                format!("`transfusion verify {}` lists all that is damaged", self.place.uri),
            ));
        }
        open_shard(&place, bytes)
    }

    /// The dataset's own tokenizer.
    ///
    /// # Errors
    ///
    /// If it is missing, damaged, or of an unknown kind.
    pub(crate) async fn tokenizer(&self) -> anyhow::Result<Tokenizer> {
        let record = &self.manifest.tokenizer;
        let place = self.place.join(&record.path);
        let bytes = place.read().await?;
        Tokenizer::with_ids(&bytes, record.bos, record.eos)
            .with_context(|| format!("cannot use the tokenizer `{}`", place.uri))
    }

    /// The shard that holds row `row` of the dataset, and the row's index in it.
    pub(crate) fn find_row(&self, row: u64) -> Option<(usize, u64)> {
        let mut before = 0;
        for (index, shard) in self.manifest.shards.iter().enumerate() {
            if row < before + shard.rows {
                return Some((index, row - before));
            }
            before += shard.rows;
        }
        None
    }
}

/// Reads a tokenizer file.
pub(crate) async fn read_tokenizer(place: &Place) -> anyhow::Result<Tokenizer> {
    let bytes = place.read().await?;
    Tokenizer::from_bytes(&bytes).with_context(|| format!("cannot use the tokenizer `{}`", place.uri))
}

/// Opens the bytes of a shard.
pub(crate) fn open_shard(place: &Place, bytes: bytes::Bytes) -> anyhow::Result<Shard> {
    Shard::open(Buffer::from(bytes)).with_context(|| format!("cannot read the shard `{}`", place.uri))
}

/// Row `row` of a shard; `None` behind its last row.
pub(crate) fn row_of(shard: &Shard, row: u64) -> anyhow::Result<Option<Row>> {
    let size = schemas::shard::BATCH_ROWS as u64;
    let Ok(batch) = usize::try_from(row / size) else { return Ok(None) };
    if batch >= shard.batches() {
        return Ok(None);
    }
    Ok(shard.rows(batch)?.into_iter().nth((row % size) as usize))
}

/// What stands at a URI.
pub(crate) enum Found {
    /// A folder with a manifest.
    Dataset(Box<Dataset>),
    /// An Arrow file by itself.
    Shard(Place, Box<Shard>),
}

impl Found {
    /// Opens a URI: something named `.arrow` is a shard, anything else a dataset.
    ///
    /// # Errors
    ///
    /// If there is neither.
    pub(crate) async fn open(place: Place) -> anyhow::Result<Self> {
        if is_shard_name(&place.uri) {
            let bytes = place.read().await?;
            let shard = open_shard(&place, bytes)?;
            return Ok(Self::Shard(place, Box::new(shard)));
        }
        match Dataset::open(&place).await? {
            Some(dataset) => Ok(Self::Dataset(Box::new(dataset))),
            None => Err(nothing_at(&place)),
        }
    }
}

/// Whether a URI names a shard by its extension.
pub(crate) fn is_shard_name(uri: &str) -> bool {
    uri.ends_with(".arrow")
}

/// The error for a URI that leads to nothing of ours.
pub(crate) fn nothing_at(place: &Place) -> anyhow::Error {
    let is_run =
        |path: &std::path::PathBuf| path.join("checkpoints").is_dir() || path.join("state.json").is_file();
    if place.local.as_ref().is_some_and(is_run) {
        let what = anyhow!("`{}` is a run or a checkpoint, not a dataset", place.uri);
        return hinted(what, "`transfusion verify` checks it, `transfusion sample` draws from it");
    }
    let missing = place.local.as_ref().is_some_and(|path| !path.exists());
    let why = if missing { "there is no such folder" } else { "there is no `manifest.json`" };
    hinted(
        anyhow!("no dataset at `{}`: {why}", place.uri),
        "a dataset is the `output` of `transfusion preprocess`, visible once its job has ended; a lone shard ends in `.arrow`",
    )
}
