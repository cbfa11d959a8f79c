//! Bytes out of an object store, with retries. All async code of this crate is here, on a small runtime of its own, so
//! that callers may run inside a runtime or outside of one.

use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use tokio::runtime::{Builder, Runtime};

use super::StreamError;

/// How often and how patiently a store is asked again. The stores have retries of their own for single requests; these
/// are for what they let through, most of all bodies that break off half way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries without any progress before it is an error.
    pub attempts: u32,
    /// Wait before the second try; it doubles with each further one.
    pub first_wait_ms: u64,
    /// Longest wait.
    pub longest_wait_ms: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 6, first_wait_ms: 200, longest_wait_ms: 20_000 }
    }
}

/// Where a dataset lies.
#[derive(Clone, Debug)]
pub struct Location {
    /// The URI of the config, for messages.
    pub uri: String,
    /// The store that holds it.
    pub store: Arc<dyn ObjectStore>,
    /// Its folder in the store.
    pub prefix: object_store::path::Path,
    /// The folder, where it is on a local disk: shards are then read in place.
    pub local: Option<PathBuf>,
}

impl Location {
    /// A folder on a local disk.
    ///
    /// # Errors
    ///
    /// If the path is not one that an object store can name.
    pub fn folder(path: impl Into<PathBuf>) -> Result<Self, StreamError> {
        let path = path.into();
        let wrong = |source| StreamError::Io { path: path.clone(), source };
        let whole = std::path::absolute(&path).map_err(wrong)?;
        let prefix = object_store::path::Path::from_absolute_path(&whole)
            .map_err(|error| wrong(std::io::Error::new(std::io::ErrorKind::InvalidInput, error)))?;
        let store = Arc::new(object_store::local::LocalFileSystem::new());
        Ok(Self { uri: path.display().to_string(), store, prefix, local: Some(path) })
    }

    /// The object of a path below the dataset.
    pub(crate) fn object(&self, path: &str) -> object_store::path::Path {
        path.split('/').fold(self.prefix.clone(), |prefix, part| prefix.join(part))
    }

    /// Refuses what would lead out of the dataset: absolute paths, `..`, backslashes.
    pub(super) fn check_inside(&self, path: &str) -> Result<(), StreamError> {
        let safe =
            |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':', '\0']);
        if path.split('/').all(safe) {
            return Ok(());
        }
        Err(StreamError::Outside { uri: self.uri.clone(), path: path.to_owned() })
    }
}

/// Runs requests to stores.
#[derive(Debug)]
pub(super) struct Fetcher {
    /// `None` only while dropping.
    runtime: Option<Runtime>,
    retry: Retry,
}

impl Drop for Fetcher {
    /// A runtime may not be dropped inside another one's task, and nobody waits for its requests any more.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Fetcher {
    pub(super) fn new(retry: Retry) -> Result<Self, StreamError> {
        let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("fetch").enable_all().build();
        let runtime =
            runtime.map_err(|source| StreamError::Io { path: PathBuf::from("<runtime>"), source })?;
        Ok(Self { runtime: Some(runtime), retry })
    }

    /// A whole small object; `None` if there is none.
    pub(super) fn read(&self, location: &Location, path: &str) -> Result<Option<Bytes>, StreamError> {
        location.check_inside(path)?;
        let (store, object, retry) = (location.store.clone(), location.object(path), self.retry);
        let result = self.wait(async move { read(&*store, &object, retry).await });
        match result {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(store_error(location, path, error)),
        }
    }

    /// Copies an object into `file`, going on where a broken request ended, and gives the BLAKE3 of what came.
    pub(super) fn download(
        &self,
        location: &Location,
        path: &str,
        bytes: u64,
        file: &Path,
    ) -> Result<String, StreamError> {
        location.check_inside(path)?;
        let (store, object, retry) = (location.store.clone(), location.object(path), self.retry);
        let io = |source| StreamError::Io { path: file.to_owned(), source };
        let output = File::create(file).map_err(io)?;
        match self.wait(async move { Download::new(output, bytes, retry).run(&*store, &object).await }) {
            Ok(checksum) => Ok(checksum),
            Err(DownloadError::Io(source)) => Err(io(source)),
            Err(DownloadError::Store(object_store::Error::NotFound { .. })) => {
                Err(StreamError::Missing { uri: location.uri.clone(), path: path.to_owned() })
            }
            Err(DownloadError::Store(error)) => Err(store_error(location, path, error)),
        }
    }

