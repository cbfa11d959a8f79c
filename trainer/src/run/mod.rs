//! Training: rows in, weights out, a checkpoint now and then. It knows everything below but
//! sampling, and knows nothing about terminals, signals or clocks: its observer has these.
//!
//! [`TrainPlan`] settles what will be done, [`train`] does it. The way of the rows of a step to an update is in `step`, from top to
//! bottom.
//!
//! **Exact resume.** What a step computes depends on the weights, the optimizer's state, the rows, and the number of the
//! step, which all randomness is drawn from; nothing else is carried from step to step. So a run that was killed at any
//! moment and resumed any number of times has the losses and weights, bit for bit, of one that was left alone.
//! `run::tests` stops runs at counted steps and compares.

mod error;
mod folder;
mod global_batch;
mod init;
mod memory;
mod metrics;
mod observer;
mod plan;
mod step;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use burn::module::Module;

pub use error::TrainError;
pub use memory::Memory;
pub use observer::{ByOrder, Event, Observer, StepReport};
pub use plan::{DatasetDescription, Description, TrainPlan};

use crate::checkpoint::{Checkpoint, Checkpoints, Snapshot};
use crate::log::Log;
use crate::model::Transfusion;
use crate::objective::Arithmetic;
use crate::optimizer::{AdamW, MovingAverage};
use crate::stream::RowStream;
use crate::weights::{self, UnreadTensor};
use folder::RunFolder;
use global_batch::GlobalBatch;

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Updates done.
    pub step: u64,
    /// Whether it was stopped before its last step.
    pub stopped: bool,
    /// The last step; `None` if none was made this time.
    pub last: Option<StepReport>,
    /// The checkpoint of its state.
    pub checkpoint: PathBuf,
}

/// Trains until the last step of the plan, or until `stop` is set: then the step that is being made is finished and
/// saved.
///
/// # Errors
///
/// If data, disk or numbers fail. Checkpoints written before are whole, and a run continues from the newest one.
pub fn train(plan: TrainPlan, observer: &dyn Observer, stop: &AtomicBool) -> Result<Outcome, TrainError> {
    let folder = RunFolder::lock(&plan.config.run)?;
    let mut run = Run::start(&plan, &folder, observer)?;
    // A run that was stopped while it sampled has its step, but not its samples.
    run.sample_if_due()?;
    while run.step < plan.config.steps && !stop.load(Ordering::Relaxed) {
        run.make_step()?;
        run.sample_if_due()?;
        run.save_if_due(false)?;
    }
    run.save_if_due(true)?;
    let stopped = run.step < plan.config.steps;
    Ok(Outcome { step: run.step, stopped, last: run.last, checkpoint: run.checkpoints.path(run.step) })
}

/// A run under way.
struct Run<'a> {
    plan: &'a TrainPlan,
    observer: &'a dyn Observer,
    /// `None` only during a step, whose update consumes it: two copies of the weights would double the memory.
    model: Option<Transfusion>,
    optimizer: AdamW,
    average: Option<MovingAverage>,
    stream: RowStream,
    log: Log,
    checkpoints: Checkpoints,
    step: u64,
    saved_step: Option<u64>,
    /// Sum of the losses since the last checkpoint.
    unsaved_loss: f64,
    last: Option<StepReport>,
    /// The rows of the last step, to be named if it spoilt the weights.
    global_batch: Option<GlobalBatch>,
    arithmetic: Arithmetic,
}

impl<'a> Run<'a> {
    fn start(
        plan: &'a TrainPlan,
        folder: &RunFolder,
        observer: &'a dyn Observer,
    ) -> Result<Self, TrainError> {
        plan.warnings.iter().for_each(|warning| observer.event(&Event::Warning(warning)));
        let checkpoints = Checkpoints::of(&plan.config.run);
        checkpoints.clean()?;
        let step = plan.first_step();
        for (from, to) in checkpoints.set_aside_behind(step)? {
            observer.event(&Event::Warning(&set_aside(&from, &to)));
        }
        let (model, optimizer, average) = restore(plan)?;
        let cursor = plan.start.as_ref().map(|start| &start.state().cursor);
        let stream = RowStream::open(&plan.ingredients, &plan.config.stream_settings(), cursor)?;
        folder.write_config(&plan.config)?;
        let (log, unreadable) = folder.log(step)?;
        if unreadable > 0 {
            observer.event(&Event::Warning(&left_out(unreadable)));
        }
        let parameters = plan.model.parameters().total();
        observer.event(&Event::Started { step, steps: plan.config.steps, parameters });
        Ok(Self {
            plan,
            observer,
            model: Some(model),
            optimizer,
            average,
            stream,
            log,
            checkpoints,
            step,
            saved_step: plan.start.as_ref().map(|_| step),
            unsaved_loss: 0.0,
            last: None,
            global_batch: None,
            arithmetic: Arithmetic::new(&plan.model),
        })
    }

