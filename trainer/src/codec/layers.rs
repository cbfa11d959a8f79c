//! The parts that codecs are made of. Pictures are `[n, height, width, channels]`, suffix `_nhwc`.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::build::Builder;
use crate::kernels::{NormSettings, Segment, Window, attention, convolve, group_norm};
use crate::weights::WeightsError;

/// A convolution; its window is named where it is used.
#[derive(Module, Debug)]
pub(crate) struct Convolution {
    pub(crate) weight: Param<Tensor<4>>,
    pub(crate) bias: Param<Tensor<1>>,
}

impl Convolution {
    pub(crate) fn forward(&self, x_nhwc: Tensor<4>, window: Window) -> Tensor<4> {
        convolve(x_nhwc, self.weight.val(), self.bias.val(), window)
    }
}

/// The same matrix at every pixel.
#[derive(Module, Debug)]
pub(crate) struct Projection {
    pub(crate) weight: Param<Tensor<2>>,
    pub(crate) bias: Param<Tensor<1>>,
}

impl Projection {
    pub(crate) fn forward(&self, x_nhwc: Tensor<4>) -> Tensor<4> {
        let weight = self.weight.val();
        let [outputs, inputs] = weight.dims();
        convolve(x_nhwc, weight.reshape([outputs, inputs, 1, 1]), self.bias.val(), Window::POINT)
    }
}

/// Group norm; the number of groups is the network's.
#[derive(Module, Debug)]
pub(crate) struct GroupNorm {
    pub(crate) weight: Param<Tensor<1>>,
    pub(crate) bias: Param<Tensor<1>>,
}

/// Added to the variance, as the diffusers layout has it.
const EPSILON: f32 = 1e-6;

impl GroupNorm {
    pub(crate) fn forward(&self, x_nhwc: Tensor<4>, groups: usize, silu: bool) -> Tensor<4> {
        group_norm(
            x_nhwc,
            self.weight.val(),
            self.bias.val(),
            NormSettings { groups, epsilon: EPSILON, silu },
        )
    }
}

impl Builder<'_> {
    /// A convolution whose tensors' names begin with `name`.
    pub(crate) fn convolution(
        &mut self,
        name: impl ToString,
        [inputs, outputs]: [usize; 2],
        window: Window,
    ) -> Result<Convolution, WeightsError> {
        let Window { kernel, .. } = window;
        let bound = Some(1.0 / ((inputs * kernel * kernel) as f64).sqrt());
        self.within(name, |builder| {
            let weight = builder.tensor("weight", [outputs, inputs, kernel, kernel], bound, 0.0)?;
            Ok(Convolution { weight, bias: builder.tensor("bias", [outputs], bound, 0.0)? })
        })
    }

    /// A matrix, named likewise.
    pub(crate) fn projection(
        &mut self,
        name: impl ToString,
        [inputs, outputs]: [usize; 2],
    ) -> Result<Projection, WeightsError> {
        let bound = Some(1.0 / (inputs as f64).sqrt());
        self.within(name, |builder| {
            let weight = builder.tensor("weight", [outputs, inputs], bound, 0.0)?;
            Ok(Projection { weight, bias: builder.tensor("bias", [outputs], bound, 0.0)? })
        })
    }

    /// A norm, named likewise.
    pub(crate) fn norm(&mut self, name: impl ToString, channels: usize) -> Result<GroupNorm, WeightsError> {
        self.within(name, |builder| {
            let weight = builder.tensor("weight", [channels], None, 1.0)?;
            Ok(GroupNorm { weight, bias: builder.tensor("bias", [channels], None, 0.0)? })
        })
    }
}

/// `x + conv(silu(norm(conv(silu(norm(x))))))`, with a 1 x 1 convolution of `x` where the channels change.
#[derive(Module, Debug)]
pub(crate) struct ResidualBlock {
    norm1: GroupNorm,
    conv1: Convolution,
    norm2: GroupNorm,
    conv2: Convolution,
    conv_shortcut: Option<Convolution>,
}

impl ResidualBlock {
    pub(crate) fn build(
        builder: &mut Builder<'_>,
        [inputs, outputs]: [usize; 2],
    ) -> Result<Self, WeightsError> {
        Ok(Self {
            norm1: builder.norm("norm1", inputs)?,
            conv1: builder.convolution("conv1", [inputs, outputs], Window::SAME)?,
            norm2: builder.norm("norm2", outputs)?,
            conv2: builder.convolution("conv2", [outputs, outputs], Window::SAME)?,
            conv_shortcut: (inputs != outputs)
                .then(|| builder.convolution("conv_shortcut", [inputs, outputs], Window::POINT))
                .transpose()?,
        })
    }

    pub(crate) fn forward(&self, x_nhwc: Tensor<4>, groups: usize) -> Tensor<4> {
        let h = self.conv1.forward(self.norm1.forward(x_nhwc.clone(), groups, true), Window::SAME);
        let h = self.conv2.forward(self.norm2.forward(h, groups, true), Window::SAME);
        match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x_nhwc, Window::POINT) + h,
            None => x_nhwc + h,
        }
    }
}

/// One head of attention between all pixels of a picture, added to it.
#[derive(Module, Debug)]
pub(crate) struct PixelAttention {
    group_norm: GroupNorm,
    to_q: Projection,
    to_k: Projection,
    to_v: Projection,
    to_out: Vec<Projection>,
}

impl PixelAttention {
    pub(crate) fn build(builder: &mut Builder<'_>, channels: usize) -> Result<Self, WeightsError> {
        let square = [channels, channels];
        Ok(Self {
            group_norm: builder.norm("group_norm", channels)?,
            to_q: builder.projection("to_q", square)?,
            to_k: builder.projection("to_k", square)?,
            to_v: builder.projection("to_v", square)?,
            to_out: builder.within("to_out", |builder| Ok(vec![builder.projection("0", square)?]))?,
        })
    }

    pub(crate) fn forward(&self, x_nhwc: Tensor<4>, groups: usize) -> Tensor<4> {
        let [n, h, w, c] = x_nhwc.dims();
        let normal = self.group_norm.forward(x_nhwc.clone(), groups, false);
        let rows = |projection: &Projection| projection.forward(normal.clone()).reshape([n * h * w, 1, c]);
        let picture = |image: usize| Segment {
            queries: image * h * w..(image + 1) * h * w,
            keys: image * h * w..(image + 1) * h * w,
            images: std::iter::once(0..h * w).collect(),
        };
        let segments: Arc<[Segment]> = (0..n).map(picture).collect();
        let mixed = attention(rows(&self.to_q), rows(&self.to_k), rows(&self.to_v), &segments);
        let mixed = mixed.reshape([n, h, w, c]);
        x_nhwc + self.to_out.iter().fold(mixed, |mixed, projection| projection.forward(mixed))
    }
}

/// Every pixel four times.
pub(crate) fn double(x_nhwc: Tensor<4>) -> Tensor<4> {
    let [n, h, w, c] = x_nhwc.dims();
    let x = x_nhwc.reshape([n, h, 1, w, 1, c]).expand([n, h, 2, w, 2, c]);
    x.reshape([n, 2 * h, 2 * w, c])
}
