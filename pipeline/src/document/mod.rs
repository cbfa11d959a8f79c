//! One source row as a document: token ids with their markers, images, and where it came from.
//!
//! A [`Composer`] knows tokenizer, layout and rules and turns the parts of a row into a [`Document`], which packing can
//! place without asking anything: what can't be placed is refused here. Three shapes exist:
//!
//! | shape | positions |
//! | --- | --- |
//! | text | BOS text EOS |
//! | pair | BOS caption BOI patches EOI EOS, or BOS BOI patches EOI caption EOS |
//! | interleaved | BOS, texts and BOI patches EOI in their order, EOS |
//!
//! It knows nothing about files, operators or batches: documents and rows are values, and all of it is pure.

pub mod pack;

use std::ops::Range;

use half::f16;
use schemas::{Latent, Modality, Order, Provenance, RowLayout, Tokenizer, patches_of, row_hash, share};

use crate::config::Shape;
use crate::document::pack::Packing;
use crate::row::reject::{Reject, RejectReason};

/// Where a row stands: its indexes in the dataset, and the names that its hash is drawn from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Index of the source in the dataset.
    pub source: u16,
    /// Name of the source.
    pub source_name: &'a str,
    /// Index of the file in the shard.
    pub file: u32,
    /// Path of the file below the source's fixed prefix.
    pub path: &'a str,
    /// Physical line or record in the file, from 0.
    pub row: u64,
    /// The row's own id.
    pub id: Option<&'a str>,
}

/// One part of a row. Its images may be anything on their way to latents.
#[derive(Clone, Debug, PartialEq)]
pub enum Part<I = Latent> {
    /// A text.
    Text(String),
    /// An image.
    Image(I),
}

/// A document that fits the rows of its layout. Its positions are tiled by `segments`.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub(crate) tokens: Vec<u32>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) images: Vec<Latent>,
    /// Ends of the parts, the last one the document's own: where an interleaved document may be cut.
    pub(crate) part_ends: Vec<usize>,
    pub(crate) shape: Shape,
    pub(crate) provenance: Provenance,
}

/// A run of positions of one modality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) modality: Modality,
}

impl Segment {
    pub(crate) fn range(&self) -> Range<usize> {
        self.start..self.start + self.len
    }
}

impl Document {
    /// The document whose row of columns holds these. Where its images stand is told by the patch ids.
    pub(crate) fn restored(
        tokens: Vec<u32>,
        images: Vec<Latent>,
        part_ends: Vec<usize>,
        shape: Shape,
        provenance: Provenance,
        layout: &RowLayout,
    ) -> Self {
        let patch = layout.vocabulary.patch();
        let mut segments = Vec::with_capacity(2 * images.len() + 1);
        let mut start = 0;
        for run in tokens.chunk_by(|&a, &b| (a == patch) == (b == patch)) {
            let modality = if run[0] == patch { Modality::Image } else { Modality::Text };
            segments.push(Segment { start, len: run.len(), modality });
            start += run.len();
        }
        Self { tokens, segments, images, part_ends, shape, provenance }
    }

    /// Number of positions, at least 2. (`is_empty` would always be false.)
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The ids.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The images in order of appearance.
    pub fn images(&self) -> &[Latent] {
        &self.images
    }

    /// Where it came from.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// What it was made from.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Text positions, markers included.
    pub fn text_positions(&self) -> usize {
        self.count(Modality::Text)
    }

    /// Image positions.
    pub fn patch_positions(&self) -> usize {
        self.count(Modality::Image)
    }

    /// Bytes that it holds, for memory budgets.
    pub fn bytes(&self) -> usize {
        let latents: usize = self.images.iter().map(|image| 2 * image.values.len()).sum();
        4 * self.tokens.len() + latents + 128
    }

    fn count(&self, modality: Modality) -> usize {
        self.segments.iter().filter(|segment| segment.modality == modality).map(|segment| segment.len).sum()
    }
}

/// The latent of one image as the codec gave it, in the form that shards store; with `moments`, mean and log variance.
///
/// # Errors
///
/// [`RejectReason::LatentNotFinite`] if a value is not finite or beyond the largest half float, 65,504.
pub fn latent(values: &[f32], [channels, height, width]: [u16; 3], moments: bool) -> Result<Latent, Reject> {
    let fits = |value: &f32| value.is_finite() && value.abs() <= f16::MAX.to_f32();
    if let Some(at) = values.iter().position(|value| !fits(value)) {
        let detail = format!("value {at} of the latent is {}", values[at]);
        return Err(Reject::new(RejectReason::LatentNotFinite, detail));
    }
    let values = values.iter().map(|&value| f16::from_f32(value)).collect();
    Ok(Latent { channels, height, width, moments, values })
}

/// Makes documents. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Composer {
    /// The tokenizer of the dataset.
    pub tokenizer: Tokenizer,
    /// The layout of its rows.
    pub layout: RowLayout,
    /// How rows are filled: it decides which documents are too long.
    pub packing: Packing,
    /// Share of the pairs whose caption stands first, 0.8 in the paper.
    pub caption_first: f64,
    /// Seed of the choice of order.
    pub seed: u64,
}

impl Composer {
    /// A text document of any length.
    ///
    /// # Errors
    ///
    /// [`RejectReason::Empty`] if the text is nothing but white space.
    pub fn text(&self, text: &str, origin: &Origin<'_>) -> Result<Document, Reject> {
        let mut draft = Draft::new(self);
        draft.text(not_blank(text)?);
        draft.finish(Shape::Text, Order::Neither, origin)
    }

