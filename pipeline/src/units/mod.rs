//! From addresses to units of work.
//!
//! A source's files are sorted by the bytes of their path below the fixed prefix of its glob, and runs of consecutive
//! files up to `unit-bytes` form a unit. A unit is read, packed and committed alone, so the units decide where rows
//! end, and they come from names and sizes only: not from the number of cores or machines, nor from where the root
//! of the corpus lies. A larger file of JSON lines, Parquet or Arrow (the file form) is cut into parts, at lines, row
//! groups or record batches; lines get their numbers when they are read ([`crate::read::lines`]). Compressed lines and
//! archives are not cut. The cost of that choice: at most one unfinished row a unit and, with best-fit packing, the
//! padding of the rows that are open when it ends.

mod braces;
mod folder;
pub(crate) mod names;
pub(crate) mod passed;
mod walk;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::list::PaginatedListStore;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use rayon::ThreadPool;

use crate::PipelineError;
use crate::config::{Format, SourceConfig};
use crate::document::Shape;
use crate::engine::memory::Memory;
use crate::host::error::BoxError;
use crate::host::passed_over::PassedOver;
use crate::host::stop::Stop;
use crate::host::threads::blocking;
use crate::read::tar::is_picture;
use crate::read::{Input, ipc, json, parquet, stream};
use crate::storage::commit::{Location, is_written};
use crate::units::braces::expand;
use crate::units::folder::{Below, OPTIONS, TABLES};
use crate::units::names::{extension, is_hidden, stem};
use crate::units::passed::{Aside, Passed};
use crate::units::walk::{is_disk, on_disk};

/// Turns an address into a store and a path in it. The path may hold glob characters, unescaped.
pub trait Resolver: Send + Sync {
    /// Opens the store of `uri`.
    ///
    /// # Errors
    ///
    /// If the address is of no known kind or the store can't be set up.
    fn resolve(&self, uri: &str) -> Result<(Arc<dyn ObjectStore>, Path), BoxError>;

    /// The same store by single pages of its list, where it has such: a list of many keys fails as a whole where one of
    /// them can't be a path, and is then asked for around that key.
    fn pages(&self, _uri: &str) -> Option<Arc<dyn PaginatedListStore>> {
        None
    }
}

/// What sources are planned with.
#[derive(Clone, Copy)]
pub(crate) struct Planning<'a> {
    /// Shared by all that the job reads.
    pub(crate) memory: &'a Arc<Memory>,
    /// What computes.
    pub(crate) pool: &'a Arc<ThreadPool>,
    pub(crate) resolver: &'a dyn Resolver,
    /// Where the job writes, if it writes.
    pub(crate) output: Option<&'a Location>,
    pub(crate) stop: &'a Stop,
}

/// One file of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputFile {
    /// Where it lies in its store.
    pub(crate) path: Path,
    /// Its path below the source's fixed prefix: its name in the dataset.
    pub(crate) below: String,
    /// Its size; of a picture with that of the caption and the fields beside it.
    pub(crate) bytes: u64,
    /// What the store says of its version.
    pub(crate) e_tag: Option<String>,
    /// Its form.
    pub(crate) format: Format,
    /// What is read of it; all of it if `None`.
    pub(crate) part: Option<FilePart>,
}

/// A part of a large file: bytes of lines, row groups, or record batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FilePart {
    /// First byte, row group or record batch. A line belongs to the part that it starts in.
    pub(crate) start: u64,
    /// The one behind the last.
    pub(crate) end: u64,
    /// Number of the first row of the part; `None` where the lines before it are still to be counted.
    pub(crate) first_row: Option<u64>,
}

/// The files of a source.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    /// The store that they lie in.
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The glob below the fixed prefix, or the file's name: the address without its root.
    pub(crate) pattern: String,
    /// The files, sorted by the bytes of `below`; behind those of an earlier version of the dataset, if there is one.
    pub(crate) files: Vec<InputFile>,
    /// Extensions, as they are written, of the captions and fields beside pictures.
    pub(crate) beside: Vec<String>,
    /// What the address leads to and is not read.
    pub(crate) passed: Vec<PassedOver>,
}

impl Listing {
    /// A single file.
    fn one(store: Arc<dyn ObjectStore>, pattern: String, file: InputFile) -> Self {
        let beside =
            if file.format == Format::Pictures { BESIDE.map(str::to_owned).to_vec() } else { Vec::new() };
        Self { store, pattern, files: vec![file], beside, passed: Vec::new() }
    }
}

