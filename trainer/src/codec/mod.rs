//! The image codecs: pictures to latents and back, and their training. It knows kernels and the optimizer, and knows
//! nothing about the model that learns latents, datasets or runs.
//!
//! A [`Codec`] is a folder of two files in the layout of diffusers, `config.json` and
//! `diffusion_pytorch_model.safetensors`. There are two networks, `AutoencoderKL` (files of diffusers are read as they are) and
//! the small `PatchAutoencoder`; [`train()`] makes either. [`Codec::encode`] gives latents of unit size, which is
//! what datasets hold and models learn; [`Codec::decode`] is its inverse. A picture's latent is the mean of
//! its distribution and has the same bits beside any other pictures and at any number of threads.

mod build;
mod config;
mod error;
mod files;
mod kl;
mod layers;
mod patch;
mod pixels;
mod posterior;
#[cfg(test)]
mod tests;
mod train;

use std::path::{Path, PathBuf};
use std::{fs, sync::Arc};

use burn::tensor::{Device, Tensor, TensorData};

use crate::weights::{self, Tensors, WeightsError, values_of};
use build::Builder;
use kl::AutoencoderKl;
use patch::PatchAutoencoder;
use pixels::Pixels;

pub use config::{Architecture, CODEC_PRESETS, CodecConfig, KlShape, Normalization, PatchShape};
pub use error::CodecError;
pub(crate) use files::read_weights;
pub use files::{INDEX_FILES, WEIGHTS_FILES, part_names};
pub use posterior::Posterior;
pub use train::{CodecChoice, KlReduction, Pictures, VaeEvent, VaeObserver, VaeStep, VaeTrainConfig, train};

/// File of the settings in a codec's folder.
pub const CONFIG_FILE: &str = "config.json";
/// File of the weights in a codec's folder.
pub const WEIGHTS_FILE: &str = "diffusion_pytorch_model.safetensors";

/// Weights up to this size are kept as bytes beside the network, for [`Codec::save`]; larger ones are copied from their file.
const KEPT_BYTES: usize = 1 << 26;

/// A trained image codec on a device.
#[derive(Clone, Debug)]
pub struct Codec {
    config: CodecConfig,
    network: Network,
    device: Device,
    fingerprint: String,
    config_bytes: Arc<[u8]>,
    weights: Stored,
}

#[derive(Clone, Debug)]
enum Network {
    Kl(Box<AutoencoderKl>),
    Patch(Box<PatchAutoencoder>),
}

/// Where the bytes of the weights are, so that a copy is the same file.
#[derive(Clone, Debug)]
enum Stored {
    Bytes(Arc<[u8]>),
    File(PathBuf),
}

