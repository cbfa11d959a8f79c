//! Lists the files of a source: by a glob, by name, or all that a folder has of its data.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::aside::{Aside, Passed};
use super::beside::{BESIDE, beside};
use super::braces::expand;
use super::folder::{self, Below, TABLES};
use super::form::format_of;
use super::names::{foreign, is_hidden};
use super::patterns::{
    GLOB, IN_NAMES, MOST_GLOBS, Unmatched, below, matching, parent_and_name, raw_path, split_glob,
};
use super::walk::{self, is_disk, on_disk};
use super::{InputFile, Listing};
use crate::PipelineError;
use crate::config::{Format, SourceConfig};
use crate::storage::location::{Location, is_written};
use crate::storage::resolver::{Resolver, shown};

impl Listing {
    /// A single file.
    fn one(store: Arc<dyn ObjectStore>, pattern: String, file: InputFile) -> Self {
        let beside =
            if file.format == Format::Pictures { BESIDE.map(str::to_owned).to_vec() } else { Vec::new() };
        Self { store, pattern, files: vec![file], beside, passed: Vec::new() }
    }
}

/// Lists the files of a source. What lies below `output`, where the job writes, is none of them.
///
/// # Errors
///
/// If the address can't be opened, nothing matches it, or a file has a form that is not known.
pub(crate) async fn list(
    source: &SourceConfig,
    resolver: &dyn Resolver,
    output: Option<&Location>,
) -> Result<Listing, PipelineError> {
    let address =
        |error| PipelineError::Address { name: source.name.clone(), uri: source.uri.clone(), source: error };
    let (store, path) = resolver.resolve(&source.uri).map_err(address)?;
    let text = path.to_string();
    if let Some(file) = named_file(source, &*store, &path).await? {
        let (_, name) = parent_and_name(&text);
        return Ok(Listing::one(store, name, file));
    }
    let (prefix, pattern) = split_glob(&text);
    let patterns = expand(&pattern).map_err(|error| address(Box::new(error)))?;
    if is_web(&source.uri) {
        let files = web_files(source, &*store, &prefix, &text, &patterns).await?;
        return Ok(Listing { store, pattern, files, beside: Vec::new(), passed: Vec::new() });
    }
    if pattern.is_empty()
        && source.shape.has_images()
        && let Some(meta) = table_of(&*store, &prefix).await?
    {
        return Ok(Listing::one(store, pattern, input_file(source, &prefix, meta)?));
    }
    // Subfolders that no file of the source can lie in are not looked into.
    let deep =
        pattern.is_empty() || patterns.iter().any(|pattern| pattern.contains('/') || pattern.contains("**"));
    let found = walk::list(&*store, || resolver.pages(&source.uri), &prefix, deep).await;
    let mut found = found.map_err(|error| PipelineError::List {
        name: source.name.clone(),
        uri: source.uri.clone(),
        source: error,
    })?;
    if let Some(output) = output.filter(|output| is_elsewhere_than_root(output, &*store)) {
        found.files.retain(|meta| !is_of_output(output, meta));
    }
    let sizes = beside(&found.files, &prefix, source.shape);
    let mut passed = Passed::default();
    let chosen = choose(source, found, &prefix, (&pattern, &patterns), &mut passed)?;
    let stems = sizes.stems(&chosen);
    // What stands beside a picture belongs to it, whatever a glob says.
    let own = chosen.into_iter().filter(|(below, _)| !folder::is_beside(below, &stems));
    let files = own.map(|(_, meta)| {
        let file = input_file(source, &prefix, meta)?;
        let of_beside = sizes.bytes(&file);
        Ok(InputFile { bytes: file.bytes + of_beside, ..file })
    });
    let files = sorted(files.collect::<Result<_, PipelineError>>()?);
    let passed = passed.of_source(&source.name);
    Ok(Listing { store, pattern, files, beside: sizes.extensions(&stems), passed })
}

