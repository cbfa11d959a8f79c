//! Rows made by hand and by chance, for the other tests.

use half::f16;
use proptest::prelude::*;
use schemas::{Latent, Modality, Order, Provenance, Row, RowLayout, Span, Vocabulary, patches_of};

/// Rows of 48 positions with patches of 2 x 2.
pub(crate) fn layout(vocabulary: u32) -> RowLayout {
    RowLayout { context: 48, patch: 2, vocabulary: Vocabulary::text(vocabulary) }
}

/// One part of a document: text, then maybe an image.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) text: Vec<u32>,
    pub(crate) image: Option<Latent>,
    pub(crate) loss: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) parts: Vec<Part>,
    pub(crate) source: Provenance,
}

/// Builds a row of the documents that fit, padding behind them.
#[derive(Default)]
pub(crate) struct Builder {
    tokens: Vec<u32>,
    spans: Vec<Span>,
    images: Vec<Latent>,
    sources: Vec<Provenance>,
}

impl Builder {
    pub(crate) fn row(documents: &[Document], layout: &RowLayout) -> Row {
        let mut builder = Self::default();
        for document in documents {
            let mut with = Self { ..builder.copy() };
            with.document(document, layout);
            if with.tokens.len() > layout.context as usize {
                break;
            }
            builder = with;
        }
        builder.close(layout)
    }

    fn copy(&self) -> Self {
        let Self { tokens, spans, images, sources } = self;
        Self {
            tokens: tokens.clone(),
            spans: spans.clone(),
            images: images.clone(),
            sources: sources.clone(),
        }
    }

    fn document(&mut self, document: &Document, layout: &RowLayout) {
        let vocabulary = layout.vocabulary;
        let mut text = Vec::new();
        for part in &document.parts {
            text.extend(part.text.iter().map(|id| id % vocabulary.size));
            if let Some(image) = &part.image {
                text.push(vocabulary.boi());
                self.span(&std::mem::take(&mut text), Modality::Text, part.loss);
                let patches = patches_of(image.height.into(), image.width.into(), layout.patch) as usize;
                self.span(&vec![vocabulary.patch(); patches], Modality::Image, part.loss);
                self.images.push(image.clone());
                text.push(vocabulary.eoi());
            }
        }
        let loss = document.parts.last().is_none_or(|part| part.loss);
        self.span(&text, Modality::Text, loss);
        self.sources.push(document.source.clone());
    }

    fn span(&mut self, tokens: &[u32], modality: Modality, loss: bool) {
        if tokens.is_empty() {
            return;
        }
        let (start, len) = (self.tokens.len() as u32, tokens.len() as u32);
        let image = (modality == Modality::Image).then_some(self.images.len() as u32);
        self.spans.push(Span { document: self.sources.len() as u32, start, len, modality, image, loss });
        self.tokens.extend_from_slice(tokens);
    }

    fn close(mut self, layout: &RowLayout) -> Row {
        let free = layout.context as usize - self.tokens.len();
        self.span(&vec![layout.vocabulary.padding(); free], Modality::Padding, false);
        Row::try_new(self.tokens, self.spans, self.images, self.sources, layout).expect("a row by the rules")
    }
}

pub(crate) fn source(row: u64, order: Order) -> Provenance {
    Provenance { source: 0, file: 0, row, id: None, first_token: 0, order }
}

/// A latent of `height` x `width` with two channels.
pub(crate) fn latent(height: u16, width: u16) -> Latent {
    let count = 2 * usize::from(height) * usize::from(width);
    let values = (0..count).map(|index| f16::from_f32(index as f32 / 8.0 - 1.0)).collect();
    Latent { channels: 2, height, width, moments: false, values }
}

fn any_latent() -> impl Strategy<Value = Latent> {
    let sizes = (1u16..4, 1u16..4, 1u16..3, any::<bool>());
    sizes.prop_flat_map(|(channels, height, width, moments)| {
        let (height, width) = (2 * height, 2 * width);
        let count = usize::from(channels * height * width) * if moments { 2 } else { 1 };
        let value = any::<u16>().prop_map(f16::from_bits).prop_filter("finite", |value| value.is_finite());
        prop::collection::vec(value, count).prop_map(move |values| Latent {
            channels,
            height,
            width,
            moments,
            values,
        })
    })
}

fn any_part() -> impl Strategy<Value = Part> {
    let text = prop::collection::vec(any::<u32>(), 1..8);
    (text, prop::option::of(any_latent()), any::<bool>()).prop_map(|(text, image, loss)| Part {
        text,
        image,
        loss,
    })
}

fn any_source() -> impl Strategy<Value = Provenance> {
    let order = prop::sample::select(vec![Order::CaptionFirst, Order::ImageFirst, Order::Neither]);
    (any::<u16>(), any::<u32>(), any::<u64>(), prop::option::of(".{0,6}"), any::<u64>(), order).prop_map(
        |(source, file, row, id, first_token, order)| Provenance {
            source,
            file,
            row,
            id,
            first_token,
            order,
        },
    )
}

/// Any row of a layout, the empty one included.
pub(crate) fn any_row(layout: RowLayout) -> impl Strategy<Value = Row> {
    let document = (prop::collection::vec(any_part(), 1..4), any_source());
    let document = document.prop_map(|(parts, source)| Document { parts, source });
    prop::collection::vec(document, 0..5).prop_map(move |documents| Builder::row(&documents, &layout))
}
