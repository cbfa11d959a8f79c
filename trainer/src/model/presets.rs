//! Models by name.

use super::{ImageConfig, InitialConfig, ModelConfig};

/// Names of the built-in models, smallest first.
pub const PRESETS: [&str; 7] = ["demo", "tiny", "0.16B", "0.37B", "0.76B", "1.4B", "7B"];

impl ModelConfig {
    /// The built-in model called `name`: `demo` (0.8 M parameters without its vocabulary), `tiny` (1.8 M), and the
    /// paper's table 2 with `0.16B`, `0.37B`, `0.76B`, `1.4B` and `7B`.
    pub fn preset(name: &str) -> Option<Self> {
        Some(match name {
            "demo" => Self {
                feed_forward: Some(344),
                image: ImageConfig { sinusoids: 64, time_width: Some(64), ..ImageConfig::default() },
                ..small(4, 128, 4)
            },
            "tiny" => small(4, 192, 3),
            "0.16B" => sized(16, 768, 12),
            "0.37B" => sized(24, 1024, 16),
            "0.76B" => sized(24, 1536, 24),
            "1.4B" => sized(24, 2048, 16),
            "7B" => sized(32, 4096, 32),
            _ => return None,
        })
    }
}

/// The names that [`ModelConfig::preset`] knows, smallest first.
pub fn presets() -> &'static [&'static str] {
    &PRESETS
}

/// A model for short runs.
fn small(layers: usize, width: usize, heads: usize) -> ModelConfig {
    let initial = InitialConfig { embedding: 0.5, ..InitialConfig::default() };
    ModelConfig { initial, ..sized(layers, width, heads) }
}

fn sized(layers: usize, width: usize, heads: usize) -> ModelConfig {
    ModelConfig { layers, width, heads, ..ModelConfig::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{golden::json, model::DataShape};

    /// Llama's sizes with 32,000 ids; BOI, EOI and the image ends are counted apart.
    #[test]
    fn presets_have_the_papers_parameters() {
        let sizes = json("scaling.json");
        for (name, size) in sizes["sizes"].as_object().unwrap() {
            let config = ModelConfig::preset(name).unwrap();
            let plan = config.plan(&DataShape { vocabulary: 32_000, image: None }).unwrap();
            assert_eq!(plan.parameters().transformer, size["parameters"].as_u64().unwrap(), "{name}");
            assert_eq!(plan.feed_forward() as u64, size["ffn"].as_u64().unwrap(), "{name}");
            assert_eq!(plan.head_dim() as u64, size["head_dim"].as_u64().unwrap(), "{name}");
        }
    }

    #[test]
    fn every_name_has_a_model_and_no_other() {
        assert!(presets().iter().all(|name| ModelConfig::preset(name).is_some()));
        assert_eq!(ModelConfig::preset("8B"), None);
        let tiny = ModelConfig::preset("tiny").unwrap();
        assert_eq!(ModelConfig { initial: InitialConfig::default(), ..tiny }, ModelConfig::default());
    }

    /// The large embedding at the start belongs to the models of short runs alone.
    #[test]
    fn embeddings_of_the_papers_sizes_start_small() {
        for name in presets() {
            let expected = if ["demo", "tiny"].contains(name) { 0.5 } else { 0.02 };
            assert_eq!(ModelConfig::preset(name).unwrap().initial.embedding, expected, "{name}");
        }
        assert_eq!(ModelConfig::default().initial.embedding, 0.02);
    }
}
