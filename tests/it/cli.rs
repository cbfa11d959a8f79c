//! The command line as people and scripts meet it: help, exit codes, and one clear error with a hint for what goes wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{repository, s3};

/// What a command did.
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Run {
    /// Checks the exit code and gives the output.
    fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Checks that the error is one line, with these words, followed by a hint with those.
    fn fails_with(self, error: &str, hint: &str) {
        let run = self.exits(2);
        assert!(run.stderr.starts_with("error: ") && run.stderr.contains(error), "{}", run.stderr);
        assert_eq!(run.stderr.matches("error: ").count(), 1, "{}", run.stderr);
        let hints: Vec<_> = run.stderr.lines().filter_map(|line| line.strip_prefix("hint: ")).collect();
        assert!(hints.iter().any(|line| line.contains(hint)), "{}", run.stderr);
        assert!(run.stdout.is_empty(), "{}", run.stdout);
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}:\n{}", self.stdout))
    }
}

/// The program in `folder`, knowing nothing of the machine's own AWS settings.
fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_transfusion"));
    command
        .current_dir(folder)
        .env("HOME", folder)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("COLUMNS", "100");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Run {
    finish(program(folder).args(arguments))
}

fn finish(command: &mut Command) -> Run {
    let output = command.output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// A dataset of text, packed by the program itself with a tokenizer that it trains.
struct Dataset {
    folder: TempDir,
}

const CONFIG: &str = r#"
output = "out"
context = 64
[tokenizer]
train = { vocabulary = 300 }
[[source]]
name = "lines"
uri = "lines.jsonl"
"#;

impl Dataset {
    fn pack() -> Self {
        let folder = folder();
        let line = |number: u32| {
            format!("{{\"text\": \"line {number} of the sample, said {} times\"}}\n", number % 7)
        };
        let mut lines: String = (0..60).map(line).collect();
        lines.push_str("this is no JSON\n");
        fs::write(folder.path().join("lines.jsonl"), lines).expect("a file");
        fs::write(folder.path().join("config.toml"), CONFIG).expect("a file");
        run(folder.path(), &["preprocess", "config.toml"]).exits(0);
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn run(&self, arguments: &[&str]) -> Run {
        run(self.path(), arguments)
    }

    /// The first shard that the manifest names.
    fn shard(&self) -> PathBuf {
        let manifest = self.run(&["inspect", "out", "--json"]).exits(0).json();
        let path = manifest["content"]["shards"][0]["path"].as_str().expect("a shard").to_owned();
        self.path().join("out").join(path)
    }
}

/// Flips one bit in the middle of a file.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).expect("the file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("the file");
}

/// `TRANSFUSION_BLESS=1` writes the help pages anew.
#[test]
fn help_is_as_written_down() {
    let golden = repository().join("tests/golden/help");
    let pages = [
        "",
        "demo",
        "preprocess",
        "inspect",
        "verify",
        "vae",
        "vae train",
        "vae encode",
        "vae decode",
        "train",
        "sample",
        "reference",
        "completions",
        "man",
    ];
    let here = folder();
    for page in pages {
        let mut arguments: Vec<&str> = page.split_whitespace().collect();
        arguments.push("--help");
        let help = run(here.path(), &arguments).exits(0).stdout;
        let name = if page.is_empty() { "transfusion".to_owned() } else { page.replace(' ', "-") };
        let path = golden.join(format!("{name}.txt"));
        if std::env::var_os("TRANSFUSION_BLESS").is_some() {
            fs::create_dir_all(&golden).and_then(|()| fs::write(&path, &help)).expect("the page is written");
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(help, expected, "`{page} --help` has changed: TRANSFUSION_BLESS=1 writes it anew");
    }
}

#[test]
fn every_flag_has_its_line_of_help() {
    let here = folder();
    for command in ["preprocess", "inspect", "verify", "train", "sample"] {
        let help = run(here.path(), &[command, "-h"]).exits(0).stdout;
        let flags = help.lines().filter(|line| line.trim_start().starts_with("--"));
        for line in flags {
            assert!(line.trim().split("  ").filter(|part| !part.is_empty()).count() > 1, "{command}: {line}");
        }
    }
}

#[test]
fn usage_errors_exit_2() {
    let here = folder();
    let unknown = run(here.path(), &["inspect", "out", "--rwo", "1"]).exits(2);
    assert!(unknown.stderr.contains("unexpected argument '--rwo'"), "{}", unknown.stderr);
    run(here.path(), &[]).exits(2);
    run(here.path(), &["inspect"]).exits(2);
    run(here.path(), &["verify", "out", "--threads", "0"]).exits(2);
    run(here.path(), &["verify", "out", "--device", "cuda:0"])
        .fails_with("device `cuda:0`", "this build computes on `cpu`");
}

#[test]
fn missing_files_are_named() {
    let here = folder();
    let run = |arguments: &[&str]| run(here.path(), arguments);
    run(&["preprocess", "absent.toml"])
        .fails_with("cannot read the config `absent.toml`", "presets: samples");
    run(&["train", "absent.toml"]).fails_with("cannot read the config `absent.toml`", "presets: samples");
    run(&["inspect", "absent"]).fails_with("no dataset at `absent`: there is no such folder", "preprocess");
    run(&["inspect", "absent.arrow"]).exits(2);
    run(&["verify", "absent"]).fails_with("no dataset at `absent`", "preprocess");
    run(&["inspect", "ftp://host/x"]).fails_with("`ftp`", "s3://");
}

#[test]
fn wrong_keys_name_file_line_and_the_nearest() {
    let here = folder();
    fs::write(here.path().join("a.toml"), "seed = 1\ncontxt = 64\n").expect("a file");
    run(here.path(), &["preprocess", "a.toml"])
        .fails_with("a.toml:2:1: unknown key `contxt`", "did you mean `context`?");
    run(here.path(), &["train", "samples", "--set", "stps=3"])
        .fails_with("`--set stps=3`: unknown key `stps`", "`steps`");
    run(here.path(), &["train", "sampels"]).fails_with("`sampels`", "`samples`");
    assert!(!here.path().join("out").exists() && !here.path().join("runs").exists());
}

#[test]
fn without_credentials_nothing_is_waited_for() {
    let here = folder();
    run(here.path(), &["inspect", "s3://bucket/x"])
        .fails_with("cannot open `s3://bucket`", "AWS_ACCESS_KEY_ID");
}

#[test]
fn a_missing_bucket_and_a_wrong_key_are_told_apart() {
    let Some(endpoint) = s3() else { return };
    let here = folder();
    let mut command = program(here.path());
    let command = command
        .args(["inspect", "s3://no-such-bucket-here/x"])
        .envs([("AWS_ENDPOINT_URL", endpoint.as_str()), ("AWS_ALLOW_HTTP", "true")])
        .envs([("AWS_ACCESS_KEY_ID", "testing"), ("AWS_SECRET_ACCESS_KEY", "testing")]);
    finish(command).fails_with("cannot read `s3://no-such-bucket-here/x/manifest.json`", "create the bucket");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let here = folder();
    let mut child = program(here.path())
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_dataset_is_looked_into_and_found_whole() {
    let dataset = Dataset::pack();
    let summary = dataset.run(&["inspect", "out"]).exits(0).stdout;
    assert!(summary.contains("lines") && summary.contains("invalid_json"), "{summary}");
    let json = dataset.run(&["inspect", "out", "--json"]).exits(0).json();
    assert_eq!(json["content"]["sources"][0]["statistics"]["rejects"]["invalid_json"], 1);
    let row = dataset.run(&["inspect", "out", "--row", "0"]).exits(0).stdout;
    assert!(row.contains("‹BOS›") && row.contains("lines.jsonl · row 0"), "{row}");
    let row = dataset.run(&["inspect", "out", "--row", "0", "--json"]).exits(0).json();
    assert_eq!(
        row["spans"][0]["text"].as_str().map(|text| text.starts_with("line 0 of the sample")),
        Some(true)
    );
    let rows = json["content"]["statistics"]["rows"].as_u64().expect("a number");
    let counted =
        dataset.run(&["inspect", "out", "--json", "--sql", "select count(*) as n from rows"]).exits(0);
    assert_eq!(counted.json()["n"].as_u64(), Some(rows));
    dataset.run(&["inspect", "out", "--row", "9999"]).fails_with("no row 9,999", "rows are 0 to");
    dataset.run(&["inspect", "out", "--sql", "drop table rows"]).exits(2);
    let verdict = dataset.run(&["verify", "out", "--json"]).exits(0).json();
    assert_eq!((verdict["damage"].as_array().map(Vec::len), verdict["rows"].as_u64()), (Some(0), Some(rows)));
    let shard = dataset.shard();
    let shard = shard.to_str().expect("a path");
    assert!(dataset.run(&["verify", shard]).exits(0).stdout.contains("whole"));
    assert_eq!(dataset.run(&["inspect", shard, "--json"]).exits(0).json()["kind"], "shard");
}

#[test]
fn packing_again_does_nothing() {
    let dataset = Dataset::pack();
    let again = dataset.run(&["preprocess", "config.toml"]).exits(0);
    assert!(again.stderr.contains("nothing was done"), "{}", again.stderr);
    let other = dataset.run(&["preprocess", "config.toml", "--set", "context=32"]);
    other.fails_with("another configuration", "choose another `output`");
}

#[test]
fn a_damaged_shard_is_found() {
    let dataset = Dataset::pack();
    let shard = dataset.shard();
    damage(&shard);
    let verdict = dataset.run(&["verify", "out"]).exits(1).stdout;
    assert!(verdict.contains("damaged") && verdict.contains("checksum"), "{verdict}");
    let verdict = dataset.run(&["verify", "out", "--json"]).exits(1).json();
    assert_eq!(verdict["damage"].as_array().map(Vec::len), Some(1));
    dataset.run(&["inspect", "out", "--row", "0"]).fails_with("is damaged", "verify");
    fs::remove_file(shard).expect("the shard");
    assert!(dataset.run(&["verify", "out"]).exits(1).stdout.contains("is missing"));
}

#[test]
fn a_damaged_manifest_is_not_believed() {
    let dataset = Dataset::pack();
    damage(&dataset.path().join("out/manifest.json"));
    assert!(dataset.run(&["verify", "out"]).exits(1).stdout.contains("manifest.json"));
    dataset.run(&["inspect", "out"]).fails_with("cannot use `out/manifest.json`", "restore");
}
