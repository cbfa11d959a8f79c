//! `train`: streams shards, trains, keeps checkpoints.

use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use schemas::address::shown;
use serde_json::{Value, json};
use trainer::config::{ModelChoice, TrainConfig};
use trainer::model::Transfusion;
use trainer::run::{Description, Event, Observer, Outcome as Run, StepReport, TrainPlan};
use trainer::stream::Location;

use crate::cli::TrainArgs;
use crate::draw::{bytes, count, percent, thousands};
use crate::errors::{Outcome, hinted};
use crate::machine;
use crate::printer::Printer;
use crate::progress::{Progress, Unit};
use crate::session::Session;
use crate::settings::{self, Kind};
use crate::signals::Stop;
use crate::store;

/// Runs the command.
pub(crate) fn run(args: &TrainArgs, session: &Session) -> anyhow::Result<Outcome> {
    let mut config: TrainConfig = settings::load(Kind::Train, &args.config, &args.set)?;
    config.model = resolve_model(config.model)?;
    let plan = plan(config, args.resume, session)?;
    describe(&plan, session)?;
    if args.dry_run {
        foresee(&plan, session);
        session.printer.note("dry run: nothing was written; leave `--dry-run` out to train");
        return Ok(Outcome::Done);
    }
    let stop = Stop::listen()?;
    let name = plan.config().run.clone();
    let run = train(plan, session, &stop, &|_, _| {})?;
    let signal = stop.signal().filter(|_| run.stopped);
    finish(&run, &name, &settings::spelled(&args.config, &args.set), session)?;
    Ok(signal.map_or(Outcome::Done, Outcome::Stopped))
}

/// Warnings of a run that is not started.
fn foresee(plan: &TrainPlan, session: &Session) {
    plan.warnings().iter().for_each(|warning| session.printer.warn(warning));
    if let Some(Err(error)) = machine::available_bytes().map(|bytes| plan.check_memory(bytes)) {
        session.printer.warn(&error.to_string());
    }
}

/// Settles a config against its data.
///
/// # Errors
///
/// Whatever keeps the run from starting.
pub(crate) fn plan(mut config: TrainConfig, resume: bool, session: &Session) -> anyhow::Result<TrainPlan> {
    config.device = session.device_over(Some(&config.device)).to_owned();
    config.run = store::local_folder("run", &config.run)?;
    config.codec = config.codec.map(|path| store::local_input("codec", path)).transpose()?;
    config.stream.cache =
        config.stream.cache.map(|path| store::local_folder("stream.cache", path)).transpose()?;
    if let Some(codec) = config.codec.as_deref().filter(|path| !path.is_dir()) {
        let missing = anyhow!("`codec` is `{}`, and there is no such folder", codec.display());
        return Err(hinted(
            missing,
            "name the codec that packed the data; `transfusion vae train` makes one",
        ));
    }
    let locations: Vec<Location> =
        config.data.iter().map(|data| location(&data.uri, session)).collect::<anyhow::Result<_>>()?;
    Ok(TrainPlan::try_new(config, &locations, resume, &machine::this())?)
}

/// Is handed the step and the model every `sample.every` steps.
pub(crate) type Look<'a> = &'a dyn Fn(u64, &Transfusion);

/// Trains to the end, or until a signal asks to stop.
///
/// # Errors
///
/// Whatever the run failed of.
pub(crate) fn train(plan: TrainPlan, session: &Session, stop: &Stop, look: Look<'_>) -> anyhow::Result<Run> {
    machine::available_bytes().map(|bytes| plan.check_memory(bytes)).transpose()?;
    let watcher = Watcher::new(&session.printer, &plan.describe(), look);
    let run = trainer::run::train(plan, &watcher, &stop.flag());
    watcher.progress.finish();
    Ok(run?)
}

