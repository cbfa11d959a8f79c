//! Jobs on the sample data, where it is at hand.

use std::path::Path as FilePath;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::local::LocalFileSystem;

use super::fixtures::{Job, config, files, manifest, pairs, rejects, rows, texts};
use super::stores::s3_store;
use crate::samples::sample;
use crate::{CaptionChoice, PreprocessConfig, SourceConfig, TextSplit, TokenizerConfig};

fn job(folder: &FilePath) -> Job {
    let store: Arc<dyn object_store::ObjectStore> =
        Arc::new(LocalFileSystem::new_with_prefix(folder).expect("the samples"));
    Job::new(&store)
}

fn with_llama(sources: Vec<SourceConfig>) -> PreprocessConfig {
    let model = Some("tokenizer/llama2-tokenizer.model".to_owned());
    PreprocessConfig {
        context: 1024,
        tokenizer: TokenizerConfig { model, ..TokenizerConfig::default() },
        ..config(sources)
    }
}

#[tokio::test]
async fn the_dirty_file_is_taken_as_its_description_says() {
    let Some(folder) = sample("") else { return };
    let job = job(&folder);
    let report = job.run(with_llama(vec![texts("dirty", "text/dirty.jsonl")])).await.expect("runs");
    // Lines from 1 in the description, from 0 here.
    let kept: std::collections::BTreeSet<u64> = rows(&job.output)
        .await
        .iter()
        .flat_map(|(row, _)| row.sources().to_vec())
        .map(|source| source.row + 1)
        .collect();
    assert_eq!(kept.into_iter().collect::<Vec<_>>(), [1, 10, 12, 13, 14, 15, 16, 17]);
    let found: Vec<_> =
        rejects(&job.output).await.into_iter().map(|(_, row, reason)| (row + 1, reason)).collect();
    let expected = [
        (2, "invalid_utf8"),
        (5, "empty"),
        (6, "missing_text"),
        (7, "missing_text"),
        (8, "invalid_json"),
        (9, "wrong_type"),
        (11, "invalid_json"),
    ];
    assert_eq!(found, expected.map(|(row, reason)| (row, reason.to_owned())));
    let statistics = &report.sources[0].statistics;
    assert_eq!((statistics.read, statistics.kept, statistics.rejected), (15, 8, 7));
}

#[tokio::test]
async fn every_shape_of_text_is_read() {
    let Some(folder) = sample("") else { return };
    let job = job(&folder);
    let mut wikitext = texts("wikitext", "text/wikitext2-test.txt");
    wikitext.document = TextSplit::BlankLine;
    let sources = vec![
        texts("shakespeare", "text/tinyshakespeare.txt"),
        wikitext,
        texts("wikipedia", "text/wikipedia-shape.parquet"),
        texts("crawl", "text/cc_en_head-*"),
        texts("fineweb", "text/fineweb-shape.parquet"),
        texts("c4", "text/c4-shape.json.gz"),
        texts("kjv", "text/kjv-pile-shape.jsonl.zst"),
        texts("handbook", "text/multilingual.jsonl"),
    ];
    let report = job.run(with_llama(sources.clone())).await.expect("runs");
    // In parts, at lines and row groups, the rows are the same.
    let parts = self::job(&folder);
    let small = PreprocessConfig { unit_bytes: 100_000, ..with_llama(sources) };
    let in_parts = parts.run(small).await.expect("runs");
    assert!(in_parts.units > report.units);
    for (whole, part) in report.sources.iter().zip(&in_parts.sources) {
        assert_eq!(
            (whole.statistics.kept, whole.statistics.tokens),
            (part.statistics.kept, part.statistics.tokens)
        );
    }
    let kept: Vec<_> =
        report.sources.iter().map(|source| (source.name.as_str(), source.statistics.kept)).collect();
    let count = |name: &str| kept.iter().find(|(source, _)| *source == name).map_or(0, |(_, kept)| *kept);
    assert_eq!(
        [count("shakespeare"), count("wikipedia"), count("crawl"), count("fineweb")],
        [1, 62, 20, 20],
        "{kept:?}"
    );
    assert_eq!([count("c4"), count("kjv")], [20, 1189], "{kept:?}");
    assert_eq!([count("handbook"), count("wikitext")], [223, 1320], "{kept:?}");
    assert!(report.sources.iter().all(|source| source.statistics.rejected == 0));
    // The same twenty pages in four wrappings have the same tokens.
    let tokens = |name: &str| {
        report.sources.iter().find(|source| source.name == name).map(|source| source.statistics.tokens)
    };
    assert_eq!(tokens("crawl"), tokens("fineweb"));
    assert_eq!(tokens("crawl"), tokens("c4"));
}

