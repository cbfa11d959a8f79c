//! Jobs on files that have columns of their own, and on columns inside columns.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch};

use super::fixtures::{
    Job, arrow_file, arrow_stream, batch, config, corpus, counts, documents, manifest, pairs, parquet, png,
    rejects, rows, strings, structs, texts,
};
use crate::{PipelineError, PreprocessConfig, SourceConfig};

fn owned(expected: &[(&str, u64, &str)]) -> Vec<(String, u64, String)> {
    expected.iter().map(|&(file, row, text)| (file.to_owned(), row, text.to_owned())).collect()
}

/// `rows` texts from a number on, in batches of four.
fn numbered(rows: std::ops::Range<i64>) -> Vec<RecordBatch> {
    let starts: Vec<i64> = rows.clone().step_by(4).collect();
    let batch_of = |start: &i64| {
        let numbers: Vec<i64> = (*start..(*start + 4).min(rows.end)).collect();
        let texts: Vec<String> = numbers.iter().map(|number| format!("row {number}")).collect();
        let texts: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
        batch(vec![("n", Arc::new(Int64Array::from(numbers))), ("text", strings(&texts))])
    };
    starts.iter().map(batch_of).collect()
}

/// The same rows in every form of files give the same documents.
#[tokio::test]
async fn every_form_of_table_gives_the_same_documents() {
    let batches = numbered(0..30);
    let lines: String = (0..30).map(|row| format!("{{\"n\":{row},\"text\":\"row {row}\"}}\n")).collect();
    let csv: String = std::iter::once("n,text\n".to_owned())
        .chain((0..30).map(|row| format!("{row},row {row}\n")))
        .collect();
    let (file, stream) = (arrow_file(&batches), arrow_stream(&batches));
    let list = format!("[\n{}]\n", lines.trim_end().replace('\n', ",\n"));
    let forms: [(&str, Vec<u8>); 9] = [
        ("a.json", list.into_bytes()),
        ("a.jsonl", lines.clone().into_bytes()),
        ("a.csv", csv.into_bytes()),
        ("a.parquet", parquet(&batches)),
        ("a.arrow", file.clone()),
        ("a.feather", file.clone()),
        ("a.arrows", stream.clone()),
        ("a.ipc", stream.clone()),
        ("a.arrow.zst", zstd::encode_all(stream.as_slice(), 1).expect("compresses")),
    ];
    let mut expected = None;
    for (name, bytes) in &forms {
        let path = format!("in/{name}");
        let job = Job::new(&corpus(&[(&path, bytes)]).await);
        let mut source = texts("web", &path);
        source.filter = Some("cast(n as bigint) <> 7".to_owned());
        let report = job.run(config(vec![source])).await.expect("runs");
        assert_eq!(counts(&report), [30, 29, 0, 1, 0], "{name}");
        let found: Vec<_> =
            documents(&job.output).await.into_iter().map(|(_, row, text)| (row, text)).collect();
        assert_eq!(expected.get_or_insert_with(|| found.clone()), &found, "{name}");
    }
}

#[tokio::test]
async fn a_large_arrow_file_is_cut_at_its_batches() {
    let inputs = corpus(&[("in/a.arrow", &arrow_file(&numbered(0..50)))]).await;
    let whole = Job::new(&inputs);
    whole.run(config(vec![texts("web", "in/a.arrow")])).await.expect("runs");
    let expected = documents(&whole.output).await;
    assert_eq!(expected.len(), 50);
    for unit_bytes in [1, 1500] {
        let job = Job::new(&inputs);
        let small = PreprocessConfig { unit_bytes, ..config(vec![texts("web", "in/a.arrow")]) };
        let report = job.run(small).await.expect("runs");
        assert!(report.units > 3, "{}", report.units);
        assert_eq!(documents(&job.output).await, expected, "units of {unit_bytes} bytes");
        assert_eq!(manifest(&job.output).await.sources[0].files.len(), 1);
    }
}

#[tokio::test]
async fn a_damaged_arrow_file_is_one_reject_for_its_rest() {
    let bytes = arrow_file(&numbered(0..12));
    let files: [(&str, &[u8]); 3] =
        [("in/a.arrow", &bytes[..bytes.len() * 2 / 3]), ("in/b.arrow", b"no Arrow"), ("in/c.arrow", &bytes)];
    let job = Job::new(&corpus(&files).await);
    let report = job.run(config(vec![texts("web", "in/*.arrow")])).await.expect("runs");
    let found = rejects(&job.output).await;
    let expected = [("a.arrow", "bad_entry"), ("b.arrow", "bad_entry")];
    let found: Vec<_> = found.iter().map(|(file, _, reason)| (file.as_str(), reason.as_str())).collect();
    assert_eq!(found, expected);
    let kept = documents(&job.output).await;
    assert_eq!(kept.iter().filter(|(file, _, _)| file == "c.arrow").count(), 12);
    let before = kept.iter().filter(|(file, _, _)| file == "a.arrow").count();
    assert!(before == 4 || before == 8, "whole batches before the cut: {before}");
    assert_eq!(counts(&report)[..2], [12 + before as u64 + 2, 12 + before as u64]);
}

