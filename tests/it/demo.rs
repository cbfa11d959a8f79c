//! The demo, shortened: every job once, and a report that needs nothing else.

use std::path::Path;
use std::process::Command;

fn demo(output: &Path) -> serde_json::Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_transfusion"));
    command.current_dir(output.parent().expect("a folder"));
    command.args(["demo", "--quick", "--json", "--seed", "3", "--output"]).arg(output);
    let run = command.output().expect("the program starts");
    let told = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{told}");
    assert!(told.is_empty(), "with --json nothing is said on stderr: {told}");
    let events = String::from_utf8(run.stdout).expect("events are UTF-8");
    let last = events.lines().last().expect("the demo tells how it ended");
    serde_json::from_str(last).expect("an event is JSON")
}

#[test]
fn a_quick_demo_runs_every_job_and_reports() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("demo");
    let finished = demo(&output);
    assert_eq!(finished["event"], "finished");
    assert_eq!(finished["scores"].as_array().map(Vec::len), Some(5));
    assert!(finished["scores"][0]["percent"].is_number(), "{finished}");

    let page = std::fs::read_to_string(output.join("report.html")).expect("a report");
    for part in [
        "Scores",
        "Drawn from a prompt",
        "While it learned",
        "What the model reads",
        "transfusion preprocess",
    ] {
        assert!(page.contains(part), "the report lacks `{part}`");
    }
    assert!(!page.contains("http"), "the report loads nothing");
    for made in
        ["scores.json", "codec/config.json", "dataset/manifest.json", "run/config.toml", "examples/pair.png"]
    {
        assert!(output.join(made).is_file(), "{made} is missing");
    }
}
