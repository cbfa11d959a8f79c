//! Jobs on columns whose values differ in kind or type.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::Int32Array;

use super::fixtures::{
    Job, batch, config, corpus, counts, documents, pairs, parquet, png, reject_lines, strings, texts,
};
use crate::{ColumnType, PreprocessConfig, SourceConfig};

fn types(column: &str, of: ColumnType) -> BTreeMap<String, ColumnType> {
    BTreeMap::from([(column.to_owned(), of)])
}

fn filtered(filter: &str, uri: &str) -> SourceConfig {
    SourceConfig { filter: Some(filter.to_owned()), ..texts("web", uri) }
}

/// One odd line used to make text of the column, and no column `meta.t` was left.
#[tokio::test]
async fn one_odd_line_does_not_hide_the_fields_of_all_others() {
    let good: String =
        (0..5).map(|row| format!("{{\"text\":\"x{row}\",\"meta\":{{\"t\":\"T{row}\"}}}}\n")).collect();
    for odd in ["{\"text\":\"odd\",\"meta\":\"oops\"}\n", "{\"text\":\"odd\",\"meta\":[1]}\n"] {
        let lines = format!("{odd}{good}");
        let job = Job::new(&corpus(&[("in/a.jsonl", lines.as_bytes())]).await);
        let report = job.run(config(vec![filtered("meta['t'] <> 'T1'", "in/a.jsonl")])).await.expect("runs");
        assert_eq!(counts(&report), [6, 4, 1, 1, 0]);
        assert_eq!(reject_lines(&job.output).await[0].reason, "wrong_type");
        let job = Job::new(&job.inputs);
        let nested = SourceConfig { text: Some("meta.t".to_owned()), ..texts("web", "in/a.jsonl") };
        let report = job.run(config(vec![nested])).await.expect("runs");
        assert_eq!(counts(&report), [6, 5, 1, 0, 0]);
        let job = Job::new(&job.inputs);
        let report = job.run(config(vec![texts("web", "in/a.jsonl")])).await.expect("runs");
        assert_eq!(counts(&report), [6, 6, 0, 0, 0], "nobody asks for `meta`");
    }
    let lines = format!("{{\"meta\":\"oops\"}}\n{good}");
    let job = Job::new(&corpus(&[("in/a.jsonl", lines.as_bytes())]).await);
    let nested = SourceConfig { text: Some("meta.t".to_owned()), ..texts("web", "in/a.jsonl") };
    job.run(config(vec![nested])).await.expect("runs");
    let line = &reject_lines(&job.output).await[0];
    assert_eq!(line.excerpt.as_deref(), Some("\"oops\""));
    assert_eq!(
        (line.reason.as_str(), line.detail.as_str()),
        ("wrong_type", "`meta` is a text, expected an object")
    );
}

#[tokio::test]
async fn one_odd_line_does_not_hide_the_images_of_all_others() {
    let good = "{\"caption\":\"x\",\"meta\":{\"path\":\"a.png\"}}\n";
    let lines = format!("{{\"caption\":\"odd\",\"meta\":\"oops\"}}\n{good}{good}");
    let job =
        Job::new(&corpus(&[("in/a.jsonl", lines.as_bytes()), ("in/a.png", &png(16, 16, [9, 9, 9]))]).await);
    let source = SourceConfig { image: Some("meta.path".to_owned()), ..pairs("web", "in/a.jsonl") };
    let report = job.run(config(vec![source])).await.expect("runs");
    assert_eq!(counts(&report), [3, 2, 1, 0, 0]);
    assert_eq!(reject_lines(&job.output).await[0].detail, "`meta` is a text, expected an object");
}

/// The first rows can't tell that a later one has a fraction.
#[tokio::test]
async fn a_type_that_the_first_rows_do_not_show_is_given() {
    let mut lines: String = (0..1100).map(|row| format!("{{\"text\":\"x\",\"score\":{row}}}\n")).collect();
    lines.push_str("{\"text\":\"late\",\"score\":2.5}\n");
    let inputs = corpus(&[("in/a.jsonl", lines.as_bytes())]).await;
    let job = Job::new(&inputs);
    let report = job.run(config(vec![filtered("score < 3", "in/a.jsonl")])).await.expect("runs");
    assert_eq!(counts(&report), [1101, 3, 1, 1097, 0]);
    let detail = &reject_lines(&job.output).await[0].detail;
    let expected = "`score` is a number, expected a whole number; `types = { score = \"double\" }` takes it";
    assert_eq!(detail, expected);
    let job = Job::new(&inputs);
    let typed =
        SourceConfig { types: types("score", ColumnType::Double), ..filtered("score < 3", "in/a.jsonl") };
    let report = job.run(config(vec![typed])).await.expect("runs");
    assert_eq!(counts(&report), [1101, 4, 0, 1097, 0]);
    let text = SourceConfig {
        types: types("score", ColumnType::Varchar),
        ..filtered("score = '2.5'", "in/a.jsonl")
    };
    let report = Job::new(&inputs).run(config(vec![text])).await.expect("runs");
    assert_eq!(counts(&report)[..2], [1101, 1]);
}

