//! What the network is given for a few rows, on the host.

use std::{ops::Range, sync::Arc};

use burn::tensor::{Device, Tensor, TensorData};
use schemas::Order;

use crate::{
    kernels::{Segment, Target},
    model::PatchInput,
};

/// A few rows, ready for the network. Places are positions of all rows one behind another, padding left out.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Token at each place; at patches some valid id that is not looked at.
    pub ids: Arc<[u32]>,
    /// Rotary position of each place.
    pub positions: Vec<u32>,
    /// Which places see each other.
    pub segments: Arc<[Segment]>,
    /// Which place must predict which token.
    pub targets: Arc<[Target]>,
    /// Places of all patches, in order.
    pub patch_places: Arc<[u32]>,
    /// The patches at these places: noisy, or clean at t = 0 where an image is context only.
    pub patches: PatchInput,
    /// Places of the patches that are learned from, in order.
    pub learned_places: Arc<[u32]>,
    /// What the network should predict at `learned_places`, `numbers` values each.
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

impl Batch {
    /// Number of places.
    pub fn places(&self) -> usize {
        self.ids.len()
    }

    /// The goals as a tensor: learned patches x numbers.
    pub(crate) fn goal(&self, device: &Device) -> Tensor<2> {
        let shape = [self.learned_places.len(), self.numbers];
        Tensor::from_data(TensorData::new(self.goals.clone(), shape), device)
    }
}
