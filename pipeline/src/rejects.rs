//! The table of refused rows: `rejects/UNIT.jsonl` in the output.

use serde::{Deserialize, Serialize};

/// A refused row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectLine {
    /// Name of the source.
    pub source: String,
    /// Path of the file below the source's fixed prefix.
    pub file: String,
    /// Physical line or record, from 0.
    pub row: u64,
    /// The row's own id, where it was read.
    pub id: Option<String>,
    /// Name of the reason.
    pub reason: String,
    /// What was found.
    pub detail: String,
}

impl RejectLine {
    pub(crate) fn append_to(&self, lines: &mut String) -> serde_json::Result<()> {
        lines.push_str(&serde_json::to_string(self)?);
        lines.push('\n');
        Ok(())
    }
}
