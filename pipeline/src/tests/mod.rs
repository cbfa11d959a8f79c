//! Whole jobs, on stores in memory and on disk.

mod captions;
mod columns;
mod configs;
pub(crate) mod fixtures;
mod images;
mod interleaved;
mod joins;
mod pictures;
mod resume;
mod samples;
mod stores;
mod text;
