//! `preprocess`: raw text and images to packed shards.

mod estimate;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use object_store::ObjectStore;
use object_store::list::PaginatedListStore;
use object_store::path::Path;
use pipeline::codec::ImageCodec;
use pipeline::{
    BoxError, Environment, Event, Location, Observer, OperatorReport, PassedOver, PipelineError,
    PreprocessConfig, PreprocessPlan, Report, Resolver,
};
use serde_json::{Value, json};

use crate::cli::PreprocessArgs;
use crate::errors::{Outcome, hinted};
use crate::session::Session;
use crate::settings::{self, Kind};
use crate::signals::Stop;
use crate::store::{self, Stores};
use crate::terminal::{
    Counted, Printer, Progress, Unit, balance, bytes, count, counts, duration, refused, table, thousands,
};

/// Runs the command.
pub(crate) fn run(args: &PreprocessArgs, session: &Session) -> anyhow::Result<Outcome> {
    let config: PreprocessConfig = settings::load(Kind::Preprocess, &args.config, &args.set)?;
    let stop = Stop::listen()?;
    if args.dry_run || args.explain {
        let is_local = is_local(&config, session);
        let shown = session.runtime.block_on(stop.pipeline().until(async {
            let plan = plan(config, args.retry_rejects, session, &stop).await?;
            estimate::show(&plan, args, &session.printer).await
        }));
        let shown = shown.map_err(|error| with_roots(error, is_local));
        return stop.outcome(shown, |error| session.printer.note(&format!("{error}; nothing was written")));
    }
    let output = config.output.clone();
    let packed = pack(config, args.retry_rejects, session, &stop);
    let packed = packed.and_then(|report| finish(&report, &output, session));
    stop.outcome(packed, |error| {
        let again = settings::spelled(&args.config, &args.set);
        let retry = if args.retry_rejects { " --retry-rejects" } else { "" };
        session.printer.note(&format!("{error}; go on with: transfusion preprocess {again}{retry}"));
    })
}

/// Packs a dataset, or with `retry_rejects` only rows that were refused before.
///
/// # Errors
///
/// Whatever the job failed of.
pub(crate) fn pack(
    config: PreprocessConfig,
    retry_rejects: bool,
    session: &Session,
    stop: &Stop,
) -> anyhow::Result<Report> {
    check_output(&config, session)?;
    let is_local = is_local(&config, session);
    let packed = session.runtime.block_on(async {
        let plan = stop.pipeline().until(plan(config, retry_rejects, session, stop)).await?;
        let watcher = Arc::new(Watcher::new(&session.printer));
        let report = pipeline::preprocess(plan, watcher.clone()).await;
        watcher.progress.finish();
        let report = report?;
        if session.printer.shows_progress() {
            session.printer.note(&format!("preprocess took {}", duration(watcher.progress.elapsed())));
        }
        Ok(report)
    });
    packed.map_err(|error| with_roots(error, is_local))
}

/// Whether all files of a job lie on this machine's disk.
fn is_local(config: &PreprocessConfig, session: &Session) -> bool {
    let uris = config.sources.iter().map(|source| &source.uri).chain([&config.output]);
    let is_local = |uri: &String| session.stores.place(uri).is_ok_and(|place| place.local.is_some());
    uris.into_iter().all(is_local)
}

/// An error with whole paths.
fn with_roots(error: anyhow::Error, is_local: bool) -> anyhow::Error {
    match error.downcast::<PipelineError>() {
        Ok(error) if is_local => error.on_disk().into(),
        Ok(error) => error.into(),
        Err(error) => error,
    }
}

/// Shows before anything is read that a local output can't be written. A store is asked later.
fn check_output(config: &PreprocessConfig, session: &Session) -> anyhow::Result<()> {
    let named = Some(&config.output).filter(|output| !output.is_empty());
    let place =
        named.map(|output| session.stores.place(output)).transpose().context("cannot open the output")?;
    let local = place.and_then(|place| place.local);
    local.map_or(Ok(()), |path| store::local_folder("output", path).map(drop))
}

