//! Trains a codec: absolute and squared error and the latents' divergence, AdamW, and at the end the latents' own mean and
//! standard deviation, which make them unit size.
//!
//! Adversarial and perceptual terms of the paper's appendix A are not part of it: without pretrained features they need more data
//! and time than a codec for small pictures is worth. Files of such codecs are read like any other.
//!
//! Every draw is named by seed and step (see [`crate::random`]), so a run has the same bits at any number of threads.
//! The folder is written beside its final name and renamed when it is whole. A step is in `step`, from top to bottom.

mod config;
mod draws;
mod measure;
mod staging;
mod step;

use std::path::Path;
use std::{fs, io, io::Write as _};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::Serialize;

use super::build::Builder;
use super::config::Normalization;
use super::kl::AutoencoderKl;
use super::patch::PatchAutoencoder;
use super::pixels::Pixels;
use super::{Architecture, CONFIG_FILE, Codec, CodecConfig, CodecError, WEIGHTS_FILE, fold_of};
use crate::log::Log;
use crate::weights::{self, WeightsError};
use staging::Staging;

pub use config::{CodecChoice, KlReduction, VaeTrainConfig};

/// Pictures to learn from, all of one size.
pub trait Pictures: Sync {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Side in pixels.
    fn size(&self) -> usize;

    /// Picture `index`: `size x size x 3` bytes (row, column, colour).
    fn rgb(&self, index: usize) -> &[u8];
}

/// Events of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum VaeEvent {
    /// An update was made.
    Step(VaeStep),
    /// The latents' mean and deviation are being measured.
    Measuring {
        /// Pictures encoded so far.
        done: usize,
        /// Pictures to encode.
        of: usize,
    },
}

/// One update.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct VaeStep {
    /// Which, from 1.
    pub step: u64,
    /// Of how many.
    pub steps: u64,
    /// The weighted sum of the parts.
    pub loss: f64,
    /// Mean absolute error of a value, in units of -1..1.
    pub l1: f64,
    /// Mean squared error of a value.
    pub mse: f64,
    /// Divergence in nats: a picture's sum, or mean over its values, as the settings say.
    pub kl: f64,
    /// Joint norm of the gradients before clipping.
    pub gradient_norm: f64,
    /// Learning rate.
    pub rate: f64,
}

/// Follows a run, and may end it.
pub trait VaeObserver: Sync {
    /// Something happened.
    fn event(&self, event: &VaeEvent);

    /// Whether to stop before the next step.
    fn stop(&self) -> bool {
        false
    }
}

/// For callers that don't want to know.
impl VaeObserver for () {
    fn event(&self, _: &VaeEvent) {}
}

/// Trains a codec on `pictures` and writes it to `config.output`.
///
/// # Errors
///
/// If the settings make no sense or don't fit the pictures, the output holds a codec already or can't be written, the loss stops being a
/// number, or the observer asks to stop. Nothing is left under the output's name then.
pub fn train(
    pictures: &dyn Pictures,
    config: &VaeTrainConfig,
    device: &Device,
    observer: &dyn VaeObserver,
) -> Result<Codec, CodecError> {
    check(pictures, config)?;
    let staging = Staging::new(&config.output)?;
    let path = staging.folder.join("log.jsonl");
    let log = fs::File::create(&path).map_err(CodecError::file(&path))?;
    let mut run = Run { pictures, config, device, observer, log: Log::new(path, log) };
    match config.model.architecture()? {
        Architecture::AutoencoderKl(shape) => {
            run.make(&staging, |builder| AutoencoderKl::build(builder, &shape))?
        }
        Architecture::Patch(shape) => {
            run.make(&staging, |builder| PatchAutoencoder::build(builder, &shape))?
        }
    };
    staging.publish()?;
    Codec::load(&config.output, device)
}

