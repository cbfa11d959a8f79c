//! What is wrong with a source, and what a person is told of it: each of these ends before anything is read.

use super::fixtures::{Job, batch, config, corpus, parquet, png, strings};
use crate::{
    CaptionChoice, Format, JoinConfig, JoinKeys, PipelineError, PreprocessConfig, Shape, SourceConfig,
    Template,
};

const LINES: &[u8] = br#"{"text": "a", "n": 1, "meta": {"lang": "en"}, "list": ["x"]}
"#;

fn text() -> SourceConfig {
    SourceConfig { name: "web".to_owned(), uri: "in/a.jsonl".to_owned(), ..SourceConfig::default() }
}

fn pair() -> SourceConfig {
    SourceConfig { shape: Shape::Pair, uri: "pics".to_owned(), ..text() }
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn join(uri: &str, on: JoinKeys) -> Option<JoinConfig> {
    Some(JoinConfig { uri: uri.to_owned(), on, ..JoinConfig::default() })
}

/// A source, the beginning of the message, and a word of the hint ("" where the message says all).
fn cases() -> Vec<(SourceConfig, &'static str, &'static str)> {
    let same = |key: &str| JoinKeys::Same(key.to_owned());
    let interleaved = |uri: &str| SourceConfig { shape: Shape::Interleaved, uri: uri.to_owned(), ..text() };
    vec![
        // Addresses.
        (SourceConfig { uri: String::new(), ..text() }, "`source.web.uri` is empty, expected an address", ""),
        (
            SourceConfig { uri: "in/*.tar".to_owned(), ..text() },
            "source `web` has no files: nothing matches `in/*.tar`",
            "there is `a.jsonl`",
        ),
        (
            SourceConfig { uri: "nowhere/*".to_owned(), ..text() },
            "source `web` has no files: nothing matches `nowhere/*`",
            "nothing below its fixed part",
        ),
        (
            SourceConfig { uri: "in/[".to_owned(), ..text() },
            "`source.web.uri` is `in/[`, expected a glob that can be read",
            "set `source.web.uri`",
        ),
        (
            SourceConfig { uri: "in/what.bin".to_owned(), ..text() },
            "`in/what.bin` of source `web` has a form that is not known",
            "json-lines",
        ),
        (
            SourceConfig { uri: "in/no.parquet".to_owned(), ..text() },
            "no file of source `web` can be read; `in/no.parquet` is damaged",
            "set `format`",
        ),
        (
            SourceConfig { uri: "in/old.feather".to_owned(), ..text() },
            "no file of source `web` can be read; `in/old.feather` is damaged: it is of Feather version 1",
            "set `format`",
        ),
        // Names and numbers.
        (
            SourceConfig { name: "a b".to_owned(), ..text() },
            "`source.0.name` is `a b`, expected 1 to 64 letters",
            "",
        ),
        (SourceConfig { weight: 0.0, ..text() }, "`source.web.weight` is 0, expected a number over 0", ""),
        (SourceConfig { weight: f64::NAN, ..text() }, "`source.web.weight` is NaN", ""),
        // Columns.
        (
            SourceConfig { text: some("body"), ..text() },
            "source `web` has no column `body`; its columns are `text`, `n`, `meta`, `meta.lang`, `list`",
            "`a.b` is the field",
        ),
        (
            SourceConfig { text: some("meta.text"), ..text() },
            "source `web` has no column `meta.text`; its columns are `text`, `n`, `meta`, `meta.lang`, `list`",
            "`select`",
        ),
        (
            SourceConfig { id: some("key"), ..text() },
            "source `web` has no column `key`; its columns are",
            "`id`",
        ),
        (SourceConfig { text: some(""), ..text() }, "`source.web.text` is empty, expected a name", ""),
        (
            SourceConfig { caption: some("alt"), ..pair() },
            "source `web` has no column `alt`; its columns are `file_name`, `caption`, `image`",
            "`caption`",
        ),
        (
            SourceConfig { image: some("picture"), ..pair() },
            "source `web` has no column `picture`; its columns are `file_name`, `caption`",
            "`image`",
        ),
        (
            SourceConfig { shape: Shape::Pair, ..text() },
            "source `web` has no column `image`; its columns are `text`, `n`",
            "`image`",
        ),
        (
            interleaved("in/a.jsonl"),
            "source `web` has no column `images`; its columns are `text`, `n`",
            "`images`",
        ),
        (
            SourceConfig { images: some("list"), ..interleaved("in/a.jsonl") },
            "source `web` has no column `texts`; its columns are",
            "`texts`",
        ),
        (
            SourceConfig { images: some("n"), ..interleaved("in/a.jsonl") },
            "column `n` of source `web` is Int64, expected a list of images",
            "`select`",
        ),
        (
            SourceConfig { text: some("n"), uri: "in/b.parquet".to_owned(), ..text() },
            "column `n` of source `web` is Int64, expected a text",
            "`select`",
        ),
        // Keys of another shape, and keys beside `select`.
        (
            SourceConfig { caption: some("alt"), ..text() },
            "`source.web.caption` is `alt`, expected it only where `shape` is `pair`, here it is `text`",
            "",
        ),
        (
            SourceConfig { text: some("body"), ..pair() },
            "`source.web.text` is `body`, expected it only where `shape` is `text`, here it is `pair`",
            "",
        ),
        (
            SourceConfig { folder: some("pics"), ..text() },
            "`source.web.folder` is `pics`, expected it only where `shape` is `pair` or `interleaved`",
            "",
        ),
        (
            SourceConfig { captions: Some(CaptionChoice::Each), ..text() },
            "`source.web.captions` is set, expected it only where `shape` is `pair`",
            "",
        ),
        (
            SourceConfig { text: some("n"), select: some("text"), ..text() },
            "`source.web.text` is `n`, expected nothing beside `select`, in which `n as text` says the same",
            "",
        ),
        // Templates.
        (
            SourceConfig { template: Some(Template::One("a photo".to_owned())), ..pair() },
            "`source.web.template` is `a photo`, expected a text with `{caption}`",
            "",
        ),
        (
            SourceConfig {
                template: Some(Template::Several(vec!["{caption}".to_owned(), "{Caption}".to_owned()])),
                ..pair()
            },
            "`source.web.template` is `{Caption}`, expected a text with `{caption}`",
            "",
        ),
        (
            SourceConfig { template: Some(Template::Several(Vec::new())), ..pair() },
            "`source.web.template` is an empty list, expected at least one",
            "",
        ),
        // SQL.
        (
            SourceConfig { filter: some("n >"), ..text() },
            "`where` of source `web` is not usable: sql parser error",
            "single quotes",
        ),
        (
            SourceConfig { filter: some("score > 1"), ..text() },
            "source `web` has no column `score`; its columns are `text`, `n`",
            "case-sensitive",
        ),
        (
            SourceConfig { filter: some("frobnicate(n)"), ..text() },
            "`where` of source `web` is not usable: Invalid function 'frobnicate'",
            "",
        ),
        (
            SourceConfig { select: some("n as id"), ..text() },
            "`select` of source `web` is not usable: it gives no column `text`, which the shape `text` needs",
            "",
        ),
        (
            SourceConfig { select: some("count(*) as text"), ..text() },
            "`select` of source `web` is not usable",
            "",
        ),
        // Joined tables.
        (
            SourceConfig { join: join("", same("n")), ..text() },
            "`source.web.join.uri` is empty, expected an address",
            "",
        ),
        (
            SourceConfig { join: join("in/b.parquet", JoinKeys::default()), ..text() },
            "`source.web.join.on` is empty, expected the column that both have",
            "",
        ),
        (
            SourceConfig { join: join("in/b.parquet", same("n")), ..text() },
            "`join` of source `web` can't be used: the column `text` is in the source and in `b.parquet`",
            "`join.columns`",
        ),
        (
            SourceConfig {
                join: Some(JoinConfig {
                    format: Some(Format::Tar),
                    ..join("in/b.parquet", same("n")).expect("a join")
                }),
                ..text()
            },
            "`source.web.join.format` is `tar`, expected a form of tables",
            "",
        ),
    ]
}

#[tokio::test]
async fn every_broken_source_has_one_clear_message() {
    let table = batch(vec![
        ("text", strings(&[Some("a")])),
        ("n", std::sync::Arc::new(arrow::array::Int64Array::from(vec![1]))),
    ]);
    let files: [(&str, &[u8]); 7] = [
        ("in/no.parquet", b"no Parquet"),
        ("in/old.feather", b"FEA1 and so on"),
        ("in/a.jsonl", LINES),
        ("in/b.parquet", &parquet(&[table])),
        ("in/what.bin", b"x"),
        ("pics/captions.jsonl", b"{\"file_name\": \"a.png\", \"caption\": \"c\"}\n"),
        ("pics/a.png", &png(16, 16, [1; 3])),
    ];
    let job = Job::new(&corpus(&files).await);
    for (source, message, hint) in cases() {
        let shown = format!("{source:?}");
        let error = job.plan(config(vec![source])).await.expect_err(&shown);
        let said = error.to_string();
        assert!(said.starts_with(message), "{said}\nexpected: {message}\n{shown}");
        let hinted = error.hint().unwrap_or_default();
        assert!(hinted.contains(hint), "{said}: {hinted}");
        assert!(!said.contains('\n') && !hinted.contains('\n'), "one line each: {said}: {hinted}");
    }
}

#[tokio::test]
async fn two_sources_of_one_name_and_a_source_without_a_codec_are_refused() {
    let job = Job::new(&corpus(&[("in/a.jsonl", LINES)]).await);
    let error = job.plan(config(vec![text(), text()])).await.expect_err("the same name");
    assert!(error.to_string().contains("a name that no other source has"), "{error}");
    let error =
        job.plan(PreprocessConfig { codec: None, ..config(vec![pair()]) }).await.expect_err("no codec");
    assert!(matches!(error, PipelineError::NoCodec { .. }), "{error}");
}

/// What stands in a config file that is no value at all is said in the words of the key.
#[test]
fn values_of_the_wrong_kind_are_named() {
    let failed = |source: &str| {
        let text = format!("{{\"source\": [{{\"name\": \"a\", {source}}}]}}");
        serde_json::from_str::<PreprocessConfig>(&text).expect_err("refused").to_string()
    };
    for (source, expected) in [
        (r#""join": {"uri": "x", "on": 5}"#, "`on` is a column, or a table of the source's columns"),
        (r#""join": {"uri": "x", "keys": "a"}"#, "unknown field `keys`, expected one of `uri`, `on`"),
        (r#""template": 5"#, "a template is a text or a list of texts"),
        (r#""captions": "every""#, "unknown variant `every`, expected one of `hash`, `all`, `each`"),
        (r#""format": "arow""#, "unknown variant `arow`, expected one of `json-lines`"),
        (r#""shape": "pairs""#, "unknown variant `pairs`, expected one of `text`, `pair`, `interleaved`"),
    ] {
        let said = failed(source);
        assert!(said.contains(expected), "{said}");
    }
}
