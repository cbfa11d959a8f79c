//! `preprocess`: raw text and images to packed shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use object_store::ObjectStore;
use object_store::path::Path;
use pipeline::codec::{ImageCodec, RgbBatch};
use pipeline::{
    BoxError, Environment, Estimate, Event, Location, Observer, PipelineError, PreprocessConfig,
    PreprocessPlan, Report, Resolver,
};
use serde_json::json;

use crate::cli::PreprocessArgs;
use crate::draw::{Palette, bytes, count, percent, table, thousands};
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
    if args.dry_run || args.explain {
        session.runtime.block_on(foresee(config, args, session, &stop))?;
        return Ok(Outcome::Done);
    }
    let output = config.output.clone();
    let made = pack(config, session, &stop);
    match made {
        Err(error) if stopped(&error) && stop.signal().is_some() => {
            let again = settings::spelled(&args.config, &args.set);
            session.printer.note(&format!("{error}; go on with: transfusion preprocess {again}"));
            Ok(stop.signal().map_or(Outcome::Done, Outcome::Stopped))
        }
        Err(error) => Err(error),
        Ok(report) => {
            finish(&report, &output, session)?;
            Ok(Outcome::Done)
        }
    }
}

/// Packs a dataset.
///
/// # Errors
///
/// Whatever the job failed of.
pub(crate) fn pack(config: PreprocessConfig, session: &Session, stop: &Stop) -> anyhow::Result<Report> {
    session.runtime.block_on(async {
        let plan = plan(config, session, stop).await?;
        let watcher = Arc::new(Watcher::new(&session.printer));
        let report = pipeline::preprocess(plan, watcher.clone()).await;
        watcher.progress.finish();
        let report = report?;
        if session.printer.shows_progress() {
            session.printer.note(&format!("preprocess took {}", duration(watcher.progress.elapsed())));
        }
        Ok(report)
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
            let device = codec.device.as_deref().unwrap_or(&session.device);
            crate::codec::open(&codec.path, device, session).await.map(Some)
        }
        _ => Ok(None),
    }
}

/// Says what the job would do: how it would run, and what would come of it.
async fn foresee(
    config: PreprocessConfig,
    args: &PreprocessArgs,
    session: &Session,
    stop: &Stop,
) -> anyhow::Result<()> {
    let plan = plan(config, session, stop).await?;
    let explained = if args.explain { Some(plan.explain().await?) } else { None };
    let foreseen = if args.dry_run { Some(Foreseen::of(&plan).await?) } else { None };
    if session.printer.json() {
        let units: Vec<_> = plan
            .units()
            .into_iter()
            .map(|unit| json!({ "unit": unit.unit, "source": unit.source, "files": unit.files, "bytes": unit.bytes }))
            .collect();
        let (estimate, seconds) = foreseen.map(|foreseen| (foreseen.estimate, foreseen.seconds)).unzip();
        return session.printer.document(&json!({
            "units": units, "plan": explained, "estimate": estimate, "seconds": seconds, "config": plan.config(),
        }));
    }
    let predicted = foreseen.map(|foreseen| prediction(&foreseen, session.printer.palette()));
    session.printer.data(&[predicted, explained].into_iter().flatten().collect::<Vec<_>>().join("\n"))?;
    session.printer.note("nothing was written; leave `--dry-run` and `--explain` out to start");
    Ok(())
}

/// A prediction, and how long the job would take at the speed of the sample.
struct Foreseen {
    estimate: Estimate,
    seconds: f64,
}

impl Foreseen {
    async fn of(plan: &PreprocessPlan) -> anyhow::Result<Self> {
        let start = Instant::now();
        let estimate = plan.estimate().await?;
        let share = estimate.bytes as f64 / estimate.sampled_bytes.max(1) as f64;
        let mut seconds = start.elapsed().as_secs_f64() * share;
        let images: u64 = estimate.sources.iter().map(|source| source.images).sum();
        if let (Some(settings), Some(codec)) = (&plan.config().codec, plan.codec()) {
            let mut batch = RgbBatch { images: 0, size: settings.size as usize, values: Vec::new() };
            let grey = vec![128; 3 * batch.size * batch.size];
            (0..settings.batch).for_each(|_| batch.push(&grey));
            let start = Instant::now();
            codec.encode(&batch, false).map_err(|error| anyhow!(error).context("the codec failed"))?;
            seconds += start.elapsed().as_secs_f64() / settings.batch as f64 * images as f64;
        }
        Ok(Self { estimate, seconds })
    }
}

/// The prediction for a person.
fn prediction(foreseen: &Foreseen, palette: Palette) -> String {
    let Foreseen { estimate, seconds } = foreseen;
    let of = match estimate.exact {
        true => format!("all {} of input", bytes(estimate.bytes)),
        false => format!("{} of {} of input", bytes(estimate.sampled_bytes), bytes(estimate.bytes)),
    };
    let mut text = format!("predicted from {of}:\n");
    let names = [
        "source", "units", "read", "kept", "rejected", "text", "images", "rows", "padding", "shards", "bytes",
    ];
    let mut rows = vec![names.map(str::to_owned).to_vec()];
    rows.extend(estimate.sources.iter().map(|source| {
        let numbers =
            [source.units as u64, source.read, source.kept, source.rejected(), source.tokens, source.images];
        let positions = source.tokens + source.patches + source.padding;
        let mut row = vec![source.name.clone()];
        row.extend(numbers.map(thousands));
        row.extend([thousands(source.rows), percent(source.padding, positions)]);
        row.extend([thousands(source.shards), bytes(source.shard_bytes)]);
        row
    }));
    text.push_str(&table(&rows, palette));
    for source in estimate.sources.iter().filter(|source| !source.rejects.is_empty()) {
        let reasons: Vec<_> = source
            .rejects
            .iter()
            .map(|(reason, number)| format!("{reason} {}", thousands(*number)))
            .collect();
        text.push_str(&format!("rejects of {}: {}\n", source.name, reasons.join(", ")));
    }
    let units = count(estimate.units_at_once as u64, "unit");
    text.push_str(&format!("memory: {} for {units} at a time", bytes(estimate.memory_bytes)));
    if let (Some(weights), Some(activations)) = (estimate.codec_weight_bytes, estimate.codec_activation_bytes)
    {
        let (weights, activations) = (bytes(weights), bytes(activations));
        text.push_str(&format!(
            "; beside it {weights} of codec weights and {activations} of a batch in the codec"
        ));
    }
    text.push_str(&format!("\ntime: about {}\n", duration(Duration::from_secs_f64(*seconds))));
    text
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
