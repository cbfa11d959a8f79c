//! Cross-entropy fused with the product by the output matrix, over chunks of targets.
//!
//! Only the rows that predict something are multiplied, a chunk at a time, so that at most [`CHUNK_LOGITS`] logits (or [`CHUNK_LEAST`] rows of
//! them) exist at once. The backward pass computes them again, which costs one more product of four; where all targets
//! fit into one chunk they are kept instead.

use std::sync::Arc;

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{
    product::{Matrix, Threads, product, product_into},
    tensors::{Gradients, dense, sizes, tensor, values},
    vector::{LANES, exp, sum_lanes, vectorized},
};
use crate::kernels::types::Target;

/// Logits that exist at once, 16 MiB of them; more only for [`CHUNK_LEAST`].
const CHUNK_LOGITS: usize = 1 << 22;

/// A chunk has at least this many targets, however large the vocabulary: fewer would read the output matrix too often.
const CHUNK_LEAST: usize = 256;

#[derive(Debug, Clone)]
pub(crate) struct Kept {
    hidden_nd: FlexTensor,
    weight_vd: FlexTensor,
    targets: Arc<[Target]>,
    /// Log of the softmax's denominator, one a target.
    normalizers: Arc<[f32]>,
    /// The logits, where they are few enough to keep.
    logits: Option<Arc<Vec<f32>>>,
}

pub(crate) fn forward(
    hidden_nd: FlexTensor,
    weight_vd: FlexTensor,
    targets: Arc<[Target]>,
) -> (FlexTensor, Kept) {
    let (hidden_nd, weight_vd) = (dense(hidden_nd), dense(weight_vd));
    let [v, d] = sizes(&weight_vd);
    assert_eq!(sizes::<2>(&hidden_nd)[1], d, "hidden states and output matrix have one width");
    assert!(
        targets.iter().all(|target| (target.id as usize) < v),
        "a target is not in the vocabulary of {v}"
    );
    let (mut losses, mut normalizers) = (vec![0.0; targets.len()], vec![0.0; targets.len()]);
    let chunk = chunk_size(v);
    let mut logits = None;
    let outputs = losses.chunks_mut(chunk).zip(normalizers.chunks_mut(chunk));
    for (part, (losses, normalizers)) in targets.chunks(chunk).zip(outputs) {
        let logits_kv = chunk_logits(&hidden_nd, &weight_vd, part);
        measure(losses, normalizers, &logits_kv, part);
        logits = (targets.len() <= chunk).then(|| Arc::new(logits_kv));
    }
    let losses = tensor(losses, [targets.len()]);
    (losses, Kept { hidden_nd, weight_vd, targets, normalizers: normalizers.into(), logits })
}

pub(crate) fn backward(kept: Kept, dy_k: FlexTensor, wanted: [bool; 2]) -> Gradients<2> {
    let Kept { hidden_nd, weight_vd, targets, normalizers, mut logits } = kept;
    let dy_k = dense(dy_k);
    let ([n, d], [v, _]) = (sizes(&hidden_nd), sizes(&weight_vd));
    let mut d_hidden = vec![0.0; if wanted[0] { n * d } else { 0 }];
    let mut d_weight = vec![0.0; if wanted[1] { v * d } else { 0 }];
    let chunk = chunk_size(v);
    let inputs = normalizers.chunks(chunk).zip(values(&dy_k).chunks(chunk));
    for (part, (normalizers, dy)) in targets.chunks(chunk).zip(inputs) {
        let mut logits_kv = match logits.take() {
            Some(kept) => Arc::unwrap_or_clone(kept),
            None => chunk_logits(&hidden_nd, &weight_vd, part),
        };
        differentiate(&mut logits_kv, normalizers, dy, part);
        let d_logits = Matrix::new(&logits_kv, part.len(), v);
        if wanted[0] {
            let d_rows = product(d_logits, Matrix::new(values(&weight_vd), v, d));
            add_rows(&mut d_hidden, &d_rows, d, part);
        }
        if wanted[1] {
            let rows = gather(&hidden_nd, part);
            let rows = Matrix::new(&rows, part.len(), d);
            product_into(&mut d_weight, d_logits.transposed(), rows, true, Threads::All);
        }
    }
    [wanted[0].then(|| tensor(d_hidden, [n, d])), wanted[1].then(|| tensor(d_weight, [v, d]))]
}

