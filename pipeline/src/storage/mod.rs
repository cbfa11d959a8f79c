//! Where a dataset lies, who may write to it, and what is written of a unit.
//!
//! It knows nothing about what a row is or where rows come from.

pub(crate) mod commit;
pub(crate) mod disk;
pub(crate) mod lease;
pub(crate) mod location;
pub(crate) mod resolver;
pub(crate) mod version;
