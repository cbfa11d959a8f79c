//! Packed shards to weights, samples and scores, with Burn.
//!
//! The modules are floors: each uses those before it in this list and none behind it.
//!
//! | floor | modules |
//! | --- | --- |
//! | plain helpers | `limits`, `durable`, `log`, [`device`], [`schedule`] |
//! | numbers | [`kernels`], [`weights`], [`optimizer`] |
//! | the recipe | [`patches`], [`diffusion`], [`model`], [`objective`] |
//! | data | [`stream`] |
//! | pictures | [`codec`] |
//! | inference | [`sample`] |
//! | training | [`config`], [`checkpoint`], [`run`] |

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
mod log;
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
