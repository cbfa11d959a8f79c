//! The dataset that a job adds to: its versions.

pub(crate) mod version;
