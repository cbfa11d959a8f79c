//! Jobs on sources with a joined table.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array};
use futures::StreamExt;
use object_store::ObjectStore;

use super::fixtures::{
    Job, arrow_file, batch, config, corpus, counts, documents, files, pairs, parquet, png, rows, strings,
    texts,
};
use crate::source::Columns;
use crate::{CaptionChoice, JoinConfig, JoinKeys, PipelineError, PreprocessConfig, SourceConfig, Template};

fn lines(count: usize) -> Vec<u8> {
    (0..count).map(|row| format!("{{\"text\":\"row {row}\",\"key\":{row}}}\n")).collect::<String>().into()
}

fn joined(uri: &str, on: JoinKeys) -> SourceConfig {
    let join = JoinConfig { uri: uri.to_owned(), on, ..JoinConfig::default() };
    SourceConfig { join: Some(join), ..texts("web", "in/*.jsonl") }
}

fn on(key: &str) -> JoinKeys {
    JoinKeys::Same(key.to_owned())
}

fn renamed(pairs: &[(&str, &str)]) -> JoinKeys {
    JoinKeys::Renamed(pairs.iter().map(|(own, other)| ((*own).to_owned(), (*other).to_owned())).collect())
}

/// Scores of the even rows below 20, in every form of tables.
fn scores() -> Vec<(&'static str, Vec<u8>)> {
    let keys: Vec<String> = (0..20).step_by(2).map(|key| key.to_string()).collect();
    let keys: Vec<Option<&str>> = keys.iter().map(|key| Some(key.as_str())).collect();
    let scores: ArrayRef = Arc::new(Int64Array::from_iter_values((0..20).step_by(2)));
    let table = batch(vec![("key", strings(&keys)), ("score", scores)]);
    let csv: String = (0..20).step_by(2).map(|key| format!("{key},{key}\n")).collect();
    let lines: String = (0..20)
        .rev()
        .step_by(2)
        .map(|key| key - 1)
        .map(|key| format!("{{\"key\":{key},\"score\":{key}}}\n"))
        .collect();
    vec![
        ("scores.parquet", parquet(std::slice::from_ref(&table))),
        ("scores.arrow", arrow_file(&[table])),
        ("scores.csv", format!("key,score\n{csv}").into_bytes()),
        ("scores.jsonl", lines.into_bytes()),
    ]
}

async fn with_table(name: &str, bytes: &[u8]) -> Arc<dyn ObjectStore> {
    corpus(&[("in/1.jsonl", &lines(30)), ("in/2.jsonl", &lines(8)), (&format!("side/{name}"), bytes)]).await
}

/// Keys are compared as text, whatever the types of the two columns; rows without a match have nulls.
#[tokio::test]
async fn a_joined_table_in_any_form_gives_columns_to_sql() {
    for (name, bytes) in scores() {
        let inputs = with_table(name, &bytes).await;
        let run = async |filter: &str| {
            let job = Job::new(&inputs);
            let mut source = joined(&format!("side/{name}"), on("key"));
            source.filter = Some(filter.to_owned());
            let report = job.run(config(vec![source])).await.expect("runs");
            counts(&report);
            documents(&job.output).await.into_iter().map(|(file, row, _)| (file, row)).collect::<Vec<_>>()
        };
        let found = run("cast(score as bigint) >= 6 and key < 12").await;
        let expected = [("1.jsonl", 6), ("1.jsonl", 8), ("1.jsonl", 10), ("2.jsonl", 6)];
        assert_eq!(found, expected.map(|(file, row)| (file.to_owned(), row)), "{name}");
        assert_eq!(run("score is null").await.len(), 20 + 4, "{name}");
    }
}

