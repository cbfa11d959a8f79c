//! One source of a job: its files, its columns, its units, and the part of the plan that gives its rows.
//!
//! What a person's SQL asks for is planned by DataFusion over a table whose scan is [`UnitRead`], so only the columns that
//! it names are read; the columns of a joined table belong to it like the source's own. Refused rows and the ends of
//! units pass every filter. Once planned, the nodes of the SQL are replaced by ours, which refuse the rows it fails on.
//!
//! It knows nothing about outputs, codecs, tokenizers or packing.

mod clause;
mod join;
mod picture_folder;
pub(crate) mod pictures;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::empty::EmptyTable;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::logical_expr::{Expr, TableType, lit};
use datafusion::physical_expr::expressions::col;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::prelude::{SessionContext, ident};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use rayon::ThreadPool;
use serde_json::Value;

use crate::PipelineError;
use crate::config::{ColumnType, Format, Shape, SourceConfig};
use crate::engine::session::{TEXT_ROWS, session};
use crate::engine::stage::stage;
use crate::host::passed_over::PassedOver;
use crate::host::threads::blocking;
use crate::operators::decode::Decode;
use crate::operators::items::Captioning;
use crate::operators::picture_rows::PictureRowsExec;
use crate::operators::runtime::Runtime;
use crate::operators::sql::row_by_row;
use crate::operators::unit_read::{UnitRead, describe, description_schema};
use crate::picture::PictureRules;
use crate::read::batch::PICTURE_ROWS;
use crate::read::csv::Dialect;
use crate::read::infer::{Extent, Inferred, SCAN_BYTES};
use crate::read::parts::parts;
use crate::read::place::MATCHED;
use crate::read::table::{Found, IMAGES_NAMES, TEXTS_NAMES, Table};
use crate::read::united::{Clash, United, repeated, wider};
use crate::read::{Input, PictureFolder, infer, ipc, parquet};
use crate::row::columns::{
    ID, KIND, Kind, SINGLE_CAPTION, pictures_type, system_fields, texts_type, visible,
};
use crate::source::clause::Clause;
use crate::source::join::{Join, with_joined};
use crate::storage::location::Location;
use crate::storage::resolver::Resolver;
use crate::units::pointer::refuse_pointers;
use crate::units::{InputFile, Listing, Unit, UnitFiles, group, list};

/// A source with its files, columns and units.
#[derive(Clone, Debug)]
pub(crate) struct SourcePlan {
    pub(crate) index: u16,
    pub(crate) config: SourceConfig,
    pub(crate) listing: Listing,
    /// What earlier versions of the dataset have of it.
    pub(crate) settled: Settled,
    /// Units to do.
    pub(crate) units: Vec<Unit>,
    pub(crate) files: Arc<UnitFiles>,
    table: Arc<Table>,
    /// Whether its files have not one row, so that nobody knows their columns.
    is_empty: bool,
    /// Whether not all of its files was looked at for columns.
    is_cut: bool,
    join: Option<Arc<Join>>,
    pub(crate) input: Input,
}

/// What a base version has of a source: its files stand first in the listing, unit by unit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settled {
    /// Units that read files, rows that were run again left out.
    pub(crate) units: Vec<Unit>,
    /// How many files of the listing they have.
    pub(crate) files: usize,
}

/// What sources are planned with.
#[derive(Clone, Copy)]
pub(crate) struct Planning<'a> {
    /// Of the process that plans, still without inputs.
    pub(crate) runtime: &'a Runtime,
    pub(crate) resolver: &'a dyn Resolver,
    /// Where the job writes, if it writes.
    pub(crate) output: Option<&'a Location>,
}

/// Lists a source, finds its columns and its units.
pub(crate) async fn plan_source(
    index: u16,
    config: &SourceConfig,
    unit_bytes: u64,
    planning: Planning<'_>,
) -> Result<SourcePlan, PipelineError> {
    let mut source = plan_columns(index, config, planning).await?;
    source.units = source.plan_units(0, unit_bytes).await?;
    source.name_files();
    Ok(source)
}

