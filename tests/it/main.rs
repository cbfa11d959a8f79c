//! What crosses crates, and whole commands.

mod architecture;
mod conformance;
mod support;
