//! The memory of a job: one limit for all of its units, and what waits when it is reached.
//!
//! Every operator reserves from one pool of DataFusion's what it holds. Half of the limit is for the ordinary work of
//! units, and only as many units run at a time as fit into it. The other half is for what no plan can know before, a row of
//! up to 256 MB or a picture of many megapixels. Who meets one takes its bytes from a [`Share`] and waits until there
//! are enough, so many units at once make the job slower and not fail. Nobody waits for a share while holding some of
//! it, nor for the rows' while holding the pictures', so no two can wait for each other.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{
    GreedyMemoryPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, PeakRecordingPool,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::PipelineError;

/// One limit and its parts.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: usize,
    pool: Arc<PeakRecordingPool>,
    /// For rows that are too large for a batch.
    pub(crate) rows: Share,
    /// For pictures while they are decoded.
    pub(crate) pixels: Share,
    /// Requests that may be under way.
    requests: Arc<Semaphore>,
}

/// Requests of a job to the stores of its sources at a time: on a disk each has a file open.
const REQUESTS: usize = 128;

impl Memory {
    pub(crate) fn new(limit: usize) -> Self {
        let pool = Arc::new(PeakRecordingPool::new(Arc::new(GreedyMemoryPool::new(limit))));
        let rows = Share::new("large rows", limit / 4, pool.clone());
        let pixels = Share::new("decoded pictures", limit / 4, pool.clone());
        Self { limit, pool, rows, pixels, requests: Arc::new(Semaphore::new(REQUESTS)) }
    }

    /// The pool that plans of this job run with.
    pub(crate) fn pool(&self) -> Arc<dyn MemoryPool> {
        self.pool.clone()
    }

    /// The pool with a limit of its own, for a sort: one takes all that it gets before it spills.
    pub(crate) fn part(&self, limit: usize) -> Arc<dyn MemoryPool> {
        Arc::new(PartPool { pool: self.pool(), limit, used: AtomicUsize::new(0) })
    }

    /// All that a job may hold.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// The most bytes that were reserved at a time.
    pub(crate) fn peak(&self) -> usize {
        self.pool.max_reserved()
    }

    /// The right to a request, for as long as it is kept. Whoever has it waits for nothing but the store, or for bytes of a
    /// [`Budget`] that earlier requests of the same reader have.
    pub(crate) fn request(&self) -> impl Future<Output = Option<OwnedSemaphorePermit>> + use<> {
        let requests = self.requests.clone();
        // It is never closed.
        async move { requests.acquire_owned().await.ok() }
    }

    /// A budget of `bytes` for what a reader fetches ahead.
    ///
    /// # Errors
    ///
    /// If the job has not so much memory.
    pub(crate) fn budget(&self, name: &str, bytes: usize) -> Result<Budget, PipelineError> {
        let bytes = bytes.clamp(1, u32::MAX as usize);
        let reservation = MemoryConsumer::new(name).register(&self.pool());
        reservation.try_grow(bytes)?;
        Ok(Budget {
            total: bytes as u32,
            free: Arc::new(Semaphore::new(bytes)),
            reservation: Arc::new(reservation),
        })
    }

    /// How many units of `unit_bytes` may run at a time on `threads` cores; at least one.
    pub(crate) fn units(&self, unit_bytes: usize, threads: usize) -> usize {
        (self.limit / 2 / unit_bytes.max(1)).clamp(1, threads.max(1))
    }
}

/// A pool within another one.
#[derive(Debug)]
struct PartPool {
    pool: Arc<dyn MemoryPool>,
    limit: usize,
    used: AtomicUsize,
}

impl fmt::Display for PartPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {}", self.limit, self.pool)
    }
}

impl MemoryPool for PartPool {
    fn name(&self) -> &str {
        "part"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.pool.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.pool.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.used.fetch_add(additional, Ordering::Relaxed);
        self.pool.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.pool.shrink(reservation, shrink);
        self.used.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> datafusion::error::Result<()> {
        let within = |used: usize| used.checked_add(additional).filter(|used| *used <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).map_err(|used| {
            let what = format!("{additional} bytes are asked for, {used} of {} are taken", self.limit);
            DataFusionError::ResourcesExhausted(what)
        })?;
        let grown = self.pool.try_grow(reservation, additional);
        if grown.is_err() {
            self.used.fetch_sub(additional, Ordering::Relaxed);
        }
        grown
    }

    fn reserved(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit)
    }
}

/// A part of the memory that is taken and given back by many.
#[derive(Clone)]
pub(crate) struct Share(Arc<Inner>);

struct Inner {
    total: usize,
    free: Mutex<usize>,
    freed: Condvar,
    reservation: MemoryReservation,
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").field("total", &self.0.total).field("free", &*self.0.free()).finish()
    }
}

