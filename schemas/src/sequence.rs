//! A packed row: token ids, the spans that tile them, the images, and where each document came from.
//!
//! A [`Row`] can only be built whole, by [`Row::try_new`], which checks every invariant of the format. What the model
//! needs to know of a row follows from the spans: [`Row::positions`], [`Row::text_targets`] and [`AttentionRule`].
//! The functions here are the obvious ones; every faster form elsewhere is tested against them.

use half::f16;

use crate::Vocabulary;

/// What the positions of a span hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Modality {
    /// Text tokens, and the markers BOS, EOS, BOI and EOI.
    Text = 0,
    /// Patches of one image, or its codes.
    Image = 1,
    /// Nothing.
    Padding = 2,
}

/// A run of positions of one modality in one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index of the document in this row; for padding, the number of documents.
    pub document: u32,
    /// First position.
    pub start: u32,
    /// Number of positions, at least 1.
    pub len: u32,
    /// What stands there.
    pub modality: Modality,
    /// Index of the image in this row, for image spans.
    pub image: Option<u32>,
    /// Whether these positions are learned from; off for what is context only.
    pub loss: bool,
}

impl Span {
    /// The position behind the last.
    pub const fn end(&self) -> u32 {
        self.start + self.len
    }

    /// The positions as a range.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..self.end() as usize
    }
}

/// An image as the codec stored it: channel, row, column, in memory order.
#[derive(Clone, Debug, PartialEq)]
pub struct Latent {
    /// Channels of the latent (not of the moments).
    pub channels: u16,
    /// Rows of latent pixels.
    pub height: u16,
    /// Columns of latent pixels.
    pub width: u16,
    /// Whether `values` holds mean and log variance (twice the channels) instead of one latent.
    pub moments: bool,
    /// `channels` x `height` x `width` values, twice that with moments.
    pub values: Vec<f16>,
}

/// Number of patches of `patch` x `patch` latent pixels that a latent of `height` x `width` has.
pub const fn patches_of(height: u32, width: u32, patch: u32) -> u32 {
    (height / patch) * (width / patch)
}

/// Which part of a pair stands first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// Caption, then image: the model learns to draw.
    CaptionFirst = 0,
    /// Image, then caption: the model learns to describe.
    ImageFirst = 1,
    /// A text or an interleaved document.
    Neither = 2,
}

/// Where a document came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// Index of the source in the shard's list of sources.
    pub source: u16,
    /// Index of the file in the shard's list of files.
    pub file: u32,
    /// Physical line or record in the file, from 0.
    pub row: u64,
    /// The row's own id, where it has one.
    pub id: Option<String>,
    /// Offset in the document of its first position in this row; 0 unless the document was cut.
    pub first_token: u64,
    /// Which part stands first.
    pub order: Order,
}

/// What a row is checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLayout {
    /// Positions of a row.
    pub context: u32,
    /// Side of a patch in latent pixels.
    pub patch: u32,
    /// The id space.
    pub vocabulary: Vocabulary,
}

impl RowLayout {
    /// Whether rows of this layout can exist: neither context nor patch is 0, and all lengths and ids are in reach of
    /// Arrow's 32-bit numbers.
    pub fn is_possible(&self) -> bool {
        const MOST: u32 = i32::MAX as u32;
        let Vocabulary { size, codes } = self.vocabulary;
        let ids = size.checked_add(codes).and_then(|ids| ids.checked_add(4));
        (1..=MOST).contains(&self.context) && self.patch > 0 && ids.is_some_and(|ids| ids <= MOST)
    }
}

/// One training sequence of `context` positions. Valid by construction.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    tokens: Vec<u32>,
    spans: Vec<Span>,
    images: Vec<Latent>,
    sources: Vec<Provenance>,
}

/// Why a row is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The row is not as long as the dataset says.
    #[error("row has {found} tokens, the dataset's context is {expected}")]
    Length {
        /// The dataset's context.
        expected: u32,
        /// Tokens of the row.
        found: usize,
    },
    /// Spans leave a hole or overlap.
    #[error("span {span} starts at {found}, the one before ends at {expected}")]
    Tiling {
        /// Index of the span.
        span: usize,
        /// Where it should start.
        expected: u32,
        /// Where it starts.
        found: u32,
    },
    /// A span contradicts the format; the text says how.
    #[error("span {span}: {what}")]
    Span {
        /// Index of the span.
        span: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// A token that can't stand where it stands.
    #[error("token {token} at position {position} cannot stand in {what}")]
    Token {
        /// The position.
        position: usize,
        /// The id.
        token: u32,
        /// The kind of span.
        what: &'static str,
    },
    /// An image whose values don't fit its size.
    #[error("image {image}: {what}")]
    Image {
        /// Index of the image.
        image: usize,
        /// What is wrong.
        what: &'static str,
    },
}

