//! The promises of a stream, on datasets of a few hundred rows.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use schemas::shard::Compression;

use super::*;
use crate::fixture::{self, in_memory};

const SHARDS: [(u16, u64); 5] = [(0, 130), (0, 20), (1, 90), (1, 64), (0, 1)];
const ROWS: usize = 305;

fn settings(readers: usize, prefetch_rows: usize) -> StreamSettings {
    let retry = Retry { attempts: 3, first_wait_ms: 0, longest_wait_ms: 0 };
    StreamSettings {
        seed: 3,
        shuffle: Shuffle { shards: 2, blocks: 2 },
        readers,
        prefetch_rows,
        retry,
        ..Default::default()
    }
}

fn whole(location: &Location) -> Ingredient {
    Ingredient { dataset: Dataset::open(location, None).unwrap(), source: None, weight: 1.0 }
}

fn rows_of(stream: &mut RowStream, count: usize) -> Vec<(usize, u64)> {
    let rows = stream.next_rows(count).unwrap();
    rows.iter().map(|row| (row.origin.dataset, row.row.sources()[0].row)).collect()
}

fn read(ingredients: &[Ingredient], settings: &StreamSettings, count: usize) -> Vec<(usize, u64)> {
    rows_of(&mut RowStream::open(ingredients, settings, None).unwrap(), count)
}

/// Puts another file in the place of one. Never written in place: a reader may still have the old one open.
fn replace(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn each_epoch_has_every_row_once_whatever_the_number_of_readers() {
    let folder = tempfile::tempdir().unwrap();
    fixture::write(folder.path(), &SHARDS);
    let data = [whole(&Location::folder(folder.path()).unwrap())];
    let rows = read(&data, &settings(1, 1), 2 * ROWS);
    for epoch in rows.chunks(ROWS) {
        assert_eq!(epoch.iter().collect::<BTreeSet<_>>().len(), ROWS);
    }
    assert_ne!(rows[..ROWS], rows[ROWS..]);
    for (readers, prefetch_rows) in [(1, 100), (3, 7), (8, 1)] {
        assert_eq!(read(&data, &settings(readers, prefetch_rows), 2 * ROWS), rows);
    }
}

#[test]
fn a_stream_stopped_at_any_row_goes_on_with_the_next_across_epochs() {
    let folder = tempfile::tempdir().unwrap();
    fixture::write(folder.path(), &[(0, 9), (1, 7)]);
    let location = Location::folder(folder.path()).unwrap();
    let data =
        [whole(&location), Ingredient { weight: 2.5, source: Some("pairs".to_owned()), ..whole(&location) }];
    let all = read(&data, &settings(2, 4), 60);
    let mut stream = RowStream::open(&data, &settings(1, 1), None).unwrap();
    for k in 0..50 {
        let cursor = stream.cursor();
        let mut resumed = RowStream::open(&data, &settings(1 + k % 3, 5), Some(&cursor)).unwrap();
        assert_eq!(rows_of(&mut resumed, 10), all[k..k + 10], "stopped at {k}");
        assert!(cursor.datasets.iter().all(|dataset| dataset.row < 16));
        rows_of(&mut stream, 1);
    }
}

#[test]
fn datasets_are_mixed_by_positions() {
    let folder = tempfile::tempdir().unwrap();
    fixture::write(folder.path(), &SHARDS);
    let location = Location::folder(folder.path()).unwrap();
    let of =
        |source: &str, weight| Ingredient { source: Some(source.to_owned()), weight, ..whole(&location) };
    let mut stream = RowStream::open(&[of("texts", 1.0), of("pairs", 3.0)], &settings(2, 8), None).unwrap();
    for row in stream.next_rows(400).unwrap() {
        let source = row.origin.documents(&row.row).next().unwrap().0.to_owned();
        assert_eq!(source, ["texts", "pairs"][row.origin.dataset]);
    }
    let given: Vec<_> = stream.cursor().datasets.iter().map(|dataset| dataset.positions as f64).collect();
    // No more than a row of difference.
    assert!((given[1] - 3.0 * given[0]).abs() <= 3.0 * 24.0, "{given:?}");
}

#[test]
fn a_remote_compressed_copy_gives_the_same_rows_through_a_bounded_cache() {
    let (plain, packed, cache) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fixture::write(plain.path(), &SHARDS);
    let manifest = fixture::write_with(packed.path(), &SHARDS, Compression::Zstd);
    let local = read(&[whole(&Location::folder(plain.path()).unwrap())], &settings(2, 8), 2 * ROWS);
    let (_, location) = in_memory(packed.path());
    let mut bytes: Vec<_> = manifest.shards.iter().map(|shard| shard.bytes).collect();
    bytes.sort_unstable();
    let bound =
        StreamSettings { cache: Some(cache.path().to_owned()), cache_bytes: 4 * bytes[4], ..settings(2, 8) };
    assert_eq!(read(&[whole(&location)], &bound, 2 * ROWS), local);
    let small = StreamSettings { cache_bytes: bytes[4], ..bound };
    let error = RowStream::open(&[whole(&location)], &small, None).unwrap_err().to_string();
    assert!(error.contains("stream.cache-bytes") && error.contains("hint:"), "{error}");
}

#[test]
fn damage_on_disk_names_shard_and_both_checksums() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = fixture::write(folder.path(), &[(0, 70)]);
    let path = folder.path().join(&manifest.shards[0].path);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    replace(&path, &bytes);
    let data = [whole(&Location::folder(folder.path()).unwrap())];
    let error = RowStream::open(&data, &settings(2, 8), None).unwrap().next_row().unwrap_err().to_string();
    for part in [&manifest.shards[0].path, &manifest.shards[0].checksum, &schemas::content_hash(&bytes)] {
        assert!(error.contains(part.as_str()), "{error}");
    }
    replace(&path, &bytes[..5000]);
    assert!(RowStream::open(&data, &settings(1, 8), None).unwrap().next_row().is_err());
    std::fs::remove_file(&path).unwrap();
    let error = RowStream::open(&data, &settings(1, 8), None).unwrap().next_row().unwrap_err();
    assert!(matches!(error, StreamError::Missing { .. }), "{error}");
}

