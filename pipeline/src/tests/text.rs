//! Jobs on texts.

use std::io::Write;

use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::fixtures::{
    Job, config, corpus, counts, documents, files, manifest, pairs, png, reject_lines, rejects, rows, texts,
};
use crate::{PipelineError, PreprocessConfig, SplitConfig, TextSplit, TokenizerConfig, TrainTokenizer};

fn lines(count: usize) -> Vec<u8> {
    (0..count)
        .map(|row| format!("{{\"text\":\"row {row} {}\",\"n\":{row}}}\n", "x".repeat(row % 90)))
        .collect::<String>()
        .into()
}

fn owned(expected: &[(&str, u64, &str)]) -> Vec<(String, u64, String)> {
    expected.iter().map(|&(file, row, text)| (file.to_owned(), row, text.to_owned())).collect()
}

#[tokio::test]
async fn every_line_is_a_document_or_a_reject() {
    let dirty = b"{\"text\":\"a\"}\n\n{\"text\":\"\"}\n{\"text\":null}\n{\"other\":1}\n{\"text\":[\"b\"]}\n{\"text\":\"b\",\"id\":7}\n{oops\n";
    let job = Job::new(&corpus(&[("in/d.jsonl", dirty)]).await);
    let report = job.run(config(vec![texts("web", "in/*.jsonl")])).await.expect("runs");
    assert_eq!(documents(&job.output).await, owned(&[("d.jsonl", 0, "a"), ("d.jsonl", 6, "b")]));
    let expected = [
        ("d.jsonl", 2, "empty"),
        ("d.jsonl", 3, "missing_text"),
        ("d.jsonl", 4, "missing_text"),
        ("d.jsonl", 5, "wrong_type"),
        ("d.jsonl", 7, "invalid_json"),
    ];
    assert_eq!(rejects(&job.output).await, owned(&expected));
    let excerpts: Vec<_> = reject_lines(&job.output).await.into_iter().map(|line| line.excerpt).collect();
    assert_eq!(excerpts, [None, None, None, Some("[\"b\"]".to_owned()), Some("{oops".to_owned())]);
    let statistics = &report.sources[0].statistics;
    assert!(statistics.is_balanced());
    assert_eq!((statistics.read, statistics.kept, statistics.rejected, statistics.filtered), (7, 2, 5, 0));
    assert_eq!(rows(&job.output).await[0].0.sources()[1].id.as_deref(), Some("7"));
}

#[tokio::test]
async fn where_and_select_are_sql_over_the_row() {
    let mut source = texts("web", "in/a.jsonl");
    source.filter = Some("n >= 3 and n < 5 -- a comment".to_owned());
    source.select = Some("concat('n=', cast(n as varchar)) as text, text as id".to_owned());
    let job = Job::new(&corpus(&[("in/a.jsonl", &lines(9))]).await);
    let report = job.run(config(vec![source])).await.expect("runs");
    assert_eq!(documents(&job.output).await, owned(&[("a.jsonl", 3, "n=3"), ("a.jsonl", 4, "n=4")]));
    let statistics = &report.sources[0].statistics;
    assert_eq!((statistics.read, statistics.kept, statistics.filtered), (9, 2, 7));
    let ids: Vec<_> = rows(&job.output).await[0].0.sources().iter().map(|source| source.id.clone()).collect();
    assert_eq!(ids, [Some("row 3 xxx".to_owned()), Some("row 4 xxxx".to_owned())]);
}

/// A column that is null in its first ten thousand rows gets the type of the value that comes at last.
#[tokio::test]
async fn a_column_that_starts_with_nulls_has_the_type_of_its_first_value() {
    let mut bytes = "{\"text\":\"a\",\"score\":null}\n".repeat(10_000);
    bytes.push_str("{\"text\":\"last\",\"score\":1.5}\n");
    let mut source = texts("web", "in/a.jsonl");
    source.filter = Some("score > 1.0".to_owned());
    let job = Job::new(&corpus(&[("in/a.jsonl", bytes.as_bytes())]).await);
    job.run(config(vec![source])).await.expect("runs");
    assert_eq!(documents(&job.output).await, owned(&[("a.jsonl", 10_000, "last")]));
}

