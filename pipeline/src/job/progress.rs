//! How far a job has come: the units that are done and the bytes that are read.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::PipelineError;
use crate::engine::meter::Meter;
use crate::host::observer::{Event, Observer};
use crate::plan::PreprocessPlan;
use crate::units::Unit;

/// How many units are done, for the message of a job that is stopped.
#[derive(Debug, Default)]
pub(super) struct Tally {
    done: AtomicUsize,
    total: AtomicUsize,
}

impl Tally {
    pub(super) fn set(&self, done: usize, total: usize) {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// The same outcome, with the counts in the message of a stop.
    pub(super) fn counted<T>(&self, outcome: Result<T, PipelineError>) -> Result<T, PipelineError> {
        outcome.map_err(|error| match error {
            PipelineError::Stopped { .. } => PipelineError::Stopped {
                done: self.done.load(Ordering::Relaxed),
                total: self.total.load(Ordering::Relaxed),
            },
            other => other,
        })
    }
}

/// Passes events on, and says how many bytes are read whenever rows went through.
pub(super) struct Progress {
    observer: Arc<dyn Observer>,
    meters: Vec<Meter>,
    sizes: HashMap<String, u64>,
    finished: AtomicU64,
}

impl Progress {
    pub(super) fn new(plan: &PreprocessPlan, observer: Arc<dyn Observer>) -> Self {
        let meters: Vec<Meter> = plan.sources.iter().map(|source| source.input.meter.clone()).collect();
        // What was read before, to train a tokenizer or to find copies, is no progress of the units.
        meters.iter().for_each(Meter::clear);
        let units = plan.sources.iter().flat_map(|source| &source.units);
        let sizes = units.map(|unit| (unit.id.clone(), unit.bytes)).collect();
        Self { observer, meters, sizes, finished: AtomicU64::new(0) }
    }

    pub(super) fn finished(&self, unit: &Unit) {
        self.finished.fetch_add(unit.bytes, Ordering::Relaxed);
        self.meters.iter().for_each(|meter| meter.finish(&unit.id));
        self.observer.event(Event::UnitDone { unit: unit.id.clone(), bytes: unit.bytes });
    }
}

impl Observer for Progress {
    fn event(&self, event: Event) {
        self.observer.event(event);
        let size = |unit: &str| self.sizes.get(unit).copied().unwrap_or(0);
        let under_way: u64 = self.meters.iter().map(|meter| meter.under_way(size)).sum();
        self.observer.event(Event::Read { bytes: self.finished.load(Ordering::Relaxed) + under_way });
    }
}
