//! `transfusion preprocess` from a web server that closes its connections early.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::support::{Run, digest_of_folder};

/// A server of one file.
struct Server {
    address: String,
    /// The ranges that were asked for.
    asked: Arc<Mutex<Vec<Range<usize>>>>,
}

impl Server {
    /// Serves `content`; the first two answers of more than 4 bytes end after `cut` bytes of them. With an `e_tag`, a
    /// client can be sure that it goes on in the same file.
    fn start(content: Vec<u8>, cut: usize, e_tag: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}/corpus/data 1.jsonl", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        // It ends with the process.
        std::thread::spawn(move || {
            let mut cuts = 2;
            for connection in listener.incoming() {
                let Ok(connection) = connection else { return };
                // A client that goes away is what this is about.
                let _ = answer(connection, &content, cut, &mut cuts, e_tag, &log);
            }
        });
        Self { address, asked }
    }
}

/// One request a connection.
fn answer(
    connection: TcpStream,
    content: &[u8],
    cut: usize,
    cuts: &mut usize,
    e_tag: Option<&str>,
    log: &Mutex<Vec<Range<usize>>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection);
    let (mut method, mut range) = (String::new(), None);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if method.is_empty() {
            method = line.split(' ').next().unwrap_or_default().to_owned();
        }
        let lower = line.to_ascii_lowercase();
        if let Some(bytes) = lower.strip_prefix("range: bytes=") {
            let (start, end) = bytes.trim().split_once('-').expect("a range");
            range = Some(start.parse().expect("a start")..end.parse::<usize>().expect("an end") + 1);
        }
    }
    let size = content.len();
    let tag = e_tag.map_or_else(String::new, |tag| format!("ETag: \"{tag}\"\r\n"));
    let sent = range.clone().unwrap_or(0..size);
    let status = match &range {
        Some(range) => {
            format!("206 Partial Content\r\nContent-Range: bytes {}-{}/{size}", range.start, range.end - 1)
        }
        None => "200 OK".to_owned(),
    };
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{tag}Connection: close\r\n\r\n", sent.len());
    let mut connection = reader.into_inner();
    connection.write_all(head.as_bytes())?;
    if method != "GET" {
        return Ok(());
    }
    log.lock().expect("a lock").push(sent.clone());
    let mut body = &content[sent];
    if *cuts > 0 && body.len() > 4 {
        *cuts -= 1;
        body = &body[..cut.min(body.len() - 1)];
    }
    connection.write_all(body)?;
    connection.flush()
}

fn config(folder: &Path, uri: &str, output: &str) -> String {
    let text = format!(
        "output = \"{}\"\ncontext = 256\n[tokenizer]\ntrain = {{ vocabulary = 300 }}\n\
         [[source]]\nname = \"lines\"\nuri = \"{uri}\"\n",
        folder.join(output).display()
    );
    let path = folder.join(format!("{output}.toml"));
    fs::write(&path, text).expect("a config");
    path.to_str().expect("a path").to_owned()
}

/// Two broken answers are gone on with at the byte that did not come, whether the server names versions or not, and
/// the dataset is that of a file on disk.
#[test]
fn a_download_that_breaks_off_is_gone_on_with() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines: String =
        (0..3000).map(|row| format!("{{\"text\":\"row {row} of a file behind a bad line\"}}\n")).collect();
    fs::write(folder.path().join("data 1.jsonl"), &lines).expect("a file");
    let local = folder.path().join("data 1.jsonl");
    Run::new(&["preprocess", &config(folder.path(), local.to_str().expect("a path"), "disk")])
        .run()
        .expect_code(0);
    let expected = digest_of_folder(&folder.path().join("disk"));
    for (output, e_tag) in [("tagged", Some("1")), ("untagged", None)] {
        let server = Server::start(lines.clone().into_bytes(), 50_000, e_tag);
        let run = Run::new(&["preprocess", "--json", &config(folder.path(), &server.address, output)]).run();
        run.expect_code(0);
        let last: Value = serde_json::from_str(run.stdout.lines().last().expect("events")).expect("JSON");
        assert_eq!(last["report"]["statistics"]["documents"], 3000);
        assert_eq!(digest_of_folder(&folder.path().join(output)), expected);
        let asked = server.asked.lock().expect("a lock").clone();
        let end = lines.len();
        let large: Vec<_> = asked.into_iter().filter(|range| range.len() > 4).collect();
        assert_eq!(large[..3], [0..end, 50_000..end, 100_000..end], "{output}: {large:?}");
    }
}
