//! The operations that image codecs spend their time in, with gradients.
//!
//! Pictures are channels-last, `[n, height, width, channels]` (suffix `_nhwc`): a pixel's channels lie side by side, so
//! that a convolution is a product of matrices and a 1 x 1 convolution is that without any copying. Each picture is
//! worked on by itself, in tiles that depend on its size alone: its result has the same bits in any batch and at any
//! number of threads. Devices other than flex run what Burn has.

mod backend;
mod convolution;
mod group_norm;
mod reference;
mod silu;
#[cfg(test)]
mod tests;

use burn::tensor::Tensor;

use crate::kernels::backend::{Native, is_native};
use backend::CodecKernels as _;

/// How a convolution's window moves: a square of `kernel` x `kernel`, every `stride` pixels, with rows and columns of
/// zeros before (top, left) and after (bottom, right) the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) before: usize,
    pub(crate) after: usize,
}

impl Window {
    /// One pixel.
    pub(crate) const POINT: Self = Self { kernel: 1, stride: 1, before: 0, after: 0 };
    /// 3 x 3, the picture keeps its size.
    pub(crate) const SAME: Self = Self { kernel: 3, stride: 1, before: 1, after: 1 };
    /// 3 x 3 that halves the picture; zeros at the bottom and on the right only, as the diffusers layout has it.
    pub(crate) const HALVE: Self = Self { kernel: 3, stride: 2, before: 0, after: 1 };

    /// Outputs along an axis of `length` pixels.
    pub(crate) fn outputs(self, length: usize) -> usize {
        (length + self.before + self.after + self.stride).saturating_sub(self.kernel) / self.stride
    }
}

/// `y = x * weight + bias`; `weight` is `[out, in, kernel, kernel]`, as files have it.
pub(crate) fn convolve(
    x_nhwc: Tensor<4>,
    weight_oikk: Tensor<4>,
    bias_o: Tensor<1>,
    window: Window,
) -> Tensor<4> {
    if !is_native(&x_nhwc) {
        return reference::convolve(x_nhwc, weight_oikk, bias_o, window);
    }
    let (x, weight, bias) = (x_nhwc.into_dispatch(), weight_oikk.into_dispatch(), bias_o.into_dispatch());
    Tensor::from_dispatch(Native::convolve(x, weight, bias, window))
}

/// Normalises each of `groups` groups of a picture's channels, scales and shifts each channel, and applies
/// SiLU if `silu`.
pub(crate) fn group_norm(x_nhwc: Tensor<4>, gain_c: Tensor<1>, shift_c: Tensor<1>, norm: Norm) -> Tensor<4> {
    if !is_native(&x_nhwc) {
        return reference::group_norm(x_nhwc, gain_c, shift_c, norm);
    }
    let (x, gain, shift) = (x_nhwc.into_dispatch(), gain_c.into_dispatch(), shift_c.into_dispatch());
    Tensor::from_dispatch(Native::group_norm(x, gain, shift, norm))
}

/// What [`group_norm()`] is told beside its tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Norm {
    pub(crate) groups: usize,
    /// Added to the variance.
    pub(crate) epsilon: f32,
    /// Whether SiLU follows.
    pub(crate) silu: bool,
}

/// `x / (1 + e^-x)`.
pub(crate) fn silu(x_nhwc: Tensor<4>) -> Tensor<4> {
    if !is_native(&x_nhwc) {
        return burn::tensor::activation::silu(x_nhwc);
    }
    Tensor::from_dispatch(Native::silu_4(x_nhwc.into_dispatch()))
}
