//! `sample`: text, pictures and captions from a checkpoint.

mod output;
mod prompts;
mod request;
mod sampler;

use std::ops::ControlFlow;

use anyhow::anyhow;
use trainer::checkpoint::{Checkpoint, Which};
use trainer::device::device;
use trainer::model::Transfusion;
use trainer::sample::{Progress as Pass, SampleConfig, SampleError};

use crate::cli::{SampleArgs, Weights};
use crate::errors::{Outcome, hinted};
use crate::machine;
use crate::session::Session;
use crate::signals::Stop;
use crate::terminal::{Progress, Unit, count, thousands};
use output::Output;
use request::Asks;

pub(crate) use output::entry;
pub(crate) use sampler::{Ask, Goal, Made, Piece, Sampler};

/// Runs the command.
pub(crate) fn run(args: &SampleArgs, session: &Session) -> anyhow::Result<Outcome> {
    let stop = Stop::listen()?;
    let checkpoint = open(args, session)?;
    let texts = request::texts(args, session)?;
    let sampler = Sampler::of_checkpoint(&checkpoint, args.codec.as_deref(), args.size, session)?;
    sampler.plan(&settings(args)).map_err(|error| of_flag(&error))?;
    let output = Output::claim(args, &checkpoint, &settings(args), session)?;
    let mut command = Command { args, session, stop: &stop, sampler, output };
    let drawn = command.draw(&checkpoint, &texts);
    command.finish(drawn)
}

/// The checkpoint that the command names.
fn open(args: &SampleArgs, session: &Session) -> anyhow::Result<Checkpoint> {
    let place = session.stores.place(&args.checkpoint)?;
    let path = place.local.ok_or_else(|| {
        hinted(
            anyhow!("`{}` is not on this machine's disk", args.checkpoint),
            "copy the checkpoint's folder here first",
        )
    })?;
    let (checkpoint, damage) = Checkpoint::open(&path)?;
    damage.iter().for_each(|what| {
        session.printer.warn(&format!("{what}; step {} is used", checkpoint.state().step));
    });
    Ok(checkpoint)
}

fn settings(args: &SampleArgs) -> SampleConfig {
    SampleConfig {
        seed: args.seed,
        temperature: args.temperature,
        top_p: args.top_p,
        steps: args.steps,
        method: args.method.into(),
        guidance: args.guidance,
        max_tokens: args.max_tokens.map_or(SampleConfig::default().max_tokens, |tokens| tokens as usize),
        ..SampleConfig::default()
    }
}

/// Names the flag instead of the key of a config.
fn of_flag(error: &SampleError) -> anyhow::Error {
    match error {
        SampleError::Value { key, expected, found } => anyhow!("`--{key}` is `{found}`, expected {expected}"),
        other => anyhow!("{other}"),
    }
}

/// A command under way.
struct Command<'a> {
    args: &'a SampleArgs,
    session: &'a Session,
    stop: &'a Stop,
    sampler: Sampler,
    output: Output<'a>,
}

/// How far a command came that did not fail.
struct Drawn {
    /// Samples that were asked for.
    asked: usize,
    stopped: bool,
}

impl Command<'_> {
    /// Draws until all is drawn or a signal comes.
    fn draw(&mut self, checkpoint: &Checkpoint, texts: &[String]) -> anyhow::Result<Drawn> {
        let asks = Asks::new(self.args, texts, &self.sampler, self.stop, self.session)?;
        let Some(asks) = asks else { return Ok(Drawn { asked: 0, stopped: true }) };
        self.remark(&asks);
        let asked = asks.len();
        let which = match self.args.weights {
            Weights::Best => Which::Best,
            Weights::Last => Which::Last,
        };
        machine::available_bytes().map(|bytes| checkpoint.check_memory(which, bytes)).transpose()?;
        let model = checkpoint.model(which, &device(&self.session.device)?)?;
        let progress =
            Progress::new(&self.session.printer, "sample", Unit::Things("prompt"), 0, asked as u64);
        while self.output.len() < asked && self.draw_batch(&model, &asks, &progress)? {
            progress.set(self.output.len() as u64);
        }
        Ok(Drawn { asked, stopped: self.output.len() < asked })
    }

    /// Whether the batch was drawn, and not broken off.
    fn draw_batch(&mut self, model: &Transfusion, asks: &Asks, progress: &Progress) -> anyhow::Result<bool> {
        let first = self.output.len();
        let batch = asks.batch(first, self.sampler.beside(asks.images)?);
        let settings = SampleConfig { max_images: asks.images, ..settings(self.args) };
        let stop = self.stop;
        let mut observe = |pass| {
            progress.message(pass_text(pass));
            if stop.signal().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let made = self.sampler.continued(model, &batch, first as u64, &settings, &mut observe)?;
        let Some(made) = made else { return Ok(false) };
        for (ask, made) in batch.iter().zip(&made) {
            self.output.add(ask, made)?;
        }
        Ok(stop.signal().is_none())
    }

    fn remark(&self, asks: &Asks) {
        let printer = &self.session.printer;
        if asks.images > 0 || !self.args.image.is_empty() {
            self.sampler.remark().iter().for_each(|remark| printer.warn(remark));
        }
        if asks.images == 0 && self.args.count > 1 && self.args.temperature == 0.0 {
            printer.warn("at temperature 0 the samples of a prompt are all the same");
            printer.note("hint: `--temperature 1` draws others");
        }
    }

    /// Keeps what was drawn, whatever happened, and says where it is.
    fn finish(self, drawn: anyhow::Result<Drawn>) -> anyhow::Result<Outcome> {
        let (printer, done) = (&self.session.printer, self.output.len());
        let place = self.output.uri().to_owned();
        let list = self.output.finish(drawn.as_ref().map_or(done, |drawn| drawn.asked));
        // Where the disk is full the list can't be written either, and the first error is the one to report.
        let drawn = drawn.inspect_err(|_| {
            if done > 0 {
                printer.note(&format!("{} kept in {place}", count(done as u64, "sample")));
            }
        })?;
        let list = list?;
        if printer.json() {
            printer.document(&list)?;
        }
        match (drawn.stopped, done) {
            (true, 0) => printer.note("stopped before the first sample was done; nothing was written"),
            (true, _) => {
                let of = count(drawn.asked as u64, "sample");
                printer.note(&format!("stopped: {} of {of} in {place}", thousands(done as u64)));
            }
            (false, _) if printer.json() => {}
            (false, _) => printer.note(&format!("{} in {place}", count(done as u64, "sample"))),
        }
        let signal = self.stop.signal().filter(|_| drawn.stopped);
        Ok(signal.map_or(Outcome::Done, Outcome::Stopped))
    }
}

/// What a pass did, for a progress bar.
pub(crate) fn pass_text(pass: Pass) -> String {
    match pass {
        Pass::Drew { images, step, steps } => {
            format!("drawing {}, step {step} of {steps}", count(images as u64, "picture"))
        }
        Pass::Wrote { prompts } => format!("writing {}", count(prompts as u64, "text")),
    }
}
