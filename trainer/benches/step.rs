//! Milliseconds of a training step with the kernels of this crate, and of the same step made of ordinary tensor operations.
//!
//! `cargo bench --bench step -- [demo|small|long]... [rounds=N] [own]`, threads by `RAYON_NUM_THREADS`. Rounds of both kinds
//! alternate; the median is printed, and the least for a machine that does other things too. Then follows where the time of our own
//! step goes, one operation at a time, by the least of as many rounds. With `own` only our own steps run, for a profiler.
#![allow(clippy::print_stdout, missing_docs)]

use std::{sync::Arc, time::Instant};

use burn::tensor::{Device, Distribution, Tensor, TensorData};
use trainer::kernels::{self, AdamWStep, Rotary, Segment, Target, reference};

/// What is trained on what: documents of one length each, an image in the middle of each, text around it.
struct Case {
    name: &'static str,
    layers: usize,
    width: usize,
    heads: usize,
    feed_forward: usize,
    vocabulary: usize,
    documents: usize,
    length: usize,
    image: usize,
}

const CASES: [Case; 3] = [
    // The demo's model.
    Case {
        name: "demo",
        layers: 4,
        width: 128,
        heads: 4,
        feed_forward: 344,
        vocabulary: 300,
        documents: 32,
        length: 28,
        image: 16,
    },
    // 6.8 million parameters, 8 documents of 256 positions.
    Case {
        name: "small",
        layers: 6,
        width: 256,
        heads: 4,
        feed_forward: 688,
        vocabulary: 4096,
        documents: 8,
        length: 256,
        image: 0,
    },
    // One document of 4,096 positions.
    Case {
        name: "long",
        layers: 2,
        width: 256,
        heads: 4,
        feed_forward: 688,
        vocabulary: 4096,
        documents: 1,
        length: 4096,
        image: 256,
    },
];

#[derive(Clone, Copy, PartialEq)]
enum Kernels {
    Own,
    Ordinary,
}

impl Kernels {
    fn linear(self, x: Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
        match self {
            Kernels::Own => kernels::linear(x, weight.clone()),
            Kernels::Ordinary => reference::linear(x, weight.clone()),
        }
    }
    fn norm(self, x: Tensor<2>, gain: &Tensor<2>) -> Tensor<2> {
        let gain = gain.clone().reshape([-1]);
        match self {
            Kernels::Own => kernels::rms_norm(x, gain, 1e-5),
            Kernels::Ordinary => reference::rms_norm(x, gain, 1e-5),
        }
    }
    fn swiglu(self, gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
        match self {
            Kernels::Own => kernels::swiglu(gate, up),
            Kernels::Ordinary => reference::swiglu(gate, up),
        }
    }
    fn rotate(self, x: Tensor<3>, rotary: &Rotary) -> Tensor<3> {
        match self {
            Kernels::Own => kernels::rotate(x, rotary),
            Kernels::Ordinary => reference::rotate(x, rotary),
        }
    }
    fn attention(self, q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, segments: &Arc<[Segment]>) -> Tensor<3> {
        match self {
            Kernels::Own => kernels::attention(q, k, v, segments),
            Kernels::Ordinary => reference::attention(q, k, v, segments),
        }
    }
    fn cross_entropy(self, hidden: Tensor<2>, weight: &Tensor<2>, targets: &Arc<[Target]>) -> Tensor<1> {
        match self {
            Kernels::Own => kernels::cross_entropy(hidden, weight.clone(), targets),
            Kernels::Ordinary => reference::cross_entropy(hidden, weight.clone(), targets),
        }
    }
    fn gather(self, x: &Tensor<2>, rows: &Arc<[u32]>) -> Tensor<2> {
        match self {
            Kernels::Own => kernels::gather_rows(x.clone(), rows),
            Kernels::Ordinary => reference::gather_rows(x.clone(), rows),
        }
    }
}

/// Nine parameters a layer, then embedding, last gain and output matrix, each with its moments.
struct Model<'a> {
    case: &'a Case,
    parameters: Vec<Tensor<2>>,
    moments: Vec<(Vec<f32>, Vec<f32>)>,
    updates: u64,
}

struct Inputs {
    ids: Arc<[u32]>,
    rotary: Rotary,
    segments: Arc<[Segment]>,
    targets: Arc<[Target]>,
}

