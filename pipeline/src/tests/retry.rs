//! Refused rows that are run again.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::fixtures::{
    Faults, FaultyStore, Job, config, corpus, documents, files, manifest, pairs, png, reject_lines, rejects,
};
use crate::{PipelineError, PreprocessConfig};

/// Ten pairs; the pictures 2, 5 and 7 lie in a folder of their own.
fn picture(row: u8) -> String {
    if [2, 5, 7].contains(&row) { format!("late/p {row}.png") } else { format!("p {row}.png") }
}

fn table() -> String {
    let line = |row: u8| format!("{{\"file_name\":\"{}\",\"caption\":\"caption {row}\"}}\n", picture(row));
    (0..10).map(line).collect()
}

async fn inputs(with: impl Fn(u8) -> bool) -> Arc<dyn ObjectStore> {
    let pictures: Vec<(String, Vec<u8>)> = (0..10_u8)
        .filter(|row| with(*row))
        .map(|row| (format!("in/{}", picture(row)), png(20, 20, [row * 20, 0, 0])))
        .collect();
    let table = table();
    let mut all: Vec<(&str, &[u8])> = vec![("in/captions.jsonl", table.as_bytes())];
    all.extend(pictures.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())));
    corpus(&all).await
}

fn job_config() -> PreprocessConfig {
    config(vec![pairs("pics", "in/captions.jsonl")])
}

/// Of ten rows three fail because the store does; the second run does these three and no other.
#[tokio::test]
async fn only_rows_that_may_pass_are_run_again() {
    let inner = inputs(|_| true).await;
    let failing = Faults { failing: Some("late/"), ..Faults::default() };
    let faulty: Arc<dyn ObjectStore> = Arc::new(FaultyStore::new(inner.clone(), failing));
    let job = Job::new(&faulty);
    let report = job.run(job_config()).await.expect("runs");
    assert_eq!(report.sources[0].statistics.rejects, [("io".to_owned(), 3)].into());
    let refused = reject_lines(&job.output).await;
    assert_eq!(refused.iter().map(|line| line.row).collect::<Vec<_>>(), [2, 5, 7]);
    assert_eq!(refused[0].detail, "`late/p 2.png` can't be read: the store failed, after all retries");
    assert_eq!(refused[0].excerpt.as_deref(), Some("late/p 2.png"));
    let before = files(&job.output).await;

    let watched = Arc::new(FaultyStore::new(inner, Faults::default()));
    let as_store: Arc<dyn ObjectStore> = watched.clone();
    let again = Job { output: job.output.clone(), ..Job::new(&as_store) };
    let report = again.retry(job_config()).await.expect("runs");
    let retried = report.retried.expect("rows were run again");
    assert_eq!((retried.rows, retried.passed, retried.rejected), (3, 3, 0));
    let mut read: Vec<String> = watched.read_paths.lock().expect("a lock").clone();
    read.retain(|path| path.ends_with(".png"));
    read.sort();
    assert_eq!(read, ["in/late/p 2.png", "in/late/p 5.png", "in/late/p 7.png"]);

    assert_eq!(report.manifest_name, "manifest-000002.json");
    let statistics = &report.sources[0].statistics;
    assert!(statistics.is_balanced() && statistics.rejects.is_empty());
    assert_eq!((statistics.read, statistics.kept, statistics.documents, statistics.images), (10, 10, 10, 10));
    let after = files(&job.output).await;
    assert!(before.iter().all(|(name, bytes)| after.get(name) == Some(bytes)), "old files are untouched");
    let rows: Vec<u64> = documents(&job.output).await.into_iter().map(|(_, row, _)| row).collect();
    assert_eq!(rows, (0..10).collect::<Vec<_>>());

    // Nothing is left to be done.
    let report = again.retry(job_config()).await.expect("runs");
    assert!(report.already_complete && report.retried.expect("a report").rows == 0);
    assert!(again.run(job_config()).await.expect("is done").already_complete);
    assert!(files(&job.output).await == after);
}

