//! A shard on the local disk, read one record batch after another into memory of its own.
//!
//! It is not mapped: a file that somebody cuts short while it is mapped ends the process without a word, and a copied
//! batch costs little beside decoding its rows. What is held is the file's handle and what its footer says; the batches
//! in use are held by the caller.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::buffer::{Buffer, MutableBuffer};
use schemas::shard::{ShardError, ShardIndex, TRAILER_BYTES, footer_bytes};

use super::cache::InUse;

/// Why a record batch can't be read.
#[derive(Debug)]
pub(super) enum FileError {
    /// The file has fewer bytes than when its checksum was compared.
    Cut { found: u64 },
    /// The system's complaint.
    Io(io::Error),
    /// The bytes are no shard.
    Shard(ShardError),
}

impl From<ShardError> for FileError {
    fn from(error: ShardError) -> Self {
        Self::Shard(error)
    }
}

/// An open shard.
#[derive(Debug)]
pub(super) struct ShardFile {
    /// One reader at a time: a handle has one position.
    file: Mutex<File>,
    bytes: u64,
    index: Arc<ShardIndex>,
    /// Keeps a file of the cache from being deleted.
    _in_use: Option<InUse>,
}

/// Opens a file for reading; `None` if there is none.
pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The BLAKE3 of a file's content.
pub(super) fn checksum(file: &File) -> io::Result<String> {
    let mut file = file;
    file.rewind()?;
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            bytes => hasher.update(&piece[..bytes]),
        };
    }
}

impl ShardFile {
    /// Reads the footer of a file of `bytes` bytes.
    pub(super) fn new(file: File, bytes: u64, in_use: Option<InUse>) -> Result<Self, FileError> {
        let damaged = |what: String| FileError::Shard(ShardError::Damaged { what });
        let file = Mutex::new(file);
        let trailer_start =
            bytes.checked_sub(TRAILER_BYTES as u64).ok_or_else(|| damaged(format!("{bytes} bytes")))?;
        let trailer = read(&file, trailer_start, TRAILER_BYTES)?;
        let trailer = trailer.as_slice().try_into().expect("as many bytes were read");
        let length = footer_bytes(trailer)?;
        let start = trailer_start
            .checked_sub(length as u64)
            .ok_or_else(|| damaged("footer is longer than the file".to_owned()))?;
        let index = Arc::new(ShardIndex::from_footer(&read(&file, start, length)?, bytes)?);
        Ok(Self { file, bytes, index, _in_use: in_use })
    }

    /// Its footer.
    pub(super) fn index(&self) -> &Arc<ShardIndex> {
        &self.index
    }

    /// Its bytes when it was opened.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// One record batch.
    pub(super) fn record_batch(&self, index: usize) -> Result<RecordBatch, FileError> {
        let (start, length) = self.index.range(index)?;
        Ok(self.index.batch(index, &read(&self.file, start as u64, length)?)?)
    }
}

/// A stretch of the file, aligned as Arrow wants it.
fn read(file: &Mutex<File>, start: u64, length: usize) -> Result<Buffer, FileError> {
    let mut file = file.lock().expect("no thread panics while it reads");
    let mut bytes = MutableBuffer::from_len_zeroed(length);
    let result = file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut bytes));
    match result {
        Ok(()) => Ok(bytes.into()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            let found = file.metadata().map_err(FileError::Io)?.len();
            Err(FileError::Cut { found })
        }
        Err(error) => Err(FileError::Io(error)),
    }
}
