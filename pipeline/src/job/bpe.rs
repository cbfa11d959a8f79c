//! A tokenizer of the corpus' own: byte-pair encoding with byte fallback, as a `tokenizer.json`.
//!
//! It is of Llama's kind: one `▁` goes before a text and stands for every space, nothing else is changed, and what the
//! vocabulary does not have is spelled in bytes, so any text comes back as it was (but for U+2581 itself, which comes
//! back as a space). Words start at runs of `▁`; digits, punctuation, signs and line ends stand alone, so that no
//! piece can spell a marker such as `<s>` and `circle,` is the piece `▁circle` and a comma.
//!
//! The `tokenizers` crate chooses the pieces. Its file lists one pair for each piece, while readers of SentencePiece's
//! kind let any two neighbours merge whose union is a piece; so that both give the same ids, all such pairs are
//! written. Ids: 0 `<unk>`, 1 `<s>` (BOS), 2 `</s>` (EOS), 3 to 258 the bytes, then letters and merges.

use crate::config::RESERVED;
use std::collections::{BTreeMap, HashMap};

use ahash::AHashMap;
use compact_str::CompactString;
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::tokenizer::{NormalizedString, OffsetReferential, OffsetType, PreTokenizedString};
use tokenizers::{AddedToken, Normalizer, NormalizerWrapper, PreTokenizer, PreTokenizerWrapper};

/// Characters of the longest piece, as SentencePiece has it.
const LONGEST_PIECE: usize = 16;

/// Letters are kept, most frequent first, until they cover this share of the text; the rest is spelled in bytes.
const COVERAGE: f64 = 0.9995;

/// Different words that are counted; when there are more, those seen once so far are forgotten.
const MOST_WORDS: usize = 2_000_000;

/// Why no tokenizer was trained.
#[derive(Debug, thiserror::Error)]
pub enum BpeError {
    /// Not even one letter would fit.
    #[error("a vocabulary of {found} is too small: {RESERVED} ids are taken by markers and bytes")]
    TooSmall {
        /// The size asked for.
        found: u32,
    },
    /// No text, or none but white space.
    #[error("there is no text to train a tokenizer on")]
    NoText,
    /// The training library's own complaint.
    #[error("tokenizer can't be trained: {0}")]
    Library(String),
}

fn library(error: impl ToString) -> BpeError {
    BpeError::Library(error.to_string())
}

/// Counts the words of texts, then trains.
pub(crate) struct Trainer {
    vocabulary: u32,
    words: HashMap<String, u64>,
    normalizer: NormalizerWrapper,
    pre_tokenizer: PreTokenizerWrapper,
}

impl std::fmt::Debug for Trainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer")
            .field("vocabulary", &self.vocabulary)
            .field("words", &self.words.len())
            .finish()
    }
}

impl Trainer {
    /// A trainer for at most `vocabulary` ids, markers and bytes included; BOI and EOI are not counted. A corpus with
    /// few words gives fewer.
    ///
    /// # Errors
    ///
    /// If not even one letter would fit.
    pub(crate) fn try_new(vocabulary: u32) -> Result<Self, BpeError> {
        if vocabulary <= RESERVED {
            return Err(BpeError::TooSmall { found: vocabulary });
        }
        let normalizer = serde_json::from_value(normalizer()).map_err(library)?;
        let pre_tokenizer = serde_json::from_value(pre_tokenizer()).map_err(library)?;
        Ok(Self { vocabulary, words: HashMap::new(), normalizer, pre_tokenizer })
    }

