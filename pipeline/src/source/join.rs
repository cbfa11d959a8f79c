//! A table with further columns for a source's rows: the key `join` of a source.
//!
//! It is a left outer join inside the source's own table, so `where` and `select` see its columns like any others. The
//! joined table is held in memory and is read once for all units; the source's rows stream past it and keep their order
//! and their partitions. Where none of its columns is asked for there is no join: a key has one row
//! at most, so a row is neither lost nor doubled by it.
//!
//! When the job is planned the table is gone through for its columns (JSON and CSV, whose files don't say them), for its
//! checksum, which stands for it in the fingerprint of the job, and to see that no key is there twice. 16 bytes a key
//! are held for that.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, UInt8Type, UInt32Type, UInt64Type};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, cast, lit};
use datafusion::physical_expr::expressions::{col, try_cast};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{DataFrame, ident};
use futures::StreamExt;

use super::Planning;
use super::columns::{WantedColumns, find};
use super::table::SourceTable;
use crate::PipelineError;
use crate::config::{Format, JoinConfig, SourceConfig, TextSplit};
use crate::engine::session::{TEXT_ROWS, session};
use crate::engine::stage::stage;
use crate::host::error::root_cause;
use crate::host::passed_over::PassedOver;
use crate::operators::lookup::{Lookup, key_of};
use crate::operators::runtime::Runtime;
use crate::operators::unit_read::describe;
use crate::read::csv::Dialect;
use crate::read::infer::Extent;
use crate::read::table::{FoundColumns, Table};
use crate::read::{Input, stream};
use crate::row::columns::{DETAIL, FILE, KIND, OWN, REASON, ROW, RowKind, visible};
use crate::units::{Listing, Unit, list};

/// Bytes that are asked for at a time for the checksum.
const CHUNK_BYTES: u64 = 4 << 20;

/// A joined table.
#[derive(Debug)]
pub(crate) struct Join {
    /// Name of the source.
    source: String,
    /// The columns that must be equal: the source's and the table's.
    on: Vec<(String, String)>,
    /// The columns that it gives.
    pub(crate) fields: Vec<Field>,
    listing: Listing,
    table: Arc<Table>,
    input: Input,
    description: RecordBatch,
    /// Checksum of its files.
    pub(crate) fingerprint: String,
}

impl Join {
    /// Opens the table of a source and checks it as far as that needs no row of the source.
    pub(crate) async fn open(
        source: &SourceConfig,
        config: &JoinConfig,
        planning: Planning<'_>,
    ) -> Result<Self, PipelineError> {
        let listed = SourceConfig {
            name: input_name(&source.name),
            uri: config.uri.clone(),
            format: config.format,
            ..SourceConfig::default()
        };
        let listing = list(&listed, planning.resolver, planning.output).await?;
        let wrong = |what, hint| PipelineError::Join { name: source.name.clone(), what, hint };
        let is_table = |format| {
            !matches!(format, Format::Text | Format::Tar | Format::Coco | Format::Pictures | Format::Warc)
        };
        if let Some(file) = listing.files.iter().find(|file| !is_table(file.format)) {
            let what = format!("`{}` is no table", file.below);
            return Err(wrong(what, "tables are JSON lines, CSV, Parquet and Arrow files"));
        }
        let input = Input {
            memory: planning.runtime.memory.clone(),
            stop: planning.runtime.stop.clone(),
            dialect: Dialect::of(config.delimiter.as_deref(), config.quote.as_deref()),
            ..Input::new(listing.store.clone(), TextSplit::File)
        };
        let on = config.on.pairs();
        // It is held in memory whole, so it can be looked at whole.
        let wanted = WantedColumns { extent: Extent::Whole, ..WantedColumns::default() };
        let mut found = find(&listed.name, &listing, &input, wanted).await?.found;
        if found.is_empty() {
            // Without a row it has the columns that are named.
            found = FoundColumns::texts(on.iter().map(|(_, key)| key).chain(&config.columns));
        }
        let table = Arc::new(Table::plain(found));
        let fields =
            chosen(config, &on, &table).map_err(|what| wrong(what, "check `join.on` and `join.columns`"))?;
        let asked = fields.iter().map(|field| field.name()).chain(on.iter().map(|(_, key)| key));
        let is_asked = asked.collect::<HashSet<_>>();
        if let Some(clash) = table.clashes.iter().find(|clash| is_asked.contains(&clash.column)) {
            return Err(clash.error(&listed.name));
        }
        let whole = 0..listing.files.len();
        let bytes = listing.files.iter().map(|file| file.bytes).sum();
        let unit = Unit { id: listed.name, source: 0, files: whole, bytes, part: None, only: None };
        let description = describe(&unit, &listing.files)?;
        let mut join = Self {
            source: source.name.clone(),
            on,
            fields,
            listing,
            table,
            input,
            description,
            fingerprint: String::new(),
        };
        join.fingerprint = join.checksum().await?;
        let runtime = Runtime { inputs: std::iter::once(join.input()).collect(), ..planning.runtime.clone() };
        join.check_rows(runtime.session()?.task_ctx()).await?;
        Ok(join)
    }