#[tokio::test]
async fn every_layout_of_pictures_gives_the_same_latents() {
    let Some(folder) = sample("") else { return };
    let mut images = Vec::new();
    let mut coco = pairs("photos", "images/folder/coco_captions_photos.json");
    coco.caption = Some("captions".to_owned());
    let mut archives = pairs("archives", "images/webdataset/*.tar");
    archives.filter = Some("caption is not null and width > 0".to_owned());
    for source in [
        pairs("folder", "images/folder/"),
        archives,
        pairs("parquet", "images/parquet/pairs.parquet"),
        coco,
        pairs("cc12m", "images/cc12m/*.tar"),
    ] {
        let job = job(&folder);
        let report = job.run(with_llama(vec![source])).await.expect("runs");
        assert_eq!(report.sources[0].statistics.rejected, 0, "{:?}", report.sources);
        let mut latents: Vec<Vec<u16>> = rows(&job.output)
            .await
            .iter()
            .flat_map(|(row, _)| row.images().to_vec())
            .map(|image| image.values.iter().map(|value| value.to_bits()).collect())
            .collect();
        latents.sort();
        images.push(latents);
    }
    assert_eq!(images.iter().map(Vec::len).collect::<Vec<_>>(), [210, 210, 210, 51, 12]);
    assert_eq!(images[0], images[1]);
    assert_eq!(images[0], images[2]);
    assert!(images[3].iter().all(|latent| images[0].binary_search(latent).is_ok()));
}

/// Every layout has the same captions: one for each picture, all together, and a document for each.
#[tokio::test]
async fn every_layout_of_several_captions_gives_the_same_documents() {
    let Some(folder) = sample("") else { return };
    let layouts = [
        (pairs("folder", "images/folder"), 210, 682),
        (pairs("archives", "images/webdataset/*.tar"), 210, 682),
        (pairs("parquet", "images/parquet/pairs.parquet"), 210, 682),
        (pairs("coco", "images/folder/coco_captions_photos.json"), 51, 255),
    ];
    let mut texts = Vec::new();
    for (source, pictures, captions) in layouts {
        let run = async |choice| {
            let job = job(&folder);
            let source = SourceConfig { captions: Some(choice), ..source.clone() };
            let report = job.run(with_llama(vec![source])).await.expect("runs");
            let statistics = &report.sources[0].statistics;
            assert_eq!((statistics.read, statistics.kept), (pictures, pictures));
            (statistics.documents, statistics.tokens, job)
        };
        assert_eq!(run(CaptionChoice::Hash).await.0, pictures);
        let (all, all_tokens, _) = run(CaptionChoice::All).await;
        let (each, each_tokens, job) = run(CaptionChoice::Each).await;
        assert_eq!((all, each), (pictures, captions));
        assert!(all_tokens < each_tokens);
        let mut tokens: Vec<Vec<u32>> = Vec::new();
        for (row, _) in rows(&job.output).await {
            tokens.extend(row.documents().map(|(_, range)| {
                row.tokens()[range].iter().copied().filter(|id| (3..32_000).contains(id)).collect()
            }));
        }
        tokens.sort();
        texts.push(tokens);
    }
    assert_eq!(texts[0], texts[1]);
    assert_eq!(texts[0], texts[2]);
    assert!(texts[3].iter().all(|tokens| texts[0].binary_search(tokens).is_ok()));
}

