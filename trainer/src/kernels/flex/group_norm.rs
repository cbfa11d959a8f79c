//! Group normalisation over channels-last pictures, with SiLU in the same pass.
//!
//! With `mean` and `r = 1 / sqrt(variance + epsilon)` of each group, `u = a (x - mean) + shift` where `a = r gain` is a
//! number of a channel, and `y = u` or `y = silu(u)`. Sums run over blocks of pixels, in `f32`
//! within a block and in `f64`, in order, over blocks.

use std::sync::Arc;

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{
    tensors::{Gradients, dense, sizes, tensor, values},
    vector::{multiply_add, sigmoid, vectorized},
};
use crate::kernels::types::NormSettings;

/// Pixels of a block, which decides the order of summation.
const BLOCK: usize = 256;

/// The input, the gain, the shift, mean and `r` of each group, the settings.
pub(crate) type Kept = (FlexTensor, FlexTensor, FlexTensor, Arc<[Group]>, NormSettings);

/// Mean and `1 / sqrt(variance + epsilon)` of a group of a picture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    mean: f32,
    scale: f32,
}

pub(crate) fn forward(
    x_nhwc: FlexTensor,
    gain_c: FlexTensor,
    shift_c: FlexTensor,
    norm: NormSettings,
) -> (FlexTensor, Kept) {
    let (x, gain, shift) = (dense(x_nhwc), dense(gain_c), dense(shift_c));
    let shape = Shape::new(&x, &gain, norm);
    let groups = shape.groups(values(&x), norm.epsilon);
    let mut y = vec![0.0; values(&x).len()];
    let lines = shape.lines(&groups, values(&gain));
    shape.blocks(values(&x)).zip(shape.blocks_mut(&mut y)).for_each(|((image, x), (_, y))| {
        let (a, means) = shape.line(&lines, image);
        let apply = if norm.silu { apply_silu } else { apply };
        apply(y, x, a, means, values(&shift));
    });
    (tensor::<4>(y, sizes(&x)), (x, gain, shift, groups.into(), norm))
}

pub(crate) fn backward((x, gain, shift, groups, norm): Kept, dy: FlexTensor, _: [bool; 3]) -> Gradients<3> {
    let dy = dense(dy);
    let shape = Shape::new(&x, &gain, norm);
    let lines = shape.lines(&groups, values(&gain));
    // The gradient of u.
    let mut du = values(&dy).to_vec();
    if norm.silu {
        shape.blocks(values(&x)).zip(shape.blocks_mut(&mut du)).for_each(|((image, x), (_, du))| {
            let (a, means) = shape.line(&lines, image);
            silu_backward(du, x, a, means, values(&shift));
        });
    }
    let sums = shape.gradient_sums(values(&x), &du, &groups);
    let (d_gain, d_shift) = shape.join_images(&sums);
    let back = shape.back_lines(&groups, values(&gain), &sums);
    shape.blocks(values(&x)).zip(shape.blocks_mut(&mut du)).for_each(|((image, x), (_, du))| {
        let (a, _) = shape.line(&lines, image);
        let (p, q) = shape.line(&back, image);
        input_gradient(du, x, a, p, q);
    });
    let channels = [shape.channels];
    [Some(tensor::<4>(du, sizes(&x))), Some(tensor(d_gain, channels)), Some(tensor(d_shift, channels))]
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    pixels: usize,
    channels: usize,
    groups: usize,
}

impl Shape {
    fn new(x: &FlexTensor, gain: &FlexTensor, norm: NormSettings) -> Self {
        let [_, height, width, channels] = sizes(x);
        assert_eq!([channels], sizes(gain), "the gain has one value a channel");
        assert_eq!(channels % norm.groups, 0, "{channels} channels fall into {} groups", norm.groups);
        Self { pixels: height * width, channels, groups: norm.groups }
    }

    fn image(&self) -> usize {
        (self.pixels * self.channels).max(1)
    }

