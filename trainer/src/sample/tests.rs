//! Cached against uncached, together against alone, and what may come out.

use std::{ops::ControlFlow, sync::Arc};

use burn::tensor::{Device, Tensor};
use schemas::Order;

use super::{
    cache::{Keep, KeyValueCache, append},
    prompt::Appended,
    *,
};
use crate::{
    diffusion::{Prediction, Sampler, Step, guide},
    golden::{assert_close, read},
    kernels::{Segment, gather_rows},
    model::{Affine, DataShape, ImageConfig, ImageShape, Inputs, ModelConfig, PatchInput, Transfusion},
    objective::{Draw, Objective, ObjectiveConfig, counts, prepare},
    optimizer::{AdamW, Gradients, OptimizerConfig},
    patches::PatchGrid,
    random::Stream,
    sketch::{self, CHANNELS, PATCH, Piece as Sketched, VOCABULARY, row},
};

const SIZE: LatentSize = LatentSize { height: 4, width: 6 };
const GRID: PatchGrid = PatchGrid { channels: CHANNELS as usize, height: 4, width: 6, patch: PATCH as usize };
const BOS: u32 = 1;
const EOS: u32 = 2;

fn model() -> Transfusion {
    let config = ModelConfig {
        layers: 2,
        width: 32,
        heads: 4,
        feed_forward: Some(48),
        image: ImageConfig { sinusoids: 16, ..ImageConfig::default() },
        initial: crate::model::InitialConfig { embedding: 0.5, head: 0.3 },
        ..ModelConfig::default()
    };
    let image = ImageShape { channels: usize::from(CHANNELS), patch: PATCH as usize };
    let plan = config.plan(&DataShape { vocabulary: VOCABULARY.size, image: Some(image) }).unwrap();
    let mut model = Transfusion::new(&plan, 3, &Device::flex());
    // Image ends that are not zero, so that predictions say something.
    let ends = model.image.as_mut().unwrap();
    let shape = ends.output.weight.val().dims();
    let values = Stream::new(0, "awake", &[]).normals(shape[0] * shape[1]);
    let values = values.into_iter().map(|value| value * 0.2).collect::<Vec<_>>();
    let weight = Tensor::from_data(burn::tensor::TensorData::new(values, shape), &Device::flex());
    ends.output = Affine { weight: burn::module::Param::from_tensor(weight), bias: ends.output.bias.clone() };
    model
}

fn objective() -> Objective {
    ObjectiveConfig { prediction: Prediction::Velocity, ..ObjectiveConfig::default() }.plan().unwrap()
}

fn config() -> SampleConfig {
    SampleConfig { steps: 5, method: Method::Ddim, guidance: 2.0, max_tokens: 12, ..SampleConfig::default() }
}

fn run(model: &Transfusion, prompts: &[Prompt], first: u64, config: &SampleConfig) -> Vec<Sample> {
    let request = Request { prompts, first, size: SIZE };
    sample(model, &request, &config.plan(&objective()).unwrap(), &mut |_| ControlFlow::Continue(())).unwrap()
}

fn picture(seed: u64) -> LatentImage {
    LatentImage { size: SIZE, values: Stream::new(seed, "picture", &[]).normals(3 * 4 * 6) }
}

fn prompts() -> Vec<Prompt> {
    vec![
        Prompt::new(BOS, EOS).text(&[5, 9, 4]).draw(),
        Prompt::new(BOS, EOS).image(picture(1)),
        Prompt::new(BOS, EOS).text(&[7]),
        Prompt::new(BOS, EOS).text(&[7, 8]).image(picture(2)).text(&[6, 6, 6]).draw(),
    ]
}

/// A document as it grows, without any cache: each question runs it whole.
#[derive(Clone)]
struct Uncached<'a> {
    model: &'a Transfusion,
    ids: Vec<u32>,
    images: Vec<std::ops::Range<usize>>,
    values: Vec<f32>,
    times: Vec<u32>,
}

impl<'a> Uncached<'a> {
    fn new(model: &'a Transfusion) -> Self {
        Self { model, ids: Vec::new(), images: Vec::new(), values: Vec::new(), times: Vec::new() }
    }

