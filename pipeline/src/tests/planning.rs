//! What planning reads: as much of a large corpus as of a small one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use object_store::ObjectStore;

use super::fixtures::{Faults, FaultyStore, Job, archive, config, corpus, documents, files, pairs, texts};
use crate::{
    ColumnType, Event, Observer, PipelineError, PreprocessConfig, SourceConfig, Stop, TokenizerConfig,
    TrainTokenizer, preprocess,
};

const MIB: usize = 1 << 20;

/// A store that counts what is read of it.
async fn counting(inputs: &[(&str, &[u8])]) -> (Arc<FaultyStore>, Arc<dyn ObjectStore>) {
    let store = Arc::new(FaultyStore::new(corpus(inputs).await, Faults::default()));
    (store.clone(), store)
}

fn read(store: &FaultyStore) -> u64 {
    store.read_bytes.swap(0, Ordering::SeqCst)
}

/// So many MiB of lines of a MiB each; the last one is `last`.
fn lines(mebibytes: usize, last: &str) -> Vec<u8> {
    let line = format!("{{\"text\":\"{}\",\"late\":null}}\n", "a".repeat(MIB - 24));
    [line.repeat(mebibytes).as_bytes(), last.as_bytes()].concat()
}

/// A misspelt name used to be looked for to the end of the corpus.
#[tokio::test]
async fn a_column_is_looked_for_in_a_bounded_part() {
    let members: Vec<(String, Vec<u8>)> =
        (0..90).map(|key| (format!("{key:03}.txt"), vec![b'a'; MIB])).collect();
    let members: Vec<(&str, &[u8])> =
        members.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    let csv = format!("text,other\n{}", format!("{},b\n", "a".repeat(MIB - 4)).repeat(90));
    for (name, bytes) in
        [("in/a.jsonl", lines(90, "")), ("in/a.tar", archive(&members)), ("in/a.csv", csv.into())]
    {
        let (store, inputs) = counting(&[(name, &bytes)]).await;
        let misspelt = SourceConfig { text: Some("txet".to_owned()), ..texts("web", name) };
        let error = Job::new(&inputs).plan(config(vec![misspelt])).await.expect_err("no such column");
        let said = error.to_string();
        assert!(
            said.starts_with("source `web` has no column `txet` in the first 64 MiB of its rows"),
            "{said}"
        );
        assert!(error.hint().expect("a hint").contains("types = { txet = \"varchar\" }"), "{error:?}");
        // The tokenizer and the names of a CSV file are read too.
        let found = read(&store);
        assert!(found < 70 * MIB as u64, "{found} bytes of `{name}`");
    }
}

#[tokio::test]
async fn a_column_that_comes_late_has_the_type_that_is_given() {
    let bytes = lines(66, "{\"text\":\"end\",\"late\":\"7\",\"new\":\"words\"}\n");
    let (store, inputs) = counting(&[("in/a.jsonl", &bytes)]).await;
    let job = Job::new(&inputs);
    let typed = |column: &str| {
        let types = BTreeMap::from([(column.to_owned(), ColumnType::Varchar)]);
        let text = Some(column.to_owned());
        let filter = Some(format!("{column} is not null"));
        SourceConfig { types, text, filter, ..texts("web", "in/a.jsonl") }
    };
    for (column, expected) in [("late", "7"), ("new", "words")] {
        let job = Job::new(&inputs);
        job.run(config(vec![typed(column)])).await.expect("runs");
        let found = documents(&job.output).await;
        assert_eq!(found, [("a.jsonl".to_owned(), 66, expected.to_owned())], "{column}");
    }
    read(&store);
    let untyped = SourceConfig { types: BTreeMap::new(), ..typed("late") };
    let error = job.plan(config(vec![untyped])).await.expect_err("no type");
    assert!(matches!(&error, PipelineError::UnknownType { column, .. } if column == "late"), "{error}");
    assert!(error.hint().expect("a hint").contains("types = { late = \"varchar\" }"), "{error:?}");
    assert!(read(&store) < 140 * MIB as u64);
}