/// The file that an address names as it is written.
async fn named_file(
    source: &SourceConfig,
    store: &dyn ObjectStore,
    path: &Path,
) -> Result<Option<InputFile>, PipelineError> {
    let text = path.as_ref();
    if text.is_empty() || text.contains(GLOB) && !text.contains(IN_NAMES) {
        return Ok(None);
    }
    let (prefix, _) = parent_and_name(text);
    head(store, path).await?.map(|meta| input_file(source, &prefix, meta)).transpose()
}

/// The files below a place that are the source's.
fn choose(
    source: &SourceConfig,
    found: walk::FoundFiles,
    prefix: &Path,
    (pattern, patterns): (&str, &[String]),
    passed: &mut Passed,
) -> Result<Vec<Below>, PipelineError> {
    let nearby: Vec<String> = found.files.iter().take(5).map(|meta| below(prefix, &meta.location)).collect();
    let chosen = if pattern.is_empty() {
        let files = found.files.into_iter().map(|meta| (below(prefix, &meta.location), meta));
        found.odd.iter().for_each(|(why, name)| passed.add(*why, name));
        visible(files, passed)
    } else {
        let matched = matching(found.files, found.odd, prefix, patterns, passed);
        matched.map_err(|error| unmatched(source, pattern, error, &nearby))?
    };
    let unclear = |unclear: folder::Unclear| PipelineError::Unclear {
        name: source.name.clone(),
        uri: source.uri.clone(),
        of: unclear.of,
        kinds: unclear.kinds,
    };
    let chosen = match patterns.iter().all(|pattern| folder::names_a_form(pattern)) && !pattern.is_empty() {
        true => chosen,
        false => folder::choose(source, chosen, passed).map_err(unclear)?,
    };
    if chosen.is_empty() {
        let (name, uri) = (source.name.clone(), source.uri.clone());
        let passed = passed.of_source(&source.name);
        return Err(PipelineError::NoFiles { name, uri, nearby, passed });
    }
    Ok(chosen)
}

/// Whether a job has written a file to its output.
fn is_of_output(output: &Location, meta: &ObjectMeta) -> bool {
    meta.location.prefix_matches(&output.prefix) && is_written(&below(&output.prefix, &meta.location))
}

/// Whether a job writes to a folder of the store, not to all of it.
fn is_elsewhere_than_root(output: &Location, store: &dyn ObjectStore) -> bool {
    !output.prefix.as_ref().is_empty() && output.store.to_string() == store.to_string()
}

fn sorted(mut files: Vec<InputFile>) -> Vec<InputFile> {
    files.sort_by(|a, b| a.below.as_bytes().cmp(b.below.as_bytes()));
    // Braces may name one twice.
    files.dedup_by(|a, b| a.below == b.below);
    files
}

/// The error of a glob that leads to no files.
fn unmatched(source: &SourceConfig, pattern: &str, error: Unmatched, nearby: &[String]) -> PipelineError {
    let expected = match error {
        Unmatched::Pattern(error) => format!("a glob that can be read ({})", error.msg),
        Unmatched::TooMany => {
            format!("braces that stand for at most {MOST_GLOBS} patterns with `*`, `?` or `[..]`")
        }
        Unmatched::Name(name) => return no_file(source, pattern, &name, nearby.to_vec()),
    };
    let key = format!("source.{}.uri", source.name);
    PipelineError::Config { key, expected, found: format!("`{}`", source.uri) }
}

/// A file that is named by the braces of an address and is not there.
fn no_file(source: &SourceConfig, pattern: &str, name: &str, nearby: Vec<String>) -> PipelineError {
    let root = source.uri.strip_suffix(pattern).unwrap_or_default();
    let (uri, passed) = (format!("{root}{name}"), Vec::new());
    PipelineError::NoFiles { name: source.name.clone(), uri, nearby, passed }
}

