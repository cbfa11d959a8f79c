//! The plan of a run: the config with every value settled, the data opened, the checkpoint found.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::Device;
use serde::Serialize;

use super::TrainError;
use super::init::Init;
use super::memory::{self, Memory};
use crate::checkpoint::{Checkpoint, Checkpoints, Companions, LARGEST_CODEC_BYTES};
use crate::codec::{CONFIG_FILE, WEIGHTS_FILE, fingerprint_of, read_weights};
use crate::config::{ModelChoice, TrainConfig};
use crate::device::{ComputedOn, Machine, device};
use crate::model::{DataShape, ModelPlan};
use crate::objective::Objective;
use crate::schedule::Schedule;
use crate::stream::{Dataset, Ingredient, Location};

/// A run that can be started. Making one writes nothing.
#[derive(Debug)]
pub struct TrainPlan {
    pub(super) config: TrainConfig,
    pub(super) model: ModelPlan,
    pub(super) objective: Objective,
    pub(super) schedule: Schedule,
    pub(super) ingredients: Vec<Ingredient>,
    pub(super) companions: Companions,
    pub(super) start: Option<Checkpoint>,
    pub(super) init: Option<Init>,
    pub(super) warnings: Vec<String>,
    pub(super) device: Device,
    pub(super) computed_on: ComputedOn,
}

impl TrainPlan {
    /// Settles `config`. `locations` are the places of `config.data`, in order. With `resume` the newest whole checkpoint
    /// of the run is gone on from, if it has one, together with the versions of the datasets that it was trained on.
    /// `machine` is what it will be trained on; a resumed run on another one gets a warning.
    ///
    /// # Errors
    ///
    /// Anything in config, data or checkpoints that keeps the run from starting.
    ///
    /// # Panics
    ///
    /// If there are not as many locations as `[[data]]` tables.
    pub fn try_new(
        config: TrainConfig,
        locations: &[Location],
        resume: bool,
        machine: &Machine,
    ) -> Result<Self, TrainError> {
        config.check()?;
        let device = device(&config.device)?;
        let computed_on = ComputedOn::new(&config.device, &device, machine);
        assert_eq!(locations.len(), config.data.len(), "each `[[data]]` table has its location");
        let (start, mut warnings) = find_start(&config.run, resume)?;
        let saved = start.as_ref().map(Checkpoint::config);
        let pins = start.as_ref().map(|start| &start.state().cursor.datasets);
        let ingredients: Vec<Ingredient> = (config.data.iter().zip(locations).enumerate())
            .map(|(index, (data, location))| {
                let pin = pins.and_then(|pins| pins.get(index)).map(|cursor| cursor.manifest.as_str());
                let dataset = Dataset::open(location, pin)?;
                dataset.shards(data.source.as_deref())?;
                Ok(Ingredient { dataset, source: data.source.clone(), weight: data.weight })
            })
            .collect::<Result<_, TrainError>>()?;
        let first = check_mix(&ingredients)?;
        let model = config.model.config()?.plan(&DataShape::of(first.manifest()))?;
        let config = resolve(config, &model, saved);
        if let (Some(start), Some(saved)) = (&start, saved) {
            check_unchanged(&config, saved, start.state().step)?;
        }
        let schedule = config.schedule.curve(config.steps);
        let objective = config.diffusion.plan()?;
        let context = ingredients.iter().map(|one| one.dataset.manifest().context).max();
        let companions = companions(first, context, config.codec.as_deref())?;
        let mut init = None;
        if let Some(start) = &start {
            warnings.extend(rate_jump(start, &schedule));
            warnings.extend(moved(start, &computed_on));
        } else if let Some((opened, damage)) = Init::open(&config, &model, &companions)? {
            warnings.extend(damage);
            init = Some(opened);
        }
        Ok(Self {
            model,
            objective,
            schedule,
            ingredients,
            companions,
            start,
            init,
            warnings,
            device,
            computed_on,
            config,
        })
    }

    /// The config with every value settled, as it is written to `config.toml`.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// The model.
    pub fn model(&self) -> &ModelPlan {
        &self.model
    }

