//! Parameters and how they start.
//!
//! Each starts from a stream of its own ([`Stream`]), named by the seed and the parameter's name, so that adding a part to the
//! model leaves the others' start as it was.

use std::{cell::RefCell, collections::BTreeMap};

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

/// Makes the parameters of a model.
pub(super) struct Initial<'a> {
    source: Source,
    device: &'a Device,
}

enum Source {
    /// Drawn by seed and name.
    Seed(u64),
    /// Empty; the names and shapes that were asked for are kept.
    Shapes(RefCell<BTreeMap<String, Vec<usize>>>),
}

impl<'a> Initial<'a> {
    pub(super) fn new(seed: u64, device: &'a Device) -> Self {
        Self { source: Source::Seed(seed), device }
    }

    /// Name and shape of each parameter that `build` asks for; none has any numbers.
    pub(super) fn shapes(build: impl FnOnce(&Initial<'_>)) -> BTreeMap<String, Vec<usize>> {
        let asked = Initial { source: Source::Shapes(RefCell::default()), device: &Device::flex() };
        build(&asked);
        match asked.source {
            Source::Shapes(shapes) => shapes.into_inner(),
            Source::Seed(_) => BTreeMap::new(),
        }
    }

    /// The parameter called `name`, `values` of the seed and the number of them.
    fn parameter<const D: usize>(
        &self,
        name: String,
        shape: [usize; D],
        values: impl FnOnce(u64, &str, usize) -> Vec<f32>,
    ) -> Param<Tensor<D>> {
        let data = match &self.source {
            Source::Seed(seed) => TensorData::new(values(*seed, &name, shape.iter().product()), shape),
            Source::Shapes(shapes) => {
                shapes.borrow_mut().insert(name, shape.to_vec());
                TensorData::new(Vec::<f32>::new(), [0; D])
            }
        };
        Param::from_tensor(Tensor::from_data(data, self.device))
    }

    /// A matrix, normal with the given standard deviation; zero at 0.
    pub(super) fn matrix(&self, name: &str, shape: [usize; 2], deviation: f64) -> Matrix {
        let normal = |seed, name: &str, count| {
            if deviation == 0.0 {
                return vec![0.0; count];
            }
            let mut stream = Stream::new(seed, &format!("initial {name}"), &[]);
            (0..count).map(|_| (stream.normal() * deviation) as f32).collect()
        };
        Matrix { weight: self.parameter(format!("{name}.weight"), shape, normal) }
    }

    /// A matrix with standard deviation `scale / sqrt(inputs)`.
    pub(super) fn fan_in(&self, name: &str, shape: [usize; 2], scale: f64) -> Matrix {
        self.matrix(name, shape, scale / (shape[1] as f64).sqrt())
    }

    /// Weight with standard deviation `scale / sqrt(inputs)`, bias zero.
    pub(super) fn affine(&self, name: &str, shape: [usize; 2], scale: f64) -> Affine {
        let zeros = |_, _: &str, count| vec![0.0; count];
        let bias = self.parameter(format!("{name}.bias"), [shape[0]], zeros);
        Affine { weight: self.fan_in(name, shape, scale).weight, bias }
    }

    pub(super) fn gain(&self, name: &str, width: usize) -> Gain {
        let ones = |_, _: &str, count| vec![1.0; count];
        Gain { weight: self.parameter(format!("{name}.weight"), [width], ones) }
    }
}
