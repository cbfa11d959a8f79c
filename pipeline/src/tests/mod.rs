//! Whole jobs, on stores in memory and on disk.

mod estimate;
pub(crate) mod fixtures;
mod images;
mod memory;
mod resume;
mod samples;
mod stores;
mod text;
