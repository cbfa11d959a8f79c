//! Sizes and switches of the model: what a person writes ([`ModelConfig`]) and what is built ([`ModelPlan`]).
//!
//! A person chooses layers, width and heads; the rest is derived, and any derived value can be set. What the data decides
//! (vocabulary, channels, patch size) comes from the dataset's manifest.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use schemas::{AttentionRule, Vocabulary};
use serde::{Deserialize, Serialize};

use crate::limits::{self, Outside, Reals};

/// The `[model]` table of a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Transformer layers.
    #[schemars(range(min = 1, max = 1000), extend("x-unit" = "layers"))]
    pub layers: usize,
    /// Numbers of a position between layers; a multiple of twice the heads.
    #[schemars(range(min = 1, max = 131_072), extend("x-unit" = "none"))]
    pub width: usize,
    /// Attention heads.
    #[schemars(range(min = 1, max = 4096), extend("x-unit" = "heads"))]
    pub heads: usize,
    /// Width of the feed-forward; 8/3 of `width` rounded up to 256 if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576), extend("x-unit" = "none"))]
    pub feed_forward: Option<usize>,
    /// Ids of the tokenizer, without BOI and EOI; the dataset's if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_777_216), extend("x-unit" = "ids"))]
    pub vocabulary: Option<u32>,
    /// Epsilon of every RMSNorm.
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0, "x-unit" = "none"))]
    pub norm_epsilon: f64,
    /// Base of the rotary position angles.
    #[schemars(range(min = 1.0, max = 1e12), extend("x-unit" = "none"))]
    pub rope_theta: f64,
    /// Let a document see the ones before it in its row.
    pub across_documents: bool,
    /// Causal attention inside images too: the paper's ablation.
    pub causal_images: bool,
    /// The way of images in and out.
    pub image: ImageConfig,
    /// Standard deviations at the start.
    pub initial: InitialConfig,
}

/// The `[model.image]` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ImageConfig {
    /// The networks between patches and the transformer.
    pub end: ImageEnd,
    /// Channels of a latent; the dataset's if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096), extend("x-unit" = "channels"))]
    pub channels: Option<usize>,
    /// Side of a patch in latent pixels; the dataset's if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256), extend("x-unit" = "latent pixels"))]
    pub patch: Option<usize>,
    /// Sines and cosines that stand for a timestep, both together; an even number.
    #[schemars(range(min = 2, max = 65_536), extend("x-unit" = "none"))]
    pub sinusoids: usize,
    /// Numbers of the timestep's embedding. A patch is padded with zeros to as many before the two are added. As many as a
    /// patch has if not set, which is the paper.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576), extend("x-unit" = "none"))]
    pub time_width: Option<usize>,
}

/// The networks between patches and the transformer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ImageEnd {
    /// One linear layer each way, the timestep's embedding added to each patch before the first.
    #[default]
    Linear,
}

/// The `[model.initial]` table: standard deviations of the normal distributions that weights start from.
///
/// All other matrices start at `1 / sqrt(inputs)`, `o_proj` and `down_proj` at that divided by `sqrt(2 layers)`; the last layer
/// of images and all biases start at zero.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct InitialConfig {
    /// Standard deviation of the token embedding; the built-in models `demo` and `tiny` start from 0.5, which a short run learns quicker from.
    #[schemars(range(min = 0.0, max = 1000.0), extend("x-unit" = "none"))]
    pub embedding: f64,
    /// Standard deviation of the output matrix.
    #[schemars(range(min = 0.0, max = 1000.0), extend("x-unit" = "none"))]
    pub head: f64,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            layers: 4,
            width: 192,
            heads: 3,
            feed_forward: None,
            vocabulary: None,
            norm_epsilon: 1e-5,
            rope_theta: 10_000.0,
            across_documents: false,
            causal_images: false,
            image: ImageConfig::default(),
            initial: InitialConfig::default(),
        }
    }
}

impl Default for ImageConfig {
    fn default() -> Self {
        Self { end: ImageEnd::Linear, channels: None, patch: None, sinusoids: 256, time_width: None }
    }
}

impl Default for InitialConfig {
    fn default() -> Self {
        Self { embedding: 0.02, head: 0.02 }
    }
}

