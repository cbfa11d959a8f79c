//! What lies below a place of a store, odd entries included.
//!
//! The library below fails of a listing as a whole where one name is none that it can hold (an empty part between two
//! `/`, a control character), and passes over links that lead nowhere without a word. Here every such entry is one of
//! its own and the others are found: on a disk by walking it, on a store by asking for its pages around the name.

use std::borrow::Cow;
use std::io;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::{Error as PathError, Path};
use object_store::{Error, ObjectMeta, ObjectStore};

use crate::host::threads::blocking;
use crate::units::aside::Aside;

/// What a place holds.
#[derive(Debug, Default)]
pub(crate) struct FoundFiles {
    pub(crate) files: Vec<ObjectMeta>,
    /// Entries that are no files which can be read: why, and their paths below the place.
    pub(crate) odd: Vec<(Aside, String)>,
}

/// Whether a store is the disk of this machine, from its root.
pub(crate) fn is_disk(store: &dyn ObjectStore) -> bool {
    store.to_string() == "LocalFileSystem(file:///)"
}

/// A path of the disk's store on that disk.
pub(crate) fn on_disk(path: &Path) -> PathBuf {
    PathBuf::from(format!("/{path}"))
}

/// Lists what lies below `prefix`, in subfolders too if `deep`. `pages` gives the same store, where it can be
/// asked for single pages of its list.
///
/// # Errors
///
/// If the store fails, or of a name that can't be got around.
pub(crate) async fn list(
    store: &dyn ObjectStore,
    pages: impl FnOnce() -> Option<Arc<dyn PaginatedListStore>>,
    prefix: &Path,
    deep: bool,
) -> Result<FoundFiles, Error> {
    if is_disk(store) {
        let root = on_disk(prefix);
        let walked = blocking(move || Ok(walk(&root, deep))).await;
        let failed = |source: io::Error| Error::Generic { store: "LocalFileSystem", source: source.into() };
        return walked.map_err(|error| failed(io::Error::other(error)))?.map_err(failed);
    }
    let found = match deep {
        true => store.list(Some(prefix)).try_collect().await,
        false => store.list_with_delimiter(Some(prefix)).await.map(|found| found.objects),
    };
    match found {
        Err(Error::NotFound { .. }) => Ok(FoundFiles::default()),
        Err(error) if bad_key(&error).is_some() => match pages() {
            Some(pages) => around(&*pages, prefix, deep).await,
            None => Err(error),
        },
        found => Ok(FoundFiles { files: found?, odd: Vec::new() }),
    }
}

/// The name that a listing failed of.
fn bad_key(error: &Error) -> Option<&str> {
    match error {
        Error::InvalidPath { source: PathError::EmptySegment { path } } => Some(path),
        Error::InvalidPath { source: PathError::BadSegment { path, .. } } => Some(path),
        _ => None,
    }
}

/// The most keys of a page.
const PAGE: usize = 1000;

/// Where a list goes on.
#[derive(Clone)]
enum From {
    Start,
    /// Behind a key.
    Behind(String),
    /// Where a page said.
    Token(String),
}

/// Lists page by page. A page with a bad key is asked for again with half as many keys, until nothing but that key is
/// left of it; the list then goes on behind it.
async fn around(pages: &dyn PaginatedListStore, prefix: &Path, deep: bool) -> Result<FoundFiles, Error> {
    let folder = if prefix.is_root() { String::new() } else { format!("{prefix}/") };
    let (mut found, mut from, mut most) = (FoundFiles::default(), From::Start, PAGE);
    loop {
        let options = PaginatedListOptions {
            offset: if let From::Behind(key) = &from { Some(key.clone()) } else { None },
            page_token: if let From::Token(token) = &from { Some(token.clone()) } else { None },
            delimiter: (!deep).then_some(Cow::Borrowed("/")),
            max_keys: Some(most),
            ..PaginatedListOptions::default()
        };
        match pages.list_paginated(Some(folder.as_str()).filter(|folder| !folder.is_empty()), options).await {
            Ok(page) => {
                found.files.extend(page.result.objects);
                let Some(token) = page.page_token else { return Ok(found) };
                from = From::Token(token);
                most = (2 * most).min(PAGE);
            }
            Err(error) => match bad_key(&error) {
                Some(_) if most > 1 => most /= 2,
                Some(key) => {
                    let below = key.strip_prefix(&folder).unwrap_or(key);
                    found.odd.push((Aside::BadName, below.to_owned()));
                    from = From::Behind(behind(key, deep));
                }
                None => return Err(error),
            },
        }
    }
}

/// What the keys behind a bad one are greater than. A key that ends in `/` may stand for all that begin with it.
fn behind(key: &str, deep: bool) -> String {
    if !deep && key.ends_with('/') { format!("{key}{}", char::MAX) } else { key.to_owned() }
}

/// What tells a folder from all others.
type FolderId = (u64, u64);

/// A folder that is still to be looked into.
struct OpenFolder {
    path: PathBuf,
    /// Its path below the root, with a `/` behind it.
    below: String,
    /// It and the folders around it.
    around: Vec<FolderId>,
}

