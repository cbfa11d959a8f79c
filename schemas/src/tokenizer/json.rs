//! Ids of Hugging Face's tokenizers, for a `tokenizer.json` of any kind: its own library reads the file and cuts the texts.
//!
//! Two things are changed in the file before the library sees it. What is done to a row's ids as a whole (templates, padding,
//! truncation, dropout) is left out, because packing does that. And markers are renamed to what no text spells, in the
//! list of added pieces and in the vocabulary, so that `</s>` in a text is four characters or more. The ids stay as they are.

use std::collections::HashMap;

use serde_json::Value;
use tokenizers::Tokenizer;

use super::pieces::Pieces;
use super::{TokenizerError, unreadable};

/// The library's tokenizer for a file.
pub(super) struct Json {
    tokenizer: Box<Tokenizer>,
    unknown: Option<u32>,
    merges_like_sentencepiece: bool,
    has_decoder: bool,
}

impl Json {
    pub(super) fn new(bytes: &[u8], pieces: &Pieces) -> Result<Self, TokenizerError> {
        let mut file: Value = serde_json::from_slice(bytes).map_err(unreadable)?;
        let merges_like_sentencepiece = merges_like_sentencepiece(&file);
        let has_decoder = !file["decoder"].is_null();
        for part in ["post_processor", "padding", "truncation"] {
            file[part] = Value::Null;
        }
        if file["model"].get("dropout").is_some() {
            file["model"]["dropout"] = Value::Null;
        }
        if !encodes_all(&file) {
            return Err(TokenizerError::Incomplete);
        }
        let unknown = unknown_of(&file["model"]);
        let added = added_pieces(&file);
        let hidden = hide_markers(&mut file, unknown.as_deref());
        let text = serde_json::to_vec(&file).map_err(unreadable)?;
        let mut tokenizer = Box::new(Tokenizer::from_bytes(&text).map_err(unreadable)?);
        tokenizer.set_encode_special_tokens(true);
        for (piece, id) in added {
            let name = if hidden.contains(&piece) { hidden_name(&piece) } else { piece.clone() };
            let given = tokenizer.token_to_id(&name);
            if given.is_some_and(|given| u64::from(given) != id) {
                let what = format!(
                    "added piece `{piece}` has id {id} in the file, and its place there gives it another"
                );
                return Err(unreadable(what));
            }
        }
        let unknown = unknown.and_then(|piece| tokenizer.token_to_id(&piece));
        let unknown = unknown.filter(|&id| pieces.piece(id).is_some());
        Ok(Self { tokenizer, unknown, merges_like_sentencepiece, has_decoder })
    }

    /// Whether the file says how pieces become a text. Without it the library puts a space between any two.
    pub(super) fn has_decoder(&self) -> bool {
        self.has_decoder
    }

    /// Whether the encoder by words may give the same ids.
    pub(super) fn merges_like_sentencepiece(&self) -> bool {
        self.merges_like_sentencepiece
    }

    /// Appends the ids of `text`.
    pub(super) fn encode_into(&self, text: &str, pieces: &Pieces, ids: &mut Vec<u32>) {
        // The library fails where a vocabulary lacks a character and has no unknown piece, which was checked.
        let Ok(encoded) = self.tokenizer.encode_fast(text, false) else { return };
        let is_wanted = |id: &u32| pieces.is_text(*id) || self.unknown == Some(*id);
        ids.extend(encoded.get_ids().iter().copied().filter(is_wanted));
    }

    /// The text of ids that are pieces of text.
    pub(super) fn text(&self, ids: &[u32]) -> String {
        self.tokenizer
            .decode(ids, false)
            .unwrap_or_else(|_| ids.iter().filter_map(|&id| self.tokenizer.id_to_token(id)).collect())
    }
}

/// A name that no text has: it begins with what is no character.
fn hidden_name(piece: &str) -> String {
    format!("\u{10FFFF}{piece}\u{10FFFF}")
}

/// The added pieces and their ids.
fn added_pieces(file: &Value) -> Vec<(String, u64)> {
    let added = file["added_tokens"].as_array().into_iter().flatten();
    added.filter_map(|token| Some((token["content"].as_str()?.to_owned(), token["id"].as_u64()?))).collect()
}

