//! The `transfusion` command line.

fn main() {}
