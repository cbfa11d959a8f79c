//! Facts of the model, and the reference's values.

use burn::{
    module::{ModuleVisitor, Param},
    tensor::TensorData,
};
use schemas::{Order, Row};

use super::*;
use crate::{
    golden::{Golden, assert_close, json, read},
    objective::{Draw, MicroBatch, Objective, ObjectiveConfig, counts, prepare},
    sketch::{CHANNELS, PATCH, Piece, VOCABULARY, row},
};

const LAYERS: usize = 2;
const HEADS: usize = 4;

fn block_plan() -> ModelPlan {
    let config = ModelConfig {
        layers: LAYERS,
        width: 64,
        heads: HEADS,
        feed_forward: Some(96),
        ..ModelConfig::default()
    };
    config.plan(&DataShape { vocabulary: 8, image: None }).unwrap()
}

/// The decoder with the reference's weights.
fn block(golden: &Golden, device: &Device) -> Decoder {
    let matrix = |name: &str| Matrix {
        weight: Param::from_tensor(golden.tensor(&format!("weights.{name}.weight"), device)),
    };
    let gain = |name: &str| Gain {
        weight: Param::from_tensor(golden.tensor(&format!("weights.{name}.weight"), device)),
    };
    let mut decoder = Transfusion::new(&block_plan(), 0, device).model;
    for (index, layer) in decoder.layers.iter_mut().enumerate() {
        let name = |part: &str| format!("layers.{index}.{part}");
        layer.self_attn.q_proj = matrix(&name("self_attn.q_proj"));
        layer.self_attn.k_proj = matrix(&name("self_attn.k_proj"));
        layer.self_attn.v_proj = matrix(&name("self_attn.v_proj"));
        layer.self_attn.o_proj = matrix(&name("self_attn.o_proj"));
        layer.mlp.gate_proj = matrix(&name("mlp.gate_proj"));
        layer.mlp.up_proj = matrix(&name("mlp.up_proj"));
        layer.mlp.down_proj = matrix(&name("mlp.down_proj"));
        layer.input_layernorm = gain(&name("input_layernorm"));
        layer.post_attention_layernorm = gain(&name("post_attention_layernorm"));
    }
    decoder.norm = gain("norm");
    decoder
}

/// The segments that the reference's list of a case stands for.
fn case_segments(case: &str) -> Arc<[Segment]> {
    let report = json("llama_block.json");
    let parts = report["cases"][case]["segments"].as_array().unwrap();
    let number = |part: &serde_json::Value, key: &str| part[key].as_u64().unwrap() as usize;
    let documents = parts.chunk_by(|a, b| a["document"] == b["document"]);
    documents
        .map(|parts| {
            let start = number(&parts[0], "start");
            let end = parts.last().map(|part| number(part, "start") + number(part, "length")).unwrap();
            let images = parts.iter().filter(|part| part["kind"] == "image" && case != "single_causal");
            let relative =
                |part| number(part, "start") - start..number(part, "start") - start + number(part, "length");
            Segment { queries: start..end, keys: start..end, images: images.map(relative).collect() }
        })
        .collect()
}

fn case_positions(golden: &Golden, case: &str) -> Vec<u32> {
    golden.integers(&format!("{case}.positions")).into_iter().map(|position| position as u32).collect()
}

fn pass(k_nhd: Tensor<3>, v_nhd: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    (k_nhd, v_nhd)
}

#[test]
fn two_layers_equal_the_reference() {
    let (golden, device) = (Golden::open("llama_block.safetensors"), Device::flex());
    let decoder = block(&golden, &device);
    for case in ["single", "single_causal", "image_first", "packed", "text_only"] {
        let segments = case_segments(case);
        let positions = case_positions(&golden, case);
        let rotary = Rotary::new(&positions, 64 / HEADS, 10_000.0);
        let input_nd = golden.tensor(&format!("{case}.input"), &device);
        let output_nd = decoder.forward(input_nd, &rotary, &segments, |_, k, v| (k, v));
        assert_close(&read(output_nd), &golden.f64s(&format!("{case}.output")), 2e-5, case);

        let n = positions.len();
        let mut allowed = vec![0; n * n];
        for segment in segments.iter() {
            for (index, query) in segment.queries.clone().enumerate() {
                let start = segment.keys.start;
                (start..start + segment.visible(index)).for_each(|key| allowed[query * n + key] = 1);
            }
        }
        assert_eq!(allowed, golden.integers(&format!("{case}.allowed")), "{case}");
    }
}

