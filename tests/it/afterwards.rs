//! What a user does with what a quick demo leaves: looks at it, samples, trains on, and meets damage. One demo serves all tests here.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Run, chromium, digest_of_folder};

pub(crate) struct Demo {
    _folder: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

/// The finished quick demo. Tests only read it.
pub(crate) static DEMO: LazyLock<Demo> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("demo");
    let run = Run::new(&["demo", "--quick", "--json", "--output", text(&path)]).within(folder.path()).run();
    run.expect_code(0);
    for line in run.stdout.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error} in the line {line}"));
    }
    Demo { _folder: folder, path }
});

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of the test is UTF-8")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() { copy(&path, &target) } else { fs::copy(&path, &target).map(drop).expect("a copy") }
    }
}

#[test]
fn the_report_loads_nothing_and_shows_every_command() {
    let report = fs::read_to_string(DEMO.path.join("report.html")).expect("a report");
    for outside in ["src=\"http", "href=\"http://", "@import", "url(http"] {
        assert!(!report.contains(outside), "the report loads something from outside: {outside}");
    }
    for command in ["vae train", "preprocess", "train", "sample"] {
        assert!(report.contains(command), "the report does not show `{command}`");
    }
    let scores: Value =
        serde_json::from_slice(&fs::read(DEMO.path.join("scores.json")).expect("scores")).expect("JSON");
    let lines = scores["scores"].as_array().expect("a list of scores");
    assert_eq!(lines.len(), 5, "{scores}");
    assert!(scores["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{scores}");
}

#[test]
fn the_report_is_a_page_that_a_browser_draws() {
    let Some(chromium) = chromium() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let picture = folder.path().join("report.png");
    let output = Command::new(chromium)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
        ])
        .args(["--disable-component-update", "--disable-sync", "--window-size=1200,1600"])
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("file://{}", DEMO.path.join("report.html").display()))
        .output()
        .expect("Chromium runs");
    assert!(picture.exists(), "{}", String::from_utf8_lossy(&output.stderr));
    let picture = image::open(picture).expect("a PNG").to_rgb8();
    let colours: std::collections::BTreeSet<[u8; 3]> = picture.pixels().map(|pixel| pixel.0).collect();
    assert!(colours.len() > 100, "a page of {} colours is hardly a report", colours.len());
}

#[test]
fn what_the_demo_made_is_whole() {
    for part in ["dataset", "run"] {
        let run = Run::new(&["verify", "--json", text(&DEMO.path.join(part))]).run();
        run.expect_code(0);
        serde_json::from_str::<Value>(&run.stdout).expect("JSON");
    }
    let inspect = Run::new(&["inspect", text(&DEMO.path.join("dataset")), "--row", "0"]).run();
    inspect.expect_code(0);
    assert!(
        inspect.stdout.contains("circle")
            || inspect.stdout.contains("square")
            || inspect.stdout.contains("star")
            || inspect.stdout.contains("triangle"),
        "{}",
        inspect.stdout
    );
}

#[test]
fn a_checkpoint_draws_and_describes() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = text(&DEMO.path.join("run")).to_owned();
    let sample = |name: &str, arguments: &[&str]| {
        let output = folder.path().join(name);
        let mut all = vec!["sample", &run, "--json", "--steps", "5", "--output", text(&output)];
        all.extend(arguments);
        let outcome = Run::new(&all).run();
        outcome.expect_code(0);
        digest_of_folder(&output)
    };
    let first = sample("first", &["--prompt", "a red circle"]);
    assert!(first.keys().any(|name| name.ends_with(".png")), "{:?}", first.keys());
    let again = sample("again", &["--prompt", "a red circle"]);
    assert_eq!(first["0000-0.png"], again["0000-0.png"], "the same seed gives the same picture");
    let picture = DEMO.path.join("examples/pair.png");
    let described = sample("described", &["--image", text(&picture)]);
    assert!(described.keys().any(|name| name.ends_with(".json")), "{:?}", described.keys());
}

/// The arguments of a short run on the demo's dataset: 12 steps, a checkpoint every 3.
fn train_arguments(run: &Path, threads: &str) -> Vec<String> {
    let config = DEMO.path.join("train.toml");
    let run = format!("run={}", run.display());
    let arguments = ["train", text(&config), "--quiet", "--threads", threads, "--set", &run];
    let sets = ["steps=12", "checkpoint.every=3", "checkpoint.keep=9", "sample.every=0"];
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    arguments.into_iter().chain(sets).map(ToOwned::to_owned).collect()
}

fn losses(run: &Path) -> Vec<(Value, Value, Value, Value)> {
    let log = fs::read_to_string(run.join("log.jsonl")).expect("a log");
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let key = |line: &Value, name: &str| line.get(name).cloned().unwrap_or(Value::Null);
    lines
        .map(|line| {
            (
                key(&line, "step"),
                key(&line, "text_loss"),
                key(&line, "image_loss"),
                key(&line, "gradient_norm"),
            )
        })
        .collect()
}

