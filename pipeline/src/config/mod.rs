//! What a person writes for a preprocessing job, and the checks that need nothing but the text.
//!
//! Keys are kebab-case, unknown ones are refused. [`crate::PreprocessPlan::try_new`] turns a configuration into what
//! will be done: defaults are filled in, addresses resolved, files listed.
//!
//! It knows nothing about stores, files or rows: only the text, and the names and ranges of its values.

mod check;
mod form;
mod join;
mod picture;
mod source;
mod tokenizer;

use schemars::JsonSchema;
use schemas::shard::Compression;
use serde::{Deserialize, Serialize};

use self::check::{LEAST_MEMORY, MOST_BYTES, check_range, number, wrong};
pub use self::form::{ColumnType, Format, Shape, TextSplit};
pub use self::join::{JoinConfig, JoinKeys};
pub use self::picture::{CodecConfig, LatentKind, PictureConfig, PictureRules};
pub(crate) use self::source::check_sources;
pub use self::source::{CaptionChoice, SourceConfig, Template};
pub(crate) use self::tokenizer::RESERVED;
pub use self::tokenizer::{TokenizerConfig, TrainTokenizer};
use crate::PipelineError;

/// Memory of a job unless the configuration says otherwise: enough for any corpus.
pub(crate) const MEMORY_BYTES: u64 = 1 << 30;

/// A preprocessing job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct PreprocessConfig {
    /// Folder of the dataset: a path, `s3://`, `gs://` or `az://`.
    #[schemars(extend("x-required" = true))]
    pub output: String,
    /// Seed of every choice that is made by hash of a row: order of a pair, caption, template, share of a weight, split.
    #[schemars(extend("x-unit" = "none"))]
    pub seed: u64,
    /// Positions of a packed row: the length of the sequences that are trained on.
    #[schemars(range(min = 8, max = 1 << 24), extend("x-unit" = "positions"))]
    pub context: u32,
    /// How documents fill rows.
    pub packing: PackingMethod,
    /// Rows that best-fit packing keeps open; the fullest is closed when there would be more.
    #[schemars(range(min = 1, max = 1 << 16), extend("x-unit" = "rows"))]
    pub window: usize,
    /// Share of the pairs with the caption before the image; the others have the image first.
    #[schemars(range(min = 0.0, max = 1.0), extend("x-unit" = "share"))]
    pub caption_first_share: f64,
    /// Bytes of input files that make a unit, which is packed alone. A larger file of JSON lines, Parquet or Arrow is cut into
    /// several units, any other is one.
    #[schemars(range(min = 1, max = MOST_BYTES), extend("x-unit" = "bytes"))]
    pub unit_bytes: u64,
    /// Bytes of a shard, at most (before compression).
    #[schemars(range(min = 1, max = MOST_BYTES), extend("x-unit" = "bytes"))]
    pub shard_bytes: u64,
    /// Body compression of the shards.
    pub compression: Compression,
    /// Whether of rows with the same content only the first is kept. Reads the sources once more.
    pub deduplicate: bool,
    /// Share of all rows that may be refused; the job fails as soon as no rest could bring it below.
    #[schemars(range(min = 0.0, max = 1.0), extend("x-unit" = "share"))]
    pub max_reject_share: f64,
    /// Memory of the job beside the codec's weights and activations, in bytes; nothing in the dataset depends on it.
    #[schemars(range(min = LEAST_MEMORY, max = MOST_BYTES), extend("x-unit" = "bytes"))]
    pub memory_bytes: u64,
    /// The tokenizer: `model` or `train` is needed.
    pub tokenizer: TokenizerConfig,
    /// The image codec; needed where a source has images.
    pub codec: Option<CodecConfig>,
    /// Which pictures are taken and how.
    pub pictures: PictureConfig,
    /// Documents to set aside.
    pub split: SplitConfig,
    /// Where rows come from.
    #[serde(rename = "source")]
    #[schemars(extend("x-required" = true))]
    pub sources: Vec<SourceConfig>,
}

impl Default for PreprocessConfig {
    fn default() -> Self {
        Self {
            output: String::new(),
            seed: 0,
            context: 4096,
            packing: PackingMethod::BestFit,
            window: 256,
            caption_first_share: 0.8,
            unit_bytes: 128 << 20,
            shard_bytes: 256_000_000,
            compression: Compression::None,
            deduplicate: false,
            max_reject_share: 0.1,
            memory_bytes: MEMORY_BYTES,
            tokenizer: TokenizerConfig::default(),
            codec: None,
            pictures: PictureConfig::default(),
            split: SplitConfig::default(),
            sources: Vec::new(),
        }
    }
}

