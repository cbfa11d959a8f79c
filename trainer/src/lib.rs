//! Packed shards to weights, samples and scores, with Burn.

pub mod kernels;