#[tokio::test]
async fn rows_that_fail_again_are_left_for_the_next_time() {
    let inputs = inputs(|row| ![2, 5, 7].contains(&row)).await;
    let job = Job::new(&inputs);
    job.run(job_config()).await.expect("runs");
    let before = files(&job.output).await;
    let report = job.retry(job_config()).await.expect("runs");
    let retried = report.retried.expect("a report");
    assert_eq!((retried.rows, retried.passed, retried.rejected), (3, 0, 3));
    assert!(report.already_complete);
    assert!(files(&job.output).await == before, "nothing that was in vain is remembered");

    // One comes, then one that is broken, then the last.
    let put = async |row: u8, bytes: Vec<u8>| {
        let path = Path::parse(format!("in/{}", picture(row))).expect("a path");
        inputs.put(&path, bytes.into()).await.expect("put");
    };
    put(5, png(20, 20, [1, 2, 3])).await;
    let report = job.retry(job_config()).await.expect("runs");
    let retried = report.retried.expect("a report");
    assert_eq!((retried.rows, retried.passed, retried.rejected), (3, 1, 2));
    assert_eq!(report.sources[0].statistics.rejects, [("missing_image".to_owned(), 2)].into());

    put(2, b"no picture".to_vec()).await;
    let report = job.retry(job_config()).await.expect("runs");
    let retried = report.retried.expect("a report");
    assert_eq!((retried.rows, retried.passed, retried.rejected), (2, 0, 2));
    let expected = [("image_undecodable".to_owned(), 1), ("missing_image".to_owned(), 1)];
    assert_eq!(report.sources[0].statistics.rejects, expected.into());

    put(7, png(20, 20, [1, 2, 3])).await;
    let report = job.retry(job_config()).await.expect("runs");
    assert_eq!(report.retried.expect("a report").rows, 1);
    let statistics = &report.sources[0].statistics;
    assert_eq!((statistics.read, statistics.kept, statistics.rejected), (10, 9, 1));
    assert!(statistics.is_balanced());
    assert_eq!(manifest(&job.output).await.parent.expect("a parent").name, "manifest-000003.json");
}

/// New input is left alone by a retry, and rows that were run again stay what they are when it is added.
#[tokio::test]
async fn a_retry_and_new_files_don_t_disturb_each_other() {
    let inputs = inputs(|row| row != 5).await;
    let config = config(vec![pairs("pics", "in/*.jsonl")]);
    let job = Job::new(&inputs);
    job.run(config.clone()).await.expect("runs");
    let more =
        "{\"file_name\":\"p 0.png\",\"caption\":\"more\"}\n{\"file_name\":\"gone.png\",\"caption\":\"x\"}\n";
    inputs.put(&Path::from("in/a.jsonl"), more.into()).await.expect("put");
    inputs
        .put(&Path::parse("in/late/p 5.png").expect("a path"), png(20, 20, [9, 9, 9]).into())
        .await
        .expect("put");
    let report = job.retry(config.clone()).await.expect("runs");
    assert_eq!(
        (report.retried.expect("a report").passed, report.waiting_files, report.added_files),
        (1, 1, 0)
    );
    let report = job.run(config.clone()).await.expect("adds");
    assert_eq!((report.added_files, report.statistics.documents), (1, 11));
    let report = job.retry(config).await.expect("runs");
    assert_eq!(report.retried.expect("a report").rows, 1);
    assert_eq!(report.sources[0].statistics.rejects, [("missing_image".to_owned(), 1)].into());
}

/// A large table that was read in parts: the rows are found by their numbers, in the part that refused them.
#[tokio::test]
async fn rows_of_a_part_are_run_again() {
    let inner = inputs(|_| true).await;
    let failing = Faults { failing: Some("late/"), ..Faults::default() };
    let faulty: Arc<dyn ObjectStore> = Arc::new(FaultyStore::new(inner.clone(), failing));
    let config = PreprocessConfig { unit_bytes: 150, ..job_config() };
    let job = Job::new(&faulty);
    let report = job.run(config.clone()).await.expect("runs");
    assert!(report.units > 2);
    let again = Job { output: job.output.clone(), ..Job::new(&inner) };
    let report = again.retry(config).await.expect("runs");
    assert_eq!(report.retried.expect("a report").passed, 3);
    let kept: Vec<_> = documents(&job.output).await.into_iter().map(|(_, row, text)| (row, text)).collect();
    let expected = |row: u64| [format!("#caption {row}"), format!("caption {row}#")];
    assert_eq!(kept.len(), 10);
    assert!(
        kept.iter()
            .enumerate()
            .all(|(index, (row, text))| { *row == index as u64 && expected(*row).contains(text) })
    );
}

