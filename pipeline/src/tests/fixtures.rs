//! What tests of jobs share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, RecordBatch, StringArray, StructArray};
use arrow::buffer::Buffer;
use arrow::datatypes::Field;
use arrow::ipc::writer::{FileWriter, StreamWriter};
use async_trait::async_trait;
use datafusion::parquet::arrow::ArrowWriter;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, UploadPart,
};
use schemas::shard::Shard;
use schemas::{Manifest, Row, Tokenizer, content_hash};

use crate::picture::codec::{CodecInfo, CodecMemory, ImageCodec, LatentBatch, RgbBatch};
use crate::storage::version::Version;
use crate::{
    BoxError, CodecConfig, Environment, Location, PipelineError, PreprocessConfig, PreprocessPlan,
    RejectLine, RejectTable, Report, Resolver, Shape, Silent, SourceConfig, TokenizerConfig, preprocess,
};

/// A codec without weights: the mean of squares of 4 x 4 pixels, three channels; log variance -3 everywhere.
#[derive(Debug)]
pub(crate) struct AveragePool {
    info: CodecInfo,
    /// Images that went through it.
    pub(crate) encoded: AtomicUsize,
}

const SIDE: usize = 4;

impl AveragePool {
    pub(crate) fn new() -> Self {
        let info = CodecInfo {
            fingerprint: "average-pool".to_owned(),
            kind: "AveragePool".to_owned(),
            channels: 3,
            downsampling: SIDE as u32,
            device: "cpu".to_owned(),
            processor: "any".to_owned(),
        };
        Self::of(info)
    }

    /// One that says to be this.
    pub(crate) fn of(info: CodecInfo) -> Self {
        Self { info, encoded: AtomicUsize::new(0) }
    }
}

impl ImageCodec for AveragePool {
    fn info(&self) -> &CodecInfo {
        &self.info
    }

    fn encode(&self, images: &RgbBatch, moments: bool) -> Result<LatentBatch, BoxError> {
        let (size, side) = (images.size, images.size / SIDE);
        self.encoded.fetch_add(images.images, Ordering::Relaxed);
        let mut values = Vec::with_capacity(images.images * 3 * side * side);
        for (index, plane) in images.values.chunks_exact(size * size).enumerate() {
            for row in 0..side {
                for column in 0..side {
                    let pixels = (0..SIDE * SIDE).map(|pixel| {
                        plane[(row * SIDE + pixel / SIDE) * size + column * SIDE + pixel % SIDE]
                    });
                    values.push(pixels.sum::<f32>() / (SIDE * SIDE) as f32);
                }
            }
            if moments && index % 3 == 2 {
                values.resize(values.len() + 3 * side * side, -3.0);
            }
        }
        Ok(LatentBatch { channels: 3, height: side, width: side, moments, values })
    }

    fn memory(&self, images: usize, size: usize) -> CodecMemory {
        CodecMemory { weights: 0, activations: (4 * images * 3 * (size / SIDE).pow(2)) as u64 }
    }
}

/// Byte pieces, the three specials, nothing else: every byte is an id, after one for the word boundary's three.
pub(crate) fn byte_tokenizer() -> Vec<u8> {
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let mut vocabulary = serde_json::Map::new();
    for (id, piece) in ["<unk>", "<s>", "</s>"].into_iter().enumerate() {
        vocabulary.insert(piece.to_owned(), id.into());
    }
    for byte in 0..256 {
        vocabulary.insert(format!("<0x{byte:02X}>"), (byte + 3).into());
    }
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocabulary, "merges": []},
    });
    json.to_string().into_bytes()
}

/// Addresses are paths in one store.
#[derive(Debug)]
pub(crate) struct OneStore(pub(crate) Arc<dyn ObjectStore>);

impl Resolver for OneStore {
    fn resolve(&self, uri: &str) -> Result<(Arc<dyn ObjectStore>, Path), BoxError> {
        Ok((self.0.clone(), Path::parse(uri)?))
    }
}

/// A corpus in memory, with the tokenizer at `tokenizer.json`.
pub(crate) async fn corpus(files: &[(&str, &[u8])]) -> Arc<dyn ObjectStore> {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    store.put(&Path::from("tokenizer.json"), byte_tokenizer().into()).await.expect("put");
    for (path, bytes) in files {
        store.put(&Path::parse(path).expect("a path"), bytes.to_vec().into()).await.expect("put");
    }
    store
}

/// A source of texts.
pub(crate) fn texts(name: &str, uri: &str) -> SourceConfig {
    SourceConfig { name: name.to_owned(), uri: uri.to_owned(), ..SourceConfig::default() }
}

/// A source of pairs.
pub(crate) fn pairs(name: &str, uri: &str) -> SourceConfig {
    SourceConfig { shape: Shape::Pair, ..texts(name, uri) }
}

