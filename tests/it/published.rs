//! Folders as people publish them, as whole commands: what is read of them, and what is passed over and said.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use crate::support::{Outcome, Run, digest_of_folder, repository};

/// A folder with a corpus in `in`.
struct Place(tempfile::TempDir);

/// What a job said.
struct Said {
    /// Names of the files that were read.
    files: Vec<String>,
    /// Rows read, kept and refused.
    counts: [u64; 3],
    /// Rows refused, by reason.
    rejects: Value,
    /// Reasons for which files are passed over, each with how many and their names.
    passed: Vec<(String, u64, Vec<String>)>,
}

impl Place {
    fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let place = Self(tempfile::tempdir().expect("a folder"));
        files.iter().for_each(|(name, content)| place.write(name, content));
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.path().join("in").join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, content).expect("a file");
    }

    fn config(&self, keys: &str) {
        let codec = repository().join("tests/golden/autoencoder_kl_tiny");
        let text = format!(
            "output = \"out\"\ncontext = 64\nmax-reject-share = 0.9\n\
             [tokenizer]\ntrain = {{ vocabulary = 300 }}\n\
             [codec]\npath = \"{}\"\nsize = 32\npatch = 1\n\
             [[source]]\nname = \"s\"\n{keys}\n",
            codec.display()
        );
        fs::write(self.path().join("job.toml"), text).expect("a config");
    }

    fn run(&self, keys: &str, further: &[&str]) -> Outcome {
        self.config(keys);
        Run::new(&[&["preprocess", "job.toml"], further].concat()).within(self.path()).run()
    }

    fn refused(&self, keys: &str) -> String {
        let run = self.run(keys, &[]);
        run.expect_code(2);
        assert!(!self.path().join("out/manifest.json").exists());
        run.stderr
    }

    /// Packs the corpus and sees that the events, the report and `--dry-run` agree.
    fn pack(&self, keys: &str) -> Said {
        let dry = self.run(keys, &["--dry-run", "--json"]);
        dry.expect_code(0);
        let dry: Value = serde_json::from_str(&dry.stdout).expect("JSON");
        let run = self.run(keys, &["--json"]);
        run.expect_code(0);
        let events: Vec<Value> =
            run.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let passed: Vec<Value> = (events.iter().filter(|event| event["event"] == "passed-over"))
            .map(|event| {
                let mut event = event.clone();
                event.as_object_mut().expect("an object").remove("event");
                event
            })
            .collect();
        let report = &events.last().expect("an event")["report"];
        assert_eq!(json!(passed), report["passed-over"]);
        assert_eq!(json!(passed), dry["passed-over"]);
        let manifest = fs::read(self.path().join("out/manifest.json")).expect("a manifest");
        let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
        let source = &manifest["sources"][0];
        let count = |name: &str| source["statistics"][name].as_u64().expect("a count");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let texts = |value: &Value| value.as_array().expect("a list").iter().map(text).collect();
        Said {
            files: source["files"]
                .as_array()
                .expect("files")
                .iter()
                .map(|file| text(&file["path"]))
                .collect(),
            counts: ["read", "kept", "rejected"].map(count),
            rejects: source["statistics"]["rejects"].clone(),
            passed: (passed.iter())
                .map(|passed| {
                    (
                        text(&passed["reason"]),
                        passed["files"].as_u64().expect("a count"),
                        texts(&passed["names"]),
                    )
                })
                .collect(),
        }
    }
}

impl Said {
    /// The names of what is passed over.
    fn aside(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.passed.iter().flat_map(|(_, _, names)| names).map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}

fn picture(shade: u8) -> Vec<u8> {
    let picture = image::RgbImage::from_pixel(40, 36, image::Rgb([shade, 90, 200]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Jpeg).expect("a picture");
    bytes.into_inner()
}

fn parquet(column: &str, values: &[&str]) -> Vec<u8> {
    let column = (column, Arc::new(StringArray::from(values.to_vec())) as ArrayRef);
    let batch = RecordBatch::try_from_iter([column]).expect("a batch");
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("writes");
    writer.into_inner().expect("finishes")
}

fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, *content).expect("appends");
    }
    builder.into_inner().expect("finishes")
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).expect("writes");
    encoder.finish().expect("finishes")
}

