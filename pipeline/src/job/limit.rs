//! When `max-reject-share` is broken.
//!
//! At the end it is broken by the counts of the whole dataset. Before the end, the job stops as soon as no likely rest
//! could bring the share down again: when even if no row of the rest were refused, and the rest of each source held
//! twice as many rows a byte as the densest of its units so far, more than the share would be refused. That is said of
//! the units of an unbroken beginning in the order in which they are started, and only when every source has been read
//! from; so whether a job stops, and with which counts, depends on its input and never on threads or on how often it
//! was started. The first unit of every source is started before all others, so that a source of nothing but bad rows
//! is noticed early.

use std::collections::BTreeMap;

use schemas::SourceStatistics;

use crate::PipelineError;

/// How much denser than what has been read the rest may be.
const DENSER: f64 = 2.0;

/// Reasons that an error names.
const TOP: usize = 5;

/// What is known of the rows so far.
#[derive(Debug)]
pub(crate) struct Limit {
    share: f64,
    counts: Counts,
    sources: Vec<Rest>,
}

#[derive(Debug, Default)]
struct Counts {
    read: u64,
    rejected: u64,
    reasons: BTreeMap<String, u64>,
}

/// What is left of a source.
#[derive(Clone, Copy, Debug, Default)]
struct Rest {
    bytes: u64,
    /// Rows a byte of the densest unit so far; `None` if nothing has been read.
    density: Option<f64>,
}

impl Counts {
    fn add(&mut self, statistics: &SourceStatistics) {
        self.read += statistics.read;
        self.rejected += statistics.rejected;
        for (reason, count) in &statistics.rejects {
            *self.reasons.entry(reason.clone()).or_default() += count;
        }
    }

    fn error(&self, limit: f64, unread_bytes: u64) -> PipelineError {
        let mut top: Vec<(&String, u64)> =
            self.reasons.iter().map(|(reason, count)| (reason, *count)).collect();
        top.sort_by_key(|&(reason, count)| (std::cmp::Reverse(count), reason));
        let top = top.into_iter().take(TOP).map(|(reason, count)| format!("{count} {reason}")).collect();
        let (rejected, read) = (self.rejected, self.read);
        PipelineError::TooManyRejects { rejected, read, limit, unread_bytes, top, first: None }
    }
}

impl Limit {
    /// A limit for sources with so many bytes each, none read.
    pub(crate) fn new(share: f64, bytes: impl IntoIterator<Item = u64>) -> Self {
        let rest = |bytes| Rest { bytes, density: None };
        Self { share, counts: Counts::default(), sources: bytes.into_iter().map(rest).collect() }
    }

    /// Takes rows that an earlier version has.
    pub(crate) fn add_base(&mut self, statistics: &SourceStatistics) {
        self.counts.add(statistics);
    }

    /// Takes a unit of `bytes` of a source.
    ///
    /// # Errors
    ///
    /// [`PipelineError::TooManyRejects`] if the share is broken whatever comes.
    pub(crate) fn add_unit(
        &mut self,
        source: u16,
        bytes: u64,
        statistics: &SourceStatistics,
    ) -> Result<(), PipelineError> {
        self.counts.add(statistics);
        if let Some(rest) = self.sources.get_mut(usize::from(source)) {
            rest.bytes = rest.bytes.saturating_sub(bytes);
            let density = statistics.read as f64 / bytes.max(1) as f64;
            rest.density = Some(rest.density.unwrap_or(0.0).max(density));
        }
        let unread: u64 = self.sources.iter().map(|rest| rest.bytes).sum();
        match self.most_rows() {
            Some(rows) if self.counts.rejected as f64 > self.share * rows => {
                Err(self.counts.error(self.share, unread))
            }
            _ => Ok(()),
        }
    }