/// Lists a source and finds its columns. Its units are still to be planned.
pub(crate) async fn plan_columns(
    index: u16,
    config: &SourceConfig,
    planning: Planning<'_>,
) -> Result<SourcePlan, PipelineError> {
    let Planning { runtime, resolver, output } = planning;
    let listing = list(config, resolver, output).await?;
    let mut input = Input {
        memory: runtime.memory.clone(),
        stop: runtime.stop.clone(),
        dialect: Dialect::of(config.delimiter.as_deref(), config.quote.as_deref()),
        ..Input::new(listing.store.clone(), config.document)
    };
    input.folder = config.folder.as_deref().map(|uri| folder(config, uri, resolver)).transpose()?;
    input.beside = listing.beside.clone().into();
    refuse_pointers(&config.name, &listing).await?;
    if config.folder.is_none() {
        input.folders = Arc::new(picture_folder::find(&listing, &input).await?);
    }
    let join = match &config.join {
        Some(join) => Some(Arc::new(Join::open(config, join, planning).await?)),
        None => None,
    };
    let mut source = SourcePlan {
        index,
        config: config.clone(),
        listing,
        settled: Settled::default(),
        units: Vec::new(),
        files: Arc::default(),
        table: Arc::new(Table::plain(Found::default())),
        is_empty: false,
        is_cut: false,
        join,
        input,
    };
    // What no sample row has may still come; only then is more of the source looked at.
    let mut found = source.find_columns(Extent::FirstRows).await;
    if !source.is_cut
        && let Err(PipelineError::NoColumn { .. } | PipelineError::Unreadable { .. }) = found
    {
        found = source.find_columns(Extent::FirstFiles).await;
    }
    match found {
        Err(PipelineError::NoColumn { name, column, available }) if source.is_cut => {
            Err(PipelineError::NotMet { name, column, available, bytes: SCAN_BYTES })
        }
        found => found.map(|()| source),
    }
}

fn folder(config: &SourceConfig, uri: &str, resolver: &dyn Resolver) -> Result<PictureFolder, PipelineError> {
    let (store, path) = resolver.resolve(uri).map_err(|source| PipelineError::Address {
        name: config.name.clone(),
        uri: uri.to_owned(),
        source,
    })?;
    Ok(PictureFolder { store, path })
}

/// What somebody wants of the columns of files.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
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
    pub(crate) found: Found,
    /// Whether not all of the files was looked at, and there may be more.
    cut: bool,
    /// Columns that were null as far as was looked.
    unknown: Vec<String>,
}

/// Finds the columns of files; none where no file has a row.
pub(crate) async fn find(
    name: &str,
    listing: &Listing,
    input: &Input,
    wanted: Wanted,
) -> Result<Finding, PipelineError> {
    let Wanted { named, types, extent } = wanted;
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
    let mut found = Found { typed, inferred: looked.fields, beside, clashes };
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
    found: &mut Found,
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

/// The words of a source's SQL, and what its keys or their defaults name: columns of these names matter.
fn named(config: &SourceConfig) -> HashSet<String> {
    let defaults = match config.shape {
        Shape::Text => vec!["text"],
        Shape::Pair => vec!["caption", "captions"],
        Shape::Interleaved => [TEXTS_NAMES.as_slice(), &IMAGES_NAMES, &[MATCHED]].concat(),
    };
    let join = config.join.iter().flat_map(|join| join.on.pairs()).map(|(own, _)| own);
    asked(config).chain(defaults).map(str::to_owned).chain(join).collect()
}

/// The words of a source's SQL, and what its keys name.
fn asked(config: &SourceConfig) -> impl Iterator<Item = &str> {
    let sql = [&config.filter, &config.select].into_iter().flatten();
    let sql = sql.flat_map(|sql| sql.split(|c: char| !(c.is_alphanumeric() || c == '_')));
    let keys = [&config.text, &config.caption, &config.image, &config.id, &config.texts, &config.images];
    let keys = keys.into_iter().flatten().flat_map(|key| [key.as_str()].into_iter().chain(key.split('.')));
    sql.chain(keys)
}

/// Which columns of a source are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    /// All that a document needs.
    Document,
    /// Texts only, to learn a vocabulary from.
    Texts,
}

