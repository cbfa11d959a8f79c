//! Weights as flat numbers by name: out of a Burn module, into one, and to and from safetensors bytes. It knows nothing about
//! any model.
//!
//! Names are the paths of the parameters in the module, which follow Hugging Face's Llama. Files are written with
//! sorted names and the same metadata always, so equal weights give equal bytes. A file must hold exactly the tensors
//! that the module has: one that is missing, superfluous or of another shape is an error, because a model that was
//! filled in part computes without complaint and wrongly.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use safetensors::{Dtype, SafeTensorError, SafeTensors};

/// The numbers of one tensor, last axis fastest.
#[derive(Clone, Debug, PartialEq)]
pub struct FlatTensor {
    /// Its axes.
    pub shape: Vec<usize>,
    /// Its numbers, as many as the product of `shape`.
    pub values: Vec<f32>,
}

impl FlatTensor {
    /// Whether every value is a number.
    pub fn is_finite(&self) -> bool {
        self.values.iter().all(|value| value.is_finite())
    }
}

/// Tensors by name.
pub type Tensors = BTreeMap<String, FlatTensor>;

/// Why tensors can't be read or don't fit.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// Not a safetensors file, or only a part of one.
    #[error("not a whole safetensors file")]
    Format(#[from] SafeTensorError),
    /// Numbers of a type that weights don't have.
    #[error("tensor `{name}` holds {found}, expected F32, BF16 or F16")]
    Type {
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// A tensor that is not there.
    #[error("tensor `{name}` of shape {shape:?} is missing")]
    Missing {
        /// The tensor.
        name: String,
        /// The shape it should have.
        shape: Vec<usize>,
    },
    /// A tensor that belongs nowhere.
    #[error("tensor `{name}` belongs to no parameter of the model")]
    Extra {
        /// The tensor.
        name: String,
    },
    /// Fewer numbers than the model has, noticed before memory is used for it.
    #[error("the file holds {found} numbers, a model of this config has {expected}")]
    Count {
        /// Parameters of the model.
        expected: u64,
        /// Numbers of the file.
        found: u64,
    },
    /// A tensor of another size.
    #[error("tensor `{name}` has the shape {found:?}, the model has {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// The model's shape.
        expected: Vec<usize>,
        /// The file's shape.
        found: Vec<usize>,
    },
}

/// The path of the parameter that a visitor or mapper is at.
#[derive(Debug, Default)]
pub(crate) struct Path(Vec<String>);

impl Path {
    pub(crate) fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    pub(crate) fn exit(&mut self) {
        self.0.pop();
    }

    pub(crate) fn name(&self) -> String {
        self.0.join(".")
    }
}

/// Name and shape of every parameter of a module, without copying numbers.
pub fn shapes<M: Module>(module: &M) -> BTreeMap<String, Vec<usize>> {
    unread(module).into_iter().map(|(name, tensor)| (name, tensor.shape)).collect()
}

/// Copies the parameters of a module.
///
/// # Panics
///
/// If a parameter is not of `f32`, which the modules of this crate always are.
pub fn read<M: Module>(module: &M) -> Tensors {
    let copy = |tensor: UnreadTensor<'_>| {
        let values = (tensor.read)().into_owned();
        FlatTensor { shape: tensor.shape, values }
    };
    unread(module).into_iter().map(|(name, tensor)| (name, copy(tensor))).collect()
}

pub(crate) fn values_of<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .into_data()
        .try_into_vec::<f32>()
        .expect("parameters and gradients are f32 on every device of this crate")
}

/// Puts `tensors` into a module.
///
/// # Errors
///
/// If they are not exactly the module's.
pub fn fill<M: Module>(module: M, tensors: Tensors) -> Result<M, WeightsError> {
    check(&shapes(&module), &tensors)?;
    struct Filler {
        path: Path,
        tensors: Tensors,
    }
    impl ModuleMapper for Filler {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let flat =
                self.tensors.remove(&self.path.name()).expect("`check` has seen that each name is there");
            replace(param, |_| flat)
        }
    }
    let mut filler = Filler { path: Path::default(), tensors };
    Ok(module.map(&mut filler))
}

/// Gives a parameter new numbers, on the same device and as trainable as before.
pub(crate) fn replace<const D: usize>(
    param: Param<Tensor<D>>,
    change: impl FnOnce(FlatTensor) -> FlatTensor,
) -> Param<Tensor<D>> {
    let (id, tensor, mapper) = param.consume();
    let (device, trained, shape) = (tensor.device(), tensor.is_require_grad(), tensor.dims().to_vec());
    let flat = change(FlatTensor { shape, values: values_of(tensor) });
    let tensor =
        Tensor::from_data(TensorData::new(flat.values, flat.shape), &device).set_require_grad(trained);
    Param::from_mapped_value(id, tensor, mapper)
}

