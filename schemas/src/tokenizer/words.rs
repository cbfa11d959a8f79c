//! Encoding by words, with a memory of their ids.
//!
//! Byte-pair merging is local: where no piece of the vocabulary reaches over a place, the ids left and right of it are
//! independent, so cutting there changes none. Three such places are used. Before a run of `▁` (the space of these
//! vocabularies), if no piece has `▁` behind another character or the tokenizer itself splits there; around a line end,
//! if it is a piece of its own only; and, in words of more than [`LONG_WORD`] bytes, between two characters that stand side by side in no piece, so that a document
//! without spaces costs a linear time too. Words are short and few are different, so a small table of the ids of
//! words that were met before answers most of them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::{Mutex, OnceLock, PoisonError};

use kitoken::{
    Definition, Kitoken, Model, Normalization, NormalizationReplacePattern, Processing, SpecialTokenKind,
    Split, SplitBehavior, SplitPattern,
};

use super::{TokenizerError, encode, has_all_bytes, unreadable};

/// The space of SentencePiece, U+2581.
const MARK: char = '▁';

/// Words longer than this, in bytes, are cut at places that no piece reaches over.
const LONG_WORD: usize = 512;

/// More text pieces than this are not searched for in each text; such a tokenizer takes the slow way.
const MOST_TEXT_PIECES: usize = 8;

/// Encodes texts word by word.
pub(super) struct Words {
    kitoken: Kitoken,
    prefix: bool,
    /// Pieces that must be cut out of a text before all else, with `▁` for each space.
    added: Vec<String>,
    vocabulary: Vec<Vec<u8>>,
    neighbours: OnceLock<HashSet<(char, char)>>,
    longest_piece: usize,
    split_further: bool,
    lines: bool,
    memories: Mutex<Vec<Memory>>,
}

impl Words {
    /// `None` where cutting a text into words could change an id.
    pub(super) fn new(definition: &Definition, added: &[String]) -> Result<Option<Self>, TokenizerError> {
        let Some(prefix) = prefix_of(&definition.config.normalization) else { return Ok(None) };
        if !cuts_before_marks(definition) || added.len() > MOST_TEXT_PIECES {
            return Ok(None);
        }
        let mut by_word = definition.clone();
        by_word.config.normalization.clear();
        by_word.specials.retain(|special| special.kind == SpecialTokenKind::Unknown);
        let vocabulary: Vec<Vec<u8>> =
            definition.model.vocab().iter().map(|token| token.bytes.clone()).collect();
        Ok(Some(Self {
            kitoken: Kitoken::from_definition(by_word).map_err(unreadable)?,
            prefix,
            added: added.iter().map(|piece| marked(piece).into_owned()).collect(),
            lines: definition.config.split.len() <= 1 && !vocabulary.iter().any(|piece| joins_lines(piece)),
            longest_piece: vocabulary.iter().map(Vec::len).max().unwrap_or(0),
            vocabulary,
            neighbours: OnceLock::new(),
            split_further: definition.config.split.len() > 1,
            memories: Mutex::new(Vec::new()),
        }))
    }

    /// Whether `text` has none of the text pieces that must be found before it is cut.
    pub(super) fn applies_to(&self, text: &str) -> bool {
        let is_in = |text: &str| self.added.iter().any(|piece| text.contains(piece.as_str()));
        self.added.is_empty() || !is_in(&marked(text))
    }

    /// Appends the ids of `text`, which begins its document if `first`.
    pub(super) fn encode_into(&self, text: &str, first: bool, ids: &mut Vec<u32>) {
        let pool = || self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = pool().pop().unwrap_or_else(Memory::new);
        self.encode_words(text, first, &mut memory, ids);
        pool().push(memory);
    }

