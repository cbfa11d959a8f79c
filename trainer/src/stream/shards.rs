//! The shards of one dataset: opened, checked once, and the few blocks of rows that are being read from.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use schemas::shard::{BATCH_ROWS, Shard};
use schemas::{Row, RowLayout, ShardRecord, content_hash, decode_rows};

use super::cache::Cache;
use super::dataset::map_file;
use super::fetch::{Fetcher, Location};
use super::order::Address;
use super::{Dataset, StreamError};

/// A slot that the first caller fills while the others wait for it.
type Slot<T> = Arc<Mutex<Option<T>>>;

/// A map from keys to slots that keeps the ones used last.
#[derive(Debug)]
struct Recent<K, T> {
    capacity: usize,
    clock: u64,
    slots: HashMap<K, (u64, Slot<T>)>,
}

impl<K: Copy + Eq + std::hash::Hash + Ord, T> Recent<K, T> {
    fn new(capacity: usize) -> Mutex<Self> {
        Mutex::new(Self { capacity, clock: 0, slots: HashMap::new() })
    }

    fn slot(&mut self, key: K) -> Slot<T> {
        self.clock += 1;
        let entry = self.slots.entry(key).or_insert_with(|| (0, Slot::default()));
        entry.0 = self.clock;
        let slot = entry.1.clone();
        while self.slots.len() > self.capacity {
            let oldest = self.slots.iter().min_by_key(|(key, (used, _))| (*used, **key)).map(|(key, _)| *key);
            oldest.and_then(|oldest| self.slots.remove(&oldest));
        }
        slot
    }
}

/// Shared by the readers of one dataset.
#[derive(Debug)]
pub(super) struct Shards {
    location: Location,
    layout: RowLayout,
    tokenizer: String,
    records: Vec<ShardRecord>,
    fetcher: Arc<Fetcher>,
    cache: Option<Arc<Cache>>,
    verified: Mutex<HashSet<u32>>,
    open: Mutex<Recent<u32, Arc<Shard>>>,
    blocks: Mutex<Recent<(u32, u32), RecordBatch>>,
}

impl Shards {
    /// `open_shards` and `open_blocks` bound what is held: maps and record batches.
    pub(super) fn new(
        dataset: &Dataset,
        records: Vec<ShardRecord>,
        fetcher: Arc<Fetcher>,
        cache: Option<Arc<Cache>>,
        (open_shards, open_blocks): (usize, usize),
    ) -> Self {
        Self {
            location: dataset.location().clone(),
            layout: dataset.manifest().layout(),
            tokenizer: dataset.manifest().tokenizer.fingerprint.clone(),
            records,
            fetcher,
            cache,
            verified: Mutex::default(),
            open: Recent::new(open_shards),
            blocks: Recent::new(open_blocks),
        }
    }

    pub(super) fn uri(&self) -> &str {
        &self.location.uri
    }

    /// One row.
    pub(super) fn row(&self, at: Address) -> Result<(Row, Arc<Shard>), StreamError> {
        let shard = self.shard(at.shard)?;
        let block = self.block(&shard, at)?;
        let rows = decode_rows(&block.slice(at.row as usize, 1), &self.layout);
        let rows = rows.map_err(|error| self.shard_error(at.shard, error.into()))?;
        let row = rows.into_iter().next().expect("a slice of one row gives one row");
        Ok((row, shard))
    }

    /// A shard, checked. Callers that want the same one wait for the first of them.
    pub(super) fn shard(&self, index: u32) -> Result<Arc<Shard>, StreamError> {
        let slot = lock(&self.open).slot(index);
        let mut slot = lock(&slot);
        if let Some(shard) = &*slot {
            if let Some(cache) = &self.cache {
                cache.touch(&self.record(index).checksum);
            }
            return Ok(shard.clone());
        }
        let shard = Arc::new(self.open_shard(index)?);
        *slot = Some(shard.clone());
        Ok(shard)
    }

    fn block(&self, shard: &Shard, at: Address) -> Result<RecordBatch, StreamError> {
        let slot = lock(&self.blocks).slot((at.shard, at.batch));
        let mut slot = lock(&slot);
        if let Some(block) = &*slot {
            return Ok(block.clone());
        }
        let block = shard.batch(at.batch as usize).map_err(|error| self.shard_error(at.shard, error))?;
        self.check_block(at, block.num_rows())?;
        *slot = Some(block.clone());
        Ok(block)
    }

    fn check_block(&self, at: Address, found: usize) -> Result<(), StreamError> {
        let before = u64::from(at.batch) * BATCH_ROWS as u64;
        let expected = (self.record(at.shard).rows - before).min(BATCH_ROWS as u64);
        if found as u64 == expected {
            return Ok(());
        }
        self.mismatch(at.shard, format!("batch {} has {found} rows, expected {expected}", at.batch))
    }

