//! What is asked for on the command line: prompts from flags, files and pictures.

use anyhow::{Context, anyhow};
use pipeline::picture::PictureRules;
use trainer::sample::{LatentImage, LatentSize};

use super::prompts;
use super::sampler::{Ask, Goal, Sampler};
use crate::cli::SampleArgs;
use crate::errors::hinted;
use crate::session::Session;
use crate::signals::Stop;
use crate::terminal::count;

/// Distinct prompts, and how often each is sampled.
pub(super) struct Asks {
    asks: Vec<Ask>,
    count: usize,
    /// Pictures of a sample, at most.
    pub(super) images: usize,
}

impl Asks {
    /// Every text after every picture; without either one document from nothing. `None` once a signal came.
    pub(super) fn new(
        args: &SampleArgs,
        texts: &[String],
        sampler: &Sampler,
        stop: &Stop,
        session: &Session,
    ) -> anyhow::Result<Option<Self>> {
        let mut images = Vec::with_capacity(args.image.len());
        for uri in &args.image {
            if stop.signal().is_some() {
                return Ok(None);
            }
            images.push(read_image(uri, sampler, session)?);
        }
        let goal = goal(args, texts, sampler);
        let mut asks = Vec::new();
        for image in or_none(&images) {
            for text in or_none(texts) {
                let image = image.map(|(uri, latent)| (uri.as_str(), latent));
                asks.push(sampler.ask(text.map(String::as_str), image, goal)?);
            }
        }
        Ok(Some(Self { asks, count: args.count as usize, images: goal.images }))
    }

    /// Samples in all.
    pub(super) fn len(&self) -> usize {
        self.asks.len() * self.count
    }

    /// Those of sample `first` and of up to `most` behind it.
    pub(super) fn batch(&self, first: usize, most: usize) -> Vec<&Ask> {
        (first..self.len().min(first + most)).map(|number| &self.asks[number / self.count]).collect()
    }
}

fn or_none<T>(items: &[T]) -> Vec<Option<&T>> {
    if items.is_empty() { vec![None] } else { items.iter().map(Some).collect() }
}

/// A text alone is drawn, a picture is described, nothing becomes a document of any kind.
fn goal(args: &SampleArgs, texts: &[String], sampler: &Sampler) -> Goal {
    let may_draw = sampler.knows_images() && !args.text && args.image.is_empty();
    let draw = may_draw && !texts.is_empty();
    let tokens = args.max_tokens.map(|tokens| tokens as usize);
    // A picture, and nothing behind it unless it is asked for.
    let tokens = if draw { tokens.or(Some(0)) } else { tokens };
    Goal { draw, tokens, images: usize::from(may_draw) }
}

/// The texts of `--prompt` and `--prompts`.
pub(super) fn texts(args: &SampleArgs, session: &Session) -> anyhow::Result<Vec<String>> {
    if args.prompt.iter().any(|prompt| prompt.trim().is_empty()) {
        return Err(hinted(
            anyhow!("a `--prompt` is empty"),
            "leave `--prompt` out for a document from nothing",
        ));
    }
    let mut texts = args.prompt.clone();
    if let Some(uri) = &args.prompts {
        let bytes = session.runtime.block_on(session.stores.place(uri)?.read())?;
        let lines = prompts::parse(&bytes, uri)?;
        if lines.empty > 0 {
            let empty = count(lines.empty, "empty line");
            session.printer.note(&format!("{empty} of `{uri}` passed over"));
        }
        texts.extend(lines.prompts);
    }
    Ok(texts)
}

/// Decodes, crops and encodes a picture as preprocessing does.
fn read_image(uri: &str, sampler: &Sampler, session: &Session) -> anyhow::Result<(String, LatentImage)> {
    let bytes = session.runtime.block_on(session.stores.place(uri)?.read())?;
    let rules = PictureRules { size: sampler.pixels()?, ..PictureRules::default() };
    let decoded = rules.decode(&bytes).map_err(|reject| anyhow!("{reject}"));
    let (picture, probe) = decoded.with_context(|| format!("cannot use the picture `{uri}`"))?;
    if let Some(warning) = probe.warning {
        session.printer.warn(&format!("`{uri}`: {}", warning.name()));
    }
    let encoded = sampler.codec()?.encode_picture(&picture);
    let latent = encoded.with_context(|| format!("cannot use the picture `{uri}`"))?;
    let size = LatentSize { height: latent.height, width: latent.width };
    Ok((uri.to_owned(), LatentImage { size, values: latent.values }))
}