    /// Blocks the calling thread without entering a runtime, which another runtime's worker thread may not do.
    fn wait<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> T {
        let (sender, receiver) = mpsc::sync_channel(1);
        let runtime = self.runtime.as_ref().expect("the runtime is there until the fetcher is dropped");
        runtime.spawn(async move {
            // Nobody listens any more only if the caller's thread is gone.
            let _ = sender.send(task.await);
        });
        receiver
            .recv()
            .expect("a request answers: its task neither panics nor is it cancelled before the fetcher's end")
    }
}

fn store_error(location: &Location, path: &str, source: object_store::Error) -> StreamError {
    StreamError::Store { uri: location.uri.clone(), path: path.to_owned(), source }
}

async fn read(
    store: &dyn ObjectStore,
    object: &object_store::path::Path,
    retry: Retry,
) -> object_store::Result<Bytes> {
    let mut failures = 0;
    loop {
        let result = async { store.get(object).await?.bytes().await }.await;
        match result {
            Err(error) if is_passing(&error) => retry.wait_after(&mut failures, error).await?,
            other => return other,
        }
    }
}

/// Whether the same request may succeed later.
fn is_passing(error: &object_store::Error) -> bool {
    use object_store::Error;
    !matches!(
        error,
        Error::NotFound { .. }
            | Error::InvalidPath { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. }
            | Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::UnknownConfigurationKey { .. }
    )
}

impl Retry {
    /// Counts a failure: gives the error back when it was the last one, else waits.
    async fn wait_after(self, failures: &mut u32, error: object_store::Error) -> object_store::Result<()> {
        *failures += 1;
        if *failures >= self.attempts {
            return Err(error);
        }
        tracing::debug!(failures = *failures, %error, "store asked again");
        let longest =
            self.first_wait_ms.saturating_mul(1 << (*failures - 1).min(20)).min(self.longest_wait_ms);
        // Between half and all of it, so that readers that failed together don't come back together.
        tokio::time::sleep(Duration::from_millis(longest / 2 + jitter(longest / 2))).await;
        Ok(())
    }
}

/// Some number up to `limit`. It decides when, never what, so it need not be reproducible.
fn jitter(limit: u64) -> u64 {
    use std::hash::BuildHasher;
    std::hash::RandomState::new().hash_one(0) % (limit + 1)
}

enum DownloadError {
    Io(std::io::Error),
    Store(object_store::Error),
}

struct Download {
    output: File,
    hasher: blake3::Hasher,
    received: u64,
    expected: u64,
    retry: Retry,
}

impl Download {
    fn new(output: File, expected: u64, retry: Retry) -> Self {
        Self { output, hasher: blake3::Hasher::new(), received: 0, expected, retry }
    }

    async fn run(
        mut self,
        store: &dyn ObjectStore,
        object: &object_store::path::Path,
    ) -> Result<String, DownloadError> {
        let mut failures = 0;
        loop {
            let before = self.received;
            match self.attempt(store, object).await {
                Err(DownloadError::Store(error)) if is_passing(&error) => {
                    if self.received > before {
                        failures = 0;
                    }
                    self.retry.wait_after(&mut failures, error).await.map_err(DownloadError::Store)?;
                }
                Err(error) => return Err(error),
                Ok(()) => return self.finish(),
            }
        }
    }

    async fn attempt(
        &mut self,
        store: &dyn ObjectStore,
        object: &object_store::path::Path,
    ) -> Result<(), DownloadError> {
        let range = (self.received > 0).then_some(GetRange::Offset(self.received));
        let options = GetOptions::default().with_range(range);
        let mut body = store.get_opts(object, options).await.map_err(DownloadError::Store)?.into_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(DownloadError::Store)?;
            self.output.write_all(&chunk).map_err(DownloadError::Io)?;
            self.hasher.update(&chunk);
            self.received += chunk.len() as u64;
            if self.received > self.expected {
                // Longer than the manifest says: whatever follows, the checksum can't fit any more.
                return Ok(());
            }
        }
        if self.received < self.expected {
            let what = format!("{} of {} bytes came", self.received, self.expected);
            return Err(DownloadError::Store(object_store::Error::Generic {
                store: "body",
                source: what.into(),
            }));
        }
        Ok(())
    }

    fn finish(self) -> Result<String, DownloadError> {
        self.output.sync_data().map_err(DownloadError::Io)?;
        Ok(self.hasher.finalize().to_hex().to_string())
    }
}