    /// Tokenizer and codec, as they are kept in each checkpoint.
    pub fn companions(&self) -> &Companions {
        &self.companions
    }

    /// The checkpoint that the run goes on from.
    pub fn start(&self) -> Option<&Checkpoint> {
        self.start.as_ref()
    }

    /// The step that the run goes on from; 0 for a new one.
    pub fn first_step(&self) -> u64 {
        self.start.as_ref().map_or(0, |start| start.state().step)
    }

    /// The run in numbers.
    pub fn describe(&self) -> Description {
        let parameters = self.model.parameters();
        let datasets = self.ingredients.iter().map(describe_dataset).collect();
        let memory = self.memory(1.0);
        Description {
            run: self.config.run.display().to_string(),
            first_step: self.first_step(),
            steps: self.config.steps,
            batch: self.config.batch,
            parameters: parameters.total(),
            transformer_parameters: parameters.transformer,
            image_parameters: parameters.image,
            init: self.init.as_ref().map(|init| init.folder().display().to_string()),
            memory,
            datasets: with_epochs(datasets, &self.config),
        }
    }

    fn memory(&self, filled: f64) -> Memory {
        memory::needed(&self.config, &self.model, &self.ingredients, filled)
    }

    /// Warnings before the first step.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether the run fits into the memory that is left. Padding needs none, so rows are counted as full as those of
    /// the data are on the average.
    ///
    /// # Errors
    ///
    /// If it needs more, with all figures.
    pub fn check_memory(&self, available_bytes: u64) -> Result<(), TrainError> {
        let needed = self.memory(memory::filled(&self.ingredients));
        match needed.total() > available_bytes {
            true => Err(TrainError::Memory { needed: Box::new(needed), available_bytes }),
            false => Ok(()),
        }
    }
}

/// A warning if the learning rate of the next step is not the one that the checkpoint's config gave it.
fn rate_jump(start: &Checkpoint, schedule: &Schedule) -> Option<String> {
    let saved = start.config();
    let (before, next) = (saved.schedule.curve(saved.steps), start.state().step + 1);
    let (old, new) = (before.rate_at(next), schedule.rate_at(next));
    (old != new).then(|| {
        format!(
            "the learning rate of step {next} is {new:.2e} instead of {old:.2e}, because the schedule has {} steps and \
             not {} any more\nhint: `schedule.steps = {}` keeps the curve that the run began with",
            schedule.steps, before.steps, before.steps
        )
    })
}

/// A warning if the run goes on elsewhere. States of earlier versions don't say where they were computed.
fn moved(start: &Checkpoint, here: &ComputedOn) -> Option<String> {
    let before = start.state().computed_on.as_ref().filter(|before| *before != here)?;
    Some(format!(
        "the checkpoint was computed on {before}, this is {here}: the steps to come are exact, but their last bits may be \
         other ones than there"
    ))
}

fn find_start(run: &Path, resume: bool) -> Result<(Option<Checkpoint>, Vec<String>), TrainError> {
    let checkpoints = Checkpoints::of(run);
    if !resume {
        return match checkpoints.steps()?.last() {
            Some(&step) => Err(TrainError::RunExists { run: run.to_owned(), step }),
            None => Ok((None, Vec::new())),
        };
    }
    let Some((start, damage)) = checkpoints.newest()? else { return Ok((None, Vec::new())) };
    let step = start.state().step;
    let warning = |what: String| format!("{what}; the checkpoint of step {step} is used instead");
    Ok((Some(start), damage.into_iter().map(warning).collect()))
}