/// A job with small rows.
pub(crate) fn config(sources: Vec<SourceConfig>) -> PreprocessConfig {
    let images = sources.iter().any(|source| source.shape.has_images());
    PreprocessConfig {
        context: 64,
        tokenizer: TokenizerConfig { model: Some("tokenizer.json".to_owned()), ..TokenizerConfig::default() },
        codec: images.then(|| CodecConfig { size: 16, patch: 1, batch: 5, ..CodecConfig::default() }),
        sources,
        max_reject_share: 1.0,
        ..PreprocessConfig::default()
    }
}

pub(crate) fn memory_output() -> Location {
    Location { store: Arc::new(InMemory::new()), prefix: Path::from("out/set"), local: None }
}

pub(crate) fn disk_output(folder: &std::path::Path) -> Location {
    let store = LocalFileSystem::new_with_prefix(folder).expect("a folder");
    Location { store: Arc::new(store), prefix: Path::from("out"), local: Some(folder.join("out")) }
}

/// How a job is run.
pub(crate) struct Job {
    pub(crate) inputs: Arc<dyn ObjectStore>,
    pub(crate) output: Location,
    pub(crate) threads: usize,
}

impl Job {
    pub(crate) fn new(inputs: &Arc<dyn ObjectStore>) -> Self {
        Self { inputs: inputs.clone(), output: memory_output(), threads: 2 }
    }

    pub(crate) fn environment(&self) -> Environment {
        let resolver = Arc::new(OneStore(self.inputs.clone()));
        let mut environment = Environment::new(resolver, self.output.clone(), self.threads);
        environment.codec = Some(Arc::new(AveragePool::new()));
        environment.lease_period = std::time::Duration::from_millis(20);
        environment
    }

    /// Runs refused rows again.
    pub(crate) async fn retry(&self, config: PreprocessConfig) -> Result<Report, PipelineError> {
        let environment = Environment { retry_rejects: true, ..self.environment() };
        preprocess(PreprocessPlan::try_new(config, environment).await?, Arc::new(Silent)).await
    }

    pub(crate) async fn plan(&self, config: PreprocessConfig) -> Result<PreprocessPlan, PipelineError> {
        PreprocessPlan::try_new(config, self.environment()).await
    }

    pub(crate) async fn run(&self, config: PreprocessConfig) -> Result<Report, PipelineError> {
        preprocess(self.plan(config).await?, Arc::new(Silent)).await
    }
}

/// Every file of an output but locks.
pub(crate) async fn files(output: &Location) -> BTreeMap<String, Vec<u8>> {
    let metas: Vec<_> = output.store.list(Some(&output.prefix)).try_collect().await.expect("lists");
    let mut files = BTreeMap::new();
    for meta in metas {
        let path = meta.location.as_ref();
        let name =
            path.strip_prefix(output.prefix.as_ref()).unwrap_or(path).trim_start_matches('/').to_owned();
        if name != ".lock" {
            let bytes = output.store.get(&meta.location).await.expect("reads").bytes().await.expect("reads");
            files.insert(name, bytes.to_vec());
        }
    }
    files
}

/// The newest version of a dataset's manifest.
pub(crate) async fn manifest(output: &Location) -> Manifest {
    Version::newest(output).await.expect("reads").expect("a manifest").manifest
}

/// All rows of a dataset, each with the names of its files.
pub(crate) async fn rows(output: &Location) -> Vec<(Row, Vec<String>)> {
    let mut rows = Vec::new();
    for record in manifest(output).await.shards {
        let bytes = output.read(&record.path).await.expect("reads").expect("a shard");
        assert_eq!(content_hash(&bytes), record.checksum);
        let shard = Shard::open(Buffer::from_vec(bytes.to_vec())).expect("a shard");
        for batch in 0..shard.batches() {
            let files = &shard.metadata().files;
            rows.extend(shard.rows(batch).expect("rows").into_iter().map(|row| (row, files.clone())));
        }
    }
    rows
}

/// The documents of a dataset: file, row, and text without markers; images as `#`.
pub(crate) async fn documents(output: &Location) -> Vec<(String, u64, String)> {
    let tokenizer = Tokenizer::from_bytes(&byte_tokenizer()).expect("a tokenizer");
    let vocabulary = manifest(output).await.vocabulary;
    let mut documents = Vec::new();
    for (row, files) in rows(output).await {
        for (index, range) in row.documents() {
            let source = &row.sources()[index];
            let runs =
                row.tokens()[range].chunk_by(|a, b| (*a == vocabulary.patch()) == (*b == vocabulary.patch()));
            let text = |run: &[u32]| {
                if run[0] == vocabulary.patch() {
                    return "#".to_owned();
                }
                let ids: Vec<u32> =
                    run.iter().copied().filter(|id| (3..vocabulary.size).contains(id)).collect();
                tokenizer.decode(&ids)
            };
            documents.push((files[source.file as usize].clone(), source.row, runs.map(text).collect()));
        }
    }
    documents.sort();
    documents
}

