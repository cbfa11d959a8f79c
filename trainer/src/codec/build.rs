//! Where the tensors of a network come from: fresh draws, a file, or nowhere, to count them.
//!
//! A network is built by asking for each tensor by name and shape. So a file is checked while its network is built, and no memory is
//! taken for sizes that the file doesn't have.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};

use super::layers::{Convolution, GroupNorm, Projection};
use super::operations::Window;
use crate::random::Stream;
use crate::weights::{FlatTensor, Tensors, WeightsError};

/// Builds networks on a device.
#[derive(Debug)]
pub(crate) struct Builder<'a> {
    source: Source,
    device: &'a Device,
    path: Vec<String>,
}

#[derive(Debug)]
enum Source {
    /// Drawn by seed and name.
    Fresh(u64),
    /// Taken from a file, each once.
    Stored(Tensors),
    /// Empty ones; what was asked for is kept.
    Shapes(BTreeMap<String, Vec<usize>>),
}

impl<'a> Builder<'a> {
    pub(crate) fn fresh(seed: u64, device: &'a Device) -> Self {
        Self { source: Source::Fresh(seed), device, path: Vec::new() }
    }

    pub(crate) fn stored(tensors: Tensors, device: &'a Device) -> Self {
        Self { source: Source::Stored(tensors), device, path: Vec::new() }
    }

    pub(crate) fn shapes(device: &'a Device) -> Self {
        Self { source: Source::Shapes(BTreeMap::new()), device, path: Vec::new() }
    }

    /// Names and shapes of all tensors asked for, if they were only counted.
    pub(crate) fn into_shapes(self) -> BTreeMap<String, Vec<usize>> {
        match self.source {
            Source::Shapes(shapes) => shapes,
            _ => BTreeMap::new(),
        }
    }

    /// Whether a file was used up.
    pub(crate) fn finish(self) -> Result<(), WeightsError> {
        match self.source {
            Source::Stored(tensors) => match tensors.into_keys().next() {
                Some(name) => Err(WeightsError::Extra { name }),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Builds a part whose tensors' names begin with `name` and a dot.
    pub(crate) fn within<T>(
        &mut self,
        name: impl ToString,
        build: impl FnOnce(&mut Self) -> Result<T, WeightsError>,
    ) -> Result<T, WeightsError> {
        self.path.push(name.to_string());
        let built = build(self);
        self.path.pop();
        built
    }

    /// Builds `count` parts named by their numbers within `name`.
    pub(crate) fn list<T>(
        &mut self,
        name: &str,
        count: usize,
        mut build: impl FnMut(&mut Self, usize) -> Result<T, WeightsError>,
    ) -> Result<Vec<T>, WeightsError> {
        self.within(name, |builder| {
            (0..count).map(|index| builder.within(index, |builder| build(builder, index))).collect()
        })
    }

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

    pub(crate) fn norm(&mut self, name: impl ToString, channels: usize) -> Result<GroupNorm, WeightsError> {
        self.within(name, |builder| {
            let weight = builder.tensor("weight", [channels], None, 1.0)?;
            Ok(GroupNorm { weight, bias: builder.tensor("bias", [channels], None, 0.0)? })
        })
    }

    /// A tensor; a fresh one is drawn evenly from `-bound..bound`, or is `fill` everywhere.
    fn tensor<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        bound: Option<f64>,
        fill: f32,
    ) -> Result<Param<Tensor<D>>, WeightsError> {
        let name = self.path.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join(".");
        let count = shape.iter().product();
        let (values, shape) = match &mut self.source {
            Source::Fresh(seed) => (draw(*seed, &name, count, bound, fill), shape),
            Source::Stored(tensors) => (take(tensors, name, &shape)?, shape),
            Source::Shapes(shapes) => {
                shapes.insert(name, shape.to_vec());
                (Vec::new(), [0; D])
            }
        };
        Ok(Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), self.device)))
    }
}

fn draw(seed: u64, name: &str, count: usize, bound: Option<f64>, fill: f32) -> Vec<f32> {
    let Some(bound) = bound else { return vec![fill; count] };
    let mut stream = Stream::new(seed, &format!("codec {name}"), &[]);
    (0..count).map(|_| ((2.0 * stream.uniform() - 1.0) * bound) as f32).collect()
}

fn take(tensors: &mut Tensors, name: String, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
    match tensors.remove(&name) {
        None => Err(WeightsError::Missing { name, shape: shape.to_vec() }),
        Some(FlatTensor { shape: found, values }) if found == shape => Ok(values),
        Some(FlatTensor { shape: found, .. }) => {
            Err(WeightsError::Shape { name, expected: shape.to_vec(), found })
        }
    }
}
