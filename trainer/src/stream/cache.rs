//! The bounded folder on the local disk that shards of remote datasets are copied to.
//!
//! A file's name is the checksum of its content, so the same shard of two datasets is kept once, and nothing in the
//! folder has to be believed: a file is checked when it is first used. The folder belongs to one process at a time.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::StreamError;

const UNFINISHED: &str = ".partial";

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
    entries: HashMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    last_use: u64,
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
        fs::create_dir_all(&folder).map_err(io(&folder))?;
        let cache = Self { folder, limit_bytes, files: Mutex::default(), _temporary: temporary };
        cache.take_stock().map_err(io(&cache.folder))?;
        cache.make_room(0)?;
        Ok(cache)
    }

    fn take_stock(&self) -> std::io::Result<()> {
        let mut files = self.files();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(UNFINISHED) {
                fs::remove_file(entry.path())?;
            } else if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                files.entries.insert(name, Entry { bytes: entry.metadata()?.len(), last_use: 0 });
            }
        }
        Ok(())
    }

    /// Where the file with this checksum is, or would be.
    pub(super) fn path(&self, checksum: &str) -> PathBuf {
        self.folder.join(checksum)
    }

    /// Where such a file is written to before it is whole; another path at each call.
    pub(super) fn unfinished(&self, checksum: &str) -> PathBuf {
        let mut files = self.files();
        files.clock += 1;
        self.folder.join(format!("{checksum}-{}{UNFINISHED}", files.clock))
    }

    /// Marks a file as used now.
    pub(super) fn touch(&self, checksum: &str) {
        let mut files = self.files();
        files.clock += 1;
        let now = files.clock;
        if let Some(entry) = files.entries.get_mut(checksum) {
            entry.last_use = now;
        }
    }

    /// Deletes the files used longest ago until `bytes` more have room. A deleted file that is still mapped stays
    /// readable; the system frees it when the map is dropped.
    pub(super) fn make_room(&self, bytes: u64) -> Result<(), StreamError> {
        let mut files = self.files();
        while files.entries.values().map(|entry| entry.bytes).sum::<u64>() + bytes > self.limit_bytes {
            let oldest = files.entries.iter().min_by_key(|(name, entry)| (entry.last_use, (*name).clone()));
            let Some(name) = oldest.map(|(name, _)| name.clone()) else { break };
            files.entries.remove(&name);
            remove(&self.path(&name))?;
        }
        Ok(())
    }

    /// Moves a finished file to its final name.
    pub(super) fn keep(&self, unfinished: &Path, checksum: &str, bytes: u64) -> Result<(), StreamError> {
        let path = self.path(checksum);
        fs::rename(unfinished, &path).map_err(|source| StreamError::Io { path, source })?;
        self.files().entries.insert(checksum.to_owned(), Entry { bytes, last_use: 0 });
        self.touch(checksum);
        Ok(())
    }

    /// Deletes a file that turned out to be damaged.
    pub(super) fn drop_file(&self, checksum: &str) -> Result<(), StreamError> {
        self.files().entries.remove(checksum);
        remove(&self.path(checksum))
    }

    /// Bytes of all finished files.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.files().entries.values().map(|entry| entry.bytes).sum()
    }

    fn files(&self) -> std::sync::MutexGuard<'_, Files> {
        self.files.lock().expect("no thread panics while it holds the list of files")
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

    fn put(cache: &Cache, digit: char, bytes: usize) {
        cache.make_room(bytes as u64).unwrap();
        let unfinished = cache.unfinished(&name(digit));
        fs::write(&unfinished, vec![0; bytes]).unwrap();
        cache.keep(&unfinished, &name(digit), bytes as u64).unwrap();
    }

    #[test]
    fn the_file_used_longest_ago_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path()), 100).unwrap();
        put(&cache, 'a', 40);
        put(&cache, 'b', 40);
        cache.touch(&name('a'));
        put(&cache, 'c', 40);
        assert!(cache.path(&name('a')).exists() && !cache.path(&name('b')).exists());
        assert_eq!(cache.bytes(), 80);
    }

    #[test]
    fn leftovers_of_a_killed_process_are_removed_and_the_limit_holds_for_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(name('a')), [0; 30]).unwrap();
        fs::write(folder.path().join(name('b')), [0; 30]).unwrap();
        fs::write(folder.path().join(format!("{}-1.partial", name('c'))), [0; 30]).unwrap();
        let cache = Cache::open(Some(folder.path()), 50).unwrap();
        assert_eq!(cache.bytes(), 30);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
