//! Jobs on pairs with several captions, on templates, and on the tables and archives that such pairs come in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ListBuilder, StringBuilder};
use object_store::ObjectStore;
use schemas::Order;

use super::fixtures::{
    Job, archive, batch, config, corpus, counts, documents, files, pairs, parquet, png, rejects, rows,
    strings,
};
use crate::{
    CaptionChoice, PreprocessConfig, SourceConfig, Template, TextSplit, TokenizerConfig, TrainTokenizer,
};

fn texts_of(documents: Vec<(String, u64, String)>) -> Vec<(u64, String)> {
    documents.into_iter().map(|(_, row, text)| (row, text.trim_matches('#').to_owned())).collect()
}

fn owned(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
    expected.iter().map(|&(row, text)| (row, text.to_owned())).collect()
}

/// Five rows: three captions, one, none, a blank one beside a good one, and a text where lists are.
async fn several() -> Arc<dyn ObjectStore> {
    let table = br#"{"file_name": "a.png", "captions": ["one", "two", "three"]}
{"file_name": "a.png", "captions": ["only"]}
{"file_name": "a.png", "captions": []}
{"file_name": "a.png", "captions": [null, " ", "good"]}
{"file_name": "a.png", "captions": "single"}
{"file_name": "a.png", "captions": [" ", ""]}
"#;
    corpus(&[("in/captions.jsonl", table), ("in/a.png", &png(16, 16, [9, 9, 9]))]).await
}

fn choosing(choice: CaptionChoice) -> SourceConfig {
    SourceConfig { captions: Some(choice), ..pairs("pics", "in") }
}

#[tokio::test]
async fn each_caption_makes_a_document_and_rows_are_counted_once() {
    let job = Job::new(&several().await);
    let report = job.run(config(vec![choosing(CaptionChoice::Each)])).await.expect("runs");
    assert_eq!(counts(&report), [6, 4, 2, 0, 0]);
    assert_eq!((report.statistics.documents, report.statistics.images), (6, 6));
    let expected = [(0, "one"), (0, "three"), (0, "two"), (1, "only"), (3, "good"), (4, "single")];
    let mut found = texts_of(documents(&job.output).await);
    found.sort();
    assert_eq!(found, owned(&expected));
    let reasons: Vec<_> =
        rejects(&job.output).await.into_iter().map(|(_, row, reason)| (row, reason)).collect();
    assert_eq!(reasons, owned(&[(2, "missing_caption"), (5, "empty")]));
}

#[tokio::test]
async fn all_captions_make_one_document() {
    let job = Job::new(&several().await);
    let report = job.run(config(vec![choosing(CaptionChoice::All)])).await.expect("runs");
    assert_eq!(counts(&report), [6, 4, 2, 0, 0]);
    assert_eq!((report.statistics.documents, report.statistics.images), (4, 4));
    let found = texts_of(documents(&job.output).await);
    assert_eq!(found, owned(&[(0, "one\ntwo\nthree"), (1, "only"), (3, "good"), (4, "single")]));
}

#[tokio::test]
async fn one_caption_is_chosen_among_those_that_are_not_blank() {
    let job = Job::new(&several().await);
    let report = job.run(config(vec![choosing(CaptionChoice::Hash)])).await.expect("runs");
    assert_eq!(counts(&report), [6, 4, 2, 0, 0]);
    let found: BTreeMap<u64, String> = texts_of(documents(&job.output).await).into_iter().collect();
    assert!(["one", "two", "three"].contains(&found[&0].as_str()));
    assert_eq!(found[&3], "good");
}