fn check(pictures: &dyn Pictures, config: &VaeTrainConfig) -> Result<(), CodecError> {
    config.check()?;
    if pictures.is_empty() {
        return Err(CodecError::NoPictures);
    }
    if pictures.size() != config.size {
        let reason = format!("is {}, the pictures are {} pixels", config.size, pictures.size());
        return Err(CodecError::Setting { key: "size", reason });
    }
    if config.output.file_name().is_none() {
        let reason = format!("must name a folder, it is `{}`", config.output.display());
        return Err(CodecError::Setting { key: "output", reason });
    }
    match fs::read_dir(&config.output).map(|mut files| files.next().is_none()) {
        Ok(false) => Err(CodecError::Exists(config.output.clone())),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CodecError::File { path: config.output.clone(), source: error })
        }
        _ => Ok(()),
    }
}

/// A network that can be trained.
trait Autoencoder: Module {
    fn moments(&self, folded_nhwc: Tensor<4>) -> Tensor<4>;
    fn reconstruct(&self, latent_nhwc: Tensor<4>) -> Tensor<4>;
}

impl Autoencoder for AutoencoderKl {
    fn moments(&self, folded_nhwc: Tensor<4>) -> Tensor<4> {
        AutoencoderKl::moments(self, folded_nhwc)
    }
    fn reconstruct(&self, latent_nhwc: Tensor<4>) -> Tensor<4> {
        AutoencoderKl::reconstruct(self, latent_nhwc)
    }
}

impl Autoencoder for PatchAutoencoder {
    fn moments(&self, folded_nhwc: Tensor<4>) -> Tensor<4> {
        PatchAutoencoder::moments(self, folded_nhwc)
    }
    fn reconstruct(&self, latent_nhwc: Tensor<4>) -> Tensor<4> {
        PatchAutoencoder::reconstruct(self, latent_nhwc)
    }
}

struct Run<'a> {
    pictures: &'a dyn Pictures,
    config: &'a VaeTrainConfig,
    device: &'a Device,
    observer: &'a dyn VaeObserver,
    log: Log,
}

impl Run<'_> {
    /// Trains, measures, and writes the files of the codec.
    fn make<M: Autoencoder>(
        &mut self,
        staging: &Staging,
        build: impl Fn(&mut Builder<'_>) -> Result<M, WeightsError>,
    ) -> Result<(), CodecError> {
        let weights_path = staging.folder.join(WEIGHTS_FILE);
        let wrong = |source| CodecError::Weights { path: weights_path.clone(), source };
        let training_device = self.device.clone().autodiff();
        let fresh = build(&mut Builder::fresh(self.config.seed, &training_device)).map_err(wrong)?;
        let trained = self.make_steps(fresh, &training_device)?;
        let bytes = weights::to_bytes(&weights::read(&trained)).map_err(wrong)?;
        drop(trained);
        let plain = Normalization { scaling: 1.0, shift: 0.0, channels: None };
        write(&weights_path, &bytes)?;
        let config = self.codec_config(plain)?;
        let codec = Codec::from_parts(config, Vec::new(), &bytes, &weights_path, self.device)?;
        let config = self.codec_config(self.measure(&codec)?)?;
        write(&staging.folder.join(CONFIG_FILE), &config.to_json())
    }

    fn codec_config(&self, normalization: Normalization) -> Result<CodecConfig, CodecError> {
        let architecture = self.config.model.architecture()?;
        Ok(CodecConfig { architecture, normalization, sample_size: Some(self.config.size) })
    }

    fn pixels(&self) -> Result<Pixels, CodecError> {
        let size = self.config.size;
        let fold = fold_of(&self.config.model.architecture()?);
        Ok(Pixels { height: size, width: size, channels: 3, fold })
    }
}

/// Writes a file and waits until the disk has it.
fn write(path: &Path, bytes: &[u8]) -> Result<(), CodecError> {
    let file = fs::File::create(path);
    let written = file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(CodecError::file(path))
}