/// The lines of all tables of refused rows, by file and row.
pub(crate) async fn reject_lines(output: &Location) -> Vec<RejectLine> {
    let files = files(output).await;
    let tables = files.into_iter().filter(|(name, _)| name.starts_with("rejects/"));
    let table = |bytes: Vec<u8>| RejectTable::open(bytes.into()).expect("a table");
    let mut lines: Vec<RejectLine> =
        tables.flat_map(|(_, bytes)| table(bytes)).flat_map(|lines| lines.expect("rows")).collect();
    lines.sort_by(|a, b| (&a.file, a.row).cmp(&(&b.file, b.row)));
    lines
}

/// The rejects of a dataset: file, row, reason.
pub(crate) async fn rejects(output: &Location) -> Vec<(String, u64, String)> {
    let lines = reject_lines(output).await.into_iter();
    let mut rejects: Vec<_> = lines.map(|line| (line.file, line.row, line.reason)).collect();
    rejects.sort();
    rejects
}

/// An upload whose parts fail from a given one on.
#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    parts: usize,
    aborted: Arc<AtomicUsize>,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match self.parts.checked_sub(1) {
            Some(left) => {
                self.parts = left;
                self.inner.put_part(data)
            }
            None => Box::pin(async { Err(FaultyStore::fail("part")) }),
        }
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        self.inner.complete().await
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.aborted.fetch_add(1, Ordering::SeqCst);
        self.inner.abort().await
    }
}

/// A Parquet file of these batches, a row group each.
pub(crate) fn parquet(batches: &[RecordBatch]) -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), batches[0].schema(), None).expect("a writer");
    for batch in batches {
        writer.write(batch).expect("writes");
        writer.flush().expect("ends a row group");
    }
    writer.into_inner().expect("finishes")
}

/// An Arrow IPC file of these batches.
pub(crate) fn arrow_file(batches: &[RecordBatch]) -> Vec<u8> {
    let mut writer = FileWriter::try_new(Vec::new(), &batches[0].schema()).expect("a writer");
    batches.iter().for_each(|batch| writer.write(batch).expect("writes"));
    writer.into_inner().expect("finishes")
}

/// The same batches as an Arrow IPC stream.
pub(crate) fn arrow_stream(batches: &[RecordBatch]) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batches[0].schema()).expect("a writer");
    batches.iter().for_each(|batch| writer.write(batch).expect("writes"));
    writer.into_inner().expect("finishes")
}

/// A column of texts.
pub(crate) fn strings(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from_iter(values.iter().copied()))
}

/// A batch of these columns.
pub(crate) fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        .expect("a batch")
}

/// A column of structs.
pub(crate) fn structs(fields: Vec<(&str, ArrayRef)>) -> ArrayRef {
    let fields = fields
        .into_iter()
        .map(|(name, column)| (Arc::new(Field::new(name, column.data_type().clone(), true)), column));
    Arc::new(StructArray::from(fields.collect::<Vec<_>>()))
}

/// An archive of these members.
pub(crate) fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, *content).expect("appends");
    }
    builder.into_inner().expect("finishes")
}

/// Rows read, kept, refused, filtered and set aside as copies, of the first source of a report.
pub(crate) fn counts(report: &Report) -> [u64; 5] {
    let counts = &report.sources[0].statistics;
    let found = [counts.read, counts.kept, counts.rejected, counts.filtered, counts.deduplicated];
    assert_eq!(found[0], found[1..].iter().sum::<u64>(), "every row is counted once");
    found
}

/// A PNG of one colour.
pub(crate) fn png(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
    let image = image::RgbImage::from_pixel(width, height, image::Rgb(colour));
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("encodes");
    bytes.into_inner()
}

/// What a [`FaultyStore`] does.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Writes that succeed before all others fail.
    pub(crate) writes: Option<usize>,
    /// Every how many reads one fails.
    pub(crate) every_read: Option<usize>,
    /// Listings come in an order that is drawn from this number.
    pub(crate) shuffled: Option<u64>,
    /// Reads of paths that hold this fail.
    pub(crate) failing: Option<&'static str>,
    /// Parts of each upload that succeed before all others fail.
    pub(crate) parts: Option<usize>,
    /// So many of the first reads of JSON lines and PNG files break off behind so many bytes.
    pub(crate) broken: Option<(usize, usize)>,
    /// Whether objects have no tags.
    pub(crate) no_tags: bool,
    /// Whether no ranges are given.
    pub(crate) no_ranges: bool,
    /// What an object is when its first read has broken off.
    pub(crate) replaced: Option<&'static [u8]>,
    /// Whether every write finds no bucket.
    pub(crate) no_bucket: bool,
    /// Whether conditional writes are carried out and then said to have met another object.
    pub(crate) lost_answers: bool,
}