impl<'a> Model<'a> {
    fn new(case: &'a Case) -> Self {
        let (width, feed) = (case.width, case.feed_forward);
        let layer = [
            [1, width],
            [width, width],
            [width, width],
            [width, width],
            [width, width],
            [1, width],
            [feed, width],
            [feed, width],
            [width, feed],
        ];
        let mut shapes: Vec<[usize; 2]> = (0..case.layers).flat_map(|_| layer).collect();
        shapes.extend([[case.vocabulary, width], [1, width], [case.vocabulary, width]]);
        let device = Device::flex().autodiff();
        let parameters = shapes.iter().map(|&shape| match shape[0] {
            1 => Tensor::ones(shape, &device).require_grad(),
            _ => Tensor::random(shape, Distribution::Normal(0.0, 0.02), &device).require_grad(),
        });
        let moments =
            shapes.iter().map(|shape| (vec![0.0; shape[0] * shape[1]], vec![0.0; shape[0] * shape[1]]));
        Self { case, parameters: parameters.collect(), moments: moments.collect(), updates: 0 }
    }

    fn loss(&self, which: Kernels, inputs: &Inputs) -> Tensor<1> {
        let [embedding, gain, output] = self.parameters.last_chunk().expect("parameters past the layers");
        let mut x = which.gather(embedding, &inputs.ids);
        for layer in self.parameters.chunks_exact(9).take(self.case.layers) {
            x = self.layer(which, x, layer, inputs);
        }
        which.cross_entropy(which.norm(x, gain), output, &inputs.targets).mean()
    }

    fn layer(&self, which: Kernels, x: Tensor<2>, layer: &[Tensor<2>], inputs: &Inputs) -> Tensor<2> {
        let [n, width] = x.dims();
        let heads = |x: Tensor<2>| x.reshape([n, self.case.heads, width / self.case.heads]);
        let inner = which.norm(x.clone(), &layer[0]);
        let q = which.rotate(heads(which.linear(inner.clone(), &layer[1])), &inputs.rotary);
        let k = which.rotate(heads(which.linear(inner.clone(), &layer[2])), &inputs.rotary);
        let v = heads(which.linear(inner, &layer[3]));
        let attended = which.attention(q, k, v, &inputs.segments).reshape([n, width]);
        let x = x + which.linear(attended, &layer[4]);
        let inner = which.norm(x.clone(), &layer[5]);
        let fed = which.swiglu(which.linear(inner.clone(), &layer[6]), which.linear(inner, &layer[7]));
        x + which.linear(fed, &layer[8])
    }

    fn step(&mut self, which: Kernels, inputs: &Inputs) -> f32 {
        let loss = self.loss(which, inputs);
        let mut gradients = loss.backward();
        self.updates += 1;
        let step = AdamWStep {
            rate: 1e-3,
            beta_1: 0.9,
            beta_2: 0.95,
            epsilon: 1e-8,
            decay: 0.1,
            clip_scale: 1.0,
            update: self.updates,
        };
        for (parameter, (first, second)) in self.parameters.iter_mut().zip(&mut self.moments) {
            let gradient = parameter.grad_remove(&mut gradients).expect("a gradient");
            let gradient = gradient.into_data().try_into_vec::<f32>().expect("f32");
            let (shape, device) = (parameter.dims(), parameter.device());
            let empty = Tensor::empty([1, 1], &device);
            let mut values =
                std::mem::replace(parameter, empty).inner().into_data().try_into_vec::<f32>().expect("f32");
            kernels::adamw_step(&mut values, first, second, &gradient, &step);
            *parameter = Tensor::from_data(TensorData::new(values, shape), &device).require_grad();
        }
        loss.into_scalar::<f32>()
    }
}

