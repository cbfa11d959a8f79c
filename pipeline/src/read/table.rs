//! The columns that a source's rows have in the plan.
//!
//! First stand our own, which say where a row came from and what became of it, and whose names begin with `OWN`, which no
//! other column's may; then those of the files, then those that
//! a key of the source finds inside others (`meta.caption`), then what every source of images has: `image` (bytes),
//! `width` and `height` (from the picture's header, whatever the files say).

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::nested::ColumnPath;
use super::place::MATCHED;
use super::united::Clash;
use crate::PipelineError;
use crate::config::{ColumnType, Shape, SourceConfig};
use crate::row::columns::{ID, SINGLE_CAPTION, is_own, pictures_type, system_fields, texts_type, visible};

/// The fields of a struct that name a picture's file, in the order in which they are looked for.
pub(crate) const PATHS: [&str; 3] = ["path", "file_name", "image_name"];

/// Where a row's images are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImageColumns {
    /// Nowhere: a source of texts.
    None,
    /// One image in a column of the file, or beside the columns.
    One { from: Option<ColumnPath> },
    /// A list, which is the column `name` of the plan.
    Many {
        name: String,
        from: ColumnPath,
        /// The column of the texts between them.
        texts: String,
        /// Whether each image says which text it stands before; else it stands where it lies in the list.
        matched: bool,
    },
}

/// A column that comes from the fields of a row as they are.
#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    pub(crate) field: Field,
    pub(crate) from: ColumnPath,
}

/// The columns that a source's files have.
#[derive(Debug, Default)]
pub(crate) struct FoundColumns {
    /// Those of files that say their types.
    pub(crate) typed: Vec<Field>,
    /// Those that were found by looking at rows.
    pub(crate) inferred: Vec<Field>,
    /// Whether images lie beside the fields, as in an archive.
    pub(crate) beside: bool,
    /// Columns of which no type holds what all files have.
    pub(crate) clashes: Vec<Clash>,
}

impl FoundColumns {
    /// Whether there are none: not one row was met.
    pub(crate) fn is_empty(&self) -> bool {
        self.typed.is_empty() && self.inferred.is_empty()
    }

    /// Columns of texts.
    pub(crate) fn texts<'a>(names: impl IntoIterator<Item = &'a String>) -> Self {
        let field = |name: &String| Field::new(name, DataType::Utf8, true);
        Self { inferred: names.into_iter().map(field).collect(), ..Self::default() }
    }

    /// What a shape needs, for files without a row.
    fn of_shape(shape: Shape) -> Self {
        let fields = match shape {
            Shape::Text => vec![Field::new("text", DataType::Utf8, true)],
            Shape::Pair => vec![Field::new("caption", DataType::Utf8, true)],
            Shape::Interleaved => {
                vec![Field::new("texts", texts_type(), true), Field::new("images", pictures_type(), true)]
            }
        };
        Self { inferred: fields, beside: shape == Shape::Pair, ..Self::default() }
    }
}

/// The columns of a source.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// All columns, in order.
    pub(crate) schema: SchemaRef,
    /// Those that come from the fields of a row as they are.
    pub(crate) scalars: Vec<Scalar>,
    /// Where images come from.
    pub(crate) images: ImageColumns,
    /// What the shape needs: the name in the plan and the column.
    pub(crate) parts: Vec<(&'static str, String)>,
    /// The column whose values must be text (or a list of texts) and are not made into text.
    pub(crate) text: String,
    /// The column that [`ID`] is made of.
    pub(crate) id: Option<String>,
    /// Columns of which no type holds what all files have: nobody may ask for them.
    pub(crate) clashes: Vec<Clash>,
}

const IMAGE_NAMES: [&str; 5] = ["image", "file_name", "jpg", "png", "path"];
pub(crate) const TEXTS_NAMES: [&str; 2] = ["texts", "text_list"];
pub(crate) const IMAGES_NAMES: [&str; 2] = ["images", "image_info"];

