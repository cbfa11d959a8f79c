//! The same job on other stores, with other threads, with other listings: the same bytes.

use std::sync::Arc;

use super::fixtures::{
    Faults, FaultyStore, Job, archive, arrow_file, arrow_stream, batch, config, corpus, disk_output, files,
    memory_output, pairs, parquet, png, strings, texts,
};
use crate::{PreprocessConfig, SplitConfig};

fn lines(file: usize) -> Vec<u8> {
    let text = |row: usize| "word ".repeat((row * 7 + file * 3) % 23);
    (0..40).map(|row| format!("{{\"text\":\"{file} {row} {}\"}}\n", text(row))).collect::<String>().into()
}

/// Several units of texts and of pairs, with rejects.
async fn mixed() -> (Arc<dyn object_store::ObjectStore>, PreprocessConfig) {
    let mut inputs: Vec<(String, Vec<u8>)> =
        (0..5).map(|file| (format!("in/{file}.jsonl"), lines(file))).collect();
    let mut table = String::new();
    for row in 0..23_u8 {
        inputs.push((format!("img/p {row}.png"), png(20 + u32::from(row), 24, [row * 10, 100, 200])));
        table.push_str(&format!("{{\"file_name\":\"p {row}.png\",\"caption\":\"c {row}\"}}\n"));
    }
    table.push_str("{\"file_name\":\"absent.png\",\"caption\":\"x\"}\n");
    inputs.push(("img/captions.jsonl".to_owned(), table.into_bytes()));
    let borrowed: Vec<_> = inputs.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    let mut config = config(vec![texts("web", "in/*.jsonl"), pairs("pictures", "img/captions.jsonl")]);
    config.unit_bytes = 3000;
    config.shard_bytes = 4000;
    config.split = SplitConfig { validation: 0.1 };
    (corpus(&borrowed).await, config)
}

#[tokio::test]
async fn bytes_do_not_depend_on_threads() {
    let (inputs, config) = mixed().await;
    let mut expected = None;
    for threads in [1, 2, 8] {
        let job = Job { threads, ..Job::new(&inputs) };
        let report = job.run(config.clone()).await.expect("runs");
        assert!(report.units > 3, "{}", report.units);
        let found = files(&job.output).await;
        assert_eq!(expected.get_or_insert_with(|| found.clone()), &found, "{threads} threads");
    }
}

#[tokio::test]
async fn bytes_do_not_depend_on_the_order_of_listings_nor_on_the_codec_batch() {
    let (inputs, config) = mixed().await;
    let first = Job::new(&inputs);
    first.run(config.clone()).await.expect("runs");
    let mut config = config;
    config.codec.as_mut().expect("a codec").batch = 3;
    for seed in 1..4 {
        let faults = Faults { shuffled: Some(seed), ..Faults::default() };
        let shuffled: Arc<dyn object_store::ObjectStore> = Arc::new(FaultyStore::new(inputs.clone(), faults));
        let second = Job::new(&shuffled);
        second.run(config.clone()).await.expect("runs");
        assert_eq!(files(&first.output).await, files(&second.output).await, "listing {seed}");
    }
}

#[tokio::test]
async fn memory_and_disk_give_the_same_bytes() {
    let (inputs, config) = mixed().await;
    let first = Job::new(&inputs);
    first.run(config.clone()).await.expect("runs");
    let folder = tempfile::tempdir().expect("a folder");
    let second = Job { output: disk_output(folder.path()), ..Job::new(&inputs) };
    second.run(config).await.expect("runs");
    assert_eq!(files(&first.output).await, files(&second.output).await);
    assert!(!folder.path().join("out/.unfinished").exists(), "nothing unfinished is left");
}

/// A store that fails every third read: each range is asked for again.
#[tokio::test]
async fn reads_that_fail_now_and_then_are_repeated() {
    let (inputs, config) = mixed().await;
    let first = Job::new(&inputs);
    let config = PreprocessConfig { codec: None, sources: vec![config.sources[0].clone()], ..config };
    first.run(config.clone()).await.expect("runs");
    let faults = Faults { every_read: Some(3), ..Faults::default() };
    let faulty = FaultyStore::new(inputs.clone(), faults);
    let second = Job {
        output: memory_output(),
        ..Job::new(&(Arc::new(faulty) as Arc<dyn object_store::ObjectStore>))
    };
    // The tokenizer is read once, outside the ranges.
    let plan = loop {
        if let Ok(plan) = second.plan(config.clone()).await {
            break plan;
        }
    };
    crate::preprocess(plan, Arc::new(crate::Silent)).await.expect("runs");
    assert_eq!(files(&first.output).await, files(&second.output).await);
}

/// Answers that break off are gone on with at the byte that did not come; when that does not end, the error names the
/// file and the byte.
#[tokio::test]
async fn an_answer_that_breaks_off_is_gone_on_with() {
    let inputs = corpus(&[("in/0.jsonl", &lines(0))]).await;
    let first = Job::new(&inputs);
    let config = config(vec![texts("web", "in/*.jsonl")]);
    first.run(config.clone()).await.expect("runs");
    let broken = |times, bytes| {
        let faults = Faults { broken: Some((times, bytes)), ..Faults::default() };
        Arc::new(FaultyStore::new(inputs.clone(), faults)) as Arc<dyn object_store::ObjectStore>
    };
    let second = Job::new(&broken(2, 700));
    second.run(config.clone()).await.expect("runs");
    assert_eq!(files(&first.output).await, files(&second.output).await);
    let error = Job::new(&broken(usize::MAX, 100)).run(config).await.expect_err("it never ends");
    assert_eq!(error.to_string(), "reading `in/0.jsonl` failed at byte 500");
    assert!(error.hint().expect("a hint").contains("run the same command again"));
}

