//! `manifest.json`: the list of a dataset's shards, and all that must be known to read them.
//!
//! The manifest is written last, so a dataset is visible exactly when it is whole. Its last key, `checksum`, is the
//! BLAKE3 of all bytes before that key, so a truncated or altered manifest is noticed before it is believed.
//! Versions are `manifest.json`, `manifest-000002.json`, ...; a later one names its parent's checksum.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::{RowLayout, Vocabulary, content_hash};

/// Version of manifest and shards that this program writes, and the last that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// Features of the format that this program knows. A manifest that requires another one is refused.
const KNOWN_FEATURES: [&str; 3] = ["latents", "codes", "zstd"];

/// Name of version `version` (from 1) of a dataset's manifest.
pub fn manifest_name(version: u32) -> String {
    if version <= 1 { "manifest.json".to_owned() } else { format!("manifest-{version:06}.json") }
}

/// The version that a file name stands for, `None` for any other file.
pub fn manifest_version(name: &str) -> Option<u32> {
    if name == "manifest.json" {
        return Some(1);
    }
    let digits = name.strip_prefix("manifest-")?.strip_suffix(".json")?;
    (digits.len() == 6).then(|| digits.parse().ok()).flatten().filter(|&version| version > 1)
}

/// A dataset. Paths are relative to its folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format, [`FORMAT_VERSION`] when written by this program.
    pub format: u32,
    /// Features that a reader must know.
    pub features: Vec<String>,
    /// Version of the program that wrote it.
    pub program: String,
    /// The manifest that this one replaces.
    pub parent: Option<ParentRecord>,
    /// Positions of a row.
    pub context: u32,
    /// Side of a patch in latent pixels.
    pub patch: u32,
    /// The id space.
    pub vocabulary: Vocabulary,
    /// Seed of every per-row choice.
    pub seed: u64,
    /// The tokenizer; the dataset holds a copy.
    pub tokenizer: TokenizerRecord,
    /// The codec, where a source has images.
    pub codec: Option<CodecRecord>,
    /// The resolved config, without output, threads and roots of URIs.
    pub config: serde_json::Value,
    /// Sources in the order of the config.
    pub sources: Vec<SourceRecord>,
    /// Units of input, those of earlier versions first, then by source and file.
    #[serde(default)]
    pub units: Vec<UnitRecord>,
    /// Shards in the order of (unit, part); the order of rows is the order of this list. A later version begins with
    /// the shards of the one before.
    pub shards: Vec<ShardRecord>,
    /// Counts of the whole dataset.
    pub statistics: DatasetStatistics,
}

/// The manifest before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentRecord {
    /// Its file name.
    pub name: String,
    /// Its checksum.
    pub checksum: String,
}

/// The tokenizer of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerRecord {
    /// Where its copy lies.
    pub path: String,
    /// BLAKE3 of the file.
    pub fingerprint: String,
    /// Id that begins a document.
    pub bos: u32,
    /// Id that ends a document.
    pub eos: u32,
}

/// The codec of a dataset. The weights are not part of the dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CodecRecord {
    /// BLAKE3 over configuration and weights.
    pub fingerprint: String,
    /// Kind of network, as the codec's `config.json` says.
    pub kind: String,
    /// Side of the pictures that it was given, in pixels.
    pub size: u32,
    /// Channels of a latent; 0 for codes.
    pub channels: u32,
    /// How many pixels a latent pixel is wide.
    pub downsampling: u32,
    /// Whether shards hold mean and log variance.
    pub moments: bool,
    /// The device that computed the latents, e.g. `cpu`.
    pub device: String,
    /// The kind of processor, because the last bits of a latent depend on it.
    pub processor: String,
}

/// One source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// Its name.
    pub name: String,
    /// `text`, `pair` or `interleaved`.
    pub shape: String,
    /// Weight in the config.
    pub weight: f64,
    /// The files that were read.
    pub files: Vec<FileRecord>,
    /// Its counts.
    pub statistics: SourceStatistics,
}

/// One input file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Path below the source's fixed prefix.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// The unit that read it, as in [`ShardRecord::unit`]; the first one where several read a part.
    pub unit: String,
}

