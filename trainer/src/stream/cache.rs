//! The bounded folder on the local disk that shards of remote datasets are copied to.
//!
//! The files lie in a folder of their own inside the one that was named, so that nothing of the user's is ever mistaken
//! for a copy. A file's name is the checksum of its content: the same shard of two datasets is kept once, and no file
//! has to be believed, because each is checked when it is first used. The folder belongs to one process at a time.
//!
//! Finished files and the downloads under way count against the limit. Files that are being read are not
//! deleted; who opens them holds no more at a time than fits ([`super::RowStream::open`] shares the limit out), so the
//! folder may pass its limit by no more than the shards that reading threads are between.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::StreamError;

/// The folder inside the one that was named.
const OWN: &str = "transfusion-shards";
const UNFINISHED: &str = ".partial";

/// Whether a text is a BLAKE3 checksum, as manifests spell it, and so fit to be the name of a file.
pub(super) fn is_checksum(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The folder and what is in it.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    limit_bytes: u64,
    files: Mutex<Files>,
    /// Removes the folder at the end where none was asked for.
    _temporary: Option<tempfile::TempDir>,
}

#[derive(Debug, Default)]
struct Files {
    clock: u64,
    /// Bytes of the downloads under way.
    reserved: u64,
    entries: HashMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// Sets this file apart from a later one of the same name.
    born: u64,
    bytes: u64,
    last_use: u64,
    users: usize,
}

impl Files {
    fn now(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn bytes(&self) -> u64 {
        self.entries.values().fold(self.reserved, |sum, entry| sum.saturating_add(entry.bytes))
    }

    /// The unused file that was used longest ago.
    fn oldest(&self) -> Option<String> {
        let unused = self.entries.iter().filter(|(_, entry)| entry.users == 0);
        unused.min_by_key(|(name, entry)| (entry.last_use, (*name).clone())).map(|(name, _)| name.clone())
    }
}

/// A file of the cache that is being read: it is not deleted before this is dropped.
#[derive(Debug)]
pub(super) struct InUse {
    cache: Arc<Cache>,
    checksum: String,
    born: u64,
}

/// Room for a file that is being fetched, and its place; dropped before it is finished, the file is removed.
#[derive(Debug)]
pub(super) struct Download {
    cache: Arc<Cache>,
    checksum: String,
    bytes: u64,
    path: PathBuf,
}

impl Cache {
    /// Opens the folder, removes what a killed process left unfinished, and drops what is over the limit.
    pub(super) fn open(folder: Option<&Path>, limit_bytes: u64) -> Result<Self, StreamError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| StreamError::Io { path, source }
        };
        let (folder, temporary) = match folder {
            Some(folder) => (folder.to_owned(), None),
            None => {
                let made = tempfile::Builder::new().prefix("transfusion-cache-").tempdir();
                let made = made.map_err(io(Path::new("a temporary folder")))?;
                (made.path().to_owned(), Some(made))
            }
        };
        let folder = folder.join(OWN);
        fs::create_dir_all(&folder).map_err(io(&folder))?;
        let cache = Self { folder, limit_bytes, files: Mutex::default(), _temporary: temporary };
        cache.take_stock().map_err(io(&cache.folder))?;
        cache.make_room(&mut cache.files(), 0)?;
        Ok(cache)
    }

    fn take_stock(&self) -> std::io::Result<()> {
        let mut files = self.files();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let unfinished = name.strip_suffix(UNFINISHED).and_then(|name| name.split_once('-'));
            if !entry.file_type()?.is_file() {
                continue;
            }
            if unfinished.is_some_and(|(checksum, _)| is_checksum(checksum)) {
                fs::remove_file(entry.path())?;
            } else if is_checksum(&name) {
                let born = files.now();
                let bytes = entry.metadata()?.len();
                files.entries.insert(name, Entry { born, bytes, last_use: 0, users: 0 });
            }
        }
        Ok(())
    }

    fn path(&self, checksum: &str) -> PathBuf {
        self.folder.join(checksum)
    }

    /// The file with this checksum, if it is there.
    pub(super) fn hold(self: &Arc<Self>, checksum: &str) -> Option<InUse> {
        let mut files = self.files();
        let entry = files.entries.get_mut(checksum)?;
        entry.users += 1;
        Some(InUse { cache: self.clone(), checksum: checksum.to_owned(), born: entry.born })
    }

    /// Makes room for the file with this checksum; another place at each call.
    pub(super) fn reserve(self: &Arc<Self>, checksum: &str, bytes: u64) -> Result<Download, StreamError> {
        let mut files = self.files();
        self.make_room(&mut files, bytes)?;
        files.reserved = files.reserved.saturating_add(bytes);
        let path = self.folder.join(format!("{checksum}-{}{UNFINISHED}", files.now()));
        Ok(Download { cache: self.clone(), checksum: checksum.to_owned(), bytes, path })
    }

    /// Deletes the unused files used longest ago until `bytes` more have room, or all that are left are being read.
    fn make_room(&self, files: &mut Files, bytes: u64) -> Result<(), StreamError> {
        while files.bytes().saturating_add(bytes) > self.limit_bytes {
            let Some(name) = files.oldest() else { break };
            files.entries.remove(&name);
            remove(&self.path(&name))?;
        }
        Ok(())
    }

    /// Bytes of finished files and of downloads under way.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.files().bytes()
    }

    fn files(&self) -> std::sync::MutexGuard<'_, Files> {
        self.files.lock().expect("no thread panics while it holds the list of files")
    }
}

