//! `AutoencoderKL`, with the names that diffusers' files have.

use burn::module::Module;
use burn::tensor::Tensor;

use super::build::Builder;
use super::config::KlShape;
use super::layers::{Convolution, GroupNorm, PixelAttention, ResidualBlock, double};
use crate::kernels::Window;
use crate::weights::{Tensors, WeightsError};

/// The network.
#[derive(Module, Debug)]
pub(crate) struct AutoencoderKl {
    encoder: Encoder,
    quant_conv: Option<Convolution>,
    post_quant_conv: Option<Convolution>,
    decoder: Decoder,
    groups: usize,
}

impl AutoencoderKl {
    pub(crate) fn build(builder: &mut Builder<'_>, shape: &KlShape) -> Result<Self, WeightsError> {
        let latent = shape.latent_channels;
        Ok(Self {
            encoder: builder.within("encoder", |builder| Encoder::build(builder, shape))?,
            quant_conv: shape
                .quant
                .then(|| builder.convolution("quant_conv", [2 * latent; 2], Window::POINT))
                .transpose()?,
            post_quant_conv: shape
                .post_quant
                .then(|| builder.convolution("post_quant_conv", [latent; 2], Window::POINT))
                .transpose()?,
            decoder: builder.within("decoder", |builder| Decoder::build(builder, shape))?,
            groups: shape.groups,
        })
    }

    /// Mean and log variance, one after the other along the channels.
    pub(crate) fn moments(&self, picture_nhwc: Tensor<4>) -> Tensor<4> {
        let h = self.encoder.forward(picture_nhwc, self.groups);
        match &self.quant_conv {
            Some(convolution) => convolution.forward(h, Window::POINT),
            None => h,
        }
    }

    pub(crate) fn reconstruct(&self, latent_nhwc: Tensor<4>) -> Tensor<4> {
        let z = match &self.post_quant_conv {
            Some(convolution) => convolution.forward(latent_nhwc, Window::POINT),
            None => latent_nhwc,
        };
        self.decoder.forward(z, self.groups)
    }
}

#[derive(Module, Debug)]
struct Encoder {
    conv_in: Convolution,
    down_blocks: Vec<DownBlock>,
    mid_block: MiddleBlock,
    conv_norm_out: GroupNorm,
    conv_out: Convolution,
}

impl Encoder {
    fn build(builder: &mut Builder<'_>, shape: &KlShape) -> Result<Self, WeightsError> {
        let channels = &shape.channels;
        let levels = channels.len();
        let (first, last) = (channels[0], channels[levels - 1]);
        Ok(Self {
            conv_in: builder.convolution("conv_in", [3, first], Window::SAME)?,
            down_blocks: builder.list("down_blocks", levels, |builder, level| {
                let inputs = channels[level.saturating_sub(1)];
                DownBlock::build(builder, [inputs, channels[level]], shape.layers, level + 1 < levels)
            })?,
            mid_block: builder
                .within("mid_block", |builder| MiddleBlock::build(builder, last, shape.attention))?,
            conv_norm_out: builder.norm("conv_norm_out", last)?,
            conv_out: builder.convolution("conv_out", [last, 2 * shape.latent_channels], Window::SAME)?,
        })
    }

    fn forward(&self, picture_nhwc: Tensor<4>, groups: usize) -> Tensor<4> {
        let h = self.conv_in.forward(picture_nhwc, Window::SAME);
        let h = self.down_blocks.iter().fold(h, |h, block| block.forward(h, groups));
        let h = self.mid_block.forward(h, groups);
        self.conv_out.forward(self.conv_norm_out.forward(h, groups, true), Window::SAME)
    }
}

#[derive(Module, Debug)]
struct Decoder {
    conv_in: Convolution,
    mid_block: MiddleBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Convolution,
}

impl Decoder {
    fn build(builder: &mut Builder<'_>, shape: &KlShape) -> Result<Self, WeightsError> {
        let channels: Vec<usize> = shape.channels.iter().copied().rev().collect();
        let levels = channels.len();
        let (first, last) = (channels[0], channels[levels - 1]);
        Ok(Self {
            conv_in: builder.convolution("conv_in", [shape.latent_channels, first], Window::SAME)?,
            mid_block: builder
                .within("mid_block", |builder| MiddleBlock::build(builder, first, shape.attention))?,
            up_blocks: builder.list("up_blocks", levels, |builder, level| {
                let inputs = channels[level.saturating_sub(1)];
                UpBlock::build(builder, [inputs, channels[level]], shape.layers + 1, level + 1 < levels)
            })?,
            conv_norm_out: builder.norm("conv_norm_out", last)?,
            conv_out: builder.convolution("conv_out", [last, 3], Window::SAME)?,
        })
    }