/// A Parquet file that names pictures by path.
#[tokio::test]
async fn rows_of_parquet_are_run_again() {
    let pictures: Vec<String> = (0..10).map(picture).collect();
    let captions: Vec<String> = (0..10).map(|row| format!("caption {row}")).collect();
    let columns: [(&str, ArrayRef); 2] = [
        ("file_name", Arc::new(StringArray::from(pictures))),
        ("caption", Arc::new(StringArray::from(captions))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("a batch");
    let mut writer =
        datafusion::parquet::arrow::ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("written");
    let parquet = writer.into_inner().expect("a file");
    let inner = inputs(|_| true).await;
    inner.put(&Path::from("in/t.parquet"), parquet.into()).await.expect("put");
    let failing = Faults { failing: Some("late/"), ..Faults::default() };
    let faulty: Arc<dyn ObjectStore> = Arc::new(FaultyStore::new(inner.clone(), failing));
    let config = config(vec![pairs("pics", "in/t.parquet")]);
    let job = Job::new(&faulty);
    job.run(config.clone()).await.expect("runs");
    assert_eq!(rejects(&job.output).await.iter().map(|reject| reject.1).collect::<Vec<_>>(), [2, 5, 7]);
    let watched = Arc::new(FaultyStore::new(inner, Faults::default()));
    let as_store: Arc<dyn ObjectStore> = watched.clone();
    let again = Job { output: job.output.clone(), ..Job::new(&as_store) };
    assert_eq!(again.retry(config).await.expect("runs").retried.expect("a report").passed, 3);
    let read =
        watched.read_paths.lock().expect("a lock").iter().filter(|path| path.ends_with(".png")).count();
    assert_eq!(read, 3);
    assert_eq!(documents(&job.output).await.len(), 10);
}

/// A row that is run again may be a copy of one that was kept meanwhile, and a row that is still refused is no
/// original that others could be copies of.
#[tokio::test]
async fn copies_are_known_to_rows_that_are_run_again() {
    let table = "{\"file_name\":\"late/a.png\",\"caption\":\"same\"}\n{\"file_name\":\"b.png\",\"caption\":\"same\"}\n";
    let picture = png(20, 20, [1, 2, 3]);
    let inner = corpus(&[
        ("in/captions.jsonl", table.as_bytes()),
        ("in/b.png", &picture),
        ("in/late/a.png", &picture),
    ])
    .await;
    let failing = Faults { failing: Some("late/"), ..Faults::default() };
    let faulty: Arc<dyn ObjectStore> = Arc::new(FaultyStore::new(inner.clone(), failing));
    let config = PreprocessConfig { deduplicate: true, ..job_config() };
    let job = Job::new(&faulty);
    let report = job.run(config.clone()).await.expect("runs");
    assert_eq!((report.sources[0].statistics.kept, report.sources[0].statistics.rejected), (1, 1));
    let again = Job { output: job.output.clone(), ..Job::new(&inner) };
    let report = again.retry(config).await.expect("runs");
    let statistics = &report.sources[0].statistics;
    assert_eq!(
        (statistics.read, statistics.kept, statistics.rejected, statistics.deduplicated),
        (2, 1, 0, 1)
    );
    assert_eq!(report.retried.expect("a report").passed, 1);
}

#[tokio::test]
async fn a_dataset_that_is_not_finished_has_nothing_to_run_again() {
    let job = Job::new(&inputs(|_| true).await);
    let error = job.retry(job_config()).await.expect_err("not finished");
    assert!(matches!(error, PipelineError::NotFinished { .. }), "{error}");
    assert!(error.hint().expect("a hint").contains("without `--retry-rejects`"));
    assert!(files(&job.output).await.is_empty());
}
