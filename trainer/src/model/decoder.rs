//! The Llama block: RMSNorm before each part, rotary positions, SwiGLU, no biases; a last RMSNorm.
//!
//! Axes: n positions, m key positions, h heads, d width (or head dimension behind h).

use std::sync::Arc;

use burn::{module::Module, tensor::Tensor};

use super::{
    ModelPlan,
    layers::{Gain, Initial, Matrix},
};
use crate::kernels::{Rotary, Segment, attention, rotate, swiglu};

/// Embedding, layers, last norm: Hugging Face's `LlamaModel`.
#[derive(Module, Debug)]
pub struct Decoder {
    /// One row for each text id, BOI and EOI.
    pub embed_tokens: Matrix,
    /// The layers, first to last.
    pub layers: Vec<DecoderLayer>,
    /// The norm behind the last layer.
    pub norm: Gain,
    #[module(skip)]
    epsilon: f64,
}

impl Decoder {
    pub(super) fn new(plan: &ModelPlan, initial: &Initial<'_>) -> Self {
        let rows = plan.vocabulary().embedding_rows() as usize;
        let layer = |index| DecoderLayer::new(plan, &format!("model.layers.{index}"), initial);
        Self {
            embed_tokens: initial.matrix(
                "model.embed_tokens",
                [rows, plan.width()],
                plan.initial().embedding,
            ),
            layers: (0..plan.layers()).map(layer).collect(),
            norm: initial.gain("model.norm", plan.width()),
            epsilon: plan.norm_epsilon(),
        }
    }

    /// All layers and the last norm. Keys (rotated) and values of each layer pass through `memory(layer, keys, values)`, which may
    /// put others before them: that is where a key-value cache comes in. Training hands them on as they are.
    pub fn forward(
        &self,
        input_nd: Tensor<2>,
        rotary: &Rotary,
        segments: &Arc<[Segment]>,
        mut memory: impl FnMut(usize, Tensor<3>, Tensor<3>) -> (Tensor<3>, Tensor<3>),
    ) -> Tensor<2> {
        let output_nd = self.layers.iter().enumerate().fold(input_nd, |x_nd, (index, layer)| {
            layer.forward(x_nd, rotary, segments, |k_nhd, v_nhd| memory(index, k_nhd, v_nhd))
        });
        self.norm.forward(output_nd, self.epsilon)
    }
}

/// One layer: Hugging Face's `LlamaDecoderLayer`.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Attention.
    pub self_attn: SelfAttention,
    /// Feed-forward.
    pub mlp: FeedForward,
    /// The norm before attention.
    pub input_layernorm: Gain,
    /// The norm before the feed-forward.
    pub post_attention_layernorm: Gain,
    #[module(skip)]
    epsilon: f64,
}

impl DecoderLayer {
    fn new(plan: &ModelPlan, name: &str, initial: &Initial<'_>) -> Self {
        Self {
            self_attn: SelfAttention::new(plan, &format!("{name}.self_attn"), initial),
            mlp: FeedForward::new(plan, &format!("{name}.mlp"), initial),
            input_layernorm: initial.gain(&format!("{name}.input_layernorm"), plan.width()),
            post_attention_layernorm: initial.gain(&format!("{name}.post_attention_layernorm"), plan.width()),
            epsilon: plan.norm_epsilon(),
        }
    }

    /// `h = x + attention(norm(x))`, then `h + feed_forward(norm(h))`.
    pub fn forward(
        &self,
        x_nd: Tensor<2>,
        rotary: &Rotary,
        segments: &Arc<[Segment]>,
        memory: impl FnOnce(Tensor<3>, Tensor<3>) -> (Tensor<3>, Tensor<3>),
    ) -> Tensor<2> {
        let normed_nd = self.input_layernorm.forward(x_nd.clone(), self.epsilon);
        let h_nd = x_nd + self.self_attn.forward(normed_nd, rotary, segments, memory);
        let normed_nd = self.post_attention_layernorm.forward(h_nd.clone(), self.epsilon);
        h_nd + self.mlp.forward(normed_nd)
    }
}

/// Multi-head attention with rotary positions.
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// Queries.
    pub q_proj: Matrix,
    /// Keys.
    pub k_proj: Matrix,
    /// Values.
    pub v_proj: Matrix,
    /// Out.
    pub o_proj: Matrix,
    #[module(skip)]
    heads: usize,
}

impl SelfAttention {
    fn new(plan: &ModelPlan, name: &str, initial: &Initial<'_>) -> Self {
        let square = [plan.width(), plan.width()];
        Self {
            q_proj: initial.fan_in(&format!("{name}.q_proj"), square, 1.0),
            k_proj: initial.fan_in(&format!("{name}.k_proj"), square, 1.0),
            v_proj: initial.fan_in(&format!("{name}.v_proj"), square, 1.0),
            o_proj: initial.fan_in(&format!("{name}.o_proj"), square, residual_scale(plan)),
            heads: plan.heads(),
        }
    }

    /// Attention within `segments`; `memory` as in [`Decoder::forward`].
    pub fn forward(
        &self,
        x_nd: Tensor<2>,
        rotary: &Rotary,
        segments: &Arc<[Segment]>,
        memory: impl FnOnce(Tensor<3>, Tensor<3>) -> (Tensor<3>, Tensor<3>),
    ) -> Tensor<2> {
        let [n, width] = x_nd.dims();
        let split = |y_nd: Tensor<2>| y_nd.reshape([n, self.heads, width / self.heads]);
        let q_nhd = rotate(split(self.q_proj.forward(x_nd.clone())), rotary);
        let k_nhd = rotate(split(self.k_proj.forward(x_nd.clone())), rotary);
        let (k_mhd, v_mhd) = memory(k_nhd, split(self.v_proj.forward(x_nd)));
        self.o_proj.forward(attention(q_nhd, k_mhd, v_mhd, segments).reshape([n, width]))
    }
}

/// SwiGLU feed-forward.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// The gate.
    pub gate_proj: Matrix,
    /// The values behind the gate.
    pub up_proj: Matrix,
    /// Out.
    pub down_proj: Matrix,
}

impl FeedForward {
    fn new(plan: &ModelPlan, name: &str, initial: &Initial<'_>) -> Self {
        let (wide, narrow) = (plan.feed_forward(), plan.width());
        Self {
            gate_proj: initial.fan_in(&format!("{name}.gate_proj"), [wide, narrow], 1.0),
            up_proj: initial.fan_in(&format!("{name}.up_proj"), [wide, narrow], 1.0),
            down_proj: initial.fan_in(&format!("{name}.down_proj"), [narrow, wide], residual_scale(plan)),
        }
    }

    /// `down(silu(gate(x)) * up(x))`.
    pub fn forward(&self, x_nd: Tensor<2>) -> Tensor<2> {
        self.down_proj.forward(swiglu(self.gate_proj.forward(x_nd.clone()), self.up_proj.forward(x_nd)))
    }
}

/// Matrices that write into the residual stream start smaller, so that the stream's scale doesn't grow with depth.
fn residual_scale(plan: &ModelPlan) -> f64 {
    1.0 / (2.0 * plan.layers() as f64).sqrt()
}
