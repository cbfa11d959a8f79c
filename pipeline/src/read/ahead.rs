//! The small files of a unit, fetched before their turn.
//!
//! On a store a file of a few kilobytes is a wait for an answer and hardly anything else. So while one is read those
//! behind it are asked for whole, many at a time, and every reader finds the bytes of its file in memory, whichever parts
//! of it it asks for ([`Input::held`]). The order of files is that of the unit, so nothing else changes.
//!
//! A unit has one budget for all that it fetches ahead. A small file takes its size of it before it is asked for. A large
//! one is read in ranges, two ahead of its reader, and has the whole budget for that: files behind it are asked for
//! when it is done. The cost: a corpus that changes between large and small files has its small ones less far ahead.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use object_store::path::Path;
use tokio::sync::mpsc::{Receiver, channel};

use super::Input;
use super::request::Task;
use super::stream::{RANGE_BYTES, get_range};
use crate::PipelineError;
use crate::config::Format;
use crate::engine::memory::{Budget, Granted};
use crate::units::InputFile;

/// Bytes that the budget of a unit has: the ranges of a large file.
pub(crate) const AHEAD_BYTES: usize = 16 << 20;

/// Files that are asked for at a time.
const FILES: usize = 32;

/// What was fetched of a file before it is read.
#[derive(Debug)]
pub(crate) struct Held {
    path: Path,
    /// All of the file, unless it is a large one.
    bytes: Option<Bytes>,
    _memory: Granted,
}

impl Held {
    #[cfg(test)]
    pub(crate) fn is_whole(&self) -> bool {
        self.bytes.is_some()
    }

    /// The file's bytes, where they are here.
    pub(crate) fn of(&self, file: &InputFile) -> Option<&Bytes> {
        self.bytes.as_ref().filter(|_| self.path == file.path)
    }
}

/// The files of a unit, one behind the other.
pub(crate) struct Ahead {
    fetched: Receiver<Result<Held, PipelineError>>,
    _task: Task,
}

impl Ahead {
    /// Begins to fetch these files.
    pub(crate) fn new(input: &Input, budget: Budget, files: Vec<InputFile>) -> Self {
        let (sender, fetched) = channel(FILES);
        let input = input.clone();
        let task = Task::spawn(&input.handle.clone(), async move {
            let granted = stream::iter(files).then(move |file| grant(budget.clone(), file));
            let fetched = granted.map(|(file, memory)| fetch(&input, file, memory)).buffered(FILES);
            let mut fetched = std::pin::pin!(fetched);
            while let Some(held) = fetched.next().await {
                let failed = held.is_err();
                if sender.send(held).await.is_err() || failed {
                    return;
                }
            }
        });
        Self { fetched, _task: task }
    }

    /// What to read the next of the files from. What was fetched of the one before must be dropped. Blocks.
    ///
    /// # Errors
    ///
    /// If the file could not be fetched.
    pub(crate) fn next(&mut self, input: &Input) -> Result<Input, PipelineError> {
        let ended = || PipelineError::Format("files are no longer fetched".into());
        let held = self.fetched.blocking_recv().ok_or_else(ended)??;
        Ok(Input { held: Some(Arc::new(held)), ..input.clone() })
    }
}

/// Bytes that are fetched of a file before its turn. Of a large one there are none. Neither are there of a picture beside
/// its texts: pictures are asked for many at a time when rows are made of them.
fn ahead_bytes(file: &InputFile) -> Option<u64> {
    let is_small = file.part.is_none() && file.bytes <= RANGE_BYTES && file.format != Format::Pictures;
    is_small.then_some(file.bytes)
}

/// The file with the memory for what is fetched of it.
async fn grant(budget: Budget, file: InputFile) -> (InputFile, Granted) {
    let bytes = match file.format {
        Format::Pictures => 0,
        _ => ahead_bytes(&file).unwrap_or(budget.total()),
    };
    let memory = budget.take(bytes).await;
    (file, memory)
}

async fn fetch(input: &Input, file: InputFile, memory: Granted) -> Result<Held, PipelineError> {
    let bytes = match ahead_bytes(&file) {
        Some(bytes) => Some(get_range(input, &file, 0..bytes).await?),
        None => None,
    };
    Ok(Held { path: file.path, bytes, _memory: memory })
}
