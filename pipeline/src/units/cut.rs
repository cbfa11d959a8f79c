//! Files into units: runs of consecutive ones, and parts of a large one.
//!
//! A file of JSON lines, Parquet or Arrow (the file form) that is larger than a unit is cut, at lines, row groups or
//! record batches, as its reader says ([`crate::read::parts`]); lines get their numbers when they are read. Compressed
//! lines and archives are not cut. The cost of that choice: at most one unfinished row a unit and, with best-fit
//! packing, the padding of the rows that are open when it ends.

use std::ops::Range;

use super::{FilePart, InputFile, Unit};

/// Runs of consecutive files, from the file `from` on.
pub(crate) fn group(name: &str, source: u16, files: &[InputFile], from: usize, unit_bytes: u64) -> Vec<Unit> {
    let mut units = Vec::new();
    let mut start = from;
    let mut bytes = 0;
    for (index, file) in files.iter().enumerate().skip(from) {
        if index > start && bytes + file.bytes > unit_bytes {
            units.push(unit(name, source, files, start..index));
            (start, bytes) = (index, 0);
        }
        bytes += file.bytes;
    }
    if start < files.len() {
        units.push(unit(name, source, files, start..files.len()));
    }
    units
}

impl Unit {
    /// The units of these parts of its only file, with their sizes; itself where there are not several.
    pub(crate) fn cut(self, name: &str, file: &InputFile, parts: Vec<(FilePart, u64)>) -> Vec<Self> {
        if parts.len() < 2 {
            return vec![self];
        }
        let of_part = |(part, bytes): (FilePart, u64)| {
            let mut hasher = unit_hasher(std::slice::from_ref(file));
            hasher.update(&part.start.to_le_bytes());
            hasher.update(&part.end.to_le_bytes());
            Self { id: unit_id(name, &hasher), bytes, part: Some(part), ..self.clone() }
        };
        parts.into_iter().map(of_part).collect()
    }
}

fn unit(name: &str, source: u16, files: &[InputFile], range: Range<usize>) -> Unit {
    let own = &files[range.clone()];
    let bytes = own.iter().map(|file| file.bytes).sum();
    Unit { id: unit_id(name, &unit_hasher(own)), source, files: range, bytes, part: None, only: None }
}

fn unit_hasher(files: &[InputFile]) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    for file in files {
        hasher.update(&(file.below.len() as u64).to_le_bytes());
        hasher.update(file.below.as_bytes());
        hasher.update(&file.bytes.to_le_bytes());
    }
    hasher
}

/// The name of a unit of a source.
pub(crate) fn unit_id(name: &str, hasher: &blake3::Hasher) -> String {
    format!("{name}-{}", &hasher.finalize().to_hex().as_str()[..16])
}

#[cfg(test)]
mod tests {
    use object_store::path::Path;

    use super::*;
    use crate::config::Format;

    #[test]
    fn units_depend_on_names_and_sizes_only() {
        let file = |below: &str, bytes, root: &str| InputFile {
            path: Path::from(format!("{root}/{below}")),
            below: below.to_owned(),
            bytes,
            e_tag: None,
            format: Format::Text,
            part: None,
        };
        let files =
            |root| vec![file("a", 60, root), file("b", 40, root), file("c", 1, root), file("d", 500, root)];
        let units = group("s", 0, &files("here"), 0, 100);
        assert_eq!(units.iter().map(|unit| unit.files.clone()).collect::<Vec<_>>(), [0..2, 2..3, 3..4]);
        assert_eq!(units, group("s", 0, &files("elsewhere"), 0, 100));
        assert_ne!(units[0].id, group("s", 0, &files("here")[..1], 0, 100)[0].id);
    }
}
