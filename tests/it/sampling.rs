//! Samples: drawn by a run at intervals, and by `transfusion sample`, which keeps what it drew whatever happens.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use serde_json::Value;

use crate::afterwards::DEMO;
use crate::support::{Outcome, Run, digest_of_folder, s3_environment};

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of the test is UTF-8")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Names in a folder, sorted; none if it is not there.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    let mut names: Vec<String> =
        entries.map(|entry| name(entry).into_string().expect("a name of the test is UTF-8")).collect();
    names.sort();
    names
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

/// Six steps of the demo's run, with these settings beside.
fn train(run: &Path, resume: bool, sets: &[&str]) -> Outcome {
    let (config, run) = (DEMO.path.join("train.toml"), format!("run={}", run.display()));
    let mut arguments = vec!["train", text(&config), "--threads", "2", "--set", &run];
    let fixed = ["steps=6", "checkpoint.every=3", "checkpoint.keep=9", "sample.every=2", "sample.steps=3"];
    for set in fixed.iter().chain(sets) {
        arguments.extend(["--set", *set]);
    }
    if resume {
        arguments.push("--resume");
    }
    Run::new(&arguments).run()
}

fn weights(run: &Path, step: u64) -> BTreeMap<String, String> {
    let mut digests = digest_of_folder(&run.join(format!("checkpoints/step-{step:08}")));
    digests.retain(|name, _| name.ends_with(".safetensors") && !name.contains('/'));
    assert!(digests.len() >= 3, "{digests:?}");
    digests
}

#[test]
fn a_run_draws_its_prompts_and_learns_what_it_learns_without() {
    let folder = folder();
    let (with, without) = (folder.path().join("with"), folder.path().join("without"));
    let run = train(&with, false, &[]);
    run.expect_code(0);
    train(&without, false, &["sample.every=0"]).expect_code(0);
    assert_eq!(weights(&with, 6), weights(&without, 6), "sampling changed what is learned");
    assert_eq!(names(&without.join("samples")), Vec::<String>::new());

    let steps = ["step-00000002", "step-00000004", "step-00000006"];
    assert_eq!(names(&with.join("samples")), steps);
    for step in steps {
        let drawn = with.join("samples").join(step);
        assert!(run.stderr.contains(&format!("6 samples in {}", drawn.display())), "{}", run.stderr);
        let list = json(&drawn.join("samples.json"));
        let samples = list["samples"].as_array().expect("a list");
        assert_eq!(samples.len(), 6, "{list}");
        for (number, sample) in samples.iter().enumerate() {
            let name = sample["parts"][0]["image"].as_str().expect("a picture");
            let words = sample["prompt"].as_str().expect("a prompt").replace(' ', "-");
            assert!(name.starts_with(&format!("{number:02}-")) && name.ends_with(".png"), "{name}");
            assert!(words.starts_with(name[3..].trim_end_matches(".png")), "{name} of {words}");
            let picture = image::open(drawn.join(name)).expect("a PNG file");
            assert_eq!((picture.width(), picture.height()), (32, 32));
        }
    }
    let first = |step: &str| digest_of_folder(&with.join("samples").join(step));
    assert_ne!(first(steps[0]), first(steps[2]), "a model that learned draws something else");
}

#[test]
fn samples_behind_a_checkpoint_are_made_again_on_resume() {
    let folder = folder();
    let run = folder.path().join("run");
    train(&run, false, &[]).expect_code(0);
    let samples = run.join("samples");
    let expected = digest_of_folder(&samples);
    fs::remove_dir_all(run.join("checkpoints/step-00000006")).expect("a checkpoint");
    for stale in ["step-00000004/mark", "step-00000008/samples.json", "step-00000006-1/0000-0.png"] {
        let path = samples.join(stale);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, "from another line of the run").expect("a file");
    }
    train(&run, true, &[]).expect_code(0);
    let mut found = digest_of_folder(&samples);
    assert!(found.remove("step-00000006-1/0000-0.png").is_some(), "what `sample` drew was removed");
    assert_eq!(found, expected);
    // A run that was stopped between a step and its samples draws them when it goes on.
    fs::remove_dir_all(samples.join("step-00000006")).expect("samples");
    train(&run, true, &[]).expect_code(0);
    assert_eq!(
        digest_of_folder(&samples)["step-00000006/samples.json"],
        expected["step-00000006/samples.json"]
    );
}

