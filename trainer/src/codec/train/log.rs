//! `log.jsonl`: one line of JSON for some of the updates.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::VaeStep;
use crate::codec::CodecError;

/// The open log.
pub(super) struct Log {
    file: BufWriter<File>,
    path: PathBuf,
}

impl Log {
    pub(super) fn create(folder: &Path) -> Result<Self, CodecError> {
        let path = folder.join("log.jsonl");
        let file = File::create(&path).map_err(CodecError::file(&path))?;
        Ok(Self { file: BufWriter::new(file), path })
    }

    /// The line can be read at once.
    pub(super) fn write(&mut self, step: &VaeStep) -> Result<(), CodecError> {
        let mut line = serde_json::to_vec(step).expect("numbers are JSON");
        line.push(b'\n');
        let written = self.file.write_all(&line).and_then(|()| self.file.flush());
        written.map_err(CodecError::file(&self.path))
    }

    pub(super) fn close(&mut self) -> Result<(), CodecError> {
        self.file.flush().map_err(CodecError::file(&self.path))
    }
}
