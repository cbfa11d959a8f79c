//! The rows of a step.

use std::ops::Range;

use schemas::Row;

use crate::stream::{RowOrigin, StreamRow};

/// The rows of a step, and where they came from.
pub(super) struct GlobalBatch {
    rows: Vec<Row>,
    origins: Vec<RowOrigin>,
}

impl GlobalBatch {
    pub(super) fn new(rows: Vec<StreamRow>) -> Self {
        let (rows, origins) = rows.into_iter().map(|one| (one.row, one.origin)).unzip();
        Self { rows, origins }
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The rows of each micro-batch, `size` of them at most, in order.
    pub(super) fn micro_batches(&self, size: usize) -> impl Iterator<Item = Range<usize>> {
        let rows = self.rows.len();
        (0..rows).step_by(size).map(move |first| first..(first + size).min(rows))
    }

    pub(super) fn all(&self) -> Range<usize> {
        0..self.rows.len()
    }

    /// Where the rows of `range` came from, in words.
    pub(super) fn names_of(&self, range: Range<usize>) -> String {
        const SHOWN: usize = 64;
        let documents = range.flat_map(|index| self.origins[index].documents(&self.rows[index]));
        let mut names: Vec<String> = documents
            .map(|(source, file, row)| format!("row {row} of `{file}` (source `{source}`)"))
            .collect();
        names.dedup();
        if names.len() > SHOWN {
            let more = names.len() - SHOWN;
            names.truncate(SHOWN);
            names.push(format!("{more} more"));
        }
        names.join(", ")
    }
}
