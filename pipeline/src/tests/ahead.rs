//! What is fetched before its turn: many requests at a time, within a budget, and the same bytes as one after the other.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use tokio::sync::watch;

use super::fixtures::{Faults, FaultyStore, Job, archive, config, corpus, files, pairs, png, texts};
use crate::config::{Format, TextSplit};
use crate::engine::memory::Memory;
use crate::read::ahead::{AHEAD_BYTES, Ahead};
use crate::read::pictures::Fetching;
use crate::read::{ImageRef, Input};
use crate::units::InputFile;
use crate::{PreprocessConfig, Silent, preprocess};

/// A store that answers reads below `in/` only when so many of them wait, or when all that will come have come. Who asks
/// for one thing after the other never gets an answer.
#[derive(Debug)]
struct Gate {
    inner: Arc<dyn ObjectStore>,
    closed: AtomicBool,
    together: usize,
    all: usize,
    state: Mutex<Asked>,
    round: watch::Sender<usize>,
    heads: AtomicUsize,
}

#[derive(Debug, Default)]
struct Asked {
    paths: Vec<String>,
    waiting: usize,
}

impl Gate {
    fn new(inner: Arc<dyn ObjectStore>, together: usize, all: usize) -> Arc<Self> {
        Arc::new(Self {
            inner,
            closed: AtomicBool::new(false),
            together,
            all,
            state: Mutex::default(),
            round: watch::Sender::new(0),
            heads: AtomicUsize::new(0),
        })
    }

    fn paths(&self) -> Vec<String> {
        self.state.lock().expect("a lock").paths.clone()
    }

    async fn pass(&self, path: &Path) {
        let mut answered = self.round.subscribe();
        {
            let mut state = self.state.lock().expect("a lock");
            state.paths.push(path.to_string());
            state.waiting += 1;
            if state.waiting == self.together || state.paths.len() >= self.all {
                state.waiting = 0;
                self.round.send_modify(|round| *round += 1);
                return;
            }
            answered.borrow_and_update();
        }
        answered.changed().await.expect("the gate is there");
    }
}

impl std::fmt::Display for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

