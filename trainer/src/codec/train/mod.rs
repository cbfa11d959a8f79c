//! Trains a codec: absolute and squared error and the latents' divergence, AdamW, and at the end the latents' own mean and
//! standard deviation, which make them unit size.
//!
//! Adversarial and perceptual terms of the paper's appendix A are not part of it: without pretrained features they need more data
//! and time than a codec for small pictures is worth. Files of such codecs are read like any other.
//!
//! Every draw is named by seed and step (see [`crate::random`]), so a run has the same bits at any number of threads.
//! The folder is written beside its final name and renamed when it is whole.

mod batches;
mod config;
mod log;

use std::path::{Path, PathBuf};
use std::{fs, io, io::Write as _};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde::Serialize;

use super::build::Builder;
use super::config::Normalization;
use super::kl::AutoencoderKl;
use super::patch::PatchAutoencoder;
use super::pixels::Pixels;
use super::{Architecture, CONFIG_FILE, Codec, CodecConfig, CodecError, WEIGHTS_FILE, fold_of};
use crate::optimizer::{AdamW, Gradients};
use crate::weights::{self, WeightsError, values_of};
use batches::Batches;
use log::Log;

pub use config::{KlReduction, ModelChoice, VaeTrainConfig};

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

/// What a run tells while it goes.
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
    let mut run = Run { pictures, config, device, observer, log: Log::create(&staging.folder)? };
    match config.model.architecture()? {
        Architecture::AutoencoderKl(shape) => {
            run.make(&staging, |builder| AutoencoderKl::build(builder, &shape))?
        }
        Architecture::Patch(shape) => {
            run.make(&staging, |builder| PatchAutoencoder::build(builder, &shape))?
        }
    };
    run.log.close()?;
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

/// Pixels whose latents are measured at the end, as far as the number of pictures stays within bounds.
const MEASURED_PIXELS: usize = 1 << 24;

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
        let trained = self.fit(fresh, &training_device)?;
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

    fn fit<M: Autoencoder>(&mut self, mut network: M, device: &Device) -> Result<M, CodecError> {
        let mut batches = Batches::new(self.pictures, self.config, self.pixels()?);
        let mut optimizer = AdamW::new(&network, self.config.optimizer());
        let schedule = self.config.schedule();
        for step in 1..=self.config.steps {
            if self.observer.stop() {
                return Err(CodecError::Stopped { step: step - 1 });
            }
            let losses = self.losses(&network, &mut batches, step, device);
            let mut gradients = Gradients::default();
            let (report, total) = losses.report(self.config);
            gradients.add(&network, &mut total.backward());
            let gradient_norm = gradients.norm();
            let rate = schedule.rate_at(step);
            let report = VaeStep { step, gradient_norm, rate, ..report };
            if !(report.loss.is_finite() && gradient_norm.is_finite()) {
                return Err(CodecError::Diverged { step, loss: report.loss });
            }
            network = optimizer.update(network, &gradients, gradient_norm, rate, None);
            if step.is_multiple_of(self.config.log_every) || step == self.config.steps {
                self.log.write(&report)?;
            }
            self.observer.event(&VaeEvent::Step(report));
        }
        Ok(network)
    }

    fn losses<M: Autoencoder>(
        &self,
        network: &M,
        batches: &mut Batches<'_>,
        step: u64,
        device: &Device,
    ) -> Losses {
        let x = batches.pictures(step, device);
        let moments = network.moments(x.clone());
        let [n, _, _, channels] = moments.dims();
        let mut halves = moments.split(channels / 2, 3).into_iter();
        let (mean, log) = match (halves.next(), halves.next()) {
            (Some(mean), Some(log)) => (mean, log.clamp(-30.0, 20.0)),
            _ => unreachable!("an even number of channels has two halves"),
        };
        let noise = batches.noise(step, mean.dims(), device);
        let latent = mean.clone() + (log.clone() * 0.5).exp() * noise;
        let error = (network.reconstruct(latent) - x).reshape([n as i32, -1]);
        let kl = (mean.square() + log.clone().exp() - log - 1.0) * 0.5;
        let kl = kl.reshape([n as i32, -1]);
        let kl = match self.config.kl_reduction {
            KlReduction::Sum => kl.sum_dim(1),
            KlReduction::Mean => kl.mean_dim(1),
        };
        Losses { l1: error.clone().abs().mean_dim(1), mse: error.square().mean_dim(1), kl }
    }

    /// Mean and deviation of the latents, by channel.
    fn measure(&self, codec: &Codec) -> Result<Normalization, CodecError> {
        let pixels = self.pixels()?;
        let of = (MEASURED_PIXELS / (pixels.height * pixels.width)).clamp(64, 4096);
        let sample = batches::sample(self.pictures.len(), of, self.config.seed);
        let mut sums = vec![[0.0f64; 3]; codec.channels()];
        let mut done = 0;
        for indices in sample.chunks(self.config.batch) {
            if self.observer.stop() {
                return Err(CodecError::Stopped { step: self.config.steps });
            }
            let mut folded = Vec::new();
            indices.iter().for_each(|&index| pixels.fold_rgb(self.pictures.rgb(index), false, &mut folded));
            let moments = codec.moments(folded, indices.len(), &pixels);
            add_moments(&mut sums, &moments);
            done += indices.len();
            self.observer.event(&VaeEvent::Measuring { done, of: sample.len() });
        }
        let channels = sums.iter().map(mean_and_deviation).collect();
        Ok(Normalization { scaling: 1.0, shift: 0.0, channels: Some(channels) })
    }
}