/// A store that fails by counting, never by chance.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    faults: Faults,
    pub(crate) writes: AtomicUsize,
    reads: AtomicUsize,
    broken: AtomicUsize,
    /// Bytes that were asked for.
    pub(crate) read_bytes: std::sync::atomic::AtomicU64,
    /// The paths that were read.
    pub(crate) read_paths: Mutex<Vec<String>>,
    pub(crate) aborted: Arc<AtomicUsize>,
}

impl FaultyStore {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, faults: Faults) -> Self {
        Self {
            inner,
            faults,
            writes: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            broken: AtomicUsize::new(0),
            read_bytes: std::sync::atomic::AtomicU64::new(0),
            read_paths: Mutex::default(),
            aborted: Arc::default(),
        }
    }

    fn fail(what: &'static str) -> object_store::Error {
        object_store::Error::Generic { store: "faulty", source: what.into() }
    }

    /// An answer that breaks off, if it is among the first and long enough.
    async fn break_off(
        &self,
        found: GetResult,
        times: usize,
        bytes: usize,
    ) -> object_store::Result<GetResult> {
        let long = found.range.end - found.range.start > bytes as u64;
        if !long || self.broken.fetch_add(1, Ordering::SeqCst) >= times {
            return Ok(found);
        }
        let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), found.attributes.clone());
        let beginning = found.bytes().await?.slice(..bytes);
        if let Some(replaced) = self.faults.replaced {
            self.inner.put(&meta.location, replaced.into()).await?;
        }
        let chunks = stream::iter([Ok(beginning), Err(Self::fail("connection"))]).boxed();
        Ok(GetResult { payload: GetResultPayload::Stream(chunks), meta, range, attributes })
    }

    fn count_write(&self) -> object_store::Result<()> {
        let number = self.writes.fetch_add(1, Ordering::SeqCst);
        if self.faults.writes.is_some_and(|writes| number >= writes) {
            Err(Self::fail("write"))
        } else {
            Ok(())
        }
    }
}

impl std::fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FaultyStore")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        // Leases are renewed by the clock, and what is counted must not depend on it.
        if location.filename() != Some("lease.json") {
            self.count_write()?;
        }
        if self.faults.no_bucket {
            return Err(object_store::Error::NotFound {
                path: location.to_string(),
                source: "NoSuchBucket".into(),
            });
        }
        let conditional = !matches!(options.mode, object_store::PutMode::Overwrite);
        let put = self.inner.put_opts(location, payload, options).await?;
        if self.faults.lost_answers && conditional {
            return Err(object_store::Error::Precondition {
                path: location.to_string(),
                source: "412".into(),
            });
        }
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.count_write()?;
        let upload = self.inner.put_multipart_opts(location, options).await?;
        let parts = self.faults.parts.unwrap_or(usize::MAX);
        Ok(Box::new(FaultyUpload { inner: upload, parts, aborted: self.aborted.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let number = self.reads.fetch_add(1, Ordering::SeqCst);
        if !options.head {
            self.read_paths.lock().expect("a lock").push(location.to_string());
        }
        if self.faults.failing.is_some_and(|part| location.as_ref().contains(part)) {
            return Err(Self::fail("503"));
        }
        if !options.head && self.faults.every_read.is_some_and(|every| number.is_multiple_of(every)) {
            return Err(Self::fail("read"));
        }
        if self.faults.no_ranges && options.range.is_some() {
            let source = "ranges".into();
            return Err(object_store::Error::NotSupported { source });
        }
        let head = options.head;
        let mut found = self.inner.get_opts(location, options).await?;
        if !head {
            self.read_bytes.fetch_add(found.range.end - found.range.start, Ordering::SeqCst);
        }
        if self.faults.no_tags {
            found.meta.e_tag = None;
        }
        match self.faults.broken {
            Some((times, bytes))
                if !head && [".jsonl", ".png"].iter().any(|end| location.as_ref().ends_with(end)) =>
            {
                self.break_off(found, times, bytes).await
            }
            _ => Ok(found),
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let listed = self.inner.list(prefix);
        let Some(seed) = self.faults.shuffled else { return listed };
        let shuffled = async move {
            let mut listed: Vec<_> = listed.collect().await;
            listed.sort_by_key(|meta| {
                let path = meta.as_ref().map_or("", |meta| meta.location.as_ref());
                schemas::row_hash(seed, "listing", path, 0, "shuffle")
            });
            stream::iter(listed)
        };
        stream::once(shuffled).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