#[async_trait]
impl ObjectStore for Gate {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        if self.closed.load(Ordering::SeqCst) && location.as_ref().starts_with("in/") {
            if options.head {
                self.heads.fetch_add(1, Ordering::SeqCst);
            } else {
                self.pass(location).await;
            }
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

async fn stored(members: &[(String, Vec<u8>)]) -> Arc<dyn ObjectStore> {
    let borrowed: Vec<_> = members.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    corpus(&borrowed).await
}

/// Runs a job whose reads behind the plan are let through 16 at a time, of `all` that there are; gives the paths.
async fn gated(inputs: Arc<dyn ObjectStore>, config: PreprocessConfig, all: usize) -> Vec<String> {
    let expected = Job::new(&inputs);
    expected.run(config.clone()).await.expect("runs");
    let gate = Gate::new(inputs, 16, all);
    let store: Arc<dyn ObjectStore> = gate.clone();
    let job = Job { threads: 1, ..Job::new(&store) };
    let plan = job.plan(config).await.expect("a plan");
    gate.closed.store(true, Ordering::SeqCst);
    preprocess(plan, Arc::new(Silent)).await.expect("runs");
    assert_eq!(files(&expected.output).await, files(&job.output).await);
    assert_eq!(gate.heads.load(Ordering::SeqCst), 0, "what the listing says is not asked again");
    gate.paths()
}

/// The small files of one unit are asked for side by side, each once, whatever their form.
#[tokio::test]
async fn small_files_of_a_unit_are_asked_for_together() {
    let lines = |file: usize| -> Vec<u8> {
        (0..20).map(|row| format!("{{\"text\":\"{file} {row}\"}}\n")).collect::<String>().into()
    };
    let members: Vec<(String, Vec<u8>)> = (0..100)
        .map(|file| match file % 3 {
            0 => (format!("in/{file:03}.jsonl"), lines(file)),
            1 => (format!("in/{file:03}.jsonl.zst"), zstd::encode_all(&*lines(file), 1).expect("compresses")),
            _ => (format!("in/{file:03}.json"), format!("[{{\"text\":\"{file}\"}}]").into_bytes()),
        })
        .collect();
    let inputs = stored(&members).await;
    let mut asked = gated(inputs, config(vec![texts("web", "in/*")]), 100).await;
    asked.sort();
    assert_eq!(asked, members.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>());
}

/// So are the pictures that a table names, and small archives.
#[tokio::test]
async fn pictures_and_archives_are_asked_for_together() {
    let mut members: Vec<(String, Vec<u8>)> =
        (0..100_u8).map(|row| (format!("in/{row}.png"), png(20, 20, [row, 100, 200]))).collect();
    let table: String = (0..100)
        .map(|row| format!("{{\"file_name\":\"../in/{row}.png\",\"caption\":\"c {row}\"}}\n"))
        .collect();
    members.push(("table/a.jsonl".to_owned(), table.replace("../in/", "").into_bytes()));
    let inputs = stored(&members).await;
    let source = crate::SourceConfig { folder: Some("in".to_owned()), ..pairs("table", "table/a.jsonl") };
    assert_eq!(gated(inputs, config(vec![source]), 100).await.len(), 100);

    let tar = |row: u8| archive(&[("a.png", &png(20, 20, [row, 0, 0])), ("a.txt", b"red")]);
    let members: Vec<(String, Vec<u8>)> = (0..50).map(|row| (format!("in/{row:02}.tar"), tar(row))).collect();
    let inputs = stored(&members).await;
    assert_eq!(gated(inputs, config(vec![pairs("tars", "in/*.tar")]), 50).await.len(), 50);
}

fn described(path: String, bytes: usize) -> InputFile {
    InputFile {
        path: Path::from(path.as_str()),
        below: path,
        bytes: bytes as u64,
        e_tag: None,
        format: Format::Text,
        part: None,
    }
}

/// Of files of 3 MiB five fit into 16 MiB: a sixth is asked for when the first is done with. A large file has all of the
/// budget, so nothing is fetched behind it.
#[tokio::test]
async fn no_more_is_fetched_ahead_than_is_reserved() {
    const BYTES: usize = 3 << 20;
    let mut members: Vec<(String, Vec<u8>)> =
        (0..9).map(|file| (format!("in/{file}.txt"), vec![b'a' + file; BYTES])).collect();
    members[7].1 = vec![b'x'; 5 << 20];
    let files: Vec<InputFile> =
        members.iter().map(|(path, bytes)| described(path.clone(), bytes.len())).collect();
    let store = Arc::new(FaultyStore::new(stored(&members).await, Faults::default()));
    let memory = Arc::new(Memory::new(1 << 30));
    let input = Input { memory: memory.clone(), ..Input::new(store.clone(), TextSplit::File) };
    let budget = memory.budget("files", AHEAD_BYTES).expect("there is memory");
    assert_eq!(memory.pool().reserved(), AHEAD_BYTES, "it is reserved before anything is asked for");
    let mut ahead = Ahead::new(&input, budget.clone(), files);
    let asked = || store.read_paths.lock().expect("a lock").len();
    let until = async |requests: usize| {
        while asked() < requests {
            tokio::task::yield_now().await;
        }
        // Nothing more is asked for, however often it could be.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(asked(), requests);
    };
    for file in 0..9_usize {
        // What is behind the large file comes when that is done.
        until(if file == 8 { 8 } else { 7.min(file + 5) }).await;
        let source = input.clone();
        let (next, returned) =
            crate::host::threads::spawn(move || (ahead.next(&source), ahead)).expect("a thread").await;
        ahead = returned;
        let next = next.expect("fetched");
        assert_eq!(next.has_held(), file != 7, "file {file}");
        drop(next);
    }
    until(8).await;
    drop((ahead, budget));
    while memory.pool().reserved() > 0 {
        tokio::task::yield_now().await;
    }
}

async fn fetched(store: Arc<dyn ObjectStore>, path: &str) -> Result<Vec<u8>, String> {
    let input = Input::new(store, TextSplit::File);
    let images = vec![ImageRef::Path(path.to_owned())];
    let fetched = crate::host::threads::blocking(move || Fetching::new(&input, "", images).next()).await;
    let image = fetched.expect("the store answers").map_err(|reject| reject.to_string())?;
    Ok(image.expect("an image").to_vec())
}

/// A download that breaks off is gone on with, whether or not the store tags its objects; one of a picture that was
/// replaced, or of a store without ranges, begins anew; and one that never ends is a reject that may pass later.
#[tokio::test]
async fn broken_downloads_of_pictures_are_resumed_like_those_of_tables() {
    const PICTURE: &[u8] = b"the bytes of a picture";
    const OTHER: &[u8] = b"those of another one";
    let broken = async |faults: Faults| {
        let store = Arc::new(FaultyStore::new(corpus(&[("a.png", PICTURE)]).await, faults));
        (fetched(store.clone(), "a.png").await, store.read_paths.lock().expect("a lock").len())
    };
    for no_tags in [false, true] {
        let faults = Faults { broken: Some((2, 5)), no_tags, ..Faults::default() };
        assert_eq!(broken(faults).await, (Ok(PICTURE.to_vec()), 3), "without tags: {no_tags}");
        let whole = Faults { no_ranges: true, broken: Some((1, 5)), ..faults };
        assert_eq!(broken(whole).await, (Ok(PICTURE.to_vec()), 3), "a range is refused, then all is read");
        let replaced = Faults { replaced: Some(OTHER), broken: Some((1, 5)), ..faults };
        assert_eq!(broken(replaced).await, (Ok(OTHER.to_vec()), 3), "never a mixture of two");
    }
    let (never, requests) = broken(Faults { broken: Some((9, 2)), no_tags: true, ..Faults::default() }).await;
    let expected = "io: `a.png` can't be read: the store failed, after all retries";
    assert_eq!((never, requests), (Err(expected.to_owned()), 5));
    let store = Arc::new(FaultyStore::new(corpus(&[]).await, Faults::default()));
    let missing = fetched(store.clone(), "b.png").await;
    assert_eq!(missing, Err("missing_image: there is no file `b.png`".to_owned()));
    assert_eq!(store.read_paths.lock().expect("a lock").len(), 1, "what is not there is not asked again");
}
