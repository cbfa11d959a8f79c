//! How far the units that run have come, in bytes of their files.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Counters = HashMap<String, Arc<AtomicU64>>;

/// A counter for each unit that runs. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter(Arc<Mutex<Counters>>);

impl Meter {
    /// The counter of a unit that begins.
    pub(crate) fn start(&self, unit: &str) -> Arc<AtomicU64> {
        let counter = Arc::default();
        self.counters().insert(unit.to_owned(), Arc::clone(&counter));
        counter
    }

    /// Forgets a unit that is done.
    pub(crate) fn finish(&self, unit: &str) {
        self.counters().remove(unit);
    }

    /// Forgets all of them.
    pub(crate) fn clear(&self) {
        self.counters().clear();
    }

    /// Bytes that the running units have read, of each no more than it has by `size`: what is read twice or ahead is
    /// no progress.
    pub(crate) fn under_way(&self, size: impl Fn(&str) -> u64) -> u64 {
        let counters = self.counters();
        counters.iter().map(|(unit, read)| read.load(Ordering::Relaxed).min(size(unit))).sum()
    }

    fn counters(&self) -> MutexGuard<'_, Counters> {
        // Counters are whole whatever happened to the thread that held them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_under_way_count_up_to_their_size() {
        let meter = Meter::default();
        let (a, b) = (meter.start("a"), meter.start("b"));
        a.fetch_add(5, Ordering::Relaxed);
        b.fetch_add(50, Ordering::Relaxed);
        assert_eq!(meter.under_way(|_| 20), 25);
        meter.finish("b");
        assert_eq!(meter.clone().under_way(|_| 20), 5);
        meter.clear();
        assert_eq!(meter.under_way(|_| 20), 0);
    }
}
