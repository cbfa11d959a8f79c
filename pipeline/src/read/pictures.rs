//! The bytes of pictures that a table names by path, or that lie somewhere in an archive.
//!
//! A picture that is not there, or that its store can't give after all retries, is a reject of its row that may pass
//! later. A store that refuses the credentials refuses every row: that stops the job.

use std::io;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::{ImageRef, Input, MAX_PICTURE_BYTES, stream as file_stream};
use crate::PipelineError;
use crate::reject::{Reject, RejectReason};

/// Requests of one reader at a time.
const REQUESTS: usize = 8;

/// An image, or why its row can't have it.
type Fetched = Result<Option<Bytes>, Reject>;

/// The bytes of each image, in order.
pub(crate) fn fetched(
    input: &Input,
    folder: &str,
    images: Vec<ImageRef>,
) -> impl Stream<Item = Result<Fetched, PipelineError>> {
    stream::iter(images).map(move |image| fetch(input, folder, image)).buffered(REQUESTS)
}

async fn fetch(input: &Input, folder: &str, image: ImageRef) -> Result<Fetched, PipelineError> {
    let written = match image {
        ImageRef::Absent => return Ok(Ok(None)),
        ImageRef::Nameless => {
            let detail = "an image of the list has neither bytes nor a path";
            return Ok(Err(Reject::new(RejectReason::MissingImage, detail)));
        }
        ImageRef::Bytes(bytes) => return Ok(Ok(Some(bytes))),
        ImageRef::Path(path) => path,
        ImageRef::Piece(file, range) => {
            return file_stream::get_range(input, &file, range).await.map(|bytes| Ok(Some(bytes)));
        }
    };
    let (store, folder) = match &input.folder {
        Some(folder) => (&folder.store, folder.path.as_ref()),
        None => (&input.store, folder),
    };
    let path = match inside(folder, &written) {
        Ok(path) => path,
        Err(reject) => return Ok(Err(reject.showing(written.as_bytes()))),
    };
    match get(&**store, &path).await {
        Ok(Some(bytes)) => Ok(Ok(Some(bytes))),
        Ok(None) => {
            let detail = format!("file has more than {MAX_PICTURE_BYTES} bytes");
            Ok(Err(Reject::new(RejectReason::ImageTooLarge, detail).showing(written.as_bytes())))
        }
        Err(source) if refuses_everything(&source) => {
            Err(PipelineError::Store { operation: "read", path: path.to_string(), source })
        }
        Err(error) => Ok(Err(unavailable(&name(folder, &path), &error).showing(written.as_bytes()))),
    }
}

/// The bytes of a picture, `None` if it is too large.
async fn get(store: &dyn ObjectStore, path: &Path) -> Result<Option<Bytes>, object_store::Error> {
    let found = store.get(path).await?;
    if found.meta.size > MAX_PICTURE_BYTES {
        return Ok(None);
    }
    found.bytes().await.map(Some)
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

/// Whether the file system says that nothing can ever lie at such a path.
fn is_no_path(error: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename)) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn kind(error: &object_store::Error) -> &'static str {
    use object_store::Error;
    match error {
        Error::PermissionDenied { .. } => "the store refuses access",
        Error::Precondition { .. } | Error::NotModified { .. } => "it changed while it was read",
        _ => "the store failed, after all retries",
    }
}

/// Whether a store's answer is about who asks and not about the object. (403 alone is not: S3 says so of an object that
/// is not there to somebody who may not list the bucket.)
fn refuses_everything(error: &object_store::Error) -> bool {
    let says = |text: &str| {
        ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"].iter().any(|code| text.contains(code))
    };
    matches!(error, object_store::Error::Unauthenticated { .. }) || says(&error.to_string())
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
            let error = get(&store, &Path::from(path.as_str())).await.expect_err("no such file");
            let reject = unavailable(&path, &error);
            assert_eq!((reject.reason, reject.reason.may_pass_later()), (RejectReason::BadEntry, false));
        }
        let error = get(&store, &Path::from("b.png")).await.expect_err("no such file");
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