/// The numbers of a model that the dataset decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataShape {
    /// Ids of the tokenizer, without BOI and EOI.
    pub vocabulary: u32,
    /// Channels and patch side; `None` for a dataset without images.
    pub image: Option<ImageShape>,
}

/// A dataset's images as the model gets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageShape {
    /// Channels of a latent.
    pub channels: usize,
    /// Side of a patch in latent pixels.
    pub patch: usize,
}

impl DataShape {
    /// Those of the dataset of `manifest`.
    pub fn of(manifest: &schemas::Manifest) -> Self {
        let image = manifest.codec.as_ref().filter(|codec| codec.channels > 0);
        Self {
            vocabulary: manifest.vocabulary.size,
            image: image.map(|codec| ImageShape {
                channels: codec.channels as usize,
                patch: manifest.patch as usize,
            }),
        }
    }
}

/// Why a model can't be built.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// A value that makes no model.
    #[error("`model.{key}` is `{found}`, expected {expected}")]
    Value {
        /// The key below `model`.
        key: &'static str,
        /// The values allowed.
        expected: String,
        /// The value found.
        found: String,
    },
    /// Config and dataset contradict each other.
    #[error(
        "`model.{key}` is `{found}`, the dataset has `{expected}`\nhint: leave `model.{key}` out to take the dataset's"
    )]
    Dataset {
        /// The key below `model`.
        key: &'static str,
        /// The dataset's value.
        expected: u64,
        /// The config's value.
        found: u64,
    },
}

impl ModelError {
    fn outside(key: &'static str, outside: Outside) -> Self {
        Self::Value { key, expected: outside.expected, found: outside.found }
    }
}

/// A model that can be built: every value known and in range.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelPlan {
    layers: usize,
    width: usize,
    heads: usize,
    feed_forward: usize,
    vocabulary: Vocabulary,
    norm_epsilon: f64,
    rope_theta: f64,
    rule: AttentionRule,
    image: Option<ImagePlan>,
    image_config: ImageConfig,
    initial: InitialConfig,
}

/// The image ends of a [`ModelPlan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImagePlan {
    /// Channels of a latent.
    pub channels: usize,
    /// Side of a patch in latent pixels.
    pub patch: usize,
    /// Sines and cosines that stand for a timestep.
    pub sinusoids: usize,
    /// Numbers of the timestep's embedding, at least as many as a patch has.
    pub time_width: usize,
}

impl ImagePlan {
    /// Numbers of one patch.
    pub const fn numbers(&self) -> usize {
        self.channels * self.patch * self.patch
    }
}

impl ModelConfig {
    /// Settles every value with what the dataset says.
    ///
    /// # Errors
    ///
    /// A value out of range, or one that contradicts the dataset.
    pub fn plan(&self, data: &DataShape) -> Result<ModelPlan, ModelError> {
        self.check()?;
        let vocabulary = agree("vocabulary", self.vocabulary.map(u64::from), u64::from(data.vocabulary))?;
        count("vocabulary", vocabulary, VOCABULARY)?;
        let feed_forward = self.feed_forward.unwrap_or((8 * self.width).div_ceil(3).next_multiple_of(256));
        Ok(ModelPlan {
            layers: self.layers,
            width: self.width,
            heads: self.heads,
            feed_forward,
            vocabulary: Vocabulary::text(vocabulary as u32),
            norm_epsilon: self.norm_epsilon,
            rope_theta: self.rope_theta,
            rule: AttentionRule {
                across_documents: self.across_documents,
                causal_images: self.causal_images,
            },
            image: self.image.plan(data.image)?,
            image_config: self.image.clone(),
            initial: self.initial.clone(),
        })
    }

