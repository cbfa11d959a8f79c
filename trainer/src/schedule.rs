//! The learning rate of each update: a line up, then half a cosine down to a floor. It knows nothing about optimizers.

use std::f64::consts::PI;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::STEPS;

/// The `[schedule]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// Highest learning rate.
    #[schemars(range(max = 1000.0), extend("exclusiveMinimum" = 0.0, "x-unit" = "none"))]
    pub rate: f64,
    /// Updates until the highest learning rate is reached; a tenth of the schedule's steps, at most 4,000, if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = *STEPS.end()), extend("x-unit" = "updates"))]
    pub warm_up: Option<u64>,
    /// Learning rate of the last update.
    #[schemars(range(min = 0.0, max = 1000.0), extend("x-unit" = "none"))]
    pub floor: f64,
    /// Updates until the floor is reached; the run's `steps` if not set, so that it moves with them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = *STEPS.end()), extend("x-unit" = "updates"))]
    pub steps: Option<u64>,
}

impl Default for ScheduleConfig {
    /// The paper's: 3e-4 after 4,000 updates, down to 1.5e-5.
    fn default() -> Self {
        Self { rate: 3e-4, warm_up: None, floor: 1.5e-5, steps: None }
    }
}

impl ScheduleConfig {
    /// The curve of a run of `steps` updates whose warm-up is settled.
    pub fn curve(&self, steps: u64) -> Schedule {
        Schedule {
            rate: self.rate,
            warm_up: self.warm_up.unwrap_or_default(),
            floor: self.floor,
            steps: self.steps.unwrap_or(steps),
        }
    }
}

/// A curve with all its numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Highest learning rate.
    pub rate: f64,
    /// The update that reaches it.
    pub warm_up: u64,
    /// Learning rate from update `steps` on.
    pub floor: f64,
    /// The last update.
    pub steps: u64,
}

impl Schedule {
    /// Learning rate of update `update`, counted from 1: `rate * update / warm_up` up to `warm_up`, then
    /// `floor + (rate - floor) (1 + cos(pi p)) / 2` with `p` from 0 at `warm_up` to 1 at `steps`.
    pub fn rate_at(&self, update: u64) -> f64 {
        if update < self.warm_up {
            return self.rate * update as f64 / self.warm_up as f64;
        }
        if update >= self.steps {
            return if self.steps > self.warm_up { self.floor } else { self.rate };
        }
        let progress = (update - self.warm_up) as f64 / (self.steps - self.warm_up) as f64;
        self.floor + (self.rate - self.floor) * 0.5 * (1.0 + (PI * progress).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_is_the_reference_curve() {
        let schedule = Schedule { rate: 3e-4, warm_up: 4000, floor: 1.5e-5, steps: 250_000 };
        let json: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/adamw.json")).unwrap();
        for (update, rate) in json["learning_rate"].as_object().unwrap() {
            let found = schedule.rate_at(update.parse().unwrap());
            // Both are f64; the last bits depend on the order of operations.
            assert!(
                (found / rate.as_f64().unwrap() - 1.0).abs() < 1e-12,
                "update {update}: {found} is not {rate}"
            );
        }
    }

    #[test]
    fn ends_are_sane() {
        let flat = Schedule { rate: 1.0, warm_up: 0, floor: 0.1, steps: 10 };
        assert_eq!((flat.rate_at(0), flat.rate_at(10), flat.rate_at(99)), (1.0, 0.1, 0.1));
        let only_up = Schedule { rate: 1.0, warm_up: 10, floor: 0.1, steps: 10 };
        assert_eq!((only_up.rate_at(5), only_up.rate_at(10)), (0.5, 1.0));
    }
}
