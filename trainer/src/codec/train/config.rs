//! The settings of `vae train`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codec::{Architecture, CODEC_PRESETS, CodecError};
use crate::limits::{self, Outside, Reals, STEPS};
use crate::optimizer::OptimizerConfig;
use crate::schedule::Schedule;

/// The settings of `vae train`, beside its sources of pictures.
///
/// The loss of a batch is the mean over its pictures of `l1 |y - x| + mse (y - x)^2 + kl KL`. The first two are means over a picture's
/// values; the divergence is as [`KlReduction`] says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct VaeTrainConfig {
    /// Folder of the codec to be made; absent or empty.
    pub output: PathBuf,
    /// Updates of the whole training.
    #[schemars(range(min = 1, max = *STEPS.end()), extend("x-unit" = "updates"))]
    pub steps: u64,
    /// Side of the pictures that are learned from; a multiple of the codec's downsampling.
    #[schemars(range(min = 1, max = 16_384), extend("x-unit" = "pixels"))]
    pub size: usize,
    /// A preset's name (`demo`, `tiny`, `86m`), or a table of sizes.
    pub model: CodecChoice,
    /// Pictures of an update.
    #[schemars(range(min = 1, max = 65_536), extend("x-unit" = "pictures"))]
    pub batch: usize,
    /// Highest learning rate.
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0, "x-unit" = "none"))]
    pub rate: f64,
    /// Updates until the highest learning rate is reached.
    #[schemars(range(min = 0, max = *STEPS.end()), extend("x-unit" = "updates"))]
    pub warm_up: u64,
    /// Learning rate of the last update, as a share of `rate`.
    #[schemars(range(min = 0.0, max = 1.0), extend("x-unit" = "share of `rate`"))]
    pub floor: f64,
    /// Names all randomness: first weights, order, mirroring, noise.
    #[schemars(extend("x-unit" = "none"))]
    pub seed: u64,
    /// Decay of AdamW's two moments.
    #[schemars(extend(
        "items" = { "type": "number", "minimum": 0.0, "exclusiveMaximum": 1.0 },
        "x-unit" = "share an update"
    ))]
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0, "x-unit" = "none"))]
    pub epsilon: f64,
    /// Weight decay of matrices and kernels.
    #[schemars(range(min = 0.0, max = 1.0), extend("x-unit" = "share an update, times the learning rate"))]
    pub decay: f64,
    /// Largest joint norm of the gradients.
    #[schemars(range(max = 1e9), extend("exclusiveMinimum" = 0.0, "x-unit" = "none"))]
    pub clip: f64,
    /// Weight of the mean absolute error of a picture's values, which are in -1..1.
    #[schemars(range(min = 0.0, max = 1e40), extend("x-unit" = "none"))]
    pub l1: f64,
    /// Weight of the mean squared error of a picture's values.
    #[schemars(range(min = 0.0, max = 1e40), extend("x-unit" = "none"))]
    pub mse: f64,
    /// Weight of the divergence of the latents from the normal distribution.
    #[schemars(range(min = 0.0, max = 1e40), extend("x-unit" = "none"))]
    pub kl: f64,
    /// What of a picture's latent values is weighted by `kl`.
    pub kl_reduction: KlReduction,
    /// Whether each picture is mirrored half of the time.
    pub flip: bool,
    /// Updates between two lines of `log.jsonl`.
    #[schemars(range(min = 1, max = *STEPS.end()), extend("x-unit" = "updates"))]
    pub log_every: u64,
}

/// How the divergence of a picture's latent values becomes one number.
///
/// The paper's weight 1e-6 belongs to the sum; what the sum weighs depends on the latent's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KlReduction {
    /// The sum over the values.
    #[default]
    Sum,
    /// The mean over the values.
    Mean,
}

/// A preset by name, or sizes: `model = "tiny"` or `model = { kind = "patch", width = 48 }`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum CodecChoice {
    /// A built-in codec.
    #[schemars(extend("enum" = CODEC_PRESETS))]
    Preset(String),
    /// A codec of these sizes.
    Sizes(Architecture),
}