#[test]
fn samples_that_cannot_be_written_do_not_end_a_run() {
    let folder = folder();
    let run = folder.path().join("run");
    fs::create_dir_all(&run).expect("a folder");
    fs::write(run.join("samples"), "a file where the folder should be").expect("a file");
    let outcome = train(&run, false, &["sample.every=3"]);
    outcome.expect_code(0);
    let warned = outcome.stderr.lines().filter(|line| line.contains("cannot sample at step")).count();
    assert_eq!(warned, 2, "{}", outcome.stderr);
    assert_eq!(names(&run.join("checkpoints")).len(), 2);
}

#[test]
fn what_a_run_cannot_sample_is_refused_before_it_starts() {
    let folder = folder();
    let run = folder.path().join("run");
    let long = format!("sample.prompts=[\"a red circle\", \"{}\"]", "circle ".repeat(300));
    for (set, expected) in [
        ("sample.prompts=[\"a\", \" \"]", "`sample.prompts.1` is empty"),
        (long.as_str(), "the model was trained on rows of 156"),
        ("sample.steps=1001", "1001 sampling steps of a schedule of 1000"),
        ("sample.steps=0", "sampling steps of a schedule of 1000"),
        ("sample.guidance=nan", "`sample.guidance` is `NaN`, expected a number from 0 to 100"),
        ("sample.temperature=-1.0", "`sample.temperature` is `-1`, expected 0 or more"),
        ("sample.max-tokens=500", "more than the 156 of the rows"),
    ] {
        let outcome = train(&run, false, &[set]);
        outcome.expect_code(2);
        assert!(outcome.stderr.contains(expected), "{set}: {}", outcome.stderr);
        assert!(!run.exists(), "{set}: something was written");
    }
}

/// A run on text alone, made once; its folder holds `run`, `out` and `config.toml`.
static TEXTS: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = folder();
    let line =
        |number: u32| format!("{{\"text\": \"line {number} of the sample, said {} times\"}}\n", number % 7);
    let lines: String = (0..60).map(line).collect();
    fs::write(folder.path().join("lines.jsonl"), lines).expect("a file");
    let pack = "output = \"out\"\ncontext = 64\n[tokenizer]\ntrain = { vocabulary = 300 }\n\
                [[source]]\nname = \"lines\"\nuri = \"lines.jsonl\"\n";
    fs::write(folder.path().join("pack.toml"), pack).expect("a file");
    let train = "run = \"run\"\nmodel = { layers = 2, width = 32, heads = 2 }\nsteps = 4\nbatch = 4\n\
                 [[data]]\nuri = \"out\"\n[sample]\nevery = 2\nprompts = [\"line 7 of\", \"said\"]\nmax-tokens = 9\n";
    fs::write(folder.path().join("train.toml"), train).expect("a file");
    Run::new(&["preprocess", "pack.toml", "--quiet"]).within(folder.path()).run().expect_code(0);
    let outcome = Run::new(&["train", "train.toml"]).within(folder.path()).run();
    outcome.expect_code(0);
    fs::write(folder.path().join("train.err"), outcome.stderr).expect("a file");
    folder
});

fn of_texts(arguments: &[&str]) -> Outcome {
    Run::new(arguments).within(TEXTS.path()).run()
}

#[test]
fn a_run_on_text_writes_on_from_its_prompts() {
    let samples = TEXTS.path().join("run/samples/step-00000004");
    assert_eq!(names(&samples), ["00-line-7-of.txt", "01-said.txt", "samples.json"]);
    let list = json(&samples.join("samples.json"));
    assert_eq!(list["samples"][1]["prompt"], "said");
    assert!(
        list["samples"][1]["parts"][0]["text"].is_string() || list["samples"][1]["end"] == "document",
        "{list}"
    );
}