/// Descriptions, licences and checksums used to become training documents.
#[test]
fn a_repository_of_hugging_face_is_its_tables() {
    let place = Place::new(&[
        ("README.md", b"---\nlicense: mit\n---\n# About".to_vec()),
        (".gitattributes", b"*.parquet filter=lfs".to_vec()),
        ("LICENSE.txt", b"Permission is hereby granted".to_vec()),
        ("md5sums.txt", b"0 data/train-00000-of-00002.parquet".to_vec()),
        ("dataset_infos.json", b"{\"default\": {}}".to_vec()),
        ("data/train-00000-of-00002.parquet", parquet("text", &["one", "two"])),
        ("data/train-00001-of-00002.parquet", parquet("text", &["three"])),
    ]);
    let said = place.pack("uri = \"in\"");
    assert_eq!(said.files, ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]);
    assert_eq!(said.counts, [3, 3, 0]);
    // The first three of a reason are named.
    let aside = [".gitattributes", "LICENSE.txt", "README.md", "dataset_infos.json"];
    assert_eq!(said.aside(), aside);
    fs::remove_dir_all(place.path().join("out")).expect("removes");
    let run = place.run("uri = \"in\"", &[]);
    run.expect_code(0);
    let line = "source `s` passes over 4 files about the data (`LICENSE.txt`, `README.md`, `dataset_infos.json`, ...)";
    assert!(run.stderr.contains(line), "{}", run.stderr);
    // Whoever asks for a file by its name gets it.
    let other = Place::new(&[("README.md", b"About".to_vec()), ("a.parquet", parquet("text", &["x"]))]);
    assert_eq!(other.pack("uri = \"in/*.md\"").files, ["README.md"]);
}

#[test]
fn data_set_apart_for_tests_is_not_trained_on_unasked() {
    let place = Place::new(&[
        ("README.md", b"About".to_vec()),
        ("data/train-00000-of-00002.parquet", parquet("text", &["one"])),
        ("data/train-00001-of-00002.parquet", parquet("text", &["two"])),
        ("data/validation-00000-of-00001.parquet", parquet("text", &["three"])),
        ("data/test-00000-of-00001.parquet", parquet("text", &["four"])),
    ]);
    for uri in ["in", "in/data/*"] {
        let said = place.refused(&format!("uri = \"{uri}\""));
        let expected = "has files of several splits: 2 of `train`, 1 of `validation`, 1 of `test`";
        assert!(said.contains(expected), "{said}");
        assert!(said.contains("`uri = \"in/data/train-*.parquet\"`"), "{said}");
    }
    // The way out works as it is written.
    let said = place.pack("uri = \"in/data/train-*.parquet\"");
    assert_eq!(said.counts, [2, 2, 0]);
    assert!(said.passed.is_empty());
}

#[test]
fn outputs_of_img2dataset_are_read_in_each_of_their_forms() {
    let (jpeg, table) = (picture(10), || parquet("caption", &["a", "b"]));
    let tars = Place::new(&[
        ("00000.tar", archive(&[("0.jpg", &jpeg), ("0.txt", b"a cat"), ("0.json", b"{\"url\": \"u\"}")])),
        ("00000.parquet", table()),
        ("00000_stats.json", b"{\"count\": 1}".to_vec()),
    ]);
    let said = tars.pack("uri = \"in\"\nshape = \"pair\"");
    assert_eq!((said.files.as_slice(), said.counts), (&["00000.tar".to_owned()][..], [1, 1, 0]));
    assert_eq!(said.aside(), ["00000.parquet", "00000_stats.json"]);

    let files = Place::new(&[
        ("00000/000000000.jpg", picture(1)),
        ("00000/000000000.txt", b"a cat\n".to_vec()),
        ("00000/000000000.json", b"{\"url\": \"u\", \"width\": 7}".to_vec()),
        ("00000/000000001.JPG", picture(2)),
        ("00000/000000001.txt", b"a dog".to_vec()),
        ("00000/000000001.json", b"{\"url\": \"v\"}".to_vec()),
        ("00000/000000002.jpg", picture(3)),
        ("00000.parquet", table()),
        ("00000_stats.json", b"{\"count\": 1}".to_vec()),
    ]);
    let said = files.pack("uri = \"in\"\nshape = \"pair\"");
    let pictures = ["00000/000000000.jpg", "00000/000000001.JPG", "00000/000000002.jpg"];
    assert_eq!((said.files.as_slice(), said.counts), (&pictures.map(str::to_owned)[..], [3, 2, 1]));
    assert_eq!(said.rejects, json!({ "missing_caption": 1 }));
    assert_eq!(said.aside(), ["00000.parquet", "00000_stats.json"]);

    let tables = Place::new(&[
        ("00000.parquet", parquet("text", &["a cat"])),
        ("00000_stats.json", b"{\"count\": 1}".to_vec()),
    ]);
    let said = tables.pack("uri = \"in\"");
    assert_eq!(
        (said.files.as_slice(), said.aside()),
        (&["00000.parquet".to_owned()][..], vec!["00000_stats.json"])
    );
}

