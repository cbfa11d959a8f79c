//! The network: a Llama decoder over text tokens and image patches in one sequence.
//!
//! Main type: [`Transfusion`]. Field names follow Hugging Face's Llama, so that the path of a parameter in the module is its name
//! in a checkpoint: `model.layers.0.self_attn.q_proj.weight`. The parts that Llama doesn't have stand under `image`.
//! Matrices are stored (out, in), as PyTorch stores them.
//!
//! It knows the kernels, and knows nothing about losses, data files or sampling.
//!
//! Positions of all rows lie one behind another, padding left out: tensors are `[n, width]`, and
//! [`Segment`]s say which positions see each other. The cost of that choice: every operation across positions must
//! know segments; what it buys: no mask of n x n, no work at padding, rows of any length side by side.
//!
//! Axes: n positions, d width, p patches, i images, k targets, h heads.

mod config;
mod decoder;
mod image;
mod layers;
mod parameters;
mod presets;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};

pub use config::{
    DataShape, ImageConfig, ImageEnd, ImagePlan, ImageShape, InitialConfig, ModelConfig, ModelError,
    ModelPlan,
};
pub use decoder::{Decoder, DecoderLayer, FeedForward, SelfAttention};
pub use image::{ImageEnds, TimeEmbedding, sinusoids};
pub use layers::{Affine, Gain, Matrix};
pub use parameters::Parameters;
pub use presets::{PRESETS, presets};

use crate::kernels::{Rotary, Segment, gather_rows, linear, scatter_rows};
use layers::Initial;

/// The whole model.
#[derive(Module, Debug)]
pub struct Transfusion {
    /// Embedding, layers and last norm.
    pub model: Decoder,
    /// The output matrix: one row for each text id, BOI and EOI.
    pub lm_head: Matrix,
    /// Patches in and out; `None` for a model of text alone.
    pub image: Option<ImageEnds>,
    #[module(skip)]
    plan: ModelPlan,
}

/// The network's inputs: positions of some rows one behind another, padding left out. A *place* is an index into them.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// Token at each place; at patches some valid id that is not read.
    pub ids: Arc<[u32]>,
    /// Rotary position of each place.
    pub positions: Vec<u32>,
    /// Which places see each other.
    pub segments: Arc<[Segment]>,
    /// Places of all patches, in order.
    pub patch_places: Arc<[u32]>,
    /// The patches at these places.
    pub patches: PatchInput,
}

/// Patches as they enter the network.
#[derive(Debug, Clone)]
pub struct PatchInput {
    /// The numbers of all patches, one patch after another.
    pub values: Vec<f32>,
    /// Timestep of each image.
    pub times: Vec<u32>,
    /// For each patch, its image: an index into `times`.
    pub image_of_patch: Arc<[u32]>,
}

impl Transfusion {
    /// A fresh model. Weights depend on `plan` and `seed` alone.
    pub fn new(plan: &ModelPlan, seed: u64, device: &Device) -> Self {
        Self::build(plan, &Initial::new(seed, device))
    }

    fn build(plan: &ModelPlan, initial: &Initial<'_>) -> Self {
        let rows = plan.vocabulary().embedding_rows() as usize;
        Self {
            model: Decoder::new(plan, initial),
            lm_head: initial.matrix("lm_head", [rows, plan.width()], plan.initial().head),
            image: plan.image().map(|image| ImageEnds::new(image, plan.width(), initial)),
            plan: plan.clone(),
        }
    }

    /// The plan that it was built from.
    pub fn plan(&self) -> &ModelPlan {
        &self.plan
    }

    /// Cosines and sines for rotary positions, one a place.
    pub fn rotary(&self, positions: &[u32]) -> Rotary {
        Rotary::new(positions, self.plan.head_dim(), self.plan.rope_theta())
    }

    /// The vectors that enter the first layer: embeddings of the tokens, and patches at their places.
    pub fn embed(&self, inputs: &Inputs) -> Tensor<2> {
        let text_nd = gather_rows(self.model.embed_tokens.weight.val(), &inputs.ids);
        match &self.image {
            Some(image) if !inputs.patch_places.is_empty() => {
                scatter_rows(text_nd, &inputs.patch_places, image.encode(&inputs.patches))
            }
            _ => text_nd,
        }
    }

    /// The hidden states behind the last norm, from the vectors that enter the first layer. Each segment sees itself alone.
    pub fn hidden(&self, input_nd: Tensor<2>, inputs: &Inputs) -> Tensor<2> {
        let rotary = self.rotary(&inputs.positions);
        self.model.forward(input_nd, &rotary, &inputs.segments, |_, k_nhd, v_nhd| (k_nhd, v_nhd))
    }

    /// The scores of every id at each of the given hidden states. Training never calls it: see
    /// [`crate::kernels::cross_entropy`].
    pub fn logits(&self, hidden_nd: Tensor<2>) -> Tensor<2> {
        linear(hidden_nd, self.lm_head.weight.val())
    }

    /// Predictions for patches from their hidden states.
    ///
    /// # Panics
    ///
    /// If the model has no image ends.
    pub fn decode(&self, hidden_pd: Tensor<2>) -> Tensor<2> {
        self.image.as_ref().expect("patches are prepared for a model with image ends").decode(hidden_pd)
    }
}
