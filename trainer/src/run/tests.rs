//! Runs on a dataset of a few rows: exact resume, and what happens when something is wrong.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::config::{DataConfig, InitWeights, ModelChoice, TrainConfig};
use crate::device::Machine;
use crate::fixture;
use crate::model::ModelConfig;
use crate::stream::Location;

/// Keeps the events, and stops the run after a given number of steps.
#[derive(Default)]
struct Witness {
    steps: RefCell<Vec<StepReport>>,
    warnings: RefCell<Vec<String>>,
    sampled: RefCell<Vec<u64>>,
    stop: AtomicBool,
    stop_at: Cell<Option<u64>>,
}

impl Observer for Witness {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Step(report) => {
                self.steps.borrow_mut().push((*report).clone());
                self.stop.store(self.stop_at.get() == Some(report.step), Ordering::Relaxed);
            }
            Event::Warning(warning) => self.warnings.borrow_mut().push((*warning).to_owned()),
            _ => {}
        }
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }

    fn sample(&self, step: u64, _: &Transfusion) {
        self.sampled.borrow_mut().push(step);
    }
}

/// A dataset and a place for runs.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fixture::write(&folder.path().join("data"), &[(0, 30), (1, 70), (1, 9)]);
        Self { folder }
    }

    fn location(&self) -> Location {
        Location::folder(self.folder.path().join("data")).unwrap()
    }

    fn config(&self, run: &str) -> TrainConfig {
        let model =
            ModelConfig { layers: 2, width: 32, heads: 2, feed_forward: Some(48), ..ModelConfig::default() };
        let data = |source: Option<&str>| DataConfig {
            uri: "data".to_owned(),
            source: source.map(str::to_owned),
            ..DataConfig::default()
        };
        let mut config = TrainConfig {
            run: self.folder.path().join(run),
            model: ModelChoice::Table(Box::new(model)),
            steps: 12,
            batch: 6,
            micro_batch: Some(4),
            ema: Some(0.9),
            data: vec![data(Some("pairs")), data(None)],
            ..TrainConfig::default()
        };
        config.schedule.rate = 1e-2;
        config.schedule.floor = 1e-3;
        config.schedule.warm_up = Some(3);
        config.checkpoint.every = 4;
        config
    }

    fn plan(&self, config: TrainConfig, resume: bool) -> Result<TrainPlan, TrainError> {
        TrainPlan::try_new(config, &[self.location(), self.location()], resume, &Machine::default())
    }

    fn train(&self, config: TrainConfig, resume: bool, witness: &Witness) -> Result<Outcome, TrainError> {
        train(self.plan(config, resume)?, witness, &witness.stop)
    }

    /// A run that is left alone.
    fn whole(&self, run: &str) -> (Vec<StepReport>, Outcome) {
        let witness = Witness::default();
        let outcome = self.train(self.config(run), false, &witness).unwrap();
        (witness.steps.into_inner(), outcome)
    }
}

fn file(checkpoint: &Path, name: &str) -> Vec<u8> {
    fs::read(checkpoint.join(name)).unwrap()
}

fn assert_same_state(a: &Path, b: &Path) {
    for name in ["model.safetensors", "optimizer.safetensors", "ema.safetensors"] {
        assert!(file(a, name) == file(b, name), "{name} differs");
    }
    let cursor = |folder: &Path| Checkpoint::open(folder).unwrap().0.state().cursor.clone();
    assert_eq!(cursor(a), cursor(b));
}

