//! The operations that a training step spends its time in.
//!
//! Every function here works on packed rows: a batch is one list of positions `[n, width]`, padding dropped, and attention is
//! told by [`Segment`]s which positions belong together. There is no mask of n x n values, no work at padding, and no logits at
//! positions without a target.
//!
//! All are differentiable. Shapes that don't fit are programming errors and panic.

mod optimizer;
mod reference;
mod types;

use std::{ops::Range, sync::Arc};

use burn::tensor::Tensor;

pub use optimizer::{AdamWStep, adamw_step, sum_of_squares};
pub use types::{Rotary, Segment, Target};

/// `x W^T`, weights stored (out, in).
pub fn linear(x_ni: Tensor<2>, weight_oi: Tensor<2>) -> Tensor<2> {
    reference::linear(x_ni, weight_oi)
}

/// `x / sqrt(mean(x^2) + epsilon) * gain` in each row.
pub fn rms_norm(x_nd: Tensor<2>, gain_d: Tensor<1>, epsilon: f64) -> Tensor<2> {
    reference::rms_norm(x_nd, gain_d, epsilon)
}

/// `silu(gate) * up`, the middle of a SwiGLU feed-forward.
pub fn swiglu(gate_nf: Tensor<2>, up_nf: Tensor<2>) -> Tensor<2> {
    reference::swiglu(gate_nf, up_nf)
}

/// Turns each head of row `n` by the angles of position `n` of `rotary`.
pub fn rotate(x_nhd: Tensor<3>, rotary: &Rotary) -> Tensor<3> {
    reference::rotate(x_nhd, rotary)
}

/// Softmax attention, scores scaled by `1 / sqrt(head_dim)`, within `segments`.
///
/// Segments name ascending, disjoint ranges of queries; rows of no segment come out zero. Where a gradient of keys or values is
/// wanted, their ranges must be ascending and disjoint too.
pub fn attention(
    q_nhd: Tensor<3>,
    k_mhd: Tensor<3>,
    v_mhd: Tensor<3>,
    segments: &Arc<[Segment]>,
) -> Tensor<3> {
    reference::attention(q_nhd, k_mhd, v_mhd, segments)
}

/// Next-token loss in nats, one number a target: `logsumexp(h W^T) - (h W^T)[id]` with `h = hidden[row]`.
///
/// The product with the output matrix is part of it, so that the logits of all positions never exist at once.
pub fn cross_entropy(hidden_nd: Tensor<2>, weight_vd: Tensor<2>, targets: &Arc<[Target]>) -> Tensor<1> {
    reference::cross_entropy(hidden_nd, weight_vd, targets)
}

/// Mean squared error of each image: one number for each range of rows. The target is taken as a constant.
pub fn image_losses(
    prediction_pd: Tensor<2>,
    target_pd: Tensor<2>,
    images: &Arc<[Range<usize>]>,
) -> Tensor<1> {
    reference::image_losses(prediction_pd, target_pd, images)
}

/// The rows `rows` of `x`, in that order; a row may be named several times (an embedding lookup).
pub fn gather_rows(x_nd: Tensor<2>, rows: &Arc<[u32]>) -> Tensor<2> {
    reference::gather_rows(x_nd, rows)
}

/// `base` with the rows `rows`, each named once, replaced by those of `values`.
pub fn scatter_rows(base_nd: Tensor<2>, rows: &Arc<[u32]>, values_kd: Tensor<2>) -> Tensor<2> {
    reference::scatter_rows(base_nd, rows, values_kd)
}
