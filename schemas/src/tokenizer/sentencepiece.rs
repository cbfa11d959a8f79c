//! Ids of Google's sentencepiece, for models of every kind that it makes: unigram, BPE, characters and words.
//!
//! This is sentencepiece's own way, step by step: a text is normalized by the model's table, spaces become `▁`, the model
//! cuts the result into pieces, and what has no piece becomes its bytes or the unknown piece. Pieces of Llama's kind have a
//! faster way, word by word, which gives the same ids.
//!
//! Control pieces are never searched for, so no text can spell one.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};

use sentencepiece_model::{ModelType, NormalizerSpec, SentencePieceModel, Type};

use super::{TokenizerError, unreadable};

/// The space of SentencePiece, U+2581.
const MARK: &str = "▁";

/// What a character without a piece costs a unigram model more than its rarest piece.
const UNKNOWN_PENALTY: f32 = 10.0;

/// The encoder of a `tokenizer.model`.
pub(super) struct SentencePiece {
    kind: ModelType,
    pieces: Trie,
    kinds: Vec<Type>,
    scores: Vec<f32>,
    /// Scores of the rarest and the most frequent piece.
    range: (f32, f32),
    /// Symbols of the user's, which are cut out of a text before all else.
    symbols: Trie,
    bytes: Option<Box<[u32; 256]>>,
    unknown: Option<u32>,
    normalizer: Normalizer,
    suffix: bool,
}

impl SentencePiece {
    pub(super) fn new(model: &SentencePieceModel) -> Result<Self, TokenizerError> {
        let trainer = model.trainer().cloned().unwrap_or_default();
        let kinds: Vec<Type> = model.pieces.iter().map(|piece| piece.r#type()).collect();
        let scores: Vec<f32> = model.pieces.iter().map(|piece| piece.score()).collect();
        let (mut pieces, mut symbols) = (Trie::default(), Trie::default());
        for (id, (piece, &kind)) in model.pieces.iter().zip(&kinds).enumerate() {
            if matches!(kind, Type::Normal | Type::UserDefined | Type::Unused) {
                pieces.insert(piece.piece().as_bytes(), id as u32);
            }
            if kind == Type::UserDefined {
                symbols.insert(piece.piece().as_bytes(), id as u32);
            }
        }
        let normal =
            || kinds.iter().zip(&scores).filter(|(kind, _)| **kind == Type::Normal).map(|(_, score)| *score);
        // The library begins its search for the largest score at the smallest positive number.
        let range = (normal().fold(f32::MAX, f32::min), normal().fold(f32::MIN_POSITIVE, f32::max));
        let unknown = kinds.iter().position(|kind| *kind == Type::Unknown).map(|id| id as u32);
        let bytes = if trainer.byte_fallback() { byte_ids(model) } else { None };
        if bytes.is_none() && unknown.is_none() {
            return Err(TokenizerError::Incomplete);
        }
        if trainer.byte_fallback() && bytes.is_none() {
            return Err(unreadable("the model spells characters in bytes, and not all 256 are pieces"));
        }
        let normalizer = Normalizer::new(model.normalizer(), trainer.treat_whitespace_as_suffix())?;
        let suffix = trainer.treat_whitespace_as_suffix();
        Ok(Self {
            kind: trainer.model_type(),
            pieces,
            kinds,
            scores,
            range,
            symbols,
            bytes,
            unknown,
            normalizer,
            suffix,
        })
    }

    /// Appends the ids of `text`.
    pub(super) fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        let normalized = self.normalizer.normalize(text, &self.symbols);
        let mut output =
            Output { bytes: self.bytes.as_deref(), unknown: self.unknown, after_unknown: false, ids };
        match self.kind {
            ModelType::Unigram => self.unigram(&normalized, &mut output),
            ModelType::Bpe => self.merge(&normalized, &mut output),
            ModelType::Word => {
                words(&normalized, self.suffix).for_each(|word| output.push(self.id(word), word))
            }
            ModelType::Char => self.characters(&normalized, |piece, _| output.push(self.id(piece), piece)),
        }
    }

    fn id(&self, piece: &str) -> Option<u32> {
        self.pieces.get(piece.as_bytes())
    }

