//! Versions of a dataset: what is added to one makes a new manifest beside the old ones.
//!
//! A version begins with the units and shards of the one before, untouched and in their order, and names its checksum;
//! so a row of an old version has the same number in a new one, and a reader that holds on to an old version goes on
//! undisturbed. Files that were packed must be there as they were: one that has another size or is gone is an error,
//! because a dataset can't forget. (Content that changed without a change of size is not noticed: files have no
//! checksums here, since reading them all again is what a new version is to spare.)

use std::collections::HashMap;

use schemas::shard::Compression;
use schemas::{
    CodecRecord, DatasetStatistics, FORMAT_VERSION, FileRecord, Manifest, ParentRecord, PartRecord,
    SourceRecord, SourceStatistics, Tokenizer, TokenizerRecord, UnitRecord, manifest_name,
};

use crate::PipelineError;
use crate::config::LatentKind;
use crate::plan::PreprocessPlan;
use crate::source::SourcePlan;
use crate::storage::commit::{Commit, Location};
use crate::units::{FilePart, InputFile, Listing, Unit};

/// A version of a dataset.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    /// Its number, from 1.
    pub(crate) number: u32,
    pub(crate) manifest: Manifest,
    pub(crate) checksum: String,
}

impl Version {
    /// The file name of its manifest.
    pub(crate) fn name(&self) -> String {
        manifest_name(self.number)
    }

    /// The newest version; `None` if the dataset is not finished. Versions are probed by name, never listed.
    pub(crate) async fn newest(output: &Location) -> Result<Option<Self>, PipelineError> {
        let mut number = 0;
        let mut newest = None;
        while let Some(bytes) = output.read(&manifest_name(number + 1)).await? {
            number += 1;
            newest = Some(bytes);
        }
        newest.map(|bytes| Self::parse(output, number, &bytes)).transpose()
    }

    async fn read(output: &Location, number: u32) -> Result<Option<Self>, PipelineError> {
        match output.read(&manifest_name(number)).await? {
            Some(bytes) => Self::parse(output, number, &bytes).map(Some),
            None => Ok(None),
        }
    }

    fn parse(output: &Location, number: u32, bytes: &[u8]) -> Result<Self, PipelineError> {
        let damaged = |error: schemas::ManifestError| PipelineError::Damaged {
            path: output.show(&manifest_name(number)),
            what: error.to_string(),
        };
        let (manifest, checksum) = Manifest::from_bytes(bytes).map_err(damaged)?;
        Ok(Self { number, manifest, checksum })
    }

    /// Of `newest` and the versions before it, the one that holds the very units of `other`.
    pub(crate) async fn beside(
        output: &Location,
        newest: Option<&Self>,
        other: &Manifest,
    ) -> Result<Option<Self>, PipelineError> {
        let names = |manifest: &Manifest| -> Vec<String> {
            manifest.units.iter().map(|unit| unit.unit.clone()).collect()
        };
        let wanted = names(other);
        let mut candidate = newest.cloned();
        while let Some(version) = candidate {
            if names(&version.manifest) == wanted {
                return Ok(Some(version));
            }
            candidate = match version.number {
                1 => None,
                number => Self::read(output, number - 1).await?,
            };
        }
        Ok(None)
    }

    /// Puts the version behind `newest`, unless that is it already, written by a process that died behind it.
    pub(crate) async fn write(
        output: &Location,
        newest: Option<&Self>,
        mut manifest: Manifest,
    ) -> Result<Self, PipelineError> {
        if let Some(newest) = newest {
            manifest.parent.clone_from(&newest.manifest.parent);
            if manifest == newest.manifest {
                return Ok(newest.clone());
            }
            manifest.parent = Some(ParentRecord { name: newest.name(), checksum: newest.checksum.clone() });
        }
        let number = newest.map_or(1, |newest| newest.number + 1);
        let name = manifest_name(number);
        let (bytes, checksum) =
            manifest.to_bytes().map_err(|error| PipelineError::Format(Box::new(error)))?;
        if output.create(&name, bytes.clone()).await?
            || output.read(&name).await?.is_some_and(|there| there == bytes)
        {
            return Ok(Self { number, manifest, checksum });
        }
        let what = format!("`{name}` was written meanwhile");
        Err(PipelineError::Busy { output: output.show(""), what })
    }
}