/// Rows keep their numbers and their order, so the bytes are those of any number of threads and units.
#[tokio::test]
async fn a_join_moves_no_row() {
    let (name, bytes) = &scores()[0];
    let inputs = with_table(name, bytes).await;
    let plain = Job::new(&inputs);
    plain.run(config(vec![texts("web", "in/*.jsonl")])).await.expect("runs");
    let mut source = joined("side/scores.parquet", on("key"));
    source.select = Some("text as text, cast(key as varchar) as id, score as kept".to_owned());
    source.filter = Some("score is null or score >= 0".to_owned());
    let mut expected = None;
    for threads in [1, 4] {
        let job = Job { threads, ..Job::new(&inputs) };
        let small = PreprocessConfig { unit_bytes: 300, ..config(vec![source.clone()]) };
        let report = job.run(small).await.expect("runs");
        assert_eq!((counts(&report), report.units > 2), ([38, 38, 0, 0, 0], true));
        assert_eq!(documents(&job.output).await, documents(&plain.output).await);
        let found = files(&job.output).await;
        assert_eq!(expected.get_or_insert_with(|| found.clone()), &found, "{threads} threads");
    }
}

/// Rows of many batches: matched, unmatched, without a key, refused, and copies of each other. `joined`: with what the table
/// of [`many_scores`] says of them.
fn many(joined: bool) -> Vec<u8> {
    let line = |row: usize| match row % 13 {
        5 => "{oops\n".to_owned(),
        7 => format!("{{\"text\":[{row}],\"key\":{row}}}\n"),
        rest => {
            let text = format!("text {}", row % 601);
            let key = if rest == 9 { "null".to_owned() } else { row.to_string() };
            let score = if joined && rest != 9 { score(row) } else { None };
            let score = score.map_or("null".to_owned(), |score| score.to_string());
            let with = if joined { format!(",\"score\":{score}") } else { String::new() };
            format!("{{\"text\":\"{text}\",\"key\":{key},\"part\":\"p{}\"{with}}}\n", row % 3)
        }
    };
    (0..2000).map(line).collect::<String>().into()
}

/// What the table says of a key: something of every seventh, and of none in the middle.
fn score(key: usize) -> Option<usize> {
    (key.is_multiple_of(7) && !(700..1400).contains(&key)).then_some(key % 100)
}

fn many_scores() -> Vec<u8> {
    let line = |key: usize| score(key).map(|score| format!("{key},p{},{score}\n", key % 3));
    let lines: String = (0..2000).rev().filter_map(line).collect();
    format!("key,part,score\n{lines}").into()
}

/// A join used to give the matched rows of a batch first. With the table's columns in the rows there is nothing to join.
#[tokio::test]
async fn a_join_gives_what_rows_with_the_same_columns_give() {
    let inputs = corpus(&[
        ("in/a.jsonl", &many(false)),
        ("plain/a.jsonl", &many(true)),
        ("side/scores.csv", &many_scores()),
    ])
    .await;
    let text = Some("text || coalesce(cast(score as varchar), '') as text, key as id".to_owned());
    let some = |sql: &str| Some(sql.to_owned());
    let clauses = [
        (some("score is null or score <> '0'"), None),
        (None, text.clone()),
        (some("score is null or cast(score as int) % 3 <> 1"), text),
        (some("cast(coalesce(score, '1') as int) <> 14 and 5 / (key % 50) < 5"), None),
    ];
    for keys in [on("key"), renamed(&[("key", "key"), ("part", "part")])] {
        for ((filter, select), deduplicate) in
            clauses.iter().flat_map(|clauses| [(clauses, false), (clauses, true)])
        {
            let mut found = Vec::new();
            for (join, threads) in [(true, 1), (true, 4), (false, 2)] {
                let source = SourceConfig {
                    filter: filter.clone(),
                    select: select.clone(),
                    ..joined("side/scores.csv", keys.clone())
                };
                let take = |join: JoinConfig| JoinConfig { columns: vec!["score".to_owned()], ..join };
                let source = SourceConfig { join: source.join.map(take), ..source };
                let mut source = if join { source } else { SourceConfig { join: None, ..source } };
                if !join {
                    source.uri = "plain/*.jsonl".to_owned();
                    source.filter = source.filter.map(|sql| sql.replace("score", "cast(score as varchar)"));
                }
                let job = Job { threads, ..Job::new(&inputs) };
                let whole = PreprocessConfig { deduplicate, ..config(vec![source]) };
                let report = job.run(whole).await.expect("runs");
                let (counts, rows) = (counts(&report), rows(&job.output).await);
                assert_eq!((counts[0], counts[2] > 250, counts[4] > 0), (2000, true, deduplicate));
                let refused =
                    files(&job.output).await.into_iter().filter(|(name, _)| name.starts_with("rejects/"));
                let refused: Vec<Vec<u8>> = refused.map(|(_, bytes)| bytes).collect();
                found.push((counts, rows, refused));
            }
            assert_eq!(found[0], found[2], "{filter:?} {select:?}, deduplicate {deduplicate}");
            assert_eq!(found[1], found[2], "{filter:?} {select:?}, deduplicate {deduplicate}");
        }
    }
}

