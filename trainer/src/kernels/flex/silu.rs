//! SiLU and its gradient.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{
    tensors::{Gradients, dense, sizes, tensor, values},
    vector::{sigmoid, vectorized},
};

/// Values a task works on.
const CHUNK: usize = 1 << 14;

pub(crate) fn forward(x: FlexTensor) -> (FlexTensor, FlexTensor) {
    let x = dense(x);
    let mut y = vec![0.0; values(&x).len()];
    let chunks = y.par_chunks_mut(CHUNK).zip(values(&x).par_chunks(CHUNK));
    chunks.for_each(|(y, x)| apply(y, x));
    (tensor::<4>(y, sizes(&x)), x)
}

pub(crate) fn backward(x: FlexTensor, dy: FlexTensor, _: [bool; 1]) -> Gradients<1> {
    let dy = dense(dy);
    let mut dx = vec![0.0; values(&x).len()];
    let chunks = dx.par_chunks_mut(CHUNK).zip(values(&x).par_chunks(CHUNK));
    chunks.zip(values(&dy).par_chunks(CHUNK)).for_each(|((dx, x), dy)| apply_backward(dx, x, dy));
    [Some(tensor::<4>(dx, sizes(&x)))]
}

vectorized! {
    fn apply(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * sigmoid::<FUSED>(x);
        }
    }
}

vectorized! {
    fn apply_backward(dx: &mut [f32], x: &[f32], dy: &[f32]) {
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            let sigmoid = sigmoid::<FUSED>(x);
            *dx = dy * sigmoid * (1.0 + x * (1.0 - sigmoid));
        }
    }
}
