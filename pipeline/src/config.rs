//! What a person writes for a preprocessing job, and the checks that need nothing but the text.
//!
//! Keys are kebab-case, unknown ones are refused. [`crate::PreprocessPlan::try_new`] turns a configuration into what
//! will be done: defaults are filled in, addresses resolved, files listed.

use schemas::shard::Compression;
use serde::{Deserialize, Serialize};

use crate::PipelineError;
use crate::document::Shape;
use crate::memory::DEFAULT_BYTES;
use crate::picture::PictureRules;

/// A preprocessing job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct PreprocessConfig {
    /// Folder of the dataset, an address or a path.
    pub output: String,
    /// Seed of every per-row choice.
    pub seed: u64,
    /// Positions of a row.
    pub context: u32,
    /// How documents fill rows.
    pub packing: Filling,
    /// Rows that best-fit packing keeps open.
    pub window: usize,
    /// Share of the pairs with the caption before the image; the others have the image first.
    pub caption_first_share: f64,
    /// Bytes of input files that are packed together; a larger file is a unit of its own.
    pub unit_bytes: u64,
    /// Bytes of a shard, at most (before compression).
    pub shard_bytes: u64,
    /// Body compression of the shards.
    pub compression: Compression,
    /// Whether of rows with the same content only the first is kept. Reads the sources once more.
    pub deduplicate: bool,
    /// Share of the rows that may be refused before the job fails.
    pub max_reject_share: f64,
    /// Memory of the job beside the codec's weights and activations, in bytes; nothing in the dataset depends on it.
    pub memory_bytes: u64,
    /// The tokenizer.
    pub tokenizer: TokenizerConfig,
    /// The image codec; needed where a source has images.
    pub codec: Option<CodecConfig>,
    /// Which pictures are taken and how.
    pub pictures: PictureConfig,
    /// Documents to set aside.
    pub split: SplitConfig,
    /// Where rows come from.
    #[serde(rename = "source")]
    pub sources: Vec<SourceConfig>,
}

impl Default for PreprocessConfig {
    fn default() -> Self {
        Self {
            output: String::new(),
            seed: 0,
            context: 4096,
            packing: Filling::BestFit,
            window: 256,
            caption_first_share: 0.8,
            unit_bytes: 128 << 20,
            shard_bytes: 256_000_000,
            compression: Compression::None,
            deduplicate: false,
            max_reject_share: 0.1,
            memory_bytes: DEFAULT_BYTES,
            tokenizer: TokenizerConfig::default(),
            codec: None,
            pictures: PictureConfig::default(),
            split: SplitConfig::default(),
            sources: Vec::new(),
        }
    }
}

/// How documents fill rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filling {
    /// Each document goes to the open row with the least space that fits; one that fits a row is never cut.
    #[default]
    BestFit,
    /// In order; texts are cut where a row ends.
    Sequence,
}

/// The tokenizer: a file, or one trained on the corpus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct TokenizerConfig {
    /// Address of a `tokenizer.model` (SentencePiece) or a `tokenizer.json`.
    pub model: Option<String>,
    /// Train one instead.
    pub train: Option<TrainTokenizer>,
}

/// A byte-level BPE trained on the texts and captions of the sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TrainTokenizer {
    /// Ids, with unk, BOS, EOS and bytes, without BOI and EOI.
    pub vocabulary: u32,
    /// Bytes of text to learn from, taken evenly from the units.
    #[serde(default = "sample_bytes")]
    pub sample_bytes: u64,
}

const fn sample_bytes() -> u64 {
    64 << 20
}

/// The image codec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct CodecConfig {
    /// Folder of the codec.
    pub path: String,
    /// Side of the pictures, in pixels.
    pub size: u32,
    /// Side of a patch, in latent pixels. A property of the dataset: it decides the length of a row.
    pub patch: u32,
    /// Pictures that are encoded together.
    pub batch: usize,
    /// What is stored of the distribution that the codec gives for a picture.
    pub latent: LatentKind,
    /// Where the codec runs, e.g. `cpu` or `cuda:0`; by default where `--device` says.
    pub device: Option<String>,
}

/// What is stored of the distribution that a codec gives for a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LatentKind {
    /// Its mean.
    #[default]
    Mean,
    /// One draw from it, by hash of the row and the image.
    Sample,
    /// Mean and log variance, so that each use in training draws anew. Twice the bytes.
    Moments,
}

impl Default for CodecConfig {
    fn default() -> Self {
        Self { path: String::new(), size: 256, patch: 2, batch: 16, latent: LatentKind::Mean, device: None }
    }
}

/// Which pictures are taken and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct PictureConfig {
    /// Pictures with a shorter side than this, in pixels, are refused.
    pub min_side: u32,
    /// Pictures with more pixels than this are refused before they are decoded.
    pub max_pixels: u64,
    /// Colour behind transparent pixels: red, green, blue.
    pub background: [u8; 3],
    /// Whether the EXIF orientation is applied.
    pub orientation: bool,
}

impl Default for PictureConfig {
    fn default() -> Self {
        let PictureRules { min_side, max_pixels, background, orientation, .. } = PictureRules::default();
        Self { min_side, max_pixels, background, orientation }
    }
}