/// Columns inside columns by their dotted name, in JSON and in Parquet.
#[tokio::test]
async fn dotted_names_lead_into_columns() {
    let lines = br#"{"meta": {"title": "t0", "body": {"text": "one"}, "lang": "en"}, "n": 1}
{"meta": {"title": "t1", "body": {"text": "two"}, "lang": "de"}, "n": 2}
{"meta": {"title": "t2", "body": null, "lang": "en"}, "n": 3}
{"meta": {"title": "t3", "body": {"text": ["a list"]}, "lang": "en"}, "n": 4}
{"n": 5}
"#;
    let body = structs(vec![("text", strings(&[Some("one"), Some("two"), None, None, None]))]);
    let meta = structs(vec![
        ("title", strings(&[Some("t0"), Some("t1"), Some("t2"), Some("t3"), None])),
        ("body", body),
        ("lang", strings(&[Some("en"), Some("de"), Some("en"), Some("en"), None])),
    ]);
    let table = parquet(&[batch(vec![("meta", meta)])]);
    for (name, bytes, wrong) in
        [("a.jsonl", lines.as_slice(), "wrong_type"), ("a.parquet", table.as_slice(), "missing_text")]
    {
        let path = format!("in/{name}");
        let job = Job::new(&corpus(&[(&path, bytes)]).await);
        let source = SourceConfig {
            text: Some("meta.body.text".to_owned()),
            id: Some("meta.title".to_owned()),
            filter: Some("meta.lang = 'en' or meta.lang is null".to_owned()),
            ..texts("web", &path)
        };
        let report = job.run(config(vec![source.clone()])).await.expect("runs");
        assert_eq!(counts(&report), [5, 1, 3, 1, 0], "{name}");
        assert_eq!(documents(&job.output).await, owned(&[(name, 0, "one")]));
        let expected = [(name, 2, "missing_text"), (name, 3, wrong), (name, 4, "missing_text")];
        assert_eq!(rejects(&job.output).await, owned(&expected));
        assert_eq!(rows(&job.output).await[0].0.sources()[0].id.as_deref(), Some("t0"));
        let error = job
            .plan(config(vec![SourceConfig { text: Some("meta.text".to_owned()), ..source }]))
            .await
            .expect_err("no such column");
        let said = error.to_string();
        assert!(
            said.starts_with("source `web` has no column `meta.text`; its columns are `meta`,"),
            "{said}"
        );
        assert!(said.contains("`meta.body.text`"), "{said}");
    }
}

fn bytes_column(values: &[Option<&[u8]>]) -> ArrayRef {
    Arc::new(BinaryArray::from_iter(values.iter().copied()))
}

/// Structs of `bytes` and `path` as Hugging Face datasets writes them, whole and by their fields.
#[tokio::test]
async fn images_are_structs_of_bytes_and_path() {
    let (red, blue) = (png(16, 16, [200, 0, 0]), png(16, 16, [0, 0, 200]));
    let image = structs(vec![
        ("bytes", bytes_column(&[Some(&red), None, None])),
        ("path", strings(&[Some("not looked at.png"), Some("blue.png"), None])),
    ]);
    let caption = structs(vec![("en", strings(&[Some("red"), Some("blue"), Some("none")]))]);
    let rows = [batch(vec![("image", image), ("caption", caption)])];
    for (name, bytes) in [("p.parquet", parquet(&rows)), ("p.arrow", arrow_file(&rows))] {
        let path = format!("in/{name}");
        let inputs = corpus(&[(&path, bytes.as_slice()), ("in/blue.png", &blue)]).await;
        let kept = async |image: Option<&str>| {
            let job = Job::new(&inputs);
            let caption = Some("caption.en".to_owned());
            let image = image.map(str::to_owned);
            let report = job
                .run(config(vec![SourceConfig { caption, image, ..pairs("p", &path) }]))
                .await
                .expect("runs");
            counts(&report);
            documents(&job.output).await.into_iter().map(|(_, row, _)| row).collect::<Vec<_>>()
        };
        assert_eq!(kept(None).await, [0, 1], "{name}");
        assert_eq!(kept(Some("image.bytes")).await, [0], "{name}");
        assert_eq!(kept(Some("image.path")).await, [1], "{name}");
    }
}

