//! Whole jobs, on stores in memory and on disk.

pub(crate) mod fixtures;
mod images;
mod resume;
mod samples;
mod stores;
mod text;