/// The dataset that says what the model must look like, if all can be mixed: the first one that pictures are read from.
fn check_mix(ingredients: &[Ingredient]) -> Result<&Dataset, TrainError> {
    let nothing = || crate::config::ConfigError {
        key: "data".to_owned(),
        found: "[]".to_owned(),
        expected: "at least one `[[data]]` table".to_owned(),
    };
    let first = &ingredients.first().ok_or_else(nothing)?.dataset;
    if let Some(codes) = ingredients.iter().find(|one| one.dataset.manifest().vocabulary.codes > 0) {
        return Err(TrainError::Codes { uri: codes.dataset.location().uri.clone() });
    }
    for ingredient in &ingredients[1..] {
        let (a, b) = (first.manifest(), ingredient.dataset.manifest());
        let markers = |manifest: &schemas::Manifest| (manifest.tokenizer.bos, manifest.tokenizer.eos);
        let what = if a.tokenizer.fingerprint != b.tokenizer.fingerprint || a.vocabulary != b.vocabulary {
            "their tokenizer"
        } else if markers(a) != markers(b) {
            "BOS or EOS"
        } else {
            continue;
        };
        return Err(mix_error(first, &ingredient.dataset, what));
    }
    let mut pictured = ingredients.iter().filter(|one| has_pictures(one)).map(|one| &one.dataset);
    if let Some(first) = pictured.next() {
        return check_pictures(first, pictured);
    }
    // Without pictures, a dataset that could have some still says what the model must look like.
    let with_codec = ingredients.iter().find(|one| one.dataset.manifest().codec.is_some());
    Ok(with_codec.map_or(first, |ingredient| &ingredient.dataset))
}

/// Whether a picture is among the rows that are read. Text alone has no latents, whatever codec and patch size its
/// dataset was packed with.
fn has_pictures(ingredient: &Ingredient) -> bool {
    let shards = ingredient.dataset.shards(ingredient.source.as_deref()).unwrap_or_default();
    shards.iter().any(|shard| shard.patches > 0)
}

/// The first dataset with pictures, if the latents of all others are of its kind.
fn check_pictures<'a>(
    first: &'a Dataset,
    others: impl Iterator<Item = &'a Dataset>,
) -> Result<&'a Dataset, TrainError> {
    let codec = |manifest: &schemas::Manifest| manifest.codec.as_ref().map(|codec| codec.fingerprint.clone());
    for other in others {
        let (a, b) = (first.manifest(), other.manifest());
        if codec(a) != codec(b) {
            return Err(mix_error(first, other, "their codec"));
        }
        if a.patch != b.patch {
            return Err(mix_error(first, other, "their patch size"));
        }
    }
    Ok(first)
}

fn mix_error(first: &Dataset, other: &Dataset, what: &'static str) -> TrainError {
    let (first, other) = (first.location().uri.clone(), other.location().uri.clone());
    TrainError::Mix { first, other, what }
}

/// Writes out what was left out. A run that continues keeps what was derived when it started.
fn resolve(mut config: TrainConfig, model: &ModelPlan, saved: Option<&TrainConfig>) -> TrainConfig {
    let derived = (config.schedule.steps.unwrap_or(config.steps) / 10).clamp(1, 4000);
    let warm_up = saved.and_then(|saved| saved.schedule.warm_up).unwrap_or(derived);
    config.schedule.warm_up.get_or_insert(warm_up);
    let micro_batch = saved.and_then(|saved| saved.micro_batch).unwrap_or(config.batch);
    config.micro_batch.get_or_insert(micro_batch);
    let mut model = model.config();
    // Where the weights began is over when a run goes on; the record of it stays.
    if let Some(Ok(saved)) = saved.map(|saved| saved.model.config()) {
        model.initial = saved.initial;
    }
    config.model = ModelChoice::Table(Box::new(model));
    config
}

fn check_unchanged(config: &TrainConfig, saved: &TrainConfig, done: u64) -> Result<(), TrainError> {
    if let Some((key, saved, given)) = config.first_change(saved) {
        return Err(TrainError::Changed { key, saved, given, run: config.run.clone() });
    }
    match config.steps < done {
        true => Err(TrainError::AlreadyFurther { steps: config.steps, done }),
        false => Ok(()),
    }
}

