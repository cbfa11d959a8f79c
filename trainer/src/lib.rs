//! Packed shards to weights, samples and scores, with Burn.

pub mod checkpoint;
pub mod codec;
pub mod config;
pub mod device;
pub mod diffusion;
mod durable;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod golden;
pub mod kernels;
mod limits;
pub mod model;
pub mod objective;
pub mod optimizer;
pub mod patches;
pub mod run;
pub mod sample;
pub mod schedule;
#[cfg(test)]
mod sketch;
pub mod stream;
pub mod weights;

pub use schemas::random;
