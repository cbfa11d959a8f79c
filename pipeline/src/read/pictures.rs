//! The bytes of pictures that a table names by path, or that lie somewhere in an archive.
//!
//! Many are asked for at a time, and what comes before its turn is held within the budget of the reader: the store's answer
//! says how large a picture is, and its bytes are read when there is room for them, in the order of the rows. A download
//! that breaks off goes on at the byte that did not come where the store still has the same object, and begins anew where
//! it has not or gives no ranges.
//!
//! A picture that is not there, or that its store can't give after all retries, is a reject of its row that may pass
//! later. A store that refuses the credentials refuses every row: that stops the job.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Receiver, channel};

use super::request::{Attempts, Task, append, is_no_path, joined, length, refuses_everything};
use super::{ImageRef, Input, MAX_PICTURE_BYTES, stream as file_stream};
use crate::PipelineError;
use crate::engine::memory::{Budget, Granted};
use crate::row::reject::{Reject, RejectReason};
use crate::units::InputFile;

/// Requests of one reader at a time.
const REQUESTS: usize = 32;

/// An image, or why its row can't have it.
type Fetched = Result<Option<Bytes>, Reject>;

/// Images on their way, in order.
pub(crate) struct Fetching {
    images: Receiver<Result<(Fetched, Option<Granted>), PipelineError>>,
    _task: Task,
}

impl Fetching {
    /// Begins to fetch images of rows. Paths are relative to `folder`, unless the source names another.
    pub(crate) fn new(input: &Input, folder: &str, images: Vec<ImageRef>) -> Self {
        let (sender, receiver) = channel(REQUESTS);
        let (input, folder) = (input.clone(), folder.to_owned());
        let task = Task::spawn(&input.handle.clone(), async move {
            let asked = stream::iter(images)
                .map(|image| input.stop.until(ask(&input, &folder, image)))
                .buffered(REQUESTS);
            let granted = asked.then(|asked| grant(input.pictures.clone(), asked));
            let fetched = granted.map(|granted| input.stop.until(fetch(&input, granted))).buffered(REQUESTS);
            let mut fetched = std::pin::pin!(fetched);
            while let Some(image) = fetched.next().await {
                let failed = image.is_err();
                if sender.send(image).await.is_err() || failed {
                    return;
                }
            }
        });
        Self { images: receiver, _task: task }
    }

    /// The next image. Blocks.
    ///
    /// # Errors
    ///
    /// If the store refuses the credentials, or the archive can't be read.
    pub(crate) fn next(&mut self) -> Result<Fetched, PipelineError> {
        let ended = || PipelineError::Format("pictures are no longer fetched".into());
        // Whoever takes it holds it as a part of its batch.
        self.images.blocking_recv().ok_or_else(ended)?.map(|(image, _)| image)
    }
}

/// An image that was asked for.
enum ImageRequest {
    /// Nothing more is to be read.
    Done(Fetched),
    /// The answer of a store has begun.
    Picture { download: Box<Download>, name: String, written: String },
    /// It lies in a file of the source.
    Piece(Arc<InputFile>, Range<u64>),
}

impl ImageRequest {
    /// Bytes that are still to come.
    fn bytes(&self) -> u64 {
        match self {
            Self::Done(_) => 0,
            Self::Picture { download, .. } => download.meta.size,
            Self::Piece(_, range) => range.end - range.start,
        }
    }
}