impl Inputs {
    fn new(case: &Case) -> Self {
        let positions: Vec<u32> = (0..case.documents).flat_map(|_| 0..case.length as u32).collect();
        let image = case.length / 4..case.length / 4 + case.image;
        let segments = (0..case.documents).map(|document| Segment {
            images: if case.image > 0 { vec![image.clone()] } else { Vec::new() },
            ..Segment::causal(document * case.length..(document + 1) * case.length)
        });
        let is_text = |row: &usize| !image.contains(&(row % case.length));
        let targets = (0..positions.len())
            .filter(is_text)
            .map(|row| Target { row: row as u32, id: (row * 31 % case.vocabulary) as u32 });
        Self {
            ids: (0..positions.len()).map(|row| (row * 17 % case.vocabulary) as u32).collect(),
            rotary: Rotary::new(&positions, case.width / case.heads, 10_000.0),
            segments: segments.collect(),
            targets: targets.collect(),
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let rounds =
        arguments.iter().find_map(|argument| argument.strip_prefix("rounds=")?.parse().ok()).unwrap_or(7);
    let named = |case: &&Case| arguments.iter().any(|argument| argument == case.name);
    let any = CASES.iter().any(|case| named(&case));
    println!("{} threads, medians of {rounds} rounds, milliseconds", rayon::current_num_threads());
    let own = arguments.iter().any(|argument| argument == "own");
    for case in CASES.iter().filter(|case| !any || named(case)) {
        if own {
            own_steps(case, rounds);
        } else {
            steps(case, rounds);
            operations(case, rounds);
        }
    }
}

fn steps(case: &Case, rounds: usize) {
    let inputs = Inputs::new(case);
    let mut models = [Kernels::Own, Kernels::Ordinary].map(|which| (which, Model::new(case), Vec::new()));
    for round in 0..=rounds {
        for (which, model, times) in &mut models {
            let start = Instant::now();
            model.step(*which, &inputs);
            if round > 0 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let [own, ordinary] = models.map(|(_, _, times)| (least(&times), median(times)));
    println!(
        "{:>6}: {:9.2} own {:9.2} ordinary, {:.2} times (least: {:.2} and {:.2})",
        case.name,
        own.1,
        ordinary.1,
        ordinary.1 / own.1,
        own.0,
        ordinary.0
    );
}

fn own_steps(case: &Case, rounds: usize) {
    let (inputs, mut model) = (Inputs::new(case), Model::new(case));
    let start = Instant::now();
    (0..rounds).for_each(|_| {
        model.step(Kernels::Own, &inputs);
    });
    println!("{:>6}: {:9.2} own, the mean", case.name, start.elapsed().as_secs_f64() * 1e3 / rounds as f64);
}

/// Forward and backward of each operation alone, as often as a step does it.
fn operations(case: &Case, rounds: usize) {
    let inputs = Inputs::new(case);
    let device = Device::flex().autodiff();
    let n = inputs.ids.len();
    let (width, feed, layers) = (case.width, case.feed_forward, case.layers);
    let draw = |rows: usize, columns: usize| {
        Tensor::<2>::random([rows, columns], Distribution::Normal(0.0, 0.1), &device).require_grad()
    };
    let heads = |x: Tensor<2>| x.reshape([n, case.heads, width / case.heads]);
    let report = |name: &str, times: usize, operation: &dyn Fn() -> Box<dyn FnOnce()>| {
        let measured: Vec<(f64, f64)> = (0..=rounds)
            .map(|_| {
                let start = Instant::now();
                let backward = operation();
                let forward = start.elapsed().as_secs_f64() * 1e3;
                backward();
                (forward, start.elapsed().as_secs_f64() * 1e3 - forward)
            })
            .skip(1)
            .collect();
        let (forward, backward): (Vec<f64>, Vec<f64>) = measured.into_iter().unzip();
        let (forward, backward) = (least(&forward), least(&backward));
        println!(
            "        {name:14} {times:3} x ({forward:8.3} + {backward:8.3}) = {:8.2}",
            times as f64 * (forward + backward)
        );
    };
    let back = |y: Tensor<2>| -> Box<dyn FnOnce()> {
        let probe = Tensor::<2>::ones(y.dims(), &y.device());
        Box::new(move || {
            let _ = (y * probe).sum().backward();
        })
    };
    let (x, f) = (draw(n, width), draw(n, feed));
    let (square, wide, tall) = (draw(width, width), draw(feed, width), draw(width, feed));
    let (gain, table) = (draw(1, width), draw(case.vocabulary, width));
    report("nothing", 1, &|| back(x.clone()));
    report("linear square", 4 * layers, &|| back(Kernels::Own.linear(x.clone(), &square)));
    report("linear up", 2 * layers, &|| back(Kernels::Own.linear(x.clone(), &wide)));
    report("linear down", layers, &|| back(Kernels::Own.linear(f.clone(), &tall)));
    report("rms_norm", 2 * layers + 1, &|| back(Kernels::Own.norm(x.clone(), &gain)));
    report("swiglu", layers, &|| back(Kernels::Own.swiglu(f.clone(), f.clone())));
    report("rotate", 2 * layers, &|| {
        back(Kernels::Own.rotate(heads(x.clone()), &inputs.rotary).reshape([n, width]))
    });
    report("attention", layers, &|| {
        let (q, k, v) = (heads(x.clone()), heads(x.clone()), heads(x.clone()));
        back(Kernels::Own.attention(q, k, v, &inputs.segments).reshape([n, width]))
    });
    report("add", 2 * layers, &|| back(x.clone() + x.clone()));
    report("cross_entropy", 1, &|| {
        back(Kernels::Own.cross_entropy(x.clone(), &table, &inputs.targets).unsqueeze())
    });
    report("gather_rows", 1, &|| back(Kernels::Own.gather(&table, &inputs.ids)));
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
