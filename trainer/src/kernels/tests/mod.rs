//! Each operation against its ordinary version: values and gradients, on shapes that are awkward on purpose, and with one
//! thread against two.

#![allow(clippy::single_range_in_vec_init)]

mod pictures;

use std::{ops::Range, sync::Arc};

use burn::tensor::{Device, Tensor, TensorData};
use proptest::prelude::*;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

use super::*;

/// A matrix of inputs, row-major.
#[derive(Debug, Clone)]
struct Values {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

/// An operation over matrices, its result made flat.
type Operation<'a> = &'a (dyn Fn(&[Tensor<2>]) -> Tensor<1> + Sync);

/// About normally distributed, the same for the same seed.
fn random(rows: usize, columns: usize, seed: u64) -> Values {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = || generator.next_u32() as f32 / u32::MAX as f32 - 0.5;
    let values = (0..rows * columns).map(|_| (uniform() + uniform() + uniform()) * 2.0).collect();
    Values { rows, columns, values }
}

/// The result and the gradient of every input, for a gradient of the result that differs from element to element.
fn run(operation: Operation<'_>, inputs: &[Values]) -> Vec<Vec<f32>> {
    let device = Device::flex().autodiff();
    let tensors: Vec<Tensor<2>> = inputs
        .iter()
        .map(|input| TensorData::new(input.values.clone(), [input.rows, input.columns]))
        .map(|data| Tensor::from_data(data, &device).require_grad())
        .collect();
    let output = operation(&tensors);
    let probe = random(1, output.dims()[0], 99).values;
    let probe = Tensor::<1>::from_data(TensorData::new(probe.clone(), [probe.len()]), &device);
    let mut results = vec![output.clone().into_data().try_into_vec::<f32>().expect("f32")];
    let gradients = (output * probe).sum().backward();
    for tensor in &tensors {
        let gradient = tensor.grad(&gradients).expect("every input has a gradient");
        results.push(gradient.into_data().try_into_vec::<f32>().expect("f32"));
    }
    results
}

/// Both versions agree to `tolerance` times the largest value, and the fast one gives the same bits with one thread and with two.
fn compare(fast: Operation<'_>, reference: Operation<'_>, inputs: &[Values], tolerance: f32) {
    let (found, expected) = (with_threads(1, || run(fast, inputs)), run(reference, inputs));
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found.len(), expected.len(), "size of result {index}");
        let largest = expected.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
        for (place, (a, b)) in found.iter().zip(expected).enumerate() {
            assert!(
                (a - b).abs() <= tolerance * largest,
                "result {index}, place {place}: {a} instead of {b}"
            );
        }
    }
    let twice = with_threads(2, || run(fast, inputs));
    assert_eq!(bits(&found), bits(&twice), "two threads give other bits than one");
}

fn bits(results: &[Vec<f32>]) -> Vec<Vec<u32>> {
    results.iter().map(|values| values.iter().map(|value| value.to_bits()).collect()).collect()
}

fn with_threads<R: Send>(threads: usize, run: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool").install(run)
}

fn flat<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let size = tensor.shape().num_elements();
    tensor.reshape([size])
}

/// Sums of up to a few thousand products of values around 1 in f32, in another order: 1e-5 is about ten times what is seen.
const TOLERANCE: f32 = 1e-5;

#[test]
fn linear_agrees() {
    for (n, i, o) in [(1, 1, 1), (1, 300, 1000), (3, 513, 300), (7, 5, 3), (130, 64, 97), (300, 128, 344)] {
        compare(
            &|x| flat(linear(x[0].clone(), x[1].clone())),
            &|x| flat(reference::linear(x[0].clone(), x[1].clone())),
            &[random(n, i, 1), random(o, i, 2)],
            TOLERANCE,
        );
    }
}

#[test]
fn linear_takes_views() {
    compare(
        &|x| flat(linear(x[0].clone().slice([3..40, 2..34]), x[1].clone().transpose())),
        &|x| flat(reference::linear(x[0].clone().slice([3..40, 2..34]), x[1].clone().transpose())),
        &[random(41, 36, 1), random(32, 20, 2)],
        TOLERANCE,
    );
}

#[test]
fn rms_norm_agrees() {
    for (n, d) in [(1, 1), (1, 7), (33, 16), (100, 128), (65, 100)] {
        let gain = |x: &Tensor<2>| x.clone().reshape([d]);
        compare(
            &|x| flat(rms_norm(x[0].clone(), gain(&x[1]), 1e-5)),
            &|x| flat(reference::rms_norm(x[0].clone(), gain(&x[1]), 1e-5)),
            &[random(n, d, 1), random(1, d, 2)],
            TOLERANCE,
        );
    }
}

