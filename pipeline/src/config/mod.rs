//! What a person writes for a preprocessing job, and the checks that need nothing but the text.
//!
//! Keys are kebab-case, unknown ones are refused. [`crate::PreprocessPlan::try_new`] turns a configuration into what
//! will be done: defaults are filled in, addresses resolved, files listed.
//!
//! It knows nothing about stores, files or rows: only the text, and the names and ranges of its values.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use arrow::datatypes::DataType;
use schemars::JsonSchema;
use schemas::Markers;
use schemas::shard::Compression;
use serde::{Deserialize, Serialize};

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
    #[schemars(extend("x-unit" = "seed"))]
    pub seed: u64,
    /// Positions of a packed row: the length of the sequences that are trained on.
    #[schemars(range(min = 8, max = 1 << 24), extend("x-unit" = "positions"))]
    pub context: u32,
    /// How documents fill rows.
    pub packing: Filling,
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
            packing: Filling::BestFit,
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
pub enum Filling {
    /// Each document goes to the open row with the least space that fits; one that fits a row is never cut.
    #[default]
    BestFit,
    /// In order; texts are cut where a row ends.
    Sequence,
}

/// The tokenizer: a file, or one trained on the corpus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct TokenizerConfig {
    /// Address of a `tokenizer.model` (SentencePiece) or a `tokenizer.json`; needed if `train` is not set.
    pub model: Option<String>,
    /// Trains a byte-level BPE on the texts and captions of the sources instead.
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

/// Copies of a document, at most.
const MOST_WEIGHT: f64 = 1e6;

impl TokenizerConfig {
    pub(crate) fn markers(&self) -> Markers {
        Markers { bos: self.bos.clone(), eos: self.eos.clone() }
    }

    /// What can be known of a tokenizer that is still to be trained: it has these markers and no others, and its bytes.
    /// A file's markers are checked when it is opened.
    fn check(&self) -> Result<(), PipelineError> {
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

/// The image codec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct CodecConfig {
    /// Folder of the codec, as `transfusion vae train` writes it or as diffusers does.
    #[schemars(extend("x-required" = true))]
    pub path: String,
    /// Side of the pictures: the shorter side is resized to it, the longer one cropped in the middle.
    #[schemars(range(min = 1, max = 16_384), extend("x-unit" = "pixels"))]
    pub size: u32,
    /// Side of a patch, in latent pixels. A property of the dataset: it decides the length of a row.
    #[schemars(range(min = 1, max = 1_024), extend("x-unit" = "latent pixels"))]
    pub patch: u32,
    /// Pictures that are encoded together; more takes more memory.
    #[schemars(range(min = 1, max = 65_536), extend("x-unit" = "pictures"))]
    pub batch: usize,
    /// What is stored of the distribution that the codec gives for a picture.
    pub latent: LatentKind,
    /// Where the codec runs, e.g. `cpu` or `cuda:0`; by default where `--device` says.
    pub device: Option<String>,
}

impl CodecConfig {
    fn check(&self) -> Result<(), PipelineError> {
        check_range("codec.size", self.size.into(), 1..=16_384, "pixels")?;
        check_range("codec.patch", self.patch.into(), 1..=1_024, "latent pixels")?;
        check_range("codec.batch", self.batch as u64, 1..=65_536, "pictures")
    }
}

/// What is stored of the distribution that a codec gives for a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct PictureConfig {
    /// Pictures with a shorter side than this are refused.
    #[schemars(range(min = 0, max = 1_000_000), extend("x-unit" = "pixels"))]
    pub min_side: u32,
    /// Pictures with more pixels than this are refused before they are decoded.
    #[schemars(range(min = 1, max = 1_000_000_000), extend("x-unit" = "pixels"))]
    pub max_pixels: u64,
    /// Colour behind transparent pixels: red, green, blue.
    #[schemars(extend("x-unit" = "red, green, blue"))]
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
    fn check(&self) -> Result<(), PipelineError> {
        check_range("pictures.min-side", self.min_side.into(), 0..=1_000_000, "pixels")?;
        // A billion pixels take 4 GB when they are decoded.
        check_range("pictures.max-pixels", self.max_pixels, 1..=1_000_000_000, "pixels")
    }

