//! Documents that are far longer than a row, and what a job reserves for them.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use proptest::prelude::*;

use super::fixtures::{Job, byte_tokenizer, config, corpus, files, manifest, rows, texts};
use crate::job::bpe;
use crate::operators::runtime::Runtime;
use crate::{PackingMethod, PipelineError, PreprocessConfig, SourceConfig, TextSplit};

/// Words of changing length, with escapes where they stand in JSON.
fn book(bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 64);
    let mut word = 0_u64;
    while text.len() < bytes {
        word += 1;
        text.push_str(&format!("{} \"q{}\" ", "lorem".repeat(1 + (word % 3) as usize), word * 7919 % 1000));
        if word.is_multiple_of(40) {
            text.push_str("\n\té");
        }
    }
    text
}

fn with_bpe(sources: Vec<SourceConfig>) -> PreprocessConfig {
    PreprocessConfig { context: 512, window: 8, ..config(sources) }
}

/// A corpus whose tokenizer has words, so that a long text comes in parts.
async fn corpus_with_words(files: &[(&str, &[u8])]) -> Arc<dyn object_store::ObjectStore> {
    let inputs = corpus(files).await;
    let tokenizer = bpe::train([book(20_000)], 400).expect("a tokenizer");
    inputs.put(&Path::from("tokenizer.json"), tokenizer.into()).await.expect("put");
    inputs
}

/// One line of 24 MB among short ones: nothing of it is lost, and what is held does not grow with it.
#[tokio::test]
async fn a_document_far_longer_than_a_row_is_packed_within_a_constant_memory() {
    let text = book(24 << 20);
    let line = |text: &str| format!("{}\n", serde_json::json!({"id": "x", "text": text}));
    let lines = [line("before"), line(&text), line("behind")].concat();
    let inputs = corpus_with_words(&[("in/a.jsonl", lines.as_bytes())]).await;
    let job = Job::new(&inputs);
    let report = job.run(with_bpe(vec![texts("book", "in/a.jsonl")])).await.expect("runs");
    let bytes = inputs.get(&Path::from("tokenizer.json")).await.expect("there").bytes().await.expect("read");
    let tokenizer = schemas::Tokenizer::from_bytes(&bytes).expect("a tokenizer");
    let expected: usize =
        ["before", &text, "behind"].map(|text| tokenizer.encode(text).len() + 2).iter().sum();
    assert_eq!(report.statistics.tokens, expected as u64, "tokens out are tokens in");
    assert_eq!((report.statistics.documents, report.sources[0].statistics.kept), (3, 3));
    let longest = report.sources[0].statistics.document_length.buckets.keys().next_back().copied();
    assert_eq!(longest, Some(1 << (expected as u64).ilog2()), "the whole text is one document");

    let mut found = Vec::new();
    for (row, _) in rows(&job.output).await {
        for (index, range) in row.documents() {
            if row.sources()[index].row == 1 {
                found.push((row.sources()[index].first_token, row.tokens()[range].to_vec()));
            }
        }
    }
    found.sort();
    let mut position = 0;
    for (first, tokens) in &found {
        assert_eq!(*first, position, "no token is missing before");
        position += tokens.len() as u64;
    }
    let found: Vec<u32> = found.into_iter().flat_map(|(_, tokens)| tokens).collect();
    assert!(found[1..found.len() - 1] == tokenizer.encode(&text)[..], "the ids are those of the whole text");

    // While it grows a large row holds all that a row may have; then no more than the line itself.
    let ceiling = (256 << 20) + (96 << 20);
    assert!(report.peak_memory <= ceiling, "{} bytes were reserved", report.peak_memory);
}

/// The same document as a file of text, in a validation set, several times, and with the other packing: always whole.
#[tokio::test]
async fn a_long_text_is_whole_wherever_it_goes() {
    let text = book(3 << 20);
    let inputs = corpus_with_words(&[("in/a.txt", text.as_bytes()), ("in/b.txt", b"short")]).await;
    let mut counts = Vec::new();
    for (packing, weight, validation) in [
        (PackingMethod::BestFit, 1.0, 0.0),
        (PackingMethod::Sequence, 3.0, 0.0),
        (PackingMethod::BestFit, 1.0, 1.0),
    ] {
        let source = SourceConfig { weight, document: TextSplit::File, ..texts("book", "in/*.txt") };
        let mut config = PreprocessConfig { packing, ..with_bpe(vec![source]) };
        config.split.validation = validation;
        let job = Job::new(&inputs);
        let report = job.run(config).await.expect("runs");
        let all = report.validation.filter(|_| validation > 0.0).unwrap_or(report.statistics);
        counts.push((all.documents, all.tokens / weight as u64));
        let read = &report.sources[0].statistics;
        assert_eq!(read.read, 2);
        assert_eq!(all.rows * 512, all.tokens + all.padding);
    }
    assert_eq!(counts[0].0, 2);
    assert_eq!((counts[1].0, counts[1].1), (6, counts[0].1));
    assert_eq!(counts[2], counts[0]);
}

/// Rows larger than the share for them are refused memory, with a hint, and not the machine's.
#[tokio::test]
async fn a_row_beyond_the_memory_is_a_clear_error() {
    let text = "x".repeat(80 << 20);
    let inputs = corpus_with_words(&[("in/a.txt", text.as_bytes())]).await;
    let source = SourceConfig { document: TextSplit::File, ..texts("book", "in/a.txt") };
    let config = PreprocessConfig { memory_bytes: 64 << 20, ..with_bpe(vec![source]) };
    let error = Job::new(&inputs).run(config.clone()).await.expect_err("too little");
    assert!(matches!(error, PipelineError::Memory { .. }), "{error}");
    assert!(error.hint().expect("a hint").contains("memory-bytes"));
    let config = PreprocessConfig { memory_bytes: 1 << 20, ..config };
    let error = Job::new(&inputs).run(config).await.expect_err("far too little");
    assert!(error.to_string().starts_with("`memory-bytes` is 1,048,576, expected 67,108,864"), "{error}");
}