/// Renames the markers; gives their names.
fn hide_markers(file: &mut Value, unknown: Option<&str>) -> Vec<String> {
    let mut hidden = Vec::new();
    for token in file["added_tokens"].as_array_mut().into_iter().flatten() {
        let Some(name) = token["content"].as_str().map(str::to_owned) else { continue };
        if token["special"] == Value::Bool(true) && unknown != Some(name.as_str()) {
            token["content"] = hidden_name(&name).into();
            // A normalization would change the name.
            token["normalized"] = false.into();
            hidden.push(name);
        }
    }
    let model = &mut file["model"];
    match &mut model["vocab"] {
        Value::Object(vocabulary) => {
            for name in &hidden {
                // The order of the vocabulary means nothing; removing the last instead is the quick way.
                if let Some(id) = vocabulary.swap_remove(name) {
                    vocabulary.insert(hidden_name(name), id);
                }
            }
        }
        Value::Array(pieces) => {
            for piece in pieces.iter_mut().filter_map(|entry| entry.get_mut(0)) {
                let name =
                    piece.as_str().filter(|name| hidden.iter().any(|hidden| hidden == name)).map(hidden_name);
                if let Some(name) = name {
                    *piece = name.into();
                }
            }
        }
        _ => {}
    }
    if let Some(merges) = model.get_mut("merges").and_then(Value::as_array_mut) {
        let spells_one = |merge: &Value| merged(merge).is_some_and(|merged| hidden.contains(&merged));
        if !hidden.is_empty() {
            merges.retain(|merge| !spells_one(merge));
        }
    }
    hidden
}

/// What a merge makes; it is written as a pair, or as a text with a space between the two.
fn merged(merge: &Value) -> Option<String> {
    match merge {
        Value::String(text) => text.split_once(' ').map(|(left, right)| [left, right].concat()),
        pair => Some([pair.get(0)?.as_str()?, pair.get(1)?.as_str()?].concat()),
    }
}

/// The piece of what has no other.
fn unknown_of(model: &Value) -> Option<String> {
    let by_id = || model["vocab"].get(model["unk_id"].as_u64()? as usize)?.get(0)?.as_str();
    model["unk_token"].as_str().or_else(by_id).map(str::to_owned)
}

/// Whether every text has ids: there is an unknown piece, or all bytes have pieces.
fn encodes_all(file: &Value) -> bool {
    let model = &file["model"];
    let has = |piece: &str| match &model["vocab"] {
        Value::Object(vocabulary) => vocabulary.contains_key(piece),
        Value::Array(pieces) => {
            pieces.iter().any(|entry| entry.get(0).and_then(Value::as_str) == Some(piece))
        }
        _ => false,
    };
    if unknown_of(model).is_some_and(|unknown| has(&unknown)) {
        return true;
    }
    if mentions(&file["pre_tokenizer"], "ByteLevel") || mentions(&file["normalizer"], "ByteLevel") {
        return tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
            .into_iter()
            .all(|letter| has(letter.encode_utf8(&mut [0; 4])));
    }
    model["byte_fallback"] == Value::Bool(true) && (0..=255u8).all(|byte| has(&format!("<0x{byte:02X}>")))
}

/// Whether a step of that type is among the steps of a part.
fn mentions(part: &Value, kind: &str) -> bool {
    match part {
        Value::Object(fields) => {
            fields.get("type").is_some_and(|found| found == kind)
                || fields.values().any(|value| mentions(value, kind))
        }
        Value::Array(parts) => parts.iter().any(|part| mentions(part, kind)),
        _ => false,
    }
}

/// Whether every pair of pieces whose union is a piece merges, all pairs of a piece at once and pieces one behind the other: what the
/// encoder by words takes for granted. Steps before the merging must be splits only.
fn merges_like_sentencepiece(file: &Value) -> bool {
    let model = &file["model"];
    let plain = model["byte_fallback"] == Value::Bool(true)
        && model["ignore_merges"] != Value::Bool(true)
        && [&model["continuing_subword_prefix"], &model["end_of_word_suffix"]]
            .iter()
            .all(|affix| affix.as_str().is_none_or(str::is_empty));
    let splits = [
        "Metaspace",
        "ByteLevel",
        "Digits",
        "Punctuation",
        "Whitespace",
        "WhitespaceSplit",
        "BertPreTokenizer",
    ];
    if !plain || splits.iter().any(|kind| mentions(&file["pre_tokenizer"], kind)) {
        return false;
    }
    let (Some(vocabulary), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array()) else {
        return false;
    };
    // The encoder by words does not know pieces that are in both lists.
    let added = file["added_tokens"].as_array().into_iter().flatten();
    let mut plain = added
        .filter(|token| token["special"] != Value::Bool(true))
        .filter_map(|token| token["content"].as_str());
    if plain.any(|piece| vocabulary.contains_key(piece)) {
        return false;
    }
    let mut pairs = HashMap::<String, usize>::new();
    let (mut last, mut runs) = (String::new(), 0);
    for merge in merges {
        let Some(whole) = merged(merge) else { return false };
        runs += usize::from(whole != last);
        *pairs.entry(whole.clone()).or_default() += 1;
        last = whole;
    }
    let parts = |piece: &str| {
        let cuts = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
        cuts.filter(|(left, right)| vocabulary.contains_key(*left) && vocabulary.contains_key(*right)).count()
    };
    runs == pairs.len()
        && vocabulary.keys().all(|piece| !pairs.contains_key(piece) || pairs[piece] == parts(piece))
}
