//! Datasets that grow by versions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::fixtures::{Faults, FaultyStore, Job, config, corpus, documents, files, manifest, rows, texts};
use crate::storage::version::Version;
use crate::{Location, PipelineError, PreprocessConfig, SplitConfig};

fn lines(name: &str, count: usize) -> String {
    let text = |row: usize| "word ".repeat((row * 5 + name.len()) % 17);
    (0..count).map(|row| format!("{{\"text\":\"{name} {row} {}\"}}\n", text(row))).collect()
}

async fn corpus_of(names: &[&str]) -> Arc<dyn ObjectStore> {
    let inputs: Vec<(String, String)> =
        names.iter().map(|name| (format!("in/{name}.jsonl"), lines(name, 30))).collect();
    let borrowed: Vec<_> = inputs.iter().map(|(path, text)| (path.as_str(), text.as_bytes())).collect();
    corpus(&borrowed).await
}

async fn put(store: &Arc<dyn ObjectStore>, name: &str, text: &str) {
    store.put(&Path::from(format!("in/{name}.jsonl")), text.to_owned().into()).await.expect("put");
}

fn job_config() -> PreprocessConfig {
    PreprocessConfig { unit_bytes: 4000, shard_bytes: 1500, ..config(vec![texts("web", "in/*.jsonl")]) }
}

/// The files of `before` are there, byte for byte.
fn assert_untouched(before: &BTreeMap<String, Vec<u8>>, after: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in before {
        assert!(after.get(name) == Some(bytes), "{name} was touched");
    }
}

#[tokio::test]
async fn new_files_make_a_new_version_and_touch_nothing() {
    let inputs = corpus_of(&["b", "d", "f"]).await;
    let job = Job::new(&inputs);
    job.run(job_config()).await.expect("runs");
    let (before, first, old_rows) =
        (files(&job.output).await, Version::newest(&job.output).await, rows(&job.output).await);
    let first = first.expect("reads").expect("a version");
    // One sorts before the old ones, one between them, one behind them.
    for name in ["a", "c", "g"] {
        put(&inputs, name, &lines(name, 30)).await;
    }
    let report = job.run(job_config()).await.expect("adds");
    assert_eq!((report.manifest_name.as_str(), report.added_files), ("manifest-000002.json", 3));
    assert!(!report.already_complete && report.reused_units == 0 && report.units > 0);
    assert_untouched(&before, &files(&job.output).await);

    let second = Version::newest(&job.output).await.expect("reads").expect("a version");
    assert_eq!(second.manifest.parent.as_ref().map(|parent| &parent.checksum), Some(&first.checksum));
    assert!(second.manifest.shards.starts_with(&first.manifest.shards));
    assert!(second.manifest.units.starts_with(&first.manifest.units));
    // Rows keep their numbers.
    assert!(rows(&job.output).await.starts_with(&old_rows));
    let source = &second.manifest.sources[0];
    let names: Vec<&str> = source.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl", "f.jsonl", "g.jsonl"]);
    assert!(source.statistics.is_balanced());
    assert_eq!((source.statistics.read, source.statistics.kept), (180, 180));

    // The very documents that a dataset of all files at once has.
    let whole = Job::new(&inputs);
    whole.run(job_config()).await.expect("runs");
    assert_eq!(documents(&whole.output).await, documents(&job.output).await);

    let after = files(&job.output).await;
    let again = job.run(job_config()).await.expect("is done");
    assert!(again.already_complete);
    assert!(files(&job.output).await == after);
}

#[tokio::test]
async fn a_third_version_goes_on_from_the_second() {
    let inputs = corpus_of(&["b"]).await;
    let job = Job::new(&inputs);
    job.run(job_config()).await.expect("runs");
    for (name, version) in [("a", "manifest-000002.json"), ("c", "manifest-000003.json")] {
        put(&inputs, name, &lines(name, 30)).await;
        let report = job.run(job_config()).await.expect("adds");
        assert_eq!((report.manifest_name.as_str(), report.added_files, report.units), (version, 1, 1));
    }
    assert_eq!(manifest(&job.output).await.sources[0].statistics.read, 90);
}

