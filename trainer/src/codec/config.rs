//! A codec's `config.json`: which network it is, and how its latents are brought to unit size.
//!
//! Keys that begin with `_` say where a file came from and are not read. Any other key that this program doesn't know
//! is refused, because it may change what the network computes.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::CodecError;

/// The network of a codec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Architecture {
    /// Residual blocks around down- and up-sampling, with group norm and attention at the bottom (Esser et al. 2021):
    /// diffusers' `AutoencoderKL`.
    AutoencoderKl(KlShape),
    /// Blocks of pixels through a few convolutions and back: small and quick, for small pictures.
    Patch(PatchShape),
}

/// Sizes of an `AutoencoderKL`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct KlShape {
    /// Channels of each level; each level after the first halves the picture.
    #[schemars(length(min = 1, max = 8), inner(range(min = 1, max = MOST_CHANNELS)), extend("x-unit" = "channels"))]
    pub channels: Vec<usize>,
    /// Residual blocks of a level; the decoder has one more.
    #[schemars(range(min = 1, max = 64), extend("x-unit" = "blocks"))]
    pub layers: usize,
    /// Channels of a latent.
    #[schemars(range(min = 1, max = MOST_CHANNELS), extend("x-unit" = "channels"))]
    pub latent_channels: usize,
    /// Groups of every group norm.
    #[schemars(range(min = 1, max = MOST_CHANNELS), extend("x-unit" = "groups"))]
    pub groups: usize,
    /// Whether there is attention at the bottom.
    pub attention: bool,
    /// Whether a 1 x 1 convolution follows the encoder.
    pub quant: bool,
    /// Whether a 1 x 1 convolution precedes the decoder.
    pub post_quant: bool,
}

impl Default for KlShape {
    /// The 83.7 million parameters that come closest to the paper's "86 M".
    fn default() -> Self {
        Self {
            channels: vec![128, 256, 512, 512],
            layers: 2,
            latent_channels: 8,
            groups: 32,
            attention: true,
            quant: true,
            post_quant: true,
        }
    }
}

/// Sizes of a `PatchAutoencoder`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct PatchShape {
    /// Side of the block of pixels that becomes one latent pixel.
    #[schemars(range(min = 1, max = 64), extend("x-unit" = "pixels"))]
    pub patch: usize,
    /// Channels between.
    #[schemars(range(min = 1, max = MOST_CHANNELS), extend("x-unit" = "channels"))]
    pub width: usize,
    /// 3 x 3 convolutions of the encoder; the decoder has one more.
    #[schemars(range(min = 1, max = 64), extend("x-unit" = "convolutions"))]
    pub layers: usize,
    /// Channels of a latent.
    #[schemars(range(min = 1, max = MOST_CHANNELS), extend("x-unit" = "channels"))]
    pub latent_channels: usize,
}

impl Default for PatchShape {
    /// 144,504 parameters, for pictures of 32 x 32.
    fn default() -> Self {
        Self { patch: 4, width: 64, layers: 2, latent_channels: 4 }
    }
}

/// How a latent is brought to unit size and back.
///
/// With `mean` and `std` it is `(z - mean) scaling / std` in each channel, without them `(z - shift) scaling`.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    /// `scaling_factor`.
    pub scaling: f32,
    /// `shift_factor`; 0 if not set.
    pub shift: f32,
    /// `latents_mean` and `latents_std`, one pair a channel.
    pub channels: Option<Vec<(f32, f32)>>,
}

impl Normalization {
    /// What is subtracted and what is then multiplied by, of each of `channels` channels.
    pub(crate) fn lines(&self, channels: usize) -> Vec<(f32, f32)> {
        match &self.channels {
            Some(pairs) => pairs.iter().map(|&(mean, std)| (mean, self.scaling / std)).collect(),
            None => vec![(self.shift, self.scaling); channels],
        }
    }
}

/// All that `config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct CodecConfig {
    /// The network.
    pub architecture: Architecture,
    /// What its latents are normalised with.
    pub normalization: Normalization,
    /// Side of the pictures it was trained on, in pixels.
    pub sample_size: Option<usize>,
}

/// Names of the built-in codecs, smallest first.
pub const CODEC_PRESETS: [&str; 3] = ["demo", "tiny", "86m"];

impl Architecture {
    /// The built-in codec called `name`: `demo` (f4, 4 channels, 144,504 parameters, for 32 x 32), `tiny` (f8, 4 channels,
    /// 687,663, trains on a CPU within minutes) and `86m` (f8, 8 channels, 83.7 million, the paper's class).
    pub fn preset(name: &str) -> Option<Self> {
        Some(match name {
            "demo" => Self::Patch(PatchShape::default()),
            "tiny" => Self::AutoencoderKl(KlShape {
                channels: vec![8, 16, 32, 64],
                layers: 1,
                latent_channels: 4,
                groups: 4,
                ..KlShape::default()
            }),
            "86m" => Self::AutoencoderKl(KlShape::default()),
            _ => return None,
        })
    }

