//! The trained model at work: pictures for prompts, captions for pictures.

use std::ops::ControlFlow;

use anyhow::{Context, anyhow};
use schemas::Tokenizer;
use trainer::codec::Codec;
use trainer::model::Transfusion;
use trainer::objective::Objective;
use trainer::sample::{LatentImage, LatentSize, Method, Prompt, Request, SampleConfig, sample};

use super::drawing::{Picture, SIDE};
use super::recipe::{DENOISING, GUIDANCE};

/// Prompts that are worked on side by side.
const BATCH: usize = 64;
/// Tokens of a caption, at most: the longest has eight.
const CAPTION_TOKENS: usize = 24;

/// A model with what it needs to read and to be looked at.
pub(crate) struct Artist<'a> {
    /// The network.
    pub(crate) model: &'a Transfusion,
    /// Text to ids and back.
    pub(crate) tokenizer: &'a Tokenizer,
    /// Pixels to latents and back.
    pub(crate) codec: &'a Codec,
    /// What the model was trained to predict.
    pub(crate) objective: &'a Objective,
    /// Seed of the noise.
    pub(crate) seed: u64,
}

impl Artist<'_> {
    /// Draws one picture a prompt.
    ///
    /// # Errors
    ///
    /// If the model gives numbers that are not finite.
    pub(crate) fn draw(&self, prompts: &[String]) -> anyhow::Result<Vec<Picture>> {
        let settings = SampleConfig {
            seed: self.seed,
            max_tokens: 0,
            steps: DENOISING,
            method: Method::Ddim,
            guidance: GUIDANCE,
            ..SampleConfig::default()
        };
        let asks: Vec<Prompt> =
            prompts.iter().map(|prompt| self.begin().text(&self.tokenizer.encode(prompt)).draw()).collect();
        let side = self.side();
        let mut pictures = Vec::with_capacity(prompts.len());
        for sampled in self.continued(&asks, &settings)? {
            let image = sampled.images().next().ok_or_else(|| anyhow!("a prompt to draw gave no picture"))?;
            let planes = self.codec.decode(&image.values, 1, side, side).context("the codec failed")?;
            pictures.push(from_planes(&planes));
        }
        Ok(pictures)
    }

    /// Describes each picture.
    ///
    /// # Errors
    ///
    /// If the model gives numbers that are not finite.
    pub(crate) fn describe(&self, pictures: &[Picture]) -> anyhow::Result<Vec<String>> {
        let settings = SampleConfig { max_tokens: CAPTION_TOKENS, max_images: 0, ..SampleConfig::default() };
        let rgb: Vec<f32> = pictures.iter().flat_map(to_planes).collect();
        let latents = self.codec.encode(&rgb, pictures.len(), SIDE).context("the codec failed")?;
        let size = LatentSize { height: self.side(), width: self.side() };
        let values = latents.len() / pictures.len().max(1);
        let asks: Vec<Prompt> = latents
            .chunks(values.max(1))
            .map(|latent| self.begin().image(LatentImage { size, values: latent.to_vec() }))
            .collect();
        let captions = self.continued(&asks, &settings)?;
        Ok(captions
            .iter()
            .map(|sampled| self.tokenizer.decode(&sampled.tokens()).trim().to_owned())
            .collect())
    }

    fn begin(&self) -> Prompt {
        Prompt::new(self.tokenizer.bos(), self.tokenizer.eos())
    }

    /// Side of a latent.
    fn side(&self) -> usize {
        SIDE / self.codec.downsampling()
    }

    fn continued(
        &self,
        asks: &[Prompt],
        settings: &SampleConfig,
    ) -> anyhow::Result<Vec<trainer::sample::Sample>> {
        let plan = settings.plan(self.objective)?;
        let size = LatentSize { height: self.side(), width: self.side() };
        let mut samples = Vec::with_capacity(asks.len());
        for prompts in asks.chunks(BATCH) {
            let request = Request { prompts, first: samples.len() as u64, size };
            samples.extend(sample(self.model, &request, &plan, &mut |_| ControlFlow::Continue(()))?);
        }
        Ok(samples)
    }
}

/// A picture after the codec and back.
///
/// # Errors
///
/// If the codec can't take it.
pub(crate) fn through(codec: &Codec, picture: &Picture) -> anyhow::Result<Picture> {
    let side = SIDE / codec.downsampling();
    let latent = codec.encode(&to_planes(picture), 1, SIDE).context("the codec failed")?;
    Ok(from_planes(&codec.decode(&latent, 1, side, side).context("the codec failed")?))
}

/// -1..1, channel, row, column.
fn to_planes(picture: &Picture) -> Vec<f32> {
    // Through bytes, as a picture that is read from a file.
    let bytes = picture.bytes();
    let channel =
        |channel: usize| bytes.iter().skip(channel).step_by(3).map(|&byte| f32::from(byte) / 127.5 - 1.0);
    (0..3).flat_map(channel).collect()
}

/// The inverse of [`to_planes`], clamped and rounded to bytes as a file would be.
pub(crate) fn from_planes(planes: &[f32]) -> Picture {
    let pixels = planes.len() / 3;
    let byte = |value: f32| ((value.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8;
    let bytes: Vec<u8> = (0..pixels)
        .flat_map(|pixel| (0..3).map(move |channel| byte(planes[channel * pixels + pixel])))
        .collect();
    Picture::from_bytes(&bytes)
}

#[cfg(test)]
mod tests {
    use super::super::drawing::{Corpus, Subset};
    use super::*;

    #[test]
    fn planes_and_back_is_the_picture_in_bytes() {
        let picture = Corpus { seed: 0, subset: Subset::Pairs }.sample(0).picture;
        assert_eq!(from_planes(&to_planes(&picture)).bytes(), picture.bytes());
    }
}
