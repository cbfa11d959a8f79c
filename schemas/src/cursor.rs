//! Where a reader stands.
//!
//! The order of rows is a pure function of datasets, weights, seed and epoch, so a position in it is a few numbers,
//! and a run that continues from a cursor reads exactly the rows that an uninterrupted one would have read.

use serde::{Deserialize, Serialize};

/// The position of a training run in its data: one entry a `[[data]]` table, in the order of the config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamCursor {
    /// One position a dataset.
    pub datasets: Vec<DatasetCursor>,
}

/// The position in one dataset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetCursor {
    /// Checksum of the manifest that the order was drawn from.
    pub manifest: String,
    /// Passes over the dataset that are complete.
    pub epoch: u64,
    /// Rows of the current epoch already given; always less than the rows of an epoch.
    pub row: u64,
    /// Positions (text tokens and patches, without padding) given so far, over all epochs. The mix of several
    /// datasets by weight is decided by it.
    pub positions: u64,
}