/// What may stand beside a single picture.
const BESIDE: [&str; 3] = ["caption", "json", "txt"];

/// A run of consecutive files of one source that is packed alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Its name: the source's, and a hash of the files' names and sizes.
    pub(crate) id: String,
    /// Index of the source.
    pub(crate) source: u16,
    /// Indexes of its files in the source's listing.
    pub(crate) files: Range<usize>,
    /// The size of what is read.
    pub(crate) bytes: u64,
    /// The part of its only file, where that is a large one.
    pub(crate) part: Option<FilePart>,
    /// The rows that are read, by index of the file in the unit; all of them if `None`.
    pub(crate) only: Option<Rows>,
}

/// Rows by index of their file in a unit.
pub(crate) type Rows = BTreeMap<u32, BTreeSet<u64>>;

impl Unit {
    /// What it reads.
    pub(crate) fn inputs(&self, files: &[InputFile]) -> Vec<InputFile> {
        let file = |file: &InputFile| InputFile { part: self.part, ..file.clone() };
        files[self.files.clone()].iter().map(file).collect()
    }
}

/// The names of the files of units.
#[derive(Debug, Default)]
pub(crate) struct UnitFiles(HashMap<String, Vec<String>>);

impl UnitFiles {
    pub(crate) fn new<'a>(units: impl IntoIterator<Item = &'a Unit>, listing: &Listing) -> Self {
        let names =
            |unit: &Unit| listing.files[unit.files.clone()].iter().map(|file| file.below.clone()).collect();
        Self(units.into_iter().map(|unit| (unit.id.clone(), names(unit))).collect())
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

const GLOB: [char; 4] = ['*', '?', '[', '{'];

/// Those of them that stand in names of files too.
const IN_NAMES: [char; 2] = ['[', '{'];

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
    if !text.is_empty()
        && (!text.contains(GLOB) || text.contains(IN_NAMES))
        && let Some(meta) = head(&*store, &path).await?
    {
        let (prefix, name) = parent_and_name(&text);
        let file = input_file(source, &prefix, meta)?;
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
    let found =
        walk::list(&*store, || resolver.pages(&source.uri), &prefix, deep).await.map_err(|error| {
            PipelineError::List { name: source.name.clone(), uri: source.uri.clone(), source: error }
        })?;
    let mut metas = found.files;
    if let Some(output) = output.filter(|output| is_elsewhere_than_root(output, &*store)) {
        metas.retain(|meta| {
            !is_written(&below(&output.prefix, &meta.location))
                || !meta.location.prefix_matches(&output.prefix)
        });
    }
    let nearby: Vec<String> = metas.iter().take(5).map(|meta| below(&prefix, &meta.location)).collect();
    let sizes = beside(&metas, &prefix, source.shape);
    let mut passed = Passed::default();
    let chosen = if pattern.is_empty() {
        let files = metas.into_iter().map(|meta| (below(&prefix, &meta.location), meta));
        found.odd.iter().for_each(|(why, name)| passed.add(*why, name));
        visible(files, &mut passed)
    } else {
        let matched = matching(metas, found.odd, &prefix, &patterns, &mut passed);
        matched.map_err(|error| unmatched(source, &pattern, error, &nearby))?
    };
    let unclear = |unclear: folder::Unclear| PipelineError::Unclear {
        name: source.name.clone(),
        uri: source.uri.clone(),
        of: unclear.of,
        kinds: unclear.kinds,
    };
    let chosen = match patterns.iter().all(|pattern| folder::names_a_form(pattern)) && !pattern.is_empty() {
        true => chosen,
        false => folder::choose(source, chosen, &mut passed).map_err(unclear)?,
    };
    let passed = passed.of_source(&source.name);
    if chosen.is_empty() {
        let (name, uri) = (source.name.clone(), source.uri.clone());
        return Err(PipelineError::NoFiles { name, uri, nearby, passed });
    }
    let stems = sizes.stems(&chosen);
    // What stands beside a picture belongs to it, whatever a glob says.
    let own = chosen.into_iter().filter(|(below, _)| !folder::is_beside(below, &stems));
    let files = own.map(|(_, meta)| {
        let file = input_file(source, &prefix, meta)?;
        let of_beside = sizes.bytes(&file);
        Ok(InputFile { bytes: file.bytes + of_beside, ..file })
    });
    let files = sorted(files.collect::<Result<_, PipelineError>>()?);
    Ok(Listing { store, pattern, files, beside: sizes.extensions(&stems), passed })
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

/// Patterns that one address may stand for by its braces.
const MOST_GLOBS: usize = 1000;

/// Why a glob leads to no files.
enum Unmatched {
    /// It is none.
    Pattern(glob::PatternError),
    /// A file that its braces name is not there.
    Name(String),
    /// Each of its choices would have to be compared with each file.
    TooMany,
}

/// What a person is told of it.
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

/// Globs and whole names, as the braces of an address give them.
struct Patterns<'a> {
    /// With what they were made of.
    globs: Vec<(glob::Pattern, &'a str)>,
    /// Whether each of the names has been met.
    names: HashMap<&'a str, bool>,
}

/// Whether a path is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Yes,
    /// Some glob would match it, were a part of it not hidden.
    Hidden,
    No,
}

impl<'a> Patterns<'a> {
    fn new(patterns: &'a [String]) -> Result<Self, Unmatched> {
        let (globs, names): (Vec<&String>, Vec<&String>) =
            patterns.iter().partition(|pattern| pattern.contains(GLOB));
        if globs.len() > MOST_GLOBS {
            return Err(Unmatched::TooMany);
        }
        let glob = |pattern: &'a String| {
            let glob = glob::Pattern::new(&pattern.replace("[^", "[!")).map_err(Unmatched::Pattern)?;
            Ok((glob, pattern.as_str()))
        };
        let globs = globs.into_iter().map(glob).collect::<Result<_, _>>()?;
        Ok(Self { globs, names: names.into_iter().map(|name| (name.as_str(), false)).collect() })
    }

    fn ask(&mut self, path: &str) -> Asked {
        if let Some(met) = self.names.get_mut(path) {
            *met = true;
            return Asked::Yes;
        }
        let whatever = glob::MatchOptions { require_literal_leading_dot: false, ..OPTIONS };
        let mut asked = Asked::No;
        let matches = |(glob, _): &&(glob::Pattern, &str)| glob.matches_with(path, whatever);
        for (_, pattern) in self.globs.iter().filter(matches) {
            asked = Asked::Hidden;
            if folder::asks_for_hidden(pattern, path) {
                return Asked::Yes;
            }
        }
        asked
    }
}

