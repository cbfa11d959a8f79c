//! The events of a job while it works.

use std::time::Duration;

use crate::host::passed_over::PassedOver;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// Somebody else has the right to write, or had it and died: that shows within this time.
    LeaseFound {
        /// How long a lease must stand still before it is taken over.
        wait: Duration,
    },
    /// Files that a source leads to are not read.
    PassedOver(PassedOver),
    /// The job is planned.
    Planned {
        /// The version of the dataset that it makes, from 1.
        version: u32,
        /// Units of the job.
        units: usize,
        /// Units that an earlier start has finished.
        reused: usize,
        /// Bytes of input that are still to be read.
        bytes: u64,
    },
    /// A tokenizer was trained.
    TokenizerTrained {
        /// Its ids.
        vocabulary: u32,
        /// Bytes of text that it learned from.
        bytes: u64,
    },
    /// Rows went through.
    Rows {
        /// Rows, refused ones included.
        rows: u64,
        /// Refused rows.
        rejected: u64,
        /// Text tokens of the documents.
        tokens: u64,
        /// Images of the documents.
        images: u64,
    },
    /// Input was read.
    Read {
        /// Bytes in all, of what was planned: of finished units their size, of the others what has been read.
        bytes: u64,
    },
    /// A unit is finished and committed.
    UnitDone {
        /// Its name.
        unit: String,
        /// Its bytes of input.
        bytes: u64,
    },
    /// The manifest is written.
    Finished,
}

/// Whoever takes the events of a job. Called from many threads; must not block for long.
pub trait Observer: Send + Sync {
    /// Takes an event.
    fn event(&self, event: Event);
}

/// Nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event) {}
}
