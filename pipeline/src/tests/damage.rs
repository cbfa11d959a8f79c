//! Jobs on files that can't be read, in part or at all, and on files without a row.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch};

use super::fixtures::{
    Job, archive, batch, config, corpus, counts, documents, pairs, parquet, reject_lines, strings, texts,
};
use crate::{JoinConfig, JoinKeys, PreprocessConfig, SourceConfig};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("writes");
    encoder.finish().expect("finishes")
}

/// The reason used to hide behind "no column `text`; its columns are none that can be read".
#[tokio::test]
async fn a_source_of_which_nothing_can_be_read_names_the_first_reason() {
    let line = b"{\"text\":\"a\"}";
    let tar = archive(&[("a.mp3", b"x")]);
    let cut = archive(&[("a.txt", b"x")])[..300].to_vec();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "a.jsonl.gz",
            gzip(&gzip(line)),
            "row 0: bad_entry: the rest of the file is damaged: it is compressed twice",
        ),
        ("a.jsonl", b"{\"text\":\"a\"}\r{\"text\":\"b\"}\r".to_vec(), "`\\n` ends a line"),
        ("a.jsonl", b"{\n\"text\": \"a\"\n}\n".to_vec(), "row 0: invalid_json: EOF"),
        ("a.jsonl", b"[{\"text\":\"a\"}]".to_vec(), "row 0: invalid_json: invalid type: sequence"),
        ("a.tar", b"This is no archive.\n".repeat(100), "something else stands where a member should begin"),
        ("a.tar", b"short".to_vec(), "row 0: bad_entry"),
        ("a.tar", cut, "row 0: bad_entry"),
        ("a.tar", tar, "no member is a picture, a text or JSON; the first is `a.mp3`"),
    ];
    for (name, bytes, what) in cases {
        let path = format!("in/{name}");
        let job = Job::new(&corpus(&[(&path, &bytes)]).await);
        let source = if name.ends_with("tar") { pairs("web", &path) } else { texts("web", &path) };
        let Err(error) = job.plan(config(vec![source])).await else { panic!("{what}") };
        let said = error.to_string();
        let start =
            format!("no file of source `web` can be read; `{path}` has no row that can be used; row 0: ");
        assert!(said.starts_with(&start) && said.contains(what), "{said}");
        assert!(error.hint().is_some());
    }
    let job = Job::new(&corpus(&[("in/a.json", b"{\"images\": [")]).await);
    let error = job.plan(config(vec![pairs("web", "in/a.json")])).await.expect_err("refused");
    assert!(error.to_string().contains("not a COCO captions file: EOF"), "{error}");
    // One among others is a reject.
    let job = Job::new(&corpus(&[("in/a.jsonl", b"{"), ("in/b.jsonl", line)]).await);
    let report = job.run(config(vec![texts("web", "in/*.jsonl")])).await.expect("runs");
    assert_eq!(counts(&report), [2, 1, 1, 0, 0]);
}

#[tokio::test]
async fn an_archive_of_pictures_has_columns_but_no_caption() {
    let job = Job::new(&corpus(&[("in/a.tar", &archive(&[("a.png", b"x")]))]).await);
    let error = job.plan(config(vec![pairs("web", "in/a.tar")])).await.expect_err("refused");
    assert_eq!(
        error.to_string(),
        "source `web` has no column `caption`; its columns are `key`, `image`, `width`, `height`"
    );
}

/// Files without a row are a valid input: another day's file may have some.
#[tokio::test]
async fn files_without_a_row_make_an_empty_dataset() {
    let empty = archive(&[]);
    let files: [(&str, &[u8]); 10] = [
        ("a.jsonl", b""),
        ("a.jsonl", b"\n \n"),
        ("a.json", b"[]"),
        ("a.csv", b""),
        ("a.csv", b"id,text,n\n"),
        ("a.jsonl.gz", &gzip(b"")),
        ("a.tar", &empty),
        ("a.tar", b""),
        ("b.json", b"{\"images\": [], \"annotations\": []}"),
        ("b.json", b"\n"),
    ];
    for (name, bytes) in files {
        let path = format!("in/{name}");
        let job = Job::new(&corpus(&[(&path, bytes)]).await);
        let is_pair = name.ends_with("tar") || name == "b.json";
        let source = if is_pair { pairs("web", &path) } else { texts("web", &path) };
        let source = SourceConfig { filter: Some("n is null".to_owned()), ..source };
        let report = job.run(config(vec![source])).await.expect(name);
        assert_eq!(counts(&report), [0; 5], "{name}");
        assert!(documents(&job.output).await.is_empty());
    }
    // What a file's first line says is checked.
    let job = Job::new(&corpus(&[("in/a.csv", b"id,body\n")]).await);
    let error = job.plan(config(vec![texts("web", "in/a.csv")])).await.expect_err("no such column");
    assert!(error.to_string().ends_with("no column `text`; its columns are `id`, `body`"), "{error}");
}