#[tokio::test]
async fn a_joined_column_may_be_the_caption() {
    let table = br#"{"file_name": "a.png", "image_id": 1}
{"file_name": "a.png", "image_id": 2}
{"file_name": "a.png", "image_id": 3}
"#;
    let captions = b"id,recaption\n3,three\n1,one\n9,nine\n";
    let inputs =
        corpus(&[("in/captions.jsonl", table), ("side/c.csv", captions), ("in/a.png", &png(16, 16, [1; 3]))])
            .await;
    let join = JoinConfig {
        uri: "side/c.csv".to_owned(),
        on: renamed(&[("image_id", "id")]),
        columns: vec!["recaption".to_owned()],
        ..JoinConfig::default()
    };
    let source = SourceConfig {
        join: Some(join),
        caption: Some("recaption".to_owned()),
        captions: Some(CaptionChoice::All),
        template: Some(Template::One("number {caption}".to_owned())),
        ..pairs("pics", "in")
    };
    let job = Job::new(&inputs);
    let report = job.run(config(vec![source])).await.expect("runs");
    assert_eq!(counts(&report), [3, 2, 1, 0, 0]);
    let found: Vec<_> = documents(&job.output).await.into_iter().map(|(_, row, text)| (row, text)).collect();
    assert!(found[0].1.contains("number one") && found[1].1.contains("number three"), "{found:?}");
    assert_eq!((found[0].0, found[1].0), (0, 2));
}

#[tokio::test]
async fn several_columns_may_be_the_key() {
    let inputs = corpus(&[
        ("in/a.jsonl", b"{\"text\":\"x\",\"a\":1,\"b\":\"u\"}\n{\"text\":\"y\",\"a\":1,\"b\":\"v\"}\n{\"text\":\"z\",\"a\":null,\"b\":\"u\"}\n"),
        ("side/t.csv", b"a,c,good\n1,u,yes\n1,v,no\n,u,yes\n,u,yes\n"),
    ])
    .await;
    let mut source = joined("side/t.csv", renamed(&[("a", "a"), ("b", "c")]));
    source.filter = Some("good = 'yes'".to_owned());
    let job = Job::new(&inputs);
    let report = job.run(config(vec![source])).await.expect("runs");
    // Nulls are equal to nothing, and may be there twice.
    assert_eq!(counts(&report), [3, 1, 0, 2, 0]);
}

