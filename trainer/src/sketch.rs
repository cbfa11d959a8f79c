//! Rows drawn up in a line, for tests.

use half::f16;
use proptest::prelude::*;
use schemas::{Latent, Modality, Order, Provenance, Row, RowLayout, Span, Vocabulary, patches_of};

use crate::random::Stream;

pub(crate) const VOCABULARY: Vocabulary = Vocabulary::text(20);
pub(crate) const PATCH: u32 = 2;
pub(crate) const CHANNELS: u16 = 3;
const BOS: u32 = 1;
const EOS: u32 = 2;

/// A piece of a document.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Piece {
    /// So many tokens.
    Text(u32),
    /// An image of so many rows and columns of patches.
    Image(u16, u16),
    /// The same, context only.
    Shown(u16, u16),
}

/// A row of `documents`, padded to `context`. Tokens and latents follow from `seed`.
pub(crate) fn row(documents: &[(Order, Vec<Piece>)], context: u32, seed: u64) -> Row {
    let mut sketch = Sketch { stream: Stream::new(seed, "sketch", &[]), ..Sketch::default() };
    documents.iter().for_each(|(order, parts)| sketch.document(*order, parts));
    sketch.finish(context)
}

/// A row of one pair with a given caption and latent of `height` x `width`, padded by one position.
pub(crate) fn pair(order: Order, caption: &[u32], latent: &[f32], height: u16, width: u16) -> Row {
    let mut sketch = Sketch::default();
    sketch.begin(order);
    if order == Order::CaptionFirst {
        sketch.text(caption);
    }
    let values = latent.iter().copied().map(f16::from_f32).collect();
    sketch.latent(Latent { channels: CHANNELS, height, width, moments: false, values }, true);
    if order == Order::ImageFirst {
        sketch.text(caption);
    }
    sketch.text(&[EOS]);
    let context = sketch.tokens.len() as u32 + 1;
    sketch.finish(context)
}

struct Sketch {
    stream: Stream,
    tokens: Vec<u32>,
    spans: Vec<Span>,
    images: Vec<Latent>,
    sources: Vec<Provenance>,
}

impl Default for Sketch {
    fn default() -> Self {
        Self {
            stream: Stream::new(0, "sketch", &[]),
            tokens: Vec::new(),
            spans: Vec::new(),
            images: Vec::new(),
            sources: Vec::new(),
        }
    }
}

impl Sketch {
    fn begin(&mut self, order: Order) {
        let row = self.sources.len() as u64;
        self.sources.push(Provenance { source: 0, file: 0, row, id: None, first_token: 0, order });
        self.text(&[BOS]);
    }

    fn document(&mut self, order: Order, parts: &[Piece]) {
        self.begin(order);
        for part in parts {
            match *part {
                Piece::Text(count) => {
                    let ids: Vec<u32> = (0..count).map(|_| 3 + self.stream.below(17)).collect();
                    self.text(&ids);
                }
                Piece::Image(rows, columns) => self.image(rows, columns, true),
                Piece::Shown(rows, columns) => self.image(rows, columns, false),
            }
        }
        self.text(&[EOS]);
    }

    fn text(&mut self, ids: &[u32]) {
        if ids.is_empty() {
            return;
        }
        self.push(Modality::Text, ids, None, true);
    }

    fn image(&mut self, rows: u16, columns: u16, loss: bool) {
        let (height, width) = (rows * PATCH as u16, columns * PATCH as u16);
        let count = usize::from(CHANNELS) * usize::from(height) * usize::from(width);
        let values = self.stream.normals(count).into_iter().map(f16::from_f32).collect();
        self.latent(Latent { channels: CHANNELS, height, width, moments: false, values }, loss);
    }

    fn latent(&mut self, latent: Latent, loss: bool) {
        let patches = patches_of(u32::from(latent.height), u32::from(latent.width), PATCH);
        let image = self.images.len() as u32;
        self.images.push(latent);
        self.text(&[VOCABULARY.boi()]);
        self.push(Modality::Image, &vec![VOCABULARY.patch(); patches as usize], Some(image), loss);
        self.text(&[VOCABULARY.eoi()]);
    }

    fn push(&mut self, modality: Modality, ids: &[u32], image: Option<u32>, loss: bool) {
        let document = self.sources.len() as u32 - 1;
        let (start, len) = (self.tokens.len() as u32, ids.len() as u32);
        self.tokens.extend(ids);
        match self.spans.last_mut() {
            Some(last)
                if last.modality == Modality::Text
                    && modality == Modality::Text
                    && last.document == document =>
            {
                last.len += len;
            }
            _ => self.spans.push(Span { document, start, len, modality, image, loss }),
        }
    }

    fn finish(mut self, context: u32) -> Row {
        let start = self.tokens.len() as u32;
        if start < context {
            let document = self.sources.len() as u32;
            let len = context - start;
            let modality = Modality::Padding;
            self.spans.push(Span { document, start, len, modality, image: None, loss: false });
            self.tokens.resize(context as usize, VOCABULARY.padding());
        }
        let layout = RowLayout { context, patch: PATCH, vocabulary: VOCABULARY };
        Row::try_new(self.tokens, self.spans, self.images, self.sources, &layout).unwrap()
    }
}

/// Rows of up to four documents of every shape, at most 160 positions long, padded to 170.
pub(crate) fn any_row() -> impl Strategy<Value = Row> {
    let side = || 1u16..4;
    let text = (0u32..9).prop_map(Piece::Text);
    let part = prop_oneof![
        text.clone(),
        (side(), side()).prop_map(|(rows, columns)| Piece::Image(rows, columns)),
        (side(), side()).prop_map(|(rows, columns)| Piece::Shown(rows, columns)),
    ];
    let document = prop_oneof![
        text.clone().prop_map(|text| (Order::Neither, vec![text])),
        (text.clone(), side())
            .prop_map(|(text, side)| (Order::CaptionFirst, vec![text, Piece::Image(side, 2)])),
        (text, side()).prop_map(|(text, side)| (Order::ImageFirst, vec![Piece::Image(side, 2), text])),
        proptest::collection::vec(part, 0..4).prop_map(|parts| (Order::Neither, parts)),
    ];
    (proptest::collection::vec(document, 0..4), any::<u64>())
        .prop_map(|(documents, seed)| row(&documents, 170, seed))
}
