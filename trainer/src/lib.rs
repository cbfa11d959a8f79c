//! Packed shards to weights, samples and scores, with Burn.

#[cfg(test)]
mod fixture;
pub mod kernels;
pub mod stream;