/// What `train` shows: not the config, the data last before the first step, and no line longer than a terminal.
#[test]
fn train_says_what_matters_in_eighty_columns() {
    let shown = fs::read_to_string(TEXTS.path().join("train.err")).expect("a file");
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    assert!(shown.contains("resolved config: run/config.toml"), "{shown}");
    assert!(!shown.contains("[optimizer]") && shown.lines().count() < 20, "{shown}");
    let places = ["run: run:", "model: ", "memory: ", "data: ", "step 2: 2 samples", "done at step 4"];
    let found = places.map(|part| shown.find(part).unwrap_or_else(|| panic!("no `{part}` in {shown}")));
    assert!(found.is_sorted(), "{shown}");
    assert!(shown.ends_with("sample with: transfusion sample run --text --prompt 'line 7 of'\n"), "{shown}");

    let dry = of_texts(&["train", "train.toml", "--dry-run", "--set", "run=other"]);
    dry.expect_code(0);
    assert!(!dry.stderr.contains("[optimizer]") && dry.stderr.contains("--verbose"), "{}", dry.stderr);
    let verbose = of_texts(&["train", "train.toml", "--dry-run", "--verbose", "--set", "run=other"]);
    let (config, data) = (verbose.stderr.find("[optimizer]"), verbose.stderr.find("data: out"));
    assert!(config.is_some() && config < data, "{}", verbose.stderr);
    assert!(!TEXTS.path().join("other").exists());
}

#[test]
fn the_command_that_a_run_names_works() {
    let outcome = of_texts(&["sample", "run", "--text", "--prompt", "line 7 of", "--output", "named"]);
    outcome.expect_code(0);
    assert!(outcome.stdout.starts_with("line 7 of\n  "), "{}", outcome.stdout);
    let drawn = json(&TEXTS.path().join("named/samples.json"));
    assert_eq!((&drawn["step"], &drawn["asked"]), (&Value::from(4), &Value::from(1)));
}

#[test]
fn no_sample_overwrites_another() {
    let folder = folder();
    let run = folder.path().join("run");
    train(&run, false, &[]).expect_code(0);
    let sample = |arguments: &[&str]| {
        let mut all = vec!["sample", text(&run), "--steps", "2", "--prompt", "a red circle"];
        all.extend(arguments);
        Run::new(&all).run()
    };
    let during = digest_of_folder(&run.join("samples"));
    (0..2).for_each(|_| sample(&[]).expect_code(0));
    let all = names(&run.join("samples"));
    assert_eq!(all[3..], ["step-00000006-1", "step-00000006-2"], "{all:?}");
    let kept: Vec<_> = digest_of_folder(&run.join("samples"))
        .into_iter()
        .filter(|(name, _)| during.contains_key(name))
        .collect();
    assert_eq!(kept, during.into_iter().collect::<Vec<_>>());

    let given = folder.path().join("given");
    fs::create_dir(&given).expect("a folder");
    fs::write(given.join("notes.txt"), "mine").expect("a file");
    sample(&["--output", text(&given)]).expect_code(0);
    let first = digest_of_folder(&given);
    assert_eq!(names(&given), ["0000-0.png", "notes.txt", "samples.json"]);
    for _ in 0..2 {
        let refused = sample(&["--output", text(&given), "--seed", "1"]);
        refused.expect_code(2);
        assert!(refused.stderr.contains("holds samples already"), "{}", refused.stderr);
        assert_eq!(digest_of_folder(&given), first);
        // A list that went astray leaves the pictures.
        let _ = fs::rename(given.join("samples.json"), folder.path().join("moved.json"));
        if folder.path().join("moved.json").exists() && given.join("0000-0.png").exists() {
            let refused = sample(&["--output", text(&given)]);
            refused.expect_code(2);
            fs::rename(folder.path().join("moved.json"), given.join("samples.json")).expect("a file");
        }
    }
}

/// Starts a command whose standard error is kept.
fn start(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_transfusion"))
        .args(arguments)
        .env("NO_COLOR", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts")
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "the signal is sent");
}

fn ended(mut child: Child) -> (Option<i32>, String) {
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    (child.wait().expect("an end").code(), said)
}