impl Inner {
    fn free(&self) -> MutexGuard<'_, usize> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    fn new(name: &str, total: usize, pool: Arc<dyn MemoryPool>) -> Self {
        let reservation = MemoryConsumer::new(name).register(&pool);
        Self(Arc::new(Inner { total, free: Mutex::new(total), freed: Condvar::new(), reservation }))
    }

    /// Its size.
    pub(crate) fn total(&self) -> usize {
        self.0.total
    }

    /// Waits for `bytes` of it; for all of it where that is less. Blocks.
    pub(crate) fn take(&self, bytes: usize) -> Taken {
        let bytes = bytes.min(self.0.total);
        let free = self.0.free();
        let waiting = self.0.freed.wait_while(free, |free| *free < bytes);
        *waiting.unwrap_or_else(PoisonError::into_inner) -= bytes;
        let reservation = self.0.reservation.new_empty();
        reservation.grow(bytes);
        Taken { share: self.clone(), bytes, reservation }
    }
}

/// Bytes of a [`Share`], given back when dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    share: Share,
    bytes: usize,
    reservation: MemoryReservation,
}

impl Taken {
    /// Gives back all but `bytes`. More than were taken must be free in the pool: that is asked for, not waited for.
    ///
    /// # Errors
    ///
    /// If the job has not so much memory.
    pub(crate) fn settle(&mut self, bytes: usize) -> Result<(), PipelineError> {
        self.reservation.try_resize(bytes)?;
        let kept = bytes.min(self.bytes);
        *self.share.0.free() += self.bytes - kept;
        self.bytes = kept;
        self.share.0.freed.notify_all();
        Ok(())
    }
}

impl Taken {
    /// Counts `bytes` as taken, also where they are more than there are: what is held should be seen. Whoever calls this
    /// has a bound for them. Gives what is counted.
    pub(crate) fn count(&self, bytes: usize) -> usize {
        self.reservation.grow(bytes.saturating_sub(self.reservation.size()));
        self.reservation.size()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        *self.share.0.free() += self.bytes;
        self.share.0.freed.notify_all();
    }
}

/// Bytes that a reader may have asked for and not used yet, reserved as a whole. Who asks first gets them first: of
/// pieces that are used in the order in which they were asked for, the next one never waits for a later one.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    total: u32,
    free: Arc<Semaphore>,
    reservation: Arc<MemoryReservation>,
}

impl Budget {
    /// Its size.
    pub(crate) fn total(&self) -> u64 {
        self.total.into()
    }

    /// Waits for `bytes` of it; for all of it where that is less.
    pub(crate) async fn take(&self, bytes: u64) -> Granted {
        let bytes = u32::try_from(bytes).map_or(self.total, |bytes| bytes.min(self.total));
        // It is never closed.
        let permit = self.free.clone().acquire_many_owned(bytes).await.ok();
        Granted { _permit: permit, _reservation: self.reservation.clone() }
    }
}

/// Bytes of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub(crate) struct Granted {
    _permit: Option<OwnedSemaphorePermit>,
    _reservation: Arc<MemoryReservation>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_waited_for_and_given_back() {
        let memory = Memory::new(400);
        let first = memory.rows.take(70);
        assert_eq!(memory.pool().reserved(), 70);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let taken = memory.rows.take(80);
                (taken.bytes, memory.pool().reserved())
            });
            drop(first);
            assert_eq!(second.join().expect("gets its part"), (80, 80));
        });
        // More than there is: all of it, and what is beyond only where the pool has it.
        let mut all = memory.rows.take(1000);
        all.settle(350).expect("the rest of the pool is free");
        assert!(matches!(all.settle(401), Err(PipelineError::Memory { .. })));
        all.settle(30).expect("less is always possible");
        assert_eq!((memory.pool().reserved(), memory.peak()), (30, 350));
        drop(all);
        assert_eq!(*memory.rows.0.free(), 100);
    }

    #[test]
    fn a_part_has_a_limit_of_its_own_and_is_taken_from_the_whole() {
        let memory = Memory::new(1000);
        let pools = [memory.part(300), memory.part(900)];
        let [small, large] = [0, 1].map(|pool| MemoryConsumer::new("sort").register(&pools[pool]));
        small.try_grow(300).expect("all of its part");
        assert!(small.try_grow(1).is_err());
        large.try_grow(700).expect("what the other has left");
        assert!(large.try_grow(1).is_err(), "there is no more in the pool");
        small.shrink(200);
        large.try_grow(200).expect("what the other gave back");
        assert_eq!((pools[0].reserved(), pools[1].reserved(), memory.pool().reserved()), (100, 900, 1000));
        drop((small, large));
        assert_eq!((pools[1].reserved(), memory.pool().reserved(), memory.peak()), (0, 0, 1000));
    }

    #[test]
    fn units_share_half_of_the_limit() {
        let memory = Memory::new(1000);
        assert_eq!([1, 100, 400, 9999].map(|bytes| memory.units(bytes, 8)), [8, 5, 1, 1]);
    }
}
