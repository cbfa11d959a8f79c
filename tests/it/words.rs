//! What the program says when it can't go on: in a person's words, within the terminal, before it works.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Outcome, Run};

/// A folder with an input and a config that is right.
fn place() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let lines: String =
        (0..60).map(|row| format!("{{\"text\": \"line {row} of some text\", \"n\": {row}}}\n")).collect();
    fs::write(folder.path().join("lines.jsonl"), lines).expect("a file");
    fs::write(folder.path().join("pack.toml"), config("", "")).expect("a file");
    folder
}

fn config(top: &str, source: &str) -> String {
    let output = if top.contains("output =") { "" } else { "output = \"out\"\n" };
    let context = if top.contains("context =") { "" } else { "context = 64\n" };
    let uri = if source.contains("uri =") { "" } else { "uri = \"lines.jsonl\"\n" };
    let name = if source.contains("name =") { "" } else { "name = \"a\"\n" };
    format!(
        "{output}{context}{top}\n[tokenizer]\ntrain = {{ vocabulary = 300 }}\n[[source]]\n{name}{uri}{source}\n"
    )
}

fn run(folder: &Path, arguments: &[&str]) -> Outcome {
    let variables = [("HOME", folder.display().to_string()), ("COLUMNS", "80".to_owned())];
    let variables = variables.map(|(name, value)| (name.to_owned(), value));
    Run::new(arguments).within(folder).environment(&variables).run()
}

/// Runs a command that must fail with these words.
fn fails(folder: &Path, arguments: &[&str], words: &[&str]) {
    let outcome = run(folder, arguments);
    assert_eq!(outcome.code, Some(2), "{arguments:?}: {}{}", outcome.stdout, outcome.stderr);
    for word in words {
        assert!(outcome.stderr.contains(word), "{arguments:?} does not say {word:?}: {}", outcome.stderr);
    }
}

/// Words of the program's own language, which say nothing to whoever wrote a config.
const FOREIGN: [&str; 16] = [
    "u64",
    "u32",
    "u16",
    "u8",
    "usize",
    "i64",
    "f64",
    "unit variant",
    "newtype",
    "struct",
    "enum",
    "invalid type",
    "invalid value",
    "floating point",
    "sequence",
    "expected a map",
];

#[test]
fn values_of_a_wrong_kind_are_answered_in_a_persons_words() {
    let folder = place();
    let values = [
        "\"text\"",
        "-5",
        "1.5",
        "true",
        "[1, 2]",
        "{ a = 1 }",
        "99999999999999999999",
        "1e300",
        "1979-05-27",
    ];
    for key in [
        "context",
        "seed",
        "window",
        "output",
        "packing",
        "compression",
        "deduplicate",
        "max-reject-share",
        "unit-bytes",
    ] {
        for value in values {
            let right = match key {
                "output" => value.starts_with('"'),
                "deduplicate" => value == "true",
                _ => false,
            };
            if right {
                continue;
            }
            for arguments in [
                &["preprocess", "wrong.toml"][..],
                &["preprocess", "pack.toml", "--set", &format!("{key}={value}")],
            ] {
                fs::write(folder.path().join("wrong.toml"), config(&format!("{key} = {value}"), ""))
                    .expect("a file");
                let outcome = run(folder.path(), arguments);
                if outcome.code == Some(0) {
                    // `--set` takes what is no TOML of a kind for text.
                    fs::remove_dir_all(folder.path().join("out")).ok();
                    continue;
                }
                // A name may be one of these words.
                let said = outcome.stderr.replace("`sequence`", "").replace("best-fit, sequence", "");
                assert_eq!(outcome.code, Some(2), "{key} = {value}: {said}");
                let words: Vec<&str> = said.split(|c: char| !c.is_alphanumeric()).collect();
                for foreign in FOREIGN {
                    let is_said =
                        if foreign.contains(' ') { said.contains(foreign) } else { words.contains(&foreign) };
                    assert!(!is_said, "{key} = {value} is answered with {foreign:?}: {said}");
                }
                assert!(words.iter().all(|word| word.len() < 60), "{key} = {value}: {said}");
            }
        }
    }
}