/// Whether `tensors` are exactly those of `shapes`.
///
/// # Errors
///
/// The first difference, by name.
pub fn check(shapes: &BTreeMap<String, Vec<usize>>, tensors: &Tensors) -> Result<(), WeightsError> {
    for (name, shape) in shapes {
        match tensors.get(name) {
            None => return Err(WeightsError::Missing { name: name.clone(), shape: shape.clone() }),
            Some(tensor) if tensor.shape != *shape => {
                let (expected, found) = (shape.clone(), tensor.shape.clone());
                return Err(WeightsError::Shape { name: name.clone(), expected, found });
            }
            Some(_) => {}
        }
    }
    match tensors.keys().find(|name| !shapes.contains_key(*name)) {
        Some(name) => Err(WeightsError::Extra { name: name.clone() }),
        None => Ok(()),
    }
}

/// A tensor whose numbers are read when they are written, so that a file is never held in memory as a whole.
pub struct UnreadTensor<'a> {
    shape: Vec<usize>,
    read: Box<dyn Fn() -> Cow<'a, [f32]> + 'a>,
}

impl std::fmt::Debug for UnreadTensor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnreadTensor").field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl<'a> UnreadTensor<'a> {
    /// One that lies in memory anyway.
    pub fn borrowed(shape: &[usize], values: &'a [f32]) -> Self {
        Self { shape: shape.to_vec(), read: Box::new(move || Cow::Borrowed(values)) }
    }

    /// Whether every value is a number.
    pub fn is_finite(&self) -> bool {
        (self.read)().iter().all(|value| value.is_finite())
    }
}

/// Unread tensors by name.
pub type UnreadTensors<'a> = BTreeMap<String, UnreadTensor<'a>>;

/// The parameters of a module, each copied only while it is written.
pub fn unread<'a, M: Module>(module: &M) -> UnreadTensors<'a> {
    struct Reader<'a> {
        path: Path,
        tensors: UnreadTensors<'a>,
    }
    impl ModuleVisitor for Reader<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            let shape = tensor.dims().to_vec();
            let read = Box::new(move || Cow::Owned(values_of(tensor.clone())));
            self.tensors.insert(self.path.name(), UnreadTensor { shape, read });
        }
    }
    let mut reader = Reader { path: Path::default(), tensors: UnreadTensors::new() };
    module.visit(&mut reader);
    reader.tensors
}

/// Tensors that are in memory, to be written as they are.
pub fn borrowed(tensors: &Tensors) -> UnreadTensors<'_> {
    let mut unread = UnreadTensors::new();
    for (name, tensor) in tensors {
        unread.insert(name.clone(), UnreadTensor::borrowed(&tensor.shape, &tensor.values));
    }
    unread
}

/// Writes a safetensors file: its header, then one tensor after another.
///
/// # Errors
///
/// A failure of `out`, or so many tensors that the header has no room.
pub fn write(tensors: &UnreadTensors<'_>, out: &mut dyn Write) -> io::Result<()> {
    let mut offset = 0;
    let info = |(name, tensor): (&String, &UnreadTensor<'_>)| {
        let start = offset;
        offset += tensor.shape.iter().product::<usize>() * size_of::<f32>();
        let (dtype, shape, data_offsets) = (Dtype::F32, tensor.shape.clone(), (start, offset));
        (name.clone(), TensorInfo { dtype, shape, data_offsets })
    };
    let infos = tensors.iter().map(info).collect();
    // One key only: the order of several would differ from run to run. The tools of the ecosystem ask for this one.
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(about), infos).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(HEADER_ALIGNMENT), b' ');
    if header.len() > LARGEST_HEADER {
        return Err(io::Error::other(SafeTensorError::HeaderTooLarge));
    }
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    tensors.values().try_for_each(|tensor| out.write_all(bytemuck::cast_slice(&(tensor.read)())))
}

/// The header of a safetensors file is padded with spaces to a multiple of this.
const HEADER_ALIGNMENT: usize = 8;
/// Readers refuse a longer header.
const LARGEST_HEADER: usize = 100_000_000;

/// The bytes of a safetensors file.
///
/// # Errors
///
/// If there are so many tensors that the header has no room.
pub fn to_bytes(tensors: &Tensors) -> Result<Vec<u8>, WeightsError> {
    let mut bytes = Vec::new();
    // Writing to memory doesn't fail, so that only the header can.
    write(&borrowed(tensors), &mut bytes).map_err(|_| SafeTensorError::HeaderTooLarge)?;
    Ok(bytes)
}

/// The tensors of a safetensors file, in f32.
///
/// # Errors
///
/// If it is no such file, is cut off, or holds other types of numbers.
pub fn from_bytes(bytes: &[u8]) -> Result<Tensors, WeightsError> {
    let file = SafeTensors::deserialize(bytes)?;
    let tensor = |(name, view): (&str, TensorView<'_>)| {
        let values = to_f32(name, view.dtype(), view.data())?;
        Ok((name.to_owned(), FlatTensor { shape: view.shape().to_vec(), values }))
    };
    file.iter().map(tensor).collect()
}