    /// Channels of a latent.
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::AutoencoderKl(shape) => shape.latent_channels,
            Self::Patch(shape) => shape.latent_channels,
        }
    }

    /// Pixels of a latent pixel's side.
    pub fn downsampling(&self) -> usize {
        match self {
            Self::AutoencoderKl(shape) => 1 << (shape.channels.len().max(1) - 1),
            Self::Patch(shape) => shape.patch,
        }
    }

    /// `_class_name`.
    pub fn class(&self) -> &'static str {
        match self {
            Self::AutoencoderKl(_) => "AutoencoderKL",
            Self::Patch(_) => "PatchAutoencoder",
        }
    }

    /// Whether a network of these sizes can be built.
    ///
    /// # Errors
    ///
    /// The first size that is zero, beyond reason, or doesn't divide.
    pub fn check(&self) -> Result<(), CodecError> {
        let within = |name: &str, value: usize, largest: usize| match (1..=largest).contains(&value) {
            true => Ok(()),
            false => Err(CodecError::Model(format!("{name} must be within 1 and {largest}, it is {value}"))),
        };
        match self {
            Self::Patch(shape) => {
                within("`patch`", shape.patch, 64)?;
                within("`width`", shape.width, MOST_CHANNELS)?;
                within("the number of layers", shape.layers, 64)?;
                within("the number of latent channels", shape.latent_channels, MOST_CHANNELS)
            }
            Self::AutoencoderKl(shape) => {
                within("the number of levels", shape.channels.len(), 8)?;
                within("the number of layers", shape.layers, 64)?;
                within("the number of latent channels", shape.latent_channels, MOST_CHANNELS)?;
                within("the number of groups", shape.groups, MOST_CHANNELS)?;
                shape.channels.iter().try_for_each(|&channels| {
                    within("the channels of a level", channels, MOST_CHANNELS)?;
                    if channels % shape.groups == 0 {
                        return Ok(());
                    }
                    let groups = shape.groups;
                    Err(CodecError::Model(format!("{channels} channels don't fall into {groups} groups")))
                })
            }
        }
    }
}

/// More is a damaged file.
const MOST_CHANNELS: usize = 1 << 13;

impl CodecConfig {
    /// Reads the bytes of a `config.json`; `path` is for messages.
    ///
    /// # Errors
    ///
    /// If it is no JSON object, of an unknown class, or its keys are not what that class has.
    pub fn from_json(bytes: &[u8], path: &Path) -> Result<Self, CodecError> {
        let wrong = |reason: String| CodecError::Config { path: path.to_owned(), reason };
        let keys: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        let class = keys.get("_class_name").and_then(Value::as_str).unwrap_or("nothing at all").to_owned();
        let keys: Map<_, _> = keys.into_iter().filter(|(key, _)| !key.starts_with('_')).collect();
        let config = match class.as_str() {
            "AutoencoderKL" => read_keys::<KlFile>(keys).and_then(KlFile::config),
            "PatchAutoencoder" => read_keys::<PatchFile>(keys).and_then(PatchFile::config),
            _ => return Err(CodecError::Class { path: path.to_owned(), found: class }),
        };
        let config = config.map_err(wrong)?;
        config.architecture.check().map_err(|error| wrong(error.to_string()))?;
        Ok(config)
    }

    /// The bytes of a `config.json`.
    pub fn to_json(&self) -> Vec<u8> {
        let mut keys = match &self.architecture {
            Architecture::AutoencoderKl(shape) => kl_keys(shape),
            Architecture::Patch(shape) => json!({
                "_class_name": "PatchAutoencoder",
                "patch": shape.patch,
                "width": shape.width,
                "layers": shape.layers,
                "latent_channels": shape.latent_channels,
            }),
        };
        let Normalization { scaling, shift, channels } = &self.normalization;
        let column = |pick: fn(&(f32, f32)) -> f32| match channels {
            Some(pairs) => json!(pairs.iter().map(pick).collect::<Vec<_>>()),
            None => Value::Null,
        };
        keys["sample_size"] = json!(self.sample_size);
        keys["scaling_factor"] = json!(scaling);
        keys["shift_factor"] = if *shift == 0.0 { Value::Null } else { json!(shift) };
        keys["latents_mean"] = column(|pair| pair.0);
        keys["latents_std"] = column(|pair| pair.1);
        let mut bytes = serde_json::to_vec_pretty(&keys).expect("numbers, strings and lists are JSON");
        bytes.push(b'\n');
        bytes
    }
}

