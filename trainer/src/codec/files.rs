//! The files of a codec's folder, in the forms in which diffusers publishes them.
//!
//! Weights are one file, one of half precision beside the name `fp16` or `bf16`, or several parts that an index lists. Parts are put
//! together to one file, always in the same way, so that the codec has one fingerprint and is copied as two files.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde::Deserialize;

use super::{CodecError, WEIGHTS_FILE};

/// Files that weights may be in, the first that is there is read.
pub const WEIGHTS_FILES: [&str; 3] =
    [WEIGHTS_FILE, "diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bf16.safetensors"];

/// Files that list the parts of weights, the first that is there is read.
pub const INDEX_FILES: [&str; 3] = [
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.safetensors.index.bf16.json",
];

/// The weights of a folder as one safetensors file.
pub(crate) struct StoredWeights {
    /// The file, or the index of its parts.
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
    /// Whether `path` has the same bytes.
    pub(crate) is_file: bool,
}

/// Reads the weights of a codec's folder.
///
/// # Errors
///
/// If there are none that can be read.
pub(crate) fn read_weights(folder: &Path) -> Result<StoredWeights, CodecError> {
    for name in WEIGHTS_FILES {
        let path = folder.join(name);
        if let Some(bytes) = read_if_there(&path)? {
            return Ok(StoredWeights { path, bytes, is_file: true });
        }
    }
    for name in INDEX_FILES {
        let path = folder.join(name);
        if let Some(index) = read_if_there(&path)? {
            let bytes = joined(folder, &path, &index)?;
            return Ok(StoredWeights { path, bytes, is_file: false });
        }
    }
    Err(without_weights(folder))
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, CodecError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CodecError::file(path)(error)),
    }
}

/// The names of the parts that an index lists, each once.
///
/// # Errors
///
/// If it is no index, or a name leads out of the folder.
pub fn part_names(index: &[u8], path: &Path) -> Result<Vec<String>, CodecError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let wrong = |reason: String| CodecError::Config { path: path.to_owned(), reason };
    let index: Index = serde_json::from_slice(index).map_err(|error| wrong(error.to_string()))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    match names.iter().find(|name| Path::new(name).file_name().is_none_or(|file| file != name.as_str())) {
        Some(name) => Err(wrong(format!("`{name}` is no name of a file in the folder"))),
        None => Ok(names.into_iter().collect()),
    }
}

fn joined(folder: &Path, path: &Path, index: &[u8]) -> Result<Vec<u8>, CodecError> {
    let names = part_names(index, path)?;
    let mut parts = Vec::new();
    for name in names {
        let path = folder.join(name);
        parts.push((fs::read(&path).map_err(CodecError::file(&path))?, path));
    }
    let mut tensors = Vec::new();
    for (bytes, path) in &parts {
        let wrong = |source| CodecError::Weights { path: path.clone(), source };
        let part = SafeTensors::deserialize(bytes).map_err(|error| wrong(error.into()))?;
        tensors.extend(part.tensors());
    }
    let wrong = |source| CodecError::Weights { path: path.to_owned(), source };
    safetensors::serialize(tensors, None).map_err(|error| wrong(error.into()))
}

/// Says what lies in a folder without weights.
fn without_weights(folder: &Path) -> CodecError {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let is_pickle = |name: &&String| [".bin", ".pt", ".pth", ".ckpt"].iter().any(|end| name.ends_with(end));
    let (found, hint) = match names.iter().find(is_pickle) {
        Some(name) => (
            format!(
                "its weights in `{name}`, a pickle of PyTorch, which is not read because it can run code"
            ),
            "save the model again with `safe_serialization=True` in diffusers, or fetch the repository's `.safetensors` file",
        ),
        None => (
            "no weights".to_owned(),
            "`transfusion vae train` makes a codec; of a published one, name the folder that has its `config.json`, often `vae`",
        ),
    };
    CodecError::NoWeights { folder: folder.to_owned(), found, hint }
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;

    fn file(names: &[&str]) -> Vec<u8> {
        let bytes = 1.5f32.to_le_bytes();
        let view = || TensorView::new(Dtype::F32, vec![1], &bytes).unwrap();
        safetensors::serialize(names.iter().map(|name| (*name, view())), None).unwrap()
    }

    #[test]
    fn variants_and_parts_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("one.safetensors"), file(&["b"])).unwrap();
        fs::write(at("two.safetensors"), file(&["a", "c"])).unwrap();
        let index = br#"{"metadata": {"total_size": 12},
            "weight_map": {"a": "two.safetensors", "b": "one.safetensors", "c": "two.safetensors"}}"#;
        fs::write(at(INDEX_FILES[0]), index).unwrap();
        let read = read_weights(folder.path()).unwrap();
        assert_eq!((read.bytes, read.is_file), (file(&["a", "b", "c"]), false));
        fs::write(at(WEIGHTS_FILES[1]), b"half").unwrap();
        let read = read_weights(folder.path()).unwrap();
        assert_eq!((read.path, read.bytes, read.is_file), (at(WEIGHTS_FILES[1]), b"half".to_vec(), true));
        fs::write(at(WEIGHTS_FILE), b"whole").unwrap();
        assert_eq!(read_weights(folder.path()).unwrap().bytes, b"whole");
    }

    #[test]
    fn an_index_stays_in_its_folder() {
        for name in ["../x.safetensors", "/x.safetensors", "a/b.safetensors", ""] {
            let index = format!(r#"{{"weight_map": {{"a": "{name}"}}}}"#);
            assert!(part_names(index.as_bytes(), Path::new("i.json")).is_err(), "{name}");
        }
    }

    #[test]
    fn a_folder_without_weights_says_what_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let error = || read_weights(folder.path()).err().unwrap().to_string();
        assert!(error().contains("has no weights, expected"), "{}", error());
        fs::write(folder.path().join("diffusion_pytorch_model.bin"), b"x").unwrap();
        assert!(error().contains("its weights in `diffusion_pytorch_model.bin`, a pickle"), "{}", error());
        assert!(error().contains("safe_serialization=True"));
    }
}