#[test]
fn the_inside_of_a_layer_equals_the_reference() {
    let (golden, device) = (Golden::open("llama_block.safetensors"), Device::flex());
    let decoder = block(&golden, &device);
    let layer = &decoder.layers[0];
    let segments = case_segments("single");
    let rotary = Rotary::new(&case_positions(&golden, "single"), 64 / HEADS, 10_000.0);
    let check = |tensor: &Tensor<2>, tap: &str| {
        assert_close(&read(tensor.clone()), &golden.f64s(&format!("single.layer0.{tap}")), 2e-5, tap);
    };
    let x_nd: Tensor<2> = golden.tensor("single.input", &device);
    let attn_norm = layer.input_layernorm.forward(x_nd.clone(), 1e-5);
    check(&attn_norm, "attn_norm");
    check(&layer.self_attn.q_proj.forward(attn_norm.clone()), "q_proj");
    let attn_out = layer.self_attn.forward(attn_norm, &rotary, &segments, pass);
    check(&attn_out, "attn_out");
    let h_nd = x_nd.clone() + attn_out;
    let ffn_norm = layer.post_attention_layernorm.forward(h_nd, 1e-5);
    check(&ffn_norm, "ffn_norm");
    check(&layer.mlp.forward(ffn_norm), "ffn_out");
    check(&layer.forward(x_nd, &rotary, &segments, pass), "layer_out");
}

#[test]
fn gradients_equal_the_reference() {
    let (golden, device) = (Golden::open("llama_block.safetensors"), Device::flex().autodiff());
    let decoder = block(&golden, &device);
    let input_nd: Tensor<2> = golden.tensor::<2>("single.input", &device).require_grad();
    let rotary = Rotary::new(&case_positions(&golden, "single"), 64 / HEADS, 10_000.0);
    let output_nd = decoder.forward(input_nd.clone(), &rotary, &case_segments("single"), |_, k, v| (k, v));
    let gradients = (output_nd * golden.tensor("single.probe", &device)).mean().backward();
    let check = |gradient: Vec<f64>, key: &str| {
        assert_close(&gradient, &golden.f64s(&format!("single.grad.{key}")), 1e-6, key);
    };
    let matrix = |matrix: &Matrix| read(matrix.weight.val().grad(&gradients).unwrap());
    let gain = |gain: &Gain| read(gain.weight.val().grad(&gradients).unwrap());
    check(read(input_nd.grad(&gradients).unwrap()), "input");
    check(matrix(&decoder.layers[0].self_attn.q_proj), "layers.0.self_attn.q_proj.weight");
    check(matrix(&decoder.layers[0].self_attn.v_proj), "layers.0.self_attn.v_proj.weight");
    check(matrix(&decoder.layers[1].mlp.gate_proj), "layers.1.mlp.gate_proj.weight");
    check(gain(&decoder.layers[0].input_layernorm), "layers.0.input_layernorm.weight");
    check(gain(&decoder.norm), "norm.weight");
}

#[test]
fn the_timestep_embedding_equals_the_reference() {
    let (golden, device) = (Golden::open("timestep_embedding.safetensors"), Device::flex());
    let times: Vec<u32> = golden.integers("t").into_iter().map(|t| t as u32).collect();
    let waves: Vec<f64> = times.iter().flat_map(|&t| sinusoids(t, 64)).collect();
    assert_close(&waves, &golden.f64s("cos_sin"), 1e-12, "sinusoids");

    // 48 numbers a patch: 3 channels of 4 x 4.
    let config = ModelConfig {
        width: 32,
        heads: 2,
        image: ImageConfig { sinusoids: 64, ..ImageConfig::default() },
        ..ModelConfig::default()
    };
    let data = DataShape { vocabulary: 8, image: Some(ImageShape { channels: 3, patch: 4 }) };
    let mut ends = Transfusion::new(&config.plan(&data).unwrap(), 0, &device).image.unwrap();
    let affine = |name: &str| Affine {
        weight: Param::from_tensor(golden.tensor(&format!("{name}.weight"), &device)),
        bias: Param::from_tensor(golden.tensor(&format!("{name}.bias"), &device)),
    };
    ends.time.linear_1 = affine("linear_1");
    ends.time.linear_2 = affine("linear_2");
    ends.input = affine("patch_linear");
    let embedding_ie = ends.time.forward(&times, &device);
    assert_close(&read(embedding_ie), &golden.f64s("embedding"), 1e-5, "embedding");
    let patches = PatchInput {
        values: golden.f32s("patches"),
        image_of_patch: (0..times.len() as u32).flat_map(|image| [image; 16]).collect(),
        times,
    };
    assert_close(&read(ends.encode(&patches)), &golden.f64s("tokens"), 1e-5, "tokens");
}

