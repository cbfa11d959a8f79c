//! What plans run in: memory, sessions, and the nodes that operators are.
//!
//! It knows no operator by its name, and neither files nor configurations.

pub(crate) mod memory;
pub(crate) mod meter;
pub(crate) mod session;
pub(crate) mod stage;
pub(crate) mod unary;
