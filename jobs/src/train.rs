//! `train`: streams shards, trains, keeps checkpoints, draws samples on the way.

mod describe;
mod sampling;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use schemas::address::shown;
use serde_json::{Value, json};
use trainer::config::{ModelChoice, TrainConfig};
use trainer::model::Transfusion;
use trainer::run::{Event, Observer, Outcome as Run, StepReport, TrainPlan};
use trainer::stream::Location;

use crate::cli::TrainArgs;
use crate::errors::{Outcome, hinted};
use crate::failure::Account;
use crate::machine;
use crate::sample::{Made, pass_text};
use crate::session::Session;
use crate::settings::{self, Kind};
use crate::signals::Stop;
use crate::store;
use crate::terminal::{Printer, Progress, Unit, count, thousands};
use describe::{description_lines, last_lines, sample_command};

pub(crate) use sampling::{Sampled, Sampling};

/// Runs the command.
pub(crate) fn run(args: &TrainArgs, session: &Session) -> anyhow::Result<Outcome> {
    let mut config: TrainConfig = settings::load(Kind::Train, &args.config, &args.set)?;
    config.model = resolve_model(config.model)?;
    let plan = plan(config, args.resume, session)?;
    let sampling = Sampling::new(&plan, session)?;
    describe(&plan, args.dry_run, session)?;
    if args.dry_run {
        show_warnings(&plan, session);
        session.printer.note("dry run: nothing was written; leave `--dry-run` out to train");
        return Ok(Outcome::Done);
    }
    let stop = Stop::listen()?;
    let again = format!("transfusion train {} --resume", settings::spelled(&args.config, &args.set));
    let further = Further::of(&plan, sampling.is_some(), again);
    let run = train(plan, sampling, session, &stop, &|_, _| {})?;
    let signal = stop.signal().filter(|_| run.stopped);
    finish(&run, &further, session)?;
    Ok(signal.map_or(Outcome::Done, Outcome::Stopped))
}

