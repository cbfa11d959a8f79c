//! Where a dataset lies, and how objects get there: whole or not at all.
//!
//! On a disk an object is written to a temporary file beside its place, synced, and renamed (or linked, where it must
//! not exist yet). On a store it is one put, or a multipart upload that shows nothing until it is complete and whose
//! parts are removed when it fails; until then it lies in a file without a name, which the operating system removes
//! however the process ends. Shards are named by their content, so writing one twice is harmless; everything that must
//! be decided once is put create-only.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error as StoreError, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use schemas::manifest_version;
use tempfile::NamedTempFile;

use crate::PipelineError;
use crate::host::stop::Stop;
use crate::host::threads::blocking;

/// Bytes of a part of a multipart upload, and the size up to which one put is enough.
const PART_BYTES: usize = 8 << 20;

/// Folder of unfinished files on a disk; emptied at each start.
const TEMPORARY: &str = ".unfinished";

/// The folder of a dataset.
#[derive(Clone, Debug)]
pub struct Location {
    /// The store that it lies in.
    pub store: Arc<dyn ObjectStore>,
    /// Its path there.
    pub prefix: Path,
    /// Its path on this machine's disk, where it lies on one.
    pub local: Option<PathBuf>,
}

/// Whether a path below a dataset is that of a file which a job writes there.
pub fn is_written(path: &str) -> bool {
    const NAMES: [&str; 9] = [
        "shards",
        "commits",
        "rejects",
        "validation",
        "job.json",
        "lease.json",
        ".lock",
        "tokenizer.json",
        "tokenizer.model",
    ];
    let first = path.split('/').next().unwrap_or_default();
    NAMES.contains(&first) || manifest_version(path).is_some()
}

/// A file that becomes an object of the dataset.
#[derive(Debug)]
pub(crate) enum Temporary {
    /// On the disk of the dataset; renamed to its place.
    Named(NamedTempFile),
    /// Anywhere; its bytes are sent to the store.
    Unnamed(File),
}

impl Temporary {
    /// A handle to write to. There is one place in the file for all handles.
    pub(crate) fn handle(&self) -> io::Result<File> {
        match self {
            Self::Named(file) => file.as_file().try_clone(),
            Self::Unnamed(file) => file.try_clone(),
        }
    }
}

impl Location {
    /// A folder below this one.
    pub fn child(&self, name: &str) -> Self {
        let prefix = name.split('/').fold(self.prefix.clone(), |path, part| path.join(part));
        Self { store: self.store.clone(), prefix, local: self.local.as_ref().map(|local| local.join(name)) }
    }