fn read_keys<T: for<'a> Deserialize<'a>>(keys: Map<String, Value>) -> Result<T, String> {
    serde_json::from_value(Value::Object(keys)).map_err(|error| error.to_string())
}

fn kl_keys(shape: &KlShape) -> Value {
    let blocks = |name: &str| vec![name.to_owned(); shape.channels.len()];
    json!({
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": shape.channels,
        "down_block_types": blocks(DOWN),
        "force_upcast": true,
        "in_channels": 3,
        "latent_channels": shape.latent_channels,
        "layers_per_block": shape.layers,
        "mid_block_add_attention": shape.attention,
        "norm_num_groups": shape.groups,
        "out_channels": 3,
        "up_block_types": blocks(UP),
        "use_post_quant_conv": shape.post_quant,
        "use_quant_conv": shape.quant,
    })
}

const DOWN: &str = "DownEncoderBlock2D";
const UP: &str = "UpDecoderBlock2D";

/// The keys of an `AutoencoderKL`, with the values that diffusers has where one is left out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct KlFile {
    act_fn: String,
    block_out_channels: Vec<usize>,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
    /// Concerns half precision, which is not used here.
    #[serde(rename = "force_upcast")]
    _force_upcast: bool,
    in_channels: usize,
    out_channels: usize,
    latent_channels: usize,
    latents_mean: Option<Vec<f32>>,
    latents_std: Option<Vec<f32>>,
    layers_per_block: usize,
    mid_block_add_attention: bool,
    norm_num_groups: usize,
    sample_size: Option<usize>,
    scaling_factor: f32,
    shift_factor: Option<f32>,
    use_quant_conv: bool,
    use_post_quant_conv: bool,
}

impl Default for KlFile {
    fn default() -> Self {
        Self {
            act_fn: "silu".to_owned(),
            block_out_channels: vec![64],
            down_block_types: vec![DOWN.to_owned()],
            up_block_types: vec![UP.to_owned()],
            _force_upcast: true,
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            latents_mean: None,
            latents_std: None,
            layers_per_block: 1,
            mid_block_add_attention: true,
            norm_num_groups: 32,
            sample_size: Some(32),
            scaling_factor: 0.18215,
            shift_factor: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
        }
    }
}

impl KlFile {
    fn config(self) -> Result<CodecConfig, String> {
        self.check()?;
        let normalization = normalization(
            self.scaling_factor,
            self.shift_factor,
            self.latents_mean,
            self.latents_std,
            self.latent_channels,
        )?;
        let shape = KlShape {
            channels: self.block_out_channels,
            layers: self.layers_per_block,
            latent_channels: self.latent_channels,
            groups: self.norm_num_groups,
            attention: self.mid_block_add_attention,
            quant: self.use_quant_conv,
            post_quant: self.use_post_quant_conv,
        };
        Ok(CodecConfig {
            architecture: Architecture::AutoencoderKl(shape),
            normalization,
            sample_size: self.sample_size,
        })
    }