async fn ask(input: &Input, folder: &str, image: ImageRef) -> Result<ImageRequest, PipelineError> {
    let done = |fetched| Ok(ImageRequest::Done(fetched));
    let written = match image {
        ImageRef::Absent => return done(Ok(None)),
        ImageRef::Nameless => {
            let detail = "an image of the list has neither bytes nor a path";
            return done(Err(Reject::new(RejectReason::MissingImage, detail)));
        }
        ImageRef::Bytes(bytes) => return done(Ok(Some(bytes))),
        ImageRef::Path(path) => path,
        ImageRef::Piece(file, range) => return Ok(ImageRequest::Piece(file, range)),
    };
    let (store, folder) = match &input.folder {
        Some(folder) => (&folder.store, folder.path.as_ref()),
        None => (&input.store, folder),
    };
    let path = match inside(folder, &written) {
        Ok(path) => path,
        Err(reject) => return done(Err(reject.showing(written.as_bytes()))),
    };
    let name = name(folder, &path);
    let request = input.memory.request().await;
    match Download::begin(store.clone(), path.clone(), request).await {
        Ok(download) if download.meta.size > MAX_PICTURE_BYTES => {
            let detail = format!("file has more than {MAX_PICTURE_BYTES} bytes");
            done(Err(Reject::new(RejectReason::ImageTooLarge, detail).showing(written.as_bytes())))
        }
        Ok(download) => Ok(ImageRequest::Picture { download: Box::new(download), name, written }),
        Err(error) => failed(&path, &name, &written, error).map(ImageRequest::Done),
    }
}

/// The image with memory for its bytes. In the order of the images, so that none waits for a later one.
async fn grant(
    budget: Option<Budget>,
    asked: Result<ImageRequest, PipelineError>,
) -> Result<(ImageRequest, Option<Granted>), PipelineError> {
    let asked = asked?;
    let memory = match (budget, asked.bytes()) {
        (None, _) | (_, 0) => None,
        (Some(budget), bytes) => Some(budget.take(bytes).await),
    };
    Ok((asked, memory))
}

async fn fetch(
    input: &Input,
    granted: Result<(ImageRequest, Option<Granted>), PipelineError>,
) -> Result<(Fetched, Option<Granted>), PipelineError> {
    let (asked, memory) = granted?;
    let fetched = match asked {
        ImageRequest::Done(fetched) => fetched,
        ImageRequest::Piece(file, range) => Ok(Some(file_stream::get_range(input, &file, range).await?)),
        ImageRequest::Picture { download, name, written } => {
            let path = download.path.clone();
            match download.finish().await {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) => failed(&path, &name, &written, error)?,
            }
        }
    };
    Ok((fetched, memory))
}

/// The reject of a picture that can't be had; an error where no picture could be.
fn failed(
    path: &Path,
    name: &str,
    written: &str,
    source: object_store::Error,
) -> Result<Fetched, PipelineError> {
    if refuses_everything(&source) {
        return Err(PipelineError::Store { operation: "read", path: path.to_string(), source });
    }
    Ok(Err(unavailable(name, &source).showing(written.as_bytes())))
}

/// An object of which nothing is known but its path, while it comes.
struct Download {
    store: Arc<dyn ObjectStore>,
    path: Path,
    /// What the store says of the object whose bytes these are.
    meta: ObjectMeta,
    parts: Vec<Bytes>,
    /// The answer that is still to be read.
    answer: Option<GetResult>,
    attempts: Attempts,
    _request: Option<OwnedSemaphorePermit>,
}

impl Download {
    async fn begin(
        store: Arc<dyn ObjectStore>,
        path: Path,
        request: Option<OwnedSemaphorePermit>,
    ) -> Result<Self, object_store::Error> {
        let mut attempts = Attempts::new(path.as_ref().len() as u64);
        let answer = loop {
            match store.get(&path).await {
                Ok(answer) => break answer,
                Err(error) if attempts.again(&error).await => {}
                Err(error) => return Err(error),
            }
        };
        let meta = answer.meta.clone();
        let (parts, answer) = (Vec::new(), Some(answer));
        Ok(Self { store, path, meta, parts, answer, attempts, _request: request })
    }

    /// All of its bytes.
    async fn finish(mut self) -> Result<Bytes, object_store::Error> {
        loop {
            let error = match self.read_on().await {
                Ok(()) if length(&self.parts) == self.meta.size => return Ok(joined(self.parts)),
                Ok(()) => ended_early(),
                Err(error) => error,
            };
            if !self.attempts.again(&error).await {
                return Err(error);
            }
        }
    }

