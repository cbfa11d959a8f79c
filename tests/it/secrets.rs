//! Secrets in addresses: whatever is typed where, no command shows one or writes one down.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Outcome, Run};

/// What must occur nowhere.
const SECRET: &str = "hushhush";

/// Addresses that carry the secret.
const ADDRESSES: [&str; 22] = [
    "s3://KEY:hushhush@bucket/x",
    "s3://KEY:hush/hushhush@bucket/x",
    "s3://KEY:hush@hushhush@bucket/x",
    "s3://KEY:12/hushhush@bucket/x",
    "S3://KEY:hushhush@bucket/{a,b}/*.jsonl",
    "s3://KEY:hushhush/x",
    "s3://hushhush@bucket/x",
    "s3://KEY%3Ahushhush%40bucket/x",
    "s3://bucket/*.tar?X-Amz-Signature=hushhush",
    "gs://bucket/x?X-Goog-Signature=hushhush",
    "az://container/x?sv=2024&sig=hush%2Fhushhush%3D",
    "az://container/{a,b}.jsonl?sig=hush/hushhush",
    "https://me:hushhush@host/x.jsonl",
    "HTTPS://me:hush hushhush@host/x.jsonl",
    "https://me:hush`hushhush@host/x.jsonl",
    "https://host/x.jsonl?X-Amz-Credential=A&X-Amz-Signature=hushhush",
    "https://host/x.jsonl?hushhush",
    "file:///data/x.jsonl?sig=hushhush",
    "data/x.jsonl?X-Amz-Signature=hushhush",
    "me:hushhush@host/x",
    "s3:/KEY:hushhush@bucket/x",
    "ftp://me:hush\"hushhush@host/x",
];

/// Some of them, where all would take long.
const FEW: [usize; 4] = [1, 9, 15, 19];

/// A folder with an input, and configs that are right.
fn place() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a file");
    write("lines.jsonl", &"{\"text\": \"a line of text\", \"n\": 1}\n".repeat(40));
    write("pack.toml", PACK);
    write("train.toml", TRAIN);
    write("vae.toml", VAE);
    folder
}

const PACK: &str = "output = \"out\"\ncontext = 64\n[tokenizer]\ntrain = { vocabulary = 300 }\n\
                    [[source]]\nname = \"a\"\nuri = \"lines.jsonl\"\n";
const TRAIN: &str = "run = \"runs/a\"\nsteps = 2\nbatch = 1\n[[data]]\nuri = \"out\"\n";
const VAE: &str =
    "output = \"codec\"\nsteps = 1\nsize = 16\n[[source]]\nname = \"a\"\nuri = \"*.png\"\nshape = \"pair\"\n";

fn run(folder: &Path, arguments: &[&str]) -> Outcome {
    let home = [("HOME".to_owned(), folder.display().to_string())];
    Run::new(arguments).within(folder).environment(&home).run()
}

/// Everything below a folder, but for what the test itself wrote.
fn left(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path.clone());
            }
            found.push(path);
        }
    }
    found.retain(|path| path.file_name().is_none_or(|name| name != "secret.toml"));
    found
}

/// Runs a command that must fail, and looks for the secret in all that it said and left.
fn check(folder: &Path, arguments: &[&str]) {
    let outcome = run(folder, arguments);
    assert_eq!(outcome.code, Some(2), "{arguments:?}: {}{}", outcome.stdout, outcome.stderr);
    for text in [&outcome.stdout, &outcome.stderr] {
        assert!(!text.contains(SECRET), "{arguments:?} shows it: {text}");
    }
    assert!(outcome.stderr.contains("hint: "), "{arguments:?}: {}", outcome.stderr);
    for path in left(folder) {
        assert!(!path.display().to_string().contains(SECRET), "{arguments:?} made {}", path.display());
        if path.is_file() {
            let content = fs::read(&path).expect("a file");
            let found = String::from_utf8_lossy(&content).contains(SECRET);
            assert!(!found, "{arguments:?} wrote it to {}", path.display());
        }
    }
    assert!(!folder.join("out").exists() && !folder.join("runs").exists(), "{arguments:?} wrote something");
}

#[test]
fn arguments_with_secrets_are_refused_unseen() {
    let folder = place();
    let check = |arguments: &[&str]| check(folder.path(), arguments);
    for address in ADDRESSES {
        check(&["inspect", address]);
        check(&["preprocess", "pack.toml", "--set", &format!("source.a.uri={address}")]);
        check(&["preprocess", "pack.toml", &format!("--set=output={address}")]);
        check(&["train", "train.toml", "--set", &format!("data.0.uri={address}")]);
        check(&["train", "train.toml", "--set", &format!("run={address}")]);
    }
    for address in FEW.map(|index| ADDRESSES[index]) {
        check(&["verify", address]);
        check(&["inspect", address, "--rejects", "-vvv"]);
        check(&["inspect", "out", "--html", address]);
        check(&["inspect", "out", "--row", "0", "--tokenizer", address]);
        check(&["preprocess", address]);
        check(&["train", address, "--json"]);
        check(&["vae", "train", "vae.toml", "--set", &format!("output={address}")]);
        check(&["vae", "encode", address, "in.png", "out.safetensors"]);
        check(&["vae", "encode", "codec", address, "out.safetensors"]);
        check(&["vae", "decode", "codec", "in.safetensors", address]);
        check(&["sample", address, "--prompt", "a"]);
        check(&["sample", "runs/a", "--prompts", address]);
        check(&["sample", "runs/a", "--image", address]);
        check(&["sample", "runs/a", "--codec", address]);
        check(&["sample", "runs/a", &format!("--output={address}")]);
        check(&["demo", "--output", address]);
        check(&["man", "--output", address]);
        // Wrong in another way too.
        check(&["inspect", "out", "--rwo", address]);
        check(&["inspect", address, address]);
        check(&["verify", "out", "--threads", address]);
        check(&["preprocess", "pack.toml", "--set", address]);
        check(&["preprocess", "pack.toml", "--set", &format!("context={address}")]);
        check(&["preprocess", "pack.toml", "--set", &format!("no.such.key={address}")]);
        check(&["preprocess", "pack.toml", "--set", &format!("source.0.{address}=1")]);
    }
}