/// What a base version has of a source: its files stand first in the listing, unit by unit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settled {
    /// Units that read files, rows that were run again left out.
    pub(crate) units: Vec<Unit>,
    /// How many files of the listing they have.
    pub(crate) files: usize,
}

/// Compares a listing with the files that were packed, and puts those first.
///
/// # Errors
///
/// The names of those that have another size or are gone.
pub(crate) fn settle(listing: &mut Listing, index: u16, base: &Manifest) -> Result<Settled, Vec<String>> {
    let Some(record) = base.sources.get(usize::from(index)) else { return Ok(Settled::default()) };
    let mut listed: HashMap<String, InputFile> =
        listing.files.drain(..).map(|file| (file.below.clone(), file)).collect();
    let changed = changed_files(record, &listed);
    if !changed.is_empty() {
        return Err(changed);
    }
    let mut settled = Settled::default();
    let mut place = HashMap::new();
    for unit in base_units(record, index, base) {
        let start = listing.files.len();
        for path in unit.files {
            if let Some(file) = listed.remove(path) {
                place.insert(path, listing.files.len());
                listing.files.push(file);
            }
        }
        let files = match unit.part {
            Some(part) => place.get(part.file.as_str()).map_or(0..0, |&file| file..file + 1),
            None => start..listing.files.len(),
        };
        let bytes = listing.files[files.clone()].iter().map(|file| file.bytes).sum();
        let part = unit.part.map(|part| FilePart {
            start: part.start,
            end: part.end,
            first_row: Some(part.first_row),
        });
        settled.units.push(Unit { id: unit.name.to_owned(), source: index, files, bytes, part, only: None });
    }
    settled.files = listing.files.len();
    let mut new: Vec<InputFile> = listed.into_values().collect();
    new.sort_by(|a, b| a.below.as_bytes().cmp(b.below.as_bytes()));
    listing.files.extend(new);
    Ok(settled)
}

fn changed_files(record: &SourceRecord, listed: &HashMap<String, InputFile>) -> Vec<String> {
    let changed = |file: &FileRecord| match listed.get(&file.path) {
        None => Some(format!("`{}` of source `{}` is gone", file.path, record.name)),
        Some(now) if now.bytes != file.bytes => Some(format!(
            "`{}` of source `{}` has {} bytes instead of {}",
            file.path, record.name, now.bytes, file.bytes
        )),
        Some(_) => None,
    };
    record.files.iter().filter_map(changed).collect()
}

struct BaseUnit<'a> {
    name: &'a str,
    files: Vec<&'a str>,
    part: Option<&'a PartRecord>,
}

/// The units that read files of a source, in order, each with the files that it was the first to read.
fn base_units<'a>(record: &'a SourceRecord, index: u16, base: &'a Manifest) -> Vec<BaseUnit<'a>> {
    let mut files: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut order: Vec<&str> = Vec::new();
    for file in &record.files {
        let of_unit = files.entry(&file.unit).or_default();
        if of_unit.is_empty() {
            order.push(&file.unit);
        }
        of_unit.push(&file.path);
    }
    let listed = base.units.iter().filter(|unit| unit.source == index && unit.retries.is_none());
    let mut units: Vec<BaseUnit<'_>> = listed
        .map(|unit| BaseUnit {
            name: &unit.unit,
            files: files.remove(unit.unit.as_str()).unwrap_or_default(),
            part: unit.part.as_ref(),
        })
        .collect();
    // A manifest of before there were lists of units.
    let unlisted = order.into_iter().filter_map(|name| Some((name, files.remove(name)?)));
    units.extend(unlisted.map(|(name, files)| BaseUnit { name, files, part: None }));
    units
}

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
