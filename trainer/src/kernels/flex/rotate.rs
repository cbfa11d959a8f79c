//! Rotary embedding in place of slices, products and concatenations: one pass, and the same pass backwards for the gradient.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{
    tensors::{Gradients, dense, sizes, tensor, values},
    vector::vectorized,
};
use crate::kernels::types::Rotary;

/// Rows a task works on.
const ROWS: usize = 32;

pub(crate) fn forward(x_nhd: FlexTensor, rotary: Rotary) -> (FlexTensor, Rotary) {
    (turn(x_nhd, &rotary, 1.0), rotary)
}

/// A rotation's gradient is the output's gradient turned back.
pub(crate) fn backward(rotary: Rotary, dy_nhd: FlexTensor, _: [bool; 1]) -> Gradients<1> {
    [Some(turn(dy_nhd, &rotary, -1.0))]
}

fn turn(x_nhd: FlexTensor, rotary: &Rotary, direction: f32) -> FlexTensor {
    let x_nhd = dense(x_nhd);
    let [n, h, d] = sizes(&x_nhd);
    let half = rotary.half();
    assert_eq!(d, 2 * half, "the rotary table is for heads of {}", 2 * half);
    assert_eq!(n, rotary.positions(), "the rotary table is for {} positions", rotary.positions());
    let mut out = vec![0.0; n * h * d];
    out.par_chunks_mut(ROWS * h * d)
        .zip(values(&x_nhd).par_chunks(ROWS * h * d))
        .zip(rotary.cosines.par_chunks(ROWS * half))
        .zip(rotary.sines.par_chunks(ROWS * half))
        .for_each(|(((out, x), cosines), sines)| turn_rows(out, x, cosines, sines, h, half, direction));
    tensor(out, [n, h, d])
}

vectorized! {
    fn turn_rows(
        out: &mut [f32], x: &[f32], cosines: &[f32], sines: &[f32], heads: usize, half: usize, direction: f32,
    ) {
        let _ = FUSED;
        let width = heads * 2 * half;
        let rows = out.chunks_exact_mut(width).zip(x.chunks_exact(width));
        let angles = cosines.chunks_exact(half).zip(sines.chunks_exact(half));
        for ((out, x), (cosines, sines)) in rows.zip(angles) {
            for (out, x) in out.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
                let ((out_a, out_b), (x_a, x_b)) = (out.split_at_mut(half), x.split_at(half));
                for i in 0..half {
                    let sine = direction * sines[i];
                    out_a[i] = x_a[i] * cosines[i] - x_b[i] * sine;
                    out_b[i] = x_b[i] * cosines[i] + x_a[i] * sine;
                }
            }
        }
    }
}