#[test]
fn configs_with_secrets_are_refused_before_anything_is_written() {
    let folder = place();
    let quoted = |address: &str| serde_json::to_string(address).expect("a text");
    let check_config = |command: &[&str], text: &str| {
        fs::write(folder.path().join("secret.toml"), text).expect("a file");
        check(folder.path(), &[command, &["secret.toml"]].concat());
    };
    let pack = |line: &str| PACK.replacen("[tokenizer]", &format!("{line}\n[tokenizer]"), 1);
    for address in ADDRESSES {
        let address = quoted(address);
        check_config(&["preprocess"], &PACK.replace("\"lines.jsonl\"", &address));
        check_config(&["train"], &TRAIN.replace("\"out\"", &address));
    }
    for address in FEW.map(|index| quoted(ADDRESSES[index])) {
        check_config(&["preprocess"], &PACK.replace("\"out\"", &address));
        check_config(&["preprocess", "--dry-run"], &PACK.replace("\"lines.jsonl\"", &address));
        check_config(
            &["preprocess"],
            &PACK.replace("train = { vocabulary = 300 }", &format!("model = {address}")),
        );
        check_config(&["preprocess"], &format!("{PACK}folder = {address}\nshape = \"pair\"\n"));
        check_config(&["preprocess"], &format!("{PACK}join = {{ uri = {address}, on = \"n\" }}\n"));
        check_config(&["preprocess"], &format!("{PACK}[codec]\npath = {address}\n"));
        check_config(&["preprocess"], &pack(&format!("context = {address}")));
        check_config(&["preprocess"], &pack(&format!("packing = {address}")));
        check_config(&["preprocess"], &pack(&format!("{address} = 1")));
        check_config(&["preprocess"], &pack(&format!("oops {address}")));
        check_config(&["train"], &TRAIN.replace("\"runs/a\"", &address));
        check_config(&["train"], &format!("codec = {address}\n{TRAIN}"));
        check_config(&["train"], &format!("model = {address}\n{TRAIN}"));
        check_config(&["train"], &format!("{TRAIN}[stream]\ncache = {address}\n"));
        check_config(&["vae", "train"], &VAE.replace("\"codec\"", &address));
        check_config(&["vae", "train"], &VAE.replace("\"*.png\"", &address));
    }
}

#[test]
fn endpoints_with_secrets_are_refused_unseen() {
    let folder = place();
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let keys = [variable("AWS_ACCESS_KEY_ID", "KEY"), variable("AWS_SECRET_ACCESS_KEY", SECRET)];
    for value in
        ["http://me:hushhush@127.0.0.1:1", "me:hushhush@host:9000", "http://127.0.0.1:1/?sig=hushhush"]
    {
        let aws =
            ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"].map(|name| (name, "s3://bucket/x"));
        for (name, uri) in aws
            .into_iter()
            .chain([("AZURE_STORAGE_ENDPOINT", "az://container/x"), ("GOOGLE_BASE_URL", "gs://bucket/x")])
        {
            let variables = [&keys[..], &[variable(name, value)]].concat();
            for arguments in [
                &["inspect", uri, "-vvv"][..],
                &["preprocess", "pack.toml", "--set", &format!("source.a.uri={uri}")],
            ] {
                let outcome = Run::new(arguments).within(folder.path()).environment(&variables).run();
                assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
                assert!(outcome.stderr.contains(name), "{}", outcome.stderr);
                assert!(
                    !format!("{}{}", outcome.stdout, outcome.stderr).contains(SECRET),
                    "{}",
                    outcome.stderr
                );
            }
        }
    }
    let aws = folder.path().join(".aws");
    fs::create_dir(&aws).expect("a folder");
    let profile = "[default]\nendpoint_url = http://me:hushhush@127.0.0.1:1\n";
    fs::write(aws.join("config"), profile).expect("a file");
    let home = [&keys[..], &[variable("HOME", &folder.path().display().to_string())]].concat();
    let outcome = Run::new(&["inspect", "s3://bucket/x"]).within(folder.path()).environment(&home).run();
    assert!(outcome.code == Some(2) && outcome.stderr.contains("endpoint_url"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains(SECRET), "{}", outcome.stderr);
}

/// Text is no address: prompts, queries and conditions may hold what looks like one.
#[test]
fn texts_are_left_alone() {
    let folder = place();
    let set = "source.a.where=text <> 'https://host/?q=a'";
    run(folder.path(), &["preprocess", "pack.toml", "--set", set]).expect_code(0);
    let query = "select 'https://me:you@host/?q=a' as a from rows limit 1";
    let outcome = run(folder.path(), &["inspect", "out", "--json", "--sql", query]);
    outcome.expect_code(0);
    assert!(outcome.stdout.contains("https://me:you@host/?q=a"), "{}", outcome.stdout);
}