async fn plan(
    config: PreprocessConfig,
    retry_rejects: bool,
    session: &Session,
    stop: &Stop,
) -> anyhow::Result<PreprocessPlan> {
    if config.output.is_empty() {
        return Err(hinted(
            anyhow!("the config names no `output`"),
            "add `output = \"out/NAME\"`, or `--set output=out/NAME`",
        ));
    }
    let output = session.stores.place(&config.output).context("cannot open the output")?;
    // Shows now, and not after the corpus has been read, that a bucket is missing or closed.
    output.join("manifest.json").read_if_there().await.context("cannot use the output")?;
    let output = Location { store: output.store, prefix: output.path, local: output.local };
    let mut environment = Environment::new(session.stores.clone(), output, session.threads);
    environment.stop = stop.pipeline().clone();
    environment.retry_rejects = retry_rejects;
    environment.codec = open_codec(&config, session).await?;
    Ok(PreprocessPlan::try_new(config, environment).await?)
}

/// The codec, where a source has images.
async fn open_codec(
    config: &PreprocessConfig,
    session: &Session,
) -> anyhow::Result<Option<Arc<dyn ImageCodec>>> {
    let needed = config.sources.iter().any(|source| source.shape.has_images());
    match &config.codec {
        Some(codec) if needed && !codec.path.is_empty() => {
            let device = session.device_over(codec.device.as_deref());
            crate::codec::open(&codec.path, device, session).await.map(Some)
        }
        _ => Ok(None),
    }
}

fn finish(report: &Report, output: &str, session: &Session) -> anyhow::Result<()> {
    let printer = &session.printer;
    printer.event(&json!({ "event": "finished", "output": output, "report": report }))?;
    if !printer.json() {
        let lines = report_lines(report, output, session);
        lines.iter().for_each(|line| printer.note(line));
    }
    Ok(())
}

fn report_lines(report: &Report, output: &str, session: &Session) -> Vec<String> {
    let (palette, width) = (session.printer.palette_of_notes(), session.printer.width());
    let shown = |rows: &[Vec<String>]| table(rows, palette, width).trim_end().to_owned();
    let mut lines = fate_lines(report, output);
    let all = &report.statistics;
    lines.push(format!(
        "{output}: {} of {} in {} ({}), {}",
        count(all.rows, "row"),
        count(all.documents, "document"),
        count(report.shards as u64, "shard"),
        bytes(report.bytes),
        report.manifest_name
    ));
    let sources: Vec<Counted<'_>> =
        report.sources.iter().map(|source| (source.name.as_str(), &source.statistics)).collect();
    lines.push(shown(&counts(&sources)));
    lines.push(format!("  {}", balance(&sources)));
    let refused = refused(&sources);
    if refused.len() > 1 {
        lines.push(shown(&refused));
    }
    if let Some(validation) = &report.validation {
        lines.push(format!(
            "  validation: {} of {}",
            count(validation.rows, "row"),
            count(validation.documents, "document")
        ));
    }
    if session.verbose && !report.operators.is_empty() {
        lines.push(shown(&operators(&report.operators)));
    }
    lines.push(format!("look at it with: transfusion inspect {output} --row 0"));
    if report.sources.iter().any(|source| source.statistics.rejected > 0) {
        lines.push(format!("and at what was refused: transfusion inspect {output} --rejects"));
    }
    lines
}

/// What this start has done.
fn fate_lines(report: &Report, output: &str) -> Vec<String> {
    let mut lines = Vec::new();
    if report.already_complete {
        lines.push(format!("{output} was finished before: nothing was done"));
    } else if report.reused_units > 0 {
        let units = count(report.units as u64, "unit");
        lines.push(format!("{} of {units} had been finished before", report.reused_units));
    }
    if report.added_files > 0 {
        let files = count(report.added_files as u64, "input file");
        lines.push(format!("{files} added, as {}; what was there is untouched", report.manifest_name));
    }
    if let Some(retried) = report.retried {
        lines.push(match retried.rows {
            0 => "no row was refused for a reason that may pass".to_owned(),
            _ => format!(
                "{} run again: {} passed, {} refused again",
                count(retried.rows, "row"),
                thousands(retried.passed),
                thousands(retried.rejected)
            ),
        });
    }
    if report.waiting_files > 0 {
        let files = count(report.waiting_files as u64, "new input file");
        lines.push(format!("{files} left out: start without `--retry-rejects` to add what is new"));
    }
    lines
}

