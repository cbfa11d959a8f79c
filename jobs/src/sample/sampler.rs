//! What a model needs beside its weights to be asked: tokenizer, codec, the size of its pictures, the length of its rows.
//!
//! A [`Sampler`] makes an [`Ask`] of texts and pictures, refuses what the model was not trained for, and turns what the
//! trainer's sampler gives into text and pixels. `sample` has one of a checkpoint, `train` one of its plan.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use schemas::Tokenizer;
use trainer::checkpoint::Checkpoint;
use trainer::model::{ImagePlan, Transfusion};
use trainer::objective::Objective;
use trainer::run::TrainPlan;
use trainer::sample::{
    End, LatentImage, LatentSize, Part, Progress, Prompt, Request, Sample, SampleConfig, SampleError,
    SamplePlan, sample,
};

use crate::codec::{Codec, Decoded};
use crate::errors::hinted;
use crate::session::Session;
use crate::terminal::{count, thousands, visible};

/// Prompts that are worked on side by side, at most.
const BESIDE: usize = 8;
/// Patches that are drawn side by side, if they are of more than one picture: beyond that nothing is gained, and what is drawn
/// is kept the sooner.
const PATCHES: usize = 256;
/// Letters of a prompt in a message.
const SHOWN: usize = 40;

/// How a prompt goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Goal {
    /// Whether it goes on with a picture.
    pub(crate) draw: bool,
    /// New tokens at most; if not set, those of the settings' default, or what fits.
    pub(crate) tokens: Option<usize>,
    /// New pictures at most.
    pub(crate) images: usize,
}

/// One prompt, checked.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// The text that it was made from.
    pub(crate) text: Option<String>,
    /// The address of the picture before it.
    pub(crate) image: Option<String>,
    prompt: Prompt,
}

/// What a model made of a prompt.
pub(crate) struct Made {
    /// Text and pictures in order.
    pub(crate) pieces: Vec<Piece>,
    /// Why it ends.
    pub(crate) end: End,
}

/// A run of text, or a picture.
pub(crate) enum Piece {
    /// Text.
    Text(String),
    /// A picture.
    Picture(Decoded),
}

/// What a model needs beside its weights to be asked.
pub(crate) struct Sampler {
    tokenizer: Tokenizer,
    /// `None` for a model of text alone.
    image: Option<ImagePlan>,
    codec: Option<Codec>,
    /// Side of the pictures in pixels; `None` where nothing says it.
    side: Option<u32>,
    /// Side in pixels of the pictures that the model was trained on.
    trained_side: Option<u32>,
    /// Positions of the rows that the model was trained on, where they are known.
    context: Option<usize>,
    objective: Objective,
}

impl Sampler {
    /// That of a checkpoint. `codec` comes before the checkpoint's copy, and that before the folder which its config
    /// names; `side` comes before that of the dataset.
    ///
    /// # Errors
    ///
    /// If a file of the checkpoint or the codec can't be used.
    pub(crate) fn of_checkpoint(
        checkpoint: &Checkpoint,
        codec: Option<&Path>,
        side: Option<u32>,
        session: &Session,
    ) -> anyhow::Result<Self> {
        let (state, image) = (checkpoint.state(), checkpoint.plan()?.image().cloned());
        if image.is_none() && (codec.is_some() || side.is_some()) {
            return Err(hinted(anyhow!("the model knows text alone"), "leave `--codec` and `--size` out"));
        }
        let (name, bytes) = checkpoint.tokenizer()?;
        let markers = state.bos.zip(state.eos);
        let folder = codec.map(Path::to_owned).or_else(|| checkpoint.codec());
        let folder = folder.or_else(|| checkpoint.config().codec.clone().filter(|path| path.is_dir()));
        let folder = folder.filter(|_| image.is_some());
        // A run that goes on may prune its checkpoint while it is read.
        let codec = load_codec(folder, state.codec.as_deref(), session)
            .map_err(|error| checkpoint.pruned().map_or(error, anyhow::Error::from))?;
        Ok(Self {
            tokenizer: tokenizer(&name, &bytes, markers)?,
            image,
            codec,
            side: side.or(state.picture_size),
            trained_side: state.picture_size,
            context: state.context.map(|context| context as usize),
            objective: checkpoint.config().diffusion.plan()?,
        })
    }

