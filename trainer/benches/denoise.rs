//! What the key-value cache is worth: drawing an image and writing tokens behind a prefix, cached, against running the whole document
//! anew in every step. And what a token costs behind a short and a long text: it reads all keys and values, and copies none.
//!
//! ```text
//! cargo bench --bench denoise
//! ```
//!
//! Cost by positions alone would make the ratio of drawing `(prefix + image) / image`, less what reading the prefix once costs. The
//! figures mean something on a quiet machine only.
#![allow(clippy::print_stdout)]

use std::{hint::black_box, ops::ControlFlow, sync::Arc, time::Instant};

use burn::tensor::Device;
use trainer::{
    kernels::{Segment, gather_rows},
    model::{DataShape, ImageShape, Inputs, ModelConfig, PatchInput, Transfusion},
    objective::ObjectiveConfig,
    sample::{LatentSize, Method, Prompt, Request, SampleConfig, sample},
};

const PREFIX: usize = 512;
const PATCHES: usize = 64;
const SIZE: LatentSize = LatentSize { height: 16, width: 16 };
const STEPS: u32 = 20;
const TOKENS: usize = 20;
const ROUNDS: usize = 5;
/// Texts that are written side by side, and the positions they stand behind.
const BESIDE: usize = 4;
const LENGTHS: [usize; 2] = [256, 2048];

fn main() {
    let data = DataShape { vocabulary: 4096, image: Some(ImageShape { channels: 8, patch: 2 }) };
    let plan = ModelConfig::default().plan(&data).expect("the default model fits 8 channels");
    let model = Transfusion::new(&plan, 0, &Device::flex());
    let cached = median(|| run(&model, 0));
    let whole = median(|| (0..STEPS).for_each(|_| anew(&model, PREFIX, PATCHES)));
    let steps = STEPS as usize;
    let ratio = (steps * (PREFIX + PATCHES)) as f64 / (PREFIX + steps * PATCHES) as f64;
    println!("{STEPS} steps of an image of {PATCHES} patches behind {PREFIX} tokens");
    println!(
        "  cached {cached:.3} s, anew {whole:.3} s: {:.1} times; by positions {ratio:.1}",
        whole / cached
    );
    let cached = median(|| run(&model, TOKENS)) - cached;
    let whole = median(|| (0..TOKENS).for_each(|index| anew(&model, PREFIX + PATCHES + index, 0)));
    println!("{TOKENS} tokens behind them");
    println!("  cached {cached:.3} s, anew {whole:.3} s: {:.1} times", whole / cached);
    let [short, long] = LENGTHS.map(|length| 1e3 * a_token(&model, length));
    println!("a token of {BESIDE} texts side by side");
    println!(
        "  behind {} positions {short:.2} ms, behind {} {long:.2} ms: {:.2} times",
        LENGTHS[0],
        LENGTHS[1],
        long / short
    );
}

/// Seconds of a token of each of [`BESIDE`] texts, behind `length` positions.
fn a_token(model: &Transfusion, length: usize) -> f64 {
    let prompt = Prompt::new(1, u32::MAX).text(&vec![7; length - 1]);
    let seconds = |tokens| median(|| write(model, &prompt, tokens));
    (seconds(TOKENS) - seconds(1)) / (TOKENS - 1) as f64
}

fn write(model: &Transfusion, prompt: &Prompt, max_tokens: usize) {
    let objective = ObjectiveConfig::default().plan().expect("the defaults are in range");
    let config = SampleConfig { max_tokens, max_images: 0, ..SampleConfig::default() };
    let plan = config.plan(&objective).expect("the defaults are in range");
    let prompts = vec![prompt.clone(); BESIDE];
    let request = Request { prompts: &prompts, first: 0, size: SIZE };
    black_box(
        sample(model, &request, &plan, &mut |_| ControlFlow::Continue(()))
            .expect("the prompt fits the model"),
    );
}

fn median(mut work: impl FnMut()) -> f64 {
    let mut seconds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[ROUNDS / 2]
}

/// Draws an image behind the prefix, then writes `tokens` tokens.
fn run(model: &Transfusion, tokens: usize) {
    let objective = ObjectiveConfig::default().plan().expect("the defaults are in range");
    let config = SampleConfig {
        max_tokens: tokens,
        steps: STEPS,
        method: Method::Ddim,
        guidance: 1.0,
        ..SampleConfig::default()
    };
    let plan = config.plan(&objective).expect("20 steps of 1,000");
    // No id ends a document, so all tokens are written.
    let prompts = [Prompt::new(1, u32::MAX).text(&[7; PREFIX - 2]).draw()];
    let request = Request { prompts: &prompts, first: 0, size: SIZE };
    black_box(
        sample(model, &request, &plan, &mut |_| ControlFlow::Continue(()))
            .expect("the prompt fits the model"),
    );
}

/// The whole document once: text, then patches, and what is read from its last positions.
fn anew(model: &Transfusion, text: usize, patches: usize) {
    let n = text + patches;
    let places: Arc<[u32]> = (text as u32..n as u32).collect();
    let image_of_patch = vec![0; patches].into();
    let input = PatchInput { values: vec![0.5; patches * 32], times: vec![500], image_of_patch };
    let images = (patches > 0).then_some(text..n).into_iter().collect();
    let inputs = Inputs {
        ids: vec![7; n].into(),
        positions: (0..n as u32).collect(),
        segments: [Segment { queries: 0..n, keys: 0..n, images }].into(),
        patch_places: places.clone(),
        patches: input,
    };
    let hidden_nd = model.hidden(model.embed(&inputs), &inputs);
    let last = [n as u32 - 1].into();
    let output = if patches > 0 {
        model.decode(gather_rows(hidden_nd, &places))
    } else {
        model.logits(gather_rows(hidden_nd, &last))
    };
    black_box(output.into_data());
}
