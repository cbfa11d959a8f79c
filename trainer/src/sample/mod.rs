//! From a prompt to text and pictures (paper, section 3, "Inference"). It knows the model and the objective that it was
//! trained with, and knows nothing about datasets, files or checkpoints.
//!
//! [`sample`] decodes several prompts side by side. In LM mode each gets one token a pass from its hidden state. Where BOI is chosen, or
//! ends the prompt, the prompt waits until the others wait or are done; then all that wait are drawn together: patches of pure
//! noise are appended and overwritten step by step, the keys and values of what stands before them cached. The clean image then writes
//! its keys and values at t = 0, EOI is appended, and LM mode goes on.
//!
//! The sample of a prompt depends on the model, the settings and its number, not on the prompts beside it, except for rounding: a
//! matrix product may add in another order when it has other rows.

mod cache;
mod choice;
mod config;
mod decode;
mod draw;
mod prompt;
#[cfg(test)]
mod tests;

pub use choice::{Choice, probabilities};
pub use config::{Method, SampleConfig, SampleError, SamplePlan};
pub use decode::{Progress, Request, sample};
pub use prompt::{End, LatentImage, LatentSize, Part, Prompt, Sample};
