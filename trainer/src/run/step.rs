//! One step, from its rows to its line in the log.

use std::ops::Range;

use super::global_batch::GlobalBatch;
use super::metrics::Metrics;
use super::{Event, Run, StepReport, TrainError};
use crate::objective::{Draw, counts, prepare};
use crate::optimizer::Gradients;

impl Run<'_> {
    pub(super) fn make_step(&mut self) -> Result<(), TrainError> {
        let (plan, config, step) = (self.plan, &self.plan.config, self.step + 1);
        let begin = self.observer.elapsed();
        let seconds = || self.observer.elapsed().saturating_sub(begin).as_secs_f64();

        // The rows of the global batch, and the counts that its losses are divided by.
        let batch = GlobalBatch::new(self.stream.next_rows(config.batch)?);
        let waited = seconds();
        let counts = counts(batch.rows(), plan.model.vocabulary());

        // Its micro-batches, one after another: losses forward, gradients backward, added up in that order.
        let model = self.model.take().expect("the model is there between steps");
        let (mut gradients, mut metrics) = (Gradients::default(), Metrics::default());
        for rows in batch.micro_batches(config.micro_batch.unwrap_or(config.batch)) {
            let draw = Draw { seed: config.seed, step, first_row: rows.start as u64 };
            let micro_batch = prepare(&batch.rows()[rows.clone()], &plan.objective, &plan.model, draw)?;
            let losses = micro_batch.losses(&model);
            metrics.add_operations(self.arithmetic.operations(&micro_batch));
            let finite = metrics.add(&micro_batch, &losses, config.diffusion.steps);
            finite.map_err(|what| self.not_finite(&batch, step, what, rows))?;
            if let Some(loss) = losses.total(&counts, config.lambda) {
                gradients.add(&model, &mut loss.backward());
            }
        }

        // The joint norm of all gradients, which nothing is learned from unless it is a number.
        let gradient_norm = gradients.norm();
        if !gradient_norm.is_finite() {
            return Err(self.not_finite(&batch, step, "the gradient", batch.all()));
        }

        // Clipping, the update, and the average behind it.
        let rate = plan.schedule.rate_at(step);
        let clip = self.optimizer.clip_scale(gradient_norm);
        self.model = Some(self.optimizer.update(model, &gradients, clip, rate, self.average.as_mut()));
        self.step = step;
        self.global_batch = Some(batch);

        // The log.
        let report = metrics.report(&counts, config.lambda, seconds(), waited);
        let memory_bytes = self.observer.memory_bytes();
        let report = StepReport { step, gradient_norm, rate, memory_bytes, ..report };
        self.unsaved_loss += report.loss;
        if step.is_multiple_of(config.log.every) || step == config.steps {
            self.log.write(&report)?;
        }
        self.observer.event(&Event::Step(&report));
        self.last = Some(report);
        Ok(())
    }

    /// The error of a number that `rows` made infinite or NaN.
    pub(super) fn not_finite(
        &self,
        batch: &GlobalBatch,
        step: u64,
        what: &'static str,
        rows: Range<usize>,
    ) -> TrainError {
        let run = self.saved_step.map(|_| self.plan.config.run.clone());
        TrainError::NotFinite { step, what, rows: batch.names_of(rows), run }
    }
}
