//! The tokenizer against the ids of Google's sentencepiece, and against itself word by word and as a whole.

use std::sync::LazyLock;

use kitoken::{Kitoken, SpecialTokenKind};
use proptest::prelude::*;
use schemas::{Markers, Tokenizer, TokenizerError};

use crate::samples::sample_bytes;

#[derive(serde::Deserialize)]
struct Golden {
    text: String,
    ids: Vec<u32>,
    ids_bos: Vec<u32>,
    decoded: String,
}

fn golden(path: &str) -> Vec<Golden> {
    let bytes = sample_bytes(path).expect("the golden file stands beside the model");
    let text = String::from_utf8(bytes).expect("golden files are UTF-8");
    let lines = text.lines().map(|line| serde_json::from_str(line).expect("a golden line"));
    let cases: Vec<Golden> = lines.collect();
    assert_eq!(cases.len(), 234);
    cases
}

fn check(tokenizer: &Tokenizer, cases: &[Golden]) {
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (1, 2));
    for case in cases {
        let ids = tokenizer.encode(&case.text);
        assert_eq!(ids, case.ids, "{:?}", case.text);
        assert_eq!([&[tokenizer.bos()], &ids[..]].concat(), case.ids_bos);
        assert_eq!(tokenizer.decode(&case.ids_bos), case.decoded, "{:?}", case.text);
        assert_eq!(tokenizer.encode(&case.text), case.ids, "a second time, {:?}", case.text);
    }
}

#[test]
fn llama_ids_are_those_of_sentencepiece() {
    let Some(model) = sample_bytes("tokenizer/llama2-tokenizer.model") else { return };
    let tokenizer = Tokenizer::from_bytes(&model).unwrap();
    assert_eq!((tokenizer.vocabulary_size(), tokenizer.file_name()), (32_000, "tokenizer.model"));
    assert_eq!(
        ["▁▁", "▁t", "▁", "给"],
        [259, 260, 29_871, 31_999].map(|id| tokenizer.piece(id)).each_ref().map(String::as_str)
    );
    check(&tokenizer, &golden("tokenizer/tokenizer-golden.jsonl"));
}

#[test]
fn mistral_ids_are_those_of_sentencepiece() {
    let Some(model) = sample_bytes("tokenizer/mistral-v1-tokenizer.model") else { return };
    let tokenizer = Tokenizer::from_bytes(&model).unwrap();
    assert_eq!(tokenizer.vocabulary_size(), 32_000);
    check(&tokenizer, &golden("tokenizer/tokenizer-golden-mistral-v1.jsonl"));
}

#[test]
fn the_json_form_gives_the_same_ids_and_takes_no_marker_from_a_text() {
    let Some(json) = sample_bytes("tokenizer/llama2-tokenizer.json") else { return };
    let tokenizer = Tokenizer::from_bytes(&json).unwrap();
    assert_eq!(tokenizer.file_name(), "tokenizer.json");
    // The file adds three pieces of its owner's to the 32,000.
    assert_eq!(tokenizer.vocabulary_size(), 32_003);
    assert!(tokenizer.has_parts("word by word") && !tokenizer.has_parts("a |||EMAIL_ADDRESS|||"));
    check(&tokenizer, &golden("tokenizer/tokenizer-golden.jsonl"));
    assert!(tokenizer.encode("mail |||EMAIL_ADDRESS||| here").contains(&32_000));
}

/// The ids of kitoken on the whole text at once, which the notes of its authors and ours compare with Google's.
fn whole(kitoken: &Kitoken, text: &str) -> Vec<u32> {
    kitoken.encode(text, &[SpecialTokenKind::Priority][..]).unwrap()
}

#[test]
fn words_change_no_id_on_real_text() {
    for model in ["tokenizer/llama2-tokenizer.model", "tokenizer/mistral-v1-tokenizer.model"] {
        let Some(bytes) = sample_bytes(model) else { return };
        let (tokenizer, kitoken) =
            (Tokenizer::from_bytes(&bytes).unwrap(), Kitoken::from_slice(&bytes).unwrap());
        for path in [
            "text/multilingual.jsonl",
            "text/tinyshakespeare.txt",
            "text/wikitext2-test.txt",
            "text/cc_en_head-0091.jsonl",
        ] {
            let text = String::from_utf8(sample_bytes(path).unwrap()).unwrap();
            assert_eq!(tokenizer.encode(&text), whole(&kitoken, &text), "{model} on {path}");
            // The same without a space: long words are cut elsewhere.
            let dense = text.replace([' ', '▁'], "");
            assert_eq!(tokenizer.encode(&dense), whole(&kitoken, &dense), "{model} on {path} without spaces");
        }
    }
}

/// The ids of a text in parts of at least `bytes`, and the number of parts.
fn in_parts(tokenizer: &Tokenizer, text: &str, bytes: usize) -> (Vec<u32>, usize) {
    assert!(tokenizer.has_parts(text));
    let (mut ids, mut start, mut parts) = (Vec::new(), 0, 0);
    while start < text.len() {
        let from = text.floor_char_boundary((start + bytes).min(text.len()));
        let end = tokenizer.part_end(text, from.max(start + 1).min(text.len()));
        tokenizer.encode_part(text, start..end, &mut ids);
        (start, parts) = (end, parts + 1);
    }
    (ids, parts)
}

