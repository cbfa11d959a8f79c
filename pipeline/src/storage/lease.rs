//! One writer an output.
//!
//! On a disk the file `.lock` is locked through the operating system, which frees it when the process is gone, however
//! it went. A store has no such thing: there the object `lease.json` holds the writer's number and a counter that it
//! raises every few seconds. Another writer that finds a lease watches it; if the counter stands still for three
//! periods, the writer is dead and its lease is taken over. Both changes are conditional on the version that was
//! seen, so of two that try one wins, and a writer that was thought dead notices at its next renewal.
//!
//! A store that can't be written to is never taken for another writer: only what the store says of a lease that is
//! there counts as one, and everything else is the store's own error.

use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::PipelineError;
use crate::host::observer::{Event, Observer};
use crate::host::threads::blocking;
use crate::storage::location::Location;

/// Periods that a counter may stand still.
const PATIENCE: u32 = 3;

/// Looks at a foreign lease in each period.
const LOOKS: u32 = 5;

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
    Store {
        output: Location,
        writer: u64,
        period: Duration,
        renewal: Renewal,
        lost: watch::Receiver<Option<String>>,
    },
}

/// The task that renews a lease. It ends with whoever holds this, so a job that is given up is soon taken for dead.
#[derive(Debug)]
pub(crate) struct Renewal(AbortHandle);

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Lease {
    /// Takes the right to write to `output`.
    ///
    /// # Errors
    ///
    /// [`PipelineError::Busy`] if another live process has it; the store's error if it can't be written to.
    pub(crate) async fn acquire(
        output: &Location,
        period: Duration,
        observer: &Arc<dyn Observer>,
    ) -> Result<Self, PipelineError> {
        if output.local.is_some() {
            let output = output.clone();
            return blocking(move || lock(&output)).await.map(Self::Disk);
        }
        let writer = RandomState::new().hash_one(std::process::id());
        let version = acquire(output, writer, period, observer).await?;
        let (lose, lost) = watch::channel(None);
        let renewal = tokio::spawn(renew(output.clone(), writer, version, period, lose)).abort_handle();
        let output = output.clone();
        Ok(Self::Store { output, writer, period, renewal: Renewal(renewal), lost })
    }

    /// Returns only if the right is gone.
    pub(crate) async fn lost(&self) -> PipelineError {
        if let Self::Store { output, lost, .. } = self {
            let mut lost = lost.clone();
            let what = lost.wait_for(Option::is_some).await.ok().and_then(|what| what.clone());
            if let Some(what) = what {
                return PipelineError::LeaseLost { output: output.show(""), what };
            }
        }
        std::future::pending().await
    }

    /// Gives the right back. A store that does not answer in time is left alone: the lease runs out by itself.
    pub(crate) async fn release(self) {
        let Self::Store { output, writer, period, renewal, lost } = self else { return };
        drop(renewal);
        if lost.borrow().is_some() {
            return;
        }
        if tokio::time::timeout(period, remove(&output, writer)).await.is_err() {
            tracing::warn!("the lease could not be removed in time; it runs out by itself");
        }
    }
}

/// Removes a lease of ours.
async fn remove(output: &Location, writer: u64) {
    // Between this look and the removal another writer would have to see the counter stand still for periods.
    let ours = matches!(read(output).await, Ok(Some((record, _))) if record.writer == writer);
    if ours && let Err(error) = output.store.delete(&path(output)).await {
        tracing::warn!(%error, "the lease could not be removed; it runs out by itself");
    }
}

fn busy(output: &Location, what: impl Into<String>) -> PipelineError {
    PipelineError::Busy { output: output.show(""), what: what.into() }
}