    /// The rules for crops of `size` pixels.
    pub fn rules(&self, size: u32) -> PictureRules {
        let Self { min_side, max_pixels, background, orientation } = *self;
        PictureRules { size, min_side, max_pixels, background, orientation }
    }
}

/// What is done to every picture of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct PictureRules {
    /// Side of the square that comes out, in pixels.
    pub size: u32,
    /// Pictures with a shorter side than this, in pixels as shown, are refused.
    pub min_side: u32,
    /// Pictures with more pixels than this are refused before they are decoded.
    pub max_pixels: u64,
    /// Colour behind transparent pixels: red, green, blue.
    pub background: [u8; 3],
    /// Whether the EXIF orientation is applied.
    pub orientation: bool,
}

impl Default for PictureRules {
    fn default() -> Self {
        Self { size: 256, min_side: 1, max_pixels: 64_000_000, background: [255; 3], orientation: true }
    }
}

/// Documents to set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct SplitConfig {
    /// Share of the documents that goes to a second dataset, `validation/` in the output. Decided by hash of the row.
    #[schemars(range(min = 0.0, max = 1.0), extend("x-unit" = "share"))]
    pub validation: f64,
}

/// What the rows of a source are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// One text.
    Text,
    /// One image and its caption.
    Pair,
    /// A list of texts and images.
    Interleaved,
}

impl Shape {
    /// The name in configs and manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Pair => "pair",
            Self::Interleaved => "interleaved",
        }
    }

    /// Whether its rows have images.
    pub const fn has_images(self) -> bool {
        !matches!(self, Self::Text)
    }
}

/// The form of a source's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One JSON object a line.
    JsonLines,
    /// Plain text.
    Text,
    /// Comma-separated values with a line of names (tabs where the file's name ends in `.tsv`). Every column is text, unless
    /// `types` or another file of the source says otherwise.
    Csv,
    /// Parquet.
    Parquet,
    /// Arrow IPC, the file form (Feather version 2 is that) and the stream form.
    Arrow,
    /// WebDataset: files of one key are one row.
    Tar,
    /// The captions file of COCO: `images` and `annotations`.
    Coco,
    /// Texts of web pages as Common Crawl publishes them (WET).
    Warc,
    /// Pictures, each a row, with captions (`.txt`, `.caption`) and fields (`.json`) of the same name beside them.
    Pictures,
}

impl Format {
    /// The name in configs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::JsonLines => "json-lines",
            Self::Text => "text",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
            Self::Tar => "tar",
            Self::Coco => "coco",
            Self::Warc => "warc",
            Self::Pictures => "pictures",
        }
    }
}

/// The type of a column of JSON or CSV files, named as in SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ColumnType {
    /// `true` or `false`.
    Boolean,
    /// A whole number of 64 bits.
    Bigint,
    /// A floating-point number.
    Double,
    /// A text; values that are none become their JSON.
    Varchar,
}

impl ColumnType {
    /// The name in configs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Bigint => "bigint",
            Self::Double => "double",
            Self::Varchar => "varchar",
        }
    }

    pub(crate) const fn data_type(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Bigint => DataType::Int64,
            Self::Double => DataType::Float64,
            Self::Varchar => DataType::Utf8,
        }
    }
}

/// What is a document in plain text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

/// What becomes of a row with several captions. Captions that are null or blank don't count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CaptionChoice {
    /// One of them is taken, by hash of the row: one document.
    #[default]
    Hash,
    /// All of them, a line each, are the caption of one document.
    All,
    /// Each of them makes a document of its own with the row's image. All name the same row; which part stands first is
    /// chosen for each.
    Each,
}

/// Text around captions, in which `{caption}` stands for the caption.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a template is a text or a list of texts")]
pub enum Template {
    /// One for all.
    One(String),
    /// Of several, one is taken for each caption by hash of the row.
    Several(Vec<String>),
}