    fn check(&self) -> Result<(), String> {
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            return Err(format!("`act_fn` is `{}`, expected `silu`", self.act_fn));
        }
        if (self.in_channels, self.out_channels) != (3, 3) {
            let (input, output) = (self.in_channels, self.out_channels);
            return Err(format!("it takes {input} and gives {output} channels, expected 3 and 3"));
        }
        for (key, expected, types) in
            [("down_block_types", DOWN, &self.down_block_types), ("up_block_types", UP, &self.up_block_types)]
        {
            if let Some(other) = types.iter().find(|name| *name != expected) {
                return Err(format!("`{key}` has `{other}`, expected `{expected}`"));
            }
            if types.len() != self.block_out_channels.len() {
                let (found, levels) = (types.len(), self.block_out_channels.len());
                return Err(format!("`{key}` lists {found} blocks, `block_out_channels` {levels}"));
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatchFile {
    patch: usize,
    width: usize,
    layers: usize,
    latent_channels: usize,
    sample_size: Option<usize>,
    scaling_factor: f32,
    shift_factor: Option<f32>,
    latents_mean: Option<Vec<f32>>,
    latents_std: Option<Vec<f32>>,
}

impl PatchFile {
    fn config(self) -> Result<CodecConfig, String> {
        let Self { patch, width, layers, latent_channels, .. } = self;
        Ok(CodecConfig {
            architecture: Architecture::Patch(PatchShape { patch, width, layers, latent_channels }),
            normalization: normalization(
                self.scaling_factor,
                self.shift_factor,
                self.latents_mean,
                self.latents_std,
                latent_channels,
            )?,
            sample_size: self.sample_size,
        })
    }
}

fn normalization(
    scaling: f32,
    shift: Option<f32>,
    mean: Option<Vec<f32>>,
    std: Option<Vec<f32>>,
    channels: usize,
) -> Result<Normalization, String> {
    let shift = shift.unwrap_or(0.0);
    if !(scaling.is_finite() && scaling != 0.0 && shift.is_finite()) {
        return Err("`scaling_factor` and `shift_factor` must be finite, the first not 0".to_owned());
    }
    let channels = match (mean, std) {
        (None, None) => None,
        (Some(mean), Some(std)) if mean.len() == channels && std.len() == channels => {
            if !(mean.iter().all(|mean| mean.is_finite()) && std.iter().all(|std| std.is_normal())) {
                return Err("`latents_mean` and `latents_std` must be finite, the second not 0".to_owned());
            }
            Some(mean.into_iter().zip(std).collect())
        }
        (mean, std) => {
            let count = |list: Option<Vec<f32>>| list.map_or(0, |list| list.len());
            let (mean, std) = (count(mean), count(std));
            return Err(format!(
                "`latents_mean` has {mean} and `latents_std` {std} values, `latent_channels` is {channels}"
            ));
        }
    };
    Ok(Normalization { scaling, shift, channels })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<CodecConfig, String> {
        CodecConfig::from_json(text.as_bytes(), Path::new("config.json")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_config_survives_being_written() {
        for name in CODEC_PRESETS {
            let config = CodecConfig {
                architecture: Architecture::preset(name).unwrap(),
                normalization: Normalization { scaling: 0.3611, shift: 0.1159, channels: None },
                sample_size: Some(64),
            };
            let channels = config.architecture.latent_channels();
            let with_channels = CodecConfig {
                normalization: Normalization {
                    scaling: 1.0,
                    shift: 0.0,
                    channels: Some(vec![(0.1, 1.7); channels]),
                },
                ..config.clone()
            };
            for config in [config, with_channels] {
                let path = Path::new("config.json");
                assert_eq!(CodecConfig::from_json(&config.to_json(), path).unwrap(), config);
            }
        }
        assert_eq!(Architecture::preset("huge"), None);
    }

    /// What published files have: FLUX without quantisation convolutions, and old ones with few keys.
    #[test]
    fn keys_of_known_files_are_read() {
        let flux = read(
            r#"{"_class_name": "AutoencoderKL", "_diffusers_version": "0.30.0.dev0", "_name_or_path": "../x",
                "act_fn": "silu", "block_out_channels": [128, 256, 512, 512],
                "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
                "force_upcast": true, "in_channels": 3, "latent_channels": 16, "latents_mean": null, "latents_std": null,
                "layers_per_block": 2, "mid_block_add_attention": true, "norm_num_groups": 32, "out_channels": 3,
                "sample_size": 1024, "scaling_factor": 0.3611, "shift_factor": 0.1159,
                "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
                "use_post_quant_conv": false, "use_quant_conv": false}"#,
        )
        .unwrap();
        assert_eq!(flux.architecture.downsampling(), 8);
        assert_eq!(flux.normalization.lines(2), [(0.1159, 0.3611); 2]);
        // Left out, a key has the value that diffusers has.
        let bare = read(r#"{"_class_name": "AutoencoderKL"}"#).unwrap();
        assert_eq!(bare.normalization.scaling, 0.18215);
        assert_eq!((bare.architecture.downsampling(), bare.architecture.latent_channels()), (1, 4));
    }

    #[test]
    fn what_would_be_read_wrongly_is_refused() {
        let kl = |keys: &str| read(&format!(r#"{{"_class_name": "AutoencoderKL", {keys}}}"#)).unwrap_err();
        assert!(kl(r#""dance": 1"#).contains("unknown field `dance`"));
        assert!(kl(r#""act_fn": "gelu""#).contains("`act_fn` is `gelu`"));
        assert!(kl(r#""in_channels": 4"#).contains("takes 4"));
        assert!(kl(r#""down_block_types": ["AttnDownEncoderBlock2D"]"#).contains("AttnDownEncoderBlock2D"));
        assert!(kl(r#""norm_num_groups": 7"#).contains("64 channels don't fall into 7 groups"));
        assert!(kl(r#""norm_num_groups": 0"#).contains("within 1"));
        assert!(kl(r#""latents_mean": [0.0]"#).contains("`latents_mean` has 1"));
        assert!(kl(r#""scaling_factor": 0.0"#).contains("not 0"));
        assert!(kl(r#""block_out_channels": [99999999999]"#).contains("within 1"));
        assert!(kl(r#""latent_channels": "many""#).contains("invalid type"));
        let class = read(r#"{"_class_name": "VQModel"}"#).unwrap_err();
        assert!(class.contains("of class `VQModel`"), "{class}");
        assert!(read("[]").unwrap_err().contains("config.json"));
        assert!(read("{").unwrap_err().contains("config.json"));
    }
}