    fn image(&mut self, patches: &[f32], t: u32) {
        let start = self.ids.len();
        self.ids.resize(start + GRID.patches(), VOCABULARY.boi());
        self.images.push(start..self.ids.len());
        self.values.extend(patches);
        self.times.push(t);
    }

    fn hidden(&self) -> Tensor<2> {
        let n = self.ids.len();
        let places: Arc<[u32]> =
            self.images.iter().flat_map(|image| image.start as u32..image.end as u32).collect();
        let image_of_patch =
            (0..self.times.len() as u32).flat_map(|image| vec![image; GRID.patches()]).collect();
        let patches = PatchInput { values: self.values.clone(), times: self.times.clone(), image_of_patch };
        let segments = [Segment { queries: 0..n, keys: 0..n, images: self.images.clone() }];
        let inputs = Inputs {
            ids: self.ids.clone().into(),
            positions: (0..n as u32).collect(),
            segments: segments.into(),
            patch_places: places,
            patches,
        };
        self.model.hidden(self.model.embed(&inputs), &inputs)
    }

    fn predict(&self, patches: &[f32], t: u32) -> Vec<f64> {
        let mut with = self.clone();
        let places: Arc<[u32]> = (self.ids.len() as u32..(self.ids.len() + GRID.patches()) as u32).collect();
        with.image(patches, t);
        read(self.model.decode(gather_rows(with.hidden(), &places)))
    }

    fn draw(&self, plan: &SamplePlan, mut stream: Stream) -> Vec<f32> {
        let mut alone = Self::new(self.model);
        alone.ids.push(VOCABULARY.boi());
        let count = GRID.patches() * GRID.numbers();
        let mut x: Vec<f64> = (0..count).map(|_| stream.normal()).collect();
        for (index, &t) in plan.steps.iter().enumerate() {
            let patches: Vec<f32> = x.iter().map(|&value| value as f32).collect();
            let predicted = guide(&self.predict(&patches, t), &alone.predict(&patches, t), plan.guidance);
            let previous = plan.steps.get(index + 1).copied();
            let step = Step { t, previous, prediction: plan.prediction, sampler: plan.sampler };
            let fresh: Vec<f64> = (0..count).map(|_| stream.normal()).collect();
            x = plan.schedule.step(&step, &x, &predicted, &fresh);
        }
        x.into_iter().map(|value| value as f32).collect()
    }

    /// Greedy decoding by the book.
    fn decode(mut self, plan: &SamplePlan, number: u64, draw_first: bool) -> Sample {
        let (mut parts, mut tokens, mut images, mut draw) = (Vec::new(), 0, 0, draw_first);
        loop {
            if draw {
                let stream = Stream::new(plan.seed, "sample image", &[number, images]);
                let patches = self.draw(plan, stream);
                self.image(&patches, 0);
                self.ids.push(VOCABULARY.eoi());
                parts.push(Part::Image(LatentImage { size: SIZE, values: GRID.unpatchify(&patches) }));
                images += 1;
            }
            if tokens == plan.max_tokens {
                return Sample { parts, end: End::Tokens };
            }
            let last: Arc<[u32]> = [self.ids.len() as u32 - 1].into();
            let mut scores = read(self.model.logits(gather_rows(self.hidden(), &last)));
            scores[VOCABULARY.eoi() as usize] = f64::NEG_INFINITY;
            if images as usize >= plan.max_images {
                scores[VOCABULARY.boi() as usize] = f64::NEG_INFINITY;
            }
            let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap() as u32;
            draw = best == VOCABULARY.boi();
            if best == EOS {
                return Sample { parts, end: End::Document };
            }
            self.ids.push(best);
            if !draw {
                tokens += 1;
                match parts.last_mut() {
                    Some(Part::Text(ids)) => ids.push(best),
                    _ => parts.push(Part::Text(vec![best])),
                }
            }
        }
    }
}

fn uncached<'a>(model: &'a Transfusion, prompt: &Prompt) -> Uncached<'a> {
    let mut document = Uncached::new(model);
    for part in &prompt.parts {
        match part {
            Part::Text(ids) => document.ids.extend(ids),
            Part::Image(image) => {
                document.ids.push(VOCABULARY.boi());
                document.image(&GRID.patchify(&image.values), 0);
                document.ids.push(VOCABULARY.eoi());
            }
        }
    }
    if prompt.draw {
        document.ids.push(VOCABULARY.boi());
    }
    document
}

