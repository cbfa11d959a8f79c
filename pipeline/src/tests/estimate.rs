//! What a job says that it would do, against what it does.

use super::fixtures::{Job, config, corpus, files, pairs, png, texts};
use crate::{PreprocessConfig, TokenizerConfig, TrainTokenizer};

fn lines(file: usize, rows: usize) -> Vec<u8> {
    let text = |row: usize| "word ".repeat(20 + (row * 7 + file * 3) % 90);
    let line = |row: usize| match row % 50 {
        7 => "{oops\n".to_owned(),
        _ => format!("{{\"text\":\"{file} {row} {}\"}}\n", text(row)),
    };
    (0..rows).map(line).collect::<String>().into()
}

/// A corpus that is looked at whole is foreseen exactly, pictures and rejects and shards too.
#[tokio::test]
async fn a_small_corpus_is_foreseen_exactly() {
    let mut inputs: Vec<(String, Vec<u8>)> =
        (0..3).map(|file| (format!("in/{file}.jsonl"), lines(file, 200))).collect();
    let mut table = String::new();
    for row in 0..23_u8 {
        inputs.push((format!("img/{row}.png"), png(20 + u32::from(row), 24, [row * 10, 100, 200])));
        table.push_str(&format!("{{\"file_name\":\"{row}.png\",\"caption\":\"c {row}\"}}\n"));
    }
    table.push_str("{\"file_name\":\"absent.png\",\"caption\":\"x\"}\n");
    inputs.push(("img/captions.jsonl".to_owned(), table.into_bytes()));
    let borrowed: Vec<_> = inputs.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    let mut weighted = texts("web", "in/*.jsonl");
    weighted.weight = 1.5;
    let sources = vec![weighted, pairs("pictures", "img/captions.jsonl")];
    let config = PreprocessConfig { unit_bytes: 60_000, ..config(sources) };
    let job = Job::new(&corpus(&borrowed).await);
    let estimate = job.plan(config.clone()).await.expect("a plan").estimate().await.expect("an estimate");
    assert!(files(&job.output).await.is_empty(), "nothing is written");
    assert!(estimate.exact);
    assert_eq!((estimate.codec_weight_bytes, estimate.codec_activation_bytes), (Some(0), Some(5 * 12 * 16)));
    let report = job.run(config).await.expect("runs");
    for (foreseen, done) in estimate.sources.iter().zip(&report.sources) {
        let done = &done.statistics;
        assert_eq!((foreseen.read, foreseen.kept, &foreseen.rejects), (done.read, done.kept, &done.rejects));
        assert_eq!((foreseen.documents, foreseen.images), (done.documents, done.images));
        assert_eq!(
            [foreseen.tokens, foreseen.patches, foreseen.padding],
            [done.tokens, done.patches, done.padding]
        );
    }
    let sum = |of: fn(&crate::SourceEstimate) -> u64| estimate.sources.iter().map(of).sum::<u64>();
    assert_eq!(sum(|source| source.rows), report.statistics.rows);
    assert_eq!(sum(|source| source.shards), report.shards as u64);
    let bytes = sum(|source| source.shard_bytes) as f64;
    assert!((0.7..1.4).contains(&(bytes / report.bytes as f64)), "{bytes} of {}", report.bytes);
}

/// Of a larger one a part is read, always the same, and the rest is not far from what that part says.
#[tokio::test]
async fn a_large_corpus_is_foreseen_from_a_part() {
    let inputs: Vec<(String, Vec<u8>)> =
        (0..3).map(|file| (format!("in/{file}.jsonl"), lines(file, 24_000))).collect();
    let borrowed: Vec<_> = inputs.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    let config = PreprocessConfig { context: 256, ..config(vec![texts("web", "in/*.jsonl")]) };
    let job = Job::new(&corpus(&borrowed).await);
    let foresee =
        async || job.plan(config.clone()).await.expect("a plan").estimate().await.expect("an estimate");
    let estimate = foresee().await;
    assert!(!estimate.exact && estimate.sampled_bytes * 2 < estimate.bytes, "{estimate:?}");
    assert_eq!(estimate, foresee().await, "the same again");
    let report = job.run(config.clone()).await.expect("runs");
    let near = |foreseen: u64, done: u64| {
        let ratio = foreseen as f64 / done as f64;
        assert!((0.98..1.02).contains(&ratio), "{foreseen} was foreseen, it is {done}");
    };
    let (foreseen, done) = (&estimate.sources[0], &report.sources[0].statistics);
    near(foreseen.read, done.read);
    near(foreseen.kept, done.kept);
    near(foreseen.rejected(), done.rejected);
    near(foreseen.tokens, done.tokens);
    near(foreseen.rows, report.statistics.rows);
    near(foreseen.shard_bytes, report.bytes);
}

#[tokio::test]
async fn an_estimate_trains_its_own_tokenizer() {
    let train = Some(TrainTokenizer { vocabulary: 300, sample_bytes: 64 << 20 });
    let tokenizer = TokenizerConfig { train, ..TokenizerConfig::default() };
    let job = Job::new(&corpus(&[("in/a.jsonl", &lines(0, 100))]).await);
    let config = PreprocessConfig { tokenizer, ..config(vec![texts("web", "in/a.jsonl")]) };
    let estimate = job.plan(config).await.expect("a plan").estimate().await.expect("an estimate");
    assert!(estimate.exact && estimate.sources[0].tokens > 1000);
    assert!(files(&job.output).await.is_empty(), "nothing is written");
}
