//! A dataset: manifest, shards, tokenizer, counts, and what lies beside them.

use std::collections::{BTreeMap, HashSet};

use anyhow::anyhow;
use futures::{StreamExt, TryStreamExt};
use pipeline::{RejectTable, is_written};
use schemas::shard::Shard;
use schemas::{DatasetStatistics, Manifest, Modality, RejectsRecord, ShardRecord, Tokenizer, content_hash};

use super::Verdict;
use crate::dataset::{ManifestFile, open_shard};
use crate::session::Session;
use crate::store::Place;
use crate::terminal::{Progress, Unit, count, thousands};

/// Checks all of a dataset. Damage is collected; only what makes looking impossible is an error.
pub(super) async fn verify(place: &Place, file: ManifestFile, session: &Session) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict::new("dataset", place);
    (verdict.objects, verdict.bytes) = (1, file.bytes.len() as u64);
    let manifest = match Manifest::from_bytes(&file.bytes) {
        Ok((manifest, _)) => manifest,
        Err(error) => {
            verdict.damaged(&file.name, chain(&anyhow!(error)));
            return Ok(verdict);
        }
    };
    check_tokenizer(place, &manifest, &mut verdict).await?;
    let total = check_shards(place, &manifest, session, &mut verdict).await?;
    check_rejects(place, &file.name, &manifest, &mut verdict).await?;
    check_parent(place, &manifest, &mut verdict).await?;
    if verdict.damage.is_empty() {
        check_counts(&file.name, &manifest, &total, &mut verdict);
    }
    note_orphans(place, &manifest, &mut verdict).await;
    Ok(verdict)
}

fn chain(error: &anyhow::Error) -> String {
    crate::failure::Account::of(error).lines.join(": ")
}

async fn check_tokenizer(place: &Place, manifest: &Manifest, verdict: &mut Verdict) -> anyhow::Result<()> {
    let record = &manifest.tokenizer;
    let Some(bytes) = place.join(&record.path).read_if_there().await? else {
        verdict.damaged(&record.path, "is missing");
        return Ok(());
    };
    verdict.objects += 1;
    verdict.bytes += bytes.len() as u64;
    let found = content_hash(&bytes);
    if found != record.fingerprint {
        verdict.damaged(
            &record.path,
            format!("its fingerprint is `{found}`, the manifest has `{}`", record.fingerprint),
        );
        return Ok(());
    }
    match Tokenizer::with_ids(&bytes, record.bos, record.eos) {
        Err(error) => verdict.damaged(&record.path, error),
        Ok(tokenizer) if tokenizer.vocabulary_size() != manifest.vocabulary.size => {
            let (found, expected) = (tokenizer.vocabulary_size(), manifest.vocabulary.size);
            verdict.damaged(&record.path, format!("it has {found} ids, the manifest has {expected}"));
        }
        Ok(_) => {}
    }
    Ok(())
}

/// What decoding a shard counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) rows: u64,
    images: u64,
    tokens: u64,
    patches: u64,
    padding: u64,
}

async fn check_shards(
    place: &Place,
    manifest: &Manifest,
    session: &Session,
    verdict: &mut Verdict,
) -> anyhow::Result<Tally> {
    let jobs =
        manifest.shards.iter().map(|record| check_shard(place.join(&record.path), record.clone(), manifest));
    // Each shard is held whole while it is checked, so few at a time.
    let mut results = futures::stream::iter(jobs).buffered(session.threads.min(4));
    let bytes = manifest.shards.iter().map(|shard| shard.bytes).sum();
    let progress = Progress::new(&session.printer, "verify", Unit::Bytes, 0, bytes);
    let mut total = Tally::default();
    while let Some((path, result)) = results.try_next().await? {
        verdict.objects += 1;
        match result {
            Err(problem) => verdict.damaged(&path, problem),
            Ok((bytes, tally)) => {
                progress.add(bytes);
                verdict.bytes += bytes;
                verdict.rows += tally.rows;
                total.rows += tally.rows;
                total.images += tally.images;
                total.tokens += tally.tokens;
                total.patches += tally.patches;
                total.padding += tally.padding;
            }
        }
    }
    Ok(total)
}

type Checked = (String, Result<(u64, Tally), String>);

async fn check_shard(place: Place, record: ShardRecord, manifest: &Manifest) -> anyhow::Result<Checked> {
    let path = record.path.clone();
    let Some(bytes) = place.read_if_there().await? else { return Ok((path, Err("is missing".to_owned()))) };
    let expected = Expected::of(manifest);
    let checked = tokio::task::spawn_blocking(move || examine(&place, bytes, &record, &expected)).await?;
    Ok((path, checked.map_err(|error| chain(&error))))
}

