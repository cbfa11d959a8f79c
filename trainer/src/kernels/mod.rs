//! The operations that a training step spends its time in.
//!
//! Every function here works on packed rows: a batch is one list of positions `[n, width]`, padding dropped, and attention is
//! told by [`Segment`]s which positions belong together. There is no mask of n x n values, no work at padding, and no logits at
//! positions without a target.
//!
//! On the CPU backend flex, in f32, they are kernels of our own with backward passes of their own; elsewhere they are made of ordinary tensor
//! operations ([`mod@reference`]), which are also what the tests hold them against. All are differentiable. The number of threads changes
//! no bit of a result: each output element is written by one task, and partial sums have fixed sizes and are joined in order.
//!
//! Shapes that don't fit are programming errors and panic. Unsafe code is in two modules: `product` calls the `gemm` crate, and
//! `vector` calls functions compiled for AVX2 where the processor has it.

mod attention;
pub(crate) mod backend;
mod cross_entropy;
mod linear;
mod norm;
mod optimizer;
pub(crate) mod product;
pub mod reference;
mod rotate;
mod rows;
mod swiglu;
#[cfg(test)]
mod tests;
mod tile;
mod types;
pub(crate) mod vector;

use std::{ops::Range, sync::Arc};

use burn::tensor::Tensor;

use backend::{Kernels as _, Native, is_native};

pub use optimizer::{AdamWStep, adamw_step, sum_of_squares};
pub use types::{Rotary, Segment, Target};

/// `x W^T`, weights stored (out, in).
pub fn linear(x_ni: Tensor<2>, weight_oi: Tensor<2>) -> Tensor<2> {
    if !is_native(&x_ni) {
        return reference::linear(x_ni, weight_oi);
    }
    Tensor::from_dispatch(Native::linear(x_ni.into_dispatch(), weight_oi.into_dispatch()))
}

/// `x / sqrt(mean(x^2) + epsilon) * gain` in each row.
pub fn rms_norm(x_nd: Tensor<2>, gain_d: Tensor<1>, epsilon: f64) -> Tensor<2> {
    if !is_native(&x_nd) {
        return reference::rms_norm(x_nd, gain_d, epsilon);
    }
    Tensor::from_dispatch(Native::rms_norm(x_nd.into_dispatch(), gain_d.into_dispatch(), epsilon as f32))
}

/// `silu(gate) * up`, the middle of a SwiGLU feed-forward.
pub fn swiglu(gate_nf: Tensor<2>, up_nf: Tensor<2>) -> Tensor<2> {
    if !is_native(&gate_nf) {
        return reference::swiglu(gate_nf, up_nf);
    }
    Tensor::from_dispatch(Native::swiglu(gate_nf.into_dispatch(), up_nf.into_dispatch()))
}

/// Turns each head of row `n` by the angles of position `n` of `rotary`.
pub fn rotate(x_nhd: Tensor<3>, rotary: &Rotary) -> Tensor<3> {
    if !is_native(&x_nhd) {
        return reference::rotate(x_nhd, rotary);
    }
    Tensor::from_dispatch(Native::rotate(x_nhd.into_dispatch(), rotary.clone()))
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
    if !is_native(&q_nhd) {
        return reference::attention(q_nhd, k_mhd, v_mhd, segments);
    }
    Tensor::from_dispatch(Native::attend(
        q_nhd.into_dispatch(),
        k_mhd.into_dispatch(),
        v_mhd.into_dispatch(),
        Arc::clone(segments),
    ))
}

/// Next-token loss in nats, one number a target: `logsumexp(h W^T) - (h W^T)[id]` with `h = hidden[row]`.
///
/// The product with the output matrix is part of it, so that the logits of all positions never exist at once.
pub fn cross_entropy(hidden_nd: Tensor<2>, weight_vd: Tensor<2>, targets: &Arc<[Target]>) -> Tensor<1> {
    if !is_native(&hidden_nd) {
        return reference::cross_entropy(hidden_nd, weight_vd, targets);
    }
    Tensor::from_dispatch(Native::cross_entropy(
        hidden_nd.into_dispatch(),
        weight_vd.into_dispatch(),
        Arc::clone(targets),
    ))
}

/// Mean squared error of each image: one number for each range of rows. The target is taken as a constant.
pub fn image_losses(
    prediction_pd: Tensor<2>,
    target_pd: Tensor<2>,
    images: &Arc<[Range<usize>]>,
) -> Tensor<1> {
    if !is_native(&prediction_pd) {
        return reference::image_losses(prediction_pd, target_pd, images);
    }
    Tensor::from_dispatch(Native::image_losses(
        prediction_pd.into_dispatch(),
        target_pd.into_dispatch(),
        Arc::clone(images),
    ))
}

/// The rows `rows` of `x`, in that order; a row may be named several times (an embedding lookup).
pub fn gather_rows(x_nd: Tensor<2>, rows: &Arc<[u32]>) -> Tensor<2> {
    if !is_native(&x_nd) {
        return reference::gather_rows(x_nd, rows);
    }
    Tensor::from_dispatch(Native::gather_rows(x_nd.into_dispatch(), Arc::clone(rows)))
}

/// `base` with the rows `rows`, each named once, replaced by those of `values`.
pub fn scatter_rows(base_nd: Tensor<2>, rows: &Arc<[u32]>, values_kd: Tensor<2>) -> Tensor<2> {
    if !is_native(&base_nd) {
        return reference::scatter_rows(base_nd, rows, values_kd);
    }
    Tensor::from_dispatch(Native::scatter_rows(
        base_nd.into_dispatch(),
        Arc::clone(rows),
        values_kd.into_dispatch(),
    ))
}
