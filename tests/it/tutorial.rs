//! The commands of docs/tutorial.md, typed as they stand there, in their order.

use std::fs;
use std::path::Path;

use crate::support::{Run, repository};

/// The commands of the page up to those that need a store of the reader's own, each as its arguments.
fn commands() -> Vec<Vec<String>> {
    let page = fs::read_to_string(repository().join("docs/tutorial.md")).expect("the tutorial");
    let page = page.split("\n## On S3").next().expect("a beginning").to_owned();
    let blocks = page.split("```sh\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0.to_owned()));
    let lines =
        blocks.flat_map(|block| block.replace("\\\n", " ").lines().map(str::to_owned).collect::<Vec<_>>());
    let commands = lines.filter_map(|line| line.strip_prefix("transfusion ").map(words));
    commands.collect()
}

/// The words of a line of shell; those in double quotes are one.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('"').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// The shipped configs, for fewer steps.
fn configs(folder: &Path) {
    for (name, from, to) in [
        ("vae/samples.toml", "steps = 300", "steps = 2"),
        ("preprocess/samples.toml", "context = 1024", "context = 512"),
        ("train/samples.toml", "steps = 200\nbatch = 4", "steps = 2\nbatch = 1"),
        ("train/samples.toml", "warm-up = 20", "warm-up = 1"),
    ] {
        let target = folder.join("configs").join(name);
        let source = if target.exists() { target.clone() } else { repository().join("configs").join(name) };
        let text = fs::read_to_string(source).expect("a config");
        assert!(text.contains(from), "{name} has no `{from}`");
        fs::create_dir_all(target.parent().expect("a folder")).expect("a folder");
        fs::write(target, text.replace(from, to)).expect("a config");
    }
}

#[test]
fn the_tutorial_works_as_it_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    configs(folder.path());
    let commands = commands();
    assert!(commands.len() >= 14, "{commands:?}");
    for command in commands {
        // As many steps as the page says take minutes.
        let arguments: Vec<String> =
            command.iter().map(|word| word.replace("steps=400", "steps=3")).collect();
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let slow = arguments[0] == "sample";
        if slow {
            arguments.extend(["--steps", "2", "--max-tokens", "2"]);
        }
        Run::new(&arguments).within(folder.path()).run().expect_code(0);
    }
    assert!(folder.path().join("out/pictures/samples.json").is_file());
}
