//! The operations that training and image codecs spend their time in, with gradients. They know tensors; this
//! folder knows nothing about models, codecs or data.
//!
//! Two kinds of tensors: *packed rows*, one list of positions `[n, width]`, padding dropped, where [`Segment`]s say which
//! positions belong together, so that there is no mask of n x n values, no work at padding, and no logits at positions without a
//! target; and *pictures*, channels last, `[n, height, width, channels]` (suffix `_nhwc`), where a 1 x 1 convolution is a
//! product of matrices without any copying. A picture's result has the same bits beside any other pictures.
//!
//! From the bottom: `types` is the plain data beside the tensors, [`mod@reference`] each operation made of ordinary
//! ones, `flex` each as a kernel of our own for the CPU, `backend` hands those to Burn, and the functions here choose: flex in f32
//! has kernels, everything else runs the ordinary operations, which are also what the tests hold the kernels against. The
//! number of threads changes no bit of a result.
//!
//! Shapes that don't fit are programming errors and panic.

mod backend;
mod flex;
mod optimizer;
pub mod reference;
#[cfg(test)]
mod tests;
mod types;

use std::{ops::Range, sync::Arc};

use burn::{
    backend::Dispatch,
    tensor::{DType, Device, Tensor},
};

use backend::Kernels as _;

pub use optimizer::{AdamWStep, adamw_step, sum_of_squares};
pub(crate) use types::{NormSettings, Window};
pub use types::{Rotary, Segment, Target};

/// Whether there are kernels for `x`, by its device and type.
fn has_kernels<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && x.device() == Device::flex()
}

/// `x W^T`, weights stored (out, in).
pub fn linear(x_ni: Tensor<2>, weight_oi: Tensor<2>) -> Tensor<2> {
    if !has_kernels(&x_ni) {
        return reference::linear(x_ni, weight_oi);
    }
    Tensor::from_dispatch(Dispatch::linear(x_ni.into_dispatch(), weight_oi.into_dispatch()))
}

/// `x / sqrt(mean(x^2) + epsilon) * gain` in each row.
pub fn rms_norm(x_nd: Tensor<2>, gain_d: Tensor<1>, epsilon: f64) -> Tensor<2> {
    if !has_kernels(&x_nd) {
        return reference::rms_norm(x_nd, gain_d, epsilon);
    }
    Tensor::from_dispatch(Dispatch::rms_norm(x_nd.into_dispatch(), gain_d.into_dispatch(), epsilon as f32))
}

/// `silu(gate) * up`, the middle of a SwiGLU feed-forward.
pub fn swiglu(gate_nf: Tensor<2>, up_nf: Tensor<2>) -> Tensor<2> {
    if !has_kernels(&gate_nf) {
        return reference::swiglu(gate_nf, up_nf);
    }
    Tensor::from_dispatch(Dispatch::swiglu(gate_nf.into_dispatch(), up_nf.into_dispatch()))
}

/// Turns each head of row `n` by the angles of position `n` of `rotary`.
pub fn rotate(x_nhd: Tensor<3>, rotary: &Rotary) -> Tensor<3> {
    if !has_kernels(&x_nhd) {
        return reference::rotate(x_nhd, rotary);
    }
    Tensor::from_dispatch(Dispatch::rotate(x_nhd.into_dispatch(), rotary.clone()))
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
    if !has_kernels(&q_nhd) {
        return reference::attention(q_nhd, k_mhd, v_mhd, segments);
    }
    let (q, k, v) = (q_nhd.into_dispatch(), k_mhd.into_dispatch(), v_mhd.into_dispatch());
    Tensor::from_dispatch(Dispatch::attention(q, k, v, Arc::clone(segments)))
}

/// Next-token loss in nats, one number a target: `logsumexp(h W^T) - (h W^T)[id]` with `h = hidden[row]`.
///
/// The product with the output matrix is part of it, so that the logits of all positions never exist at once.
pub fn cross_entropy(hidden_nd: Tensor<2>, weight_vd: Tensor<2>, targets: &Arc<[Target]>) -> Tensor<1> {
    if !has_kernels(&hidden_nd) {
        return reference::cross_entropy(hidden_nd, weight_vd, targets);
    }
    let (hidden, weight) = (hidden_nd.into_dispatch(), weight_vd.into_dispatch());
    Tensor::from_dispatch(Dispatch::cross_entropy(hidden, weight, Arc::clone(targets)))
}

/// Mean squared error of each image: one number for each range of rows. The target is a constant.
pub fn image_losses(
    prediction_pd: Tensor<2>,
    target_pd: Tensor<2>,
    images: &Arc<[Range<usize>]>,
) -> Tensor<1> {
    if !has_kernels(&prediction_pd) {
        return reference::image_losses(prediction_pd, target_pd, images);
    }
    let (prediction, target) = (prediction_pd.into_dispatch(), target_pd.into_dispatch());
    Tensor::from_dispatch(Dispatch::image_losses(prediction, target, Arc::clone(images)))
}

/// The rows `rows` of `x`, in that order; a row may be named several times (an embedding lookup).
pub fn gather_rows(x_nd: Tensor<2>, rows: &Arc<[u32]>) -> Tensor<2> {
    if !has_kernels(&x_nd) {
        return reference::gather_rows(x_nd, rows);
    }
    Tensor::from_dispatch(Dispatch::gather_rows(x_nd.into_dispatch(), Arc::clone(rows)))
}

/// `base` with the rows `rows`, each named once, replaced by those of `values`.
pub fn scatter_rows(base_nd: Tensor<2>, rows: &Arc<[u32]>, values_kd: Tensor<2>) -> Tensor<2> {
    if !has_kernels(&base_nd) {
        return reference::scatter_rows(base_nd, rows, values_kd);
    }
    let (base, values) = (base_nd.into_dispatch(), values_kd.into_dispatch());
    Tensor::from_dispatch(Dispatch::scatter_rows(base, values, Arc::clone(rows)))
}

/// `y = x * weight + bias`; `weight` is `[out, in, kernel, kernel]`, as files have it.
pub(crate) fn convolve(
    x_nhwc: Tensor<4>,
    weight_oikk: Tensor<4>,
    bias_o: Tensor<1>,
    window: Window,
) -> Tensor<4> {
    if !has_kernels(&x_nhwc) {
        return reference::convolve(x_nhwc, weight_oikk, bias_o, window);
    }
    let (x, weight, bias) = (x_nhwc.into_dispatch(), weight_oikk.into_dispatch(), bias_o.into_dispatch());
    Tensor::from_dispatch(Dispatch::convolve(x, weight, bias, window))
}

/// Normalises each group of a picture's channels, scales and shifts each channel, and applies SiLU if the settings say so.
pub(crate) fn group_norm(
    x_nhwc: Tensor<4>,
    gain_c: Tensor<1>,
    shift_c: Tensor<1>,
    settings: NormSettings,
) -> Tensor<4> {
    if !has_kernels(&x_nhwc) {
        return reference::group_norm(x_nhwc, gain_c, shift_c, settings);
    }
    let (x, gain, shift) = (x_nhwc.into_dispatch(), gain_c.into_dispatch(), shift_c.into_dispatch());
    Tensor::from_dispatch(Dispatch::group_norm(x, gain, shift, settings))
}

/// `x / (1 + e^-x)`.
pub(crate) fn silu(x_nhwc: Tensor<4>) -> Tensor<4> {
    if !has_kernels(&x_nhwc) {
        return burn::tensor::activation::silu(x_nhwc);
    }
    Tensor::from_dispatch(Dispatch::silu(x_nhwc.into_dispatch()))
}
