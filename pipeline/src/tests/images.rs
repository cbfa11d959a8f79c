//! Jobs on pairs and interleaved documents.

use std::sync::Arc;

use schemas::Order;

use super::fixtures::{Job, OneStore, config, corpus, documents, manifest, pairs, png, rejects, rows};
use crate::{
    PictureConfig, PictureRequest, PipelineError, PreprocessConfig, Shape, Silent, TokenizerConfig,
    TrainTokenizer, pictures,
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
    let source = crate::SourceConfig { shape: Shape::Interleaved, ..pairs("docs", "in/docs.jsonl") };
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
    };
    let resolver = OneStore(inputs);
    let set = pictures(request(10), &resolver, Arc::new(Silent)).await.expect("pictures");
    assert_eq!((set.len(), set.rejected()), (2, 1));
    assert_eq!(&set.rgb(0).expect("a crop")[..3], [10, 20, 30]);
    assert_eq!(set.rgb(1).expect("a crop").len(), 4 * 4 * 3);
    assert_eq!(pictures(request(1), &resolver, Arc::new(Silent)).await.expect("pictures").len(), 1);
}