#[test]
fn numbers_beyond_their_range_are_refused_with_it() {
    let folder = place();
    for (key, value, range) in [
        ("context", "7", "8 to 16,777,216"),
        ("context", "4294967295", "8 to 16,777,216"),
        ("window", "9223372036854775807", "1 to 65,536"),
        ("unit-bytes", "0", "1 to 1,000,000,000,000,000"),
        ("unit-bytes", "9223372036854775807", "is 9,223,372,036,854,775,807"),
        ("shard-bytes", "9223372036854775807", "bytes"),
        ("memory-bytes", "1", "67,108,864 to"),
        ("memory-bytes", "9223372036854775807", "bytes"),
        ("max-reject-share", "nan", "a share from 0 to 1"),
        ("max-reject-share", "1e300", "is 1e300"),
        ("max-reject-share", "-0.1", "a share from 0 to 1"),
        ("split.validation", "inf", "a share from 0 to 1"),
        ("caption-first-share", "-1e-300", "is -1e-300"),
        ("source.a.weight", "1e300", "at most 1,000,000"),
        ("source.a.weight", "nan", "at most 1,000,000"),
        ("source.a.weight", "0", "a number over 0"),
        ("tokenizer.train.vocabulary", "4294967295", "1 to 1,048,576"),
        ("tokenizer.train.sample-bytes", "0", "1 to"),
        ("tokenizer.train.sample-bytes", "9223372036854775807", "bytes"),
        ("codec", "{ path = \"x\", size = 4294967295 }", "1 to 16,384 pixels"),
        ("codec", "{ path = \"x\", patch = 0 }", "1 to 1,024 latent pixels"),
        ("codec", "{ path = \"x\", batch = 9223372036854775807 }", "1 to 65,536 pictures"),
        ("pictures.max-pixels", "9223372036854775807", "1 to 1,000,000,000 pixels"),
        ("pictures.min-side", "4294967295", "0 to 1,000,000 pixels"),
    ] {
        let set = format!("{key}={value}");
        let named = key.split('.').next_back().unwrap_or(key);
        fails(folder.path(), &["preprocess", "pack.toml", "--set", &set], &[named, range, "hint: "]);
    }
    for threads in ["65535", "1025", "0", "-1", "many", "1e3"] {
        let flag = format!("--threads={threads}");
        fails(folder.path(), &["preprocess", "pack.toml", &flag], &["--threads", "1 to 1,024"]);
    }
    for (flag, range) in [
        ("--steps=0", "1 to"),
        ("--count=99999999999999999999", "1 to 1,000,000"),
        ("--guidance=nan", "0 to 100"),
        ("--temperature=-1", "0 to 1000"),
        ("--top-p=2", "0 to 1"),
        ("--size=4294967295", "1 to 16,384"),
        ("--max-tokens=18446744073709551615", "0 to 16,777,216"),
        ("--seed=-1", "0 to 18,446,744,073,709,551,615"),
    ] {
        fails(folder.path(), &["sample", "run", flag], &[flag.split('=').next().unwrap_or(flag), range]);
    }
    assert!(!folder.path().join("out").exists());
}

#[test]
fn a_share_of_refused_rows_names_the_first() {
    let folder = place();
    fs::write(folder.path().join("bad.jsonl"), "{\"text\": \"good\"}\n{\"text\": \n".repeat(30))
        .expect("a file");
    let words =
        ["30 of 60 rows were refused", "row 1 of `bad.jsonl` of source `a`: invalid_json: ", "--rejects"];
    fails(folder.path(), &["preprocess", "pack.toml", "--set", "source.a.uri=bad.jsonl"], &words);
}

#[test]
fn paths_are_whole() {
    let folder = place();
    for (name, content) in
        [("blob.bin", "0123"), ("cut.parquet", "PAR1 and no more"), ("cut.arrow", "ARROW1\0\0 no more")]
    {
        let path = folder.path().join(name);
        fs::write(&path, content).expect("a file");
        for flags in [&[][..], &["--dry-run"]] {
            let set = format!("source.a.uri={name}");
            let arguments = [&["preprocess", "pack.toml", "--set", &set], flags].concat();
            fails(folder.path(), &arguments, &[&format!("`{}`", path.display())]);
        }
    }
}

#[test]
fn a_finished_dataset_says_that_all_is_packed() {
    let folder = place();
    run(folder.path(), &["preprocess", "pack.toml"]).expect_code(0);
    for flag in ["--dry-run", "--explain"] {
        let outcome = run(folder.path(), &["preprocess", "pack.toml", flag]);
        outcome.expect_code(0);
        assert_eq!(outcome.stdout, "all input is packed in out already: nothing would be done\n");
        assert!(outcome.stderr.contains("--set output="), "{}", outcome.stderr);
        let json = run(folder.path(), &["preprocess", "pack.toml", flag, "--json"]);
        json.expect_code(0);
        let value: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
        assert_eq!(value["units"], serde_json::json!([]));
    }
}