    /// How its files are read, and the name that operators know that by.
    pub(crate) fn input(&self) -> (String, Input) {
        (input_name(&self.source), self.input.clone())
    }

    fn wrong(&self, what: String, hint: &'static str) -> PipelineError {
        PipelineError::Join { name: self.source.clone(), what, hint }
    }

    /// What its address leads to and is not read.
    pub(crate) fn passed_over(&self) -> &[PassedOver] {
        &self.listing.passed
    }

    /// The name of the table for a message.
    fn name(&self) -> &str {
        self.listing.files.first().map_or("", |file| &file.below)
    }

    /// Checks it against the source's own columns.
    pub(crate) fn check(&self, own: &Table) -> Result<(), PipelineError> {
        for (key, _) in &self.on {
            let Some(field) = own.visible_fields().find(|field| field.name() == key) else {
                return Err(PipelineError::NoColumn {
                    name: self.source.clone(),
                    column: key.clone(),
                    available: own.visible(),
                });
            };
            if field.data_type().is_nested() {
                let what = format!("the column `{key}` is {} and has no one text", field.data_type());
                return Err(self.wrong(what, "name a column of texts or numbers in `join.on`"));
            }
        }
        if let Some(field) = self.fields.iter().find(|field| own.schema.field_with_name(field.name()).is_ok())
        {
            let what = format!("the column `{}` is in the source and in `{}`", field.name(), self.name());
            return Err(self.wrong(what, "take other columns with `join.columns`, or rename one of the two"));
        }
        Ok(())
    }

    /// The columns of the source that are compared.
    pub(crate) fn own_keys(&self) -> impl Iterator<Item = &str> {
        self.on.iter().map(|(own, _)| own.as_str())
    }

