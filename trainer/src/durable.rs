//! Files and folders that are still there after the power has failed: contents are synced, and so are the folders that
//! hold their names. It knows nothing about what is in them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Makes names in a folder durable, where the system can.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// Makes a folder and all that is missing above it, and syncs the folders that new names stand in.
pub(crate) fn create_folders(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| !is_there(folder)).collect();
    fs::create_dir_all(path)?;
    missing.into_iter().rev().try_for_each(|folder| sync_folder(parent(folder)))
}

/// Puts a file in the place of another, never leaving half of it. `write` gives its content.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let beside = path.with_extension("partial");
    let mut file = io::BufWriter::new(File::create(&beside)?);
    write(&mut file)?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(&beside, path)?;
    sync_folder(parent(path))
}

fn is_there(folder: &Path) -> bool {
    folder.as_os_str().is_empty() || folder.exists()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_once_and_files_replaced_whole() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("a/b/c");
        create_folders(&folder).unwrap();
        create_folders(&folder).unwrap();
        let file = folder.join("log.jsonl");
        fs::write(&file, "before").unwrap();
        let failed = replace(&file, |_| Err(io::ErrorKind::StorageFull.into()));
        assert!(failed.is_err());
        assert_eq!(fs::read(&file).unwrap(), b"before");
        replace(&file, |out| out.write_all(b"after")).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"after");
    }
}
