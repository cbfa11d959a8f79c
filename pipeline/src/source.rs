//! One source of a job: its files, its columns, its units, and the part of the plan that gives its rows.
//!
//! The SQL of a person is planned by DataFusion over a table whose scan is [`UnitRead`], so only the columns that
//! it names are read. Refused rows and the ends of units pass every filter.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::SchemaError;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::prelude::{DataFrame, SessionContext, ident};
use rayon::ThreadPool;

use crate::commit::blocking;
use crate::config::{Format, SourceConfig};
use crate::document::Shape;
use crate::error::PipelineError;
use crate::memory::Memory;
use crate::operators::decode::Decode;
use crate::operators::unit_read::{UnitRead, describe, description_schema};
use crate::picture::PictureRules;
use crate::plan::{session, stage};
use crate::read::batch::{PICTURE_ROWS, TEXT_ROWS};
use crate::read::table::{KIND, Table, system_fields};
use crate::read::{Input, infer, parquet};
use crate::units::{Listing, Resolver, Unit, list, plan_units};

/// A source with its files, columns and units.
#[derive(Clone, Debug)]
pub(crate) struct SourcePlan {
    pub(crate) index: u16,
    pub(crate) config: SourceConfig,
    pub(crate) listing: Listing,
    pub(crate) units: Vec<Unit>,
    pub(crate) files: Arc<UnitFiles>,
    table: Arc<Table>,
    pub(crate) input: Input,
}

/// The names of the files of units.
#[derive(Debug, Default)]
pub(crate) struct UnitFiles(HashMap<String, Vec<String>>);

impl UnitFiles {
    fn new(units: &[Unit], listing: &Listing) -> Self {
        let names =
            |unit: &Unit| listing.files[unit.files.clone()].iter().map(|file| file.below.clone()).collect();
        Self(units.iter().map(|unit| (unit.id.clone(), names(unit))).collect())
    }

    /// The paths of a unit's files below their source's fixed prefix.
    pub(crate) fn files(&self, unit: &str) -> &[String] {
        self.0.get(unit).map_or(&[], Vec::as_slice)
    }

    /// The path of one of them.
    pub(crate) fn path(&self, unit: &str, file: u32) -> &str {
        self.files(unit).get(file as usize).map_or("", String::as_str)
    }
}

/// Lists a source, finds its columns and its units.
pub(crate) async fn plan_source(
    index: u16,
    config: &SourceConfig,
    unit_bytes: u64,
    memory: &Arc<Memory>,
    resolver: &dyn Resolver,
) -> Result<SourcePlan, PipelineError> {
    let listing = list(config, resolver).await?;
    let handle = tokio::runtime::Handle::current();
    let (store, memory) = (listing.store.clone(), memory.clone());
    let input = Input { store, handle, split: config.document, memory, sample: None };
    let units = plan_units(&config.name, index, &listing, &input, unit_bytes).await?;
    let table = find_columns(config, &listing, &input, false).await?;
    let files = Arc::new(UnitFiles::new(&units, &listing));
    let mut source =
        SourcePlan { index, config: config.clone(), listing, units, files, table: Arc::new(table), input };
    // A column that no sample row has may still come; only then is the whole source looked at.
    if let Err(PipelineError::NoColumn { .. }) = source.rows(&[], Columns::Document).await {
        source.table = Arc::new(find_columns(config, &source.listing, &source.input, true).await?);
    }
    Ok(source)
}

async fn find_columns(
    config: &SourceConfig,
    listing: &Listing,
    input: &Input,
    whole: bool,
) -> Result<Table, PipelineError> {
    let (config, listing, input) = (config.clone(), listing.clone(), input.clone());
    blocking(move || {
        let is_parquet = |format: Format| format == Format::Parquet;
        let (tables, others): (Vec<_>, Vec<_>) =
            listing.files.into_iter().partition(|file| is_parquet(file.format));
        let mut fields =
            if tables.is_empty() { Vec::new() } else { parquet::columns(&input, &config.name, &tables)? };
        if !others.is_empty() {
            for field in infer::infer(&input, &others, &named(&config), whole)? {
                if fields.iter().all(|known| known.name() != field.name()) {
                    fields.push(field);
                }
            }
        }
        let beside = others.iter().any(|file| file.format == Format::Tar);
        Table::try_new(&config, fields, beside)
    })
    .await
}