impl SourcePlan {
    /// What its address, and that of its joined table, leads to and is not read.
    pub(crate) fn passed_over(&self) -> impl Iterator<Item = &PassedOver> {
        self.listing.passed.iter().chain(self.join.iter().flat_map(|join| join.passed_over()))
    }

    /// How its files and those of its joined table are read, by the names that operators know them by.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = (String, Input)> {
        let own = (self.config.name.clone(), self.input.clone());
        std::iter::once(own).chain(self.join.iter().map(|join| join.input()))
    }

    /// Makes the names of the files of all units known, once these have their own names.
    pub(crate) fn name_files(&mut self) {
        self.files = Arc::new(UnitFiles::new(self.settled.units.iter().chain(&self.units), &self.listing));
    }

    /// Finds the columns and sees that they are those that keys and SQL name.
    async fn find_columns(&mut self, extent: Extent) -> Result<(), PipelineError> {
        let config = &self.config;
        let wanted = Wanted { named: named(config), types: config.types.clone(), extent };
        let Finding { found, cut, unknown } = find(&config.name, &self.listing, &self.input, wanted).await?;
        self.is_cut = cut;
        if found.is_empty() {
            // Some file may still have a row.
            if extent == Extent::FirstRows || cut {
                return Err(self.no_column("", "files"));
            }
            (self.is_empty, self.join) = (true, None);
            self.table = Arc::new(Table::empty(config.shape)?);
            return Ok(());
        }
        let keys: Vec<String> =
            self.join.iter().flat_map(|join| join.own_keys()).map(str::to_owned).collect();
        self.table = Arc::new(Table::try_new(config, found, &keys)?);
        if let Some(column) = unknown.into_iter().find(|column| self.needs_type(column)) {
            return Err(PipelineError::UnknownType { name: config.name.clone(), column, bytes: SCAN_BYTES });
        }
        if let Some(join) = &self.join {
            join.check(&self.table)?;
        }
        // Shows now, and not after an hour, what is wrong with the SQL.
        match self.rows(&[], Columns::Document).await {
            Err(error @ (PipelineError::NoColumn { .. } | PipelineError::Sql { .. })) => {
                Err(self.named_clash().unwrap_or(error))
            }
            planned => planned.map(|_| ()),
        }
    }

    /// The error of a field inside a column that the source names and that files have in types that don't go together.
    fn named_clash(&self) -> Option<PipelineError> {
        let named = named(&self.config);
        let is_named = |clash: &&Clash| {
            let last = clash.column.rsplit('.').next().unwrap_or(&clash.column);
            clash.column.contains('.') && named.contains(last)
        };
        self.table.clashes.iter().find(is_named).map(|clash| clash.error(&self.config.name))
    }

    /// Sees that expressions ask for no column that files have in types that don't go together.
    fn check_united<'a>(&self, exprs: impl IntoIterator<Item = &'a Expr>) -> Result<(), PipelineError> {
        let clashes = &self.table.clashes;
        if clashes.is_empty() {
            return Ok(());
        }
        let keys = self.join.iter().flat_map(|join| join.own_keys());
        let asked = exprs.into_iter().flat_map(Expr::column_refs).map(|column| column.name.as_str());
        // The id is a text whatever it is in the files.
        let asked = asked.chain(keys).filter(|name| *name != ID);
        let fields: Vec<Field> = asked.map(|name| Field::new(name, DataType::Null, true)).collect();
        let roots = self.table.needed(&Schema::new(fields));
        match clashes.iter().find(|clash| roots.contains(&clash.column)) {
            Some(clash) => Err(clash.error(&self.config.name)),
            None => Ok(()),
        }
    }

    /// Whether values of a column that is null as far as was looked would be taken for something else without its type. An
    /// id is a text, whatever it is.
    fn needs_type(&self, column: &String) -> bool {
        let mut parts = self.table.parts.iter().filter(|(part, _)| *part != "id");
        let id = self.config.id.as_ref();
        id != Some(column)
            && (parts.any(|(_, name)| name == column) || asked(&self.config).any(|name| name == column))
    }

    /// The parts of these units whose lines are counted: file and first byte.
    pub(crate) fn counted_parts(&self, units: &[Unit]) -> HashMap<String, (Path, u64)> {
        let counted = |unit: &Unit| {
            let part = unit.part.filter(|part| part.first_row.is_none())?;
            let file = self.listing.files.get(unit.files.start)?;
            Some((unit.id.clone(), (file.path.clone(), part.start)))
        };
        units.iter().filter_map(counted).collect()
    }

    /// What the bytes of the dataset depend on: of addresses that is what lies there, not where.
    pub(crate) fn make_portable(&self, config: &mut Value) {
        config["uri"] = self.listing.pattern.clone().into();
        if let Some(join) = &self.join {
            config["join"]["uri"] = join.fingerprint.clone().into();
        }
    }

    /// What is made of the captions of its rows.
    pub(crate) fn captioning(&self) -> Captioning {
        Captioning {
            choice: self.config.captions.unwrap_or_default(),
            templates: self.config.template.iter().flat_map(|template| template.texts()).cloned().collect(),
        }
    }

    /// Groups its files into units, from the file `from` on, and cuts large ones.
    pub(crate) async fn plan_units(&self, from: usize, unit_bytes: u64) -> Result<Vec<Unit>, PipelineError> {
        let (name, files) = (&self.config.name, &self.listing.files);
        let mut units = Vec::new();
        for whole in group(name, self.index, files, from, unit_bytes) {
            let file = &files[whole.files.start];
            let parts = match whole.bytes <= unit_bytes || whole.files.len() > 1 {
                true => Vec::new(),
                false => parts(&self.input, file, unit_bytes).await?,
            };
            units.extend(whole.cut(name, file, parts));
        }
        Ok(units)
    }

    pub(crate) fn decode(&self, rules: PictureRules, seed: u64, pool: Arc<ThreadPool>) -> Decode {
        Decode {
            source: self.config.name.clone(),
            seed,
            shape: self.config.shape,
            captioning: self.captioning(),
            rules,
            files: self.files.clone(),
            pixels: self.input.memory.pixels.clone(),
            pool,
        }
    }

    /// The plan that gives these units' rows, filtered, with the columns of the shape. A unit is a partition.
    pub(crate) async fn rows(
        &self,
        units: &[Unit],
        columns: Columns,
    ) -> Result<Arc<dyn ExecutionPlan>, PipelineError> {
        let images = self.config.shape.has_images() && columns == Columns::Document;
        let context = session(if images { PICTURE_ROWS } else { TEXT_ROWS })?;
        let descriptions = units
            .iter()
            .map(|unit| describe(unit, &self.listing.files).map(|batch| vec![batch]))
            .collect::<Result<_, _>>()?;
        context.register_table("source", Arc::new(EmptyTable::new(Arc::new(self.visible()))))?;
        let filter = match self.filter() {
            Some(sql) => Some(self.clause("where").condition(sql, &context).await?),
            None => None,
        };
        let wanted = self.wanted(&context, columns).await?;
        self.check_united(filter.iter().chain(&wanted))?;
        context.deregister_table("source")?;
        let (name, table) = (self.config.name.clone(), self.table.clone());
        let provider = SourceTable::new(name, table, descriptions).joined(self.join.clone());
        context.register_table("source", Arc::new(provider))?;
        let mut frame = context.table("source").await?;
        if let Some(condition) = filter {
            // Refused rows and the ends of units pass every filter.
            frame = frame.filter(ident(KIND).not_eq(lit(Kind::Row as u8)).or(condition))?;
        }
        let own = system_fields().into_iter().map(|field| ident(field.name()));
        let frame = frame.select(own.chain(wanted).collect::<Vec<_>>())?;
        let clause = if self.select().is_some() { "select" } else { "where" };
        let plan = frame.create_physical_plan().await.map_err(|error| self.clause(clause).failed(&error))?;
        let plan = row_by_row(plan, clause)?.transform_up(filter_as_it_comes)?.data;
        Ok(if images { Arc::new(PictureRowsExec::new(plan)) } else { plan })
    }

    /// The SQL of the source. Of files without a row nobody knows the columns that it names, and there is nothing to
    /// apply it to.
    fn filter(&self) -> Option<&str> {
        self.config.filter.as_deref().filter(|_| !self.is_empty)
    }

    fn select(&self) -> Option<&str> {
        self.config.select.as_deref().filter(|_| !self.is_empty)
    }

    /// The columns that SQL can name.
    fn visible(&self) -> Schema {
        let joined = self.join.iter().flat_map(|join| &join.fields);
        Schema::new(self.table.visible_fields().chain(joined).cloned().collect::<Vec<_>>())
    }

    fn clause(&self, name: &'static str) -> Clause {
        let available = visible(self.visible().fields().iter().map(AsRef::as_ref));
        Clause { source: self.config.name.clone(), name, available }
    }

    /// The columns that are needed of those that `select` gives, or that the keys name.
    async fn wanted(&self, context: &SessionContext, columns: Columns) -> Result<Vec<Expr>, PipelineError> {
        let wanted: &[&str] = match (self.config.shape, columns) {
            (Shape::Text, _) => &["text", "id"],
            (Shape::Pair, Columns::Document) => &["caption", SINGLE_CAPTION, "image", "id"],
            (Shape::Pair, Columns::Texts) => &["caption", SINGLE_CAPTION, "id"],
            (Shape::Interleaved, Columns::Document) => &["texts", "images", "id"],
            (Shape::Interleaved, Columns::Texts) => &["texts", "id"],
        };
        let Some(select) = self.select() else { return self.named_by_keys(wanted) };
        let clause = self.clause("select");
        let (mut given, schema) = clause.columns(select, context).await?;
        for expr in &mut given {
            self.take_id_as_text(expr);
        }
        self.check_united(&given)?;
        let place = |name: &str| schema.fields().iter().position(|field| field.name() == name);
        // The list stands before the caption where it is asked for.
        let is_list = |at: &usize| can_be("texts", schema.field(*at).data_type());
        let list = self.config.captions.and_then(|_| place("captions")).filter(is_list);
        let mut exprs = Vec::with_capacity(wanted.len());
        for name in wanted {
            let at = match (*name, list) {
                ("caption", Some(list)) => Some(list),
                (SINGLE_CAPTION, Some(_)) => place("caption"),
                _ => place(name),
            };
            let Some(at) = at else {
                if ["id", SINGLE_CAPTION].contains(name) {
                    continue;
                }
                let shape = self.config.shape.name();
                let what = format!("it gives no column `{name}`, which the shape `{shape}` needs");
                return Err(clause.unusable(what, "name what it gives: `body as text`"));
            };
            let of = schema.field(at).data_type();
            if !can_be(name, of) {
                let what = format!("its column `{name}` is {of}, which is no {}", meant(name));
                return Err(clause.unusable(what, "make another of it with an expression"));
            }
            exprs.push(if schema.field(at).name() == name {
                given[at].clone()
            } else {
                given[at].clone().alias(*name)
            });
        }
        Ok(exprs)
    }

    /// Takes the id's column, where it is given as it is, for the text that an id is.
    fn take_id_as_text(&self, expr: &mut Expr) {
        let column = match &*expr {
            Expr::Alias(alias) if alias.name == "id" => &*alias.expr,
            Expr::Column(column) if column.name == "id" => expr,
            _ => return,
        };
        if let Expr::Column(column) = column
            && self.table.id.as_ref() == Some(&column.name)
        {
            *expr = ident(ID).alias("id");
        }
    }

    fn named_by_keys(&self, wanted: &[&str]) -> Result<Vec<Expr>, PipelineError> {
        let known = self.visible();
        let mut exprs = Vec::with_capacity(wanted.len());
        for (name, column) in &self.table.parts {
            if known.field_with_name(column).is_err() && column != ID {
                if *name == "caption"
                    && self.config.caption.is_none()
                    && let Some(file) = self.uncaptioned()
                {
                    let (name, path) = (self.config.name.clone(), file.below.clone());
                    return Err(PipelineError::NoCaptions { name, path, coco: file.format == Format::Coco });
                }
                // The image of a pair is always there: the table has been made around it.
                return Err(self.no_column(column, name));
            }
            if wanted.contains(name) {
                exprs.push(ident(column).alias(*name));
            }
        }
        Ok(exprs)
    }

    /// The first file of a source whose files have captions or not, whatever their columns are called.
    fn uncaptioned(&self) -> Option<&InputFile> {
        let has_captions = |file: &&InputFile| matches!(file.format, Format::Coco | Format::Pictures);
        self.listing.files.first().filter(has_captions)
    }

    fn no_column(&self, column: &str, key: &str) -> PipelineError {
        tracing::debug!(source = self.config.name, key, column, "column is absent");
        PipelineError::NoColumn {
            name: self.config.name.clone(),
            column: column.to_owned(),
            available: self.clause("select").available,
        }
    }
}

