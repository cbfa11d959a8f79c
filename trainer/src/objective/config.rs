//! Settings of the diffusion objective. The defaults are the paper's.

use serde::{Deserialize, Serialize};

use crate::diffusion::{CosineSchedule, Prediction};

/// The `[diffusion]` table of a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ObjectiveConfig {
    /// Steps of the cosine schedule.
    pub steps: u32,
    /// What the network predicts.
    pub prediction: Prediction,
    /// How much an image counts, by its noise.
    pub loss_weight: LossWeight,
    /// Probability that an image of a caption-first pair doesn't see its caption, 0 to 1. Guidance needs it.
    pub caption_dropout: f64,
    /// Largest timestep of an image that stands before its caption (paper, section 4.3.4); `steps - 1` is no limit.
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossWeight {
    /// All alike, as in the paper.
    #[default]
    None,
    /// `k / (SNR + k)` with the signal-to-noise ratio of the timestep: nearly clean images count less.
    SoftSnr(f64),
}

/// Why settings make no objective.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("`diffusion.{key}` is `{found}`, expected {expected}")]
pub struct ObjectiveConfigError {
    /// The key below `diffusion`.
    pub key: &'static str,
    /// What it must be.
    pub expected: &'static str,
    /// What it is.
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
        let wrong = |key, expected, found: String| Err(ObjectiveConfigError { key, expected, found });
        if self.steps == 0 {
            return wrong("steps", "at least 1", self.steps.to_string());
        }
        if !(0.0..=1.0).contains(&self.caption_dropout) {
            return wrong("caption-dropout", "a probability from 0 to 1", self.caption_dropout.to_string());
        }
        if let LossWeight::SoftSnr(k) = self.loss_weight
            && !(k.is_finite() && k > 0.0)
        {
            return wrong("loss-weight.soft-snr", "a number above 0", k.to_string());
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