fn location(uri: &str, session: &Session) -> anyhow::Result<Location> {
    let place =
        session.stores.place(uri).with_context(|| format!("cannot open the dataset `{}`", shown(uri)))?;
    if place.local.is_none() {
        // Tells a missing or closed bucket from a missing dataset.
        session.runtime.block_on(place.join("manifest.json").read_if_there())?;
    }
    Ok(Location { uri: place.uri, store: place.store, prefix: place.path, local: place.local })
}

/// A model that is neither a preset nor a table is a file.
fn resolve_model(model: ModelChoice) -> anyhow::Result<ModelChoice> {
    match model {
        ModelChoice::Preset(name) if name.contains('/') || name.ends_with(".toml") => {
            let table =
                settings::load(Kind::Model, &name, &[]).context("cannot use the file that `model` names")?;
            Ok(ModelChoice::Table(Box::new(table)))
        }
        other => Ok(other),
    }
}

fn describe(plan: &TrainPlan, session: &Session) -> anyhow::Result<()> {
    let (printer, description) = (&session.printer, plan.describe());
    let config = toml::to_string(plan.config()).context("cannot write the config as TOML")?;
    if printer.json() {
        return printer.event(&json!({
            "event": "plan", "description": description, "config": serde_json::to_value(plan.config())?,
        }));
    }
    description_lines(&description).iter().for_each(|line| printer.note(line));
    printer.note(&format!("resolved config ({}/config.toml):", description.run));
    config.trim_end().lines().for_each(|line| printer.note(&format!("  {line}")));
    Ok(())
}

fn description_lines(of: &Description) -> Vec<String> {
    let mut lines = vec![
        format!(
            "model: {} parameters ({} transformer, {} image ends)",
            thousands(of.parameters),
            thousands(of.transformer_parameters),
            thousands(of.image_parameters)
        ),
        format!(
            "memory: {} for weights and optimizer, about {} for a step",
            bytes(of.state_bytes),
            bytes(of.activation_bytes)
        ),
    ];
    if let Some(init) = &of.init {
        lines.push(format!("weights: those of {init}"));
    }
    for data in &of.datasets {
        let all = data.tokens + data.patches + data.padding;
        let source = data.source.as_ref().map_or_else(String::new, |source| format!(" ({source})"));
        lines.push(format!(
            "data: {}{source}: {}, {} text, {} patches, {} padding; {:.0} % of the mix, {:.1} epochs",
            data.uri,
            count(data.rows, "row"),
            thousands(data.tokens),
            thousands(data.patches),
            percent(data.padding, all),
            100.0 * data.share,
            data.epochs
        ));
    }
    let from =
        if of.first_step > 0 { format!(" from step {}", thousands(of.first_step)) } else { String::new() };
    lines.push(format!(
        "run: {}: {} of {}{from}",
        of.run,
        count(of.steps, "step"),
        count(of.batch as u64, "row")
    ));
    lines
}

/// Shows events as they come.
struct Watcher<'a> {
    printer: Printer,
    progress: Progress,
    started: Instant,
    recent: Mutex<Recent>,
    look: Look<'a>,
}

/// Losses averaged over the last steps, because a single batch jumps.
#[derive(Debug, Default)]
struct Recent {
    text: Option<f64>,
    image: Option<f64>,
}

impl Recent {
    fn add(&mut self, report: &StepReport) {
        let follow = |mean: &mut Option<f64>, value: Option<f64>| {
            if let Some(value) = value {
                *mean = Some(mean.map_or(value, |mean| mean + 0.1 * (value - mean)));
            }
        };
        follow(&mut self.text, report.text_loss);
        follow(&mut self.image, report.image_loss);
    }
}

impl<'a> Watcher<'a> {
    fn new(printer: &Printer, of: &Description, look: Look<'a>) -> Self {
        let progress = Progress::new(printer, "train", Unit::Things("step"), of.first_step, of.steps);
        Self { printer: printer.clone(), progress, started: Instant::now(), recent: Mutex::default(), look }
    }