/// One unit of input: what was read, packed and committed alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitRecord {
    /// Its name, as in [`ShardRecord::unit`].
    pub unit: String,
    /// Index of its source.
    pub source: u16,
    /// What it read of its only file, where that is a large one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<PartRecord>,
    /// The unit whose refused rows it ran again: those of them that might pass later are refused no more, unless they
    /// stand in this unit's own table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<String>,
    /// Its table of refused rows, where it has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejects: Option<RejectsRecord>,
}

/// A part of a large file: bytes of lines, or row groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// Path of the file, as in [`FileRecord::path`].
    pub file: String,
    /// First byte, or first row group.
    pub start: u64,
    /// The one behind the last.
    pub end: u64,
    /// Number of the first row.
    pub first_row: u64,
}

/// A table of refused rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectsRecord {
    /// Path below the dataset.
    pub path: String,
    /// Rows.
    pub rows: u64,
    /// Size.
    pub bytes: u64,
    /// BLAKE3 of the file.
    pub checksum: String,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRecord {
    /// Path below the dataset.
    pub path: String,
    /// The unit of input that it was packed from.
    pub unit: String,
    /// Index of its source.
    pub source: u16,
    /// Size.
    pub bytes: u64,
    /// BLAKE3 of the file.
    pub checksum: String,
    /// Rows.
    pub rows: u64,
    /// Text positions, markers included.
    pub tokens: u64,
    /// Image positions.
    pub patches: u64,
    /// Padding positions.
    pub padding: u64,
}

/// Counts over the dataset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetStatistics {
    /// Rows.
    pub rows: u64,
    /// Documents (a cut one counts once).
    pub documents: u64,
    /// Images.
    pub images: u64,
    /// Text positions, markers included.
    pub tokens: u64,
    /// Image positions.
    pub patches: u64,
    /// Padding positions.
    pub padding: u64,
}

/// Counts of one source. Always `read = kept + rejected + filtered + deduplicated`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatistics {
    /// Rows found in the files.
    pub read: u64,
    /// Rows that became a document at least once.
    pub kept: u64,
    /// Rows refused.
    pub rejected: u64,
    /// Rows that `where`, a weight below 1, or the split set aside.
    pub filtered: u64,
    /// Rows dropped as copies.
    pub deduplicated: u64,
    /// Refused rows by reason.
    pub rejects: BTreeMap<String, u64>,
    /// Accepted rows with a remark, e.g. `exif_bad`.
    pub warnings: BTreeMap<String, u64>,
    /// Documents, repetitions by weight counted.
    pub documents: u64,
    /// Images.
    pub images: u64,
    /// Text positions.
    pub tokens: u64,
    /// Image positions.
    pub patches: u64,
    /// Padding positions.
    pub padding: u64,
    /// Documents by length in positions.
    pub document_length: Histogram,
    /// Rows of the dataset by number of images.
    pub images_per_row: Histogram,
}

impl SourceStatistics {
    /// Whether no row is lost: `read = kept + rejected + filtered + deduplicated`, and the reasons add up.
    pub fn is_balanced(&self) -> bool {
        let accounted = self.kept + self.rejected + self.filtered + self.deduplicated;
        self.read == accounted && self.rejected == self.rejects.values().sum::<u64>()
    }

    /// Adds the counts of another part of the same source.
    pub fn merge(&mut self, other: &Self) {
        self.read += other.read;
        self.kept += other.kept;
        self.rejected += other.rejected;
        self.filtered += other.filtered;
        self.deduplicated += other.deduplicated;
        for (counts, more) in [(&mut self.rejects, &other.rejects), (&mut self.warnings, &other.warnings)] {
            for (name, count) in more {
                *counts.entry(name.clone()).or_default() += count;
            }
        }
        self.documents += other.documents;
        self.images += other.images;
        self.tokens += other.tokens;
        self.patches += other.patches;
        self.padding += other.padding;
        self.document_length.merge(&other.document_length);
        self.images_per_row.merge(&other.images_per_row);
    }

    /// Takes refused rows off, by reason: they are read again and counted as what became of them then.
    pub fn forget_rejects(&mut self, rejects: &BTreeMap<String, u64>) {
        for (reason, count) in rejects {
            self.read = self.read.saturating_sub(*count);
            self.rejected = self.rejected.saturating_sub(*count);
            if let Some(left) = self.rejects.get_mut(reason) {
                *left = left.saturating_sub(*count);
            }
        }
        self.rejects.retain(|_, count| *count > 0);
    }
}

/// Counts by power of two: the key `k` counts the values from `k` to `2 k - 1`, the key 0 the zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram {
    /// Lower bound to count.
    pub buckets: BTreeMap<u64, u64>,
}

