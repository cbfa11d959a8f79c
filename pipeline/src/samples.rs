//! The sample data that some tests need, where it is at hand.
#![allow(clippy::print_stderr)]

use std::path::PathBuf;

/// The folder or file at `path` below the folder that the environment variable `TRANSFUSION_SAMPLES` names. Without
/// the variable the test is skipped and says so; with it, what is missing fails.
pub(crate) fn sample(path: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("TRANSFUSION_SAMPLES") else {
        eprintln!("skipped: TRANSFUSION_SAMPLES is not set, so there is no {path}");
        return None;
    };
    let found = PathBuf::from(folder).join(path);
    assert!(found.exists(), "{} is missing", found.display());
    Some(found)
}

/// The bytes of that file.
pub(crate) fn sample_bytes(path: &str) -> Option<Vec<u8>> {
    sample(path).map(|file| std::fs::read(file).expect("a sample file can be read"))
}

/// The text of that file.
pub(crate) fn sample_text(path: &str) -> Option<String> {
    sample_bytes(path).map(|bytes| String::from_utf8(bytes).expect("the sample is UTF-8"))
}