#[tokio::test]
async fn errors_name_what_is_there() {
    let job = Job::new(&corpus(&[("in/a.jsonl", &lines(3))]).await);
    let failed = async |edit: &dyn Fn(&mut crate::SourceConfig)| {
        let mut source = texts("web", "in/a.jsonl");
        edit(&mut source);
        job.plan(config(vec![source])).await.expect_err("refused")
    };
    let error = failed(&|source| source.text = Some("body".to_owned())).await;
    assert_eq!(error.to_string(), "source `web` has no column `body`; its columns are `text`, `n`");
    assert!(error.hint().expect("a hint").contains("`select`"));
    let error = failed(&|source| source.filter = Some("score > 1".to_owned())).await;
    assert_eq!(error.to_string(), "source `web` has no column `score`; its columns are `text`, `n`");
    let error = failed(&|source| source.filter = Some("n >".to_owned())).await;
    assert!(matches!(error, PipelineError::Sql { clause: "where", .. }), "{error}");
    let error = failed(&|source| source.select = Some("count(*) as text".to_owned())).await;
    assert!(error.to_string().contains("`select` of source `web`"), "{error}");
    let error = failed(&|source| source.select = Some("n as id".to_owned())).await;
    assert!(error.to_string().contains("no column `text`"), "{error}");
    let error = failed(&|source| source.uri = "in/*.parquet".to_owned()).await;
    assert!(matches!(error, PipelineError::NoFiles { .. }), "{error}");
}

#[tokio::test]
async fn explain_shows_the_whole_job() {
    let mut source = texts("web", "in/a.jsonl");
    source.filter = Some("n > 1".to_owned());
    let job = Job::new(&corpus(&[("in/a.jsonl", &lines(3))]).await);
    let plan = job.plan(config(vec![source])).await.expect("a plan");
    let text = plan.explain().await.expect("text");
    let order = ["ShardsExec", "DocumentsExec", "WhereExec", "UnitReadExec", "DataSourceExec"];
    let places: Vec<_> = order.iter().map(|name| text.find(name).expect("an operator")).collect();
    assert!(places.is_sorted(), "{text}");
    assert!(text.contains("columns=[text, n]"), "only what is needed is read: {text}");
}

/// A tokenizer that is still to be trained is no reason to show nothing.
#[tokio::test]
async fn explain_trains_a_small_tokenizer_where_it_has_to() {
    let train = Some(TrainTokenizer { vocabulary: 270, sample_bytes: 1 << 20 });
    let tokenizer = TokenizerConfig { train, ..TokenizerConfig::default() };
    let job = Job::new(&corpus(&[("in/a.jsonl", &lines(30))]).await);
    let config = PreprocessConfig { tokenizer, ..config(vec![texts("web", "in/a.jsonl")]) };
    let text = job.plan(config).await.expect("a plan").explain().await.expect("text");
    assert!(text.contains("DocumentsExec: shape=text, vocabulary=2"), "{text}");
    assert!(files(&job.output).await.is_empty(), "nothing is written");
}

#[tokio::test]
async fn a_share_of_documents_goes_to_validation_and_nothing_is_lost() {
    let job = Job::new(&corpus(&[("in/a.jsonl", &lines(200))]).await);
    let split = SplitConfig { validation: 0.25 };
    let report =
        job.run(PreprocessConfig { split, ..config(vec![texts("web", "in/a.jsonl")]) }).await.expect("runs");
    let validation = documents(&job.output.child("validation")).await;
    let training = documents(&job.output).await;
    let rows = |documents: &[(String, u64, String)]| {
        documents.iter().map(|document| document.1).collect::<std::collections::BTreeSet<_>>()
    };
    assert!(rows(&training).is_disjoint(&rows(&validation)));
    assert_eq!(rows(&training).len() + rows(&validation).len(), 200);
    assert!((30..70).contains(&rows(&validation).len()), "{}", rows(&validation).len());
    let statistics = &report.sources[0].statistics;
    assert_eq!(statistics.read, statistics.kept + statistics.filtered);
    assert_eq!(report.validation.expect("a second dataset").documents, rows(&validation).len() as u64);
}

