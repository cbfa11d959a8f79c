//! Files of which nothing but a pointer of Git LFS has been fetched.

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;

use super::{InputFile, Listing};
use crate::PipelineError;

/// What a pointer of Git LFS begins with.
pub(crate) const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1";

/// A pointer has some 130 bytes, and a caption may be counted with it.
const POINTER_BYTES: std::ops::Range<u64> = 100..2048;

/// Whether a file may be a pointer by its size.
pub(crate) fn is_small(file: &InputFile) -> bool {
    POINTER_BYTES.contains(&file.bytes)
}

/// Files that are looked into.
const POINTERS: usize = 16;

/// Refuses a source some of whose small files are pointers.
pub(crate) async fn refuse_pointers(name: &str, listing: &Listing) -> Result<(), PipelineError> {
    let small: Vec<&InputFile> = listing.files.iter().filter(|file| is_small(file)).collect();
    let step = small.len().div_ceil(POINTERS).max(1);
    let looked = futures::stream::iter(small.into_iter().step_by(step)).map(async |file| {
        let range = 0..POINTER.len() as u64;
        // What can't be read is said when it is read.
        match listing.store.get_range(&file.path, range).await {
            Ok(bytes) if bytes == POINTER => {
                Err(PipelineError::Pointer { name: name.to_owned(), path: file.below.clone() })
            }
            _ => Ok(()),
        }
    });
    looked.buffered(POINTERS).try_collect().await
}
