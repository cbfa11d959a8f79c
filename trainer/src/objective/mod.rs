//! `L = L_LM + lambda L_DDPM` (paper, equation 4): from packed rows to what the network is given and judged by.
//!
//! [`prepare()`] turns rows into a [`Batch`] on the host: padding dropped, segments from the spans, noised latents in patches, targets.
//! It is pure: a row's timestep, noise and caption dropout are drawn from its place in the *global* batch ([`Draw`]), so
//! they don't depend on how the batch is split. [`Losses`] are one number a target and one an image; they become a loss only when
//! divided by the [`Counts`] of the global batch, so that a split batch has the loss of the whole.

mod batch;
mod config;
mod losses;
mod prepare;
#[cfg(test)]
mod tests;

pub use batch::{Batch, LearnedImage};
pub use config::{LossWeight, Objective, ObjectiveConfig, ObjectiveConfigError};
pub use losses::{Counts, Losses, counts};
pub use prepare::{Draw, PrepareError, prepare};
