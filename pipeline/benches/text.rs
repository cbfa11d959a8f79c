//! Tokens a second of text, from JSON lines on the disk to shards on the disk.
//!
//! `cargo bench --bench text -- TOKENIZER FOLDER [--threads N] [--memory BYTES]`
//!
//! The whole job runs, as `transfusion preprocess` runs it: reading, parsing, tokenizing, packing, writing, syncing.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, path::Path as StorePath};
use pipeline::{
    BoxError, Environment, Location, PreprocessConfig, PreprocessPlan, Resolver, Silent, SourceConfig,
    TokenizerConfig, preprocess,
};

/// Paths of this machine.
struct Disk(Arc<LocalFileSystem>);

impl Resolver for Disk {
    fn resolve(&self, uri: &str) -> Result<(Arc<dyn ObjectStore>, StorePath), BoxError> {
        Ok((self.0.clone(), StorePath::from_absolute_path(uri)?))
    }
}

struct Arguments {
    tokenizer: PathBuf,
    folder: PathBuf,
    threads: usize,
    memory_bytes: u64,
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let given: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let flag = |name: &str| {
        given.iter().position(|argument| argument == name).and_then(|at| given.get(at + 1)).cloned()
    };
    let usage = "usage: text TOKENIZER FOLDER [--threads N] [--memory BYTES]";
    let (Some(tokenizer), Some(folder)) = (given.first(), given.get(1)) else { return Err(usage.into()) };
    Ok(Arguments {
        tokenizer: std::path::absolute(tokenizer)?,
        folder: std::path::absolute(folder)?,
        threads: flag("--threads").map_or(Ok(1), |number| number.parse())?,
        memory_bytes: flag("--memory").map_or(Ok(1 << 30), |number| number.parse())?,
    })
}

/// Time of the process on all cores, in user and kernel mode.
fn processor_time() -> Result<Duration, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    // Linux counts a hundred of them a second for programs, whatever the kernel does.
    Ok(Duration::from_millis(10 * ticks))
}

fn run(arguments: &Arguments, output: &Path) -> Result<(), Box<dyn Error>> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(arguments.threads).enable_all().build()?;
    let source = SourceConfig {
        name: "text".to_owned(),
        uri: arguments.folder.display().to_string(),
        ..SourceConfig::default()
    };
    let config = PreprocessConfig {
        tokenizer: TokenizerConfig {
            model: Some(arguments.tokenizer.display().to_string()),
            ..TokenizerConfig::default()
        },
        sources: vec![source],
        memory_bytes: arguments.memory_bytes,
        ..PreprocessConfig::default()
    };
    let location = Location {
        store: Arc::new(LocalFileSystem::new_with_prefix(output)?),
        prefix: StorePath::from("out"),
        local: Some(output.join("out")),
    };
    let resolver = Arc::new(Disk(Arc::new(LocalFileSystem::new())));
    let environment = Environment::new(resolver, location, arguments.threads);
    let (start, before) = (Instant::now(), processor_time()?);
    let report = runtime.block_on(async {
        let plan = PreprocessPlan::try_new(config, environment).await?;
        preprocess(plan, Arc::new(Silent)).await
    })?;
    let (wall, processor) = (start.elapsed().as_secs_f64(), (processor_time()? - before).as_secs_f64());
    let tokens = report.statistics.tokens as f64;
    let positions = tokens + report.statistics.padding as f64;
    println!(
        "{} threads: {:.2} M tokens in {wall:.2} s, {:.2} Mtok/s, {:.2} Mtok/s a core (processor time {processor:.2} s); {:.2} % padding, {} MB reserved at most",
        arguments.threads,
        tokens / 1e6,
        tokens / 1e6 / wall,
        tokens / 1e6 / processor,
        100.0 * report.statistics.padding as f64 / positions,
        report.peak_memory / 1_000_000,
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments()?;
    for _ in 0..3 {
        let output = tempfile::tempdir()?;
        run(&arguments, output.path())?;
    }
    Ok(())
}