#[tokio::test]
async fn files_that_changed_or_vanished_are_named() {
    let inputs = corpus_of(&["a", "b", "c"]).await;
    let job = Job::new(&inputs);
    job.run(job_config()).await.expect("runs");
    let before = files(&job.output).await;
    put(&inputs, "a", "{\"text\":\"other\"}\n").await;
    inputs.delete(&Path::from("in/b.jsonl")).await.expect("deleted");
    put(&inputs, "d", &lines("d", 3)).await;
    let error = job.run(job_config()).await.expect_err("changed");
    assert!(matches!(error, PipelineError::InputChanged { count: 2, .. }), "{error}");
    let text = error.to_string();
    for part in [
        "2 input files",
        "`a.jsonl` of source `web` has 17 bytes instead of",
        "`b.jsonl` of source `web` is gone",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(error.hint().expect("a hint").contains("another `output`"));
    assert!(files(&job.output).await == before);
    // Put back as they were, the new one is added.
    put(&inputs, "a", &lines("a", 30)).await;
    put(&inputs, "b", &lines("b", 30)).await;
    assert_eq!(job.run(job_config()).await.expect("adds").added_files, 1);
}

#[tokio::test]
async fn copies_across_versions_are_dropped() {
    let text = |text: &str| format!("{{\"text\":\"{text}\"}}\n");
    let inputs = corpus(&[("in/m.jsonl", ["one", "two", "two"].map(text).concat().as_bytes())]).await;
    let job = Job::new(&inputs);
    let config = PreprocessConfig { deduplicate: true, ..job_config() };
    job.run(config.clone()).await.expect("runs");
    // It sorts before the old file; what is kept already stays.
    put(&inputs, "a", &["two", "three", "one", "three"].map(text).concat()).await;
    job.run(config.clone()).await.expect("adds");
    let kept: Vec<_> = documents(&job.output).await.into_iter().map(|(file, row, _)| (file, row)).collect();
    assert_eq!(kept, [("a.jsonl".to_owned(), 1), ("m.jsonl".to_owned(), 0), ("m.jsonl".to_owned(), 1)]);
    let statistics = manifest(&job.output).await.sources[0].statistics.clone();
    assert_eq!((statistics.read, statistics.kept, statistics.deduplicated), (7, 3, 4));
}

/// A file that comes while the first version is under way changes what is a copy in the units behind it: what was
/// committed with the old list of files is not taken over.
#[tokio::test]
async fn a_file_that_comes_while_a_job_rests_does_not_let_copies_in() {
    let text = |text: &str| format!("{{\"text\":\"{text}\"}}\n");
    let inputs =
        corpus(&[("in/b.jsonl", text("same").as_bytes()), ("in/c.jsonl", text("end").as_bytes())]).await;
    let config = PreprocessConfig { deduplicate: true, unit_bytes: 16, ..job_config() };
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    // job.json, the tokenizer, shard and commit of the first unit.
    let faults = Faults { writes: Some(4), ..Faults::default() };
    let dying = Job {
        output: at(Arc::new(FaultyStore::new(inner.clone(), faults))),
        threads: 1,
        ..Job::new(&inputs)
    };
    dying.run(config.clone()).await.expect_err("stopped");
    put(&inputs, "a", &text("same")).await;
    let again = Job { output: at(inner), ..Job::new(&inputs) };
    again.run(config).await.expect("goes on");
    let kept: Vec<_> = documents(&again.output).await.into_iter().map(|(file, ..)| file).collect();
    assert_eq!(kept, ["a.jsonl", "c.jsonl"]);
}

fn at(store: Arc<dyn ObjectStore>) -> Location {
    Location { store, prefix: Path::from("out/set"), local: None }
}

async fn copied(files: &BTreeMap<String, Vec<u8>>) -> Arc<dyn ObjectStore> {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    for (name, bytes) in files {
        let path = Path::parse(format!("out/set/{name}")).expect("a path");
        store.put(&path, bytes.clone().into()).await.expect("put");
    }
    store
}

/// Stopped at each write of a second version, with a validation dataset beside, and started again: the same bytes.
#[tokio::test]
async fn a_version_stopped_at_any_write_ends_with_the_same_bytes() {
    let inputs = corpus_of(&["b", "d"]).await;
    let config = PreprocessConfig { split: SplitConfig { validation: 0.2 }, ..job_config() };
    let first = Job::new(&inputs);
    first.run(config.clone()).await.expect("runs");
    let before = files(&first.output).await;
    put(&inputs, "a", &lines("a", 30)).await;
    put(&inputs, "c", &lines("c", 30)).await;

    let counting = Arc::new(FaultyStore::new(copied(&before).await, Faults::default()));
    let whole = Job { output: at(counting.clone()), threads: 1, ..Job::new(&inputs) };
    whole.run(config.clone()).await.expect("adds");
    let expected = files(&whole.output).await;
    assert!(expected.contains_key("validation/manifest-000002.json"));
    let writes = counting.writes.load(Ordering::SeqCst);
    assert!(writes > 6, "{writes}");
    for stop in 0..writes {
        let inner = copied(&before).await;
        let faults = Faults { writes: Some(stop), ..Faults::default() };
        let output = at(Arc::new(FaultyStore::new(inner.clone(), faults)));
        let dying = Job { output, threads: 1, ..Job::new(&inputs) };
        dying.run(config.clone()).await.expect_err("stopped");
        let again = Job { output: at(inner), ..Job::new(&inputs) };
        again.run(config.clone()).await.expect("goes on");
        assert!(files(&again.output).await == expected, "stopped at {stop}");
    }
}

/// The validation dataset got a version whose dataset never came: the next start builds on what the dataset has.
#[tokio::test]
async fn a_validation_version_without_its_dataset_is_passed_over() {
    let inputs = corpus_of(&["b"]).await;
    let config = PreprocessConfig { split: SplitConfig { validation: 0.5 }, ..job_config() };
    let first = Job::new(&inputs);
    first.run(config.clone()).await.expect("runs");
    put(&inputs, "c", &lines("c", 30)).await;
    let second = Job { output: at(copied(&files(&first.output).await).await), ..Job::new(&inputs) };
    second.run(config.clone()).await.expect("adds");
    // As after a kill between the two manifests, and with other new files at the next start.
    second.output.store.delete(&Path::from("out/set/manifest-000002.json")).await.expect("deleted");
    put(&inputs, "d", &lines("d", 30)).await;
    second.run(config.clone()).await.expect("adds");
    let validation = second.output.child("validation");
    let version = Version::newest(&validation).await.expect("reads").expect("a version");
    assert_eq!(version.number, 3);
    let main = manifest(&second.output).await;
    let names = |manifest: &schemas::Manifest| -> Vec<String> {
        manifest.units.iter().map(|unit| unit.unit.clone()).collect()
    };
    assert_eq!(names(&version.manifest), names(&main));
    assert_eq!(main.statistics.documents + version.manifest.statistics.documents, 90);
}

/// A large file that was packed in parts stays as it is, and its lines keep their numbers.
#[tokio::test]
async fn parts_of_a_large_file_are_settled() {
    let inputs = corpus_of(&["b"]).await;
    let job = Job::new(&inputs);
    let config = PreprocessConfig { unit_bytes: 300, ..job_config() };
    let report = job.run(config.clone()).await.expect("runs");
    assert!(report.units > 3);
    put(&inputs, "a", &lines("a", 30)).await;
    let report = job.run(config).await.expect("adds");
    assert_eq!(report.added_files, 1);
    let found: BTreeSet<_> =
        documents(&job.output).await.into_iter().map(|(file, row, _)| (file, row)).collect();
    let expected =
        ["a.jsonl", "b.jsonl"].into_iter().flat_map(|file| (0..30).map(|row| (file.to_owned(), row)));
    assert_eq!(found, expected.collect());
    let units = manifest(&job.output).await.units;
    assert!(units.iter().all(|unit| unit.part.is_some()), "{units:?}");
}
