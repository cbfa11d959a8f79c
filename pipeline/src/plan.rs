//! From a configuration to what will be done: sources with their files, columns and units, and the DataFusion plan of
//! each source.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::SchemaError;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::{Expr, LogicalPlan, TableType};
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};
use object_store::ObjectStoreExt;
use rayon::ThreadPool;
use schemas::shard::ShardMetadata;
use schemas::{FORMAT_VERSION, RowLayout, Tokenizer, Vocabulary};

use crate::codec::ImageCodec;
use crate::commit::{Location, blocking};
use crate::config::{Filling, Format, PreprocessConfig, SourceConfig};
use crate::deduplicate::Duplicates;
use crate::document::{Composer, Shape};
use crate::error::PipelineError;
use crate::observer::{Observer, Silent};
use crate::operators::decode::Decode;
use crate::operators::encode::Encode;
use crate::operators::pack::{Pack, SPLITS};
use crate::operators::stage::{Operator, StageExec};
use crate::operators::unit_read::{UnitReadExec, describe, description_schema};
use crate::operators::write::Write;
use crate::pack::Packing;
use crate::picture::PictureRules;
use crate::read::batch::{PICTURE_ROWS, TEXT_ROWS};
use crate::read::table::{KIND, Table, system_fields};
use crate::read::{Input, infer, parquet};
use crate::units::{Listing, Resolver, Unit, list, plan_units};

/// Everything a job needs from outside.
#[derive(Clone)]
pub struct Environment {
    /// Opens addresses.
    pub resolver: Arc<dyn Resolver>,
    /// Where the dataset goes.
    pub output: Location,
    /// The codec that `codec.path` names; needed where a source has images.
    pub codec: Option<Arc<dyn ImageCodec>>,
    /// Cores to use.
    pub threads: usize,
    /// Bytes that the operators may hold together.
    pub memory_bytes: usize,
    /// Set it to stop the job: what is finished stays.
    pub stop: Arc<AtomicBool>,
    /// How often the right to write to a store is renewed.
    pub lease_period: Duration,
}

impl Environment {
    /// Two gigabytes, a lease of five seconds, nothing to stop it.
    pub fn new(resolver: Arc<dyn Resolver>, output: Location, threads: usize) -> Self {
        Self {
            resolver,
            output,
            codec: None,
            threads: threads.max(1),
            memory_bytes: 2 << 30,
            stop: Arc::new(AtomicBool::new(false)),
            lease_period: Duration::from_secs(5),
        }
    }
}

/// What a preprocessing job will do.
pub struct PreprocessPlan {
    pub(crate) config: PreprocessConfig,
    pub(crate) environment: Environment,
    pub(crate) sources: Vec<SourcePlan>,
    /// The tokenizer, unless it is to be trained.
    pub(crate) tokenizer: Option<Tokenizer>,
    pub(crate) pool: Arc<ThreadPool>,
}

impl fmt::Debug for PreprocessPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreprocessPlan")
            .field("config", &self.config)
            .field("sources", &self.sources)
            .finish()
    }
}

/// A source with its files, columns and units.
#[derive(Debug)]
pub(crate) struct SourcePlan {
    pub(crate) index: u16,
    pub(crate) config: SourceConfig,
    pub(crate) listing: Listing,
    pub(crate) units: Vec<Unit>,
    pub(crate) files: Arc<UnitFiles>,
    table: Arc<Table>,
    input: Input,
}

/// What all sources of a job share while it runs.
pub(crate) struct Tools {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) duplicates: Arc<Duplicates>,
    pub(crate) observer: Arc<dyn Observer>,
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

/// A unit as a person is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitSummary {
    /// Its name.
    pub unit: String,
    /// Name of its source.
    pub source: String,
    /// Its files.
    pub files: usize,
    /// Their size.
    pub bytes: u64,
}

impl PreprocessPlan {
    /// Checks the configuration, lists the files, finds their columns, and opens the tokenizer.
    ///
    /// # Errors
    ///
    /// If a value can't be, an address can't be opened or holds nothing, a column is not there, or a codec is missing.
    pub async fn try_new(config: PreprocessConfig, environment: Environment) -> Result<Self, PipelineError> {
        config.check()?;
        check_codec(&config, environment.codec.as_deref())?;
        let tokenizer = match &config.tokenizer.model {
            Some(uri) => Some(open_tokenizer(uri, &*environment.resolver).await?),
            None => None,
        };
        let pool = thread_pool(environment.threads)?;
        let mut sources = Vec::with_capacity(config.sources.len());
        for (index, source) in config.sources.iter().enumerate() {
            sources.push(plan_source(index as u16, source, config.unit_bytes, &*environment.resolver).await?);
        }
        let plan = Self { config, environment, sources, tokenizer, pool };
        for source in &plan.sources {
            // Shows now, and not after an hour, what is wrong with the SQL.
            source.rows(&[], Columns::Document).await?;
        }
        Ok(plan)
    }