#[tokio::test]
async fn numbers_of_csv_files_are_numbers_where_their_column_is_one() {
    let table = parquet(&[batch(vec![
        ("text", strings(&[Some("parquet")])),
        ("n", Arc::new(Int32Array::from(vec![1]))),
    ])]);
    let csv: (&str, &[u8]) = ("in/a.csv", b"text,n\nseven,7\nten, 10\nfraction,2.5\nnone,x\nempty,\n");
    let lines: (&str, &[u8]) = ("in/b.jsonl", b"{\"text\":\"json\",\"n\":9}\n");
    let kept = async |files: &[(&str, &[u8])], source: SourceConfig| {
        let job = Job::new(&corpus(files).await);
        let report = job.run(config(vec![source])).await.expect("runs");
        let rejects: Vec<u64> = reject_lines(&job.output).await.into_iter().map(|line| line.row).collect();
        assert_eq!(counts(&report)[2], rejects.len() as u64);
        let kept = documents(&job.output).await.into_iter().map(|(_, _, text)| text);
        (kept.collect::<Vec<_>>(), rejects)
    };
    let typed =
        SourceConfig { types: types("n", ColumnType::Double), ..filtered("n > 2 and n < 10", "in/*") };
    assert_eq!(kept(&[csv], typed.clone()).await, (vec!["seven".to_owned(), "fraction".to_owned()], vec![3]));
    let source = filtered("n < 10 and n > 0", "in/*");
    let found = kept(&[csv, lines], source.clone()).await;
    assert_eq!(found, (vec!["seven".to_owned(), "fraction".to_owned(), "json".to_owned()], vec![3]));
    // Beside a Parquet file of whole numbers a fraction is none.
    let files = [csv, ("in/c.parquet", table.as_slice()), lines];
    let found = kept(&files[..2], source).await;
    assert_eq!(found, (["seven", "parquet"].map(str::to_owned).to_vec(), vec![2, 3]));
    let found = kept(&files, typed).await;
    assert_eq!(found, (["seven", "fraction", "json"].map(str::to_owned).to_vec(), vec![3]));
    // Alone its column is text.
    let job = Job::new(&corpus(&[csv]).await);
    let report = job.run(config(vec![filtered("n = 'x'", "in/*")])).await.expect("runs");
    assert_eq!(counts(&report), [5, 1, 0, 4, 0]);
}

#[tokio::test]
async fn types_that_can_not_be_given_are_refused() {
    let table = parquet(&[batch(vec![("text", strings(&[Some("a")]))])]);
    let inputs = corpus(&[("in/a.parquet", &table), ("in/b.jsonl", b"{\"text\":\"a\"}\n")]).await;
    let failed = async |uri: &str, column: &str| {
        let source = SourceConfig { types: types(column, ColumnType::Bigint), ..texts("web", uri) };
        Job::new(&inputs).plan(config(vec![source])).await.expect_err("refused").to_string()
    };
    let said = failed("in/a.parquet", "text").await;
    assert!(
        said.starts_with("`source.web.types.text` is `bigint`, expected nothing for a column of Parquet"),
        "{said}"
    );
    let said = failed("in/b.jsonl", "score").await;
    assert_eq!(said, "source `web` has no column `score`; its columns are `text`");
    let said = failed("in/*", "text").await;
    assert!(said.starts_with("column `text` of source `web` is Utf8 in the files that say"), "{said}");
    let read = serde_json::from_str::<PreprocessConfig>(r#"{"source": [{"types": {"a": "float"}}]}"#);
    let said = read.expect_err("no such type").to_string();
    assert!(said.contains("`float`, expected one of `boolean`, `bigint`, `double`, `varchar`"), "{said}");
}

/// Where the text column's own type is said to be text, whatever stands there is written as one.
#[tokio::test]
async fn a_text_column_may_be_made_text() {
    let lines = b"{\"text\":5}\n{\"text\":\"a\"}\n{\"text\":[1,\"b\"]}\n";
    let job = Job::new(&corpus(&[("in/a.jsonl", lines)]).await);
    let types = [("text".to_owned(), ColumnType::Varchar)].into();
    let source = SourceConfig { types, ..texts("web", "in/a.jsonl") };
    job.run(config(vec![source])).await.expect("runs");
    let found: Vec<String> = documents(&job.output).await.into_iter().map(|(_, _, text)| text).collect();
    assert_eq!(found, ["5", "a", "[1,\"b\"]"]);
}