#[tokio::test]
async fn a_weight_repeats_documents_and_takes_the_rest_by_hash() {
    let mut source = texts("web", "in/a.jsonl");
    source.weight = 2.25;
    let job = Job::new(&corpus(&[("in/a.jsonl", &lines(200))]).await);
    let report = job.run(config(vec![source.clone()])).await.expect("runs");
    assert_eq!(report.sources[0].statistics.kept, 200);
    assert!((420..480).contains(&report.statistics.documents), "{}", report.statistics.documents);
    source.weight = 0.25;
    let job = Job::new(&job.inputs);
    let report = job.run(config(vec![source])).await.expect("runs");
    let statistics = &report.sources[0].statistics;
    assert!((20..80).contains(&statistics.kept) && statistics.kept + statistics.filtered == 200);
}

#[tokio::test]
async fn too_many_rejects_fail_the_job_with_the_reasons() {
    let job = Job::new(&corpus(&[("in/a.jsonl", b"{\"text\":\"a\"}\n{\"text\":\"\"}\nx\ny\n")]).await);
    let strict =
        |limit| PreprocessConfig { max_reject_share: limit, ..config(vec![texts("web", "in/a.jsonl")]) };
    let error = job.run(strict(0.5)).await.expect_err("too many");
    assert!(error.to_string().contains("allows: 2 invalid_json, 1 empty; the first is row 1 of"), "{error}");
    assert!(files(&job.output).await.keys().all(|name| name != "manifest.json"));
    // A limit is not a property of the dataset: with another one the job goes on where it was.
    let report = job.run(strict(0.75)).await.expect("allowed");
    assert_eq!((report.units, report.reused_units), (1, 1));
}

#[tokio::test]
async fn empty_input_gives_a_valid_empty_dataset() {
    let job = Job::new(&corpus(&[("in/a.jsonl", b""), ("in/b.jsonl", b"{\"text\":\"\"}\n")]).await);
    let report = job.run(config(vec![texts("web", "in/*.jsonl")])).await.expect("runs");
    assert_eq!((report.statistics.rows, report.shards), (0, 0));
    assert_eq!(rejects(&job.output).await, owned(&[("b.jsonl", 0, "empty")]));
}

/// A byte order mark changes nothing but the size of the input: the shards are the same bytes.
#[tokio::test]
async fn a_byte_order_mark_changes_no_row() {
    let with: Vec<u8> = [b"\xef\xbb\xbf".as_slice(), &lines(5)].concat();
    let csv = b"text,n\na,1\nb,2\n".to_vec();
    let csv_with: Vec<u8> = [b"\xef\xbb\xbf".as_slice(), &csv].concat();
    for (path, plain, marked) in [("in/a.jsonl", lines(5), with), ("in/a.csv", csv, csv_with)] {
        let first = Job::new(&corpus(&[(path, &plain)]).await);
        let second = Job::new(&corpus(&[(path, &marked)]).await);
        for job in [&first, &second] {
            let mut source = texts("web", path);
            source.filter = Some("text is not null".to_owned());
            job.run(config(vec![source])).await.expect("runs");
        }
        assert_eq!(rows(&first.output).await, rows(&second.output).await);
        let shards = async |job: &Job| {
            let shards = manifest(&job.output).await.shards;
            shards.into_iter().map(|shard| shard.checksum).collect::<Vec<_>>()
        };
        assert_eq!(shards(&first).await, shards(&second).await);
    }
}