    /// The configuration that it was made from.
    pub fn config(&self) -> &PreprocessConfig {
        &self.config
    }

    /// The units in the order of the dataset.
    pub fn units(&self) -> Vec<UnitSummary> {
        let summary = |source: &SourcePlan, unit: &Unit| UnitSummary {
            unit: unit.id.clone(),
            source: source.config.name.clone(),
            files: unit.files.len(),
            bytes: unit.bytes,
        };
        self.sources
            .iter()
            .flat_map(|source| source.units.iter().map(move |unit| summary(source, unit)))
            .collect()
    }

    /// The plan of each source, as DataFusion's EXPLAIN shows it.
    ///
    /// # Errors
    ///
    /// If the plan can't be made, or the tokenizer is still to be trained.
    pub async fn explain(&self) -> Result<String, PipelineError> {
        let Some(tokenizer) = &self.tokenizer else {
            return Err(PipelineError::Config {
                key: "tokenizer.train".to_owned(),
                expected: "`tokenizer.model`, because the plan names the vocabulary".to_owned(),
                found: "set".to_owned(),
            });
        };
        let mut text = String::new();
        for source in &self.sources {
            let tools = Tools {
                tokenizer: tokenizer.clone(),
                duplicates: Arc::default(),
                observer: Arc::new(Silent),
            };
            let plan = self.physical_plan(source, &source.units, &tools).await?;
            text.push_str(&format!("source {}\n{}", source.config.name, displayable(&*plan).indent(false)));
        }
        Ok(text)
    }

    pub(crate) fn layout(&self, tokenizer: &Tokenizer) -> RowLayout {
        let vocabulary = Vocabulary::text(tokenizer.vocabulary_size());
        RowLayout { context: self.config.context, patch: self.patch(), vocabulary }
    }

    pub(crate) fn patch(&self) -> u32 {
        self.config.codec.as_ref().map_or(1, |codec| codec.patch)
    }

    pub(crate) fn has_images(&self) -> bool {
        self.config.sources.iter().any(|source| source.shape.has_images())
    }

    /// The dataset and its validation dataset.
    pub(crate) fn outputs(&self) -> [Location; SPLITS] {
        [self.environment.output.clone(), self.environment.output.child("validation")]
    }

    fn composer(&self, tokenizer: &Tokenizer) -> Composer {
        let packing = match self.config.packing {
            Filling::BestFit => Packing::BestFit { window: self.config.window },
            Filling::Sequence => Packing::Sequence,
        };
        Composer {
            tokenizer: tokenizer.clone(),
            layout: self.layout(tokenizer),
            packing,
            caption_first: self.config.caption_first_share,
            seed: self.config.seed,
        }
    }

    fn metadata(&self, tokenizer: &Tokenizer) -> ShardMetadata {
        let layout = self.layout(tokenizer);
        let codec = self.environment.codec.as_ref().filter(|_| self.has_images());
        ShardMetadata {
            format: FORMAT_VERSION,
            context: layout.context,
            patch: layout.patch,
            vocabulary: layout.vocabulary,
            tokenizer: tokenizer.fingerprint().to_owned(),
            codec: codec.map(|codec| codec.info().fingerprint.clone()),
            sources: self.config.sources.iter().map(|source| source.name.clone()).collect(),
            files: Vec::new(),
        }
    }

    /// The whole plan of these units of a source, one partition a unit.
    pub(crate) async fn physical_plan(
        &self,
        source: &SourcePlan,
        units: &[Unit],
        tools: &Tools,
    ) -> Result<Arc<dyn ExecutionPlan>, PipelineError> {
        let Tools { tokenizer, duplicates, observer } = tools;
        let mut plan = source.rows(units, Columns::Document).await?;
        if source.config.shape.has_images()
            && let (Some(codec), Some(config)) = (&self.environment.codec, &self.config.codec)
        {
            let rules = self.config.pictures.rules(config.size);
            plan = stage(source.decode(rules, self.config.seed, self.pool.clone()), plan);
            let (codec, pool) = (codec.clone(), self.pool.clone());
            plan = stage(Encode { codec, size: config.size, batch: config.batch, pool }, plan);
        }
        let pack = Pack {
            source: source.index,
            name: source.config.name.clone(),
            shape: source.config.shape,
            weight: source.config.weight,
            validation: self.config.split.validation,
            composer: self.composer(tokenizer),
            files: source.files.clone(),
            duplicates: duplicates.clone(),
            pool: self.pool.clone(),
            observer: observer.clone(),
        };
        let write = Write {
            source: source.index,
            outputs: self.outputs(),
            metadata: self.metadata(tokenizer),
            compression: self.config.compression,
            shard_bytes: self.config.shard_bytes,
            files: source.files.clone(),
            handle: source.input.handle.clone(),
            stop: self.environment.stop.clone(),
        };
        Ok(stage(write, stage(pack, plan)))
    }
}