fn companions(
    dataset: &Dataset,
    context: Option<u32>,
    codec: Option<&Path>,
) -> Result<Companions, TrainError> {
    let manifest = dataset.manifest();
    let name = manifest.tokenizer.path.rsplit('/').next().unwrap_or_default().to_owned();
    let made_by = manifest.codec.as_ref();
    let codec = match (codec, made_by) {
        (Some(folder), Some(record)) => codec_files(folder, &record.fingerprint)?,
        // Without pictures there is nothing to decode.
        _ => BTreeMap::new(),
    };
    Ok(Companions {
        tokenizer_name: name,
        tokenizer: dataset.tokenizer()?.to_vec(),
        markers: Some((manifest.tokenizer.bos, manifest.tokenizer.eos)),
        codec_fingerprint: made_by.map(|record| record.fingerprint.clone()),
        picture_size: made_by.map(|record| record.size),
        context,
        codec,
    })
}

/// The files of a codec, which must be the dataset's; none if they are too large to be kept in every checkpoint.
fn codec_files(folder: &Path, expected: &str) -> Result<BTreeMap<String, Vec<u8>>, TrainError> {
    let found = fingerprint_of(folder)?;
    if found != expected {
        return Err(TrainError::Codec { path: folder.to_owned(), expected: expected.to_owned(), found });
    }
    let path = folder.join(CONFIG_FILE);
    let config = fs::read(&path).map_err(|source| TrainError::Io { path, source })?;
    let weights = read_weights(folder)?.bytes;
    let files = BTreeMap::from([(CONFIG_FILE.to_owned(), config), (WEIGHTS_FILE.to_owned(), weights)]);
    let bytes: usize = files.values().map(Vec::len).sum();
    Ok(if (bytes as u64) < LARGEST_CODEC_BYTES { files } else { BTreeMap::new() })
}

/// A run in numbers, before it starts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// Its folder.
    pub run: String,
    /// The step that it goes on from.
    pub first_step: u64,
    /// Its last step.
    pub steps: u64,
    /// Rows a step.
    pub batch: usize,
    /// Parameters of the model.
    pub parameters: u64,
    /// Those of the transformer with embedding and output matrix.
    pub transformer_parameters: u64,
    /// Those of the image ends.
    pub image_parameters: u64,
    /// The checkpoint whose weights a new run starts from.
    pub init: Option<String>,
    /// Its memory by what it is for.
    pub memory: Memory,
    /// The data.
    pub datasets: Vec<DatasetDescription>,
}

/// One dataset of the mix.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DatasetDescription {
    /// Its place.
    pub uri: String,
    /// The source that is read; all if `None`.
    pub source: Option<String>,
    /// Share of all positions, 0 to 1.
    pub share: f64,
    /// Rows of an epoch.
    pub rows: u64,
    /// Text positions of an epoch.
    pub tokens: u64,
    /// Patch positions of an epoch.
    pub patches: u64,
    /// Padding positions of an epoch.
    pub padding: u64,
    /// About how many times the run passes over it.
    pub epochs: f64,
}

fn describe_dataset(ingredient: &Ingredient) -> DatasetDescription {
    let shards = ingredient.dataset.shards(ingredient.source.as_deref()).unwrap_or_default();
    let sum = |count: fn(&schemas::ShardRecord) -> u64| shards.iter().map(count).sum();
    DatasetDescription {
        uri: ingredient.dataset.location().uri.clone(),
        source: ingredient.source.clone(),
        share: ingredient.weight,
        rows: sum(|shard| shard.rows),
        tokens: sum(|shard| shard.tokens),
        patches: sum(|shard| shard.patches),
        padding: sum(|shard| shard.padding),
        epochs: 0.0,
    }
}

/// Weights give shares of positions; rows follow from the mean length of a dataset's rows.
fn with_epochs(mut datasets: Vec<DatasetDescription>, config: &TrainConfig) -> Vec<DatasetDescription> {
    let weights: f64 = datasets.iter().map(|dataset| dataset.share).sum();
    datasets.iter_mut().for_each(|dataset| dataset.share /= weights);
    let rows_a_position =
        |one: &DatasetDescription| one.rows as f64 / (one.tokens + one.patches).max(1) as f64;
    let all: f64 = datasets.iter().map(|one| one.share * rows_a_position(one)).sum();
    for one in &mut datasets {
        let share_of_rows = one.share * rows_a_position(one) / all;
        one.epochs = config.steps as f64 * config.batch as f64 * share_of_rows / one.rows.max(1) as f64;
    }
    datasets
}
