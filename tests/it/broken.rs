//! Preprocessing jobs that can't be: each ends at once with exit code 2, one error that says what is wrong and where,
//! and a hint, and leaves nothing of a dataset behind.

use std::fs;
use std::path::Path;

use crate::support::{Outcome, Run};

/// A folder with a few inputs, and a tokenizer that the program has trained.
fn place() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    };
    let lines: String = (0..50).map(|row| format!("{{\"text\": \"line {row}\", \"n\": {row}}}\n")).collect();
    write("lines.jsonl", &lines);
    write("bad.jsonl", &"{\"text\": \" \"}\n".repeat(20));
    write("pairs/captions.jsonl", "{\"file_name\": \"a.png\", \"caption\": \"a\"}\n");
    write("pairs/a.png", "no picture");
    write("blob.bin", "0123");
    write("file", "no folder");
    write("good.toml", &config("", TRAINED, SOURCE));
    preprocess(folder.path(), "good.toml", &["--set", "output=made"]).expect_code(0);
    fs::copy(folder.path().join("made/tokenizer.json"), folder.path().join("tokenizer.json"))
        .expect("a copy");
    folder
}

const TRAINED: &str = "train = { vocabulary = 300 }";
const MODEL: &str = "model = \"tokenizer.json\"";
const SOURCE: &str = "name = \"a\"\nuri = \"lines.jsonl\"";

/// A config that is right but for what is given.
fn config(top: &str, tokenizer: &str, source: &str) -> String {
    let output = if top.contains("output =") { "" } else { "output = \"out\"\n" };
    let context = if top.contains("context =") { "" } else { "context = 64\n" };
    format!("{output}{context}{top}\n[tokenizer]\n{tokenizer}\n[[source]]\n{source}\n")
}

fn preprocess(folder: &Path, config: &str, further: &[&str]) -> Outcome {
    let mut arguments = vec!["preprocess", config];
    arguments.extend(further);
    Run::new(&arguments).within(folder).run()
}