    fn check(&self) -> Result<(), ModelError> {
        let counts = [
            ("layers", Some(self.layers), 1..=1000),
            ("width", Some(self.width), 1..=131_072),
            ("heads", Some(self.heads), 1..=4096),
            ("feed-forward", self.feed_forward, 1..=1_048_576),
            ("vocabulary", self.vocabulary.map(|ids| ids as usize), VOCABULARY),
            ("image.channels", self.image.channels, CHANNELS),
            ("image.patch", self.image.patch, PATCH),
            ("image.sinusoids", Some(self.image.sinusoids), 2..=65_536),
            ("image.time-width", self.image.time_width, 1..=1_048_576),
        ];
        for (key, value, range) in counts {
            value.map_or(Ok(()), |value| count(key, value as u64, range))?;
        }
        if !self.width.is_multiple_of(2 * self.heads) {
            let expected = format!("a multiple of twice the heads, {}", 2 * self.heads);
            return Err(ModelError::Value { key: "width", expected, found: self.width.to_string() });
        }
        let scales = [
            ("norm-epsilon", self.norm_epsilon, Reals::above(0.0, 1.0)),
            ("rope-theta", self.rope_theta, Reals::closed(1.0, 1e12)),
            ("initial.embedding", self.initial.embedding, Reals::closed(0.0, 1000.0)),
            ("initial.head", self.initial.head, Reals::closed(0.0, 1000.0)),
        ];
        for (key, value, range) in scales {
            limits::real(value, range).map_err(|outside| ModelError::outside(key, outside))?;
        }
        Ok(())
    }
}

impl ImageConfig {
    fn plan(&self, data: Option<ImageShape>) -> Result<Option<ImagePlan>, ModelError> {
        let (channels, patch) = match (data, self.channels, self.patch) {
            (Some(data), channels, patch) => (
                agree("image.channels", channels.map(|n| n as u64), data.channels as u64)? as usize,
                agree("image.patch", patch.map(|n| n as u64), data.patch as u64)? as usize,
            ),
            (None, Some(channels), Some(patch)) => (channels, patch),
            (None, ..) => return Ok(None),
        };
        count("image.channels", channels as u64, CHANNELS)?;
        count("image.patch", patch as u64, PATCH)?;
        let numbers = channels * patch.pow(2);
        let time_width = self.time_width.unwrap_or(numbers);
        if time_width < numbers {
            let expected = format!("at least the {numbers} numbers of a patch");
            return Err(ModelError::Value {
                key: "image.time-width",
                expected,
                found: time_width.to_string(),
            });
        }
        if !self.sinusoids.is_multiple_of(2) {
            let expected = "an even number above 0".to_owned();
            let found = self.sinusoids.to_string();
            return Err(ModelError::Value { key: "image.sinusoids", expected, found });
        }
        Ok(Some(ImagePlan { channels, patch, sinusoids: self.sinusoids, time_width }))
    }
}

/// Numbers that a dataset may decide too.
const VOCABULARY: RangeInclusive<u64> = 1..=16_777_216;
const CHANNELS: RangeInclusive<u64> = 1..=4096;
const PATCH: RangeInclusive<u64> = 1..=256;

fn count(key: &'static str, value: u64, range: RangeInclusive<u64>) -> Result<(), ModelError> {
    limits::whole(value, range).map_err(|outside| ModelError::outside(key, outside))
}

fn agree(key: &'static str, written: Option<u64>, data: u64) -> Result<u64, ModelError> {
    match written {
        Some(found) if found != data => Err(ModelError::Dataset { key, expected: data, found }),
        _ => Ok(data),
    }
}

impl ModelPlan {
    /// Transformer layers.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Numbers of a position.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Attention heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Numbers of a head.
    pub fn head_dim(&self) -> usize {
        self.width / self.heads
    }

    /// Width of the feed-forward.
    pub fn feed_forward(&self) -> usize {
        self.feed_forward
    }

    /// The id space.
    pub fn vocabulary(&self) -> Vocabulary {
        self.vocabulary
    }

    /// Epsilon of every RMSNorm.
    pub fn norm_epsilon(&self) -> f64 {
        self.norm_epsilon
    }

    /// Base of the rotary angles.
    pub fn rope_theta(&self) -> f64 {
        self.rope_theta
    }

    /// Who sees whom.
    pub fn rule(&self) -> AttentionRule {
        self.rule
    }

    /// The image ends; `None` for a model of text alone.
    pub fn image(&self) -> Option<&ImagePlan> {
        self.image.as_ref()
    }

    /// Standard deviations at the start.
    pub fn initial(&self) -> &InitialConfig {
        &self.initial
    }

    /// The configuration with every derived value written out: what a checkpoint records.
    pub fn config(&self) -> ModelConfig {
        ModelConfig {
            layers: self.layers,
            width: self.width,
            heads: self.heads,
            feed_forward: Some(self.feed_forward),
            vocabulary: Some(self.vocabulary.size),
            norm_epsilon: self.norm_epsilon,
            rope_theta: self.rope_theta,
            across_documents: self.rule.across_documents,
            causal_images: self.rule.causal_images,
            image: ImageConfig {
                channels: self.image.map(|image| image.channels),
                patch: self.image.map(|image| image.patch),
                time_width: self.image.map(|image| image.time_width),
                ..self.image_config.clone()
            },
            initial: self.initial.clone(),
        }
    }

