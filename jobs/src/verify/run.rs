//! A run, or one checkpoint of it: the BLAKE3 of every file that `state.json` names.

use std::path::Path;

use trainer::checkpoint::{Checkpoint, CheckpointError, Checkpoints};

use super::Verdict;
use crate::failure::Account;
use crate::store::Place;

/// Whether a folder is a checkpoint or a run.
pub(super) fn is_one(place: &Place) -> bool {
    place.local.as_deref().is_some_and(|path| is_checkpoint(path) || path.join("checkpoints").is_dir())
}

fn is_checkpoint(path: &Path) -> bool {
    let named = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("step-"));
    path.join("state.json").is_file() || (named && path.is_dir())
}

/// Checks one checkpoint, or all of a run.
pub(super) fn verify(place: &Place) -> anyhow::Result<Verdict> {
    let path = place.local.as_deref().unwrap_or(Path::new(""));
    if is_checkpoint(path) {
        let mut verdict = Verdict::new("checkpoint", place);
        check(path, ".", &mut verdict)?;
        return Ok(verdict);
    }
    let mut verdict = Verdict::new("run", place);
    let checkpoints = Checkpoints::of(path);
    let steps = checkpoints.steps()?;
    for &step in &steps {
        let folder = checkpoints.path(step);
        let name = folder.strip_prefix(path).unwrap_or(&folder).display().to_string();
        if check(&folder, &name, &mut verdict).is_err() {
            let note = format!("{name} was removed meanwhile: its run keeps the newest and the best");
            verdict.notes.push(note);
        }
    }
    if steps.is_empty() {
        verdict.notes.push("the run has no checkpoint yet".to_owned());
    }
    Ok(verdict)
}

/// Checks a checkpoint; an error says that it was removed while it was read, which is no damage.
fn check(folder: &Path, name: &str, verdict: &mut Verdict) -> Result<(), CheckpointError> {
    match Checkpoint::open(folder) {
        Ok((checkpoint, _)) => {
            let files = checkpoint.state().files.keys();
            let sizes = files.map(|file| std::fs::metadata(folder.join(file)).map_or(0, |data| data.len()));
            verdict.objects += checkpoint.state().files.len() as u64 + 1;
            verdict.bytes += sizes.sum::<u64>();
        }
        Err(error @ CheckpointError::Pruned { .. }) => return Err(error),
        Err(error) => {
            verdict.objects += 1;
            verdict.damaged(name, Account::of(&error.into()).lines.join(": "));
        }
    }
    Ok(())
}
