//! The first run of a stranger: from an empty folder, with the binary alone, every config that it comes with.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::{Outcome, Run, digest_of_folder, repository};

fn run(folder: &Path, arguments: &[&str]) -> Outcome {
    let outcome = Run::new(arguments).within(folder).run();
    outcome.expect_code(0);
    outcome
}

/// Names of the configs of a kind, as they are given on the command line.
fn names(kind: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(repository().join("configs").join(kind)).expect("a folder of configs");
    let name = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.expect("an entry").path();
        path.file_stem().expect("a name").to_string_lossy().into_owned()
    };
    entries.map(name).collect()
}

#[test]
fn every_config_runs_by_its_name_from_an_empty_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    run(here, &["demo", "--samples"]);

    // A config of a new kind, or a second one of a kind, needs a line here.
    let one = || BTreeSet::from(["samples".to_owned()]);
    assert_eq!([names("vae"), names("preprocess"), names("train")], [one(), one(), one()]);
    assert_eq!(fs::read_dir(repository().join("configs")).expect("a folder").count(), 4);

    run(here, &["vae", "train", "samples", "--set", "steps=2"]);
    run(here, &["preprocess", "samples"]);
    let sources = run(here, &["inspect", "out/samples", "--json"]).stdout;
    for source in ["pairs", "pages", "shakespeare"] {
        assert!(sources.contains(&format!("\"name\": \"{source}\"")), "{sources}");
    }
    let few =
        ["--set", "steps=2", "--set", "batch=1", "--set", "schedule.warm-up=1", "--set", "sample.steps=2"];
    run(here, &[&["train", "samples"][..], &few].concat());
    run(here, &["sample", "runs/samples", "--prompt", "a big red circle", "--steps", "2"]);
    assert!(here.join("runs/samples/samples/step-00000002-1/0000-0.png").is_file());

    for model in names("model") {
        let model = format!("model={model}");
        run(here, &["train", "samples", "--dry-run", "--set", &model, "--set", "run=runs/other"]);
    }
    assert!(!here.join("runs/other").exists());
}

#[test]
fn a_folder_of_samples_is_never_touched() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    fs::create_dir(here.join("samples")).expect("a folder");
    fs::write(here.join("samples/mine.txt"), "mine").expect("a file");
    let refused = Run::new(&["demo", "--samples"]).within(here).run();
    refused.expect_code(2);
    assert!(refused.stderr.contains("already"), "{}", refused.stderr);
    let files: Vec<String> = digest_of_folder(here).into_keys().collect();
    assert_eq!(files, ["samples/mine.txt"]);
}

/// A demo that is stopped goes on with the steps that were fitted to it, and ends as one that was not.
#[test]
fn a_stopped_demo_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    let scores = |output: &str| {
        run(here, &["demo", "--quick", "--quiet", "--output", output]);
        let text = fs::read_to_string(here.join(output).join("scores.json")).expect("scores");
        let scores: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        scores["scores"].clone()
    };
    let whole = scores("whole");
    // As a kill behind the codec leaves it.
    let mark = here.join("whole/demo.json");
    let mut state: serde_json::Value =
        serde_json::from_slice(&fs::read(&mark).expect("a mark")).expect("JSON");
    let codec = fs::metadata(here.join("whole/codec/config.json")).and_then(|file| file.modified());
    let stages = state["stages"].as_array_mut().expect("stages");
    stages.truncate(3);
    assert_eq!(stages[2]["name"], "codec");
    state["finished"] = false.into();
    fs::write(&mark, state.to_string()).expect("a mark");
    fs::remove_dir_all(here.join("whole/run")).expect("a run");
    assert_eq!(scores("whole"), whole);
    let after = fs::metadata(here.join("whole/codec/config.json")).and_then(|file| file.modified());
    assert_eq!(codec.expect("a time"), after.expect("a time"), "the codec was trained again");
}
