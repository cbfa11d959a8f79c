//! Rows of packed datasets, in an order that is a pure function of datasets, weights, seed and epoch. It knows the format of
//! shards and manifests, and knows nothing about what rows are for.
//!
//! [`RowStream`] opens any number of datasets and gives their rows one after another, for ever. Where it stands is a
//! [`StreamCursor`], a few numbers; a stream opened at a cursor goes on with exactly the row that would have come next,
//! whatever the number of readers was or is. How rows are shuffled is described in `order`.
//!
//! Several datasets are mixed by weight: the next row comes from the dataset that has given the fewest positions for its
//! weight, ties go to the one named first. So the mix of *positions*, not of rows, follows the weights at any moment.
//!
//! Local shards are read where they are, remote ones copied to a bounded cache folder first; either way the checksum of
//! a shard is compared with the manifest's before its first row is given. Memory: `prefetch_rows` rows and twice
//! `shuffle.blocks` blocks of 64 rows, a dataset.

mod cache;
mod dataset;
mod error;
mod fetch;
mod file;
mod order;
mod readers;
mod shards;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use schemas::shard::ShardIndex;
use schemas::{DatasetCursor, Row, StreamCursor};

pub use dataset::Dataset;
pub use error::StreamError;
pub use fetch::{Location, Retry};
pub use order::Shuffle;

use cache::Cache;
use fetch::Fetcher;
use order::Order;
use readers::Readers;
use shards::Shards;

/// One dataset of a mix.
#[derive(Clone, Debug)]
pub struct Ingredient {
    /// The dataset.
    pub dataset: Dataset,
    /// Only the rows of this source.
    pub source: Option<String>,
    /// Share of the positions, relative to the other datasets; above 0.
    pub weight: f64,
}

/// How rows are read.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// Seed of the order.
    pub seed: u64,
    /// How far rows are shuffled.
    pub shuffle: Shuffle,
    /// Reading threads a dataset.
    pub readers: usize,
    /// Rows held ready a dataset.
    pub prefetch_rows: usize,
    /// Folder for copies of remote shards; a temporary one if `None`.
    pub cache: Option<PathBuf>,
    /// Bytes that folder may hold.
    pub cache_bytes: u64,
    /// How patiently stores are asked.
    pub retry: Retry,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            seed: 0,
            shuffle: Shuffle { shards: 8, blocks: 16 },
            readers: 2,
            prefetch_rows: 64,
            cache: None,
            cache_bytes: 16 << 30,
            retry: Retry::default(),
        }
    }
}

/// A row and where it came from.
#[derive(Clone, Debug)]
pub struct StreamRow {
    /// The row.
    pub row: Row,
    /// Where it came from.
    pub origin: RowOrigin,
}

/// Where a row came from.
#[derive(Clone, Debug)]
pub struct RowOrigin {
    /// Index of its dataset in the mix.
    pub dataset: usize,
    shard: Arc<ShardIndex>,
}

impl RowOrigin {
    /// The documents of `row`, the row of this origin, as `(source, file, row of the file)`.
    pub fn documents<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = (&'a str, &'a str, u64)> {
        let metadata = self.shard.metadata();
        row.sources().iter().map(move |document| {
            let source = metadata.sources.get(usize::from(document.source)).map_or("?", String::as_str);
            let file = metadata.files.get(document.file as usize).map_or("?", String::as_str);
            (source, file, document.row)
        })
    }
}

/// The endless sequence of rows.
#[derive(Debug)]
pub struct RowStream {
    datasets: Vec<OpenDataset>,
}

/// A dataset of the mix, read from its cursor on.
#[derive(Debug)]
struct OpenDataset {
    weight: f64,
    epoch_rows: u64,
    cursor: DatasetCursor,
    readers: Readers,
}

impl RowStream {
    /// Opens the mix at its first row, or at `cursor`.
    ///
    /// # Errors
    ///
    /// If a dataset has nothing to read, the cursor is one of other data, or the cache folder can't be used. Damage in
    /// a shard is met when its rows are due.
    pub fn open(
        ingredients: &[Ingredient],
        settings: &StreamSettings,
        cursor: Option<&StreamCursor>,
    ) -> Result<Self, StreamError> {
        check_cursor(ingredients, cursor)?;
        let fetcher = Arc::new(Fetcher::new(settings.retry)?);
        let remote = ingredients.iter().any(|ingredient| ingredient.dataset.location().local.is_none());
        let cache =
            remote.then(|| Cache::open(settings.cache.as_deref(), settings.cache_bytes)).transpose()?;
        let cache = cache.map(Arc::new);
        let groups = groups_held(ingredients, settings)?;
        let open = |(index, ingredient): (usize, &Ingredient)| {
            let start = cursor.map(|cursor| cursor.datasets[index].clone());
            OpenDataset::open(ingredient, index, settings, groups, (&fetcher, cache.clone()), start)
        };
        Ok(Self { datasets: ingredients.iter().enumerate().map(open).collect::<Result<_, _>>()? })
    }