fn lock(output: &Location) -> Result<File, PipelineError> {
    let failed = |source| PipelineError::Io { operation: "lock", path: output.show(".lock"), source };
    let folder = output.local.clone().unwrap_or_default();
    let created = |source| PipelineError::Io { operation: "write", path: output.show(".lock"), source };
    std::fs::create_dir_all(&folder).map_err(created)?;
    let options = File::options().create(true).truncate(false).write(true).open(folder.join(".lock"));
    let file = options.map_err(created)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(busy(output, "it holds the lock on the file `.lock`")),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn path(output: &Location) -> Path {
    output.prefix.clone().join("lease.json")
}

fn store_error(output: &Location, operation: &'static str, source: StoreError) -> PipelineError {
    PipelineError::Store { operation, path: output.show("lease.json"), source }
}

async fn read(output: &Location) -> Result<Option<(LeaseRecord, UpdateVersion)>, PipelineError> {
    let found = match output.store.get(&path(output)).await {
        Ok(found) => found,
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(store_error(output, "read", error)),
    };
    let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
    let bytes = found.bytes().await.map_err(|error| store_error(output, "read", error))?;
    // What is no lease belongs to nobody and stands still.
    let record = serde_json::from_slice(&bytes).unwrap_or(LeaseRecord { writer: 0, counter: 0 });
    Ok(Some((record, version)))
}

/// What became of a conditional put.
enum Put {
    /// The record is there, in this version.
    Done(UpdateVersion),
    /// The lease is not what it was: somebody else was quicker, or an answer of the store was lost.
    Refused,
}

/// Puts a record where the lease is as `mode` says.
async fn put(output: &Location, record: &LeaseRecord, mode: PutMode) -> Result<Put, PipelineError> {
    let bytes = serde_json::to_vec(record).map_err(|error| PipelineError::Format(Box::new(error)))?;
    let update = matches!(mode, PutMode::Update(_));
    let options = PutOptions { mode, ..PutOptions::default() };
    match output.store.put_opts(&path(output), bytes.into(), options).await {
        Ok(put) => Ok(Put::Done(UpdateVersion { e_tag: put.e_tag, version: put.version })),
        Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(Put::Refused),
        // An update of what is gone. Nothing is there to be missed by a first put: then the bucket is.
        Err(StoreError::NotFound { .. }) if update => Ok(Put::Refused),
        Err(error) => Err(store_error(output, "write", error)),
    }
}

async fn acquire(
    output: &Location,
    writer: u64,
    period: Duration,
    observer: &Arc<dyn Observer>,
) -> Result<UpdateVersion, PipelineError> {
    let ours = LeaseRecord { writer, counter: 0 };
    if let Put::Done(version) = put(output, &ours, PutMode::Create).await? {
        return Ok(version);
    }
    let mode = match read(output).await? {
        // The put had gone through, and its answer was lost.
        Some((seen, version)) if seen.writer == writer => return Ok(version),
        Some((seen, version)) => {
            observer.event(Event::LeaseFound { wait: period * PATIENCE });
            watch_lease(output, &seen, version, period).await?
        }
        // It was given back just now.
        None => PutMode::Create,
    };
    match put(output, &ours, mode).await? {
        Put::Done(version) => Ok(version),
        Put::Refused => match read(output).await? {
            Some((seen, version)) if seen.writer == writer => Ok(version),
            _ => Err(busy(output, "a third one took its lease at the same time")),
        },
    }
}

/// Watches a lease for as long as a living writer may leave it alone, and says how it is taken over.
async fn watch_lease(
    output: &Location,
    seen: &LeaseRecord,
    version: UpdateVersion,
    period: Duration,
) -> Result<PutMode, PipelineError> {
    for _ in 0..PATIENCE * LOOKS {
        tokio::time::sleep(period / LOOKS).await;
        match read(output).await? {
            Some((now, _)) if now == *seen => {}
            Some((now, _)) if now.writer == seen.writer => {
                let what =
                    format!("its lease went from {} to {} while it was watched", seen.counter, now.counter);
                return Err(busy(output, what));
            }
            Some(_) => return Err(busy(output, "it took the lease of another one that had stopped")),
            None => return Ok(PutMode::Create),
        }
    }
    Ok(PutMode::Update(version))
}

async fn renew(
    output: Location,
    writer: u64,
    mut version: UpdateVersion,
    period: Duration,
    lose: watch::Sender<Option<String>>,
) {
    for counter in 1.. {
        tokio::time::sleep(period).await;
        let ours = LeaseRecord { writer, counter };
        match renewed(&output, &ours, version.clone()).await {
            Ok(Ok(renewed)) => version = renewed,
            Ok(Err(what)) => {
                // The job may be gone already.
                let _ = lose.send(Some(what));
                return;
            }
            // A store that fails for a while is met by the next renewal; the others wait three periods.
            Err(error) => tracing::warn!(%error, "the lease could not be renewed"),
        }
    }
}

/// The new version of a lease, or why there is none.
async fn renewed(
    output: &Location,
    ours: &LeaseRecord,
    version: UpdateVersion,
) -> Result<Result<UpdateVersion, String>, PipelineError> {
    if let Put::Done(version) = put(output, ours, PutMode::Update(version)).await? {
        return Ok(Ok(version));
    }
    Ok(match read(output).await? {
        // An earlier try had gone through, and its answer was lost.
        Some((now, version)) if now.writer == ours.writer => Ok(version),
        Some(_) => {
            Err("another process took it over, because this one did not renew its lease in time".to_owned())
        }
        None => Err("its `lease.json` was removed, by a process that took it over or by hand".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::host::observer::Silent;
    use crate::tests::fixtures::{Faults, FaultyStore};

    const PERIOD: Duration = Duration::from_millis(5);

    fn memory() -> Location {
        Location { store: Arc::new(InMemory::new()), prefix: Path::from("out"), local: None }
    }

    async fn take(output: &Location, period: Duration) -> Result<Lease, PipelineError> {
        let silent: Arc<dyn Observer> = Arc::new(Silent);
        Lease::acquire(output, period, &silent).await
    }

    #[tokio::test]
    async fn a_live_writer_keeps_the_second_out_and_leaves_nothing_behind() {
        let output = memory();
        let first = take(&output, PERIOD).await.expect("free");
        let error = take(&output, PERIOD * 4).await.expect_err("held");
        assert!(
            matches!(&error, PipelineError::Busy { what, .. } if what.contains("its lease went from")),
            "{error}"
        );
        first.release().await;
        let second = take(&output, PERIOD).await.expect("free again");
        second.release().await;
        assert!(matches!(output.store.head(&path(&output)).await, Err(StoreError::NotFound { .. })));
    }

    #[tokio::test]
    async fn a_dead_writer_is_replaced_and_notices_if_it_was_not_dead() {
        let output = memory();
        let first = take(&output, Duration::from_secs(3600)).await.expect("free");
        let second = take(&output, PERIOD).await.expect("taken over");
        second.release().await;
        first.release().await;

        let slow = take(&output, PERIOD * 40).await.expect("free");
        let quick = take(&output, PERIOD).await.expect("taken over");
        let error = slow.lost().await;
        assert!(
            matches!(&error, PipelineError::LeaseLost { what, .. } if what.contains("took it over")),
            "{error}"
        );
        quick.release().await;
    }

    /// The lease of a job whose future was dropped used to be renewed for ever.
    #[tokio::test]
    async fn a_lease_that_is_dropped_stands_still() {
        let output = memory();
        drop(take(&output, PERIOD).await.expect("free"));
        let second = take(&output, PERIOD * 4).await.expect("taken over from what stands still");
        second.release().await;
    }

    #[tokio::test]
    async fn a_lease_that_was_removed_is_not_said_to_be_taken() {
        let output = memory();
        let lease = take(&output, PERIOD).await.expect("free");
        output.store.delete(&path(&output)).await.expect("removed");
        let error = lease.lost().await;
        assert!(
            matches!(&error, PipelineError::LeaseLost { what, .. } if what.contains("was removed")),
            "{error}"
        );
    }

    /// A store whose every put says that the bucket is not there.
    #[tokio::test]
    async fn a_missing_bucket_is_not_another_writer() {
        let faults = Faults { no_bucket: true, ..Faults::default() };
        let store = Arc::new(FaultyStore::new(Arc::new(InMemory::new()), faults));
        let output = Location { store, ..memory() };
        let error = take(&output, PERIOD).await.expect_err("no bucket");
        assert!(
            matches!(
                &error,
                PipelineError::Store { operation: "write", source: StoreError::NotFound { .. }, .. }
            ),
            "{error:?}"
        );
        assert!(error.hint().expect("a hint").contains("bucket"));
    }

    /// A store that carries a put out and says that it failed, as happens when an answer is lost and the client asks
    /// again.
    #[tokio::test]
    async fn a_lost_answer_is_not_another_writer() {
        let faults = Faults { lost_answers: true, ..Faults::default() };
        let store = Arc::new(FaultyStore::new(Arc::new(InMemory::new()), faults));
        let output = Location { store, ..memory() };
        let lease = take(&output, PERIOD).await.expect("it is ours");
        let before = read(&output).await.expect("reads").expect("a lease").0;
        // The counter goes on although each renewal is said to have been refused.
        while read(&output).await.expect("reads").expect("a lease").0.counter < before.counter + 3 {
            tokio::task::yield_now().await;
        }
        lease.release().await;
    }

    #[tokio::test]
    async fn a_disk_is_locked_as_long_as_the_file_is_open() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Arc::new(InMemory::new());
        let output = Location { store, prefix: Path::default(), local: Some(folder.path().join("new/out")) };
        let first = take(&output, PERIOD).await.expect("free");
        let error = take(&output, PERIOD).await.expect_err("held");
        assert!(matches!(&error, PipelineError::Busy { what, .. } if what.contains(".lock")), "{error}");
        drop(first);
        take(&output, PERIOD).await.expect("free again");
    }

    #[tokio::test]
    async fn a_place_that_is_no_folder_is_said_so() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("out"), b"a file").expect("a file");
        let store = Arc::new(InMemory::new());
        let output = Location { store, prefix: Path::default(), local: Some(folder.path().join("out")) };
        let error = take(&output, PERIOD).await.expect_err("a file is in the way");
        assert!(matches!(error, PipelineError::Io { operation: "write", .. }), "{error}");
    }
}