#[test]
fn what_cannot_be_written_is_refused_before_any_work() {
    let folder = place();
    let here = folder.path();
    run(here, &["preprocess", "pack.toml"]).expect_code(0);
    fs::write(here.join("train.toml"), "run = \"s3://bucket/run\"\n[[data]]\nuri = \"out\"\n")
        .expect("a file");
    let codec = "steps = 1\nsize = 16\n[[source]]\nname = \"a\"\nuri = \"*.png\"\nshape = \"pair\"\n";
    fs::write(here.join("vae.toml"), codec).expect("a file");
    fs::write(here.join("file"), "no folder").expect("a file");
    for address in ["s3://bucket/x", "s3:/bucket/x", "HTTPS://host/x", "ftp://host/x"] {
        let words = [address, "not on this machine's disk", "hint: "];
        fails(here, &["inspect", "out", "--html", address], &words);
        fails(here, &["demo", "--quick", "--output", address], &words);
        fails(here, &["man", "--output", address], &words);
        fails(here, &["vae", "train", "vae.toml", "--set", &format!("output={address}")], &words);
        fails(here, &["vae", "encode", "codec", "in.png", address], &words);
        fails(here, &["vae", "decode", "codec", "in.safetensors", address], &words);
        fails(here, &["train", "train.toml", "--set", &format!("run={address}")], &words);
    }
    for path in ["file/x", "file/a/b"] {
        let words = ["/file` is no folder", "hint: "];
        fails(here, &["inspect", "out", "--html", path], &words);
        fails(here, &["vae", "train", "vae.toml", "--set", &format!("output={path}")], &words);
        fails(here, &["vae", "encode", "codec", "in.png", path], &words);
        fails(here, &["demo", "--quick", "--output", path], &words);
        fails(here, &["train", "train.toml", "--set", &format!("run={path}")], &words);
    }
    fails(here, &["inspect", "out", "--html", "out"], &["it is a folder"]);
    let names: Vec<_> =
        fs::read_dir(here).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(names.len(), 6, "{names:?}");
    run(here, &["inspect", "out", "--html", "a/new/page.html"]).expect_code(0);
    assert!(fs::read_to_string(here.join("a/new/page.html")).expect("a page").starts_with("<!doctype html>"));
}

#[test]
fn a_home_is_written_out_in_every_address() {
    let folder = place();
    fs::write(folder.path().join("home.toml"), config("output = \"~/out\"", "uri = \"~/*.jsonl\""))
        .expect("a file");
    run(folder.path(), &["preprocess", "~/home.toml"]).expect_code(0);
    assert!(folder.path().join("out/manifest.json").is_file() && !folder.path().join("~").exists());
    run(folder.path(), &["verify", "~/out"]).expect_code(0);
    run(folder.path(), &["inspect", "~/out", "--html=~/page.html"]).expect_code(0);
    assert!(folder.path().join("page.html").is_file());
    fails(folder.path(), &["inspect", "~you/out"], &["`~you`", "only `~/`", "hint: "]);
}

