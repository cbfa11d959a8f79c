//! Some rows of a global batch, ready for the network, and what its outputs are judged by.

use std::{ops::Range, sync::Arc};

use burn::tensor::{Tensor, TensorData};
use schemas::Order;

use super::Losses;
use crate::{
    kernels::{Target, cross_entropy, gather_rows, image_losses},
    model::{Inputs, Transfusion},
};

/// Rows that pass the network together. Places are those of [`Inputs`].
#[derive(Debug, Clone)]
pub struct MicroBatch {
    /// The network's inputs. Patches are noisy, or clean at t = 0 where an image is context only.
    pub inputs: Inputs,
    /// Which place must predict which token.
    pub targets: Arc<[Target]>,
    /// Places of the patches that are learned from, in order.
    pub learned_places: Arc<[u32]>,
    /// The right predictions at `learned_places`, `numbers` values each.
    pub goals: Vec<f32>,
    /// Numbers of one patch; 1 for a model of text alone.
    pub numbers: usize,
    /// For each learned image, its patches among `learned_places`.
    pub image_ranges: Arc<[Range<usize>]>,
    /// The learned images, in order.
    pub images: Vec<LearnedImage>,
}

/// An image with a diffusion loss, as metrics want to know it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearnedImage {
    /// Row of the global batch.
    pub row: u64,
    /// Index of the image in its row.
    pub image: u32,
    /// Which part of its pair stands first.
    pub order: Order,
    /// Its timestep.
    pub t: u32,
    /// How much it counts.
    pub weight: f32,
    /// Whether its caption was hidden from it.
    pub dropped: bool,
}

impl MicroBatch {
    /// The forward pass: one loss a target and one an image.
    pub fn losses(&self, model: &Transfusion) -> Losses {
        if self.targets.is_empty() && self.images.is_empty() {
            return Losses { text_k: None, image_i: None, weights: Vec::new() };
        }
        let hidden_nd = model.hidden(model.embed(&self.inputs), &self.inputs);
        let text_k = (!self.targets.is_empty())
            .then(|| cross_entropy(hidden_nd.clone(), model.lm_head.weight.val(), &self.targets));
        let image_i = (!self.images.is_empty()).then(|| {
            let goals = TensorData::new(self.goals.clone(), [self.learned_places.len(), self.numbers]);
            let goal_pn = Tensor::from_data(goals, &hidden_nd.device());
            let predicted_pn = model.decode(gather_rows(hidden_nd, &self.learned_places));
            image_losses(predicted_pn, goal_pn, &self.image_ranges)
        });
        Losses { text_k, image_i, weights: self.images.iter().map(|image| image.weight).collect() }
    }
}
