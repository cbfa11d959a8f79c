//! The size of a trained codec's latents.

use super::{Run, VaeEvent, draws};
use crate::codec::config::Normalization;
use crate::codec::{Codec, CodecError};

/// Pixels whose latents are measured at the end, as far as the number of pictures stays within bounds.
const MEASURED_PIXELS: usize = 1 << 24;

impl Run<'_> {
    /// Mean and deviation of the latents, by channel.
    pub(super) fn measure(&self, codec: &Codec) -> Result<Normalization, CodecError> {
        let pixels = self.pixels()?;
        let of = (MEASURED_PIXELS / (pixels.height * pixels.width)).clamp(64, 4096);
        let sample = draws::some(self.pictures.len(), of, self.config.seed);
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
