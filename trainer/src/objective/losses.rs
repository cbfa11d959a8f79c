//! Losses as (sum, count), divided once, by the counts of the global batch.

use std::{iter::Sum, ops::Add};

use burn::tensor::{Tensor, TensorData};
use schemas::{Modality, Row, Vocabulary};

/// The divisors of the loss's terms, and the positions that a step has worked on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Positions with a next-token loss.
    pub text_targets: u64,
    /// Images with a diffusion loss.
    pub images: u64,
    /// Positions of text, markers included.
    pub text_positions: u64,
    /// Positions of patches.
    pub patch_positions: u64,
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            text_targets: self.text_targets + other.text_targets,
            images: self.images + other.images,
            text_positions: self.text_positions + other.text_positions,
            patch_positions: self.patch_positions + other.patch_positions,
        }
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::default(), Add::add)
    }
}

/// The counts of stored rows. Caption dropout changes none of them.
pub fn counts(rows: &[Row], vocabulary: Vocabulary) -> Counts {
    let one = |row: &Row| Counts {
        text_targets: row.text_targets(vocabulary).iter().flatten().count() as u64,
        images: row.spans().iter().filter(|span| span.modality == Modality::Image && span.loss).count()
            as u64,
        text_positions: u64::from(row.text_positions()),
        patch_positions: u64::from(row.patch_positions()),
    };
    rows.iter().map(one).sum()
}

/// The losses of a micro-batch, before any division.
#[derive(Debug, Clone)]
pub struct Losses {
    /// Nats of each target, in the order of [`super::MicroBatch::targets`]; `None` without targets.
    pub text_k: Option<Tensor<1>>,
    /// Mean squared error inside each learned image, in the order of [`super::MicroBatch::images`], unweighted; `None` without
    /// images.
    pub image_i: Option<Tensor<1>>,
    /// How much each learned image counts.
    pub weights: Vec<f32>,
}

impl Losses {
    /// The micro-batch's part of `L_LM + lambda L_DDPM` of the global batch that has `counts`: the parts of all micro-batches add up
    /// to the loss. A term without members is 0; `None` if both are, since there is nothing to learn then.
    pub fn total(&self, counts: &Counts, lambda: f64) -> Option<Tensor<1>> {
        let text = self.text_k.clone().map(|text_k| text_k.sum() / counts.text_targets as f64);
        let image = self.image_i.clone().map(|image_i| {
            let weights = TensorData::new(self.weights.clone(), [self.weights.len()]);
            let weight_i = Tensor::<1>::from_data(weights, &image_i.device());
            (image_i * weight_i).sum() * (lambda / counts.images as f64)
        });
        match (text, image) {
            (Some(text), Some(image)) => Some(text + image),
            (text, image) => text.or(image),
        }
    }

    /// Nats of each target.
    pub fn text_nats(&self) -> Vec<f32> {
        values(self.text_k.as_ref())
    }

    /// Mean squared error inside each learned image, unweighted.
    pub fn image_errors(&self) -> Vec<f32> {
        values(self.image_i.as_ref())
    }
}

fn values(tensor: Option<&Tensor<1>>) -> Vec<f32> {
    tensor.map_or_else(Vec::new, |tensor| {
        tensor.to_data().convert::<f32>().try_into_vec().expect("the data was converted to f32")
    })
}