#[test]
fn parts_of_a_text_have_the_ids_of_the_whole() {
    for model in ["tokenizer/llama2-tokenizer.model", "tokenizer/mistral-v1-tokenizer.model"] {
        let Some(bytes) = sample_bytes(model) else { return };
        let tokenizer = Tokenizer::from_bytes(&bytes).unwrap();
        for path in ["text/multilingual.jsonl", "text/tinyshakespeare.txt", "text/cc_en_head-0091.jsonl"] {
            let text = String::from_utf8(sample_bytes(path).unwrap()).unwrap();
            // Long words are cut inside, where there is neither a space nor a line end.
            for text in [text.replace([' ', '▁', '\n'], ""), text] {
                let expected = tokenizer.encode(&text);
                for bytes in [5_000, 64_000] {
                    let (ids, parts) = in_parts(&tokenizer, &text, bytes);
                    assert!(ids == expected, "{model} on {path} in parts of {bytes}");
                    assert!(parts > text.len() / bytes / 8, "{parts} parts of {bytes}");
                }
            }
        }
    }
}

/// The wire format of protocol buffers, as far as a model needs it.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn number(field: u64, value: i64) -> Vec<u8> {
    [varint(field << 3), varint(value as u64)].concat()
}

fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const BYTE: i64 = 6;

fn piece(text: &str, score: f32, kind: i64) -> Vec<u8> {
    let score = [varint(2 << 3 | 5), score.to_le_bytes().to_vec()].concat();
    bytes(1, &[bytes(1, text.as_bytes()), score, number(3, kind)].concat())
}

/// A small model of Llama's kind: markers, 256 bytes, merges in the order given, letters.
fn small_model(merges: &[&str], bos: i64, eos: i64) -> Vec<u8> {
    let mut model = Vec::new();
    model.extend(
        [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)].map(|(text, kind)| piece(text, 0.0, kind)),
    );
    model.extend((0..256).map(|byte| piece(&format!("<0x{byte:02X}>"), 0.0, BYTE)));
    model.extend(merges.iter().enumerate().map(|(rank, text)| piece(text, -(rank as f32), NORMAL)));
    model.extend(["▁", "a", "b", "c", "é", "給"].map(|text| piece(text, -1e6, NORMAL)));
    // Model type BPE, byte fallback, BOS, EOS; then the identity with a space before the text.
    model.push(bytes(2, &[number(3, 2), number(35, 1), number(41, bos), number(42, eos)].concat()));
    model.push(bytes(3, &[bytes(1, b"identity"), number(3, 1), number(4, 0)].concat()));
    model.concat()
}

const MERGES: [&str; 9] = ["▁a", "ab", "▁ab", "ca", "bc", "▁▁", "abc", "▁abc", "éa"];

#[test]
fn a_small_model_encodes_as_expected() {
    let tokenizer = Tokenizer::from_bytes(&small_model(&MERGES, 1, 2)).unwrap();
    let pieces =
        |text: &str| tokenizer.encode(text).into_iter().map(|id| tokenizer.piece(id)).collect::<Vec<_>>();
    assert_eq!(pieces("ab abc"), ["▁ab", "▁abc"]);
    assert_eq!(pieces("  éa\n"), ["▁▁", "▁", "éa", "<0x0A>"]);
    assert_eq!(pieces("</s>"), ["▁", "<0x3C>", "<0x2F>", "<0x73>", "<0x3E>"]);
    assert!(tokenizer.encode("").is_empty());
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.vocabulary_size()), (1, 2, 259 + 9 + 6));
}

#[test]
fn ids_that_are_no_text_give_none() {
    let tokenizer = Tokenizer::from_bytes(&small_model(&MERGES, 1, 2)).unwrap();
    let mut ids = vec![1];
    ids.extend(tokenizer.encode("ab é"));
    ids.extend([2, 0, 274, 277, u32::MAX]);
    assert_eq!(tokenizer.decode(&ids), "ab é");
    assert_eq!((tokenizer.piece(2).as_str(), tokenizer.piece(9999).as_str()), ("</s>", "<9999>"));
}

/// Every id alone, every id behind another, and ids that are nobody's: a model may emit any of them.
fn decodes_every_id(tokenizer: &Tokenizer) {
    let size = tokenizer.vocabulary_size();
    let text = tokenizer.encode("ab")[0];
    for id in 0..size + 10 {
        tokenizer.decode(&[id]);
        tokenizer.decode(&[text, id]);
    }
    let all: Vec<u32> = (0..size + 10).chain([u32::MAX]).rev().collect();
    tokenizer.decode(&all);
    for byte in 0..=255u8 {
        let spelled = format!("<0x{byte:02X}>");
        let id = (0..size).find(|&id| tokenizer.piece(id) == spelled).expect("every byte is a piece");
        let expected = String::from_utf8_lossy(&[byte]).repeat(2);
        assert_eq!(tokenizer.decode(&[text, id, id]), tokenizer.decode(&[text]) + &expected, "{spelled}");
    }
}

