//! Cosine DDPM: the noise schedule, noising, the lists of steps a sampler walks, and the steps themselves. It
//! knows nothing about networks.
//!
//! Everything is computed on the host in f64. The last cumulative product of the schedule is 2.4e-9, so turning
//! predicted noise into a clean latent at t = 999 divides by 4.9e-5: in f32 that is off by 2e-3 even with the exact noise,
//! in bf16 it is meaningless. A latent is a few thousand numbers, so the cost is nothing beside the network's.
//!
//! Notation: `x0` the clean latent, `noise` standard normal, `x_t = sqrt(a_t) x0 + sqrt(1 - a_t) noise` with `a_t` the
//! cumulative product of `1 - beta` (Nichol and Dhariwal 2021; the paper's section 2.2).

use std::f64::consts::FRAC_PI_2;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the network predicts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Prediction {
    /// The noise, as in the paper.
    #[default]
    Noise,
    /// `sqrt(a_t) noise - sqrt(1 - a_t) x0`, which stays well-conditioned at every t.
    Velocity,
}

/// Which of the schedule's steps a sampler visits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spacing {
    /// 996, 992, ... 0 for 250 of 1,000: starts gently, ends clean.
    #[default]
    Leading,
    /// 999, 995, ... 3.
    Trailing,
    /// From 999 to 0 in equal parts, rounded.
    Linspace,
}

/// Variance of the fresh noise of an ancestral step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variance {
    /// That of the posterior given the clean latent.
    #[default]
    FixedSmall,
    /// Beta of the step.
    FixedLarge,
}

/// How a sampler goes from one step to the next.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sampler {
    /// Ancestral sampling (Ho et al. 2020).
    Ddpm(Variance),
    /// DDIM (Song et al. 2021): deterministic at 0, as noisy as ancestral sampling at 1.
    Ddim(f64),
}

impl Default for Sampler {
    fn default() -> Self {
        Self::Ddpm(Variance::FixedSmall)
    }
}

/// The cosine schedule over `T` steps, t from 0 to `T - 1`.
#[derive(Debug, Clone, PartialEq)]
pub struct CosineSchedule {
    betas: Vec<f64>,
    products: Vec<f64>,
}

