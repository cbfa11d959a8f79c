//! How much arithmetic a micro-batch is: what the reported operations a second count.
//!
//! Counted are the multiplications of matrix products and of attention. A lookup in the embedding is none; the output
//! matrix works at text targets alone, the image ends at patches alone; a query's attention works on the keys that it
//! sees. A training step is three times the forward pass (the backward pass has two products for each of its), and a
//! multiplication with its addition is two operations. What else a step does (norms, softmax, the optimizer) is small
//! beside these and left out, so the number is comparable between programs.

use std::collections::BTreeMap;

use super::MicroBatch;
use crate::kernels::Segment;
use crate::model::ModelPlan;

/// Products for each of a forward pass: one forward, two backward.
const PASSES: u64 = 3;
/// A multiplication and an addition.
const OPERATIONS: u64 = 2;

/// Where a matrix of the model is multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum At {
    Places,
    Targets,
    Images,
    Patches,
    LearnedPatches,
}

impl At {
    /// `None` for the embedding, of which rows are looked up.
    fn of(parameter: &str) -> Option<Self> {
        const MATRICES: [(&str, At); 5] = [
            ("model.layers.", At::Places),
            ("lm_head.", At::Targets),
            ("image.time.", At::Images),
            ("image.input.", At::Patches),
            ("image.output.", At::LearnedPatches),
        ];
        MATRICES.iter().find(|(prefix, _)| parameter.starts_with(prefix)).map(|(_, at)| *at)
    }

    fn count(self, micro_batch: &MicroBatch) -> usize {
        match self {
            Self::Places => micro_batch.inputs.ids.len(),
            Self::Targets => micro_batch.targets.len(),
            Self::Images => micro_batch.inputs.patches.times.len(),
            Self::Patches => micro_batch.inputs.patch_places.len(),
            Self::LearnedPatches => micro_batch.learned_places.len(),
        }
    }
}

/// The multiplications of a model, read from its parameters.
#[derive(Clone, Debug)]
pub struct Arithmetic {
    /// Numbers of the matrices, by where they work.
    matrices: BTreeMap<At, u64>,
    /// Multiplications of a pair of a query and a key in all layers: scores and the weighted sum of values.
    pair: u64,
}

impl Arithmetic {
    /// The multiplications of `model`.
    pub fn new(model: &ModelPlan) -> Self {
        let mut matrices = BTreeMap::new();
        for (name, shape) in model.shapes().iter().filter(|(_, shape)| shape.len() == 2) {
            if let Some(at) = At::of(name) {
                *matrices.entry(at).or_default() += shape.iter().product::<usize>() as u64;
            }
        }
        Self { matrices, pair: 2 * (model.layers() * model.width()) as u64 }
    }

    /// Operations of a training step's forward and backward passes.
    pub fn operations(&self, micro_batch: &MicroBatch) -> u64 {
        let products = self.matrices.iter().map(|(at, numbers)| numbers * at.count(micro_batch) as u64);
        let attention = self.pair * visible_pairs(&micro_batch.inputs.segments);
        OPERATIONS * PASSES * (products.sum::<u64>() + attention)
    }
}

/// Pairs of a query and a key that it sees.
fn visible_pairs(segments: &[Segment]) -> u64 {
    let of =
        |segment: &Segment| -> usize { (0..segment.queries.len()).map(|query| segment.visible(query)).sum() };
    segments.iter().map(of).sum::<usize>() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kernels::Target;
    use crate::model::{DataShape, ImageShape, Inputs, ModelConfig, PatchInput};

    /// Two positions of text, then a picture of two patches and one of two behind BOI.
    fn micro_batch() -> MicroBatch {
        let segments =
            [Segment::causal(0..2), Segment { queries: 2..7, keys: 2..7, images: vec![1..3, 3..5] }];
        let target = |row| Target { row, id: 1 };
        let patches =
            PatchInput { values: Vec::new(), times: vec![9, 0], image_of_patch: vec![0, 0, 1, 1].into() };
        let inputs = Inputs {
            ids: vec![0; 7].into(),
            positions: vec![0; 7],
            segments: Arc::from(segments),
            patch_places: vec![3, 4, 5, 6].into(),
            patches,
        };
        MicroBatch {
            inputs,
            targets: vec![target(0), target(1), target(2)].into(),
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
        let operations = |vocabulary| {
            let plan = config.plan(&DataShape { vocabulary, image }).unwrap();
            Arithmetic::new(&plan).operations(&micro_batch())
        };
        // Causal: 1 + 2. Behind BOI: 1, the first picture's two see 3 each, the second's 5 each.
        assert_eq!(visible_pairs(&micro_batch().inputs.segments), 3 + 1 + 6 + 10);
        let layer = 7 * (4 * 64 + 3 * 8 * 20) + 2 * 8 * 20;
        let head = 3 * 32 * 8;
        let image = 2 * (4 * 16 + 16 * 16) + 4 * 16 * 8 + 2 * 8 * 16;
        assert_eq!(operations(30), 6 * (3 * layer + head + image));
        // A larger vocabulary costs at targets alone.
        assert_eq!(operations(130) - operations(30), 6 * 3 * 100 * 8);
    }
}
