//! What is asked for: prompts from flags, files and pictures.

use anyhow::Context;
use pipeline::picture::PictureRules;
use trainer::sample::{LatentImage, LatentSize, Prompt};

use super::Sampler;
use crate::cli::SampleArgs;
use crate::session::Session;

/// New tokens and new pictures of a prompt, at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) tokens: usize,
    pub(super) images: usize,
}

/// One prompt.
pub(super) struct Ask {
    /// What it was made from.
    pub(super) text: Option<String>,
    /// The picture before it.
    pub(super) image: Option<String>,
    pub(super) prompt: Prompt,
    pub(super) limits: Limits,
}

impl Ask {
    /// Whether a picture may come out.
    pub(super) fn may_draw(&self) -> bool {
        self.limits.images > 0
    }
}

/// The prompts of the command line, each `--count` times: every text after every picture; without either one
/// document from nothing.
pub(super) fn asks(args: &SampleArgs, sampler: &Sampler, session: &Session) -> anyhow::Result<Vec<Ask>> {
    let texts = texts(args, session)?;
    let images =
        args.image.iter().map(|uri| read_image(uri, sampler, session)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut asks = Vec::new();
    for image in or_none(&images) {
        for text in or_none(&texts) {
            let image = image.map(|(uri, latent)| (uri.as_str(), latent));
            asks.extend((0..args.count).map(|_| ask(args, sampler, text.map(String::as_str), image)));
        }
    }
    Ok(asks)
}

fn or_none<T>(items: &[T]) -> Vec<Option<&T>> {
    if items.is_empty() { vec![None] } else { items.iter().map(Some).collect() }
}

fn ask(args: &SampleArgs, sampler: &Sampler, text: Option<&str>, image: Option<(&str, &LatentImage)>) -> Ask {
    let mut prompt = Prompt::new(sampler.tokenizer.bos(), sampler.tokenizer.eos());
    if let Some((_, latent)) = image {
        prompt = prompt.image(latent.clone());
    }
    if let Some(text) = text {
        prompt = prompt.text(&sampler.tokenizer.encode(text));
    }
    let draws = sampler.knows_images() && !args.text && image.is_none() && text.is_some();
    let limits = match (draws, image.is_some()) {
        // A picture, and nothing behind it unless it is asked for.
        (true, _) => Limits { tokens: args.max_tokens.unwrap_or(0), images: 1 },
        (false, true) => Limits { tokens: args.max_tokens.unwrap_or(256), images: 0 },
        (false, false) => Limits {
            tokens: args.max_tokens.unwrap_or(256),
            images: usize::from(!args.text && sampler.knows_images()),
        },
    };
    let prompt = if draws { prompt.draw() } else { prompt };
    Ask { text: text.map(str::to_owned), image: image.map(|(uri, _)| uri.to_owned()), prompt, limits }
}

fn texts(args: &SampleArgs, session: &Session) -> anyhow::Result<Vec<String>> {
    let mut texts = args.prompt.clone();
    if let Some(uri) = &args.prompts {
        let bytes = session.runtime.block_on(session.stores.place(uri)?.read())?;
        let text = std::str::from_utf8(&bytes).with_context(|| format!("`{uri}` is not UTF-8"))?;
        texts.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
    }
    Ok(texts)
}

/// Decodes, crops and encodes a picture as preprocessing does.
fn read_image(uri: &str, sampler: &Sampler, session: &Session) -> anyhow::Result<(String, LatentImage)> {
    let bytes = session.runtime.block_on(session.stores.place(uri)?.read())?;
    let rules = PictureRules { size: sampler.pixels()?, ..PictureRules::default() };
    let decoded = rules.decode(&bytes).map_err(|reject| anyhow::anyhow!("{reject}"));
    let (picture, _) = decoded.with_context(|| format!("cannot use the picture `{uri}`"))?;
    let latent = sampler.codec()?.encode_picture(&picture)?;
    let size = LatentSize { height: latent.height, width: latent.width };
    Ok((uri.to_owned(), LatentImage { size, values: latent.values }))
}
