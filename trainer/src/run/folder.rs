//! The folder of a run: its lock, its resolved config and its log.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::TrainError;
use crate::config::TrainConfig;
use crate::durable;
use crate::log::Log;

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
        durable::create_folders(path).map_err(io_error(path))?;
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
        let path = self.path.join("config.toml");
        durable::replace(&path, |out| out.write_all(text.as_bytes())).map_err(io_error(&path))
    }

    /// Opens the log with the lines up to `step`; what a killed process wrote behind its last checkpoint is cut off,
    /// since those steps are made again. The log is a record that nothing is computed from, so lines that can't be read
    /// are left out; the second value is their number.
    pub(super) fn log(&self, step: u64) -> Result<(Log, u64), TrainError> {
        let path = self.path.join(LOG);
        let unreadable = cut_back(&path, step).map_err(io_error(&path))?;
        let file = OpenOptions::new().append(true).open(&path).map_err(io_error(&path))?;
        Ok((Log::new(path, file), unreadable))
    }
}

fn cut_back(path: &Path, step: u64) -> io::Result<u64> {
    let known: Box<dyn BufRead> = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Box::new(io::empty()),
        other => Box::new(BufReader::new(other?)),
    };
    let mut unreadable = 0;
    durable::replace(path, |out| {
        unreadable = keep_lines(known, step, out)?;
        Ok(())
    })?;
    Ok(unreadable)
}

/// Copies the lines of steps up to `step`; gives the number of whole lines that can't be read.
fn keep_lines(mut log: impl BufRead, step: u64, out: &mut dyn Write) -> io::Result<u64> {
    #[derive(Deserialize)]
    struct Line {
        step: u64,
    }
    let (mut line, mut unreadable) = (Vec::new(), 0);
    while log.read_until(b'\n', &mut line)? > 0 {
        match serde_json::from_slice::<Line>(&line) {
            // A line without its end was torn: a killed process wrote it behind its last checkpoint.
            _ if !line.ends_with(b"\n") => {}
            Ok(Line { step: of }) if of <= step => out.write_all(&line)?,
            Ok(_) => {}
            Err(_) => unreadable += 1,
        }
        line.clear();
    }
    Ok(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(log: &[u8], step: u64) -> (String, u64) {
        let mut out = Vec::new();
        let unreadable = keep_lines(log, step, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), unreadable)
    }

    #[test]
    fn a_log_is_cut_back_to_its_step_and_torn_lines_go() {
        let log = b"{\"step\":1,\"loss\":2.0}\n{\"step\":2}\n{\"step\":3}\n{\"st";
        assert_eq!(kept(log, 2), ("{\"step\":1,\"loss\":2.0}\n{\"step\":2}\n".to_owned(), 0));
        assert_eq!(kept(log, 9).0.lines().count(), 3);
        assert_eq!(kept(log, 0), (String::new(), 0));
    }

    #[test]
    fn lines_that_cannot_be_read_are_left_out_and_counted() {
        let log = b"{\"step\":1}\n{\"step\":\xff}\n\xff\xfe\nnot json\n{\"loss\":2}\n{\"step\":2}\n\xff";
        assert_eq!(kept(log, 9), ("{\"step\":1}\n{\"step\":2}\n".to_owned(), 4));
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
