//! Jobs on pairs and interleaved documents.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::StreamExt;
use schemas::Order;

use super::fixtures::{
    AveragePool, Job, OneStore, config, corpus, documents, manifest, pairs, png, rejects, rows,
};
use crate::source::Columns;
use crate::{
    Environment, LatentKind, PictureConfig, PictureRequest, PipelineError, PreprocessConfig, PreprocessPlan,
    Shape, Silent, SourceConfig, TokenizerConfig, TrainTokenizer, pictures, preprocess,
};

fn archive(samples: &[(&str, &str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (key, caption, image) in samples {
        for (extension, content) in [("png", image.as_slice()), ("txt", caption.as_bytes())] {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, format!("{key}.{extension}"), content).expect("appends");
        }
    }
    builder.into_inner().expect("finishes")
}

#[tokio::test]
async fn archives_become_pairs_of_both_orders() {
    let samples: Vec<_> =
        (0..60_u8).map(|key| (format!("k{key:02}"), png(20, 30, [key * 4, 0, 0]))).collect();
    let samples: Vec<_> = samples.iter().map(|(key, image)| (key.as_str(), "cap", image.clone())).collect();
    let job = Job::new(&corpus(&[("in/a.tar", &archive(&samples))]).await);
    let mut source = pairs("pics", "in/*.tar");
    source.filter = Some("caption is not null and width = 20 and height = 30".to_owned());
    let report = job.run(config(vec![source])).await.expect("runs");
    assert_eq!((report.statistics.documents, report.statistics.images), (60, 60));
    let mut orders = [0, 0];
    for (row, _) in rows(&job.output).await {
        for source in row.sources() {
            orders[usize::from(source.order == Order::ImageFirst)] += 1;
            assert_eq!(source.id.as_deref(), Some(format!("k{:02}", source.row).as_str()));
        }
        for (image, source) in row.images().iter().zip(row.sources()) {
            assert_eq!((image.channels, image.height, image.width), (3, 4, 4));
            let expected = f32::from(source.row as u8 * 4) / 127.5 - 1.0;
            assert!((image.values[0].to_f32() - expected).abs() < 0.01, "each image stands with its own row");
        }
    }
    assert!(orders[0] > 35 && orders[1] > 2, "{orders:?}");
    let manifest = manifest(&job.output).await;
    assert_eq!(
        (manifest.features, manifest.codec.expect("a codec").downsampling),
        (vec!["latents".to_owned()], 4)
    );
}

#[tokio::test]
async fn pictures_of_many_archives_make_one_unit() {
    let image = png(20, 30, [40, 0, 0]);
    let archives: Vec<(String, Vec<u8>)> =
        (0..40).map(|file| (format!("in/{file:02}.tar"), archive(&[("k", "cap", image.clone())]))).collect();
    let borrowed: Vec<_> = archives.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    let job = Job::new(&corpus(&borrowed).await);
    let report = job.run(config(vec![pairs("pics", "in/*.tar")])).await.expect("runs");
    assert_eq!((report.units, report.statistics.images), (1, 40));
}

/// Pixels and latents are what costs: a copy is dropped before both.
#[tokio::test]
async fn a_copy_of_a_picture_is_never_encoded() {
    let image = |row: usize| png(20, 30, [(row % 3 * 40) as u8, 0, 0]);
    let names: Vec<String> = (0..7).map(|row| format!("k{row}")).collect();
    let samples: Vec<_> =
        names.iter().enumerate().map(|(row, key)| (key.as_str(), "cap", image(row))).collect();
    let job = Job::new(&corpus(&[("in/a.tar", &archive(&samples))]).await);
    let config = PreprocessConfig { deduplicate: true, ..config(vec![pairs("pics", "in/*.tar")]) };
    let codec = Arc::new(AveragePool::new());
    let environment = Environment { codec: Some(codec.clone()), ..job.environment() };
    let plan = PreprocessPlan::try_new(config, environment).await.expect("a plan");
    assert!(plan.explain().await.expect("a plan").contains("DeduplicateExec: keep=first"));
    let report = preprocess(plan, Arc::new(Silent)).await.expect("runs");
    let statistics = &report.sources[0].statistics;
    assert_eq!((statistics.read, statistics.kept, statistics.deduplicated), (7, 3, 4));
    assert_eq!(codec.encoded.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_tokenizer_learns_from_captions() {
    let samples: Vec<_> = (0..20).map(|key| (format!("k{key:02}"), png(20, 30, [0; 3]))).collect();
    let samples: Vec<_> =
        samples.iter().map(|(key, image)| (key.as_str(), "heron heron", image.clone())).collect();
    let job = Job::new(&corpus(&[("in/a.tar", &archive(&samples))]).await);
    let train = Some(TrainTokenizer { vocabulary: 270, sample_bytes: 1 << 20 });
    let tokenizer = TokenizerConfig { train, ..TokenizerConfig::default() };
    let config = PreprocessConfig { tokenizer, ..config(vec![pairs("pics", "in/*.tar")]) };
    let report = job.run(config).await.expect("runs");
    assert_eq!(report.statistics.documents, 20);
    // BOS, two words, BOI, four patches, EOI, EOS: each word became one token.
    assert_eq!(report.statistics.tokens, 20 * 6);
}

#[tokio::test]
async fn a_table_of_captions_never_leads_outside_its_folder() {
    let table = br#"{"file_name": "ok.png", "caption": "a"}
{"file_name": "../secret.png", "caption": "b"}
{"file_name": "/in/ok.png", "caption": "c"}
{"file_name": "gone.png", "caption": "d"}
{"file_name": null, "caption": "e"}
{"file_name": "ok.png"}
{"file_name": "ok.png", "caption": " "}
{"file_name": "empty.png", "caption": "g"}
{"file_name": "text.png", "caption": "h"}
{"file_name": 5, "caption": "i"}
"#;
    let picture = png(16, 16, [1, 2, 3]);
    let files: [(&str, &[u8]); 5] = [
        ("in/captions.jsonl", table),
        ("in/ok.png", &picture),
        ("secret.png", &picture),
        ("in/empty.png", b""),
        ("in/text.png", b"<html>"),
    ];
    let job = Job::new(&corpus(&files).await);
    job.run(config(vec![pairs("pics", "in")])).await.expect("runs");
    let kept = documents(&job.output).await;
    assert_eq!(kept.iter().map(|document| document.1).collect::<Vec<_>>(), [0]);
    let reasons: Vec<_> =
        rejects(&job.output).await.into_iter().map(|(_, row, reason)| (row, reason)).collect();
    let expected = [
        (1, "bad_entry"),
        (2, "bad_entry"),
        (3, "missing_image"),
        (4, "missing_image"),
        (5, "missing_caption"),
        (6, "empty"),
        (7, "image_empty"),
        (8, "image_undecodable"),
        (9, "wrong_type"),
    ];
    assert_eq!(reasons, expected.map(|(row, reason)| (row, reason.to_owned())));
}

#[tokio::test]
async fn of_several_captions_one_is_taken_by_the_hash_of_the_row() {
    let line = |row: usize| {
        format!("{{\"file_name\":\"a.png\",\"captions\":[\"one {row}\",\"two {row}\",\"three {row}\"]}}\n")
    };
    let table: String = (0..30).map(line).collect();
    let job = Job::new(
        &corpus(&[("in/captions.jsonl", table.as_bytes()), ("in/a.png", &png(16, 16, [9, 9, 9]))]).await,
    );
    let mut source = pairs("pics", "in/captions.jsonl");
    source.caption = Some("captions".to_owned());
    job.run(config(vec![source])).await.expect("runs");
    let kept = documents(&job.output).await;
    for word in ["one", "two", "three"] {
        assert!(kept.iter().any(|document| document.2.contains(word)), "{word}");
    }
    assert!(kept.iter().all(|document| document.2.trim_matches('#').ends_with(&document.1.to_string())));
}

#[tokio::test]
async fn interleaved_documents_keep_their_order() {
    let table = br#"{"texts": ["first", null, "last"], "images": [null, "a.png", null]}
{"texts": [], "images": ["a.png", "a.png"]}
{"texts": null, "images": null}
"#;
    let job = Job::new(&corpus(&[("in/docs.jsonl", table), ("in/a.png", &png(16, 16, [0, 0, 0]))]).await);
    let source = SourceConfig { shape: Shape::Interleaved, ..pairs("docs", "in/docs.jsonl") };
    job.run(config(vec![source])).await.expect("runs");
    let kept: Vec<_> = documents(&job.output).await.into_iter().map(|document| document.2).collect();
    assert_eq!(kept, ["first#last", "##"]);
    assert_eq!(rejects(&job.output).await, [("docs.jsonl".to_owned(), 2, "empty".to_owned())]);
}

#[tokio::test]
async fn images_need_a_codec_that_fits() {
    let job = Job::new(&corpus(&[("in/captions.jsonl", b"{}"), ("in/a.png", b"")]).await);
    let sources = || vec![pairs("pics", "in")];
    let error = job.plan(PreprocessConfig { codec: None, ..config(sources()) }).await.expect_err("no codec");
    assert!(matches!(error, PipelineError::NoCodec { .. }), "{error}");
    let mut odd = config(sources());
    odd.codec.as_mut().expect("a codec").patch = 3;
    let error = job.plan(odd).await.expect_err("4 is no multiple of 3");
    assert!(matches!(error, PipelineError::CodecShape { height: 4, patch: 3, .. }), "{error}");
    let mut uneven = config(sources());
    uneven.codec.as_mut().expect("a codec").size = 18;
    let error = job.plan(uneven).await.expect_err("18 is no multiple of 4");
    assert!(error.to_string().starts_with("`codec.size` is 18, expected a multiple of 4"), "{error}");
    let small = PreprocessConfig { context: 17, ..config(sources()) };
    let error = job.plan(small).await.expect_err("an image does not fit");
    assert!(error.to_string().starts_with("`context` is 17"), "{error}");
}

#[tokio::test]
async fn the_pictures_of_sources_are_those_that_preprocessing_sees() {
    let samples = [
        ("a", "x", png(16, 16, [10, 20, 30])),
        ("b", "x", b"broken".to_vec()),
        ("c", "x", png(8, 16, [1, 2, 3])),
    ];
    let inputs = corpus(&[("in/a.tar", &archive(&samples))]).await;
    let sources = [pairs("pics", "in/*.tar")];
    let request = |limit| PictureRequest {
        sources: &sources,
        size: 4,
        pictures: PictureConfig::default(),
        limit,
        threads: 2,
        stop: crate::Stop::default(),
    };
    let resolver = OneStore(inputs);
    let set = pictures(request(10), &resolver, Arc::new(Silent)).await.expect("pictures");
    assert_eq!((set.len(), set.rejected()), (2, 1));
    assert_eq!(&set.rgb(0)[..3], [10, 20, 30]);
    assert_eq!(set.rgb(1).len(), 4 * 4 * 3);
    assert_eq!(pictures(request(1), &resolver, Arc::new(Silent)).await.expect("pictures").len(), 1);
}

/// The first source alone was once taken where it had enough.
#[tokio::test]
async fn pictures_are_taken_from_every_source_by_its_weight() {
    let pictures_of = |level: u8| -> Vec<u8> {
        let names: Vec<String> = (0..20).map(|index| format!("{index:02}")).collect();
        let samples: Vec<_> =
            names.iter().map(|name| (name.as_str(), "x", png(8, 8, [level, 0, 0]))).collect();
        archive(&samples)
    };
    let inputs =
        corpus(&[("a/a.tar", &pictures_of(1)), ("b/b.tar", &pictures_of(2)), ("c/c.tar", &pictures_of(3))])
            .await;
    let sources =
        [pairs("a", "a/*.tar"), SourceConfig { weight: 2.0, ..pairs("b", "b/*.tar") }, pairs("c", "c/*.tar")];
    let resolver = OneStore(inputs);
    let counts = async |limit| {
        let request = PictureRequest {
            sources: &sources,
            size: 4,
            pictures: PictureConfig::default(),
            limit,
            threads: 2,
            stop: crate::Stop::default(),
        };
        let set = pictures(request, &resolver, Arc::new(Silent)).await.expect("pictures");
        let levels: Vec<u8> = (0..set.len()).map(|index| set.rgb(index)[0]).collect();
        assert!(levels.is_sorted(), "{levels:?}");
        [1, 2, 3].map(|level| levels.iter().filter(|&&found| found == level).count())
    };
    assert_eq!(counts(12).await, [3, 6, 3]);
    // The second has no more than 20, so the others give what is missing.
    assert_eq!(counts(44).await, [12, 20, 12]);
    assert_eq!(counts(60).await, [20, 20, 20]);
    assert_eq!(counts(100).await, [20, 20, 20]);
}

/// Pictures of other sizes, and 16, 64 and 1,024 patches of them, through to the shards.
#[tokio::test]
async fn pictures_have_as_many_patches_as_their_size_gives() {
    let samples: Vec<_> = (0..12_u8).map(|key| (format!("k{key}"), png(40, 30, [key * 20, 9, 9]))).collect();
    let samples: Vec<_> = samples.iter().map(|(key, image)| (key.as_str(), "cap", image.clone())).collect();
    let inputs = corpus(&[("in/a.tar", &archive(&samples))]).await;
    for (size, patch, patches) in [(16, 1, 16), (32, 1, 64), (64, 2, 64), (128, 1, 1024), (48, 3, 16)] {
        let mut config = PreprocessConfig { context: 2048, ..config(vec![pairs("pics", "in/*.tar")]) };
        let codec = config.codec.as_mut().expect("a codec");
        (codec.size, codec.patch) = (size, patch);
        let job = Job::new(&inputs);
        let report = job.run(config).await.expect("runs");
        assert_eq!((report.statistics.images, report.statistics.patches), (12, 12 * patches), "{size}");
        for (row, _) in rows(&job.output).await {
            let side = size as u16 / 4;
            assert!(row.images().iter().all(|image| (image.height, image.width) == (side, side)));
        }
        let codec = manifest(&job.output).await.codec.expect("a codec");
        assert_eq!((codec.size, codec.downsampling), (size, 4));
    }
}

/// Mean, draw and distribution of the same latents.
#[tokio::test]
async fn what_is_stored_of_a_latent_is_what_was_asked_for() {
    let samples: Vec<_> =
        (0..20_u8).map(|key| (format!("k{key:02}"), png(20, 20, [key * 12, 50, 90]))).collect();
    let samples: Vec<_> = samples.iter().map(|(key, image)| (key.as_str(), "cap", image.clone())).collect();
    let inputs = corpus(&[("in/a.tar", &archive(&samples))]).await;
    let stored = async |latent, batch, threads| {
        let mut config = config(vec![pairs("pics", "in/*.tar")]);
        let codec = config.codec.as_mut().expect("a codec");
        (codec.latent, codec.batch) = (latent, batch);
        let job = Job { threads, ..Job::new(&inputs) };
        job.run(config).await.expect("runs");
        let mut latents = std::collections::BTreeMap::new();
        for (row, _) in rows(&job.output).await {
            for (image, source) in row.images().iter().zip(row.sources()) {
                latents.insert(source.row, image.clone());
            }
        }
        let manifest = manifest(&job.output).await;
        // Means, the only kind there once was, go unnamed.
        let named = manifest.config["codec"].get("latent").is_some();
        assert_eq!(named, latent != LatentKind::Mean);
        (latents, manifest.codec.expect("a codec").moments)
    };
    let (means, no) = stored(LatentKind::Mean, 5, 2).await;
    let (moments, yes) = stored(LatentKind::Moments, 5, 2).await;
    let (draws, draws_are_latents) = stored(LatentKind::Sample, 5, 2).await;
    assert_eq!((no, yes, draws_are_latents), (false, true, false));
    let (mut sum, mut squares, mut count) = (0.0, 0.0, 0.0);
    for (row, mean) in &means {
        let (both, draw) = (&moments[row], &draws[row]);
        assert!(!mean.moments && both.moments && !draw.moments);
        assert_eq!((both.channels, both.values.len()), (3, 2 * mean.values.len()));
        assert_eq!(both.values[..mean.values.len()], mean.values[..]);
        assert!(both.values[mean.values.len()..].iter().all(|value| value.to_f32() == -3.0));
        for (mean, draw) in mean.values.iter().zip(&draw.values) {
            let noise = (draw.to_f32() - mean.to_f32()) / (-1.5_f32).exp();
            (sum, squares, count) = (sum + noise, squares + noise * noise, count + 1.0);
        }
    }
    // 960 draws of a standard normal: five standard deviations of the estimates.
    assert!(
        (sum / count).abs() < 0.17 && (squares / count - 1.0_f32).abs() < 0.24,
        "{sum} {squares} {count}"
    );
    // The noise is a row's own, whatever the batch and the threads.
    assert_eq!(stored(LatentKind::Sample, 3, 1).await.0, draws);
    let noise = |row: u64| draws[&row].values[0].to_f32() - means[&row].values[0].to_f32();
    assert!((noise(0) - noise(1)).abs() > 1e-3, "two rows have two draws");
}

/// Two pictures of one row have different draws, also when the codec meets them in different batches.
#[tokio::test]
async fn every_image_of_a_row_has_its_own_draw() {
    let table = br#"{"texts": ["first", null, "last"], "images": ["a.png", "a.png", "a.png"]}
"#;
    let inputs = corpus(&[("in/docs.jsonl", table), ("in/a.png", &png(16, 16, [7, 7, 7]))]).await;
    let mut found = Vec::new();
    for batch in [1, 2, 8] {
        let source = SourceConfig { shape: Shape::Interleaved, ..pairs("docs", "in/docs.jsonl") };
        let mut config = PreprocessConfig { context: 128, ..config(vec![source]) };
        let codec = config.codec.as_mut().expect("a codec");
        (codec.latent, codec.batch) = (LatentKind::Sample, batch);
        let job = Job::new(&inputs);
        job.run(config).await.expect("runs");
        found.push(rows(&job.output).await[0].0.images().to_vec());
    }
    assert_eq!(found[0].len(), 3);
    assert!(found[0][0] != found[0][1] && found[0][1] != found[0][2]);
    assert!(found.iter().all(|images| *images == found[0]));
}

/// Pictures that a table names are fetched a few megabytes at a time, however many rows a batch could have.
#[tokio::test]
async fn large_pictures_by_path_make_small_batches() {
    let mut inputs: Vec<(String, Vec<u8>)> =
        (0..12_u8).map(|row| (format!("in/{row}.bin"), vec![row; 3 << 20])).collect();
    let table: String =
        (0..12).map(|row| format!("{{\"file_name\":\"{row}.bin\",\"caption\":\"c\"}}\n")).collect();
    inputs.push(("in/captions.jsonl".to_owned(), table.into_bytes()));
    let borrowed: Vec<_> = inputs.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    let job = Job::new(&corpus(&borrowed).await);
    let plan = job.plan(config(vec![pairs("pics", "in")])).await.expect("a plan");
    let rows = plan.sources[0].rows(&plan.sources[0].units, Columns::Document).await.expect("a plan");
    let mut batches = rows.execute(0, plan.runtime.session().expect("a session").task_ctx()).expect("starts");
    let mut counts = Vec::new();
    while let Some(batch) = batches.next().await {
        let batch = batch.expect("reads");
        assert!(batch.get_array_memory_size() < 24 << 20, "{} bytes", batch.get_array_memory_size());
        counts.push(batch.num_rows());
    }
    assert_eq!(counts, [3, 3, 3, 3, 1], "four batches and the end of the unit");
}