/// The files that match one of the patterns. What is asked for by its whole name and missing is not passed over.
fn matching(
    metas: Vec<ObjectMeta>,
    odd: Vec<(Aside, String)>,
    prefix: &Path,
    patterns: &[String],
    passed: &mut Passed,
) -> Result<Vec<Below>, Unmatched> {
    let mut wanted = Patterns::new(patterns)?;
    let mut chosen = Vec::new();
    for meta in metas {
        let below = below(prefix, &meta.location);
        match wanted.ask(&below) {
            Asked::Yes => chosen.push((below, meta)),
            Asked::Hidden => passed.add(Aside::Hidden, &below),
            Asked::No => {}
        }
    }
    if let Some(missing) = patterns.iter().find(|pattern| wanted.names.get(pattern.as_str()) == Some(&false))
    {
        return Err(Unmatched::Name(missing.clone()));
    }
    for (why, name) in odd {
        // Of a folder nobody knows what it would have held.
        if matches!(why, Aside::Loop | Aside::Closed) || wanted.ask(&name) != Asked::No {
            passed.add(why, &name);
        }
    }
    Ok(chosen)
}

/// What stands beside pictures: bytes by the path without an extension, and how the extensions are written.
#[derive(Default)]
struct Beside(HashMap<String, (u64, BTreeSet<String>)>);

/// What may stand beside the pictures of files, of a source of pairs.
fn beside(metas: &[ObjectMeta], prefix: &Path, shape: Shape) -> Beside {
    let mut beside = Beside::default();
    if shape != Shape::Pair {
        return beside;
    }
    let is_it = |path: &str| extension(path).is_some_and(|extension| is_picture(&extension.name));
    let stem_of = |meta: &ObjectMeta| Some(stem(&below(prefix, &meta.location))?.0.to_owned());
    let pictures = metas.iter().filter(|meta| is_it(meta.location.as_ref()));
    let stems: HashSet<String> = pictures.filter_map(stem_of).collect();
    for meta in metas {
        let path = below(prefix, &meta.location);
        if let Some((stem, extension)) = stem(&path).filter(|_| folder::is_beside(&path, &stems)) {
            let (bytes, extensions) = beside.0.entry(stem.to_owned()).or_default();
            *bytes += meta.size;
            extensions.insert(extension.to_owned());
        }
    }
    beside
}

