//! Chooses features, and nothing else: see `Cargo.toml` beside.
