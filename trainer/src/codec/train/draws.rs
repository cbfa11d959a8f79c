//! Which pictures a step sees, and its noise: functions of seed and step.

use burn::tensor::{Device, Tensor, TensorData};

use super::{Pictures, VaeTrainConfig};
use crate::codec::pixels::Pixels;
use crate::random::Stream;

/// The draws of a run.
pub(super) struct Draws<'a> {
    pictures: &'a dyn Pictures,
    config: &'a VaeTrainConfig,
    pixels: Pixels,
    /// The order of the pictures in one epoch.
    order: (u64, Vec<u32>),
}

impl<'a> Draws<'a> {
    pub(super) fn new(pictures: &'a dyn Pictures, config: &'a VaeTrainConfig, pixels: Pixels) -> Self {
        Self { pictures, config, pixels, order: (0, shuffled(pictures.len(), config.seed, 0)) }
    }

    /// The folded pictures of step `step`, from 1.
    pub(super) fn pictures(&mut self, step: u64, device: &Device) -> Tensor<4> {
        let count = self.config.batch;
        let [height, width, channels] = self.pixels.folded();
        let mut folded = Vec::with_capacity(count * height * width * channels);
        let mut flips = Stream::new(self.config.seed, "codec flip", &[step]);
        for place in 0..count as u64 {
            let index = self.index((step - 1) * count as u64 + place);
            let flip = self.config.flip && flips.below(2) == 1;
            self.pixels.fold_rgb(self.pictures.rgb(index), flip, &mut folded);
        }
        tensor(folded, [count, height, width, channels], device)
    }

    pub(super) fn noise(&self, step: u64, shape: [usize; 4], device: &Device) -> Tensor<4> {
        let count = shape.iter().product();
        tensor(Stream::new(self.config.seed, "codec noise", &[step]).normals(count), shape, device)
    }

    /// The picture at `place` in the endless list of shuffled epochs.
    fn index(&mut self, place: u64) -> usize {
        let count = self.pictures.len() as u64;
        let epoch = place / count;
        if self.order.0 != epoch {
            self.order = (epoch, shuffled(count as usize, self.config.seed, epoch));
        }
        self.order.1[(place % count) as usize] as usize
    }
}

/// Up to `most` of `count` pictures, the same for equal arguments.
pub(super) fn some(count: usize, most: usize, seed: u64) -> Vec<usize> {
    let order = shuffled(count, seed, u64::MAX);
    order.into_iter().take(most).map(|index| index as usize).collect()
}

/// The numbers below `count` (at most 2^32), each order as likely as any other (Fisher and Yates).
fn shuffled(count: usize, seed: u64, epoch: u64) -> Vec<u32> {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let mut order: Vec<u32> = (0..count).collect();
    let mut stream = Stream::new(seed, "codec order", &[epoch]);
    for last in (1..count).rev() {
        order.swap(last as usize, stream.below(last + 1) as usize);
    }
    order
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}
