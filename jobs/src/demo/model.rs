//! The trained codec and model at work: pictures for prompts, captions for pictures, many side by side.

use std::ops::ControlFlow;

use anyhow::anyhow;
use pipeline::codec::{ImageCodec, LatentBatch, RgbBatch};
use trainer::checkpoint::{Checkpoint, Which};
use trainer::device::device;
use trainer::model::Transfusion;
use trainer::sample::{LatentImage, LatentSize, Method, SampleConfig};

use super::recipe::{DENOISING, GUIDANCE};
use crate::codec::Codec;
use crate::sample::{Ask, Goal, Made, Piece, Sampler};
use crate::session::Session;
use crate::shapes::{Picture, SIDE};

/// Prompts that are worked on side by side.
const BESIDE: usize = 64;
/// Tokens of a caption, at most: the longest has eight.
const CAPTION_TOKENS: usize = 24;

/// A model with what it needs to read and write.
pub(super) struct Model {
    network: Transfusion,
    sampler: Sampler,
    seed: u64,
}

impl Model {
    /// That of a checkpoint; `seed` is the noise's.
    pub(super) fn open(checkpoint: &Checkpoint, seed: u64, session: &Session) -> anyhow::Result<Self> {
        let network = checkpoint.model(Which::Best, &device(&session.device)?)?;
        Ok(Self { network, sampler: Sampler::of_checkpoint(checkpoint, None, None, session)?, seed })
    }

    /// All its parameters.
    pub(super) fn parameters(&self) -> u64 {
        self.network.plan().parameters().total()
    }

    /// Draws one picture a prompt.
    pub(super) fn draw(&self, prompts: &[String]) -> anyhow::Result<Vec<Picture>> {
        let goal = Goal { draw: true, tokens: Some(0), images: 1 };
        let asks: Vec<Ask> = prompts
            .iter()
            .map(|prompt| self.sampler.ask(Some(prompt), None, goal))
            .collect::<anyhow::Result<_>>()?;
        let settings = SampleConfig {
            seed: self.seed,
            steps: DENOISING,
            method: Method::Ddim,
            guidance: GUIDANCE,
            max_images: 1,
            ..SampleConfig::default()
        };
        self.continued(&asks, &settings)?.iter().map(picture).collect()
    }

    /// Describes each picture.
    pub(super) fn describe(&self, pictures: &[Picture]) -> anyhow::Result<Vec<String>> {
        let goal = Goal { draw: false, tokens: Some(CAPTION_TOKENS), images: 0 };
        let latents = encode(self.sampler.codec()?, pictures)?;
        let size = LatentSize { height: latents.height, width: latents.width };
        let asks: Vec<Ask> = latents
            .images()
            .map(|values| {
                let image = LatentImage { size, values: values.to_vec() };
                self.sampler.ask(None, Some(("a drawing", &image)), goal)
            })
            .collect::<anyhow::Result<_>>()?;
        let settings = SampleConfig { max_images: 0, ..SampleConfig::default() };
        Ok(self.continued(&asks, &settings)?.iter().map(caption).collect())
    }

    fn continued(&self, asks: &[Ask], settings: &SampleConfig) -> anyhow::Result<Vec<Made>> {
        let mut made = Vec::with_capacity(asks.len());
        for asks in asks.chunks(BESIDE) {
            let (asks, first): (Vec<&Ask>, _) = (asks.iter().collect(), made.len() as u64);
            let mut go_on = |_| ControlFlow::Continue(());
            let more = self.sampler.continued(&self.network, &asks, first, settings, &mut go_on)?;
            made.extend(more.unwrap_or_default());
        }
        Ok(made)
    }
}

/// The picture that a prompt gave.
pub(super) fn picture(made: &Made) -> anyhow::Result<Picture> {
    let picture = made.pieces.iter().find_map(|piece| match piece {
        Piece::Picture(picture) => Some(Picture::from_bytes(&picture.rgb)),
        Piece::Text(_) => None,
    });
    picture.ok_or_else(|| anyhow!("a prompt to draw gave no picture"))
}

fn caption(made: &Made) -> String {
    let text = made.pieces.iter().filter_map(|piece| match piece {
        Piece::Text(text) => Some(text.as_str()),
        Piece::Picture(_) => None,
    });
    text.collect::<String>().trim().to_owned()
}

/// A picture after the codec and back.
pub(super) fn through(codec: &Codec, picture: &Picture) -> anyhow::Result<Picture> {
    let latent = encode(codec, std::slice::from_ref(picture))?;
    let decoded = codec.decode_latent(&latent.values, latent.height, latent.width)?;
    Ok(Picture::from_bytes(&decoded.rgb))
}

fn encode(codec: &Codec, pictures: &[Picture]) -> anyhow::Result<LatentBatch> {
    let mut batch = RgbBatch { images: 0, size: SIDE, values: Vec::new() };
    pictures.iter().for_each(|picture| batch.push(&picture.bytes()));
    codec.encode(&batch, false).map_err(|error| anyhow!(error).context("the codec failed"))
}