fn log(run: &Path) -> Vec<StepReport> {
    let text = fs::read_to_string(run.join("log.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

#[test]
fn a_run_stopped_at_any_step_and_resumed_is_the_run_left_alone_bit_for_bit() {
    let place = Place::new();
    let (steps, outcome) = with_threads(1, || place.whole("whole"));
    for (threads, stop_at) in [(1, 1), (2, 4), (1, 7), (2, 11)] {
        let name = format!("stopped-{stop_at}");
        let run = place.folder.path().join(&name);
        let resumed = with_threads(threads, || {
            let first = Witness { stop_at: Cell::new(Some(stop_at)), ..Witness::default() };
            let stopped = place.train(place.config(&name), false, &first).unwrap();
            assert!(stopped.stopped && stopped.step == stop_at);
            let mut config = place.config(&name);
            config.stream.readers = 1;
            config.stream.prefetch_rows = 3;
            place.train(config, true, &Witness::default()).unwrap()
        });
        assert!(!resumed.stopped);
        assert_same_state(&resumed.checkpoint, &outcome.checkpoint);
        assert_eq!(log(&run), steps);
    }
}

#[test]
fn a_run_killed_between_checkpoints_makes_the_lost_steps_again() {
    let place = Place::new();
    let (steps, outcome) = place.whole("whole");
    // As a kill at step 7 leaves it: the checkpoint of step 4, log lines up to 7 and half a line, a half-written folder.
    let run = place.folder.path().join("killed");
    let witness = Witness { stop_at: Cell::new(Some(7)), ..Witness::default() };
    place.train(place.config("killed"), false, &witness).unwrap();
    fs::remove_dir_all(run.join("checkpoints/step-00000007")).unwrap();
    fs::create_dir_all(run.join("checkpoints/.step-00000008.partial/codec")).unwrap();
    let text = fs::read_to_string(run.join("log.jsonl")).unwrap();
    fs::write(run.join("log.jsonl"), text + "{\"step\":8,\"lo").unwrap();
    let resumed = place.train(place.config("killed"), true, &Witness::default()).unwrap();
    assert_same_state(&resumed.checkpoint, &outcome.checkpoint);
    assert_eq!(log(&run), steps);
    let hidden = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with('.');
    assert!(!fs::read_dir(run.join("checkpoints")).unwrap().any(|entry| hidden(entry.unwrap())));
}

#[test]
fn two_threads_give_the_bits_of_one() {
    let place = Place::new();
    let (one, first) = with_threads(1, || place.whole("one"));
    let (two, second) = with_threads(2, || place.whole("two"));
    assert_eq!(one, two);
    assert_same_state(&first.checkpoint, &second.checkpoint);
}

#[test]
fn a_remote_dataset_gives_the_bits_of_a_local_one() {
    let place = Place::new();
    let (steps, outcome) = place.whole("local");
    let (_, remote) = fixture::in_memory(&place.folder.path().join("data"));
    let witness = Witness::default();
    let plan =
        TrainPlan::try_new(place.config("remote"), &[remote.clone(), remote], false, &Machine::default())
            .unwrap();
    let other = train(plan, &witness, &witness.stop).unwrap();
    assert_eq!(witness.steps.into_inner(), steps);
    assert_same_state(&other.checkpoint, &outcome.checkpoint);
    assert!(place.folder.path().join("remote/cache").is_dir());
}

#[test]
fn a_split_batch_sees_the_same_rows_and_agrees_within_rounding() {
    let place = Place::new();
    let run = |name: &str, micro_batch| {
        let witness = Witness::default();
        let config = TrainConfig { micro_batch, steps: 3, ..place.config(name) };
        place.train(config, false, &witness).unwrap();
        witness.steps.into_inner()
    };
    let (whole, split) = (run("whole", None), run("split", Some(1)));
    for (a, b) in whole.iter().zip(&split) {
        assert_eq!((a.text_positions, a.images), (b.text_positions, b.images));
        // f32 sums in another order; three updates let the difference grow.
        assert!((a.loss - b.loss).abs() < 1e-4 * a.loss, "{} and {}", a.loss, b.loss);
        assert!((a.gradient_norm - b.gradient_norm).abs() < 1e-3 * a.gradient_norm);
    }
}

#[test]
fn a_run_learns_and_reports_its_parts() {
    let place = Place::new();
    let mut config = place.config("learns");
    config.steps = 60;
    config.sample.every = 25;
    let witness = Witness::default();
    place.train(config, false, &witness).unwrap();
    let steps = witness.steps.into_inner();
    let mean = |part: &[StepReport]| part.iter().map(|step| step.loss).sum::<f64>() / part.len() as f64;
    assert!(mean(&steps[50..]) < 0.8 * mean(&steps[..5]), "{} to {}", mean(&steps[..5]), mean(&steps[50..]));
    // A fresh model with a small output matrix guesses: ln of 31 ids, and noise of variance 1 against 0.
    let first = &steps[0];
    assert!((first.text_loss.unwrap() - 31f64.ln()).abs() < 0.1);
    assert!((first.image_loss.unwrap() - 1.0).abs() < 0.2);
    assert!((first.loss - first.text_loss.unwrap() - 5.0 * first.image_loss.unwrap()).abs() < 1e-9);
    assert!(steps.iter().any(|step| step.image_error_by_order.image_first.is_some()));
    assert_eq!(*witness.sampled.borrow(), [25, 50]);
}

#[test]
fn the_newest_checkpoints_and_the_best_are_kept() {
    let place = Place::new();
    let mut config = place.config("kept");
    config.checkpoint.every = 1;
    config.checkpoint.keep = 2;
    place.train(config.clone(), false, &Witness::default()).unwrap();
    let checkpoints = Checkpoints::of(&config.run);
    let steps = checkpoints.steps().unwrap();
    assert!(steps.ends_with(&[11, 12]) && steps.len() <= 3, "{steps:?}");
    let losses = log(&config.run);
    let best = losses.iter().min_by(|a, b| a.loss.total_cmp(&b.loss)).unwrap().step;
    assert!(steps.contains(&best));
}

#[test]
fn a_damaged_newest_checkpoint_is_noticed_and_the_one_before_is_used() {
    let place = Place::new();
    let (steps, outcome) = place.whole("whole");
    let stop = |name: &str| {
        let witness = Witness { stop_at: Cell::new(Some(8)), ..Witness::default() };
        place.train(place.config(name), false, &witness).unwrap();
        place.folder.path().join(name).join("checkpoints/step-00000008")
    };
    let damages: [fn(&Path); 4] = [
        |folder| flip(&folder.join("optimizer.safetensors")),
        |folder| flip(&folder.join("state.json")),
        |folder| fs::remove_file(folder.join("model.safetensors")).unwrap(),
        |folder| fs::write(folder.join("state.json"), "{").unwrap(),
    ];
    for (index, damage) in damages.into_iter().enumerate() {
        let name = format!("damaged-{index}");
        let folder = stop(&name);
        damage(&folder);
        assert!(Checkpoint::open(&folder).is_err());
        let witness = Witness::default();
        let resumed = place.train(place.config(&name), true, &witness).unwrap();
        let warnings = witness.warnings.into_inner();
        assert!(warnings.len() == 2 && warnings[0].contains("step 4 is used"), "{warnings:?}");
        assert!(warnings[1].contains("was set aside as `damaged-step-00000008`"), "{warnings:?}");
        assert_same_state(&resumed.checkpoint, &outcome.checkpoint);
        assert_eq!(log(&place.folder.path().join(name)), steps);
        Checkpoint::open(&folder).unwrap();
    }
}

/// The run that lost its last whole checkpoint once: the newest one was damaged, one was to be kept, and pruning behind
/// the next save took the damaged one for the newest and deleted the rest.
#[test]
fn a_resumed_run_that_keeps_one_checkpoint_is_not_lost_when_it_is_killed_again() {
    let place = Place::new();
    let (steps, outcome) = place.whole("whole");
    for stop_at in [5, 8, 9] {
        let name = format!("kept-{stop_at}");
        let until = |step| Witness { stop_at: Cell::new(Some(step)), ..Witness::default() };
        place.train(place.config(&name), false, &until(8)).unwrap();
        let mut config = place.config(&name);
        config.checkpoint.keep = 1;
        flip(&config.run.join("checkpoints/step-00000008/model.safetensors"));
        let resumed = place.train(config.clone(), true, &until(stop_at)).unwrap();
        assert_eq!(Checkpoint::open(&config.run).unwrap().0.state().step, resumed.step);
        let end = place.train(config.clone(), true, &Witness::default()).unwrap();
        assert_same_state(&end.checkpoint, &outcome.checkpoint);
        assert_eq!(log(&config.run), steps);
    }
}

#[test]
fn a_log_that_cannot_be_read_does_not_block_a_resume() {
    let place = Place::new();
    let (steps, outcome) = place.whole("whole");
    let run = place.folder.path().join("run");
    let witness = Witness { stop_at: Cell::new(Some(8)), ..Witness::default() };
    place.train(place.config("run"), false, &witness).unwrap();
    let mut bytes = fs::read(run.join("log.jsonl")).unwrap();
    let second = bytes.iter().position(|&byte| byte == b'\n').unwrap() + 10;
    bytes[second] = 0xff;
    bytes.extend(b"{\"step\":9,\xfe");
    fs::write(run.join("log.jsonl"), bytes).unwrap();
    let witness = Witness::default();
    let resumed = place.train(place.config("run"), true, &witness).unwrap();
    let warnings = witness.warnings.into_inner();
    assert!(warnings.len() == 1 && warnings[0].starts_with("1 line of `log.jsonl`"), "{warnings:?}");
    assert_same_state(&resumed.checkpoint, &outcome.checkpoint);
    assert_eq!(log(&run), [&steps[..1], &steps[2..]].concat());
}

/// Changes the manifest of a dataset.
fn edit_manifest(folder: &Path, change: impl FnOnce(&mut schemas::Manifest)) {
    let path = folder.join("manifest.json");
    let (mut manifest, _) = schemas::Manifest::from_bytes(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(&path, manifest.to_bytes().unwrap().0).unwrap();
}

/// Datasets by name: `text` was packed without a codec (patch size 1), `a` and `b` by two codecs, `p` like `a` with
/// another patch size; the last three have a source of text and one of pictures.
fn mixable(place: &Place) -> impl Fn(&[(&str, Option<&str>)]) -> Result<TrainPlan, TrainError> {
    let root = place.folder.path().to_owned();
    fixture::write_text(&root.join("text"), 40);
    for name in ["a", "b", "p"] {
        fixture::write(&root.join(name), &[(0, 20), (1, 20)]);
    }
    edit_manifest(&root.join("b"), |manifest| {
        manifest.codec.as_mut().unwrap().fingerprint = "another codec".to_owned();
    });
    edit_manifest(&root.join("p"), |manifest| manifest.patch = 4);
    let base = place.config("mixed");
    move |parts| {
        let data = |(uri, source): &(&str, Option<&str>)| DataConfig {
            uri: (*uri).to_owned(),
            source: source.map(str::to_owned),
            ..DataConfig::default()
        };
        let config = TrainConfig { data: parts.iter().map(data).collect(), steps: 6, ..base.clone() };
        let locations: Vec<Location> =
            parts.iter().map(|(uri, _)| Location::folder(root.join(uri)).unwrap()).collect();
        TrainPlan::try_new(config, &locations, false, &Machine::default())
    }
}

#[test]
fn text_packed_alone_is_trained_on_together_with_pictures_in_any_order() {
    let place = Place::new();
    let plan = mixable(&place);
    for parts in [
        &[("text", None), ("a", None)][..],
        &[("a", None), ("text", None)],
        &[("a", Some("pairs")), ("text", None), ("a", Some("texts"))],
        &[("text", None), ("a", Some("pairs")), ("b", Some("texts"))],
    ] {
        let made = plan(parts).unwrap();
        assert_eq!(made.model.image().map(|image| image.patch), Some(2), "{parts:?}");
        assert_eq!(made.companions.codec_fingerprint.as_deref(), Some("a codec"), "{parts:?}");
        let witness = Witness::default();
        train(made, &witness, &witness.stop).unwrap();
        let steps = witness.steps.into_inner();
        assert!(steps.iter().all(|step| step.text_loss.is_some()));
        assert!(steps.iter().any(|step| step.image_loss.is_some()));
        fs::remove_dir_all(place.folder.path().join("mixed")).unwrap();
    }
    assert!(plan(&[("text", None), ("a", None), ("p", Some("texts"))]).is_ok());
    let text = plan(&[("text", None)]).unwrap();
    assert_eq!(text.model.image(), None);
    // As it always was: a source of text keeps the image ends of its dataset.
    assert!(plan(&[("a", Some("texts"))]).unwrap().model.image().is_some());
    assert!(plan(&[("text", None), ("a", Some("texts"))]).unwrap().model.image().is_some());
}

#[test]
fn pictures_of_two_codecs_or_patch_sizes_are_not_mixed_wherever_text_stands() {
    let place = Place::new();
    let plan = mixable(&place);
    let orders = |x, y| {
        [
            vec![(x, None), (y, None)],
            vec![("text", None), (x, None), (y, None)],
            vec![(x, None), ("text", None), (y, Some("pairs"))],
            vec![(x, Some("pairs")), (y, None), ("text", None)],
            vec![(y, Some("texts")), (x, None), (y, Some("pairs"))],
        ]
    };
    for (x, y, expected) in
        [("a", "b", "their codec"), ("b", "a", "their codec"), ("a", "p", "their patch size")]
    {
        for parts in orders(x, y) {
            match plan(&parts).unwrap_err() {
                TrainError::Mix { first, other, what } => {
                    assert_eq!(what, expected, "{parts:?}");
                    assert!(first.ends_with(x) && other.ends_with(y), "{first} and {other}");
                }
                error => panic!("{parts:?}: {error}"),
            }
        }
    }
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_run_is_not_overwritten_and_only_goes_on_as_it_began() {
    let place = Place::new();
    let config = TrainConfig { steps: 2, ..place.config("run") };
    // `--resume` without a checkpoint starts.
    place.train(config.clone(), true, &Witness::default()).unwrap();
    assert!(matches!(place.plan(config.clone(), false), Err(TrainError::RunExists { step: 2, .. })));
    let error = place.plan(TrainConfig { lambda: 4.0, ..config.clone() }, true).unwrap_err().to_string();
    assert!(error.starts_with("`lambda` is `4.0`, the run was started with `5.0`\nhint:"), "{error}");
    let mut faster = config.clone();
    faster.schedule.rate = 2e-2;
    let error = place.plan(faster, true).unwrap_err().to_string();
    assert!(error.contains(&format!("with `init = \"{}\"`", config.run.display())), "{error}");
    let error = place.plan(TrainConfig { steps: 1, ..config.clone() }, true).unwrap_err();
    assert!(matches!(error, TrainError::AlreadyFurther { done: 2, .. }), "{error}");
    let outcome = place.train(TrainConfig { steps: 3, ..config }, true, &Witness::default()).unwrap();
    assert_eq!(outcome.step, 3);
}

#[test]
fn what_was_derived_at_the_start_stays_when_more_steps_are_asked_for() {
    let place = Place::new();
    let mut config = TrainConfig { steps: 2, micro_batch: None, ..place.config("run") };
    config.schedule.warm_up = None;
    place.train(config.clone(), false, &Witness::default()).unwrap();
    let plan = place.plan(TrainConfig { steps: 500, ..config }, true).unwrap();
    assert_eq!((plan.config().schedule.warm_up, plan.config().micro_batch), (Some(1), Some(6)));
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_names_the_rows_and_spoils_nothing() {
    let place = Place::new();
    let mut config = TrainConfig { steps: 50, ..place.config("explodes") };
    config.checkpoint.every = 1;
    let witness = Witness { stop_at: Cell::new(Some(2)), ..Witness::default() };
    place.train(config.clone(), false, &witness).unwrap();
    // Beyond what a config may say.
    let mut plan = place.plan(config.clone(), true).unwrap();
    (plan.schedule.rate, plan.schedule.floor, plan.config.optimizer.decay) = (1e30, 1e30, 1e30);
    let error = train(plan, &Witness::default(), &AtomicBool::new(false)).unwrap_err();
    let text = error.to_string();
    let hint = format!("with `init = \"{}\"`", config.run.display());
    assert!(text.contains(&hint) && text.contains("`schedule.rate`"), "{text}");
    assert!(matches!(error, TrainError::NotFinite { .. }), "{text}");
    assert!(text.contains("of `b.tar` (source `pairs`)") && text.contains("hint:"), "{text}");
    for step in Checkpoints::of(&config.run).steps().unwrap() {
        Checkpoint::open(&Checkpoints::of(&config.run).path(step)).unwrap();
    }
}

#[test]
fn weights_that_an_update_spoilt_are_not_saved() {
    let place = Place::new();
    let mut config = TrainConfig { steps: 50, ..place.config("spoilt") };
    config.checkpoint.every = 1;
    // Beyond what a config may say.
    let mut plan = place.plan(config.clone(), false).unwrap();
    (plan.schedule.rate, plan.schedule.floor) = (1e300, 1e300);
    let error = train(plan, &Witness::default(), &AtomicBool::new(false)).unwrap_err();
    assert!(matches!(error, TrainError::NotFinite { what: "a weight", .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("start again with") && !text.contains("init ="), "{text}");
    assert!(Checkpoints::of(&config.run).steps().unwrap().is_empty());
}

#[test]
fn a_checkpoint_opens_by_run_or_step_and_gives_the_model_back() {
    let place = Place::new();
    let (_, outcome) = place.whole("run");
    let (checkpoint, warnings) = Checkpoint::open(&place.folder.path().join("run")).unwrap();
    assert!(warnings.is_empty());
    assert_eq!(checkpoint.folder(), outcome.checkpoint);
    assert_eq!(checkpoint.tokenizer().unwrap(), ("tokenizer.json".to_owned(), b"a tokenizer".to_vec()));
    assert_eq!((checkpoint.codec(), checkpoint.state().codec.as_deref()), (None, Some("a codec")));
    assert_eq!(checkpoint.state().picture_size, Some(16));
    let device = burn::tensor::Device::flex();
    let model = checkpoint.model(crate::checkpoint::Which::Last, &device).unwrap();
    assert_eq!(weights::read(&model), checkpoint.weights().unwrap());
    let averaged = checkpoint.model(crate::checkpoint::Which::Best, &device).unwrap();
    assert_eq!(Some(weights::read(&averaged)), checkpoint.average().unwrap());
    let nothing = Checkpoint::open(place.folder.path()).unwrap_err().to_string();
    assert!(nothing.contains("neither a run nor a checkpoint") && nothing.contains("hint:"), "{nothing}");
}

#[test]
fn the_codec_goes_into_the_checkpoint_if_it_is_the_one_of_the_data() {
    let place = Place::new();
    let codec = place.folder.path().join("codec");
    fs::create_dir(&codec).unwrap();
    fs::write(codec.join("config.json"), "{}").unwrap();
    fs::write(codec.join("diffusion_pytorch_model.safetensors"), "weights").unwrap();
    fs::write(codec.join("log.jsonl"), "not part of it").unwrap();
    let config = TrainConfig { steps: 1, codec: Some(codec.clone()), ..place.config("run") };
    let error = place.plan(config.clone(), false).unwrap_err();
    assert!(matches!(&error, TrainError::Codec { expected, .. } if expected == "a codec"), "{error}");
    let path = place.folder.path().join("data/manifest.json");
    let (mut manifest, _) = schemas::Manifest::from_bytes(&fs::read(&path).unwrap()).unwrap();
    manifest.codec.as_mut().unwrap().fingerprint = crate::codec::fingerprint_of(&codec).unwrap();
    fs::write(&path, manifest.to_bytes().unwrap().0).unwrap();
    let outcome = place.train(config, false, &Witness::default()).unwrap();
    let (checkpoint, _) = Checkpoint::open(&outcome.checkpoint).unwrap();
    let copy = checkpoint.codec().unwrap();
    assert_eq!(crate::codec::fingerprint_of(&copy).unwrap(), crate::codec::fingerprint_of(&codec).unwrap());
    assert_eq!(fs::read_dir(copy).unwrap().count(), 2);
}

#[test]
fn a_description_counts_what_an_epoch_has() {
    let place = Place::new();
    let plan = place.plan(place.config("run"), false).unwrap();
    let description = plan.describe();
    assert!(!plan.config().run.exists(), "a plan writes nothing");
    assert_eq!(description.datasets.iter().map(|one| one.rows).collect::<Vec<_>>(), [79, 109]);
    let shares: Vec<f64> = description.datasets.iter().map(|one| one.share).collect();
    assert_eq!(shares, [0.5, 0.5]);
    let rows: f64 = description.datasets.iter().map(|one| one.epochs * one.rows as f64).sum();
    assert!((rows - 72.0).abs() < 1e-9);
    // Weights, gradients of two micro-batches, two moments, average.
    let memory = description.memory;
    let held = memory.weights + memory.gradients + memory.optimizer + memory.average;
    assert_eq!(held, description.parameters * 24);
}

#[test]
fn a_run_that_needs_more_memory_than_there_is_is_refused_with_the_figures() {
    let place = Place::new();
    let plan = place.plan(place.config("run"), false).unwrap();
    let memory = plan.describe().memory;
    let parameters = 4 * plan.describe().parameters;
    assert_eq!((memory.weights, memory.optimizer, memory.average), (parameters, 2 * parameters, parameters));
    assert_eq!(memory.gradients, 2 * parameters);
    assert_eq!(memory.activations, 4 * 4 * 24 * 2 * (8 * 32 + 3 * 48));
    // The first matrix of the timestep's embedding is the largest here: 256 sinusoids to the 8 numbers of a patch.
    assert_eq!(memory.save, 4 * 256 * 8);
    plan.check_memory(memory.total()).unwrap();
    let error = plan.check_memory(parameters).unwrap_err().to_string();
    for part in
        ["the run needs about", "can be had", "weights", "gradients", "optimizer", "average", "activations"]
    {
        assert!(error.contains(part), "{part} is not in {error}");
    }
    let mut config = place.config("large");
    let model = ModelConfig { layers: 1000, width: 131_072, heads: 4096, ..ModelConfig::default() };
    (config.model, config.batch, config.micro_batch) = (ModelChoice::Table(Box::new(model)), 1_000_000, None);
    config.stream.prefetch_rows = 1_000_000;
    let plan = place.plan(config, false).unwrap();
    let error = plan.check_memory(1 << 46).unwrap_err().to_string();
    assert!(error.contains("GB"), "{error}");
    assert!(!plan.config().run.exists());
}

#[test]
fn a_new_run_starts_from_the_weights_of_another_with_a_schedule_of_its_own() {
    let place = Place::new();
    let (_, outcome) = place.whole("first");
    let (first, _) = Checkpoint::open(&outcome.checkpoint).unwrap();
    let config = |name: &str, init: PathBuf, init_weights| {
        let mut config = TrainConfig { init: Some(init), init_weights, steps: 1, ..place.config(name) };
        config.schedule.rate = 1e-12;
        config.schedule.floor = 1e-12;
        config.schedule.warm_up = Some(0);
        config.optimizer.decay = 0.0;
        config
    };
    let run = place.folder.path().join("first");
    for (name, init, which, expected) in [
        ("last", run.clone(), InitWeights::Last, first.weights().unwrap()),
        ("best", outcome.checkpoint.clone(), InitWeights::Best, first.average().unwrap().unwrap()),
    ] {
        let config = config(name, init, which);
        let plan = place.plan(config.clone(), false).unwrap();
        assert_eq!(plan.first_step(), 0);
        assert_eq!(plan.describe().init.unwrap(), outcome.checkpoint.display().to_string());
        let witness = Witness::default();
        let outcome = train(plan, &witness, &witness.stop).unwrap();
        // The step is too small to be seen.
        let (reached, _) = Checkpoint::open(&outcome.checkpoint).unwrap();
        let pairs = reached.weights().unwrap().into_iter().zip(expected);
        for ((name, found), (_, expected)) in pairs {
            let far =
                found.values.iter().zip(&expected.values).any(|(a, b)| (a - b).abs() > 1e-9 + 1e-6 * b.abs());
            assert!(!far, "{name}");
        }
        assert_eq!(witness.steps.borrow()[0].rate, 1e-12);
        // What it began with is no longer needed.
        fs::rename(&run, place.folder.path().join("moved")).unwrap();
        let more = TrainConfig { steps: 2, ..config };
        place.train(more, true, &Witness::default()).unwrap();
        fs::rename(place.folder.path().join("moved"), &run).unwrap();
    }
}

#[test]
fn weights_of_another_model_or_tokenizer_are_refused_with_every_difference() {
    let place = Place::new();
    place.whole("first");
    let init = place.folder.path().join("first");
    let mut config = TrainConfig { init: Some(init.clone()), ..place.config("second") };
    let mut model = config.model.config().unwrap();
    (model.layers, model.width, model.initial.embedding) = (3, 64, 0.1);
    config.model = ModelChoice::Table(Box::new(model));
    let error = place.plan(config, false).unwrap_err().to_string();
    let expected = format!(
        "the weights of `{}` are not those of this run's model; different are: `model.layers` (there 2, here 3), \
         `model.width` (there 32, here 64)\nhint:",
        init.display()
    );
    assert!(error.starts_with(&expected), "{error}");
    edit_manifest(&place.folder.path().join("data"), |manifest| {
        manifest.codec.as_mut().unwrap().fingerprint = "another".to_owned();
    });
    let config = TrainConfig { init: Some(init), ..place.config("second") };
    let error = place.plan(config, false).unwrap_err().to_string();
    assert!(error.contains("different are: the codec\n"), "{error}");
    let config = TrainConfig { init: Some(place.folder.path().join("nothing")), ..place.config("second") };
    let error = place.plan(config, false).unwrap_err().to_string();
    assert!(error.contains("neither a run nor a checkpoint"), "{error}");
}

#[test]
fn a_jump_of_the_learning_rate_is_said_before_the_first_step_and_can_be_avoided() {
    let place = Place::new();
    let config = TrainConfig { steps: 4, ..place.config("run") };
    place.train(config.clone(), false, &Witness::default()).unwrap();
    let same = place.plan(TrainConfig { steps: 4, ..config.clone() }, true).unwrap();
    assert_eq!(same.warnings(), &[] as &[String]);
    let longer = place.plan(TrainConfig { steps: 8, ..config.clone() }, true).unwrap();
    let warning = &longer.warnings()[0];
    assert!(
        warning.starts_with("the learning rate of step 5 is") && warning.contains("instead of 1.00e-3"),
        "{warning}"
    );
    assert!(warning.contains("`schedule.steps = 4` keeps"), "{warning}");
    let mut kept = TrainConfig { steps: 6, ..config };
    kept.schedule.steps = Some(4);
    let witness = Witness::default();
    assert!(place.plan(kept.clone(), true).unwrap().warnings().is_empty());
    place.train(kept, true, &witness).unwrap();
    assert!(witness.steps.borrow().iter().all(|step| step.rate == 1e-3));
    assert!(witness.warnings.borrow().is_empty());
}

#[test]
fn a_run_that_goes_on_elsewhere_says_that_bits_may_differ() {
    let place = Place::new();
    let on = |name: &str| Machine { processor: Some(name.to_owned()), ..Machine::default() };
    let plan = |machine: &Machine| {
        TrainPlan::try_new(place.config("run"), &[place.location(), place.location()], true, machine).unwrap()
    };
    let witness = Witness { stop_at: Cell::new(Some(4)), ..Witness::default() };
    let outcome = train(plan(&on("One 1")), &witness, &witness.stop).unwrap();
    let state = Checkpoint::open(&outcome.checkpoint).unwrap().0.state().clone();
    let computed_on = state.computed_on.unwrap();
    assert_eq!((computed_on.device.as_str(), computed_on.name.as_deref()), ("cpu", Some("One 1")));
    assert!(computed_on.processor.starts_with(std::env::consts::ARCH));
    assert!(plan(&on("One 1")).warnings().is_empty());
    let warnings = plan(&on("Other 2")).warnings().to_vec();
    assert!(
        warnings.len() == 1 && warnings[0].contains("One 1") && warnings[0].contains("Other 2"),
        "{warnings:?}"
    );
}

#[test]
fn a_state_of_an_earlier_version_goes_on_without_a_word() {
    let place = Place::new();
    let (_, outcome) = place.whole("whole");
    let witness = Witness { stop_at: Cell::new(Some(4)), ..Witness::default() };
    let stopped = place.train(place.config("old"), false, &witness).unwrap();
    // As it was written before it said what it was computed on.
    let path = stopped.checkpoint.join("state.json");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("  \"computed_on\": {").unwrap();
    let (_, after) = rest.split_once("  },\n").unwrap();
    let body = format!("{before}{after}");
    let body = body.rsplit_once("  \"checksum\"").unwrap().0;
    let checksum = schemas::content_hash(body.as_bytes());
    fs::write(&path, format!("{body}  \"checksum\": \"{checksum}\"\n}}\n")).unwrap();
    let witness = Witness::default();
    let resumed = place.train(place.config("old"), true, &witness).unwrap();
    assert!(witness.warnings.into_inner().is_empty());
    assert_same_state(&resumed.checkpoint, &outcome.checkpoint);
}