    fn open_shard(&self, index: u32) -> Result<Shard, StreamError> {
        let bytes = match (&self.location.local, &self.cache) {
            (Some(folder), _) => self.checked_local(index, &folder.join(&self.record(index).path))?,
            (None, Some(cache)) => self.checked_cached(index, cache)?,
            (None, None) => unreachable!("a remote dataset is opened with a cache"),
        };
        let shard = Shard::open(bytes).map_err(|error| self.shard_error(index, error))?;
        self.check_fits(index, &shard)?;
        Ok(shard)
    }

    fn checked_local(&self, index: u32, path: &std::path::Path) -> Result<Buffer, StreamError> {
        let missing =
            || StreamError::Missing { uri: self.location.uri.clone(), path: self.record(index).path.clone() };
        let bytes = map_file(path)?.ok_or_else(missing)?;
        match self.verify(index, &bytes) {
            None => Ok(bytes),
            Some(found) => Err(self.damaged(index, found)),
        }
    }

    /// From the cache if the copy there is whole, else fetched; a fetch that gives wrong bytes is done once more.
    fn checked_cached(&self, index: u32, cache: &Cache) -> Result<Buffer, StreamError> {
        let record = self.record(index);
        let path = cache.path(&record.checksum);
        if let Some(bytes) = map_file(&path)? {
            if self.verify(index, &bytes).is_none() {
                cache.touch(&record.checksum);
                return Ok(bytes);
            }
            cache.drop_file(&record.checksum)?;
        }
        let unfinished = cache.unfinished(&record.checksum);
        let mut found = self.fetch(index, cache, &unfinished)?;
        if found != record.checksum {
            tracing::debug!(shard = record.path, expected = record.checksum, found, "fetched again");
            found = self.fetch(index, cache, &unfinished)?;
        }
        if found != record.checksum {
            // Nobody will use it; what can't be removed now goes when the folder is next opened.
            let _ = std::fs::remove_file(&unfinished);
            return Err(self.damaged(index, found));
        }
        cache.keep(&unfinished, &record.checksum, record.bytes)?;
        lock(&self.verified).insert(index);
        let missing = || StreamError::Io { path: path.clone(), source: std::io::ErrorKind::NotFound.into() };
        map_file(&path)?.ok_or_else(missing)
    }

    fn fetch(&self, index: u32, cache: &Cache, file: &std::path::Path) -> Result<String, StreamError> {
        let record = self.record(index);
        cache.make_room(record.bytes)?;
        self.fetcher.download(&self.location, &record.path, record.bytes, file)
    }

    /// The wrong checksum, if it is wrong. Each shard is read whole for this once in the life of a stream.
    fn verify(&self, index: u32, bytes: &Buffer) -> Option<String> {
        if lock(&self.verified).contains(&index) && bytes.len() as u64 == self.record(index).bytes {
            return None;
        }
        let found = content_hash(bytes);
        if found != self.record(index).checksum {
            return Some(found);
        }
        lock(&self.verified).insert(index);
        None
    }

    fn check_fits(&self, index: u32, shard: &Shard) -> Result<(), StreamError> {
        let (metadata, record) = (shard.metadata(), self.record(index));
        if metadata.layout() != self.layout {
            return self.mismatch(
                index,
                format!("its layout is {:?}, expected {:?}", metadata.layout(), self.layout),
            );
        }
        if metadata.tokenizer != self.tokenizer {
            let what = format!("its tokenizer is `{}`, expected `{}`", metadata.tokenizer, self.tokenizer);
            return self.mismatch(index, what);
        }
        let expected = record.rows.div_ceil(BATCH_ROWS as u64);
        if shard.batches() as u64 != expected {
            return self.mismatch(index, format!("it has {} batches, expected {expected}", shard.batches()));
        }
        Ok(())
    }

    fn record(&self, index: u32) -> &ShardRecord {
        &self.records[index as usize]
    }

    fn damaged(&self, index: u32, found: String) -> StreamError {
        let record = self.record(index);
        StreamError::Damaged {
            uri: self.location.uri.clone(),
            path: record.path.clone(),
            expected: record.checksum.clone(),
            found,
        }
    }

    fn shard_error(&self, index: u32, source: schemas::shard::ShardError) -> StreamError {
        let path = self.record(index).path.clone();
        StreamError::Shard { uri: self.location.uri.clone(), path, source: Box::new(source) }
    }

    fn mismatch<T>(&self, index: u32, what: String) -> Result<T, StreamError> {
        Err(StreamError::Mismatch {
            uri: self.location.uri.clone(),
            path: self.record(index).path.clone(),
            what,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics while it holds this lock")
}
