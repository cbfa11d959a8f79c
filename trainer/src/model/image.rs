//! The linear image ends: patches in with their timestep, predictions out.
//!
//! The timestep's embedding (sinusoids, linear, SiLU, linear) is added to every patch before the linear layer (paper, footnote
//! 6). It may be wider than a patch; the patch is then padded with zeros.
//!
//! Axes: p patches, i images, e width of the timestep's embedding, d width of the transformer, n numbers of a patch.

use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData, activation::silu},
};

use super::{
    ImagePlan, PatchInput,
    layers::{Affine, Initial},
};
use crate::kernels::gather_rows;

/// One linear layer each way.
#[derive(Module, Debug)]
pub struct ImageEnds {
    /// Of the timestep.
    pub time: TimeEmbedding,
    /// Patch and timestep to the transformer.
    pub input: Affine,
    /// Transformer to the prediction; starts at zero.
    pub output: Affine,
    #[module(skip)]
    plan: ImagePlan,
}

impl ImageEnds {
    pub(super) fn new(plan: &ImagePlan, width: usize, initial: &Initial<'_>) -> Self {
        Self {
            time: TimeEmbedding::new(plan, initial),
            input: initial.affine("image.input", [width, plan.time_width], 1.0),
            output: initial.affine("image.output", [plan.numbers(), width], 0.0),
            plan: *plan,
        }
    }

    /// The vectors that stand for patches in the sequence.
    pub fn encode(&self, patches: &PatchInput) -> Tensor<2> {
        let device = self.input.weight.val().device();
        let padded_pe = self.padded(&patches.values, &device);
        let time_ie = self.time.forward(&patches.times, &device);
        self.input.forward(padded_pe + gather_rows(time_ie, &patches.image_of_patch))
    }

    /// Predictions for the numbers of each patch.
    pub fn decode(&self, hidden_pd: Tensor<2>) -> Tensor<2> {
        self.output.forward(hidden_pd)
    }

    fn padded(&self, values: &[f32], device: &Device) -> Tensor<2> {
        let (numbers, width) = (self.plan.numbers(), self.plan.time_width);
        let mut padded = vec![0.0; values.len() / numbers * width];
        for (wide, narrow) in padded.chunks_exact_mut(width).zip(values.chunks_exact(numbers)) {
            wide[..numbers].copy_from_slice(narrow);
        }
        Tensor::from_data(TensorData::new(padded, [values.len() / numbers, width]), device)
    }
}

/// Sinusoids, linear, SiLU, linear.
#[derive(Module, Debug)]
pub struct TimeEmbedding {
    /// Sinusoids to embedding.
    pub linear_1: Affine,
    /// Embedding to embedding.
    pub linear_2: Affine,
    #[module(skip)]
    sinusoids: usize,
}

impl TimeEmbedding {
    fn new(plan: &ImagePlan, initial: &Initial<'_>) -> Self {
        let width = plan.time_width;
        Self {
            linear_1: initial.affine("image.time.linear_1", [width, plan.sinusoids], 1.0),
            linear_2: initial.affine("image.time.linear_2", [width, width], 1.0),
            sinusoids: plan.sinusoids,
        }
    }

    /// One row for each timestep.
    pub fn forward(&self, times: &[u32], device: &Device) -> Tensor<2> {
        let values = times.iter().flat_map(|&t| sinusoids(t, self.sinusoids)).map(|value| value as f32);
        let shape = [times.len(), self.sinusoids];
        let waves_is = Tensor::from_data(TensorData::new(values.collect::<Vec<_>>(), shape), device);
        self.linear_2.forward(silu(self.linear_1.forward(waves_is)))
    }
}

/// `count / 2` cosines, then as many sines, of `t * 10000^(-2 i / count)`; in f64, because in f32 the angles of large t
/// are off by 2e-4.
pub fn sinusoids(t: u32, count: usize) -> impl Iterator<Item = f64> {
    let half = count / 2;
    let angle = move |index: usize| f64::from(t) * 10_000_f64.powf(-(index as f64) / half as f64);
    (0..half).map(move |index| angle(index).cos()).chain((0..half).map(move |index| angle(index).sin()))
}
