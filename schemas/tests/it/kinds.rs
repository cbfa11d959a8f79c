//! Tokenizers of every kind against the ids of the libraries they are made for.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use schemas::{Tokenizer, TokenizerError};
use serde_json::{Value, json};

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/sentencepiece"))
}

/// Models and ids that `tests/python/sentencepiece_models.py` made with Google's library.
fn check_models(folder: PathBuf) {
    let texts: Vec<String> = serde_json::from_slice(&fs::read(folder.join("texts.json")).unwrap()).unwrap();
    let mut models: Vec<PathBuf> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    models.retain(|path| path.extension().is_some_and(|extension| extension == "model"));
    models.sort();
    assert_eq!(models.len(), 11);
    for path in models {
        let tokenizer = Tokenizer::from_bytes(&fs::read(&path).unwrap()).unwrap();
        let expected = fs::read_to_string(path.with_extension("ids")).unwrap();
        assert_eq!(expected.lines().count(), texts.len());
        for (text, line) in texts.iter().zip(expected.lines()) {
            let ids: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode(text), ids, "{} on {text:?}", path.display());
        }
        let all: Vec<u32> = (0..tokenizer.vocabulary_size() + 5).collect();
        all.iter().for_each(|&id| drop(tokenizer.decode(&[id])));
        tokenizer.decode(&all);
    }
}

#[test]
fn models_of_every_kind_have_the_ids_of_sentencepiece() {
    check_models(folder());
}

/// Bytes of a character once came out in reverse, and a suffix made the encoder panic.
#[test]
fn texts_of_odd_models_come_back() {
    for name in ["unigram_bytes", "unigram_suffix", "bpe_suffix", "bpe_symbols", "bpe_over_words"] {
        let bytes = fs::read(folder().join(name).with_extension("model")).unwrap();
        let tokenizer = Tokenizer::from_bytes(&bytes).unwrap();
        for text in ["the red circle", "a 🦀 crab 日本", "x=1; <s>"] {
            assert_eq!(tokenizer.decode(&tokenizer.encode(text)), text, "{name}");
        }
    }
}

/// An added piece with its four flags.
fn added(content: &str, flags: [bool; 4], special: bool) -> Value {
    let [single_word, lstrip, rstrip, normalized] = flags;
    json!({ "id": 0, "content": content, "single_word": single_word, "lstrip": lstrip, "rstrip": rstrip,
        "normalized": normalized, "special": special })
}

const PLAIN: [bool; 4] = [false; 4];

