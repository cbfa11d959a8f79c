//! The columns that a source's rows have in the plan.
//!
//! First stand our own, which say where a row came from and what became of it, then those of the files, then what
//! every source of images has: `image` (bytes), `width` and `height` (from the picture's header, whatever the files
//! say).

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::PipelineError;
use crate::config::SourceConfig;
use crate::document::Shape;

/// Name of the unit.
pub(crate) const UNIT: &str = "_unit";
/// Index of the file in the unit.
pub(crate) const FILE: &str = "_file";
/// Physical line or record in the file; in the row that ends a unit, the number of rows that were read.
pub(crate) const ROW: &str = "_row";
/// What the row is, a [`Kind`].
pub(crate) const KIND: &str = "_kind";
/// Why a row was refused.
pub(crate) const REASON: &str = "_reason";
/// What was found.
pub(crate) const DETAIL: &str = "_detail";

/// What a row of the plan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A row of the source.
    Row = 0,
    /// A refused row.
    Reject = 1,
    /// The end of a unit.
    End = 2,
    /// A copy of an earlier row.
    Duplicate = 3,
    /// Left out because its source weighs less than 1.
    Aside = 4,
}

impl Kind {
    pub(crate) const fn of(value: u8) -> Self {
        match value {
            0 => Self::Row,
            1 => Self::Reject,
            3 => Self::Duplicate,
            4 => Self::Aside,
            _ => Self::End,
        }
    }
}

/// Our own columns.
pub(crate) fn system_fields() -> Vec<Field> {
    vec![
        Field::new(UNIT, DataType::Utf8, false),
        Field::new(FILE, DataType::UInt32, false),
        Field::new(ROW, DataType::UInt64, false),
        Field::new(KIND, DataType::UInt8, false),
        Field::new(REASON, DataType::Utf8, true),
        Field::new(DETAIL, DataType::Utf8, true),
    ]
}

/// Where a row's images are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImageColumns {
    /// Nowhere: a source of texts.
    None,
    /// One image in the file's own column of that name, or beside the columns.
    One { from: Option<String> },
    /// A list in the column of that name.
    Many { from: String },
}

/// The columns of a source.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// All columns, in order.
    pub(crate) schema: SchemaRef,
    /// Those that come from the fields of a row as they are.
    pub(crate) scalars: Vec<Field>,
    /// Where images come from.
    pub(crate) images: ImageColumns,
    /// Columns whose values must be text (or a list of texts), not made into text.
    pub(crate) strict: Vec<String>,
}

const IMAGE_NAMES: [&str; 5] = ["image", "file_name", "jpg", "png", "path"];

/// The type of a list of texts.
pub(crate) fn texts_type() -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)))
}

/// The type of a list of pictures.
pub(crate) fn pictures_type() -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::Binary, true)))
}

impl Table {
    /// The table of a source whose files have `fields`. `beside`: images lie beside the fields, as in an archive.
    pub(crate) fn try_new(
        source: &SourceConfig,
        fields: Vec<Field>,
        beside: bool,
    ) -> Result<Self, PipelineError> {
        let images = image_columns(source, &fields, beside)?;
        let strict = vec![
            source.text.clone().unwrap_or_else(|| "text".to_owned()),
            source.caption.clone().unwrap_or_else(|| "caption".to_owned()),
            source.texts.clone().unwrap_or_else(|| "texts".to_owned()),
        ];
        let dropped: &[&str] = match &images {
            ImageColumns::None => &[],
            ImageColumns::One { .. } => &["image", "width", "height"],
            ImageColumns::Many { .. } => &[],
        };
        let many = |name: &str| matches!(&images, ImageColumns::Many { from } if from == name);
        let scalars: Vec<Field> = fields
            .into_iter()
            .filter(|field| !dropped.contains(&field.name().as_str()) && !many(field.name()))
            .filter(|field| {
                !field.name().starts_with('_')
                    || !system_fields().iter().any(|own| own.name() == field.name())
            })
            .map(|field| if strict.contains(field.name()) { text_field(field) } else { field })
            .collect();
        let mut columns = system_fields();
        columns.extend(scalars.iter().cloned());
        match &images {
            ImageColumns::None => {}
            ImageColumns::One { .. } => columns.extend([
                Field::new("image", DataType::Binary, true),
                Field::new("width", DataType::UInt32, true),
                Field::new("height", DataType::UInt32, true),
            ]),
            ImageColumns::Many { from } => columns.push(Field::new(from, pictures_type(), true)),
        }
        Ok(Self { schema: Arc::new(Schema::new(columns)), scalars, images, strict })
    }

    /// The names that a person can use.
    pub(crate) fn visible(&self) -> Vec<String> {
        let names = self.schema.fields().iter().map(|field| field.name().clone());
        names.skip(system_fields().len()).collect()
    }

    /// The fields that must be read from a file for these columns.
    pub(crate) fn needed(&self, columns: &Schema) -> Vec<String> {
        let has = |name: &str| columns.field_with_name(name).is_ok();
        let mut needed: Vec<String> =
            self.scalars.iter().map(Field::name).filter(|name| has(name)).cloned().collect();
        match &self.images {
            ImageColumns::One { from: Some(from) } if self.wants_images(columns) => needed.push(from.clone()),
            ImageColumns::Many { from } if has(from) => needed.push(from.clone()),
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
            ImageColumns::Many { from } => has(from),
        }
    }
}

/// A column of text stays text, or a list of texts.
fn text_field(field: Field) -> Field {
    match field.data_type() {
        DataType::List(_) => field.with_data_type(texts_type()),
        _ => field.with_data_type(DataType::Utf8),
    }
}

fn image_columns(
    source: &SourceConfig,
    fields: &[Field],
    beside: bool,
) -> Result<ImageColumns, PipelineError> {
    let has = |name: &str| fields.iter().any(|field| field.name() == name);
    let missing = |column: &str| PipelineError::NoColumn {
        name: source.name.clone(),
        column: column.to_owned(),
        available: fields.iter().map(|field| field.name().clone()).collect(),
    };
    match source.shape {
        Shape::Text => Ok(ImageColumns::None),
        Shape::Pair if beside => Ok(ImageColumns::One { from: None }),
        Shape::Pair => {
            let wanted = source.image.as_deref();
            let found = match wanted {
                Some(name) => Some(name).filter(|name| has(name)),
                None => IMAGE_NAMES.into_iter().find(|name| has(name)),
            };
            let from = found.ok_or_else(|| missing(wanted.unwrap_or("image")))?;
            Ok(ImageColumns::One { from: Some(from.to_owned()) })
        }
        Shape::Interleaved => {
            let from = source.images.as_deref().unwrap_or("images");
            if has(from) { Ok(ImageColumns::Many { from: from.to_owned() }) } else { Err(missing(from)) }
        }
    }
}
