//! `silu(gate) * up`, and both gradients in one pass.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{
    tensors::{Gradients, dense, sizes, tensor, values},
    vector::{sigmoid, vectorized},
};

/// Values a task works on.
const CHUNK: usize = 1 << 13;

pub(crate) type Kept = (FlexTensor, FlexTensor);

pub(crate) fn forward(gate: FlexTensor, up: FlexTensor) -> (FlexTensor, Kept) {
    let (gate, up) = (dense(gate), dense(up));
    let [n, f] = sizes(&gate);
    assert_eq!([n, f], sizes(&up), "gate and up have one shape");
    let mut out = vec![0.0; n * f];
    out.par_chunks_mut(CHUNK)
        .zip(values(&gate).par_chunks(CHUNK))
        .zip(values(&up).par_chunks(CHUNK))
        .for_each(|((out, gate), up)| silu_times(out, gate, up));
    (tensor(out, [n, f]), (gate, up))
}

pub(crate) fn backward((gate, up): Kept, dy: FlexTensor, _: [bool; 2]) -> Gradients<2> {
    let dy = dense(dy);
    let [n, f] = sizes(&gate);
    let (mut d_gate, mut d_up) = (vec![0.0; n * f], vec![0.0; n * f]);
    d_gate
        .par_chunks_mut(CHUNK)
        .zip(d_up.par_chunks_mut(CHUNK))
        .zip(values(&gate).par_chunks(CHUNK))
        .zip(values(&up).par_chunks(CHUNK))
        .zip(values(&dy).par_chunks(CHUNK))
        .for_each(|((((d_gate, d_up), gate), up), dy)| silu_times_backward(d_gate, d_up, gate, up, dy));
    [Some(tensor(d_gate, [n, f])), Some(tensor(d_up, [n, f]))]
}

vectorized! {
    fn silu_times(out: &mut [f32], gate: &[f32], up: &[f32]) {
        for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate * sigmoid::<FUSED>(gate) * up;
        }
    }
}

vectorized! {
    fn silu_times_backward(d_gate: &mut [f32], d_up: &mut [f32], gate: &[f32], up: &[f32], dy: &[f32]) {
        for ((((d_gate, d_up), &gate), &up), &dy) in d_gate.iter_mut().zip(d_up).zip(gate).zip(up).zip(dy) {
            let sigmoid = sigmoid::<FUSED>(gate);
            *d_up = dy * gate * sigmoid;
            *d_gate = dy * up * sigmoid * (1.0 + gate * (1.0 - sigmoid));
        }
    }
}