    fn forward(&self, latent_nhwc: Tensor<4>, groups: usize) -> Tensor<4> {
        let h = self.mid_block.forward(self.conv_in.forward(latent_nhwc, Window::SAME), groups);
        let h = self.up_blocks.iter().fold(h, |h, block| block.forward(h, groups));
        self.conv_out.forward(self.conv_norm_out.forward(h, groups, true), Window::SAME)
    }
}

fn residual_blocks(
    builder: &mut Builder<'_>,
    [inputs, outputs]: [usize; 2],
    count: usize,
) -> Result<Vec<ResidualBlock>, WeightsError> {
    builder.list("resnets", count, |builder, index| {
        ResidualBlock::build(builder, [if index == 0 { inputs } else { outputs }, outputs])
    })
}

/// A convolution under the name `conv`, as files have it around each change of size.
#[derive(Module, Debug)]
struct Resampler {
    conv: Convolution,
}

impl Resampler {
    fn build(
        builder: &mut Builder<'_>,
        name: &str,
        channels: usize,
        window: Window,
        wanted: bool,
    ) -> Result<Vec<Self>, WeightsError> {
        builder.list(name, usize::from(wanted), |builder, _| {
            Ok(Self { conv: builder.convolution("conv", [channels; 2], window)? })
        })
    }
}

#[derive(Module, Debug)]
struct DownBlock {
    resnets: Vec<ResidualBlock>,
    downsamplers: Vec<Resampler>,
}

impl DownBlock {
    fn build(
        builder: &mut Builder<'_>,
        channels: [usize; 2],
        layers: usize,
        halves: bool,
    ) -> Result<Self, WeightsError> {
        Ok(Self {
            resnets: residual_blocks(builder, channels, layers)?,
            downsamplers: Resampler::build(builder, "downsamplers", channels[1], Window::HALVE, halves)?,
        })
    }

    fn forward(&self, x_nhwc: Tensor<4>, groups: usize) -> Tensor<4> {
        let h = self.resnets.iter().fold(x_nhwc, |h, block| block.forward(h, groups));
        self.downsamplers.iter().fold(h, |h, sampler| sampler.conv.forward(h, Window::HALVE))
    }
}

#[derive(Module, Debug)]
struct UpBlock {
    resnets: Vec<ResidualBlock>,
    upsamplers: Vec<Resampler>,
}

impl UpBlock {
    fn build(
        builder: &mut Builder<'_>,
        channels: [usize; 2],
        layers: usize,
        doubles: bool,
    ) -> Result<Self, WeightsError> {
        Ok(Self {
            resnets: residual_blocks(builder, channels, layers)?,
            upsamplers: Resampler::build(builder, "upsamplers", channels[1], Window::SAME, doubles)?,
        })
    }

    fn forward(&self, x_nhwc: Tensor<4>, groups: usize) -> Tensor<4> {
        let h = self.resnets.iter().fold(x_nhwc, |h, block| block.forward(h, groups));
        self.upsamplers.iter().fold(h, |h, sampler| sampler.conv.forward(double(h), Window::SAME))
    }
}

#[derive(Module, Debug)]
struct MiddleBlock {
    resnets: Vec<ResidualBlock>,
    attentions: Vec<PixelAttention>,
}

impl MiddleBlock {
    fn build(builder: &mut Builder<'_>, channels: usize, attention: bool) -> Result<Self, WeightsError> {
        Ok(Self {
            resnets: residual_blocks(builder, [channels; 2], 2)?,
            attentions: builder.list("attentions", usize::from(attention), |builder, _| {
                PixelAttention::build(builder, channels)
            })?,
        })
    }

    fn forward(&self, x_nhwc: Tensor<4>, groups: usize) -> Tensor<4> {
        let [first, last] = [&self.resnets[0], &self.resnets[1]];
        let h = first.forward(x_nhwc, groups);
        let h = self.attentions.iter().fold(h, |h, attention| attention.forward(h, groups));
        last.forward(h, groups)
    }
}

/// Names of the attention's tensors in files written before diffusers 0.15, and now.
const OLD_NAMES: [(&str, &str); 4] =
    [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")];

/// Gives the tensors of an old file their present names.
pub(crate) fn rename(tensors: Tensors) -> Tensors {
    let renamed = |name: String| match name.contains(".attentions.") {
        true => OLD_NAMES.iter().fold(name, |name, (old, new)| name.replace(old, new)),
        false => name,
    };
    tensors.into_iter().map(|(name, tensor)| (renamed(name), tensor)).collect()
}
