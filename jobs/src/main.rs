//! The `transfusion` command line.

mod demo;

fn main() {}
