//! Ctrl-C and SIGTERM: the first asks the job to stop, the second ends the program at once.
//!
//! Training finishes its step and saves. A pipeline has nothing to finish: what it waits for is given up, what is
//! committed stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Context;
use pipeline::PipelineError;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use trainer::codec::CodecError;

use crate::errors::Outcome;

/// Set once a signal came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    flag: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
    pipeline: pipeline::Stop,
}

impl Stop {
    /// Handles both signals. Commands that have nothing to save leave them to the system.
    ///
    /// # Errors
    ///
    /// If the system refuses the handlers.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // Order matters: the second signal must find the flag that the first has set.
            flag::register_conditional_shutdown(signal, 128 + signal, stop.flag.clone())
                .and_then(|_| flag::register_usize(signal, stop.signal.clone(), signal as usize))
                .and_then(|_| flag::register(signal, stop.flag.clone()))
                .context("cannot listen to signals")?;
        }
        // Behind the flags: whoever is woken finds them set.
        let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot listen to signals")?;
        let pipeline = stop.pipeline.clone();
        std::thread::spawn(move || signals.forever().for_each(|_| pipeline.set()));
        Ok(stop)
    }

    /// The stop of what the pipeline does.
    pub(crate) fn pipeline(&self) -> &pipeline::Stop {
        &self.pipeline
    }

    /// The flag, for libraries to read between steps.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        self.flag.clone()
    }

    /// How a command ended: one that was stopped by a signal says so by `say` and by its exit code.
    ///
    /// # Errors
    ///
    /// What it failed of.
    pub(crate) fn outcome(
        &self,
        done: anyhow::Result<()>,
        say: impl FnOnce(&anyhow::Error),
    ) -> anyhow::Result<Outcome> {
        match (done, self.signal()) {
            (Ok(()), _) => Ok(Outcome::Done),
            (Err(error), Some(signal)) if is_stop(&error) => {
                say(&error);
                Ok(Outcome::Stopped(signal))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// The signal that came, if one did.
    pub(crate) fn signal(&self) -> Option<i32> {
        self.flag.load(Ordering::SeqCst).then(|| self.signal.load(Ordering::SeqCst) as i32)
    }
}

/// Whether a job failed of nothing but that it was asked to stop.
fn is_stop(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(PipelineError::Stopped { .. }))
            || matches!(cause.downcast_ref(), Some(CodecError::Stopped { .. }))
    })
}