    /// The next row.
    ///
    /// # Errors
    ///
    /// If its shard is missing, damaged, or can't be fetched.
    pub fn next_row(&mut self) -> Result<StreamRow, StreamError> {
        let given = |open: &OpenDataset| open.cursor.positions as f64 / open.weight;
        let behind = (0..self.datasets.len())
            .min_by(|&a, &b| given(&self.datasets[a]).total_cmp(&given(&self.datasets[b])));
        let dataset =
            behind.ok_or_else(|| StreamError::Cursor { what: "there are no datasets".to_owned() })?;
        let (row, shard) = self.datasets[dataset].next()?;
        Ok(StreamRow { row, origin: RowOrigin { dataset, shard } })
    }

    /// The next `count` rows.
    ///
    /// # Errors
    ///
    /// As [`RowStream::next_row`].
    pub fn next_rows(&mut self, count: usize) -> Result<Vec<StreamRow>, StreamError> {
        (0..count).map(|_| self.next_row()).collect()
    }

    /// Where it stands: behind the last row that was given.
    pub fn cursor(&self) -> StreamCursor {
        StreamCursor { datasets: self.datasets.iter().map(|open| open.cursor.clone()).collect() }
    }
}

impl OpenDataset {
    fn open(
        ingredient: &Ingredient,
        index: usize,
        settings: &StreamSettings,
        groups: usize,
        (fetcher, cache): (&Arc<Fetcher>, Option<Arc<Cache>>),
        start: Option<DatasetCursor>,
    ) -> Result<Self, StreamError> {
        let dataset = &ingredient.dataset;
        let records = dataset.shards(ingredient.source.as_deref())?;
        let order = Order::new(
            records.iter().map(|shard| shard.rows).collect(),
            settings.seed,
            index,
            settings.shuffle,
        );
        let fresh = DatasetCursor { manifest: dataset.checksum().to_owned(), ..DatasetCursor::default() };
        let cursor = start.unwrap_or(fresh);
        let epoch_rows = order.rows();
        if cursor.row >= epoch_rows {
            let what = format!("row {} of an epoch of {epoch_rows} rows", cursor.row);
            return Err(StreamError::Cursor { what });
        }
        let remote = dataset.location().local.is_none();
        let held = (groups * settings.shuffle.shards.max(1), 2 * settings.shuffle.blocks.max(1));
        let shards = Arc::new(Shards::new(dataset, records, fetcher.clone(), cache.filter(|_| remote), held));
        let fetchers = if remote { 4 } else { 1 };
        let start = (cursor.epoch, cursor.row);
        let readers =
            Readers::start(shards, &order, start, settings.readers, settings.prefetch_rows, fetchers);
        Ok(Self { weight: ingredient.weight, epoch_rows, cursor, readers })
    }

    fn next(&mut self) -> Result<(Row, Arc<ShardIndex>), StreamError> {
        let (row, shard) = self.readers.next()?;
        self.cursor.positions += u64::from(row.used());
        self.cursor.row += 1;
        if self.cursor.row == self.epoch_rows {
            (self.cursor.epoch, self.cursor.row) = (self.cursor.epoch + 1, 0);
        }
        Ok((row, shard))
    }
}

fn check_cursor(ingredients: &[Ingredient], cursor: Option<&StreamCursor>) -> Result<(), StreamError> {
    let Some(cursor) = cursor else { return Ok(()) };
    if cursor.datasets.len() != ingredients.len() {
        let what = format!("it has {} datasets, the config has {}", cursor.datasets.len(), ingredients.len());
        return Err(StreamError::Cursor { what });
    }
    for (saved, ingredient) in cursor.datasets.iter().zip(ingredients) {
        let dataset = &ingredient.dataset;
        if saved.manifest != dataset.checksum() {
            let uri = &dataset.location().uri;
            let what = format!(
                "dataset `{uri}` has the version `{}`, it had `{}`",
                dataset.checksum(),
                saved.manifest
            );
            return Err(StreamError::Cursor { what });
        }
    }
    Ok(())
}

/// Groups of shards that are held open of each dataset. Readers may stand in two at once while the next one is being
/// opened; where the cache has no room for three of each remote dataset, it is two.
fn groups_held(ingredients: &[Ingredient], settings: &StreamSettings) -> Result<usize, StreamError> {
    const USUAL: usize = 3;
    let mut all = 0u64;
    for ingredient in ingredients.iter().filter(|one| one.dataset.location().local.is_none()) {
        let records = ingredient.dataset.shards(ingredient.source.as_deref())?;
        let shards = settings.shuffle.shards.max(1).min(records.len());
        let need = bytes_of_groups(&records, shards, 2);
        if need > settings.cache_bytes {
            let uri = ingredient.dataset.location().uri.clone();
            return Err(StreamError::CacheTooSmall { uri, have: settings.cache_bytes, need, shards });
        }
        all = all.saturating_add(bytes_of_groups(&records, shards, USUAL as u64));
    }
    Ok(if all > settings.cache_bytes { 2 } else { USUAL })
}

/// Bytes of the largest groups; a dataset that fits whole is never too large.
fn bytes_of_groups(records: &[schemas::ShardRecord], shards: usize, groups: u64) -> u64 {
    let sum = |sum: u64, bytes: u64| sum.saturating_add(bytes);
    let largest = records.iter().map(|shard| shard.bytes).max().unwrap_or(0);
    let whole = records.iter().map(|shard| shard.bytes).fold(0, sum);
    (groups * shards as u64).saturating_mul(largest).min(whole)
}
