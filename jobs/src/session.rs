//! What every job is handed: printer, threads, runtime, stores.

use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use schemas::address::without_secrets;
use tracing_subscriber::EnvFilter;

use crate::cli::Global;
use crate::store::Stores;
use crate::terminal::Printer;

/// The surroundings of a job.
#[derive(Debug)]
pub(crate) struct Session {
    /// Where to print.
    pub(crate) printer: Printer,
    /// Whether the report has every detail.
    pub(crate) verbose: bool,
    /// Cores to use.
    pub(crate) threads: usize,
    /// Name of the device that computes, where no config names another: see [`Session::device_over`].
    pub(crate) device: String,
    /// The device that the flag names, if it was given.
    named_device: Option<String>,
    /// The stores that URIs lead to.
    pub(crate) stores: Arc<Stores>,
    /// Runs what waits for stores.
    pub(crate) runtime: Runtime,
}

/// Runs what waits for stores.
#[derive(Debug)]
pub(crate) struct Runtime(Option<tokio::runtime::Runtime>);

/// What threads get to end by themselves when a job is over: those of a job that was stopped see it in the next bytes
/// that they read. What computes on, such as the training of a tokenizer, ends with the process.
const GRACE: Duration = Duration::from_secs(2);

impl Runtime {
    fn try_new(threads: usize) -> std::io::Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
        runtime.map(|runtime| Self(Some(runtime)))
    }

    /// Waits for the end of `work`.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.0.as_ref().expect("it is there until it is dropped").block_on(work)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(GRACE);
        }
    }
}

impl Session {
    /// Starts logging, threads and runtime as the flags say.
    pub(crate) fn new(global: &Global, printer: Printer) -> anyhow::Result<Self> {
        start_log(global, &printer);
        global.device.as_deref().map(trainer::device::device).transpose()?;
        let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = global.threads.map_or_else(cores, usize::from);
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .context("cannot start threads")?;
        let runtime = Runtime::try_new(threads).context("cannot start the runtime")?;
        let (verbose, named_device) = (global.verbose > 0, global.device.clone());
        let device = named_device.clone().unwrap_or_else(|| trainer::device::CPU.to_owned());
        Ok(Self { printer, verbose, threads, device, named_device, stores: Arc::default(), runtime })
    }

    /// The device of a job whose config may name one: the flag beats the config, which beats the default.
    pub(crate) fn device_over<'a>(&'a self, configured: Option<&'a str>) -> &'a str {
        self.named_device.as_deref().or(configured).unwrap_or(&self.device)
    }
}

fn start_log(global: &Global, printer: &Printer) {
    let filter = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "warn,transfusion=info,pipeline=info,trainer=info,object_store=info",
        (_, 2) => "info,transfusion=debug,pipeline=debug,trainer=debug",
        _ => "trace",
    };
    let bars = printer.bars().clone();
    let writer = move || LogWriter { bars: bars.clone() };
    let subscriber = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(filter)).with_writer(writer);
    // A second session in one process keeps the log of the first.
    let _ = subscriber.with_target(false).with_ansi(printer.live()).try_init();
}

/// Writes log lines to stderr, free of secrets and without tearing a progress bar. A line comes whole.
struct LogWriter {
    bars: indicatif::MultiProgress,
}

impl std::io::Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.bars.suspend(|| std::io::stderr().lock().write_all(without_secrets(&text).as_bytes()))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().lock().flush()
    }
}