#[tokio::test]
async fn a_joined_table_without_a_row_gives_nulls() {
    for (name, bytes) in [("t.jsonl", b"".as_slice()), ("t.csv", b"key,score\n"), ("t.csv", b"")] {
        let path = format!("in/{name}");
        let lines = b"{\"key\": 1, \"text\": \"a\"}\n";
        let job = Job::new(&corpus(&[("in/a.jsonl", lines), (&path, bytes)]).await);
        let on = JoinKeys::Same("key".to_owned());
        let columns = vec!["score".to_owned()];
        let join = Some(JoinConfig { uri: path, on, columns, ..JoinConfig::default() });
        let filter = Some("score is null".to_owned());
        let source = SourceConfig { join, filter, ..texts("web", "in/a.jsonl") };
        let report = job.run(config(vec![source])).await.expect(name);
        assert_eq!(counts(&report), [1, 1, 0, 0, 0], "{name}");
    }
}

/// Ten row groups of ten texts that don't compress.
fn groups() -> Vec<RecordBatch> {
    let text = |row: u64| format!("{row} {:016x}", (row + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let group = |start: u64| {
        let rows: Vec<String> = (start..start + 10).map(text).collect();
        let rows: Vec<Option<&str>> = rows.iter().map(|text| Some(text.as_str())).collect();
        batch(vec![("text", strings(&rows))])
    };
    (0..10).map(|index| group(10 * index)).collect()
}

/// A damaged page used to lose all later row groups as one refused row.
#[tokio::test]
async fn behind_a_damaged_page_the_next_row_group_is_read() {
    let mut bytes = parquet(&groups());
    let place = bytes.windows(3).position(|text| text == b"20 ").expect("a text of the third group");
    // The end of the page's header, and the length of its first text.
    bytes[place - 12..place].fill(0xff);
    for unit_bytes in [1 << 20, 1000] {
        let job = Job::new(&corpus(&[("in/a.parquet", &bytes)]).await);
        let source = PreprocessConfig { unit_bytes, ..config(vec![texts("web", "in/a.parquet")]) };
        let report = job.run(source).await.expect("runs");
        assert_eq!(counts(&report), [100, 90, 10, 0, 0]);
        let rejects: Vec<_> =
            reject_lines(&job.output).await.into_iter().map(|line| (line.row, line.reason)).collect();
        assert_eq!(rejects, (20..30).map(|row| (row, "bad_entry".to_owned())).collect::<Vec<_>>());
        let kept = documents(&job.output).await;
        assert!(kept.iter().all(|(_, row, text)| text.starts_with(&format!("{row} "))), "{kept:?}");
    }
    let job = Job::new(&corpus(&[("in/a.parquet", &bytes)]).await);
    let strict = PreprocessConfig { max_reject_share: 0.05, ..config(vec![texts("web", "in/a.parquet")]) };
    let error = job.run(strict).await.expect_err("too many");
    assert!(error.to_string().contains("10 of 100 rows were refused"), "{error}");
}

/// Bytes that are no text used to be "absent or null".
#[tokio::test]
async fn bytes_that_are_no_text_are_called_so() {
    let texts_of =
        |values: &[Option<&[u8]>]| -> ArrayRef { Arc::new(BinaryArray::from_iter(values.iter().copied())) };
    let column = texts_of(&[Some(b"good"), Some(b"bad \xff"), None]);
    let table = parquet(&[batch(vec![("text", column.clone()), ("data", column)])]);
    let job = Job::new(&corpus(&[("in/a.parquet", &table)]).await);
    let report = job.run(config(vec![texts("web", "in/a.parquet")])).await.expect("runs");
    assert_eq!(counts(&report), [3, 1, 2, 0, 0]);
    let lines = reject_lines(&job.output).await;
    assert_eq!((lines[0].row, lines[0].reason.as_str()), (1, "invalid_utf8"));
    assert_eq!(lines[0].excerpt.as_deref(), Some("bad \\xff"));
    assert_eq!((lines[1].row, lines[1].reason.as_str()), (2, "missing_text"));
}

/// Of two columns of one name one used to be taken without a word.
#[tokio::test]
async fn a_column_that_is_asked_for_and_stands_twice_is_refused() {
    let files: [(&str, &[u8]); 2] =
        [("in/a.csv", b"id,text,text\n1,a,b\n"), ("in/b.csv", b"text,id,id\na,1,2\n")];
    let inputs = corpus(&files).await;
    let error = Job::new(&inputs).plan(config(vec![texts("web", "in/a.csv")])).await.expect_err("refused");
    assert_eq!(error.to_string(), "`in/a.csv` has more than one column `text`");
    assert!(error.hint().expect("a hint").contains("a name of its own"));
    let id = SourceConfig { id: Some("id".to_owned()), ..texts("web", "in/b.csv") };
    let error = Job::new(&inputs).plan(config(vec![id])).await.expect_err("refused");
    assert_eq!(error.to_string(), "`in/b.csv` has more than one column `id`");
    let fields = ["text", "text"]
        .map(|name| arrow::datatypes::Field::new(name, arrow::datatypes::DataType::Utf8, true));
    let columns = vec![strings(&[Some("a")]), strings(&[Some("b")])];
    let schema = Arc::new(arrow::datatypes::Schema::new(fields.to_vec()));
    let table = super::fixtures::arrow_file(&[RecordBatch::try_new(schema, columns).expect("a batch")]);
    let job = Job::new(&corpus(&[("in/a.arrow", &table)]).await);
    let error = job.plan(config(vec![texts("web", "in/a.arrow")])).await.expect_err("refused");
    assert_eq!(error.to_string(), "`in/a.arrow` has more than one column `text`");
}