    /// The data that a written-out configuration stands for, so that a checkpoint can be planned without its dataset.
    pub fn from_resolved(config: &ModelConfig) -> Result<Self, ModelError> {
        let missing = || ModelError::Value {
            key: "vocabulary",
            expected: "a number".to_owned(),
            found: "nothing".to_owned(),
        };
        let vocabulary = config.vocabulary.ok_or_else(missing)?;
        config.plan(&DataShape { vocabulary, image: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: DataShape = DataShape { vocabulary: 500, image: Some(ImageShape { channels: 4, patch: 2 }) };

    fn message(text: &str) -> String {
        let config: ModelConfig = toml::from_str(text).unwrap();
        config.plan(&DATA).unwrap_err().to_string()
    }

    #[test]
    fn derived_values_are_settled_and_written_out() {
        let plan = ModelConfig::default().plan(&DATA).unwrap();
        assert_eq!((plan.feed_forward(), plan.head_dim(), plan.vocabulary().boi()), (512, 64, 500));
        let image = plan.image().unwrap();
        assert_eq!((image.numbers(), image.time_width), (16, 16));
        let text = toml::to_string(&plan.config()).unwrap();
        let again = ModelPlan::from_resolved(&toml::from_str(&text).unwrap()).unwrap();
        assert_eq!(again.config(), plan.config());
        assert_eq!(again.parameters(), plan.parameters());
    }

    #[test]
    fn a_dataset_without_images_has_no_image_ends() {
        let data = DataShape { image: None, ..DATA };
        assert_eq!(ModelConfig::default().plan(&data).unwrap().image(), None);
    }

    #[test]
    fn values_out_of_range_are_named() {
        let cases = [
            ("layers = 0", "`model.layers` is `0`, expected 1 to 1000"),
            ("layers = 100_000", "`model.layers` is `100,000`, expected 1 to 1000"),
            ("width = 2_000_000_000", "`model.width` is `2,000,000,000`, expected 1 to 131,072"),
            ("heads = 0", "`model.heads` is `0`, expected 1 to 4096"),
            ("feed-forward = 0", "`model.feed-forward` is `0`, expected 1 to 1,048,576"),
            ("vocabulary = 4_000_000_000", "`model.vocabulary` is `4,000,000,000`, expected 1 to 16,777,216"),
            ("width = 100", "`model.width` is `100`, expected a multiple of twice the heads, 6"),
            ("image.channels = 9_000_000_000_000_000_000", "`model.image.channels` is `9,000,000,"),
            ("image.patch = 0", "`model.image.patch` is `0`, expected 1 to 256"),
            ("image.sinusoids = 0", "`model.image.sinusoids` is `0`, expected 2 to 65,536"),
            ("image.sinusoids = 3", "`model.image.sinusoids` is `3`, expected an even number above 0"),
            (
                "image.time-width = 8",
                "`model.image.time-width` is `8`, expected at least the 16 numbers of a patch",
            ),
            ("norm-epsilon = nan", "`model.norm-epsilon` is `NaN`, expected a number above 0, 1 at most"),
            ("rope-theta = 0.5", "`model.rope-theta` is `0.5`, expected a number from 1 to"),
            ("initial.embedding = -1.0", "`model.initial.embedding` is `-1`"),
            ("initial.head = inf", "`model.initial.head` is `inf`"),
        ];
        for (text, expected) in cases {
            assert!(message(text).starts_with(expected), "{}", message(text));
        }
        assert!(message("image.patch = 4").starts_with("`model.image.patch` is `4`, the dataset has `2`"));
        assert!(message("vocabulary = 7").starts_with("`model.vocabulary` is `7`, the dataset has `500`"));
    }

    #[test]
    fn unknown_keys_and_ends_are_refused() {
        let error = |text: &str| toml::from_str::<ModelConfig>(text).unwrap_err().to_string();
        assert!(error("depth = 3").contains("unknown field `depth`"));
        assert!(error("image.end = 'unet'").contains("unknown variant `unet`, expected `linear`"));
    }
}
