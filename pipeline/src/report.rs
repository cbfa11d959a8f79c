//! What a job has done.

use schemas::{DatasetStatistics, Manifest, SourceStatistics};
use serde::Serialize;

/// What a job has done.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Whether the dataset was finished before, and nothing was done.
    pub already_complete: bool,
    /// Units of the job.
    pub units: usize,
    /// Units that an earlier start had finished.
    pub reused_units: usize,
    /// Input files that were added, removed or changed since the dataset was finished.
    pub changed_files: usize,
    /// The most bytes that the job's operators had reserved at a time; 0 where nothing was done.
    pub peak_memory: u64,
    /// Checksum of the manifest.
    pub manifest: String,
    /// Bytes of the shards.
    pub bytes: u64,
    /// Shards.
    pub shards: usize,
    /// Counts of the dataset.
    pub statistics: DatasetStatistics,
    /// Counts by source.
    pub sources: Vec<SourceReport>,
    /// Counts of the validation dataset, where there is one.
    pub validation: Option<DatasetStatistics>,
}

/// The counts of one source.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SourceReport {
    /// Its name.
    pub name: String,
    /// Its counts.
    pub statistics: SourceStatistics,
}

impl Report {
    pub(crate) fn new(manifest: &Manifest, checksum: &str, validation: Option<&Manifest>) -> Self {
        let source = |source: &schemas::SourceRecord| SourceReport {
            name: source.name.clone(),
            statistics: source.statistics.clone(),
        };
        Self {
            already_complete: false,
            units: 0,
            reused_units: 0,
            changed_files: 0,
            peak_memory: 0,
            manifest: checksum.to_owned(),
            bytes: manifest.shards.iter().map(|shard| shard.bytes).sum(),
            shards: manifest.shards.len(),
            statistics: manifest.statistics.clone(),
            sources: manifest.sources.iter().map(source).collect(),
            validation: validation.map(|manifest| manifest.statistics.clone()),
        }
    }
}