    async fn checksum(&self) -> Result<String, PipelineError> {
        let mut hasher = blake3::Hasher::new();
        for file in &self.listing.files {
            hasher.update(file.format.name().as_bytes()).update(&file.bytes.to_le_bytes());
            for start in (0..file.bytes).step_by(CHUNK_BYTES as usize) {
                let end = (start + CHUNK_BYTES).min(file.bytes);
                hasher.update(&stream::get_range(&self.input, file, start..end).await?);
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    async fn rows(&self) -> Result<DataFrame, PipelineError> {
        let context = session(TEXT_ROWS)?;
        let descriptions = vec![vec![self.description.clone()]];
        let table = SourceTable { source: input_name(&self.source), table: self.table.clone(), descriptions };
        context.register_table("joined", Arc::new(table))?;
        Ok(context.table("joined").await?)
    }

    fn keys(&self) -> Vec<Expr> {
        let key = |(index, (_, key)): (usize, &(String, String))| {
            cast(ident(key), DataType::Utf8).alias(key_name(index))
        };
        self.on.iter().enumerate().map(key).collect()
    }

    /// Which keys of the table are floats.
    fn floats(&self) -> Vec<bool> {
        let key = |(_, key): &(String, String)| self.table.schema.field_with_name(key).is_ok_and(is_float);
        self.on.iter().map(key).collect()
    }

    /// Sees that every row can be used and that no key is there twice.
    async fn check_rows(&self, context: Arc<TaskContext>) -> Result<(), PipelineError> {
        let own = [FILE, ROW, KIND, REASON, DETAIL].map(ident);
        let frame = self.rows().await?.select([own.to_vec(), self.keys()].concat())?;
        let mut batches = frame.create_physical_plan().await?.execute(0, context)?;
        let mut seen = HashSet::new();
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| self.unreadable(error))?;
            for row in 0..batch.num_rows() {
                self.check_row(&batch, row, &mut seen)?;
            }
        }
        Ok(())
    }

    /// An error of the plan that reads the table, such as a key that is no text.
    fn unreadable(&self, error: DataFusionError) -> PipelineError {
        match PipelineError::from(error) {
            PipelineError::Plan(error) => self.wrong(
                format!("`{}` can't be read: {}", self.name(), root_cause(&error)),
                "name columns of texts or numbers in `join.on`",
            ),
            other => other,
        }
    }

    fn check_row(
        &self,
        batch: &RecordBatch,
        row: usize,
        seen: &mut HashSet<u128>,
    ) -> Result<(), PipelineError> {
        let text = |column: usize| batch.column(column).as_string::<i32>();
        let file = batch.column(0).as_primitive::<UInt32Type>().value(row) as usize;
        let number = batch.column(1).as_primitive::<UInt64Type>().value(row);
        let place = || {
            let file = self.listing.files.get(file).map_or("", |file| &file.below);
            format!("row {number} of `{file}`")
        };
        match RowKind::of(batch.column(2).as_primitive::<UInt8Type>().value(row)) {
            RowKind::End => return Ok(()),
            RowKind::Reject => {
                let what = format!("{} is refused: {}: {}", place(), text(3).value(row), text(4).value(row));
                return Err(
                    self.wrong(what, "mend the table: what it lacks would be missing without a trace")
                );
            }
            RowKind::Row | RowKind::Duplicate | RowKind::Aside => {}
        }
        let keys: Vec<_> = (5..batch.num_columns()).map(text).collect();
        let Some(hash) = key_of(&keys, &self.floats(), row) else { return Ok(()) };
        if seen.insert(hash) {
            return Ok(());
        }
        let keys: Vec<&str> = keys.iter().map(|key| key.value(row)).collect();
        let what = format!("{} has the key `{}`, which is there before", place(), keys.join("`, `"));
        Err(self.wrong(what, "keep one row of each key in the table"))
    }

    /// The rows of `source`, their columns behind the keys and these columns of the table.
    pub(crate) async fn over(
        &self,
        source: Arc<dyn ExecutionPlan>,
        columns: &[&str],
    ) -> Result<Arc<dyn ExecutionPlan>, PipelineError> {
        let wanted = columns.iter().map(|column| ident(*column));
        let kept = self.rows().await?.filter(ident(KIND).eq(lit(RowKind::Row as u8)))?;
        let table = kept.select(self.keys().into_iter().chain(wanted).collect::<Vec<_>>())?;
        let table = table.create_physical_plan().await?;
        let right = source.schema();
        // What is no text is like no key.
        let own = |key: &str| try_cast(col(key, &right)?, &right, DataType::Utf8);
        let own = self.own_keys().map(own).collect::<datafusion::error::Result<Vec<_>>>()?;
        let named = (self.name().to_owned(), self.own_keys().map(str::to_owned).collect());
        let own_floats = self.own_keys().map(|key| right.field_with_name(key).is_ok_and(is_float)).collect();
        let floats = [own_floats, self.floats()];
        Ok(stage(Lookup::new(named, (own, right.clone()), floats, table), source))
    }
}

/// No source has a name with a dot.
fn input_name(source: &str) -> String {
    format!("{source}.join")
}

fn is_float(field: &Field) -> bool {
    field.data_type().is_floating()
}

/// A name that no column of a file has.
fn key_name(index: usize) -> String {
    format!("{OWN}join_key_{index}")
}

/// The columns that are taken: those that are asked for, or all but the keys, which the source has.
fn chosen(config: &JoinConfig, on: &[(String, String)], table: &Table) -> Result<Vec<Field>, String> {
    let all: Vec<Field> = table.scalars.iter().map(|scalar| scalar.field.clone()).collect();
    let find = |name: &String| {
        let there = all.iter().find(|field| field.name() == name);
        let names = visible(all.iter()).join("`, `");
        there.ok_or_else(|| format!("the table has no column `{name}`; its columns are `{names}`"))
    };
    for (_, key) in on {
        let field = find(key)?;
        if field.data_type().is_nested() {
            return Err(format!("the table's column `{key}` is {} and has no one text", field.data_type()));
        }
    }
    if config.columns.is_empty() {
        let is_key = |field: &Field| on.iter().any(|(_, key)| key == field.name());
        return Ok(all.iter().filter(|field| !is_key(field)).cloned().collect());
    }
    let mut fields: Vec<Field> = Vec::new();
    for name in &config.columns {
        let field = find(name)?;
        if !fields.contains(field) {
            fields.push(field.clone());
        }
    }
    Ok(fields)
}