impl<'de> Deserialize<'de> for CodecChoice {
    /// By hand, because an untagged enum would hide what is wrong inside the table.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Choice;
        impl<'de> serde::de::Visitor<'de> for Choice {
            type Value = CodecChoice;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a preset's name or a table with `kind`")
            }
            fn visit_str<E>(self, name: &str) -> Result<CodecChoice, E> {
                Ok(CodecChoice::Preset(name.to_owned()))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<CodecChoice, A::Error> {
                let map = serde::de::value::MapAccessDeserializer::new(map);
                Architecture::deserialize(map).map(CodecChoice::Sizes)
            }
        }
        deserializer.deserialize_any(Choice)
    }
}

impl CodecChoice {
    /// The sizes.
    ///
    /// # Errors
    ///
    /// If there is no preset of that name or the sizes don't go together.
    pub fn architecture(&self) -> Result<Architecture, CodecError> {
        let architecture = match self {
            Self::Preset(name) => {
                Architecture::preset(name).ok_or_else(|| CodecError::Preset(name.clone()))?
            }
            Self::Sizes(architecture) => architecture.clone(),
        };
        architecture.check()?;
        Ok(architecture)
    }
}

impl Default for VaeTrainConfig {
    fn default() -> Self {
        Self {
            output: PathBuf::from("codec"),
            steps: 200,
            size: 128,
            model: CodecChoice::Preset("tiny".to_owned()),
            batch: 8,
            rate: 1e-3,
            warm_up: 50,
            floor: 0.02,
            seed: 0,
            betas: [0.9, 0.99],
            epsilon: 1e-8,
            decay: 1e-4,
            clip: 1.0,
            l1: 1.0,
            mse: 0.0,
            kl: 1e-6,
            kl_reduction: KlReduction::Sum,
            flip: false,
            log_every: 10,
        }
    }
}

impl VaeTrainConfig {
    /// The recipe of the demo: 32 x 32 pictures, 2,250 updates of 64, about 75 seconds on two cores.
    pub fn demo() -> Self {
        Self {
            steps: 2250,
            size: 32,
            model: CodecChoice::Preset("demo".to_owned()),
            batch: 64,
            rate: 3e-3,
            mse: 1.0,
            kl: 1e-4,
            kl_reduction: KlReduction::Mean,
            ..Self::default()
        }
    }

    /// Whether the settings make sense.
    ///
    /// # Errors
    ///
    /// The first that doesn't.
    pub fn check(&self) -> Result<(), CodecError> {
        let architecture = self.model.architecture()?;
        let counts = [
            ("steps", self.steps, STEPS),
            ("size", self.size as u64, 1..=16_384),
            ("batch", self.batch as u64, 1..=65_536),
            ("warm-up", self.warm_up, 0..=*STEPS.end()),
            ("log-every", self.log_every, STEPS),
        ];
        for (key, value, range) in counts {
            limits::whole(value, range).map_err(|outside| setting(key, &outside))?;
        }
        let numbers = [
            ("rate", self.rate, Reals::above(0.0, 1.0)),
            ("floor", self.floor, Reals::closed(0.0, 1.0)),
            ("betas", self.betas[0], Reals::below(0.0, 1.0)),
            ("betas", self.betas[1], Reals::below(0.0, 1.0)),
            ("epsilon", self.epsilon, Reals::above(0.0, 1.0)),
            ("decay", self.decay, Reals::closed(0.0, 1.0)),
            ("clip", self.clip, Reals::above(0.0, 1e9)),
            ("l1", self.l1, Reals::closed(0.0, 1e40)),
            ("mse", self.mse, Reals::closed(0.0, 1e40)),
            ("kl", self.kl, Reals::closed(0.0, 1e40)),
        ];
        for (key, value, range) in numbers {
            limits::real(value, range).map_err(|outside| setting(key, &outside))?;
        }
        let multiple = architecture.downsampling();
        if !self.size.is_multiple_of(multiple) {
            let (height, width) = (self.size, self.size);
            return Err(CodecError::Size { height, width, multiple });
        }
        Ok(())
    }

