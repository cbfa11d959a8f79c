//! Packed shards to weights, samples and scores, with Burn.

pub mod diffusion;
#[cfg(test)]
mod fixture;
pub mod kernels;
pub mod model;
pub mod objective;
pub mod patches;
pub mod random;
pub mod stream;