impl Codec {
    /// Reads a codec's folder.
    ///
    /// # Errors
    ///
    /// If a file can't be read, the class is unknown, or the weights are damaged or not those of the config.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, CodecError> {
        let config_path = folder.join(CONFIG_FILE);
        let config_bytes = fs::read(&config_path).map_err(CodecError::file(&config_path))?;
        let config = CodecConfig::from_json(&config_bytes, &config_path)?;
        let stored = read_weights(folder)?;
        let mut codec = Self::from_parts(config, config_bytes, &stored.bytes, &stored.path, device)?;
        if !stored.is_file {
            codec.weights = Stored::Bytes(stored.bytes.into());
        }
        Ok(codec)
    }

    fn from_parts(
        config: CodecConfig,
        config_bytes: Vec<u8>,
        weights: &[u8],
        weights_path: &Path,
        device: &Device,
    ) -> Result<Self, CodecError> {
        let wrong = |source| CodecError::Weights { path: weights_path.to_owned(), source };
        let tensors = weights::from_bytes(weights).map_err(wrong)?;
        if let Some((name, _)) = tensors.iter().find(|(_, tensor)| !tensor.is_finite()) {
            return Err(CodecError::NotFinite { path: weights_path.to_owned(), name: name.clone() });
        }
        let network = Network::stored(&config.architecture, tensors, device).map_err(wrong)?;
        let fingerprint = fingerprint(&config_bytes, weights);
        let weights = match weights.len() <= KEPT_BYTES {
            true => Stored::Bytes(weights.into()),
            false => Stored::File(weights_path.to_owned()),
        };
        let device = device.clone();
        Ok(Self { config, network, device, fingerprint, config_bytes: config_bytes.into(), weights })
    }

    /// Writes the codec's two files into `folder`, which is made. They are byte for byte those that were loaded.
    ///
    /// # Errors
    ///
    /// If a file can't be written.
    pub fn save(&self, folder: &Path) -> Result<(), CodecError> {
        fs::create_dir_all(folder).map_err(CodecError::file(folder))?;
        let weights = folder.join(WEIGHTS_FILE);
        match &self.weights {
            Stored::Bytes(bytes) => fs::write(&weights, bytes).map_err(CodecError::file(&weights))?,
            Stored::File(path) => {
                fs::copy(path, &weights).map_err(CodecError::file(path))?;
            }
        }
        let config = folder.join(CONFIG_FILE);
        fs::write(&config, &self.config_bytes).map_err(CodecError::file(config))
    }

    /// BLAKE3 over both files: the same for equal bytes only.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Its `config.json`.
    pub fn config(&self) -> &CodecConfig {
        &self.config
    }

    /// The class of its network, as `config.json` names it.
    pub fn kind(&self) -> &'static str {
        self.config.architecture.class()
    }

    /// Channels of a latent.
    pub fn channels(&self) -> usize {
        self.config.architecture.latent_channels()
    }

    /// Pixels of a latent pixel's side.
    pub fn downsampling(&self) -> usize {
        self.config.architecture.downsampling()
    }

    /// Bytes of its weights in memory.
    pub fn weight_bytes(&self) -> usize {
        parameters(&self.config.architecture) * size_of::<f32>()
    }

    /// The processor or device that it runs on, as far as the bits of its results depend on it.
    pub fn processor(&self) -> String {
        crate::device::processor(&self.device)
    }

    /// The normalised latents (`images x channels x height/d x width/d`, `d` the downsampling) of square pictures.
    ///
    /// `rgb` is `images x 3 x size x size`, -1..1.
    ///
    /// # Errors
    ///
    /// If `size` is no multiple of the downsampling or `rgb` has another length.
    pub fn encode(&self, rgb: &[f32], images: usize, size: usize) -> Result<Vec<f32>, CodecError> {
        let mut posterior = self.posterior(rgb, images, size, size)?;
        self.normalize(&mut posterior.mean, posterior.height * posterior.width);
        Ok(posterior.mean)
    }

    /// The distributions of the normalised latents: for each picture the means, then the log variances, clamped to
    /// -30..20.
    ///
    /// # Errors
    ///
    /// As [`Self::encode`].
    pub fn encode_moments(&self, rgb: &[f32], images: usize, size: usize) -> Result<Vec<f32>, CodecError> {
        let mut posterior = self.posterior(rgb, images, size, size)?;
        let pixels = posterior.height * posterior.width;
        self.normalize(&mut posterior.mean, pixels);
        // A variance is scaled by the square of what its value is scaled by.
        self.each_channel(&mut posterior.log_variance, pixels, |value, (_, scale)| {
            *value = (*value + 2.0 * scale.abs().ln()).clamp(-30.0, 20.0);
        });
        let values = (self.channels() * pixels).max(1);
        let halves = posterior.mean.chunks(values).zip(posterior.log_variance.chunks(values));
        Ok(halves.flat_map(|(means, logs)| means.iter().chain(logs)).copied().collect())
    }

    /// About the bytes that are held while `images` pictures of `size` x `size` pixels are encoded, beside the weights.
    pub fn activation_bytes(&self, images: usize, size: usize) -> usize {
        // The input in both orders; then a block's input, its sum, and a convolution's input and output.
        let values = match &self.config.architecture {
            Architecture::Patch(shape) => 4 * shape.width * (size / shape.patch.max(1)).pow(2),
            Architecture::AutoencoderKl(shape) => {
                let levels = shape.channels.iter().enumerate();
                let level = |(level, channels): (usize, &usize)| 4 * channels * (size >> level).pow(2);
                levels.map(level).max().unwrap_or(0)
            }
        };
        size_of::<f32>() * images * (values + 6 * size * size)
    }

    /// The distributions of the latents of pictures, not normalised. `rgb` is `images x 3 x height x width`, -1..1.
    ///
    /// # Errors
    ///
    /// If a side is no multiple of the downsampling or `rgb` has another length.
    pub fn posterior(
        &self,
        rgb: &[f32],
        images: usize,
        height: usize,
        width: usize,
    ) -> Result<Posterior, CodecError> {
        let multiple = self.downsampling();
        if height == 0 || width == 0 || !height.is_multiple_of(multiple) || !width.is_multiple_of(multiple) {
            return Err(CodecError::Size { height, width, multiple });
        }
        expect_values(3 * images * height * width, rgb.len())?;
        let pixels = self.pixels(height, width);
        let moments = self.moments(pixels.fold(rgb), images, &pixels);
        let (height, width) = (height / multiple, width / multiple);
        let moments = Pixels { height, width, channels: 2 * self.channels(), fold: 1 }.unfold(&moments);
        let values = self.channels() * height * width;
        let halves = || moments.chunks(2 * values).map(|moments| moments.split_at(values));
        Ok(Posterior {
            images,
            channels: self.channels(),
            height,
            width,
            mean: halves().flat_map(|(mean, _)| mean.iter().copied()).collect(),
            log_variance: halves()
                .flat_map(|(_, log)| log.iter().map(|log| log.clamp(-30.0, 20.0)))
                .collect(),
        })
    }

    /// The pictures (`images x 3 x height d x width d`, about -1..1, not clamped) of normalised latents
    /// (`images x channels x height x width`).
    ///
    /// # Errors
    ///
    /// If `latents` has another length.
    pub fn decode(
        &self,
        latents: &[f32],
        images: usize,
        height: usize,
        width: usize,
    ) -> Result<Vec<f32>, CodecError> {
        expect_values(self.channels() * images * height * width, latents.len())?;
        let mut latents = latents.to_vec();
        self.denormalize(&mut latents, height * width);
        self.reconstruct(&latents, images, height, width)
    }

    /// The pictures of latents as the encoder gave them, before any normalisation.
    ///
    /// # Errors
    ///
    /// If `latents` has another length.
    pub fn reconstruct(
        &self,
        latents: &[f32],
        images: usize,
        height: usize,
        width: usize,
    ) -> Result<Vec<f32>, CodecError> {
        let channels = self.channels();
        expect_values(channels * images * height * width, latents.len())?;
        if latents.is_empty() {
            return Ok(Vec::new());
        }
        let latents = Pixels { height, width, channels, fold: 1 }.fold(latents);
        let shape = [images, height, width, channels];
        let latents = Tensor::from_data(TensorData::new(latents, shape), &self.device);
        let folded = values_of(self.network.reconstruct(latents));
        let scale = self.downsampling();
        Ok(self.pixels(height * scale, width * scale).unfold(&folded))
    }

    /// Brings latents of `pixels` pixels a channel to unit size.
    fn normalize(&self, latents: &mut [f32], pixels: usize) {
        self.each_channel(latents, pixels, |value, (shift, scale)| *value = (*value - shift) * scale);
    }

    fn denormalize(&self, latents: &mut [f32], pixels: usize) {
        self.each_channel(latents, pixels, |value, (shift, scale)| *value = *value / scale + shift);
    }

    fn each_channel(&self, latents: &mut [f32], pixels: usize, change: impl Fn(&mut f32, (f32, f32))) {
        let lines = self.config.normalization.lines(self.channels());
        for (channel, &line) in latents.chunks_mut(pixels.max(1)).zip(lines.iter().cycle()) {
            channel.iter_mut().for_each(|value| change(value, line));
        }
    }

    fn pixels(&self, height: usize, width: usize) -> Pixels {
        Pixels { height, width, channels: 3, fold: fold_of(&self.config.architecture) }
    }

    /// Moments, channels last, of folded pictures.
    fn moments(&self, folded: Vec<f32>, images: usize, pixels: &Pixels) -> Vec<f32> {
        if folded.is_empty() {
            return Vec::new();
        }
        let [height, width, channels] = pixels.folded();
        let data = TensorData::new(folded, [images, height, width, channels]);
        values_of(self.network.moments(Tensor::from_data(data, &self.device)))
    }
}

