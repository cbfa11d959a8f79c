//! Which columns the files of a source have: what typed files say, and what the rows of others show.

use std::collections::{BTreeMap, HashSet};

use arrow::datatypes::{DataType, Field, SchemaRef};
use futures::{StreamExt, TryStreamExt, stream};

use crate::PipelineError;
use crate::config::{ColumnType, Format};
use crate::host::threads::blocking;
use crate::read::infer::{Extent, Inferred};
use crate::read::table::FoundColumns;
use crate::read::united::{Clash, United, repeated, wider};
use crate::read::{Input, infer, ipc, parquet};
use crate::row::columns::visible;
use crate::units::{InputFile, Listing};

/// What somebody wants of the columns of files.
#[derive(Debug, Default)]
pub(crate) struct WantedColumns {
    /// The names that matter.
    pub(crate) named: HashSet<String>,
    /// Types that are given.
    pub(crate) types: BTreeMap<String, ColumnType>,
    /// How far files are looked into that don't say which columns they have.
    pub(crate) extent: Extent,
}

/// What was found of the columns of files.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) found: FoundColumns,
    /// Whether not all of the files was looked at, and there may be more.
    pub(super) cut: bool,
    /// Columns that were null as far as was looked.
    pub(super) unknown: Vec<String>,
}

/// Finds the columns of files; none where no file has a row.
pub(crate) async fn find(
    name: &str,
    listing: &Listing,
    input: &Input,
    wanted: WantedColumns,
) -> Result<Finding, PipelineError> {
    let WantedColumns { named, types, extent } = wanted;
    let has_columns = |file: &&InputFile| matches!(file.format, Format::Parquet | Format::Arrow);
    let (tables, others): (Vec<&InputFile>, Vec<&InputFile>) = listing.files.iter().partition(has_columns);
    let (typed, clashes, damaged) = typed_columns(&tables, input, &named).await?;
    let others: Vec<InputFile> = others.into_iter().cloned().collect();
    let beside = others.iter().any(|file| matches!(file.format, Format::Tar | Format::Pictures));
    let looked = if others.is_empty() {
        Inferred::default()
    } else {
        let input = input.clone();
        let given = types.keys().cloned().collect();
        blocking(move || infer::infer(&input, &others, &named, &given, extent)).await?
    };
    let mut found = FoundColumns { typed, inferred: looked.fields, beside, clashes };
    let (cut, unknown) = (looked.cut, looked.unknown);
    if !found.is_empty() {
        fix_types(name, &types, &mut found, cut)?;
        return Ok(Finding { found, cut, unknown });
    }
    // One damaged file among others is a reject. Without any there are no columns to plan with.
    let refused = looked.refused.map(|(path, what)| (path, format!("has no row that can be used; {what}")));
    match damaged.map(|(path, what)| (path, format!("is damaged: {what}"))).or(refused) {
        Some((path, what)) => Err(PipelineError::Unreadable { name: name.to_owned(), path, what }),
        None => Ok(Finding { found, cut, unknown }),
    }
}

/// Gives columns the types that the source says; one that was not met may still come where not all was looked at. A column
/// of numbers that typed files have too holds those of both.
fn fix_types(
    name: &str,
    types: &BTreeMap<String, ColumnType>,
    found: &mut FoundColumns,
    cut: bool,
) -> Result<(), PipelineError> {
    for (column, of) in types {
        let is_it = |field: &&mut Field| field.name() == column;
        match found.inferred.iter_mut().find(is_it) {
            Some(field) => *field = Field::new(column, of.data_type(), true),
            None if found.typed.iter().any(|field| field.name() == column) => {
                return Err(PipelineError::Config {
                    key: format!("source.{name}.types.{column}"),
                    expected: "nothing for a column of Parquet or Arrow files, which say its type".to_owned(),
                    found: format!("`{}`", of.name()),
                });
            }
            None if cut => found.inferred.push(Field::new(column, of.data_type(), true)),
            None => {
                let available = visible(found.inferred.iter().chain(&found.typed));
                let (name, column) = (name.to_owned(), column.clone());
                return Err(PipelineError::NoColumn { name, column, available });
            }
        }
    }
    for known in &mut found.typed {
        let Some(looked) = found.inferred.iter().find(|field| field.name() == known.name()) else { continue };
        match beside(known.data_type(), looked.data_type()) {
            Some(of) => *known = Field::new(known.name(), of, true),
            None if types.contains_key(known.name()) && known.data_type() != looked.data_type() => {
                return Err(PipelineError::Columns {
                    name: name.to_owned(),
                    column: known.name().clone(),
                    there: format!("{} in the files that say its type", known.data_type()),
                    here: format!("{} by `types`", looked.data_type()),
                });
            }
            None => {}
        }
    }
    found.inferred.retain(|field| found.typed.iter().all(|known| known.name() != field.name()));
    Ok(())
}

/// The type of numbers that files say to have as `typed` and rows of others as `looked`: those, or texts of a CSV file
/// that spell them. `None` for anything else.
fn beside(typed: &DataType, looked: &DataType) -> Option<DataType> {
    let numbers = match looked {
        DataType::Utf8 if typed.is_integer() => &DataType::Int64,
        DataType::Utf8 => &DataType::Float64,
        other => other,
    };
    wider(typed, numbers)
}

/// Files whose columns are asked for at a time.
const FILES_AT_A_TIME: usize = 16;

/// A file, and what is wrong with it.
type Damage = (String, String);

/// The columns of files that have their own, those that differ, and the first of the files that can't be read.
async fn typed_columns(
    files: &[&InputFile],
    input: &Input,
    named: &HashSet<String>,
) -> Result<(Vec<Field>, Vec<Clash>, Option<Damage>), PipelineError> {
    let schema = |file: &&InputFile| {
        let (input, file) = (input.clone(), (*file).clone());
        blocking(move || match file.format {
            Format::Arrow => ipc::schema(&input, &file),
            _ => parquet::schema(&input, &file),
        })
    };
    let schemas: Vec<Result<SchemaRef, String>> =
        stream::iter(files.iter().map(schema)).buffered(FILES_AT_A_TIME).try_collect().await?;
    let mut united = United::default();
    for (file, schema) in files.iter().zip(&schemas) {
        if let Ok(schema) = schema {
            let names = schema.fields().iter().map(|field| field.name().as_str());
            repeated(file, names, |name| named.contains(name))?;
            united.add(file, schema);
        }
    }
    let damaged = files.iter().zip(schemas).find_map(|(file, schema)| Some((file, schema.err()?)));
    let (fields, clashes) = united.finish();
    Ok((fields, clashes, damaged.map(|(file, what)| (file.path.to_string(), what))))
}