fn chunk_size(vocabulary: usize) -> usize {
    (CHUNK_LOGITS / vocabulary.max(1)).max(CHUNK_LEAST)
}

fn chunk_logits(hidden_nd: &FlexTensor, weight_vd: &FlexTensor, targets: &[Target]) -> Vec<f32> {
    let [v, d] = sizes(weight_vd);
    let rows = gather(hidden_nd, targets);
    product(Matrix::new(&rows, targets.len(), d), Matrix::new(values(weight_vd), v, d).transposed())
}

fn gather(hidden_nd: &FlexTensor, targets: &[Target]) -> Vec<f32> {
    let [_, d] = sizes(hidden_nd);
    let hidden = values(hidden_nd);
    let mut rows = Vec::with_capacity(targets.len() * d);
    targets.iter().for_each(|target| rows.extend_from_slice(&hidden[target.row as usize * d..][..d]));
    rows
}

/// Two targets may share a row, so the rows are added one after another.
fn add_rows(d_hidden: &mut [f32], d_rows: &[f32], width: usize, targets: &[Target]) {
    for (target, row) in targets.iter().zip(d_rows.chunks_exact(width)) {
        let sums = d_hidden[target.row as usize * width..][..width].iter_mut();
        sums.zip(row).for_each(|(sum, value)| *sum += value);
    }
}

fn measure(losses: &mut [f32], normalizers: &mut [f32], logits_kv: &[f32], targets: &[Target]) {
    let vocabulary = logits_kv.len() / targets.len();
    losses
        .par_iter_mut()
        .zip(normalizers)
        .zip(logits_kv.par_chunks_exact(vocabulary))
        .zip(targets)
        .with_min_len(8)
        .for_each(|(((loss, normalizer), logits), target)| {
            *normalizer = log_sum_exp(logits);
            *loss = *normalizer - logits[target.id as usize];
        });
}

/// Turns logits into their gradient, `dy (softmax - one at the target)`.
fn differentiate(logits_kv: &mut [f32], normalizers: &[f32], dy: &[f32], targets: &[Target]) {
    let vocabulary = logits_kv.len() / targets.len();
    logits_kv
        .par_chunks_exact_mut(vocabulary)
        .zip(normalizers)
        .zip(dy)
        .zip(targets)
        .with_min_len(8)
        .for_each(|(((logits, &normalizer), &dy), target)| {
            scaled_softmax(logits, normalizer, dy);
            logits[target.id as usize] -= dy;
        });
}

vectorized! {
    fn log_sum_exp(logits: &[f32]) -> f32 {
        let (blocks, rest) = logits.as_chunks::<LANES>();
        let mut lanes = [f32::MIN; LANES];
        for block in blocks {
            for lane in 0..LANES {
                lanes[lane] = if block[lane] > lanes[lane] { block[lane] } else { lanes[lane] };
            }
        }
        let largest = lanes.iter().chain(rest).fold(f32::MIN, |largest, &value| largest.max(value));
        let mut sums = [0.0f32; LANES];
        for block in blocks {
            for lane in 0..LANES {
                sums[lane] += exp::<FUSED>(block[lane] - largest);
            }
        }
        let mut sum = sum_lanes(sums);
        for &value in rest {
            sum += exp::<FUSED>(value - largest);
        }
        largest + sum.ln()
    }
}

vectorized! {
    fn scaled_softmax(logits: &mut [f32], normalizer: f32, factor: f32) {
        for logit in logits {
            *logit = factor * exp::<FUSED>(*logit - normalizer);
        }
    }
}
