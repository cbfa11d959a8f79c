//! Faults between a dataset and its rows.

use std::path::PathBuf;

use schemas::ManifestError;
use schemas::shard::ShardError;

/// Why rows can't be read. Every variant names the dataset by the URI of the config.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Nothing there.
    #[error(
        "no dataset at `{uri}`: it has no `manifest.json`\nhint: `transfusion preprocess` writes one; check the `uri` of `[[data]]`"
    )]
    NoDataset {
        /// The dataset.
        uri: String,
    },
    /// A manifest that is not one.
    #[error(
        "`{name}` of dataset `{uri}` can't be used: {source}\nhint: `transfusion verify {uri}` says what is damaged"
    )]
    Manifest {
        /// The dataset.
        uri: String,
        /// File name of the manifest.
        name: String,
        /// Why.
        source: Box<ManifestError>,
    },
    /// The version that a run was started with is gone.
    #[error(
        "dataset `{uri}` has no version with the checksum `{checksum}`, which this run was started with\nhint: bring that version back, or start a new run"
    )]
    NoVersion {
        /// The dataset.
        uri: String,
        /// Checksum of the manifest looked for.
        checksum: String,
    },
    /// A source that the dataset doesn't have.
    #[error("dataset `{uri}` has no source `{name}`\nhint: its sources are {known}")]
    UnknownSource {
        /// The dataset.
        uri: String,
        /// The source of the config.
        name: String,
        /// The sources of the dataset.
        known: String,
    },
    /// Nothing to read.
    #[error("dataset `{uri}` has no rows{of}\nhint: `transfusion inspect {uri}` shows what is in it")]
    Empty {
        /// The dataset.
        uri: String,
        /// Which part of it was asked for.
        of: String,
    },
    /// A checksum that doesn't fit.
    #[error(
        "`{path}` of dataset `{uri}` is damaged: the manifest has the checksum `{expected}`, the file `{found}`\nhint: copy the file again from where the dataset came from, or pack it again; `transfusion verify {uri}` lists all damage"
    )]
    Damaged {
        /// The dataset.
        uri: String,
        /// The file.
        path: String,
        /// Checksum in the manifest.
        expected: String,
        /// Checksum of the bytes.
        found: String,
    },
    /// A checksum that is none.
    #[error(
        "the manifest of dataset `{uri}` gives `{path}` the checksum `{found}`, which is none: expected 64 digits 0-9 and a-f\nhint: the manifest was edited; pack the dataset again, or copy it again from where it came from"
    )]
    Checksum {
        /// The dataset.
        uri: String,
        /// The shard.
        path: String,
        /// The value found.
        found: String,
    },
    /// A shard that became shorter after its checksum was compared.
    #[error(
        "shard `{path}` of dataset `{uri}` was cut short while it was read: {found} of its {expected} bytes are left\nhint: copy the file again from where the dataset came from; nothing may change a shard while a run reads it"
    )]
    Cut {
        /// The dataset.
        uri: String,
        /// The shard.
        path: String,
        /// Its bytes when it was opened.
        expected: u64,
        /// Its bytes now.
        found: u64,
    },
    /// A file that the manifest lists and that isn't there.
    #[error(
        "`{path}` of dataset `{uri}` is missing\nhint: copy the file again from where the dataset came from; `transfusion verify {uri}` lists all damage"
    )]
    Missing {
        /// The dataset.
        uri: String,
        /// The file.
        path: String,
    },
    /// A shard that breaks the format although its checksum is right.
    #[error("shard `{path}` of dataset `{uri}` breaks the format: {source}")]
    Shard {
        /// The dataset.
        uri: String,
        /// The shard.
        path: String,
        /// How.
        source: Box<ShardError>,
    },
    /// A shard of another dataset.
    #[error("shard `{path}` of dataset `{uri}` doesn't fit its manifest: {what}")]
    Mismatch {
        /// The dataset.
        uri: String,
        /// The shard.
        path: String,
        /// The difference.
        what: String,
    },
    /// A path in the manifest that leads out of the dataset.
    #[error("the manifest of dataset `{uri}` names the path `{path}`, which leads out of the dataset")]
    Outside {
        /// The dataset.
        uri: String,
        /// The path.
        path: String,
    },
    /// The store's complaint, after all retries.
    #[error("`{path}` of dataset `{uri}` can't be read from its store")]
    Store {
        /// The dataset.
        uri: String,
        /// The file.
        path: String,
        /// The store's error.
        source: object_store::Error,
    },
    /// A local file that can't be read or written.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Too little room for the shards of a group.
    #[error(
        "`stream.cache-bytes` is {have}, but dataset `{uri}` needs {need}: two groups of {shards} shards\nhint: raise `stream.cache-bytes`, or lower `stream.shuffle-shards`"
    )]
    CacheTooSmall {
        /// The dataset.
        uri: String,
        /// Bytes of the config.
        have: u64,
        /// Bytes that are needed.
        need: u64,
        /// Shards in a group.
        shards: usize,
    },
    /// A cursor of other data.
    #[error("the position saved in the checkpoint doesn't fit the data: {what}")]
    Cursor {
        /// The difference.
        what: String,
    },
    /// A reader ended without a word.
    #[error("a reader of dataset `{uri}` ended unexpectedly")]
    Reader {
        /// The dataset.
        uri: String,
    },
}
