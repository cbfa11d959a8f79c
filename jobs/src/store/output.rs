//! Places on this machine's disk that are written: what can't be written is found out before any work.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use crate::errors::hinted;

/// The local folder that `text` names, with `~` written out. It is made where it is written, not here.
///
/// # Errors
///
/// If it is an address of a store, or nothing can be written there. `key` says who asked: `--output`, `run`.
pub(crate) fn local_folder(key: &str, text: impl AsRef<Path>) -> anyhow::Result<PathBuf> {
    let path = local(key, text.as_ref())?;
    check_folder(&path)
        .with_context(|| format!("cannot write to `{}`, which `{key}` names", path.display()))?;
    Ok(path)
}

/// The local file that `text` names, with `~` written out. It is made where it is written, with the folders above it
/// ([`write_file`]).
///
/// # Errors
///
/// If it is an address of a store, or can't be written. `key` says who asked: `--html`, `OUT`.
pub(crate) fn local_file(key: &str, text: impl AsRef<Path>) -> anyhow::Result<PathBuf> {
    let path = local(key, text.as_ref())?;
    let check = || match path.symlink_metadata() {
        Ok(_) if path.is_dir() => Err(hinted(anyhow!("it is a folder"), "name a file in it")),
        // Opened for writing, not emptied. A device or a pipe is written as it is.
        Ok(found) if found.is_file() => {
            Ok(OpenOptions::new().write(true).open(&path).map(drop).context("it cannot be written")?)
        }
        Ok(_) => Ok(()),
        Err(_) => check_folder(parent(&path)),
    };
    check().with_context(|| format!("cannot write to `{}`, which `{key}` names", path.display()))?;
    Ok(path)
}

/// The local path that `text` names, with `~` written out, for what is read from a disk only.
///
/// # Errors
///
/// If it is an address of a store.
pub(crate) fn local_input(key: &str, text: impl AsRef<Path>) -> anyhow::Result<PathBuf> {
    local(key, text.as_ref())
}

/// Writes a file, and makes the folders above it.
///
/// # Errors
///
/// If the disk refuses.
pub(crate) fn write_file(path: &Path, content: impl AsRef<[u8]>) -> anyhow::Result<()> {
    fs::create_dir_all(parent(path))
        .with_context(|| format!("cannot make the folder of `{}`", path.display()))?;
    fs::write(path, content).with_context(|| format!("cannot write `{}`", path.display()))
}

fn local(key: &str, path: &Path) -> anyhow::Result<PathBuf> {
    // A path that is not UTF-8 is neither an address nor in a home.
    let Some(text) = path.to_str() else { return Ok(path.to_owned()) };
    if text.is_empty() {
        return Err(hinted(anyhow!("`{key}` is empty"), "name a path on this machine's disk"));
    }
    if schemas::address::carries_secret(text) {
        return Err(super::secrets::refused(&format!("`{key}`")));
    }
    let path = match scheme(text) {
        Some("file") => text[5..].trim_start_matches("//").trim_start_matches("localhost"),
        Some(_) => {
            return Err(hinted(
                anyhow!("`{key}` is `{text}`, which is not on this machine's disk"),
                "name a local path, and copy from or to the store with its own tools",
            ));
        }
        None => text,
    };
    Ok(PathBuf::from(&*super::expand_home(path)?))
}

/// The scheme of an address in small letters, with one slash behind it too: a shell or a library may have dropped one.
fn scheme(text: &str) -> Option<&'static str> {
    const KNOWN: [&str; 8] = ["file", "s3", "s3a", "gs", "az", "abfs", "http", "https"];
    let (scheme, _) = text.split_once(":/")?;
    let known = KNOWN.into_iter().find(|known| known.eq_ignore_ascii_case(scheme));
    let is_scheme = |scheme: &str| {
        scheme.len() > 1 && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    known.or((text.contains("://") && is_scheme(scheme)).then_some("unknown"))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether files can be made in a folder, or the folder in what is there of the path to it.
fn check_folder(folder: &Path) -> anyhow::Result<()> {
    let absolute = std::path::absolute(folder).context("there is no current folder")?;
    let there = absolute.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(&absolute);
    if !there.is_dir() {
        return Err(hinted(
            anyhow!("`{}` is no folder", there.display()),
            "name another folder, or move the file that stands there",
        ));
    }
    let tried = tempfile::Builder::new().prefix(".transfusion-").tempfile_in(there);
    tried
        .map(drop)
        .with_context(|| format!("no file can be made in `{}`", there.display()))
        .map_err(|error| hinted(error, "name a folder that can be written to and has space left"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(result: anyhow::Result<PathBuf>) -> String {
        format!("{:#}", result.expect_err("it can't be written"))
    }

    #[test]
    fn addresses_of_stores_are_no_local_places() {
        for uri in ["s3://bucket/x", "S3:/bucket/x", "https://host/x", "ftp://host/x", "az://c/x"] {
            let error = message(local_folder("--output", uri));
            assert!(error.starts_with(&format!("`--output` is `{uri}`")), "{error}");
            message(local_file("--html", uri));
        }
        let hushed = message(local_folder("run", "s3://KEY:hu/sh@bucket/x"));
        assert!(hushed.contains("`run` carries") && !hushed.contains("hu/sh"), "{hushed}");
    }

    #[test]
    fn a_place_that_can_be_written_is_left_as_it_is() {
        let here = tempfile::tempdir().unwrap();
        let deep = here.path().join("a/b");
        assert_eq!(local_folder("run", &deep).unwrap(), deep);
        assert_eq!(local_file("--html", deep.join("x.html")).unwrap(), deep.join("x.html"));
        let uri = format!("file://{}", deep.display());
        assert_eq!(local_folder("run", uri).unwrap(), deep);
        assert_eq!(fs::read_dir(here.path()).unwrap().count(), 0);
        let file = here.path().join("x.html");
        fs::write(&file, "before").unwrap();
        local_file("--html", &file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"before");
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        let here = tempfile::tempdir().unwrap();
        let file = here.path().join("file");
        fs::write(&file, "x").unwrap();
        for error in [
            message(local_folder("run", file.join("run"))),
            message(local_file("--html", file.join("x.html"))),
            message(local_folder("run", &file)),
        ] {
            assert!(error.contains("/file` is no folder"), "{error}");
        }
        assert!(message(local_file("--html", here.path())).contains("it is a folder"));
    }
}
