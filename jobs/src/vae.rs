//! `vae`: trains the image codec, and shows what it does to a picture.

mod config;
mod latent;

use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context, anyhow};
use pipeline::picture::PictureRules;
use pipeline::{Event, Observer, PictureRequest, PictureSet, PipelineError};
use serde_json::json;
use trainer::codec::{Pictures, VaeEvent, VaeObserver, VaeStep};
use trainer::device::device;

use crate::cli::{VaeCodecArgs, VaeCommand, VaeTrainArgs};
use crate::codec::{Codec, png};
use crate::errors::{Outcome, hinted};
use crate::machine;
use crate::preprocess::say_passed_over;
use crate::session::Session;
use crate::settings::{self, Kind};
use crate::signals::Stop;
use crate::store;
use crate::terminal::{Printer, Progress, Unit, bytes, count, duration, thousands};

pub(crate) use config::VaeConfig;

/// Runs the command.
pub(crate) fn run(command: &VaeCommand, session: &Session) -> anyhow::Result<Outcome> {
    match command {
        VaeCommand::Train(args) => train(args, session),
        VaeCommand::Encode(args) => encode(args, session),
        VaeCommand::Decode(args) => decode(args, session),
    }
}

fn train(args: &VaeTrainArgs, session: &Session) -> anyhow::Result<Outcome> {
    let mut config: VaeConfig = settings::load(Kind::Vae, &args.config, &args.set)?;
    config.train.output = store::local_folder("output", &config.train.output)?;
    let stop = Stop::listen()?;
    let learned = learn(&config, session, &stop).and_then(|codec| finish(&config, &codec, session));
    stop.outcome(learned, |error| {
        let nothing = if error.is::<PipelineError>() { "; nothing was written" } else { "" };
        session.printer.note(&format!("{error}{nothing}"));
    })
}

/// Reads the pictures of the sources and trains a codec on them.
///
/// # Errors
///
/// Whatever the job failed of. Nothing is left under the output's name then.
pub(crate) fn learn(config: &VaeConfig, session: &Session, stop: &Stop) -> anyhow::Result<Codec> {
    let settings = &config.train;
    let pictures = read_pictures(config, session, stop)?;
    let watcher = Watcher {
        progress: Progress::new(&session.printer, "vae train", Unit::Things("step"), 0, settings.steps),
        printer: session.printer.clone(),
        stop: stop.clone(),
        last: Mutex::new(None),
    };
    let codec = trainer::codec::train(&pictures, settings, &device(&session.device)?, &watcher);
    watcher.progress.finish();
    let codec = codec?;
    if session.printer.shows_progress() {
        let loss = watcher
            .last
            .lock()
            .expect("no holder of this lock panics")
            .map(|step| format!(", last {}", step_text(&step)));
        let took = duration(watcher.progress.elapsed());
        session.printer.note(&format!(
            "vae train took {took} on {}{}",
            count(pictures.len() as u64, "picture"),
            loss.unwrap_or_default()
        ));
    }
    Ok(Codec::new(codec, session))
}

fn read_pictures(config: &VaeConfig, session: &Session, stop: &Stop) -> anyhow::Result<Crops> {
    let size = u32::try_from(config.train.size).context("`size` is too large")?;
    if !config.sources.iter().any(|source| source.shape.has_images()) {
        return Err(hinted(
            anyhow!("the config names no source of pictures"),
            "add a `[[source]]` with `shape = \"pair\"`",
        ));
    }
    let request = PictureRequest {
        sources: &config.sources,
        size,
        pictures: config.pictures.clone(),
        limit: config.max_pictures,
        threads: session.threads,
        stop: stop.pipeline().clone(),
    };
    let progress = Progress::new(&session.printer, "read", Unit::Things("picture"), 0, 0);
    let progress = Arc::new(Reading(progress, session.printer.clone()));
    let read = pipeline::pictures(request, &*session.stores, progress.clone());
    let set = session.runtime.block_on(read)?;
    progress.0.finish();
    let refused = set.rejected();
    if refused > 0 {
        session.printer.note(&format!("{} could not be used", count(refused, "row")));
    }
    Ok(Crops(set))
}

/// What the codec learns from.
struct Crops(PictureSet);

impl Pictures for Crops {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn rgb(&self, index: usize) -> &[u8] {
        self.0.rgb(index)
    }
}

/// Counts pictures as they are read.
struct Reading(Progress, Printer);

impl Observer for Reading {
    fn event(&self, event: Event) {
        match event {
            Event::Rows { images, .. } => self.0.add(images),
            Event::PassedOver(passed) => say_passed_over(&passed, &self.1),
            _ => {}
        }
    }
}

struct Watcher {
    progress: Progress,
    printer: Printer,
    stop: Stop,
    last: Mutex<Option<VaeStep>>,
}

