//! `transfusion preprocess` killed with SIGKILL at random points, on disk and on S3, and two of them on one output.
//!
//! The points are drawn from a seed and counted in files and events, never in time; what the process does between the
//! count and the signal is left to chance.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};

use object_store::aws::AmazonS3Builder;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;

use crate::support::{Run, bucket, digest_of_folder, python, s3_environment, tool};

/// Numbers from a seed.
struct Draws(u64);

impl Draws {
    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 += 1;
        schemas::row_hash(self.0, "kill", "", 0, "point") % end
    }
}

/// Files of a few lines each, some of which can't be used; each makes one or two units.
fn write_corpus(folder: &Path, files: usize) {
    fs::create_dir_all(folder).expect("a folder");
    for file in 0..files {
        let line = |row: usize| {
            let text = "a word or two ".repeat(1 + (row * 7 + file) % 9);
            format!("{{\"text\": \"{file} {row} {text}\"}}\n")
        };
        let mut lines: String = (0..12).map(line).collect();
        lines.push_str("{\"text\": \"\"}\nno json\n");
        fs::write(folder.join(format!("{file:03}.jsonl")), lines).expect("a file");
    }
}

fn config(folder: &Path, name: &str, output: &str, corpus: &Path) -> String {
    let text = format!(
        "output = \"{output}\"\ncontext = 128\nunit-bytes = 1000\nshard-bytes = 3000\nmax-reject-share = 0.5\n\
         [split]\nvalidation = 0.1\n[tokenizer]\ntrain = {{ vocabulary = 300 }}\n\
         [[source]]\nname = \"lines\"\nuri = \"{}/*.jsonl\"\n",
        corpus.display()
    );
    let path = folder.join(name);
    fs::write(&path, text).expect("a config");
    path.to_str().expect("a path").to_owned()
}

fn count_files(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let count = |entry: std::io::Result<fs::DirEntry>| match entry {
        // What is unfinished comes and goes.
        Ok(entry) if entry.file_name() == ".unfinished" => 0,
        Ok(entry) if entry.path().is_dir() => count_files(&entry.path()),
        Ok(_) => 1,
        Err(_) => 0,
    };
    entries.map(count).sum()
}

fn commits(output: &Path) -> u64 {
    count_files(&output.join("commits"))
}

/// Kills a process, which must have been alive.
fn kill(mut child: Child) {
    child.kill().expect("a signal");
    let status: ExitStatus = child.wait().expect("the child ends");
    assert_eq!(status.signal(), Some(9), "it ended by itself before it was killed: {status}");
}

/// The first event of that name.
fn event(stdout: &str, name: &str) -> Option<Value> {
    let events = stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.into_iter().find(|value| value["event"] == name)
}

/// Killed twenty times, wherever it stood, and started again without any cleaning: the dataset is the one of a job
/// that was left alone, and no start does again what an earlier one had finished.
#[test]
fn killed_twenty_times_on_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let corpus = folder.path().join("corpus");
    write_corpus(&corpus, 200);
    let whole = folder.path().join("whole");
    let alone = config(folder.path(), "alone.toml", whole.to_str().expect("a path"), &corpus);
    Run::new(&["preprocess", &alone]).run().expect_code(0);
    let expected = digest_of_folder(&whole);

    let output = folder.path().join("killed");
    let config = config(folder.path(), "killed.toml", output.to_str().expect("a path"), &corpus);
    let mut draws = Draws(1);
    for number in 0..20 {
        let before = commits(&output);
        let log = folder.path().join(format!("{number}.log"));
        let target = count_files(&output) + 1 + draws.below(12);
        let mut child = Run::new(&["preprocess", "--json", &config]).spawn_to(&log);
        while count_files(&output) < target && child.try_wait().expect("a child").is_none() {
            std::thread::yield_now();
        }
        kill(child);
        if let Some(planned) = event(&fs::read_to_string(&log).expect("a log"), "planned") {
            assert_eq!(planned["reused"].as_u64(), Some(before), "start {number}");
        }
    }
    let before = commits(&output);
    let run = Run::new(&["preprocess", "--json", &config]).run();
    run.expect_code(0);
    let report = &event(&run.stdout, "finished").expect("a report")["report"];
    assert_eq!(report["reused-units"].as_u64(), Some(before));
    assert!(
        before > 0 && before < report["units"].as_u64().expect("units"),
        "{before} units before the last start"
    );
    assert_eq!(digest_of_folder(&output), expected);
    Run::new(&["verify", output.to_str().expect("a path")]).run().expect_code(0);
}

