//! A stand-in for an S3 server, in memory, that can leave a request without an answer: then a test knows where a program
//! waits.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What becomes of a request that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It gets no answer.
    Held,
    /// It gets its answer.
    Answered,
    /// It and those before it are told to come again.
    Refused,
}

/// The request that a test waits for.
#[derive(Clone, Debug)]
pub(crate) struct Awaited {
    /// `GET`, `PUT`, ...
    pub(crate) method: &'static str,
    /// A part of its path and query.
    pub(crate) part: &'static str,
    /// The how manieth of these, from 1.
    pub(crate) number: usize,
    pub(crate) fate: Fate,
}

/// The n-th reading of a part of a path is not answered.
pub(crate) fn held(part: &'static str, number: usize) -> Awaited {
    Awaited { method: "GET", part, number, fate: Fate::Held }
}

/// A server of one bucket, whatever its name. It ends with the process.
pub(crate) struct StandIn {
    address: String,
    reached: Receiver<usize>,
    /// The requests so far: method, path with query, range.
    log: Arc<Mutex<Vec<String>>>,
}

struct State {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    awaited: Vec<(Awaited, Mutex<usize>)>,
    reached: Mutex<Sender<usize>>,
    log: Arc<Mutex<Vec<String>>>,
    /// Connections that get no answer.
    held: Mutex<Vec<TcpStream>>,
}

impl StandIn {
    /// Serves these objects.
    pub(crate) fn start(objects: &[(&str, &[u8])], awaited: &[Awaited]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let (sender, reached) = channel();
        let log = Arc::new(Mutex::default());
        let objects = objects.iter().map(|(key, bytes)| ((*key).to_owned(), bytes.to_vec())).collect();
        let state = Arc::new(State {
            objects: Mutex::new(objects),
            awaited: awaited.iter().map(|awaited| (awaited.clone(), Mutex::new(0))).collect(),
            reached: Mutex::new(sender),
            log: log.clone(),
            held: Mutex::default(),
        });
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let state = state.clone();
                // A client that goes away is what this is about.
                std::thread::spawn(move || drop(state.serve(connection)));
            }
        });
        Self { address, reached, log }
    }

    /// The environment that makes the binary use it.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let pairs = [
            ("AWS_ENDPOINT_URL", self.address.as_str()),
            ("AWS_ACCESS_KEY_ID", "testing"),
            ("AWS_SECRET_ACCESS_KEY", "testing"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ALLOW_HTTP", "true"),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }

    /// Waits until the next awaited request has come, and says which of them it is.
    ///
    /// # Panics
    ///
    /// If it never comes; the message shows what came instead.
    pub(crate) fn wait(&self) -> usize {
        let reached = self.reached.recv_timeout(Duration::from_secs(120));
        reached.unwrap_or_else(|_| panic!("it was not asked for: {:#?}", self.requests()))
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.log.lock().expect("a lock").clone()
    }
}

/// A request as far as it matters.
struct Request {
    method: String,
    target: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    fn read(connection: &TcpStream) -> std::io::Result<Self> {
        let mut reader = BufReader::new(connection);
        let mut first = String::new();
        reader.read_line(&mut first)?;
        let mut words = first.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or_default();
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        Ok(Self { method, target, headers, body })
    }

    /// The key below the bucket.
    fn key(&self) -> String {
        let path = self.target.split('?').next().unwrap_or_default().trim_start_matches('/');
        let key = path.split_once('/').map_or("", |(_, key)| key);
        key.replace("%20", " ").replace("%2F", "/")
    }

    fn query(&self, name: &str) -> Option<String> {
        let query = self.target.split_once('?')?.1;
        let value = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")))?;
        Some(value.replace("%2F", "/"))
    }
}