fn tiny_plan(config: ModelConfig) -> ModelPlan {
    let image = ImageShape { channels: usize::from(CHANNELS), patch: PATCH as usize };
    config.plan(&DataShape { vocabulary: VOCABULARY.size, image: Some(image) }).unwrap()
}

fn tiny() -> ModelConfig {
    let image = ImageConfig { sinusoids: 16, ..ImageConfig::default() };
    ModelConfig { layers: 2, width: 32, heads: 4, feed_forward: Some(48), image, ..ModelConfig::default() }
}

/// A model whose image ends are not zero, so that predictions say something.
fn awake(seed: u64, device: &Device) -> Transfusion {
    let mut model = Transfusion::new(&tiny_plan(tiny()), seed, device);
    let image = model.image.as_mut().unwrap();
    image.output = Initial::new(seed, device).affine("awake", [12, 32], 1.0);
    model
}

fn objective(caption_dropout: f64) -> Objective {
    ObjectiveConfig { caption_dropout, ..ObjectiveConfig::default() }.plan().unwrap()
}

const DRAW: Draw = Draw { seed: 3, step: 5, first_row: 0 };

fn mixed_row(seed: u64) -> Row {
    let documents = [
        (Order::CaptionFirst, vec![Piece::Text(5), Piece::Image(2, 2)]),
        (Order::ImageFirst, vec![Piece::Image(1, 3), Piece::Text(6)]),
        (Order::Neither, vec![Piece::Text(4)]),
    ];
    row(&documents, 48, seed)
}

#[test]
fn a_uniform_model_costs_ln_v() {
    let config = ModelConfig { initial: InitialConfig { head: 0.0, ..InitialConfig::default() }, ..tiny() };
    let model = Transfusion::new(&tiny_plan(config), 1, &Device::flex());
    let batch = prepare(&[mixed_row(1)], &objective(0.1), model.plan(), DRAW).unwrap();
    let nats = batch.losses(&model).text_nats();
    let expected = f64::from(VOCABULARY.embedding_rows()).ln();
    assert_eq!(nats.len(), batch.targets.len());
    assert!(nats.iter().all(|&nats| (f64::from(nats) - expected).abs() < 1e-6), "{nats:?}");
}

#[test]
fn a_fresh_model_predicts_zero_and_costs_the_square_of_the_noise() {
    let model = Transfusion::new(&tiny_plan(tiny()), 1, &Device::flex());
    let batch = prepare(&[mixed_row(1)], &objective(0.1), model.plan(), DRAW).unwrap();
    let squares = |range: &std::ops::Range<usize>| {
        let goals = &batch.goals[range.start * batch.numbers..range.end * batch.numbers];
        goals.iter().map(|&goal| f64::from(goal).powi(2)).sum::<f64>() / goals.len() as f64
    };
    let expected: Vec<f64> = batch.image_ranges.iter().map(squares).collect();
    let errors: Vec<f64> = batch.losses(&model).image_errors().into_iter().map(f64::from).collect();
    assert_close(&errors, &expected, 1e-6, "image errors");
}

/// The rows of hidden states that differ when the row of the input at `place` does.
fn touched(model: &Transfusion, batch: &MicroBatch, place: usize) -> Vec<usize> {
    let input_nd = model.embed(&batch.inputs);
    let [n, d] = input_nd.dims();
    let mut bump = vec![0.0f32; n * d];
    bump[place * d..(place + 1) * d].fill(1.0);
    let bump_nd = Tensor::from_data(TensorData::new(bump, [n, d]), &input_nd.device());
    let before = read(model.hidden(input_nd.clone(), &batch.inputs));
    let after = read(model.hidden(input_nd + bump_nd, &batch.inputs));
    (0..n).filter(|row| before[row * d..(row + 1) * d] != after[row * d..(row + 1) * d]).collect()
}

