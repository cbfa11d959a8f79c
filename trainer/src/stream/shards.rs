//! The shards of one dataset: opened, checked once, and the few blocks of rows that are being read from.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use schemas::shard::{BATCH_ROWS, ShardError, ShardIndex};
use schemas::{Row, RowLayout, ShardRecord, decode_rows};

use super::cache::{Cache, InUse};
use super::fetch::{Fetcher, Location};
use super::file::{self, FileError, ShardFile};
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
    open: Mutex<Recent<u32, Arc<ShardFile>>>,
    blocks: Mutex<Recent<(u32, u32), RecordBatch>>,
}

impl Shards {
    /// `open_shards` and `open_blocks` bound what is held: handles of files and record batches.
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
    pub(super) fn row(&self, at: Address) -> Result<(Row, Arc<ShardIndex>), StreamError> {
        let shard = self.shard(at.shard)?;
        let block = self.block(&shard, at)?;
        let rows = decode_rows(&block.slice(at.row as usize, 1), &self.layout);
        let rows = rows.map_err(|error| self.shard_error(at.shard, error.into()))?;
        let row = rows.into_iter().next().expect("a slice of one row gives one row");
        Ok((row, shard.index().clone()))
    }

    /// A shard, checked. Callers that want the same one wait for the first of them.
    pub(super) fn shard(&self, index: u32) -> Result<Arc<ShardFile>, StreamError> {
        let slot = lock(&self.open).slot(index);
        let mut slot = lock(&slot);
        if let Some(shard) = &*slot {
            return Ok(shard.clone());
        }
        let shard = Arc::new(self.open_shard(index)?);
        *slot = Some(shard.clone());
        Ok(shard)
    }

    fn block(&self, shard: &ShardFile, at: Address) -> Result<RecordBatch, StreamError> {
        let slot = lock(&self.blocks).slot((at.shard, at.block));
        let mut slot = lock(&slot);
        if let Some(block) = &*slot {
            return Ok(block.clone());
        }
        let block = shard.record_batch(at.block as usize);
        let block = block.map_err(|error| self.file_error(at.shard, shard.bytes(), error))?;
        self.check_block(at, block.num_rows())?;
        *slot = Some(block.clone());
        Ok(block)
    }

    fn check_block(&self, at: Address, found: usize) -> Result<(), StreamError> {
        let before = u64::from(at.block) * BATCH_ROWS as u64;
        let expected = (self.record(at.shard).rows - before).min(BATCH_ROWS as u64);
        if found as u64 == expected {
            return Ok(());
        }
        self.mismatch(at.shard, format!("batch {} has {found} rows, expected {expected}", at.block))
    }

    fn open_shard(&self, index: u32) -> Result<ShardFile, StreamError> {
        let (file, in_use) = match (&self.location.local, &self.cache) {
            (Some(folder), _) => (self.checked_local(index, &folder.join(&self.record(index).path))?, None),
            (None, Some(cache)) => {
                let (file, in_use) = self.checked_cached(index, cache)?;
                (file, Some(in_use))
            }
            (None, None) => unreachable!("a remote dataset is opened with a cache"),
        };
        let bytes = self.record(index).bytes;
        let shard = ShardFile::new(file, bytes, in_use);
        let shard = shard.map_err(|error| self.file_error(index, bytes, error))?;
        self.check_fits(index, shard.index())?;
        Ok(shard)
    }

    fn checked_local(&self, index: u32, path: &Path) -> Result<File, StreamError> {
        let missing =
            || StreamError::Missing { uri: self.location.uri.clone(), path: self.record(index).path.clone() };
        let file = file::open(path).map_err(io_error(path))?.ok_or_else(missing)?;
        match self.verify(index, &file).map_err(io_error(path))? {
            None => Ok(file),
            Some(found) => Err(self.damaged(index, found)),
        }
    }

    /// From the cache if the copy there is whole, else fetched; a fetch that gives wrong bytes is done once more.
    fn checked_cached(&self, index: u32, cache: &Arc<Cache>) -> Result<(File, InUse), StreamError> {
        let record = self.record(index);
        if let Some(copy) = cache.hold(&record.checksum) {
            let path = copy.path();
            if let Some(file) = file::open(&path).map_err(io_error(&path))?
                && self.verify(index, &file).map_err(io_error(&path))?.is_none()
            {
                return Ok((file, copy));
            }
            copy.discard()?;
        }
        let copy = self.fetch(index, cache)?;
        let path = copy.path();
        let missing = || io_error(&path)(std::io::ErrorKind::NotFound.into());
        let file = file::open(&path).map_err(io_error(&path))?.ok_or_else(missing)?;
        Ok((file, copy))
    }

    fn fetch(&self, index: u32, cache: &Arc<Cache>) -> Result<InUse, StreamError> {
        let record = self.record(index);
        let download = cache.reserve(&record.checksum, record.bytes)?;
        let once = || self.fetcher.download(&self.location, &record.path, record.bytes, download.path());
        let mut found = once()?;
        if found != record.checksum {
            tracing::debug!(shard = record.path, expected = record.checksum, found, "fetched again");
            found = once()?;
        }
        if found != record.checksum {
            return Err(self.damaged(index, found));
        }
        lock(&self.verified).insert(index);
        download.keep()
    }

    /// The wrong checksum, if it is wrong. Each shard is read whole for this once in the life of a stream.
    fn verify(&self, index: u32, file: &File) -> std::io::Result<Option<String>> {
        let record = self.record(index);
        if lock(&self.verified).contains(&index) && file.metadata()?.len() == record.bytes {
            return Ok(None);
        }
        let found = file::checksum(file)?;
        if found != record.checksum {
            return Ok(Some(found));
        }
        lock(&self.verified).insert(index);
        Ok(None)
    }

    fn check_fits(&self, index: u32, shard: &ShardIndex) -> Result<(), StreamError> {
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

    fn file_error(&self, index: u32, expected: u64, error: FileError) -> StreamError {
        let (uri, path) = (self.location.uri.clone(), self.record(index).path.clone());
        match error {
            FileError::Cut { found } => StreamError::Cut { uri, path, expected, found },
            FileError::Io(source) => StreamError::Io { path: path.into(), source },
            FileError::Shard(source) => self.shard_error(index, source),
        }
    }

    fn shard_error(&self, index: u32, source: ShardError) -> StreamError {
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

fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> StreamError {
    let path = path.to_owned();
    move |source| StreamError::Io { path, source }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics while it holds this lock")
}
