//! Settings of the diffusion objective. The defaults are the paper's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::diffusion::{CosineSchedule, Prediction};
use crate::limits::{self, Outside, Reals};

/// The `[diffusion]` table of a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ObjectiveConfig {
    /// Timesteps of the cosine schedule.
    #[schemars(range(min = 1, max = 100_000), extend("x-unit" = "timesteps"))]
    pub steps: u32,
    /// What the network predicts.
    pub prediction: Prediction,
    /// How much an image counts, by its noise.
    pub loss_weight: LossWeight,
    /// Probability that an image of a caption-first pair doesn't see its caption, 0 to 1. Guidance needs it.
    #[schemars(range(min = 0.0, max = 1.0), extend("x-unit" = "share"))]
    pub caption_dropout: f64,
    /// Largest timestep of an image that stands before its caption (paper, section 4.3.4); `steps - 1` is no limit.
    #[schemars(extend("x-unit" = "timesteps"))]
    pub noise_limit: u32,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            prediction: Prediction::Noise,
            loss_weight: LossWeight::None,
            caption_dropout: 0.1,
            noise_limit: 500,
        }
    }
}

/// How much an image counts, by its noise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LossWeight {
    /// All alike, as in the paper.
    #[default]
    None,
    /// `k / (SNR + k)` with the signal-to-noise ratio of the timestep: nearly clean images count less.
    SoftSnr(#[schemars(range(max = 1e9), extend("exclusiveMinimum" = 0.0, "x-unit" = "none"))] f64),
}

/// Why settings make no objective.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("`diffusion.{key}` is `{found}`, expected {expected}")]
pub struct ObjectiveConfigError {
    /// The key below `diffusion`.
    pub key: &'static str,
    /// The values allowed.
    pub expected: String,
    /// The value found.
    pub found: String,
}

/// A checked objective with its schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Objective {
    config: ObjectiveConfig,
    schedule: CosineSchedule,
}

impl ObjectiveConfig {
    /// Checks the settings and computes the schedule.
    ///
    /// # Errors
    ///
    /// A value out of range.
    pub fn plan(&self) -> Result<Objective, ObjectiveConfigError> {
        let outside = |key| {
            move |outside: Outside| ObjectiveConfigError {
                key,
                expected: outside.expected,
                found: outside.found,
            }
        };
        // A schedule holds its numbers step by step.
        limits::whole(u64::from(self.steps), 1..=100_000).map_err(outside("steps"))?;
        limits::real(self.caption_dropout, Reals::closed(0.0, 1.0)).map_err(outside("caption-dropout"))?;
        if let LossWeight::SoftSnr(k) = self.loss_weight {
            limits::real(k, Reals::above(0.0, 1e9)).map_err(outside("loss-weight.soft-snr"))?;
        }
        Ok(Objective { config: self.clone(), schedule: CosineSchedule::new(self.steps) })
    }
}

impl Objective {
    /// The settings.
    pub fn config(&self) -> &ObjectiveConfig {
        &self.config
    }

    /// The noise schedule.
    pub fn schedule(&self) -> &CosineSchedule {
        &self.schedule
    }

    /// How much an image at `t` counts.
    pub fn weight(&self, t: u32) -> f32 {
        match self.config.loss_weight {
            LossWeight::None => 1.0,
            LossWeight::SoftSnr(k) => (k / (self.schedule.signal_to_noise(t) + k)) as f32,
        }
    }
}