/// A file of one of several kinds, with added pieces behind the vocabulary.
fn file(kind: &str, added: Vec<Value>) -> Vec<u8> {
    let letters = ["<unk>", "<s>", "</s>"].map(str::to_owned).into_iter();
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let words = [
        "▁", "a", "b", "c", "▁a", "ab", "▁ab", "▁▁", "1", "k", "t", "o", "ok", "tok", "▁tok", "##a", "##b",
        "aba",
    ];
    let mut names: Vec<String> = match kind {
        "bytes" => tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
            .into_iter()
            .map(String::from)
            .collect(),
        _ => letters.chain(bytes).chain(words.map(str::to_owned)).collect(),
    };
    if kind == "bytes" {
        names.extend(["<|endoftext|>", "ab", "Ġa", "Ġab", "ĠĠ", "tok"].map(str::to_owned));
    }
    let ids: BTreeMap<&str, usize> = names.iter().enumerate().map(|(id, name)| (name.as_str(), id)).collect();
    let mut merges = Vec::new();
    for whole in &names {
        let cuts = whole.char_indices().skip(1).map(|(at, _)| whole.split_at(at));
        let known = cuts.filter(|(left, right)| {
            !whole.starts_with('<') && ids.contains_key(left) && ids.contains_key(right)
        });
        merges.extend(known.map(|(left, right)| json!([left, right])));
    }
    let bpe = |fallback: bool| {
        json!({ "type": "BPE", "dropout": null, "unk_token": if fallback { json!("<unk>") } else { Value::Null },
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": fallback,
            "byte_fallback": fallback, "ignore_merges": false, "vocab": ids, "merges": merges })
    };
    let metaspace = |split: bool| json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": split });
    let llama = json!({ "type": "Sequence", "normalizers": [
        { "type": "Prepend", "prepend": "▁" }, { "type": "Replace", "pattern": { "String": " " }, "content": "▁" }] });
    let scores: Vec<Value> = names.iter().map(|name| json!([name, -(name.len() as f64)])).collect();
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let (normalizer, splitter, model) = match kind {
        "llama" => (llama, Value::Null, bpe(true)),
        "metaspace" => (Value::Null, metaspace(true), bpe(true)),
        "metaspace whole" => (Value::Null, metaspace(false), bpe(true)),
        "bytes" => (Value::Null, byte_level, bpe(false)),
        "unigram" => (
            Value::Null,
            metaspace(true),
            json!({ "type": "Unigram", "unk_id": 0, "byte_fallback": true, "vocab": scores }),
        ),
        "wordpiece" => (
            json!({ "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true }),
            json!({ "type": "BertPreTokenizer" }),
            json!({ "type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": ids }),
        ),
        _ => (
            Value::Null,
            json!({ "type": "Whitespace" }),
            json!({ "type": "WordLevel", "unk_token": "<unk>", "vocab": ids }),
        ),
    };
    let mut listed: Vec<Value> = Vec::new();
    let markers: &[&str] = if kind == "bytes" { &["<|endoftext|>"] } else { &["<unk>", "<s>", "</s>"] };
    let markers = markers.iter().map(|name| self::added(name, PLAIN, true));
    let mut next = names.len();
    for mut token in markers.chain(added) {
        let name = token["content"].as_str().unwrap().to_owned();
        if listed.iter().any(|other| other["content"] == token["content"]) {
            continue;
        }
        let id = ids.get(name.as_str()).copied().unwrap_or(next);
        next += usize::from(id == next);
        token["id"] = json!(id);
        listed.push(token);
    }
    let file = json!({ "version": "1.0", "truncation": null, "padding": null, "added_tokens": listed, "normalizer": normalizer,
        "pre_tokenizer": splitter, "post_processor": null, "decoder": null, "model": model });
    serde_json::to_vec(&file).unwrap()
}

const KINDS: [&str; 7] = ["llama", "metaspace", "metaspace whole", "bytes", "unigram", "wordpiece", "words"];

fn same_ids(bytes: &[u8], texts: &[&str]) {
    let ours = Tokenizer::from_bytes(bytes).unwrap();
    let mut theirs = tokenizers::Tokenizer::from_bytes(bytes).unwrap();
    theirs.set_encode_special_tokens(true);
    for text in texts {
        let ids = ours.encode(text);
        assert_eq!(ids, theirs.encode_fast(*text, false).unwrap().get_ids(), "{text:?}");
        ours.decode(&ids);
    }
}

/// The first listed of two that begin alike once won.
#[test]
fn the_longest_added_piece_is_found() {
    for kind in KINDS {
        let pieces = ["tok1", "tok19", "tok", "ab ab", "▁▁▁"].map(|name| added(name, PLAIN, false));
        let bytes = file(kind, pieces.to_vec());
        same_ids(
            &bytes,
            &[
                "tok19",
                "a tok19 b tok1 tok",
                "atok11  tok191",
                "ab ab  ab ab",
                "    a   b  ",
                "a ▁▁▁ b",
                "\n\na \n b",
            ],
        );
        let tokenizer = Tokenizer::from_bytes(&bytes).unwrap();
        let names =
            |text: &str| tokenizer.encode(text).into_iter().map(|id| tokenizer.piece(id)).collect::<Vec<_>>();
        assert!(names("tok19").contains(&"tok19".to_owned()), "{kind}: {:?}", names("tok19"));
        assert!(names("tok11").contains(&"tok1".to_owned()), "{kind}: {:?}", names("tok11"));
    }
}

#[test]
fn no_kind_takes_a_marker_from_a_text() {
    for kind in KINDS {
        let tokenizer = Tokenizer::from_bytes(&file(kind, vec![added("<pad>", PLAIN, true)])).unwrap();
        let text = "<s> </s><pad> a<s>b <|endoftext|>x </s>";
        let names: Vec<String> = tokenizer.encode(text).into_iter().map(|id| tokenizer.piece(id)).collect();
        let is_marker = |name: &String| ["<s>", "</s>", "<pad>", "<|endoftext|>"].contains(&name.as_str());
        assert!(!names.iter().any(is_marker), "{kind}: {names:?}");
        for id in 0..tokenizer.vocabulary_size() + 5 {
            tokenizer.decode(&[id, 7, id]);
        }
    }
}

#[test]
fn an_added_piece_whose_id_the_library_would_not_give_is_refused() {
    let mut value: Value = serde_json::from_slice(&file("llama", vec![added("tok1", PLAIN, false)])).unwrap();
    value["added_tokens"][3]["id"] = json!(300);
    let error = Tokenizer::from_bytes(&serde_json::to_vec(&value).unwrap()).unwrap_err();
    assert!(error.to_string().contains("added piece `tok1` has id 300 in the file"), "{error}");
}

#[test]
fn a_vocabulary_without_all_bytes_and_without_an_unknown_piece_is_refused() {
    let mut value: Value = serde_json::from_slice(&file("bytes", vec![])).unwrap();
    value["model"]["vocab"].as_object_mut().unwrap().remove("!");
    let error = Tokenizer::from_bytes(&serde_json::to_vec(&value).unwrap()).unwrap_err();
    assert!(matches!(error, TokenizerError::Incomplete), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn added_pieces_are_found_as_by_the_library(
        kind in prop::sample::select(&KINDS[..]),
        pieces in prop::collection::vec(("[abtok1 ▁]{1,5}", any::<[bool; 4]>()), 0..7),
        texts in prop::collection::vec("[abtok1 ▁\n/s>é]{0,30}", 3),
    ) {
        let pieces = pieces.iter().map(|(name, flags)| added(name, *flags, false)).collect();
        same_ids(&file(kind, pieces), &texts.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