#[test]
fn a_damaged_copy_in_the_cache_is_fetched_again() {
    let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let manifest = fixture::write(folder.path(), &[(0, 70), (1, 10)]);
    let (_, location) = in_memory(folder.path());
    let settings = StreamSettings { cache: Some(cache.path().to_owned()), ..settings(2, 8) };
    let rows = read(&[whole(&location)], &settings, 80);
    let copy = cache.path().join("transfusion-shards").join(&manifest.shards[0].checksum);
    let mut bytes = std::fs::read(&copy).unwrap();
    bytes[1000] ^= 1;
    replace(&copy, &bytes);
    assert_eq!(read(&[whole(&location)], &settings, 80), rows);
    assert_eq!(schemas::content_hash(&std::fs::read(&copy).unwrap()), manifest.shards[0].checksum);
}

#[test]
fn damage_in_the_store_is_an_error_after_a_second_fetch_and_leaves_nothing() {
    let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let manifest = fixture::write(folder.path(), &[(0, 70)]);
    let (store, location) = in_memory(folder.path());
    let mut bytes = std::fs::read(folder.path().join(&manifest.shards[0].path)).unwrap();
    bytes[1000] ^= 1;
    let object = location.object(&manifest.shards[0].path);
    futures::executor::block_on(store.put(&object, bytes.clone().into())).unwrap();
    let counting = Arc::new(Flaky { inner: store, fail: 0, shard_requests: AtomicUsize::new(0) });
    let location = Location { store: counting.clone(), ..location };
    let settings = StreamSettings { cache: Some(cache.path().to_owned()), ..settings(1, 8) };
    let error =
        RowStream::open(&[whole(&location)], &settings, None).unwrap().next_row().unwrap_err().to_string();
    assert!(
        error.contains(&manifest.shards[0].checksum) && error.contains(&schemas::content_hash(&bytes)),
        "{error}"
    );
    assert!(counting.shard_requests.load(Ordering::SeqCst) >= 2);
}

/// A store whose bodies break off in the middle `fail` times.
#[derive(Debug)]
struct Flaky {
    inner: Arc<InMemory>,
    fail: usize,
    shard_requests: AtomicUsize,
}

impl std::fmt::Display for Flaky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("flaky")
    }
}

type Stored<T> = object_store::Result<T>;
type Key = object_store::path::Path;
type Listed<T> = futures::stream::BoxStream<'static, Stored<T>>;

#[async_trait::async_trait]
impl ObjectStore for Flaky {
    async fn put_opts(&self, key: &Key, payload: PutPayload, options: PutOptions) -> Stored<PutResult> {
        self.inner.put_opts(key, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        key: &Key,
        options: PutMultipartOptions,
    ) -> Stored<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Key, options: GetOptions) -> Stored<GetResult> {
        let mut result = self.inner.get_opts(key, options).await?;
        if !key.as_ref().ends_with(".arrow") {
            return Ok(result);
        }
        if self.shard_requests.fetch_add(1, Ordering::SeqCst) < self.fail {
            let half = (result.range.end - result.range.start) / 2;
            let bytes = result.bytes().await?.slice(..half as usize);
            result = self.inner.get_opts(key, GetOptions::default()).await?;
            let broken = object_store::Error::Generic { store: "test", source: "connection closed".into() };
            result.payload =
                GetResultPayload::Stream(futures::stream::iter([Ok(bytes), Err(broken)]).boxed());
        }
        Ok(result)
    }

