//! Jobs on files of forms that need a second look: names with dots, lone quotes, objects over lines, web pages, ZIP
//! archives, ids of any type, columns that differ.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int64Array, UInt64Array};

use super::fixtures::{
    Job, batch, config, corpus, counts, documents, pairs, parquet, png, reject_lines, rows, strings, structs,
    texts,
};
use crate::SourceConfig;

fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, *content).expect("appends");
    }
    builder.into_inner().expect("finishes")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("writes");
    encoder.finish().expect("finishes")
}

/// A ZIP archive; members are compressed unless their name says `stored`.
fn zip(members: &[(&str, &str)]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in members {
        let method: u16 = if name.contains("stored") { 0 } else { 8 };
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content.as_bytes()).expect("writes");
        let deflated = encoder.finish().expect("finishes");
        let packed = if method == 0 { content.as_bytes().to_vec() } else { deflated };
        let mut sum = flate2::Crc::new();
        sum.update(content.as_bytes());
        let flags: u16 = u16::from(name.contains("secret"));
        let mut common = Vec::new();
        for number in [20, flags, method, 0, 0] {
            common.extend(number.to_le_bytes());
        }
        for number in [sum.sum(), packed.len() as u32, content.len() as u32, name.len() as u32] {
            common.extend(number.to_le_bytes());
        }
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend((bytes.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        bytes.extend(b"PK\x03\x04");
        bytes.extend(common);
        bytes.extend(name.as_bytes());
        bytes.extend(packed);
    }
    let (start, size, count) = (bytes.len() as u32, directory.len() as u32, members.len() as u16);
    bytes.extend(directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    [count, count].iter().for_each(|number| bytes.extend(number.to_le_bytes()));
    [size, start].iter().for_each(|number| bytes.extend(number.to_le_bytes()));
    bytes.extend([0, 0]);
    bytes
}

async fn texts_of(name: &str, bytes: &[u8]) -> (Vec<(u64, String)>, Vec<(u64, String)>) {
    let path = format!("in/{name}");
    let job = Job::new(&corpus(&[(&path, bytes)]).await);
    let report = job.run(config(vec![texts("web", &path)])).await.expect("runs");
    let kept = documents(&job.output).await.into_iter().map(|(_, row, text)| (row, text)).collect::<Vec<_>>();
    let rejects = reject_lines(&job.output).await.into_iter().map(|line| (line.row, line.detail));
    let rejects: Vec<_> = rejects.collect();
    assert_eq!(
        counts(&report)[..3],
        [(kept.len() + rejects.len()) as u64, kept.len() as u64, rejects.len() as u64]
    );
    (kept, rejects)
}

fn owned(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
    expected.iter().map(|&(row, text)| (row, text.to_owned())).collect()
}

/// These samples used to vanish: they were neither read nor refused.
#[tokio::test]
async fn samples_with_dots_in_their_names_are_kept() {
    let picture = png(16, 16, [9, 9, 9]);
    let bytes = archive(&[
        ("a.b.1.png", &picture),
        ("a.b.1.txt", b"one"),
        ("v1.0/y.z.png", &picture),
        ("v1.0/y.z.txt", b"two"),
        ("photo.2020.jpg", &picture),
        ("x.jpg", &picture),
        ("x.seg.png", b"a further field"),
        ("x.txt", b"three"),
        ("film.mp4", b"no picture"),
        ("README.md", b"about"),
        ("._x.jpg", b"hidden"),
    ]);
    let job = Job::new(&corpus(&[("in/a.tar", &bytes)]).await);
    let report = job.run(config(vec![pairs("web", "in/a.tar")])).await.expect("runs");
    assert_eq!(counts(&report), [5, 3, 2, 0, 0]);
    let mut ids: Vec<Option<String>> = Vec::new();
    for (row, _) in rows(&job.output).await {
        ids.extend(row.sources().iter().map(|source| source.id.clone()));
    }
    ids.sort();
    assert_eq!(ids, ["a.b.1", "v1.0/y.z", "x"].map(|id| Some(id.to_owned())));
    let found: Vec<_> =
        reject_lines(&job.output).await.into_iter().map(|line| (line.id, line.reason, line.detail)).collect();
    assert_eq!((found[0].0.as_deref(), found[0].1.as_str()), (Some("photo.2020"), "missing_caption"));
    assert!(
        found[1].1 == "bad_entry" && found[1].2.starts_with("member `film.mp4` has no name"),
        "{found:?}"
    );
}

/// Two of these rows used to stand in a caption.
#[tokio::test]
async fn no_row_of_a_file_with_tabs_is_swallowed() {
    let table = b"text\turl\na cat\tu1\n\"opens\tu2\nthree\tu3\nfour \"quoted\" end\tu4\nfive\tu5\n";
    let expected = [(0, "a cat"), (1, "\"opens"), (2, "three"), (3, "four \"quoted\" end"), (4, "five")];
    assert_eq!(texts_of("a.tsv", table).await, (owned(&expected), vec![]));
    let job = Job::new(&corpus(&[("in/a.csv", b"text;n\n'a;b';1\n")]).await);
    let source = SourceConfig {
        delimiter: Some(";".to_owned()),
        quote: Some("'".to_owned()),
        ..texts("web", "in/a.csv")
    };
    job.run(config(vec![source])).await.expect("runs");
    assert_eq!(documents(&job.output).await[0].2, "a;b");
    let wrong = SourceConfig { quote: Some("ab".to_owned()), ..texts("web", "in/a.csv") };
    let error = job.plan(config(vec![wrong])).await.expect_err("two characters").to_string();
    assert_eq!(error, "`source.web.quote` is `ab`, expected one ASCII character, or nothing");
}

#[tokio::test]
async fn an_object_over_several_lines_is_a_row() {
    let pretty = b"{\n  \"id\": 7,\n  \"text\": \"one\\ntwo\"\n}\n";
    assert_eq!(texts_of("a.json", pretty).await, (owned(&[(0, "one\ntwo")]), vec![]));
    assert_eq!(texts_of("a.json.gz", &gzip(pretty)).await, (owned(&[(0, "one\ntwo")]), vec![]));
    let job = Job::new(&corpus(&[("in/a.jsonl", pretty)]).await);
    let error = job.plan(config(vec![texts("web", "in/a.jsonl")])).await.expect_err("no row").to_string();
    assert!(
        error.contains("an object stands in one line, or over several in a file named `.json`"),
        "{error}"
    );
}

#[tokio::test]
async fn web_pages_of_common_crawl_are_read() {
    let record = |of: &str, id: u32, body: &str| {
        let length = body.len();
        let text = format!(
            "WARC/1.0\r\nWARC-Type: {of}\r\nWARC-Record-ID: <urn:uuid:{id}>\r\nContent-Length: {length}\r\n\r\n{body}\r\n\r\n"
        );
        gzip(text.as_bytes())
    };
    let wet =
        [record("warcinfo", 0, "a: b\r\n"), record("conversion", 1, "Eins"), record("conversion", 2, "Zwei")];
    assert_eq!(texts_of("a.warc.wet.gz", &wet.concat()).await, (owned(&[(1, "Eins"), (2, "Zwei")]), vec![]));
    let pages = [record("warcinfo", 0, ""), record("response", 1, "HTTP/1.1 200\r\n\r\n<html>")].concat();
    let job = Job::new(&corpus(&[("in/a.warc.gz", &pages)]).await);
    let error = job.plan(config(vec![texts("web", "in/a.warc.gz")])).await.expect_err("no text").to_string();
    assert!(error.contains("record is a `response`, expected a `conversion`"), "{error}");
}

#[tokio::test]
async fn tables_in_zip_archives_are_read() {
    let lines = "{\"text\":\"one\"}\n\n{\"text\":\"two\"}\n";
    let members = [
        ("docs/", ""),
        ("docs/a.jsonl", lines),
        ("__MACOSX/docs/._a.jsonl", "x"),
        ("docs/stored.jsonl", "{\"text\":\"three\"}\nnot\n"),
        ("docs/secret.jsonl", lines),
        ("docs/b.png", "x"),
    ];
    let (kept, rejects) = texts_of("a.jsonl.zip", &zip(&members)).await;
    assert_eq!(kept, owned(&[(0, "one"), (2, "two"), (3, "three")]));
    let starts = [
        "member `docs/stored.jsonl`: ",
        "member `docs/secret.jsonl` is encrypted",
        "member `docs/b.png` is no file",
    ];
    assert_eq!(rejects.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [4, 5, 6]);
    for ((_, detail), start) in rejects.iter().zip(starts) {
        assert!(detail.starts_with(start), "{detail}");
    }
    let table = zip(&[("a.csv", "text,n\n\"x, y\",1\n"), ("b.csv", "text\nz\n")]);
    assert_eq!(texts_of("a.csv.zip", &table).await.0, owned(&[(0, "x, y"), (1, "z")]));
    // Behind something else, and with damage in it.
    let mut moved = [b"#!/bin/sh\n".as_slice(), &zip(&[("a.jsonl", lines)])].concat();
    moved[..4].copy_from_slice(b"PK\x03\x04");
    assert_eq!(texts_of("a.jsonl.zip", &moved).await.0.len(), 2);
    let mut damaged = zip(&[("stored.jsonl", lines), ("b.jsonl", lines)]);
    damaged[30 + 12 + 10] = b'1';
    let (kept, rejects) = texts_of("a.jsonl.zip", &damaged).await;
    assert_eq!((kept.len(), rejects.len()), (4, 1));
    assert!(rejects[0].1.contains("its checksum is another one"), "{rejects:?}");
}

/// A row used to be refused because its id had another type than those of the first rows.
#[tokio::test]
async fn ids_are_text_whatever_they_are() {
    let mut lines: String = (0..1000).map(|id| format!("{{\"id\":{id},\"text\":\"x\"}}\n")).collect();
    let odd = ["\"abc\"", "1.5", "true", "18446744073709551615", "{\"$oid\":\"7\"}", "null"];
    odd.iter().for_each(|id| lines.push_str(&format!("{{\"id\":{id},\"text\":\"x\"}}\n")));
    let ids = async |source: SourceConfig| {
        let job = Job::new(&corpus(&[("in/a.jsonl", lines.as_bytes())]).await);
        let report = job.run(config(vec![source])).await.expect("runs");
        assert_eq!(counts(&report), [1006, 1006, 0, 0, 0]);
        let mut ids = Vec::new();
        for (row, _) in rows(&job.output).await {
            ids.extend(row.sources().iter().map(|source| (source.row, source.id.clone())));
        }
        ids.sort();
        ids.into_iter().map(|(_, id)| id).collect::<Vec<_>>()
    };
    let plain = ids(texts("web", "in/a.jsonl")).await;
    assert_eq!(plain[7].as_deref(), Some("7"));
    let expected =
        ["abc", "1.5", "true", "18446744073709551615", "{\"$oid\":\"7\"}"].map(|id| Some(id.to_owned()));
    assert_eq!(plain[1000..], [expected.as_slice(), &[None]].concat());
    let select = Some("upper(text) as text, id".to_owned());
    assert_eq!(ids(SourceConfig { select, ..texts("web", "in/a.jsonl") }).await, plain);
}

fn tables() -> (Vec<u8>, Vec<u8>) {
    let decimal = |values: Vec<i128>, precision, scale| -> ArrayRef {
        let column = Decimal128Array::from(values).with_precision_and_scale(precision, scale);
        Arc::new(column.expect("a decimal"))
    };
    let meta = |n: ArrayRef| structs(vec![("caption", strings(&[Some("in meta")])), ("n", n)]);
    let first = batch(vec![
        ("id", Arc::new(Int64Array::from(vec![7])) as ArrayRef),
        ("text", strings(&[Some("one")])),
        ("n", Arc::new(Float64Array::from(vec![1.5]))),
        ("price", decimal(vec![150_000], 7, 5)),
        ("count", Arc::new(Int64Array::from(vec![-1]))),
        ("meta", meta(Arc::new(Int64Array::from(vec![1])))),
    ]);
    let second = batch(vec![
        ("id", strings(&[Some("b")])),
        ("text", strings(&[Some("two")])),
        ("n", strings(&[Some("x")])),
        ("price", decimal(vec![25_000_000], 8, 5)),
        ("count", Arc::new(UInt64Array::from(vec![u64::MAX]))),
        ("meta", meta(strings(&[Some("x")]))),
    ]);
    (parquet(&[first]), parquet(&[second]))
}

/// A job used to be refused for a column that nobody asked for.
#[tokio::test]
async fn columns_that_differ_matter_only_to_who_asks_for_them() {
    let (first, second) = tables();
    let inputs = corpus(&[("in/a.parquet", &first), ("in/b.parquet", &second)]).await;
    let kept = async |source: SourceConfig| {
        let job = Job::new(&inputs);
        job.run(config(vec![source])).await.expect("runs");
        let ids = rows(&job.output).await;
        let ids =
            ids.iter().flat_map(|(row, _)| row.sources()).map(|source| source.id.clone().unwrap_or_default());
        let texts = documents(&job.output).await.into_iter().map(|(_, _, text)| text);
        (texts.collect::<Vec<_>>(), ids.collect::<Vec<_>>())
    };
    let source = || texts("web", "in/*.parquet");
    let filtered = |sql: &str| SourceConfig { filter: Some(sql.to_owned()), ..source() };
    let selected = |sql: &str| SourceConfig { select: Some(sql.to_owned()), ..source() };
    let both = (vec!["one".to_owned(), "two".to_owned()], vec!["7".to_owned(), "b".to_owned()]);
    assert_eq!(kept(source()).await, both);
    assert_eq!(kept(selected("text, id")).await, both);
    assert_eq!(kept(selected("* exclude (n)")).await, both);
    assert_eq!(kept(filtered("price > 1 and count <> 0")).await, both);
    assert_eq!(kept(filtered("count > 9223372036854775807")).await.0, ["two"]);
    assert_eq!(
        kept(SourceConfig { text: Some("meta.caption".to_owned()), ..source() }).await.0,
        ["in meta"; 2]
    );
    let job = Job::new(&inputs);
    let differ = "column `n` of source `web` is Float64 in `a.parquet` and Utf8 in `b.parquet`";
    for source in [filtered("n > 1"), selected("*"), selected("cast(n as varchar) as text")] {
        assert_eq!(job.plan(config(vec![source])).await.expect_err("differ").to_string(), differ);
    }
    let error = job.plan(config(vec![filtered("meta['n'] = 1")])).await.expect_err("differ").to_string();
    assert_eq!(error, differ.replace("`n`", "`meta.n`").replace("Float64", "Int64"));
}

#[tokio::test]
async fn files_of_other_kinds_are_named() {
    let wide: Vec<u8> = "\u{feff}{\"text\":\"a\"}\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let cases: [(&[u8], &str); 4] = [
        (&wide, "the file is UTF-16, expected UTF-8"),
        (b"\xfd7zXZ\0\0\x04", "it is compressed with xz"),
        (b"BZh91AY&SY\0\0", "it is compressed with bzip2"),
        (b"7z\xbc\xaf\x27\x1c\0", "it is a 7z archive"),
    ];
    for (bytes, expected) in cases {
        let inputs = corpus(&[("in/a.jsonl", bytes), ("in/b.jsonl", b"{\"text\":\"b\"}\n")]).await;
        let job = Job::new(&inputs);
        job.run(config(vec![texts("web", "in/*.jsonl")])).await.expect("runs");
        let found = reject_lines(&job.output).await;
        assert!(found.len() == 1 && found[0].detail.contains(expected), "{found:?}");
    }
}

#[tokio::test]
async fn what_is_not_read_says_what_it_is_and_what_to_do() {
    let inputs = corpus(&[
        ("in/a.json.xz", b"x"),
        ("in/b.xlsx", b"x"),
        ("in/c.arrow.lz4", b"x"),
        ("in/d.csv", b"text;n\na;1\n"),
    ])
    .await;
    for (name, expected) in [
        ("a.json.xz", "that is a file compressed with xz: unpack it, or compress it anew with gzip or zstd"),
        ("b.xlsx", "that is a spreadsheet: save it as CSV or Parquet"),
        (
            "c.arrow.lz4",
            "that is a file compressed with lz4: unpack it, or compress it anew with gzip or zstd",
        ),
        ("d.csv", "the names stand in one: say what is between them, `delimiter = \";\"`"),
    ] {
        let source = texts("web", &format!("in/{name}"));
        let error = Job::new(&inputs).plan(config(vec![source])).await.expect_err("not read");
        assert_eq!(error.hint().as_deref(), Some(expected), "{error}");
    }
}