/// What the operators of the plan measured, below a heading.
fn operators(reports: &[OperatorReport]) -> Vec<Vec<String>> {
    let mut rows = vec![["operator", "rows out", "compute time"].map(str::to_owned).to_vec()];
    let measured =
        |report: &&OperatorReport| report.output_rows.is_some() || report.compute_nanoseconds.is_some();
    for report in reports.iter().filter(measured) {
        rows.push(vec![
            report.name.clone(),
            report.output_rows.map_or_else(|| "-".to_owned(), thousands),
            report.compute_nanoseconds.map_or_else(|| "-".to_owned(), compute_time),
        ]);
        let parts = report.measures.iter().filter_map(|(name, time)| Some((part_of(name)?, time)));
        rows.extend(parts.map(|(part, time)| vec![format!("  {part}"), "-".to_owned(), compute_time(*time)]));
    }
    rows
}

/// The part of an operator's work that a measure gives the time of.
fn part_of(measure: &str) -> Option<&str> {
    measure.strip_suffix("_nanoseconds")
}

/// A time that may be short: `12 ms`, `3.2 s`.
fn compute_time(nanoseconds: u64) -> String {
    match nanoseconds / 1_000_000 {
        milliseconds @ 0..1000 => format!("{milliseconds} ms"),
        _ => duration(Duration::from_nanos(nanoseconds)),
    }
}

/// What a source passes over, for people.
pub(crate) fn passed_over(passed: &PassedOver) -> String {
    format!("source `{}` passes over {}", passed.source, passed.describe())
}

/// Says what a source passes over: as a warning where rows may be lost with it.
pub(crate) fn say_passed_over(passed: &PassedOver, printer: &Printer) {
    let line = passed_over(passed);
    if passed.warning { printer.warn(&line) } else { printer.note(&line) }
}

/// Shows events as they come.
struct Watcher {
    printer: Printer,
    progress: Progress,
    seen: Mutex<Seen>,
}

/// What has been seen of a job.
#[derive(Debug)]
struct Seen {
    units: u64,
    of_units: u64,
    rows: u64,
    rejected: u64,
    tokens: u64,
    images: u64,
    bytes: u64,
    of_bytes: u64,
    /// When the units were started.
    started: Instant,
    last_event: Instant,
}

/// Between two events of progress on stdout.
const EVENT_EVERY: Duration = Duration::from_secs(1);

impl Seen {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            units: 0,
            of_units: 0,
            rows: 0,
            rejected: 0,
            tokens: 0,
            images: 0,
            bytes: 0,
            of_bytes: 0,
            started: now,
            last_event: now,
        }
    }

    fn message(&self) -> String {
        let rejected = match self.rejected {
            0 => String::new(),
            rejected => format!(", {} rejected", thousands(rejected)),
        };
        format!(
            "unit {} of {}, {}, {} tokens, {}{rejected}",
            thousands(self.units),
            thousands(self.of_units),
            count(self.rows, "row"),
            thousands(self.tokens),
            count(self.images, "image")
        )
    }

    /// The numbers of the progress line, for events.
    fn numbers(&self, event: &str) -> Value {
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = self.bytes as f64 / seconds.max(1e-9);
        let left = self.of_bytes.saturating_sub(self.bytes) as f64 / rate;
        json!({
            "event": event, "units": self.units, "of_units": self.of_units, "rows": self.rows,
            "rejected": self.rejected, "tokens": self.tokens, "images": self.images, "bytes": self.bytes,
            "of_bytes": self.of_bytes, "mb_per_second": rate / 1e6, "seconds": seconds,
            "seconds_left": left.is_finite().then_some(left),
        })
    }
}