    /// Gives the user's symbols and, between them, single characters; a symbol says so.
    fn characters<'a>(&self, text: &'a str, mut each: impl FnMut(&'a str, bool)) {
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let symbol = self.symbols.longest(rest.as_bytes());
            let (piece, behind) = rest.split_at(symbol.unwrap_or(first.len_utf8()));
            each(piece, symbol.is_some());
            rest = behind;
        }
    }

    /// The most probable pieces: Viterbi's search from left to right, with the rounding of the library.
    fn unigram(&self, text: &str, output: &mut Output<'_>) {
        let bytes = text.as_bytes();
        let mut best = vec![Best { score: 0.0, start: usize::MAX, id: None }; bytes.len() + 1];
        for (start, character) in text.char_indices() {
            let (until_here, length) = (best[start].score, character.len_utf8());
            let mut single = false;
            self.pieces.prefixes(&bytes[start..], |end, id| {
                if self.kinds[id as usize] == Type::Unused {
                    return;
                }
                single |= end == length;
                best[start + end].offer(self.score(id, end) + until_here, start, Some(id));
            });
            if !single {
                let score = self.range.0 - UNKNOWN_PENALTY + until_here;
                best[start + length].offer(score, start, None);
            }
        }
        let (mut path, mut end) = (Vec::new(), bytes.len());
        while end > 0 {
            path.push((best[end].start, end, best[end].id));
            end = best[end].start;
        }
        path.into_iter().rev().for_each(|(start, end, id)| output.push(id, &text[start..end]));
    }

    fn score(&self, id: u32, length: usize) -> f32 {
        match self.kinds[id as usize] {
            // A symbol of the user's is always the better choice.
            Type::UserDefined => (f64::from(length as f32 * self.range.1) - 0.1) as f32,
            _ => self.scores[id as usize],
        }
    }

    /// Byte-pair merging: of all neighbours whose union is a piece, those with the best score first, then the leftmost.
    fn merge(&self, text: &str, output: &mut Output<'_>) {
        let mut symbols: Vec<Symbol> = Vec::new();
        let mut at = 0;
        self.characters(text, |piece, frozen| {
            let index = symbols.len();
            symbols.push(Symbol {
                start: at,
                end: at + piece.len(),
                before: index.checked_sub(1),
                behind: Some(index + 1),
                frozen,
            });
            at += piece.len();
        });
        if let Some(last) = symbols.last_mut() {
            last.behind = None;
        }
        let mut merging =
            Merging { model: self, text, symbols, agenda: BinaryHeap::new(), unused: HashMap::new() };
        for left in 1..merging.symbols.len() {
            merging.offer(Some(left - 1), Some(left));
        }
        merging.run();
        merging.symbols.iter().filter(|symbol| symbol.start < symbol.end).for_each(|symbol| {
            merging.push(&text[symbol.start..symbol.end], output);
        });
    }
}

/// Whether a model is of Llama's kind: byte-pair merging within words that begin with `▁`, nothing changed in a text but that.
/// Such texts can be encoded word by word.
pub(super) fn is_llamas_kind(model: &SentencePieceModel) -> bool {
    let (Some(trainer), Some(normalizer)) = (model.trainer(), model.normalizer()) else { return false };
    let stays_in_words = |piece: &str| !piece.trim_start_matches(MARK).contains(MARK);
    trainer.model_type() == ModelType::Bpe
        && trainer.byte_fallback()
        && !trainer.treat_whitespace_as_suffix()
        && normalizer.precompiled_charsmap().is_empty()
        && normalizer.escape_whitespaces()
        && !normalizer.remove_extra_whitespaces()
        && byte_ids(model).is_some()
        && model.pieces.iter().all(|piece| match piece.r#type() {
            Type::Normal => stays_in_words(piece.piece()),
            kind => kind != Type::Unused,
        })
}

/// The ids of the pieces `<0x00>` to `<0xFF>`, if all are there.
fn byte_ids(model: &SentencePieceModel) -> Option<Box<[u32; 256]>> {
    let mut ids = Box::new([u32::MAX; 256]);
    for (id, piece) in model.pieces.iter().enumerate().filter(|(_, piece)| piece.r#type() == Type::Byte) {
        ids[usize::from(super::spelling::byte_of(piece.piece())?)] = id as u32;
    }
    (!ids.contains(&u32::MAX)).then_some(ids)
}

/// Collects ids: what has no piece becomes its bytes, or one unknown piece for the whole run of it.
struct Output<'a> {
    bytes: Option<&'a [u32; 256]>,
    unknown: Option<u32>,
    after_unknown: bool,
    ids: &'a mut Vec<u32>,
}

impl Output<'_> {
    fn push(&mut self, id: Option<u32>, piece: &str) {
        match (id, self.bytes, self.unknown) {
            (Some(id), ..) => self.ids.push(id),
            (None, Some(bytes), _) => self.ids.extend(piece.bytes().map(|byte| bytes[usize::from(byte)])),
            (None, None, Some(unknown)) if !self.after_unknown => self.ids.push(unknown),
            (None, None, _) => {}
        }
        self.after_unknown = id.is_none();
    }
}

/// The best way to a place of a text.
#[derive(Clone, Copy)]
struct Best {
    score: f32,
    /// Where its last piece begins; `usize::MAX` as long as there is no way.
    start: usize,
    id: Option<u32>,
}

