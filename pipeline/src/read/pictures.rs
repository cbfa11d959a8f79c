//! The bytes of pictures that a table names by path, or that lie somewhere in an archive.

use bytes::Bytes;
use futures::{StreamExt, stream};
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::{ImageRef, Input, MAX_PICTURE_BYTES, stream as file_stream};
use crate::reject::{Reject, RejectReason};

/// Requests of one reader at a time.
const REQUESTS: usize = 8;

/// The bytes of each image, in order.
pub(crate) fn resolve(
    input: &Input,
    folder: &str,
    images: Vec<ImageRef>,
) -> Vec<Result<Option<Bytes>, Reject>> {
    let fetched = stream::iter(images).map(|image| fetch(input, folder, image)).buffered(REQUESTS);
    input.handle.block_on(fetched.collect())
}

async fn fetch(input: &Input, folder: &str, image: ImageRef) -> Result<Option<Bytes>, Reject> {
    let (store, folder) = match &input.folder {
        Some(folder) => (&folder.store, folder.path.as_ref()),
        None => (&input.store, folder),
    };
    let path = match image {
        ImageRef::Absent => return Ok(None),
        ImageRef::Bytes(bytes) => return Ok(Some(bytes)),
        ImageRef::Path(path) => inside(folder, &path)?,
        ImageRef::Piece(file, range) => {
            let bytes = file_stream::get_range(input, &file, range).await;
            return bytes.map(Some).map_err(|error| Reject::new(RejectReason::Io, error.to_string()));
        }
    };
    let failed = |error| match error {
        object_store::Error::NotFound { .. } => {
            Reject::new(RejectReason::MissingImage, format!("there is no file `{}`", name(folder, &path)))
        }
        error => Reject::new(RejectReason::Io, format!("`{}` can't be read: {error}", name(folder, &path))),
    };
    let found = store.get(&path).await.map_err(failed)?;
    if found.meta.size > MAX_PICTURE_BYTES {
        let detail = format!("file has {} bytes, the limit is {MAX_PICTURE_BYTES}", found.meta.size);
        return Err(Reject::new(RejectReason::ImageTooLarge, detail));
    }
    found.bytes().await.map(Some).map_err(failed)
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
