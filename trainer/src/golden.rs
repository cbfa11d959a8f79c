//! Reads the reference values of `tests/golden/` for tests.

use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};

/// Folder of the reference values.
pub(crate) fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden"))
}

/// A JSON file of the folder.
pub(crate) fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(folder().join(name)).unwrap()).unwrap()
}

/// A `.safetensors` file of the folder.
pub(crate) struct Golden(Vec<u8>);

impl Golden {
    pub(crate) fn open(name: &str) -> Self {
        Self(std::fs::read(folder().join(name)).unwrap())
    }

    /// Shape and values of `key`, whatever type it is stored in.
    pub(crate) fn values(&self, key: &str) -> (Vec<usize>, Vec<f64>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(key).unwrap_or_else(|_| panic!("no tensor `{key}`"));
        let bytes = view.data();
        let values = match view.dtype() {
            Dtype::F32 => {
                bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
            }
            Dtype::F64 => bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::I64 => {
                bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect()
            }
            Dtype::I32 => {
                bytes.chunks_exact(4).map(|b| f64::from(i32::from_le_bytes(b.try_into().unwrap()))).collect()
            }
            Dtype::U8 => bytes.iter().map(|&b| f64::from(b)).collect(),
            other => panic!("`{key}` is stored as {other:?}"),
        };
        (view.shape().to_vec(), values)
    }

    pub(crate) fn f64s(&self, key: &str) -> Vec<f64> {
        self.values(key).1
    }

    pub(crate) fn f32s(&self, key: &str) -> Vec<f32> {
        self.f64s(key).into_iter().map(|value| value as f32).collect()
    }

    pub(crate) fn integers(&self, key: &str) -> Vec<i64> {
        self.f64s(key).into_iter().map(|value| value as i64).collect()
    }

    pub(crate) fn tensor<const D: usize>(&self, key: &str, device: &Device) -> Tensor<D> {
        let (shape, values) = self.values(key);
        let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }
}

/// Values of a tensor in memory order.
pub(crate) fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.to_data().convert::<f64>().try_into_vec().unwrap()
}

/// Panics unless all values agree within `tolerance`.
#[track_caller]
pub(crate) fn assert_close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst <= tolerance, "{what}: off by {worst:e}, allowed are {tolerance:e}");
    assert!(found.iter().all(|value| value.is_finite()), "{what}: a value is not finite");
}