    /// Blocks of pixels with the picture they belong to.
    fn blocks<'a>(&self, x: &'a [f32]) -> impl IndexedParallelIterator<Item = (usize, &'a [f32])> {
        let block = BLOCK * self.channels;
        let images = x.chunks(self.image()).enumerate();
        let blocks: Vec<_> = images.flat_map(|(at, x)| x.chunks(block).map(move |x| (at, x))).collect();
        blocks.into_par_iter()
    }

    fn blocks_mut<'a>(
        &self,
        x: &'a mut [f32],
    ) -> impl IndexedParallelIterator<Item = (usize, &'a mut [f32])> {
        let block = BLOCK * self.channels;
        let images = x.chunks_mut(self.image()).enumerate();
        let blocks: Vec<_> = images.flat_map(|(at, x)| x.chunks_mut(block).map(move |x| (at, x))).collect();
        blocks.into_par_iter()
    }

    /// Mean and scale of each group of each picture.
    fn groups(&self, x: &[f32], epsilon: f32) -> Vec<Group> {
        let count = (self.pixels * self.channels / self.groups) as f64;
        let (channels, per_group) = (self.channels, self.channels / self.groups);
        let sums: Vec<_> = self.blocks(x).map(|(at, x)| (at, channel_sums(x, channels))).collect();
        let means: Vec<f32> =
            self.join_groups(x, &sums).into_iter().map(|sum| (sum / count) as f32).collect();
        let of_channel = |image: usize| -> Vec<f32> {
            (0..channels).map(|channel| means[image * self.groups + channel / per_group]).collect()
        };
        let squares: Vec<_> =
            self.blocks(x).map(|(at, x)| (at, channel_squares(x, &of_channel(at)))).collect();
        let variances = self.join_groups(x, &squares).into_iter().map(|sum| sum / count);
        let group = |(&mean, variance): (&f32, f64)| Group {
            mean,
            scale: (1.0 / (variance + f64::from(epsilon)).sqrt()) as f32,
        };
        means.iter().zip(variances).map(group).collect()
    }

    /// Sums of channels by block, joined to sums of groups by picture.
    fn join_groups(&self, x: &[f32], blocks: &[(usize, Vec<f32>)]) -> Vec<f64> {
        let per_group = self.channels / self.groups;
        let mut sums = vec![0.0; x.len() / self.image() * self.groups];
        for (image, block) in blocks {
            let sums = &mut sums[image * self.groups..][..self.groups];
            for (sum, channels) in sums.iter_mut().zip(block.chunks(per_group)) {
                *sum += channels.iter().map(|&value| f64::from(value)).sum::<f64>();
            }
        }
        sums
    }

    /// `a` and the mean of each channel of each picture.
    fn lines(&self, groups: &[Group], gain: &[f32]) -> Vec<f32> {
        let per_group = self.channels / self.groups;
        let line = |groups: &[Group]| -> Vec<f32> {
            let a = |channel: usize| groups[channel / per_group].scale * gain[channel];
            let mean = |channel: usize| groups[channel / per_group].mean;
            (0..self.channels).map(a).chain((0..self.channels).map(mean)).collect()
        };
        groups.chunks(self.groups).flat_map(line).collect()
    }

    fn line<'a>(&self, lines: &'a [f32], image: usize) -> (&'a [f32], &'a [f32]) {
        lines[2 * image * self.channels..][..2 * self.channels].split_at(self.channels)
    }

    /// Of each picture and channel, the sums over pixels of `du` and of `du (x - mean) r`.
    fn gradient_sums(&self, x: &[f32], du: &[f32], groups: &[Group]) -> Vec<f64> {
        let per_group = self.channels / self.groups;
        let blocks: Vec<_> = self
            .blocks(x)
            .zip(self.blocks(du))
            .map(|((image, x), (_, du))| {
                let group = |channel: usize| groups[image * self.groups + channel / per_group];
                let r: Vec<f32> = (0..self.channels).map(|channel| group(channel).scale).collect();
                let means: Vec<f32> = (0..self.channels).map(|channel| group(channel).mean).collect();
                (image, gradient_sums(x, du, &r, &means))
            })
            .collect();
        let mut sums = vec![0.0; x.len() / self.image() * 2 * self.channels];
        for (image, block) in &blocks {
            let sums = &mut sums[2 * image * self.channels..][..2 * self.channels];
            sums.iter_mut().zip(block).for_each(|(sum, &value)| *sum += f64::from(value));
        }
        sums
    }

    /// The gradients of gain and shift.
    fn join_images(&self, sums: &[f64]) -> (Vec<f32>, Vec<f32>) {
        let mut joined = vec![0.0; 2 * self.channels];
        for image in sums.chunks(2 * self.channels) {
            joined.iter_mut().zip(image).for_each(|(joined, sum)| *joined += sum);
        }
        let joined: Vec<f32> = joined.into_iter().map(|sum| sum as f32).collect();
        (joined[self.channels..].to_vec(), joined[..self.channels].to_vec())
    }

    /// `p` and `q` of `dx = a du + p x + q`: with `k1` and `k2` the group's means of `gain du` and of `gain du z`,
    /// `z = (x - mean) r`, it is `r (gain du - k1 - z k2)`.
    fn back_lines(&self, groups: &[Group], gain: &[f32], sums: &[f64]) -> Vec<f32> {
        let per_group = self.channels / self.groups;
        let count = (self.pixels * per_group) as f64;
        let images = groups.chunks(self.groups).zip(sums.chunks(2 * self.channels));
        let line = |(groups, sums): (&[Group], &[f64])| {
            let (plain, with_z) = sums.split_at(self.channels);
            let mean_of = |sums: &[f64], group: usize| {
                let channels = group * per_group..(group + 1) * per_group;
                channels.map(|channel| f64::from(gain[channel]) * sums[channel]).sum::<f64>() / count
            };
            let pq = |group: usize| {
                let Group { mean, scale } = groups[group];
                let (mean, r) = (f64::from(mean), f64::from(scale));
                let (k1, k2) = (mean_of(plain, group), mean_of(with_z, group));
                ((-k2 * r * r) as f32, (k2 * r * r * mean - k1 * r) as f32)
            };
            let pairs: Vec<(f32, f32)> = (0..self.groups).map(pq).collect();
            let p: Vec<f32> = (0..self.channels).map(|channel| pairs[channel / per_group].0).collect();
            let q: Vec<f32> = (0..self.channels).map(|channel| pairs[channel / per_group].1).collect();
            [p, q].concat()
        };
        images.flat_map(line).collect()
    }
}

