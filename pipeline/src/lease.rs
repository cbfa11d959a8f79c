//! One writer an output.
//!
//! On a disk the file `.lock` is locked through the operating system, which frees it when the process is gone, however
//! it went. A store has no such thing: there the object `lease.json` holds the writer's number and a counter that it
//! raises every few seconds. Another writer that finds a lease watches it; if the counter stands still for three
//! periods, the writer is dead and its lease is taken over. Both changes are conditional on the version that was
//! seen, so of two that try one wins, and a writer that was thought dead notices at its next renewal.

use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::PipelineError;
use crate::commit::{Location, blocking};

/// Periods that a counter may stand still.
const PATIENCE: u32 = 3;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LeaseRecord {
    /// A number drawn by the writer.
    writer: u64,
    /// Raised by each renewal.
    counter: u64,
}

/// The right to write, given back when it is released or dropped.
#[derive(Debug)]
pub(crate) enum Lease {
    /// A lock of the operating system.
    Disk(#[allow(dead_code)] File),
    /// An object that a task renews.
    Store { output: Location, writer: u64, renewal: AbortHandle, lost: watch::Receiver<bool> },
}

impl Lease {
    /// Takes the right to write to `output`.
    ///
    /// # Errors
    ///
    /// [`PipelineError::Busy`] if another live process has it.
    pub(crate) async fn take(output: &Location, period: Duration) -> Result<Self, PipelineError> {
        if output.local.is_some() {
            let output = output.clone();
            return blocking(move || lock(&output)).await.map(Self::Disk);
        }
        let writer = RandomState::new().hash_one(std::process::id());
        let version = acquire(output, writer, period).await?;
        let (lose, lost) = watch::channel(false);
        let renewal = tokio::spawn(renew(output.clone(), writer, version, period, lose)).abort_handle();
        Ok(Self::Store { output: output.clone(), writer, renewal, lost })
    }

    /// Returns only if another process took over.
    pub(crate) async fn lost(&self) -> PipelineError {
        if let Self::Store { output, lost, .. } = self {
            let mut lost = lost.clone();
            if lost.wait_for(|lost| *lost).await.is_ok() {
                return PipelineError::LeaseLost { output: output.show("") };
            }
        }
        std::future::pending().await
    }