/// A row that is empty takes no document's place: what comes behind it keeps its own number.
#[tokio::test]
async fn an_empty_document_moves_no_other() {
    let job =
        Job::new(&corpus(&[("in/a.jsonl", b"{\"text\":\"a\"}\n{\"text\":\"\"}\n{\"text\":\"b\"}\n")]).await);
    let report = job.run(config(vec![texts("web", "in/a.jsonl")])).await.expect("runs");
    assert_eq!(counts(&report), [3, 2, 1, 0, 0]);
    assert_eq!(documents(&job.output).await, owned(&[("a.jsonl", 0, "a"), ("a.jsonl", 2, "b")]));
    assert_eq!(rejects(&job.output).await, owned(&[("a.jsonl", 1, "empty")]));
}

/// Markers that a text spells are text: there are as many markers in a row as its documents have.
#[tokio::test]
async fn markers_spelled_in_a_text_stay_text() {
    let spelled = "x</s>y<s>z<unk>";
    let line = |text: &str| format!("{}\n", serde_json::json!({ "text": text }));
    let corpus =
        corpus(&[("in/a.jsonl", [line(spelled), line("<image></image>")].concat().as_bytes())]).await;
    let job = Job::new(&corpus);
    job.run(config(vec![texts("web", "in/a.jsonl")])).await.expect("runs");
    let vocabulary = manifest(&job.output).await.vocabulary;
    let tokens: Vec<u32> =
        rows(&job.output).await.iter().flat_map(|(row, _)| row.tokens().to_vec()).collect();
    let count = |id: u32| tokens.iter().filter(|token| **token == id).count();
    assert_eq!(
        [count(0), count(1), count(2), count(vocabulary.boi()), count(vocabulary.eoi())],
        [0, 2, 2, 0, 0]
    );
    let expected = [("a.jsonl", 0, spelled), ("a.jsonl", 1, "<image></image>")];
    assert_eq!(documents(&job.output).await, owned(&expected));
}

/// A column that is null in ten thousand rows and then a list of texts is a list.
#[tokio::test]
async fn a_list_may_come_after_ten_thousand_nulls() {
    let mut bytes = "{\"caption\":null,\"file_name\":\"a.png\"}\n".repeat(10_000);
    bytes.push_str("{\"caption\":[\"at\",\"last\"],\"file_name\":\"a.png\"}\n");
    let picture = png(16, 16, [1; 3]);
    let job = Job::new(&corpus(&[("in/captions.jsonl", bytes.as_bytes()), ("in/a.png", &picture)]).await);
    let source = crate::SourceConfig {
        captions: Some(crate::CaptionChoice::All),
        filter: Some("caption is not null".to_owned()),
        ..pairs("pics", "in")
    };
    let report = job.run(config(vec![source])).await.expect("runs");
    assert_eq!(counts(&report), [10_001, 1, 0, 10_000, 0]);
}

/// A large file that is one list of objects is not taken for lines.
#[tokio::test]
async fn a_list_of_objects_is_never_cut() {
    let list = format!(
        "[{}]",
        (0..200).map(|row| format!("{{\"text\":\"row {row}\"}}")).collect::<Vec<_>>().join(",")
    );
    let job = Job::new(&corpus(&[("in/a.json", list.as_bytes())]).await);
    let small = PreprocessConfig { unit_bytes: 500, ..config(vec![texts("web", "in/a.json")]) };
    let report = job.run(small).await.expect("runs");
    assert_eq!((report.units, counts(&report)), (1, [200, 200, 0, 0, 0]));
}

/// Names with spaces, accents and characters that mean something in addresses, on a disk.
#[tokio::test]
async fn names_of_files_are_taken_as_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let names = ["ü 1.jsonl", "100% sure.jsonl", "a#b&c=d.jsonl", "日本 (2).jsonl", "it's+.jsonl"];
    let below = folder.path().join("trip data/Ä é");
    std::fs::create_dir_all(&below).expect("a folder");
    for name in names {
        let text = serde_json::json!({ "text": name });
        std::fs::write(below.join(name), format!("{text}\n")).expect("a file");
    }
    let tokenizer = super::fixtures::byte_tokenizer();
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer).expect("a file");
    let store: std::sync::Arc<dyn object_store::ObjectStore> = std::sync::Arc::new(
        object_store::local::LocalFileSystem::new_with_prefix(folder.path()).expect("a store"),
    );
    let job = Job { output: super::fixtures::disk_output(&below), ..Job::new(&store) };
    job.run(config(vec![texts("web", "trip data/Ä é/*.jsonl")])).await.expect("runs");
    let found = documents(&job.output).await;
    assert_eq!(found.len(), names.len());
    assert!(found.iter().all(|(file, row, text)| file == text && *row == 0), "{found:?}");
}

