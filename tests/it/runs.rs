//! Training runs as whole commands: numbers beyond the machine, odd entries in a run's folder, runs that go on elsewhere
//! or from other weights.

use std::fs;
use std::path::Path;

use crate::support::{Outcome, Run};

/// A packed dataset of text and a config that trains on it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a folder"));
        let lines =
            (0..60).map(|row| format!("{{\"text\": \"{row} {}\"}}\n", "a word or two ".repeat(1 + row % 9)));
        place.write("lines.jsonl", &lines.collect::<String>());
        place.write(
            "preprocess.toml",
            "output = \"data\"\ncontext = 64\n[tokenizer]\ntrain = { vocabulary = 300 }\n\
             [[source]]\nname = \"lines\"\nuri = \"lines.jsonl\"\n",
        );
        place.write(
            "train.toml",
            "run = \"run\"\nsteps = 4\nbatch = 2\nmodel = { layers = 1, width = 16, heads = 2, feed-forward = 24 }\n\
             [[data]]\nuri = \"data\"\n[checkpoint]\nevery = 1\nkeep = 1\n",
        );
        place.run(&["preprocess", "preprocess.toml"]).expect_code(0);
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).expect("a file");
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        Run::new(arguments).within(self.path()).run()
    }

    fn train(&self, sets: &[&str], more: &[&str]) -> Outcome {
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        let arguments: Vec<&str> =
            ["train", "train.toml"].into_iter().chain(sets).chain(more.iter().copied()).collect();
        self.run(&arguments)
    }
}

fn refuses(outcome: &Outcome, expected: &[&str]) {
    outcome.expect_code(2);
    for part in expected {
        assert!(outcome.stderr.contains(part), "{part:?} is not in:\n{}", outcome.stderr);
    }
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
}

#[test]
fn numbers_beyond_the_machine_are_refused_by_key_and_range_before_anything_is_made() {
    let place = Place::new();
    let cases: [(&str, &str); 20] = [
        ("steps=0", "`steps` is `0`, expected 1 to"),
        ("batch=1000000000000", "`batch` is `1,000,000,000,000`, expected 1 to 1,000,000"),
        ("micro-batch=3", "`micro-batch` is `3`, expected at least 1 and at most `batch`, 2"),
        ("stream.readers=100000", "`stream.readers` is `100,000`, expected 1 to 256"),
        ("stream.prefetch-rows=9223372036854775807", "`stream.prefetch-rows` is `9,223,372,036,854,775,807`"),
        ("stream.shuffle-shards=9223372036854775807", "`stream.shuffle-shards` is"),
        ("checkpoint.keep=9223372036854775807", "`checkpoint.keep` is"),
        ("log.every=9223372036854775807", "`log.every` is"),
        ("model.width=2000000000", "`model.width` is `2,000,000,000`, expected 1 to 131,072"),
        ("model.layers=100000", "`model.layers` is `100,000`, expected 1 to 1000"),
        ("model.heads=9223372036854775807", "`model.heads` is"),
        ("model.feed-forward=9223372036854775807", "`model.feed-forward` is"),
        ("model.vocabulary=4294967295", "`model.vocabulary` is `4,294,967,295`, expected 1 to 16,777,216"),
        ("model.image.sinusoids=9223372036854775806", "`model.image.sinusoids` is"),
        ("model.initial.embedding=nan", "`model.initial.embedding` is `NaN`"),
        ("diffusion.steps=4294967295", "`diffusion.steps` is `4,294,967,295`, expected 1 to 100,000"),
        (
            "diffusion.caption-dropout=-0.1",
            "`diffusion.caption-dropout` is `-0.1`, expected a number from 0 to 1",
        ),
        ("schedule.rate=inf", "`schedule.rate` is `inf`, expected a number above 0, 1000 at most"),
        ("optimizer.epsilon=-1e-300", "`optimizer.epsilon` is `-1e-300`"),
        ("data.0.weight=1e300", "`data.0.weight` is `1e300`"),
    ];
    for (set, expected) in cases {
        refuses(&place.train(&[set], &[]), &[expected]);
        refuses(&place.train(&[set], &["--dry-run"]), &[expected]);
    }
    // Elsewhere nobody says how much memory there is.
    if !cfg!(target_os = "linux") {
        return;
    }
    let large = ["model.layers=1000", "model.width=131072", "model.heads=64"];
    let figures =
        ["the run needs about", "can be had", "weights", "gradients", "optimizer", "activations", "hint:"];
    refuses(&place.train(&large, &[]), &figures);
    refuses(&place.train(&["batch=1000000", "model.width=8192", "model.heads=64"], &[]), &figures);
    let dry = place.train(&large, &["--dry-run"]);
    dry.expect_code(0);
    assert!(dry.stderr.contains("the run needs about"), "{}", dry.stderr);
    assert!(!place.path().join("run").exists());
}

