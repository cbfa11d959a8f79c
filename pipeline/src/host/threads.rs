//! Threads for work that blocks.
//!
//! A job has two kinds of threads beside those that compute, and the difference keeps it from standing still for ever:
//!
//! - The threads of this module run whatever may wait: readers, which wait for their file, for memory and for whoever
//!   takes their rows, and operators, which wait for a device or a store. They are as many as are asked for. Work that is
//!   handed in begins at once, on a thread that has nothing to do or on a new one; it never stands in a queue behind work
//!   that waits for it. At most one thread for each operator of the units that run is asked for at a time, so the number
//!   of units that may run bounds them.
//! - The runtime's own blocking threads, which are limited in number, are left to what stores and name look-ups do on
//!   them: single reads of a disk, which wait for nothing but the disk, so one of these threads would be enough.
//!
//! So whoever waits, waits for work that has a thread, or for a read that will get one. No such chain is a circle: a reader
//! waits for the operators behind it, which need nothing of the reader but the next batch, and shares of memory are held by
//! rows that are on their way to the end of the plan ([`crate::engine::memory`]). A thread that can't be started is an error.
//!
//! The pipeline therefore calls `spawn_blocking` nowhere; a test looks for it. The cost is a thread more here and there
//! than the runtime would use, for ten seconds.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::PipelineError;

type Work = Box<dyn FnOnce() + Send>;

/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(10);

/// The threads of the process.
static THREADS: Threads = Threads { waiting: Mutex::new(Waiting::none()), handed_in: Condvar::new() };

struct Threads {
    waiting: Mutex<Waiting>,
    handed_in: Condvar,
}

/// Work that no thread has begun yet, never more than there are threads without work.
struct Waiting {
    work: VecDeque<Work>,
    idle: usize,
}

impl Waiting {
    const fn none() -> Self {
        Self { work: VecDeque::new(), idle: 0 }
    }
}

impl Threads {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // No work runs while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&'static self, work: Work) -> std::io::Result<()> {
        let mut waiting = self.waiting();
        if waiting.work.len() < waiting.idle {
            waiting.work.push_back(work);
            self.handed_in.notify_one();
            return Ok(());
        }
        drop(waiting);
        let run = move || {
            work();
            self.go_on();
        };
        std::thread::Builder::new().name("pipeline".to_owned()).spawn(run).map(drop)
    }

    /// Does further work until none has come for a while.
    fn go_on(&self) {
        loop {
            let mut waiting = self.waiting();
            waiting.idle += 1;
            let nothing = |waiting: &mut Waiting| waiting.work.is_empty();
            let waited = self.handed_in.wait_timeout_while(waiting, IDLE, nothing);
            waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
            waiting.idle -= 1;
            let Some(work) = waiting.work.pop_front() else { return };
            drop(waiting);
            work();
        }
    }
}

/// Work on a thread. Dropped, it goes on, and nobody learns of its outcome.
pub(crate) struct Running<T>(oneshot::Receiver<Result<T, Box<dyn Any + Send>>>);

/// Runs what blocks on a thread for it, in the runtime of whoever calls.
///
/// # Errors
///
/// If the system has no further thread.
pub(crate) fn spawn<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<Running<T>, PipelineError> {
    let (sender, outcome) = oneshot::channel();
    let runtime = Handle::try_current().ok();
    let work = move || {
        let _entered = runtime.as_ref().map(Handle::enter);
        // Nobody may want to know any more.
        let _ = sender.send(catch_unwind(AssertUnwindSafe(work)));
    };
    THREADS.begin(Box::new(work)).map_err(no_thread)?;
    Ok(Running(outcome))
}

fn no_thread(source: std::io::Error) -> PipelineError {
    PipelineError::Io { operation: "start", path: "a further thread".to_owned(), source }
}

impl<T> Running<T> {
    /// Waits for the outcome on this thread; a panic goes on here.
    pub(crate) fn join(self) -> T {
        outcome(self.0.blocking_recv())
    }
}

impl<T> Future for Running<T> {
    type Output = T;

    /// A panic goes on here.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0).poll(context).map(outcome)
    }
}

fn outcome<T>(found: Result<Result<T, Box<dyn Any + Send>>, oneshot::error::RecvError>) -> T {
    let found = found.expect("work sends its outcome, also that of a panic, before its thread goes on");
    found.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs what blocks on a thread for it.
///
/// # Errors
///
/// Those of `work`, and if the system has no further thread.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PipelineError> + Send + 'static,
) -> Result<T, PipelineError> {
    spawn(work)?.await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::Barrier;

    use super::*;

    /// Work that waits for each other, twice over: on threads that are limited in number it would never end.
    #[tokio::test]
    async fn work_never_queues_behind_work_that_waits_for_it() {
        for _ in 0..2 {
            let barrier = Arc::new(Barrier::new(700));
            let waiting: Vec<Running<bool>> = (0..700)
                .map(|_| {
                    let barrier = barrier.clone();
                    spawn(move || barrier.wait().is_leader()).expect("a thread")
                })
                .collect();
            let mut leaders = 0;
            for running in waiting {
                leaders += usize::from(running.await);
            }
            assert_eq!(leaders, 1);
        }
    }

    #[tokio::test]
    async fn a_panic_goes_on_where_the_outcome_is_awaited() {
        let running = spawn(|| -> u32 { panic!("of a reader") }).expect("a thread");
        let caught = tokio::spawn(running).await.expect_err("it panicked");
        assert_eq!(caught.into_panic().downcast_ref::<&str>(), Some(&"of a reader"));
        // Its thread is as good as any other.
        assert_eq!(blocking(|| Ok(7)).await.expect("runs"), 7);
    }

    /// The rule that keeps a job from standing still: nothing of the pipeline runs on the runtime's blocking threads.
    #[test]
    fn nothing_blocks_a_thread_of_the_runtime() {
        let mut folders = vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("reads") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let text = std::fs::read_to_string(&path).expect("text");
                let name = ["spawn_", "blocking"].concat();
                let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
                let found: Vec<&str> = lines.filter(|line| line.contains(&name)).collect();
                assert!(found.is_empty(), "{}: {found:?}; use `threads::spawn`", path.display());
                files += 1;
            }
        }
        assert!(files > 50, "the sources are there");
    }
}
