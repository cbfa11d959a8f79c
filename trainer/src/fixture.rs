//! Small datasets for tests, made with the format's own writer.

use std::path::Path;
use std::sync::Arc;

use half::f16;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use schemas::shard::{Compression, ShardMetadata, ShardWriter};
use schemas::{
    CodecRecord, DatasetStatistics, FORMAT_VERSION, FileRecord, Latent, Manifest, Modality, Order,
    Provenance, Row, RowLayout, ShardRecord, SourceRecord, SourceStatistics, Span, TokenizerRecord,
    Vocabulary, content_hash, manifest_name,
};

use crate::stream::Location;

pub(crate) const VOCABULARY: Vocabulary = Vocabulary { size: 29, codes: 0 };
pub(crate) const LAYOUT: RowLayout = RowLayout { context: 24, patch: 2, vocabulary: VOCABULARY };
const CHANNELS: u16 = 2;

/// The same files in an object store, below `data set/`.
pub(crate) fn in_memory(folder: &Path) -> (Arc<InMemory>, Location) {
    let store = Arc::new(InMemory::new());
    let prefix = object_store::path::Path::from("data set");
    let location =
        Location { uri: "memory://data set".to_owned(), store: store.clone(), prefix, local: None };
    let mut paths = vec!["manifest.json".to_owned(), "tokenizer.json".to_owned()];
    let shards = std::fs::read_dir(folder.join("shards")).unwrap();
    paths.extend(shards.map(|entry| format!("shards/{}", entry.unwrap().file_name().to_str().unwrap())));
    for path in paths {
        let bytes = std::fs::read(folder.join(&path)).unwrap();
        futures::executor::block_on(store.put(&location.object(&path), bytes.into())).unwrap();
    }
    (store, location)
}

/// A dataset of two sources, `texts` and `pairs`; `shards` lists (index of the source, rows).
pub(crate) fn write(folder: &Path, shards: &[(u16, u64)]) -> Manifest {
    write_with(folder, shards, Compression::None)
}

pub(crate) fn write_with(folder: &Path, shards: &[(u16, u64)], compression: Compression) -> Manifest {
    write_as(folder, shards, compression, Some("a codec"))
}

/// A dataset of the source `texts` alone that was packed without a codec, and so with the patch size 1.
pub(crate) fn write_text(folder: &Path, rows: u64) -> Manifest {
    write_as(folder, &[(0, rows)], Compression::None, None)
}

fn write_as(folder: &Path, shards: &[(u16, u64)], compression: Compression, codec: Option<&str>) -> Manifest {
    std::fs::create_dir_all(folder.join("shards")).unwrap();
    let tokenizer = b"a tokenizer".to_vec();
    std::fs::write(folder.join("tokenizer.json"), &tokenizer).unwrap();
    let mut first = 0;
    let mut records = Vec::new();
    for (index, &(source, rows)) in shards.iter().enumerate() {
        records.push(shard(folder, index, source, first..first + rows, compression, codec));
        first += rows;
    }
    let manifest = manifest(records, content_hash(&tokenizer), codec);
    std::fs::write(folder.join(manifest_name(1)), manifest.to_bytes().unwrap().0).unwrap();
    manifest
}

fn shard(
    folder: &Path,
    index: usize,
    source: u16,
    rows: std::ops::Range<u64>,
    compression: Compression,
    codec: Option<&str>,
) -> ShardRecord {
    let metadata = ShardMetadata {
        format: FORMAT_VERSION,
        context: LAYOUT.context,
        patch: patch(codec),
        vocabulary: VOCABULARY,
        tokenizer: content_hash(b"a tokenizer"),
        codec: codec.map(str::to_owned),
        sources: vec!["texts".to_owned(), "pairs".to_owned()],
        files: vec!["a.jsonl".to_owned(), "b.tar".to_owned()],
    };
    let mut writer = ShardWriter::try_new(Vec::new(), &metadata, compression).unwrap();
    let (mut tokens, mut patches, mut padding) = (0, 0, 0);
    for number in rows.clone() {
        let row = row(source, number);
        tokens += u64::from(row.text_positions());
        patches += u64::from(row.patch_positions());
        padding += u64::from(LAYOUT.context - row.used());
        writer.push(row).unwrap();
    }
    let bytes = writer.finish().unwrap();
    let path = format!("shards/{index:05}.arrow");
    std::fs::write(folder.join(&path), &bytes).unwrap();
    ShardRecord {
        path,
        unit: format!("unit-{index}"),
        source,
        bytes: bytes.len() as u64,
        checksum: content_hash(&bytes),
        rows: rows.end - rows.start,
        tokens,
        patches,
        padding,
    }
}

const fn patch(codec: Option<&str>) -> u32 {
    if codec.is_some() { LAYOUT.patch } else { 1 }
}

/// Row `number`, which is also its row in its file. Every third pair has the image first.
pub(crate) fn row(source: u16, number: u64) -> Row {
    if source == 0 { text_row(number) } else { pair_row(number, number.is_multiple_of(3)) }
}

