//! `sample`: text, pictures and captions from a checkpoint.

mod output;
mod request;

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use schemas::Tokenizer;
use trainer::checkpoint::{Checkpoint, Which};
use trainer::device::device;
use trainer::model::Transfusion;
use trainer::sample::{LatentSize, Progress as Pass, Request, Sample, SampleConfig, SamplePlan, sample};

use crate::cli::{SampleArgs, Weights};
use crate::codec::Codec;
use crate::errors::{Outcome, hinted};
use crate::progress::{Progress, Unit};
use crate::session::Session;
use request::{Ask, asks};

/// Prompts that are decoded side by side.
const BATCH: usize = 16;

/// Runs the command.
pub(crate) fn run(args: &SampleArgs, session: &Session) -> anyhow::Result<Outcome> {
    let sampler = Sampler::open(args, session)?;
    let asks = asks(args, &sampler, session)?;
    let folder = args.output.clone().unwrap_or_else(|| sampler.default_output(&args.checkpoint));
    let drawn = sampler.draw(&asks, session)?;
    output::write(&folder, &sampler, &asks, &drawn, session)?;
    Ok(Outcome::Done)
}

/// A checkpoint made ready to sample from.
pub(crate) struct Sampler {
    checkpoint: Checkpoint,
    model: Transfusion,
    tokenizer: Tokenizer,
    codec: Option<Codec>,
    /// Side of the pictures in pixels; `None` where nothing says it.
    size: Option<u32>,
    config: SampleConfig,
}

impl Sampler {
    fn open(args: &SampleArgs, session: &Session) -> anyhow::Result<Self> {
        let place = session.stores.place(&args.checkpoint)?;
        let path = place.local.ok_or_else(|| {
            hinted(
                anyhow!("`{}` is not on this machine's disk", args.checkpoint),
                "copy the checkpoint's folder here first",
            )
        })?;
        let (checkpoint, damage) = Checkpoint::open(&path)?;
        damage.iter().for_each(|what| {
            session.printer.warn(&format!("{what}; step {} is used", checkpoint.state().step))
        });
        let which = match args.weights {
            Weights::Best => Which::Best,
            Weights::Last => Which::Last,
        };
        let model = checkpoint.model(which, &device(&session.device)?)?;
        let (name, bytes) = checkpoint.tokenizer()?;
        let state = checkpoint.state();
        let tokenizer = match (state.bos, state.eos) {
            (Some(bos), Some(eos)) => Tokenizer::with_ids(&bytes, bos, eos),
            _ => Tokenizer::from_bytes(&bytes),
        };
        let tokenizer = tokenizer.with_context(|| format!("cannot use `{name}` of the checkpoint"))?;
        let mut sampler =
            Self { model, tokenizer, codec: None, size: None, config: settings(args), checkpoint };
        if sampler.knows_images() {
            sampler.codec = sampler.find_codec(args, session)?;
            sampler.size = args.size.or(sampler.checkpoint.state().picture_size);
        }
        Ok(sampler)
    }

    fn knows_images(&self) -> bool {
        self.model.plan().image().is_some()
    }

    /// `--codec`, else the checkpoint's copy, else the folder that its config names.
    fn find_codec(&self, args: &SampleArgs, session: &Session) -> anyhow::Result<Option<Codec>> {
        let named = self.checkpoint.config().codec.clone().filter(|path| path.is_dir());
        let Some(path) = args.codec.clone().or_else(|| self.checkpoint.codec()).or(named) else {
            return Ok(None);
        };
        // A run that goes on may prune its checkpoint while it is read.
        let codec = Codec::load(&path, session)
            .map_err(|error| self.checkpoint.pruned().map_or(error, anyhow::Error::from))?;
        match &self.checkpoint.state().codec {
            Some(expected) if *expected != codec.fingerprint() => Err(hinted(
                anyhow!(
                    "codec `{}` is `{}`, the model was trained with `{expected}`",
                    path.display(),
                    codec.fingerprint()
                ),
                "give the folder of the codec that packed the dataset with `--codec DIR`",
            )),
            _ => Ok(Some(codec)),
        }
    }

    fn codec(&self) -> anyhow::Result<&Codec> {
        self.codec.as_ref().ok_or_else(|| {
            hinted(
                anyhow!("the checkpoint holds no codec, and pictures need one"),
                "give its folder with `--codec DIR`",
            )
        })
    }

    fn pixels(&self) -> anyhow::Result<u32> {
        self.size.ok_or_else(|| {
            hinted(
                anyhow!("nothing says how large the pictures are"),
                "give the side in pixels with `--size`, as in the dataset's `codec.size`",
            )
        })
    }

    fn latent_size(&self, asks: &[Ask]) -> anyhow::Result<LatentSize> {
        if !self.knows_images() || !asks.iter().any(Ask::may_draw) {
            return Ok(LatentSize { height: 1, width: 1 });
        }
        let side = self.pixels()? as usize / self.codec()?.downsampling();
        Ok(LatentSize { height: side, width: side })
    }

    fn default_output(&self, given: &str) -> PathBuf {
        let step = format!("step-{:08}", self.checkpoint.state().step);
        let given = Path::new(given);
        let run = if given.join("checkpoints").is_dir() {
            given
        } else {
            given.ancestors().nth(2).unwrap_or(given)
        };
        run.join("samples").join(step)
    }

    fn draw(&self, asks: &[Ask], session: &Session) -> anyhow::Result<Vec<Sample>> {
        let objective = self.checkpoint.config().diffusion.plan()?;
        let size = self.latent_size(asks)?;
        let progress =
            Progress::new(&session.printer, "sample", Unit::Things("prompt"), 0, asks.len() as u64);
        let mut samples = Vec::with_capacity(asks.len());
        // Each stretch of asks of one kind has its own limits of tokens and pictures.
        for group in asks.chunk_by(|a, b| a.limits == b.limits).flat_map(|group| group.chunks(BATCH)) {
            let plan = self.plan(group, &objective)?;
            let prompts: Vec<_> = group.iter().map(|ask| ask.prompt.clone()).collect();
            let request = Request { prompts: &prompts, first: samples.len() as u64, size };
            samples.extend(sample(&self.model, &request, &plan, &mut |pass| show(&progress, pass))?);
            progress.set(samples.len() as u64);
        }
        Ok(samples)
    }

    fn plan(&self, group: &[Ask], objective: &trainer::objective::Objective) -> anyhow::Result<SamplePlan> {
        let limits = group.first().map(|ask| ask.limits).unwrap_or_default();
        let config =
            SampleConfig { max_tokens: limits.tokens, max_images: limits.images, ..self.config.clone() };
        Ok(config.plan(objective)?)
    }
}

fn settings(args: &SampleArgs) -> SampleConfig {
    SampleConfig {
        seed: args.seed,
        temperature: args.temperature,
        top_p: args.top_p,
        steps: args.steps,
        method: args.method.into(),
        guidance: args.guidance,
        ..SampleConfig::default()
    }
}

fn show(progress: &Progress, pass: Pass) {
    match pass {
        Pass::Drew { images, step, steps } => {
            progress.message(format!(
                "drawing {}, step {step} of {steps}",
                crate::draw::count(images as u64, "picture")
            ));
        }
        Pass::Wrote { prompts } => {
            progress.message(format!("writing {}", crate::draw::count(prompts as u64, "text")))
        }
    }
}