    async fn read_on(&mut self) -> Result<(), object_store::Error> {
        let answer = match self.answer.take() {
            Some(answer) => answer,
            None if length(&self.parts) == self.meta.size => return Ok(()),
            None => match self.rest().await? {
                Some(answer) => answer,
                None => self.anew().await?,
            },
        };
        append(answer, &mut self.parts).await
    }

    /// The rest, if the store can give it and still has the object that the beginning is of.
    async fn rest(&mut self) -> Result<Option<GetResult>, object_store::Error> {
        let at = length(&self.parts);
        let options = GetOptions {
            range: Some(GetRange::Bounded(at..self.meta.size)),
            if_match: strong(self.meta.e_tag.as_deref()),
            ..GetOptions::default()
        };
        match self.store.get_opts(&self.path, options).await {
            Ok(answer) => {
                Ok(Some(answer).filter(|answer| self.is_same(&answer.meta) && answer.range.start == at))
            }
            Err(object_store::Error::Precondition { .. } | object_store::Error::NotSupported { .. }) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether what the store says is said of the same object. Without a tag its time and size have to do.
    fn is_same(&self, found: &ObjectMeta) -> bool {
        let known = &self.meta;
        found.size == known.size && found.e_tag == known.e_tag && found.last_modified == known.last_modified
    }

    async fn anew(&mut self) -> Result<GetResult, object_store::Error> {
        self.parts.clear();
        let answer = self.store.get(&self.path).await?;
        // Memory was taken for an object of the size that the first one had.
        if answer.meta.size > self.meta.size {
            return Err(object_store::Error::Precondition {
                path: self.path.to_string(),
                source: "it has grown while it was read".into(),
            });
        }
        self.meta = answer.meta.clone();
        Ok(answer)
    }
}

/// The tag, if equal tags mean equal bytes.
fn strong(tag: Option<&str>) -> Option<String> {
    tag.filter(|tag| !tag.starts_with("W/")).map(str::to_owned)
}

fn ended_early() -> object_store::Error {
    object_store::Error::Generic { store: "picture", source: "the answer ended early".into() }
}

fn unavailable(name: &str, error: &object_store::Error) -> Reject {
    match error {
        object_store::Error::NotFound { .. } => {
            Reject::new(RejectReason::MissingImage, format!("there is no file `{name}`"))
        }
        _ if is_no_path(error) => {
            let detail = format!("`{name}` can't be a file: a part of it is a file itself, or too long");
            Reject::new(RejectReason::BadEntry, detail)
        }
        // The store's own words carry addresses, and rejects are part of the dataset.
        _ => Reject::new(RejectReason::Io, format!("`{name}` can't be read: {}", kind(error))),
    }
}

fn kind(error: &object_store::Error) -> &'static str {
    use object_store::Error;
    match error {
        Error::PermissionDenied { .. } => "the store refuses access",
        Error::Precondition { .. } | Error::NotModified { .. } => "it changed while it was read",
        _ => "the store failed, after all retries",
    }
}

/// The path below the folder: rejects are part of the dataset and don't say where its root lies.
fn name(folder: &str, path: &Path) -> String {
    path.as_ref().strip_prefix(folder).unwrap_or(path.as_ref()).trim_start_matches('/').to_owned()
}

/// Bytes of a path, at most: no store has longer ones.
const MAX_PATH_BYTES: usize = 4096;
/// Letters and digits without an end in a row are no path.
const BASE64_BYTES: usize = 1024;

fn looks_like_base64(path: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=\r\n".contains(&byte);
    path.starts_with("data:") || path.len() > BASE64_BYTES && path.bytes().all(digit)
}

/// Refuses what is too long for a path, without repeating it.
fn check_length(path: &str) -> Result<(), Reject> {
    let bytes = path.len();
    let detail = match looks_like_base64(path) {
        true => format!("a text of {bytes} bytes looks like base64, not a path"),
        false if bytes > MAX_PATH_BYTES => format!("a text of {bytes} bytes is too long for a path"),
        false => return Ok(()),
    };
    Err(Reject::new(RejectReason::BadEntry, detail))
}

/// A path below the folder of the table, or a reject where it leads elsewhere.
pub(crate) fn inside(folder: &str, path: &str) -> Result<Path, Reject> {
    check_length(path)?;
    let outside =
        || Reject::new(RejectReason::BadEntry, format!("the path `{path}` is not one below its table"));
    let segments: Vec<&str> = path.split('/').filter(|segment| *segment != ".").collect();
    let bad = |segment: &&str| {
        segment.is_empty() || *segment == ".." || segment.contains('\\') || segment.contains('\0')
    };
    if segments.is_empty() || segments.iter().any(bad) || path.contains("://") {
        return Err(outside());
    }
    let below = segments.join("/");
    let joined = if folder.is_empty() { below } else { format!("{folder}/{below}") };
    Path::parse(joined).map_err(|_| outside())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refused_credentials_stop_the_job() {
        let generic =
            |text: &str| object_store::Error::Generic { store: "S3", source: text.to_owned().into() };
        assert!(refuses_everything(&generic("400 Bad Request: <Code>ExpiredToken</Code>")));
        assert!(!refuses_everything(&generic("503 Service Unavailable")));
        let denied = object_store::Error::PermissionDenied {
            path: "secret/root/a.png".to_owned(),
            source: "403".into(),
        };
        assert!(!refuses_everything(&denied));
        let reject = unavailable("a.png", &denied);
        assert_eq!(reject.to_string(), "io: `a.png` can't be read: the store refuses access");
        assert!(reject.reason.may_pass_later());
    }

    #[test]
    fn what_is_too_long_for_a_path_is_named_and_not_repeated() {
        let detail = |path: &str| inside("", path).map(|_| ()).map_err(|reject| reject.to_string());
        let base64 = "iVBORw0KGgo/+".repeat(100_000);
        let expected = "bad_entry: a text of 1300000 bytes looks like base64, not a path";
        assert_eq!(detail(&base64), Err(expected.to_owned()));
        let expected = "bad_entry: a text of 30 bytes looks like base64, not a path";
        assert_eq!(detail("data:image/png;base64,iVBORw0K"), Err(expected.to_owned()));
        let expected = "bad_entry: a text of 5004 bytes is too long for a path";
        assert_eq!(detail(&format!("{}.png", "a b/c".repeat(1000))), Err(expected.to_owned()));
        assert_eq!(detail(&format!("{}.png", "long-name/".repeat(100))), Ok(()));
    }

    /// Asking again can't help where a name is too long for the disk, or a file stands in the way.
    #[tokio::test]
    async fn a_path_that_no_disk_has_is_a_bad_entry() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("a.png"), b"x").expect("writes");
        let store = object_store::local::LocalFileSystem::new_with_prefix(folder.path()).expect("a store");
        for path in [format!("{}.png", "x".repeat(300)), "a.png/b".to_owned()] {
            let error = store.get(&Path::from(path.as_str())).await.expect_err("no such file");
            let reject = unavailable(&path, &error);
            assert_eq!((reject.reason, reject.reason.may_pass_later()), (RejectReason::BadEntry, false));
        }
        let error = store.get(&Path::from("b.png")).await.expect_err("no such file");
        assert_eq!(unavailable("b.png", &error).reason, RejectReason::MissingImage);
    }

    #[test]
    fn paths_stay_below_their_table() {
        let path = |path: &str| inside("data/set", path).ok().map(|path| path.to_string());
        assert_eq!(path("a.png").as_deref(), Some("data/set/a.png"));
        assert_eq!(path("./naïve café 日本.png").as_deref(), Some("data/set/naïve café 日本.png"));
        for outside in
            ["../x.png", "/etc/passwd", "a/../../x", "", "a//b", "https://a/b.png", "..\\x", "a/.."]
        {
            assert_eq!(path(outside), None, "{outside}");
        }
    }
}