#[test]
fn swiglu_agrees() {
    for (n, f) in [(1, 1), (5, 7), (100, 344)] {
        compare(
            &|x| flat(swiglu(x[0].clone() * 20.0, x[1].clone())),
            &|x| flat(reference::swiglu(x[0].clone() * 20.0, x[1].clone())),
            &[random(n, f, 1), random(n, f, 2)],
            TOLERANCE,
        );
    }
}

#[test]
fn rotate_agrees() {
    for (n, h, d) in [(1, 1, 2), (5, 3, 6), (70, 4, 32)] {
        let positions: Vec<u32> = (0..n as u32).map(|position| (position * 7) % 50).collect();
        let rotary = Rotary::new(&positions, d, 10_000.0);
        let heads = |x: &Tensor<2>| x.clone().reshape([n, h, d]);
        compare(
            &|x| flat(rotate(heads(&x[0]), &rotary)),
            &|x| flat(reference::rotate(heads(&x[0]), &rotary)),
            &[random(n, h * d, 1)],
            1e-6,
        );
    }
}

#[test]
fn rotation_keeps_lengths_and_position_zero() {
    let rotary = Rotary::new(&[0, 4_095], 8, 10_000.0);
    let x = Tensor::<3>::from_data(TensorData::new(random(2, 8, 3).values, [2, 1, 8]), &Device::flex());
    let y = rotate(x.clone(), &rotary);
    let first = |x: &Tensor<3>| x.clone().slice([0..1]).into_data();
    assert_eq!(first(&x), first(&y));
    let length = |x: Tensor<3>| x.square().sum().into_scalar::<f32>();
    assert!((length(x) / length(y) - 1.0).abs() < 1e-6);
}

/// Segments, number of queries, number of keys.
type Case = (Vec<Segment>, usize, usize);

fn whole(positions: Range<usize>, images: &[Range<usize>]) -> Segment {
    Segment { images: images.to_vec(), ..Segment::causal(positions) }
}

fn attention_cases() -> Vec<Case> {
    vec![
        (vec![whole(0..1, &[])], 1, 1),
        (vec![whole(0..28, &[9..25])], 28, 28),
        // An image that is the whole document, one at its start, one at its end.
        (vec![whole(0..16, &[0..16]), whole(16..37, &[0..9]), whole(37..60, &[7..23])], 60, 60),
        // Rows of no segment, before, between and after; several images; an empty segment.
        (vec![whole(3..20, &[1..3, 3..8, 10..15]), whole(20..20, &[]), whole(25..30, &[])], 33, 33),
        // More than one block of queries and of keys, an image across the border.
        (vec![whole(0..150, &[60..70, 120..140]), whole(150..433, &[100..200])], 433, 433),
        // Behind a cache: the last three of ten, one of two hundred, an image that is denoised.
        (
            vec![
                Segment { queries: 0..3, keys: 2..12, images: vec![] },
                Segment { queries: 3..4, keys: 12..212, images: vec![4..20] },
                Segment { queries: 4..20, keys: 220..250, images: vec![14..30] },
            ],
            20,
            251,
        ),
        // Queries that begin and keys that end inside an image.
        (vec![Segment { queries: 0..5, keys: 0..12, images: vec![3..40] }], 5, 12),
    ]
}

fn compare_attention((segments, n, m): Case, heads: usize, width: usize) {
    let segments: Arc<[Segment]> = segments.into();
    let split = |x: &Tensor<2>, rows: usize| x.clone().reshape([rows, heads, width]);
    compare(
        &|x| flat(attention(split(&x[0], n), split(&x[1], m), split(&x[2], m), &segments)),
        &|x| flat(reference::attention(split(&x[0], n), split(&x[1], m), split(&x[2], m), &segments)),
        &[random(n, heads * width, 1), random(m, heads * width, 2), random(m, heads * width, 3)],
        TOLERANCE,
    );
}

#[test]
fn attention_agrees() {
    for case in attention_cases() {
        for (heads, width) in [(1, 4), (3, 18), (2, 32)] {
            compare_attention(case.clone(), heads, width);
        }
    }
}

