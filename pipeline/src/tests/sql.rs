//! Jobs whose sources have SQL: rows that it fails on, names that are like ours, and what a person is told of a mistake.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};

use super::fixtures::{
    Job, batch, config, corpus, counts, documents, files, parquet, png, reject_lines, rejects, rows, strings,
    texts,
};
use crate::{JoinConfig, JoinKeys, PipelineError, PreprocessConfig, Shape, SourceConfig};

fn source(uri: &str, filter: &str, select: &str) -> SourceConfig {
    let some = |sql: &str| (!sql.is_empty()).then(|| sql.to_owned());
    SourceConfig { filter: some(filter), select: some(select), ..texts("web", uri) }
}

async fn kept(job: &Job) -> Vec<(u64, String)> {
    documents(&job.output).await.into_iter().map(|(_, row, text)| (row, text)).collect()
}

fn owned(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
    expected.iter().map(|&(row, text)| (row, text.to_owned())).collect()
}

/// One row that a cast, a division or a comparison fails on used to end the job.
#[tokio::test]
async fn a_row_that_sql_fails_on_is_refused_and_the_others_are_not() {
    let inputs = corpus(&[
        ("in/a.csv", b"text,n\na,1\nb,x\nc,3\n"),
        (
            "in/mixed.jsonl",
            b"{\"text\":\"a\",\"n\":1}\n{\"text\":\"b\",\"n\":\"x\"}\n{\"text\":\"c\",\"n\":3}\n",
        ),
        ("in/b.jsonl", b"{\"text\":\"a\",\"n\":1}\n{\"text\":\"b\",\"n\":2}\n{\"text\":\"c\",\"n\":3}\n"),
    ])
    .await;
    let (cast, zero) = ("Cast error: Cannot cast string 'x' to value of", "Divide by zero error");
    let cases = [
        ("in/a.csv", "cast(n as int) > 1", "", "c", cast),
        ("in/a.csv", "", "concat('n', cast(n as int)) as text", "n1 n3", cast),
        ("in/mixed.jsonl", "n > 1", "", "c", cast),
        ("in/b.jsonl", "10 / (n - 2) > 0", "", "c", zero),
        ("in/b.jsonl", "", "cast(10 / (n - 2) as varchar) as text", "-10 10", zero),
        ("in/b.jsonl", "10 / (n - 2) > 0", "upper(text) as text", "C", zero),
    ];
    for (uri, filter, select, expected, said) in cases {
        let job = Job::new(&inputs);
        let report = job.run(config(vec![source(uri, filter, select)])).await.expect("runs");
        let texts: Vec<String> = kept(&job).await.into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts.join(" "), expected, "{filter} {select}");
        let found = counts(&report);
        assert_eq!((found[0], found[2]), (3, 1), "{filter} {select}");
        let lines = reject_lines(&job.output).await;
        assert_eq!((lines[0].row, lines[0].reason.as_str()), (1, "sql_error"));
        let clause = if filter.is_empty() { "`select`: " } else { "`where`: " };
        let detail = &lines[0].detail;
        assert!(detail.starts_with(clause) && detail.contains(said), "{detail}");
        assert!(detail.chars().count() < 120 && !detail.contains('\n'), "{detail}");
    }
}