#[track_caller]
fn assert_same(found: &Sample, expected: &Sample) {
    assert_eq!(found.end, expected.end);
    assert_eq!(found.tokens(), expected.tokens());
    assert_eq!(found.parts.len(), expected.parts.len());
    for (found, expected) in found.images().zip(expected.images()) {
        let wide =
            |image: &LatentImage| image.values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
        // Rounding of f32, carried through a few steps of denoising.
        assert_close(&wide(found), &wide(expected), 1e-4, "image");
    }
}

#[test]
fn cached_equals_uncached() {
    let (model, config) = (model(), config());
    let plan = config.plan(&objective()).unwrap();
    let prompts = prompts();
    let samples = run(&model, &prompts, 0, &config);
    for ((number, prompt), sample) in (0..).zip(&prompts).zip(&samples) {
        assert_same(sample, &uncached(&model, prompt).decode(&plan, number, prompt.draw));
    }
    assert!(samples.iter().map(|sample| sample.images().count()).sum::<usize>() >= 2, "nothing was drawn");
}

#[test]
fn ancestral_sampling_without_guidance_equals_uncached() {
    let model = model();
    let config = SampleConfig { method: Method::Ddpm, guidance: 1.0, max_tokens: 3, ..config() };
    let plan = config.plan(&objective()).unwrap();
    assert_eq!(plan.sampler, Sampler::default());
    let prompt = Prompt::new(BOS, EOS).text(&[5, 9, 4]).draw();
    let samples = run(&model, std::slice::from_ref(&prompt), 6, &config);
    assert_same(&samples[0], &uncached(&model, &prompt).decode(&plan, 6, true));
}

/// Appending in pieces gives the hidden states of one pass, whatever stands beside.
#[test]
fn pieces_equal_the_whole() {
    let model = model();
    let mut whole = Appended { ids: vec![BOS, 4, 5, VOCABULARY.boi()], images: Vec::new() };
    let image = GRID.patchify(&picture(3).values);
    whole.push_image(image.clone(), GRID.patches(), 0, VOCABULARY);
    whole.ids.extend([VOCABULARY.eoi(), 6, 7]);
    let expected = read(append(&model, &mut KeyValueCache::new(1), &[(0, &whole)], Keep::No));

    let mut clean = Appended::default();
    clean.push_image(image, GRID.patches(), 0, VOCABULARY);
    clean.ids.push(VOCABULARY.eoi());
    let text = |ids: &[u32]| Appended { ids: ids.to_vec(), images: Vec::new() };
    let pieces = [text(&[BOS, 4, 5]), text(&[VOCABULARY.boi()]), clean, text(&[6]), text(&[7])];
    let mut cache = KeyValueCache::new(1 + 2 * pieces.len());
    let mut found = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        // Other sequences stand before and behind, fresh ones each time; one of them grows beyond its room.
        let inputs = [(2 * index + 1, &text(&[8, 9])), (0, piece), (2 * index + 2, &text(&[3]))];
        let hidden = read(append(&model, &mut cache, &inputs, Keep::Yes));
        found.extend_from_slice(&hidden[2 * 32..hidden.len() - 32]);
    }
    assert_close(&found, &expected, 1e-5, "hidden states");
}

/// A prompt with an image is what training shows: the same document as a row.
#[test]
fn a_prompt_is_read_as_it_was_trained() {
    let model = model();
    let row =
        row(&[(Order::Neither, vec![Sketched::Text(3), Sketched::Shown(2, 3), Sketched::Text(2)])], 15, 4);
    let (draw, rows) = (Draw { seed: 0, step: 0, first_row: 0 }, [row]);
    let batch = prepare(&rows, &objective(), model.plan(), draw).unwrap();
    let input_nd = model.embed(&batch.inputs);
    let expected = read(model.hidden(input_nd, &batch.inputs));

    let tokens = rows[0].tokens();
    let values = rows[0].images()[0].values.iter().map(|value| value.to_f32()).collect();
    let prompt = Prompt::new(tokens[0], EOS)
        .text(&tokens[1..4])
        .image(LatentImage { size: SIZE, values })
        .text(&tokens[12..15]);
    let input = prompt.input(0, model.plan()).unwrap();
    let found = read(append(&model, &mut KeyValueCache::new(1), &[(0, &input)], Keep::No));
    assert_close(&found, &expected, 1e-5, "hidden states");
}