#[test]
fn text_never_sees_the_future_and_a_patch_sees_its_whole_image() {
    // BOS, 5 tokens, BOI, 4 patches, EOI, EOS | BOS, BOI, 3 patches, EOI, 6 tokens, EOS | BOS, 4 tokens, EOS.
    let model = awake(2, &Device::flex());
    let batch = prepare(&[mixed_row(2)], &objective(0.0), model.plan(), DRAW).unwrap();
    let end = 13;
    assert_eq!(touched(&model, &batch, 3), (3..end).collect::<Vec<_>>(), "a token reaches what follows");
    assert_eq!(touched(&model, &batch, 10), (7..end).collect::<Vec<_>>(), "a patch reaches its image");
    assert_eq!(touched(&model, &batch, 7), (7..end).collect::<Vec<_>>());
    assert_eq!(touched(&model, &batch, 11), (11..end).collect::<Vec<_>>(), "EOI doesn't reach its image");
    assert_eq!(touched(&model, &batch, 13), (13..26).collect::<Vec<_>>(), "a document is alone");
    assert_eq!(touched(&model, &batch, 17), (15..26).collect::<Vec<_>>());
    assert_eq!(touched(&model, &batch, 31), vec![31], "padding is left out, the last token reaches itself");
}

#[test]
fn the_switches_change_who_sees_whom() {
    let device = Device::flex();
    let with = |across_documents, causal_images| {
        let config = ModelConfig { across_documents, causal_images, ..tiny() };
        let model = Transfusion::new(&tiny_plan(config), 2, &device);
        let batch = prepare(&[mixed_row(2)], &objective(0.0), model.plan(), DRAW).unwrap();
        touched(&model, &batch, 10)
    };
    assert_eq!(with(false, true), (10..13).collect::<Vec<_>>());
    assert_eq!(with(true, false), (7..32).collect::<Vec<_>>());
    assert_eq!(with(true, true), (10..32).collect::<Vec<_>>());
}