impl Table {
    /// The table of a source with these columns. `keys` are further columns that must be found, if they are there.
    pub(crate) fn try_new(
        source: &SourceConfig,
        found: FoundColumns,
        keys: &[String],
    ) -> Result<Self, PipelineError> {
        let naming = Naming { source, fields: [found.typed.as_slice(), &found.inferred].concat() };
        let (part, text) = naming.text_part();
        // What `select` makes text of is its own affair, where the file says what it is.
        let free = source.select.is_some() && ColumnPath::find(&text, &found.typed).is_some();
        if !free {
            naming.check_type(part, &text, &found.typed)?;
        }
        let images = naming.images(found.beside, &text)?;
        let kept = naming.fields.iter().filter(|field| !is_ours(field, &images));
        let mut scalars: Vec<Scalar> = kept.map(plain).collect();
        for name in keys.iter().chain(&source.id).chain([&text]) {
            if !has(&scalars, name) {
                scalars.extend(naming.nested(name));
            }
        }
        for scalar in scalars.iter_mut().filter(|scalar| !free && *scalar.field.name() == text) {
            let of = text_type(source.shape, scalar.field.data_type());
            scalar.field = Field::new(&text, of, true);
        }
        let id = id_column(source, &scalars);
        let as_text = id.as_ref().and_then(|id| naming.id_as_text(id, &scalars, &found.typed));
        scalars.extend(as_text.clone());
        let mut parts = vec![(part, text.clone())];
        parts.extend(naming.single_caption(&text));
        parts.extend(images.part());
        // Where the source says that its type is text, whatever stands there is made into one.
        let strict = if source.types.get(&text) == Some(&ColumnType::Varchar) { String::new() } else { text };
        let mut table = Self::new(scalars, images, parts, strict);
        match (id, as_text) {
            (Some(id), Some(_)) => {
                table.parts.push(("id", ID.to_owned()));
                table.id = Some(id);
            }
            (id, _) => table.parts.extend(id.map(|id| ("id", id))),
        }
        table.clashes = found.clashes;
        Ok(table)
    }

    /// The table of a source whose files have no row.
    pub(crate) fn empty(shape: Shape) -> Result<Self, PipelineError> {
        let source = SourceConfig { shape, ..SourceConfig::default() };
        Self::try_new(&source, FoundColumns::of_shape(shape), &[])
    }

    /// The table of files whose rows are no documents.
    pub(crate) fn plain(found: FoundColumns) -> Self {
        let fields = found.typed.iter().chain(&found.inferred);
        let kept = fields.filter(|field| !is_ours(field, &ImageColumns::None));
        let table = Self::new(kept.map(plain).collect(), ImageColumns::None, Vec::new(), String::new());
        Self { clashes: found.clashes, ..table }
    }

    fn new(
        scalars: Vec<Scalar>,
        images: ImageColumns,
        parts: Vec<(&'static str, String)>,
        text: String,
    ) -> Self {
        let mut columns = system_fields();
        columns.extend(scalars.iter().map(|scalar| scalar.field.clone()));
        columns.extend(images.fields());
        let schema = Arc::new(Schema::new(columns));
        Self { schema, scalars, images, parts, text, id: None, clashes: Vec::new() }
    }

    /// The columns that a person can use: all but our own.
    pub(crate) fn visible_fields(&self) -> impl Iterator<Item = &Field> {
        self.schema.fields().iter().map(AsRef::as_ref).filter(|field: &&Field| !is_own(field.name()))
    }

    /// Their names, those inside columns too.
    pub(crate) fn visible(&self) -> Vec<String> {
        visible(self.visible_fields())
    }

    /// The fields that must be read from a file for these columns.
    pub(crate) fn needed(&self, columns: &Schema) -> Vec<String> {
        let has = |name: &str| columns.field_with_name(name).is_ok();
        let wanted = self.scalars.iter().filter(|scalar| has(scalar.field.name()));
        let mut needed: Vec<String> = wanted.map(|scalar| scalar.from.root.clone()).collect();
        match &self.images {
            ImageColumns::One { from: Some(from) } if self.wants_images(columns) => {
                needed.push(from.root.clone());
            }
            // The images say where the texts stand.
            ImageColumns::Many { name, from, texts, matched } if has(name) || *matched && has(texts) => {
                needed.push(from.root.clone());
            }
            _ => {}
        }
        needed
    }

    /// Whether these columns need the bytes of pictures.
    pub(crate) fn wants_images(&self, columns: &Schema) -> bool {
        let has = |name: &str| columns.field_with_name(name).is_ok();
        match &self.images {
            ImageColumns::None => false,
            ImageColumns::One { .. } => has("image") || has("width") || has("height"),
            ImageColumns::Many { name, .. } => has(name),
        }
    }
}

impl ImageColumns {
    /// The columns of the plan that are made of images.
    fn fields(&self) -> Vec<Field> {
        match self {
            Self::None => Vec::new(),
            Self::One { .. } => vec![
                Field::new("image", DataType::Binary, true),
                Field::new("width", DataType::UInt32, true),
                Field::new("height", DataType::UInt32, true),
            ],
            Self::Many { name, .. } => vec![Field::new(name, pictures_type(), true)],
        }
    }