#[test]
fn a_signal_leaves_what_was_drawn() {
    let run = DEMO.path.join("run");
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let folder = folder();
        let output = folder.path().join("drawn");
        let arguments =
            ["sample", text(&run), "--prompt", "a red circle", "--steps", "5", "--count", "100000"];
        let mut child = start(&[&arguments[..], &["--output", text(&output)]].concat());
        while !output.join("0009-0.png").exists() {
            assert!(child.try_wait().expect("a child").is_none(), "the command ended by itself");
            std::thread::yield_now();
        }
        signal(&child, name);
        let (found, said) = ended(child);
        assert_eq!(found, Some(code), "{said}");
        let list = json(&output.join("samples.json"));
        let samples = list["samples"].as_array().expect("a list");
        assert!(said.contains(&format!("stopped: {} of 100,000 samples in", samples.len())), "{said}");
        let pictures = names(&output).into_iter().filter(|name| name.ends_with(".png")).count();
        assert!(
            samples.len() >= 10 && pictures == samples.len(),
            "{} in the list, {pictures} pictures",
            samples.len()
        );
        let last = format!("{:04}-0.png", samples.len() - 1);
        image::open(output.join(last)).expect("a whole picture");
    }
}

#[test]
fn a_signal_before_the_first_sample_leaves_nothing() {
    let folder = folder();
    let output = folder.path().join("drawn");
    let run = DEMO.path.join("run");
    // A thousand steps of eight pictures take longer than the signal.
    let arguments = ["sample", text(&run), "--prompt", "a red circle", "--count", "8", "--steps", "1000"];
    let child = start(&[&arguments[..], &["--output", text(&output)]].concat());
    while !output.join("samples.json").exists() {
        std::thread::yield_now();
    }
    signal(&child, "INT");
    let (code, said) = ended(child);
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("stopped before the first sample was done; nothing was written"), "{said}");
    assert!(!output.exists(), "{:?}", names(&output));
}

#[test]
fn an_output_that_takes_nothing_is_found_out_first() {
    let folder = folder();
    let (run, file) = (DEMO.path.join("run"), folder.path().join("file"));
    fs::write(&file, "a file").expect("a file");
    let below = file.join("folder");
    for output in [&file, &below] {
        let outcome = Run::new(&["sample", text(&run), "--prompt", "a", "--output", text(output)]).run();
        outcome.expect_code(2);
        assert!(outcome.stderr.contains("cannot make the folder"), "{}", outcome.stderr);
    }
    // A disk without room, made by a limit on the size of files.
    let output = folder.path().join("full");
    let outcome = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_transfusion")])
        .args(["sample", text(&run), "--prompt", "a red circle", "--steps", "1000", "--count", "1000"])
        .args(["--output", text(&output)])
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&outcome.stderr);
    assert_eq!(outcome.status.code(), Some(2), "{said}");
    assert!(said.contains("cannot write samples to") && !said.contains("kept"), "{said}");
    assert!(!output.exists(), "{:?}", names(&output));
}

#[test]
fn prompts_are_exact_or_refused() {
    let folder = folder();
    let run = DEMO.path.join("run");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("a file");
        path
    };
    let long = "circle ".repeat(300);
    let (nothing, latin) = (file("nothing.txt", b"\xef\xbb\xbf\r\n\r\n"), file("latin.txt", b"a\nb\xe9\n"));
    let refused: [(&[&str], &str); 20] = [
        (&["--prompt", ""], "a `--prompt` is empty"),
        (&["--prompt", "a", "--prompt", " \t"], "a `--prompt` is empty"),
        (&["--prompts", text(&nothing)], "holds no prompt"),
        (&["--prompts", text(&latin)], "line 2 of"),
        (&["--prompt", &long], "the model was trained on rows of 156"),
        (&["--text", "--prompt", &long], "the model was trained on rows of 156"),
        (&["--text", "--prompt", "a", "--max-tokens", "400"], "more than the 156 of the rows"),
        (&["--prompt", "a", "--size", "36"], "pictures of 36 pixels cannot be cut into patches"),
        (&["--prompt", "a", "--size", "4"], "pictures of 4 pixels cannot be cut into patches"),
        (&["--prompt", "a", "--size", "0"], "--size"),
        (&["--prompt", "a", "--size", "512"], "the model was trained on rows of 156"),
        (&["--prompt", "a", "--count", "0"], "--count"),
        (&["--prompt", "a", "--steps", "1001"], "1001 sampling steps of a schedule of 1000"),
        (&["--prompt", "a", "--steps", "0"], "a whole number from 1 to 1,000,000"),
        (&["--prompt", "a", "--temperature", "nan"], "'--temperature <T>': expected a number from 0 to 1"),
        (&["--prompt", "a", "--temperature", "-1"], "'-1'"),
        (&["--prompt", "a", "--top-p", "1.5"], "'--top-p <P>': expected a number from 0 to 1"),
        (&["--prompt", "a", "--guidance", "inf"], "'--guidance <W>': expected a number from 0 to 100"),
        (&["--prompt", "a", "--seed", "-1"], "--seed"),
        (&["--prompt", "a", "--count", "-1"], "--count"),
    ];
    let output = folder.path().join("drawn");
    for (arguments, expected) in refused {
        let arguments = [&["sample", text(&run), "--output", text(&output)], arguments].concat();
        let outcome = Run::new(&arguments).run();
        outcome.expect_code(2);
        assert!(outcome.stderr.contains(expected), "{arguments:?}: {}", outcome.stderr);
        assert!(!output.exists(), "{arguments:?} left something");
    }

    let lines = file("lines.txt", "\u{feff}a red circle\r\n\r\n  a blue star \r\n".as_bytes());
    let drawn = Run::new(&[
        "sample",
        text(&run),
        "--steps",
        "2",
        "--prompts",
        text(&lines),
        "--output",
        text(&output),
    ])
    .run();
    drawn.expect_code(0);
    assert!(drawn.stderr.contains("1 empty line of"), "{}", drawn.stderr);
    let list = json(&output.join("samples.json"));
    let prompts: Vec<&str> = list["samples"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|sample| sample["prompt"].as_str())
        .collect();
    assert_eq!(prompts, ["a red circle", "  a blue star "]);
}