/// The same rows are refused whatever batches and units they come in, and a condition before another one spares it.
#[tokio::test]
async fn which_rows_are_refused_depends_on_the_rows_alone() {
    let row = |row: usize| match row % 7 {
        // No JSON, and no number: refused for what they are, not for what SQL makes of them.
        3 => "{oops\n".to_owned(),
        5 => format!("{{\"text\":[{row}],\"id\":\"row {row}\",\"n\":\"no number\"}}\n"),
        _ if row % 400 > 300 && row.is_multiple_of(11) => {
            format!("{{\"text\":\"row {row}\",\"n\":\"x{row}\"}}\n")
        }
        _ => format!("{{\"text\":\"row {row}\",\"n\":\"{row}\"}}\n"),
    };
    let lines: String = (0..3000).map(row).collect();
    let inputs = corpus(&[("in/a.jsonl", lines.as_bytes())]).await;
    let is_bad = |row: usize| row % 7 != 3 && row % 7 != 5 && row % 400 > 300 && row.is_multiple_of(11);
    let is_fine = |row: usize| row % 7 != 3 && row % 7 != 5 && !is_bad(row);
    let mut expected_files = None;
    for (unit_bytes, threads) in [(128 << 20, 1), (128 << 20, 4), (9000, 4)] {
        let job = Job { threads, ..Job::new(&inputs) };
        let sql =
            source("in/a.jsonl", "n <> 'x301' and cast(n as int) >= 100", "concat(text, '!') as text, id");
        let small = PreprocessConfig { unit_bytes, ..config(vec![sql]) };
        job.run(small).await.expect("runs");
        let found: Vec<u64> = kept(&job).await.into_iter().map(|(row, _)| row).collect();
        let expected: Vec<u64> = (100..3000).filter(|&row| is_fine(row)).map(|row| row as u64).collect();
        assert_eq!(found, expected);
        let failed: Vec<u64> = rejects(&job.output)
            .await
            .into_iter()
            .filter(|(_, _, reason)| reason == "sql_error")
            .map(|(_, row, _)| row)
            .collect();
        let expected: Vec<u64> = (0..3000).filter(|&row| is_bad(row)).map(|row| row as u64).collect();
        assert_eq!(failed, expected);
        assert!(failed.len() > 30);
        let lines = reject_lines(&job.output).await;
        let wrong = lines.iter().find(|line| line.reason == "wrong_type").expect("a list for a text");
        assert_eq!(wrong.id.as_deref(), Some("row 5"));
        if unit_bytes > 9000 {
            let found = files(&job.output).await;
            assert_eq!(expected_files.get_or_insert_with(|| found.clone()), &found, "{threads} threads");
        }
    }
}

/// A row that its own guard spares doesn't fail with its neighbours.
#[tokio::test]
async fn a_guard_spares_a_row() {
    let lines: String = (0..20).map(|n| format!("{{\"text\":\"{n}\",\"n\":{n}}}\n")).collect();
    let job = Job::new(&corpus(&[("in/a.jsonl", lines.as_bytes())]).await);
    let guarded = source("in/a.jsonl", "n <> 10 and 100 / (n - 10) > 10", "");
    let report = job.run(config(vec![guarded])).await.expect("runs");
    assert_eq!(counts(&report), [20, 9, 0, 11, 0]);
}

/// Pairs are refused alike, and what SQL computes beside a picture leaves it as it is.
#[tokio::test]
async fn a_pair_that_sql_fails_on_is_refused() {
    let table: String =
        (0..70).map(|n| format!("{{\"file_name\":\"a.png\",\"caption\":\"c{n}\",\"n\":{n}}}\n")).collect();
    let picture = png(16, 16, [7; 3]);
    let inputs = corpus(&[("in/captions.jsonl", table.as_bytes()), ("in/a.png", &picture)]).await;
    let job = Job::new(&inputs);
    let select = "concat(caption, ' ', cast(100 / (n - 40) as varchar)) as caption, image, caption as id";
    let sql =
        SourceConfig { shape: Shape::Pair, ..source("in", "height / (n - 3) >= 0 and width = 16", select) };
    let report = job.run(config(vec![sql])).await.expect("runs");
    assert_eq!(counts(&report), [70, 65, 2, 3, 0]);
    let lines = reject_lines(&job.output).await;
    let found: Vec<_> =
        lines.iter().map(|line| (line.row, line.id.as_deref(), line.reason.as_str())).collect();
    assert_eq!(found, [(3, Some("c3"), "sql_error"), (40, Some("c40"), "sql_error")]);
    assert!(kept(&job).await.iter().any(|(row, text)| *row == 65 && text.contains("c65 4")));
}

/// A row that fails is no copy of another one.
#[tokio::test]
async fn a_row_that_fails_is_not_deduplicated() {
    let csv = b"text,n\na,1\na,x\na,3\nb,x\n";
    let job = Job::new(&corpus(&[("in/a.csv", csv)]).await);
    let sql = source("in/a.csv", "cast(n as int) > 0", "");
    let once = PreprocessConfig { deduplicate: true, ..config(vec![sql]) };
    let report = job.run(once).await.expect("runs");
    assert_eq!(counts(&report), [4, 1, 2, 0, 1]);
}

