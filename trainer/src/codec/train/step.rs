//! The steps of a run, each from its pictures to its line in the log.

use burn::tensor::{Device, Tensor};

use super::draws::Draws;
use super::{Autoencoder, KlReduction, Run, VaeEvent, VaeStep, VaeTrainConfig};
use crate::codec::CodecError;
use crate::optimizer::{AdamW, Gradients};
use crate::weights::values_of;

impl Run<'_> {
    pub(super) fn make_steps<M: Autoencoder>(
        &mut self,
        mut network: M,
        device: &Device,
    ) -> Result<M, CodecError> {
        let config = self.config;
        let mut draws = Draws::new(self.pictures, config, self.pixels()?);
        let mut optimizer = AdamW::new(&network, config.optimizer());
        let schedule = config.schedule();
        for step in 1..=config.steps {
            if self.observer.stop() {
                return Err(CodecError::Stopped { step: step - 1 });
            }
            // Pictures, a draw of their latents, and the pictures made of it.
            let x_nhwc = draws.pictures(step, device);
            let (mean_nhwc, log_nhwc) = moments(&network, x_nhwc.clone());
            let noise_nhwc = draws.noise(step, mean_nhwc.dims(), device);
            let latent_nhwc = mean_nhwc.clone() + (log_nhwc.clone() * 0.5).exp() * noise_nhwc;
            let error_nhwc = network.reconstruct(latent_nhwc) - x_nhwc;

            // Losses forward, gradients backward.
            let losses = Losses::new(error_nhwc, mean_nhwc, log_nhwc, config.kl_reduction);
            let (report, total) = losses.report(config);
            let mut gradients = Gradients::default();
            gradients.add(&network, &mut total.backward());

            // The joint norm of all gradients, which nothing is learned from unless it and the loss are numbers.
            let gradient_norm = gradients.norm();
            if !(report.loss.is_finite() && gradient_norm.is_finite()) {
                return Err(CodecError::Diverged { step, loss: report.loss });
            }

            // Clipping and the update.
            let (rate, clip) = (schedule.rate_at(step), optimizer.clip_scale(gradient_norm));
            network = optimizer.update(network, &gradients, clip, rate, None);

            // The log.
            let report = VaeStep { step, gradient_norm, rate, ..report };
            if step.is_multiple_of(config.log_every) || step == config.steps {
                self.log.write(&report)?;
            }
            self.observer.event(&VaeEvent::Step(report));
        }
        Ok(network)
    }
}

/// Mean and log variance of the latents of pictures.
fn moments<M: Autoencoder>(network: &M, x_nhwc: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let moments = network.moments(x_nhwc);
    let channels = moments.dims()[3];
    let mut halves = moments.split(channels / 2, 3).into_iter();
    match (halves.next(), halves.next()) {
        (Some(mean), Some(log)) => (mean, log.clamp(-30.0, 20.0)),
        _ => unreachable!("an even number of channels has two halves"),
    }
}

/// One number a picture, `[n, 1]`.
struct Losses {
    l1: Tensor<2>,
    mse: Tensor<2>,
    kl: Tensor<2>,
}

impl Losses {
    fn new(error_nhwc: Tensor<4>, mean_nhwc: Tensor<4>, log_nhwc: Tensor<4>, reduction: KlReduction) -> Self {
        let n = error_nhwc.dims()[0] as i32;
        let error = error_nhwc.reshape([n, -1]);
        let kl = (mean_nhwc.square() + log_nhwc.clone().exp() - log_nhwc - 1.0) * 0.5;
        let kl = kl.reshape([n, -1]);
        let kl = match reduction {
            KlReduction::Sum => kl.sum_dim(1),
            KlReduction::Mean => kl.mean_dim(1),
        };
        Self { l1: error.clone().abs().mean_dim(1), mse: error.square().mean_dim(1), kl }
    }

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
