//! Manifests to bytes and back, and manifests that are damaged.

use schemas::{
    CodecRecord, DatasetStatistics, FileRecord, Histogram, Manifest, ManifestError, ParentRecord, PartRecord,
    RejectsRecord, ShardRecord, SourceRecord, SourceStatistics, TokenizerRecord, UnitRecord, Vocabulary,
    content_hash, manifest_name, manifest_version,
};

fn histogram(values: &[u64]) -> Histogram {
    let mut histogram = Histogram::default();
    values.iter().for_each(|&value| histogram.add(value));
    histogram
}

fn sample() -> Manifest {
    let statistics = SourceStatistics {
        read: 10,
        kept: 7,
        rejected: 2,
        filtered: 1,
        rejects: [("empty".to_owned(), 1), ("invalid_json".to_owned(), 1)].into(),
        warnings: [("exif_bad".to_owned(), 1)].into(),
        documents: 7,
        document_length: histogram(&[0, 1, 2, 3, 4, 900]),
        images_per_row: histogram(&[1, 1, 2]),
        ..SourceStatistics::default()
    };
    let file = FileRecord { path: "ü 1.jsonl".to_owned(), bytes: 123, unit: "pairs-0000".to_owned() };
    Manifest {
        format: 1,
        features: vec!["latents".to_owned()],
        program: "0.1.0".to_owned(),
        parent: Some(ParentRecord { name: "manifest.json".to_owned(), checksum: content_hash(b"parent") }),
        context: 1024,
        patch: 2,
        vocabulary: Vocabulary::text(32_000),
        seed: u64::MAX,
        tokenizer: TokenizerRecord {
            path: "tokenizer.model".to_owned(),
            fingerprint: content_hash(b"tokenizer"),
            bos: 1,
            eos: 2,
        },
        codec: Some(CodecRecord {
            fingerprint: content_hash(b"codec"),
            kind: "AutoencoderKL".to_owned(),
            size: 128,
            channels: 8,
            downsampling: 8,
            moments: false,
            device: "cpu".to_owned(),
            processor: "x86_64".to_owned(),
        }),
        config: serde_json::json!({ "z": 0.1, "a": { "checksum": "not the last one" }, "text": "\"}\n" }),
        sources: vec![SourceRecord {
            name: "pairs".to_owned(),
            shape: "pair".to_owned(),
            weight: 1.5,
            files: vec![file],
            statistics,
        }],
        units: vec![UnitRecord {
            unit: "pairs-0000".to_owned(),
            source: 0,
            part: Some(PartRecord { file: "ü 1.jsonl".to_owned(), start: 0, end: 123, first_row: 0 }),
            retries: None,
            rejects: Some(RejectsRecord {
                path: "rejects/pairs-0000.parquet".to_owned(),
                rows: 2,
                bytes: 99,
                checksum: content_hash(b"rejects"),
            }),
        }],
        shards: vec![ShardRecord {
            path: "shards/pairs-0000-000.arrow".to_owned(),
            unit: "pairs-0000".to_owned(),
            source: 0,
            bytes: 4096,
            checksum: content_hash(b"shard"),
            rows: 3,
            tokens: 100,
            patches: 2000,
            padding: 972,
        }],
        statistics: DatasetStatistics { rows: 3, documents: 7, ..DatasetStatistics::default() },
    }
}

#[test]
fn a_manifest_comes_back_as_it_was() {
    let manifest = sample();
    let (bytes, checksum) = manifest.to_bytes().unwrap();
    assert_eq!(manifest.to_bytes().unwrap().0, bytes);
    assert_eq!(Manifest::from_bytes(&bytes).unwrap(), (manifest, checksum.clone()));
    // Anyone can check it: the file is JSON, and the checksum is that of all bytes before its key.
    let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(json["checksum"], checksum);
    let key = bytes.len() - format!("  \"checksum\": \"{checksum}\"\n}}\n").len();
    assert_eq!(content_hash(&bytes[..key]), checksum);
}