/// What the manifest says of every shard.
struct Expected {
    layout: schemas::RowLayout,
    tokenizer: String,
    codec: Option<String>,
    sources: Vec<String>,
}

impl Expected {
    fn of(manifest: &Manifest) -> Self {
        Self {
            layout: manifest.layout(),
            tokenizer: manifest.tokenizer.fingerprint.clone(),
            codec: manifest.codec.as_ref().map(|codec| codec.fingerprint.clone()),
            sources: manifest.sources.iter().map(|source| source.name.clone()).collect(),
        }
    }
}

fn examine(
    place: &Place,
    bytes: bytes::Bytes,
    record: &ShardRecord,
    expected: &Expected,
) -> anyhow::Result<(u64, Tally)> {
    let size = bytes.len() as u64;
    if size != record.bytes {
        return Err(anyhow!("has {} bytes, the manifest has {}", thousands(size), thousands(record.bytes)));
    }
    let found = content_hash(&bytes);
    if found != record.checksum {
        return Err(anyhow!("its checksum is `{found}`, the manifest has `{}`", record.checksum));
    }
    let shard = open_shard(place, bytes)?;
    check_metadata(&shard, expected)?;
    let tally = tally(&shard)?;
    let counted = (tally.rows, tally.tokens, tally.patches, tally.padding);
    let listed = (record.rows, record.tokens, record.patches, record.padding);
    if counted != listed {
        return Err(anyhow!("rows, text, patches and padding are {counted:?}, the manifest has {listed:?}"));
    }
    Ok((size, tally))
}

fn check_metadata(shard: &Shard, expected: &Expected) -> anyhow::Result<()> {
    let metadata = shard.metadata();
    let differs = |what: &str| Err(anyhow!("its {what} differs from the manifest's"));
    match () {
        () if metadata.layout() != expected.layout => differs("context, patch or vocabulary"),
        () if metadata.tokenizer != expected.tokenizer => differs("tokenizer"),
        () if metadata.codec.is_some() && metadata.codec != expected.codec => differs("codec"),
        () if !metadata.sources.iter().all(|name| expected.sources.contains(name)) => {
            differs("list of sources")
        }
        () => Ok(()),
    }
}

/// Decodes every row, which checks its invariants, and counts.
pub(super) fn tally(shard: &Shard) -> anyhow::Result<Tally> {
    let metadata = shard.metadata();
    let mut tally = Tally::default();
    for batch in 0..shard.batches() {
        for row in shard.rows(batch)? {
            let known = row.sources().iter().all(|source| {
                usize::from(source.source) < metadata.sources.len()
                    && (source.file as usize) < metadata.files.len()
            });
            if !known {
                return Err(anyhow!(
                    "row {} names a source or file that the shard does not list",
                    tally.rows
                ));
            }
            tally.rows += 1;
            tally.images += row.spans().iter().filter(|span| span.modality == Modality::Image).count() as u64;
            tally.tokens += u64::from(row.text_positions());
            tally.patches += u64::from(row.patch_positions());
            tally.padding += row.tokens().len() as u64 - u64::from(row.used());
        }
    }
    Ok(tally)
}

/// Reads every table of refused rows, and compares the rows that are refused still with the counts by reason.
async fn check_rejects(
    place: &Place,
    name: &str,
    manifest: &Manifest,
    verdict: &mut Verdict,
) -> anyhow::Result<()> {
    let mut found = vec![BTreeMap::<String, u64>::new(); manifest.sources.len()];
    let retried = manifest.retried_units();
    let mut all = true;
    for unit in &manifest.units {
        let Some(record) = &unit.rejects else { continue };
        let Some(bytes) = place.join(&record.path).read_if_there().await? else {
            verdict.damaged(&record.path, "is missing");
            all = false;
            continue;
        };
        verdict.objects += 1;
        verdict.bytes += bytes.len() as u64;
        let counts = found.get_mut(usize::from(unit.source));
        match tally_rejects(&bytes, record, retried.contains(unit.unit.as_str())) {
            Ok(tally) => counts.into_iter().for_each(|counts| {
                tally.iter().for_each(|(reason, rows)| *counts.entry(reason.clone()).or_default() += rows);
            }),
            Err(error) => {
                verdict.damaged(&record.path, chain(&error));
                all = false;
            }
        }
    }
    // A manifest of before there were lists of units names no tables.
    for (source, found) in manifest.sources.iter().zip(&found).filter(|_| all && !manifest.units.is_empty()) {
        if *found != source.statistics.rejects {
            let (name_of, listed) = (&source.name, &source.statistics.rejects);
            verdict.damaged(
                name,
                format!(
                    "source `{name_of}`: its tables have the refused rows {found:?}, the counts {listed:?}"
                ),
            );
        }
    }
    Ok(())
}

