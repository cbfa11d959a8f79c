//! The folder `checkpoints` of a run: which steps it has, which of them are whole, and which are kept.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::snapshot::{self, Snapshot};
use super::{Checkpoint, CheckpointError, io_error, read_state};
use crate::durable;

/// Ends of the hidden names that a checkpoint has while it is written and while it is removed.
const UNFINISHED: [&str; 2] = [".partial", ".old"];
/// How often a run is listed whose checkpoints are being replaced by newer ones meanwhile.
const LISTINGS: usize = 8;

/// The folder `checkpoints` of a run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    /// Steps that this value has written or found whole.
    whole: BTreeSet<u64>,
}

impl Checkpoints {
    /// The checkpoints of a run, which need not exist yet.
    pub fn of(run: &Path) -> Self {
        Self { folder: run.join("checkpoints"), whole: BTreeSet::new() }
    }

    /// Steps that have a folder, ascending. Whether they are whole is not checked; entries that are no folder or
    /// have another name than the program writes are passed over.
    ///
    /// # Errors
    ///
    /// If the folder can't be listed.
    pub fn steps(&self) -> Result<Vec<u64>, CheckpointError> {
        let mut steps: Vec<u64> = self.names()?.iter().filter_map(|name| self.step_of(name)).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    fn names(&self) -> Result<Vec<String>, CheckpointError> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(io_error(&self.folder))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry.map_err(io_error(&self.folder))?.file_name().into_string().ok());
        }
        Ok(names)
    }

    /// The step whose checkpoint has this name, if it is a folder and spelled as the program spells it.
    fn step_of(&self, name: &str) -> Option<u64> {
        let step = name.strip_prefix("step-")?.parse().ok()?;
        (name == step_name(step) && self.folder.join(name).is_dir()).then_some(step)
    }

    /// Where the checkpoint of a step is, or would be.
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(step_name(step))
    }

    /// The newest whole one, and what is wrong with those that are newer; `None` if there are none at all. A run that
    /// replaces its checkpoints meanwhile is listed again.
    ///
    /// # Errors
    ///
    /// If there are some and none is whole.
    pub fn newest(&self) -> Result<Option<(Checkpoint, Vec<String>)>, CheckpointError> {
        let mut pruned = None;
        for _ in 0..LISTINGS {
            match self.newest_listed()? {
                Newest::Found(checkpoint, damage) => return Ok(Some((*checkpoint, damage))),
                Newest::None => return Ok(None),
                Newest::Pruned(path) => pruned = Some(path),
            }
        }
        Err(CheckpointError::Pruned { path: pruned.unwrap_or_else(|| self.folder.clone()) })
    }

    fn newest_listed(&self) -> Result<Newest, CheckpointError> {
        let (mut damage, mut pruned) = (Vec::new(), None);
        for step in self.steps()?.into_iter().rev() {
            match Checkpoint::open_step(&self.path(step)) {
                Ok(checkpoint) => return Ok(Newest::Found(Box::new(checkpoint), damage)),
                Err(error @ CheckpointError::Newer { .. }) => return Err(error),
                Err(CheckpointError::Pruned { path }) => pruned = Some(path),
                Err(error) => damage.push(first_line(&error)),
            }
        }
        match (pruned, damage.is_empty()) {
            (Some(path), _) => Ok(Newest::Pruned(path)),
            (None, true) => Ok(Newest::None),
            (None, false) => {
                let run = self.folder.parent().unwrap_or(&self.folder).to_owned();
                Err(CheckpointError::AllDamaged { run, damage })
            }
        }
    }

    /// Removes what a killed process left half-written.
    ///
    /// # Errors
    ///
    /// If it can't be removed.
    pub fn clean(&self) -> Result<(), CheckpointError> {
        for name in self.names()? {
            let hidden = UNFINISHED.iter().find_map(|end| name.strip_prefix('.')?.strip_suffix(end));
            if hidden.is_some_and(is_step_name) {
                remove(&self.folder.join(&name))?;
            }
        }
        Ok(())
    }

    /// Moves checkpoints behind `current`, the step that a run goes on from, out of the way: they are damaged, or the
    /// run would have gone on from them. Nothing is deleted; gives what was moved and where to.
    ///
    /// # Errors
    ///
    /// If one of them is whole, since another process must have written it meanwhile, or can't be moved.
    pub fn set_aside_behind(&self, current: u64) -> Result<Vec<(PathBuf, PathBuf)>, CheckpointError> {
        let mut moved = Vec::new();
        for step in self.steps()?.into_iter().filter(|&step| step > current) {
            let path = self.path(step);
            match Checkpoint::open_step(&path) {
                Ok(_) => return Err(CheckpointError::Further { path, current }),
                Err(error @ CheckpointError::Newer { .. }) => return Err(error),
                Err(_) => moved.push((path.clone(), self.set_aside(&path)?)),
            }
        }
        Ok(moved)
    }

    /// Renames an entry to a name that no checkpoint has.
    fn set_aside(&self, path: &Path) -> Result<PathBuf, CheckpointError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut aside = self.folder.join(format!("damaged-{name}"));
        for number in 2.. {
            if aside.symlink_metadata().is_err() {
                break;
            }
            aside = self.folder.join(format!("damaged-{name}-{number}"));
        }
        fs::rename(path, &aside).map_err(io_error(path))?;
        durable::sync_folder(&self.folder).map_err(io_error(&self.folder))?;
        Ok(aside)
    }

    /// Writes a checkpoint and gives its folder. Something else that stands under its name is set aside.
    ///
    /// # Errors
    ///
    /// If the disk refuses; nothing is left under the final name then.
    pub fn save(&mut self, snapshot: &Snapshot<'_>) -> Result<PathBuf, CheckpointError> {
        let path = self.path(snapshot.step);
        let partial = self.folder.join(format!(".{}.partial", step_name(snapshot.step)));
        remove(&partial)?;
        durable::create_folders(&partial).map_err(io_error(&partial))?;
        if let Err(error) = snapshot::write(&partial, snapshot) {
            // The first error is the one to report; a leftover is removed at the next start at the latest.
            let _ = fs::remove_dir_all(&partial);
            return Err(error);
        }
        if path.symlink_metadata().is_ok() {
            self.set_aside(&path)?;
        }
        fs::rename(&partial, &path).map_err(io_error(&path))?;
        durable::sync_folder(&self.folder).map_err(io_error(&self.folder))?;
        self.whole.insert(snapshot.step);
        Ok(path)
    }

    /// Of the checkpoints up to `current`, removes all but the newest `keep` and the best: the one with the lowest mean
    /// loss. Only whole ones count; damaged ones among those that would be kept are set aside.
    ///
    /// # Errors
    ///
    /// If one can't be removed.
    pub fn prune(&mut self, keep: usize, current: u64) -> Result<(), CheckpointError> {
        let steps: Vec<u64> = self.steps()?.into_iter().filter(|&step| step <= current).collect();
        let (mut kept, mut surplus) = (BTreeSet::new(), Vec::new());
        for step in steps.into_iter().rev() {
            if kept.len() >= keep {
                surplus.push(step);
            } else if self.is_whole_or_set_aside(step)? {
                kept.insert(step);
            }
        }
        if kept.is_empty() {
            return Ok(());
        }
        kept.extend(self.best(kept.iter().chain(&surplus))?);
        for step in surplus.into_iter().filter(|step| !kept.contains(step)) {
            self.remove(step)?;
        }
        Ok(())
    }

    /// The whole one with the lowest mean loss.
    fn best<'a>(&mut self, steps: impl Iterator<Item = &'a u64>) -> Result<Option<u64>, CheckpointError> {
        let loss = |step: u64| read_state(&self.path(step)).ok().and_then(|state| state.loss);
        let mut losses: Vec<(f64, u64)> = steps.filter_map(|&step| Some((loss(step)?, step))).collect();
        losses.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for (_, step) in losses {
            if self.is_whole_or_set_aside(step)? {
                return Ok(Some(step));
            }
        }
        Ok(None)
    }

    /// Reads a checkpoint that this value has not met before. One of a later version of the program is whole to it.
    fn is_whole_or_set_aside(&mut self, step: u64) -> Result<bool, CheckpointError> {
        if self.whole.contains(&step) {
            return Ok(true);
        }
        match Checkpoint::open_step(&self.path(step)) {
            Ok(_) => Ok(self.whole.insert(step)),
            Err(CheckpointError::Newer { .. } | CheckpointError::Pruned { .. }) => Ok(false),
            Err(error) => {
                tracing::warn!(step, error = first_line(&error), "damaged checkpoint set aside");
                self.set_aside(&self.path(step)).map(|_| false)
            }
        }
    }

    /// Renamed first, so that no half-removed folder ever stands under the name of a whole one.
    fn remove(&self, step: u64) -> Result<(), CheckpointError> {
        let (path, old) = (self.path(step), self.folder.join(format!(".{}.old", step_name(step))));
        if path.symlink_metadata().is_err() {
            return Ok(());
        }
        remove(&old)?;
        fs::rename(&path, &old).map_err(io_error(&path))?;
        remove(&old)
    }
}

/// One listing of a run.
enum Newest {
    Found(Box<Checkpoint>, Vec<String>),
    None,
    /// Nothing is whole, but at least this one was removed while it was read.
    Pruned(PathBuf),
}

fn step_name(step: u64) -> String {
    format!("step-{step:08}")
}

pub(super) fn is_step_name(name: &str) -> bool {
    let step = name.strip_prefix("step-").and_then(|step| step.parse().ok());
    step.is_some_and(|step| name == step_name(step))
}

fn first_line(error: &CheckpointError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Removes a folder with all that is in it, or a file.
fn remove(path: &Path) -> Result<(), CheckpointError> {
    let removed = match path.symlink_metadata() {
        Ok(data) if data.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path)(error)),
        _ => Ok(()),
    }
}