impl State {
    fn serve(&self, connection: TcpStream) -> std::io::Result<()> {
        let request = Request::read(&connection)?;
        let range = request.headers.get("range").cloned().unwrap_or_default();
        self.log.lock().expect("a lock").push(format!("{} {} {range}", request.method, request.target));
        let met = self.meet(&request);
        if let Some((index, Fate::Held)) = met {
            self.held.lock().expect("a lock").push(connection);
            let _ = self.reached.lock().expect("a lock").send(index);
            return Ok(());
        }
        let refused =
            self.awaited.iter().any(|(awaited, _)| awaited.fate == Fate::Refused && awaited.is(&request));
        let (status, headers, body) =
            if refused { ("503 Slow Down", String::new(), Vec::new()) } else { self.answer(&request) };
        let mut answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}").into_bytes();
        if request.method == "HEAD" {
            answer.extend(b"\r\n");
        } else {
            answer.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes());
            answer.extend(body);
        }
        let mut connection = connection;
        connection.write_all(&answer)?;
        if let Some((index, _)) = met {
            let _ = self.reached.lock().expect("a lock").send(index);
        }
        Ok(())
    }

    /// The awaited request that this one is.
    fn meet(&self, request: &Request) -> Option<(usize, Fate)> {
        let mut met = None;
        for (index, (awaited, count)) in self.awaited.iter().enumerate() {
            if awaited.is(request) {
                let mut count = count.lock().expect("a lock");
                *count += 1;
                if *count == awaited.number {
                    met = met.or(Some((index, awaited.fate)));
                }
            }
        }
        met
    }

    fn answer(&self, request: &Request) -> (&'static str, String, Vec<u8>) {
        let key = request.key();
        let mut objects = self.objects.lock().expect("a lock");
        match request.method.as_str() {
            "GET" if key.is_empty() => ("200 OK", String::new(), listing(&objects, request)),
            "GET" | "HEAD" => match objects.get(&key) {
                Some(bytes) => object(bytes, request),
                None => ("404 Not Found", String::new(), b"<Error><Code>NoSuchKey</Code></Error>".to_vec()),
            },
            "PUT" if request.headers.contains_key("if-none-match") && objects.contains_key(&key) => {
                ("412 Precondition Failed", String::new(), Vec::new())
            }
            "PUT" => {
                let tag = tag(&request.body);
                objects.insert(key, request.body.clone());
                ("200 OK", format!("ETag: {tag}\r\n"), Vec::new())
            }
            "DELETE" => {
                objects.remove(&key);
                ("204 No Content", String::new(), Vec::new())
            }
            _ => ("200 OK", String::new(), b"<DeleteResult></DeleteResult>".to_vec()),
        }
    }
}

impl Awaited {
    fn is(&self, request: &Request) -> bool {
        self.method == request.method && request.target.contains(self.part)
    }
}

fn tag(bytes: &[u8]) -> String {
    format!("\"{}\"", &schemas::content_hash(bytes)[..16])
}

fn object(bytes: &[u8], request: &Request) -> (&'static str, String, Vec<u8>) {
    let named = format!("ETag: {}\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n", tag(bytes));
    if request.method == "HEAD" {
        return ("200 OK", format!("{named}Content-Length: {}\r\n", bytes.len()), Vec::new());
    }
    let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes="));
    let Some((start, end)) = range.and_then(|range| range.split_once('-')) else {
        return ("200 OK", named, bytes.to_vec());
    };
    let start: usize = start.parse().expect("a start");
    let end = end.parse::<usize>().map_or(bytes.len(), |end| bytes.len().min(end + 1));
    let place = format!("Content-Range: bytes {start}-{}/{}\r\n", end - 1, bytes.len());
    ("206 Partial Content", named + &place, bytes[start..end].to_vec())
}

fn listing(objects: &BTreeMap<String, Vec<u8>>, request: &Request) -> Vec<u8> {
    let (prefix, delimited) =
        (request.query("prefix").unwrap_or_default(), request.query("delimiter").is_some());
    let mut xml = String::from("<ListBucketResult><IsTruncated>false</IsTruncated>");
    for (key, bytes) in objects {
        let Some(below) = key.strip_prefix(&prefix) else { continue };
        if !(delimited && below.contains('/')) {
            let _ = write!(
                xml,
                "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
                 <ETag>{}</ETag><Size>{}</Size></Contents>",
                tag(bytes).replace('"', "&quot;"),
                bytes.len()
            );
        }
    }
    xml.push_str("</ListBucketResult>");
    xml.into_bytes()
}