/// Noisy patches behind a prefix are what training shows, with their caption and, dropped, without.
#[test]
fn a_canvas_is_what_was_trained() {
    let model = model();
    let rows = [row(&[(Order::CaptionFirst, vec![Sketched::Text(3), Sketched::Image(2, 3)])], 15, 4)];
    for caption_dropout in [0.0, 1.0] {
        let objective = ObjectiveConfig { caption_dropout, ..ObjectiveConfig::default() }.plan().unwrap();
        let draw = Draw { seed: 0, step: 0, first_row: 0 };
        let batch = prepare(&rows, &objective, model.plan(), draw).unwrap();
        let input_nd = model.embed(&batch.inputs);
        let hidden_nd = model.hidden(input_nd, &batch.inputs);
        let expected = read(model.decode(gather_rows(hidden_nd, &batch.learned_places)));

        let mut prefix = Appended { ids: rows[0].tokens()[..5].to_vec(), images: Vec::new() };
        if batch.images[0].dropped {
            prefix = Appended::token(VOCABULARY.boi());
        }
        let mut cache = KeyValueCache::new(1);
        append(&model, &mut cache, &[(0, &prefix)], Keep::Yes);
        let mut patches = Appended::default();
        patches.push_image(
            batch.inputs.patches.values.clone(),
            GRID.patches(),
            batch.images[0].t,
            VOCABULARY,
        );
        let found = read(model.decode(append(&model, &mut cache, &[(0, &patches)], Keep::No)));
        assert_close(&found, &expected, 1e-5, "prediction");
    }
}

/// Training and sampling together: a model that was shown two pairs draws and names them.
#[test]
fn what_was_learned_is_drawn_and_named() {
    let captions = [[5, 6, 7], [5, 8, 9]];
    let pictures = [picture(1), picture(2)];
    let pair = |order, index: usize| sketch::pair(order, &captions[index], &pictures[index].values, 4, 6);
    let rows = [
        pair(Order::CaptionFirst, 0),
        pair(Order::CaptionFirst, 1),
        pair(Order::ImageFirst, 0),
        pair(Order::ImageFirst, 1),
    ];
    let mut model = Transfusion::new(model().plan(), 3, &Device::flex().autodiff());
    let mut optimizer = AdamW::new(&model, OptimizerConfig { decay: 0.0, ..OptimizerConfig::default() });
    let counts = counts(&rows, VOCABULARY);
    let steps = 800;
    for step in 0..steps {
        let batch = prepare(&rows, &objective(), model.plan(), Draw { seed: 0, step, first_row: 0 }).unwrap();
        let mut gradients = Gradients::default();
        let loss = batch.losses(&model).total(&counts, 5.0).unwrap();
        gradients.add(&model, &mut loss.backward());
        let clip = optimizer.clip_scale(gradients.norm());
        let rate = 4e-3 * (1.0 - step as f64 / steps as f64);
        model = optimizer.update(model, &gradients, clip, rate, None);
    }
    let config = SampleConfig { steps: 20, guidance: 1.0, max_tokens: 8, max_images: 1, ..config() };
    let prompts: Vec<Prompt> = (0..2)
        .flat_map(|index| {
            let start = Prompt::new(BOS, EOS);
            [start.clone().text(&captions[index]).draw(), start.image(pictures[index].clone())]
        })
        .collect();
    let samples = run(&model, &prompts, 0, &config);
    for index in 0..2 {
        let drawn = samples[2 * index].images().next().unwrap();
        let distance = |picture: &LatentImage| {
            let squares = drawn.values.iter().zip(&picture.values).map(|(a, b)| (a - b).powi(2));
            squares.sum::<f32>() / picture.values.len() as f32
        };
        // The pictures are normal, so a stranger is at 2.
        assert!(distance(&pictures[index]) < 0.5, "{index}: {}", distance(&pictures[index]));
        assert!(distance(&pictures[1 - index]) > 1.0, "{index}: {}", distance(&pictures[1 - index]));
        let named = &samples[2 * index + 1];
        assert_eq!((named.tokens(), named.end), (captions[index].to_vec(), End::Document));
    }
}