    /// The path of an object, for a message.
    pub(crate) fn show(&self, name: &str) -> String {
        match &self.local {
            Some(local) if name.is_empty() => local.display().to_string(),
            Some(local) => local.join(name).display().to_string(),
            None => self.path(name).to_string(),
        }
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    fn store_error(&self, operation: &'static str, name: &str, source: StoreError) -> PipelineError {
        PipelineError::Store { operation, path: self.show(name), source }
    }

    fn io_error(&self, operation: &'static str, name: &str, source: io::Error) -> PipelineError {
        PipelineError::Io { operation, path: self.show(name), source }
    }

    /// Reads an object, `None` if there is none.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn read(&self, name: &str) -> Result<Option<Bytes>, PipelineError> {
        let found = match self.store.get(&self.path(name)).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        match found {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.store_error("read", name, error)),
        }
    }

    /// Writes an object that must not exist; `false` if it does.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn create(&self, name: &str, bytes: Vec<u8>) -> Result<bool, PipelineError> {
        if self.local.is_some() {
            let (location, name) = (self.clone(), name.to_owned());
            return blocking(move || {
                let file = location.temporary_with(&name, &bytes)?;
                location.persist(file, &name, true)
            })
            .await;
        }
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&self.path(name), bytes.into(), options).await {
            Ok(_) => Ok(true),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(false),
            Err(error) => Err(self.store_error("write", name, error)),
        }
    }

    /// Writes an object, whether it exists or not.
    pub(crate) async fn write(&self, name: &str, bytes: Vec<u8>) -> Result<(), PipelineError> {
        if self.local.is_some() {
            let (location, name) = (self.clone(), name.to_owned());
            return blocking(move || {
                let file = location.temporary_with(&name, &bytes)?;
                location.persist(file, &name, false).map(|_| ())
            })
            .await;
        }
        let put = self.store.put(&self.path(name), bytes.into()).await;
        put.map(|_| ()).map_err(|error| self.store_error("write", name, error))
    }

    /// A temporary file for an object that is to be written here. Blocks.
    pub(crate) fn temporary(&self) -> Result<Temporary, PipelineError> {
        if self.local.is_some() {
            return self.named_temporary().map(Temporary::Named);
        }
        let file = tempfile::tempfile();
        file.map(Temporary::Unnamed).map_err(|error| self.io_error("create a temporary file for", "", error))
    }

    fn named_temporary(&self) -> Result<NamedTempFile, PipelineError> {
        let mut builder = tempfile::Builder::new();
        let folder = self.local.clone().unwrap_or_default().join(TEMPORARY);
        // What is renamed into the dataset has the rights of any other new file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        std::fs::create_dir_all(&folder)
            .and_then(|()| builder.tempfile_in(&folder))
            .map_err(|error| self.io_error("create a file in", TEMPORARY, error))
    }

    fn temporary_with(&self, name: &str, bytes: &[u8]) -> Result<NamedTempFile, PipelineError> {
        let mut file = self.named_temporary()?;
        file.write_all(bytes).map_err(|error| self.io_error("write", name, error))?;
        Ok(file)
    }

    /// Moves a file to its place on the disk. Blocks.
    fn persist(&self, file: NamedTempFile, name: &str, create: bool) -> Result<bool, PipelineError> {
        let target = self.local.clone().unwrap_or_default().join(name);
        let folder = target.parent().map(std::path::Path::to_path_buf).unwrap_or_default();
        let failed = |error| self.io_error("write", name, error);
        std::fs::create_dir_all(&folder).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        let moved = if create { file.persist_noclobber(&target) } else { file.persist(&target) };
        match moved {
            Ok(_) => {}
            Err(error) if create && error.error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(failed(error.error)),
        }
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(true)
    }

    /// Gives a finished temporary file its place. Its content decides its name, so it may exist. Of an upload that is
    /// stopped no part is left.
    pub(crate) async fn put_file(
        &self,
        name: &str,
        file: Temporary,
        stop: &Stop,
    ) -> Result<(), PipelineError> {
        let mut source = match file {
            Temporary::Named(file) => {
                let (location, name) = (self.clone(), name.to_owned());
                return blocking(move || location.persist(file, &name, false).map(|_| ())).await;
            }
            Temporary::Unnamed(file) => file,
        };
        source
            .seek(SeekFrom::Start(0))
            .map_err(|error| self.io_error("read the temporary file of", name, error))?;
        let mut first = Vec::new();
        self.read_part(&mut source, &mut first, name)?;
        if first.len() < PART_BYTES {
            return self.write(name, first).await;
        }
        let failed = |error| self.store_error("write", name, error);
        let mut upload = self.store.put_multipart(&self.path(name)).await.map_err(failed)?;
        match stop.until(self.upload(&mut *upload, first, source, name)).await {
            Ok(()) => Ok(()),
            Err(error) => {
                // The first error is the one that says what happened.
                if let Err(abort) = upload.abort().await {
                    tracing::warn!(name, error = %abort, "parts of a failed upload could not be removed");
                }
                Err(error)
            }
        }
    }

    async fn upload(
        &self,
        upload: &mut dyn MultipartUpload,
        mut part: Vec<u8>,
        mut source: File,
        name: &str,
    ) -> Result<(), PipelineError> {
        let failed = |error| self.store_error("write", name, error);
        while !part.is_empty() {
            upload.put_part(std::mem::take(&mut part).into()).await.map_err(failed)?;
            self.read_part(&mut source, &mut part, name)?;
        }
        upload.complete().await.map(|_| ()).map_err(failed)
    }

    fn read_part(&self, source: &mut File, part: &mut Vec<u8>, name: &str) -> Result<(), PipelineError> {
        let read = Read::by_ref(source).take(PART_BYTES as u64).read_to_end(part);
        read.map(|_| ()).map_err(|error| self.io_error("read the temporary file of", name, error))
    }

    /// Removes what a killed process left on the disk.
    pub(crate) fn remove_unfinished(&self) -> Result<(), PipelineError> {
        let Some(local) = &self.local else { return Ok(()) };
        match std::fs::remove_dir_all(local.join(TEMPORARY)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.io_error("remove", TEMPORARY, error))
            }
            _ => Ok(()),
        }
    }
}

/// A writer that counts and hashes what goes through.
pub(crate) struct Hashing<W> {
    inner: W,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<W: Write> Hashing<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, hasher: blake3::Hasher::new(), bytes: 0 }
    }

    /// The writer, the checksum, and the number of bytes.
    pub(crate) fn finish(self) -> (W, String, u64) {
        (self.inner, self.hasher.finalize().to_hex().to_string(), self.bytes)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