#[tokio::test]
async fn a_parquet_file_in_a_folder_with_a_space_is_read_and_a_dataset_is_written_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let below = folder.path().join("trip data");
    std::fs::create_dir(&below).expect("a folder");
    let table = super::fixtures::batch(vec![("text", super::fixtures::strings(&[Some("a")]))]);
    std::fs::write(below.join("ü 1.parquet"), super::fixtures::parquet(&[table])).expect("a file");
    std::fs::write(folder.path().join("tokenizer.json"), super::fixtures::byte_tokenizer()).expect("a file");
    let store: std::sync::Arc<dyn object_store::ObjectStore> = std::sync::Arc::new(
        object_store::local::LocalFileSystem::new_with_prefix(folder.path()).expect("a store"),
    );
    for uri in ["trip data/ü 1.parquet", "trip data/*.parquet", "trip data"] {
        let output = tempfile::tempdir_in(&below).expect("a folder");
        let output = output.path().join("dataset ö");
        std::fs::create_dir(&output).expect("a folder");
        let job = Job { output: super::fixtures::disk_output(&output), ..Job::new(&store) };
        job.run(config(vec![texts("web", uri)])).await.expect("runs");
        assert_eq!(documents(&job.output).await, owned(&[("ü 1.parquet", 0, "a")]), "{uri}");
        std::fs::remove_dir_all(&output).expect("removed");
    }
}

#[tokio::test]
async fn several_gzip_members_and_paths_with_spaces_are_read() {
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("writes");
        encoder.finish().expect("finishes")
    };
    let bytes = [gzip(b"{\"text\":\"a\"}\n"), gzip(b"{\"text\":\"b\"}\n")].concat();
    let job = Job::new(&corpus(&[("trip data/ü 1.jsonl.gz", &bytes)]).await);
    job.run(config(vec![texts("web", "trip data/*.jsonl.gz")])).await.expect("runs");
    let expected = [("ü 1.jsonl.gz", 0, "a"), ("ü 1.jsonl.gz", 1, "b")];
    assert_eq!(documents(&job.output).await, owned(&expected));
}

/// A file that is larger than a unit is read in parts, and every line has its own number.
#[tokio::test]
async fn a_large_file_is_cut_at_lines() {
    let mut bytes = lines(100);
    bytes.truncate(bytes.len() - 1);
    bytes.splice(0..0, *b"\n\r\n");
    let inputs = corpus(&[("in/a.jsonl", &bytes)]).await;
    let whole = Job::new(&inputs);
    whole.run(config(vec![texts("web", "in/a.jsonl")])).await.expect("runs");
    let expected = documents(&whole.output).await;
    let numbers: std::collections::BTreeSet<u64> = expected.iter().map(|document| document.1).collect();
    assert!(numbers.into_iter().eq(2..102));
    // Smaller than a line, of about a line, of several.
    for unit_bytes in [7, 64, 1000] {
        let job = Job::new(&inputs);
        let config = PreprocessConfig { unit_bytes, ..config(vec![texts("web", "in/a.jsonl")]) };
        let report = job.run(config).await.expect("runs");
        assert_eq!(report.units as u64, (bytes.len() as u64).div_ceil(unit_bytes));
        assert_eq!(documents(&job.output).await, expected, "units of {unit_bytes} bytes");
        assert_eq!(report.sources[0].statistics.read, 100);
        assert_eq!(manifest(&job.output).await.sources[0].files.len(), 1);
    }
}

