//! Ctrl-C and SIGTERM: the first asks the job to finish its step and save, the second ends the program at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Set once a signal came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    flag: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Stop {
    /// Takes over both signals. Commands that have nothing to save leave them to the system.
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
        Ok(stop)
    }

    /// The flag, for libraries to look at between steps.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        self.flag.clone()
    }

    /// The signal that came, if one did.
    pub(crate) fn signal(&self) -> Option<i32> {
        self.flag.load(Ordering::SeqCst).then(|| self.signal.load(Ordering::SeqCst) as i32)
    }
}