/// Pictures with their captions beside them had "no column `image`".
#[test]
fn a_folder_of_kohya_is_pairs() {
    let place = Place::new(&[
        ("10_cat/a.jpg", picture(1)),
        ("10_cat/a.txt", b"a cat".to_vec()),
        ("10_cat/b.png.jpg", picture(2)),
        ("10_cat/b.png.caption", b"another cat".to_vec()),
        ("20_dog/a.jpg", picture(3)),
        ("20_dog/a.txt", b"a dog".to_vec()),
        ("20_dog/c.jpg", picture(4)),
        ("20_dog/d.jpg", b"no picture".to_vec()),
        ("20_dog/d.txt", b"nothing".to_vec()),
        ("20_dog/gone.txt", b"a text alone".to_vec()),
        ("20_dog/a.npz", b"latents".to_vec()),
        ("meta_cap.json", b"{}".to_vec()),
        (".DS_Store", b"x".to_vec()),
    ]);
    let said = place.pack("uri = \"in\"\nshape = \"pair\"");
    assert_eq!((said.files.len(), said.counts), (5, [5, 3, 2]));
    assert_eq!(said.rejects, json!({ "missing_caption": 1, "image_undecodable": 1 }));
    assert_eq!(said.aside(), [".DS_Store", "20_dog/a.npz", "20_dog/gone.txt", "meta_cap.json"]);
    let refused = Run::new(&["inspect", "out", "--rejects", "--json"]).within(place.path()).run();
    let first: Value = serde_json::from_str(refused.stdout.lines().next().expect("a row")).expect("JSON");
    assert_eq!((&first["file"], &first["row"]), (&json!("20_dog/c.jpg"), &json!(0)));
    // A glob of the pictures is the same rows; so is a unit of each.
    let whole = digest_of_folder(&place.path().join("out/shards"));
    fs::remove_dir_all(place.path().join("out")).expect("removes");
    assert_eq!(place.pack("uri = \"in/**/*.jpg\"\nshape = \"pair\"").counts, [5, 3, 2]);
    assert_eq!(whole.len(), digest_of_folder(&place.path().join("out/shards")).len());
    // Fields of JSON are columns, as in an archive; a caption that changes is noticed.
    let fields = Place::new(&[
        ("a.jpg", picture(1)),
        ("a.json", b"{\"alt\": \"a cat\", \"score\": 7}".to_vec()),
        ("b.jpg", picture(2)),
        ("b.json", b"{\"alt\": \"a dog\", \"score\": 2}".to_vec()),
    ]);
    let keys = "uri = \"in\"\nshape = \"pair\"\ncaption = \"alt\"\nwhere = \"score > 5 and width = 40\"";
    assert_eq!(fields.pack(keys).counts, [2, 1, 0]);
    fields.write("a.json", b"{\"alt\": \"another cat\", \"score\": 7}");
    let run = fields.run(keys, &[]);
    run.expect_code(2);
    assert!(run.stderr.contains("`a.jpg` of source `s` has"), "{}", run.stderr);
    let bare = Place::new(&[("a.jpg", picture(1)), ("b.jpg", picture(2))]);
    let said = bare.refused("uri = \"in\"\nshape = \"pair\"");
    assert!(said.contains("no picture of source `s` has a caption; the first file is `a.jpg`"), "{said}");
    assert!(said.contains("`a.txt`"), "{said}");
}