/// However many files a unit has, it is one unit with one commit.
#[tokio::test]
async fn a_unit_may_have_thousands_of_files() {
    let files: Vec<(String, String)> =
        (0..1300).map(|file| (format!("in/{file:04}.jsonl"), format!("{{\"text\":\"{file}\"}}\n"))).collect();
    let borrowed: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_bytes())).collect();
    let job = Job::new(&corpus(&borrowed).await);
    let report = job.run(config(vec![texts("web", "in/*.jsonl")])).await.expect("runs");
    assert_eq!((report.units, report.sources[0].statistics.read), (1, 1300));
    let found: Vec<String> = documents(&job.output).await.into_iter().map(|(_, _, text)| text).collect();
    let expected: Vec<String> = (0..1300).map(|file| file.to_string()).collect();
    assert_eq!(found, expected);
}

/// What the job wrote itself is no input, though it lies below the source's folder.
#[tokio::test]
async fn the_output_is_never_read_as_input() {
    let lines = "{\"text\":\"a\"}\n{\"text\":\"\"}\n";
    for uri in ["data", "data/**/*"] {
        let inputs = corpus(&[("data/a.jsonl", lines.as_bytes())]).await;
        let mut job = Job::new(&inputs);
        job.output =
            crate::Location { store: inputs.clone(), prefix: Path::from("data/packed"), local: None };
        let config = PreprocessConfig { max_reject_share: 1.0, ..config(vec![texts("web", uri)]) };
        assert_eq!(job.run(config.clone()).await.expect("runs").sources[0].statistics.read, 2);
        assert!(job.run(config).await.expect("nothing is new").already_complete, "{uri}");
    }
    // The other way round it is: only what a job writes is left out.
    let inputs = corpus(&[("data/raw/a.jsonl", lines.as_bytes())]).await;
    let mut job = Job::new(&inputs);
    job.output = crate::Location { store: inputs.clone(), prefix: Path::from("data"), local: None };
    let config = PreprocessConfig { max_reject_share: 1.0, ..config(vec![texts("web", "data/raw/*.jsonl")]) };
    assert_eq!(job.run(config).await.expect("runs").sources[0].statistics.read, 2);
}

#[tokio::test]
async fn of_equal_rows_the_first_is_kept() {
    let text = |text: &str| format!("{{\"text\":\"{text}\"}}\n");
    let first = ["a", "b", "a", ""].map(text).concat();
    let second = ["b", "c", "c", ""].map(text).concat();
    let inputs = corpus(&[("x/1.jsonl", first.as_bytes()), ("y/1.jsonl", second.as_bytes())]).await;
    let mut config = config(vec![texts("x", "x/1.jsonl"), texts("y", "y/1.jsonl")]);
    config.deduplicate = true;
    let job = Job::new(&inputs);
    let report = job.run(config).await.expect("runs");
    let kept: Vec<_> = documents(&job.output).await.into_iter().map(|(_, row, text)| (row, text)).collect();
    assert_eq!(kept, [(0, "a".to_owned()), (1, "b".to_owned()), (1, "c".to_owned())]);
    let of = |index: usize| {
        let statistics = &report.sources[index].statistics;
        [statistics.read, statistics.kept, statistics.rejected, statistics.filtered, statistics.deduplicated]
    };
    assert_eq!((of(0), of(1)), ([4, 2, 1, 0, 1], [4, 1, 1, 0, 2]));
}

#[tokio::test]
async fn a_tokenizer_is_trained_on_the_corpus_once() {
    let job = Job::new(&corpus(&[("in/a.jsonl", &lines(200))]).await);
    let train = TokenizerConfig {
        train: Some(TrainTokenizer { vocabulary: 300, sample_bytes: 1 << 20 }),
        ..TokenizerConfig::default()
    };
    let trained =
        || PreprocessConfig { tokenizer: train.clone(), ..config(vec![texts("web", "in/a.jsonl")]) };
    let report = job.run(trained()).await.expect("runs");
    assert_eq!(report.statistics.documents, 200);
    let again = Job::new(&job.inputs);
    again.run(trained()).await.expect("runs");
    assert_eq!(files(&job.output).await, files(&again.output).await);
    let manifest = manifest(&job.output).await;
    assert!(manifest.vocabulary.size <= 300);
    assert!(job.output.read(&manifest.tokenizer.path).await.expect("reads").is_some());
}

