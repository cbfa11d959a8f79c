//! What stands beside pictures: captions and fields in files of the same name, which belong to them.

use std::collections::{BTreeSet, HashMap, HashSet};

use object_store::ObjectMeta;
use object_store::path::Path;

use super::InputFile;
use super::folder::{self, Below};
use super::names::{extension, is_picture, stem};
use super::patterns::below;
use crate::config::{Format, Shape};

/// What may stand beside a single picture.
pub(super) const BESIDE: [&str; 3] = ["caption", "json", "txt"];

/// What stands beside pictures: bytes by the path without an extension, and how the extensions are written.
#[derive(Default)]
pub(super) struct Beside(HashMap<String, (u64, BTreeSet<String>)>);

/// What may stand beside the pictures of files, of a source of pairs.
pub(super) fn beside(metas: &[ObjectMeta], prefix: &Path, shape: Shape) -> Beside {
    let mut beside = Beside::default();
    if shape != Shape::Pair {
        return beside;
    }
    let is_it = |path: &str| extension(path).is_some_and(|extension| is_picture(&extension.name));
    let stem_of = |meta: &ObjectMeta| Some(stem(&below(prefix, &meta.location))?.0.to_owned());
    let pictures = metas.iter().filter(|meta| is_it(meta.location.as_ref()));
    let stems: HashSet<String> = pictures.filter_map(stem_of).collect();
    for meta in metas {
        let path = below(prefix, &meta.location);
        if let Some((stem, extension)) = stem(&path).filter(|_| folder::is_beside(&path, &stems)) {
            let (bytes, extensions) = beside.0.entry(stem.to_owned()).or_default();
            *bytes += meta.size;
            extensions.insert(extension.to_owned());
        }
    }
    beside
}

impl Beside {
    /// The paths of chosen pictures without their extensions.
    pub(super) fn stems(&self, chosen: &[Below]) -> HashSet<String> {
        let is_it = |path: &str| extension(path).is_some_and(|extension| is_picture(&extension.name));
        let stems = chosen.iter().filter(|(below, _)| is_it(below)).filter_map(|(below, _)| stem(below));
        stems.map(|(stem, _)| stem.to_owned()).filter(|stem| self.0.contains_key(stem)).collect()
    }

    /// Bytes that stand beside a picture.
    pub(super) fn bytes(&self, file: &InputFile) -> u64 {
        if file.format != Format::Pictures {
            return 0;
        }
        stem(&file.below).and_then(|(stem, _)| self.0.get(stem)).map_or(0, |(bytes, _)| *bytes)
    }

    /// The extensions of what stands beside these pictures.
    pub(super) fn extensions(&self, stems: &HashSet<String>) -> Vec<String> {
        let extensions: BTreeSet<&String> =
            stems.iter().filter_map(|stem| self.0.get(stem)).flat_map(|(_, extensions)| extensions).collect();
        extensions.into_iter().cloned().collect()
    }
}
