//! How a command ends: done, no, stopped, or with an error that carries a hint.
//!
//! A hint travels with the error as a [`Hinted`], or as a line `hint: ...` in a library's message. [`crate::failure`] shows
//! both. Knows nothing else of the crate.

use std::fmt;
use std::process::ExitCode;

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// What was asked for is done.
    Done,
    /// It ran, and the answer is no.
    No,
    /// Stopped by this signal after saving.
    Stopped(i32),
}

impl Outcome {
    /// 0, 1, or 128 and the signal's number.
    pub(crate) fn code(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::No => ExitCode::from(1),
            Self::Stopped(signal) => ExitCode::from(128 + signal as u8),
        }
    }
}

/// An error and what to do about it.
pub(crate) struct Hinted {
    error: anyhow::Error,
    hint: String,
}

impl Hinted {
    /// What to do.
    pub(crate) fn hint(&self) -> &str {
        &self.hint
    }
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl fmt::Debug for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} (hint: {})", self.error, self.hint)
    }
}

impl std::error::Error for Hinted {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The wrapped error stands for itself in `Display`, so the chain goes on behind it; where that would hide
        // its concrete type from `report`, it is shown again and dropped there as a repetition.
        Some(self.error.as_ref())
    }
}

/// An error with a hint.
pub(crate) fn hinted(error: impl Into<anyhow::Error>, hint: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Hinted { error: error.into(), hint: hint.into() })
}
