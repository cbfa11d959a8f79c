//! `transfusion preprocess` as a whole command: the same bytes whatever the threads, the listing or the store.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Run, bucket, digest_of_folder, python, s3_environment, samples, tool};

/// A corpus of several files and forms, made by code: about 900 documents of changing length.
pub(crate) fn write_corpus(folder: &Path) {
    fs::create_dir_all(folder.join("with space ü")).expect("a folder");
    let words =
        ["red", "circle", "above", "the", "blue", "square", "and", "a", "star", "ünïcödé", "日本", "<s>"];
    for file in 0..3usize {
        let mut lines = String::new();
        for row in 0..300usize {
            let length = 1 + (row * 37 + file * 11) % 90;
            let text: Vec<_> =
                (0..length).map(|word| words[(row * 7 + word * 5 + file) % words.len()]).collect();
            let line =
                serde_json::json!({"id": format!("{file}-{row}"), "text": text.join(" "), "length": length});
            lines.push_str(&format!("{line}\n"));
        }
        lines.push_str("{\"text\": \"cut off\n{\"text\": \"\", \"length\": 9}\n\n");
        let path =
            if file == 1 { "with space ü/part 1.jsonl".to_owned() } else { format!("part-{file}.jsonl") };
        fs::write(folder.join(path), lines).expect("a corpus file");
    }
}

fn config(folder: &Path, output: &str, corpus: &str) -> std::path::PathBuf {
    let text = format!(
        "output = \"{output}\"\ncontext = 128\nseed = 3\nunit-bytes = 20000\n\n[tokenizer]\ntrain = {{ vocabulary = 400 }}\n\n\
         [[source]]\nname = \"lines\"\nuri = \"{corpus}/**/*.jsonl\"\nshape = \"text\"\nwhere = \"length > 3\"\n"
    );
    let path = folder.join("preprocess.toml");
    fs::write(&path, text).expect("a config");
    path
}

fn manifest(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("manifest.json")).expect("a manifest")).expect("JSON")
}

#[test]
fn threads_do_not_change_a_byte_and_counts_add_up() {
    let folder = tempfile::tempdir().expect("a folder");
    write_corpus(&folder.path().join("corpus"));
    let corpus = folder.path().join("corpus");
    let mut digests = Vec::new();
    for threads in ["1", "2", "8"] {
        let output = folder.path().join(format!("out-{threads}"));
        let config =
            config(folder.path(), output.to_str().expect("a path"), corpus.to_str().expect("a path"));
        let run = Run::new(&["preprocess", config.to_str().expect("a path"), "--threads", threads]).run();
        run.expect_code(0);
        digests.push(digest_of_folder(&output));
    }
    assert!(digests[0].len() > 3, "{:?}", digests[0].keys());
    assert_eq!(digests[0], digests[1], "1 and 2 threads");
    assert_eq!(digests[0], digests[2], "1 and 8 threads");

    let manifest = manifest(&folder.path().join("out-1"));
    let counts = &manifest["sources"][0]["statistics"];
    let count = |name: &str| counts[name].as_u64().expect("a count");
    assert_eq!(count("read"), count("kept") + count("rejected") + count("filtered") + count("deduplicated"));
    assert_eq!((count("read"), count("rejected")), (906, 6), "{counts}");
    assert_eq!(counts["rejects"]["invalid_json"], 3, "{counts}");
    assert_eq!(counts["rejects"]["empty"], 3, "{counts}");

    Run::new(&["verify", folder.path().join("out-2").to_str().expect("a path")]).run().expect_code(0);
}

