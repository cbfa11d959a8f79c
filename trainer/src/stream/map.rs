//! The memory map of a shard: the one place of this crate that needs `unsafe`.
//!
//! A mapped shard costs address space instead of private memory, and the pages that a run reads again stay in the
//! system's page cache. The price: if somebody cuts the file short while it is mapped, the process gets SIGBUS. Shards
//! are immutable by the format's own rule, so nothing of ours ever does that.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;

use arrow::buffer::Buffer;
use bytes::Bytes;
use memmap2::Mmap;

/// Maps a file for reading.
///
/// # Errors
///
/// If it can't be opened or mapped.
pub(super) fn map(path: &Path) -> io::Result<Buffer> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(Buffer::from(Bytes::new()));
    }
    // SAFETY: the map is read-only, and a shard, once under its final name, is never written to or cut short: writers
    // of this format create new files and rename them into place.
    let map = unsafe { Mmap::map(&file)? };
    Ok(Buffer::from(Bytes::from_owner(map)))
}