impl PictureConfig {
    /// The rules for crops of `size` pixels.
    pub fn rules(&self, size: u32) -> PictureRules {
        let Self { min_side, max_pixels, background, orientation } = *self;
        PictureRules { size, min_side, max_pixels, background, orientation }
    }
}

/// Documents to set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct SplitConfig {
    /// Share of the documents that goes to a second dataset, `validation/` in the output. Decided by hash of the row.
    pub validation: f64,
}

/// The form of a source's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One JSON object a line.
    JsonLines,
    /// Plain text.
    Text,
    /// Comma-separated values with a line of names (tabs where the name ends in `.tsv`). Every column is text.
    Csv,
    /// Parquet.
    Parquet,
    /// WebDataset: files of one key are one row.
    Tar,
    /// The captions file of COCO: `images` and `annotations`.
    Coco,
}

/// What is a document in plain text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TextSplit {
    /// The whole file.
    #[default]
    File,
    /// What stands between blank lines.
    BlankLine,
    /// Every line that is not blank.
    Line,
}

/// Where rows come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct SourceConfig {
    /// Its name, in manifest and shards: letters, digits, `-` and `_`.
    pub name: String,
    /// Address of a file, a folder, or a glob with `*`, `?`, `[..]`, `**`.
    pub uri: String,
    /// What its rows are.
    pub shape: Shape,
    /// The form of its files; by default their names and first bytes tell.
    pub format: Option<Format>,
    /// SQL that a row must fulfil.
    #[serde(rename = "where")]
    pub filter: Option<String>,
    /// SQL columns that replace those of the files.
    pub select: Option<String>,
    /// How often each document is taken: the whole part always, the rest by hash of the row.
    pub weight: f64,
    /// Column of the text, `text` by default.
    pub text: Option<String>,
    /// Column of the caption, `caption` by default. Of a list of captions one is taken, by hash of the row.
    pub caption: Option<String>,
    /// Column of the image: bytes, a struct of `bytes` and `path`, or a path relative to the file. By default the
    /// first of `image`, `file_name`, `jpg`, `png`, `path` that is there.
    pub image: Option<String>,
    /// Column of the row's own id; by default `id` or `key` where there is one.
    pub id: Option<String>,
    /// Column of the texts of an interleaved document, a list as long as `images`; `texts` by default.
    pub texts: Option<String>,
    /// Column of the images of an interleaved document, a list as long as `texts`; `images` by default.
    pub images: Option<String>,
    /// What is a document in plain text.
    pub document: TextSplit,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            uri: String::new(),
            shape: Shape::Text,
            format: None,
            filter: None,
            select: None,
            weight: 1.0,
            text: None,
            caption: None,
            image: None,
            id: None,
            texts: None,
            images: None,
            document: TextSplit::File,
        }
    }
}

/// Less than this and not even one unit can be read.
const LEAST_MEMORY: u64 = 64 << 20;

fn wrong(key: impl Into<String>, found: impl ToString, expected: impl Into<String>) -> PipelineError {
    PipelineError::Config { key: key.into(), expected: expected.into(), found: found.to_string() }
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
            _ => {}
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
        if !(8..=1 << 24).contains(&self.context) {
            return Err(wrong("context", self.context, "8 to 16,777,216 positions"));
        }
        if self.window == 0 {
            return Err(wrong("window", 0, "at least 1 open row"));
        }
        if self.unit_bytes == 0 || self.shard_bytes == 0 {
            return Err(wrong("unit-bytes, shard-bytes", 0, "at least 1"));
        }
        if self.memory_bytes < LEAST_MEMORY {
            return Err(wrong("memory-bytes", self.memory_bytes, format!("at least {LEAST_MEMORY}")));
        }
        for (key, share) in [
            ("caption-first-share", self.caption_first_share),
            ("max-reject-share", self.max_reject_share),
            ("split.validation", self.split.validation),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(wrong(key, share, "a share from 0 to 1"));
            }
        }
        if let Some(codec) = &self.codec
            && (codec.size == 0 || codec.patch == 0 || codec.batch == 0)
        {
            return Err(wrong("codec.size, codec.patch, codec.batch", 0, "at least 1"));
        }
        Ok(())
    }
}

/// Checks names, addresses and weights of a list of sources.
pub(crate) fn check_sources(sources: &[SourceConfig]) -> Result<(), PipelineError> {
    for (index, source) in sources.iter().enumerate() {
        let name = &source.name;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            let key = format!("source.{index}.name");
            return Err(wrong(key, format!("`{name}`"), "1 to 64 letters, digits, `-` or `_`"));
        }
        if sources[..index].iter().any(|other| other.name == *name) {
            return Err(wrong(
                format!("source.{index}.name"),
                format!("`{name}`"),
                "a name that no other source has",
            ));
        }
        if source.uri.is_empty() {
            return Err(wrong(format!("source.{name}.uri"), "empty", "an address or a path"));
        }
        if !(source.weight.is_finite() && source.weight > 0.0) {
            return Err(wrong(format!("source.{name}.weight"), source.weight, "a number over 0"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str) -> SourceConfig {
        SourceConfig { name: name.to_owned(), uri: "a.jsonl".to_owned(), ..SourceConfig::default() }
    }

    fn config(sources: Vec<SourceConfig>) -> PreprocessConfig {
        let tokenizer = TokenizerConfig { model: Some("tokenizer.model".to_owned()), train: None };
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