/// How much memory there is decides how fast a job is, never what it writes; nor is it part of the configuration.
#[tokio::test]
async fn memory_changes_no_byte() {
    let lines: String =
        (0..3000).map(|row| format!("{{\"text\":\"{}\"}}\n", "word ".repeat(row % 50))).collect();
    let inputs = corpus(&[("in/a.jsonl", lines.as_bytes())]).await;
    let mut written = Vec::new();
    for memory_bytes in [64 << 20, 4 << 30] {
        let job = Job { threads: 4, ..Job::new(&inputs) };
        let small =
            PreprocessConfig { memory_bytes, unit_bytes: 30_000, ..config(vec![texts("web", "in/a.jsonl")]) };
        job.run(small.clone()).await.expect("runs");
        assert!(
            job.run(PreprocessConfig { memory_bytes: 1 << 30, ..small })
                .await
                .expect("done")
                .already_complete
        );
        written.push(files(&job.output).await);
    }
    assert_eq!(written[0], written[1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever the lengths, the windows and the chunks: every token of every document once and in order.
    #[test]
    fn no_token_is_lost_between_the_operators(
        lengths in prop::collection::vec(1usize..3000, 1..60),
        context in 16u32..400,
        window in 1usize..9,
        sequence in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let line = |(row, length): (usize, &usize)| {
                format!("{{\"text\":\"{row} {}\"}}\n", "abcdefg ".repeat(length / 8 + 1))
            };
            let lines: Vec<String> = lengths.iter().enumerate().map(line).collect();
            let inputs = corpus(&[("in/a.jsonl", lines.concat().as_bytes())]).await;
            let job = Job::new(&inputs);
            let packing = if sequence { PackingMethod::Sequence } else { PackingMethod::BestFit };
            let config = PreprocessConfig { context, window, packing, ..config(vec![texts("web", "in/a.jsonl")]) };
            let report = job.run(config).await.unwrap();
            let tokenizer = schemas::Tokenizer::from_bytes(&byte_tokenizer()).unwrap();
            let mut texts: std::collections::BTreeMap<u64, Vec<(u64, Vec<u32>)>> = Default::default();
            for (row, _) in rows(&job.output).await {
                for (index, range) in row.documents() {
                    let source = &row.sources()[index];
                    let piece = (source.first_token, row.tokens()[range].to_vec());
                    texts.entry(source.row).or_default().push(piece);
                }
            }
            assert_eq!(texts.len(), lengths.len());
            for (row, mut pieces) in texts {
                pieces.sort();
                let ids: Vec<u32> = pieces.into_iter().flat_map(|(_, ids)| ids).collect();
                let line: serde_json::Value = serde_json::from_str(&lines[row as usize]).unwrap();
                assert_eq!(ids[1..ids.len() - 1], tokenizer.encode(line["text"].as_str().unwrap()));
            }
            assert_eq!(report.statistics.rows * u64::from(context), report.statistics.tokens + report.statistics.padding);
        });
    }
}

/// Several units with a large row each: one waits for the other's memory, and none fails.
#[tokio::test]
async fn large_rows_of_many_units_wait_for_each_other() {
    let text = book(10 << 20);
    let books: Vec<(String, Vec<u8>)> =
        (0..4).map(|file| (format!("in/{file}.txt"), text.clone().into_bytes())).collect();
    let borrowed: Vec<_> = books.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    let inputs = corpus_with_words(&borrowed).await;
    let source = SourceConfig { document: TextSplit::File, ..texts("book", "in/*.txt") };
    let job = Job { threads: 4, ..Job::new(&inputs) };
    let config = PreprocessConfig { unit_bytes: 1 << 20, ..with_bpe(vec![source]) };
    let report = job.run(config).await.expect("runs");
    assert_eq!((report.units, report.statistics.documents), (4, 4));
    // One row's share, which is a quarter of the memory, and the ordinary work of four units.
    assert!(report.peak_memory <= (256 << 20) + 4 * (96 << 20), "{} bytes were reserved", report.peak_memory);
    assert_eq!(manifest(&job.output).await.shards.len(), 4);
}

/// A stream that is asked for nothing is dropped with all that it holds: readers end, memory comes back.
#[tokio::test]
async fn a_plan_that_is_dropped_gives_its_memory_back() {
    let text = Bytes::from(book(20 << 20));
    let inputs = corpus_with_words(&[("in/a.txt", &text)]).await;
    let source = SourceConfig { document: TextSplit::File, ..texts("book", "in/a.txt") };
    let plan = Job::new(&inputs).plan(with_bpe(vec![source])).await.expect("a plan");
    let tokenizer = plan.some_tokenizer().await.expect("a tokenizer");
    let physical =
        plan.documents(&plan.sources[0], &plan.sources[0].units, &tokenizer).await.expect("a plan");
    let runtime = Runtime { tokenizer: Some(tokenizer), ..plan.runtime.clone() };
    let mut batches = physical.execute(0, runtime.session().expect("a session").task_ctx()).expect("starts");
    let first = batches.next().await.expect("a batch").expect("reads");
    assert!(plan.runtime.memory.pool().reserved() >= text.len(), "the text is held while its parts come");
    drop((first, batches));
    // The whole share can be had again: this waits until it is given back.
    let share = plan.runtime.memory.rows.clone();
    let all = crate::host::threads::spawn(move || share.take(usize::MAX)).expect("a thread").await;
    drop(all);
}