impl InUse {
    /// Where the file is.
    pub(super) fn path(&self) -> PathBuf {
        self.cache.path(&self.checksum)
    }

    /// Deletes the file, which turned out to be damaged.
    pub(super) fn discard(self) -> Result<(), StreamError> {
        self.cache.files().entries.remove(&self.checksum);
        remove(&self.path())
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut files = self.cache.files();
        let now = files.now();
        if let Some(entry) = files.entries.get_mut(&self.checksum).filter(|entry| entry.born == self.born) {
            entry.users -= 1;
            entry.last_use = now;
        }
    }
}

impl Download {
    /// Where the file is written to.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the finished file to its name.
    pub(super) fn keep(self) -> Result<InUse, StreamError> {
        let path = self.cache.path(&self.checksum);
        fs::rename(&self.path, &path).map_err(|source| StreamError::Io { path, source })?;
        let mut files = self.cache.files();
        let (born, bytes) = (files.now(), self.bytes);
        let fresh = || Entry { born, bytes, last_use: born, users: 0 };
        let entry = files.entries.entry(self.checksum.clone()).or_insert_with(fresh);
        entry.users += 1;
        Ok(InUse { cache: self.cache.clone(), checksum: self.checksum.clone(), born: entry.born })
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.cache.files().reserved -= self.bytes;
        // Nobody will use it; what can't be removed now goes when the folder is next opened.
        let _ = fs::remove_file(&self.path);
    }
}

fn remove(path: &Path) -> Result<(), StreamError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(StreamError::Io { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn open(folder: &Path, limit_bytes: u64) -> Arc<Cache> {
        Arc::new(Cache::open(Some(folder), limit_bytes).unwrap())
    }

    fn put(cache: &Arc<Cache>, digit: char, bytes: usize) -> InUse {
        let download = cache.reserve(&name(digit), bytes as u64).unwrap();
        fs::write(download.path(), vec![0; bytes]).unwrap();
        download.keep().unwrap()
    }

    fn there(cache: &Cache, digit: char) -> bool {
        cache.path(&name(digit)).exists()
    }

    #[test]
    fn the_file_used_longest_ago_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), 100);
        drop(put(&cache, 'a', 40));
        drop(put(&cache, 'b', 40));
        drop(cache.hold(&name('a')).unwrap());
        drop(put(&cache, 'c', 40));
        assert!(there(&cache, 'a') && !there(&cache, 'b') && there(&cache, 'c'));
        assert_eq!(cache.bytes(), 80);
    }

    #[test]
    fn files_in_use_stay_and_downloads_count() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), 100);
        let a = put(&cache, 'a', 40);
        drop(put(&cache, 'b', 30));
        // Room for the first download is made before a byte of it has come, and the second one sees it.
        let first = cache.reserve(&name('c'), 50).unwrap();
        assert!(there(&cache, 'a') && !there(&cache, 'b'));
        assert_eq!(cache.bytes(), 90);
        let second = cache.reserve(&name('d'), 10).unwrap();
        assert_eq!(cache.bytes(), 100);
        fs::write(first.path(), [0; 20]).unwrap();
        let unfinished = first.path().to_owned();
        drop(first);
        assert!(!unfinished.exists());
        drop(second);
        assert_eq!(cache.bytes(), 40);
        drop(a);
        drop(put(&cache, 'e', 70));
        assert!(!there(&cache, 'a') && there(&cache, 'e'));
    }

    #[test]
    fn a_damaged_file_goes_and_its_successor_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), 100);
        let (first, other) = (put(&cache, 'a', 40), cache.hold(&name('a')).unwrap());
        first.discard().unwrap();
        assert!(cache.hold(&name('a')).is_none() && cache.bytes() == 0);
        let second = put(&cache, 'a', 40);
        drop(other);
        assert_eq!(cache.files().entries[&name('a')].users, 1);
        drop(second);
        assert_eq!(cache.files().entries[&name('a')].users, 0);
    }

    #[test]
    fn leftovers_of_a_killed_process_are_removed_and_the_limit_holds_for_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join(OWN);
        fs::create_dir(&own).unwrap();
        fs::write(own.join(name('a')), [0; 30]).unwrap();
        fs::write(own.join(name('b')), [0; 30]).unwrap();
        fs::write(own.join(format!("{}-1.partial", name('c'))), [0; 30]).unwrap();
        let cache = open(folder.path(), 50);
        assert_eq!(cache.bytes(), 30);
        assert_eq!(fs::read_dir(&own).unwrap().count(), 1);
    }

    /// Files of the user's once had the misfortune to be named like a checksum or to end in `.partial`.
    #[test]
    fn files_of_the_user_are_neither_counted_nor_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let mine = [name('a'), format!("{}-1.partial", name('b')), "thesis.partial".to_owned()];
        mine.iter().for_each(|name| fs::write(folder.path().join(name), [0; 90]).unwrap());
        let cache = open(folder.path(), 50);
        drop(put(&cache, 'c', 40));
        drop(put(&cache, 'd', 40));
        assert_eq!(cache.bytes(), 40);
        assert!(mine.iter().all(|name| fs::read(folder.path().join(name)).unwrap() == [0; 90]));
    }
}
