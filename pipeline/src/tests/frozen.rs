//! The frozen datasets of `tests/compat` grow with today's program, whatever keys the configuration has got since.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt};
use schemas::{Manifest, SourceRecord, manifest_name};

use super::fixtures::{AveragePool, OneStore, files, memory_output, rows};
use crate::picture::codec::CodecInfo;
use crate::storage::version::Version;
use crate::{Environment, Location, PreprocessConfig, PreprocessPlan, Silent, preprocess};

fn frozen() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/compat");
    let entries = std::fs::read_dir(folder).expect("the frozen datasets");
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    folders.sort();
    assert!(!folders.is_empty());
    folders
}

/// A copy in memory.
async fn copied(folder: &Path) -> Location {
    let output = memory_output();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let below = path.strip_prefix(folder).expect("below it").to_str().expect("a name").to_owned();
            let place = StorePath::from(format!("{}/{below}", output.prefix));
            output.store.put(&place, std::fs::read(&path).expect("a file").into()).await.expect("put");
        }
    }
    output
}

/// A row of a source, as long as the whole file that the dataset was made from.
fn content(source: &SourceRecord, bytes: u64) -> String {
    let start = match source.shape.as_str() {
        "pair" => "{\"file_name\":\"absent.png\",\"caption\":\"",
        _ => "{\"text\":\"",
    };
    let end = "\"}\n";
    let length = bytes as usize - start.len() - end.len();
    format!("{start}{}{end}", "a".repeat(length))
}

/// Files of the names and sizes that it was made from, and a new one.
async fn inputs(manifest: &Manifest) -> Arc<dyn ObjectStore> {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let put = async |source: &str, file: &str, text: String| {
        store.put(&StorePath::from(format!("in/{source}/{file}")), text.into()).await.expect("put");
    };
    for source in &manifest.sources {
        for file in &source.files {
            put(&source.name, &file.path, content(source, file.bytes)).await;
        }
    }
    let lines: String = (0..20).map(|row| format!("{{\"text\":\"what is new, {row}\"}}\n")).collect();
    put("notes", "new.jsonl", lines).await;
    store
}

fn config(manifest: &Manifest) -> PreprocessConfig {
    let mut config: PreprocessConfig =
        serde_json::from_value(manifest.config.clone()).expect("a configuration");
    config.max_reject_share = 1.0;
    for source in &mut config.sources {
        source.uri = format!("in/{}/{}", source.name, source.uri).trim_end_matches('/').to_owned();
    }
    config
}

#[tokio::test]
async fn every_frozen_dataset_grows() {
    for folder in frozen() {
        let output = copied(&folder).await;
        let (before, old_rows) = (files(&output).await, rows(&output).await);
        let base = Version::newest(&output).await.expect("reads").expect("a version");
        let record = base.manifest.codec.clone().expect("a codec");
        let codec = AveragePool::of(CodecInfo {
            fingerprint: record.fingerprint,
            kind: record.kind,
            channels: record.channels as u16,
            downsampling: record.downsampling,
            device: record.device,
            processor: record.processor,
        });
        let resolver = Arc::new(OneStore(inputs(&base.manifest).await));
        let environment =
            Environment { codec: Some(Arc::new(codec)), ..Environment::new(resolver, output.clone(), 2) };
        let plan = async || PreprocessPlan::try_new(config(&base.manifest), environment.clone()).await;
        let shown = folder.display();
        let report = preprocess(plan().await.expect("the same"), Arc::new(Silent)).await.expect("grows");
        assert_eq!(report.manifest_name, manifest_name(base.number + 1), "{shown}");
        assert_eq!((report.added_files, report.units), (1, 1), "{shown}");
        let after = files(&output).await;
        assert!(before.iter().all(|(name, bytes)| after.get(name) == Some(bytes)), "{shown} was touched");
        // Each shard has its checksum, and rows keep their numbers.
        let new_rows = rows(&output).await;
        assert!(new_rows.starts_with(&old_rows) && new_rows.len() > old_rows.len(), "{shown}");
        let again = preprocess(plan().await.expect("the same"), Arc::new(Silent)).await.expect("is done");
        assert!(again.already_complete, "{shown}");
    }
}
