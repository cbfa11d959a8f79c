//! `max-reject-share` in whole jobs.

use super::fixtures::{Job, config, corpus, files, texts};
use crate::{PipelineError, PreprocessConfig};

/// Forty files of ten rows each, a unit each; the first `bad` hold nothing that can be used.
async fn job(bad: usize) -> (Job, PreprocessConfig) {
    let lines = |file: usize| match file < bad {
        true => format!("{{\"text\":\"{}\"}}\n", " ".repeat(68)).repeat(10),
        false => format!("{{\"text\":\"{}\"}}\n", "x".repeat(68)).repeat(10),
    };
    let inputs: Vec<(String, String)> =
        (0..40).map(|file| (format!("in/{file:02}.jsonl"), lines(file))).collect();
    let borrowed: Vec<_> = inputs.iter().map(|(path, text)| (path.as_str(), text.as_bytes())).collect();
    let config = PreprocessConfig {
        unit_bytes: 800,
        max_reject_share: 0.1,
        ..config(vec![texts("web", "in/*.jsonl")])
    };
    (Job::new(&corpus(&borrowed).await), config)
}

#[tokio::test]
async fn a_hopeless_job_stops_early_and_says_the_same_at_any_number_of_threads() {
    let mut expected = None;
    for threads in [1, 2, 8] {
        let (job, config) = job(40).await;
        let job = Job { threads, ..job };
        let error = job.run(config.clone()).await.expect_err("hopeless");
        let PipelineError::TooManyRejects { rejected, read, unread_bytes, .. } = &error else {
            panic!("{error}");
        };
        assert!(rejected == read && *read < 100 && *unread_bytes > 0, "{error}");
        let first = format!("{rejected} empty; the first is row 0 of `00.jsonl` of source `web`: empty: ");
        assert!(error.to_string().contains(&first), "{error}");
        assert_eq!(expected.get_or_insert_with(|| error.to_string()), &error.to_string());
        let commits = files(&job.output).await.keys().filter(|name| name.starts_with("commits/")).count();
        assert!(commits < 40, "{commits} units were packed");
        // Started again it says so at once.
        let again = job.run(config.clone()).await.expect_err("hopeless");
        assert_eq!(again.to_string(), error.to_string());
        // With another limit it goes on where it was.
        let report = job.run(PreprocessConfig { max_reject_share: 1.0, ..config }).await.expect("allowed");
        assert!(report.reused_units >= 8 && report.units == 40, "{}", report.reused_units);
    }
}

#[tokio::test]
async fn a_bad_beginning_is_no_reason_to_stop() {
    let (job, config) = job(4).await;
    let report = job.run(config).await.expect("a tenth is allowed");
    let statistics = &report.sources[0].statistics;
    assert!(statistics.is_balanced());
    assert_eq!((statistics.read, statistics.kept, statistics.rejected), (400, 360, 40));
}

#[tokio::test]
async fn one_row_too_many_fails_at_the_end() {
    let (job, config) = job(4).await;
    let error = job.run(PreprocessConfig { max_reject_share: 0.0999, ..config }).await.expect_err("too many");
    assert!(matches!(error, PipelineError::TooManyRejects { rejected: 40, .. }), "{error}");
    assert!(files(&job.output).await.keys().all(|name| !name.starts_with("manifest")));
}

/// The first unit of the second source is packed before the rest of the first one.
#[tokio::test]
async fn a_bad_source_behind_a_good_one_is_noticed_early() {
    let good = format!("{{\"text\":\"{}\"}}\n", "x".repeat(68)).repeat(10);
    let bad = format!("{{\"text\":\"{}\"}}\n", " ".repeat(68)).repeat(10);
    let mut inputs: Vec<(String, &str)> =
        (0..40).map(|file| (format!("a/{file:02}.jsonl"), &*good)).collect();
    inputs.extend((0..40).map(|file| (format!("b/{file:02}.jsonl"), &*bad)));
    let borrowed: Vec<_> = inputs.iter().map(|(path, text)| (path.as_str(), text.as_bytes())).collect();
    let job = Job::new(&corpus(&borrowed).await);
    let sources = vec![texts("good", "a/*.jsonl"), texts("bad", "b/*.jsonl")];
    let config = PreprocessConfig { unit_bytes: 1000, max_reject_share: 0.0, ..config(sources) };
    let error = job.run(config).await.expect_err("bad");
    assert!(matches!(error, PipelineError::TooManyRejects { rejected: 10, read: 20, .. }), "{error}");
}
