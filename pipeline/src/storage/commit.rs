//! What is committed of a unit when it is done.

use std::collections::BTreeMap;

use schemas::{RejectsRecord, ShardRecord, SourceStatistics};
use serde::{Deserialize, Serialize};

use super::location::Location;
use crate::PipelineError;

/// The two datasets of a job.
pub(crate) const SPLITS: usize = 2;

/// What became of a unit, in both datasets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct UnitReport {
    /// Counts of the dataset and of the validation dataset.
    pub(crate) statistics: [SourceStatistics; SPLITS],
}

/// What is committed of a unit: `commits/UNIT.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Commit {
    /// Name of the unit.
    pub(crate) unit: String,
    /// Its shards in the dataset and in the validation dataset.
    pub(crate) shards: [Vec<ShardRecord>; SPLITS],
    /// Its counts.
    pub(crate) report: UnitReport,
    /// Its table of refused rows, where it has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rejects: Option<RejectsRecord>,
    /// What it ran again, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retries: Option<Retried>,
    /// Number of its first row, where lines were counted for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) first_row: Option<u64>,
}

impl Commit {
    /// Whether it ran rows again that were all refused as before: then nothing is to be remembered.
    pub(crate) fn is_in_vain(&self) -> bool {
        self.retries.as_ref().is_some_and(|retried| retried.rejects == self.report.statistics[0].rejects)
    }
}

/// Refused rows of an earlier unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Retried {
    /// The unit that refused them.
    pub(crate) unit: String,
    /// How many, by reason.
    pub(crate) rejects: BTreeMap<String, u64>,
}

impl Retried {
    /// Number of rows.
    pub(crate) fn rows(&self) -> u64 {
        self.rejects.values().sum()
    }
}

/// The object that a unit is committed with.
pub(crate) fn commit_name(unit: &str) -> String {
    format!("commits/{unit}.json")
}

impl Location {
    /// Reads a commit; a damaged one is an error, it is never half written.
    pub(crate) async fn read_commit(&self, unit: &str) -> Result<Option<Commit>, PipelineError> {
        let name = commit_name(unit);
        let Some(bytes) = self.read(&name).await? else { return Ok(None) };
        let damaged = |error: serde_json::Error| PipelineError::Damaged {
            path: self.show(&name),
            what: error.to_string(),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }
}
