//! Jobs that are stopped and started again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::fixtures::{Faults, FaultyStore, Job, config, corpus, disk_output, files, texts};
use crate::{Event, Location, Observer, PipelineError, PreprocessConfig, Silent, preprocess};

async fn corpus_of_units() -> (Arc<dyn ObjectStore>, PreprocessConfig) {
    let file = |file: usize| {
        let text = |row: usize| "word ".repeat((row * 5 + file) % 17);
        (0..30).map(|row| format!("{{\"text\":\"{file} {row} {}\"}}\n", text(row))).collect::<String>()
    };
    let inputs: Vec<(String, String)> = (0..4).map(|name| (format!("in/{name}.jsonl"), file(name))).collect();
    let borrowed: Vec<_> = inputs.iter().map(|(path, text)| (path.as_str(), text.as_bytes())).collect();
    let mut config = config(vec![texts("web", "in/*.jsonl")]);
    // Each file is a unit.
    config.unit_bytes = 2500;
    config.shard_bytes = 1500;
    (corpus(&borrowed).await, config)
}

fn at(store: Arc<dyn ObjectStore>) -> Location {
    Location { store, prefix: Path::from("out/set"), local: None }
}

/// Stopped at each write in turn, by a store that takes no more, and started again: the same bytes.
#[tokio::test]
async fn stopped_at_any_write_the_job_ends_with_the_same_bytes() {
    let (inputs, config) = corpus_of_units().await;
    let whole = Job { threads: 1, ..Job::new(&inputs) };
    let counting = Arc::new(FaultyStore::new(whole.output.store.clone(), Faults::default()));
    let counted = Job { output: at(counting.clone()), ..whole };
    counted.run(config.clone()).await.expect("runs");
    let expected = files(&counted.output).await;
    let writes = counting.writes.load(Ordering::SeqCst);
    // job.json, the tokenizer, a shard and a commit of each of four units, the manifest.
    assert_eq!(writes, 11);
    for stop in 0..writes {
        let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let faults = Faults { writes: Some(stop), ..Faults::default() };
        let dying = Job {
            output: at(Arc::new(FaultyStore::new(inner.clone(), faults))),
            threads: 1,
            ..Job::new(&inputs)
        };
        dying.run(config.clone()).await.expect_err("stopped");
        let again = Job { output: at(inner), threads: 2, ..Job::new(&inputs) };
        again.run(config.clone()).await.expect("goes on");
        let found = files(&again.output).await;
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>(),
            "stopped at {stop}"
        );
        assert!(found == expected, "stopped at {stop}");
    }
}

struct StopAfter {
    units: usize,
    done: std::sync::atomic::AtomicUsize,
    stop: crate::Stop,
}

impl Observer for StopAfter {
    fn event(&self, event: Event) {
        if matches!(event, Event::UnitDone { .. })
            && self.done.fetch_add(1, Ordering::SeqCst) + 1 == self.units
        {
            self.stop.set();
        }
    }
}

#[tokio::test]
async fn told_to_stop_it_keeps_what_is_done_and_goes_on() {
    let (inputs, config) = corpus_of_units().await;
    let folder = tempfile::tempdir().expect("a folder");
    let job = Job { output: disk_output(folder.path()), threads: 1, ..Job::new(&inputs) };
    let environment = job.environment();
    let observer = StopAfter { units: 2, done: 0.into(), stop: environment.stop.clone() };
    let plan = crate::PreprocessPlan::try_new(config.clone(), environment).await.expect("a plan");
    let error = preprocess(plan, Arc::new(observer)).await.expect_err("stopped");
    assert!(matches!(error, PipelineError::Stopped { done: 2, total: 4 }), "{error}");
    let report = job.run(config.clone()).await.expect("goes on");
    assert_eq!((report.units, report.reused_units, report.already_complete), (4, 2, false));
    let report = job.run(config).await.expect("is done");
    assert!(report.already_complete && report.added_files == 0);
}

#[tokio::test]
async fn another_configuration_on_the_output_is_refused_by_its_key() {
    let (inputs, config) = corpus_of_units().await;
    let job = Job::new(&inputs);
    job.run(config.clone()).await.expect("runs");
    let error = job.run(PreprocessConfig { seed: 7, ..config.clone() }).await.expect_err("refused");
    assert!(matches!(&error, PipelineError::OtherConfig { key, .. } if key == "seed"), "{error}");
    let mut other = config;
    other.sources[0].filter = Some("text is not null".to_owned());
    let error = job.run(other).await.expect_err("refused");
    assert!(matches!(&error, PipelineError::OtherConfig { key, .. } if key == "source.0.where"), "{error}");
}

#[tokio::test]
async fn a_second_writer_is_refused_on_disk() {
    let (inputs, config) = corpus_of_units().await;
    let folder = tempfile::tempdir().expect("a folder");
    let job = Job { output: disk_output(folder.path()), ..Job::new(&inputs) };
    let silent: Arc<dyn Observer> = Arc::new(Silent);
    let lock = crate::storage::lease::Lease::acquire(&job.output, std::time::Duration::from_secs(1), &silent);
    let lock = lock.await.expect("free");
    let error = job.run(config.clone()).await.expect_err("refused");
    assert!(matches!(error, PipelineError::Busy { .. }), "{error}");
    assert!(error.hint().is_some());
    drop(lock);
    job.run(config).await.expect("free again");
}
