//! How the operations enter Burn: the trait [`Kernels`], its bodies for flex, and their gradients on Burn's graph.
//!
//! `operations!` is the table: an operation has tensors, plain settings behind the semicolon, and a forward and a backward
//! function below [`flex`]. Flex runs the forward function; autodiff keeps what the backward function needs and calls it.
//! A further backend is one more list of bodies.

use std::{fmt::Debug, ops::Range, sync::Arc};

use burn::backend::{
    Autodiff, Backend, Flex,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients as Graph,
        ops::{Backward, NodeGuard, Ops, OpsKind},
    },
    backend_extension,
    tensor::FloatTensor,
};
use burn_flex::FlexTensor;

use super::{
    flex::{self, tensors::Gradients},
    types::{NormSettings, Rotary, Segment, Target, Window},
};

/// Writes the trait of the operations and what runs them on flex, with and without gradients.
macro_rules! operations {
    ($(
        $name:ident($($input:ident),+ $(; $($setting:ident: $type:ty),+)?)
            = $module:ident::{$forward:ident, $backward:ident};
    )+) => {
        /// The operations with a version of our own, named as in [`super`].
        #[backend_extension(Autodiff, Flex)]
        pub(crate) trait Kernels: Backend {$(
            fn $name($($input: FloatTensor<Self>),+ $($(, $setting: $type)+)?) -> FloatTensor<Self>;
        )+}

        impl Kernels for Flex {$(
            fn $name($($input: FlexTensor),+ $($(, $setting: $type)+)?) -> FlexTensor {
                flex::$module::$forward($($input),+ $($(, $setting)+)?).0
            }
        )+}

        impl<C: CheckpointStrategy> Kernels for Autodiff<Flex, C> {$(
            fn $name($($input: FloatTensor<Self>),+ $($(, $setting: $type)+)?) -> FloatTensor<Self> {
                $(let $input = $input.into_parts();)+
                let nodes = [$($input.1),+];
                let forward = || flex::$module::$forward($($input.0),+ $($(, $setting)+)?);
                record::<C, _, _>(nodes, forward, flex::$module::$backward)
            }
        )+}
    };
}

operations! {
    linear(x, weight) = linear::{forward, backward};
    rms_norm(x, gain; epsilon: f32) = norm::{forward, backward};
    swiglu(gate, up) = swiglu::{forward, backward};
    rotate(x; rotary: Rotary) = rotate::{forward, backward};
    attention(q, k, v; segments: Arc<[Segment]>) = attention::{forward, backward};
    cross_entropy(hidden, weight; targets: Arc<[Target]>) = cross_entropy::{forward, backward};
    image_losses(prediction, target; images: Arc<[Range<usize>]>) = rows::{image_losses, image_losses_backward};
    gather_rows(x; rows: Arc<[u32]>) = rows::{gather, gather_backward};
    scatter_rows(base, values; rows: Arc<[u32]>) = rows::{scatter, scatter_backward};
    convolve(x, weight, bias; window: Window) = convolution::{forward, backward};
    group_norm(x, gain, shift; settings: NormSettings) = group_norm::{forward, backward};
    silu(x) = silu::{forward, backward};
}

/// The backward part of an operation: what the forward part kept, the output's gradient, which inputs want theirs.
type BackwardOf<S, const N: usize> = fn(S, FlexTensor, [bool; N]) -> Gradients<N>;

/// A node of the graph that calls a [`BackwardOf`].
#[derive(Debug)]
struct Recorded<S, const N: usize>(BackwardOf<S, N>);

impl<S: Clone + Send + Debug + 'static, const N: usize> Backward<Flex, N> for Recorded<S, N> {
    type State = S;

    fn backward(self, ops: Ops<S, N>, graph: &mut Graph, _: &mut Checkpointer) {
        let output = graph.consume::<Flex>(&ops.node);
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let results = (self.0)(ops.state, output, wanted);
        for (parent, gradient) in ops.parents.into_iter().zip(results) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                graph.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

/// Runs `forward`, and keeps its second result for `backward` where one of the inputs is tracked.
fn record<C: CheckpointStrategy, S: Clone + Send + Debug + 'static, const N: usize>(
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
