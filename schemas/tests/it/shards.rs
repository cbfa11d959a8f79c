//! Rows to shards and back, and shards that are damaged.

use std::sync::LazyLock;

use arrow::array::{Array, AsArray};
use arrow::buffer::Buffer;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use schemas::shard::{Compression, Shard, ShardError, ShardMetadata, ShardWriter};
use schemas::{Row, RowLayout, row_bytes};

use crate::rows::{any_row, layout};

fn metadata(layout: RowLayout) -> ShardMetadata {
    ShardMetadata {
        format: 1,
        context: layout.context,
        patch: layout.patch,
        vocabulary: layout.vocabulary,
        tokenizer: "tokenizer".to_owned(),
        codec: Some("codec".to_owned()),
        sources: vec!["pairs".to_owned()],
        files: vec!["folder/ä file.jsonl".to_owned()],
    }
}

fn write(rows: &[Row], layout: RowLayout, compression: Compression) -> Vec<u8> {
    let mut writer = ShardWriter::try_new(Vec::new(), &metadata(layout), compression).unwrap();
    for row in rows {
        writer.push(row.clone()).unwrap();
    }
    assert_eq!(writer.rows(), rows.len() as u64);
    writer.finish().unwrap()
}

fn read(bytes: Vec<u8>) -> Result<Vec<Row>, ShardError> {
    let shard = Shard::open(Buffer::from_vec(bytes))?;
    let mut rows = Vec::new();
    for batch in 0..shard.batches() {
        rows.extend(shard.rows(batch)?);
    }
    Ok(rows)
}

fn any_shard() -> impl Strategy<Value = (Vec<Row>, RowLayout, Compression)> {
    let layouts = prop::sample::select(vec![layout(300), layout(70_000)]);
    let compressions = prop::sample::select(vec![Compression::None, Compression::Zstd]);
    // A few rows, and how often they are repeated: 0 to several batches without a slow generator.
    (layouts, compressions, 0usize..70).prop_flat_map(|(layout, compression, times)| {
        prop::collection::vec(any_row(layout), 0..4).prop_map(move |rows| {
            let count = rows.len() * times;
            (rows.into_iter().cycle().take(count).collect(), layout, compression)
        })
    })
}

/// A shard of 70 rows, two batches, for damaging.
fn sample(compression: Compression) -> Vec<u8> {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let rows = prop::collection::vec(any_row(layout(300)), 70).new_tree(&mut runner).unwrap().current();
    write(&rows, layout(300), compression)
}

static PLAIN: LazyLock<Vec<u8>> = LazyLock::new(|| sample(Compression::None));
static PACKED: LazyLock<Vec<u8>> = LazyLock::new(|| sample(Compression::Zstd));

#[test]
fn an_empty_shard_is_a_shard() {
    let bytes = write(&[], layout(300), Compression::None);
    let shard = Shard::open(Buffer::from_vec(bytes.clone())).unwrap();
    assert_eq!((shard.batches(), shard.metadata()), (0, &metadata(layout(300))));
    assert!(matches!(shard.rows(0), Err(ShardError::NoBatch { index: 0, batches: 0 })));
    assert!(read(bytes).unwrap().is_empty());
}

#[test]
fn batches_hold_64_rows() {
    let shard = Shard::open(Buffer::from_vec(PLAIN.clone())).unwrap();
    assert_eq!(shard.batches(), 2);
    assert_eq!((shard.rows(0).unwrap().len(), shard.rows(1).unwrap().len()), (64, 6));
}

#[test]
fn columns_of_an_uncompressed_shard_lie_in_the_bytes_they_were_read_from() {
    let bytes = Buffer::from_vec(PLAIN.clone());
    let inside = bytes.as_ptr_range();
    let batch = Shard::open(bytes.clone()).unwrap().batch(0).unwrap();
    let tokens = batch["tokens"].as_fixed_size_list().values().to_data().buffers()[0].clone();
    let latents =
        batch["images"].as_list::<i32>().values().as_struct()["latent"].as_list::<i32>().values().to_data();
    for column in [&tokens, &latents.buffers()[0]] {
        assert!(inside.contains(&column.as_ptr()), "a copy was made");
        assert_eq!((column.as_ptr() as usize - inside.start as usize) % 64, 0, "not aligned within the file");
    }
}