/// The words of a source's SQL and its column keys: columns of these names matter.
fn named(config: &SourceConfig) -> HashSet<String> {
    let sql = [&config.filter, &config.select].into_iter().flatten();
    let words = sql.flat_map(|sql| sql.split(|c: char| !(c.is_alphanumeric() || c == '_')));
    let keys = [&config.text, &config.caption, &config.image, &config.id, &config.texts, &config.images];
    words.map(str::to_owned).chain(keys.into_iter().flatten().cloned()).collect()
}

/// Which columns of a source are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    /// All that a document needs.
    Document,
    /// Texts only, to learn a vocabulary from.
    Texts,
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl SourcePlan {
    pub(crate) fn decode(&self, rules: PictureRules, seed: u64, pool: Arc<ThreadPool>) -> Decode {
        Decode {
            source: self.config.name.clone(),
            seed,
            shape: self.config.shape,
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
        let context = session(if images { PICTURE_ROWS } else { TEXT_ROWS }, None)?;
        let provider = SourceTable {
            source: self.config.name.clone(),
            table: self.table.clone(),
            input: self.input.clone(),
            descriptions: units
                .iter()
                .map(|unit| describe(unit, &self.listing.files).map(|batch| vec![batch]))
                .collect::<Result<_, _>>()?,
        };
        context.register_table("source", Arc::new(provider))?;
        self.check_clauses(&context).await?;
        let clause = if self.config.select.is_some() { "select" } else { "where" };
        let frame = context.sql(&self.sql()).await.map_err(|error| self.sql_error(clause, error))?;
        let frame = self.only_needed(frame, columns)?;
        let plan = frame.create_physical_plan().await.map_err(|error| self.sql_error(clause, error))?;
        Ok(plan.transform_up(filter_as_it_comes)?.data)
    }

    /// Each clause by itself, so that an error names the right one.
    async fn check_clauses(&self, context: &SessionContext) -> Result<(), PipelineError> {
        let source = context.table("source").await?;
        if let Some(filter) = &self.config.filter {
            source.parse_sql_expr(filter).map_err(|error| self.sql_error("where", error))?;
        }
        for (key, column) in self.columns() {
            let known = self.table.schema.field_with_name(&column).is_ok();
            if !known && self.config.select.is_none() {
                // The image of a pair is always there: the table has been made around it.
                return Err(self.no_column(&column, key));
            }
        }
        Ok(())
    }

    /// What the shape needs: the name in the plan and the column of the table.
    fn columns(&self) -> Vec<(&'static str, String)> {
        let of =
            |key: &'static str, set: &Option<String>| (key, set.clone().unwrap_or_else(|| key.to_owned()));
        let config = &self.config;
        let mut columns = match config.shape {
            Shape::Text => vec![of("text", &config.text)],
            Shape::Pair => vec![of("caption", &config.caption), ("image", "image".to_owned())],
            Shape::Interleaved => vec![of("texts", &config.texts), of("images", &config.images)],
        };
        if let Some(id) = &config.id {
            columns.push(("id", id.clone()));
        } else if let Some(id) =
            ["id", "key"].iter().find(|name| self.table.schema.field_with_name(name).is_ok())
        {
            columns.push(("id", (*id).to_owned()));
        }
        columns
    }

    fn sql(&self) -> String {
        let own: Vec<String> = system_fields().iter().map(|field| quoted(field.name())).collect();
        let columns = match &self.config.select {
            Some(select) => select.clone(),
            None => {
                let column =
                    |(name, column): (&str, String)| format!("{} AS {}", quoted(&column), quoted(name));
                self.columns().into_iter().map(column).collect::<Vec<_>>().join(", ")
            }
        };
        let mut sql = format!("SELECT {}, {columns}\nFROM source", own.join(", "));
        if let Some(filter) = &self.config.filter {
            // Refused rows and the ends of units pass every filter.
            sql.push_str(&format!("\nWHERE {} <> 0 OR (\n{filter}\n)", quoted(KIND)));
        }
        sql
    }

    /// Keeps the columns that are needed, which lets the reader skip the others.
    fn only_needed(&self, frame: DataFrame, columns: Columns) -> Result<DataFrame, PipelineError> {
        let mut only_rows = true;
        frame.logical_plan().apply(|node| {
            let row_wise = matches!(
                node,
                LogicalPlan::Projection(_)
                    | LogicalPlan::Filter(_)
                    | LogicalPlan::TableScan(_)
                    | LogicalPlan::SubqueryAlias(_)
            );
            only_rows &= row_wise;
            Ok(TreeNodeRecursion::Continue)
        })?;
        if !only_rows {
            let what = "only expressions over the columns of one row are possible".to_owned();
            return Err(PipelineError::Sql { name: self.config.name.clone(), clause: "select", what });
        }
        let given: Vec<String> = frame.schema().fields().iter().map(|field| field.name().clone()).collect();
        let wanted: &[&str] = match (self.config.shape, columns) {
            (Shape::Text, _) => &["text"],
            (Shape::Pair, Columns::Document) => &["caption", "image"],
            (Shape::Pair, Columns::Texts) => &["caption"],
            (Shape::Interleaved, Columns::Document) => &["texts", "images"],
            (Shape::Interleaved, Columns::Texts) => &["texts"],
        };
        if let Some(missing) = wanted.iter().find(|name| !given.iter().any(|given| given == *name)) {
            let what = format!(
                "it gives no column `{missing}`, which the shape `{}` needs",
                self.config.shape.name()
            );
            return Err(PipelineError::Sql { name: self.config.name.clone(), clause: "select", what });
        }
        let own = system_fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
        let chosen = own.iter().map(String::as_str).chain(wanted.iter().copied());
        let id = given.iter().any(|given| given == "id").then_some("id");
        let exprs: Vec<Expr> = chosen.chain(id).map(ident).collect();
        Ok(frame.select(exprs)?)
    }

    fn no_column(&self, column: &str, key: &str) -> PipelineError {
        tracing::debug!(source = self.config.name, key, column, "column is absent");
        PipelineError::NoColumn {
            name: self.config.name.clone(),
            column: column.to_owned(),
            available: self.table.visible(),
        }
    }

    fn sql_error(&self, clause: &'static str, error: DataFusionError) -> PipelineError {
        match missing_field(&error) {
            Some(column) => self.no_column(&column, clause),
            None => {
                let what = error.strip_backtrace();
                let what = what.lines().next().unwrap_or_default().to_owned();
                PipelineError::Sql { name: self.config.name.clone(), clause, what }
            }
        }
    }
}

fn missing_field(error: &DataFusionError) -> Option<String> {
    match error {
        DataFusionError::SchemaError(inner, _) => match &**inner {
            SchemaError::FieldNotFound { field, .. } => Some(field.name.clone()),
            _ => None,
        },
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => missing_field(inner),
        DataFusionError::Collection(errors) => errors.iter().find_map(missing_field),
        _ => None,
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
struct SourceTable {
    source: String,
    table: Arc<Table>,
    input: Input,
    descriptions: Vec<Vec<RecordBatch>>,
}

#[async_trait]
impl TableProvider for SourceTable {
    fn schema(&self) -> SchemaRef {
        self.table.schema.clone()
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
        let leaf = MemorySourceConfig::try_new_exec(&self.descriptions, description_schema(), None)?;
        let schema: SchemaRef = match projection {
            Some(columns) => Arc::new(self.table.schema.project(columns)?),
            None => Arc::new(Schema::clone(&self.table.schema)),
        };
        let (source, table, store) = (self.source.clone(), self.table.clone(), self.input.clone());
        Ok(stage(UnitRead { source, table, store, schema }, leaf))
    }
}