#[test]
fn a_prompt_alone_gives_what_it_gives_among_others() {
    let model = model();
    let config = SampleConfig { temperature: 1.0, max_images: 2, method: Method::Ddpm, ..config() };
    let prompts = prompts();
    let together = run(&model, &prompts, 10, &config);
    for (index, prompt) in prompts.iter().enumerate() {
        let alone = run(&model, std::slice::from_ref(prompt), 10 + index as u64, &config);
        assert_same(&together[index], &alone[0]);
    }
    assert_eq!(together, run(&model, &prompts, 10, &config), "the same again is the same, bit for bit");
    assert_ne!(together, run(&model, &prompts, 10, &SampleConfig { seed: 1, ..config }));
}

#[test]
fn samples_keep_their_limits_and_hold_no_markers() {
    let model = model();
    let config = SampleConfig { temperature: 1.5, max_tokens: 20, max_images: 2, steps: 1, ..config() };
    let prompts = vec![Prompt::new(BOS, EOS); 60];
    let samples = run(&model, &prompts, 0, &config);
    for sample in &samples {
        let tokens = sample.tokens();
        assert!(tokens.iter().all(|&token| token < VOCABULARY.size && token != EOS));
        assert!(sample.images().count() <= 2 && tokens.len() <= 20);
        assert_eq!(sample.end == End::Tokens, tokens.len() == 20 && sample.end != End::Document);
    }
    let most = |count: fn(&Sample) -> usize| samples.iter().map(count).max().unwrap();
    assert_eq!(most(|sample| sample.images().count()), 2, "some samples reach the limit of images");
    assert_eq!(most(|sample| sample.tokens().len()), 20, "some reach the limit of tokens");
    assert!(samples.iter().any(|sample| sample.end == End::Document), "some end by themselves");
    let written = run(&model, &prompts, 0, &SampleConfig { max_images: 0, ..config });
    assert!(written.iter().all(|sample| sample.images().count() == 0));
}

