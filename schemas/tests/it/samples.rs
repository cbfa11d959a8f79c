//! The sample data that some tests need, where it is at hand.

use std::path::PathBuf;

/// The file at `path` below the folder that the environment variable `TRANSFUSION_SAMPLES` names. Without the
/// variable the test is skipped and says so; with it, a missing file fails.
pub(crate) fn sample(path: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("TRANSFUSION_SAMPLES") else {
        eprintln!("skipped: TRANSFUSION_SAMPLES is not set, so there is no {path}");
        return None;
    };
    let file = PathBuf::from(folder).join(path);
    assert!(file.is_file(), "{} is missing", file.display());
    Some(file)
}

/// The bytes of that file.
pub(crate) fn sample_bytes(path: &str) -> Option<Vec<u8>> {
    sample(path).map(|file| std::fs::read(file).expect("a sample file can be read"))
}
