//! Datasets of every released format version, frozen in `tests/compat`: each must be read with the content it was
//! written with, by every later program. `v1` has means as latents and its rejects as lines; `v1-grown` has moments,
//! three versions of its manifest, and its rejects as Parquet.
//!
//! `expected.json` beside a dataset has its rows, shard after shard, as pyarrow read them on the day of the freeze.

use std::fs;
use std::path::{Path, PathBuf};

use schemas::shard::Shard;
use schemas::{Manifest, content_hash, manifest_name};
use serde_json::Value;

use crate::support::{Run, as_json, repository};

fn frozen() -> Vec<PathBuf> {
    let folders = fs::read_dir(repository().join("tests/compat")).expect("the frozen datasets");
    let mut folders: Vec<PathBuf> = folders.map(|entry| entry.expect("an entry").path()).collect();
    folders.sort();
    assert!(!folders.is_empty());
    folders
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of the repository is UTF-8")
}

#[test]
fn every_value_of_every_version_is_read() {
    for folder in frozen() {
        let newest = (1..).map(|version| folder.join(manifest_name(version)));
        let newest = newest.take_while(|path| path.exists()).last().expect("a manifest");
        let bytes = fs::read(newest).expect("a manifest");
        let (manifest, _) = Manifest::from_bytes(&bytes).expect("a manifest that is understood");
        let expected = fs::read(folder.join("expected.json")).expect("the rows that were written");
        let expected: Vec<Value> = serde_json::from_slice(&expected).expect("JSON");
        let mut found = Vec::new();
        for record in &manifest.shards {
            let bytes = fs::read(folder.join(&record.path)).expect("a shard");
            assert_eq!(content_hash(&bytes), record.checksum, "{}", record.path);
            let shard = Shard::open(bytes.into()).expect("a shard that is understood");
            for batch in 0..shard.batches() {
                found.extend(shard.rows(batch).expect("rows").iter().map(as_json));
            }
        }
        assert_eq!(found.len(), expected.len(), "{}: rows", folder.display());
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "{}: row {index}", folder.display());
        }
    }
}

#[test]
fn every_version_is_verified_shown_and_trained_on() {
    for folder in frozen() {
        let folder = text(&folder);
        Run::new(&["verify", folder]).run().expect_code(0);
        let inspect = Run::new(&["inspect", folder, "--row", "0"]).run();
        inspect.expect_code(0);
        assert!(inspect.stdout.contains("BOI"), "{}", inspect.stdout);
        // The first datasets listed no tables of refused rows.
        let rejects = Run::new(&["inspect", folder, "--rejects"]).run();
        let shown = if folder.ends_with("v1") { &rejects.stderr } else { &rejects.stdout };
        let expected = if folder.ends_with("v1") { "an earlier version" } else { "empty" };
        assert!(shown.contains(expected), "{rejects:?}");
        let output = tempfile::tempdir().expect("a folder");
        let config = output.path().join("train.toml");
        let run = output.path().join("run");
        let settings = format!(
            "run = '{}'\nmodel = 'demo'\nsteps = 2\nbatch = 2\nseed = 0\n[[data]]\nuri = '{folder}'\n\
             [schedule]\nrate = 1e-3\nwarm-up = 1\n",
            run.display()
        );
        fs::write(&config, settings).expect("a config");
        Run::new(&["train", text(&config), "--quiet"]).run().expect_code(0);
        assert!(run.join("checkpoints/step-00000002/state.json").is_file());
    }
}