    /// An image-caption pair. Which part stands first is decided by the hash of the row.
    ///
    /// # Errors
    ///
    /// [`RejectReason::Empty`] for a blank caption, [`RejectReason::TooLong`] if it is longer than a row.
    pub fn pair(&self, caption: &str, image: Latent, origin: &Origin<'_>) -> Result<Document, Reject> {
        self.numbered_pair(0, caption, image, origin)
    }

    /// The pair of the caption with this number, of a row with several. Each has an order of its own.
    ///
    /// # Errors
    ///
    /// Those of [`Self::pair`].
    pub fn numbered_pair(
        &self,
        number: usize,
        caption: &str,
        image: Latent,
        origin: &Origin<'_>,
    ) -> Result<Document, Reject> {
        let caption = not_blank(caption)?;
        let order = self.order_of(origin, number);
        let mut draft = Draft::new(self);
        if order == Order::CaptionFirst {
            draft.text(caption);
            draft.image(image)?;
        } else {
            draft.image(image)?;
            draft.text(caption);
        }
        draft.finish(Shape::Pair, order, origin)
    }

    /// A document of texts and images in their order; empty texts in it are left out.
    ///
    /// # Errors
    ///
    /// [`RejectReason::Empty`] if nothing is left, [`RejectReason::TooLong`] if one part is longer than a row.
    pub fn interleaved(&self, parts: Vec<Part>, origin: &Origin<'_>) -> Result<Document, Reject> {
        let mut draft = Draft::new(self);
        for part in parts {
            match part {
                Part::Text(text) if text.is_empty() => {}
                Part::Text(text) => draft.text(&text),
                Part::Image(image) => draft.image(image)?,
            }
        }
        draft.finish(Shape::Interleaved, Order::Neither, origin)
    }

    /// The order of the pair at `origin`.
    pub fn order(&self, origin: &Origin<'_>) -> Order {
        self.order_of(origin, 0)
    }

    fn order_of(&self, origin: &Origin<'_>, number: usize) -> Order {
        let purpose = numbered("order", number);
        let hash = row_hash(self.seed, origin.source_name, origin.path, origin.row, &purpose);
        if share(hash) < self.caption_first { Order::CaptionFirst } else { Order::ImageFirst }
    }
}

/// The purpose of a draw for one of a row's documents; of the first it is the row's own.
pub(crate) fn numbered(purpose: &str, number: usize) -> String {
    if number == 0 { purpose.to_owned() } else { format!("{purpose} {number}") }
}

/// The text, unless it is nothing but white space. Nothing is stripped from what is kept.
pub(crate) fn not_blank(text: &str) -> Result<&str, Reject> {
    if text.trim().is_empty() {
        return Err(Reject::new(RejectReason::Empty, format!("{} bytes of white space", text.len())));
    }
    Ok(text)
}

struct Draft<'a> {
    composer: &'a Composer,
    tokens: Vec<u32>,
    segments: Vec<Segment>,
    images: Vec<Latent>,
    part_ends: Vec<usize>,
}

impl<'a> Draft<'a> {
    fn new(composer: &'a Composer) -> Self {
        let tokens = vec![composer.tokenizer.bos()];
        Self { composer, tokens, segments: Vec::new(), images: Vec::new(), part_ends: Vec::new() }
    }

    fn text(&mut self, text: &str) {
        self.composer.tokenizer.encode_into(text, &mut self.tokens);
        self.part_ends.push(self.tokens.len());
    }

    fn image(&mut self, image: Latent) -> Result<(), Reject> {
        let layout = &self.composer.layout;
        let (height, width) = (u32::from(image.height), u32::from(image.width));
        if !height.is_multiple_of(layout.patch)
            || !width.is_multiple_of(layout.patch)
            || height == 0
            || width == 0
        {
            let detail = format!("latent of {height} x {width} is no multiple of the patch {}", layout.patch);
            return Err(Reject::new(RejectReason::ImageUndecodable, detail));
        }
        let patches = patches_of(height, width, layout.patch) as usize;
        self.tokens.push(layout.vocabulary.boi());
        self.close_text();
        self.segments.push(Segment { start: self.tokens.len(), len: patches, modality: Modality::Image });
        self.tokens.resize(self.tokens.len() + patches, layout.vocabulary.patch());
        self.tokens.push(layout.vocabulary.eoi());
        self.images.push(image);
        self.part_ends.push(self.tokens.len());
        Ok(())
    }

    /// Makes what follows the last segment a text segment.
    fn close_text(&mut self) {
        let start = self.segments.last().map_or(0, |segment| segment.start + segment.len);
        let len = self.tokens.len() - start;
        self.segments.push(Segment { start, len, modality: Modality::Text });
    }

    fn finish(mut self, shape: Shape, order: Order, origin: &Origin<'_>) -> Result<Document, Reject> {
        let Some(last) = self.part_ends.last_mut() else {
            return Err(Reject::new(RejectReason::Empty, "no text and no image"));
        };
        *last += 1;
        self.tokens.push(self.composer.tokenizer.eos());
        self.close_text();
        let provenance = Provenance {
            source: origin.source,
            file: origin.file,
            row: origin.row,
            id: origin.id.map(str::to_owned),
            first_token: 0,
            order,
        };
        let Self { composer, tokens, segments, images, part_ends } = self;
        let document = Document { tokens, segments, images, part_ends, shape, provenance };
        let context = composer.layout.context as usize;
        match composer.packing.too_long(&document, context) {
            Some(len) => {
                let detail = format!("{len} positions that can't be cut, a row has {context}");
                Err(Reject::new(RejectReason::TooLong, detail))
            }
            None => Ok(document),
        }
    }
}