#[test]
fn odd_entries_in_a_runs_folder_end_no_save() {
    let place = Place::new();
    let checkpoints = place.path().join("run/checkpoints");
    fs::create_dir_all(&checkpoints).expect("a folder");
    let odd = ["step-5", "step-00000007 (copy)", "best of all", ".mine.old"];
    odd.iter().for_each(|name| fs::create_dir(checkpoints.join(name)).expect("a folder"));
    fs::write(checkpoints.join("step-00000003"), "a file").expect("a file");
    fs::write(checkpoints.join("notes.txt"), "mine").expect("a file");
    place.train(&[], &[]).expect_code(0);
    place.run(&["verify", "run"]).expect_code(0);
    // What a person does to a log ends nothing either.
    fs::write(place.path().join("run/log.jsonl"), b"{\"step\":1}\n{\"step\":\xff}\n{\"st").expect("a log");
    let resumed = place.train(&["steps=6"], &["--resume"]);
    resumed.expect_code(0);
    assert!(resumed.stderr.contains("1 line of `log.jsonl` can't be read"), "{}", resumed.stderr);
    place.run(&["verify", "run"]).expect_code(0);
    assert!(odd.iter().all(|name| checkpoints.join(name).is_dir()));
    assert_eq!(fs::read(checkpoints.join("notes.txt")).expect("a file"), b"mine");
    assert_eq!(fs::read(checkpoints.join("damaged-step-00000003")).expect("a file"), b"a file");
}

#[test]
fn a_damaged_newest_checkpoint_is_set_aside_and_the_run_ends_whole() {
    let place = Place::new();
    place.train(&["checkpoint.keep=2"], &[]).expect_code(0);
    let weights = place.path().join("run/checkpoints/step-00000004/model.safetensors");
    let mut bytes = fs::read(&weights).expect("weights");
    *bytes.last_mut().expect("a byte") ^= 1;
    fs::write(&weights, &bytes).expect("weights");
    place.run(&["verify", "run"]).expect_code(1);
    let resumed = place.train(&[], &["--resume"]);
    resumed.expect_code(0);
    for part in ["the checkpoint of step 3 is used instead", "set aside as `damaged-step-00000004`"] {
        assert!(resumed.stderr.contains(part), "{}", resumed.stderr);
    }
    place.run(&["verify", "run"]).expect_code(0);
    let aside = place.path().join("run/checkpoints/damaged-step-00000004/model.safetensors");
    assert_eq!(fs::read(aside).expect("weights"), bytes);
}

#[test]
fn a_run_goes_on_from_weights_under_another_rate_as_its_refusal_says() {
    let place = Place::new();
    place.train(&[], &[]).expect_code(0);
    refuses(
        &place.train(&["schedule.rate=1e-5", "schedule.floor=1e-6"], &["--resume"]),
        &["`schedule.floor` is", "another `run`, with `init = \"run\"`"],
    );
    let sets = ["run=gentle", "init=run", "schedule.rate=1e-5", "schedule.floor=1e-6"];
    let dry = place.train(&sets, &["--dry-run"]);
    dry.expect_code(0);
    assert!(dry.stderr.contains("weights: those of run/checkpoints/step-00000004"), "{}", dry.stderr);
    place.train(&sets, &[]).expect_code(0);
    refuses(
        &place.train(&["run=other", "init=run", "model.width=32"], &[]),
        &["the weights of `run` are not those", "`model.width` (there 16, here 32)"],
    );
    let longer = place.train(&["steps=9"], &["--resume", "--dry-run"]);
    longer.expect_code(0);
    assert!(longer.stderr.contains("`schedule.steps = 4` keeps the curve"), "{}", longer.stderr);
}

#[test]
fn the_flag_beats_the_config_and_every_missing_device_is_one_error() {
    let place = Place::new();
    let error = "device `cuda:0` is not part of this build";
    refuses(&place.train(&["device=cuda:0"], &["--dry-run"]), &[error, "this build computes on `cpu`"]);
    refuses(
        &place.train(&[], &["--dry-run", "--device", "cuda:0"]),
        &[error, "this build computes on `cpu`"],
    );
    place.train(&["device=cuda:0"], &["--dry-run", "--device", "cpu"]).expect_code(0);
}