/// Whether values of this type can become what a column of that name is.
fn can_be(name: &str, of: &DataType) -> bool {
    let is_list = matches!(of, DataType::List(_) | DataType::LargeList(_));
    match name {
        "image" => can_cast_types(of, &DataType::Binary),
        "texts" => is_list && can_cast_types(of, &texts_type()),
        "images" => is_list && can_cast_types(of, &pictures_type()),
        "caption" if is_list => can_cast_types(of, &texts_type()),
        _ => !of.is_nested() && can_cast_types(of, &DataType::Utf8),
    }
}

fn meant(name: &str) -> &'static str {
    match name {
        "image" => "picture",
        "texts" => "list of texts",
        "images" => "list of pictures",
        _ => "text",
    }
}

/// A filter otherwise waits until it has as many rows as a batch is asked to have, however long the rows are.
fn filter_as_it_comes(
    node: Arc<dyn ExecutionPlan>,
) -> datafusion::error::Result<Transformed<Arc<dyn ExecutionPlan>>> {
    match node.downcast_ref::<FilterExec>() {
        Some(filter) => Ok(Transformed::yes(Arc::new(filter.with_batch_size(1)?))),
        None => Ok(Transformed::no(node)),
    }
}

/// A source as a table that DataFusion can plan over.
#[derive(Debug)]
pub(crate) struct SourceTable {
    /// The name of its input in the runtime.
    source: String,
    table: Arc<Table>,
    join: Option<Arc<Join>>,
    schema: SchemaRef,
    descriptions: Vec<Vec<RecordBatch>>,
}