/// The numbers may stand at any offset, so they are read byte by byte.
fn to_f32(name: &str, dtype: Dtype, data: &[u8]) -> Result<Vec<f32>, WeightsError> {
    let pairs = || data.as_chunks::<2>().0.iter();
    Ok(match dtype {
        Dtype::F32 => data.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        Dtype::BF16 => pairs().map(|&bytes| half::bf16::from_le_bytes(bytes).to_f32()).collect(),
        Dtype::F16 => pairs().map(|&bytes| half::f16::from_le_bytes(bytes).to_f32()).collect(),
        other => return Err(WeightsError::Type { name: name.to_owned(), found: format!("{other:?}") }),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use burn::module::Module;
    use burn::tensor::Device;

    use super::*;

    #[derive(Module, Debug)]
    pub(crate) struct Layer {
        pub(crate) weight: Param<Tensor<2>>,
        pub(crate) bias: Option<Param<Tensor<1>>>,
    }

    #[derive(Module, Debug)]
    pub(crate) struct Network {
        pub(crate) layers: Vec<Layer>,
        pub(crate) gain: Param<Tensor<1>>,
    }

    pub(crate) fn network(device: &Device) -> Network {
        let layer = |rows: usize, bias: bool| Layer {
            weight: Param::from_tensor(Tensor::ones([rows, 3], device)),
            bias: bias.then(|| Param::from_tensor(Tensor::zeros([rows], device))),
        };
        Network {
            layers: vec![layer(2, true), layer(4, false)],
            gain: Param::from_tensor(Tensor::ones([3], device)),
        }
    }

    /// The file as the library itself writes it, all in memory.
    fn by_the_library(tensors: &Tensors) -> Vec<u8> {
        let view = |(name, tensor): (&String, &FlatTensor)| {
            let bytes: Vec<u8> = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (name.clone(), tensor.shape.clone(), bytes)
        };
        let parts: Vec<_> = tensors.iter().map(view).collect();
        let views = parts.iter().map(|(name, shape, bytes)| {
            (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
        });
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize(views, Some(metadata)).unwrap()
    }

    #[test]
    fn names_are_paths_and_a_round_trip_is_exact() {
        let module = network(&Device::flex().autodiff());
        let mut tensors = read(&module);
        let names: Vec<_> = tensors.keys().map(String::as_str).collect();
        assert_eq!(names, ["gain", "layers.0.bias", "layers.0.weight", "layers.1.weight"]);
        tensors.get_mut("layers.1.weight").unwrap().values[5] = f32::MIN_POSITIVE / 3.0;
        let bytes = to_bytes(&tensors).unwrap();
        assert_eq!(bytes, to_bytes(&tensors.clone()).unwrap());
        assert_eq!(bytes, by_the_library(&tensors));
        let mut streamed = Vec::new();
        write(&unread(&module), &mut streamed).unwrap();
        assert_eq!(streamed, by_the_library(&read(&module)));
        let filled = fill(module, from_bytes(&bytes).unwrap()).unwrap();
        assert_eq!(read(&filled), tensors);
        assert!(filled.gain.val().is_require_grad());
        assert_eq!(shapes(&filled)["layers.0.bias"], [2]);
    }

    #[test]
    fn tensors_that_do_not_fit_are_refused() {
        let module = || network(&Device::flex());
        let tensors = read(&module());
        let changed = |change: fn(&mut Tensors)| {
            let mut tensors = tensors.clone();
            change(&mut tensors);
            fill(module(), tensors).unwrap_err().to_string()
        };
        let missing = changed(|tensors| drop(tensors.remove("gain")));
        assert_eq!(missing, "tensor `gain` of shape [3] is missing");
        let extra = changed(|tensors| drop(tensors.insert("other".to_owned(), tensors["gain"].clone())));
        assert_eq!(extra, "tensor `other` belongs to no parameter of the model");
        let shape = changed(|tensors| tensors.get_mut("layers.0.weight").unwrap().shape = vec![3, 2]);
        assert_eq!(shape, "tensor `layers.0.weight` has the shape [3, 2], the model has [2, 3]");
    }

    #[test]
    fn damaged_files_are_errors() {
        let bytes = to_bytes(&read(&network(&Device::flex()))).unwrap();
        for end in [0, 7, 100, bytes.len() - 1] {
            assert!(from_bytes(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(from_bytes(b"no tensors at all, just text").is_err());
        let mut huge = bytes;
        huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(from_bytes(&huge).is_err());
    }

    #[test]
    fn half_precision_becomes_f32_and_whole_numbers_are_refused() {
        let file = |dtype, bytes: &[u8]| {
            safetensors::serialize([("x", TensorView::new(dtype, vec![2], bytes).unwrap())], None).unwrap()
        };
        let bf16: Vec<u8> =
            [1.5f32, -2.0].iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
        assert_eq!(from_bytes(&file(Dtype::BF16, &bf16)).unwrap()["x"].values, [1.5, -2.0]);
        let f16: Vec<u8> =
            [1.5f32, -2.0].iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect();
        assert_eq!(from_bytes(&file(Dtype::F16, &f16)).unwrap()["x"].values, [1.5, -2.0]);
        let error = from_bytes(&file(Dtype::I32, &[0; 8])).unwrap_err().to_string();
        assert_eq!(error, "tensor `x` holds I32, expected F32, BF16 or F16");
    }
}
