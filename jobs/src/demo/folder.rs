//! The demo's folder: `demo.json` marks it as one. A folder with something else in it is left alone.

use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow};
use serde::Serialize;

use crate::errors::hinted;

const MARK: &str = "demo.json";
/// What a demo writes beside the mark, the configs, the report and the scores.
const PARTS: [&str; 6] = ["pictures", "codec", "dataset", "run", "samples", "examples"];

/// The output folder, by the name the user gave it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Folder<'a>(pub(super) &'a Path);

impl Folder<'_> {
    /// A path in it, as it stands in configs and commands.
    pub(super) fn shown(self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Makes the folder, and gives the mark of an earlier demo in it.
    pub(super) fn claim(self) -> anyhow::Result<Option<Vec<u8>>> {
        let shown = self.0.display();
        fs::create_dir_all(self.0).with_context(|| format!("cannot create the folder `{shown}`"))?;
        let mut entries =
            fs::read_dir(self.0).with_context(|| format!("cannot read the folder `{shown}`"))?;
        if entries.next().is_none() {
            return Ok(None);
        }
        let mark = fs::read(self.0.join(MARK)).map(Some);
        mark.map_err(|_| {
            hinted(
                anyhow!("`{shown}` holds files that are not of a demo"),
                "give an empty or a new folder with `--output DIR`",
            )
        })
    }

    /// Removes the parts of an earlier demo and nothing else.
    pub(super) fn clear(self) -> anyhow::Result<()> {
        PARTS.iter().try_for_each(|part| self.remove(part))
    }

    /// Removes one part.
    pub(super) fn remove(self, part: &str) -> anyhow::Result<()> {
        let path = self.0.join(part);
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove `{}`", path.display()))?;
        }
        Ok(())
    }

    /// Writes a file, whole or not at all, with the folders above it.
    pub(super) fn write(self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let path = self.0.join(name);
        let partial = path.with_extension("partial");
        let written = fs::create_dir_all(path.parent().unwrap_or(self.0))
            .and_then(|()| fs::write(&partial, content))
            .and_then(|()| fs::rename(&partial, &path));
        written.with_context(|| format!("cannot write `{}`", path.display()))
    }

    /// Writes the mark.
    pub(super) fn keep(self, mark: &impl Serialize) -> anyhow::Result<()> {
        self.write(MARK, format!("{}\n", serde_json::to_string_pretty(mark)?).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_somebody_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.txt"), "all of it").unwrap();
        let error = Folder(folder.path()).claim().unwrap_err();
        assert!(error.to_string().contains("not of a demo"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_demo_replaces_its_own_parts_only() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("demo");
        let folder = Folder(&path);
        assert_eq!(folder.claim().unwrap(), None);
        folder.keep(&7).unwrap();
        folder.write("run/checkpoints/x", b"x").unwrap();
        folder.write("notes.txt", b"mine").unwrap();
        assert_eq!(folder.claim().unwrap(), Some(b"7\n".to_vec()));
        folder.clear().unwrap();
        assert!(!path.join("run").exists() && path.join("notes.txt").exists());
    }
}
