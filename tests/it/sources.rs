//! Sources as whole commands: web servers, joined tables and Arrow files, and what is said of broken ones.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use crate::support::{Run, bucket, digest_of_folder, python, s3_environment, tool};

const LINES: &str =
    "{\"text\":\"one\",\"key\":1}\n{\"text\":\"two\",\"key\":2}\n{\"text\":\"three\",\"key\":3}\n";

/// A web server of these files. Without `ranges` it gives whole files only, as simple servers do.
fn serve(files: BTreeMap<&'static str, &'static str>, ranges: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let files = Arc::new(files);
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let files = files.clone();
            std::thread::spawn(move || answer(connection, &files, ranges));
        }
    });
    format!("http://{address}")
}

fn answer(mut connection: TcpStream, files: &BTreeMap<&str, &str>, ranges: bool) {
    let mut lines = BufReader::new(connection.try_clone().expect("the same connection")).lines();
    let request = lines.next().and_then(Result::ok).unwrap_or_default();
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let Some(content) = files.get(path) else {
        let nothing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        connection.write_all(nothing.as_bytes()).expect("answers");
        return;
    };
    let range = headers.iter().find_map(|line| {
        let line = line.to_lowercase();
        let (start, end) = line.strip_prefix("range: bytes=")?.split_once('-')?;
        Some((start.parse::<usize>().ok()?, end.parse::<usize>().ok()?))
    });
    let (status, body, extra) = match range.filter(|_| ranges) {
        Some((start, end)) => {
            let end = (end + 1).min(content.len());
            let extra = format!("Content-Range: bytes {start}-{}/{}\r\n", end - 1, content.len());
            ("206 Partial Content", &content[start..end], extra)
        }
        None => ("200 OK", *content, String::new()),
    };
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{extra}Connection: close\r\n\r\n", body.len());
    connection.write_all(head.as_bytes()).expect("answers");
    if method != "HEAD" {
        connection.write_all(body.as_bytes()).expect("answers");
    }
}

/// A config with one source, `keys` being its lines.
fn config(folder: &Path, output: &str, keys: &str) -> String {
    let text = format!(
        "output = \"{output}\"\ncontext = 64\n\n[tokenizer]\ntrain = {{ vocabulary = 300 }}\n\n[[source]]\nname = \"lines\"\n{keys}\n"
    );
    let path = folder.join("preprocess.toml");
    fs::write(&path, text).expect("a config");
    path.to_str().expect("a path").to_owned()
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("a path")
}

#[test]
fn files_of_a_web_server_are_read_like_those_of_a_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("trip data")).expect("a folder");
    fs::write(folder.path().join("trip data/ü 1.jsonl"), LINES).expect("a file");
    let local = folder.path().join("local");
    let keys = format!("uri = \"{}\"", shown(&folder.path().join("trip data/ü 1.jsonl")));
    Run::new(&["preprocess", &config(folder.path(), shown(&local), &keys)]).run().expect_code(0);
    let files = BTreeMap::from([("/trip%20data/%C3%BC%201.jsonl", LINES)]);
    for (ranges, written) in [(true, "trip data/ü 1.jsonl"), (false, "trip%20data/%C3%BC%201.jsonl")] {
        let server = serve(files.clone(), ranges);
        let output = folder.path().join(format!("web-{ranges}"));
        let keys = format!("uri = \"{server}/{written}\"");
        Run::new(&["preprocess", &config(folder.path(), shown(&output), &keys)]).run().expect_code(0);
        assert_eq!(digest_of_folder(&local), digest_of_folder(&output), "ranges: {ranges}");
    }
}

#[test]
fn a_web_server_is_asked_for_exact_addresses_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(BTreeMap::from([("/a.jsonl", LINES)]), true);
    let output = folder.path().join("out");
    for (path, expected) in [("*.jsonl", "the exact address of one file"), ("b.jsonl", "has no files")] {
        let keys = format!("uri = \"{server}/{path}\"");
        let run = Run::new(&["preprocess", &config(folder.path(), shown(&output), &keys)]).run();
        run.expect_code(2);
        assert!(run.stderr.contains(expected), "{}", run.stderr);
    }
    assert!(!output.join("job.json").exists(), "nothing is begun");
}

/// A joined table on another store than its source: the same bytes as with both on a disk.
#[test]
fn a_joined_table_may_lie_on_another_store() {
    let (Some(environment), Some(python)) = (s3_environment(), python()) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let side = folder.path().join("side ü");
    fs::create_dir(&side).expect("a folder");
    fs::write(folder.path().join("a.jsonl"), LINES).expect("a file");
    fs::write(side.join("scores 1.csv"), "key,score\n1,5\n3,9\n").expect("a table");
    let keys = |table: &str| {
        format!(
            "uri = \"{}\"\nwhere = \"cast(score as int) > 4\"\njoin = {{ uri = \"{table}\", on = \"key\" }}",
            shown(&folder.path().join("a.jsonl"))
        )
    };
    let local = folder.path().join("local");
    let of_disk = keys(shown(&side.join("scores 1.csv")));
    Run::new(&["preprocess", &config(folder.path(), shown(&local), &of_disk)]).run().expect_code(0);
    let bucket = bucket(&python, "join");
    tool(&python, "upload", &[shown(&side), &bucket, "tables ü"]);
    let remote = folder.path().join("remote");
    let of_store = keys(&format!("s3://{bucket}/tables ü/scores 1.csv"));
    let run = Run::new(&["preprocess", &config(folder.path(), shown(&remote), &of_store)]);
    run.environment(&environment).run().expect_code(0);
    assert_eq!(digest_of_folder(&local), digest_of_folder(&remote));
}

/// What is wrong in a source's lines is said with the file, the line and what is known there.
#[test]
fn a_broken_source_is_one_clear_error() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("a.jsonl"), LINES).expect("a file");
    fs::write(folder.path().join("t.csv"), "key,score\n1,5\n1,6\n").expect("a table");
    let uri = format!("uri = \"{}\"\n", shown(&folder.path().join("a.jsonl")));
    fs::write(folder.path().join("good.csv"), "key,score\n1,5\n").expect("a table");
    let join = |table: &str, on: &str| {
        format!("join = {{ uri = \"{}\", on = {on} }}", shown(&folder.path().join(table)))
    };
    let cases = [
        ("text = \"body\"".to_owned(), "its columns are `text`, `key`"),
        ("captions = \"each\"".to_owned(), "`source.lines.captions` is set"),
        ("captions = \"every\"".to_owned(), "unknown value `every`"),
        ("template = 5".to_owned(), "a template is a text or a list of texts"),
        ("tempalte = \"x\"".to_owned(), "did you mean `template`?"),
        (join("t.csv", "\"key\""), "row 1 of `t.csv` has the key `1`, which is there before"),
        (join("good.csv", "{ id = \"key\" }"), "source `lines` has no column `id`"),
        (join("good.csv", "5"), "`on` is a column, or a table"),
        ("join = { url = \"x\" }".to_owned(), "unknown key `url`"),
    ];
    for (keys, expected) in cases {
        let config = config(folder.path(), shown(&folder.path().join("out")), &format!("{uri}{keys}"));
        let run = Run::new(&["preprocess", &config]).run();
        run.expect_code(2);
        assert!(run.stderr.contains(expected), "{keys}: {}", run.stderr);
    }
}
