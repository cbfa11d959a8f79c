//! Parameters and how they start.
//!
//! Each starts from a stream of its own ([`Stream`]), named by the seed and the parameter's name, so that adding a part to the
//! model leaves the others' start as it was.

use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor, TensorData},
};

use crate::{
    kernels::{linear, rms_norm},
    random::Stream,
};

/// A matrix (out, in) without bias.
#[derive(Module, Debug)]
pub struct Matrix {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
}

impl Matrix {
    /// `x W^T`.
    pub fn forward(&self, x_ni: Tensor<2>) -> Tensor<2> {
        linear(x_ni, self.weight.val())
    }
}

/// A matrix (out, in) with bias.
#[derive(Module, Debug)]
pub struct Affine {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl Affine {
    /// `x W^T + b`.
    pub fn forward(&self, x_ni: Tensor<2>) -> Tensor<2> {
        linear(x_ni, self.weight.val()) + self.bias.val().unsqueeze()
    }
}

/// The gain of an RMSNorm.
#[derive(Module, Debug)]
pub struct Gain {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
}

impl Gain {
    /// `x / sqrt(mean(x^2) + epsilon) * gain`.
    pub fn forward(&self, x_nd: Tensor<2>, epsilon: f64) -> Tensor<2> {
        rms_norm(x_nd, self.weight.val(), epsilon)
    }
}

/// Makes the parameters of a fresh model.
pub(super) struct Initial<'a> {
    seed: u64,
    device: &'a Device,
}

impl<'a> Initial<'a> {
    pub(super) fn new(seed: u64, device: &'a Device) -> Self {
        Self { seed, device }
    }

    /// Normal with the given standard deviation; zero at 0.
    fn normal(&self, name: &str, shape: [usize; 2], deviation: f64) -> Param<Tensor<2>> {
        let count = shape[0] * shape[1];
        let values = if deviation == 0.0 {
            vec![0.0; count]
        } else {
            let mut stream = Stream::new(self.seed, &format!("initial {name}.weight"), &[]);
            (0..count).map(|_| (stream.normal() * deviation) as f32).collect()
        };
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), self.device))
    }

    pub(super) fn matrix(&self, name: &str, shape: [usize; 2], deviation: f64) -> Matrix {
        Matrix { weight: self.normal(name, shape, deviation) }
    }

    /// A matrix with standard deviation `scale / sqrt(inputs)`.
    pub(super) fn fan_in(&self, name: &str, shape: [usize; 2], scale: f64) -> Matrix {
        self.matrix(name, shape, scale / (shape[1] as f64).sqrt())
    }

    /// Weight with standard deviation `scale / sqrt(inputs)`, bias zero.
    pub(super) fn affine(&self, name: &str, shape: [usize; 2], scale: f64) -> Affine {
        let weight = self.normal(name, shape, scale / (shape[1] as f64).sqrt());
        Affine { weight, bias: Param::from_tensor(Tensor::zeros([shape[0]], self.device)) }
    }

    pub(super) fn gain(&self, width: usize) -> Gain {
        Gain { weight: Param::from_tensor(Tensor::ones([width], self.device)) }
    }
}
