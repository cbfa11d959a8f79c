//! A dataset: its manifest, and which of its shards are read.

use std::sync::Arc;

use bytes::Bytes;
use schemas::{Manifest, ShardRecord, content_hash, manifest_name};

use super::StreamError;
use super::cache::is_checksum;
use super::fetch::{Fetcher, Location, Retry};

/// An opened version of a dataset.
#[derive(Clone, Debug)]
pub struct Dataset {
    location: Location,
    manifest: Arc<Manifest>,
    checksum: String,
}

impl Dataset {
    /// Reads the manifest: the latest version, or the one with the checksum `pinned`.
    ///
    /// # Errors
    ///
    /// If there is no dataset, its manifest is damaged, or the pinned version is gone.
    pub fn open(location: &Location, pinned: Option<&str>) -> Result<Self, StreamError> {
        Self::open_with(location, pinned, &Fetcher::new(Retry::default())?)
    }

    pub(super) fn open_with(
        location: &Location,
        pinned: Option<&str>,
        fetcher: &Fetcher,
    ) -> Result<Self, StreamError> {
        let mut latest = None;
        for version in 1.. {
            let name = manifest_name(version);
            let Some(bytes) = read(location, &name, fetcher)? else { break };
            let (manifest, checksum) = Manifest::from_bytes(&bytes).map_err(|source| {
                StreamError::Manifest { uri: location.uri.clone(), name, source: Box::new(source) }
            })?;
            let wanted = pinned == Some(checksum.as_str());
            latest = Some(Self { location: location.clone(), manifest: Arc::new(manifest), checksum });
            if wanted {
                break;
            }
        }
        let dataset = latest.ok_or_else(|| StreamError::NoDataset { uri: location.uri.clone() })?;
        match pinned {
            Some(checksum) if checksum != dataset.checksum => {
                Err(StreamError::NoVersion { uri: location.uri.clone(), checksum: checksum.to_owned() })
            }
            _ => Ok(dataset),
        }
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Checksum of the manifest: names this version.
    pub fn checksum(&self) -> &str {
        &self.checksum
    }

    /// Where it lies.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The dataset's copy of its tokenizer.
    ///
    /// # Errors
    ///
    /// If it is missing or damaged.
    pub fn tokenizer(&self) -> Result<Bytes, StreamError> {
        let record = &self.manifest.tokenizer;
        let (uri, path) = (self.location.uri.clone(), record.path.clone());
        let bytes = read(&self.location, &path, &Fetcher::new(Retry::default())?)?;
        let bytes = bytes.ok_or_else(|| StreamError::Missing { uri: uri.clone(), path: path.clone() })?;
        let found = content_hash(&bytes);
        if found == record.fingerprint {
            return Ok(bytes);
        }
        Err(StreamError::Damaged { uri, path, expected: record.fingerprint.clone(), found })
    }

    /// The shards of one source, or of all, in the manifest's order; those without rows left out.
    ///
    /// # Errors
    ///
    /// If there is no such source, or nothing to read.
    pub fn shards(&self, source: Option<&str>) -> Result<Vec<ShardRecord>, StreamError> {
        let index = source.map(|name| self.source(name)).transpose()?;
        let wanted = |shard: &&ShardRecord| shard.rows > 0 && index.is_none_or(|index| shard.source == index);
        let shards: Vec<_> = self.manifest.shards.iter().filter(wanted).cloned().collect();
        for shard in &shards {
            self.location.check_inside(&shard.path)?;
            self.check_checksum(shard)?;
        }
        if shards.is_empty() {
            let of = source.map_or_else(String::new, |name| format!(" of the source `{name}`"));
            return Err(StreamError::Empty { uri: self.location.uri.clone(), of });
        }
        Ok(shards)
    }

    /// A checksum is also the name of a file in the cache.
    fn check_checksum(&self, shard: &ShardRecord) -> Result<(), StreamError> {
        if is_checksum(&shard.checksum) {
            return Ok(());
        }
        let (uri, path) = (self.location.uri.clone(), shard.path.clone());
        Err(StreamError::Checksum { uri, path, found: shard.checksum.clone() })
    }

    fn source(&self, name: &str) -> Result<u16, StreamError> {
        let sources = &self.manifest.sources;
        let index = sources.iter().position(|source| source.name == name);
        index.map(|index| index as u16).ok_or_else(|| StreamError::UnknownSource {
            uri: self.location.uri.clone(),
            name: name.to_owned(),
            known: sources.iter().map(|source| format!("`{}`", source.name)).collect::<Vec<_>>().join(", "),
        })
    }
}

fn read(location: &Location, path: &str, fetcher: &Fetcher) -> Result<Option<Bytes>, StreamError> {
    location.check_inside(path)?;
    let Some(folder) = &location.local else { return fetcher.read(location, path) };
    let file = folder.join(path);
    match std::fs::read(&file) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StreamError::Io { path: file, source }),
    }
}
