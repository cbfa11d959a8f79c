//! What the two sides agree on, checked from outside the crate.
#![allow(clippy::print_stderr)]

mod kinds;
mod manifests;
mod rows;
mod rules;
mod samples;
mod shards;
mod tokenizer;