/// The markers are what the configuration says, stand at both ends of every document, and are recorded.
#[tokio::test]
async fn bos_and_eos_are_chosen_checked_and_recorded() {
    let job = Job::new(&corpus(&[("in/a.jsonl", b"{\"text\":\"a<s>b\"}\n{\"text\":\"</s>\"}\n")]).await);
    let with = |bos: &str, eos: &str| {
        let mut config = config(vec![texts("web", "in/a.jsonl")]);
        (config.tokenizer.bos, config.tokenizer.eos) = (Some(bos.to_owned()), Some(eos.to_owned()));
        config
    };
    job.run(with("</s>", "<s>")).await.expect("runs");
    let record = manifest(&job.output).await.tokenizer;
    assert_eq!((record.bos, record.eos), (2, 1));
    for (row, _) in rows(&job.output).await {
        for (_, range) in row.documents() {
            let tokens = &row.tokens()[range];
            assert_eq!((tokens.first(), tokens.last()), (Some(&2), Some(&1)));
            assert!(tokens[1..tokens.len() - 1].iter().all(|&id| id > 2), "text gave a marker: {tokens:?}");
        }
    }
    // An absent piece is found before any file is looked for.
    let mut absent = with("<s>", "<|endoftext|>");
    absent.sources[0].uri = "nowhere/*.jsonl".to_owned();
    let error = Job::new(&job.inputs).run(absent).await.expect_err("absent");
    assert!(matches!(error, PipelineError::Tokenizer { .. }), "{error}");
    assert!(error.hint().expect("a hint").contains("`tokenizer.eos`"));
}

#[tokio::test]
async fn plain_text_is_cut_into_documents_and_rows() {
    let text = format!("{}\n\nsecond\n", "long ".repeat(100));
    let mut source = texts("book", "in/a.txt");
    source.document = TextSplit::BlankLine;
    let job = Job::new(&corpus(&[("in/a.txt", text.as_bytes())]).await);
    let report = job.run(config(vec![source])).await.expect("runs");
    assert_eq!((report.statistics.documents, report.sources[0].statistics.kept), (2, 2));
    // 500 letters and BOS and EOS over rows of 64; nothing is lost where the text is cut.
    let pieces: String =
        documents(&job.output).await.iter().filter(|d| d.1 == 0).map(|d| d.2.as_str()).collect();
    assert_eq!(pieces.len(), 500);
}

#[tokio::test]
async fn the_dataset_says_what_it_was_made_of_but_not_where_it_lies() {
    let job = Job::new(&corpus(&[("secret-root/in/a.jsonl", &lines(20))]).await);
    job.run(config(vec![texts("web", "secret-root/in/*.jsonl")])).await.expect("runs");
    let manifest = manifest(&job.output).await;
    assert_eq!(manifest.config["source"][0]["uri"], "*.jsonl");
    assert_eq!(manifest.sources[0].files[0].path, "a.jsonl");
    let padding: u64 = manifest.shards.iter().map(|shard| shard.padding).sum();
    let used: u64 = manifest.shards.iter().map(|shard| shard.tokens + shard.patches).sum();
    assert_eq!(used + padding, manifest.statistics.rows * 64);
    assert_eq!((manifest.statistics.tokens, manifest.statistics.padding), (used, padding));
    let named = |bytes: &[u8]| {
        bytes.windows(11).any(|window| window == b"secret-root" || window.starts_with(b"out/set"))
    };
    assert!(files(&job.output).await.values().all(|bytes| !named(bytes)));
    assert!(job.inputs.head(&Path::from("secret-root/in/a.jsonl")).await.is_ok());
}