/// How documents fill rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PackingMethod {
    /// Each document goes to the open row with the least space that fits; one that fits a row is never cut.
    #[default]
    BestFit,
    /// In order; texts are cut where a row ends.
    Sequence,
}

/// Documents to set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct SplitConfig {
    /// Share of the documents that goes to a second dataset, `validation/` in the output. Decided by hash of the row.
    #[schemars(range(min = 0.0, max = 1.0), extend("x-unit" = "share"))]
    pub validation: f64,
}

impl PreprocessConfig {
    /// Checks every value that needs no store to be checked.
    ///
    /// # Errors
    ///
    /// The first value that can't be, with the key.
    pub fn check(&self) -> Result<(), PipelineError> {
        self.check_numbers()?;
        match (&self.tokenizer.model, &self.tokenizer.train) {
            (None, None) => {
                return Err(wrong("tokenizer", "absent", "`tokenizer.model` or `tokenizer.train`"));
            }
            (Some(_), Some(_)) => {
                return Err(wrong("tokenizer.train", "set", "nothing beside `tokenizer.model`"));
            }
            _ => self.tokenizer.check()?,
        }
        if self.sources.is_empty() {
            return Err(wrong("source", "absent", "at least one `[[source]]`"));
        }
        if self.sources.len() > usize::from(u16::MAX) {
            return Err(wrong("source", self.sources.len(), "at most 65,535 sources"));
        }
        check_sources(&self.sources)
    }

    fn check_numbers(&self) -> Result<(), PipelineError> {
        check_range("context", self.context.into(), 8..=1 << 24, "positions")?;
        // Beyond some hundred open rows they leave no less padding.
        check_range("window", self.window as u64, 1..=1 << 16, "open rows")?;
        check_range("unit-bytes", self.unit_bytes, 1..=MOST_BYTES, "bytes")?;
        check_range("shard-bytes", self.shard_bytes, 1..=MOST_BYTES, "bytes")?;
        check_range("memory-bytes", self.memory_bytes, LEAST_MEMORY..=MOST_BYTES, "bytes")?;
        self.pictures.check()?;
        for (key, share) in [
            ("caption-first-share", self.caption_first_share),
            ("max-reject-share", self.max_reject_share),
            ("split.validation", self.split.validation),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(wrong(key, number(share), "a share from 0 to 1"));
            }
        }
        self.codec.as_ref().map_or(Ok(()), CodecConfig::check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str) -> SourceConfig {
        SourceConfig { name: name.to_owned(), uri: "a.jsonl".to_owned(), ..SourceConfig::default() }
    }

    fn config(sources: Vec<SourceConfig>) -> PreprocessConfig {
        let model = Some("tokenizer.model".to_owned());
        let tokenizer = TokenizerConfig { model, ..TokenizerConfig::default() };
        PreprocessConfig { tokenizer, sources, ..PreprocessConfig::default() }
    }

    #[test]
    fn defaults_are_a_valid_job() {
        config(vec![source("a"), source("b")]).check().expect("valid");
    }

    #[test]
    fn errors_name_the_key() {
        let message = |config: PreprocessConfig| config.check().expect_err("invalid").to_string();
        assert!(message(config(vec![])).contains("`source` is absent"));
        assert!(message(config(vec![source("a"), source("a")])).contains("source.1.name"));
        assert!(message(config(vec![source("a/b")])).contains("letters, digits"));
        assert!(
            message(PreprocessConfig { context: 2, ..config(vec![source("a")]) }).contains("`context` is 2")
        );
        assert!(
            message(PreprocessConfig { max_reject_share: 1.5, ..config(vec![source("a")]) })
                .contains("max-reject-share")
        );
        let zero = |codec: CodecConfig| {
            message(PreprocessConfig { codec: Some(codec), ..config(vec![source("a")]) })
        };
        assert!(zero(CodecConfig { patch: 0, ..CodecConfig::default() }).contains("`codec.patch` is 0"));
        assert!(zero(CodecConfig { batch: 0, ..CodecConfig::default() }).contains("`codec.batch` is 0"));
        let neither = PreprocessConfig { tokenizer: TokenizerConfig::default(), ..config(vec![source("a")]) };
        assert!(message(neither).contains("tokenizer.model"));
    }

    #[test]
    fn unknown_keys_are_refused_and_kebab_case_is_read() {
        let read = |text: &str| serde_json::from_str::<PreprocessConfig>(text);
        let config =
            read(r#"{"unit-bytes": 5, "source": [{"name": "a", "where": "x > 1"}]}"#).expect("valid");
        assert_eq!((config.unit_bytes, config.sources[0].filter.as_deref()), (5, Some("x > 1")));
        assert!(read(r#"{"contextt": 5}"#).expect_err("unknown").to_string().contains("contextt"));
    }
}