/// A type for a column that the whole source has not is a slip of the pen.
#[tokio::test]
async fn a_type_of_no_column_is_refused_where_all_was_looked_at() {
    let inputs = corpus(&[("in/a.jsonl", b"{\"text\":\"x\"}\n")]).await;
    let types = BTreeMap::from([("txet".to_owned(), ColumnType::Varchar)]);
    let source = SourceConfig { types, ..texts("web", "in/a.jsonl") };
    let error = Job::new(&inputs).plan(config(vec![source])).await.expect_err("no such column");
    assert!(matches!(&error, PipelineError::NoColumn { column, .. } if column == "txet"), "{error}");
}

/// Stops a job behind so many units.
struct StopBehind(std::sync::atomic::AtomicUsize, Stop);

impl Observer for StopBehind {
    fn event(&self, event: Event) {
        if matches!(event, Event::UnitDone { .. }) && self.0.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.1.set();
        }
    }
}

/// Lines of a large file used to be counted whenever a job was planned.
#[tokio::test]
async fn lines_are_counted_when_they_are_read_and_once() {
    let line = |row: usize| format!("{{\"text\":\"{row} {}\"}}\n", "some more words ".repeat(40 + row % 9));
    let lines: String = (0..12_000).map(line).collect();
    let size = lines.len() as u64;
    let (store, inputs) = counting(&[("in/a.jsonl", lines.as_bytes())]).await;
    let whole = Job::new(&inputs);
    whole.run(config(vec![texts("web", "in/a.jsonl")])).await.expect("runs");
    let cut = PreprocessConfig { unit_bytes: 200_000, ..config(vec![texts("web", "in/a.jsonl")]) };
    let job = Job { threads: 1, ..Job::new(&inputs) };
    let environment = job.environment();
    let observer = Arc::new(StopBehind(40.into(), environment.stop.clone()));
    let plan = crate::PreprocessPlan::try_new(cut.clone(), environment).await.expect("a plan");
    preprocess(plan, observer).await.expect_err("stopped");
    let commits = files(&job.output).await;
    let counted = commits.iter().filter(|(name, bytes)| {
        name.starts_with("commits/") && String::from_utf8_lossy(bytes).contains("\"first_row\"")
    });
    assert_eq!(counted.count(), 39, "all but the first");
    read(&store);
    job.run(cut).await.expect("goes on");
    // The columns, which may fetch the whole file ahead, the last parts, and the lines of one part for each of them; not
    // the lines of the 40 before.
    let again = read(&store);
    assert!(again < size + 2 * size / 3, "{again} bytes of {size}");
    assert_eq!(documents(&job.output).await, documents(&whole.output).await);
}

#[tokio::test]
async fn a_tokenizer_learns_the_same_from_units_side_by_side() {
    let lines = |file: usize| -> String {
        (0..50).map(|row| format!("{{\"text\":\"{file} {row} {}\"}}\n", "word ".repeat(row % 7))).collect()
    };
    let inputs: Vec<(String, String)> =
        (0..20).map(|file| (format!("in/{file}.jsonl"), lines(file))).collect();
    let mut inputs: Vec<(&str, &[u8])> =
        inputs.iter().map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
    let captions: &[u8] = b"{\"caption\":[\"one of\",\"several\"],\"file_name\":\"absent.png\"}\n";
    inputs.push(("pics/captions.jsonl", captions));
    let inputs = corpus(&inputs).await;
    let train = Some(TrainTokenizer { vocabulary: 300, sample_bytes: 1 << 20 });
    let config = PreprocessConfig {
        tokenizer: TokenizerConfig { train, ..TokenizerConfig::default() },
        unit_bytes: 700,
        max_reject_share: 1.0,
        ..config(vec![texts("web", "in/*.jsonl"), pairs("pics", "pics")])
    };
    let mut expected = None;
    for threads in [1, 7] {
        let job = Job { threads, ..Job::new(&inputs) };
        job.run(config.clone()).await.expect("runs");
        let tokenizer = files(&job.output).await.remove("tokenizer.json").expect("a tokenizer");
        assert!(*expected.get_or_insert_with(|| tokenizer.clone()) == tokenizer, "{threads} threads");
    }
}