/// Every caption of a row has its own order, and which one depends on nothing but the row.
#[tokio::test]
async fn each_document_of_a_row_has_its_own_order_and_the_bytes_are_the_same_with_any_threads() {
    let line = |row: usize| format!("{{\"file_name\":\"a.png\",\"caption\":[\"x {row}\",\"y {row}\"]}}\n");
    let table: String = (0..40).map(line).collect();
    let inputs =
        corpus(&[("in/captions.jsonl", table.as_bytes()), ("in/a.png", &png(16, 16, [1, 2, 3]))]).await;
    let mut expected = None;
    for threads in [1, 3] {
        let job = Job { threads, ..Job::new(&inputs) };
        job.run(config(vec![choosing(CaptionChoice::Each)])).await.expect("runs");
        let found = files(&job.output).await;
        assert_eq!(expected.get_or_insert_with(|| found.clone()), &found, "{threads} threads");
        let mut orders: BTreeMap<u64, Vec<Order>> = BTreeMap::new();
        for (row, _) in rows(&job.output).await {
            for source in row.sources() {
                assert_eq!(source.first_token, 0);
                orders.entry(source.row).or_default().push(source.order);
            }
        }
        assert!(orders.values().all(|orders| orders.len() == 2));
        assert!(orders.values().any(|orders| orders[0] != orders[1]), "a coin for each caption");
    }
}

#[tokio::test]
async fn templates_stand_around_captions() {
    let job = Job::new(&several().await);
    let templates = ["a photo of {caption}", "{caption}, drawn"].map(str::to_owned).to_vec();
    let source =
        SourceConfig { template: Some(Template::Several(templates)), ..choosing(CaptionChoice::Each) };
    job.run(config(vec![source])).await.expect("runs");
    let found = texts_of(documents(&job.output).await);
    assert_eq!(found.len(), 6);
    let framed = |text: &str| text.starts_with("a photo of ") != text.ends_with(", drawn");
    assert!(found.iter().all(|(_, text)| framed(text)), "{found:?}");
    let one = SourceConfig {
        template: Some(Template::One("<{caption}>".to_owned())),
        ..choosing(CaptionChoice::All)
    };
    let job = Job::new(&job.inputs);
    job.run(config(vec![one])).await.expect("runs");
    assert_eq!(texts_of(documents(&job.output).await)[0], (0, "<one>\n<two>\n<three>".to_owned()));
}

/// Copies are rows that say the same, whichever of their captions was chosen for each.
#[tokio::test]
async fn rows_with_the_same_captions_are_copies_whatever_was_chosen() {
    let line = r#"{"file_name":"a.png","captions":["one","two","three","four"]}"#;
    let table = format!("{line}\n").repeat(8);
    let inputs = corpus(&[("in/captions.jsonl", table.as_bytes()), ("in/a.png", &png(16, 16, [1; 3]))]).await;
    for choice in [CaptionChoice::Hash, CaptionChoice::Each] {
        let job = Job::new(&inputs);
        let config = PreprocessConfig { deduplicate: true, ..config(vec![choosing(choice)]) };
        assert_eq!(counts(&job.run(config).await.expect("runs")), [8, 1, 0, 0, 7]);
    }
}

#[tokio::test]
async fn a_tokenizer_learns_from_all_captions_of_a_row() {
    let line = r#"{"file_name":"a.png","captions":["heron heron","otter otter"]}"#;
    let table = format!("{line}\n").repeat(20);
    let inputs = corpus(&[("in/captions.jsonl", table.as_bytes()), ("in/a.png", &png(16, 16, [1; 3]))]).await;
    let train = Some(TrainTokenizer { vocabulary: 280, sample_bytes: 1 << 20 });
    let tokenizer = TokenizerConfig { train, ..TokenizerConfig::default() };
    let job = Job::new(&inputs);
    let config = PreprocessConfig { tokenizer, ..config(vec![choosing(CaptionChoice::Each)]) };
    let report = job.run(config).await.expect("runs");
    // BOS, two words, BOI, EOI, EOS in each of two documents: every word of both captions became one token.
    assert_eq!((report.statistics.documents, report.statistics.tokens), (40, 40 * 6));
}

#[tokio::test]
async fn a_parquet_column_of_lists_holds_captions() {
    let mut lists = ListBuilder::new(StringBuilder::new());
    lists.append_value([Some("one"), None, Some("two")]);
    lists.append_null();
    let images = strings(&[Some("a.png"), Some("a.png")]);
    let table = parquet(&[batch(vec![("file_name", images), ("alts", Arc::new(lists.finish()))])]);
    let inputs = corpus(&[("in/metadata.parquet", &table), ("in/a.png", &png(16, 16, [1; 3]))]).await;
    let job = Job::new(&inputs);
    let source = SourceConfig { caption: Some("alts".to_owned()), ..choosing(CaptionChoice::Each) };
    let report = job.run(config(vec![source])).await.expect("runs");
    assert_eq!(counts(&report), [2, 1, 1, 0, 0]);
    assert_eq!(texts_of(documents(&job.output).await), owned(&[(0, "one"), (0, "two")]));
}

