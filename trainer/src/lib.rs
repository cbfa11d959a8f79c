//! Packed shards to weights, samples and scores, with Burn.

pub mod diffusion;
#[cfg(test)]
mod fixture;
pub mod kernels;
pub mod model;
pub mod objective;
pub mod optimizer;
pub mod patches;
pub mod random;
pub mod schedule;
pub mod stream;
pub mod weights;
