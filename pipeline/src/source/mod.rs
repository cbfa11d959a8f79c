//! One source of a job: its files, its columns, its units, and the part of the plan that gives its rows.
//!
//! What a person's SQL asks for is planned by DataFusion over a table whose scan is [`crate::operators::unit_read::UnitRead`], so only the columns that
//! it names are read; the columns of a joined table belong to it like the source's own. Refused rows and the ends of
//! units pass every filter. Once planned, the nodes of the SQL are replaced by ours, which refuse the rows it fails on.
//!
//! It knows nothing about outputs, codecs, tokenizers or packing.

mod clause;
mod columns;
mod join;
mod joined;
mod picture_folder;
pub(crate) mod pictures;
mod rows;
mod table;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use object_store::path::Path;
use serde_json::Value;

use self::columns::{Finding, WantedColumns, find};
use self::join::Join;
pub(crate) use self::rows::Columns;
use crate::PipelineError;
use crate::config::{Shape, SourceConfig};
use crate::host::passed_over::PassedOver;
use crate::operators::runtime::Runtime;
use crate::operators::source_rows::{CaptionRules, RowHashes, RowReader};
use crate::read::csv::Dialect;
use crate::read::infer::{Extent, SCAN_BYTES};
use crate::read::parts::parts;
use crate::read::place::MATCHED;
use crate::read::table::{FoundColumns, IMAGES_NAMES, TEXTS_NAMES, Table};
use crate::read::united::Clash;
use crate::read::{Input, PictureFolder};
use crate::storage::location::Location;
use crate::storage::resolver::Resolver;
use crate::units::pointer::refuse_pointers;
use crate::units::{Listing, Unit, UnitFiles, group, list};

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
        table: Arc::new(Table::plain(FoundColumns::default())),
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
        let wanted = WantedColumns { named: named(config), types: config.types.clone(), extent };
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
    pub(crate) fn captions(&self) -> CaptionRules {
        CaptionRules {
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

    /// What makes rows of its batches, with these captions.
    pub(crate) fn row_reader(&self, seed: u64, captions: CaptionRules) -> RowReader {
        let hashes = RowHashes { seed, source: self.config.name.clone(), files: self.files.clone() };
        RowReader { shape: self.config.shape, captions, hashes }
    }
}