    /// Gives the right back.
    pub(crate) async fn release(self) {
        let Self::Store { output, writer, renewal, lost } = self else { return };
        renewal.abort();
        if *lost.borrow() {
            return;
        }
        // Between this look and the removal another writer would have to see the counter stand still for periods.
        let ours = matches!(read(&output).await, Ok(Some((record, _))) if record.writer == writer);
        if ours && let Err(error) = output.store.delete(&path(&output)).await {
            tracing::warn!(%error, "the lease could not be removed; it runs out by itself");
        }
    }
}

fn lock(output: &Location) -> Result<File, PipelineError> {
    let failed = |source| PipelineError::Io { operation: "lock", path: output.show(".lock"), source };
    let folder = output.local.clone().unwrap_or_default();
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let options = File::options().create(true).truncate(false).write(true).open(folder.join(".lock"));
    let file = options.map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(PipelineError::Busy { output: output.show("") }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn path(output: &Location) -> Path {
    output.prefix.clone().join("lease.json")
}

fn store_error(output: &Location, source: StoreError) -> PipelineError {
    PipelineError::Store { operation: "write", path: output.show("lease.json"), source }
}

async fn read(output: &Location) -> Result<Option<(LeaseRecord, UpdateVersion)>, PipelineError> {
    let found = match output.store.get(&path(output)).await {
        Ok(found) => found,
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(store_error(output, error)),
    };
    let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
    let bytes = found.bytes().await.map_err(|error| store_error(output, error))?;
    // What is no lease belongs to nobody and stands still.
    let record = serde_json::from_slice(&bytes).unwrap_or(LeaseRecord { writer: 0, counter: 0 });
    Ok(Some((record, version)))
}

/// Puts a record; `None` if somebody else was quicker.
async fn put(
    output: &Location,
    record: &LeaseRecord,
    mode: PutMode,
) -> Result<Option<UpdateVersion>, PipelineError> {
    let bytes = serde_json::to_vec(record).map_err(|error| PipelineError::Format(Box::new(error)))?;
    let options = PutOptions { mode, ..PutOptions::default() };
    match output.store.put_opts(&path(output), bytes.into(), options).await {
        Ok(put) => Ok(Some(UpdateVersion { e_tag: put.e_tag, version: put.version })),
        Err(
            StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } | StoreError::NotFound { .. },
        ) => Ok(None),
        Err(error) => Err(store_error(output, error)),
    }
}

async fn acquire(output: &Location, writer: u64, period: Duration) -> Result<UpdateVersion, PipelineError> {
    let busy = || PipelineError::Busy { output: output.show("") };
    let ours = LeaseRecord { writer, counter: 0 };
    if let Some(version) = put(output, &ours, PutMode::Create).await? {
        return Ok(version);
    }
    let Some((seen, version)) = read(output).await? else {
        // It was given back just now.
        return put(output, &ours, PutMode::Create).await?.ok_or_else(busy);
    };
    tracing::debug!(
        writer = seen.writer,
        counter = seen.counter,
        "another writer holds the lease: is it alive?"
    );
    tokio::time::sleep(period * PATIENCE).await;
    let mode = match read(output).await? {
        Some((now, _)) if now == seen => PutMode::Update(version),
        Some(_) => return Err(busy()),
        None => PutMode::Create,
    };
    put(output, &ours, mode).await?.ok_or_else(busy)
}

async fn renew(
    output: Location,
    writer: u64,
    mut version: UpdateVersion,
    period: Duration,
    lose: watch::Sender<bool>,
) {
    for counter in 1.. {
        tokio::time::sleep(period).await;
        match put(&output, &LeaseRecord { writer, counter }, PutMode::Update(version.clone())).await {
            Ok(Some(renewed)) => version = renewed,
            Ok(None) => {
                // The job may be gone already.
                let _ = lose.send(true);
                return;
            }
            // A store that fails for a while is met by the next renewal; the others wait three periods.
            Err(error) => tracing::warn!(%error, "the lease could not be renewed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;

    const PERIOD: Duration = Duration::from_millis(5);

    fn memory() -> Location {
        Location { store: Arc::new(InMemory::new()), prefix: Path::from("out"), local: None }
    }

    #[tokio::test]
    async fn a_live_writer_keeps_the_second_out_and_leaves_nothing_behind() {
        let output = memory();
        let first = Lease::take(&output, PERIOD).await.expect("free");
        assert!(matches!(Lease::take(&output, PERIOD).await, Err(PipelineError::Busy { .. })));
        first.release().await;
        let second = Lease::take(&output, PERIOD).await.expect("free again");
        second.release().await;
        assert!(matches!(output.store.head(&path(&output)).await, Err(StoreError::NotFound { .. })));
    }

    #[tokio::test]
    async fn a_dead_writer_is_replaced_and_notices_if_it_was_not_dead() {
        let output = memory();
        let first = Lease::take(&output, Duration::from_secs(3600)).await.expect("free");
        let second = Lease::take(&output, PERIOD).await.expect("taken over");
        second.release().await;
        first.release().await;

        let slow = Lease::take(&output, PERIOD * 40).await.expect("free");
        let quick = Lease::take(&output, PERIOD).await.expect("taken over");
        assert!(matches!(slow.lost().await, PipelineError::LeaseLost { .. }));
        quick.release().await;
    }

    #[tokio::test]
    async fn a_disk_is_locked_as_long_as_the_file_is_open() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Arc::new(InMemory::new());
        let output = Location { store, prefix: Path::default(), local: Some(folder.path().join("new/out")) };
        let first = Lease::take(&output, PERIOD).await.expect("free");
        assert!(matches!(Lease::take(&output, PERIOD).await, Err(PipelineError::Busy { .. })));
        drop(first);
        Lease::take(&output, PERIOD).await.expect("free again");
    }
}
