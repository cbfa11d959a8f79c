//! Values of flex's tensors, in and out.

use burn::tensor::{Bytes, DType, Shape};
use burn_flex::{FlexTensor, Layout};

/// The gradients of an operation's inputs. Those that nobody wants may be `None`.
pub(crate) type Gradients<const N: usize> = [Option<FlexTensor>; N];

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
