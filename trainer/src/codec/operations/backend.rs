//! How the codec's operations enter Burn, the way of [`crate::kernels`].

use burn::backend::{
    Autodiff, Backend, Flex, autodiff::checkpoint::strategy::CheckpointStrategy, backend_extension,
    tensor::FloatTensor,
};
use burn_flex::FlexTensor;

use super::{Norm, Window, convolution, group_norm, silu};
use crate::kernels::backend::record;

/// The operations with a version of our own.
#[backend_extension(Autodiff, Flex)]
pub(crate) trait CodecKernels: Backend {
    /// [`super::convolve`].
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        window: Window,
    ) -> FloatTensor<Self>;
    /// [`super::group_norm()`].
    fn group_norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        norm: Norm,
    ) -> FloatTensor<Self>;
    /// [`super::silu()`].
    fn silu_4(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl CodecKernels for Flex {
    fn convolve(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, window: Window) -> FlexTensor {
        convolution::forward(x, weight, bias, window).0
    }
    fn group_norm(x: FlexTensor, gain: FlexTensor, shift: FlexTensor, norm: Norm) -> FlexTensor {
        group_norm::forward(x, gain, shift, norm).0
    }
    fn silu_4(x: FlexTensor) -> FlexTensor {
        silu::forward(x).0
    }
}

impl<C: CheckpointStrategy> CodecKernels for Autodiff<Flex, C> {
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        window: Window,
    ) -> FloatTensor<Self> {
        let ((x, x_node), (weight, weight_node), (bias, bias_node)) =
            (x.into_parts(), weight.into_parts(), bias.into_parts());
        let forward = || convolution::forward(x, weight, bias, window);
        record::<C, _, 3>([x_node, weight_node, bias_node], forward, convolution::backward)
    }
    fn group_norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        norm: Norm,
    ) -> FloatTensor<Self> {
        let ((x, x_node), (gain, gain_node), (shift, shift_node)) =
            (x.into_parts(), gain.into_parts(), shift.into_parts());
        let forward = || group_norm::forward(x, gain, shift, norm);
        record::<C, _, 3>([x_node, gain_node, shift_node], forward, group_norm::backward)
    }
    fn silu_4(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        record::<C, _, 1>([node], || silu::forward(x), silu::backward)
    }
}