fn weights(run: &Path) -> std::collections::BTreeMap<String, String> {
    let mut digests = digest_of_folder(&run.join("checkpoints/step-00000012"));
    digests.retain(|name, _| name.ends_with(".safetensors") && !name.contains('/'));
    digests
}

/// Starts a run and kills it with SIGKILL as soon as its log has `lines` lines. Whether it was still running then.
fn kill_at(arguments: &[&str], log: &Path, lines: usize) -> bool {
    let mut child = Run::new(arguments).spawn();
    let begin = Instant::now();
    loop {
        let written = fs::read_to_string(log).map_or(0, |text| text.lines().count());
        if written >= lines || child.try_wait().expect("a child").is_some() {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(300), "the run writes no log");
        std::thread::yield_now();
    }
    let _ = child.kill();
    child.wait().expect("the child ends").signal() == Some(9)
}

/// A run killed with SIGKILL and resumed has the losses and weights of one that was left alone, bit for bit, at 1 and at 2 threads.
#[test]
fn killed_and_resumed_equals_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let alone = folder.path().join("alone");
    let arguments = train_arguments(&alone, "1");
    Run::new(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).run().expect_code(0);
    let (expected_losses, expected_weights) = (losses(&alone), weights(&alone));
    assert_eq!(expected_losses.len(), 12);
    assert!(expected_weights.len() >= 3, "{expected_weights:?}");
    assert!(
        expected_losses.iter().all(|(_, text, image, _)| text.is_number() && image.is_number()),
        "{expected_losses:?}"
    );

    for (threads, kills) in [("1", [2, 7, 11]), ("2", [1, 4, 8])] {
        let run = folder.path().join(format!("killed-{threads}"));
        let mut arguments = train_arguments(&run, threads);
        arguments.push("--resume".to_owned());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let killed = kills.map(|lines| kill_at(&arguments, &run.join("log.jsonl"), lines));
        assert!(killed[0] && killed[1], "the runs ended before they were killed: {killed:?}");
        Run::new(&arguments).run().expect_code(0);
        assert_eq!(losses(&run), expected_losses, "{threads} threads");
        assert_eq!(weights(&run), expected_weights, "{threads} threads");
    }
}

#[test]
fn a_run_with_checkpoints_is_not_overwritten() {
    let run = DEMO.path.join("run");
    let before = digest_of_folder(&run);
    let outcome = Run::new(&["train", text(&DEMO.path.join("train.toml")), "--quiet"]).run();
    outcome.expect_code(2);
    assert!(outcome.stderr.contains("--resume"), "{}", outcome.stderr);
    assert_eq!(before, digest_of_folder(&run));
}

#[test]
fn a_damaged_shard_is_named_by_verify_and_stops_training() {
    let folder = tempfile::tempdir().expect("a folder");
    let dataset = folder.path().join("dataset");
    copy(&DEMO.path.join("dataset"), &dataset);
    let shards = digest_of_folder(&dataset);
    let shard = shards.keys().find(|name| name.ends_with(".arrow")).expect("a shard");
    let mut bytes = fs::read(dataset.join(shard)).expect("a shard");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(dataset.join(shard), bytes).expect("a damaged shard");

    let verify = Run::new(&["verify", text(&dataset)]).run();
    verify.expect_code(1);
    let name = Path::new(shard).file_name().expect("a name").to_str().expect("UTF-8");
    assert!(format!("{}{}", verify.stdout, verify.stderr).contains(name), "{verify:?}");

    let data = format!("data.0.uri={}", dataset.display());
    let run = folder.path().join("run");
    let mut arguments = train_arguments(&run, "2");
    arguments.extend(["--set".to_owned(), data]);
    let train = Run::new(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).run();
    train.expect_code(2);
    assert!(train.stderr.contains(name) && train.stderr.contains("hint:"), "{}", train.stderr);
}

#[test]
fn a_damaged_checkpoint_is_noticed_and_the_one_before_is_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = folder.path().join("run");
    let arguments = train_arguments(&run, "2");
    Run::new(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).run().expect_code(0);
    let expected = (losses(&run), weights(&run));
    let newest = run.join("checkpoints/step-00000012/model.safetensors");
    let bytes = fs::read(&newest).expect("weights");
    fs::write(&newest, &bytes[..bytes.len() - 5]).expect("cut weights");

    let verify = Run::new(&["verify", text(&run)]).run();
    verify.expect_code(1);
    let sample =
        Run::new(&["sample", text(&run.join("checkpoints/step-00000012")), "--prompt", "a red circle"]).run();
    sample.expect_code(2);
    assert!(
        sample.stderr.contains("model.safetensors") && sample.stderr.contains("hint:"),
        "{}",
        sample.stderr
    );

    let mut resume: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| *argument != "--quiet").collect();
    resume.push("--resume");
    let resumed = Run::new(&resume).run();
    resumed.expect_code(0);
    assert!(resumed.stderr.contains("step-00000012"), "{}", resumed.stderr);
    assert_eq!((losses(&run), weights(&run)), expected);
}
