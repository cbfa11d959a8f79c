//! Text to ids and back.
//!
//! A [`Tokenizer`] is built from the bytes of a SentencePiece `tokenizer.model` or of a `tokenizer.json`, and gives the ids of
//! sentencepiece or of Hugging Face's library. Two things are decided here. Text can never become a control id: `<s>` in a text is three
//! characters, BOS and EOS are placed by packing alone. And for the vocabularies in which no piece reaches over the
//! start of a word, which is how Llama's and Mistral's are made, a text is cut into words first, which the kitoken crate
//! encodes, and the ids of common words are remembered; that changes no id, keeps the cost of a long document linear, and costs 2 MiB a thread.

mod json;
mod pieces;
mod sentencepiece;
mod spelling;
mod words;

use std::ops::Range;
use std::sync::Arc;

use kitoken::{Definition, Kitoken, SpecialTokenKind};
use sentencepiece_model::SentencePieceModel;

use self::json::Json;
use self::pieces::Pieces;
use self::sentencepiece::SentencePiece;
use self::spelling::Spelling;
use self::words::Words;
use crate::content_hash;

/// Why bytes are not a tokenizer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// Neither a SentencePiece model nor a `tokenizer.json`, or one of a kind that is not supported.
    #[error("not a tokenizer that can be read: {what}")]
    Format {
        /// What was found.
        what: String,
    },
    /// Some text would have no ids.
    #[error("tokenizer can't encode every text: it has neither all 256 byte pieces nor an unknown piece")]
    Incomplete,
    /// A marker that the vocabulary does not have.
    #[error("tokenizer has no piece `{piece}`, which the configuration names as {marker}")]
    UnknownMarker {
        /// `BOS` or `EOS`.
        marker: &'static str,
        /// The piece asked for.
        piece: String,
    },
    /// A marker that a text can spell.
    #[error("piece `{piece}`, which the configuration names as {marker}, is one of text")]
    TextMarker {
        /// `BOS` or `EOS`.
        marker: &'static str,
        /// The piece asked for.
        piece: String,
    },
    /// The file does not say which piece begins or ends a document.
    #[error("tokenizer does not say which piece is {marker}")]
    NoMarker {
        /// `BOS` or `EOS`.
        marker: &'static str,
    },
}

/// The pieces that begin and end a document, where the file's own are not wanted or it names none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Markers {
    /// The piece of BOS, e.g. `<s>`; the file's own if `None`.
    pub bos: Option<String>,
    /// The piece of EOS, e.g. `</s>`; the file's own if `None`.
    pub eos: Option<String>,
}

/// A text tokenizer. Cheap to clone; usable from many threads at once.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    whole: Whole,
    words: Option<Words>,
    pieces: Pieces,
    /// Where it is absent, the library of [`Whole::Json`] has its own.
    spelling: Option<Spelling>,
    bos: u32,
    eos: u32,
    fingerprint: String,
    bytes: Vec<u8>,
}

