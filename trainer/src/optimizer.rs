//! AdamW over flat parameters by name, clipping by the joint norm, and a moving average of the weights. It knows modules and
//! flat numbers, and knows nothing about what they compute.
//!
//! Burn's optimizer is not used: it clips each tensor alone, and its state has no names. Here everything an update
//! needs is a map from the parameter's name to flat numbers, which is also how a checkpoint holds it.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients as Graph, Tensor};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kernels::{AdamWStep, adamw_step, sum_of_squares};
use crate::weights::{self, Path, Tensors, UnreadTensor, UnreadTensors, WeightsError};

/// The `[optimizer]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Decay of the first and the second moment.
    #[schemars(extend(
        "items" = { "type": "number", "minimum": 0.0, "exclusiveMaximum": 1.0 },
        "x-unit" = "share an update"
    ))]
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0, "x-unit" = "none"))]
    pub epsilon: f64,
    /// Weight decay of matrices (parameters with two axes or more, embeddings too); gains and biases have none.
    #[schemars(range(min = 0.0, max = 1000.0), extend("x-unit" = "share an update, times the learning rate"))]
    pub decay: f64,
    /// Largest joint norm of all gradients; a larger one is scaled down to it.
    #[schemars(range(max = 1e9), extend("exclusiveMinimum" = 0.0, "x-unit" = "none"))]
    pub clip: f64,
}

impl Default for OptimizerConfig {
    /// The paper's.
    fn default() -> Self {
        Self { betas: [0.9, 0.95], epsilon: 1e-8, decay: 0.1, clip: 1.0 }
    }
}

/// Gradients by parameter, summed over micro-batches in the order they were added.
#[derive(Clone, Debug, Default)]
pub struct Gradients(BTreeMap<String, Vec<f32>>);

impl Gradients {
    /// Adds the gradients that a backward pass left for the parameters of `module`.
    pub fn add<M: Module>(&mut self, module: &M, graph: &mut Graph) {
        struct Collector<'a> {
            path: Path,
            graph: &'a mut Graph,
            sums: &'a mut BTreeMap<String, Vec<f32>>,
        }
        impl ModuleVisitor for Collector<'_> {
            fn enter_module(&mut self, name: &str, _: &str) {
                self.path.enter(name);
            }
            fn exit_module(&mut self, _: &str, _: &str) {
                self.path.exit();
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let Some(gradient) = param.val().grad_remove(self.graph) else { return };
                let values = weights::values_of(gradient);
                match self.sums.entry(self.path.name()) {
                    std::collections::btree_map::Entry::Vacant(entry) => {
                        entry.insert(values);
                    }
                    std::collections::btree_map::Entry::Occupied(mut entry) => {
                        add_to(entry.get_mut(), &values)
                    }
                }
            }
        }
        module.visit(&mut Collector { path: Path::default(), graph, sums: &mut self.0 });
    }

    /// The joint norm, summed in the order of names.
    pub fn norm(&self) -> f64 {
        self.0.values().map(|values| sum_of_squares(values)).sum::<f64>().sqrt()
    }
}

/// Numbers that one task handles at a time. What is done to them is element by element, so this decides no bits.
const CHUNK: usize = 1 << 16;

fn add_to(sum: &mut [f32], values: &[f32]) {
    sum.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(sum, values)| {
        for (sum, value) in sum.iter_mut().zip(values) {
            *sum += value;
        }
    });
}

#[derive(Clone, Debug)]
struct Moments {
    shape: Vec<usize>,
    first: Vec<f32>,
    second: Vec<f32>,
}

/// The optimizer and its state.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: OptimizerConfig,
    updates: u64,
    moments: BTreeMap<String, Moments>,
}

impl AdamW {
    /// A fresh one for the parameters of `module`.
    pub fn new<M: Module>(module: &M, config: OptimizerConfig) -> Self {
        let zeros = |(name, shape): (String, Vec<usize>)| {
            let count = shape.iter().product();
            (name, Moments { shape, first: vec![0.0; count], second: vec![0.0; count] })
        };
        Self { config, updates: 0, moments: weights::shapes(module).into_iter().map(zeros).collect() }
    }

    /// Updates so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// The factor of gradients with this joint norm ([`Gradients::norm`]): `min(1, clip / (norm + 1e-6))`.
    pub fn clip_scale(&self, norm: f64) -> f32 {
        (self.config.clip / (norm + 1e-6)).min(1.0) as f32
    }

