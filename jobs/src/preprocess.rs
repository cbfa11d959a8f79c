//! `preprocess`: raw text and images to packed shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, anyhow};
use object_store::ObjectStore;
use object_store::path::Path;
use pipeline::codec::ImageCodec;
use pipeline::{
    BoxError, Environment, Event, Location, Observer, PipelineError, PreprocessConfig, PreprocessPlan,
    Report, Resolver,
};
use serde_json::json;

use crate::cli::PreprocessArgs;
use crate::draw::{bytes, count, percent, thousands};
use crate::errors::{Outcome, hinted};
use crate::printer::Printer;
use crate::progress::{Progress, Unit, duration};
use crate::session::Session;
use crate::settings::{self, Kind};
use crate::signals::Stop;
use crate::store::Stores;

/// Runs the command.
pub(crate) fn run(args: &PreprocessArgs, session: &Session) -> anyhow::Result<Outcome> {
    let config: PreprocessConfig = settings::load(Kind::Preprocess, &args.config, &args.set)?;
    let stop = Stop::listen()?;
    let output = config.output.clone();
    let made = pack(config, args.dry_run, session, &stop);
    match made {
        Err(error) if stopped(&error) && stop.signal().is_some() => {
            let again = settings::spelled(&args.config, &args.set);
            session.printer.note(&format!("{error}; go on with: transfusion preprocess {again}"));
            Ok(stop.signal().map_or(Outcome::Done, Outcome::Stopped))
        }
        Err(error) => Err(error),
        Ok(None) => Ok(Outcome::Done),
        Ok(Some(report)) => {
            finish(&report, &output, session)?;
            Ok(Outcome::Done)
        }
    }
}

/// Packs a dataset. `None` for a dry run.
///
/// # Errors
///
/// Whatever the job failed of.
pub(crate) fn pack(
    config: PreprocessConfig,
    dry_run: bool,
    session: &Session,
    stop: &Stop,
) -> anyhow::Result<Option<Report>> {
    session.runtime.block_on(async {
        let plan = plan(config, session, stop).await?;
        if dry_run {
            show_plan(&plan, session).await?;
            return Ok(None);
        }
        let watcher = Arc::new(Watcher::new(&session.printer));
        let report = pipeline::preprocess(plan, watcher.clone()).await;
        watcher.progress.finish();
        let report = report?;
        if session.printer.shows_progress() {
            session.printer.note(&format!("preprocess took {}", duration(watcher.progress.elapsed())));
        }
        Ok(Some(report))
    })
}

async fn plan(config: PreprocessConfig, session: &Session, stop: &Stop) -> anyhow::Result<PreprocessPlan> {
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
    environment.stop = stop.flag();
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
            crate::codec::open(&codec.path, session).await.map(Some)
        }
        _ => Ok(None),
    }
}

async fn show_plan(plan: &PreprocessPlan, session: &Session) -> anyhow::Result<()> {
    let units = plan.units();
    let read: u64 = units.iter().map(|unit| unit.bytes).sum();
    let explained = plan.explain().await.ok();
    if session.printer.json() {
        let units: Vec<_> = units
            .iter()
            .map(|unit| json!({ "unit": unit.unit, "source": unit.source, "files": unit.files, "bytes": unit.bytes }))
            .collect();
        return session
            .printer
            .document(&json!({ "units": units, "bytes": read, "plan": explained, "config": plan.config() }));
    }
    let mut text = format!("{}, {} to read\n", count(units.len() as u64, "unit"), bytes(read));
    for unit in units {
        text.push_str(&format!(
            "  {}  {}  {}  {}\n",
            unit.unit,
            unit.source,
            count(unit.files as u64, "file"),
            bytes(unit.bytes)
        ));
    }
    text.extend(explained);
    session.printer.data(&text)?;
    session.printer.note("dry run: nothing was written; leave `--dry-run` out to start");
    Ok(())
}

fn stopped(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<PipelineError>(), Some(PipelineError::Stopped { .. }))
}

fn finish(report: &Report, output: &str, session: &Session) -> anyhow::Result<()> {
    let printer = &session.printer;
    printer.event(&json!({ "event": "finished", "output": output, "report": report }))?;
    if !printer.json() {
        report_lines(report, output).iter().for_each(|line| printer.note(line));
    }
    Ok(())
}