impl Beside {
    /// The paths of chosen pictures without their extensions.
    fn stems(&self, chosen: &[Below]) -> HashSet<String> {
        let is_it = |path: &str| extension(path).is_some_and(|extension| is_picture(&extension.name));
        let stems = chosen.iter().filter(|(below, _)| is_it(below)).filter_map(|(below, _)| stem(below));
        stems.map(|(stem, _)| stem.to_owned()).filter(|stem| self.0.contains_key(stem)).collect()
    }

    /// Bytes that stand beside a picture.
    fn bytes(&self, file: &InputFile) -> u64 {
        if file.format != Format::Pictures {
            return 0;
        }
        stem(&file.below).and_then(|(stem, _)| self.0.get(stem)).map_or(0, |(bytes, _)| *bytes)
    }

    /// The extensions of what stands beside these pictures.
    fn extensions(&self, stems: &HashSet<String>) -> Vec<String> {
        let extensions: BTreeSet<&String> =
            stems.iter().filter_map(|stem| self.0.get(stem)).flat_map(|(_, extensions)| extensions).collect();
        extensions.into_iter().cloned().collect()
    }
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

/// A path of a store as a person writes it.
pub(crate) fn shown(store: &dyn ObjectStore, path: &Path) -> String {
    if store.to_string() == "LocalFileSystem(file:///)" { format!("/{path}") } else { path.to_string() }
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
    let unknown =
        || PipelineError::UnknownFormat { name: source.name.clone(), path: meta.location.to_string() };
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

/// The form that a source says its files have, or that the name of a file tells.
pub(crate) fn format_of(source: &SourceConfig, path: &str) -> Option<Format> {
    source.format.or_else(|| form_of(source.shape, path))
}

/// The form that the name of a file tells, in a source of this shape.
pub(crate) fn form_of(shape: Shape, path: &str) -> Option<Format> {
    let extension = extension(path)?;
    match extension.name.as_str() {
        "json" if shape == Shape::Pair && !extension.compressed => Some(Format::Coco),
        "jsonl" | "ndjson" | "json" => Some(Format::JsonLines),
        "csv" | "tsv" => Some(Format::Csv),
        "txt" | "text" | "md" => Some(Format::Text),
        "parquet" if !extension.compressed => Some(Format::Parquet),
        "arrow" | "arrows" | "feather" | "ipc" => Some(Format::Arrow),
        "tar" | "tgz" => Some(Format::Tar),
        "warc" | "wet" | "wat" => Some(Format::Warc),
        name if shape == Shape::Pair && is_picture(name) && !extension.compressed => Some(Format::Pictures),
        _ => None,
    }
}

fn parent_and_name(path: &str) -> (Path, String) {
    match path.rsplit_once('/') {
        Some((parent, name)) => (raw_path(parent), name.to_owned()),
        None => (Path::default(), path.to_owned()),
    }
}

fn raw_path(text: &str) -> Path {
    // The text is a part of a valid path, so it is one.
    Path::parse(text).unwrap_or_default()
}

/// The fixed segments before the first one with a glob character, and the rest.
fn split_glob(path: &str) -> (Path, String) {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let fixed = segments.iter().position(|segment| segment.contains(GLOB)).unwrap_or(segments.len());
    (raw_path(&segments[..fixed].join("/")), segments[fixed..].join("/"))
}

fn below(prefix: &Path, path: &Path) -> String {
    let (prefix, path) = (prefix.as_ref(), path.as_ref());
    path.strip_prefix(prefix).unwrap_or(path).trim_start_matches('/').to_owned()
}

/// Groups files into units, from the file `from` on, and cuts large ones.
pub(crate) async fn plan_units(
    name: &str,
    source: u16,
    listing: &Listing,
    from: usize,
    input: &Input,
    unit_bytes: u64,
) -> Result<Vec<Unit>, PipelineError> {
    let mut units = Vec::new();
    for mut whole in group(name, source, &listing.files[from..], unit_bytes) {
        whole.files = whole.files.start + from..whole.files.end + from;
        let file = &listing.files[whole.files.start];
        let parts = match file.format {
            _ if whole.bytes <= unit_bytes || whole.files.len() > 1 => Vec::new(),
            Format::JsonLines => line_parts(input, file, unit_bytes).await?,
            Format::Parquet | Format::Arrow => group_parts(input, file, unit_bytes).await?,
            _ => Vec::new(),
        };
        if parts.len() < 2 {
            units.push(whole);
            continue;
        }
        units.extend(parts.into_iter().map(|(part, bytes)| {
            let mut hasher = unit_hasher(std::slice::from_ref(file));
            hasher.update(&part.start.to_le_bytes());
            hasher.update(&part.end.to_le_bytes());
            Unit { id: unit_id(name, &hasher), bytes, part: Some(part), ..whole.clone() }
        }));
    }
    Ok(units)
}

/// Parts of a file of lines, none if it is compressed or no lines but a list.
async fn line_parts(
    input: &Input,
    file: &InputFile,
    bytes: u64,
) -> Result<Vec<(FilePart, u64)>, PipelineError> {
    let first = stream::get_range(input, file, 0..file.bytes.min(json::FIRST_BYTES as u64)).await?;
    if stream::is_compressed(&first) || json::spans_lines(file, &first) {
        return Ok(Vec::new());
    }
    let starts: Vec<u64> = (0..file.bytes).step_by(usize::try_from(bytes).unwrap_or(usize::MAX)).collect();
    let part = |start: u64| {
        let end = start.saturating_add(bytes).min(file.bytes);
        (FilePart { start, end, first_row: (start == 0).then_some(0) }, end - start)
    };
    Ok(starts.into_iter().map(part).collect())
}

/// Parts of a file that has groups of rows, none if it can't be opened.
async fn group_parts(
    input: &Input,
    file: &InputFile,
    bytes: u64,
) -> Result<Vec<(FilePart, u64)>, PipelineError> {
    let (reading, reader) = (input.clone(), file.clone());
    let groups = blocking(move || match reader.format {
        Format::Arrow => ipc::batches(&reading, &reader),
        _ => parquet::row_groups(&reading, &reader),
    })
    .await?;
    let mut parts: Vec<(FilePart, u64)> = Vec::new();
    let mut row = 0;
    for (index, (size, rows)) in groups.into_iter().enumerate() {
        let first_row = Some(row);
        match parts.last_mut() {
            Some((part, total)) if *total + size <= bytes => {
                part.end += 1;
                *total += size;
            }
            _ => parts.push((FilePart { start: index as u64, end: index as u64 + 1, first_row }, size)),
        }
        row += rows;
    }
    Ok(parts)
}

/// Runs of consecutive files.
fn group(name: &str, source: u16, files: &[InputFile], unit_bytes: u64) -> Vec<Unit> {
    let mut units = Vec::new();
    let mut start = 0;
    let mut bytes = 0;
    for (index, file) in files.iter().enumerate() {
        if index > start && bytes + file.bytes > unit_bytes {
            units.push(unit(name, source, files, start..index));
            (start, bytes) = (index, 0);
        }
        bytes += file.bytes;
    }
    if start < files.len() {
        units.push(unit(name, source, files, start..files.len()));
    }
    units
}

fn unit(name: &str, source: u16, files: &[InputFile], range: Range<usize>) -> Unit {
    let own = &files[range.clone()];
    let bytes = own.iter().map(|file| file.bytes).sum();
    Unit { id: unit_id(name, &unit_hasher(own)), source, files: range, bytes, part: None, only: None }
}

fn unit_hasher(files: &[InputFile]) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    for file in files {
        hasher.update(&(file.below.len() as u64).to_le_bytes());
        hasher.update(file.below.as_bytes());
        hasher.update(&file.bytes.to_le_bytes());
    }
    hasher
}

/// The name of a unit of a source.
pub(crate) fn unit_id(name: &str, hasher: &blake3::Hasher) -> String {
    format!("{name}-{}", &hasher.finalize().to_hex().as_str()[..16])
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

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

    #[test]
    fn units_depend_on_names_and_sizes_only() {
        let file = |below: &str, bytes, root: &str| InputFile {
            path: Path::from(format!("{root}/{below}")),
            below: below.to_owned(),
            bytes,
            e_tag: None,
            format: Format::Text,
            part: None,
        };
        let files =
            |root| vec![file("a", 60, root), file("b", 40, root), file("c", 1, root), file("d", 500, root)];
        let units = group("s", 0, &files("here"), 100);
        assert_eq!(units.iter().map(|unit| unit.files.clone()).collect::<Vec<_>>(), [0..2, 2..3, 3..4]);
        assert_eq!(units, group("s", 0, &files("elsewhere"), 100));
        assert_ne!(units[0].id, group("s", 0, &files("here")[..1], 100)[0].id);
    }
}