/// Columns of a person's that are called as ours once were are theirs.
#[tokio::test]
async fn a_column_may_be_called_as_it_likes() {
    let names = ["_unit", "_file", "_row", "_kind", "_reason", "_detail", "_excerpt", "_join_key_0"];
    let mut columns: Vec<(&str, ArrayRef)> = vec![("text", strings(&[Some("a"), Some("b"), Some("c")]))];
    for name in names {
        columns.push((name, Arc::new(Int64Array::from(vec![10, 20, 30]))));
    }
    let inputs = corpus(&[("in/a.parquet", &parquet(&[batch(columns)]))]).await;
    for name in names {
        let job = Job::new(&inputs);
        let mut sql = source("in/a.parquet", &format!("{name} = 20"), "");
        sql.id = Some(name.to_owned());
        let on = JoinKeys::Same(name.to_owned());
        sql.join = Some(JoinConfig { uri: "in/a.parquet".to_owned(), on, ..JoinConfig::default() });
        let error = job.plan(config(vec![sql.clone()])).await.expect_err("columns of both");
        assert!(matches!(error, PipelineError::Join { .. }), "{error}");
        sql.join = None;
        let report = job.run(config(vec![sql])).await.expect("runs");
        assert_eq!(counts(&report), [3, 1, 0, 2, 0], "{name}");
        let found = rows(&job.output).await;
        assert_eq!(found[0].0.sources()[0].id.as_deref(), Some("20"), "{name}");
    }
}

/// Our own columns are nobody's: neither keys nor SQL reach them, also where a file has such a name.
#[tokio::test]
async fn names_of_our_own_columns_are_refused() {
    let inputs = corpus(&[
        ("in/a.jsonl", b"{\"text\":\"a\",\"n\":1,\"__transfusion_kind\":7,\"__transfusion_x\":\"y\"}\n"),
        ("in/t.csv", b"n,good\n1,2\n"),
    ])
    .await;
    let job = Job::new(&inputs);
    let plain = || source("in/a.jsonl", "", "");
    let join = |on: &str| JoinConfig {
        uri: "in/t.csv".to_owned(),
        on: JoinKeys::Renamed([(on.to_owned(), "n".to_owned())].into_iter().collect()),
        ..JoinConfig::default()
    };
    for name in ["__transfusion_kind", "__transfusion_x"] {
        let cases = [
            source("in/a.jsonl", &format!("{name} = 0"), ""),
            source("in/a.jsonl", "", &format!("text, {name} as id")),
            SourceConfig { text: Some(name.to_owned()), ..plain() },
            SourceConfig { id: Some(name.to_owned()), ..plain() },
            SourceConfig { join: Some(join(name)), ..plain() },
        ];
        for case in cases {
            let shown = format!("{case:?}");
            let error = job.plan(config(vec![case])).await.expect_err(&shown);
            let said = format!("source `web` has no column `{name}`; its columns are `text`, `n`");
            assert_eq!(error.to_string(), said, "{shown}");
            assert!(error.hint().expect("a hint").contains("begin with `__transfusion_`"), "{shown}");
        }
    }
    let report = job.run(config(vec![plain()])).await.expect("who doesn't name them is not concerned");
    assert_eq!(counts(&report), [1, 1, 0, 0, 0]);
}

#[tokio::test]
async fn a_select_may_have_stars() {
    let lines = b"{\"id\":\"x\",\"n\":1,\"body\":\"b\"}\n{\"id\":\"y\",\"n\":2,\"body\":\"c\"}\n{oops\n";
    let plain = b"{\"text\":\"a\",\"n\":1}\n{\"text\":\"b\",\"n\":2}\n";
    let inputs = corpus(&[("in/a.jsonl", lines), ("in/b.jsonl", plain)]).await;
    let cases = [
        ("in/a.jsonl", "*, body as text", owned(&[(0, "b"), (1, "c")])),
        ("in/a.jsonl", "* exclude (n), upper(body) as text", owned(&[(0, "B"), (1, "C")])),
        ("in/b.jsonl", "*", owned(&[(0, "a"), (1, "b")])),
        ("in/b.jsonl", "source.*, n as id", owned(&[(0, "a"), (1, "b")])),
        ("in/b.jsonl", "* replace (upper(text) as text) -- a comment", owned(&[(0, "A"), (1, "B")])),
        ("in/b.jsonl", "n, text", owned(&[(0, "a"), (1, "b")])),
    ];
    for (uri, select, expected) in cases {
        let job = Job::new(&inputs);
        job.run(config(vec![source(uri, "", select)])).await.expect(select);
        assert_eq!(kept(&job).await, expected, "{select}");
        if uri == "in/a.jsonl" {
            assert_eq!(rows(&job.output).await[0].0.sources()[0].id.as_deref(), Some("x"), "{select}");
            assert_eq!(rejects(&job.output).await.len(), 1);
        }
    }
}