/// Parquet files of which one has a further field in a struct: united by name, with nulls for what is absent.
#[tokio::test]
async fn a_field_that_one_file_lacks_is_null_there() {
    let first = batch(vec![
        ("text", strings(&[Some("old")])),
        ("meta", structs(vec![("score", Arc::new(Int32Array::from(vec![1])) as ArrayRef)])),
    ]);
    let second = batch(vec![
        (
            "meta",
            structs(vec![
                ("lang", strings(&[Some("en")])),
                ("score", Arc::new(Int64Array::from(vec![2])) as ArrayRef),
            ]),
        ),
        ("text", strings(&[Some("new")])),
        ("extra", strings(&[Some("x")])),
    ]);
    let files: [(&str, &[u8]); 2] =
        [("in/1.parquet", &parquet(&[first])), ("in/2.parquet", &parquet(std::slice::from_ref(&second)))];
    let run = async |filter: &str| {
        let job = Job::new(&corpus(&files).await);
        let source = SourceConfig { filter: Some(filter.to_owned()), ..texts("web", "in/*.parquet") };
        job.run(config(vec![source])).await.expect("runs");
        documents(&job.output).await.into_iter().map(|(_, _, text)| text).collect::<Vec<_>>()
    };
    assert_eq!(run("meta.lang is null and extra is null").await, ["old"]);
    assert_eq!(run("meta.lang = 'en' and meta.score = 2").await, ["new"]);
    assert_eq!(run("meta.score >= 1").await, ["old", "new"]);
}

#[tokio::test]
async fn files_that_do_not_fit_are_named_with_the_column() {
    let table =
        |column: ArrayRef| parquet(&[batch(vec![("text", strings(&[Some("a")])), ("score", column)])]);
    let number = table(Arc::new(Int64Array::from(vec![1])));
    let text = table(strings(&[Some("high")]));
    let job = Job::new(&corpus(&[("in/1.parquet", &number), ("in/2.parquet", &text)]).await);
    let source = SourceConfig { filter: Some("score > 0".to_owned()), ..texts("web", "in/*.parquet") };
    let error = job.plan(config(vec![source])).await.expect_err("refused");
    let expected = "column `score` of source `web` is Int64 in `1.parquet` and Utf8 in `2.parquet`";
    assert_eq!(error.to_string(), expected);
    assert!(error.hint().expect("a hint").contains("two sources"));
}

/// A column that is null in the whole first file has the type that it has in the second.
#[tokio::test]
async fn a_column_of_nulls_takes_the_type_of_another_file() {
    let nulls: ArrayRef = arrow::array::new_null_array(&arrow::datatypes::DataType::Null, 1);
    let first = parquet(&[batch(vec![("text", nulls), ("n", Arc::new(Int32Array::from(vec![1])))])]);
    let second = parquet(&[batch(vec![("text", strings(&[Some("here")]))])]);
    let job = Job::new(&corpus(&[("in/1.parquet", &first), ("in/2.parquet", &second)]).await);
    let report = job.run(config(vec![texts("web", "in/*.parquet")])).await.expect("runs");
    assert_eq!(counts(&report), [2, 1, 1, 0, 0]);
    assert_eq!(documents(&job.output).await, owned(&[("2.parquet", 0, "here")]));
}

#[tokio::test]
async fn a_column_of_another_kind_is_refused_before_anything_is_read() {
    let table = parquet(&[batch(vec![
        ("text", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        ("caption", strings(&[Some("a")])),
        ("image", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        ("images", strings(&[Some("a.png")])),
    ])]);
    let job = Job::new(&corpus(&[("in/a.parquet", &table)]).await);
    let failed = async |source: SourceConfig| {
        let error = job.plan(config(vec![source])).await.expect_err("refused");
        assert!(matches!(error, PipelineError::WrongColumn { .. }), "{error}");
        assert!(error.hint().is_some());
        error.to_string()
    };
    let said = failed(texts("web", "in/a.parquet")).await;
    assert_eq!(said, "column `text` of source `web` is Int64, expected a text");
    // `select` may make a text of it.
    let select = Some("concat('n=', cast(text as varchar)) as text".to_owned());
    let job = Job::new(&job.inputs);
    job.run(config(vec![SourceConfig { select, ..texts("web", "in/a.parquet") }])).await.expect("runs");
    assert_eq!(documents(&job.output).await, owned(&[("a.parquet", 0, "n=1")]));
    let said = failed(pairs("web", "in/a.parquet")).await;
    assert!(said.starts_with("column `image` of source `web` is Int64, expected bytes, a path"), "{said}");
    let interleaved = SourceConfig {
        shape: crate::Shape::Interleaved,
        texts: Some("caption".to_owned()),
        ..texts("web", "in/a.parquet")
    };
    let said = failed(interleaved).await;
    assert_eq!(said, "column `caption` of source `web` is Utf8, expected a list of texts");
}

#[tokio::test]
async fn a_source_may_mix_forms_of_files() {
    let files: [(&str, &[u8]); 3] = [
        ("in/a.parquet", &parquet(&numbered(0..2))),
        ("in/b.jsonl", b"{\"text\":\"line\",\"other\":true}\n"),
        ("in/c.arrow", &arrow_file(&numbered(5..6))),
    ];
    let job = Job::new(&corpus(&files).await);
    job.run(config(vec![texts("web", "in/*")])).await.expect("runs");
    let expected = [
        ("a.parquet", 0, "row 0"),
        ("a.parquet", 1, "row 1"),
        ("b.jsonl", 0, "line"),
        ("c.arrow", 0, "row 5"),
    ];
    assert_eq!(documents(&job.output).await, owned(&expected));
}
