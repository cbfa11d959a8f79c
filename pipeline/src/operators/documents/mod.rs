//! `DocumentsExec`: rows of a source to documents, their texts as ids and their images as latents.
//!
//! Two operators have this name. Rows with images become structs once ([`images`]): their pictures are decoded, wait for
//! a batch of the codec, are encoded, and stand in documents with their texts. Of a source of texts the column itself is
//! read ([`texts`]), and no row becomes a struct. Both give batches of [`batch`].
//!
//! What becomes of a row is decided here, by its content and by hashes of its place: whether it is refused, set aside by a
//! weight below 1, for which dataset it is and how often it is packed.

pub(crate) mod batch;
pub(crate) mod crops;
pub(crate) mod images;
pub(crate) mod latents;
pub(crate) mod texts;

use schemas::{RowLayout, Tokenizer, share};

use super::source_rows::RowReader;
use crate::document::Composer;
use crate::document::pack::Packing;
use crate::row::columns::RowKind;
use crate::row::reject::Reject;

/// How rows of a source become documents.
#[derive(Clone, Debug)]
pub(crate) struct DocumentRules {
    /// Index of the source in the dataset.
    pub(crate) source: u16,
    pub(crate) rows: RowReader,
    pub(crate) weight: f64,
    /// Share of the documents that are set aside for validation.
    pub(crate) validation: f64,
    pub(crate) layout: RowLayout,
    pub(crate) packing: Packing,
    /// Share of the pairs whose caption stands first.
    pub(crate) caption_first: f64,
}

/// What becomes of a row.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) kind: RowKind,
    pub(crate) reject: Option<Reject>,
    /// The dataset that it goes to.
    pub(crate) split: u8,
    /// How often it is packed.
    pub(crate) copies: u32,
}

impl Outcome {
    /// That of a row that is not packed.
    fn of(kind: RowKind) -> Self {
        Self { kind, reject: None, split: 0, copies: 0 }
    }
}

impl DocumentRules {
    fn describe(&self) -> String {
        let (shape, weight) = (self.rows.shape.name(), self.weight);
        let vocabulary = self.layout.vocabulary.size;
        format!("shape={shape}, vocabulary={vocabulary}, weight={weight}, validation={}", self.validation)
    }

    fn composer(&self, tokenizer: Tokenizer) -> Composer {
        let Self { layout, packing, caption_first, .. } = *self;
        Composer { tokenizer, layout, packing, caption_first, seed: self.rows.hashes.seed }
    }

    /// The outcome of a row that can be used. Asks for no hash where there is no choice.
    fn outcome(&self, unit: &str, file: u32, row: u64) -> Outcome {
        let hash = |purpose| self.rows.hashes.of(unit, file, row, purpose);
        let split = self.validation > 0.0 && share(hash("split")) < self.validation;
        let rest = self.weight.fract();
        let extra = u32::from(rest > 0.0 && share(hash("repeat")) < rest);
        // What a model is judged by is not weighted.
        let copies = if split { 1 } else { (self.weight.trunc() as u32).saturating_add(extra) };
        let kind = if copies > 0 { RowKind::Row } else { RowKind::Aside };
        Outcome { kind, split: split.into(), copies, reject: None }
    }
}