#[test]
fn a_dropped_caption_is_not_seen_and_still_learned() {
    let model = awake(2, &Device::flex());
    let rows = [mixed_row(2)];
    let (kept, dropped) = (
        prepare(&rows, &objective(0.0), model.plan(), DRAW).unwrap(),
        prepare(&rows, &objective(1.0), model.plan(), DRAW).unwrap(),
    );
    assert_eq!(touched(&model, &dropped, 3), vec![3, 4, 5], "the caption reaches itself alone");
    assert_eq!(touched(&model, &dropped, 6), (6..13).collect::<Vec<_>>(), "BOI begins anew");
    assert_eq!(dropped.inputs.positions[..13], [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(dropped.inputs.positions[13..], kept.inputs.positions[13..], "image first is never dropped");
    assert_eq!(
        (&kept.targets, &kept.goals, &kept.inputs.patches.values),
        (&dropped.targets, &dropped.goals, &dropped.inputs.patches.values)
    );
    assert_eq!(dropped.images.iter().map(|image| image.dropped).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn split_batches_add_up_to_the_whole() {
    let device = Device::flex().autodiff();
    let model = awake(4, &device);
    let text = row(&[(Order::Neither, vec![Piece::Text(7)])], 48, 9);
    let rows = [mixed_row(1), text, mixed_row(2)];
    let counts = counts(&rows, VOCABULARY);
    let part = |rows: &[Row], first_row| {
        let batch = prepare(rows, &objective(0.1), model.plan(), Draw { first_row, ..DRAW }).unwrap();
        let total = batch.losses(&model).total(&counts, 5.0).unwrap();
        let gradients = total.backward();
        (read(total)[0], read(model.lm_head.weight.val().grad(&gradients).unwrap()))
    };
    let (whole, whole_gradient) = part(&rows, 0);
    let parts = [part(&rows[..1], 0), part(&rows[1..2], 1), part(&rows[2..], 2)];
    // Sums of about a hundred f32 values in another order.
    assert!((whole - parts.iter().map(|part| part.0).sum::<f64>()).abs() < 1e-5 * whole);
    let summed: Vec<f64> =
        (0..whole_gradient.len()).map(|index| parts.iter().map(|part| part.1[index]).sum()).collect();
    assert_close(&summed, &whole_gradient, 1e-6, "gradient");
}

#[test]
fn a_batch_without_images_or_text_targets_has_that_term_zero() {
    let model = awake(4, &Device::flex());
    let total = |row: Row| {
        let batch = prepare(std::slice::from_ref(&row), &objective(0.0), model.plan(), DRAW).unwrap();
        let losses = batch.losses(&model);
        let counts = counts(&[row], VOCABULARY);
        (losses.text_nats(), losses.image_errors(), losses.total(&counts, 5.0).map(|total| read(total)[0]))
    };
    let mean =
        |values: &[f32]| values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64;
    let (nats, errors, loss) = total(row(&[(Order::Neither, vec![Piece::Text(7)])], 16, 9));
    assert_eq!(errors.len(), 0);
    assert!((loss.unwrap() - mean(&nats)).abs() < 1e-6);
    let (nats, errors, loss) = total(row(&[], 16, 9));
    assert_eq!((nats.len(), errors.len(), loss), (0, 0, None));
    let (_, errors, loss) = total(row(&[(Order::ImageFirst, vec![Piece::Image(2, 2)])], 16, 9));
    assert_eq!(errors.len(), 1);
    assert!(loss.unwrap().is_finite());
}

struct Names(Vec<String>, Vec<(String, f64)>);

impl ModuleVisitor for Names {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.0.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.0.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values = read(param.val());
        let square = values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64;
        self.1.push((self.0.join("."), square.sqrt()));
    }
}

fn deviations(model: &Transfusion) -> Vec<(String, f64)> {
    let mut names = Names(Vec::new(), Vec::new());
    model.visit(&mut names);
    names.1
}

#[test]
fn parameters_have_hugging_face_names_and_the_recorded_scales() {
    let model = Transfusion::new(&tiny_plan(tiny()), 7, &Device::flex());
    let found = deviations(&model);
    let layer = |name: &str| format!("model.layers.1.{name}.weight");
    let fan_in = |inputs: f64| 1.0 / inputs.sqrt();
    for (name, expected) in [
        ("model.embed_tokens.weight".to_owned(), 0.02),
        (layer("self_attn.q_proj"), fan_in(32.0)),
        (layer("self_attn.k_proj"), fan_in(32.0)),
        (layer("self_attn.v_proj"), fan_in(32.0)),
        (layer("self_attn.o_proj"), fan_in(32.0) / 2.0),
        (layer("mlp.gate_proj"), fan_in(32.0)),
        (layer("mlp.up_proj"), fan_in(32.0)),
        (layer("mlp.down_proj"), fan_in(48.0) / 2.0),
        (layer("input_layernorm"), 1.0),
        (layer("post_attention_layernorm"), 1.0),
        ("model.norm.weight".to_owned(), 1.0),
        ("lm_head.weight".to_owned(), 0.02),
        ("image.time.linear_1.weight".to_owned(), fan_in(16.0)),
        ("image.time.linear_2.weight".to_owned(), fan_in(12.0)),
        ("image.input.weight".to_owned(), fan_in(12.0)),
        ("image.input.bias".to_owned(), 0.0),
        ("image.output.weight".to_owned(), 0.0),
    ] {
        let (_, found) =
            found.iter().find(|(found, _)| *found == name).unwrap_or_else(|| panic!("no `{name}`"));
        // The smallest matrix has 144 values: standard error 6 %.
        assert!((found - expected).abs() <= 0.2 * expected, "{name}: {found}, expected {expected}");
    }
    assert_eq!(found.len(), 2 + 1 + 2 * 9 + 8);
    assert_eq!(model.num_params() as u64, model.plan().parameters().total());
}

#[test]
fn the_start_depends_on_plan_and_seed_alone() {
    let fresh = |seed| deviations(&Transfusion::new(&tiny_plan(tiny()), seed, &Device::flex()));
    assert_eq!(fresh(7), fresh(7));
    assert_ne!(fresh(7), fresh(8));
}

#[test]
fn every_parameter_learns() {
    struct Still<'a>(&'a burn::tensor::Gradients, usize);
    impl ModuleVisitor for Still<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = param.val().grad(self.0).map(read).unwrap_or_default();
            assert!(gradient.iter().any(|&value| value != 0.0), "parameter {} has no gradient", self.1);
            self.1 += 1;
        }
    }
    let device = Device::flex().autodiff();
    let model = awake(4, &device);
    let rows = [mixed_row(1), mixed_row(2)];
    let batch = prepare(&rows, &objective(0.1), model.plan(), DRAW).unwrap();
    let total = batch.losses(&model).total(&counts(&rows, VOCABULARY), 5.0).unwrap();
    model.visit(&mut Still(&total.backward(), 0));
}