impl CosineSchedule {
    /// `beta_t = min(1 - f((t + 1) / T) / f(t / T), 0.999)` with `f(u) = cos((u + 0.008) / 1.008 * pi / 2)^2`.
    ///
    /// # Panics
    ///
    /// If `steps` is 0.
    pub fn new(steps: u32) -> Self {
        assert!(steps > 0, "a schedule has at least one step");
        let level = |step: u32| {
            let share = f64::from(step) / f64::from(steps);
            ((share + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2)
        };
        let betas: Vec<f64> = (0..steps).map(|t| (1.0 - level(t + 1) / level(t)).min(0.999)).collect();
        let products = betas
            .iter()
            .scan(1.0, |product, beta| {
                *product *= 1.0 - beta;
                Some(*product)
            })
            .collect();
        Self { betas, products }
    }

    /// Number of steps, `T`.
    pub fn steps(&self) -> u32 {
        self.betas.len() as u32
    }

    /// Beta of each step.
    pub fn betas(&self) -> &[f64] {
        &self.betas
    }

    /// Cumulative products of `1 - beta`: the share of the signal's variance that is left.
    pub fn products(&self) -> &[f64] {
        &self.products
    }

    /// The cumulative product at `t`, 1 at the clean end (`None`).
    fn product(&self, t: Option<u32>) -> f64 {
        t.map_or(1.0, |t| self.products[t as usize])
    }

    /// `(sqrt(a_t), sqrt(1 - a_t))`: the scales of signal and noise at `t`.
    pub fn scales(&self, t: u32) -> (f64, f64) {
        let product = self.products[t as usize];
        (product.sqrt(), (1.0 - product).sqrt())
    }

    /// Signal-to-noise ratio `a_t / (1 - a_t)`.
    pub fn signal_to_noise(&self, t: u32) -> f64 {
        let product = self.products[t as usize];
        product / (1.0 - product)
    }

    /// `x_t` of a clean latent and noise.
    pub fn add_noise(&self, clean: &[f32], noise: &[f32], t: u32) -> Vec<f32> {
        let (signal, disturbance) = self.scales(t);
        let mix = |(&x0, &e): (&f32, &f32)| (signal * f64::from(x0) + disturbance * f64::from(e)) as f32;
        clean.iter().zip(noise).map(mix).collect()
    }

    /// The velocity `sqrt(a_t) noise - sqrt(1 - a_t) x0`.
    pub fn velocity(&self, clean: &[f32], noise: &[f32], t: u32) -> Vec<f32> {
        let (signal, disturbance) = self.scales(t);
        let turn = |(&x0, &e): (&f32, &f32)| (signal * f64::from(e) - disturbance * f64::from(x0)) as f32;
        clean.iter().zip(noise).map(turn).collect()
    }

    /// `(x0, noise)` that a prediction stands for at the point `x` of step `t`.
    fn resolve(&self, x: f64, predicted: f64, t: u32, prediction: Prediction) -> (f64, f64) {
        let (signal, disturbance) = self.scales(t);
        match prediction {
            Prediction::Noise => ((x - disturbance * predicted) / signal, predicted),
            Prediction::Velocity => {
                (signal * x - disturbance * predicted, disturbance * x + signal * predicted)
            }
        }
    }

    /// `count` steps from noisy to clean. Without repeats `count` is at most `T`.
    ///
    /// # Errors
    ///
    /// If `count` is 0 or more than the schedule has steps.
    pub fn list(&self, count: u32, spacing: Spacing) -> Result<Vec<u32>, DiffusionError> {
        let steps = self.steps();
        if count == 0 || count > steps {
            return Err(DiffusionError::Steps { found: count, steps });
        }
        let (total, parts) = (f64::from(steps), f64::from(count));
        Ok(match spacing {
            Spacing::Leading => (0..count).rev().map(|index| index * (steps / count)).collect(),
            Spacing::Trailing => (0..count)
                .map(|index| (total - f64::from(index) * total / parts).round_ties_even() as u32 - 1)
                .collect(),
            // One step alone is the noisiest.
            Spacing::Linspace if count == 1 => vec![steps - 1],
            Spacing::Linspace => (0..count)
                .rev()
                .map(|index| (f64::from(index) * (total - 1.0) / (parts - 1.0)).round_ties_even() as u32)
                .collect(),
        })
    }

    /// One step from `t` to `previous` (`None`: the clean end), in f64. `fresh` is standard normal noise, one value
    /// for each of `x`; it is not used by a step to the clean end nor by a deterministic one.
    ///
    /// # Panics
    ///
    /// If `previous` is not before `t`, or the slices differ in length.
    pub fn step(&self, step: &Step, x: &[f64], predicted: &[f64], fresh: &[f64]) -> Vec<f64> {
        assert!(step.previous.is_none_or(|previous| previous < step.t), "steps go from noisy to clean");
        assert!(x.len() == predicted.len() && x.len() == fresh.len(), "a step needs one value of each kind");
        let rule = self.rule(step);
        let values = x.iter().zip(predicted).zip(fresh);
        values
            .map(|((&x, &predicted), &fresh)| {
                let (clean, noise) = self.resolve(x, predicted, step.t, step.prediction);
                rule.clean * clean + rule.noise * noise + rule.x * x + rule.fresh * fresh
            })
            .collect()
    }

    /// The factors of a step, the same for every value.
    fn rule(&self, step: &Step) -> Rule {
        let (now, next) = (self.product(Some(step.t)), self.product(step.previous));
        let alpha = now / next;
        let beta = 1.0 - alpha;
        let posterior = (1.0 - next) / (1.0 - now) * beta;
        let drawn = if step.previous.is_some() { 1.0 } else { 0.0 };
        match step.sampler {
            Sampler::Ddpm(variance) => Rule {
                clean: next.sqrt() * beta / (1.0 - now),
                noise: 0.0,
                x: alpha.sqrt() * (1.0 - next) / (1.0 - now),
                fresh: drawn
                    * match variance {
                        Variance::FixedSmall => posterior.max(1e-20),
                        Variance::FixedLarge => beta,
                    }
                    .sqrt(),
            },
            Sampler::Ddim(eta) => {
                let deviation = drawn * eta * posterior.sqrt();
                Rule {
                    clean: next.sqrt(),
                    noise: (1.0 - next - deviation * deviation).max(0.0).sqrt(),
                    x: 0.0,
                    fresh: deviation,
                }
            }
        }
    }
}

/// The settings of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Where it starts.
    pub t: u32,
    /// Where it ends; `None` is the clean end.
    pub previous: Option<u32>,
    /// The kind of the network's prediction.
    pub prediction: Prediction,
    /// How to step.
    pub sampler: Sampler,
}

/// `clean x0 + noise e + x x + fresh z`.
struct Rule {
    clean: f64,
    noise: f64,
    x: f64,
    fresh: f64,
}

/// Classifier-free guidance: `without + weight * (with - without)`. Linear, so it may be applied to noise and velocity alike.
pub fn guide(with: &[f64], without: &[f64], weight: f64) -> Vec<f64> {
    with.iter().zip(without).map(|(&with, &without)| without + weight * (with - without)).collect()
}