    fn model(&self) -> &Transfusion {
        self.model.as_ref().expect("the model is there between steps")
    }

    fn sample_if_due(&self) -> Result<(), TrainError> {
        let every = self.plan.config.sample.every;
        if every > 0 && self.step > 0 && self.step.is_multiple_of(every) {
            self.observer.sample(self.step, &self.shown()?);
        }
        Ok(())
    }

    /// The model as it would be sampled from: off the tape, averaged where there is an average.
    fn shown(&self) -> Result<Transfusion, TrainError> {
        let model = self.model().valid();
        match &self.average {
            Some(average) => weights::fill(model, average.tensors().clone())
                .map_err(|source| TrainError::Weights { step: self.step, source }),
            None => Ok(model),
        }
    }

    fn save_if_due(&mut self, last: bool) -> Result<(), TrainError> {
        let due = last || self.step.is_multiple_of(self.plan.config.checkpoint.every);
        if !due || self.saved_step == Some(self.step) {
            return Ok(());
        }
        let weights = weights::unread(self.model());
        if let (Some(batch), false) = (&self.global_batch, weights.values().all(UnreadTensor::is_finite)) {
            return Err(self.not_finite(batch, self.step, "a weight", batch.all()));
        }
        let steps = self.step - self.saved_step.unwrap_or(0);
        let snapshot = Snapshot {
            step: self.step,
            loss: (steps > 0).then(|| self.unsaved_loss / steps as f64),
            cursor: self.stream.cursor(),
            config: &self.plan.config,
            weights,
            optimizer: self.optimizer.tensors(),
            average: self.average.as_ref().map(|average| weights::borrowed(average.tensors())),
            computed_on: Some(&self.plan.computed_on),
            companions: &self.plan.companions,
        };
        // The lines of the steps that a checkpoint covers are not made again, so they are durable before it.
        self.log.sync()?;
        let folder = self.checkpoints.save(&snapshot)?;
        (self.saved_step, self.unsaved_loss) = (Some(self.step), 0.0);
        self.checkpoints.prune(self.plan.config.checkpoint.keep, self.step)?;
        self.observer.event(&Event::Saved { step: self.step, folder: &folder });
        Ok(())
    }
}

fn set_aside(from: &Path, to: &Path) -> String {
    let to = to.file_name().unwrap_or_default().to_string_lossy();
    format!(
        "damaged checkpoint `{}` was set aside as `{to}`; delete it when nothing of it is needed",
        from.display()
    )
}

fn left_out(lines: u64) -> String {
    let lines = if lines == 1 { "1 line".to_owned() } else { format!("{lines} lines") };
    format!("{lines} of `log.jsonl` can't be read and were left out; the run itself needs none of them")
}

/// Model, optimizer and average: fresh ones, or those of the checkpoint.
fn restore(plan: &TrainPlan) -> Result<(Transfusion, AdamW, Option<MovingAverage>), TrainError> {
    let config = &plan.config;
    let mut model = Transfusion::new(&plan.model, config.seed, &plan.device.clone().autodiff());
    let mut optimizer = AdamW::new(&model, config.optimizer.clone());
    let step = plan.first_step();
    let wrong = |source| TrainError::Weights { step, source };
    if let Some(init) = &plan.init {
        model = weights::fill(model, init.tensors()?).map_err(wrong)?;
    }
    if let Some(start) = &plan.start {
        model = weights::fill(model, start.weights()?).map_err(wrong)?;
        optimizer = optimizer.restore(start.optimizer()?, step).map_err(wrong)?;
    }
    let average = config.ema.map(|decay| {
        let saved = plan.start.as_ref().map(Checkpoint::average).transpose()?.flatten();
        let tensors = saved.unwrap_or_else(|| weights::read(&model));
        weights::check(&weights::shapes(&model), &tensors).map_err(wrong)?;
        Ok::<_, TrainError>(MovingAverage::new(tensors, decay, step))
    });
    Ok((model, optimizer, average.transpose()?))
}