/// The encoder of whole texts, by the form of the file.
enum Whole {
    SentencePiece(Box<SentencePiece>),
    Json(Json),
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("file_name", &self.file_name())
            .field("vocabulary_size", &self.vocabulary_size())
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a SentencePiece `tokenizer.model` or a `tokenizer.json`, told apart by their content, with the BOS and EOS
    /// that the file names.
    ///
    /// # Errors
    ///
    /// If the bytes are neither, some text could not be encoded, or BOS or EOS is not in the vocabulary.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenizerError> {
        Self::with_markers(bytes, &Markers::default())
    }

    /// As [`Self::from_bytes`], with other pieces as BOS and EOS.
    ///
    /// # Errors
    ///
    /// As there; a marker that is not a piece of the vocabulary, or that texts can spell, is refused.
    pub fn with_markers(bytes: &[u8], markers: &Markers) -> Result<Self, TokenizerError> {
        let pieces = Pieces::read(bytes)?;
        let bos = pieces.marker("BOS", markers.bos.as_deref(), pieces.bos)?;
        let eos = pieces.marker("EOS", markers.eos.as_deref(), pieces.eos)?;
        Self::build(bytes, pieces, bos, eos)
    }

    /// Reads the copy of a tokenizer in a dataset or checkpoint, with the BOS and EOS that are recorded beside it.
    ///
    /// # Errors
    ///
    /// As [`Self::from_bytes`]; an id that is not in the vocabulary is refused.
    pub fn with_ids(bytes: &[u8], bos: u32, eos: u32) -> Result<Self, TokenizerError> {
        let pieces = Pieces::read(bytes)?;
        for (marker, id) in [("BOS", bos), ("EOS", eos)] {
            pieces.piece(id).ok_or(TokenizerError::NoMarker { marker })?;
        }
        Self::build(bytes, pieces, bos, eos)
    }

    fn build(bytes: &[u8], pieces: Pieces, bos: u32, eos: u32) -> Result<Self, TokenizerError> {
        let (whole, definition, mut spelling) = if pieces.json {
            let json = Json::new(bytes, &pieces)?;
            let definition = json.merges_like_sentencepiece().then(|| definition(bytes, &pieces)).flatten();
            let spelling = (!json.has_decoder()).then(|| Spelling::of_pieces(&pieces));
            (Whole::Json(json), definition, spelling)
        } else {
            let model = SentencePieceModel::from_slice(bytes).map_err(unreadable)?;
            let whole = SentencePiece::new(&model)?;
            let definition =
                sentencepiece::is_llamas_kind(&model).then(|| definition(bytes, &pieces)).flatten();
            (Whole::SentencePiece(Box::new(whole)), definition, Some(Spelling::of_model(&model, &pieces)))
        };
        let mut words = None;
        if let Some(definition) = definition {
            words = Words::new(&definition, &pieces.added)?;
            if words.is_some() && pieces.json {
                spelling = Some(Spelling::of_definition(&definition, &pieces));
            }
        }
        let fingerprint = content_hash(bytes);
        Ok(Self(Arc::new(Inner {
            whole,
            words,
            pieces,
            spelling,
            bos,
            eos,
            fingerprint,
            bytes: bytes.to_vec(),
        })))
    }

    /// The ids of `text`, without BOS and EOS. Nothing is stripped; text that spells a marker stays text.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 4 + 1);
        self.encode_into(text, &mut ids);
        ids
    }

    /// Appends the ids of `text` to `ids`.
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        match self.words(text) {
            Some(words) => words.encode_into(text, true, ids),
            None => match &self.0.whole {
                Whole::SentencePiece(model) => model.encode_into(text, ids),
                Whole::Json(json) => json.encode_into(text, &self.0.pieces, ids),
            },
        }
    }

    /// Whether `text` can be encoded in parts, so that a long document needs no memory for all its ids and its parts can
    /// be encoded at the same time. Vocabularies whose pieces reach over words allow it for no text.
    pub fn has_parts(&self, text: &str) -> bool {
        self.words(text).is_some()
    }

    /// The first place at or behind `from` where a text that has parts can be cut; its end if there is none.
    ///
    /// # Panics
    ///
    /// If `from` lies inside a character or behind the text.
    pub fn part_end(&self, text: &str, from: usize) -> usize {
        self.0.words.as_ref().map_or(text.len(), |words| words.cut_behind(text, from))
    }

    /// Appends the ids of a part of a text that has parts. It begins and ends where [`Self::part_end`] says, or where the text
    /// does; the ids of all parts, one behind the other, are those of the text.
    ///
    /// # Panics
    ///
    /// If the range does not lie in the text.
    pub fn encode_part(&self, text: &str, part: Range<usize>, ids: &mut Vec<u32>) {
        match &self.0.words {
            Some(words) => words.encode_into(&text[part.clone()], part.start == 0, ids),
            None => self.encode_into(&text[part], ids),
        }
    }

    /// The encoder by words, where it gives the ids of this text.
    fn words(&self, text: &str) -> Option<&Words> {
        self.0.words.as_ref().filter(|words| words.applies_to(text))
    }

    /// The text of `ids`, which may be any numbers. BOS, EOS, other control ids and ids that are not the tokenizer's give
    /// nothing; bytes that are no UTF-8 give U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let known: Vec<u32> = ids.iter().copied().filter(|&id| self.0.pieces.is_text(id)).collect();
        match (&self.0.spelling, &self.0.whole) {
            (None, Whole::Json(json)) => json.text(&known),
            (spelling, _) => spelling.as_ref().map(|spelling| spelling.text(&known)).unwrap_or_default(),
        }
    }

    /// The piece of `id` as the file spells it (`▁the`, `<0x0A>`, `</s>`), for drawing a row; `<id>` in figures for
    /// an id that is not the tokenizer's.
    pub fn piece(&self, id: u32) -> String {
        self.0.pieces.piece(id).map_or_else(|| format!("<{id}>"), str::to_owned)
    }

    /// Number of ids, the largest one plus 1.
    pub fn vocabulary_size(&self) -> u32 {
        self.0.pieces.size()
    }

    /// The id that begins a document.
    pub fn bos(&self) -> u32 {
        self.0.bos
    }

    /// The id that ends a document.
    pub fn eos(&self) -> u32 {
        self.0.eos
    }

    /// BLAKE3 of [`Self::bytes`].
    pub fn fingerprint(&self) -> &str {
        &self.0.fingerprint
    }

    /// The file that it was read from.
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// The name that its copy in a dataset or checkpoint has.
    pub fn file_name(&self) -> &'static str {
        if self.0.pieces.json { "tokenizer.json" } else { "tokenizer.model" }
    }
}

fn unreadable(error: impl ToString) -> TokenizerError {
    TokenizerError::Format { what: error.to_string() }
}

/// The definition for kitoken, without pieces that it would search for in a text; none where it can't read the file.
fn definition(bytes: &[u8], pieces: &Pieces) -> Option<Definition> {
    let read =
        if pieces.json { Definition::from_tokenizers_slice } else { Definition::from_sentencepiece_slice };
    let mut definition = read(bytes).ok()?;
    definition
        .specials
        .retain(|special| special.kind != SpecialTokenKind::Control && special.id < pieces.size());
    for unknown in definition.specials.iter_mut().filter(|special| special.kind == SpecialTokenKind::Unknown)
    {
        // A text that spells the unknown piece must not be cut there before it is normalized.
        unknown.extract = false;
    }
    Some(definition)
}

fn has_all_bytes(definition: &Definition) -> bool {
    let mut seen = [false; 256];
    for token in definition.model.vocab() {
        if let [byte] = token.bytes[..] {
            seen[usize::from(byte)] = true;
        }
    }
    seen.iter().all(|&byte| byte)
}

fn encode(kitoken: &Kitoken, text: &str) -> Vec<u32> {
    kitoken.encode(text, &[][..]).expect("a vocabulary with all bytes encodes every text")
}
