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
mod runs;
mod secrets;
mod skipped;
mod sources;
mod support;
mod tutorial;
mod versions;
mod words;
