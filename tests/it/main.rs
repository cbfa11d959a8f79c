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
mod modules;
mod preprocess;
mod published;
mod reference;
mod runs;
mod sampling;
mod secrets;
mod selections;
mod signals;
mod skipped;
mod sources;
mod stand_in;
mod support;
mod tutorial;
mod versions;
mod words;