/// The files without a hidden part in their paths.
fn visible(files: impl Iterator<Item = Below>, passed: &mut Passed) -> Vec<Below> {
    let mut visible = Vec::new();
    for (below, meta) in files {
        match below.split('/').any(is_hidden) {
            true => passed.add(Aside::Hidden, &below),
            false if below.is_empty() => {}
            false => visible.push((below, meta)),
        }
    }
    visible
}

/// The files that braces name on a web server, which lists nothing.
async fn web_files(
    source: &SourceConfig,
    store: &dyn ObjectStore,
    prefix: &Path,
    text: &str,
    patterns: &[String],
) -> Result<Vec<InputFile>, PipelineError> {
    if patterns.len() < 2 || patterns.iter().any(|pattern| pattern.contains(GLOB)) {
        return Err(not_exact(source, text));
    }
    let heads = futures::stream::iter(patterns).map(async |pattern| {
        let path = raw_path(&format!("{prefix}/{pattern}"));
        let missing = || no_file(source, &split_glob(text).1, pattern, Vec::new());
        input_file(source, prefix, head(store, &path).await?.ok_or_else(missing)?)
    });
    Ok(sorted(heads.buffered(WEB_REQUESTS).try_collect().await?))
}

/// Requests to a web server under way at a time while its files are looked up.
const WEB_REQUESTS: usize = 16;

fn is_web(uri: &str) -> bool {
    ["https://", "http://"].iter().any(|scheme| uri.starts_with(scheme))
}

/// Why an address of a web server, which lists nothing, leads to no file.
fn not_exact(source: &SourceConfig, path: &str) -> PipelineError {
    if !path.contains(GLOB) && !path.is_empty() && !source.uri.ends_with('/') {
        return PipelineError::NoFiles {
            name: source.name.clone(),
            uri: source.uri.clone(),
            nearby: Vec::new(),
            passed: Vec::new(),
        };
    }
    PipelineError::Config {
        key: format!("source.{}.uri", source.name),
        expected: "the exact address of one file, or of several by `{a,b}` or `{000..127}`: a web server does not list what it has".to_owned(),
        found: format!("`{}`", source.uri),
    }
}

/// Why a store refuses a file: its answer to a question about one has no room for the reason, that to a request of bytes has.
async fn why(store: &dyn ObjectStore, path: &Path, error: object_store::Error) -> object_store::Error {
    use object_store::Error::{PermissionDenied, Unauthenticated};
    match error {
        PermissionDenied { .. } | Unauthenticated { .. } => {
            store.get_range(path, 0..1).await.err().unwrap_or(error)
        }
        error => error,
    }
}

