//! The latent of a picture as an encoder gives it: a normal distribution at each value.

/// Means and log variances of a batch, each `images x channels x height x width`.
#[derive(Clone, Debug, PartialEq)]
pub struct Posterior {
    /// Pictures.
    pub images: usize,
    /// Channels of a latent.
    pub channels: usize,
    /// Latent pixels.
    pub height: usize,
    /// Latent pixels.
    pub width: usize,
    /// The most likely latent, which [`super::Codec::encode`] gives.
    pub mean: Vec<f32>,
    /// Logarithm of the variance, clamped to -30..20.
    pub log_variance: Vec<f32>,
}

impl Posterior {
    /// Standard deviations.
    pub fn std(&self) -> Vec<f32> {
        self.log_variance.iter().map(|value| (0.5 * value).exp()).collect()
    }

    /// `mean + std * noise`.
    ///
    /// # Panics
    ///
    /// If there isn't one number of noise a latent value.
    pub fn sample(&self, noise: &[f32]) -> Vec<f32> {
        assert_eq!(noise.len(), self.mean.len(), "one number of noise a latent value");
        let values = self.mean.iter().zip(self.std()).zip(noise);
        values.map(|((mean, std), noise)| mean + std * noise).collect()
    }

    /// Divergence from the standard normal distribution in nats, summed over the values of each picture.
    pub fn kl(&self) -> Vec<f32> {
        let one = |(&mean, &log): (&f32, &f32)| {
            let (mean, log) = (f64::from(mean), f64::from(log));
            0.5 * (mean * mean + log.exp() - 1.0 - log)
        };
        let values = (self.channels * self.height * self.width).max(1);
        let pictures = self.mean.chunks(values).zip(self.log_variance.chunks(values));
        pictures.map(|(means, logs)| means.iter().zip(logs).map(one).sum::<f64>() as f32).collect()
    }
}