/// A small corpus is looked at whole, so what is foreseen is what happens; and looking writes nothing.
#[test]
fn a_dry_run_foresees_what_the_job_does_and_writes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (output, corpus) = (folder.path().join("out"), folder.path().join("corpus"));
    write_corpus(&corpus);
    let config = config(folder.path(), output.to_str().expect("a path"), corpus.to_str().expect("a path"));
    let config = config.to_str().expect("a path");
    let look = Run::new(&["preprocess", config, "--dry-run", "--explain", "--json"]).run();
    look.expect_code(0);
    let foreseen: Value = serde_json::from_str(&look.stdout).expect("one JSON document");
    let plan = foreseen["plan"].as_str().expect("the plan");
    let operators = ["ShardsExec", "DocumentsExec", "WhereExec", "UnitReadExec"];
    assert!(operators.iter().map(|name| plan.find(name)).is_sorted(), "{plan}");
    let text = Run::new(&["preprocess", config, "--dry-run"]).run();
    text.expect_code(0);
    assert!(text.stdout.contains("predicted from all"), "{}", text.stdout);
    assert!(
        text.stdout.contains("memory: ") && text.stdout.contains("rejects of lines: "),
        "{}",
        text.stdout
    );
    assert!(!output.exists(), "nothing is written");

    Run::new(&["preprocess", config]).run().expect_code(0);
    let manifest = manifest(&output);
    let (foreseen, done) = (&foreseen["estimate"]["sources"][0], &manifest["sources"][0]["statistics"]);
    for count in ["read", "kept", "rejects", "documents", "tokens", "padding"] {
        assert_eq!(foreseen[count], done[count], "{count}");
    }
    assert_eq!(foreseen["rows"], manifest["statistics"]["rows"]);
    assert_eq!(foreseen["shards"], manifest["shards"].as_array().expect("shards").len());
}

#[test]
fn a_second_run_of_a_finished_job_changes_nothing_and_another_config_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    write_corpus(&folder.path().join("corpus"));
    let (output, corpus) = (folder.path().join("out"), folder.path().join("corpus"));
    let config = config(folder.path(), output.to_str().expect("a path"), corpus.to_str().expect("a path"));
    let config = config.to_str().expect("a path");
    Run::new(&["preprocess", config]).run().expect_code(0);
    let before = digest_of_folder(&output);
    Run::new(&["preprocess", config]).run().expect_code(0);
    assert_eq!(before, digest_of_folder(&output));
    let other = Run::new(&["preprocess", config, "--set", "context=64"]).run();
    other.expect_code(2);
    assert!(other.stderr.contains("hint:"), "{}", other.stderr);
    assert_eq!(before, digest_of_folder(&output));
}

#[test]
fn s3_and_disk_give_the_same_bytes() {
    let (Some(environment), Some(python)) = (s3_environment(), python()) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (corpus, output) = (folder.path().join("corpus"), folder.path().join("out"));
    write_corpus(&corpus);
    let local = config(folder.path(), output.to_str().expect("a path"), corpus.to_str().expect("a path"));
    Run::new(&["preprocess", local.to_str().expect("a path")]).run().expect_code(0);

    let bucket = bucket(&python, "preprocess");
    tool(&python, "upload", &[corpus.to_str().expect("a path"), &bucket, "raw corpus"]);
    let remote = config(folder.path(), &format!("s3://{bucket}/out"), &format!("s3://{bucket}/raw corpus"));
    let run = Run::new(&["preprocess", remote.to_str().expect("a path")]).environment(&environment).run();
    run.expect_code(0);
    let back = folder.path().join("back");
    tool(&python, "download", &[&bucket, "out", back.to_str().expect("a path")]);
    let (disk, store) = (digest_of_folder(&output), digest_of_folder(&back));
    assert_eq!(keys(&disk), keys(&store));
    assert_eq!(disk, store);

    let uri = format!("s3://{bucket}/out");
    Run::new(&["verify", &uri]).environment(&environment).run().expect_code(0);
    let inspect = Run::new(&["inspect", &uri, "--row", "0", "--json"]).environment(&environment).run();
    inspect.expect_code(0);
    serde_json::from_str::<Value>(&inspect.stdout).expect("JSON");
}

fn keys(digests: &BTreeMap<String, String>) -> Vec<&String> {
    digests.keys().collect()
}

#[test]
fn a_bucket_that_is_not_there_is_one_clear_error() {
    let Some(environment) = s3_environment() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), "s3://no-such-bucket/out", "s3://no-such-bucket/raw");
    let run = Run::new(&["preprocess", config.to_str().expect("a path")]).environment(&environment).run();
    run.expect_code(2);
    assert!(run.stderr.contains("no-such-bucket") && run.stderr.contains("hint:"), "{}", run.stderr);
    assert!(!run.stderr.contains("testing"), "credentials leak: {}", run.stderr);
}

/// A server of its own that asks for keys, unlike the one that the other tests share.
struct Guarded {
    server: std::process::Child,
    endpoint: String,
}