#[test]
fn attention_agrees_with_central_differences() {
    let (segments, n, m) = attention_cases().swap_remove(3);
    let segments: Arc<[Segment]> = segments.into();
    let operation: Operation<'_> = &|x| {
        let split = |x: &Tensor<2>, rows: usize| x.clone().reshape([rows, 2, 4]);
        flat(attention(split(&x[0], n), split(&x[1], m), split(&x[2], m), &segments))
    };
    let inputs = [random(n, 8, 1), random(m, 8, 2), random(m, 8, 3)];
    let results = run(operation, &inputs);
    let probe = random(1, results[0].len(), 99).values;
    let total = |inputs: &[Values]| -> f64 {
        let output = &run(operation, inputs)[0];
        output.iter().zip(&probe).map(|(output, probe)| f64::from(output * probe)).sum()
    };
    for input in 0..3 {
        for place in (0..inputs[input].values.len()).step_by(29) {
            let at = |shift: f32| {
                let mut moved = inputs.clone();
                moved[input].values[place] += shift;
                total(&moved)
            };
            // A step of 1e-2 leaves an error of its square, and rounding of about 1e-6 / 1e-2.
            let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
            let found = f64::from(results[1 + input][place]);
            assert!((slope - found).abs() < 1e-3, "input {input}, place {place}: {found} instead of {slope}");
        }
    }
}