fn report_lines(report: &Report, output: &str) -> Vec<String> {
    let all = &report.statistics;
    let mut lines = Vec::new();
    if report.already_complete {
        lines.push(format!("{output} was finished before: nothing was done"));
    } else if report.reused_units > 0 {
        lines.push(format!(
            "{} of {} had been finished before",
            report.reused_units,
            count(report.units as u64, "unit")
        ));
    }
    if report.changed_files > 0 {
        let files = count(report.changed_files as u64, "input file");
        lines.push(format!("warning: {files} changed since; pack into another `output` to take them in"));
    }
    let positions = all.tokens + all.patches + all.padding;
    lines.push(format!(
        "{output}: {} of {}, {}, {}, {} padding, in {} ({})",
        count(all.rows, "row"),
        count(all.documents, "document"),
        count(all.tokens, "text position"),
        count(all.images, "image"),
        percent(all.padding, positions),
        count(report.shards as u64, "shard"),
        bytes(report.bytes)
    ));
    for source in &report.sources {
        let of = &source.statistics;
        let reasons: Vec<String> =
            of.rejects.iter().map(|(reason, number)| format!("{reason} {}", thousands(*number))).collect();
        if !reasons.is_empty() {
            lines.push(format!(
                "  {}: {} of {} rows rejected: {}",
                source.name,
                of.rejected,
                of.read,
                reasons.join(", ")
            ));
        }
    }
    if let Some(validation) = &report.validation {
        lines.push(format!(
            "  validation: {} of {}",
            count(validation.rows, "row"),
            count(validation.documents, "document")
        ));
    }
    lines.push(format!("look at it with: transfusion inspect {output} --row 0"));
    lines
}

/// Shows events as they come.
struct Watcher {
    printer: Printer,
    progress: Progress,
    rows: AtomicU64,
    rejected: AtomicU64,
    tokens: AtomicU64,
    images: AtomicU64,
}

impl Watcher {
    fn new(printer: &Printer) -> Self {
        let progress = Progress::new(printer, "preprocess", Unit::Bytes, 0, 0);
        let zero = AtomicU64::default;
        Self {
            printer: printer.clone(),
            progress,
            rows: zero(),
            rejected: zero(),
            tokens: zero(),
            images: zero(),
        }
    }

    fn message(&self) -> String {
        let of = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let rejected = of(&self.rejected);
        let rejected =
            if rejected > 0 { format!(", {} rejected", thousands(rejected)) } else { String::new() };
        let (rows, tokens, images) = (of(&self.rows), of(&self.tokens), of(&self.images));
        format!("{}, {} tokens, {}{rejected}", count(rows, "row"), thousands(tokens), count(images, "image"))
    }
}

impl Observer for Watcher {
    fn event(&self, event: Event) {
        // Whoever read the events may have gone; the job goes on.
        let emit = |value: serde_json::Value| drop(self.printer.event(&value));
        match event {
            Event::Planned { units, reused, bytes } => {
                self.progress.set_total(bytes);
                emit(json!({ "event": "planned", "units": units, "reused": reused, "bytes": bytes }));
            }
            Event::TokenizerTrained { vocabulary, bytes: read } => {
                emit(json!({ "event": "tokenizer", "vocabulary": vocabulary, "bytes": read }));
                let learned = bytes(read);
                if !self.printer.json() {
                    self.printer.note(&format!(
                        "tokenizer: {} ids, learned from {learned}",
                        thousands(vocabulary.into())
                    ));
                }
            }
            Event::Rows { rows, rejected, tokens, images } => {
                for (to, more) in [
                    (&self.rows, rows),
                    (&self.rejected, rejected),
                    (&self.tokens, tokens),
                    (&self.images, images),
                ] {
                    to.fetch_add(more, Ordering::Relaxed);
                }
                self.progress.message(self.message());
            }
            Event::UnitDone { unit, bytes } => {
                self.progress.add(bytes);
                emit(json!({ "event": "unit", "unit": unit, "bytes": bytes }));
            }
            _ => {}
        }
    }
}

impl Resolver for Stores {
    fn resolve(&self, uri: &str) -> Result<(Arc<dyn ObjectStore>, Path), BoxError> {
        let place = self.place(uri).map_err(BoxError::from)?;
        Ok((place.store, place.path))
    }
}