    fn part(&self) -> Option<(&'static str, String)> {
        match self {
            Self::None => None,
            Self::One { .. } => Some(("image", "image".to_owned())),
            Self::Many { name, .. } => Some(("images", name.clone())),
        }
    }
}

fn plain(field: &Field) -> Scalar {
    Scalar { field: field.clone(), from: ColumnPath::root(field.name()) }
}

/// Whether a column of that name is made here, whatever the files have under it.
fn is_ours(field: &Field, images: &ImageColumns) -> bool {
    let name = field.name();
    is_own(name) || images.fields().iter().any(|own| own.name() == name)
}

fn has(scalars: &[Scalar], name: &str) -> bool {
    scalars.iter().any(|scalar| scalar.field.name() == name)
}

/// The type of the column of text: a text, a list of texts, or what of both the files have.
fn text_type(shape: Shape, of: &DataType) -> DataType {
    match (shape, of) {
        (Shape::Interleaved, _) | (Shape::Pair, DataType::List(_)) => texts_type(),
        _ => DataType::Utf8,
    }
}

fn id_column(source: &SourceConfig, scalars: &[Scalar]) -> Option<String> {
    let default = || ["id", "key"].into_iter().find(|name| has(scalars, name)).map(str::to_owned);
    source.id.clone().or_else(default)
}

/// Finds the columns that a source's keys, or their defaults, name.
struct Naming<'a> {
    source: &'a SourceConfig,
    fields: Vec<Field>,
}

