//! The folder of a run: its lock, its resolved config and its log.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::TrainError;
use super::observer::StepReport;
use crate::config::TrainConfig;

const LOG: &str = "log.jsonl";

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> TrainError {
    let path = path.to_owned();
    move |source| TrainError::Io { path, source }
}

/// The folder, held by this process until it is dropped. The system lets go of the lock of a killed process.
#[derive(Debug)]
pub(super) struct RunFolder {
    path: PathBuf,
    _lock: File,
}

impl RunFolder {
    /// Makes the folder if need be, and locks it.
    pub(super) fn lock(path: &Path) -> Result<Self, TrainError> {
        fs::create_dir_all(path).map_err(io_error(path))?;
        let file = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&file)
            .map_err(io_error(&file))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(TrainError::RunInUse { run: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(io_error(&file)(source)),
        }
    }

    /// Writes `config.toml`.
    pub(super) fn write_config(&self, config: &TrainConfig) -> Result<(), TrainError> {
        let text = toml::to_string(config).expect("a config holds nothing that TOML can't say");
        replace(&self.path.join("config.toml"), text.as_bytes())
    }

    /// Opens the log with the lines up to `step`; what a killed process wrote behind its last checkpoint is cut off,
    /// since those steps are made again.
    pub(super) fn log(&self, step: u64) -> Result<Log, TrainError> {
        let path = self.path.join(LOG);
        let known = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            other => other.map_err(io_error(&path))?,
        };
        replace(&path, kept(&known, step).as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(io_error(&path))?;
        Ok(Log { path, file })
    }
}

/// The whole lines of steps up to `step`.
fn kept(log: &str, step: u64) -> String {
    #[derive(Deserialize)]
    struct Line {
        step: u64,
    }
    let wanted = |line: &&str| serde_json::from_str::<Line>(line).is_ok_and(|line| line.step <= step);
    log.split_inclusive('\n').filter(|line| line.ends_with('\n')).filter(wanted).collect()
}

/// Puts a file in the place of another, never leaving half of it.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let beside = path.with_extension("partial");
    fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path)).map_err(io_error(path))
}

/// `log.jsonl`: one JSON object a line.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Appends a line, in one write.
    pub(super) fn write(&mut self, report: &StepReport) -> Result<(), TrainError> {
        let mut line = serde_json::to_vec(report).expect("a report holds nothing that JSON can't say");
        line.push(b'\n');
        self.file.write_all(&line).map_err(io_error(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_cut_back_to_its_step_and_torn_lines_go() {
        let log = "{\"step\":1,\"loss\":2.0}\n{\"step\":2}\n{\"step\":3}\n{\"st";
        assert_eq!(kept(log, 2), "{\"step\":1,\"loss\":2.0}\n{\"step\":2}\n");
        assert_eq!(kept(log, 9).lines().count(), 3);
        assert_eq!(kept(log, 0), "");
    }

    #[test]
    fn a_run_is_trained_by_one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let held = RunFolder::lock(folder.path()).unwrap();
        assert!(matches!(RunFolder::lock(folder.path()), Err(TrainError::RunInUse { .. })));
        drop(held);
        RunFolder::lock(folder.path()).unwrap();
    }
}