fn text_row(number: u64) -> Row {
    let lengths = [6 + (number % 5) as u32, 4 + (number % 7) as u32];
    let mut builder = Builder::default();
    for (document, length) in lengths.into_iter().enumerate() {
        let words: Vec<u32> = (0..length).map(|place| 3 + (number as u32 * 5 + place * 3) % 26).collect();
        builder.text(document as u32, &[&[1][..], &words, &[2]].concat());
        builder.provenance(0, number, Order::Neither);
    }
    builder.finish()
}

fn pair_row(number: u64, image_first: bool) -> Row {
    let caption: Vec<u32> =
        (0..3 + (number % 4) as u32).map(|place| 3 + (number as u32 + place) % 26).collect();
    let mut builder = Builder::default();
    if image_first {
        builder.text(0, &[1, VOCABULARY.boi()]);
        builder.image(0, number);
        builder.text(0, &[&[VOCABULARY.eoi()][..], &caption, &[2]].concat());
        builder.provenance(1, number, Order::ImageFirst);
    } else {
        builder.text(0, &[&[1][..], &caption, &[VOCABULARY.boi()]].concat());
        builder.image(0, number);
        builder.text(0, &[VOCABULARY.eoi(), 2]);
        builder.provenance(1, number, Order::CaptionFirst);
    }
    builder.finish()
}

#[derive(Default)]
struct Builder {
    tokens: Vec<u32>,
    spans: Vec<Span>,
    images: Vec<Latent>,
    sources: Vec<Provenance>,
}

impl Builder {
    fn text(&mut self, document: u32, ids: &[u32]) {
        self.span(document, ids, Modality::Text, None);
    }

    fn image(&mut self, document: u32, number: u64) {
        let image = self.images.len() as u32;
        self.span(document, &[VOCABULARY.patch(); 4], Modality::Image, Some(image));
        let value = |place: u64| f16::from_f32((((number * 7 + place * 13) % 31) as f32 - 15.0) / 10.0);
        let values = (0..u64::from(CHANNELS) * 16).map(value).collect();
        self.images.push(Latent { channels: CHANNELS, height: 4, width: 4, moments: false, values });
    }

    fn span(&mut self, document: u32, ids: &[u32], modality: Modality, image: Option<u32>) {
        let (start, len) = (self.tokens.len() as u32, ids.len() as u32);
        self.spans.push(Span { document, start, len, modality, image, loss: modality != Modality::Padding });
        self.tokens.extend_from_slice(ids);
    }

    fn provenance(&mut self, source: u16, row: u64, order: Order) {
        let (file, id) = (u32::from(source), Some(format!("r{row}")));
        self.sources.push(Provenance { source, file, row, id, first_token: 0, order });
    }

    fn finish(mut self) -> Row {
        let left = LAYOUT.context as usize - self.tokens.len();
        if left > 0 {
            let document = self.sources.len() as u32;
            self.span(document, &vec![VOCABULARY.padding(); left], Modality::Padding, None);
        }
        Row::try_new(self.tokens, self.spans, self.images, self.sources, &LAYOUT).unwrap()
    }
}

fn manifest(shards: Vec<ShardRecord>, tokenizer: String, codec: Option<&str>) -> Manifest {
    let sum = |count: fn(&ShardRecord) -> u64| shards.iter().map(count).sum();
    let statistics = DatasetStatistics {
        rows: sum(|shard| shard.rows),
        documents: sum(|shard| shard.rows * if shard.source == 0 { 2 } else { 1 }),
        images: sum(|shard| if shard.source == 1 { shard.rows } else { 0 }),
        tokens: sum(|shard| shard.tokens),
        patches: sum(|shard| shard.patches),
        padding: sum(|shard| shard.padding),
    };
    Manifest {
        format: FORMAT_VERSION,
        features: vec!["latents".to_owned()],
        program: "0.0.0".to_owned(),
        parent: None,
        context: LAYOUT.context,
        patch: patch(codec),
        vocabulary: VOCABULARY,
        seed: 0,
        tokenizer: TokenizerRecord {
            path: "tokenizer.json".to_owned(),
            fingerprint: tokenizer,
            bos: 1,
            eos: 2,
        },
        codec: codec.map(|fingerprint| CodecRecord {
            fingerprint: fingerprint.to_owned(),
            kind: "test".to_owned(),
            size: 16,
            channels: CHANNELS.into(),
            downsampling: 4,
            moments: false,
            device: "cpu".to_owned(),
            processor: "test".to_owned(),
        }),
        config: serde_json::Value::Null,
        sources: vec![source("texts", "text", "a.jsonl"), source("pairs", "pair", "b.tar")],
        units: Vec::new(),
        shards,
        statistics,
    }
}

fn source(name: &str, shape: &str, file: &str) -> SourceRecord {
    SourceRecord {
        name: name.to_owned(),
        shape: shape.to_owned(),
        weight: 1.0,
        files: vec![FileRecord { path: file.to_owned(), bytes: 1, unit: "unit-0".to_owned() }],
        statistics: SourceStatistics::default(),
    }
}