impl Watcher {
    fn new(printer: &Printer) -> Self {
        let progress = Progress::new(printer, "preprocess", Unit::Bytes, 0, 0);
        Self { printer: printer.clone(), progress, seen: Mutex::new(Seen::new()) }
    }

    fn see(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no holder of this lock panics")
    }

    fn emit(&self, value: &Value) {
        // Whoever read the events may have gone; the job goes on.
        drop(self.printer.event(value));
    }

    fn planned(&self, version: u32, units: usize, reused: usize, bytes: u64) {
        let mut seen = self.see();
        (seen.units, seen.of_units, seen.of_bytes) = (reused as u64, units as u64, bytes);
        seen.started = Instant::now();
        self.progress.set_total(bytes);
        self.progress.message(seen.message());
        self.emit(&json!({
            "event": "planned", "version": version, "units": units, "reused": reused, "bytes": bytes,
        }));
    }

    fn read(&self, bytes: u64) {
        let mut seen = self.see();
        seen.bytes = bytes;
        self.progress.update(bytes, seen.message());
        if seen.last_event.elapsed() >= EVENT_EVERY {
            seen.last_event = Instant::now();
            self.emit(&seen.numbers("progress"));
        }
    }

    fn unit_done(&self, unit: &str) {
        let mut seen = self.see();
        seen.units += 1;
        let mut event = seen.numbers("unit");
        event["unit"] = unit.into();
        self.emit(&event);
    }

    fn tokenizer_trained(&self, vocabulary: u32, learned: u64) {
        self.emit(&json!({ "event": "tokenizer", "vocabulary": vocabulary, "bytes": learned }));
        if !self.printer.json() {
            let (ids, learned) = (thousands(vocabulary.into()), bytes(learned));
            self.printer.note(&format!("tokenizer: {ids} ids, learned from {learned}"));
        }
    }

    fn passed_over(&self, passed: &PassedOver) {
        let mut event = json!(passed);
        event["event"] = "passed-over".into();
        self.emit(&event);
        if !self.printer.json() {
            say_passed_over(passed, &self.printer);
        }
    }

    fn lease_found(&self, wait: Duration) {
        self.emit(&json!({ "event": "lease", "wait_seconds": wait.as_secs_f64() }));
        if !self.printer.json() {
            let wait = duration(wait);
            self.printer.note(&format!(
                "the output has a writer's lease: waiting up to {wait} to see whether that writer is alive"
            ));
        }
    }
}

impl Observer for Watcher {
    fn event(&self, event: Event) {
        match event {
            Event::LeaseFound { wait } => self.lease_found(wait),
            Event::PassedOver(passed) => self.passed_over(&passed),
            Event::Planned { version, units, reused, bytes } => self.planned(version, units, reused, bytes),
            Event::TokenizerTrained { vocabulary, bytes } => self.tokenizer_trained(vocabulary, bytes),
            Event::Rows { rows, rejected, tokens, images } => {
                let mut seen = self.see();
                seen.rows += rows;
                seen.rejected += rejected;
                seen.tokens += tokens;
                seen.images += images;
            }
            Event::Read { bytes } => self.read(bytes),
            Event::UnitDone { unit, .. } => self.unit_done(&unit),
            _ => {}
        }
    }
}

impl Resolver for Stores {
    fn resolve(&self, uri: &str) -> Result<(Arc<dyn ObjectStore>, Path), BoxError> {
        // Plain boxing would hide the type that carries the hint.
        let place =
            self.place(uri).map_err(anyhow::Error::reallocate_into_boxed_dyn_error_without_backtrace)?;
        Ok((place.store, place.path))
    }

    fn pages(&self, uri: &str) -> Option<Arc<dyn PaginatedListStore>> {
        self.pages_of(uri)
    }
}
