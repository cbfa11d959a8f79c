//! RMSNorm, a row at a time: `y = x r gain` with `r = 1 / sqrt(mean(x^2) + epsilon)`.

use std::sync::Arc;

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{
    tensors::{Gradients, dense, sizes, tensor, values},
    vector::{dot, multiply_add, vectorized},
};

/// Rows a task works on. The gain's gradient is summed within these and then over them in order, so this is part of the result.
const ROWS: usize = 32;

/// The input, the gain, and `r` of each row.
pub(crate) type Kept = (FlexTensor, FlexTensor, Arc<[f32]>);

pub(crate) fn forward(x_nd: FlexTensor, gain_d: FlexTensor, epsilon: f32) -> (FlexTensor, Kept) {
    let (x_nd, gain_d) = (dense(x_nd), dense(gain_d));
    let [n, d] = sizes(&x_nd);
    assert_eq!([d], sizes(&gain_d), "the gain has one value a column");
    let (mut y, mut scales) = (vec![0.0; n * d], vec![0.0; n]);
    let gain = values(&gain_d);
    y.par_chunks_mut(ROWS * d)
        .zip(scales.par_chunks_mut(ROWS))
        .zip(values(&x_nd).par_chunks(ROWS * d))
        .for_each(|((y, scales), x)| normalize(y, scales, x, gain, epsilon));
    (tensor(y, [n, d]), (x_nd, gain_d, scales.into()))
}

pub(crate) fn backward((x_nd, gain_d, scales): Kept, dy_nd: FlexTensor, _: [bool; 2]) -> Gradients<2> {
    let dy_nd = dense(dy_nd);
    let [n, d] = sizes(&x_nd);
    let mut dx = vec![0.0; n * d];
    let mut partial = vec![0.0; n.div_ceil(ROWS) * d];
    let gain = values(&gain_d);
    dx.par_chunks_mut(ROWS * d)
        .zip(partial.par_chunks_mut(d))
        .zip(scales.par_chunks(ROWS))
        .zip(values(&x_nd).par_chunks(ROWS * d))
        .zip(values(&dy_nd).par_chunks(ROWS * d))
        .for_each(|((((dx, d_gain), scales), x), dy)| normalize_backward(dx, d_gain, scales, x, dy, gain));
    let mut d_gain = vec![0.0; d];
    for part in partial.chunks(d) {
        d_gain.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    [Some(tensor(dx, [n, d])), Some(tensor(d_gain, [d]))]
}

vectorized! {
    fn normalize(y: &mut [f32], scales: &mut [f32], x: &[f32], gain: &[f32], epsilon: f32) {
        let width = gain.len();
        for ((y, scale), x) in y.chunks_exact_mut(width).zip(scales).zip(x.chunks_exact(width)) {
            *scale = 1.0 / (dot::<FUSED>(x, x) / width as f32 + epsilon).sqrt();
            for ((y, &x), &gain) in y.iter_mut().zip(x).zip(gain) {
                *y = x * *scale * gain;
            }
        }
    }
}

vectorized! {
    /// `dx = r (g dy) - x r^3 mean(g dy x)`, and the sum over rows of `dy x r` for the gain.
    fn normalize_backward(
        dx: &mut [f32], d_gain: &mut [f32], scales: &[f32], x: &[f32], dy: &[f32], gain: &[f32],
    ) {
        let width = gain.len();
        let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(dy.chunks_exact(width));
        for (((dx, x), dy), &scale) in rows.zip(scales) {
            for ((dx, &dy), &gain) in dx.iter_mut().zip(dy).zip(gain) {
                *dx = dy * gain;
            }
            let pull = dot::<FUSED>(dx, x) * scale * scale * scale / width as f32;
            for (((dx, d_gain), &x), &dy) in dx.iter_mut().zip(d_gain.iter_mut()).zip(x).zip(dy) {
                *dx = *dx * scale - x * pull;
                *d_gain = multiply_add::<FUSED>(dy, x * scale, *d_gain);
            }
        }
    }
}