impl Best {
    fn offer(&mut self, score: f32, start: usize, id: Option<u32>) {
        if self.start == usize::MAX || score > self.score {
            *self = Self { score, start, id };
        }
    }
}

/// A part of a text that is being merged; empty once its left neighbour has it.
struct Symbol {
    start: usize,
    end: usize,
    before: Option<usize>,
    behind: Option<usize>,
    /// Whether it is a symbol of the user's, which never merges.
    frozen: bool,
}

/// Two neighbours that may merge.
#[derive(PartialEq)]
struct Pair {
    score: f32,
    left: Reverse<usize>,
    right: usize,
    length: usize,
}

impl Eq for Pair {}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(self.left.cmp(&other.left))
    }
}

struct Merging<'a> {
    model: &'a SentencePiece,
    text: &'a str,
    symbols: Vec<Symbol>,
    agenda: BinaryHeap<Pair>,
    /// Pieces that serve for merging only, and the two parts that made them.
    unused: HashMap<&'a str, (&'a str, &'a str)>,
}

impl<'a> Merging<'a> {
    fn offer(&mut self, left: Option<usize>, right: Option<usize>) {
        let (Some(left), Some(right)) = (left, right) else { return };
        let (first, second) = (&self.symbols[left], &self.symbols[right]);
        if first.frozen || second.frozen {
            return;
        }
        let whole = &self.text[first.start..second.end];
        let Some(id) = self.model.id(whole) else { return };
        if self.model.kinds[id as usize] == Type::Unused {
            self.unused.insert(whole, whole.split_at(second.start - first.start));
        }
        let score = self.model.scores[id as usize];
        self.agenda.push(Pair { score, left: Reverse(left), right, length: whole.len() });
    }

    fn run(&mut self) {
        while let Some(Pair { left: Reverse(left), right, length, .. }) = self.agenda.pop() {
            let size = |symbol: &Symbol| symbol.end - symbol.start;
            let sizes = (size(&self.symbols[left]), size(&self.symbols[right]));
            // One of the two has been merged with another since.
            if sizes.0 == 0 || sizes.1 == 0 || sizes.0 + sizes.1 != length {
                continue;
            }
            let (end, behind) = (self.symbols[right].end, self.symbols[right].behind);
            self.symbols[right].end = self.symbols[right].start;
            self.symbols[left].end = end;
            self.symbols[left].behind = behind;
            if let Some(behind) = behind {
                self.symbols[behind].before = Some(left);
            }
            self.offer(self.symbols[left].before, Some(left));
            self.offer(Some(left), behind);
        }
    }

    /// Gives out a merged part; a piece that serves for merging only is taken apart again.
    fn push(&self, part: &str, output: &mut Output<'_>) {
        let mut open = vec![part];
        while let Some(part) = open.pop() {
            let id = self.model.id(part);
            let is_unused = id.is_some_and(|id| self.model.kinds[id as usize] == Type::Unused);
            match self.unused.get(part) {
                Some((left, right)) if is_unused => open.extend([*right, *left]),
                _ => output.push(id, part),
            }
        }
    }
}

/// Words with their `▁` before them, or behind them.
fn words(text: &str, suffix: bool) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = match suffix {
            true => rest.find(MARK).map(|at| at + MARK.len()),
            false => next_mark(rest),
        };
        let (word, behind) = rest.split_at(end.unwrap_or(rest.len()));
        rest = behind;
        (!word.is_empty()).then_some(word)
    })
}

/// The first `▁` that does not begin the text.
fn next_mark(text: &str) -> Option<usize> {
    let first = text.chars().next()?.len_utf8();
    text[first..].find(MARK).map(|at| at + first)
}

/// What is done to a text before it is cut into pieces.
struct Normalizer {
    table: Option<Table>,
    trims: bool,
    prefix: bool,
    suffix: bool,
    space: &'static str,
}

impl Normalizer {
    fn new(spec: Option<&NormalizerSpec>, suffix: bool) -> Result<Self, TokenizerError> {
        let spec = spec.cloned().unwrap_or_default();
        let map = spec.precompiled_charsmap();
        if map.is_empty() && !matches!(spec.name(), "" | "identity" | "user_defined") {
            return Err(unreadable(format!(
                "the model lacks the table of its normalization `{}`",
                spec.name()
            )));
        }
        Ok(Self {
            table: if map.is_empty() { None } else { Some(Table::read(map)?) },
            trims: spec.remove_extra_whitespaces(),
            prefix: spec.add_dummy_prefix() && !suffix,
            suffix: spec.add_dummy_prefix() && suffix,
            space: if spec.escape_whitespaces() { MARK } else { " " },
        })
    }