impl Template {
    /// What stands for the caption.
    pub const PLACE: &str = "{caption}";

    pub(crate) fn texts(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Several(texts) => texts,
        }
    }
}

/// A table with further columns for a source's rows, found by a key: a left outer join.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct JoinConfig {
    /// Address of the table: a file, a folder or a glob.
    #[schemars(extend("x-required" = true))]
    pub uri: String,
    /// The columns whose values, as text, must be equal.
    #[schemars(extend("x-required" = true))]
    pub on: JoinKeys,
    /// The columns to take; by default, an empty list, all but the keys.
    pub columns: Vec<String>,
    /// The form of its files; by default their names tell.
    pub format: Option<Format>,
    /// What stands between the values of its CSV files; by default as for a source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<String>,
    /// What stands around values of its CSV files; by default as for a source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quote: Option<String>,
}

/// The columns that a join compares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "`on` is a column, or a table of the source's columns and the joined table's, `{ key = \"image_id\" }`"
)]
pub enum JoinKeys {
    /// A column of this name on both sides.
    Same(String),
    /// Columns of the source, each with its name in the joined table. All must be equal.
    Renamed(BTreeMap<String, String>),
}

impl Default for JoinKeys {
    fn default() -> Self {
        Self::Renamed(BTreeMap::new())
    }
}

impl JoinKeys {
    /// Names in the source and in the joined table.
    pub(crate) fn pairs(&self) -> Vec<(String, String)> {
        match self {
            Self::Same(name) => vec![(name.clone(), name.clone())],
            Self::Renamed(names) => names.iter().map(|(own, other)| (own.clone(), other.clone())).collect(),
        }
    }
}

/// Where rows come from. A key that names a column may name a field of one: `meta.caption`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct SourceConfig {
    /// Its name, in manifest and shards: letters, digits, `-` and `_`.
    #[schemars(extend("x-required" = true))]
    pub name: String,
    /// Address of a file, a folder, or a glob with `*`, `?`, `[..]`, `**`, `{a,b}`, `{0..9}`.
    #[schemars(extend("x-required" = true))]
    pub uri: String,
    /// What its rows are.
    pub shape: Shape,
    /// The form of its files; by default their names and first bytes tell.
    pub format: Option<Format>,
    /// SQL that a row must fulfil, over the columns of the files and the joined table; every row passes if not set.
    #[serde(rename = "where")]
    pub filter: Option<String>,
    /// SQL columns that replace those of the files, `title || body as text`; the files' own if not set.
    pub select: Option<String>,
    /// How often each document is taken: the whole part always, the rest by hash of the row.
    #[schemars(range(max = MOST_WEIGHT), extend("exclusiveMinimum" = 0.0, "x-unit" = "copies of a document"))]
    pub weight: f64,
    /// Column of the text, `text` by default.
    pub text: Option<String>,
    /// Column of the caption, or of a list of captions; `caption` by default.
    pub caption: Option<String>,
    /// What becomes of several captions, `hash` if not set. Where it is set and `caption` is not, a list in the column
    /// `captions` comes before the column `caption`.
    pub captions: Option<CaptionChoice>,
    /// Text around each caption, with `{caption}` where it belongs; of several one is taken by hash. None if not set.
    pub template: Option<Template>,
    /// Column of the image: bytes, a struct of `bytes` and `path`, or a path. By default the first of `image`,
    /// `file_name`, `jpg`, `png`, `path` that is there.
    pub image: Option<String>,
    /// Address of the folder that paths of images start from; by default that of the file which names them.
    pub folder: Option<String>,
    /// Column of the row's own id; by default `id` or `key` where there is one.
    pub id: Option<String>,
    /// Column of the texts of an interleaved document, a list; by default `texts` or `text_list`.
    pub texts: Option<String>,
    /// Column of the images of an interleaved document, a list; by default `images` or `image_info`. Each image stands
    /// at its place in the list, behind the text of the same place, or, where it has a `matched_text_index`, before the
    /// text of that number.
    pub images: Option<String>,
    /// A table with further columns for the rows, found by a key; none if not set.
    pub join: Option<JoinConfig>,
    /// What is a document in files of plain text.
    pub document: TextSplit,
    /// What stands between the values of CSV files, one character; by default a tab in `.tsv` files and a comma elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<String>,
    /// What stands around values of CSV files that have delimiters or line ends in them, one character, or nothing: `""`.
    /// By default `"`, unless the beginning of a file with tabs has a lone one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quote: Option<String>,
    /// Types of columns of JSON and CSV files by name, where the first rows don't show them; none by default.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub types: BTreeMap<String, ColumnType>,
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
            captions: None,
            template: None,
            image: None,
            folder: None,
            id: None,
            texts: None,
            images: None,
            join: None,
            document: TextSplit::File,
            delimiter: None,
            quote: None,
            types: BTreeMap::new(),
        }
    }
}

