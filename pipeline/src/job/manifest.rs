//! The manifest of what was planned and committed.

use std::collections::HashMap;

use schemas::shard::Compression;
use schemas::{
    CodecRecord, DatasetStatistics, FORMAT_VERSION, FileRecord, Manifest, PartRecord, SourceRecord,
    SourceStatistics, Tokenizer, TokenizerRecord, UnitRecord,
};

use crate::config::LatentKind;
use crate::plan::PreprocessPlan;
use crate::source::SourcePlan;
use crate::storage::commit::Commit;
use crate::units::Unit;

/// Commits by the names of their units.
pub(crate) type Commits<'a> = HashMap<&'a str, &'a Commit>;

/// The manifest of what was committed behind a base version. `split` 0 is the dataset, 1 its validation dataset.
pub(crate) fn compose(
    plan: &PreprocessPlan,
    tokenizer: &Tokenizer,
    base: Option<&Manifest>,
    commits: &Commits<'_>,
    split: usize,
) -> Manifest {
    let layout = plan.layout(tokenizer);
    let sources: Vec<SourceRecord> =
        plan.sources.iter().map(|source| source_record(source, base, commits, split)).collect();
    let codec = plan.has_images().then(|| codec_record(plan)).flatten();
    let mut features = Vec::new();
    features.extend(codec.is_some().then(|| "latents".to_owned()));
    features.extend((plan.config.compression == Compression::Zstd).then(|| "zstd".to_owned()));
    let mut units = base.map_or_else(Vec::new, |base| base.units.clone());
    let mut shards = base.map_or_else(Vec::new, |base| base.shards.clone());
    for (source, unit) in
        plan.sources.iter().flat_map(|source| source.units.iter().map(move |unit| (source, unit)))
    {
        if let Some(commit) = commits.get(unit.id.as_str()) {
            units.push(unit_record(source, unit, commit, split));
            shards.extend(commit.shards[split].iter().cloned());
        }
    }
    let mut statistics = dataset_statistics(&sources);
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
        config: plan.portable.clone(),
        sources,
        units,
        shards,
        statistics,
    }
}

fn dataset_statistics(sources: &[SourceRecord]) -> DatasetStatistics {
    let mut sum = DatasetStatistics::default();
    for source in sources.iter().map(|source| &source.statistics) {
        sum.documents += source.documents;
        sum.images += source.images;
        sum.tokens += source.tokens;
        sum.patches += source.patches;
        sum.padding += source.padding;
    }
    sum
}

fn unit_record(source: &SourcePlan, unit: &Unit, commit: &Commit, split: usize) -> UnitRecord {
    let part = unit.part.and_then(|part| {
        let file = source.listing.files.get(unit.files.start)?.below.clone();
        // Who has read a part knows it.
        let first_row = part.first_row.or(commit.first_row)?;
        Some(PartRecord { file, start: part.start, end: part.end, first_row })
    });
    UnitRecord {
        unit: unit.id.clone(),
        source: source.index,
        part,
        retries: commit.retries.as_ref().map(|retried| retried.unit.clone()),
        // The table of a unit lies in the dataset, whatever became of the rows that were not refused.
        rejects: commit.rejects.clone().filter(|_| split == 0),
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

fn source_record(
    source: &SourcePlan,
    base: Option<&Manifest>,
    commits: &Commits<'_>,
    split: usize,
) -> SourceRecord {
    let base = base.and_then(|base| base.sources.get(usize::from(source.index)));
    let mut statistics = base.map_or_else(SourceStatistics::default, |base| base.statistics.clone());
    let mut files = base.map_or_else(Vec::new, |base| base.files.clone());
    for unit in &source.units {
        let Some(commit) = commits.get(unit.id.as_str()) else { continue };
        if let Some(retried) = commit.retries.as_ref().filter(|_| split == 0) {
            statistics.forget_rejects(&retried.rejects);
        }
        statistics.merge(&commit.report.statistics[split]);
        files.extend(new_files(source, unit));
    }
    files.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    SourceRecord {
        name: source.config.name.clone(),
        shape: source.config.shape.name().to_owned(),
        weight: source.config.weight,
        files,
        statistics,
    }
}

/// The files that a unit is the first to read: of several parts of a file the first one names it.
fn new_files<'a>(source: &'a SourcePlan, unit: &'a Unit) -> impl Iterator<Item = FileRecord> + 'a {
    let first = unit.only.is_none() && unit.part.is_none_or(|part| part.start == 0);
    source.listing.files[unit.files.clone()].iter().filter(move |_| first).map(|file| FileRecord {
        path: file.below.clone(),
        bytes: file.bytes,
        unit: unit.id.clone(),
    })
}