/// Every text and every picture of the samples, from the disk and from S3: the same bytes.
#[tokio::test]
async fn the_samples_on_s3_give_the_bytes_of_those_on_disk() {
    let Some(folder) = sample("") else { return };
    let Some(store) = s3_store("samples") else { return };
    let disk = job(&folder);
    let whole = disk.inputs.list(None).try_collect::<Vec<_>>().await.expect("lists");
    let wanted = ["text/", "images/", "tokenizer/llama2-tokenizer.model"];
    for meta in whole.iter().filter(|meta| wanted.iter().any(|name| meta.location.as_ref().starts_with(name)))
    {
        let bytes = disk.inputs.get(&meta.location).await.expect("reads").bytes().await.expect("reads");
        store.put(&meta.location, bytes.into()).await.expect("put");
    }
    let each =
        |name: &str, uri: &str| SourceConfig { captions: Some(CaptionChoice::Each), ..pairs(name, uri) };
    let sources = vec![
        texts("lines", "text/*.json*"),
        texts("columns", "text/*.parquet"),
        texts("plain", "text/*.txt"),
        each("folder", "images/folder"),
        each("archives", "images/webdataset/*.tar"),
        each("parquet", "images/parquet/pairs.parquet"),
        each("coco", "images/folder/coco_captions_photos.json"),
        pairs("cc12m", "images/cc12m/*.tar"),
        pairs("odd", "images/odd"),
    ];
    let remote = Job::new(&store);
    for job in [&disk, &remote] {
        job.run(with_llama(sources.clone())).await.expect("runs");
    }
    assert!(files(&disk.output).await == files(&remote.output).await);
}

#[tokio::test]
async fn odd_pictures_are_kept_or_refused_as_their_table_says() {
    let Some(folder) = sample("") else { return };
    let job = job(&folder);
    job.run(with_llama(vec![pairs("odd", "images/odd")])).await.expect("runs");
    let table = std::fs::read_to_string(folder.join("images/odd/captions.jsonl")).expect("the table");
    let kept: std::collections::BTreeSet<u64> = rows(&job.output)
        .await
        .iter()
        .flat_map(|(row, _)| row.sources().to_vec())
        .map(|source| source.row)
        .collect();
    for (row, line) in table.lines().enumerate() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(kept.contains(&(row as u64)), line["decodable"] == true, "{line}");
    }
    let statistics = manifest(&job.output).await.sources[0].statistics.clone();
    assert_eq!((statistics.read, statistics.kept + statistics.rejected), (21, 21));
}

/// Best fit leaves next to nothing empty: under 1 % of a corpus of text, under 3 % of some hundred mixed rows. What is left
/// is mostly in the rows that are open where a unit ends, so the larger the units, the less.
#[tokio::test]
async fn padding_stays_under_its_bounds() {
    let Some(folder) = sample("") else { return };
    let share = |statistics: &schemas::DatasetStatistics| {
        let positions = statistics.tokens + statistics.patches + statistics.padding;
        statistics.padding as f64 / positions as f64
    };
    let [mut wikitext, mut plays] =
        [texts("wikitext", "text/wikitext2-test.txt"), texts("plays", "text/tinyshakespeare.txt")];
    (wikitext.document, plays.document) = (TextSplit::BlankLine, TextSplit::BlankLine);
    let text = PreprocessConfig { context: 4096, ..with_llama(vec![wikitext, plays]) };
    let report = job(&folder).run(text).await.expect("runs");
    assert!(report.statistics.rows > 150, "{:?}", report.statistics);
    assert!(share(&report.statistics) < 0.01, "{:?}", report.statistics);

    let mut mixed = with_llama(vec![
        pairs("folder", "images/folder/"),
        pairs("cc12m", "images/cc12m/*.tar"),
        texts("crawl", "text/cc_en_head-*"),
        texts("kjv", "text/kjv-pile-shape.jsonl.zst"),
    ]);
    // 64 patches a picture, as at 256 pixels with patches of 4 x 4 latent pixels.
    let codec = mixed.codec.as_mut().expect("a codec");
    (codec.size, codec.patch) = (64, 2);
    mixed.context = 4096;
    let report = job(&folder).run(mixed).await.expect("runs");
    assert!((100..1000).contains(&report.statistics.rows), "{:?}", report.statistics);
    assert!(report.statistics.images > 200 && share(&report.statistics) < 0.03, "{:?}", report.statistics);
}
