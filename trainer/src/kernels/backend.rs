//! How the operations enter Burn: a backend extension for flex, and its gradients.
//!
//! [`Kernels`] lists the operations; flex runs the forward part, autodiff keeps what the backward part needs and calls it. An
//! operation is a module with two functions, `forward` and `backward`, over [`FlexTensor`]s.

use std::{fmt::Debug, ops::Range, sync::Arc};

use burn::{
    backend::{
        Autodiff, Backend, Dispatch, Flex,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, NodeGuard, Ops, OpsKind},
        },
        backend_extension,
        tensor::FloatTensor,
    },
    tensor::{Bytes, DType, Device, Shape, Tensor},
};
use burn_flex::{FlexTensor, Layout};

use super::{
    attention, cross_entropy, linear, norm, rotate, rows, swiglu,
    types::{Rotary, Segment, Target},
};

/// The operations with a version of our own.
#[backend_extension(Autodiff, Flex)]
pub(crate) trait Kernels: Backend {
    /// [`super::linear()`].
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
    /// [`super::rms_norm`].
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;
    /// [`super::swiglu()`].
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    /// [`super::rotate()`].
    fn rotate(x: FloatTensor<Self>, rotary: Rotary) -> FloatTensor<Self>;
    /// [`super::attention()`].
    fn attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        segments: Arc<[Segment]>,
    ) -> FloatTensor<Self>;
    /// [`super::cross_entropy()`].
    fn cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: Arc<[Target]>,
    ) -> FloatTensor<Self>;
    /// [`super::image_losses`].
    fn image_losses(
        prediction: FloatTensor<Self>,
        target: FloatTensor<Self>,
        images: Arc<[Range<usize>]>,
    ) -> FloatTensor<Self>;
    /// [`super::gather_rows`].
    fn gather_rows(x: FloatTensor<Self>, rows: Arc<[u32]>) -> FloatTensor<Self>;
    /// [`super::scatter_rows`].
    fn scatter_rows(
        base: FloatTensor<Self>,
        rows: Arc<[u32]>,
        values: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

impl Kernels for Flex {
    fn linear(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        linear::forward(x, weight).0
    }
    fn rms_norm(x: FlexTensor, gain: FlexTensor, epsilon: f32) -> FlexTensor {
        norm::forward(x, gain, epsilon).0
    }
    fn swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        swiglu::forward(gate, up).0
    }
    fn rotate(x: FlexTensor, rotary: Rotary) -> FlexTensor {
        rotate::forward(x, rotary).0
    }
    fn attend(q: FlexTensor, k: FlexTensor, v: FlexTensor, segments: Arc<[Segment]>) -> FlexTensor {
        attention::forward(q, k, v, segments).0
    }
    fn cross_entropy(hidden: FlexTensor, weight: FlexTensor, targets: Arc<[Target]>) -> FlexTensor {
        cross_entropy::forward(hidden, weight, targets).0
    }
    fn image_losses(prediction: FlexTensor, target: FlexTensor, images: Arc<[Range<usize>]>) -> FlexTensor {
        rows::image_losses(prediction, target, images).0
    }
    fn gather_rows(x: FlexTensor, rows: Arc<[u32]>) -> FlexTensor {
        rows::gather(x, rows).0
    }
    fn scatter_rows(base: FlexTensor, rows: Arc<[u32]>, values: FlexTensor) -> FlexTensor {
        rows::scatter(base, rows, values).0
    }
}