impl Row {
    /// Checks every invariant of a row:
    ///
    /// - spans tile `0..context`, none is empty, padding is one span at the end;
    /// - documents are numbered 0, 1, 2, ... in order of appearance and each has its entry in `sources`;
    /// - image spans are numbered 0, 1, 2, ... in order, stand between BOI and EOI of the same document, hold the patch
    ///   id (or codes), and are as long as the image has patches;
    /// - text spans hold ids of the text vocabulary, BOI or EOI; padding spans the padding id;
    /// - every latent has as many values as its size says, all finite.
    ///
    /// # Errors
    ///
    /// The first violation found.
    pub fn try_new(
        tokens: Vec<u32>,
        spans: Vec<Span>,
        images: Vec<Latent>,
        sources: Vec<Provenance>,
        layout: &RowLayout,
    ) -> Result<Self, RowError> {
        if tokens.len() != layout.context as usize {
            return Err(RowError::Length { expected: layout.context, found: tokens.len() });
        }
        check_tiling(&spans, layout.context)?;
        check_numbering(&spans, sources.len())?;
        check_tokens(&tokens, &spans, layout.vocabulary)?;
        check_images(&spans, &images, layout)?;
        Ok(Self { tokens, spans, images, sources })
    }

    /// The ids, `context` of them.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The spans that tile the row.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The images in order of appearance; empty for a dataset of codes.
    pub fn images(&self) -> &[Latent] {
        &self.images
    }

    /// One entry a document.
    pub fn sources(&self) -> &[Provenance] {
        &self.sources
    }

    /// Positions that hold something.
    pub fn used(&self) -> u32 {
        let padding = self.spans.last().filter(|span| span.modality == Modality::Padding);
        padding.map_or(self.tokens.len() as u32, |span| span.start)
    }

    /// Positions of text spans, markers included.
    pub fn text_positions(&self) -> u32 {
        self.count(Modality::Text)
    }

    /// Positions of image spans.
    pub fn patch_positions(&self) -> u32 {
        self.count(Modality::Image)
    }

    fn count(&self, modality: Modality) -> u32 {
        self.spans.iter().filter(|span| span.modality == modality).map(|span| span.len).sum()
    }

    /// The documents as `(document, range of positions)`, in order.
    pub fn documents(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> + '_ {
        self.spans.chunk_by(|a, b| a.document == b.document).filter_map(|spans| {
            let (first, last) = (spans.first()?, spans.last()?);
            (first.modality != Modality::Padding)
                .then(|| (first.document as usize, first.start as usize..last.end() as usize))
        })
    }

    /// Rotary position of each place in the row: 0, 1, 2, ... from the start of its document; 0 in padding.
    pub fn positions(&self) -> Vec<u32> {
        let mut positions = vec![0; self.tokens.len()];
        for (_, range) in self.documents() {
            for (offset, position) in positions[range].iter_mut().enumerate() {
                *position = offset as u32;
            }
        }
        positions
    }

    /// The id that each position must predict, `None` where it predicts none.
    ///
    /// A position counts when its own token is text other than BOI and the next position of the same document is a
    /// token that is learned from. So BOI is predicted, nothing is predicted from BOI or from a patch, and EOI, which
    /// always follows a patch, is never a target (paper, section 3 and footnote 8).
    pub fn text_targets(&self, vocabulary: Vocabulary) -> Vec<Option<u32>> {
        let mut targets = vec![None; self.tokens.len()];
        let text = |span: &Span| span.modality == Modality::Text;
        for (index, span) in self.spans.iter().enumerate().filter(|(_, span)| text(span)) {
            let next = self.spans.get(index + 1).filter(|next| text(next) && next.document == span.document);
            for position in span.range() {
                let inside = position + 1 < span.end() as usize;
                let learned = if inside { span.loss } else { next.is_some_and(|next| next.loss) };
                if learned && self.tokens[position] != vocabulary.boi() {
                    targets[position] = Some(self.tokens[position + 1]);
                }
            }
        }
        targets
    }
}

fn check_tiling(spans: &[Span], context: u32) -> Result<(), RowError> {
    let mut expected = 0;
    for (index, span) in spans.iter().enumerate() {
        if span.start != expected {
            return Err(RowError::Tiling { span: index, expected, found: span.start });
        }
        if span.len == 0 {
            return Err(RowError::Span { span: index, what: "has no positions" });
        }
        expected = span
            .start
            .checked_add(span.len)
            .filter(|&end| end <= context)
            .ok_or(RowError::Span { span: index, what: "ends behind the row" })?;
    }
    if expected != context {
        return Err(RowError::Tiling { span: spans.len(), expected: context, found: expected });
    }
    Ok(())
}

