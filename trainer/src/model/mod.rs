//! The network: a Llama decoder over text tokens and image patches in one sequence.
//!
//! Main type: [`Transfusion`]. Field names follow Hugging Face's Llama, so that the path of a parameter in the module is its name
//! in a checkpoint: `model.layers.0.self_attn.q_proj.weight`. The parts that Llama doesn't have stand under `image`.
//! Matrices are stored (out, in), as PyTorch stores them.
//!
//! Positions of all rows of a batch lie one behind another, padding left out: tensors are `[n, width]`, and
//! [`Segment`]s say which positions see each other. The cost of that choice: every operation that looks across positions must
//! know segments; what it buys: no mask of n x n, no work at padding, rows of any length in one batch.
//!
//! Axes: n positions, d width, p patches, i images, k targets, h heads.

mod config;
mod decoder;
mod image;
mod layers;
mod presets;
#[cfg(test)]
mod tests;
mod work;

use std::sync::Arc;

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};

pub use config::{
    DataShape, ImageConfig, ImageEnd, ImagePlan, ImageShape, InitialConfig, ModelConfig, ModelError,
    ModelPlan, Parameters,
};
pub use decoder::{Decoder, DecoderLayer, FeedForward, SelfAttention};
pub use image::{ImageEnds, TimeEmbedding, sinusoids};
pub use layers::{Affine, Gain, Matrix};
pub use presets::{PRESETS, presets};

use crate::{
    kernels::{Rotary, Segment, cross_entropy, gather_rows, image_losses, linear, scatter_rows},
    objective::{Batch, Losses},
};
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
        let initial = Initial::new(seed, device);
        let rows = plan.vocabulary().embedding_rows() as usize;
        Self {
            model: Decoder::new(plan, &initial),
            lm_head: initial.matrix("lm_head", [rows, plan.width()], plan.initial().head),
            image: plan.image().map(|image| ImageEnds::new(image, plan.width(), &initial)),
            plan: plan.clone(),
        }
    }

    /// What it was built from.
    pub fn plan(&self) -> &ModelPlan {
        &self.plan
    }

    /// Cosines and sines for rotary positions, one a place.
    pub fn rotary(&self, positions: &[u32]) -> Rotary {
        Rotary::new(positions, self.plan.head_dim(), self.plan.rope_theta())
    }

    /// The vectors that enter the first layer: embeddings of `ids`, with the places `patch_places` taken by patches.
    pub fn embed(&self, ids: &Arc<[u32]>, patch_places: &Arc<[u32]>, patches: &PatchInput) -> Tensor<2> {
        let text_nd = gather_rows(self.model.embed_tokens.weight.val(), ids);
        match &self.image {
            Some(image) if !patch_places.is_empty() => {
                scatter_rows(text_nd, patch_places, image.encode(patches))
            }
            _ => text_nd,
        }
    }

    /// The hidden states behind the last norm, where each segment sees itself alone.
    pub fn hidden(&self, input_nd: Tensor<2>, positions: &[u32], segments: &Arc<[Segment]>) -> Tensor<2> {
        self.model.forward(input_nd, &self.rotary(positions), segments, |_, k_nhd, v_nhd| (k_nhd, v_nhd))
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
        self.image
            .as_ref()
            .expect("a batch with patches is prepared for a model with image ends")
            .decode(hidden_pd)
    }

    /// Losses of a prepared batch, one number a target and one an image.
    pub fn losses(&self, batch: &Batch) -> Losses {
        if batch.targets.is_empty() && batch.images.is_empty() {
            return Losses { text_k: None, image_i: None, weights: Vec::new() };
        }
        let input_nd = self.embed(&batch.ids, &batch.patch_places, &batch.patches);
        let hidden_nd = self.hidden(input_nd, &batch.positions, &batch.segments);
        let device = hidden_nd.device();
        let text_k = (!batch.targets.is_empty())
            .then(|| cross_entropy(hidden_nd.clone(), self.lm_head.weight.val(), &batch.targets));
        let image_i = (!batch.images.is_empty()).then(|| {
            let predicted_pn = self.decode(gather_rows(hidden_nd, &batch.learned_places));
            image_losses(predicted_pn, batch.goal(&device), &batch.image_ranges)
        });
        let weights = batch.images.iter().map(|image| image.weight).collect();
        Losses { text_k, image_i, weights }
    }
}
