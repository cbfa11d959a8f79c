//! `L = L_LM + lambda L_DDPM` (paper, equation 4): from packed rows to what the network is given and judged by. It knows
//! the model, and knows nothing about where rows come from, updates or runs.
//!
//! The *global batch* is the rows of an update; a *micro-batch* is those of them that pass the network together.
//! [`prepare()`] turns rows into a [`MicroBatch`] on the host: padding dropped, segments from the spans, noised latents in patches,
//! targets. It is pure: a row's timestep, noise and caption dropout are drawn from its place in the global batch ([`Draw`]), so
//! they don't depend on how that is split. [`Losses`] are one number a target and one an image; they become a loss only when
//! divided by the [`Counts`] of the global batch, so that a split one has the loss of the whole.

mod config;
mod losses;
mod micro_batch;
mod operations;
mod prepare;
#[cfg(test)]
mod tests;

pub use config::{LossWeight, Objective, ObjectiveConfig, ObjectiveConfigError};
pub use losses::{Counts, Losses, counts};
pub use micro_batch::{LearnedImage, MicroBatch};
pub use operations::Arithmetic;
pub use prepare::{Draw, PrepareError, prepare};