#[test]
fn pictures_to_describe_are_cropped_as_in_preprocessing_or_refused_by_name() {
    let folder = folder();
    let run = DEMO.path.join("run");
    let describe = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("a file");
        let output = folder.path().join(format!("{name}.out"));
        Run::new(&["sample", text(&run), "--text", "--image", text(&path), "--output", text(&output)]).run()
    };
    let png = |width, height| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::RgbaImage::from_pixel(width, height, image::Rgba([200, 30, 30, 128]))
            .write_to(&mut bytes, image::ImageFormat::Png)
            .expect("a PNG file");
        bytes.into_inner()
    };
    for (name, width, height) in [("wide.png", 301, 7), ("one.png", 1, 1), ("square.png", 32, 32)] {
        describe(name, &png(width, height)).expect_code(0);
    }
    let whole = png(64, 64);
    for (name, bytes) in
        [("empty.png", &b""[..]), ("cut.png", &whole[..whole.len() / 2]), ("page.png", b"<html></html>")]
    {
        let outcome = describe(name, bytes);
        outcome.expect_code(2);
        assert!(
            outcome.stderr.contains(name) && outcome.stderr.contains("cannot use the picture"),
            "{}",
            outcome.stderr
        );
        assert!(!folder.path().join(format!("{name}.out")).exists());
    }
    let outcome = of_texts(&["sample", "run", "--image", "lines.jsonl", "--output", "described"]);
    outcome.expect_code(2);
    assert!(outcome.stderr.contains("the model knows text alone"), "{}", outcome.stderr);
}

/// A folder `s3:/` on the local disk is never what is meant.
#[test]
fn samples_go_to_a_store_or_nowhere() {
    let folder = folder();
    let run = DEMO.path.join("run");
    let output = "s3://no-such-bucket-of-these-tests/samples";
    let arguments = ["sample", text(&run), "--steps", "2", "--prompt", "a red circle", "--output", output];
    let outcome = Run::new(&arguments)
        .within(folder.path())
        .environment(&[("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned())])
        .run();
    outcome.expect_code(2);
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

#[test]
fn samples_are_written_to_a_store_once() {
    let (Some(environment), Some(python)) = (s3_environment(), crate::support::python()) else { return };
    let bucket = crate::support::bucket(&python, "sampling");
    let run = DEMO.path.join("run");
    let output = format!("s3://{bucket}/some/samples");
    let arguments = ["sample", text(&run), "--steps", "2", "--prompt", "a red circle", "--output", &output];
    let sample = || Run::new(&arguments).environment(&environment).run();
    sample().expect_code(0);
    let again = sample();
    again.expect_code(2);
    assert!(again.stderr.contains("holds samples already"), "{}", again.stderr);
}