#[test]
fn no_cut_shard_opens() {
    for bytes in [&PLAIN, &PACKED] {
        // Every length in the footer and around it, and a sample of the rest.
        let lengths = (0..bytes.len()).filter(|length| length % 97 == 0 || length + 2000 > bytes.len());
        for length in lengths {
            assert!(Shard::open(Buffer::from_vec(bytes[..length].to_vec())).is_err(), "{length} bytes");
        }
    }
}

#[test]
fn a_later_format_and_a_stranger_s_file_are_refused_with_a_reason() {
    let later = ShardMetadata { format: 2, ..metadata(layout(300)) };
    let bytes = ShardWriter::try_new(Vec::new(), &later, Compression::None).unwrap().finish().unwrap();
    let error = Shard::open(Buffer::from_vec(bytes)).unwrap_err();
    assert_eq!(error.to_string(), "shard has format version 2, this program reads up to 1");

    let schema = schemas::shard_schema(&layout(300));
    let writer = arrow::ipc::writer::FileWriter::try_new(Vec::new(), &schema).unwrap();
    let error = Shard::open(Buffer::from_vec(writer.into_inner().unwrap())).unwrap_err();
    assert!(matches!(error, ShardError::Metadata { .. }), "{error:?}");
    assert!(matches!(Shard::open(Buffer::from_vec(b"ARROW1".to_vec())), Err(ShardError::Damaged { .. })));
}

#[test]
fn rows_of_another_layout_are_refused_when_read() {
    // The metadata say that ids go up to 300, the columns hold larger ones.
    let lie = ShardMetadata { vocabulary: layout(10).vocabulary, ..metadata(layout(300)) };
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let rows = prop::collection::vec(any_row(layout(300)), 3).new_tree(&mut runner).unwrap().current();
    let mut writer = ShardWriter::try_new(Vec::new(), &lie, Compression::None).unwrap();
    rows.into_iter().for_each(|row| writer.push(row).unwrap());
    assert!(matches!(read(writer.finish().unwrap()), Err(ShardError::Columns(_))));
}

proptest! {
    #[test]
    fn rows_come_back_as_they_were((rows, layout, compression) in any_shard()) {
        let bytes = write(&rows, layout, compression);
        let promised: usize = rows.iter().map(|row| row_bytes(row, &layout)).sum();
        prop_assert!(compression == Compression::Zstd || bytes.len() >= promised * 8 / 10);
        prop_assert_eq!(&bytes, &write(&rows, layout, compression), "the same rows give the same bytes");
        prop_assert_eq!(read(bytes).unwrap(), rows);
    }

    #[test]
    fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(read(bytes).is_err());
    }

    #[test]
    fn garbage_between_magics_is_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let length = (bytes.len() as u32).to_le_bytes();
        bytes.splice(0..0, *b"ARROW1\0\0");
        bytes.extend(length);
        bytes.extend(b"ARROW1");
        prop_assert!(read(bytes).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// A flipped bit may go unnoticed here (that is the manifest's checksum's affair), but nothing panics, and what
    /// is read is rows by the rules.
    #[test]
    fn no_flipped_bit_panics(packed in any::<bool>(), tail in any::<bool>(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = if packed { PACKED.clone() } else { PLAIN.clone() };
        let from = if tail { bytes.len() - 2500 } else { 0 };
        let at = from + at.index(bytes.len() - from);
        bytes[at] ^= 1 << bit;
        let _ = read(bytes);
    }

    #[test]
    fn no_overwritten_stretch_panics(packed in any::<bool>(), at in any::<prop::sample::Index>(), new in prop::collection::vec(any::<u8>(), 1..16)) {
        let mut bytes = if packed { PACKED.clone() } else { PLAIN.clone() };
        let at = at.index(bytes.len() - 16);
        bytes[at..at + new.len()].copy_from_slice(&new);
        let _ = read(bytes);
    }
}