/// Adds count, sum and sum of squares of the means, which are the first half of each pixel's channels.
fn add_moments(sums: &mut [[f64; 3]], moments: &[f32]) {
    for pixel in moments.chunks_exact(2 * sums.len()) {
        for ([count, sum, squares], &value) in sums.iter_mut().zip(pixel) {
            *count += 1.0;
            *sum += f64::from(value);
            *squares += f64::from(value) * f64::from(value);
        }
    }
}

/// A channel that never changes keeps its size.
fn mean_and_deviation(&[count, sum, squares]: &[f64; 3]) -> (f32, f32) {
    let mean = sum / count;
    let deviation = (squares / count - mean * mean).max(0.0).sqrt() as f32;
    (mean as f32, if deviation.is_normal() { deviation } else { 1.0 })
}

/// One number a picture, `[n, 1]`.
struct Losses {
    l1: Tensor<2>,
    mse: Tensor<2>,
    kl: Tensor<2>,
}

impl Losses {
    /// The numbers, and the loss to differentiate. Rate, norm and step are left for the caller.
    fn report(self, config: &VaeTrainConfig) -> (VaeStep, Tensor<1>) {
        let mean = |part: &Tensor<2>| {
            let values = values_of(part.clone());
            values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64
        };
        let (l1, mse, kl) = (mean(&self.l1), mean(&self.mse), mean(&self.kl));
        let loss = config.l1 * l1 + config.mse * mse + config.kl * kl;
        let total = self.l1 * config.l1 + self.mse * config.mse + self.kl * config.kl;
        let report =
            VaeStep { step: 0, steps: config.steps, loss, l1, mse, kl, gradient_norm: 0.0, rate: 0.0 };
        (report, total.mean())
    }
}

/// A folder beside the output, in which it is made; removed unless published.
struct Staging {
    folder: PathBuf,
    output: PathBuf,
}

impl Staging {
    fn new(output: &Path) -> Result<Self, CodecError> {
        let mut name = output.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let staging = Self { folder: output.with_file_name(name), output: output.to_owned() };
        // What a killed run left behind.
        staging.remove().map_err(CodecError::file(&staging.folder))?;
        fs::create_dir_all(&staging.folder).map_err(CodecError::file(&staging.folder))?;
        Ok(staging)
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn publish(self) -> Result<(), CodecError> {
        // An empty folder may stand there; anything else is refused by the system.
        fs::rename(&self.folder, &self.output).map_err(CodecError::file(&self.output))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After a failure; the error that is on its way says more than one from here would.
        let _ = self.remove();
    }
}

/// Writes a file and waits until the disk has it.
fn write(path: &Path, bytes: &[u8]) -> Result<(), CodecError> {
    let file = fs::File::create(path);
    let written = file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(CodecError::file(path))
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}