#[test]
fn hints_of_causes_are_shown() {
    let folder = place();
    let set = "source.a.uri=ftp://host/x";
    let outcome = run(folder.path(), &["preprocess", "pack.toml", "--set", set]);
    assert!(outcome.stderr.contains("hint: known are s3://"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("region, endpoint"), "{}", outcome.stderr);
}

#[test]
fn a_wrong_clock_is_called_so() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    // It ends with the process.
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(connection) = connection else { return };
            let mut reader = BufReader::new(connection);
            let (mut method, mut line) = (String::new(), String::new());
            while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 2) {
                method = if method.is_empty() { line.clone() } else { method };
                line.clear();
            }
            let body = "<?xml version=\"1.0\"?><Error><Code>RequestTimeTooSkewed</Code><Message>The difference is too \
                        large.</Message><RequestTime>20261201T100000Z</RequestTime>\
                        <ServerTime>2026-12-01T08:30:00Z</ServerTime></Error>";
            let head = format!(
                "HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            // A client that goes away is none of this test.
            let _ = reader.get_mut().write_all(format!("{head}{body}").as_bytes());
        }
    });
    let folder = place();
    let variables = [
        ("AWS_ENDPOINT_URL", address.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "KEY"),
        ("AWS_SECRET_ACCESS_KEY", "hushhush"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let set = "source.a.uri=s3://bucket/x.jsonl";
    for arguments in [&["inspect", "s3://bucket/x"][..], &["preprocess", "pack.toml", "--set", set, "-vvv"]] {
        let outcome = Run::new(arguments).within(folder.path()).environment(&variables).run();
        assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
        let expected = "the clock of this machine is off by 1 h 30 min: it is ahead of the store's";
        assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
        assert!(!outcome.stderr.contains("hushhush"), "{}", outcome.stderr);
    }
}

#[test]
fn tables_fit_the_terminal() {
    let folder = place();
    let name = "a-very-long-name-of-a-source".repeat(2);
    let file = "a-long-name-of-a-file-".repeat(5) + ".jsonl";
    fs::write(folder.path().join(&file), "{\"text\": \"good\"}\n{\"text\": \n".repeat(1000)).expect("a file");
    let source = format!("name = \"{name}\"\nuri = \"{file}\"");
    fs::write(folder.path().join("wide.toml"), config("max-reject-share = 1.0", &source)).expect("a file");
    let fits = |text: &str| {
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{} columns: {line}\nin\n{text}", line.chars().count());
        }
    };
    let dry = run(folder.path(), &["preprocess", "wide.toml", "--dry-run"]);
    dry.expect_code(0);
    let tables =
        |text: &str| text.lines().filter(|line| line.starts_with("  ")).collect::<Vec<_>>().join("\n");
    fits(&tables(&dry.stdout));
    let packed = run(folder.path(), &["preprocess", "wide.toml", "--verbose"]);
    packed.expect_code(0);
    fits(&tables(&packed.stderr));
    let summary = run(folder.path(), &["inspect", "out"]);
    fits(&summary.stdout);
    for column in ["deduplicated", "invalid_json", "padding", "checksum", "first_token"] {
        assert!(summary.stdout.contains(column), "{}", summary.stdout);
    }
    fits(&run(folder.path(), &["inspect", "out", "--sql", "select * from rows"]).stdout);
    let rejects = run(folder.path(), &["inspect", "out", "--rejects"]).stdout;
    fits(&rejects.split("\n  source").last().unwrap_or_default().replace("  source", ""));
}

#[test]
fn queries_say_how_fields_of_lists_are_written() {
    let folder = place();
    run(folder.path(), &["preprocess", "pack.toml"]).expect_code(0);
    let words = ["cannot run the query", "spans[1]['start']", "unnest(spans)"];
    for query in ["select spans.start from rows", "select start from rows", "select spans['start'] from rows"]
    {
        fails(folder.path(), &["inspect", "out", "--sql", query], &words);
    }
    for query in [
        "select tokens[1], spans[1]['start'] from rows",
        "select span['start'] from (select unnest(spans) as span from rows)",
        "select count(*), sum(cardinality(images)) from rows",
        "select tokens from rows order by tokens[5] desc",
    ] {
        let outcome = run(folder.path(), &["inspect", "out", "--sql", query]);
        outcome.expect_code(0);
        assert!(outcome.stdout.starts_with('+') && outcome.stdout.lines().count() > 4, "{}", outcome.stdout);
        run(folder.path(), &["inspect", "out", "--json", "--sql", query]).expect_code(0);
    }
}

/// The rows of a query come while it runs, and a signal ends it.
#[test]
fn a_query_is_streamed_and_stopped() {
    let folder = place();
    run(folder.path(), &["preprocess", "pack.toml"]).expect_code(0);
    // More rows than anybody waits for.
    let query = "select a.spans from rows a, rows b, rows c, rows d, rows e, rows f";
    for (signal, code, flags) in [("INT", 130, &[][..]), ("TERM", 143, &["--json"])] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_transfusion"))
            .args([&["inspect", "out", "--sql", query], flags].concat())
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let mut output = child.stdout.take().expect("a pipe");
        output.read_exact(&mut [0; 100_000]).expect("rows come");
        let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()));
        std::io::copy(&mut output, &mut std::io::sink()).expect("it ends");
        assert_eq!(child.wait().expect("it ends").code(), Some(code));
    }
}