    /// The first place at or behind `from` where `text` can be cut without changing an id; its end if there is none.
    ///
    /// That is before a run of spaces, before a line end that stands alone, or far inside a long word.
    pub(super) fn cut_behind(&self, text: &str, from: usize) -> usize {
        let least = LONG_WORD.max(self.longest_piece + 4);
        let (mut word, mut before, mut inside) = (from, None, None);
        for (offset, character) in text[from..].char_indices() {
            let at = from + offset;
            match character {
                '\n' if self.lines && at > 0 => return at,
                ' ' if at > 0 && !text[..at].ends_with([' ', MARK]) => return at,
                ' ' | MARK => (word, inside) = (at, None),
                _ => match inside {
                    Some(cut) if at > cut + least => return cut,
                    None if at > word + least && self.stand_apart(before, character) => inside = Some(at),
                    _ => {}
                },
            }
            before = Some(character);
        }
        text.len()
    }

    fn encode_words(&self, text: &str, first: bool, memory: &mut Memory, ids: &mut Vec<u32>) {
        let bytes = text.as_bytes();
        let (mut at, mut marks) = (0, usize::from(first && self.prefix));
        while at < bytes.len() {
            if self.lines && marks == 0 && bytes[at] == b'\n' {
                self.encode_word(0, "\n", memory, ids);
                at += 1;
                continue;
            }
            loop {
                match bytes.get(at) {
                    Some(b' ') => at += 1,
                    Some(0xE2) if text[at..].starts_with(MARK) => at += MARK.len_utf8(),
                    _ => break,
                }
                marks += 1;
            }
            let end = at + next_cut(&text[at..], self.lines);
            self.encode_word(marks, &text[at..end], memory, ids);
            (at, marks) = (end, 0);
        }
    }

    /// The ids of a word behind so many `▁`.
    fn encode_word(&self, marks: usize, run: &str, memory: &mut Memory, ids: &mut Vec<u32>) {
        let Some(key) = Key::new(marks, run) else {
            return self.encode_long(&spelled(marks, run), ids);
        };
        let slot = memory.slot(key);
        if slot.key != key {
            let found = encode(&self.kitoken, &spelled(marks, run));
            if found.len() > slot.ids.len() {
                return ids.extend(found);
            }
            slot.key = key;
            slot.len = found.len() as u8;
            slot.ids[..found.len()].copy_from_slice(&found);
        }
        ids.extend_from_slice(&slot.ids[..usize::from(slot.len)]);
    }

    fn encode_long(&self, mut word: &str, ids: &mut Vec<u32>) {
        while let Some(cut) = self.cut_of(word) {
            let (head, tail) = word.split_at(cut);
            ids.extend(encode(&self.kitoken, head));
            word = tail;
        }
        ids.extend(encode(&self.kitoken, word));
    }

    /// The first place behind `LONG_WORD` bytes that no piece reaches over. Both sides stay longer than any piece, so
    /// that neither is looked up whole.
    fn cut_of(&self, word: &str) -> Option<usize> {
        let least = LONG_WORD.max(self.longest_piece + 4);
        if word.len() <= 2 * least {
            return None;
        }
        let mut before = None;
        for (at, character) in word.char_indices() {
            if at > least && at + least < word.len() && self.stand_apart(before, character) {
                return Some(at);
            }
            before = Some(character);
        }
        None
    }

    /// Whether no piece has these characters side by side.
    fn stand_apart(&self, before: Option<char>, character: char) -> bool {
        let neighbours = || self.neighbours.get_or_init(|| neighbours(&self.vocabulary));
        !self.split_further && before.is_some_and(|before| !neighbours().contains(&(before, character)))
    }
}

/// A text with `▁` for each space.
fn marked(text: &str) -> Cow<'_, str> {
    if text.contains(' ') { text.replace(' ', "▁").into() } else { text.into() }
}

/// A word as the vocabulary spells it.
fn spelled(marks: usize, run: &str) -> String {
    let mut word = String::with_capacity(marks * MARK.len_utf8() + run.len());
    word.extend(std::iter::repeat_n(MARK, marks));
    word.push_str(run);
    word
}

/// The first space or `▁`, or with `lines` the first line end before it.
fn next_cut(text: &str, lines: bool) -> usize {
    let bytes = text.as_bytes();
    let cuts = |byte: u8| byte == b' ' || (lines && byte == b'\n');
    let mut from = 0;
    // 0xE2 may begin a `▁`.
    while let Some(found) = bytes[from..].iter().position(|&byte| cuts(byte) || byte == 0xE2) {
        let at = from + found;
        if cuts(bytes[at]) || text[at..].starts_with(MARK) {
            return at;
        }
        from = at + 1;
    }
    text.len()
}

