//! A new run that starts from the weights of another: `init` in its config. Nothing but weights comes from there; schedule,
//! optimizer, data and randomness are the new run's own.

use std::path::Path;

use super::TrainError;
use crate::checkpoint::{Checkpoint, Companions};
use crate::config::{InitWeights, TrainConfig, differences};
use crate::model::ModelPlan;
use crate::weights::Tensors;

/// The checkpoint whose weights a run starts from.
#[derive(Debug)]
pub(super) struct Init {
    checkpoint: Checkpoint,
    which: InitWeights,
}

impl Init {
    /// Opens `init` of a config, if it has one; the second value says what is wrong with newer checkpoints.
    ///
    /// # Errors
    ///
    /// If there is no whole checkpoint, or its weights are those of another model, tokenizer or codec.
    pub(super) fn open(
        config: &TrainConfig,
        model: &ModelPlan,
        companions: &Companions,
    ) -> Result<Option<(Self, Vec<String>)>, TrainError> {
        let Some(path) = &config.init else { return Ok(None) };
        let (checkpoint, damage) = Checkpoint::open(path)?;
        check(path, &checkpoint, model, companions)?;
        let step = checkpoint.state().step;
        let warning = |what: String| format!("{what}; `init` takes the checkpoint of step {step} instead");
        let warnings = damage.into_iter().map(warning).collect();
        Ok(Some((Self { checkpoint, which: config.init_weights }, warnings)))
    }

    /// The weights.
    pub(super) fn tensors(&self) -> Result<Tensors, TrainError> {
        let average = match self.which {
            InitWeights::Best => self.checkpoint.average()?,
            InitWeights::Last => None,
        };
        Ok(average.map_or_else(|| self.checkpoint.weights(), Ok)?)
    }

    /// The checkpoint's folder.
    pub(super) fn folder(&self) -> &Path {
        self.checkpoint.folder()
    }
}

fn check(
    path: &Path,
    checkpoint: &Checkpoint,
    model: &ModelPlan,
    companions: &Companions,
) -> Result<(), TrainError> {
    let mut found = Vec::new();
    if checkpoint.state().tokenizer != schemas::content_hash(&companions.tokenizer) {
        found.push("the tokenizer".to_owned());
    }
    let codecs = (&checkpoint.state().codec, &companions.codec_fingerprint);
    if let (Some(saved), Some(given)) = codecs
        && saved != given
    {
        found.push("the codec".to_owned());
    }
    let saved = checkpoint.config().model.config()?;
    for (key, saved, given) in differences(&saved, &model.config()) {
        // Where its weights began says nothing about a trained model.
        if !key.starts_with("initial.") {
            found.push(format!("`model.{key}` (there {saved}, here {given})"));
        }
    }
    match found.is_empty() {
        true => Ok(()),
        false => Err(TrainError::Init { path: path.to_owned(), differences: found.join(", ") }),
    }
}
