//! Attention of a single query, as in writing one token after another: a panel would be sixteenfold work for one column.

use rayon::prelude::*;

use super::{Inputs, LITTLE};
use crate::kernels::vector::{dot, exp, multiply_add, vectorized};

/// Where the query stands: its row, the first row of its keys, and how many of those it sees.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) query: usize,
    pub(super) keys: usize,
    pub(super) visible: usize,
}

/// One output row and its log-sum-exp for each head; the heads are shared out.
pub(super) fn attend(inputs: Inputs<'_>, place: Place, output: &mut [f32], normalizers: &mut [f32]) {
    let (stride, width) = (inputs.stride(), inputs.width);
    let heads_a_task = LITTLE.div_ceil(place.visible * width);
    output
        .par_chunks_exact_mut(width)
        .zip(normalizers.par_iter_mut())
        .enumerate()
        .with_min_len(heads_a_task)
        .for_each(|(head, (output, normalizer))| {
            let query = &inputs.q[place.query * stride + head * width..][..width];
            let at = place.keys * stride + head * width;
            let mut weights = vec![0.0; place.visible];
            *normalizer = weigh(&mut weights, query, &inputs.k[at..], stride, inputs.scale());
            sum_values(output, &weights, &inputs.v[at..], stride);
        });
}

vectorized! {
    /// Softmax weights of the keys, and the log of their denominator.
    fn weigh(weights: &mut [f32], query: &[f32], keys: &[f32], stride: usize, scale: f32) -> f32 {
        let mut largest = f32::MIN;
        for (weight, key) in weights.iter_mut().zip(keys.chunks(stride)) {
            *weight = dot::<FUSED>(query, &key[..query.len()]) * scale;
            largest = if *weight > largest { *weight } else { largest };
        }
        for weight in weights.iter_mut() {
            *weight = exp::<FUSED>(*weight - largest);
        }
        let sum: f32 = weights.iter().sum();
        for weight in weights.iter_mut() {
            *weight /= sum;
        }
        largest + sum.ln()
    }
}

vectorized! {
    /// `output = sum of weight * value`.
    fn sum_values(output: &mut [f32], weights: &[f32], values: &[f32], stride: usize) {
        output.fill(0.0);
        for (&weight, value) in weights.iter().zip(values.chunks(stride)) {
            for (out, &value) in output.iter_mut().zip(value) {
                *out = multiply_add::<FUSED>(weight, value, *out);
            }
        }
    }
}
