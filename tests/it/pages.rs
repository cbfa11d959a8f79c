//! Pages of the book that list what the program gives: complete by test.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use pipeline::reject::{RejectReason, Warning};
use serde_json::Value;

use crate::support::{Run, repository};

fn page(name: &str) -> String {
    fs::read_to_string(repository().join("docs").join(name)).expect("a page")
}

#[test]
fn every_reject_and_warning_is_explained() {
    let page = page("rejects.md");
    let reasons = RejectReason::ALL.map(RejectReason::name);
    let warnings = Warning::ALL.map(Warning::name);
    for name in reasons.iter().chain(&warnings) {
        assert!(page.contains(&format!("| `{name}` |")), "docs/rejects.md does not explain `{name}`");
    }
    for (section, count) in
        [("Why a row is refused", reasons.len()), ("Remarks on accepted rows", warnings.len())]
    {
        let section = section_of(&page, section);
        assert_eq!(section.matches("\n| `").count(), count, "docs/rejects.md has others in:\n{section}");
    }
}

fn section_of<'a>(page: &'a str, title: &str) -> &'a str {
    let start = page.find(&format!("## {title}\n")).unwrap_or_else(|| panic!("no section {title}"));
    let section = &page[start..];
    section[2..].find("\n## ").map_or(section, |end| &section[..end + 2])
}

/// The names of all fields, but for those of objects whose keys are not the program's own.
fn fields(value: &Value, found: &mut BTreeSet<String>) {
    const OTHERS: [&str; 9] = [
        "config",
        "measures",
        "rejects",
        "warnings",
        "document_length",
        "images_per_row",
        "content",
        "metadata",
        "settings",
    ];
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                found.insert(name.clone());
                if !OTHERS.contains(&name.as_str()) {
                    fields(value, found);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

/// Checks that every field and event of some lines, or of a document, stands in a section of the page.
fn expect_described(section: &str, text: &str) {
    let page = page("events.md");
    let section_text = section_of(&page, section);
    let values: Vec<Value> = match serde_json::from_str(text) {
        Ok(document) => vec![document],
        Err(_) => text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect(),
    };
    assert!(!values.is_empty(), "{section}: nothing was printed");
    let mut found = BTreeSet::new();
    values.iter().for_each(|value| fields(value, &mut found));
    found.extend(values.iter().filter_map(|value| value["event"].as_str()).map(str::to_owned));
    // What inspect gives of a shard is described with its format, what events share at the head of the page.
    let elsewhere = page_of_format(section);
    let is_described = |name: &&String| {
        let quoted = format!("`{name}`");
        section_text.contains(&quoted) || elsewhere.contains(&quoted) || *name == "event"
    };
    let lacking: Vec<&String> = found.iter().filter(|name| !is_described(name)).collect();
    assert!(lacking.is_empty(), "docs/events.md lacks {lacking:?} in `{section}`");
}

fn page_of_format(section: &str) -> String {
    if section == "`inspect`" { page("format.md") } else { String::new() }
}

const PREPROCESS: &str = r#"
output = "data"
context = 64
max-reject-share = 0.5
[tokenizer]
train = { vocabulary = 300 }
[codec]
path = "codec"
size = 16
[split]
validation = 0.1
[[source]]
name = "lines"
uri = "lines.jsonl"
[[source]]
name = "pictures"
uri = "pictures"
shape = "pair"
"#;

const TRAIN: &str = r#"
run = "run"
steps = 2
batch = 2
codec = "codec"
model = { layers = 1, width = 16, heads = 2, feed-forward = 24 }
[[data]]
uri = "data"
[sample]
every = 2
steps = 2
prompts = ["a word"]
"#;

const VAE: &str = r#"
output = "codec"
steps = 2
size = 16
batch = 2
model = "demo"
log-every = 1
[[source]]
name = "pictures"
uri = "pictures"
shape = "pair"
"#;

fn write_inputs(folder: &Path) {
    let line = |row: usize| format!("{{\"text\": \"{row} {}\"}}\n", "a word or two ".repeat(1 + row % 9));
    let mut lines: String = (0..60).map(line).collect();
    lines.push_str("no JSON\n");
    fs::write(folder.join("lines.jsonl"), lines).expect("a file");
    fs::create_dir(folder.join("pictures")).expect("a folder");
    for number in 0..8_u8 {
        let pixel = |x, y| image::Rgb([number * 30, x as u8 * 16, y as u8 * 16]);
        let picture = image::RgbImage::from_fn(16, 16, pixel);
        picture.save(folder.join(format!("pictures/{number}.png"))).expect("a picture");
        fs::write(folder.join(format!("pictures/{number}.txt")), format!("picture {number}"))
            .expect("a caption");
    }
    fs::write(folder.join("pictures/alone.txt"), "a caption without a picture").expect("a caption");
    for (name, text) in [("preprocess.toml", PREPROCESS), ("train.toml", TRAIN), ("vae.toml", VAE)] {
        fs::write(folder.join(name), text).expect("a config");
    }
}

/// A small job of each kind: no field and no event that the page lacks.
#[test]
fn every_event_and_field_is_described() {
    let folder = tempfile::tempdir().expect("a folder");
    write_inputs(folder.path());
    let printed = |arguments: &[&str]| {
        let outcome = Run::new(&[arguments, &["--json"]].concat()).within(folder.path()).run();
        assert_eq!(outcome.code, Some(0), "{arguments:?}: {}", outcome.stderr);
        outcome.stdout
    };
    expect_described("`vae`", &printed(&["vae", "train", "vae.toml"]));
    expect_described("`vae`", &fs::read_to_string(folder.path().join("codec/log.jsonl")).expect("a log"));
    expect_described("`vae`", &printed(&["vae", "encode", "codec", "pictures/0.png", "latent.safetensors"]));
    expect_described("`preprocess`", &printed(&["preprocess", "preprocess.toml", "--dry-run", "--explain"]));
    expect_described("`preprocess`", &printed(&["preprocess", "preprocess.toml"]));
    expect_described("`inspect`", &printed(&["inspect", "data"]));
    expect_described("`inspect`", &printed(&["inspect", "data", "--row", "0"]));
    expect_described("`inspect`", &printed(&["inspect", "data", "--rejects"]));
    expect_described("`verify`", &printed(&["verify", "data"]));
    expect_described("`train`", &printed(&["train", "train.toml"]));
    expect_described("`train`", &fs::read_to_string(folder.path().join("run/log.jsonl")).expect("a log"));
    let sample = ["sample", "run", "--prompt", "a word", "--steps", "2", "--output", "samples"];
    expect_described("`sample`", &printed(&sample));
    expect_described("`demo`", &printed(&["demo", "--samples"]));
    expect_described("`reference`", &printed(&["reference", "commands"]));
}

#[test]
fn every_file_that_a_page_names_is_there() {
    let mut named = 0;
    for entry in fs::read_dir(repository().join("docs")).expect("docs") {
        let path = entry.expect("an entry").path();
        // The experiments name files as they were then.
        if path.extension().is_none_or(|extension| extension != "md") || path.ends_with("experiments.md") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a page");
        let is_source = |word: &&str| {
            ["schemas/", "pipeline/", "trainer/", "jobs/", "tests/"]
                .iter()
                .any(|folder| word.starts_with(folder))
                && !word.contains([' ', '<', '*', '$'])
        };
        for word in text.split('`').skip(1).step_by(2).filter(is_source) {
            named += 1;
            assert!(repository().join(word).exists(), "{}: there is no {word}", path.display());
        }
    }
    assert!(named > 40, "{named} files");
}