    /// The most rows that there may be in all, `None` while a source is unknown.
    fn most_rows(&self) -> Option<f64> {
        let rest = |rest: &Rest| match rest.bytes {
            0 => Some(0.0),
            bytes => Some(bytes as f64 * DENSER * rest.density?),
        };
        self.sources.iter().map(rest).sum::<Option<f64>>().map(|rest| rest + self.counts.read as f64)
    }
}

/// The check at the end.
///
/// # Errors
///
/// [`PipelineError::TooManyRejects`] if more than `share` of the rows of all sources are refused.
pub(crate) fn check<'a>(
    share: f64,
    sources: impl IntoIterator<Item = &'a SourceStatistics>,
) -> Result<(), PipelineError> {
    let mut counts = Counts::default();
    sources.into_iter().for_each(|statistics| counts.add(statistics));
    if counts.rejected as f64 <= share * counts.read as f64 { Ok(()) } else { Err(counts.error(share, 0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(read: u64, rejected: u64) -> SourceStatistics {
        let rejects = if rejected == 0 { BTreeMap::new() } else { [("empty".to_owned(), rejected)].into() };
        SourceStatistics { read, rejected, rejects, kept: read - rejected, ..SourceStatistics::default() }
    }

    #[test]
    fn a_job_of_bad_rows_stops_when_no_rest_could_save_it() {
        let mut limit = Limit::new(0.1, [100_000]);
        // 10 rows a unit of 1,000 bytes: 20 a unit are allowed for in the rest.
        let stopped = (1..=100).find(|_| limit.add_unit(0, 1000, &unit(10, 10)).is_err());
        // 10 n > 0.1 (10 n + 20 (100 - n))
        assert_eq!(stopped, Some(19));
    }

    #[test]
    fn a_share_that_the_rest_may_bring_down_goes_on() {
        let mut limit = Limit::new(0.1, [100_000]);
        for _ in 0..50 {
            limit.add_unit(0, 1000, &unit(10, 2)).expect("the rest may be good");
        }
        for _ in 50..99 {
            limit.add_unit(0, 1000, &unit(10, 0)).expect("and it is");
        }
        limit.add_unit(0, 1000, &unit(10, 0)).expect("a tenth in all");
    }

    #[test]
    fn nothing_is_certain_before_every_source_has_been_read_from() {
        let mut limit = Limit::new(0.5, [1000, 1000]);
        limit.add_unit(0, 1000, &unit(100, 100)).expect("the second source may be larger");
        let error = limit.add_unit(1, 500, &unit(1, 1)).expect_err("it is not");
        assert!(
            matches!(
                &error,
                PipelineError::TooManyRejects { rejected: 101, read: 101, unread_bytes: 500, .. }
            ),
            "{error:?}"
        );
    }

    #[test]
    fn no_reject_at_all_allowed_is_broken_by_the_first() {
        let mut limit = Limit::new(0.0, [1000]);
        limit.add_unit(0, 10, &unit(5, 0)).expect("none");
        assert!(limit.add_unit(0, 10, &unit(5, 1)).is_err());
        assert!(check(0.0, [&unit(5, 0)]).is_ok());
        assert!(check(0.0, [&unit(5, 0), &unit(5, 1)]).is_err());
        assert!(check(0.1, [&unit(5, 0), &unit(5, 1)]).is_ok());
    }

    /// Whatever the order in which counts are added up at the end, a job that was stopped early would have failed
    /// then, if its rest was no denser than allowed for.
    #[test]
    fn what_is_stopped_early_would_have_failed_at_the_end() {
        let units: Vec<SourceStatistics> =
            (0..60_u64).map(|number| unit(10 + number % 7, if number < 30 { 9 } else { 0 })).collect();
        for share in [0.05, 0.2, 0.3, 0.5] {
            let mut limit = Limit::new(share, [60_000]);
            let early = units.iter().any(|unit| limit.add_unit(0, 1000, unit).is_err());
            assert!(!early || check(share, &units).is_err(), "{share}");
        }
    }
}