/// Each row has its list of captions or, where that has none, its one caption; whatever other rows have.
#[tokio::test]
async fn a_caption_stands_in_for_a_list_without_captions() {
    let table = br#"{"file_name": "a.png", "caption": "first", "captions": ["one", "two"]}
{"file_name": "a.png", "caption": "absent"}
{"file_name": "a.png", "caption": "null", "captions": null}
{"file_name": "a.png", "caption": "empty", "captions": []}
{"file_name": "a.png", "caption": "blank", "captions": [null, " "]}
{"file_name": "a.png", "captions": ["alone"]}
{"file_name": "a.png", "captions": []}
"#;
    let picture = png(16, 16, [1; 3]);
    let members: [(&str, &[u8]); 9] = [
        ("a.png", &picture),
        ("a.json", br#"{"captions": null}"#),
        ("a.1.txt", b"one"),
        ("a.2.txt", b"two"),
        ("b.png", &picture),
        ("b.json", br#"{"caption": "own"}"#),
        ("c.png", &picture),
        ("c.json", br#"{"caption": "own", "captions": []}"#),
        ("c.txt", b"text"),
    ];
    let coco =
        br#"{"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "a.png", "caption": "own"}],
        "annotations": [{"image_id": 1, "caption": "one"}, {"image_id": 1, "caption": "two"}]}"#;
    let inputs = corpus(&[
        ("in/captions.jsonl", table),
        ("in/a.png", &picture),
        ("tar/a.tar", &archive(&members)),
        ("coco/coco.json", coco),
        ("coco/a.png", &picture),
    ])
    .await;
    let all = |rows: &[(u64, &str)]| owned(rows);
    for (uri, expected) in [
        ("in", all(&[(0, "one\ntwo"), (1, "absent"), (2, "null"), (3, "empty"), (4, "blank"), (5, "alone")])),
        ("tar/a.tar", all(&[(0, "one\ntwo"), (1, "own"), (2, "text")])),
        ("coco/coco.json", all(&[(0, "one\ntwo"), (1, "own")])),
    ] {
        let run = async |captions| {
            let job = Job::new(&inputs);
            job.run(config(vec![SourceConfig { captions, ..pairs("pics", uri) }])).await.expect("runs");
            texts_of(documents(&job.output).await)
        };
        assert_eq!(run(Some(CaptionChoice::All)).await, expected, "{uri}");
        let chosen = run(None).await;
        assert_eq!(chosen, run(Some(CaptionChoice::Hash)).await, "{uri}");
        assert_eq!(chosen.len(), expected.len(), "{uri}");
        assert_eq!(chosen[1..], expected[1..], "{uri}");
    }
}

/// A list of objects gives the list of one of their fields.
#[tokio::test]
async fn captions_may_lie_in_a_list_of_objects() {
    let table = br#"{"file_name": "a.png", "sentences": [{"raw": "one", "id": 1}, {"raw": "two", "id": 2}]}
"#;
    let inputs = corpus(&[("in/captions.jsonl", table), ("in/a.png", &png(16, 16, [1; 3]))]).await;
    let job = Job::new(&inputs);
    let source = SourceConfig { caption: Some("sentences.raw".to_owned()), ..choosing(CaptionChoice::All) };
    job.run(config(vec![source])).await.expect("runs");
    assert_eq!(texts_of(documents(&job.output).await), owned(&[(0, "one\ntwo")]));
}

#[tokio::test]
async fn coco_captions_are_documents_of_their_image() {
    let json = br#"{"images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "a.png"}, {"id": 8, "file_name": "a.png"}],
        "annotations": [{"image_id": 9, "caption": "x"}, {"image_id": 7, "caption": "y"}, {"image_id": 7, "caption": "z"}]}"#;
    let inputs = corpus(&[("in/coco.json", json), ("pictures/a.png", &png(16, 16, [1; 3]))]).await;
    let source = |captions| SourceConfig {
        captions,
        folder: Some("pictures".to_owned()),
        ..pairs("coco", "in/coco.json")
    };
    let run = async |captions| {
        let job = Job::new(&inputs);
        let report = job.run(config(vec![source(captions)])).await.expect("runs");
        assert_eq!(counts(&report), [3, 2, 1, 0, 0]);
        texts_of(documents(&job.output).await)
    };
    // The default need not be written out.
    assert_eq!(run(None).await, run(Some(CaptionChoice::Hash)).await);
    assert_eq!(run(Some(CaptionChoice::Each)).await, owned(&[(0, "y"), (0, "z"), (1, "x")]));
    assert_eq!(run(Some(CaptionChoice::All)).await, owned(&[(0, "y\nz"), (1, "x")]));
}

/// Pictures that lie elsewhere than their table, and paths that lead out of their folder all the same.
#[tokio::test]
async fn pictures_may_lie_in_another_folder_than_their_table() {
    let table = br#"{"file_name": "x/a.png", "caption": "one"}
{"file_name": "../in/b.png", "caption": "two"}
{"file_name": "b.png", "caption": "three"}
"#;
    let picture = png(16, 16, [1; 3]);
    let inputs =
        corpus(&[("in/captions.jsonl", table), ("in/b.png", &picture), ("far away/ü/x/a.png", &picture)])
            .await;
    let at = async |folder: &str| {
        let job = Job::new(&inputs);
        let source = SourceConfig { folder: Some(folder.to_owned()), ..pairs("pics", "in") };
        job.run(config(vec![source])).await.expect("runs");
        let reasons = rejects(&job.output).await.into_iter().map(|(_, row, reason)| (row, reason));
        assert_eq!(reasons.collect::<Vec<_>>(), owned(&[(1, "bad_entry"), (2, "missing_image")]));
        files(&job.output).await
    };
    let found = at("far away/ü").await;
    assert!(!found.values().any(|bytes| String::from_utf8_lossy(bytes).contains("far away")));
}

#[tokio::test]
async fn every_table_of_a_folder_is_found() {
    let picture = png(16, 16, [1; 3]);
    let lines = b"{\"file_name\":\"a.png\",\"caption\":\"one, two\"}\n";
    let csv = b"file_name,caption\na.png,\"one, two\"\n";
    let columns =
        || vec![("file_name", strings(&[Some("a.png")])), ("caption", strings(&[Some("one, two")]))];
    let parquet = parquet(&[batch(columns())]);
    for (name, bytes) in [
        ("captions.jsonl", lines.as_slice()),
        ("metadata.jsonl", lines),
        ("captions.csv", csv),
        ("metadata.csv", csv),
        ("captions.parquet", &parquet),
        ("metadata.parquet", &parquet),
    ] {
        let path = format!("in/{name}");
        let job = Job::new(&corpus(&[(&path, bytes), ("in/a.png", &picture)]).await);
        job.run(config(vec![pairs("pics", "in/")])).await.expect("runs");
        assert_eq!(texts_of(documents(&job.output).await), owned(&[(0, "one, two")]), "{name}");
    }
}

/// All pictures before all texts, keys out of order: each caption finds its picture.
#[tokio::test]
async fn an_archive_may_hold_all_pictures_before_all_texts() {
    let pictures: Vec<(String, Vec<u8>)> =
        (0..9_u8).rev().map(|key| (format!("k{key}.png"), png(16, 16, [key * 20, 0, 0]))).collect();
    let captions: Vec<(String, Vec<u8>)> =
        (0..9).map(|key| (format!("k{key}.txt"), format!("caption {key}\n").into_bytes())).collect();
    let members: Vec<(&str, &[u8])> =
        pictures.iter().chain(&captions).map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let tar = archive(&members);
    let zst = zstd::encode_all(tar.as_slice(), 1).expect("compresses");
    for (name, bytes) in [("a.tar", &tar), ("a.tar.zst", &zst)] {
        let path = format!("in/{name}");
        let job = Job::new(&corpus(&[(&path, bytes)]).await);
        let report = job.run(config(vec![pairs("pics", &path)])).await.expect("runs");
        assert_eq!(counts(&report), [9, 9, 0, 0, 0]);
        for (row, _) in rows(&job.output).await {
            for (image, source) in row.images().iter().zip(row.sources()) {
                let key = 8 - source.row as u8;
                assert_eq!(source.id.as_deref(), Some(format!("k{key}").as_str()));
                let expected = f32::from(key * 20) / 127.5 - 1.0;
                assert!((image.values[0].to_f32() - expected).abs() < 0.01);
            }
        }
        let expected: Vec<(u64, String)> = (0..9).map(|row| (row, format!("caption {}", 8 - row))).collect();
        assert_eq!(texts_of(documents(&job.output).await), expected);
    }
}

#[tokio::test]
async fn an_archive_may_hold_several_captions_a_sample() {
    let picture = png(16, 16, [1; 3]);
    let members: [(&str, &[u8]); 7] = [
        ("a.png", &picture),
        ("a.txt", b"zero"),
        ("a.2.txt", b"two"),
        ("a.1.txt", b"one"),
        ("b.png", &picture),
        ("b.json", br#"{"captions": ["x", "y"], "alt": "z"}"#),
        ("c.txt", b"no picture"),
    ];
    let inputs = corpus(&[("in/a.tar", &archive(&members))]).await;
    let run = async |source: SourceConfig| {
        let job = Job::new(&inputs);
        job.run(config(vec![source])).await.expect("runs");
        texts_of(documents(&job.output).await)
    };
    let source = pairs("pics", "in/a.tar");
    let [(0, chosen), (1, other)] = &run(source.clone()).await[..] else { panic!("two rows") };
    assert!(["zero", "one", "two"].contains(&chosen.as_str()) && ["x", "y"].contains(&other.as_str()));
    let each = SourceConfig { captions: Some(CaptionChoice::Each), ..source.clone() };
    assert_eq!(run(each).await, owned(&[(0, "one"), (0, "two"), (0, "zero"), (1, "x"), (1, "y")]));
    let alt = SourceConfig { caption: Some("alt".to_owned()), ..source };
    assert_eq!(run(alt).await, owned(&[(1, "z")]));
}

#[tokio::test]
async fn captions_of_a_source_are_all_different_when_each_is_taken() {
    let table: String = (0..10)
        .map(|row| format!("{{\"file_name\":\"a.png\",\"caption\":[\"{row} a\",\"{row} b\",\"{row} c\"]}}\n"))
        .collect();
    let inputs = corpus(&[("in/captions.jsonl", table.as_bytes()), ("in/a.png", &png(16, 16, [1; 3]))]).await;
    let job = Job::new(&inputs);
    let source = SourceConfig { weight: 2.0, document: TextSplit::File, ..choosing(CaptionChoice::Each) };
    let report = job.run(config(vec![source])).await.expect("runs");
    assert_eq!(counts(&report), [10, 10, 0, 0, 0]);
    assert_eq!(report.statistics.documents, 60, "a weight of two takes every document twice");
    let found = texts_of(documents(&job.output).await);
    assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), 30);
}

/// A list that `select` gives stands before its caption where lists are asked for.
#[tokio::test]
async fn select_may_give_the_list_of_captions() {
    let table = br#"{"file_name": "a.png", "captions": ["a", "b"], "caption": "c"}
{"file_name": "a.png", "captions": ["q"]}
{"file_name": "a.png", "caption": "alone"}
"#;
    let inputs = corpus(&[("in/captions.jsonl", table), ("in/a.png", &png(16, 16, [1; 3]))]).await;
    for (select, expected) in [
        ("*", &["a\nb", "q", "alone"][..]),
        ("image, captions, caption", &["a\nb", "q", "alone"]),
        ("image, captions", &["a\nb", "q"]),
    ] {
        let source = SourceConfig {
            select: Some(select.to_owned()),
            captions: Some(CaptionChoice::All),
            ..pairs("pics", "in")
        };
        let job = Job::new(&inputs);
        job.run(config(vec![source])).await.expect(select);
        let found: Vec<String> = documents(&job.output).await.into_iter().map(|(_, _, text)| text).collect();
        let found: Vec<&str> = found.iter().map(|text| text.trim_matches('#')).collect();
        assert_eq!(found, expected, "{select}");
    }
}