/// Warnings of a run that is not started.
fn show_warnings(plan: &TrainPlan, session: &Session) {
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

/// Is handed the step and what was made of the prompts, every `sample.every` steps.
pub(crate) type Seen<'a> = &'a dyn Fn(u64, &[Made]);

/// Trains to the end, or until a signal asks to stop.
///
/// # Errors
///
/// Whatever the run failed of.
pub(crate) fn train(
    plan: TrainPlan,
    sampling: Option<Sampling>,
    session: &Session,
    stop: &Stop,
    seen: Seen<'_>,
) -> anyhow::Result<Run> {
    machine::available_bytes().map(|bytes| plan.check_memory(bytes)).transpose()?;
    let description = plan.describe();
    let progress = Progress::new(
        &session.printer,
        "train",
        Unit::Things("step"),
        description.first_step,
        description.steps,
    );
    let watcher = Watcher {
        printer: session.printer.clone(),
        progress,
        started: Instant::now(),
        recent: Mutex::default(),
        run: plan.config().run.clone(),
        sampling,
        stop,
        seen,
    };
    let run = trainer::run::train(plan, &watcher, &stop.flag());
    watcher.progress.finish();
    Ok(run?)
}

fn location(uri: &str, session: &Session) -> anyhow::Result<Location> {
    let place =
        session.stores.place(uri).with_context(|| format!("cannot open the dataset `{}`", shown(uri)))?;
    if place.local.is_none() {
        // A missing or closed bucket is another error than a missing dataset.
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

fn describe(plan: &TrainPlan, is_dry: bool, session: &Session) -> anyhow::Result<()> {
    let (printer, description) = (&session.printer, plan.describe());
    if printer.json() {
        return printer.event(&json!({
            "event": "plan", "description": description, "config": serde_json::to_value(plan.config())?,
        }));
    }
    if session.verbose {
        let config = toml::to_string(plan.config()).context("cannot write the config as TOML")?;
        printer.note("resolved config:");
        config.trim_end().lines().for_each(|line| printer.note(&format!("  {line}")));
    } else if is_dry {
        printer.note("resolved config: `--verbose` shows it");
    } else {
        printer.note(&format!("resolved config: {}/config.toml", description.run));
    }
    description_lines(&description).iter().for_each(|line| printer.paragraph(line));
    Ok(())
}

/// Shows events as they come.
struct Watcher<'a> {
    printer: Printer,
    progress: Progress,
    started: Instant,
    recent: Mutex<Recent>,
    /// The folder of the run.
    run: PathBuf,
    sampling: Option<Sampling>,
    stop: &'a Stop,
    seen: Seen<'a>,
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

impl Watcher<'_> {
    fn step(&self, report: &StepReport) {
        let mut recent = self.recent.lock().expect("no holder of this lock panics");
        recent.add(report);
        self.progress.update(report.step, step_text(&recent, report));
    }

    fn emit(&self, value: Value) {
        // Whoever read the events may have gone; the run goes on.
        let _ = self.printer.event(&value);
    }

    fn warn(&self, text: &str) {
        self.emit(json!({ "event": "warning", "text": text }));
        self.printer.warn(text);
    }

    /// Samples are for people: where they can't be drawn or written, the run goes on.
    fn warn_of(&self, what: &str, error: &anyhow::Error) {
        self.warn(&format!("{what}: {}", Account::of(error).lines.join(": ")));
    }

    fn draw(&self, sampling: &Sampling, step: u64, model: &Transfusion) -> anyhow::Result<()> {
        let mut observe = |pass| {
            self.progress.message(format!("sampling: {}", pass_text(pass)));
            if self.stop.signal().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let Some(sampled) = sampling.draw(step, model, &mut observe)? else { return Ok(()) };
        let Sampled { folder, made, entries } = sampled;
        if self.printer.shows_progress() {
            let what = count(made.len() as u64, "sample");
            let line = format!("step {}: {what} in {}", thousands(step), folder.display());
            self.printer.paragraph(&line);
        }
        self.emit(json!({ "event": "sampled", "step": step, "folder": folder, "samples": entries }));
        (self.seen)(step, &made);
        Ok(())
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
                if let Err(error) = sampling::cut(&self.run, *step) {
                    self.warn_of("cannot remove samples of later steps", &error);
                }
                self.emit(
                    json!({ "event": "started", "step": step, "steps": steps, "parameters": parameters }),
                );
            }
            Event::Warning(text) => self.warn(text),
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

    fn sample(&self, step: u64, model: &Transfusion) {
        let Some(sampling) = &self.sampling else { return };
        if let Err(error) = self.draw(sampling, step, model) {
            self.warn_of(&format!("cannot sample at step {}", thousands(step)), &error);
        }
    }
}

/// Where a run's results lie, and the commands that go on with them.
struct Further {
    samples: Option<PathBuf>,
    again: String,
    sample: String,
}

impl Further {
    fn of(plan: &TrainPlan, has_samples: bool, again: String) -> Self {
        let config = plan.config();
        let (draws, has_codec) = (plan.model().image().is_some(), !plan.companions().codec.is_empty());
        let prompt = config.sample.prompts.first().map(String::as_str);
        Self {
            samples: has_samples.then(|| sampling::folder_of(&config.run)),
            again,
            sample: sample_command(&config.run, prompt, draws, has_codec),
        }
    }
}

fn finish(run: &Run, further: &Further, session: &Session) -> anyhow::Result<()> {
    let printer = &session.printer;
    printer.event(&json!({
        "event": if run.stopped { "stopped" } else { "finished" },
        "step": run.step, "checkpoint": run.checkpoint, "last": run.last,
    }))?;
    if printer.json() {
        return Ok(());
    }
    let how = if run.stopped { "stopped" } else { "done" };
    printer.note(&format!("{how} at step {}", thousands(run.step)));
    let last = run.last.as_ref().map(last_lines).unwrap_or_default();
    last.iter().for_each(|line| printer.paragraph(line));
    printer.note(&format!("checkpoint: {}", run.checkpoint.display()));
    if let Some(samples) = further.samples.as_ref().filter(|samples| samples.is_dir()) {
        printer.note(&format!("samples: {}", samples.display()));
    }
    printer.note(&match run.stopped {
        true => format!("go on with: {}", further.again),
        false => format!("sample with: {}", further.sample),
    });
    Ok(())
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
