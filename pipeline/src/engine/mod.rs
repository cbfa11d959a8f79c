//! What plans run in: memory, sessions, and the nodes that operators are.
//!
//! It knows nothing about operators by name, files or columns.

pub(crate) mod memory;
pub(crate) mod meter;
pub(crate) mod session;
pub(crate) mod stage;
pub(crate) mod unary;