/// A petabyte: more than this is a slip of the pen.
const MOST_BYTES: u64 = 1_000_000_000_000_000;

/// Less than this and not even one unit can be read.
const LEAST_MEMORY: u64 = 64 << 20;

fn wrong(key: impl Into<String>, found: impl ToString, expected: impl Into<String>) -> PipelineError {
    PipelineError::Config { key: key.into(), expected: expected.into(), found: found.to_string() }
}

fn check_range(key: &str, found: u64, range: RangeInclusive<u64>, unit: &str) -> Result<(), PipelineError> {
    if range.contains(&found) {
        return Ok(());
    }
    let expected = format!("{} to {} {unit}", thousands(*range.start()), thousands(*range.end()));
    Err(wrong(key, thousands(found), expected))
}

/// `1234567` as `1,234,567`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number without hundreds of digits.
fn number(number: f64) -> String {
    let size = number.abs();
    match size.is_finite() && size != 0.0 && !(1e-5..1e15).contains(&size) {
        true => format!("{number:e}"),
        false => number.to_string(),
    }
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

/// Checks a list of sources as far as that needs no store.
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
        source.check()?;
    }
    Ok(())
}

impl SourceConfig {
    fn wrong(&self, key: &str, found: impl ToString, expected: impl Into<String>) -> PipelineError {
        wrong(format!("source.{}.{key}", self.name), found, expected)
    }

    fn check(&self) -> Result<(), PipelineError> {
        if self.uri.is_empty() {
            return Err(self.wrong("uri", "empty", "an address or a path"));
        }
        if !(self.weight > 0.0 && self.weight <= MOST_WEIGHT) {
            return Err(self.wrong("weight", number(self.weight), "a number over 0, at most 1,000,000"));
        }
        self.check_keys()?;
        self.check_template()?;
        self.check_types()?;
        self.check_dialect("", self.format, self.delimiter.as_deref(), self.quote.as_deref())?;
        self.check_join()
    }

    /// Checks the keys of CSV files, of the source or, with `join.` before the keys, of its joined table.
    fn check_dialect(
        &self,
        before: &str,
        format: Option<Format>,
        delimiter: Option<&str>,
        quote: Option<&str>,
    ) -> Result<(), PipelineError> {
        let is_character = |text: &str| text.len() == 1 && text.is_ascii() && !["\n", "\r"].contains(&text);
        for (key, value, may_be_empty) in [("delimiter", delimiter, false), ("quote", quote, true)] {
            let Some(value) = value else { continue };
            let key = format!("{before}{key}");
            if format.is_some_and(|format| format != Format::Csv) {
                return Err(self.wrong(&key, "set", "it for files of the form `csv` only"));
            }
            let is_nothing = may_be_empty && value.is_empty();
            if !is_character(value) && !is_nothing {
                let expected =
                    if may_be_empty { "one ASCII character, or nothing" } else { "one ASCII character" };
                return Err(self.wrong(&key, format!("`{}`", value.escape_debug()), expected));
            }
        }
        match (delimiter, quote) {
            (Some(delimiter), Some(quote)) if delimiter == quote => {
                let expected = "another character than `delimiter`";
                Err(self.wrong(&format!("{before}quote"), format!("`{quote}`"), expected))
            }
            _ => Ok(()),
        }
    }

