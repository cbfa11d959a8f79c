//! What crosses crates, and whole commands.

mod afterwards;
mod architecture;
mod cli;
mod compat;
mod conformance;
mod demo;
mod preprocess;
mod skipped;
mod sources;
mod support;