fn step_text(step: &VaeStep) -> String {
    format!("loss {:.4}, L1 {:.4}, KL {:.1}", step.loss, step.l1, step.kl)
}

impl VaeObserver for Watcher {
    fn event(&self, event: &VaeEvent) {
        match event {
            VaeEvent::Step(step) => {
                *self.last.lock().expect("no holder of this lock panics") = Some(*step);
                // Whoever read the events may have gone; the job goes on.
                let _ = self.printer.event(&json!({ "event": "step", "step": step.step, "steps": step.steps, "loss": step.loss,
                    "l1": step.l1, "mse": step.mse, "kl": step.kl, "gradient_norm": step.gradient_norm, "rate": step.rate }));
                self.progress.update(step.step, step_text(step));
            }
            VaeEvent::Measuring { done, of } => {
                self.progress.message(format!(
                    "measuring latents, {} of {}",
                    thousands(*done as u64),
                    thousands(*of as u64)
                ));
            }
        }
    }

    fn stop(&self) -> bool {
        self.stop.signal().is_some()
    }
}

fn finish(config: &VaeConfig, codec: &Codec, session: &Session) -> anyhow::Result<()> {
    let (printer, output) = (&session.printer, config.train.output.display());
    printer.event(&json!({
        "event": "finished", "output": config.train.output, "fingerprint": codec.fingerprint(), "kind": codec.kind(),
        "channels": codec.channels(), "downsampling": codec.downsampling(), "bytes": codec.weight_bytes(),
    }))?;
    if printer.json() {
        return Ok(());
    }
    let side = config.train.size / codec.downsampling();
    printer.note(&format!(
        "{output}: {}, {} px to {} x {side} x {side}, {}, fingerprint {}",
        codec.kind(),
        config.train.size,
        codec.channels(),
        bytes(codec.weight_bytes() as u64),
        crate::terminal::short(codec.fingerprint())
    ));
    printer.note(&format!("use it with: `codec.path = \"{output}\"` in a config of transfusion preprocess"));
    Ok(())
}

/// A picture to a latent in a `.safetensors` file.
fn encode(args: &VaeCodecArgs, session: &Session) -> anyhow::Result<Outcome> {
    let output = store::local_file("OUT", &args.output)?;
    let codec = Codec::at(&args.codec, session)?;
    let size = args.size.or(codec.picture_size()).ok_or_else(|| {
        hinted(
            anyhow!("the codec does not say which size of pictures it is for"),
            "give the side in pixels with `--size`",
        )
    })?;
    check_size(&codec, size, session)?;
    let bytes = session.runtime.block_on(session.stores.place(&args.input)?.read())?;
    let rules = PictureRules { size, ..PictureRules::default() };
    let decoded = rules.decode(&bytes).map_err(|reject| anyhow!("{reject}"));
    let (picture, _) = decoded.with_context(|| format!("cannot use the picture `{}`", args.input))?;
    let encoded = codec.encode_picture(&picture)?;
    latent::write(&output, &encoded)?;
    report(args, &output, session, &[encoded.channels, encoded.height, encoded.width])
}

/// Says what a size takes beyond what the codec was trained on, and refuses what the machine doesn't have.
fn check_size(codec: &Codec, size: u32, session: &Session) -> anyhow::Result<()> {
    let needed = codec.encoding_bytes(size);
    if let Some(available) = machine::available_bytes().filter(|&available| needed > available) {
        let error = anyhow!(
            "encoding a picture of {size} px takes about {} of memory, this machine has {}",
            bytes(needed),
            bytes(available)
        );
        return Err(hinted(error, "give a smaller `--size`"));
    }
    if let Some(trained) = codec.picture_size().filter(|&trained| size > trained) {
        session.printer.note(&format!(
            "{size} px is more than the {trained} px that the codec was trained on; encoding takes about {} of memory",
            bytes(needed)
        ));
    }
    Ok(())
}

/// A latent to a PNG file.
fn decode(args: &VaeCodecArgs, session: &Session) -> anyhow::Result<Outcome> {
    let output = store::local_file("OUT", &args.output)?;
    let codec = Codec::at(&args.codec, session)?;
    let bytes = session.runtime.block_on(session.stores.place(&args.input)?.read())?;
    let read = latent::read(&bytes, codec.channels())
        .with_context(|| format!("cannot use the latent `{}`", args.input))?;
    let picture = codec.decode_latent(&read.values, read.height, read.width)?;
    store::write_file(&output, png(&picture)?)?;
    report(args, &output, session, &[3, picture.height, picture.width])
}

fn report(args: &VaeCodecArgs, output: &Path, session: &Session, shape: &[usize]) -> anyhow::Result<Outcome> {
    if session.printer.json() {
        session.printer.document(&json!({ "input": args.input, "output": output, "shape": shape }))?;
    } else {
        let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
        session.printer.note(&format!("{}: {}", output.display(), shape.join(" x ")));
    }
    Ok(Outcome::Done)
}
