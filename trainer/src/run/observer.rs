//! The events of a run, and the questions that a run has to its surroundings.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::Transfusion;

/// Watches a run. Called from the training thread, between steps.
pub trait Observer {
    /// Something happened.
    fn event(&self, event: &Event<'_>);

    /// Time since some fixed moment. Rates are computed from it; nothing that is learned depends on it.
    fn elapsed(&self) -> Duration;

    /// Memory that the process holds, if it is known.
    fn memory_bytes(&self) -> Option<u64> {
        None
    }

    /// Called every `sample.every` steps with the model as it would be saved (averaged, where the run keeps an average). A run
    /// that goes on from such a step calls it again.
    fn sample(&self, step: u64, model: &Transfusion) {
        let _ = (step, model);
    }
}

/// Something that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// The first step is about to be made.
    Started {
        /// Steps done before.
        step: u64,
        /// Steps of the whole run.
        steps: u64,
        /// Parameters of the model.
        parameters: u64,
    },
    /// Something that a person should know.
    Warning(&'a str),
    /// A step was made.
    Step(&'a StepReport),
    /// A checkpoint was written.
    Saved {
        /// Its step.
        step: u64,
        /// Its folder.
        folder: &'a Path,
    },
}

/// One step in numbers: a line of `log.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Number of the step, from 1.
    pub step: u64,
    /// `text_loss + lambda image_loss`.
    pub loss: f64,
    /// Mean nats of the text targets; `None` without any.
    pub text_loss: Option<f64>,
    /// Mean over images of the diffusion loss, each weighted as `diffusion.loss-weight` says; `None` without images.
    pub image_loss: Option<f64>,
    /// Mean squared error of the images by timestep, unweighted: four equal ranges, the cleanest first.
    pub image_error_by_t: [Option<f64>; 4],
    /// The same by the order of their documents.
    pub image_error_by_order: ByOrder,
    /// Joint norm of all gradients before clipping.
    pub gradient_norm: f64,
    /// Learning rate.
    pub rate: f64,
    /// Positions of text, markers included.
    pub text_positions: u64,
    /// Positions of patches.
    pub patch_positions: u64,
    /// Images that were learned from.
    pub images: u64,
    /// Duration of the step.
    pub seconds: f64,
    /// Positions, text and patches, a second.
    pub tokens_per_second: f64,
    /// Images a second.
    pub images_per_second: f64,
    /// Operations a second of products and visible attention, forward and backward, in 10^12: see
    /// [`crate::objective::Arithmetic::operations`].
    pub teraflops: f64,
    /// Share of the step spent waiting for rows, 0 to 1.
    pub waiting: f64,
    /// Memory of the process, if it is known.
    pub memory_bytes: Option<u64>,
}

/// A value for each order of a document's parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ByOrder {
    /// Caption, then image.
    pub caption_first: Option<f64>,
    /// Image, then caption.
    pub image_first: Option<f64>,
    /// Interleaved documents.
    pub neither: Option<f64>,
}