#[test]
fn the_past_does_not_move_when_the_future_does() {
    let segments: Arc<[Segment]> = vec![whole(0..40, &[10..20])].into();
    let attend = |inputs: &[Values]| {
        let of = |x: &Values| {
            Tensor::<3>::from_data(TensorData::new(x.values.clone(), [40, 2, 8]), &Device::flex())
        };
        let output = attention(of(&inputs[0]), of(&inputs[1]), of(&inputs[2]), &segments);
        output.into_data().try_into_vec::<f32>().expect("f32")
    };
    let mut inputs = [random(40, 16, 1), random(40, 16, 2), random(40, 16, 3)];
    let before = attend(&inputs);
    inputs.iter_mut().for_each(|input| input.values[15 * 16..].iter_mut().for_each(|value| *value *= 3.0));
    let after = attend(&inputs);
    // Text before the image keeps its bits; the image, moved in its middle, moves from its first patch on.
    assert_eq!(before[..10 * 16], after[..10 * 16]);
    assert!((10..20).all(|row| before[row * 16..(row + 1) * 16] != after[row * 16..(row + 1) * 16]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn attention_agrees_on_any_documents(
        documents in prop::collection::vec((1usize..90, 0usize..40, 0usize..40), 1..6),
        heads in 1usize..3,
        half in 1usize..12,
    ) {
        let mut segments = Vec::new();
        let mut n = 0;
        for (length, start, size) in documents {
            let image = start.min(length)..(start + size).min(length);
            segments.push(whole(n..n + length, &[image]));
            n += length;
        }
        compare_attention((segments, n, n), heads, 2 * half);
    }
}

#[test]
fn cross_entropy_agrees() {
    for (n, d, v, count) in [(1, 1, 1, 1), (9, 16, 33, 7), (40, 24, 500, 40), (20, 8, 70, 300)] {
        let targets: Arc<[Target]> =
            (0..count as u32).map(|i| Target { row: (i * 5) % n as u32, id: (i * 31) % v as u32 }).collect();
        compare(
            &|x| cross_entropy(x[0].clone(), x[1].clone(), &targets),
            &|x| reference::cross_entropy(x[0].clone(), x[1].clone(), &targets),
            &[random(n, d, 1), random(v, d, 2)],
            TOLERANCE,
        );
    }
}

#[test]
fn cross_entropy_in_several_chunks_agrees() {
    // 20,000 words make chunks of 256 targets.
    let targets: Arc<[Target]> = (0..300).map(|i| Target { row: i, id: i * 66 }).collect();
    compare(
        &|x| cross_entropy(x[0].clone(), x[1].clone(), &targets),
        &|x| reference::cross_entropy(x[0].clone(), x[1].clone(), &targets),
        &[random(300, 8, 1), random(20_000, 8, 2)],
        TOLERANCE,
    );
}

#[test]
fn a_uniform_model_costs_the_log_of_the_vocabulary() {
    let device = Device::flex();
    let targets: Arc<[Target]> = vec![Target { row: 0, id: 3 }].into();
    let loss = cross_entropy(Tensor::ones([1, 8], &device), Tensor::ones([1000, 8], &device), &targets);
    assert!((loss.into_scalar::<f32>() - 1000f32.ln()).abs() < 1e-6);
}

#[test]
fn nothing_to_predict_gives_zero_gradients() {
    let device = Device::flex().autodiff();
    let hidden = Tensor::<2>::ones([3, 4], &device).require_grad();
    let weight = Tensor::<2>::ones([5, 4], &device).require_grad();
    let text = cross_entropy(hidden.clone(), weight.clone(), &Arc::from([]));
    let image = image_losses(hidden.clone(), Tensor::zeros([3, 4], &device), &Arc::from([]));
    assert_eq!((text.dims(), image.dims()), ([0], [0]));
    let gradients = (text.sum() + image.sum() + hidden.clone().sum() * 0.0).backward();
    assert_eq!(hidden.grad(&gradients).expect("a gradient").sum().into_scalar::<f32>(), 0.0);
    assert_eq!(weight.grad(&gradients).expect("a gradient").sum().into_scalar::<f32>(), 0.0);
}

#[test]
fn image_losses_agree() {
    let images: Arc<[Range<usize>]> = vec![0..4, 4..5, 7..23].into();
    let target = random(23, 6, 2);
    let target = || {
        let device = Device::flex().autodiff();
        Tensor::<2>::from_data(TensorData::new(target.values.clone(), [23, 6]), &device)
    };
    compare(
        &|x| image_losses(x[0].clone(), target(), &images),
        &|x| reference::image_losses(x[0].clone(), target(), &images),
        &[random(23, 6, 1)],
        1e-6,
    );
}

#[test]
fn gather_rows_agrees() {
    let rows: Arc<[u32]> = vec![4, 0, 4, 199, 4, 70].into();
    compare(
        &|x| flat(gather_rows(x[0].clone(), &rows)),
        &|x| flat(reference::gather_rows(x[0].clone(), &rows)),
        &[random(200, 5, 1)],
        1e-6,
    );
}

#[test]
fn scatter_rows_agrees() {
    let rows: Arc<[u32]> = vec![4, 0, 19].into();
    compare(
        &|x| flat(scatter_rows(x[0].clone(), &rows, x[1].clone())),
        &|x| flat(reference::scatter_rows(x[0].clone(), &rows, x[1].clone())),
        &[random(20, 5, 1), random(3, 5, 2)],
        1e-6,
    );
}

#[test]
fn scatter_rows_leaves_a_shared_base_alone() {
    let device = Device::flex();
    let base = Tensor::<2>::zeros([2, 2], &device);
    let changed = scatter_rows(base.clone(), &Arc::from([1]), Tensor::ones([1, 2], &device));
    assert_eq!(base.into_data().try_into_vec::<f32>().expect("f32"), [0.0; 4]);
    assert_eq!(changed.into_data().try_into_vec::<f32>().expect("f32"), [0.0, 0.0, 1.0, 1.0]);
}

#[test]
fn adamw_agrees_with_the_formula_in_f64() {
    let step = AdamWStep {
        rate: 3e-4,
        beta_1: 0.9,
        beta_2: 0.95,
        epsilon: 1e-8,
        decay: 0.1,
        clip_scale: 0.5,
        update: 3,
    };
    let count = 40_000;
    let draw = |seed| random(1, count, seed).values;
    let (gradient, before) = (draw(1), draw(2));
    let (first, second) = (draw(3), draw(4).iter().map(|value| value * value).collect::<Vec<_>>());
    let (mut p, mut m, mut v) = (before.clone(), first.clone(), second.clone());
    with_threads(1, || adamw_step(&mut p, &mut m, &mut v, &gradient, &step));
    for i in 0..count {
        let g = f64::from(gradient[i]) * 0.5;
        let m = 0.9 * f64::from(first[i]) + 0.1 * g;
        let v = 0.95 * f64::from(second[i]) + 0.05 * g * g;
        let denominator = (v / (1.0 - 0.95f64.powi(3))).sqrt() + 1e-8;
        let kept = f64::from(before[i]) * (1.0 - 3e-4 * 0.1);
        let exact = kept - 3e-4 * m / (1.0 - 0.9f64.powi(3)) / denominator;
        // An update of 3e-4 added to a value around 1 in f32.
        assert!((f64::from(p[i]) - exact).abs() < 3e-7, "{} instead of {exact}", p[i]);
    }
    let (mut p2, mut m2, mut v2) = (before, first, second);
    with_threads(2, || adamw_step(&mut p2, &mut m2, &mut v2, &gradient, &step));
    assert_eq!(bits(&[p, m, v]), bits(&[p2, m2, v2]));
}

#[test]
fn sum_of_squares_does_not_depend_on_threads() {
    let values = random(1, 100_003, 1).values;
    let exact: f64 = values.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    let once = with_threads(1, || sum_of_squares(&values));
    assert!((once / exact - 1.0).abs() < 1e-12);
    assert_eq!(once.to_bits(), with_threads(2, || sum_of_squares(&values)).to_bits());
}

#[test]
fn operations_run_without_gradients_too() {
    let device = Device::flex();
    let x = Tensor::<2>::ones([2, 4], &device);
    assert_eq!(
        linear(x.clone(), Tensor::ones([3, 4], &device)).into_data(),
        Tensor::<2>::full([2, 3], 4.0, &device).into_data()
    );
}
