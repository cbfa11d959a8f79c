//! Hundreds of units at once on a disk: no thread waits for one that can't be had.

use super::fixtures::{Job, archive, byte_tokenizer, config, disk_output, files, pairs, png, texts};
use crate::{PipelineError, PreprocessConfig, Report, SourceConfig, SplitConfig};

/// As many as a plain file of the folder has, about, so that no two files are one unit.
const UNIT_BYTES: u64 = 680;

/// A folder of `units` files, each a unit of its own, plain and compressed, lines and archives and tables of pictures.
fn folder(units: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: String, bytes: Vec<u8>| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, bytes).expect("writes");
    };
    write("tokenizer.json".to_owned(), byte_tokenizer());
    write("tables/p.png".to_owned(), png(20, 20, [9, 99, 199]));
    for unit in 0..units {
        let line = format!("{{\"text\":\"unit {unit:0>650}\"}}\n");
        let tar = || archive(&[("a.png", &png(20, 20, [unit as u8, 0, 0])), ("a.txt", b"red")]);
        let row = format!(
            "{{\"file_name\":\"p.png\",\"caption\":\"{unit:0>560}\"}}\n{{\"file_name\":\"q\",\"caption\":\"x\"}}\n"
        );
        match unit % 5 {
            0 => write(format!("lines/{unit:03}.jsonl"), line.into_bytes()),
            1 => write(
                format!("lines/{unit:03}.jsonl.zst"),
                zstd::encode_all(line.as_bytes(), 1).expect("zstd"),
            ),
            2 => write(format!("tars/{unit:03}.tar"), tar()),
            3 => write(format!("tars/{unit:03}.tar.zst"), zstd::encode_all(&*tar(), 1).expect("zstd")),
            _ => write(format!("tables/{unit:03}.jsonl"), row.into_bytes()),
        }
    }
    folder
}

fn everything(deduplicate: bool) -> PreprocessConfig {
    let sources: Vec<SourceConfig> =
        vec![texts("lines", "lines/*"), pairs("tars", "tars/*"), pairs("tables", "tables/*.jsonl")];
    // All of them fit into this much memory, of which hardly any is used.
    PreprocessConfig {
        unit_bytes: UNIT_BYTES,
        memory_bytes: 1 << 40,
        deduplicate,
        split: SplitConfig { validation: 0.2 },
        ..config(sources)
    }
}

/// Runs a job over a disk with these numbers of threads: of the job, and of the runtime for what blocks.
fn run(units: usize, deduplicate: bool, threads: usize, blocking: usize) -> (Report, Vec<(String, Vec<u8>)>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(blocking)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (inputs, output) = (folder(units), tempfile::tempdir().expect("a folder"));
        let store = object_store::local::LocalFileSystem::new_with_prefix(inputs.path()).expect("a store");
        let store: std::sync::Arc<dyn object_store::ObjectStore> = std::sync::Arc::new(store);
        let job = Job { output: disk_output(output.path()), threads, ..Job::new(&store) };
        let plan = job.plan(everything(deduplicate)).await.expect("a plan");
        assert_eq!((plan.unit_count(), plan.units_at_once()), (units, threads));
        let report: Result<Report, PipelineError> =
            crate::preprocess(plan, std::sync::Arc::new(crate::Silent)).await;
        (report.expect("runs"), files(&job.output).await.into_iter().collect())
    })
}

/// All of 600 units at once, with the number of threads that a runtime has by default.
#[test]
fn six_hundred_units_at_once_come_to_an_end() {
    let (report, _) = run(600, false, 600, 512);
    assert_eq!((report.units, report.statistics.documents), (600, report.statistics.documents));
    let read: u64 = report.sources.iter().map(|source| source.statistics.read).sum();
    assert_eq!(read, 600 + 120);
}

/// One thread for what blocks is enough for any number of units, and the bytes are those of one unit after the other.
#[test]
fn one_blocking_thread_of_the_runtime_is_enough() {
    for deduplicate in [false, true] {
        let (_, alone) = run(60, deduplicate, 1, 512);
        let (_, together) = run(60, deduplicate, 60, 1);
        assert!(alone == together, "deduplicate: {deduplicate}");
    }
}
