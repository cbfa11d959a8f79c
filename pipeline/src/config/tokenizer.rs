//! The tokenizer of a job.

use schemars::JsonSchema;
use schemas::Markers;
use serde::{Deserialize, Serialize};

use super::check::{MOST_BYTES, check_range, wrong};
use crate::PipelineError;

/// The tokenizer: a file, or one trained on the corpus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct TokenizerConfig {
    /// Address of a `tokenizer.model` (SentencePiece) or a `tokenizer.json`; needed if `train` is not set.
    pub model: Option<String>,
    /// Trains a byte-level BPE on the texts and captions of the sources; needed if `model` is not set.
    pub train: Option<TrainTokenizer>,
    /// The piece that begins every document, e.g. `<s>`; by default the one that the file names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos: Option<String>,
    /// The piece that ends every document, e.g. `</s>`; by default the one that the file names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eos: Option<String>,
}

/// Ids of a trained vocabulary before its first letter: unk, BOS, EOS and the bytes.
pub(crate) const RESERVED: u32 = 3 + 256;

/// Pieces of a vocabulary that is trained: the largest in use have a quarter of that.
const MOST_VOCABULARY: u32 = 1 << 20;

impl TokenizerConfig {
    pub(crate) fn markers(&self) -> Markers {
        Markers { bos: self.bos.clone(), eos: self.eos.clone() }
    }

    /// What can be known of a tokenizer that is still to be trained: it has these markers and no others, and its bytes.
    /// A file's markers are checked when it is opened.
    pub(super) fn check(&self) -> Result<(), PipelineError> {
        const TRAINED: [&str; 2] = ["<s>", "</s>"];
        if let Some(TrainTokenizer { vocabulary, sample_bytes }) = self.train {
            if vocabulary <= RESERVED {
                let expected = format!("more than the {RESERVED} ids of markers and bytes");
                return Err(wrong("tokenizer.train.vocabulary", vocabulary, expected));
            }
            let most = u64::from(MOST_VOCABULARY);
            check_range("tokenizer.train.vocabulary", vocabulary.into(), 1..=most, "ids")?;
            check_range("tokenizer.train.sample-bytes", sample_bytes, 1..=MOST_BYTES, "bytes")?;
        }
        let known = |piece: &String| self.train.is_none() || TRAINED.contains(&piece.as_str());
        for (key, piece) in [("tokenizer.bos", &self.bos), ("tokenizer.eos", &self.eos)] {
            if let Some(piece) = piece.as_ref().filter(|piece| !known(piece)) {
                return Err(wrong(
                    key,
                    format!("`{piece}`"),
                    "`<s>` or `</s>`, which a trained tokenizer has",
                ));
            }
        }
        Ok(())
    }
}

/// A byte-level BPE trained on the texts and captions of the sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TrainTokenizer {
    /// Ids, with unk, BOS, EOS and bytes, without BOI and EOI.
    #[schemars(range(min = RESERVED + 1, max = MOST_VOCABULARY), extend("x-unit" = "ids", "x-required" = true))]
    pub vocabulary: u32,
    /// Bytes of text to learn from, taken evenly from the units.
    #[serde(default = "sample_bytes")]
    #[schemars(range(min = 1, max = MOST_BYTES), extend("x-unit" = "bytes"))]
    pub sample_bytes: u64,
}

const fn sample_bytes() -> u64 {
    64 << 20
}
