//! A preprocessing job from start to manifest.
//!
//! ```text
//! lease        one writer an output
//! job.json     create-only: the configuration; another one is refused
//! tokenizer    create-only: the copy that belongs to the dataset
//! shards/      under names made from their content, when they are whole
//! rejects/     one table a unit
//! commits/     create-only, one a unit: what is here is done
//! manifest     create-only, last: the dataset exists
//! ```
//!
//! Whatever instant a job is killed at, the same command goes on behind the last commit and ends with the same bytes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use futures::{StreamExt, TryStreamExt, stream};
use schemas::shard::Compression;
use schemas::{
    CodecRecord, DatasetStatistics, FORMAT_VERSION, FileRecord, Manifest, SourceRecord, SourceStatistics,
    Tokenizer, TokenizerRecord, content_hash,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::commit::{Commit, Location};
use crate::config::LatentKind;
use crate::deduplicate::{self, Duplicates};
use crate::error::PipelineError;
use crate::lease::Lease;
use crate::observer::{Event, Observer};
use crate::operators::pack::SPLITS;
use crate::operators::write::receipts;
use crate::plan::{PreprocessPlan, Tools};
use crate::report::Report;
use crate::source::SourcePlan;
use crate::train;
use crate::units::Unit;

const JOB: &str = "job.json";
const MANIFEST: &str = "manifest.json";

/// Does what was planned.
///
/// # Errors
///
/// If the output belongs to another configuration or another process, a store or the codec fails, too many rows are
/// refused, or the job is told to stop. What was finished is kept and used by the next start.
pub async fn preprocess(plan: PreprocessPlan, observer: Arc<dyn Observer>) -> Result<Report, PipelineError> {
    let output = &plan.environment.output;
    let lease = Lease::take(output, plan.environment.lease_period).await?;
    let done = tokio::select! {
        done = run(&plan, &observer) => done,
        lost = lease.lost() => Err(lost),
    };
    lease.release().await;
    done
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct JobRecord {
    format: u32,
    fingerprint: String,
    config: Value,
}

async fn run(plan: &PreprocessPlan, observer: &Arc<dyn Observer>) -> Result<Report, PipelineError> {
    let outputs = plan.outputs();
    outputs.iter().try_for_each(Location::remove_unfinished)?;
    let config = portable_config(plan)?;
    claim(&outputs[0], &config).await?;
    if let Some(report) = finished(plan, &outputs).await? {
        return Ok(report);
    }
    let tokenizer = tokenizer(plan, &outputs, observer).await?;
    let commits = run_units(plan, &tokenizer, observer).await?;
    check_rejects(plan, &commits)?;
    let mut report = write_manifests(plan, &tokenizer, &config, &commits).await?;
    outputs.iter().try_for_each(Location::remove_unfinished)?;
    report.units = commits.len();
    report.reused_units = commits.values().filter(|commit| commit.reused).count();
    report.peak_memory = plan.memory.peak() as u64;
    observer.event(Event::Finished);
    Ok(report)
}

/// The configuration without what the bytes don't depend on: output, limits, devices' names and the roots of
/// addresses; tokenizer and codec by their fingerprint.
fn portable_config(plan: &PreprocessPlan) -> Result<Value, PipelineError> {
    let mut config =
        serde_json::to_value(&plan.config).map_err(|error| PipelineError::Format(Box::new(error)))?;
    for key in ["output", "max-reject-share", "memory-bytes"] {
        if let Some(config) = config.as_object_mut() {
            config.shift_remove(key);
        }
    }
    if let Some(tokenizer) = &plan.tokenizer {
        config["tokenizer"]["model"] = tokenizer.fingerprint().into();
    }
    match plan.environment.codec.as_ref().filter(|_| plan.has_images()) {
        Some(codec) => {
            let info = codec.info();
            config["codec"]["path"] = info.fingerprint.clone().into();
            config["codec"]["device"] = info.device.clone().into();
            if let Some(codec) = config["codec"].as_object_mut() {
                codec.shift_remove("batch");
            }
        }
        None => config["codec"] = Value::Null,
    }
    for (index, source) in plan.sources.iter().enumerate() {
        config["source"][index]["uri"] = source.listing.pattern.clone().into();
    }
    Ok(config)
}

/// Makes the output this configuration's, or finds that it is.
async fn claim(output: &Location, config: &Value) -> Result<(), PipelineError> {
    let canonical = config.to_string();
    let record = JobRecord {
        format: FORMAT_VERSION,
        fingerprint: content_hash(canonical.as_bytes()),
        config: config.clone(),
    };
    let json = serde_json::to_vec_pretty(&record).map_err(|error| PipelineError::Format(Box::new(error)))?;
    if output.create(JOB, json).await? {
        return Ok(());
    }
    let there = output.read(JOB).await?.unwrap_or_default();
    let damaged =
        |error: serde_json::Error| PipelineError::Damaged { path: output.show(JOB), what: error.to_string() };
    let there: JobRecord = serde_json::from_slice(&there).map_err(damaged)?;
    if there.fingerprint == record.fingerprint {
        return Ok(());
    }
    let (key, there, here) = first_difference("", &there.config, &record.config);
    Err(PipelineError::OtherConfig { output: output.show(""), key, there, here })
}

fn first_difference(key: &str, there: &Value, here: &Value) -> (String, String, String) {
    let below = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    match (there, here) {
        (Value::Object(a), Value::Object(b)) => {
            let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
            names.sort();
            let null = Value::Null;
            let values =
                |name: &String| (a.get(name).unwrap_or(&null).clone(), b.get(name).unwrap_or(&null).clone());
            match names.into_iter().find(|name| {
                let (a, b) = values(name);
                a != b
            }) {
                Some(name) => {
                    let (a, b) = values(name);
                    first_difference(&below(name), &a, &b)
                }
                None => (key.to_owned(), there.to_string(), here.to_string()),
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let index = (0..a.len()).find(|&index| a[index] != b[index]).unwrap_or(0);
            match (a.get(index), b.get(index)) {
                (Some(a), Some(b)) => first_difference(&below(&index.to_string()), a, b),
                _ => (key.to_owned(), there.to_string(), here.to_string()),
            }
        }
        _ => (key.to_owned(), format!("`{there}`"), format!("`{here}`")),
    }
}

/// The report of a dataset that is whole already.
async fn finished(
    plan: &PreprocessPlan,
    outputs: &[Location; SPLITS],
) -> Result<Option<Report>, PipelineError> {
    let Some((manifest, checksum)) = read_manifest(&outputs[0]).await? else { return Ok(None) };
    let validation =
        if plan.config.split.validation > 0.0 { read_manifest(&outputs[1]).await? } else { None };
    let mut report = Report::new(&manifest, &checksum, validation.as_ref().map(|(manifest, _)| manifest));
    report.already_complete = true;
    report.units = plan.sources.iter().map(|source| source.units.len()).sum();
    report.reused_units = report.units;
    report.changed_files = changed_files(plan, &manifest);
    Ok(Some(report))
}

async fn read_manifest(output: &Location) -> Result<Option<(Manifest, String)>, PipelineError> {
    let Some(bytes) = output.read(MANIFEST).await? else { return Ok(None) };
    let damaged = |error: schemas::ManifestError| PipelineError::Damaged {
        path: output.show(MANIFEST),
        what: error.to_string(),
    };
    Manifest::from_bytes(&bytes).map(Some).map_err(damaged)
}

fn changed_files(plan: &PreprocessPlan, manifest: &Manifest) -> usize {
    let known: HashMap<(usize, &str), u64> = (manifest.sources.iter().enumerate())
        .flat_map(|(index, source)| {
            source.files.iter().map(move |file| ((index, file.path.as_str()), file.bytes))
        })
        .collect();
    let mut same = 0;
    let mut listed = 0;
    for (index, source) in plan.sources.iter().enumerate() {
        listed += source.listing.files.len();
        let unchanged =
            |file: &&crate::units::InputFile| known.get(&(index, file.below.as_str())) == Some(&file.bytes);
        same += source.listing.files.iter().filter(unchanged).count();
    }
    (listed - same).max(known.len() - same)
}

/// The tokenizer, and its copy in the datasets.
async fn tokenizer(
    plan: &PreprocessPlan,
    outputs: &[Location; SPLITS],
    observer: &Arc<dyn Observer>,
) -> Result<Tokenizer, PipelineError> {
    let tokenizer = match (&plan.tokenizer, plan.config.tokenizer.train) {
        (Some(tokenizer), _) => tokenizer.clone(),
        (None, Some(settings)) => train::tokenizer(plan, settings, &outputs[0], observer).await?,
        (None, None) => {
            return Err(PipelineError::Config {
                key: "tokenizer".to_owned(),
                expected: "`tokenizer.model` or `tokenizer.train`".to_owned(),
                found: "absent".to_owned(),
            });
        }
    };
    let copies = if plan.config.split.validation > 0.0 { SPLITS } else { 1 };
    for output in &outputs[..copies] {
        let name = tokenizer.file_name();
        if !output.create(name, tokenizer.bytes().to_vec()).await? {
            let there = output.read(name).await?.unwrap_or_default();
            if content_hash(&there) != tokenizer.fingerprint() {
                let what = "it is not the tokenizer of this job".to_owned();
                return Err(PipelineError::Damaged { path: output.show(name), what });
            }
        }
    }
    Ok(tokenizer)
}

/// A commit, and whether an earlier start made it.
struct Done {
    commit: Commit,
    reused: bool,
}

async fn committed(plan: &PreprocessPlan) -> Result<HashMap<String, Done>, PipelineError> {
    let output = &plan.environment.output;
    let units: Vec<String> = plan.units().into_iter().map(|unit| unit.unit).collect();
    let commits: Vec<Option<Commit>> = stream::iter(units)
        .map(|unit| async move { output.read_commit(&unit).await })
        .buffered(16)
        .try_collect()
        .await?;
    let done = |commit: Commit| (commit.unit.clone(), Done { commit, reused: true });
    Ok(commits.into_iter().flatten().map(done).collect())
}

/// Runs the units that are not committed, as many at a time as there are threads and memory.
async fn run_units(
    plan: &PreprocessPlan,
    tokenizer: &Tokenizer,
    observer: &Arc<dyn Observer>,
) -> Result<HashMap<String, Done>, PipelineError> {
    let mut done = committed(plan).await?;
    let context = plan.session()?.task_ctx();
    let total: usize = plan.sources.iter().map(|source| source.units.len()).sum();
    let duplicates = if plan.config.deduplicate && done.len() < total {
        deduplicate::find(plan).await?
    } else {
        Duplicates::default()
    };
    let tools =
        Tools { tokenizer: tokenizer.clone(), duplicates: Arc::new(duplicates), observer: observer.clone() };
    let mut pending = Vec::new();
    for source in &plan.sources {
        let units: Vec<Unit> =
            source.units.iter().filter(|unit| !done.contains_key(&unit.id)).cloned().collect();
        if !units.is_empty() {
            let physical = plan.physical_plan(source, &units, &tools).await?;
            pending.extend(
                units.into_iter().enumerate().map(|(partition, unit)| (physical.clone(), partition, unit)),
            );
        }
    }
    let bytes = pending.iter().map(|(_, _, unit)| unit.bytes).sum();
    observer.event(Event::Planned { units: total, reused: done.len(), bytes });
    let running = stream::iter(pending).map(|(physical, partition, unit)| {
        let context = context.clone();
        async move { (unit, run_unit(physical, partition, context).await) }
    });
    let mut running = std::pin::pin!(running.buffer_unordered(plan.units_at_once()));
    while let Some((unit, result)) = running.next().await {
        match result {
            Ok(commits) => done.extend(
                commits.into_iter().map(|commit| (commit.unit.clone(), Done { commit, reused: false })),
            ),
            Err(PipelineError::Stopped { .. }) => {
                return Err(PipelineError::Stopped { done: done.len(), total });
            }
            Err(error) => return Err(error),
        }
        observer.event(Event::UnitDone { unit: unit.id, bytes: unit.bytes });
    }
    Ok(done)
}

async fn run_unit(
    physical: Arc<dyn ExecutionPlan>,
    partition: usize,
    context: Arc<TaskContext>,
) -> Result<Vec<Commit>, PipelineError> {
    // A task of its own, so that filters of several units run on several cores; dropped, it is aborted.
    let task = SpawnedTask::spawn(async move {
        let batches: Vec<_> = physical.execute(partition, context)?.try_collect().await?;
        Ok::<_, PipelineError>(batches)
    });
    let batches = match task.join_unwind().await {
        Ok(batches) => batches?,
        Err(error) => return Err(PipelineError::Format(Box::new(error))),
    };
    Ok(batches.iter().map(receipts).collect::<Result<Vec<_>, _>>()?.concat())
}

fn check_rejects(plan: &PreprocessPlan, commits: &HashMap<String, Done>) -> Result<(), PipelineError> {
    let (mut read, mut rejected, mut reasons) = (0, 0, BTreeMap::<&str, u64>::new());
    for done in commits.values() {
        let statistics = &done.commit.report.statistics[0];
        read += statistics.read;
        rejected += statistics.rejected;
        for (reason, count) in &statistics.rejects {
            *reasons.entry(reason).or_default() += count;
        }
    }
    let limit = plan.config.max_reject_share;
    if rejected as f64 <= limit * read as f64 {
        return Ok(());
    }
    let mut top: Vec<(&str, u64)> = reasons.into_iter().collect();
    top.sort_by_key(|&(reason, count)| (std::cmp::Reverse(count), reason));
    let top = top.into_iter().take(5).map(|(reason, count)| format!("{count} {reason}")).collect();
    Err(PipelineError::TooManyRejects { rejected, read, limit, top })
}

async fn write_manifests(
    plan: &PreprocessPlan,
    tokenizer: &Tokenizer,
    config: &Value,
    commits: &HashMap<String, Done>,
) -> Result<Report, PipelineError> {
    let outputs = plan.outputs();
    let validation = if plan.config.split.validation > 0.0 {
        let manifest = manifest(plan, tokenizer, config, commits, 1);
        write_manifest(&outputs[1], &manifest).await?;
        Some(manifest)
    } else {
        None
    };
    // The dataset itself last: when it is there, all is there.
    let manifest = manifest(plan, tokenizer, config, commits, 0);
    let checksum = write_manifest(&outputs[0], &manifest).await?;
    Ok(Report::new(&manifest, &checksum, validation.as_ref()))
}

async fn write_manifest(output: &Location, manifest: &Manifest) -> Result<String, PipelineError> {
    let (bytes, checksum) = manifest.to_bytes().map_err(|error| PipelineError::Format(Box::new(error)))?;
    if output.create(MANIFEST, bytes.clone()).await?
        || output.read(MANIFEST).await?.is_some_and(|there| there == bytes)
    {
        return Ok(checksum);
    }
    let what = "it is not the manifest of this job, whose input may have changed".to_owned();
    Err(PipelineError::Damaged { path: output.show(MANIFEST), what })
}

fn manifest(
    plan: &PreprocessPlan,
    tokenizer: &Tokenizer,
    config: &Value,
    commits: &HashMap<String, Done>,
    split: usize,
) -> Manifest {
    let layout = plan.layout(tokenizer);
    let units = || plan.sources.iter().flat_map(|source| &source.units);
    let of_unit = |unit: &Unit| commits.get(&unit.id).map(|done| &done.commit);
    let sources: Vec<SourceRecord> =
        plan.sources.iter().map(|source| source_record(source, commits, split)).collect();
    let codec = plan.has_images().then(|| codec_record(plan)).flatten();
    let mut features = Vec::new();
    features.extend(codec.is_some().then(|| "latents".to_owned()));
    features.extend((plan.config.compression == Compression::Zstd).then(|| "zstd".to_owned()));
    let mut statistics = DatasetStatistics::default();
    for source in sources.iter().map(|source| &source.statistics) {
        statistics.documents += source.documents;
        statistics.images += source.images;
        statistics.tokens += source.tokens;
        statistics.patches += source.patches;
        statistics.padding += source.padding;
    }
    let shards: Vec<_> =
        units().filter_map(of_unit).flat_map(|commit| commit.shards[split].iter().cloned()).collect();
    statistics.rows = shards.iter().map(|shard| shard.rows).sum();
    Manifest {
        format: FORMAT_VERSION,
        features,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        parent: None,
        context: layout.context,
        patch: layout.patch,
        vocabulary: layout.vocabulary,
        seed: plan.config.seed,
        tokenizer: TokenizerRecord {
            path: tokenizer.file_name().to_owned(),
            fingerprint: tokenizer.fingerprint().to_owned(),
            bos: tokenizer.bos(),
            eos: tokenizer.eos(),
        },
        codec,
        config: config.clone(),
        sources,
        shards,
        statistics,
    }
}

fn codec_record(plan: &PreprocessPlan) -> Option<CodecRecord> {
    let info = plan.environment.codec.as_ref()?.info();
    Some(CodecRecord {
        fingerprint: info.fingerprint.clone(),
        kind: info.kind.clone(),
        size: plan.config.codec.as_ref()?.size,
        channels: info.channels.into(),
        downsampling: info.downsampling,
        moments: plan.config.codec.as_ref()?.latent == LatentKind::Moments,
        device: info.device.clone(),
        processor: info.processor.clone(),
    })
}

fn source_record(source: &SourcePlan, commits: &HashMap<String, Done>, split: usize) -> SourceRecord {
    let mut statistics = SourceStatistics::default();
    let mut files = Vec::with_capacity(source.listing.files.len());
    for unit in &source.units {
        // Of several parts of a file the first one names it.
        let first = unit.part.is_none_or(|part| part.start == 0);
        files.extend(
            source.listing.files[unit.files.clone()].iter().filter(|_| first).map(|file| FileRecord {
                path: file.below.clone(),
                bytes: file.bytes,
                unit: unit.id.clone(),
            }),
        );
        if let Some(done) = commits.get(&unit.id) {
            add(&mut statistics, &done.commit.report.statistics[split]);
        }
    }
    SourceRecord {
        name: source.config.name.clone(),
        shape: source.config.shape.name().to_owned(),
        weight: source.config.weight,
        files,
        statistics,
    }
}

fn add(sum: &mut SourceStatistics, part: &SourceStatistics) {
    sum.read += part.read;
    sum.kept += part.kept;
    sum.rejected += part.rejected;
    sum.filtered += part.filtered;
    sum.deduplicated += part.deduplicated;
    for (counts, more) in [(&mut sum.rejects, &part.rejects), (&mut sum.warnings, &part.warnings)] {
        for (name, count) in more {
            *counts.entry(name.clone()).or_default() += count;
        }
    }
    sum.documents += part.documents;
    sum.images += part.images;
    sum.tokens += part.tokens;
    sum.patches += part.patches;
    sum.padding += part.padding;
    sum.document_length.merge(&part.document_length);
    sum.images_per_row.merge(&part.images_per_row);
}