/// `A` and `<0x41>` are both pieces; the encoder knows one of them only.
#[test]
fn every_id_that_a_model_can_emit_has_a_text() {
    decodes_every_id(&Tokenizer::from_bytes(&small_model(&MERGES, 1, 2)).unwrap());
    let samples = ["llama2-tokenizer.model", "llama2-tokenizer.json", "mistral-v1-tokenizer.model"];
    for name in samples {
        let Some(bytes) = sample_bytes(&format!("tokenizer/{name}")) else { return };
        decodes_every_id(&Tokenizer::from_bytes(&bytes).unwrap());
    }
}

#[test]
fn bos_and_eos_must_be_in_the_vocabulary() {
    let model = small_model(&MERGES, 1, 2);
    let markers = Markers { bos: None, eos: Some("<|endoftext|>".to_owned()) };
    let error = Tokenizer::with_markers(&model, &markers).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tokenizer has no piece `<|endoftext|>`, which the configuration names as EOS"
    );
    let swapped = Markers { bos: Some("</s>".to_owned()), eos: Some("<s>".to_owned()) };
    let tokenizer = Tokenizer::with_markers(&model, &swapped).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (2, 1));
    // What a text can spell could end documents from inside.
    let text = Markers { bos: None, eos: Some("abc".to_owned()) };
    assert!(matches!(Tokenizer::with_markers(&model, &text), Err(TokenizerError::TextMarker { .. })));
    let recorded = Tokenizer::with_ids(&model, 2, 1).unwrap();
    assert_eq!((recorded.bos(), recorded.eos()), (2, 1));
    assert!(matches!(Tokenizer::with_ids(&model, 1, 9999), Err(TokenizerError::NoMarker { marker: "EOS" })));
    let none = small_model(&MERGES, 1, -1);
    assert!(matches!(Tokenizer::from_bytes(&none), Err(TokenizerError::NoMarker { marker: "EOS" })));
    let outside = small_model(&MERGES, 100_000, 2);
    assert!(matches!(Tokenizer::from_bytes(&outside), Err(TokenizerError::NoMarker { marker: "BOS" })));
}

#[test]
fn what_is_no_tokenizer_is_refused() {
    let broken: [&[u8]; 6] =
        [b"", b"{}", b"{\"model\": {\"vocab\": {}}}", b"hello", b"\x0a\xff\xff", b"[1, 2]"];
    for bytes in broken {
        let error = Tokenizer::from_bytes(bytes).unwrap_err();
        assert!(
            matches!(error, TokenizerError::Format { .. } | TokenizerError::NoMarker { .. }),
            "{error:?}"
        );
    }
}

static SMALL: LazyLock<(Tokenizer, Kitoken)> = LazyLock::new(|| {
    let model = small_model(&MERGES, 1, 2);
    (Tokenizer::from_bytes(&model).unwrap(), Kitoken::from_slice(&model).unwrap())
});

proptest! {
    #[test]
    fn words_change_no_id(text in "[abcé給▁ \n<>/s]{0,80}") {
        let (tokenizer, kitoken) = &*SMALL;
        let ids = tokenizer.encode(&text);
        prop_assert_eq!(&ids, &whole(kitoken, &text));
        prop_assert_eq!(tokenizer.decode(&ids), text.replace('▁', " "));
        prop_assert!(ids.iter().all(|&id| id > 2));
    }

    #[test]
    fn long_words_change_no_id(letters in prop::collection::vec("[abcé給]{1,9}", 200..400)) {
        let (tokenizer, kitoken) = &*SMALL;
        let text = letters.concat();
        prop_assert_eq!(tokenizer.encode(&text), whole(kitoken, &text));
    }

    #[test]
    fn parts_change_no_id(text in "[abcé給▁ \n]{1,80}", bytes in 1usize..20) {
        let (tokenizer, _) = &*SMALL;
        let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        // Where a part may end depends on its text only, so every start is tried.
        for &from in starts.iter().skip(bytes.min(starts.len() - 1)) {
            let end = tokenizer.part_end(&text, from);
            let mut ids = Vec::new();
            tokenizer.encode_part(&text, 0..end, &mut ids);
            if end < text.len() {
                tokenizer.encode_part(&text, end..text.len(), &mut ids);
            }
            prop_assert_eq!(&ids, &tokenizer.encode(&text), "cut at {}", end);
        }
    }

    #[test]
    fn any_ids_have_a_text(ids in prop::collection::vec(prop_oneof![0u32..300, any::<u32>()], 0..60)) {
        SMALL.0.decode(&ids);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Tokenizer::from_bytes(&bytes);
    }

    #[test]
    fn no_damaged_model_panics(at in 0usize..3000, value in any::<u8>()) {
        let mut model = small_model(&MERGES, 1, 2);
        if let Some(byte) = model.get_mut(at) {
            *byte = value;
        }
        if let Ok(tokenizer) = Tokenizer::from_bytes(&model) {
            tokenizer.decode(&tokenizer.encode("ab abc é\u{0}"));
        }
    }
}