/// What changes from run to run would make another dataset of the same input.
#[tokio::test]
async fn functions_of_something_else_than_the_row_are_refused() {
    let job = Job::new(&corpus(&[("in/a.jsonl", b"{\"text\":\"a\",\"n\":1}\n")]).await);
    let cases = [
        ("random() < 0.5", "", "`where`", "random"),
        ("n > 0 and not (random() * n < 0.5 or n = 7)", "", "`where`", "random"),
        ("now() > '2020-01-01'", "", "`where`", "now"),
        ("current_date > '2020-01-01'", "", "`where`", "current_date"),
        ("current_time() is not null", "", "`where`", "current_time"),
        ("", "concat(text, uuid()) as text", "`select`", "uuid"),
        ("", "text, case when n > 0 then cast(random() as varchar) end as id", "`select`", "random"),
        ("n > 0", "text, cast(today() as varchar) as id", "`select`", "current_date"),
    ];
    for (filter, select, clause, name) in cases {
        let sql = source("in/a.jsonl", filter, select);
        let error = job.plan(config(vec![sql])).await.expect_err(name);
        let said =
            format!("{clause} of source `web` is not usable: `{name}` gives something else in every run");
        assert_eq!(error.to_string(), said);
        assert!(error.hint().expect("a hint").contains("before"), "{error}");
    }
}

#[tokio::test]
async fn errors_say_what_is_wrong_with_the_sql() {
    let lines = b"{\"text\":\"a\",\"n\":1,\"tags\":[\"x\"],\"m\":{\"a\":1}}\n";
    let job = Job::new(&corpus(&[("in/a.jsonl", lines)]).await);
    let cases = [
        ("1", "", "it is Int64, expected true or false", "compare"),
        ("text", "", "it is Utf8, expected true or false", "compare"),
        ("length(text)", "", "it is Int32, expected true or false", "compare"),
        ("n = 'x'", "", "Cast error: Cannot cast string 'x' to value of Int64 type", "try_cast"),
        ("1 / 0 > 1", "", "Divide by zero error", "nullif"),
        ("n > 0 and 1 / 0 > n", "", "Divide by zero error", "nullif"),
        ("", "text, cast('x' || 'y' as int) as id", "Cast error: Cannot cast string 'xy'", "try_cast"),
        ("regexp_like(text, '(')", "", "regex parse error", "cast"),
        ("text ~ '['", "", "regex parse error", "cast"),
        ("n >", "", "sql parser error: Expected: an expression, found: EOF", "single quotes"),
        ("n > 1 n", "", "sql parser error: Expected: end of expression", "single quotes"),
        ("n > 1) or (true", "", "sql parser error: Expected: end of expression", "single quotes"),
        ("tags > 1", "", "Cannot infer common argument type", "cast"),
        ("exists (select 1)", "", "only expressions over the columns of one row are possible", "join"),
        ("n in (select 1)", "", "only expressions over the columns of one row are possible", "join"),
        ("n > (select 1)", "", "only expressions over the columns of one row are possible", "join"),
        ("count(*) > 1", "", "only expressions over the columns of one row are possible", "join"),
        ("n > $1", "", "there is no value for `$1`", "single quotes"),
        ("frobnicate(n)", "", "Invalid function 'frobnicate'", "functions"),
        ("", "count(*) as text", "only expressions over the columns of one row are possible", "join"),
        ("", "distinct text", "only expressions over the columns of one row are possible", "join"),
        ("", "unnest(tags) as text", "only expressions over the columns of one row are possible", "join"),
        ("", "row_number() over () as text", "only expressions over the columns of one row", "join"),
        ("", "(select 'x') as text", "only expressions over the columns of one row are possible", "join"),
        ("", "cast('x' as int) as text", "Cast error: Cannot cast string 'x' to value of Int32", "try_cast"),
        ("", "n as id", "it gives no column `text`, which the shape `text` needs", "as text"),
        ("", "m as text", "its column `text` is Struct", "expression"),
        ("", "tags as text", "its column `text` is List", "expression"),
        ("", "text, n as text", "it gives the column `text` twice", "exclude"),
        ("", "upper(text), upper(text)", "Projections require unique expression names", "exclude"),
        ("", "text from", "only expressions over the columns of one row are possible", "join"),
        ("n in (select a from t)", "", "only expressions over the columns of one row are possible", "join"),
        ("", "text, upper(", "sql parser error", "single quotes"),
    ];
    for (filter, select, said, hint) in cases {
        let sql = source("in/a.jsonl", filter, select);
        let error = job.plan(config(vec![sql])).await.expect_err(said);
        let clause = if filter.is_empty() { "select" } else { "where" };
        let shown = error.to_string();
        assert!(shown.starts_with(&format!("`{clause}` of source `web` is not usable: {said}")), "{shown}");
        assert!(!shown.contains('\n') && !shown.contains("backtrace"), "{shown}");
        let hinted = error.hint().unwrap_or_default();
        assert!(hinted.contains(hint) && !hinted.contains("case-sensitive"), "{shown}: {hinted}");
    }
    for name in ["Text", "N", "_row"] {
        let sql = source("in/a.jsonl", &format!("\"{name}\" is null"), "");
        let error = job.plan(config(vec![sql])).await.expect_err(name);
        assert!(error.to_string().starts_with(&format!("source `web` has no column `{name}`")), "{error}");
        assert!(error.hint().expect("a hint").contains("case-sensitive"), "{error}");
    }
}