/// What is wrong, the config, and a part of the message and of the hint.
type Case = (&'static str, String, &'static str, &'static str);

fn cases() -> Vec<Case> {
    let top = |text: &str| config(text, TRAINED, SOURCE);
    let tokenizer = |text: &str| config("", text, SOURCE);
    let source = |text: &str| config("", TRAINED, text);
    vec![
        ("not TOML", "output = \n".to_owned(), "broken.toml:1:", "TOML"),
        (
            "an unknown key",
            top("contxt = 5"),
            "broken.toml:3:1: unknown key `contxt`",
            "did you mean `context`?",
        ),
        (
            "another type",
            top("context = \"long\""),
            "broken.toml:2:11: found the text \"long\", expected a whole number",
            "TOML",
        ),
        (
            "a row too short",
            top("context = 2"),
            "`context` is 2, expected 8 to 16,777,216 positions",
            "`context`",
        ),
        (
            "a share over 1",
            top("max-reject-share = 1.5"),
            "`max-reject-share` is 1.5, expected a share",
            "--set",
        ),
        ("a share below 0", top("caption-first-share = -0.1"), "`caption-first-share` is -0.1", "--set"),
        ("no window", top("window = 0"), "`window` is 0, expected 1 to 65,536", "`window`"),
        ("a vast window", top("window = 9223372036854775807"), "expected 1 to 65,536", "`window`"),
        ("units of nothing", top("unit-bytes = 0"), "unit-bytes", "--set"),
        ("an unknown packing", top("packing = \"best\""), "unknown value `best`", "did you mean `best-fit`?"),
        ("lz4", top("compression = \"lz4\""), "unknown value `lz4`", "zstd"),
        ("all for validation", top("split.validation = 3"), "`split.validation` is 3", "--set"),
        ("no output", top("output = \"\""), "the config names no `output`", "add `output"),
        ("an output that is a file", top("output = \"file\""), "file", "folder"),
        ("an output nobody knows", top("output = \"ftp://host/x\""), "`ftp`", "s3://"),
        ("no tokenizer", tokenizer(""), "`tokenizer` is absent", "tokenizer"),
        (
            "two tokenizers",
            tokenizer(&format!("{TRAINED}\n{MODEL}")),
            "`tokenizer.train` is set",
            "tokenizer",
        ),
        (
            "a tokenizer that is not there",
            tokenizer("model = \"none.model\""),
            "tokenizer `none.model` can't be used",
            "set `tokenizer.model`",
        ),
        (
            "a tokenizer that is none",
            tokenizer("model = \"blob.bin\""),
            "tokenizer `blob.bin` can't be used",
            "set `tokenizer.model`",
        ),
        ("a tiny vocabulary", tokenizer("train = { vocabulary = 10 }"), "vocabulary", "tokenizer"),
        (
            "a vast vocabulary",
            tokenizer("train = { vocabulary = 4000000000 }"),
            "to 1,048,576 ids",
            "tokenizer",
        ),
        (
            "an EOS that is not there",
            tokenizer(&format!("{MODEL}\neos = \"<|end|>\"")),
            "has no piece `<|end|>`, which the configuration names as EOS",
            "tokenizer.eos",
        ),
        (
            "a BOS that is not there",
            tokenizer(&format!("{MODEL}\nbos = \"[BOS]\"")),
            "has no piece `[BOS]`, which the configuration names as BOS",
            "tokenizer.bos",
        ),
        (
            "an EOS that texts can spell",
            tokenizer(&format!("{MODEL}\neos = \"l\"")),
            "is one of text",
            "tokenizer.eos",
        ),
        (
            "an EOS that is never trained",
            tokenizer(&format!("{TRAINED}\neos = \"<|end|>\"")),
            "`tokenizer.eos` is `<|end|>`, expected `<s>` or `</s>`",
            "tokenizer.eos",
        ),
        (
            "no source",
            "output = \"out\"\n[tokenizer]\ntrain = { vocabulary = 300 }\n".to_owned(),
            "`source` is absent",
            "source",
        ),
        ("a source without a name", source("uri = \"lines.jsonl\""), "`source.0.name` is ``", "--set"),
        (
            "a name that is a path",
            source("name = \"a/b\"\nuri = \"lines.jsonl\""),
            "`a/b`, expected 1 to 64 letters",
            "--set",
        ),
        (
            "two of one name",
            source(&format!("{SOURCE}\n[[source]]\n{SOURCE}")),
            "a name that no other source has",
            "--set",
        ),
        ("no address", source("name = \"a\""), "`source.a.uri` is empty", "--set"),
        (
            "an address of nothing",
            source("name = \"a\"\nuri = \"none/*.jsonl\""),
            "source `a` has no files",
            "check the address",
        ),
        (
            "an address beside the file",
            source("name = \"a\"\nuri = \"./*.jsonlines\""),
            "source `a` has no files",
            "there is `",
        ),
        (
            "a form nobody knows",
            source("name = \"a\"\nuri = \"blob.bin\""),
            "has a form that is not known",
            "format = ",
        ),
        (
            "an unknown shape",
            source(&format!("{SOURCE}\nshape = \"pairs\"")),
            "unknown value `pairs`",
            "did you mean `pair`?",
        ),
        ("no weight", source(&format!("{SOURCE}\nweight = 0.0")), "`source.a.weight` is 0", "--set"),
        (
            "a column that is not there",
            source(&format!("{SOURCE}\ntext = \"body\"")),
            "has no column `body`; its columns are `text`, `n`",
            "`select`",
        ),
        (
            "a filter that is no SQL",
            source(&format!("{SOURCE}\nwhere = \"n >\"")),
            "`where` of source `a` is not usable",
            "single quotes",
        ),
        (
            "a filter on nothing",
            source(&format!("{SOURCE}\nwhere = \"score > 1\"")),
            "has no column `score`",
            "`select`",
        ),
        (
            "a select without the text",
            source(&format!("{SOURCE}\nselect = \"n as id\"")),
            "no column `text`",
            "as text",
        ),
        (
            "pictures without a codec",
            source("name = \"a\"\nuri = \"pairs\"\nshape = \"pair\""),
            "no codec is configured",
            "vae train",
        ),
        (
            "a codec that is not there",
            config("[codec]\npath = \"none\"", TRAINED, "name = \"a\"\nuri = \"pairs\"\nshape = \"pair\""),
            "none",
            "vae train",
        ),
        (
            "nothing but bad rows",
            source("name = \"a\"\nuri = \"bad.jsonl\""),
            "20 of 20 rows were refused, over the share of 0.1",
            "--rejects",
        ),
    ]
}

/// What is not clear about how a command failed; nothing if all is.
fn unclear(run: &Outcome, message: &str, hint: &str) -> Option<String> {
    let hints: Vec<&str> = run.stderr.lines().filter_map(|line| line.strip_prefix("hint: ")).collect();
    let wrong = [
        (run.code != Some(2), "another exit code"),
        (run.stderr.lines().filter(|line| line.starts_with("error: ")).count() != 1, "not one error"),
        (!run.stderr.contains(message), "another message"),
        (!hints.iter().any(|line| line.contains(hint)), "another hint"),
        (!run.stdout.is_empty(), "data"),
        (run.stderr.contains("panicked"), "a panic"),
    ];
    let wrong = wrong.iter().find(|(wrong, _)| *wrong)?.1;
    Some(format!("{wrong} than with `{message}` and `{hint}`: {run:?}"))
}

fn assert_clear(what: &str, run: &Outcome, message: &str, hint: &str) {
    assert_eq!(unclear(run, message, hint), None, "{what}");
}

#[test]
fn broken_configs_are_refused_with_what_where_and_a_hint() {
    let place = place();
    let mut faults = Vec::new();
    for (what, text, message, hint) in cases() {
        fs::write(place.path().join("broken.toml"), text).expect("a config");
        let run = preprocess(place.path(), "broken.toml", &[]);
        faults.extend(unclear(&run, message, hint).map(|fault| format!("{what}: {fault}")));
        let out = place.path().join("out");
        // Only a job that has begun leaves something to go on with.
        if out.join("manifest.json").exists() || out.exists() && !what.contains("bad rows") {
            faults.push(format!("{what} left an output"));
        }
        let _ = fs::remove_dir_all(out);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What speaks against a dataset that is there.
#[test]
fn a_finished_dataset_is_defended() {
    let place = place();
    let folder = place.path();
    let run = |further: &[&str]| preprocess(folder, "good.toml", further);
    assert_clear(
        "a retry of nothing",
        &run(&["--retry-rejects"]),
        "out` is not finished",
        "without `--retry-rejects`",
    );
    run(&[]).expect_code(0);
    let other = run(&["--set", "context=32"]);
    assert_clear("another config", &other, "`context` is `64` there and `32` here", "another `output`");
    let other = run(&["--set", "tokenizer.eos=<s>"]);
    assert_clear("another EOS", &other, "`tokenizer.eos` is `null` there", "another `output`");

    let manifest = folder.join("out/manifest.json");
    let whole = fs::read(&manifest).expect("a manifest");
    fs::write(&manifest, &whole[..whole.len() / 2]).expect("a cut manifest");
    assert_clear("a cut manifest", &run(&[]), "manifest.json` of the dataset is damaged", "delete this file");
    // As the hint says.
    fs::remove_file(&manifest).expect("deleted");
    run(&[]).expect_code(0);
    assert!(fs::read(&manifest).expect("a manifest") == whole);

    let lines = folder.join("lines.jsonl");
    fs::write(&lines, "{\"text\": \"less\"}\n").expect("a file");
    let changed = "`lines.jsonl` of source `a` has 17 bytes instead of";
    assert_clear("a file that changed", &run(&[]), changed, "put the files back");
    fs::remove_file(&lines).expect("a file");
    assert_clear("a file that is gone", &run(&[]), "source `a` has no files", "check the address");
}