    fn normalize(&self, text: &str, symbols: &Trie) -> String {
        let mut rest = text;
        if self.trims {
            while let Some((" ", length)) = self.next(rest, symbols) {
                rest = &rest[length..];
            }
        }
        let mut normalized = String::with_capacity(rest.len() + rest.len() / 4 + MARK.len());
        if rest.is_empty() {
            return normalized;
        }
        if self.prefix {
            normalized.push_str(self.space);
        }
        let mut after_space = self.trims;
        while let Some((mut part, length)) = self.next(rest, symbols) {
            rest = &rest[length..];
            if after_space {
                part = part.trim_start_matches(' ');
            }
            if !part.is_empty() {
                part.split_inclusive(' ').for_each(|piece| match piece.strip_suffix(' ') {
                    Some(before) => normalized.extend([before, self.space]),
                    None => normalized.push_str(piece),
                });
                after_space = part.ends_with(' ');
            }
            after_space &= self.trims;
        }
        if self.trims {
            normalized.truncate(normalized.trim_end_matches(self.space).len());
        }
        if self.suffix {
            normalized.push_str(self.space);
        }
        normalized
    }

    /// What the beginning of a text becomes, and its length: a symbol of the user's, the longest rule that applies, or a
    /// character.
    fn next<'a>(&'a self, text: &'a str, symbols: &Trie) -> Option<(&'a str, usize)> {
        let first = text.chars().next()?.len_utf8();
        if let Some(symbol) = symbols.longest(text.as_bytes()) {
            return Some((&text[..symbol], symbol));
        }
        let rule = self.table.as_ref().and_then(|table| table.longest(text));
        Some(rule.unwrap_or((&text[..first], first)))
    }
}

/// The compiled rules of normalization: a double array of keys, then their replacements, each ended by a zero.
struct Table {
    units: Vec<u32>,
    texts: String,
}

impl Table {
    fn read(map: &[u8]) -> Result<Self, TokenizerError> {
        let broken = || unreadable("the table of normalization is damaged");
        let (length, rest) = map.split_first_chunk::<4>().ok_or_else(broken)?;
        let (units, texts) =
            rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(broken)?;
        let units = units.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        Ok(Self { units, texts: String::from_utf8(texts.to_vec()).map_err(|_| broken())? })
    }

    /// The replacement of the longest key that `text` begins with, and the key's length.
    fn longest<'a>(&'a self, text: &str) -> Option<(&'a str, usize)> {
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let mut node = offset(*self.units.first()?);
        let mut found = None;
        for (at, &byte) in text.as_bytes().iter().enumerate() {
            node ^= usize::from(byte);
            let Some(&unit) = self.units.get(node) else { break };
            if unit & (1 << 31 | 0xFF) != u32::from(byte) {
                break;
            }
            node ^= offset(unit);
            if unit >> 8 & 1 == 1 {
                let value = self.units.get(node).map(|leaf| leaf & (u32::MAX >> 1));
                found = value.map(|value| (value as usize, at + 1)).or(found);
            }
        }
        let (value, length) = found.filter(|&(_, length)| text.is_char_boundary(length))?;
        let text = self.texts.get(value..)?;
        Some((text.split('\0').next().unwrap_or_default(), length))
    }
}

/// Pieces by their first bytes.
#[derive(Default)]
struct Trie {
    /// Node and byte to the next node; 0 is the root.
    edges: HashMap<(u32, u8), u32>,
    ids: HashMap<u32, u32>,
}

impl Trie {
    fn insert(&mut self, key: &[u8], id: u32) {
        let mut node = 0;
        for &byte in key {
            let next = self.edges.len() as u32 + 1;
            node = *self.edges.entry((node, byte)).or_insert(next);
        }
        if node > 0 {
            self.ids.insert(node, id);
        }
    }

    fn get(&self, key: &[u8]) -> Option<u32> {
        let mut node = 0;
        for &byte in key {
            node = *self.edges.get(&(node, byte))?;
        }
        self.ids.get(&node).copied()
    }

    /// Calls `each` with the length and id of every key that `text` begins with, shortest first.
    fn prefixes(&self, text: &[u8], mut each: impl FnMut(usize, u32)) {
        let mut node = 0;
        for (at, &byte) in text.iter().enumerate() {
            let Some(&next) = self.edges.get(&(node, byte)) else { break };
            node = next;
            if let Some(&id) = self.ids.get(&node) {
                each(at + 1, id);
            }
        }
    }

    /// The length of the longest key that `text` begins with.
    fn longest(&self, text: &[u8]) -> Option<usize> {
        if self.ids.is_empty() {
            return None;
        }
        let mut longest = None;
        self.prefixes(text, |length, _| longest = Some(length));
        longest
    }
}
