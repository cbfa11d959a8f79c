//! The parts of an update of the weights, over flat slices: the sum of squares for the joint norm, and AdamW.

/// Values summed by one task. A constant, so that the order of summation does not depend on the number of threads.
const CHUNK: usize = 1 << 14;

/// One AdamW update (Loshchilov & Hutter, decoupled decay), as PyTorch's `torch.optim.AdamW` computes it.
#[derive(Debug, Clone, Copy)]
pub struct AdamWStep {
    /// Learning rate of this update.
    pub rate: f64,
    /// Decay of the first moment.
    pub beta_1: f64,
    /// Decay of the second moment.
    pub beta_2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Weight decay; 0 for gains and biases.
    pub decay: f64,
    /// Every gradient is multiplied by this before use: 1, or less where the joint norm is clipped.
    pub clip_scale: f32,
    /// Number of this update, from 1.
    pub update: u64,
}

/// Updates `parameter` and its two moments in place.
///
/// # Panics
/// If the slices differ in length or `update` is 0.
pub fn adamw_step(
    parameter: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    gradient: &[f32],
    step: &AdamWStep,
) {
    use rayon::prelude::*;
    assert!(
        parameter.len() == gradient.len() && first.len() == gradient.len() && second.len() == gradient.len(),
        "a parameter, its moments and its gradient have one length"
    );
    let factors = Factors::new(step);
    parameter
        .par_chunks_mut(CHUNK)
        .zip(first.par_chunks_mut(CHUNK))
        .zip(second.par_chunks_mut(CHUNK))
        .zip(gradient.par_chunks(CHUNK))
        .for_each(|(((parameter, first), second), gradient)| {
            factors.update(parameter, first, second, gradient);
        });
}

/// The sum of squares, in f64 within fixed chunks that are joined in order: the same bits at any number of threads.
pub fn sum_of_squares(values: &[f32]) -> f64 {
    use rayon::prelude::*;
    let partial: Vec<f64> = values.par_chunks(CHUNK).map(chunk_squares).collect();
    partial.iter().sum()
}

fn chunk_squares(values: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 8];
    let (blocks, rest) = values.as_chunks::<8>();
    for block in blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane += f64::from(value) * f64::from(value);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>()
}

/// A step's numbers, rounded once to the f32 that the loop works in.
struct Factors {
    keep: f32,
    beta_1: f32,
    add_1: f32,
    beta_2: f32,
    add_2: f32,
    clip: f32,
    step_size: f32,
    second_scale: f32,
    epsilon: f32,
}

impl Factors {
    fn new(step: &AdamWStep) -> Self {
        assert!(step.update > 0, "updates are counted from 1");
        let correction_1 = 1.0 - step.beta_1.powf(step.update as f64);
        let correction_2 = 1.0 - step.beta_2.powf(step.update as f64);
        Self {
            keep: (1.0 - step.rate * step.decay) as f32,
            beta_1: step.beta_1 as f32,
            add_1: (1.0 - step.beta_1) as f32,
            beta_2: step.beta_2 as f32,
            add_2: (1.0 - step.beta_2) as f32,
            clip: step.clip_scale,
            step_size: (step.rate / correction_1) as f32,
            second_scale: (1.0 / correction_2.sqrt()) as f32,
            epsilon: step.epsilon as f32,
        }
    }

    fn update(&self, parameter: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32]) {
        for (((p, m), v), &g) in parameter.iter_mut().zip(first).zip(second).zip(gradient) {
            let g = g * self.clip;
            *m = self.beta_1 * *m + self.add_1 * g;
            *v = self.beta_2 * *v + self.add_2 * g * g;
            *p = self.keep * *p - self.step_size * *m / (v.sqrt() * self.second_scale + self.epsilon);
        }
    }
}
