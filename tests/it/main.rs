//! What crosses crates, and whole commands.

mod afterwards;
mod architecture;
mod broken;
mod cli;
mod closing;
mod compat;
mod conformance;
mod demo;
mod kills;
mod preprocess;
mod published;
mod skipped;
mod sources;
mod support;
mod versions;
