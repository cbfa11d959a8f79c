//! The table of pieces: what each id is called, which ids are text, and which ones the file names as BOS and EOS.

use std::collections::HashMap;

use sentencepiece_model::{SentencePieceModel, Type};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{TokenizerError, unreadable};

/// Pieces by id.
pub(super) struct Pieces {
    names: Vec<Option<Box<str>>>,
    text: Vec<bool>,
    /// Pieces whose names spell a byte that they stand for.
    bytes: Vec<bool>,
    /// Pieces of text that are cut out of a text before all else.
    pub(super) added: Vec<String>,
    /// BOS as the file names it.
    pub(super) bos: Option<u32>,
    /// EOS as the file names it.
    pub(super) eos: Option<u32>,
    /// Whether the file is a `tokenizer.json`.
    pub(super) json: bool,
}

impl Pieces {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, TokenizerError> {
        if bytes.is_empty() {
            return Err(unreadable("the file is empty"));
        }
        if bytes.trim_ascii_start().starts_with(b"{") { from_json(bytes) } else { from_model(bytes) }
    }

    pub(super) fn size(&self) -> u32 {
        self.names.len() as u32
    }

    pub(super) fn piece(&self, id: u32) -> Option<&str> {
        self.names.get(id as usize)?.as_deref()
    }

    /// Whether the id stands for text, as opposed to a marker or a hole in the vocabulary.
    pub(super) fn is_text(&self, id: u32) -> bool {
        self.text.get(id as usize).copied().unwrap_or(false)
    }

    /// Whether the id stands for one byte, which its name spells.
    pub(super) fn is_byte(&self, id: u32) -> bool {
        self.bytes.get(id as usize).copied().unwrap_or(false)
    }

    /// The id of a marker: the piece that was asked for, else the one that the file names.
    pub(super) fn marker(
        &self,
        marker: &'static str,
        asked: Option<&str>,
        own: Option<u32>,
    ) -> Result<u32, TokenizerError> {
        let Some(piece) = asked else {
            return own.filter(|&id| self.piece(id).is_some()).ok_or(TokenizerError::NoMarker { marker });
        };
        match self.find(&[piece]) {
            None => Err(TokenizerError::UnknownMarker { marker, piece: piece.to_owned() }),
            // A text of the corpus could begin or end documents.
            Some(id) if self.is_text(id) => {
                Err(TokenizerError::TextMarker { marker, piece: piece.to_owned() })
            }
            Some(id) => Ok(id),
        }
    }

    fn find(&self, names: &[&str]) -> Option<u32> {
        let id_of = |name: &&str| self.names.iter().position(|piece| piece.as_deref() == Some(*name));
        names.iter().find_map(id_of).map(|id| id as u32)
    }
}

fn from_model(bytes: &[u8]) -> Result<Pieces, TokenizerError> {
    let model = SentencePieceModel::from_slice(bytes).map_err(unreadable)?;
    let name = |piece: &sentencepiece_model::SentencePiece| piece.piece.as_deref().map(Box::from);
    let names: Vec<Option<Box<str>>> = model.pieces.iter().map(name).collect();
    let is_text = |kind: Type| matches!(kind, Type::Normal | Type::Byte | Type::UserDefined);
    let text = model.pieces.iter().map(|piece| is_text(piece.r#type())).collect();
    let bytes = model.pieces.iter().map(|piece| piece.r#type() == Type::Byte).collect();
    let symbols = model.pieces.iter().filter(|piece| piece.r#type() == Type::UserDefined);
    let added = symbols.map(|piece| piece.piece().to_owned()).collect();
    let mut pieces = Pieces { names, text, bytes, added, bos: None, eos: None, json: false };
    // -1 stands for "has none"; a file without a trainer's part has sentencepiece's defaults.
    let (bos, eos) = model.trainer().map_or((1, 2), |trainer| (trainer.bos_id(), trainer.eos_id()));
    pieces.bos = u32::try_from(bos).ok();
    pieces.eos = u32::try_from(eos).ok();
    Ok(pieces)
}

/// The parts of a `tokenizer.json` that name ids.
#[derive(Deserialize)]
struct Json {
    #[serde(default)]
    added_tokens: Vec<Added>,
    model: Model,
    post_processor: Option<PostProcessor>,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    vocab: Vocab,
    unk_token: Option<String>,
    byte_fallback: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Vocab {
    Ids(HashMap<String, u32>),
    Scores(Vec<(String, IgnoredAny)>),
}

#[derive(Deserialize)]
struct PostProcessor {
    #[serde(default)]
    single: Vec<TemplatePiece>,
}

/// A place of the template; only special pieces are of interest, so other forms are accepted unread.
#[derive(Deserialize)]
struct TemplatePiece {
    #[serde(rename = "SpecialToken")]
    special: Option<TemplateSpecial>,
}

#[derive(Deserialize)]
struct TemplateSpecial {
    id: String,
}

/// Names under which the ecosystem's files have BOS and EOS; a `tokenizer.json` has no field for them.
const BOS: [&str; 6] = ["<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "[BOS]", "<|endoftext|>"];
const EOS: [&str; 5] = ["</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "[EOS]"];

fn from_json(bytes: &[u8]) -> Result<Pieces, TokenizerError> {
    let json: Json = serde_json::from_slice(bytes).map_err(unreadable)?;
    let vocabulary: Vec<(String, u32)> = match json.model.vocab {
        Vocab::Ids(ids) => ids.into_iter().collect(),
        Vocab::Scores(scores) => {
            scores.into_iter().enumerate().map(|(id, (name, _))| (name, id as u32)).collect()
        }
    };
    let added = json.added_tokens.iter().map(|added| added.id);
    let last = vocabulary.iter().map(|(_, id)| *id).chain(added).max().unwrap_or(0);
    // Ids are dense in practice; a file that claims far more ids than it has names is broken.
    if last as usize > 2 * (vocabulary.len() + json.added_tokens.len()) + 65_536 {
        return Err(unreadable(format!("id {last} in a vocabulary of {} pieces", vocabulary.len())));
    }
    let (mut names, mut text) = (vec![None; last as usize + 1], vec![false; last as usize + 1]);
    for (name, id) in vocabulary {
        text[id as usize] = json.model.unk_token.as_ref() != Some(&name);
        names[id as usize] = Some(name.into_boxed_str());
    }
    let mut plain = Vec::new();
    for added in json.added_tokens {
        if !added.special {
            plain.push(added.content.clone());
        }
        text[added.id as usize] = !added.special;
        names[added.id as usize] = Some(added.content.into_boxed_str());
    }
    let bytes = vec![json.model.byte_fallback.unwrap_or(false); names.len()];
    let mut pieces = Pieces { names, text, bytes, added: plain, bos: None, eos: None, json: true };
    let template: Vec<String> = json.post_processor.map_or_else(Vec::new, |processor| {
        processor.single.into_iter().filter_map(|piece| piece.special.map(|special| special.id)).collect()
    });
    let in_template = |names: &[&str]| template.iter().map(String::as_str).find(|name| names.contains(name));
    pieces.bos = pieces.find(in_template(&BOS).as_slice()).or_else(|| pieces.find(&BOS));
    pieces.eos = pieces.find(in_template(&EOS).as_slice()).or_else(|| pieces.find(&EOS));
    Ok(pieces)
}