fn check_numbering(spans: &[Span], documents: usize) -> Result<(), RowError> {
    let (mut next_document, mut next_image) = (0, 0);
    for (index, span) in spans.iter().enumerate() {
        let wrong = |what| Err(RowError::Span { span: index, what });
        if span.modality == Modality::Padding {
            if index + 1 != spans.len() {
                return wrong("is padding, but not the last span");
            }
            if span.document as usize != documents || span.image.is_some() || span.loss {
                return wrong(
                    "is padding: its document must be the number of documents, without image and loss",
                );
            }
            continue;
        }
        if span.document == next_document {
            next_document += 1;
        } else if span.document + 1 != next_document {
            return wrong("documents are not numbered in order of appearance");
        }
        match (span.modality, span.image) {
            (Modality::Image, Some(image)) if image == next_image => next_image += 1,
            (Modality::Image, _) => return wrong("images are not numbered in order of appearance"),
            (_, Some(_)) => return wrong("is text, but names an image"),
            (_, None) => {}
        }
    }
    if next_document as usize != documents {
        return Err(RowError::Span { span: spans.len(), what: "there are more sources than documents" });
    }
    Ok(())
}

fn check_tokens(tokens: &[u32], spans: &[Span], vocabulary: Vocabulary) -> Result<(), RowError> {
    for (index, span) in spans.iter().enumerate() {
        let allowed = |token: u32| match span.modality {
            Modality::Text => token < vocabulary.embedding_rows(),
            Modality::Padding => token == vocabulary.padding(),
            Modality::Image if vocabulary.codes == 0 => token == vocabulary.patch(),
            Modality::Image => (vocabulary.code(0)..=vocabulary.last_id()).contains(&token),
        };
        let what = match span.modality {
            Modality::Text => "a text span",
            Modality::Image => "an image span",
            Modality::Padding => "padding",
        };
        if let Some(position) = span.range().find(|&position| !allowed(tokens[position])) {
            return Err(RowError::Token { position, token: tokens[position], what });
        }
        if span.modality == Modality::Image {
            let neighbour =
                |other: Option<usize>| other.map(|i| &spans[i]).filter(|s| s.document == span.document);
            let before = neighbour(index.checked_sub(1)).map(|_| tokens[span.start as usize - 1]);
            let after = neighbour((index + 1 < spans.len()).then_some(index + 1))
                .map(|_| tokens[span.end() as usize]);
            if before != Some(vocabulary.boi()) || after != Some(vocabulary.eoi()) {
                return Err(RowError::Span {
                    span: index,
                    what: "is an image that does not stand between BOI and EOI",
                });
            }
        }
    }
    Ok(())
}

fn check_images(spans: &[Span], images: &[Latent], layout: &RowLayout) -> Result<(), RowError> {
    let image_spans: Vec<_> = spans.iter().filter(|span| span.modality == Modality::Image).collect();
    if layout.vocabulary.codes > 0 {
        let none = RowError::Image { image: 0, what: "a dataset of codes has no latents" };
        return if images.is_empty() { Ok(()) } else { Err(none) };
    }
    if image_spans.len() != images.len() {
        return Err(RowError::Image {
            image: images.len(),
            what: "the row has another number of image spans",
        });
    }
    for (index, (image, span)) in images.iter().zip(image_spans).enumerate() {
        let wrong = |what| Err(RowError::Image { image: index, what });
        let (height, width) = (u32::from(image.height), u32::from(image.width));
        let values =
            usize::from(image.channels) * (height * width) as usize * if image.moments { 2 } else { 1 };
        if image.values.len() != values || values == 0 {
            return wrong("the number of values does not fit channels, height and width");
        }
        if !height.is_multiple_of(layout.patch) || !width.is_multiple_of(layout.patch) {
            return wrong("height and width are not multiples of the patch");
        }
        if patches_of(height, width, layout.patch) != span.len {
            return wrong("the span is not as long as the image has patches");
        }
        if !image.values.iter().all(|value| value.is_finite()) {
            return wrong("a value is not finite");
        }
    }
    Ok(())
}

/// The attention rule of the paper (section 3, "Transfusion attention"): causal everywhere, both ways inside an image,
/// and by default never across documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttentionRule {
    /// Let a document see the ones before it in its row.
    pub across_documents: bool,
    /// Causal inside images too: the paper's ablation.
    pub causal_images: bool,
}

impl AttentionRule {
    /// Whether position `query` may look at position `key` of a row with these spans. Padding sees nothing and is
    /// seen by nothing.
    ///
    /// # Panics
    ///
    /// If a position lies outside the spans.
    pub fn may_attend(self, spans: &[Span], query: usize, key: usize) -> bool {
        let span_of = |position: usize| {
            spans.iter().find(|span| span.range().contains(&position)).expect("spans tile the row")
        };
        let (from, to) = (span_of(query), span_of(key));
        if from.modality == Modality::Padding || to.modality == Modality::Padding {
            return false;
        }
        let same_image = !self.causal_images && from.image.is_some() && from.image == to.image;
        (key <= query || same_image) && (self.across_documents || from.document == to.document)
    }
}
