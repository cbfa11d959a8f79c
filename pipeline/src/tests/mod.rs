//! Whole jobs, on stores in memory and on disk.

mod ahead;
mod captions;
mod columns;
mod configs;
mod damage;
mod estimate;
pub(crate) mod fixtures;
mod formats;
mod frozen;
mod images;
mod interleaved;
mod joins;
mod limit;
mod memory;
mod pictures;
mod planning;
mod resume;
mod retry;
mod samples;
mod sql;
mod stores;
mod text;
mod types;
mod units_at_once;
mod versions;