#[tokio::test]
async fn the_plan_shows_the_sql() {
    let job = Job::new(&corpus(&[("in/a.jsonl", b"{\"text\":\"a\",\"n\":1}\n")]).await);
    let sql = source("in/a.jsonl", "n > 0", "upper(text) as text");
    let text = job.plan(config(vec![sql])).await.expect("a plan").explain().await.expect("text");
    let places = ["SelectExec: upper(text@", "WhereExec: ", "UnitReadExec: source=web, columns=[text, n]"]
        .map(|node| text.find(node).unwrap_or_else(|| panic!("{node} is not in {text}")));
    assert!(places.is_sorted(), "{text}");
    assert!(!text.contains("FilterExec") && !text.contains("ProjectionExec"), "{text}");
}

/// A function of DataFusion's that panics is a failure like any other.
#[tokio::test]
async fn a_function_that_panics_fails_on_its_row() {
    let lines = b"{\"text\":\"a\",\"n\":2}\n{\"text\":\"b\",\"n\":-1}\n{\"text\":\"c\",\"n\":1}\n";
    let job = Job::new(&corpus(&[("in/a.jsonl", lines)]).await);
    job.run(config(vec![source("in/a.jsonl", "lpad(text, n) is not null", "")])).await.expect("runs");
    assert_eq!(kept(&job).await, owned(&[(0, "a"), (2, "c")]));
    assert_eq!(rejects(&job.output).await, [("a.jsonl".to_owned(), 1, "sql_error".to_owned())]);
}

/// What people filter by, in the ways in which SQL lets them write it.
#[tokio::test]
async fn the_usual_functions_are_there() {
    let inputs =
        corpus(&[("in/a.jsonl", "{\"text\":\"Hello wörld\",\"n\":3,\"day\":\"2020-01-02\"}\n".as_bytes())])
            .await;
    let conditions = [
        "substr(text, 1, 4) = 'Hell'",
        "substring(text from 7 for 2) = 'wö'",
        "position('w' in text) = 7",
        "extract(year from cast(day as date)) = 2020",
        "left(text, 1) = 'H' and length(text) = 11",
        "text ilike '%WÖR%' and text ~ '^H' and regexp_like(text, 'd$')",
        "split_part(lower(trim(text)), ' ', 1) = 'hello'",
        "n between 1 and 4 and n in (1, 3) and coalesce(n, 0) > 1",
    ];
    for condition in conditions {
        let job = Job::new(&inputs);
        job.run(config(vec![source("in/a.jsonl", condition, "")])).await.expect(condition);
        assert_eq!(kept(&job).await.len(), 1, "{condition}");
    }
}
