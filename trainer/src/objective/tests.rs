//! Preparation against the rules of `schemas`, and the losses against the reference.

use burn::tensor::{Device, Tensor, TensorData};
use half::f16;
use proptest::prelude::*;
use schemas::{AttentionRule, Latent, Modality, Order, Provenance, Row, RowLayout, Span, Vocabulary};

use super::*;
use crate::{
    diffusion::Prediction,
    golden::{Golden, assert_close, read},
    kernels::{cross_entropy, image_losses},
    model::{DataShape, ImageConfig, ImageShape, ModelConfig, ModelPlan},
    patches::PatchGrid,
    sketch::{CHANNELS, PATCH, Piece, VOCABULARY, any_row, row},
};

fn plan(rule: AttentionRule) -> ModelPlan {
    let config = ModelConfig {
        across_documents: rule.across_documents,
        causal_images: rule.causal_images,
        image: ImageConfig::default(),
        ..ModelConfig::default()
    };
    let image = ImageShape { channels: usize::from(CHANNELS), patch: PATCH as usize };
    config.plan(&DataShape { vocabulary: VOCABULARY.size, image: Some(image) }).unwrap()
}

fn objective(config: ObjectiveConfig) -> Objective {
    config.plan().unwrap()
}

fn with_dropout(caption_dropout: f64) -> Objective {
    objective(ObjectiveConfig { caption_dropout, ..ObjectiveConfig::default() })
}

const DRAW: Draw = Draw { seed: 1, step: 2, first_row: 0 };