vectorized! {
    fn channel_sums(x: &[f32], channels: usize) -> Vec<f32> {
        let mut sums = vec![0.0; channels];
        for x in x.chunks_exact(channels) {
            for (sum, &x) in sums.iter_mut().zip(x) {
                *sum += x;
            }
        }
        sums
    }
}

vectorized! {
    fn channel_squares(x: &[f32], means: &[f32]) -> Vec<f32> {
        let mut sums = vec![0.0; means.len()];
        for x in x.chunks_exact(means.len()) {
            for ((sum, &x), &mean) in sums.iter_mut().zip(x).zip(means) {
                *sum = multiply_add::<FUSED>(x - mean, x - mean, *sum);
            }
        }
        sums
    }
}

vectorized! {
    fn gradient_sums(x: &[f32], du: &[f32], r: &[f32], means: &[f32]) -> Vec<f32> {
        let channels = r.len();
        let mut sums = vec![0.0; 2 * channels];
        let (plain, with_z) = sums.split_at_mut(channels);
        for (x, du) in x.chunks_exact(channels).zip(du.chunks_exact(channels)) {
            for channel in 0..channels {
                plain[channel] += du[channel];
                let z = (x[channel] - means[channel]) * r[channel];
                with_z[channel] = multiply_add::<FUSED>(du[channel], z, with_z[channel]);
            }
        }
        sums
    }
}

vectorized! {
    fn apply(y: &mut [f32], x: &[f32], a: &[f32], means: &[f32], shift: &[f32]) {
        for (y, x) in y.chunks_exact_mut(a.len()).zip(x.chunks_exact(a.len())) {
            for ((((y, &x), &a), &mean), &shift) in y.iter_mut().zip(x).zip(a).zip(means).zip(shift) {
                *y = multiply_add::<FUSED>(a, x - mean, shift);
            }
        }
    }
}

vectorized! {
    fn apply_silu(y: &mut [f32], x: &[f32], a: &[f32], means: &[f32], shift: &[f32]) {
        for (y, x) in y.chunks_exact_mut(a.len()).zip(x.chunks_exact(a.len())) {
            for ((((y, &x), &a), &mean), &shift) in y.iter_mut().zip(x).zip(a).zip(means).zip(shift) {
                let u = multiply_add::<FUSED>(a, x - mean, shift);
                *y = u * sigmoid::<FUSED>(u);
            }
        }
    }
}

vectorized! {
    fn silu_backward(du: &mut [f32], x: &[f32], a: &[f32], means: &[f32], shift: &[f32]) {
        for (du, x) in du.chunks_exact_mut(a.len()).zip(x.chunks_exact(a.len())) {
            for ((((du, &x), &a), &mean), &shift) in du.iter_mut().zip(x).zip(a).zip(means).zip(shift) {
                let u = multiply_add::<FUSED>(a, x - mean, shift);
                let sigmoid = sigmoid::<FUSED>(u);
                *du *= sigmoid * (1.0 + u * (1.0 - sigmoid));
            }
        }
    }
}

vectorized! {
    fn input_gradient(du: &mut [f32], x: &[f32], a: &[f32], p: &[f32], q: &[f32]) {
        for (du, x) in du.chunks_exact_mut(a.len()).zip(x.chunks_exact(a.len())) {
            for ((((du, &x), &a), &p), &q) in du.iter_mut().zip(x).zip(a).zip(p).zip(q) {
                *du = multiply_add::<FUSED>(a, *du, multiply_add::<FUSED>(p, x, q));
            }
        }
    }
}
