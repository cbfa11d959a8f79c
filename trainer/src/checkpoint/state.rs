//! `state.json`: where a run stands, and the checksums of the files around it.

use std::collections::BTreeMap;

use schemas::{StreamCursor, content_hash};
use serde::{Deserialize, Serialize};

use crate::device::ComputedOn;

/// The content of `state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// Version of the layout.
    pub format: u32,
    /// Features that a reader must know.
    pub features: Vec<String>,
    /// Version of the program that wrote it.
    pub program: String,
    /// Updates done.
    pub step: u64,
    /// Mean loss of the steps since the checkpoint before.
    pub loss: Option<f64>,
    /// Where the data stands.
    pub cursor: StreamCursor,
    /// Fingerprint of the tokenizer.
    pub tokenizer: String,
    /// Id that begins a document; where it is absent, the one that the tokenizer's file names.
    #[serde(default)]
    pub bos: Option<u32>,
    /// Id that ends a document; where it is absent, the one that the tokenizer's file names.
    #[serde(default)]
    pub eos: Option<u32>,
    /// Fingerprint of the codec that made the latents.
    pub codec: Option<String>,
    /// Side in pixels of the pictures that the latents were made from.
    #[serde(default)]
    pub picture_size: Option<u32>,
    /// The machine that computed the last step; absent in the states of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub computed_on: Option<ComputedOn>,
    /// Positions of the longest rows that it was trained on.
    #[serde(default)]
    pub context: Option<u32>,
    /// BLAKE3 of every other file, by path below the folder.
    pub files: BTreeMap<String, String>,
}

const CHECKSUM_KEY: &str = "  \"checksum\": \"";

impl CheckpointState {
    /// JSON whose last key is the checksum of all bytes before it.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let json = serde_json::to_string_pretty(self).expect("a state holds nothing that JSON can't say");
        let mut text = format!("{},\n", json.trim_end_matches('}').trim_end());
        let checksum = content_hash(text.as_bytes());
        text.push_str(&format!("{CHECKSUM_KEY}{checksum}\"\n}}\n"));
        text.into_bytes()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
        let (body, tail) =
            text.rsplit_once(CHECKSUM_KEY).ok_or("it has no checksum: most likely it is cut off")?;
        if tail.strip_suffix("\"\n}\n") != Some(content_hash(body.as_bytes()).as_str()) {
            return Err("its checksum speaks against its content".to_owned());
        }
        serde_json::from_str(text).map_err(|error| error.to_string())
    }
}