/// Rows of a table that are refused still, by reason.
fn tally_rejects(
    bytes: &bytes::Bytes,
    record: &RejectsRecord,
    retried: bool,
) -> anyhow::Result<BTreeMap<String, u64>> {
    let found = content_hash(bytes);
    if found != record.checksum {
        return Err(anyhow!("its checksum is `{found}`, the manifest has `{}`", record.checksum));
    }
    let (mut tally, mut rows) = (BTreeMap::new(), 0);
    for lines in RejectTable::open(bytes.clone())? {
        for line in lines? {
            rows += 1;
            if line.stands(retried) {
                *tally.entry(line.reason).or_default() += 1;
            }
        }
    }
    if rows != record.rows {
        return Err(anyhow!("has {rows} rows, the manifest has {}", record.rows));
    }
    Ok(tally)
}

/// A later version names the one before, which stays for those that hold on to it.
async fn check_parent(place: &Place, manifest: &Manifest, verdict: &mut Verdict) -> anyhow::Result<()> {
    let Some(parent) = &manifest.parent else { return Ok(()) };
    let Some(bytes) = place.join(&parent.name).read_if_there().await? else {
        verdict.damaged(&parent.name, "is missing, and a later version names it");
        return Ok(());
    };
    verdict.objects += 1;
    verdict.bytes += bytes.len() as u64;
    match Manifest::from_bytes(&bytes) {
        Err(error) => verdict.damaged(&parent.name, chain(&anyhow!(error))),
        Ok((_, found)) if found != parent.checksum => {
            let expected = &parent.checksum;
            verdict.damaged(
                &parent.name,
                format!("its checksum is `{found}`, the version behind it has `{expected}`"),
            );
        }
        Ok((before, _)) if !manifest.shards.starts_with(&before.shards) => {
            verdict.damaged(&parent.name, "has shards that the version behind it does not begin with");
        }
        Ok(_) => {}
    }
    Ok(())
}

fn check_counts(name: &str, manifest: &Manifest, total: &Tally, verdict: &mut Verdict) {
    let DatasetStatistics { rows, documents, images, tokens, patches, padding } = manifest.statistics;
    let listed = Tally { rows, images, tokens, patches, padding };
    if *total != listed {
        verdict.damaged(name, format!("the shards have {total:?}, the statistics {listed:?}"));
    }
    let sum = |field: fn(&schemas::SourceStatistics) -> u64| {
        manifest.sources.iter().map(|source| field(&source.statistics)).sum::<u64>()
    };
    let of_sources =
        (sum(|s| s.documents), sum(|s| s.images), sum(|s| s.tokens), sum(|s| s.patches), sum(|s| s.padding));
    if of_sources != (documents, images, tokens, patches, padding) {
        verdict.damaged(
            name,
            format!("the counts of the sources add up to {of_sources:?}, not to the dataset's"),
        );
    }
    for source in &manifest.sources {
        if !source.statistics.is_balanced() {
            verdict.damaged(
                name,
                format!("source `{}`: rows read are not those kept and set aside", source.name),
            );
        }
    }
}

/// Files below the dataset that nothing refers to: left by a killed job, or foreign.
async fn note_orphans(place: &Place, manifest: &Manifest, verdict: &mut Verdict) {
    if place.uri.starts_with("http") {
        return;
    }
    let known: HashSet<&str> = manifest.shards.iter().map(|shard| shard.path.as_str()).collect();
    let listed = place.store.list(Some(&place.path)).try_collect::<Vec<_>>().await;
    let Ok(listed) = listed else {
        verdict.notes.push(
            "the folder can't be listed, so files that don't belong to it were not looked for".to_owned(),
        );
        return;
    };
    let below = |path: &object_store::path::Path| {
        let parts = path.prefix_match(&place.path)?;
        Some(parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"))
    };
    let names = listed.iter().filter_map(|object| below(&object.location));
    let mut orphans: Vec<String> =
        names.filter(|name| !known.contains(name.as_str()) && !belongs(name, manifest)).collect();
    orphans.sort();
    if let Some(first) = orphans.first() {
        let what = count(orphans.len() as u64, "file");
        verdict.notes.push(format!("{what} in the folder belong to no manifest, e.g. `{first}`"));
    }
}

/// Whether a file other than a shard is one of a dataset's own.
fn belongs(name: &str, manifest: &Manifest) -> bool {
    let is_other = name.starts_with("shards/") || name.starts_with("tokenizer.");
    name == manifest.tokenizer.path || is_written(name) && !is_other
}
