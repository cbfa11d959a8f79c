//! The files that a dataset has already.
//!
//! Files that were packed must be there as they were: one that has another size or is gone is an error, because a
//! dataset can't forget. (Content that changed without a change of size is not noticed: files have no checksums here,
//! since reading them all again is what a new version is to spare.)

use std::collections::HashMap;

use schemas::{FileRecord, Manifest, PartRecord, SourceRecord};

use crate::source::Settled;
use crate::units::{FilePart, InputFile, Listing, Unit};

/// Compares a listing with the files that were packed, and puts those first.
///
/// # Errors
///
/// The names of those that have another size or are gone.
pub(crate) fn settle(listing: &mut Listing, index: u16, base: &Manifest) -> Result<Settled, Vec<String>> {
    let Some(record) = base.sources.get(usize::from(index)) else { return Ok(Settled::default()) };
    let mut listed: HashMap<String, InputFile> =
        listing.files.drain(..).map(|file| (file.below.clone(), file)).collect();
    let changed = changed_files(record, &listed);
    if !changed.is_empty() {
        return Err(changed);
    }
    let mut settled = Settled::default();
    let mut place = HashMap::new();
    for unit in base_units(record, index, base) {
        let start = listing.files.len();
        for path in unit.files {
            if let Some(file) = listed.remove(path) {
                place.insert(path, listing.files.len());
                listing.files.push(file);
            }
        }
        let files = match unit.part {
            Some(part) => place.get(part.file.as_str()).map_or(0..0, |&file| file..file + 1),
            None => start..listing.files.len(),
        };
        let bytes = listing.files[files.clone()].iter().map(|file| file.bytes).sum();
        let part = unit.part.map(|part| FilePart {
            start: part.start,
            end: part.end,
            first_row: Some(part.first_row),
        });
        settled.units.push(Unit { id: unit.name.to_owned(), source: index, files, bytes, part, only: None });
    }
    settled.files = listing.files.len();
    let mut new: Vec<InputFile> = listed.into_values().collect();
    new.sort_by(|a, b| a.below.as_bytes().cmp(b.below.as_bytes()));
    listing.files.extend(new);
    Ok(settled)
}

fn changed_files(record: &SourceRecord, listed: &HashMap<String, InputFile>) -> Vec<String> {
    let changed = |file: &FileRecord| match listed.get(&file.path) {
        None => Some(format!("`{}` of source `{}` is gone", file.path, record.name)),
        Some(now) if now.bytes != file.bytes => Some(format!(
            "`{}` of source `{}` has {} bytes instead of {}",
            file.path, record.name, now.bytes, file.bytes
        )),
        Some(_) => None,
    };
    record.files.iter().filter_map(changed).collect()
}

struct BaseUnit<'a> {
    name: &'a str,
    files: Vec<&'a str>,
    part: Option<&'a PartRecord>,
}

/// The units that read files of a source, in order, each with the files that it was the first to read.
fn base_units<'a>(record: &'a SourceRecord, index: u16, base: &'a Manifest) -> Vec<BaseUnit<'a>> {
    let mut files: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut order: Vec<&str> = Vec::new();
    for file in &record.files {
        let of_unit = files.entry(&file.unit).or_default();
        if of_unit.is_empty() {
            order.push(&file.unit);
        }
        of_unit.push(&file.path);
    }
    let listed = base.units.iter().filter(|unit| unit.source == index && unit.retries.is_none());
    let mut units: Vec<BaseUnit<'_>> = listed
        .map(|unit| BaseUnit {
            name: &unit.unit,
            files: files.remove(unit.unit.as_str()).unwrap_or_default(),
            part: unit.part.as_ref(),
        })
        .collect();
    // A manifest of before there were lists of units.
    let unlisted = order.into_iter().filter_map(|name| Some((name, files.remove(name)?)));
    units.extend(unlisted.map(|(name, files)| BaseUnit { name, files, part: None }));
    units
}
