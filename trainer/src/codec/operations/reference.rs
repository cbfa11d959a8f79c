//! The same operations made of Burn's own, for devices without a version of ours; the oracle of the tests.

use burn::tensor::{Tensor, activation, module::conv2d, ops::ConvOptions};

use super::{Norm, Window};

pub(crate) fn convolve(x_nhwc: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, window: Window) -> Tensor<4> {
    let x_nchw = x_nhwc.permute([0, 3, 1, 2]);
    let padding = (window.before, window.after, window.before, window.after);
    let padded = x_nchw.pad(padding, 0.0);
    let options = ConvOptions::new([window.stride; 2], [0, 0], [1, 1], 1);
    conv2d(padded, weight, Some(bias), options).permute([0, 2, 3, 1])
}

pub(crate) fn group_norm(x_nhwc: Tensor<4>, gain: Tensor<1>, shift: Tensor<1>, norm: Norm) -> Tensor<4> {
    let [n, h, w, c] = x_nhwc.dims();
    let width = c / norm.groups;
    let x_ngv = x_nhwc.reshape([n, h * w, norm.groups, width]).swap_dims(1, 2);
    let x_ngv = x_ngv.reshape([n, norm.groups, h * w * width]);
    let centred = x_ngv.clone() - x_ngv.mean_dim(2);
    let variance = centred.clone().square().mean_dim(2);
    let normal = centred / (variance + norm.epsilon).sqrt();
    let normal = normal.reshape([n, norm.groups, h * w, width]).swap_dims(1, 2).reshape([n, h, w, c]);
    let y = normal * gain.reshape([1, 1, 1, c]) + shift.reshape([1, 1, 1, c]);
    if norm.silu { activation::silu(y) } else { y }
}
