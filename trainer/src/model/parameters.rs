//! How many parameters a model has, read from the model itself: it is built without numbers, and every name and shape that it
//! asks for is kept.

use std::collections::BTreeMap;

use super::{ModelPlan, Transfusion, layers::Initial};

/// Parameters of a model by part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Layers, last norm, embedding and output matrix of the tokenizer's ids: what a Llama of this size has.
    pub transformer: u64,
    /// Rows of BOI and EOI in the embedding and the output matrix.
    pub markers: u64,
    /// The image ends.
    pub image: u64,
}

impl Parameters {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.transformer + self.markers + self.image
    }
}

impl ModelPlan {
    /// Name and shape of every parameter.
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        Initial::shapes(|initial| {
            Transfusion::build(self, initial);
        })
    }

    /// Numbers of the largest parameter.
    pub fn largest_parameter(&self) -> u64 {
        self.shapes().values().map(|shape| count(shape)).max().unwrap_or(0)
    }

    /// Number of parameters by part.
    pub fn parameters(&self) -> Parameters {
        let mut parameters = Parameters::default();
        for (name, shape) in self.shapes() {
            match name.as_str() {
                name if name.starts_with("image.") => parameters.image += count(&shape),
                "model.embed_tokens.weight" | "lm_head.weight" => {
                    let text = u64::from(self.vocabulary().size) * self.width() as u64;
                    parameters.transformer += text;
                    parameters.markers += count(&shape) - text;
                }
                _ => parameters.transformer += count(&shape),
            }
        }
        parameters
    }
}

fn count(shape: &[usize]) -> u64 {
    shape.iter().map(|&size| size as u64).product()
}
