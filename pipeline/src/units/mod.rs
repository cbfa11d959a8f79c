//! From addresses to units of work.
//!
//! A source's files are sorted by the bytes of their path below the fixed prefix of its glob, and runs of consecutive
//! files up to `unit-bytes` form a unit. A unit is read, packed and committed alone, so the units decide where rows
//! end, and they come from names and sizes only: not from the number of cores or machines, nor from where the root
//! of the corpus lies.
//!
//! It knows files by their names, sizes and stores, and knows nothing about what is in them: no reader, no column, no
//! row.

mod aside;
mod beside;
mod braces;
mod cut;
mod folder;
mod form;
mod list;
pub(crate) mod names;
mod patterns;
pub(crate) mod pointer;
mod walk;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;

pub(crate) use self::cut::{group, unit_id};
pub(crate) use self::list::list;
use crate::config::Format;
use crate::host::passed_over::PassedOver;

/// One file of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputFile {
    /// Where it lies in its store.
    pub(crate) path: Path,
    /// Its path below the source's fixed prefix: its name in the dataset.
    pub(crate) below: String,
    /// Its size; of a picture with that of the caption and the fields beside it.
    pub(crate) bytes: u64,
    /// What the store says of its version.
    pub(crate) e_tag: Option<String>,
    /// Its form.
    pub(crate) format: Format,
    /// What is read of it; all of it if `None`.
    pub(crate) part: Option<FilePart>,
}

/// A part of a large file: bytes of lines, row groups, or record batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FilePart {
    /// First byte, row group or record batch. A line belongs to the part that it starts in.
    pub(crate) start: u64,
    /// The one behind the last.
    pub(crate) end: u64,
    /// Number of the first row of the part; `None` where the lines before it are still to be counted.
    pub(crate) first_row: Option<u64>,
}

/// The files of a source.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    /// The store that they lie in.
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The glob below the fixed prefix, or the file's name: the address without its root.
    pub(crate) pattern: String,
    /// The files, sorted by the bytes of `below`; behind those of an earlier version of the dataset, if there is one.
    pub(crate) files: Vec<InputFile>,
    /// Extensions, as they are written, of the captions and fields beside pictures.
    pub(crate) beside: Vec<String>,
    /// What the address leads to and is not read.
    pub(crate) passed: Vec<PassedOver>,
}

/// A run of consecutive files of one source that is packed alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Its name: the source's, and a hash of the files' names and sizes.
    pub(crate) id: String,
    /// Index of the source.
    pub(crate) source: u16,
    /// Indexes of its files in the source's listing.
    pub(crate) files: Range<usize>,
    /// The size of what is read.
    pub(crate) bytes: u64,
    /// The part of its only file, where that is a large one.
    pub(crate) part: Option<FilePart>,
    /// The rows that are read, by index of the file in the unit; all of them if `None`.
    pub(crate) only: Option<Rows>,
}

/// Rows by index of their file in a unit.
pub(crate) type Rows = BTreeMap<u32, BTreeSet<u64>>;

impl Unit {
    /// What it reads.
    pub(crate) fn inputs(&self, files: &[InputFile]) -> Vec<InputFile> {
        let file = |file: &InputFile| InputFile { part: self.part, ..file.clone() };
        files[self.files.clone()].iter().map(file).collect()
    }
}

/// The names of the files of units.
#[derive(Debug, Default)]
pub(crate) struct UnitFiles(HashMap<String, Vec<String>>);

impl UnitFiles {
    pub(crate) fn new<'a>(units: impl IntoIterator<Item = &'a Unit>, listing: &Listing) -> Self {
        let names =
            |unit: &Unit| listing.files[unit.files.clone()].iter().map(|file| file.below.clone()).collect();
        Self(units.into_iter().map(|unit| (unit.id.clone(), names(unit))).collect())
    }

    /// The paths of a unit's files below their source's fixed prefix.
    pub(crate) fn files(&self, unit: &str) -> &[String] {
        self.0.get(unit).map_or(&[], Vec::as_slice)
    }

    /// The path of one of them.
    pub(crate) fn path(&self, unit: &str, file: u32) -> &str {
        self.files(unit).get(file as usize).map_or("", String::as_str)
    }
}