/// Why a list of steps can't be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiffusionError {
    /// The schedule doesn't have that many steps.
    #[error("{found} sampling steps of a schedule of {steps}\nhint: choose between 1 and {steps} steps")]
    Steps {
        /// Steps asked for.
        found: u32,
        /// Steps of the schedule.
        steps: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{Golden, assert_close, json};

    fn golden() -> (Golden, CosineSchedule) {
        (Golden::open("ddpm_cosine.safetensors"), CosineSchedule::new(1000))
    }

    #[test]
    fn the_schedule_is_the_papers() {
        let (golden, schedule) = golden();
        // Both are computed in f64; what is left is the order of a few operations.
        assert_close(schedule.betas(), &golden.f64s("betas"), 1e-14, "betas");
        assert_close(schedule.products(), &golden.f64s("alphas_cumprod"), 1e-14, "cumulative products");
        assert_eq!(schedule.betas().iter().filter(|&&beta| beta >= 0.999).count(), 1);
    }

    #[test]
    fn noising_equals_the_reference() {
        let (golden, schedule) = golden();
        let (clean, noise) = (golden.f32s("q.x0"), golden.f32s("q.noise"));
        let (exact, size) = (golden.f64s("q.xt_f64"), 8 * 4 * 4);
        for (index, t) in golden.integers("q.t").into_iter().enumerate() {
            let image = index * size..(index + 1) * size;
            let noisy = schedule.add_noise(&clean[image.clone()], &noise[image.clone()], t as u32);
            let noisy: Vec<f64> = noisy.into_iter().map(f64::from).collect();
            assert_close(&noisy, &exact[image], 1e-6, &format!("noising at t = {t}"));
        }
    }

    #[test]
    fn lists_of_steps_equal_the_reference() {
        let (golden, schedule) = golden();
        for (name, spacing) in
            [("leading", Spacing::Leading), ("trailing", Spacing::Trailing), ("linspace", Spacing::Linspace)]
        {
            let list: Vec<i64> = schedule.list(250, spacing).unwrap().into_iter().map(i64::from).collect();
            assert_eq!(list, golden.integers(&format!("steps250.{name}")), "{name}");
        }
    }

    #[test]
    fn every_list_goes_strictly_down() {
        let schedule = CosineSchedule::new(1000);
        for spacing in [Spacing::Leading, Spacing::Trailing, Spacing::Linspace] {
            for count in 1..=1000 {
                let list = schedule.list(count, spacing).unwrap();
                assert_eq!(list.len(), count as usize);
                assert!(
                    list[0] < 1000 && list.windows(2).all(|pair| pair[0] > pair[1]),
                    "{spacing:?} {count}"
                );
            }
        }
        assert_eq!(schedule.list(0, Spacing::Leading), Err(DiffusionError::Steps { found: 0, steps: 1000 }));
        assert!(schedule.list(1001, Spacing::Leading).is_err());
    }

    fn ancestral(t: u32, previous: Option<u32>, variance: Variance) -> Step {
        Step { t, previous, prediction: Prediction::Noise, sampler: Sampler::Ddpm(variance) }
    }

    #[test]
    fn ancestral_steps_equal_the_reference() {
        let (golden, schedule) = golden();
        let (x, noise, fresh) = (golden.f64s("step.x"), golden.f64s("step.eps"), golden.f64s("step.z"));
        for case in json("ddpm_cosine.json")["step_cases"].as_array().unwrap() {
            let key = case["key"].as_str().unwrap();
            let t = case["t"].as_u64().unwrap() as u32;
            let previous = u32::try_from(case["prev"].as_i64().unwrap()).ok();
            let small = case["variance_type"] == "fixed_small";
            let step =
                ancestral(t, previous, if small { Variance::FixedSmall } else { Variance::FixedLarge });
            // Everything is in f64, so the reference's own tolerance for f32 is far away.
            let tolerance = 1e-10 * case["largest_value"].as_f64().unwrap();
            let next = schedule.step(&step, &x, &noise, &fresh);
            assert_close(&next, &golden.f64s(&format!("{key}.prev")), tolerance, key);
            if small {
                let mean = schedule.step(&step, &x, &noise, &vec![0.0; x.len()]);
                assert_close(&mean, &golden.f64s(&format!("{key}.mean")), tolerance, key);
            }
        }
    }

    #[test]
    fn guidance_equals_the_reference() {
        let (golden, _) = golden();
        let (with, without) = (golden.f64s("cfg.cond"), golden.f64s("cfg.uncond"));
        for weight in [1.0, 3.0, 5.0] {
            let expected = golden.f64s(&format!("cfg.{weight}"));
            assert_close(&guide(&with, &without, weight), &expected, 2e-6, "guidance");
        }
    }

    /// A network that knows the target: its prediction is exact at every step.
    fn walk(sampler: Sampler, prediction: Prediction) -> Vec<f64> {
        let (golden, schedule) = golden();
        let target = golden.f64s("loop.target");
        let steps = schedule.list(250, Spacing::Leading).unwrap();
        let mut x = golden.f64s("loop.x_start");
        let mut seen = Vec::new();
        for (index, &t) in steps.iter().enumerate() {
            let (signal, disturbance) = schedule.scales(t);
            let noise = |(x, target): (&f64, &f64)| (x - signal * target) / disturbance;
            let predicted: Vec<f64> = match prediction {
                Prediction::Noise => x.iter().zip(&target).map(noise).collect(),
                Prediction::Velocity => {
                    let turn = |pair: (&f64, &f64)| signal * noise(pair) - disturbance * pair.1;
                    x.iter().zip(&target).map(turn).collect()
                }
            };
            let step = Step { t, previous: steps.get(index + 1).copied(), prediction, sampler };
            x = schedule.step(&step, &x, &predicted, &vec![0.0; x.len()]);
            seen.push(x.iter().map(|value| value * value).sum::<f64>() / x.len() as f64);
        }
        assert_close(&x, &target, 1e-4, "end of the walk");
        seen
    }

    #[test]
    fn a_walk_with_an_exact_network_ends_at_the_target() {
        let seen = walk(Sampler::default(), Prediction::Noise);
        for point in json("ddpm_cosine.json")["loop_trace"].as_array().unwrap() {
            let (index, expected) =
                (point["index"].as_u64().unwrap() as usize, point["mean_square"].as_f64().unwrap());
            assert!((seen[index] - expected).abs() <= 1e-6 * expected, "{index}: {} {expected}", seen[index]);
        }
        walk(Sampler::default(), Prediction::Velocity);
        walk(Sampler::Ddim(0.0), Prediction::Noise);
        walk(Sampler::Ddim(0.0), Prediction::Velocity);
    }

    /// Lists that end above t = 0 reach the clean end from there.
    #[test]
    fn no_noise_is_added_to_the_clean_end() {
        let (golden, schedule) = golden();
        let (x, noise, fresh) = (golden.f64s("step.x"), golden.f64s("step.eps"), golden.f64s("step.z"));
        for t in [0, 3] {
            for variance in [Variance::FixedSmall, Variance::FixedLarge] {
                let step = ancestral(t, None, variance);
                let clean: Vec<f64> = x
                    .iter()
                    .zip(&noise)
                    .map(|(&x, &noise)| schedule.resolve(x, noise, t, Prediction::Noise).0)
                    .collect();
                assert_close(&schedule.step(&step, &x, &noise, &fresh), &clean, 1e-12, "clean end");
            }
        }
    }

    /// With all its noise DDIM is ancestral sampling (Song et al. 2021, section 4.1).
    #[test]
    fn ddim_at_one_is_ancestral_sampling() {
        let (golden, schedule) = golden();
        let (x, noise, fresh) = (golden.f64s("step.x"), golden.f64s("step.eps"), golden.f64s("step.z"));
        for (t, previous) in [(996, Some(992)), (500, Some(496)), (4, Some(0)), (0, None)] {
            let ddpm = ancestral(t, previous, Variance::FixedSmall);
            let ddim = Step { sampler: Sampler::Ddim(1.0), ..ddpm };
            let expected = schedule.step(&ddpm, &x, &noise, &fresh);
            let scale = expected.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
            assert_close(&schedule.step(&ddim, &x, &noise, &fresh), &expected, 1e-10 * scale, "step");
        }
    }

    #[test]
    fn velocity_and_noise_are_the_same_prediction() {
        let (golden, schedule) = golden();
        let (clean, noise) = (golden.f32s("q.x0"), golden.f32s("q.noise"));
        for t in [0, 300, 999] {
            let x = schedule.add_noise(&clean, &noise, t);
            let velocity = schedule.velocity(&clean, &noise, t);
            for index in 0..clean.len() {
                let (x0, e) = schedule.resolve(
                    f64::from(x[index]),
                    f64::from(velocity[index]),
                    t,
                    Prediction::Velocity,
                );
                // Three values rounded to f32.
                assert!(
                    (x0 - f64::from(clean[index])).abs() < 1e-6 && (e - f64::from(noise[index])).abs() < 1e-6
                );
            }
        }
    }
}