    pub(super) fn schedule(&self) -> Schedule {
        Schedule { rate: self.rate, warm_up: self.warm_up, floor: self.rate * self.floor, steps: self.steps }
    }

    pub(super) fn optimizer(&self) -> OptimizerConfig {
        OptimizerConfig { betas: self.betas, epsilon: self.epsilon, decay: self.decay, clip: self.clip }
    }
}

fn setting(key: &'static str, outside: &Outside) -> CodecError {
    CodecError::Setting { key, reason: format!("is `{}`, expected {}", outside.found, outside.expected) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_leave_everything_out_and_may_not_add_anything() {
        let config: VaeTrainConfig = toml::from_str("").unwrap();
        assert_eq!(config, VaeTrainConfig::default());
        config.check().unwrap();
        VaeTrainConfig::demo().check().unwrap();
        let error = toml::from_str::<VaeTrainConfig>("warmup = 3").unwrap_err().to_string();
        assert!(error.contains("unknown field `warmup`"), "{error}");
    }

    #[test]
    fn a_model_is_a_name_or_a_table() {
        let model = |text: &str| toml::from_str::<VaeTrainConfig>(text).map(|config| config.model);
        assert_eq!(model("model = '86m'").unwrap(), CodecChoice::Preset("86m".to_owned()));
        let CodecChoice::Sizes(Architecture::AutoencoderKl(shape)) =
            model("model = { kind = 'autoencoder-kl', channels = [8, 16], groups = 4 }").unwrap()
        else {
            panic!("a table of sizes")
        };
        assert_eq!((shape.channels, shape.groups, shape.layers), (vec![8, 16], 4, 2));
        let error = model("model = { kind = 'patch', breadth = 3 }").unwrap_err().to_string();
        assert!(error.contains("unknown field `breadth`"), "{error}");
        let error = model("model = { kind = 'vq' }").unwrap_err().to_string();
        assert!(error.contains("unknown variant `vq`"), "{error}");
        let error = model("model = 3").unwrap_err().to_string();
        assert!(error.contains("a preset's name or a table"), "{error}");
        let resolved = toml::to_string(&VaeTrainConfig {
            model: model("model = { kind = 'patch' }").unwrap(),
            ..VaeTrainConfig::default()
        });
        toml::from_str::<VaeTrainConfig>(&resolved.unwrap()).unwrap().check().unwrap();
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let error = |change: fn(&mut VaeTrainConfig)| {
            let mut config = VaeTrainConfig::default();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert_eq!(error(|config| config.batch = 0), "`batch` is `0`, expected 1 to 65,536");
        assert_eq!(
            error(|config| config.batch = 1 << 40),
            "`batch` is `1,099,511,627,776`, expected 1 to 65,536"
        );
        assert_eq!(
            error(|config| config.size = 1 << 62),
            "`size` is `4,611,686,018,427,387,904`, expected 1 to 16,384"
        );
        assert!(error(|config| config.steps = 0).starts_with("`steps` is `0`, expected 1 to"));
        assert!(
            error(|config| config.warm_up = u64::MAX)
                .starts_with("`warm-up` is `18,446,744,073,709,551,615`")
        );
        assert!(error(|config| config.log_every = 0).starts_with("`log-every` is `0`"));
        assert!(
            error(|config| config.rate = f64::NAN).starts_with("`rate` is `NaN`, expected a number above 0")
        );
        assert!(
            error(|config| config.kl = f64::INFINITY).starts_with("`kl` is `inf`, expected a number from 0")
        );
        assert!(error(|config| config.l1 = -1e-300).starts_with("`l1` is `-1e-300`"));
        assert!(error(|config| config.betas = [0.9, 1.0]).starts_with("`betas` is `1`"));
        assert!(error(|config| config.size = 100).contains("multiples of 8"));
        assert!(error(|config| config.model = CodecChoice::Preset("huge".to_owned())).contains("`huge`"));
    }
}