/// Walks a folder of the disk and follows links.
fn walk(root: &FsPath, deep: bool) -> io::Result<FoundFiles> {
    let mut found = FoundFiles::default();
    let around = root.ancestors().filter_map(|folder| Some(folder_id(&std::fs::metadata(folder).ok()?)));
    let around = around.collect();
    let mut open = vec![OpenFolder { path: root.to_owned(), below: String::new(), around }];
    while let Some(folder) = open.pop() {
        match std::fs::read_dir(&folder.path) {
            Ok(entries) => {
                for entry in entries {
                    let (inner, path) = (entry?.file_name(), &folder.path);
                    add(&mut found, &mut open, &folder, path.join(&inner), &inner.to_string_lossy(), deep);
                }
            }
            Err(error) if !folder.below.is_empty() => match error.kind() {
                io::ErrorKind::NotFound => {}
                _ => found.odd.push((Aside::Closed, folder.below.trim_end_matches('/').to_owned())),
            },
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => add_root(&mut found, root),
                _ => return Err(error),
            },
        }
    }
    Ok(found)
}

/// A place that is no folder and no file that can be read.
fn add_root(found: &mut FoundFiles, root: &FsPath) {
    let name = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match (std::fs::metadata(root), std::fs::symlink_metadata(root)) {
        (Err(_), Ok(_)) => found.odd.push((Aside::DeadLink, name)),
        (Ok(metadata), _) if !metadata.is_file() => found.odd.push((Aside::Special, name)),
        _ => {}
    }
}

fn add(
    found: &mut FoundFiles,
    open: &mut Vec<OpenFolder>,
    folder: &OpenFolder,
    path: PathBuf,
    name: &str,
    deep: bool,
) {
    let below = format!("{}{name}", folder.below);
    let location = path.to_str().and_then(|path| Path::parse(path.trim_start_matches('/')).ok());
    let metadata = match std::fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) => {
            let is_link = std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink());
            match error.kind() {
                _ if is_link => found.odd.push((Aside::DeadLink, below)),
                // It went while the folder was read.
                io::ErrorKind::NotFound => {}
                _ => found.odd.push((Aside::Closed, below)),
            }
            return;
        }
    };
    match location.filter(|_| !metadata.is_file() || can_be_read(name)) {
        None => found.odd.push((Aside::BadName, below)),
        Some(_) if metadata.is_dir() => {
            let id = folder_id(&metadata);
            if !deep {
                return;
            }
            if folder.around.contains(&id) {
                return found.odd.push((Aside::Loop, below));
            }
            let around = folder.around.iter().copied().chain([id]).collect();
            open.push(OpenFolder { path, below: format!("{below}/"), around });
        }
        Some(location) if metadata.is_file() => found.files.push(ObjectMeta {
            location,
            last_modified: Default::default(),
            size: metadata.len(),
            e_tag: e_tag(&metadata),
            version: None,
        }),
        Some(_) => found.odd.push((Aside::Special, below)),
    }
}

/// Whether the library below opens a file of this name: `name#12` is one of its unfinished uploads.
fn can_be_read(name: &str) -> bool {
    let number = name.split_once('#').map(|(_, number)| number).filter(|number| !number.is_empty());
    !number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The version of a file as the library below says it when the file is read. A test compares them.
#[cfg(unix)]
fn e_tag(metadata: &std::fs::Metadata) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let modified = (metadata.mtime() * 1_000_000 + metadata.mtime_nsec() / 1000).max(0);
    Some(format!("{:x}-{modified:x}-{:x}", metadata.ino(), metadata.len()))
}

