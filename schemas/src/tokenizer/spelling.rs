//! Ids back to text.
//!
//! A model may emit any id, so every id has bytes: those of its piece, one byte for a byte piece, none for a marker and for a hole in
//! the vocabulary. The table is our own because the encoder's keeps one id for each spelling: where `A` and `<0x41>` are
//! both pieces, it has forgotten one of them.

use kitoken::{Configuration, Definition, InsertionPosition};

use super::pieces::Pieces;
use super::text_pieces;

/// What each id adds to a text, and what is done to the text as a whole.
pub(super) struct Spelling {
    bytes: Vec<Box<[u8]>>,
    /// How a piece begins that goes on with a word, where words are divided by spaces that no piece spells.
    continuation: Option<String>,
    config: Configuration,
}

impl Spelling {
    pub(super) fn new(definition: &Definition, pieces: &Pieces) -> Self {
        let mut bytes: Vec<Option<Box<[u8]>>> = vec![None; pieces.size() as usize];
        let vocabulary = definition.model.vocab().iter().map(|token| (token.id, &token.bytes));
        let added = text_pieces(&definition.specials).map(|special| (special.id, &special.bytes));
        for (id, spelled) in vocabulary.chain(added) {
            if let Some(place) = bytes.get_mut(id as usize) {
                *place = Some(spelled.as_slice().into());
            }
        }
        let own = |id: usize| pieces.piece(id as u32).map(spelled).unwrap_or_default();
        let entry = |(id, found): (usize, Option<Box<[u8]>>)| match pieces.is_text(id as u32) {
            true => found.unwrap_or_else(|| own(id)),
            false => Box::default(),
        };
        let mut templates = definition.config.templates.iter();
        let continuation =
            templates.find(|template| template.position == InsertionPosition::WordContinuation);
        Self {
            bytes: bytes.into_iter().enumerate().map(entry).collect(),
            continuation: continuation.map(|template| template.content.clone()),
            config: definition.config.clone(),
        }
    }

    /// The text of `ids`; bytes that are no UTF-8 become U+FFFD.
    pub(super) fn text(&self, ids: impl Iterator<Item = u32>) -> String {
        let mut text = Vec::new();
        for bytes in ids.filter_map(|id| self.bytes.get(id as usize)) {
            if self.begins_a_word(bytes) && !text.is_empty() {
                text.push(b' ');
            }
            text.extend_from_slice(bytes);
        }
        self.config.decode(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    fn begins_a_word(&self, bytes: &[u8]) -> bool {
        self.continuation.as_ref().is_some_and(|continuation| !bytes.starts_with(continuation.as_bytes()))
    }
}

/// The bytes of a piece that the encoder does not know.
fn spelled(piece: &str) -> Box<[u8]> {
    match byte_of(piece) {
        Some(byte) => Box::new([byte]),
        None => piece.as_bytes().into(),
    }
}

/// The byte that a piece such as `<0x0A>` stands for.
fn byte_of(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}