async fn head(store: &dyn ObjectStore, path: &Path) -> Result<Option<ObjectMeta>, PipelineError> {
    // Opening a pipe would wait for somebody who writes to it.
    if is_disk(store) && std::fs::metadata(on_disk(path)).is_ok_and(|metadata| !metadata.is_file()) {
        return Ok(None);
    }
    match store.head(path).await {
        Ok(meta) => Ok(Some(meta)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        // A folder on a disk.
        Err(object_store::Error::Generic { store: "LocalFileSystem", .. }) => Ok(None),
        Err(source) => {
            let source = why(store, path, source).await;
            Err(PipelineError::Store { operation: "read", path: shown(store, path), source })
        }
    }
}

/// The first table of captions that a folder has.
async fn table_of(store: &dyn ObjectStore, folder: &Path) -> Result<Option<ObjectMeta>, PipelineError> {
    for table in TABLES {
        if let Some(meta) = head(store, &folder.clone().join(table)).await? {
            return Ok(Some(meta));
        }
    }
    Ok(None)
}

fn input_file(source: &SourceConfig, prefix: &Path, meta: ObjectMeta) -> Result<InputFile, PipelineError> {
    let unknown = || {
        let path = meta.location.to_string();
        let foreign = foreign(&path).map(|(what, way_out)| format!("{what}: {way_out}"));
        PipelineError::UnknownFormat { name: source.name.clone(), path, foreign }
    };
    let format = format_of(source, meta.location.as_ref()).ok_or_else(unknown)?;
    let e_tag = meta.e_tag.filter(|tag| !tag.starts_with("W/"));
    Ok(InputFile {
        below: below(prefix, &meta.location),
        path: meta.location,
        bytes: meta.size,
        e_tag,
        format,
        part: None,
    })
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;
    use crate::config::Shape;
    use crate::host::error::BoxError;
    use crate::host::passed_over::PassedOver;

    struct InStore(Arc<dyn ObjectStore>);

    impl Resolver for InStore {
        fn resolve(&self, uri: &str) -> Result<(Arc<dyn ObjectStore>, Path), BoxError> {
            Ok((self.0.clone(), Path::parse(uri)?))
        }
    }

    async fn memory(paths: &[&str]) -> InStore {
        let store = Arc::new(InMemory::new());
        for path in paths {
            store.put(&Path::parse(path).expect("path"), "12345".into()).await.expect("put");
        }
        InStore(store)
    }

    fn source(uri: &str) -> SourceConfig {
        SourceConfig { name: "s".to_owned(), uri: uri.to_owned(), ..SourceConfig::default() }
    }

    fn names(listing: &Listing) -> Vec<&str> {
        listing.files.iter().map(|file| file.below.as_str()).collect()
    }

    #[tokio::test]
    async fn globs_match_below_the_fixed_prefix_and_sort_by_bytes() {
        let resolver =
            memory(&["a/b/x.jsonl", "a/b/é.jsonl", "a/b/Z 1.jsonl", "a/b/c/y.jsonl", "a/other.jsonl"]).await;
        let listing = list(&source("a/b/*.jsonl"), &resolver, None).await.expect("lists");
        assert_eq!(names(&listing), ["Z 1.jsonl", "x.jsonl", "é.jsonl"]);
        assert_eq!(listing.pattern, "*.jsonl");
        let listing = list(&source("a/**/*.jsonl"), &resolver, None).await.expect("lists");
        assert_eq!(names(&listing), ["b/Z 1.jsonl", "b/c/y.jsonl", "b/x.jsonl", "b/é.jsonl", "other.jsonl"]);
    }

    #[tokio::test]
    async fn hidden_files_and_deeper_folders_are_asked_for_by_name() {
        let resolver =
            memory(&["a/.h.jsonl", "a/b.jsonl", "a/^c.jsonl", "a/d/.e/x.jsonl", "a/d/y.jsonl"]).await;
        for (uri, expected) in [
            ("a/*.jsonl", &["^c.jsonl", "b.jsonl"][..]),
            ("a/.*.jsonl", &[".h.jsonl"]),
            ("a/[^b]*.jsonl", &["^c.jsonl"]),
            ("a/**/*.jsonl", &["^c.jsonl", "b.jsonl", "d/y.jsonl"]),
        ] {
            assert_eq!(names(&list(&source(uri), &resolver, None).await.expect("lists")), expected, "{uri}");
        }
        let error = list(&source("a/***.jsonl"), &resolver, None).await.expect_err("no glob").to_string();
        assert!(
            error.starts_with("`source.s.uri` is `a/***.jsonl`, expected a glob that can be read"),
            "{error}"
        );
    }

    /// A loop of links used to stop the job, and a link that leads nowhere vanished.
    #[cfg(unix)]
    #[tokio::test]
    async fn a_name_that_cannot_be_used_stops_nobody_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let deep = folder.path().join("deep");
        std::fs::create_dir(&deep).expect("a folder");
        std::fs::write(folder.path().join("a.jsonl"), "{}").expect("a file");
        std::os::unix::fs::symlink(&deep, deep.join("loop")).expect("a link");
        let store = Arc::new(object_store::local::LocalFileSystem::new());
        let resolver = InStore(store);
        let root = folder.path().display().to_string();
        let uri = |pattern: &str| format!("{}/{pattern}", root.trim_start_matches('/'));
        let listing = list(&source(&uri("*.jsonl")), &resolver, None).await.expect("lists");
        assert_eq!(names(&listing), ["a.jsonl"]);
        std::os::unix::fs::symlink("nowhere", folder.path().join("dead.jsonl")).expect("a link");
        for address in ["**/*.jsonl", ""] {
            let listing = list(&source(&uri(address)), &resolver, None).await.expect("lists");
            assert_eq!(names(&listing), ["a.jsonl"], "{address}");
            let passed: Vec<String> = listing.passed.iter().map(PassedOver::describe).collect();
            let dead = "1 link that leads nowhere (`dead.jsonl`)";
            assert_eq!(passed, [dead, "1 link to a folder around it (`deep/loop`)"]);
        }
        let listing = list(&source(&uri("a*.jsonl")), &resolver, None).await.expect("lists");
        assert!(listing.passed.is_empty(), "the glob does not ask for the link");
        for address in ["dead.jsonl", "d*.jsonl"] {
            let error = list(&source(&uri(address)), &resolver, None).await.expect_err("no file");
            assert!(error.hint().expect("a hint").contains("leads nowhere (`dead.jsonl`)"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn braces_name_files_and_forms() {
        let resolver = memory(&["a/x-08.tar", "a/x-09.tar", "a/x-10.tar", "a/b.txt", "a/c.jsonl"]).await;
        for (uri, expected) in [
            ("a/x-{09..10}.tar", &["x-09.tar", "x-10.tar"][..]),
            ("a/{x-08.tar,b.txt}", &["b.txt", "x-08.tar"]),
            ("a/{x-08,x-08,x-*}.tar", &["x-08.tar", "x-09.tar", "x-10.tar"]),
            ("a/*.{txt,csv,jsonl}", &["b.txt", "c.jsonl"]),
            ("{a/x-08,a/c}.{tar,jsonl}", &[]),
        ] {
            let found = list(&source(uri), &resolver, None).await;
            if let [_, ..] = expected {
                assert_eq!(names(&found.expect("lists")), expected, "{uri}");
                continue;
            }
            let error = found.expect_err("one is not there").to_string();
            assert_eq!(error, "source `s` has no files: nothing matches `a/x-08.jsonl`");
        }
        let error = list(&source("a/x-{08..12}.tar"), &resolver, None).await.expect_err("one is not there");
        assert_eq!(error.to_string(), "source `s` has no files: nothing matches `a/x-11.tar`");
        let error = list(&source("a/x-{0..99999999}.tar"), &resolver, None).await.expect_err("too many");
        assert!(format!("{error:?}").contains("TooMany"), "{error:?}");
        let error = list(&source("a/x-{0..2000}*.tar"), &resolver, None).await.expect_err("too many");
        assert!(error.to_string().contains("at most 1000 patterns"), "{error}");
    }

    #[tokio::test]
    async fn an_exact_file_is_named_by_its_own_name() {
        let resolver = memory(&["a/b/x [1].jsonl", "a/{b,c}.jsonl"]).await;
        for uri in ["a/b/x [1].jsonl", "a/{b,c}.jsonl"] {
            let listing = list(&source(uri), &resolver, None).await.expect("lists");
            assert_eq!(names(&listing), [uri.rsplit('/').next().expect("a name")]);
        }
    }

    #[tokio::test]
    async fn a_folder_is_its_table_or_its_files() {
        let resolver =
            memory(&["f/captions.jsonl", "f/a.png", "t/b.txt", "t/_SUCCESS", "t/.x.txt", "t/c.bin"]).await;
        let pairs = SourceConfig { shape: Shape::Pair, ..source("f") };
        assert_eq!(names(&list(&pairs, &resolver, None).await.expect("lists")), ["captions.jsonl"]);
        for (there, taken) in [
            (["f/metadata.csv", "f/captions.parquet"], "metadata.csv"),
            (["f/metadata.parquet", "f/a.jpg"], "metadata.parquet"),
            (["f/captions.csv", "f/metadata.jsonl"], "metadata.jsonl"),
        ] {
            let resolver = memory(&there).await;
            assert_eq!(names(&list(&pairs, &resolver, None).await.expect("lists")), [taken]);
        }
        let listing = list(&source("t"), &resolver, None).await.expect("lists");
        assert_eq!(names(&listing), ["b.txt"]);
        let passed: Vec<&[String]> = listing.passed.iter().map(|passed| passed.names.as_slice()).collect();
        assert_eq!(passed, [&[".x.txt".to_owned(), "_SUCCESS".to_owned()][..], &["c.bin".to_owned()]]);
    }

    /// A folder passed over what a glob took.
    #[tokio::test]
    async fn folders_and_globs_have_one_rule_for_hidden_names() {
        let resolver = memory(&["a/_a.jsonl", "a/b.jsonl", "a/_tmp/c.jsonl", "a/d/_e.jsonl"]).await;
        for (uri, taken, passed) in [
            ("a", &["b.jsonl"][..], 3),
            ("a/*", &["b.jsonl"], 1),
            ("a/*.jsonl", &["b.jsonl"], 1),
            ("a/**/*.jsonl", &["b.jsonl"], 3),
            ("a/_*.jsonl", &["_a.jsonl"], 0),
            ("a/{_a,b}.jsonl", &["_a.jsonl", "b.jsonl"], 0),
            ("a/_tmp", &["c.jsonl"], 0),
        ] {
            let listing = list(&source(uri), &resolver, None).await.expect("lists");
            assert_eq!(names(&listing), taken, "{uri}");
            assert_eq!(listing.passed.iter().map(|passed| passed.files).sum::<u64>(), passed, "{uri}");
        }
    }

    #[tokio::test]
    async fn nothing_found_names_what_is_nearby() {
        let resolver = memory(&["a/x.jsonl"]).await;
        let error = list(&source("a/*.tar"), &resolver, None).await.expect_err("nothing");
        assert_eq!(error.to_string(), "source `s` has no files: nothing matches `a/*.tar`");
        assert_eq!(error.hint().as_deref(), Some("there is `x.jsonl`"));
    }

    #[tokio::test]
    async fn a_web_server_is_asked_for_exact_addresses_only() {
        let resolver = memory(&["x.jsonl", "d/p-0.jsonl", "d/p-1.jsonl"]).await;
        struct Web(InStore);
        impl Resolver for Web {
            fn resolve(&self, uri: &str) -> Result<(Arc<dyn ObjectStore>, Path), BoxError> {
                self.0.resolve(uri.trim_start_matches("https://host/"))
            }
        }
        let web = Web(resolver);
        let listing = list(&source("https://host/x.jsonl"), &web, None).await.expect("lists");
        assert_eq!(names(&listing), ["x.jsonl"]);
        let listing = list(&source("https://host/d/p-{1,0,1}.jsonl"), &web, None).await.expect("lists");
        assert_eq!(names(&listing), ["p-0.jsonl", "p-1.jsonl"]);
        for (uri, expected) in [
            ("https://host/*.jsonl", "the exact address of one file"),
            ("https://host/folder/", "the exact address of one file"),
            ("https://host/y.jsonl", "has no files"),
            ("https://host/{x,*}.jsonl", "the exact address of one file"),
            ("https://host/d/p-{0..2}.jsonl", "nothing matches `https://host/d/p-2.jsonl`"),
        ] {
            let error = list(&source(uri), &web, None).await.expect_err("nothing").to_string();
            assert!(error.contains(expected), "{uri}: {error}");
        }
    }
}