    fn delete_stream(&self, keys: Listed<Key>) -> Listed<Key> {
        self.inner.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Key>) -> Listed<ObjectMeta> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Stored<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Stored<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[test]
fn a_body_that_breaks_off_goes_on_from_its_last_byte() {
    let folder = tempfile::tempdir().unwrap();
    fixture::write(folder.path(), &[(0, 70)]);
    let rows = read(&[whole(&Location::folder(folder.path()).unwrap())], &settings(1, 8), 70);
    let (inner, location) = in_memory(folder.path());
    // More breaks than tries without progress: each brings half of what is left.
    let flaky = Arc::new(Flaky { inner, fail: 5, shard_requests: AtomicUsize::new(0) });
    let location = Location { store: flaky.clone(), ..location };
    assert_eq!(read(&[whole(&location)], &settings(1, 8), 70), rows);
    assert_eq!(flaky.shard_requests.load(Ordering::SeqCst), 6);
}

#[test]
fn what_is_not_there_or_not_whole_is_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::folder(folder.path().join("none")).unwrap();
    assert!(matches!(Dataset::open(&location, None), Err(StreamError::NoDataset { .. })));
    fixture::write(folder.path(), &[(0, 5)]);
    let location = Location::folder(folder.path()).unwrap();
    let dataset = Dataset::open(&location, None).unwrap();
    assert_eq!(dataset.tokenizer().unwrap().as_ref(), b"a tokenizer");
    let error = dataset.shards(Some("pair")).unwrap_err().to_string();
    assert!(error.contains("`texts`, `pairs`"), "{error}");
    assert!(matches!(dataset.shards(Some("pairs")), Err(StreamError::Empty { .. })));
    assert!(matches!(Dataset::open(&location, Some("other")), Err(StreamError::NoVersion { .. })));
    let manifest = folder.path().join("manifest.json");
    let bytes = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, &bytes[..bytes.len() / 2]).unwrap();
    assert!(matches!(Dataset::open(&location, None), Err(StreamError::Manifest { .. })));
}

#[test]
fn a_cursor_of_another_version_is_refused_and_a_pinned_version_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut manifest = fixture::write(folder.path(), &[(0, 5), (0, 6)]);
    let location = Location::folder(folder.path()).unwrap();
    let old = Dataset::open(&location, None).unwrap();
    let cursor = RowStream::open(&[whole(&location)], &settings(1, 1), None).unwrap().cursor();
    manifest.shards.pop();
    std::fs::write(folder.path().join("manifest-000002.json"), manifest.to_bytes().unwrap().0).unwrap();
    assert_eq!(Dataset::open(&location, None).unwrap().manifest().shards.len(), 1);
    assert_eq!(Dataset::open(&location, Some(old.checksum())).unwrap().manifest().shards.len(), 2);
    let error = RowStream::open(&[whole(&location)], &settings(1, 1), Some(&cursor)).unwrap_err();
    assert!(matches!(error, StreamError::Cursor { .. }), "{error}");
}

#[test]
fn a_manifest_cannot_lead_out_of_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let mut manifest = fixture::write(folder.path(), &[(0, 5)]);
    for path in ["../secret", "/etc/passwd", "shards//x", "a/../../b"] {
        manifest.shards[0].path = path.to_owned();
        std::fs::write(folder.path().join("manifest.json"), manifest.to_bytes().unwrap().0).unwrap();
        let dataset = Dataset::open(&Location::folder(folder.path()).unwrap(), None).unwrap();
        assert!(matches!(dataset.shards(None), Err(StreamError::Outside { .. })), "{path}");
    }
}

/// A mapped file that was cut short once ended the process with a signal.
#[test]
fn a_shard_that_is_cut_short_while_it_is_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = fixture::write(folder.path(), &[(0, 640)]);
    let shard = &manifest.shards[0];
    let path = folder.path().join(&shard.path);
    let whole_file = std::fs::read(&path).unwrap();
    let data = [whole(&Location::folder(folder.path()).unwrap())];
    let settings = StreamSettings { shuffle: Shuffle { shards: 1, blocks: 1 }, ..settings(1, 1) };
    for left in [0, 1000, shard.bytes / 2] {
        let mut stream = RowStream::open(&data, &settings, None).unwrap();
        stream.next_row().unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(left).unwrap();
        let error = (0..640).find_map(|_| stream.next_row().err()).expect("rows are missing");
        let expected = format!(
            "shard `{}` of dataset `{}` was cut short while it was read: {left} of its {} bytes are left",
            shard.path,
            folder.path().display(),
            shard.bytes
        );
        assert!(error.to_string().starts_with(&expected), "{error}");
        std::fs::write(&path, &whole_file).unwrap();
    }
}

#[test]
fn a_checksum_that_is_none_never_names_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut manifest = fixture::write(folder.path(), &[(0, 5)]);
    let good = manifest.shards[0].checksum.clone();
    for checksum in ["", "../../secret", &good.to_uppercase(), &good[1..], &format!("{}/", &good[1..])] {
        manifest.shards[0].checksum = checksum.to_owned();
        std::fs::write(folder.path().join("manifest.json"), manifest.to_bytes().unwrap().0).unwrap();
        let (_, location) = in_memory(folder.path());
        let error = Dataset::open(&location, None).unwrap().shards(None).unwrap_err();
        assert!(matches!(&error, StreamError::Checksum { found, .. } if found == checksum), "{error}");
    }
}