    /// That of a run which is about to start.
    ///
    /// # Errors
    ///
    /// If the tokenizer or the codec can't be used.
    pub(crate) fn of_plan(plan: &TrainPlan, session: &Session) -> anyhow::Result<Self> {
        let (companions, image) = (plan.companions(), plan.model().image().cloned());
        let folder = plan.config().codec.clone().or_else(|| plan.start()?.codec());
        let folder = folder.filter(|_| image.is_some());
        let side = companions.picture_size;
        Ok(Self {
            tokenizer: tokenizer(&companions.tokenizer_name, &companions.tokenizer, companions.markers)?,
            image,
            codec: load_codec(folder, companions.codec_fingerprint.as_deref(), session)?,
            side,
            trained_side: side,
            context: companions.context.map(|context| context as usize),
            objective: plan.config().diffusion.plan()?,
        })
    }

    /// Whether the model draws.
    pub(crate) fn knows_images(&self) -> bool {
        self.image.is_some()
    }

    /// The settings against what the model was trained to predict.
    ///
    /// # Errors
    ///
    /// A setting out of range.
    pub(crate) fn plan(&self, settings: &SampleConfig) -> Result<SamplePlan, SampleError> {
        settings.plan(&self.objective)
    }

    /// The codec.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(crate) fn codec(&self) -> anyhow::Result<&Codec> {
        if self.image.is_none() {
            return Err(hinted(anyhow!("the model knows text alone"), "leave pictures out"));
        }
        self.codec.as_ref().ok_or_else(|| {
            hinted(
                anyhow!("pictures need the codec that packed the dataset, and none is at hand"),
                "give its folder with `--codec DIR`, or with `codec` in a config of transfusion train",
            )
        })
    }

    /// Side of the pictures in pixels: a whole number of patches.
    ///
    /// # Errors
    ///
    /// If nothing says it, or the patches don't fit.
    pub(crate) fn pixels(&self) -> anyhow::Result<u32> {
        let latent = self.codec()?.downsampling() as u32;
        let side = self.side.ok_or_else(|| {
            hinted(
                anyhow!("nothing says how large the pictures are"),
                "give the side in pixels with `--size`, as in the dataset's `codec.size`",
            )
        })?;
        let patch = self.image.as_ref().map_or(1, |image| image.patch as u32);
        let step = latent * patch;
        if side > 0 && side.is_multiple_of(step) {
            return Ok(side);
        }
        Err(hinted(
            anyhow!(
                "pictures of {side} pixels cannot be cut into patches: one is {step} pixels wide, {patch} of the \
                 codec's {latent}"
            ),
            format!("give a multiple of {step} with `--size`, such as {}", (side / step).max(1) * step),
        ))
    }

    /// What a person should know before the pictures are made.
    pub(crate) fn remark(&self) -> Option<String> {
        let (side, trained) = (self.side?, self.trained_side?);
        (side != trained).then(|| {
            format!("pictures of {side} pixels are asked for, the model was trained on those of {trained}")
        })
    }

    fn latent_size(&self) -> anyhow::Result<LatentSize> {
        let side = self.pixels()? as usize / self.codec()?.downsampling();
        Ok(LatentSize { height: side, width: side })
    }

    /// Patches of a picture.
    fn patches(&self) -> anyhow::Result<usize> {
        let (size, patch) = (self.latent_size()?, self.image.as_ref().map_or(1, |image| image.patch));
        Ok((size.height / patch) * (size.width / patch))
    }

    /// How many prompts to work on side by side, where each may have so many pictures.
    ///
    /// # Errors
    ///
    /// If pictures are asked for that can't be made.
    pub(crate) fn beside(&self, images: usize) -> anyhow::Result<usize> {
        Ok(if images > 0 { (PATCHES / self.patches()?.max(1)).clamp(1, BESIDE) } else { BESIDE })
    }

    /// A prompt of a picture (its address and latent), then a text.
    ///
    /// # Errors
    ///
    /// If it asks for a picture that can't be made, or for more positions than the model's rows had.
    pub(crate) fn ask(
        &self,
        text: Option<&str>,
        image: Option<(&str, &LatentImage)>,
        goal: Goal,
    ) -> anyhow::Result<Ask> {
        let mut prompt = Prompt::new(self.tokenizer.bos(), self.tokenizer.eos());
        if let Some((_, latent)) = image {
            prompt = prompt.image(latent.clone());
        }
        if let Some(text) = text {
            prompt = prompt.text(&self.tokenizer.encode(text));
        }
        if goal.draw {
            prompt = prompt.draw();
        }
        // Each picture stands between BOI and EOI; BOI of one that is drawn first is in the prompt already.
        let pictures = if goal.images > 0 { goal.images * (self.patches()? + 2) } else { 0 };
        let patch = self.image.as_ref().map_or(1, |image| image.patch);
        let used = prompt.positions(patch) + pictures - usize::from(goal.draw);
        let name = name_of(text.or(image.map(|(uri, _)| uri)));
        let tokens = self.tokens(used, goal).with_context(|| format!("{name} does not fit the model"))?;
        Ok(Ask {
            text: text.map(str::to_owned),
            image: image.map(|(uri, _)| uri.to_owned()),
            prompt: prompt.at_most(tokens),
        })
    }

    /// New tokens that a prompt may have which takes `used` positions with its pictures, so that it stays within the rows
    /// that the model was trained on.
    fn tokens(&self, used: usize, goal: Goal) -> anyhow::Result<usize> {
        let default = SampleConfig::default().max_tokens;
        let Some(context) = self.context else { return Ok(goal.tokens.unwrap_or(default)) };
        let left = context.checked_sub(used).ok_or_else(|| {
            hinted(
                anyhow!(
                    "it takes {}, the model was trained on rows of {}",
                    count(used as u64, "position"),
                    thousands(context as u64)
                ),
                if goal.images > 0 { "shorten the text, or ask for a smaller picture" } else { "shorten it" },
            )
        })?;
        match goal.tokens {
            Some(tokens) if tokens > left => Err(hinted(
                anyhow!(
                    "{} and {} of new text are more than the {} of the rows that the model was trained on",
                    count(used as u64, "position"),
                    thousands(tokens as u64),
                    thousands(context as u64)
                ),
                format!("ask for {} new tokens at most", thousands(left as u64)),
            )),
            None if left == 0 => Err(hinted(
                anyhow!("it fills all {} positions that the model was trained on", thousands(used as u64)),
                "shorten it, so that something can follow",
            )),
            tokens => Ok(tokens.unwrap_or(default.min(left))),
        }
    }

    /// Goes on with prompts, all side by side; `None` when `observe` breaks off. `first` is the number of the first,
    /// which its noise is drawn by.
    ///
    /// # Errors
    ///
    /// If the model or the codec gives numbers that are not finite.
    pub(crate) fn continued(
        &self,
        model: &Transfusion,
        asks: &[&Ask],
        first: u64,
        settings: &SampleConfig,
        observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> anyhow::Result<Option<Vec<Made>>> {
        let prompts: Vec<Prompt> = asks.iter().map(|ask| ask.prompt.clone()).collect();
        let may_draw = self.knows_images() && settings.max_images > 0;
        let size = if may_draw { self.latent_size()? } else { LatentSize { height: 1, width: 1 } };
        let request = Request { prompts: &prompts, first, size };
        match sample(model, &request, &self.plan(settings)?, observe) {
            Ok(samples) => {
                samples.iter().map(|sample| self.made(sample)).collect::<anyhow::Result<_>>().map(Some)
            }
            Err(SampleError::Stopped) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn made(&self, sample: &Sample) -> anyhow::Result<Made> {
        let written = sample.parts.iter().filter(|part| !matches!(part, Part::Text(ids) if ids.is_empty()));
        let piece = |part: &Part| match part {
            Part::Text(ids) => Ok(Piece::Text(self.tokenizer.decode(ids))),
            Part::Image(latent) => {
                let LatentSize { height, width } = latent.size;
                Ok(Piece::Picture(self.codec()?.decode_latent(&latent.values, height, width)?))
            }
        };
        Ok(Made { pieces: written.map(piece).collect::<anyhow::Result<_>>()?, end: sample.end })
    }
}

fn tokenizer(name: &str, bytes: &[u8], markers: Option<(u32, u32)>) -> anyhow::Result<Tokenizer> {
    let tokenizer = match markers {
        Some((bos, eos)) => Tokenizer::with_ids(bytes, bos, eos),
        None => Tokenizer::from_bytes(bytes),
    };
    tokenizer.with_context(|| format!("cannot use `{name}` of the checkpoint"))
}

/// The codec of a folder, which must be the one that the model was trained with.
fn load_codec(
    folder: Option<PathBuf>,
    expected: Option<&str>,
    session: &Session,
) -> anyhow::Result<Option<Codec>> {
    let Some(folder) = folder else { return Ok(None) };
    let codec = Codec::load(&folder, session)?;
    match expected {
        Some(expected) if expected != codec.fingerprint() => Err(hinted(
            anyhow!(
                "codec `{}` is `{}`, the model was trained with `{expected}`",
                folder.display(),
                codec.fingerprint()
            ),
            "give the folder of the codec that packed the dataset with `--codec DIR`",
        )),
        _ => Ok(Some(codec)),
    }
}

fn name_of(what: Option<&str>) -> String {
    let Some(what) = what else { return "a document from nothing".to_owned() };
    let mut short: String = what.chars().take(SHOWN).collect();
    if short.len() < what.len() {
        short.push('…');
    }
    format!("the prompt `{}`", visible(&short))
}