/// Keys are compared as text, so bytes that are no text find nothing, and are no key of a table.
#[tokio::test]
async fn a_key_of_bytes_that_are_no_text_finds_nothing() {
    let keys: [&[u8]; 2] = [b"a", b"\xff"];
    let keys: ArrayRef = Arc::new(BinaryArray::from_iter_values(keys));
    let own = batch(vec![("text", strings(&[Some("x"), Some("y")])), ("key", keys.clone())]);
    let table = batch(vec![("key", keys), ("score", strings(&[Some("1"), Some("2")]))]);
    let inputs = corpus(&[
        ("in/a.parquet", &parquet(&[own])),
        ("side/t.csv", b"key,score\na,1\n"),
        ("side/t.parquet", &parquet(&[table])),
    ])
    .await;
    let source = |table: &str| SourceConfig {
        uri: "in/a.parquet".to_owned(),
        filter: Some("score is null".to_owned()),
        ..joined(table, on("key"))
    };
    let job = Job::new(&inputs);
    let report = job.run(config(vec![source("side/t.csv")])).await.expect("runs");
    assert_eq!(counts(&report), [2, 1, 0, 1, 0]);
    let error = job.plan(config(vec![source("side/t.parquet")])).await.expect_err("no text");
    assert!(
        error.to_string().starts_with("`join` of source `web` can't be used: `t.parquet` can't be read"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_joined_table_is_said_when_the_job_is_planned() {
    let inputs = corpus(&[
        ("in/a.jsonl", b"{\"text\":\"x\",\"key\":1,\"score\":2,\"tags\":[1]}\n"),
        ("side/twice.csv", b"key,rank\n1,2\n7,1\n7,3\n"),
        ("side/clash.csv", b"key,score\n1,2\n"),
        ("side/broken.jsonl", b"{\"key\":1}\n{oops\n"),
        ("side/lists.jsonl", b"{\"key\":[1],\"rank\":1}\n"),
        ("side/good.csv", b"key,rank\n1,2\n"),
        ("side/text.txt", b"x"),
    ])
    .await;
    let job = Job::new(&inputs);
    let failed = async |source: SourceConfig| {
        let error = job.plan(config(vec![source])).await.expect_err("refused");
        assert!(error.hint().is_some(), "{error}");
        error.to_string()
    };
    let cases = [
        (
            joined("side/twice.csv", on("key")),
            "`join` of source `web` can't be used: row 2 of `twice.csv` has the key `7`, which is there before",
        ),
        (
            joined("side/clash.csv", on("key")),
            "`join` of source `web` can't be used: the column `score` is in the source and in `clash.csv`",
        ),
        (
            joined("side/broken.jsonl", on("key")),
            "`join` of source `web` can't be used: row 1 of `broken.jsonl` is refused: invalid_json",
        ),
        (
            joined("side/lists.jsonl", on("key")),
            "`join` of source `web` can't be used: the table's column `key` is List",
        ),
        (
            joined("side/good.csv", on("id")),
            "`join` of source `web` can't be used: the table has no column `id`; its columns are `key`, `rank`",
        ),
        (
            joined("side/good.csv", renamed(&[("id", "key")])),
            "source `web` has no column `id`; its columns are `text`, `key`, `score`, `tags`",
        ),
        (
            joined("side/good.csv", renamed(&[("tags", "key")])),
            "`join` of source `web` can't be used: the column `tags` is List",
        ),
        (joined("side/text.txt", on("key")), "`join` of source `web` can't be used: `text.txt` is no table"),
        (
            joined("side/none.csv", on("key")),
            "source `web.join` has no files: nothing matches `side/none.csv`",
        ),
    ];
    for (source, expected) in cases {
        let said = failed(source).await;
        assert!(said.starts_with(expected), "{said}");
    }
    let mut source = joined("side/good.csv", on("key"));
    source.filter = Some("ranks > 1".to_owned());
    let said = failed(source.clone()).await;
    assert!(said.ends_with("its columns are `text`, `key`, `score`, `tags`, `rank`"), "{said}");
    source.filter = None;
    source.join.as_mut().expect("a join").columns = vec!["place".to_owned()];
    assert!(failed(source).await.contains("has no column `place`"));
}

/// What lies in the joined table belongs to the job, where it lies does not.
#[tokio::test]
async fn a_job_depends_on_the_content_of_its_joined_table() {
    let table = b"key,rank\n1,2\n";
    let inputs = corpus(&[
        ("in/a.jsonl", &lines(5)),
        ("side/t.csv", table),
        ("elsewhere/t.csv", table),
        ("side/other.csv", b"key,rank\n1,3\n"),
    ])
    .await;
    let job = Job::new(&inputs);
    let source = |uri: &str| {
        let mut source = joined(uri, on("key"));
        source.filter = Some("rank is null".to_owned());
        config(vec![source])
    };
    let report = job.run(source("side/t.csv")).await.expect("runs");
    assert_eq!(counts(&report), [5, 4, 0, 1, 0]);
    assert!(job.run(source("elsewhere/t.csv")).await.expect("is done").already_complete);
    let error = job.run(source("side/other.csv")).await.expect_err("another table");
    assert!(
        matches!(&error, PipelineError::OtherConfig { key, .. } if key == "source.0.join.uri"),
        "{error}"
    );
    let found = files(&job.output).await;
    assert!(!found.values().any(|bytes| String::from_utf8_lossy(bytes).contains("side/")));
}

#[tokio::test]
async fn the_plan_shows_the_join_only_where_it_is_asked_for() {
    let (name, bytes) = &scores()[0];
    let job = Job::new(&with_table(name, bytes).await);
    let mut source = joined("side/scores.parquet", on("key"));
    let text = job.plan(config(vec![source.clone()])).await.expect("a plan").explain().await.expect("text");
    assert!(!text.contains("LookupExec"), "nobody asks for its columns: {text}");
    source.filter = Some("score > 1".to_owned());
    let text = job.plan(config(vec![source])).await.expect("a plan").explain().await.expect("text");
    assert!(text.contains("LookupExec: table=scores.parquet, on=[key], columns=[score]"), "{text}");
}

/// Long rows leave a join one by one: none waits for the memory of another that waits for it.
#[tokio::test]
async fn long_rows_pass_a_join_as_they_come() {
    let line = |row: usize| format!("{{\"text\":\"{}\",\"key\":{row}}}\n", "word ".repeat(1_900_000));
    let lines: String = (0..3).map(line).collect();
    for table in ["key,score\n", "key,score\n1,5\n"] {
        let inputs = corpus(&[("in/a.jsonl", lines.as_bytes()), ("side/t.csv", table.as_bytes())]).await;
        let mut source = joined("side/t.csv", on("key"));
        source.filter = Some("score is null or score = '5'".to_owned());
        let plan = Job::new(&inputs).plan(config(vec![source])).await.expect("a plan");
        let rows = plan.sources[0].rows(&plan.sources[0].units, Columns::Document).await.expect("a plan");
        let mut batches =
            rows.execute(0, plan.runtime.session().expect("a session").task_ctx()).expect("starts");
        let mut counts = Vec::new();
        while let Some(batch) = batches.next().await {
            counts.push(batch.expect("reads").num_rows());
        }
        assert_eq!(counts, [1, 1, 1, 1], "three rows and the end of the unit");
    }
}

/// pandas writes whole numbers as floats where a column has nulls too.
#[tokio::test]
async fn a_whole_float_is_the_key_that_a_whole_number_is() {
    let keys: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![Some(7.0), None, Some(8.5)]));
    let scores: ArrayRef = Arc::new(Int64Array::from(vec![70, 0, 85]));
    let table = parquet(&[batch(vec![("key", keys), ("score", scores)])]);
    let inputs = corpus(&[("in/1.jsonl", &lines(10)), ("side/t.parquet", &table)]).await;
    let job = Job::new(&inputs);
    let mut source = joined("side/t.parquet", on("key"));
    source.filter = Some("score = 70".to_owned());
    job.run(config(vec![source])).await.expect("runs");
    let kept: Vec<_> = documents(&job.output).await.into_iter().map(|(_, row, _)| row).collect();
    assert_eq!(kept, [7]);
}