impl Histogram {
    /// Counts one value.
    pub fn add(&mut self, value: u64) {
        let bound = if value == 0 { 0 } else { 1 << value.ilog2() };
        *self.buckets.entry(bound).or_default() += 1;
    }

    /// Adds the counts of another one.
    pub fn merge(&mut self, other: &Self) {
        for (bound, count) in &other.buckets {
            *self.buckets.entry(*bound).or_default() += count;
        }
    }
}

/// Why bytes are not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or a key is missing.
    #[error("manifest can't be read")]
    Json(#[from] serde_json::Error),
    /// No checksum at its end: most likely cut off.
    #[error("manifest has no `checksum` as last key: it is cut off or was edited")]
    NoChecksum,
    /// The checksum speaks against the content.
    #[error("manifest is damaged: its checksum is `{expected}`, its content has `{found}`")]
    Checksum {
        /// What the file says.
        expected: String,
        /// What its bytes have.
        found: String,
    },
    /// A later format.
    #[error("manifest has format version {found}, this program reads up to {FORMAT_VERSION}")]
    Version {
        /// The version found.
        found: u64,
    },
    /// A context, patch size or vocabulary that no row can have.
    #[error("manifest has {layout:?}, which is no layout of rows")]
    Layout {
        /// What it has.
        layout: RowLayout,
    },
    /// A feature that this program does not know.
    #[error("dataset requires the feature `{feature}`, which this program does not know")]
    Feature {
        /// Its name.
        feature: String,
    },
}

const CHECKSUM_KEY: &str = "  \"checksum\": \"";

impl Manifest {
    /// Units whose refused rows another one has run again: those of them that might pass later are refused no more,
    /// unless they stand in that one's own table.
    pub fn retried_units(&self) -> HashSet<&str> {
        self.units.iter().filter_map(|unit| unit.retries.as_deref()).collect()
    }

    /// What its rows are checked against.
    pub const fn layout(&self) -> RowLayout {
        RowLayout { context: self.context, patch: self.patch, vocabulary: self.vocabulary }
    }

    /// The file's bytes, and the checksum that stands in them. Equal manifests give equal bytes.
    ///
    /// # Errors
    ///
    /// None in practice; serde_json's, for a `config` that is no JSON.
    pub fn to_bytes(&self) -> Result<(Vec<u8>, String), ManifestError> {
        let json = serde_json::to_string_pretty(self)?;
        let body = json.trim_end_matches('}').trim_end();
        let mut text = format!("{body},\n");
        let checksum = content_hash(text.as_bytes());
        text.push_str(&format!("{CHECKSUM_KEY}{checksum}\"\n}}\n"));
        Ok((text.into_bytes(), checksum))
    }

    /// Reads a manifest and gives it with its checksum.
    ///
    /// # Errors
    ///
    /// If it is cut off or damaged, of a later version, or needs a feature that is not known.
    pub fn from_bytes(bytes: &[u8]) -> Result<(Self, String), ManifestError> {
        let expected = check(bytes)?;
        let value: serde_json::Value = serde_json::from_slice(bytes)?;
        let version = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if version > u64::from(FORMAT_VERSION) {
            return Err(ManifestError::Version { found: version });
        }
        let manifest: Self = serde_json::from_value(value)?;
        if !manifest.layout().is_possible() {
            return Err(ManifestError::Layout { layout: manifest.layout() });
        }
        match manifest.features.iter().find(|feature| !KNOWN_FEATURES.contains(&feature.as_str())) {
            Some(feature) => Err(ManifestError::Feature { feature: feature.clone() }),
            None => Ok((manifest, expected)),
        }
    }
}

fn check(bytes: &[u8]) -> Result<String, ManifestError> {
    let key = CHECKSUM_KEY.as_bytes();
    let at = bytes.windows(key.len()).rposition(|window| window == key).ok_or(ManifestError::NoChecksum)?;
    let tail = std::str::from_utf8(&bytes[at + key.len()..]).map_err(|_| ManifestError::NoChecksum)?;
    let expected = tail.strip_suffix("\"\n}\n").ok_or(ManifestError::NoChecksum)?.to_owned();
    let found = content_hash(&bytes[..at]);
    if found == expected { Ok(expected) } else { Err(ManifestError::Checksum { expected, found }) }
}
