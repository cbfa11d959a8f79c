//! The output's folder while it is made.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::codec::CodecError;

/// A folder beside the output, in which it is made; removed unless published.
pub(super) struct Staging {
    pub(super) folder: PathBuf,
    output: PathBuf,
}

impl Staging {
    pub(super) fn new(output: &Path) -> Result<Self, CodecError> {
        let mut name = output.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let staging = Self { folder: output.with_file_name(name), output: output.to_owned() };
        // Files of a killed run.
        staging.remove().map_err(CodecError::file(&staging.folder))?;
        fs::create_dir_all(&staging.folder).map_err(CodecError::file(&staging.folder))?;
        Ok(staging)
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Gives the folder its name.
    pub(super) fn publish(self) -> Result<(), CodecError> {
        // An empty folder may stand there; anything else is refused by the system.
        fs::rename(&self.folder, &self.output).map_err(CodecError::file(&self.output))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After a failure; the error that is on its way says more than one from here would.
        let _ = self.remove();
    }
}
