//! Settings of sampling. The defaults are the paper's, where it says something.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Choice;
use crate::{
    diffusion::{CosineSchedule, DiffusionError, Prediction, Sampler, Spacing, Variance},
    objective::Objective,
};

/// The `[sample]` table of a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct SampleConfig {
    /// Seed of every draw.
    pub seed: u64,
    /// Most new tokens of a prompt; markers around images don't count. 0 stops behind the first picture.
    pub max_tokens: usize,
    /// Most new images of a prompt; behind the last BOI is no choice any more.
    pub max_images: usize,
    /// At 0 the likeliest token is chosen; otherwise scores are divided by it.
    pub temperature: f64,
    /// Share of the probability that is kept, likeliest tokens first, above 0 up to 1.
    pub top_p: f64,
    /// Denoising steps of an image.
    pub steps: u32,
    /// Which of the schedule's steps these are.
    pub spacing: Spacing,
    /// How to go from one step to the next.
    pub method: Method,
    /// Variance of the fresh noise of `ddpm`.
    pub variance: Variance,
    /// Share of the fresh noise of `ddim`, 0 to 1; 0 is deterministic.
    pub eta: f64,
    /// Weight of classifier-free guidance, 0 to 100; 1 is none and half the work.
    pub guidance: f64,
}

/// How to go from one denoising step to the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Ancestral sampling.
    #[default]
    Ddpm,
    /// Denoising diffusion implicit models.
    Ddim,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            max_tokens: 256,
            max_images: 1,
            temperature: 0.0,
            top_p: 1.0,
            steps: 250,
            spacing: Spacing::Leading,
            method: Method::Ddpm,
            variance: Variance::FixedSmall,
            eta: 0.0,
            guidance: 3.0,
        }
    }
}

/// Checked settings with everything derived.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplePlan {
    pub(super) seed: u64,
    pub(super) max_tokens: usize,
    pub(super) max_images: usize,
    pub(super) choice: Choice,
    pub(super) schedule: CosineSchedule,
    /// From noisy to clean.
    pub(super) steps: Vec<u32>,
    pub(super) sampler: Sampler,
    pub(super) prediction: Prediction,
    pub(super) guidance: f64,
}

/// Why nothing can be sampled.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// A setting out of range.
    #[error("`sample.{key}` is `{found}`, expected {expected}")]
    Value {
        /// The key below `sample`.
        key: &'static str,
        /// The values allowed.
        expected: &'static str,
        /// The value found.
        found: f64,
    },
    /// A list of steps that the schedule doesn't have.
    #[error(transparent)]
    Steps(#[from] DiffusionError),
    /// A prompt that the model can't read.
    #[error("prompt {prompt}: {what}")]
    Prompt {
        /// Number of the prompt.
        prompt: u64,
        /// The fault.
        what: String,
    },
    /// A size of pictures that can't be cut into patches.
    #[error("latents of {height} x {width} cannot be cut into patches of {patch} x {patch}")]
    Size {
        /// Rows of latent pixels.
        height: usize,
        /// Columns of latent pixels.
        width: usize,
        /// Side of a patch.
        patch: usize,
    },
    /// The observer broke off.
    #[error("sampling was stopped")]
    Stopped,
    /// The model's numbers are broken.
    #[error(
        "the model gave a number that is not finite for prompt {prompt}\nhint: take an earlier checkpoint"
    )]
    NotFinite {
        /// Number of the prompt.
        prompt: u64,
    },
}

impl SampleConfig {
    /// Checks the settings and derives the list of steps from the objective that the model was trained with.
    ///
    /// # Errors
    ///
    /// A setting out of range.
    pub fn plan(&self, objective: &Objective) -> Result<SamplePlan, SampleError> {
        let check = |key, found: f64, good: bool, expected| {
            if good && found.is_finite() { Ok(()) } else { Err(SampleError::Value { key, expected, found }) }
        };
        check("temperature", self.temperature, self.temperature >= 0.0, "0 or more")?;
        check("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "a share above 0, up to 1")?;
        check("eta", self.eta, (0.0..=1.0).contains(&self.eta), "a share from 0 to 1")?;
        check("guidance", self.guidance, (0.0..=100.0).contains(&self.guidance), "a number from 0 to 100")?;
        let sampler = match self.method {
            Method::Ddpm => Sampler::Ddpm(self.variance),
            Method::Ddim => Sampler::Ddim(self.eta),
        };
        Ok(SamplePlan {
            seed: self.seed,
            max_tokens: self.max_tokens,
            max_images: self.max_images,
            choice: Choice { temperature: self.temperature, top_p: self.top_p },
            steps: objective.schedule().list(self.steps, self.spacing)?,
            schedule: objective.schedule().clone(),
            sampler,
            prediction: objective.config().prediction,
            guidance: self.guidance,
        })
    }
}
