//! The numbers of the lines that parts of large files begin with.
//!
//! A part of a file of lines is known by its place in bytes; the number of its first line takes a count of all lines
//! before. They are counted when the part is read, not when the job is planned: by then the parts before it are read
//! too, each is counted once, a few at a time, and a commit keeps the number for the next start. The cost: such a file is
//! read twice while the job runs.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use tokio::sync::{OnceCell, Semaphore};

use super::Input;
use super::stream::count_newlines;
use crate::PipelineError;
use crate::units::InputFile;

/// Parts whose lines are counted at a time.
const COUNTS: usize = 4;

/// A file, and the byte that a part of it begins with.
type LinePlace = (Path, u64);

/// What has been counted so far.
#[derive(Debug)]
pub(crate) struct Lines {
    /// Bytes from the start of a part to that of the next.
    step: u64,
    /// Ends of lines in a part, moved back by the one byte that says whether a line starts with the next part.
    counts: Mutex<HashMap<LinePlace, Arc<OnceCell<u64>>>>,
    /// Numbers of the first rows of parts.
    known: Mutex<BTreeMap<LinePlace, u64>>,
    at_once: Semaphore,
}

impl Lines {
    /// Nothing is counted yet of files that are cut into parts of so many bytes.
    pub(crate) fn new(step: u64) -> Self {
        let at_once = Semaphore::new(COUNTS);
        Self { step: step.max(1), counts: Mutex::default(), known: Mutex::default(), at_once }
    }

    /// Says what an earlier start has counted.
    pub(crate) fn set_first_row(&self, path: &Path, start: u64, first_row: u64) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert((path.clone(), start), first_row);
    }

    /// The number of a part's first row, if it has been counted.
    pub(crate) fn known_first_row(&self, path: &Path, start: u64) -> Option<u64> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(path.clone(), start)).copied()
    }

    /// The last part up to this one whose number is known: its start and its first row.
    fn nearest(&self, path: &Path, start: u64) -> Option<(u64, u64)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.range((path.clone(), 0)..=(path.clone(), start)).next_back();
        before.map(|((_, start), first_row)| (*start, *first_row))
    }

    /// The number of the first row of the part of a file that starts at this byte.
    ///
    /// # Errors
    ///
    /// If the file can't be read.
    pub(crate) async fn first_row(
        &self,
        input: &Input,
        file: &InputFile,
        start: u64,
    ) -> Result<u64, PipelineError> {
        // The line that a part begins inside of belongs to the part before it.
        let (from, first_row) = self.nearest(&file.path, start).unwrap_or((0, u64::from(start > 0)));
        let parts = (from..start).step_by(usize::try_from(self.step).unwrap_or(usize::MAX));
        let counts = stream::iter(parts).map(|start| self.count(input, file, start)).buffered(COUNTS);
        let lines = counts.try_fold(0, async |sum, lines| Ok::<u64, PipelineError>(sum + lines)).await?;
        self.set_first_row(&file.path, start, first_row + lines);
        Ok(first_row + lines)
    }

    /// Ends of lines in a part.
    async fn count(&self, input: &Input, file: &InputFile, start: u64) -> Result<u64, PipelineError> {
        let cell = {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            counts.entry((file.path.clone(), start)).or_default().clone()
        };
        let before = |start: u64| start.saturating_sub(1);
        let count = cell.get_or_try_init(|| async {
            let _permit = self.at_once.acquire().await;
            // What is counted is no progress of a unit.
            let input = Input { read: Arc::default(), ..input.clone() };
            count_newlines(&input, file, before(start)..before(start + self.step)).await
        });
        count.await.copied()
    }
}