    /// One update at learning rate `rate` with gradients times `clip_scale`. A parameter that no gradient reached is updated as
    /// if it were zero. `average` follows each parameter while its numbers are at hand.
    pub fn update<M: Module>(
        &mut self,
        module: M,
        gradients: &Gradients,
        clip_scale: f32,
        rate: f64,
        mut average: Option<&mut MovingAverage>,
    ) -> M {
        self.updates += 1;
        if let Some(average) = average.as_deref_mut() {
            average.updates += 1;
        }
        module.map(&mut Updater {
            path: Path::default(),
            optimizer: self,
            gradients,
            rate,
            clip_scale,
            average,
        })
    }

    fn step(&self, rate: f64, clip_scale: f32, axes: usize) -> AdamWStep {
        let [beta_1, beta_2] = self.config.betas;
        let decay = if axes >= 2 { self.config.decay } else { 0.0 };
        AdamWStep {
            rate,
            beta_1,
            beta_2,
            epsilon: self.config.epsilon,
            decay,
            clip_scale,
            update: self.updates,
        }
    }

    /// Its state, as a checkpoint holds it: `first.NAME` and `second.NAME`.
    pub fn tensors(&self) -> UnreadTensors<'_> {
        let mut tensors = UnreadTensors::new();
        for (name, moments) in &self.moments {
            for (kind, values) in [("first", &moments.first), ("second", &moments.second)] {
                tensors.insert(format!("{kind}.{name}"), UnreadTensor::borrowed(&moments.shape, values));
            }
        }
        tensors
    }

    /// With a saved state of `updates` updates.
    ///
    /// # Errors
    ///
    /// If the tensors are not exactly those of the module's parameters.
    pub fn restore(mut self, mut tensors: Tensors, updates: u64) -> Result<Self, WeightsError> {
        let expected = self.moments.iter().flat_map(|(name, moments)| {
            ["first", "second"].map(|kind| (format!("{kind}.{name}"), moments.shape.clone()))
        });
        weights::check(&expected.collect(), &tensors)?;
        let mut values = |kind: &str, name: &str| {
            tensors
                .remove(&format!("{kind}.{name}"))
                .expect("`check` has seen that each name is there")
                .values
        };
        for (name, moments) in &mut self.moments {
            moments.first = values("first", name);
            moments.second = values("second", name);
        }
        self.updates = updates;
        Ok(self)
    }
}

struct Updater<'a> {
    path: Path,
    optimizer: &'a mut AdamW,
    gradients: &'a Gradients,
    rate: f64,
    clip_scale: f32,
    average: Option<&'a mut MovingAverage>,
}

impl ModuleMapper for Updater<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        let step = self.optimizer.step(self.rate, self.clip_scale, D);
        let moments = self.optimizer.moments.get_mut(&name);
        let moments = moments.expect("the optimizer was made for the parameters of this module");
        weights::replace(param, |mut flat| {
            let zeros;
            let gradient = match self.gradients.0.get(&name) {
                Some(gradient) => gradient,
                None => {
                    zeros = vec![0.0; flat.values.len()];
                    &zeros
                }
            };
            adamw_step(&mut flat.values, &mut moments.first, &mut moments.second, gradient, &step);
            if let Some(average) = self.average.as_deref_mut() {
                average.follow(&name, &flat.values);
            }
            flat
        })
    }
}

/// An exponential moving average of the weights, which often samples better than the weights themselves.
///
/// After update `n` it is `d average + (1 - d) weights` with `d = min(decay, (1 + n) / (10 + n))`: early averages are
/// short, so that a brief run is not an average of its random start.
#[derive(Clone, Debug)]
pub struct MovingAverage {
    decay: f64,
    updates: u64,
    tensors: Tensors,
}

impl MovingAverage {
    /// Starts at `tensors`, the average after `updates` updates.
    pub fn new(tensors: Tensors, decay: f64, updates: u64) -> Self {
        Self { decay, updates, tensors }
    }

