//! Faults of a codec.

use std::{io, path::PathBuf};

use crate::log::LogError;
use crate::weights::WeightsError;

/// Why a codec can't be loaded, saved, trained or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// A file can't be read or written.
    #[error("codec file `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A `config.json` that is no JSON, lacks a key, or has one that this program doesn't know.
    #[error("`{}` can't be used: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },
    /// A codec of a kind that this program doesn't have.
    #[error("`{}` is of class `{found}`, expected `AutoencoderKL` or `PatchAutoencoder`", path.display())]
    Class {
        /// The file.
        path: PathBuf,
        /// Its `_class_name`.
        found: String,
    },
    /// Weights that are damaged or don't fit the config.
    #[error("codec weights `{}`", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: WeightsError,
    },
    /// Weights with values that are no numbers: whatever they compute is none either.
    #[error("codec weights `{}`: tensor `{name}` has values that are no finite numbers\nhint: the file is damaged or its training had diverged; fetch it again, or train the codec again", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// No weights in a form that can be read.
    #[error("codec folder `{}` has {found}, expected `diffusion_pytorch_model.safetensors`\nhint: {hint}", folder.display())]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// The files there.
        found: String,
        /// Advice.
        hint: &'static str,
    },
    /// Sizes of a model that can't be built.
    #[error("codec model: {0}")]
    Model(String),
    /// A preset that doesn't exist.
    #[error("there is no codec preset `{0}`\nhint: the presets are `demo`, `tiny` and `86m`")]
    Preset(String),
    /// A picture that doesn't divide into latents.
    #[error("pictures of {height} x {width} can't be encoded: both sides must be multiples of {multiple}")]
    Size {
        /// Pixels.
        height: usize,
        /// Pixels.
        width: usize,
        /// Pixels of a latent's side.
        multiple: usize,
    },
    /// As many values as a batch doesn't have.
    #[error("a batch of {expected} values was expected, {found} were given")]
    Values {
        /// The product of the batch's sizes.
        expected: usize,
        /// The values given.
        found: usize,
    },
    /// A setting of a training run that makes no sense.
    #[error("`{key}` {reason}")]
    Setting {
        /// The key, as it is written in the file.
        key: &'static str,
        /// The range, and the value found.
        reason: String,
    },
    /// No pictures to learn from.
    #[error("there are no pictures to train the codec on")]
    NoPictures,
    /// The output is there already.
    #[error("`{}` is not empty\nhint: name another `output`, or remove the folder", .0.display())]
    Exists(PathBuf),
    /// The loss is not a number any more.
    #[error("the codec's loss became {loss} at step {step}; nothing was written\nhint: lower `rate`")]
    Diverged {
        /// The step, from 1.
        step: u64,
        /// The loss.
        loss: f64,
    },
    /// The observer asked to stop.
    #[error("codec training was stopped after step {step}; nothing was written")]
    Stopped {
        /// Steps that were done.
        step: u64,
    },
}

impl CodecError {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

impl From<LogError> for CodecError {
    fn from(LogError { path, source }: LogError) -> Self {
        Self::File { path, source }
    }
}
