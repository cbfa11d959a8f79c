//! `log.jsonl`: one JSON object a line. It knows nothing about what is logged.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

/// The open file.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
}

/// A log that can't be written.
#[derive(Debug)]
pub(crate) struct LogError {
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

impl Log {
    pub(crate) fn new(path: PathBuf, file: File) -> Self {
        Self { path, file }
    }

    /// Appends a line, in one write, so that it can be read at once.
    pub(crate) fn write(&mut self, report: &impl Serialize) -> Result<(), LogError> {
        let mut line = serde_json::to_vec(report).expect("a report holds nothing that JSON can't say");
        line.push(b'\n');
        let written = self.file.write_all(&line);
        written.map_err(|source| LogError { path: self.path.clone(), source })
    }

    /// Makes its lines durable.
    pub(crate) fn sync(&self) -> Result<(), LogError> {
        self.file.sync_data().map_err(|source| LogError { path: self.path.clone(), source })
    }
}