impl Guarded {
    fn start(python: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .expect("a free port")
            .local_addr()
            .expect("bound")
            .port();
        let server = std::process::Command::new(python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
            .env("INITIAL_NO_AUTH_ACTION_COUNT", "0")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("moto starts");
        let mut guarded = Self { server, endpoint: format!("http://127.0.0.1:{port}") };
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(guarded.server.try_wait().expect("a child").is_none(), "moto ended");
            std::thread::yield_now();
        }
        guarded
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn a_wrong_key_is_named_and_never_shown() {
    let (Some(mut environment), Some(python)) = (s3_environment(), python()) else { return };
    let server = Guarded::start(&python);
    for (name, value) in &mut environment {
        match name.as_str() {
            "AWS_ENDPOINT_URL" => value.clone_from(&server.endpoint),
            "AWS_SECRET_ACCESS_KEY" => "hunter2hunter2".clone_into(value),
            _ => {}
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), "s3://bucket/out", "s3://bucket/raw");
    let config = config.to_str().expect("a path");
    for arguments in
        [&["preprocess", config][..], &["inspect", "s3://bucket/out"], &["verify", "s3://bucket/out"]]
    {
        let run = Run::new(arguments).environment(&environment).run();
        run.expect_code(2);
        assert!(run.stderr.contains("access key (403)"), "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains("hint: check AWS_ACCESS_KEY_ID"), "{arguments:?}: {}", run.stderr);
        assert!(!run.stderr.contains("hunter2"), "the secret leaks: {}", run.stderr);
    }
}

/// The golden ids stand in the written shards, read back by pyarrow.
#[test]
fn the_golden_ids_stand_in_the_shards() {
    let (Some(samples), Some(python)) = (samples(), python()) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let golden = fs::read_to_string(samples.join("tokenizer/tokenizer-golden.jsonl")).expect("golden ids");
    let golden: Vec<Value> = golden.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(golden.len(), 234);
    let lines: String =
        golden.iter().map(|line| format!("{}\n", serde_json::json!({"text": line["text"]}))).collect();
    fs::write(folder.path().join("golden.jsonl"), lines).expect("a corpus");
    let tokenizer = samples.join("tokenizer/llama2-tokenizer.model");
    let output = folder.path().join("out");
    let text = format!(
        "output = \"{}\"\ncontext = 4096\n[tokenizer]\nmodel = \"{}\"\n[[source]]\nname = \"golden\"\nuri = \"{}\"\nshape = \"text\"\n",
        output.display(),
        tokenizer.display(),
        folder.path().join("golden.jsonl").display(),
    );
    fs::write(folder.path().join("golden.toml"), text).expect("a config");
    let config = folder.path().join("golden.toml");
    Run::new(&["preprocess", config.to_str().expect("a path"), "--set", "max-reject-share=1"])
        .run()
        .expect_code(0);

    let mut documents = BTreeMap::<u64, Vec<u64>>::new();
    for shard in manifest(&output)["shards"].as_array().expect("shards") {
        let path = output.join(shard["path"].as_str().expect("a path"));
        let rows: Vec<Value> = tool_json(&python, &path);
        for row in rows {
            for span in row["spans"].as_array().expect("spans").iter().filter(|span| span["modality"] == 0) {
                let source = &row["sources"][span["document"].as_u64().expect("a document") as usize];
                let (start, len) =
                    (span["start"].as_u64().expect("start"), span["len"].as_u64().expect("len"));
                let ids = &row["tokens"].as_array().expect("tokens")[start as usize..(start + len) as usize];
                let ids = ids.iter().map(|id| id.as_u64().expect("an id"));
                documents.entry(source["row"].as_u64().expect("a row")).or_default().extend(ids);
            }
        }
    }
    for (row, expected) in golden.iter().enumerate() {
        let mut ids: Vec<u64> =
            expected["ids_bos"].as_array().expect("ids").iter().filter_map(Value::as_u64).collect();
        ids.push(2);
        let found = documents.get(&(row as u64));
        // A text of nothing is no document.
        if expected["text"].as_str().is_some_and(|text| text.trim().is_empty()) && found.is_none() {
            continue;
        }
        assert_eq!(found, Some(&ids), "row {row}: {}", expected["text"]);
    }
}

fn tool_json(python: &Path, shard: &Path) -> Vec<Value> {
    let script = crate::support::repository().join("tests/python/read_shard.py");
    let output = std::process::Command::new(python)
        .arg(script)
        .arg("pyarrow")
        .arg(shard)
        .output()
        .expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}
