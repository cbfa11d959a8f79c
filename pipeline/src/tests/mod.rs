//! Whole jobs, on stores in memory and on disk.

pub(crate) mod fixtures;
mod images;
mod limit;
mod resume;
mod retry;
mod samples;
mod stores;
mod text;
mod versions;
