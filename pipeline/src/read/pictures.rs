//! The bytes of pictures that a table names by path, or that lie somewhere in an archive.
//!
//! A picture that is not there, or that its store can't give after all retries, is a reject of its row that may pass
//! later. A store that refuses the credentials refuses every row: that stops the job.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
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
pub(crate) fn resolve(
    input: &Input,
    folder: &str,
    images: Vec<ImageRef>,
) -> Result<Vec<Fetched>, PipelineError> {
    let fetched = stream::iter(images).map(|image| fetch(input, folder, image)).buffered(REQUESTS);
    input.handle.block_on(fetched.try_collect())
}

async fn fetch(input: &Input, folder: &str, image: ImageRef) -> Result<Fetched, PipelineError> {
    let written = match image {
        ImageRef::Absent => return Ok(Ok(None)),
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

/// A path below the folder of the table, or a reject where it leads elsewhere.
pub(crate) fn inside(folder: &str, path: &str) -> Result<Path, Reject> {
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
