//! The operations on pictures against Burn's own, and their promise about bits.

use burn::tensor::{Device, Tensor, TensorData};

use crate::golden::{assert_close, read};
use crate::kernels::*;
use crate::random::Stream;

fn normal<const D: usize>(purpose: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    let values = Stream::new(0, purpose, &[]).normals(shape.iter().product());
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Output and the gradients of three inputs, of `sum(output * probe)`.
fn run(
    inputs: (Tensor<4>, Tensor<4>, Tensor<1>),
    operation: impl Fn(Tensor<4>, Tensor<4>, Tensor<1>) -> Tensor<4>,
) -> [Vec<f64>; 4] {
    let (x, weight, bias) = inputs;
    let (x, weight, bias) = (x.require_grad(), weight.require_grad(), bias.require_grad());
    let y = operation(x.clone(), weight.clone(), bias.clone());
    let probe = normal("probe", y.dims(), &y.device());
    let gradients = (y.clone() * probe).sum().backward();
    let [dx, dw] = [&x, &weight].map(|input| read(input.grad(&gradients).unwrap()));
    [read(y), dx, dw, read(bias.grad(&gradients).unwrap())]
}

/// Sums of some hundred products of normal numbers, in another order.
const TOLERANCE: f64 = 3e-4;

#[test]
fn convolution_is_burns() {
    let device = Device::flex().autodiff();
    // A picture of several tiles, and one of a single row.
    for (shape, outputs) in [([3, 5, 7, 6], 10), ([1, 40, 64, 24], 5), ([2, 1, 1, 3], 4)] {
        for window in [Window::SAME, Window::HALVE, Window::POINT] {
            if window == Window::HALVE && shape[1] < 2 {
                continue;
            }
            let kernel = window.kernel;
            let inputs = || {
                let weight = normal("weight", [outputs, shape[3], kernel, kernel], &device);
                (normal("x", shape, &device), weight, normal("bias", [outputs], &device))
            };
            let ours = run(inputs(), |x, weight, bias| convolve(x, weight, bias, window));
            let burns = run(inputs(), |x, weight, bias| reference::convolve(x, weight, bias, window));
            for (name, (ours, burns)) in ["y", "dx", "dw", "db"].iter().zip(ours.iter().zip(&burns)) {
                let scale = burns.iter().fold(1.0, |scale: f64, value| scale.max(value.abs()));
                assert_close(ours, burns, 1e-5 * scale, &format!("{name} of {shape:?} with {window:?}"));
            }
        }
    }
}

#[test]
fn group_norm_is_burns() {
    let device = Device::flex().autodiff();
    for (shape, groups) in [([2, 20, 17, 12], 4), ([1, 1, 2, 8], 8), ([3, 4, 4, 6], 1)] {
        for silu in [false, true] {
            let norm = NormSettings { groups, epsilon: 1e-6, silu };
            let channels = shape[3];
            let inputs = || {
                let gain = normal("gain", [1, 1, 1, channels], &device);
                (normal("x", shape, &device) * 3.0 + 2.0, gain, normal("shift", [channels], &device))
            };
            let ours = run(inputs(), |x, gain, shift| group_norm(x, gain.reshape([channels]), shift, norm));
            let burns = run(inputs(), |x, gain, shift| {
                reference::group_norm(x, gain.reshape([channels]), shift, norm)
            });
            for (name, (ours, burns)) in ["y", "dx", "dgain", "dshift"].iter().zip(ours.iter().zip(&burns)) {
                assert_close(ours, burns, TOLERANCE, &format!("{name} of {shape:?} with {norm:?}"));
            }
        }
    }
}

#[test]
fn silu_is_burns() {
    let device = Device::flex().autodiff();
    let inputs = || {
        let unused = || Tensor::<1>::zeros([1], &device);
        (normal("x", [2, 3, 40, 5], &device) * 4.0, Tensor::ones([1, 1, 1, 1], &device), unused())
    };
    let with = |silu: fn(Tensor<4>) -> Tensor<4>| {
        run(inputs(), move |x, one, zero| silu(x) * one + zero.reshape([1, 1, 1, 1]))
    };
    let (ours, burns) = (with(silu), with(burn::tensor::activation::silu));
    assert_close(&ours[0], &burns[0], 1e-5, "y");
    assert_close(&ours[1], &burns[1], 1e-5, "dx");
}

/// Without noise in the numbers there is nothing to divide by but epsilon.
#[test]
fn a_constant_picture_is_normalised_to_the_shift() {
    let device = Device::flex();
    let x = Tensor::ones([1, 8, 8, 4], &device) * 1e4;
    let norm = NormSettings { groups: 2, epsilon: 1e-6, silu: false };
    let y = group_norm(x, Tensor::ones([4], &device), Tensor::ones([4], &device) * 0.5, norm);
    assert_eq!(read(y), vec![0.5; 256]);
}

#[test]
fn threads_change_no_bit() {
    let compute = || {
        let device = Device::flex().autodiff();
        let inputs = (
            normal("x", [5, 24, 32, 16], &device),
            normal("weight", [16, 16, 3, 3], &device),
            normal("bias", [16], &device),
        );
        run(inputs, |x, weight, bias| {
            let norm = NormSettings { groups: 4, epsilon: 1e-6, silu: true };
            let h = convolve(x, weight.clone(), bias.clone(), Window::SAME);
            let h = group_norm(h, bias.clone(), bias.clone(), norm);
            silu(convolve(h, weight, bias, Window::HALVE))
        })
    };
    let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(compute);
    let one = on(1);
    assert_eq!(one, on(2));
    assert_eq!(one, on(3));
}
