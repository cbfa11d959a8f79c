//! What the files and rows of a source are.

use arrow::datatypes::DataType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
