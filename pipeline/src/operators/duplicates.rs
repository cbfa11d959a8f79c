//! Which rows are copies of earlier ones: their places, in a temporary file that each unit reads along with its rows.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;

use datafusion::error::DataFusionError;

use crate::PipelineError;
use crate::storage::disk::read_at;

/// Bytes of a copy's place in the file.
pub(crate) const PLACE_BYTES: u64 = 12;

/// Rows that are copies of earlier ones. By default there are none.
#[derive(Debug, Default)]
pub(crate) struct Duplicates {
    /// Places of copies: index of the file and row, those of one unit one behind the other and sorted.
    pub(crate) file: Option<File>,
    /// Where in the file the places of a unit lie.
    pub(crate) units: HashMap<String, Range<u64>>,
}

/// How far the copies of a unit have been read.
#[derive(Debug, Default)]
pub(crate) struct UnitDuplicates {
    unit: String,
    /// What of the file is not read yet.
    rest: Range<u64>,
    read: Vec<u8>,
    at: usize,
    /// The place that was asked for last.
    asked: (u32, u64),
}

impl Duplicates {
    /// Whether the row is a copy. The rows of a unit must be asked for in their order.
    ///
    /// # Errors
    ///
    /// If they are not, because then a copy would be missed, or if the file can't be read.
    pub(crate) fn contains(
        &self,
        unit_copies: &mut UnitDuplicates,
        unit: &str,
        file: u32,
        row: u64,
    ) -> Result<bool, PipelineError> {
        let Some(places) = &self.file else { return Ok(false) };
        if unit_copies.unit != unit {
            let rest = self.units.get(unit).cloned().unwrap_or_default();
            *unit_copies = UnitDuplicates { unit: unit.to_owned(), rest, ..UnitDuplicates::default() };
        }
        let asked = (file, row);
        if asked < unit_copies.asked {
            let what = format!("row {row} of file {file} of `{unit}` came behind {:?}", unit_copies.asked);
            return Err(PipelineError::Plan(DataFusionError::Internal(what)));
        }
        unit_copies.asked = asked;
        while let Some(place) = unit_copies.next(places).map_err(io_error("read"))? {
            if place >= asked {
                return Ok(place == asked);
            }
            unit_copies.at += PLACE_BYTES as usize;
        }
        Ok(false)
    }
}

impl UnitDuplicates {
    fn next(&mut self, places: &File) -> io::Result<Option<(u32, u64)>> {
        if self.at == self.read.len() {
            let bytes = (self.rest.end - self.rest.start).min(PLACE_BYTES << 10);
            self.read.resize(bytes as usize, 0);
            read_at(places, &mut self.read, self.rest.start)?;
            (self.rest.start, self.at) = (self.rest.start + bytes, 0);
        }
        let place = self.read.get(self.at..self.at + PLACE_BYTES as usize);
        Ok(place.and_then(|place| {
            let (file, row) = place.split_first_chunk()?;
            Some((u32::from_le_bytes(*file), u64::from_le_bytes(row.try_into().ok()?)))
        }))
    }
}

/// The error of the file of copies.
pub(crate) fn io_error(operation: &'static str) -> impl Fn(io::Error) -> PipelineError {
    move |source| PipelineError::Io { operation, path: "temporary file of copies".to_owned(), source }
}
