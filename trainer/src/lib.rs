//! Packed shards to weights, samples and scores, with Burn.

pub mod diffusion;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod golden;
pub mod kernels;
pub mod model;
pub mod objective;
pub mod optimizer;
pub mod patches;
pub mod random;
pub mod schedule;
#[cfg(test)]
mod sketch;
pub mod stream;
pub mod weights;