/// A manifest of before there were lists of units.
#[test]
fn a_manifest_without_units_is_read() {
    let manifest = Manifest { units: vec![], ..sample() };
    let text = String::from_utf8(manifest.to_bytes().unwrap().0).unwrap();
    let body = text.replace("  \"units\": [],\n", "");
    assert_ne!(body, text);
    let body = body.rsplit_once("  \"checksum\"").unwrap().0;
    let old = format!("{body}  \"checksum\": \"{}\"\n}}\n", content_hash(body.as_bytes()));
    assert_eq!(Manifest::from_bytes(old.as_bytes()).unwrap().0, manifest);
}

#[test]
fn counts_add_up_and_come_off() {
    let statistics = sample().sources[0].statistics.clone();
    assert!(statistics.is_balanced());
    let mut sum = statistics.clone();
    sum.merge(&statistics);
    assert_eq!((sum.read, sum.rejects["empty"], sum.documents), (20, 2, 14));
    assert!(sum.is_balanced());
    sum.forget_rejects(&[("empty".to_owned(), 2)].into());
    assert_eq!((sum.read, sum.rejected, sum.rejects.get("empty")), (18, 2, None));
    assert!(sum.is_balanced());
    assert!(!SourceStatistics { kept: 8, ..statistics }.is_balanced());
}

#[test]
fn a_manifest_without_shards_and_sources_comes_back() {
    let manifest = Manifest { sources: vec![], shards: vec![], codec: None, parent: None, ..sample() };
    let (bytes, checksum) = manifest.to_bytes().unwrap();
    assert_eq!(Manifest::from_bytes(&bytes).unwrap(), (manifest, checksum));
}

#[test]
fn no_cut_manifest_is_read() {
    let (bytes, _) = sample().to_bytes().unwrap();
    for length in 0..bytes.len() {
        assert!(Manifest::from_bytes(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
    }
}

#[test]
fn no_changed_byte_goes_unnoticed() {
    let (bytes, _) = sample().to_bytes().unwrap();
    for at in 0..bytes.len() {
        for flip in [1, 0x20, 0x80] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            assert!(Manifest::from_bytes(&changed).is_err(), "byte {at}");
        }
    }
}

#[test]
fn bytes_behind_the_end_are_refused() {
    let (bytes, _) = sample().to_bytes().unwrap();
    for tail in ["\n", " ", "}", "{}"] {
        assert!(Manifest::from_bytes(&[&bytes, tail.as_bytes()].concat()).is_err(), "{tail:?}");
    }
}

#[test]
fn later_versions_and_unknown_features_are_refused_by_name() {
    let later = Manifest { format: 2, ..sample() };
    let error = Manifest::from_bytes(&later.to_bytes().unwrap().0).unwrap_err();
    assert_eq!(error.to_string(), "manifest has format version 2, this program reads up to 1");
    let strange = Manifest { features: vec!["latents".to_owned(), "video".to_owned()], ..sample() };
    let error = Manifest::from_bytes(&strange.to_bytes().unwrap().0).unwrap_err();
    assert!(matches!(error, ManifestError::Feature { ref feature } if feature == "video"), "{error:?}");
}

#[test]
fn names_of_versions_go_both_ways() {
    assert_eq!(
        (manifest_name(1), manifest_name(2)),
        ("manifest.json".to_owned(), "manifest-000002.json".to_owned())
    );
    for version in [1, 2, 10, 999_999] {
        assert_eq!(manifest_version(&manifest_name(version)), Some(version));
    }
    for name in [
        "manifest-000001.json",
        "manifest-2.json",
        "manifest-000002.json.tmp",
        "job.json",
        "manifest-00000a.json",
    ] {
        assert_eq!(manifest_version(name), None, "{name}");
    }
}

#[test]
fn histograms_count_by_powers_of_two() {
    let mut first = histogram(&[0, 1, 2, 3, 4, 7, 8]);
    first.merge(&histogram(&[3, u64::MAX]));
    let expected = [(0, 1), (1, 1), (2, 3), (4, 2), (8, 1), (1 << 63, 1)];
    assert_eq!(first.buckets, expected.into());
}
