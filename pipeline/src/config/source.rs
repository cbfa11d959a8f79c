//! Where rows come from: one source.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{number, wrong};
use super::form::{ColumnType, Format, Shape, TextSplit};
use super::join::JoinConfig;
use crate::PipelineError;

/// Copies of a document, at most.
const MOST_WEIGHT: f64 = 1e6;

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
