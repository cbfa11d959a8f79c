//! Jobs on interleaved documents, as OBELICS and MMC4 have them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, Float64Array, Int64Array, ListArray, ListBuilder, StringArray,
    StringBuilder, StructArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::Field;

use super::fixtures::{
    Job, arrow_file, batch, config, corpus, counts, documents, parquet, png, rejects, structs, texts,
};
use crate::{Shape, SourceConfig, TokenizerConfig, TrainTokenizer};

fn interleaved(uri: &str) -> SourceConfig {
    SourceConfig { shape: Shape::Interleaved, ..texts("docs", uri) }
}

fn owned(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
    expected.iter().map(|&(row, text)| (row, text.to_owned())).collect()
}

fn shown(documents: Vec<(String, u64, String)>) -> Vec<(u64, String)> {
    documents.into_iter().map(|(_, row, text)| (row, text)).collect()
}

fn list_of(values: ArrayRef, lengths: &[usize]) -> ArrayRef {
    let item = Arc::new(Field::new("item", values.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
    Arc::new(ListArray::try_new(item, offsets, values, None).expect("lists"))
}

fn lists_of_texts(rows: &[&[Option<&str>]]) -> ArrayRef {
    let mut lists = ListBuilder::new(StringBuilder::new());
    rows.iter().for_each(|row| lists.append_value(row.iter().copied()));
    Arc::new(lists.finish())
}

/// Two lists of one length; at each place is a text or an image. Images are bytes, paths, or structs of both.
#[tokio::test]
async fn texts_and_images_of_one_place_follow_their_order() {
    let picture = png(16, 16, [0; 3]);
    let rows: [&[Option<&str>]; 2] = [&[Some("one "), None, Some("two")], &[None, Some("three")]];
    let bytes: ArrayRef =
        Arc::new(BinaryArray::from_iter([None, Some(picture.as_slice()), None, Some(&picture), None]));
    let paths: ArrayRef = Arc::new(StringArray::from_iter([None, Some("a.png"), None, Some("a.png"), None]));
    let none: ArrayRef = Arc::new(StringArray::from_iter([None::<&str>; 5]));
    let of_bytes = structs(vec![("bytes", bytes.clone()), ("path", none)]);
    let of_paths = structs(vec![
        ("bytes", Arc::new(BinaryArray::from_iter([None::<&[u8]>; 5])) as ArrayRef),
        ("path", paths.clone()),
    ]);
    for (index, images) in [bytes, paths, of_bytes, of_paths].into_iter().enumerate() {
        let table = batch(vec![("texts", lists_of_texts(&rows)), ("images", list_of(images, &[3, 2]))]);
        for (name, file) in
            [("d.parquet", parquet(std::slice::from_ref(&table))), ("d.arrow", arrow_file(&[table]))]
        {
            let path = format!("in/{name}");
            let job = Job::new(&corpus(&[(&path, file.as_slice()), ("in/a.png", &picture)]).await);
            let report = job.run(config(vec![interleaved(&path)])).await.expect("runs");
            assert_eq!(counts(&report), [2, 2, 0, 0, 0]);
            let found = shown(documents(&job.output).await);
            assert_eq!(found, owned(&[(0, "one #two"), (1, "#three")]), "{name}, images {index}");
        }
    }
}

const MMC4: &[u8] = br#"{"text_list": ["zero ", "one ", "two"], "image_info": [{"image_name": "a.png", "raw_url": "https://x/a", "matched_text_index": 2, "matched_sim": 0.3}, {"image_name": "a.png", "matched_text_index": 0}], "url": "https://x"}
{"text_list": ["alone"], "image_info": []}
{"text_list": ["x"], "image_info": [{"image_name": "a.png", "matched_text_index": 1}]}
{"text_list": ["y"], "image_info": [{"image_name": "a.png", "matched_text_index": null}]}
{"text_list": ["z"], "image_info": [{"image_name": "gone.png", "matched_text_index": 0}]}
{"text_list": ["float"], "image_info": [{"image_name": "a.png", "matched_text_index": 0.0}]}
{"text_list": ["half"], "image_info": [{"image_name": "a.png", "matched_text_index": 0.5}]}
{"text_list": ["nameless"], "image_info": [{"image_name": null, "matched_text_index": 0}]}
"#;

/// An image stands before the sentence that it was matched to.
#[tokio::test]
async fn images_stand_before_the_sentence_they_are_matched_to() {
    let job = Job::new(&corpus(&[("in/d.jsonl", MMC4), ("in/a.png", &png(16, 16, [0; 3]))]).await);
    let report = job.run(config(vec![interleaved("in/d.jsonl")])).await.expect("runs");
    assert_eq!(counts(&report), [8, 3, 5, 0, 0]);
    let expected = [(0, "#zero one #two"), (1, "alone"), (5, "#float")];
    assert_eq!(shown(documents(&job.output).await), owned(&expected));
    let reasons: Vec<_> =
        rejects(&job.output).await.into_iter().map(|(_, row, reason)| (row, reason)).collect();
    let expected =
        [(2, "wrong_type"), (3, "wrong_type"), (4, "missing_image"), (6, "wrong_type"), (7, "missing_image")];
    assert_eq!(reasons, owned(&expected));
}

#[tokio::test]
async fn matched_images_may_lie_in_a_table_of_columns() {
    let picture = png(16, 16, [0; 3]);
    let info = StructArray::from(vec![
        (
            Arc::new(Field::new("bytes", arrow::datatypes::DataType::Binary, true)),
            Arc::new(BinaryArray::from_iter_values([&picture, &picture, &picture])) as ArrayRef,
        ),
        (
            Arc::new(Field::new("matched_text_index", arrow::datatypes::DataType::Int64, true)),
            Arc::new(Int64Array::from(vec![Some(1), Some(1), Some(9)])) as ArrayRef,
        ),
    ]);
    let rows: [&[Option<&str>]; 3] = [&[Some("a"), Some("b")], &[Some("c")], &[Some("d")]];
    let table = batch(vec![
        ("text_list", lists_of_texts(&rows)),
        ("image_info", list_of(Arc::new(info), &[2, 0, 1])),
    ]);
    let job = Job::new(&corpus(&[("in/d.parquet", &parquet(&[table]))]).await);
    job.run(config(vec![interleaved("in/d.parquet")])).await.expect("runs");
    assert_eq!(shown(documents(&job.output).await), owned(&[(0, "a##b"), (1, "c")]));
    assert_eq!(rejects(&job.output).await, [("d.parquet".to_owned(), 2, "wrong_type".to_owned())]);
}

/// Numbers of texts may be floats, as pandas writes them beside nulls, and an image without bytes is one that is missing.
#[tokio::test]
async fn matched_images_of_columns_are_whole_numbers_and_have_bytes() {
    let picture = png(16, 16, [0; 3]);
    let info = StructArray::from(vec![
        (
            Arc::new(Field::new("bytes", arrow::datatypes::DataType::Binary, true)),
            Arc::new(BinaryArray::from_iter([Some(&picture), Some(&picture), None])) as ArrayRef,
        ),
        (
            Arc::new(Field::new("matched_text_index", arrow::datatypes::DataType::Float64, true)),
            Arc::new(Float64Array::from(vec![0.0, 0.5, 0.0])) as ArrayRef,
        ),
    ]);
    let rows: [&[Option<&str>]; 3] = [&[Some("a")], &[Some("b")], &[Some("c")]];
    let table = batch(vec![
        ("text_list", lists_of_texts(&rows)),
        ("image_info", list_of(Arc::new(info), &[1, 1, 1])),
    ]);
    let job = Job::new(&corpus(&[("in/d.parquet", &parquet(&[table]))]).await);
    job.run(config(vec![interleaved("in/d.parquet")])).await.expect("runs");
    assert_eq!(shown(documents(&job.output).await), owned(&[(0, "#a")]));
    let reasons: Vec<_> =
        rejects(&job.output).await.into_iter().map(|(_, row, reason)| (row, reason)).collect();
    assert_eq!(reasons, owned(&[(1, "wrong_type"), (2, "missing_image")]));
}

/// A document of which one image can't be had is refused: without it the text would speak of nothing.
#[tokio::test]
async fn an_image_that_fails_refuses_its_document() {
    let table = br#"{"texts": ["a", null, "b"], "images": [null, "ok.png", null]}
{"texts": ["a", null, null], "images": [null, "ok.png", "broken.png"]}
{"texts": ["a", null, null], "images": [null, "ok.png", "gone.png"]}
{"texts": ["a", null], "images": [null, "https://host/a.png"]}
{"texts": ["a", null], "images": [null, {"url": "x"}]}
{"texts": "not a list", "images": [5]}
{"texts": ["a", null], "images": [null, {"path": null, "bytes": null}]}
{"texts": ["a", 5], "images": [null, null]}
"#;
    let files: [(&str, &[u8]); 3] =
        [("in/d.jsonl", table), ("in/ok.png", &png(16, 16, [0; 3])), ("in/broken.png", b"<html>")];
    let job = Job::new(&corpus(&files).await);
    job.run(config(vec![interleaved("in/d.jsonl")])).await.expect("runs");
    assert_eq!(shown(documents(&job.output).await), owned(&[(0, "a#b")]));
    let reasons: Vec<_> =
        rejects(&job.output).await.into_iter().map(|(_, row, reason)| (row, reason)).collect();
    let expected = [
        (1, "image_undecodable"),
        (2, "missing_image"),
        (3, "bad_entry"),
        (4, "wrong_type"),
        (5, "wrong_type"),
        (6, "missing_image"),
        (7, "wrong_type"),
    ];
    assert_eq!(reasons, owned(&expected));
}

#[tokio::test]
async fn lists_inside_a_column_are_found_by_their_dotted_name() {
    let table = br#"{"doc": {"lines": ["a", null], "pictures": [null, "a.png"]}}
"#;
    let job = Job::new(&corpus(&[("in/d.jsonl", table), ("in/a.png", &png(16, 16, [0; 3]))]).await);
    let source = SourceConfig {
        texts: Some("doc.lines".to_owned()),
        images: Some("doc.pictures".to_owned()),
        ..interleaved("in/d.jsonl")
    };
    job.run(config(vec![source])).await.expect("runs");
    assert_eq!(shown(documents(&job.output).await), owned(&[(0, "a#")]));
}

#[tokio::test]
async fn a_tokenizer_learns_from_interleaved_texts() {
    let job = Job::new(&corpus(&[("in/d.jsonl", MMC4), ("in/a.png", &png(16, 16, [0; 3]))]).await);
    let train = Some(TrainTokenizer { vocabulary: 270, sample_bytes: 1 << 16 });
    let tokenizer = TokenizerConfig { train, ..TokenizerConfig::default() };
    let config = crate::PreprocessConfig { tokenizer, ..config(vec![interleaved("in/d.jsonl")]) };
    assert_eq!(counts(&job.run(config).await.expect("runs"))[1], 3);
}

/// One odd row among the first does not make another kind of documents of the others.
#[tokio::test]
async fn one_odd_row_leaves_the_others_their_places() {
    let good = r#"{"text_list":["a","b"],"image_info":[{"image_name":"a.png","matched_text_index":0}]}"#;
    for odd in [r#""x""#, r#"{"image_name":"a.png"}"#, "5", "[5]", r#"["a.png"]"#] {
        let lines = format!("{good}\n{good}\n{{\"text_list\":[\"a\"],\"image_info\":{odd}}}\n{good}\n");
        let job =
            Job::new(&corpus(&[("in/d.jsonl", lines.as_bytes()), ("in/a.png", &png(16, 16, [0; 3]))]).await);
        job.run(config(vec![interleaved("in/d.jsonl")])).await.expect(odd);
        let found = shown(documents(&job.output).await);
        assert_eq!(found, owned(&[(0, "#ab"), (1, "#ab"), (3, "#ab")]), "{odd}");
        assert_eq!(rejects(&job.output).await.len(), 1, "{odd}");
    }
}