/// On S3 each of twenty outputs is killed once, and all are started again at the same time: a start behind a kill
/// waits until the dead writer's lease has stood still.
#[test]
fn killed_at_twenty_points_on_s3() {
    let (Some(environment), Some(python)) = (s3_environment(), python()) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let corpus = folder.path().join("corpus");
    write_corpus(&corpus, 8);
    let whole = folder.path().join("whole");
    let alone = config(folder.path(), "alone.toml", whole.to_str().expect("a path"), &corpus);
    Run::new(&["preprocess", &alone]).run().expect_code(0);
    let expected = digest_of_folder(&whole);

    let bucket = bucket(&python, "kills");
    let mut draws = Draws(2);
    let configs: Vec<String> = (0..20)
        .map(|number| {
            let output = format!("s3://{bucket}/kills/{number}");
            config(folder.path(), &format!("{number}.toml"), &output, &corpus)
        })
        .collect();
    for config in &configs {
        // The tokenizer, the plan, units.
        let events = 1 + draws.below(8);
        let run = Run::new(&["preprocess", "--json", "--threads", "1", config]).environment(&environment);
        kill_behind(run, events);
    }
    std::thread::scope(|scope| {
        let starts = configs.iter().map(|config| {
            let environment = environment.clone();
            scope.spawn(move || {
                let arguments = ["preprocess", "--json", "--threads", "1", config.as_str()];
                Run::new(&arguments).environment(&environment).run()
            })
        });
        for start in starts.collect::<Vec<_>>() {
            let run = start.join().expect("a run");
            run.expect_code(0);
            let (planned, finished) = (event(&run.stdout, "planned"), event(&run.stdout, "finished"));
            let finished = finished.expect("a report");
            assert_eq!(planned.expect("a plan")["reused"], finished["report"]["reused-units"]);
        }
    });
    let back = folder.path().join("back");
    tool(&python, "download", &[&bucket, "kills", back.to_str().expect("a path")]);
    for number in 0..20 {
        assert_eq!(digest_of_folder(&back.join(number.to_string())), expected, "output {number}");
    }
}

/// Kills a run behind its so many first events.
fn kill_behind(run: Run, events: u64) {
    let mut child = run.spawn_piped();
    let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let seen = stdout.lines().take(events as usize).filter(Result::is_ok).count();
    assert_eq!(seen as u64, events, "it ended before it was killed");
    kill(child);
}