impl Network {
    fn stored(architecture: &Architecture, tensors: Tensors, device: &Device) -> Result<Self, WeightsError> {
        let mut builder = Builder::stored(kl::rename(tensors), device);
        let network = Self::build(&mut builder, architecture)?;
        builder.finish()?;
        Ok(network)
    }

    fn build(builder: &mut Builder<'_>, architecture: &Architecture) -> Result<Self, WeightsError> {
        Ok(match architecture {
            Architecture::AutoencoderKl(shape) => Self::Kl(Box::new(AutoencoderKl::build(builder, shape)?)),
            Architecture::Patch(shape) => Self::Patch(Box::new(PatchAutoencoder::build(builder, shape)?)),
        })
    }

    fn moments(&self, folded_nhwc: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Kl(network) => network.moments(folded_nhwc),
            Self::Patch(network) => network.moments(folded_nhwc),
        }
    }

    fn reconstruct(&self, latent_nhwc: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Kl(network) => network.reconstruct(latent_nhwc),
            Self::Patch(network) => network.reconstruct(latent_nhwc),
        }
    }
}

/// Parameters of a network of these sizes.
///
/// # Panics
///
/// If [`Architecture::check`] refuses the sizes.
pub fn parameters(architecture: &Architecture) -> usize {
    let device = Device::flex();
    let mut builder = Builder::shapes(&device);
    Network::build(&mut builder, architecture).expect("counting asks nothing of a file");
    builder.into_shapes().values().map(|shape| shape.iter().product::<usize>()).sum()
}

fn fold_of(architecture: &Architecture) -> usize {
    match architecture {
        Architecture::AutoencoderKl(_) => 1,
        Architecture::Patch(shape) => shape.patch,
    }
}

fn expect_values(expected: usize, found: usize) -> Result<(), CodecError> {
    if expected == found { Ok(()) } else { Err(CodecError::Values { expected, found }) }
}

/// The fingerprint of the codec in `folder`, without building its network.
///
/// # Errors
///
/// If its files can't be read.
pub fn fingerprint_of(folder: &Path) -> Result<String, CodecError> {
    let config = folder.join(CONFIG_FILE);
    let config = fs::read(&config).map_err(CodecError::file(&config))?;
    Ok(fingerprint(&config, &read_weights(folder)?.bytes))
}

fn fingerprint(config: &[u8], weights: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(config.len() as u64).to_le_bytes()).update(config).update(weights);
    hasher.finalize().to_hex().to_string()
}
