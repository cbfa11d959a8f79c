//! What the two sides agree on, checked from outside the crate.
#![allow(clippy::print_stderr)]

mod rows;
mod samples;
mod tokenizer;
