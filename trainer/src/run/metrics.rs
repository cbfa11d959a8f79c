//! The losses of a step, by kind. Sums are made in f64 in the order of the rows, so that a split batch reports the same.

use schemas::Order;

use super::observer::{ByOrder, StepReport};
use crate::objective::{Counts, Losses, MicroBatch};

/// A sum and what to divide it by.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// Collects the micro-batches of a step.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    text: f64,
    image: f64,
    by_t: [Mean; 4],
    by_order: [Mean; 3],
    operations: u64,
}

impl Metrics {
    /// Adds a micro-batch; `Err` names what is not finite in it. `steps` are those of the noise schedule.
    pub(super) fn add(
        &mut self,
        micro_batch: &MicroBatch,
        losses: &Losses,
        steps: u32,
    ) -> Result<(), &'static str> {
        let (nats, errors) = (losses.text_nats(), losses.image_errors());
        self.text += nats.iter().map(|&nats| f64::from(nats)).sum::<f64>();
        for (image, &error) in micro_batch.images.iter().zip(&errors) {
            let error = f64::from(error);
            self.image += f64::from(image.weight) * error;
            self.by_t[(u64::from(image.t) * 4 / u64::from(steps)).min(3) as usize].add(error);
            self.by_order[image.order as usize].add(error);
        }
        match (self.text.is_finite(), self.image.is_finite()) {
            (false, _) => Err("the text loss"),
            (_, false) => Err("the image loss"),
            _ => Ok(()),
        }
    }

    /// Counts the arithmetic of a micro-batch.
    pub(super) fn add_operations(&mut self, operations: u64) {
        self.operations += operations;
    }

    /// The losses of the global batch that has `counts`, and what was done a second. `waited` are the seconds without rows.
    pub(super) fn report(&self, counts: &Counts, lambda: f64, seconds: f64, waited: f64) -> StepReport {
        let a_second = |count: f64| if seconds > 0.0 { count / seconds } else { 0.0 };
        let mean = |sum: f64, count: u64| (count > 0).then(|| sum / count as f64);
        let (text_loss, image_loss) = (mean(self.text, counts.text_targets), mean(self.image, counts.images));
        let of = |order: Order| self.by_order[order as usize].value();
        StepReport {
            loss: text_loss.unwrap_or(0.0) + lambda * image_loss.unwrap_or(0.0),
            text_loss,
            image_loss,
            image_error_by_t: self.by_t.map(Mean::value),
            image_error_by_order: ByOrder {
                caption_first: of(Order::CaptionFirst),
                image_first: of(Order::ImageFirst),
                neither: of(Order::Neither),
            },
            text_positions: counts.text_positions,
            patch_positions: counts.patch_positions,
            images: counts.images,
            seconds,
            tokens_per_second: a_second((counts.text_positions + counts.patch_positions) as f64),
            images_per_second: a_second(counts.images as f64),
            teraflops: a_second(self.operations as f64) / 1e12,
            waiting: a_second(waited),
            ..StepReport::default()
        }
    }
}