#[test]
fn without_tokens_a_picture_is_all() {
    let model = model();
    let config = SampleConfig { max_tokens: 0, ..config() };
    let prompts = [Prompt::new(BOS, EOS).text(&[3]).draw(), Prompt::new(BOS, EOS).text(&[3])];
    let mut steps = Vec::new();
    let request = Request { prompts: &prompts, first: 0, size: SIZE };
    let plan = config.plan(&objective()).unwrap();
    let samples = sample(&model, &request, &plan, &mut |progress| {
        steps.push(progress);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!((samples[0].images().count(), samples[0].tokens().len()), (1, 0));
    assert_eq!(samples[1], Sample { parts: Vec::new(), end: End::Tokens });
    assert_eq!(steps.len(), 5);
    assert_eq!(steps[4], Progress::Drew { images: 1, step: 5, steps: 5 });
    assert_eq!(run(&model, &[], 0, &config), []);
}

#[test]
fn a_prompt_may_have_a_limit_of_its_own() {
    let model = model();
    let start = || Prompt::new(BOS, u32::MAX);
    let prompts = [start(), start().at_most(3), start().at_most(99), start().draw().at_most(0)];
    let settings = SampleConfig { max_tokens: 7, max_images: 0, steps: 1, ..config() };
    let samples = run(&model, &prompts, 0, &settings);
    let lengths: Vec<usize> = samples.iter().map(|sample| sample.tokens().len()).collect();
    assert_eq!(lengths, [7, 3, 7, 0]);
    assert_eq!(samples[1].tokens(), samples[0].tokens()[..3]);
    assert_eq!(samples[3].images().count(), 1);
}

#[test]
fn an_observer_breaks_off() {
    let model = model();
    let plan = SampleConfig { max_tokens: 50, ..config() }.plan(&objective()).unwrap();
    for prompt in [Prompt::new(BOS, u32::MAX), Prompt::new(BOS, EOS).draw()] {
        let mut passes = 0;
        let request = Request { prompts: &[prompt], first: 0, size: SIZE };
        let stopped = sample(&model, &request, &plan, &mut |_| {
            passes += 1;
            if passes == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!((stopped, passes), (Err(SampleError::Stopped), 3));
    }
}

#[test]
fn positions_of_a_prompt_are_those_that_it_is_read_in() {
    let model = model();
    for prompt in prompts() {
        let input = prompt.input(0, model.plan()).unwrap();
        assert_eq!(prompt.positions(GRID.patch), input.ids.len());
    }
}

#[test]
fn guidance_of_one_is_the_plain_prediction() {
    let model = model();
    let prompt = [Prompt::new(BOS, EOS).text(&[3]).draw()];
    let with = |guidance| run(&model, &prompt, 0, &SampleConfig { guidance, max_tokens: 0, ..config() });
    // A weight next to 1 takes the way with two prefixes.
    assert_same(&with(1.0 + 1e-9)[0], &with(1.0)[0]);
    assert_ne!(with(3.0), with(1.0));
}

#[test]
fn what_can_not_be_sampled_is_refused_by_name() {
    let model = model();
    let plan = config().plan(&objective()).unwrap();
    let message = |prompt: Prompt, size| {
        let request = Request { prompts: &[prompt], first: 4, size };
        sample(&model, &request, &plan, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string()
    };
    let start = || Prompt::new(BOS, EOS);
    assert_eq!(message(start().text(&[20]), SIZE), "prompt 4: token 20 is not one of the tokenizer's 20");
    assert_eq!(
        message(start().image(LatentImage { size: SIZE, values: vec![0.0; 7] }), SIZE),
        "prompt 4: a latent has 7 values, expected 72"
    );
    let odd = LatentSize { height: 3, width: 4 };
    assert_eq!(message(start().draw(), odd), "latents of 3 x 4 cannot be cut into patches of 2 x 2");
    assert_eq!(
        message(start().image(LatentImage { size: odd, values: vec![0.0; 36] }), SIZE),
        "latents of 3 x 4 cannot be cut into patches of 2 x 2"
    );

    let setting = |text: &str| {
        let config: SampleConfig = toml::from_str(text).unwrap();
        config.plan(&objective()).unwrap_err().to_string()
    };
    assert_eq!(setting("top-p = 0.0"), "`sample.top-p` is `0`, expected a share above 0, up to 1");
    assert_eq!(setting("temperature = -1.0"), "`sample.temperature` is `-1`, expected 0 or more");
    assert_eq!(setting("guidance = nan"), "`sample.guidance` is `NaN`, expected a number from 0 to 100");
    assert_eq!(setting("guidance = -0.5"), "`sample.guidance` is `-0.5`, expected a number from 0 to 100");
    assert_eq!(setting("temperature = inf"), "`sample.temperature` is `inf`, expected 0 or more");
    assert_eq!(setting("top-p = nan"), "`sample.top-p` is `NaN`, expected a share above 0, up to 1");
    assert!(setting("steps = 1001").starts_with("1001 sampling steps of a schedule of 1000"));
}

#[test]
fn a_text_model_writes_and_refuses_pictures() {
    let config = ModelConfig { layers: 1, width: 16, heads: 2, ..ModelConfig::default() };
    let plan = config.plan(&DataShape { vocabulary: VOCABULARY.size, image: None }).unwrap();
    let model = Transfusion::new(&plan, 0, &Device::flex());
    let settings = SampleConfig { temperature: 1.0, ..self::config() };
    let samples = run(&model, &vec![Prompt::new(BOS, EOS); 20], 0, &settings);
    assert!(samples.iter().all(|sample| sample.images().count() == 0));
    let request = Request { prompts: &[Prompt::new(BOS, EOS).draw()], first: 0, size: SIZE };
    let error =
        sample(&model, &request, &settings.plan(&objective()).unwrap(), &mut |_| ControlFlow::Continue(()))
            .unwrap_err();
    assert_eq!(error.to_string(), "prompt 0: it has a picture, the model knows text alone");
}