/// A large file is packed in parts: killed in the middle, less than a tenth of it is packed again.
#[test]
fn one_large_file_is_gone_on_with_inside() {
    let folder = tempfile::tempdir().expect("a folder");
    let line = |row: usize| format!("{{\"text\": \"{row} {}\"}}\n", "some more words ".repeat(1 + row % 20));
    let lines: String = (0..3000).map(line).collect();
    let corpus = folder.path().join("corpus");
    fs::create_dir_all(&corpus).expect("a folder");
    fs::write(corpus.join("large.jsonl"), &lines).expect("a file");
    let unit_bytes = lines.len() / 60 + 1;
    let sets = |output: &Path| -> Vec<String> {
        let name = output.file_name().expect("a name").to_str().expect("a path").to_owned();
        let config =
            config(folder.path(), &format!("{name}.toml"), output.to_str().expect("a path"), &corpus);
        let unit = format!("unit-bytes={unit_bytes}");
        ["preprocess", "--json", "--threads", "1", &config, "--set", &unit].map(str::to_owned).to_vec()
    };
    let run = |arguments: &[String]| Run::new(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let (whole, output) = (folder.path().join("whole"), folder.path().join("killed"));
    run(&sets(&whole)).run().expect_code(0);

    let mut child = run(&sets(&output)).spawn();
    while commits(&output) < 30 && child.try_wait().expect("a child").is_none() {
        std::thread::yield_now();
    }
    kill(child);
    let done = commits(&output);
    assert!((30..60).contains(&done), "{done}");
    let again = run(&sets(&output)).run();
    again.expect_code(0);
    let planned = event(&again.stdout, "planned").expect("a plan");
    assert_eq!((planned["units"].as_u64(), planned["reused"].as_u64()), (Some(60), Some(done)));
    // All that is read again is the part that was under way: one of sixty with one thread.
    let left = planned["bytes"].as_u64().expect("bytes") as f64 / lines.len() as f64;
    assert!(
        left <= (60 - done) as f64 / 60.0 + 0.001,
        "{left} of the file is left behind {done} of 60 parts"
    );
    assert_eq!(digest_of_folder(&output), digest_of_folder(&whole));
}

fn small_job(output: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let corpus = folder.path().join("corpus");
    write_corpus(&corpus, 2);
    let config = config(folder.path(), "config.toml", output, &corpus);
    (folder, config)
}

#[test]
fn the_second_of_two_writers_is_refused_on_disk() {
    let place = tempfile::tempdir().expect("a folder");
    let output: PathBuf = place.path().join("out");
    let (_folder, config) = small_job(output.to_str().expect("a path"));
    fs::create_dir_all(&output).expect("a folder");
    let first = fs::File::create(output.join(".lock")).expect("a lock file");
    first.lock().expect("a lock");
    let second = Run::new(&["preprocess", &config]).run();
    second.expect_code(2);
    assert!(second.stderr.contains("another process is writing"), "{}", second.stderr);
    assert!(second.stderr.contains("hint: wait until it is done"), "{}", second.stderr);
    drop(first);
    Run::new(&["preprocess", &config]).run().expect_code(0);
}

#[test]
fn the_second_of_two_writers_is_refused_on_s3() {
    let (Some(environment), Some(python)) = (s3_environment(), python()) else { return };
    let bucket = bucket(&python, "writers");
    let (_folder, config) = small_job(&format!("s3://{bucket}/out"));
    let value = |name: &str| {
        environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).expect("a variable")
    };
    let store = AmazonS3Builder::new()
        .with_endpoint(value("AWS_ENDPOINT_URL"))
        .with_allow_http(true)
        .with_region(value("AWS_REGION"))
        .with_access_key_id(value("AWS_ACCESS_KEY_ID"))
        .with_secret_access_key(value("AWS_SECRET_ACCESS_KEY"))
        .with_bucket_name(&bucket)
        .build()
        .expect("a store");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (begun, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // A writer that lives: its counter goes on.
        scope.spawn(|| {
            for counter in 0.. {
                let lease = format!("{{\"writer\": 1, \"counter\": {counter}}}");
                let path = object_store::path::Path::from("out/lease.json");
                runtime.block_on(store.put(&path, lease.into())).expect("put");
                begun.store(true, Ordering::SeqCst);
                if ended.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        while !begun.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let second = Run::new(&["preprocess", &config]).environment(&environment).run();
        ended.store(true, Ordering::SeqCst);
        second.expect_code(2);
        assert!(second.stderr.contains("another process is writing"), "{}", second.stderr);
        assert!(second.stderr.contains("its lease went from"), "{}", second.stderr);
    });
    let listed =
        runtime.block_on(futures::TryStreamExt::try_collect::<Vec<_>>(store.list(None))).expect("lists");
    assert_eq!(listed.len(), 1, "nothing but the lease is there: {listed:?}");
}