    fn step(&self, report: &StepReport) {
        let mut recent = self.recent.lock().expect("no holder of this lock panics");
        recent.add(report);
        self.progress.update(report.step, step_text(&recent, report));
    }

    fn emit(&self, value: Value) {
        // Whoever read the events may have gone; the run goes on.
        let _ = self.printer.event(&value);
    }
}

fn step_text(recent: &Recent, report: &StepReport) -> String {
    let loss = |name: &str, value: Option<f64>| value.map(|value| format!("{name} {value:.3}"));
    let mut parts: Vec<String> =
        [loss("text", recent.text), loss("image", recent.image)].into_iter().flatten().collect();
    parts.push(format!("norm {:.2}", report.gradient_norm));
    parts.push(format!("rate {:.1e}", report.rate));
    parts.push(format!("{} tok/s", thousands(report.tokens_per_second as u64)));
    if report.waiting > 0.01 {
        parts.push(format!("waiting {:.0} %", 100.0 * report.waiting));
    }
    parts.join(", ")
}

impl Observer for Watcher<'_> {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Started { step, steps, parameters } => {
                self.emit(
                    json!({ "event": "started", "step": step, "steps": steps, "parameters": parameters }),
                );
            }
            Event::Warning(text) => {
                self.emit(json!({ "event": "warning", "text": text }));
                self.printer.warn(text);
            }
            Event::Step(report) => {
                let mut value = json!({ "event": "step" });
                if let (Some(target), Ok(Value::Object(fields))) =
                    (value.as_object_mut(), serde_json::to_value(report))
                {
                    target.extend(fields);
                }
                self.emit(value);
                self.step(report);
            }
            Event::Saved { step, folder } => {
                self.emit(json!({ "event": "saved", "step": step, "folder": folder }));
            }
        }
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn memory_bytes(&self) -> Option<u64> {
        machine::resident_bytes()
    }

    fn look(&self, step: u64, model: &Transfusion) {
        (self.look)(step, model);
    }
}

fn finish(run: &Run, name: &Path, config: &str, session: &Session) -> anyhow::Result<()> {
    let printer = &session.printer;
    printer.event(&json!({
        "event": if run.stopped { "stopped" } else { "finished" },
        "step": run.step, "checkpoint": run.checkpoint, "last": run.last,
    }))?;
    if printer.json() {
        return Ok(());
    }
    let name = name.display();
    printer.note(&format!(
        "{} at step {}",
        if run.stopped { "stopped" } else { "done" },
        thousands(run.step)
    ));
    if let Some(last) = &run.last {
        printer.note(&last_line(last));
    }
    printer.note(&format!("checkpoint: {}", run.checkpoint.display()));
    printer.note(&match run.stopped {
        true => format!("go on with: transfusion train {config} --resume"),
        false => format!("sample with: transfusion sample {name} --prompt \"a red circle\""),
    });
    Ok(())
}

fn last_line(last: &StepReport) -> String {
    let show = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
    let by_t: Vec<String> = last.image_error_by_t.iter().map(|&value| show(value)).collect();
    let order = &last.image_error_by_order;
    format!(
        "last step: text loss {}, image loss {}; error by noise, clean to noisy {}; caption first {}, image first {}",
        show(last.text_loss),
        show(last.image_loss),
        by_t.join(" / "),
        show(order.caption_first),
        show(order.image_first)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_reads_as_one_line() {
        let report = StepReport {
            text_loss: Some(2.0),
            gradient_norm: 0.5,
            rate: 3e-4,
            tokens_per_second: 1234.0,
            waiting: 0.25,
            ..StepReport::default()
        };
        let mut recent = Recent::default();
        recent.add(&report);
        assert_eq!(
            step_text(&recent, &report),
            "text 2.000, norm 0.50, rate 3.0e-4, 1,234 tok/s, waiting 25 %"
        );
    }
}
