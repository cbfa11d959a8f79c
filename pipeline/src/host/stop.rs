//! One stop for all of a job that takes long.
//!
//! Whoever waits for a store is given up at once: the future that waits is dropped ([`Stop::until`]). Threads that read
//! see the stop in the bytes that they ask for ([`crate::read::stream`]), so they end with the block that they have.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;

use crate::PipelineError;

/// Asks a job to stop. Clones ask together.
#[derive(Clone, Debug)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Stop {
    /// Asks everything that looks at it to stop.
    pub fn set(&self) {
        self.0.send_replace(true);
    }

    /// Whether it was asked.
    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when it was asked.
    pub async fn stopped(&self) {
        // The sender lives as long as `self`.
        let _ = self.0.subscribe().wait_for(|is_set| *is_set).await;
    }

    /// The outcome of `work`, or [`PipelineError::Stopped`] if it was asked to stop before; `work` is dropped then. What
    /// fails while it stops fails of that.
    ///
    /// # Errors
    ///
    /// Those of `work`, and that it was stopped.
    pub async fn until<T, E: From<PipelineError>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let stopped = || Err(PipelineError::Stopped { done: 0, total: 0 }.into());
        tokio::select! {
            biased;
            done = work => if done.is_err() && self.is_set() { stopped() } else { done },
            () = self.stopped() => stopped(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_is_given_up_and_what_is_done_is_kept() {
        let stop = Stop::default();
        let waiting = stop.until(std::future::pending::<Result<(), PipelineError>>());
        let asking = async {
            assert!(!stop.is_set());
            stop.clone().set();
        };
        let (waited, ()) = tokio::join!(waiting, asking);
        assert!(matches!(waited, Err(PipelineError::Stopped { .. })), "{waited:?}");
        assert!(stop.is_set());
        assert_eq!(stop.until(async { Ok::<_, PipelineError>(7) }).await.expect("it was done"), 7);
        let memory = PipelineError::Memory { what: "x".to_owned() };
        let failed = stop.until(async { Err::<(), _>(memory) }).await;
        assert!(matches!(failed, Err(PipelineError::Stopped { .. })), "{failed:?}");
    }
}
