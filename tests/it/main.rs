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
mod signals;
mod skipped;
mod sources;
mod stand_in;
mod support;
mod versions;