    fn check_types(&self) -> Result<(), PipelineError> {
        let Some((column, of)) = self.types.first_key_value() else { return Ok(()) };
        match self.format {
            Some(format @ (Format::Parquet | Format::Arrow | Format::Text | Format::Warc)) => {
                let expected = format!("nothing for files of the form `{}`", format.name());
                Err(self.wrong(&format!("types.{column}"), format!("`{}`", of.name()), expected))
            }
            _ => Ok(()),
        }
    }

    /// The keys that name columns, each with its value and the shapes that have such a column.
    fn column_keys(&self) -> [(&'static str, Option<&str>, &'static [Shape]); 7] {
        const ALL: &[Shape] = &[Shape::Text, Shape::Pair, Shape::Interleaved];
        [
            ("text", self.text.as_deref(), &[Shape::Text]),
            ("caption", self.caption.as_deref(), &[Shape::Pair]),
            ("image", self.image.as_deref(), &[Shape::Pair]),
            ("texts", self.texts.as_deref(), &[Shape::Interleaved]),
            ("images", self.images.as_deref(), &[Shape::Interleaved]),
            ("folder", self.folder.as_deref(), &[Shape::Pair, Shape::Interleaved]),
            ("id", self.id.as_deref(), ALL),
        ]
    }

    /// A key that would have no effect is refused: whoever wrote it expected one.
    fn check_keys(&self) -> Result<(), PipelineError> {
        for (key, value, shapes) in self.column_keys() {
            let Some(value) = value else { continue };
            if value.is_empty() {
                return Err(self.wrong(key, "empty", "a name"));
            }
            if !shapes.contains(&self.shape) {
                return Err(self.wrong(key, format!("`{value}`"), self.only_for(shapes)));
            }
            if self.select.is_some() && ["text", "caption", "texts", "id"].contains(&key) {
                let expected = format!("nothing beside `select`, in which `{value} as {key}` says the same");
                return Err(self.wrong(key, format!("`{value}`"), expected));
            }
        }
        if self.shape != Shape::Pair && (self.captions.is_some() || self.template.is_some()) {
            let key = if self.captions.is_some() { "captions" } else { "template" };
            return Err(self.wrong(key, "set", self.only_for(&[Shape::Pair])));
        }
        Ok(())
    }

    fn only_for(&self, shapes: &[Shape]) -> String {
        let names: Vec<String> = shapes.iter().map(|shape| format!("`{}`", shape.name())).collect();
        format!("it only where `shape` is {}, here it is `{}`", names.join(" or "), self.shape.name())
    }

    fn check_template(&self) -> Result<(), PipelineError> {
        let Some(template) = &self.template else { return Ok(()) };
        if template.texts().is_empty() {
            return Err(self.wrong("template", "an empty list", "at least one template"));
        }
        match template.texts().iter().find(|text| !text.contains(Template::PLACE)) {
            Some(text) => {
                let expected = "a text with `{caption}` where the caption belongs";
                Err(self.wrong("template", format!("`{text}`"), expected))
            }
            None => Ok(()),
        }
    }

    fn check_join(&self) -> Result<(), PipelineError> {
        let Some(join) = &self.join else { return Ok(()) };
        if join.uri.is_empty() {
            return Err(self.wrong("join.uri", "empty", "an address or a path of a table"));
        }
        let keys = join.on.pairs();
        if keys.is_empty() || keys.iter().any(|(own, other)| own.is_empty() || other.is_empty()) {
            let expected = "the column that both have, or `{ column = \"column of the table\" }`";
            return Err(self.wrong("join.on", "empty", expected));
        }
        if let Some(format @ (Format::Text | Format::Tar | Format::Coco | Format::Pictures | Format::Warc)) =
            join.format
        {
            let expected = "a form of tables: `json-lines`, `csv`, `parquet` or `arrow`";
            return Err(self.wrong("join.format", format!("`{}`", format.name()), expected));
        }
        self.check_dialect("join.", join.format, join.delimiter.as_deref(), join.quote.as_deref())?;
        Ok(())
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