#[cfg(unix)]
fn folder_id(metadata: &std::fs::Metadata) -> FolderId {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn e_tag(_: &std::fs::Metadata) -> Option<String> {
    None
}

/// Without numbers of folders a loop ends where its path is too long to be opened.
#[cfg(not(unix))]
fn folder_id(_: &std::fs::Metadata) -> FolderId {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    (0, NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use object_store::ListResult;
    use object_store::list::PaginatedListResult;

    use super::*;

    /// A store that lists keys as S3 does: a page fails as a whole of a key that is no path.
    struct Keys(Vec<&'static str>);

    #[async_trait]
    impl PaginatedListStore for Keys {
        async fn list_paginated(
            &self,
            prefix: Option<&str>,
            options: PaginatedListOptions,
        ) -> object_store::Result<PaginatedListResult> {
            let prefix = prefix.unwrap_or_default();
            let from = options.page_token.clone().or(options.offset.clone()).unwrap_or_default();
            let mut entries: Vec<String> = Vec::new();
            for key in self.0.iter().filter(|key| key.starts_with(prefix) && **key > from.as_str()) {
                let below = &key[prefix.len()..];
                let entry = match below.find('/').filter(|_| options.delimiter.is_some()) {
                    Some(end) => format!("{prefix}{}", &below[..=end]),
                    None => (*key).to_owned(),
                };
                // A token stands behind all of a common prefix.
                let was_given = options.page_token.is_some() && from.starts_with(&entry);
                if !was_given && !entries.contains(&entry) {
                    entries.push(entry);
                }
            }
            entries.sort();
            let most = options.max_keys.unwrap_or(PAGE);
            let page_token = (entries.len() > most).then(|| format!("{}\u{1}", entries[most - 1]));
            entries.truncate(most);
            let mut result = ListResult { common_prefixes: Vec::new(), objects: Vec::new() };
            for entry in entries {
                let location = Path::parse(&entry)?;
                match entry.ends_with('/') && options.delimiter.is_some() {
                    true => result.common_prefixes.push(location),
                    false => result.objects.push(ObjectMeta {
                        location,
                        last_modified: Default::default(),
                        size: 1,
                        e_tag: None,
                        version: None,
                    }),
                }
            }
            Ok(PaginatedListResult { result, page_token })
        }
    }

    fn names(found: &FoundFiles) -> (Vec<&str>, Vec<&str>) {
        let files = found.files.iter().map(|file| file.location.as_ref()).collect();
        (files, found.odd.iter().map(|(_, name)| name.as_str()).collect())
    }

    #[tokio::test]
    async fn a_list_goes_on_around_keys_that_are_no_paths() {
        let keys = vec![
            "other/a.jsonl",
            "raw/",
            "raw/../up.jsonl",
            "raw//c.bin",
            "raw//d/e.bin",
            "raw/Icon\r",
            "raw/a.jsonl",
            "raw/b.jsonl",
            "raw/sub//x.jsonl",
            "raw/sub/y.jsonl",
            "raw/tab\t",
            "raw/z.jsonl",
        ];
        let found = around(&Keys(keys.clone()), &Path::from("raw"), true).await.expect("lists");
        let files = vec!["raw", "raw/a.jsonl", "raw/b.jsonl", "raw/sub/y.jsonl", "raw/z.jsonl"];
        let odd = vec!["../up.jsonl", "/c.bin", "/d/e.bin", "Icon\r", "sub//x.jsonl", "tab\t"];
        assert_eq!(names(&found), (files, odd));
        let found = around(&Keys(keys), &Path::from("raw"), false).await.expect("lists");
        let files = vec!["raw/a.jsonl", "raw/b.jsonl", "raw/z.jsonl"];
        assert_eq!(names(&found), (files, vec!["../", "/", "Icon\r", "tab\t"]));
    }

    /// What is walked here is what the library lists, to the version of each file.
    #[cfg(unix)]
    #[tokio::test]
    async fn a_walk_finds_what_the_library_lists_and_names_the_rest() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("deep/er")).expect("folders");
        for name in ["a 1.txt", "deep/ü.txt", "deep/er/c", "deep/.hidden"] {
            std::fs::write(at(name), name).expect("a file");
        }
        symlink(at("a 1.txt"), at("link.txt")).expect("a link");
        symlink(at("deep"), at("deeper")).expect("a link");
        let store = object_store::local::LocalFileSystem::new();
        let prefix = Path::from_absolute_path(folder.path()).expect("a path");
        let mut theirs: Vec<ObjectMeta> = store.list(Some(&prefix)).try_collect().await.expect("lists");
        let mut ours = list(&store, || None, &prefix, true).await.expect("lists");
        let key = |meta: &ObjectMeta| (meta.location.clone(), meta.size, meta.e_tag.clone());
        theirs.sort_by_key(key);
        ours.files.sort_by_key(key);
        let show = |metas: &[ObjectMeta]| metas.iter().map(key).collect::<Vec<_>>();
        assert_eq!(show(&ours.files), show(&theirs));
        assert!(ours.odd.is_empty() && theirs.len() == 8, "{ours:?}");

        symlink(at("nowhere"), at("dead.txt")).expect("a link");
        symlink(folder.path(), at("deep/loop")).expect("a link");
        std::os::unix::net::UnixListener::bind(at("socket")).expect("a socket");
        std::fs::write(at("line\nend.txt"), "").expect("a file");
        std::fs::write(at("a#1"), "").expect("a file");
        use std::os::unix::ffi::OsStrExt;
        std::fs::write(folder.path().join(std::ffi::OsStr::from_bytes(b"\xff.txt")), "").expect("a file");
        let mut found = list(&store, || None, &prefix, true).await.expect("lists");
        assert_eq!(found.files.len(), 8);
        found.odd.sort();
        let expected = [
            (Aside::DeadLink, "dead.txt"),
            (Aside::Loop, "deep/loop"),
            (Aside::Loop, "deeper/loop"),
            (Aside::Special, "socket"),
            (Aside::BadName, "a#1"),
            (Aside::BadName, "line\nend.txt"),
            (Aside::BadName, "\u{fffd}.txt"),
        ];
        assert_eq!(found.odd, expected.map(|(why, name)| (why, name.to_owned())));
        let found = list(&store, || None, &prefix, false).await.expect("lists");
        assert_eq!(found.files.len(), 2, "subfolders are left alone");
        let dead = prefix.clone().join("dead.txt");
        let found = list(&store, || None, &dead, true).await.expect("lists");
        assert_eq!(found.odd, [(Aside::DeadLink, "dead.txt".to_owned())]);
    }
}