pub(crate) fn stage(operator: impl Operator, input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    Arc::new(StageExec::new(Arc::new(operator), input))
}

pub(crate) fn thread_pool(threads: usize) -> Result<Arc<ThreadPool>, PipelineError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).build();
    pool.map(Arc::new).map_err(|error| PipelineError::Format(Box::new(error)))
}

fn check_codec(config: &PreprocessConfig, codec: Option<&dyn ImageCodec>) -> Result<(), PipelineError> {
    let Some(source) = config.sources.iter().find(|source| source.shape.has_images()) else { return Ok(()) };
    let (Some(codec), Some(settings)) = (codec, &config.codec) else {
        return Err(PipelineError::NoCodec { name: source.name.clone() });
    };
    let side = settings.size / codec.info().downsampling.max(1);
    if side == 0 || !side.is_multiple_of(settings.patch) {
        return Err(PipelineError::CodecShape { height: side, width: side, patch: settings.patch });
    }
    let patches = u64::from(side / settings.patch).pow(2);
    if patches + 4 > u64::from(config.context) {
        return Err(PipelineError::Config {
            key: "context".to_owned(),
            found: config.context.to_string(),
            expected: format!("more than the {patches} patches of an image and its markers"),
        });
    }
    Ok(())
}

async fn open_tokenizer(uri: &str, resolver: &dyn Resolver) -> Result<Tokenizer, PipelineError> {
    let failed = |source| PipelineError::Tokenizer { uri: uri.to_owned(), source };
    let (store, path) = resolver.resolve(uri).map_err(failed)?;
    let found = store.get(&path).await.map_err(|error| failed(Box::new(error)))?;
    let bytes: Bytes = found.bytes().await.map_err(|error| failed(Box::new(error)))?;
    Tokenizer::from_bytes(&bytes).map_err(|error| failed(Box::new(error)))
}

/// Lists a source, finds its columns and its units.
pub(crate) async fn plan_source(
    index: u16,
    config: &SourceConfig,
    unit_bytes: u64,
    resolver: &dyn Resolver,
) -> Result<SourcePlan, PipelineError> {
    let listing = list(config, resolver).await?;
    let handle = tokio::runtime::Handle::current();
    let input = Input { store: listing.store.clone(), handle, split: config.document };
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

/// The one place that makes sessions. Three settings keep DataFusion from moving rows between partitions, and one
/// takes column names as they are written.
fn session(batch_rows: usize, memory_bytes: Option<usize>) -> Result<SessionContext, PipelineError> {
    let mut config = SessionConfig::new()
        .with_target_partitions(1)
        .with_batch_size(batch_rows)
        .with_repartition_file_scans(false)
        .with_round_robin_repartition(false);
    let options = config.options_mut();
    options.execution.enable_file_stream_work_stealing = false;
    options.sql_parser.enable_ident_normalization = false;
    let mut runtime = RuntimeEnvBuilder::new();
    if let Some(bytes) = memory_bytes {
        runtime = runtime.with_memory_pool(Arc::new(GreedyMemoryPool::new(bytes)));
    }
    Ok(SessionContext::new_with_config_rt(config, runtime.build_arc()?))
}

/// A session to run plans in.
pub(crate) fn run_session(memory_bytes: usize) -> Result<SessionContext, PipelineError> {
    session(TEXT_ROWS, Some(memory_bytes))
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
        frame.create_physical_plan().await.map_err(|error| self.sql_error(clause, error))
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
        let exprs: Vec<Expr> = chosen.chain(id).map(|name| datafusion::prelude::ident(name)).collect();
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

/// A source as a table that DataFusion can plan over.
#[derive(Debug)]
struct SourceTable {
    source: String,
    table: Arc<Table>,
    input: Input,
    descriptions: Vec<Vec<arrow::array::RecordBatch>>,
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
        let (source, table, input) = (self.source.clone(), self.table.clone(), self.input.clone());
        Ok(Arc::new(UnitReadExec::new(source, table, input, schema, leaf)))
    }
}
