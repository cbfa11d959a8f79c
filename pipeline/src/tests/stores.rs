//! The same job on other stores, with other threads, with other listings: the same bytes.

use std::sync::Arc;

use super::fixtures::{
    Faults, FaultyStore, Job, config, corpus, disk_output, files, memory_output, pairs, png, texts,
};
use crate::{PreprocessConfig, SplitConfig};

fn lines(file: usize) -> Vec<u8> {
    let text = |row: usize| "word ".repeat((row * 7 + file * 3) % 23);
    (0..40).map(|row| format!("{{\"text\":\"{file} {row} {}\"}}\n", text(row))).collect::<String>().into()
}

/// Several units of texts and of pairs, with rejects.
async fn mixed() -> (Arc<dyn object_store::ObjectStore>, PreprocessConfig) {
    let mut inputs: Vec<(String, Vec<u8>)> =
        (0..5).map(|file| (format!("in/{file}.jsonl"), lines(file))).collect();
    let mut table = String::new();
    for row in 0..23_u8 {
        inputs.push((format!("img/p {row}.png"), png(20 + u32::from(row), 24, [row * 10, 100, 200])));
        table.push_str(&format!("{{\"file_name\":\"p {row}.png\",\"caption\":\"c {row}\"}}\n"));
    }
    table.push_str("{\"file_name\":\"absent.png\",\"caption\":\"x\"}\n");
    inputs.push(("img/captions.jsonl".to_owned(), table.into_bytes()));
    let borrowed: Vec<_> = inputs.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    let mut config = config(vec![texts("web", "in/*.jsonl"), pairs("pictures", "img/captions.jsonl")]);
    config.unit_bytes = 3000;
    config.shard_bytes = 4000;
    config.split = SplitConfig { validation: 0.1 };
    (corpus(&borrowed).await, config)
}

#[tokio::test]
async fn bytes_do_not_depend_on_threads() {
    let (inputs, config) = mixed().await;
    let mut expected = None;
    for threads in [1, 2, 8] {
        let job = Job { threads, ..Job::new(&inputs) };
        let report = job.run(config.clone()).await.expect("runs");
        assert!(report.units > 3, "{}", report.units);
        let found = files(&job.output).await;
        assert_eq!(expected.get_or_insert_with(|| found.clone()), &found, "{threads} threads");
    }
}

#[tokio::test]
async fn bytes_do_not_depend_on_the_order_of_listings_nor_on_the_codec_batch() {
    let (inputs, config) = mixed().await;
    let first = Job::new(&inputs);
    first.run(config.clone()).await.expect("runs");
    let backwards = Faults { backwards: true, ..Faults::default() };
    let second =
        Job::new(&(Arc::new(FaultyStore::new(inputs, backwards)) as Arc<dyn object_store::ObjectStore>));
    second.run(config).await.expect("runs");
    assert_eq!(files(&first.output).await, files(&second.output).await);
}

#[tokio::test]
async fn memory_and_disk_give_the_same_bytes() {
    let (inputs, config) = mixed().await;
    let first = Job::new(&inputs);
    first.run(config.clone()).await.expect("runs");
    let folder = tempfile::tempdir().expect("a folder");
    let second = Job { output: disk_output(folder.path()), ..Job::new(&inputs) };
    second.run(config).await.expect("runs");
    assert_eq!(files(&first.output).await, files(&second.output).await);
    assert!(!folder.path().join("out/.unfinished").exists(), "nothing unfinished is left");
}

/// A store that fails every third read: each range is asked for again.
#[tokio::test]
async fn reads_that_fail_now_and_then_are_repeated() {
    let (inputs, config) = mixed().await;
    let first = Job::new(&inputs);
    let config = PreprocessConfig { codec: None, sources: vec![config.sources[0].clone()], ..config };
    first.run(config.clone()).await.expect("runs");
    let faults = Faults { every_read: Some(3), ..Faults::default() };
    let faulty = FaultyStore::new(inputs.clone(), faults);
    let second = Job {
        output: memory_output(),
        ..Job::new(&(Arc::new(faulty) as Arc<dyn object_store::ObjectStore>))
    };
    // The tokenizer is read once, outside the ranges.
    let plan = loop {
        if let Ok(plan) = second.plan(config.clone()).await {
            break plan;
        }
    };
    crate::preprocess(plan, Arc::new(crate::Silent)).await.expect("runs");
    assert_eq!(files(&first.output).await, files(&second.output).await);
}