/// Whether a batch of this one row lets `query` see `key`.
fn sees(batch: &MicroBatch, query: usize, key: usize) -> bool {
    batch.inputs.segments.iter().filter(|segment| segment.queries.contains(&query)).any(|segment| {
        let start = segment.keys.start;
        (start..start + segment.visible(query - segment.queries.start)).contains(&key)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn segments_agree_with_the_rule(row in any_row(), across_documents: bool, causal_images: bool) {
        let rule = AttentionRule { across_documents, causal_images };
        let batch = prepare(std::slice::from_ref(&row), &with_dropout(0.0), &plan(rule), DRAW).unwrap();
        prop_assert_eq!(batch.inputs.ids.len(), row.used() as usize);
        prop_assert_eq!(&batch.inputs.positions, &row.positions()[..batch.inputs.ids.len()]);
        for query in 0..batch.inputs.ids.len() {
            for key in 0..batch.inputs.ids.len() {
                let expected = rule.may_attend(row.spans(), query, key);
                prop_assert_eq!(sees(&batch, query, key), expected, "{} sees {}", query, key);
            }
        }
    }

    /// With every caption dropped: the rule, and nothing before BOI from BOI on.
    #[test]
    fn dropped_captions_cut_segments_at_boi(row in any_row()) {
        let rule = AttentionRule::default();
        let batch = prepare(std::slice::from_ref(&row), &with_dropout(1.0), &plan(rule), DRAW).unwrap();
        let cut = |document: u32| {
            row.spans()
                .iter()
                .filter(|span| row.sources().get(document as usize).is_some_and(|s| s.order == Order::CaptionFirst) && span.document == document)
                .find(|span| span.modality == Modality::Image)
                .map(|span| span.start as usize - 1)
        };
        for span in row.spans().iter().filter(|span| span.modality != Modality::Padding) {
            for query in span.range() {
                for key in 0..batch.inputs.ids.len() {
                    let hidden = cut(span.document).is_some_and(|boi| query >= boi && key < boi);
                    let expected = rule.may_attend(row.spans(), query, key) && !hidden;
                    prop_assert_eq!(sees(&batch, query, key), expected, "{} sees {}", query, key);
                }
            }
        }
        let targets = row.text_targets(VOCABULARY).iter().flatten().count();
        prop_assert_eq!(batch.targets.len(), targets);
    }

    #[test]
    fn a_batch_holds_what_the_rows_hold(rows in prop::collection::vec(any_row(), 0..4)) {
        let batch = prepare(&rows, &with_dropout(0.1), &plan(AttentionRule::default()), DRAW).unwrap();
        let counts = counts(&rows, VOCABULARY);
        prop_assert_eq!(batch.targets.len() as u64, counts.text_targets);
        prop_assert_eq!(batch.images.len() as u64, counts.images);
        prop_assert_eq!(batch.inputs.patch_places.len() as u64, counts.patch_positions);
        prop_assert_eq!(batch.inputs.ids.len() as u64, counts.text_positions + counts.patch_positions);
        prop_assert_eq!(batch.inputs.patches.values.len(), batch.inputs.patch_places.len() * batch.numbers);
        prop_assert_eq!(batch.goals.len(), batch.learned_places.len() * batch.numbers);
        prop_assert_eq!(batch.image_ranges.iter().map(|range| range.len()).sum::<usize>(), batch.learned_places.len());
        let queries: usize = batch.inputs.segments.iter().map(|segment| segment.queries.len()).sum();
        prop_assert_eq!(queries, batch.inputs.ids.len());
    }

    /// A row's draws depend on its place in the global batch, not on the micro-batch it is in.
    #[test]
    fn draws_do_not_depend_on_the_split(rows in prop::collection::vec(any_row(), 1..5), at in 0usize..5) {
        let at = at.min(rows.len());
        let (objective, plan) = (with_dropout(0.5), plan(AttentionRule::default()));
        let part = |rows: &[Row], first_row| prepare(rows, &objective, &plan, Draw { first_row, ..DRAW }).unwrap();
        let whole = part(&rows, 0);
        let (a, b) = (part(&rows[..at], 0), part(&rows[at..], at as u64));
        prop_assert_eq!(whole.inputs.patches.values, [a.inputs.patches.values, b.inputs.patches.values].concat());
        prop_assert_eq!(whole.inputs.patches.times, [a.inputs.patches.times, b.inputs.patches.times].concat());
        prop_assert_eq!(whole.goals, [a.goals, b.goals].concat());
        prop_assert_eq!(whole.inputs.positions, [a.inputs.positions, b.inputs.positions].concat());
        prop_assert_eq!(whole.images, [a.images, b.images].concat());
    }
}

#[test]
fn another_step_or_seed_draws_anew() {
    let rows = [row(&[(Order::CaptionFirst, vec![Piece::Text(2), Piece::Image(2, 2)])], 20, 0)];
    let values = |draw| {
        prepare(&rows, &with_dropout(0.1), &plan(AttentionRule::default()), draw)
            .unwrap()
            .inputs
            .patches
            .values
    };
    assert_eq!(values(DRAW), values(DRAW));
    assert_ne!(values(DRAW), values(Draw { step: 3, ..DRAW }));
    assert_ne!(values(DRAW), values(Draw { seed: 3, ..DRAW }));
    assert_ne!(values(DRAW), values(Draw { first_row: 3, ..DRAW }));
}

/// Timesteps of many images of one order.
fn times(order: Order, config: ObjectiveConfig) -> Vec<LearnedImage> {
    let rows = vec![row(&[(order, vec![Piece::Image(1, 1)])], 6, 0); 4000];
    prepare(&rows, &objective(config), &plan(AttentionRule::default()), DRAW).unwrap().images
}

#[test]
fn timesteps_are_uniform_and_limited_where_the_image_comes_first() {
    for (order, last) in [(Order::CaptionFirst, 999.0), (Order::ImageFirst, 500.0), (Order::Neither, 999.0)] {
        let drawn = times(order, ObjectiveConfig::default());
        let mean = drawn.iter().map(|image| f64::from(image.t)).sum::<f64>() / drawn.len() as f64;
        let most = drawn.iter().map(|image| image.t).max().unwrap();
        // Five standard errors of the mean of 4,000 uniform draws; the largest is within 1 % of the end.
        assert!((mean - last / 2.0).abs() < 5.0 * last / (12.0 * 4000.0_f64).sqrt(), "{order:?}: {mean}");
        assert!(f64::from(most) <= last && f64::from(most) > 0.99 * last, "{order:?}: {most}");
    }
}

#[test]
fn captions_are_dropped_as_often_as_asked_and_only_where_they_come_first() {
    let share = |order| {
        let drawn = times(order, ObjectiveConfig::default());
        drawn.iter().filter(|image| image.dropped).count() as f64 / drawn.len() as f64
    };
    // Five standard errors.
    assert!((share(Order::CaptionFirst) - 0.1).abs() < 0.024);
    assert_eq!((share(Order::ImageFirst), share(Order::Neither)), (0.0, 0.0));
}

#[test]
fn a_soft_weight_follows_the_signal_to_noise_ratio() {
    let config = ObjectiveConfig { loss_weight: LossWeight::SoftSnr(4.0), ..ObjectiveConfig::default() };
    let objective = objective(config.clone());
    for image in times(Order::CaptionFirst, config) {
        let product = objective.schedule().products()[image.t as usize];
        let ratio = product / (1.0 - product);
        assert!((f64::from(image.weight) - 4.0 / (ratio + 4.0)).abs() < 1e-6);
    }
    assert!(times(Order::Neither, ObjectiveConfig::default()).iter().all(|image| image.weight == 1.0));
}

#[test]
fn context_images_are_clean_at_time_zero() {
    let rows = [row(&[(Order::Neither, vec![Piece::Shown(2, 3), Piece::Text(3)])], 20, 5)];
    let batch = prepare(&rows, &with_dropout(0.1), &plan(AttentionRule::default()), DRAW).unwrap();
    let latent = &rows[0].images()[0];
    let grid = PatchGrid { channels: 3, height: 4, width: 6, patch: 2 };
    let clean: Vec<f32> = latent.values.iter().map(|value| value.to_f32()).collect();
    assert_eq!(batch.inputs.patches.values, grid.patchify(&clean));
    assert_eq!(batch.inputs.patches.times, [0]);
    assert_eq!((batch.images.len(), batch.learned_places.len()), (0, 0));
}

#[test]
fn goals_are_what_the_noisy_patches_were_made_of() {
    let rows = [row(&[(Order::CaptionFirst, vec![Piece::Text(2), Piece::Image(2, 2)])], 20, 0)];
    let batch = |prediction| {
        let objective = objective(ObjectiveConfig { prediction, ..ObjectiveConfig::default() });
        prepare(&rows, &objective, &plan(AttentionRule::default()), DRAW).unwrap()
    };
    let (noise, velocity) = (batch(Prediction::Noise), batch(Prediction::Velocity));
    assert_eq!(noise.inputs.patches.values, velocity.inputs.patches.values);
    let grid = PatchGrid { channels: 3, height: 4, width: 4, patch: 2 };
    let clean: Vec<f32> = rows[0].images()[0].values.iter().map(|value| value.to_f32()).collect();
    let clean = grid.patchify(&clean);
    let (signal, disturbance) = with_dropout(0.1).schedule().scales(noise.images[0].t);
    for (index, &x0) in clean.iter().enumerate() {
        let (x0, e) = (f64::from(x0), f64::from(noise.goals[index]));
        assert!((f64::from(noise.inputs.patches.values[index]) - signal * x0 - disturbance * e).abs() < 1e-6);
        assert!((f64::from(velocity.goals[index]) - signal * e + disturbance * x0).abs() < 1e-6);
    }
}

#[test]
fn moments_are_drawn_from() {
    let one = |log_variance: f32| {
        let values = [vec![f16::from_f32(0.5); 12], vec![f16::from_f32(log_variance); 12]].concat();
        let latent = Latent { channels: 3, height: 2, width: 2, moments: true, values };
        let plain = row(&[(Order::Neither, vec![Piece::Shown(1, 1)])], 5, 0);
        let layout = RowLayout { context: 5, patch: PATCH, vocabulary: VOCABULARY };
        let (tokens, spans, sources) =
            (plain.tokens().to_vec(), plain.spans().to_vec(), plain.sources().to_vec());
        let row = Row::try_new(tokens, spans, vec![latent], sources, &layout).unwrap();
        prepare(&[row], &with_dropout(0.0), &plan(AttentionRule::default()), DRAW)
            .unwrap()
            .inputs
            .patches
            .values
    };
    assert!(one(-30.0).iter().all(|value| (value - 0.5).abs() < 1e-5));
    let (narrow, wide) = (one(0.0), one(2.0_f32.ln() * 2.0));
    for (narrow, wide) in narrow.iter().zip(&wide) {
        // The logarithm was rounded to 11 bits.
        assert!(((wide - 0.5) - 2.0 * (narrow - 0.5)).abs() < 2e-3);
    }
}

#[test]
fn rows_that_do_not_fit_the_model_are_refused() {
    let rows = [row(&[(Order::Neither, vec![Piece::Text(3), Piece::Image(1, 1)])], 12, 0)];
    let message = |data: DataShape| {
        let plan = ModelConfig::default().plan(&data).unwrap();
        prepare(&rows, &with_dropout(0.0), &plan, Draw { first_row: 7, ..DRAW }).unwrap_err().to_string()
    };
    let image = Some(ImageShape { channels: 3, patch: 2 });
    assert!(message(DataShape { vocabulary: 1, image }).starts_with("row 7 of the batch has token "));
    let vocabulary = VOCABULARY.size;
    assert_eq!(
        message(DataShape { vocabulary, image: None }),
        "row 7 of the batch, image 0: an image, the model takes text alone"
    );
    assert_eq!(
        message(DataShape { vocabulary, image: Some(ImageShape { channels: 4, patch: 2 }) }),
        "row 7 of the batch, image 0: 3 channels, the model takes 4 channels"
    );
    assert_eq!(
        message(DataShape { vocabulary, image: Some(ImageShape { channels: 3, patch: 1 }) }),
        "row 7 of the batch, image 0: 1 positions, the model takes 4 patches"
    );
}

#[test]
fn settings_out_of_range_are_named() {
    let message =
        |text: &str| toml::from_str::<ObjectiveConfig>(text).unwrap().plan().unwrap_err().to_string();
    assert_eq!(message("steps = 0"), "`diffusion.steps` is `0`, expected 1 to 100,000");
    assert_eq!(
        message("caption-dropout = 1.5"),
        "`diffusion.caption-dropout` is `1.5`, expected a number from 0 to 1"
    );
    assert_eq!(
        message("loss-weight = { soft-snr = 0.0 }"),
        "`diffusion.loss-weight.soft-snr` is `0`, expected a number above 0, 1,000,000,000 at most"
    );
    assert!(
        toml::from_str::<ObjectiveConfig>("noise = 3").unwrap_err().to_string().contains("unknown field")
    );
}

/// The reference's row: its vocabulary of 40 ends in BOI and EOI.
fn reference_row(golden: &Golden) -> (Row, Vocabulary) {
    let vocabulary = Vocabulary::text(38);
    let documents = golden.integers("document");
    let sizes = [(4u16, 4u16), (8, 8), (2, 2)];
    let latent = |&(height, width): &(u16, u16)| Latent {
        channels: 8,
        height,
        width,
        moments: false,
        values: vec![f16::ZERO; 8 * usize::from(height) * usize::from(width)],
    };
    let modality = |id: i64, document: i64| match (id, document) {
        (_, -1) => Modality::Padding,
        (-1, _) => Modality::Image,
        _ => Modality::Text,
    };
    let ids = golden.integers("ids");
    let places: Vec<_> =
        ids.iter().zip(&documents).map(|(&id, &document)| (modality(id, document), document)).collect();
    let (mut start, mut images, mut spans) = (0, 0, Vec::new());
    for run in places.chunk_by(|a, b| a == b) {
        let (modality, document) = run[0];
        let image = (modality == Modality::Image).then_some(images);
        images += u32::from(image.is_some());
        let document = if document < 0 { 2 } else { document as u32 };
        let len = run.len() as u32;
        spans.push(Span { document, start, len, modality, image, loss: modality != Modality::Padding });
        start += len;
    }
    let token = |(&id, &(modality, _)): (&i64, &(Modality, i64))| match modality {
        Modality::Text => id as u32,
        Modality::Image => vocabulary.patch(),
        Modality::Padding => vocabulary.padding(),
    };
    let tokens = ids.iter().zip(&places).map(token).collect();
    let source = |row, order| Provenance { source: 0, file: 0, row, id: None, first_token: 0, order };
    let sources = vec![source(0, Order::CaptionFirst), source(1, Order::ImageFirst)];
    let layout = RowLayout { context: 42, patch: 2, vocabulary };
    let images = sizes.iter().map(latent).collect();
    (Row::try_new(tokens, spans, images, sources, &layout).unwrap(), vocabulary)
}

#[test]
fn losses_and_their_gradients_equal_the_reference() {
    let (golden, device) = (Golden::open("loss.safetensors"), Device::flex().autodiff());
    let (row, vocabulary) = reference_row(&golden);
    let data = DataShape { vocabulary: 38, image: Some(ImageShape { channels: 8, patch: 2 }) };
    let plan = ModelConfig::default().plan(&data).unwrap();
    let rows = [row];
    let batch = prepare(&rows, &with_dropout(0.0), &plan, DRAW).unwrap();
    let counts = counts(&rows, vocabulary);

    let mut targets = vec![-100; 42];
    batch.targets.iter().for_each(|target| targets[target.row as usize] = i64::from(target.id));
    assert_eq!(targets, golden.integers("targets"));
    assert_eq!(targets.iter().map(|&id| i64::from(id >= 0)).collect::<Vec<_>>(), golden.integers("counted"));

    // With the identity as output matrix hidden states are logits.
    let logits_nv = golden.tensor::<2>("logits", &device).require_grad();
    let text_k = cross_entropy(logits_nv.clone(), Tensor::eye(40, &device), &batch.targets);
    let grid = |image: usize| {
        let latent = &rows[0].images()[image];
        let (height, width) = (usize::from(latent.height), usize::from(latent.width));
        PatchGrid { channels: 8, height, width, patch: 2 }
    };
    let patches = |kind: &str| {
        let image = |image: usize| grid(image).patchify(&golden.f32s(&format!("image{image}.{kind}")));
        let values: Vec<f32> = (0..3).flat_map(image).collect();
        Tensor::<2>::from_data(TensorData::new(values, [21, 32]), &device)
    };
    let predicted_pn = patches("pred").require_grad();
    let image_i = image_losses(predicted_pn.clone(), patches("noise"), &batch.image_ranges);
    let losses = Losses { text_k: Some(text_k), image_i: Some(image_i), weights: vec![1.0; 3] };

    let per_token = golden.f64s("per_token");
    let expected: Vec<f64> = batch.targets.iter().map(|target| per_token[target.row as usize]).collect();
    let nats: Vec<f64> = losses.text_nats().into_iter().map(f64::from).collect();
    assert_close(&nats, &expected, 1e-5, "nats of each target");
    let errors: Vec<f64> = losses.image_errors().into_iter().map(f64::from).collect();
    assert_close(&errors, &golden.f64s("per_image"), 1e-5, "error of each image");

    let lm = nats.iter().sum::<f64>() / counts.text_targets as f64;
    let ddpm = errors.iter().sum::<f64>() / counts.images as f64;
    assert_close(&[lm, ddpm], &[golden.f64s("lm")[0], golden.f64s("ddpm")[0]], 1e-5, "terms");
    let total = losses.total(&counts, 5.0).unwrap();
    assert_close(&read(total.clone()), &golden.f64s("total"), 1e-5, "total");

    let gradients = total.backward();
    let logits = read(logits_nv.grad(&gradients).unwrap());
    assert_close(&logits, &golden.f64s("grad.logits"), 1e-6, "gradient of the logits");
    let predicted = read(predicted_pn.grad(&gradients).unwrap());
    for image in 0..3 {
        let range = batch.image_ranges[image].start * 32..batch.image_ranges[image].end * 32;
        let found = grid(image).unpatchify(&predicted[range]);
        let expected = golden.f64s(&format!("grad.image{image}.pred"));
        assert_close(&found, &expected, 1e-6, "gradient of a prediction");
    }
}
