//! Where the tensors of a network come from: fresh draws, a file, or nowhere, to count them. Knows no layer.
//!
//! A network is built by asking for each tensor by name and shape. So a file is checked while its network is built, and no memory is
//! used for sizes that the file doesn't have.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};

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
    /// Those of a file, each used once.
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

    /// A tensor; a fresh one is drawn evenly from `-bound..bound`, or is `fill` everywhere.
    pub(crate) fn tensor<const D: usize>(
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
            Source::Stored(tensors) => (remove(tensors, name, &shape)?, shape),
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

fn remove(tensors: &mut Tensors, name: String, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
    match tensors.remove(&name) {
        None => Err(WeightsError::Missing { name, shape: shape.to_vec() }),
        Some(FlatTensor { shape: found, values }) if found == shape => Ok(values),
        Some(FlatTensor { shape: found, .. }) => {
            Err(WeightsError::Shape { name, expected: shape.to_vec(), found })
        }
    }
}