/// Whether a piece has a line end beside another character.
fn joins_lines(piece: &[u8]) -> bool {
    piece.len() > 1 && piece.contains(&b'\n')
}

/// Characters that stand side by side in a piece.
fn neighbours(vocabulary: &[Vec<u8>]) -> HashSet<(char, char)> {
    let texts = vocabulary.iter().filter_map(|piece| std::str::from_utf8(piece).ok());
    texts.flat_map(|piece| piece.chars().zip(piece.chars().skip(1))).collect()
}

/// Whether a `▁` goes before the text, if that and `▁` for each space is all the normalization there is.
fn prefix_of(normalization: &[Normalization]) -> Option<bool> {
    let mark = MARK.to_string();
    let (mut prefix, mut replaces) = (0, false);
    for step in normalization {
        match step {
            Normalization::Replace { pattern, replacement } if is_space(pattern) && *replacement == mark => {
                replaces = true;
            }
            Normalization::Extend { character: MARK, left: 1, right: 0, pad: false } => prefix += 1,
            Normalization::Prepend { prepend } if *prepend == mark => prefix += 1,
            _ => return None,
        }
    }
    (replaces && prefix <= 1).then_some(prefix == 1)
}

fn is_space(pattern: &NormalizationReplacePattern) -> bool {
    match pattern {
        NormalizationReplacePattern::Character(character) => *character == ' ',
        NormalizationReplacePattern::String(text) => text == " ",
        NormalizationReplacePattern::Regex(regex) => &**regex == " ",
    }
}

/// Whether the ids on both sides of the start of a word are independent.
fn cuts_before_marks(definition: &Definition) -> bool {
    let config = &definition.config;
    // Runs of unknown pieces become one, also over the start of a word; with all bytes there are none.
    let local = |step: &Processing| matches!(step, Processing::Collapse { .. });
    let Model::BytePair { vocab, chars: true } = &definition.model else { return false };
    if !has_all_bytes(definition) || !config.processing.iter().all(local) {
        return false;
    }
    match config.split.first() {
        None => vocab.iter().all(|piece| !has_inner_mark(&piece.bytes)),
        Some(Split::Pattern { pattern: SplitPattern::Regex(regex), behavior: SplitBehavior::MergeRight }) => {
            &**regex == "▁+"
        }
        Some(_) => false,
    }
}

fn has_inner_mark(piece: &[u8]) -> bool {
    std::str::from_utf8(piece).is_ok_and(|piece| piece.trim_start_matches(MARK).contains(MARK))
}

/// Slots of a [`Memory`]; with 64 bytes each 2 MiB.
const SLOTS: usize = 1 << 15;

/// Ids of words that were met before. Each word has one place; a later word takes it over.
struct Memory(Box<[Slot]>);

/// One cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Slot {
    key: Key,
    ids: [u32; 7],
    len: u8,
}

/// A word: the letters behind its `▁`, padded with zeros, then the number of `▁`, then that of the letters' bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key([u8; 32]);

impl Key {
    fn new(marks: usize, run: &str) -> Option<Self> {
        let mut key = [0; 32];
        key.get_mut(..30)?.get_mut(..run.len())?.copy_from_slice(run.as_bytes());
        key[30] = u8::try_from(marks).ok()?;
        key[31] = run.len() as u8;
        Some(Self(key))
    }

    fn place(&self) -> usize {
        let word = |index: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&self.0[8 * index..8 * index + 8]);
            u64::from_le_bytes(bytes)
        };
        let mix = |hash: u64, index: usize| {
            (hash.rotate_left(23) ^ word(index)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        };
        (0..4).fold(0, mix).wrapping_shr(64 - SLOTS.ilog2()) as usize
    }
}

impl Memory {
    fn new() -> Self {
        // No word has 255 bytes, so an empty slot matches none.
        let empty = Slot { key: Key([255; 32]), ids: [0; 7], len: 0 };
        Self(vec![empty; SLOTS].into_boxed_slice())
    }

    fn slot(&mut self, key: Key) -> &mut Slot {
        &mut self.0[key.place()]
    }
}