impl Naming<'_> {
    fn type_of(&self, name: &str) -> Option<DataType> {
        ColumnPath::find(name, &self.fields).map(|(_, of)| of)
    }

    /// Whether there is a list of captions beside the column `caption`, or instead of it.
    fn has_captions(&self) -> bool {
        // `select` names its columns itself.
        if self.source.captions.is_none() && self.source.select.is_some() {
            return false;
        }
        match self.type_of("captions") {
            Some(DataType::List(item)) => is_text(item.data_type()) || self.type_of("caption").is_none(),
            _ => false,
        }
    }

    /// The column of the caption of rows whose list of captions has none.
    fn single_caption(&self, text: &str) -> Option<(&'static str, String)> {
        let beside = self.source.shape == Shape::Pair && self.source.caption.is_none() && text == "captions";
        let fits =
            |of: DataType| matches!(&of, DataType::List(item) if is_text(item.data_type())) || is_text(&of);
        (beside && self.type_of("caption").is_some_and(fits)).then(|| (SINGLE_CAPTION, "caption".to_owned()))
    }

    /// What is text in the shape: its name in the plan, and the column.
    fn text_part(&self) -> (&'static str, String) {
        let source = self.source;
        let or = |set: &Option<String>, default: &str| set.clone().unwrap_or_else(|| default.to_owned());
        match source.shape {
            Shape::Text => ("text", or(&source.text, "text")),
            Shape::Pair if self.has_captions() => ("caption", or(&source.caption, "captions")),
            Shape::Pair => ("caption", or(&source.caption, "caption")),
            Shape::Interleaved => ("texts", or(&source.texts, self.first_of(&TEXTS_NAMES))),
        }
    }

    /// A column that a key finds inside another one.
    fn nested(&self, name: &str) -> Option<Scalar> {
        let (from, of) = ColumnPath::find(name, &self.fields)?;
        from.is_nested().then(|| Scalar { field: Field::new(name, of, true), from })
    }

    /// The id as text: what stands in a row is never of the wrong type for it. Where the source gives its column another
    /// type, the id is what that makes of it; of lists and structs of typed files there is no text.
    fn id_as_text(&self, id: &str, scalars: &[Scalar], typed: &[Field]) -> Option<Scalar> {
        let scalar = scalars.iter().find(|scalar| scalar.field.name() == id)?;
        let given = self.source.types.get(id).is_some_and(|of| *of != ColumnType::Varchar);
        let nested = ColumnPath::find(id, typed).is_some_and(|(_, of)| of.is_nested());
        let field = Field::new(ID, DataType::Utf8, true);
        (!given && !nested).then(|| Scalar { field, from: scalar.from.clone() })
    }

    /// The first of these names that is a column; the first of all if none is.
    fn first_of<'n>(&self, names: &[&'n str]) -> &'n str {
        names.iter().copied().find(|name| self.type_of(name).is_some()).unwrap_or(names[0])
    }

    /// Whether what files say of their column of text goes with the shape. What was found by looking at rows is checked
    /// row by row.
    fn check_type(&self, part: &str, column: &str, typed: &[Field]) -> Result<(), PipelineError> {
        let Some((_, of)) = ColumnPath::find(column, typed) else { return Ok(()) };
        let texts = matches!(&of, DataType::List(item) if is_text(item.data_type()));
        let (fits, expected) = match part {
            "text" => (is_text(&of), "a text"),
            "caption" => (is_text(&of) || texts, "a text or a list of texts"),
            _ => (texts, "a list of texts"),
        };
        if fits { Ok(()) } else { Err(self.wrong_type(column, &of, expected)) }
    }

    fn wrong_type(&self, column: &str, of: &DataType, expected: &'static str) -> PipelineError {
        let (name, column, found) = (self.source.name.clone(), column.to_owned(), of.to_string());
        PipelineError::WrongColumn { name, column, found, expected }
    }

    fn missing(&self, column: &str) -> PipelineError {
        PipelineError::NoColumn {
            name: self.source.name.clone(),
            column: column.to_owned(),
            available: visible(self.fields.iter()),
        }
    }

    fn images(&self, beside: bool, texts: &str) -> Result<ImageColumns, PipelineError> {
        let source = self.source;
        match source.shape {
            Shape::Text => Ok(ImageColumns::None),
            Shape::Pair if beside => Ok(ImageColumns::One { from: None }),
            Shape::Pair => {
                let name = source.image.as_deref().unwrap_or_else(|| self.first_of(&IMAGE_NAMES));
                let (from, of) = ColumnPath::find(name, &self.fields).ok_or_else(|| self.missing(name))?;
                if !holds_image(&of) {
                    return Err(self.wrong_type(
                        name,
                        &of,
                        "bytes, a path, or a struct of `bytes` and `path`",
                    ));
                }
                Ok(ImageColumns::One { from: Some(from) })
            }
            Shape::Interleaved => self.many_images(texts),
        }
    }

    fn many_images(&self, texts: &str) -> Result<ImageColumns, PipelineError> {
        let source = self.source;
        let name = source.images.as_deref().unwrap_or_else(|| self.first_of(&IMAGES_NAMES));
        let (from, of) = ColumnPath::find(name, &self.fields).ok_or_else(|| self.missing(name))?;
        let matched = match &of {
            DataType::List(item) if holds_image(item.data_type()) => has_field(item.data_type(), MATCHED),
            // Rows of JSON lines of which none has an image yet.
            DataType::Utf8 => false,
            other => return Err(self.wrong_type(name, other, "a list of images")),
        };
        Ok(ImageColumns::Many { name: name.to_owned(), from, texts: texts.to_owned(), matched })
    }
}

fn is_text(of: &DataType) -> bool {
    matches!(of, DataType::Utf8 | DataType::Binary)
}

/// Whether values of this type can be an image. Numbers can't; rows of JSON lines are judged one by one.
fn holds_image(of: &DataType) -> bool {
    matches!(of, DataType::Utf8 | DataType::Binary | DataType::Struct(_))
}

fn has_field(of: &DataType, name: &str) -> bool {
    matches!(of, DataType::Struct(fields) if fields.iter().any(|field| field.name() == name))
}