/// Tables and archives are read with the same patience as lines.
#[tokio::test]
async fn tables_and_archives_survive_a_store_that_fails_now_and_then() {
    let texts_of = |rows: std::ops::Range<usize>| {
        let texts: Vec<String> = rows.map(|row| format!("row {row}")).collect();
        let texts: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
        batch(vec![("text", strings(&texts))])
    };
    let batches = [texts_of(0..7), texts_of(7..40)];
    let tar = archive(&[("a.txt", b"one"), ("b.txt", b"two")]);
    let members: [(&str, &[u8]); 4] = [
        ("in/a.arrow", &arrow_file(&batches)),
        ("in/b.parquet", &parquet(&batches)),
        ("in/c.arrows", &arrow_stream(&batches)),
        ("in/d.tar", &tar),
    ];
    let inputs = corpus(&members).await;
    let sources = vec![
        texts("arrow", "in/*.arrow*"),
        texts("parquet", "in/b.parquet"),
        crate::SourceConfig { text: Some("caption".to_owned()), ..texts("tar", "in/d.tar") },
    ];
    let first = Job::new(&inputs);
    let report = first.run(config(sources.clone())).await.expect("runs");
    assert_eq!(report.statistics.documents, 40 + 40 + 40 + 2);
    let faults = Faults { every_read: Some(4), ..Faults::default() };
    let faulty: Arc<dyn object_store::ObjectStore> = Arc::new(FaultyStore::new(inputs, faults));
    let second = Job::new(&faulty);
    // The tokenizer is read once, outside the ranges.
    let plan = loop {
        if let Ok(plan) = second.plan(config(sources.clone())).await {
            break plan;
        }
    };
    crate::preprocess(plan, Arc::new(crate::Silent)).await.expect("runs");
    assert_eq!(files(&first.output).await, files(&second.output).await);
}

/// A large object goes up in parts; when one fails, those that are there already are removed.
#[tokio::test]
async fn a_failed_upload_leaves_no_parts() {
    use std::io::Write;
    let upload = async |parts| {
        let faults = Faults { parts, ..Faults::default() };
        let store = Arc::new(FaultyStore::new(Arc::new(object_store::memory::InMemory::new()), faults));
        let output = crate::Location { store: store.clone(), ..memory_output() };
        let file = output.temporary().expect("a file");
        file.handle().expect("a handle").write_all(&vec![7; 20 << 20]).expect("writes");
        (output.put_file("shards/big", file, &crate::Stop::default()).await, files(&output).await, store)
    };
    let (put, found, store) = upload(None).await;
    put.expect("uploaded");
    assert_eq!(found["shards/big"].len(), 20 << 20);
    assert_eq!(store.aborted.load(std::sync::atomic::Ordering::SeqCst), 0);
    let (put, found, store) = upload(Some(1)).await;
    let error = put.expect_err("the second part fails");
    assert!(error.to_string().starts_with("write `out/set/shards/big`"), "{error}");
    assert!(found.is_empty());
    assert_eq!(store.aborted.load(std::sync::atomic::Ordering::SeqCst), 1);
}

/// Makes a bucket of a server that asks for no signature.
fn make_bucket(endpoint: &str, bucket: &str) {
    use std::io::{Read, Write};
    let host = endpoint.trim_start_matches("http://").trim_end_matches('/');
    let mut connection = std::net::TcpStream::connect(host).expect("the server of TRANSFUSION_S3 answers");
    let request =
        format!("PUT /{bucket} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).expect("asks");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("answers");
}

/// A bucket of its own on the server of TRANSFUSION_S3, where there is one.
#[allow(clippy::print_stderr)]
pub(crate) fn s3_store(test: &str) -> Option<Arc<dyn object_store::ObjectStore>> {
    let Ok(endpoint) = std::env::var("TRANSFUSION_S3") else {
        eprintln!("skipped: TRANSFUSION_S3 names no server");
        return None;
    };
    let bucket = format!("{test}-{}", std::process::id());
    make_bucket(&endpoint, &bucket);
    let store = object_store::aws::AmazonS3Builder::new()
        .with_endpoint(&endpoint)
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_access_key_id("testing")
        .with_secret_access_key("testing")
        .with_bucket_name(&bucket)
        .build()
        .expect("a store");
    Some(Arc::new(store))
}

#[tokio::test]
async fn memory_and_s3_give_the_same_bytes() {
    let Some(store) = s3_store("pipeline") else { return };
    let (inputs, config) = mixed().await;
    let first = Job::new(&inputs);
    first.run(config.clone()).await.expect("runs");
    let output = crate::Location { store, ..memory_output() };
    let second = Job { output, ..Job::new(&inputs) };
    second.run(config.clone()).await.expect("runs");
    assert_eq!(files(&first.output).await, files(&second.output).await);
    assert!(second.run(config).await.expect("is done").already_complete);
}
