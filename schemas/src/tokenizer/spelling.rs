//! Ids back to text.
//!
//! A model may emit any id, so every id has bytes: those of its piece, one byte for a byte piece, none for a marker and for a hole in
//! the vocabulary. The table is our own because the encoder's keeps one id for each spelling: where `A` and `<0x41>` are
//! both pieces, it has forgotten one of them.

use kitoken::{Configuration, Decoding, Definition};
use sentencepiece_model::SentencePieceModel;

use super::pieces::Pieces;

/// What each id adds to a text, and what is done to the text as a whole.
pub(super) struct Spelling {
    bytes: Vec<Box<[u8]>>,
    config: Configuration,
}

impl Spelling {
    /// That of a `tokenizer.model`.
    pub(super) fn of_model(model: &SentencePieceModel, pieces: &Pieces) -> Self {
        let mut config = Configuration::default();
        let spaces = match model.normalizer() {
            Some(normalizer) if !normalizer.add_dummy_prefix() => 0,
            Some(normalizer) if !normalizer.remove_extra_whitespaces() => 1,
            _ => u32::MAX,
        };
        let suffix = model.trainer().is_some_and(|trainer| trainer.treat_whitespace_as_suffix());
        let (left, right) = if suffix { (0, spaces.min(1)) } else { (spaces, 0) };
        config.decoding.push(Decoding::Strip { character: '▁', left, right });
        config.decoding.push(Decoding::Replace { pattern: "▁".into(), replacement: " ".to_owned() });
        Self { bytes: (0..pieces.size()).map(|id| spelled(pieces, id)).collect(), config }
    }

    /// That of a `tokenizer.json` that says nothing: pieces as they are spelled, one behind the other.
    pub(super) fn of_pieces(pieces: &Pieces) -> Self {
        Self {
            bytes: (0..pieces.size()).map(|id| spelled(pieces, id)).collect(),
            config: Configuration::default(),
        }
    }

    /// That of a `tokenizer.json` of Llama's kind.
    pub(super) fn of_definition(definition: &Definition, pieces: &Pieces) -> Self {
        let mut bytes: Vec<Box<[u8]>> = (0..pieces.size()).map(|id| spelled(pieces, id)).collect();
        for token in definition.model.vocab().iter().filter(|token| pieces.is_text(token.id)) {
            if let Some(place) = bytes.get_mut(token.id as usize) {
                *place = token.bytes.as_slice().into();
            }
        }
        Self { bytes, config: definition.config.clone() }
    }

    /// The text of `ids`; bytes that are no UTF-8 become U+FFFD.
    pub(super) fn text(&self, ids: &[u32]) -> String {
        let bytes = ids.iter().filter_map(|&id| self.bytes.get(id as usize));
        let mut text = bytes.flat_map(|bytes| bytes.iter().copied()).collect();
        self.config.decode(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// What an id spells by the name of its piece.
fn spelled(pieces: &Pieces, id: u32) -> Box<[u8]> {
    let piece = pieces.piece(id).filter(|_| pieces.is_text(id)).unwrap_or_default();
    match byte_of(piece).filter(|_| pieces.is_byte(id)) {
        Some(byte) => Box::new([byte]),
        None => piece.as_bytes().into(),
    }
}

/// The byte that a piece such as `<0x0A>` stands for.
pub(super) fn byte_of(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}