/// Without `folder` every picture was missing, and the instances in the place of the captions said the same.
#[test]
fn a_download_of_coco_finds_its_captions_and_its_pictures() {
    let images = "\"images\": [{\"id\": 1, \"file_name\": \"1.jpg\"}, {\"id\": 2, \"file_name\": \"2.jpg\"}]";
    let captions = "[{\"image_id\": 1, \"caption\": \"a cat\"}, {\"image_id\": 2, \"caption\": \"a dog\"}]";
    let boxes = "[{\"image_id\": 1, \"bbox\": [1, 2, 3, 4]}]";
    let file = |annotations: &str| format!("{{{images}, \"annotations\": {annotations}}}").into_bytes();
    let place = Place::new(&[
        ("annotations/captions_train2017.json", file(captions)),
        ("annotations/instances_train2017.json", file(boxes)),
        ("annotations/person_keypoints_train2017.json", file(boxes)),
        ("train2017/1.jpg", picture(1)),
        ("train2017/2.jpg", picture(2)),
    ]);
    for uri in ["in", "in/annotations/captions_train2017.json", "in/annotations/captions_*.json"] {
        let said = place.pack(&format!("uri = \"{uri}\"\nshape = \"pair\""));
        assert_eq!(said.counts, [2, 2, 0], "{uri}");
        fs::remove_dir_all(place.path().join("out")).expect("removes");
    }
    let said = place.refused("uri = \"in/annotations/instances_train2017.json\"\nshape = \"pair\"");
    assert!(said.contains("no picture of source `s` has a caption"), "{said}");
    assert!(said.contains("annotations/captions_train2017.json"), "{said}");
    // Where the rule finds no pictures, the error names the key, the file and the reason.
    fs::rename(place.path().join("in/train2017"), place.path().join("elsewhere")).expect("renames");
    let said = place.refused("uri = \"in/annotations/captions_train2017.json\"\nshape = \"pair\"");
    for expected in ["2 missing_image", "`folder`"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let keys = "uri = \"in/annotations/captions_train2017.json\"\nshape = \"pair\"\nfolder = \"elsewhere\"";
    fs::remove_dir_all(place.path().join("out")).expect("removes");
    assert_eq!(place.pack(keys).counts, [2, 2, 0]);
    place.write("annotations/captions_val2017.json", &file(captions));
    let said = Place::run(&place, "uri = \"in\"\nshape = \"pair\"", &["--dry-run"]).stderr;
    assert!(said.contains("uri = \"in/annotations/captions_val2017.json\""), "{said}");
}

#[test]
fn a_folder_of_images_is_the_table_of_each_split() {
    let table = |name: &str| format!("{{\"file_name\": \"{name}\", \"caption\": \"x\"}}\n").into_bytes();
    let place = Place::new(&[
        ("train/metadata.jsonl", table("1.jpg")),
        ("train/1.jpg", picture(1)),
        ("README.md", b"About".to_vec()),
    ]);
    let said = place.pack("uri = \"in\"\nshape = \"pair\"");
    assert_eq!((said.files.as_slice(), said.counts), (&["train/metadata.jsonl".to_owned()][..], [1, 1, 0]));
    assert_eq!(said.aside(), ["README.md"]);
    place.write("test/metadata.jsonl", &table("2.jpg"));
    place.write("test/2.jpg", &picture(2));
    fs::remove_dir_all(place.path().join("out")).expect("removes");
    let said = place.refused("uri = \"in\"\nshape = \"pair\"");
    assert!(said.contains("`uri = \"in/train/metadata.jsonl\"`"), "{said}");
}

#[test]
fn lists_of_paths_beside_segments_are_passed_over() {
    let segment = "crawl-data/CC-MAIN-2023-50/segments/1700679099281.67/texts";
    let place = Place::new(&[
        (&format!("{segment}/a.txt.gz"), gzip("one document")),
        (&format!("{segment}/b.txt.gz"), gzip("another one")),
        ("crawl-data/CC-MAIN-2023-50/wet.paths.gz", gzip("crawl-data/...")),
    ]);
    let said = place.pack("uri = \"in\"");
    assert_eq!((said.files.len(), said.counts), (2, [2, 2, 0]));
    assert_eq!(said.aside(), ["crawl-data/CC-MAIN-2023-50/wet.paths.gz"]);
}

/// What a folder holds beside files used to vanish, or to stop the job.
#[cfg(unix)]
#[test]
fn odd_entries_of_a_folder_are_named() {
    use std::os::unix::fs::symlink;
    let place = Place::new(&[
        ("blobs/0a1b", b"{\"text\": \"one\"}\n".to_vec()),
        ("snapshots/b.jsonl", b"{\"text\": \"two\"}\n".to_vec()),
        ("snapshots/c.jsonl.part", b"{\"text\": \"half".to_vec()),
        ("snapshots/empty.jsonl", Vec::new()),
        ("snapshots/_d.jsonl", b"{\"text\": \"three\"}\n".to_vec()),
        ("snapshots/Icon\r", b"x".to_vec()),
    ]);
    let at = |name: &str| place.path().join("in/snapshots").join(name);
    symlink("../blobs/0a1b", at("a.jsonl")).expect("a link");
    symlink("nowhere", at("dead.jsonl")).expect("a link");
    symlink("..", at("loop")).expect("a link");
    std::os::unix::net::UnixListener::bind(at("socket.jsonl")).expect("a socket");
    let said = place.pack("uri = \"in/snapshots\"");
    assert_eq!(said.files, ["a.jsonl", "b.jsonl", "empty.jsonl"]);
    assert_eq!(said.counts, [2, 2, 0]);
    assert_eq!(said.aside(), ["Icon\\r", "_d.jsonl", "c.jsonl.part", "dead.jsonl", "loop", "socket.jsonl"]);
    fs::remove_dir_all(place.path().join("out")).expect("removes");
    let glob = place.pack("uri = \"in/snapshots/*.jsonl\"");
    assert_eq!((glob.files, glob.counts), (said.files, said.counts));
    assert_eq!(
        glob.passed.iter().flat_map(|(_, _, names)| names).collect::<Vec<_>>(),
        ["_d.jsonl", "dead.jsonl", "socket.jsonl"]
    );
    fs::remove_dir_all(place.path().join("out")).expect("removes");
    let run = place.run("uri = \"in/snapshots/*.jsonl\"", &[]);
    let line = "warning: source `s` passes over 1 link that leads nowhere (`dead.jsonl`)";
    assert!(run.stderr.contains(line), "{}", run.stderr);
}

#[test]
fn a_pointer_of_git_lfs_is_named_as_what_it_is() {
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n", "0".repeat(64));
    let place = Place::new(&[("data/train-0.parquet", pointer.into_bytes())]);
    let said = place.refused("uri = \"in\"");
    assert!(said.contains("`data/train-0.parquet` of source `s` is a pointer of Git LFS"), "{said}");
    assert!(said.contains("git lfs pull"), "{said}");
}

/// The delimiter was looked for in the whole path, in small letters.
#[test]
fn tabs_are_those_of_the_file_s_own_name() {
    let place = Place::new(&[
        ("x.tsv/a.csv", b"text,n\none,1\n".to_vec()),
        ("DATA.TSV", b"text\tn\ntwo, three\t2\n".to_vec()),
    ]);
    let said = place.pack("uri = \"in\"\nwhere = \"n in ('1', '2')\"");
    assert_eq!(said.counts, [2, 2, 0]);
}

/// One bucket of a store, as far as a job reads of it.
fn bucket(objects: BTreeMap<String, Vec<u8>>) -> Vec<(String, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let objects = Arc::new(objects);
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let objects = objects.clone();
            std::thread::spawn(move || answer(connection, &objects));
        }
    });
    let pairs = [
        ("AWS_ENDPOINT_URL", format!("http://{address}")),
        ("AWS_ACCESS_KEY_ID", "testing".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "testing".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

fn answer(mut connection: TcpStream, objects: &BTreeMap<String, Vec<u8>>) {
    let mut lines = BufReader::new(connection.try_clone().expect("the same connection")).lines();
    let request = lines.next().and_then(Result::ok).unwrap_or_default();
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let mut words = request.split(' ');
    let (method, address) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let url = url::Url::parse(&format!("http://store{address}")).expect("an address");
    let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
    let path: String =
        url::form_urlencoded::parse(format!("p={}", url.path().replace('+', "%2B")).as_bytes())
            .map(|(_, path)| path.into_owned())
            .collect();
    let key = path.trim_start_matches("/bucket").trim_start_matches('/');
    let (status, body, extra) = if query.contains_key("list-type") {
        ("200 OK", page(objects, &query).into_bytes(), String::new())
    } else if let Some(content) = objects.get(key) {
        let range = headers.iter().find_map(|line| {
            let line = line.to_lowercase();
            let (start, end) = line.strip_prefix("range: bytes=")?.split_once('-')?;
            Some((start.parse::<usize>().ok()?, end.parse::<usize>().ok()?))
        });
        let version = "ETag: \"1\"\r\nLast-Modified: Wed, 01 Nov 2023 10:00:00 GMT\r\n";
        match range {
            Some((start, end)) => {
                let end = (end + 1).min(content.len());
                let range =
                    format!("{version}Content-Range: bytes {start}-{}/{}\r\n", end - 1, content.len());
                ("206 Partial Content", content[start..end].to_vec(), range)
            }
            None => ("200 OK", content.clone(), version.to_owned()),
        }
    } else {
        ("404 Not Found", Vec::new(), String::new())
    };
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{extra}Connection: close\r\n\r\n", body.len());
    // Whoever asked may have gone.
    let _ = connection.write_all(head.as_bytes());
    if method != "HEAD" {
        let _ = connection.write_all(&body);
    }
}

/// A page of the keys.
fn page(objects: &BTreeMap<String, Vec<u8>>, query: &BTreeMap<String, String>) -> String {
    let of = |name: &str| query.get(name).cloned().unwrap_or_default();
    let (prefix, token) = (of("prefix"), of("continuation-token"));
    let from = if token.is_empty() { of("start-after") } else { token };
    let most = query.get("max-keys").and_then(|most| most.parse().ok()).unwrap_or(1000);
    let mut entries: Vec<(String, Option<usize>)> = Vec::new();
    for (key, content) in objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > from) {
        let entry = match key[prefix.len()..].find('/').filter(|_| query.contains_key("delimiter")) {
            Some(end) => (format!("{prefix}{}", &key[prefix.len()..=prefix.len() + end]), None),
            None => (key.clone(), Some(content.len())),
        };
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    let more = entries.len() > most;
    entries.truncate(most);
    let escaped = |text: &str| {
        text.replace('&', "&amp;").replace('<', "&lt;").replace('\r', "&#13;").replace('\t', "&#9;")
    };
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult>");
    if let Some((last, size)) = entries.last().filter(|_| more) {
        let end = if size.is_none() { char::MAX.to_string() } else { String::new() };
        text += &format!("<NextContinuationToken>{}{end}</NextContinuationToken>", escaped(last));
    }
    for (key, size) in entries {
        let key = escaped(&key);
        text += &match size {
            Some(size) => format!(
                "<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>2023-11-01T10:00:00.000Z</LastModified>\
                 <ETag>\"1\"</ETag></Contents>"
            ),
            None => format!("<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>"),
        };
    }
    text + "</ListBucketResult>"
}

/// One key that no path can be used to make the whole source unreadable, and the hint's way out failed too.
#[test]
fn keys_of_a_store_that_are_no_paths_are_passed_over() {
    let line = |text: &str| format!("{{\"text\": \"{text}\"}}\n").into_bytes();
    let mut objects = BTreeMap::from([
        ("raw/a.jsonl".to_owned(), line("a")),
        ("raw//c.jsonl".to_owned(), line("never")),
        ("raw/Icon\r".to_owned(), Vec::new()),
        ("raw/d/../e.jsonl".to_owned(), line("never")),
        ("raw/z.jsonl".to_owned(), line("z")),
    ]);
    objects.extend((0..1500).map(|number| (format!("raw/many/{number:04}.bin"), vec![0])));
    let environment = bucket(objects);
    let folder = tempfile::tempdir().expect("a folder");
    for (uri, odd) in [
        ("raw", vec!["/c.jsonl", "Icon\\r", "d/../e.jsonl"]),
        ("raw/**/*.jsonl", vec!["/c.jsonl", "d/../e.jsonl"]),
        ("raw/*.jsonl", vec![]),
    ] {
        let config = format!(
            "output = \"out\"\ncontext = 64\n[tokenizer]\ntrain = {{ vocabulary = 300 }}\n\
             [[source]]\nname = \"s\"\nuri = \"s3://bucket/{uri}\"\n"
        );
        fs::write(folder.path().join("job.toml"), config).expect("a config");
        let run =
            Run::new(&["preprocess", "job.toml", "--json"]).within(folder.path()).environment(&environment);
        let run = run.run();
        run.expect_code(0);
        let last: Value = serde_json::from_str(run.stdout.lines().last().expect("events")).expect("JSON");
        let report = &last["report"];
        assert_eq!(report["sources"][0]["statistics"]["kept"], 2, "{uri}: {report}");
        let bad = report["passed-over"].as_array().expect("a list").iter();
        let names: Vec<&Value> =
            bad.filter(|passed| passed["reason"] == "bad_name").map(|passed| &passed["names"]).collect();
        let expected = if odd.is_empty() { json!([]) } else { json!([odd]) };
        assert_eq!(json!(names), expected, "{uri}");
        fs::remove_dir_all(folder.path().join("out")).expect("removes");
    }
}