    /// The averaged weights.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    fn follow(&mut self, name: &str, weights: &[f32]) {
        let n = self.updates as f64;
        let share = (1.0 - self.decay.min((1.0 + n) / (10.0 + n))) as f32;
        let average =
            self.tensors.get_mut(name).expect("the average was made for the parameters of this module");
        let chunks = average.values.par_chunks_mut(CHUNK).zip(weights.par_chunks(CHUNK));
        chunks.for_each(|(average, weights)| {
            for (average, weight) in average.iter_mut().zip(weights) {
                *average += share * (weight - *average);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::weights::tests::network;

    #[derive(Module, Debug)]
    struct Golden {
        matrix: Param<Tensor<2>>,
        gain: Param<Tensor<1>>,
    }

    fn golden() -> (Tensors, serde_json::Value) {
        let tensors = weights::from_bytes(include_bytes!("../../tests/golden/adamw.safetensors")).unwrap();
        (tensors, serde_json::from_str(include_str!("../../tests/golden/adamw.json")).unwrap())
    }

    fn gradients(file: &Tensors, update: usize) -> Gradients {
        let of = |name: &str| (name.to_owned(), file[&format!("{name}.grad.{update}")].values.clone());
        Gradients([of("matrix"), of("gain")].into())
    }

    fn start(file: &Tensors) -> Golden {
        let device = Device::flex().autodiff();
        let module = Golden {
            matrix: Param::from_tensor(Tensor::zeros([6, 4], &device)),
            gain: Param::from_tensor(Tensor::zeros([4], &device)),
        };
        let at_zero = |name: &str| (name.to_owned(), file[&format!("{name}.0")].clone());
        weights::fill(module, [at_zero("matrix"), at_zero("gain")].into()).unwrap()
    }

    #[test]
    fn six_updates_are_those_of_pytorch() {
        let (file, json) = golden();
        let mut module = start(&file);
        let mut optimizer = AdamW::new(&module, OptimizerConfig::default());
        for (index, facts) in json["updates"].as_array().unwrap().iter().enumerate() {
            let gradients = gradients(&file, index + 1);
            let norm = gradients.norm();
            // PyTorch sums the norm in f32.
            assert!((norm / facts["grad_norm_before_clipping"].as_f64().unwrap() - 1.0).abs() < 1e-6);
            let clip = optimizer.clip_scale(norm);
            module = optimizer.update(module, &gradients, clip, facts["lr"].as_f64().unwrap(), None);
            for (name, found) in weights::read(&module) {
                let expected = &file[&format!("{name}.{}", index + 1)];
                let pairs = found.values.iter().zip(&expected.values);
                let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(largest < 2e-6, "{name} after update {}: off by {largest}", index + 1);
            }
        }
    }

    #[test]
    fn a_saved_and_restored_state_goes_on_bit_for_bit() {
        let (file, _) = golden();
        let mut module = start(&file);
        let mut optimizer = AdamW::new(&module, OptimizerConfig::default());
        let mut average = MovingAverage::new(weights::read(&module), 0.9, 0);
        for update in 1..=6 {
            let gradients = gradients(&file, update);
            if update == 4 {
                let mut bytes = Vec::new();
                weights::write(&optimizer.tensors(), &mut bytes).unwrap();
                let fresh = AdamW::new(&module, OptimizerConfig::default());
                optimizer = fresh.restore(weights::from_bytes(&bytes).unwrap(), 3).unwrap();
                average = MovingAverage::new(average.tensors().clone(), 0.9, 3);
            }
            let clip = optimizer.clip_scale(gradients.norm());
            module = optimizer.update(module, &gradients, clip, 1e-2, Some(&mut average));
        }
        let (mut straight, mut whole) = (start(&file), AdamW::new(&module, OptimizerConfig::default()));
        let mut other = MovingAverage::new(weights::read(&straight), 0.9, 0);
        for update in 1..=6 {
            let gradients = gradients(&file, update);
            let clip = whole.clip_scale(gradients.norm());
            straight = whole.update(straight, &gradients, clip, 1e-2, Some(&mut other));
        }
        assert_eq!(weights::read(&module), weights::read(&straight));
        assert_eq!(average.tensors(), other.tensors());
        assert_ne!(average.tensors(), &weights::read(&module));
    }

    #[test]
    fn only_matrices_decay_and_gradients_of_micro_batches_add_up() {
        let device = Device::flex().autodiff();
        let module = network(&device);
        let mut sums = Gradients::default();
        for factor in [1.0, 2.0] {
            let loss = (module.layers[0].weight.val() * factor).sum();
            sums.add(&module, &mut loss.backward());
        }
        assert_eq!(sums.0["layers.0.weight"], [3.0; 6]);
        assert!(!sums.0.contains_key("gain"));
        assert!((sums.norm() - 54f64.sqrt()).abs() < 1e-12);
        let mut optimizer = AdamW::new(&module, OptimizerConfig::default());
        let module = optimizer.update(module, &sums, optimizer.clip_scale(sums.norm()), 0.5, None);
        let after = weights::read(&module);
        // Without a gradient a matrix shrinks by rate times decay, and a gain stays.
        assert_eq!(after["layers.1.weight"].values, [0.95; 12]);
        assert_eq!(after["gain"].values, [1.0; 3]);
        assert!(after["layers.0.weight"].values.iter().all(|value| (value - 0.45).abs() < 1e-5));
    }

    #[test]
    fn early_averages_are_short() {
        let mut average = MovingAverage::new(weights::read(&network(&Device::flex())), 0.999, 0);
        average.updates = 1;
        average.follow("gain", &[12.0, 1.0, 1.0]);
        // d = 2 / 11.
        assert!((average.tensors()["gain"].values[0] - 10.0).abs() < 1e-5);
    }
}
