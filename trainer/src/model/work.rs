//! How much arithmetic a batch is: what the reported operations a second count.
//!
//! Counted are the multiplications of matrix products and of attention. A lookup in the embedding is none; the output
//! matrix works at text targets alone, the image ends at patches alone; a query's attention works on the keys that it
//! sees. A training step is three times the forward pass (the backward pass has two products for each of its), and a
//! multiplication with its addition is two operations. What else a step does (norms, softmax, the optimizer) is small
//! beside these and left out, so the number is comparable between programs.

use super::ModelPlan;
use crate::objective::Batch;

/// Products for each of a forward pass: one forward, two backward.
const PASSES: u64 = 3;
/// A multiplication and an addition.
const OPERATIONS: u64 = 2;

impl ModelPlan {
    /// Operations of a training step's forward and backward passes over `batch`.
    pub fn operations(&self, batch: &Batch) -> u64 {
        OPERATIONS * PASSES * self.multiplications(batch)
    }

    /// Multiplications of a forward pass.
    fn multiplications(&self, batch: &Batch) -> u64 {
        let (width, feed_forward) = (self.width() as u64, self.feed_forward() as u64);
        let places = batch.places() as u64;
        let matrices = places * (4 * width * width + 3 * width * feed_forward);
        // Scores and the weighted sum of values, each a product of a head's width for every pair and head.
        let attention = 2 * width * visible_pairs(batch);
        let rows = u64::from(self.vocabulary().embedding_rows());
        let head = batch.targets.len() as u64 * rows * width;
        self.layers() as u64 * (matrices + attention) + head + self.image_multiplications(batch)
    }

    fn image_multiplications(&self, batch: &Batch) -> u64 {
        let Some(image) = self.image() else { return 0 };
        let (width, numbers, time) = (self.width() as u64, image.numbers() as u64, image.time_width as u64);
        let times = batch.patches.times.len() as u64 * (image.sinusoids as u64 * time + time * time);
        let input = batch.patch_places.len() as u64 * time * width;
        let output = batch.learned_places.len() as u64 * width * numbers;
        times + input + output
    }
}

/// Pairs of a query and a key that it sees.
fn visible_pairs(batch: &Batch) -> u64 {
    let of = |segment: &crate::kernels::Segment| -> u64 {
        (0..segment.queries.len()).map(|query| segment.visible(query) as u64).sum()
    };
    batch.segments.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kernels::{Segment, Target};
    use crate::model::{DataShape, ImageShape, ModelConfig, PatchInput};

    /// Five positions of text, then one with a picture of two patches: 2 BOI, 3 and 4 patches.
    fn batch() -> Batch {
        let segments =
            [Segment::causal(0..2), Segment { queries: 2..7, keys: 2..7, images: vec![1..3, 3..5] }];
        let target = |row| Target { row, id: 1 };
        Batch {
            ids: vec![0; 7].into(),
            positions: vec![0; 7],
            segments: Arc::from(segments),
            targets: vec![target(0), target(1), target(2)].into(),
            patch_places: vec![3, 4, 5, 6].into(),
            patches: PatchInput {
                values: Vec::new(),
                times: vec![9, 0],
                image_of_patch: vec![0, 0, 1, 1].into(),
            },
            learned_places: vec![3, 4].into(),
            goals: Vec::new(),
            numbers: 16,
            image_ranges: std::iter::once(0..2).collect(),
            images: Vec::new(),
        }
    }

    #[test]
    fn products_and_visible_pairs_are_counted_and_lookups_are_not() {
        let text = "layers = 3\nwidth = 8\nheads = 2\nfeed-forward = 20\nimage = { sinusoids = 4 }";
        let config: ModelConfig = toml::from_str(text).unwrap();
        let image = Some(ImageShape { channels: 4, patch: 2 });
        let plan = config.plan(&DataShape { vocabulary: 30, image }).unwrap();
        // Causal: 1 + 2. Behind BOI: 1, the first picture's two see 3 each, the second's 5 each.
        assert_eq!(visible_pairs(&batch()), 3 + 1 + 6 + 10);
        let layer = 7 * (4 * 64 + 3 * 8 * 20) + 2 * 8 * 20;
        let head = 3 * 32 * 8;
        let image = 2 * (4 * 16 + 16 * 16) + 4 * 16 * 8 + 2 * 8 * 16;
        assert_eq!(plan.operations(&batch()), 6 * (3 * layer + head + image));
        // A larger vocabulary costs at targets alone.
        let larger = config.plan(&DataShape { vocabulary: 130, image: plan_shape(&plan) }).unwrap();
        assert_eq!(larger.operations(&batch()) - plan.operations(&batch()), 6 * 3 * 100 * 8);
    }

    fn plan_shape(plan: &ModelPlan) -> Option<ImageShape> {
        plan.image().map(|image| ImageShape { channels: image.channels, patch: image.patch })
    }
}
