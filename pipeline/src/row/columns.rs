//! The columns that every row of the plan has, whatever its source.
//!
//! Their names begin with [`OWN`], which no other column's may. They say where a row came from and what became of it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};

use crate::PipelineError;
pub(crate) use crate::host::error::OWN;

/// Name of the unit.
pub(crate) const UNIT: &str = "__transfusion_unit";
/// Index of the file in the unit.
pub(crate) const FILE: &str = "__transfusion_file";
/// Physical line or record in the file; in the row that ends a unit, the number of rows that were read.
pub(crate) const ROW: &str = "__transfusion_row";
/// What the row is, a [`RowKind`].
pub(crate) const KIND: &str = "__transfusion_kind";
/// Why a row was refused.
pub(crate) const REASON: &str = "__transfusion_reason";
/// What was found.
pub(crate) const DETAIL: &str = "__transfusion_detail";
/// The beginning of what was refused.
pub(crate) const EXCERPT: &str = "__transfusion_excerpt";

/// The row's id as text, whatever its column is.
pub(crate) const ID: &str = "__transfusion_id";

/// The caption of a row whose list of captions has none.
pub(crate) const SINGLE_CAPTION: &str = "__transfusion_single_caption";

/// What a row of the plan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RowKind {
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

impl RowKind {
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

/// Whether a column of that name is one of ours.
pub(crate) fn is_own(name: &str) -> bool {
    name.starts_with(OWN)
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
        Field::new(EXCERPT, DataType::Utf8, true),
    ]
}

/// The type of a list of texts.
pub(crate) fn texts_type() -> DataType {
    list_of(DataType::Utf8)
}

/// The type of a list of pictures.
pub(crate) fn pictures_type() -> DataType {
    list_of(DataType::Binary)
}

/// The names of columns, each before those of its fields.
pub(crate) fn visible<'a>(fields: impl Iterator<Item = &'a Field>) -> Vec<String> {
    let mut names = Vec::new();
    for field in fields {
        push_names(field.name().clone(), field.data_type(), &mut names);
    }
    names
}

fn push_names(name: String, of: &DataType, names: &mut Vec<String>) {
    names.push(name.clone());
    let mut of = of;
    while let DataType::List(item) = of {
        of = item.data_type();
    }
    if let DataType::Struct(fields) = of {
        for field in fields {
            push_names(format!("{name}.{}", field.name()), field.data_type(), names);
        }
    }
}

/// A column as values of a type, where the batch has it.
pub(crate) fn column(
    batch: &RecordBatch,
    name: &str,
    wanted: &DataType,
) -> Result<Option<ArrayRef>, PipelineError> {
    match batch.column_by_name(name) {
        Some(column) if column.data_type() == wanted => Ok(Some(column.clone())),
        Some(column) => cast(column, wanted).map(Some).map_err(PipelineError::from),
        None => Ok(None),
    }
}

/// A column as texts.
pub(crate) fn texts(batch: &RecordBatch, name: &str) -> Result<Option<StringArray>, PipelineError> {
    Ok(column(batch, name, &DataType::Utf8)?.map(|column| column.as_string::<i32>().clone()))
}

/// A list of values that may be null.
pub(crate) fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}