    /// Counts the words of a text. The order of texts does not matter up to two million different words.
    ///
    /// # Errors
    ///
    /// The training library's.
    pub(crate) fn add(&mut self, text: &str) -> Result<(), BpeError> {
        let mut normalized = NormalizedString::from(text);
        self.normalizer.normalize(&mut normalized).map_err(library)?;
        let mut words = PreTokenizedString::from(normalized);
        self.pre_tokenizer.pre_tokenize(&mut words).map_err(library)?;
        for (word, _, _) in words.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            match self.words.get_mut(word) {
                Some(count) => *count += 1,
                None => drop(self.words.insert(word.to_owned(), 1)),
            }
        }
        if self.words.len() > MOST_WORDS {
            self.words.retain(|_, count| *count > 1);
        }
        Ok(())
    }

    /// The bytes of a `tokenizer.json`. The same words and counts give the same bytes.
    ///
    /// # Errors
    ///
    /// If there was no text.
    pub(crate) fn finish(self) -> Result<Vec<u8>, BpeError> {
        let counts = known_words(&self.words, (self.vocabulary - RESERVED) as usize);
        if counts.is_empty() {
            return Err(BpeError::NoText);
        }
        let trainer = BpeTrainer::builder()
            .vocab_size(self.vocabulary as usize)
            .show_progress(false)
            .special_tokens(reserved().map(|piece| AddedToken::from(piece, true)).collect())
            .max_token_length(Some(LONGEST_PIECE))
            .build();
        let mut model = BPE::default();
        trainer.do_train(&counts, &mut model).map_err(library)?;
        let pieces: BTreeMap<u32, String> =
            model.get_vocab().into_iter().map(|(piece, id)| (id, piece)).collect();
        let mut bytes =
            serde_json::to_vec_pretty(&file(&pieces.into_values().collect::<Vec<_>>())).map_err(library)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// Trains on texts at hand; see `Trainer`.
///
/// # Errors
///
/// If the vocabulary is too small or there is no text.
pub fn train<T: AsRef<str>>(
    texts: impl IntoIterator<Item = T>,
    vocabulary: u32,
) -> Result<Vec<u8>, BpeError> {
    let mut trainer = Trainer::try_new(vocabulary)?;
    for text in texts {
        trainer.add(text.as_ref())?;
    }
    trainer.finish()
}

fn normalizer() -> Value {
    json!({ "type": "Sequence", "normalizers": [
        { "type": "Prepend", "prepend": "▁" },
        { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
    ] })
}

fn pre_tokenizer() -> Value {
    let split = |pattern: &str, behavior: &str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": behavior, "invert": false });
    // `▁` itself is of the class So, which therefore is not among those that stand alone.
    let alone = split(r"[\p{N}\p{P}\p{Sc}\p{Sk}\p{Sm}\s]", "Isolated");
    json!({ "type": "Sequence", "pretokenizers": [split("▁+", "MergedWithNext"), alone] })
}

fn decoder() -> Value {
    json!({ "type": "Sequence", "decoders": [
        { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
        { "type": "ByteFallback" },
        { "type": "Fuse" },
        { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
    ] })
}

fn reserved() -> impl Iterator<Item = String> {
    let markers = ["<unk>", "<s>", "</s>"].map(str::to_owned);
    markers.into_iter().chain((0..256).map(|byte| format!("<0x{byte:02X}>")))
}

/// The words cut at characters that are not kept as letters, of which there are at most half of `free`.
fn known_words(words: &HashMap<String, u64>, free: usize) -> AHashMap<CompactString, u64> {
    let mut letters: BTreeMap<char, u64> = BTreeMap::new();
    for (word, count) in words {
        word.chars().for_each(|letter| *letters.entry(letter).or_default() += count);
    }
    let total: u64 = letters.values().sum();
    let mut ranked: Vec<(char, u64)> = letters.into_iter().collect();
    ranked.sort_by_key(|&(letter, count)| (std::cmp::Reverse(count), letter));
    let (mut kept, mut covered) = (std::collections::HashSet::new(), 0);
    for (letter, count) in ranked.into_iter().take(free.div_ceil(2)) {
        if covered as f64 >= COVERAGE * total as f64 {
            break;
        }
        covered += count;
        kept.insert(letter);
    }
    let mut known = AHashMap::new();
    for (word, count) in words {
        for part in word.split(|letter| !kept.contains(&letter)).filter(|part| !part.is_empty()) {
            *known.entry(CompactString::from(part)).or_default() += count;
        }
    }
    known
}

/// The whole file, for pieces in the order of their ids.
fn file(pieces: &[String]) -> Value {
    let vocabulary: serde_json::Map<String, Value> =
        pieces.iter().enumerate().map(|(id, piece)| (piece.clone(), json!(id))).collect();
    let own: std::collections::HashSet<&str> =
        pieces.iter().skip(RESERVED as usize).map(String::as_str).collect();
    let pairs = |piece: &'_ String| -> Vec<Value> {
        let cuts = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
        let merging = cuts.filter(|(left, right)| own.contains(left) && own.contains(right));
        merging.map(|(left, right)| json!([left, right])).collect()
    };
    let merges: Vec<Value> = pieces.iter().skip(RESERVED as usize).flat_map(pairs).collect();
    let marker = |id: usize| {
        json!({
            "id": id, "content": pieces[id], "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [marker(0), marker(1), marker(2)],
        "normalizer": normalizer(),
        "pre_tokenizer": pre_tokenizer(),
        "post_processor": null,
        "decoder": decoder(),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use schemas::Tokenizer;

    use super::*;

    const CAPTIONS: [&str; 6] = [
        "a red circle above a blue square",
        "a green triangle on a white background",
        "two small yellow circles, left of a red square",
        "a large blue circle below a green triangle",
        "one black star right of two white squares",
        "a yellow star on a black background.",
    ];

    fn captions() -> Vec<u8> {
        train(CAPTIONS, 1024).unwrap()
    }

    #[test]
    fn few_words_become_about_a_piece_a_word() {
        let tokenizer = Tokenizer::from_bytes(&captions()).unwrap();
        let words: usize = CAPTIONS.iter().map(|caption| caption.split(' ').count()).sum();
        let pieces: usize = CAPTIONS.iter().map(|caption| tokenizer.encode(caption).len()).sum();
        assert!(tokenizer.has_parts(CAPTIONS[0]));
        // One comma and one full stop, and nothing cut.
        assert_eq!(pieces, words + 2);
        assert!(tokenizer.vocabulary_size() < 500, "{}", tokenizer.vocabulary_size());
    }

    #[test]
    fn training_is_deterministic() {
        let bytes = captions();
        for _ in 0..3 {
            assert_eq!(captions(), bytes);
        }
        let backwards: Vec<&str> = CAPTIONS.into_iter().rev().collect();
        assert_eq!(train(backwards, 1024).unwrap(), bytes);
    }

    #[test]
    fn the_vocabulary_is_no_larger_than_asked_for() {
        for size in [260, 262, 270, 290, 310] {
            let tokenizer = Tokenizer::from_bytes(&train(CAPTIONS, size).unwrap()).unwrap();
            assert!(tokenizer.vocabulary_size() <= size, "{} of {size}", tokenizer.vocabulary_size());
            assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.file_name()), (1, 2, "tokenizer.json"));
            for caption in CAPTIONS {
                assert_eq!(tokenizer.decode(&tokenizer.encode(caption)), caption);
            }
        }
        assert!(matches!(train(CAPTIONS, 259), Err(BpeError::TooSmall { found: 259 })));
    }

    #[test]
    fn nothing_can_be_learned_from_nothing() {
        assert!(matches!(train::<&str>([], 300), Err(BpeError::NoText)));
        assert!(matches!(train([""], 300), Err(BpeError::NoText)));
    }

    #[test]
    fn a_text_that_spells_markers_and_bytes_gets_neither() {
        let texts = vec!["<s> </s> <unk> <0x41> <s></s>"; 50];
        let tokenizer = Tokenizer::from_bytes(&train(texts, 400).unwrap()).unwrap();
        for text in ["<s>", "</s>", "<unk>", "<0x41>", "a<unk>b<s>c</s>", "<|endoftext|>"] {
            let ids = tokenizer.encode(text);
            assert!(ids.iter().all(|&id| id > 2), "{text}: {ids:?}");
            assert_eq!(tokenizer.decode(&ids), text);
        }
    }

    /// Letters are pieces beside the bytes that spell them; a model that has learned nothing yet emits any of both.
    #[test]
    fn every_id_has_a_text() {
        let tokenizer = Tokenizer::from_bytes(&captions()).unwrap();
        let all = 0..tokenizer.vocabulary_size() + 10;
        let id = |piece: &str| all.clone().find(|&id| tokenizer.piece(id) == piece).unwrap();
        all.clone().for_each(|id| drop(tokenizer.decode(&[id])));
        tokenizer.decode(&all.clone().rev().collect::<Vec<_>>());
        assert_eq!(tokenizer.decode(&[id("▁red"), id("<0x61>"), id("a")]), "redaa");
        assert_eq!(tokenizer.decode(&[id("<0xC3>"), id("<0xA9>"), id("<0xC3>"), id("a")]), "é\u{fffd}a");
    }

    /// Tokenizers of several sizes on words that share parts, read by both libraries.
    static BOTH: LazyLock<Vec<(Tokenizer, tokenizers::Tokenizer)>> = LazyLock::new(|| {
        let texts = ["aba abab baba aab abba  bab", "aaaa aaa aa a abaa\nabc abcab", "cab ab éa 12 é, b."];
        [262, 270, 285, 330].map(|size| both(&train(texts, size).unwrap())).into()
    });

    fn both(bytes: &[u8]) -> (Tokenizer, tokenizers::Tokenizer) {
        let mut theirs = tokenizers::Tokenizer::from_bytes(bytes).unwrap();
        theirs.set_encode_special_tokens(true);
        (Tokenizer::from_bytes(bytes).unwrap(), theirs)
    }

    fn same_ids(ours: &Tokenizer, theirs: &tokenizers::Tokenizer, text: &str) {
        let ids = ours.encode(text);
        assert_eq!(ids, theirs.encode_fast(text, false).unwrap().get_ids(), "{text:?}");
        assert_eq!(ours.decode(&ids), text.replace('▁', " "));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn ids_are_those_of_the_library_that_trained(text in "[abcé ▁1.\n<>]{0,40}", any in ".{0,20}") {
            for (ours, theirs) in &*BOTH {
                same_ids(ours, theirs, &text);
                same_ids(ours, theirs, &any);
            }
        }
    }

    #[test]
    fn ids_are_those_of_the_library_that_trained_on_real_text() {
        let Some(text) = crate::samples::sample_text("text/tinyshakespeare.txt") else { return };
        let lines: Vec<&str> = text.lines().collect();
        let (ours, theirs) = both(&train(&lines[..8_000], 2_000).unwrap());
        assert_eq!(ours.vocabulary_size(), 2_000);
        lines[8_000..16_000].iter().for_each(|line| same_ids(&ours, &theirs, line));
        let Some(other) = crate::samples::sample_text("text/multilingual.jsonl") else { return };
        other.lines().take(100).for_each(|line| same_ids(&ours, &theirs, line));
    }
}