impl SourceTable {
    /// The files that are described, a partition for each description.
    pub(crate) fn new(source: String, table: Arc<Table>, descriptions: Vec<Vec<RecordBatch>>) -> Self {
        let schema = table.schema.clone();
        Self { source, table, join: None, schema, descriptions }
    }

    /// The same with the columns of a joined table.
    fn joined(self, join: Option<Arc<Join>>) -> Self {
        let schema = Arc::new(with_joined(&self.table, join.as_deref()));
        Self { join, schema, ..self }
    }

    /// Reads these columns of the files.
    fn read(&self, columns: &[usize]) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        let leaf = MemorySourceConfig::try_new_exec(&self.descriptions, description_schema(), None)?;
        let schema: SchemaRef = Arc::new(self.table.schema.project(columns)?);
        let (source, table) = (self.source.clone(), self.table.clone());
        Ok(stage(UnitRead { source, table, schema }, leaf))
    }
}

#[async_trait]
impl TableProvider for SourceTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        let wanted = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let count = self.table.schema.fields().len();
        let (mut own, others): (Vec<usize>, Vec<usize>) =
            wanted.iter().copied().partition(|column| *column < count);
        let join = match &self.join {
            Some(join) if !others.is_empty() => join,
            // A key has one row at most, so without its columns the joined table changes nothing.
            _ => return self.read(&own),
        };
        for key in join.own_keys() {
            let key = self.table.schema.index_of(key)?;
            if !own.contains(&key) {
                own.push(key);
            }
        }
        let names: Vec<&str> =
            others.iter().map(|column| self.schema.field(*column).name().as_str()).collect();
        let joined = join.over(self.read(&own)?, &names).await.map_err(PipelineError::into_plan)?;
        let columns = wanted.iter().map(|column| {
            let name = self.schema.field(*column).name();
            Ok((col(name, &joined.schema())?, name.clone()))
        });
        let columns = columns.collect::<datafusion::error::Result<Vec<_>>>()?;
        Ok(Arc::new(ProjectionExec::try_new(columns, joined)?))
    }
}