impl<C: CheckpointStrategy> Kernels for Autodiff<Flex, C> {
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((x, x_node), (weight, weight_node)) = (x.into_parts(), weight.into_parts());
        record::<C, _, 2>([x_node, weight_node], || linear::forward(x, weight), linear::backward)
    }
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        let ((x, x_node), (gain, gain_node)) = (x.into_parts(), gain.into_parts());
        record::<C, _, 2>([x_node, gain_node], || norm::forward(x, gain, epsilon), norm::backward)
    }
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        record::<C, _, 2>([gate_node, up_node], || swiglu::forward(gate, up), swiglu::backward)
    }
    fn rotate(x: FloatTensor<Self>, rotary: Rotary) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        record::<C, _, 1>([node], || rotate::forward(x, rotary), rotate::backward)
    }
    fn attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        segments: Arc<[Segment]>,
    ) -> FloatTensor<Self> {
        let ((q, q_node), (k, k_node), (v, v_node)) = (q.into_parts(), k.into_parts(), v.into_parts());
        let forward = || attention::forward(q, k, v, segments);
        record::<C, _, 3>([q_node, k_node, v_node], forward, attention::backward)
    }
    fn cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: Arc<[Target]>,
    ) -> FloatTensor<Self> {
        let ((hidden, hidden_node), (weight, weight_node)) = (hidden.into_parts(), weight.into_parts());
        let forward = || cross_entropy::forward(hidden, weight, targets);
        record::<C, _, 2>([hidden_node, weight_node], forward, cross_entropy::backward)
    }
    fn image_losses(
        prediction: FloatTensor<Self>,
        target: FloatTensor<Self>,
        images: Arc<[Range<usize>]>,
    ) -> FloatTensor<Self> {
        let (prediction, node) = prediction.into_parts();
        let target = target.into_primitive();
        let forward = || rows::image_losses(prediction, target, images);
        record::<C, _, 1>([node], forward, rows::image_losses_backward)
    }
    fn gather_rows(x: FloatTensor<Self>, rows: Arc<[u32]>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        record::<C, _, 1>([node], || rows::gather(x, rows), rows::gather_backward)
    }
    fn scatter_rows(
        base: FloatTensor<Self>,
        rows: Arc<[u32]>,
        values: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let ((base, base_node), (values, values_node)) = (base.into_parts(), values.into_parts());
        let forward = || rows::scatter(base, rows, values);
        record::<C, _, 2>([base_node, values_node], forward, rows::scatter_backward)
    }
}

/// The gradients of an operation's inputs. Those that nobody wants may be `None`.
pub(crate) type Gradients1 = [Option<FlexTensor>; 1];
/// [`Gradients1`] for two inputs.
pub(crate) type Gradients2 = [Option<FlexTensor>; 2];
/// [`Gradients1`] for three inputs.
pub(crate) type Gradients3 = [Option<FlexTensor>; 3];

/// The backward part of an operation: what the forward part kept, the output's gradient, which inputs want theirs.
pub(crate) type BackwardOf<S, const N: usize> = fn(S, FlexTensor, [bool; N]) -> [Option<FlexTensor>; N];

/// A node of the graph that calls a [`BackwardOf`].
#[derive(Debug)]
struct Recorded<S, const N: usize>(BackwardOf<S, N>);

impl<S: Clone + Send + Debug + 'static, const N: usize> Backward<Flex, N> for Recorded<S, N> {
    type State = S;

    fn backward(self, ops: Ops<S, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let output = gradients.consume::<Flex>(&ops.node);
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let results = (self.0)(ops.state, output, wanted);
        for (parent, gradient) in ops.parents.into_iter().zip(results) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                gradients.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

/// Runs `forward`, and keeps its second result for `backward` where one of the inputs is tracked.
pub(crate) fn record<C: CheckpointStrategy, S: Clone + Send + Debug + 'static, const N: usize>(
    nodes: [NodeGuard; N],
    forward: impl FnOnce() -> (FlexTensor, S),
    backward: BackwardOf<S, N>,
) -> FloatTensor<Autodiff<Flex, C>> {
    match Recorded(backward).prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => {
            let (output, kept) = forward();
            prepared.finish(kept, output)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(forward().0),
    }
}

/// Whether `x` is where the operations of our own can run; elsewhere they are made of ordinary ones.
pub(crate) fn is_native<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && x.device() == Device::flex()
}

/// Names the dispatching side of [`Kernels`].
pub(crate) type Native = Dispatch;

/// `tensor`, its values made contiguous in row-major order where they are not.
pub(crate) fn dense(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

/// The values of a [`dense`] tensor.
pub(crate) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice::<f32>().expect("a dense tensor of f32")
}

/// The sizes of a tensor of `D` axes.
pub(crate) fn sizes<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    let shape = tensor.layout().shape();
    std::array::from_fn(|axis| shape[axis])
}

/// A tensor that owns `values`, in row-major order.
pub(crate) fn tensor<const D: usize>(values: Vec<f32>, sizes: [usize; D]) -> FlexTensor {
    debug_assert_eq!(values.len(), sizes.iter().product::<usize>());
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::from(sizes)), DType::F32)
}
