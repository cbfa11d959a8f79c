//! The configuration of `transfusion train`: the keys that a person writes, their ranges, and which of them may change when a run
//! goes on. It knows the settings of everything that a run is made of, and knows nothing about runs and checkpoints.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::device::CPU;
use crate::limits::{self, Outside, Reals, STEPS};
use crate::model::{ModelConfig, presets};
use crate::objective::ObjectiveConfig;
use crate::optimizer::OptimizerConfig;
use crate::sample::{Method, SampleConfig};
use crate::schedule::ScheduleConfig;
use crate::stream::{Retry, Shuffle, StreamSettings};

/// A training config. The defaults are the paper's where it has any.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Folder of the run, on a local disk: checkpoints, log, samples, resolved config.
    pub run: PathBuf,
    /// Updates of the whole run.
    #[schemars(range(min = 1, max = *STEPS.end()), extend("x-unit" = "updates"))]
    pub steps: u64,
    /// Packed rows of an update.
    #[schemars(range(min = 1, max = 1_000_000), extend("x-unit" = "rows"))]
    pub batch: usize,
    /// Rows of a forward and backward pass; `batch` if not set. Less needs less memory for the same update.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("x-unit" = "rows"))]
    pub micro_batch: Option<usize>,
    /// Weight of the diffusion loss beside the next-token loss (paper, equation 4).
    #[schemars(range(min = 0.0, max = 1e6), extend("x-unit" = "none"))]
    pub lambda: f64,
    /// Seed of initial weights, order of rows, timesteps, noise and caption dropout.
    #[schemars(extend("x-unit" = "none"))]
    pub seed: u64,
    /// What is learned.
    pub objective: ObjectiveKind,
    /// The device that computes; the flag `--device` goes before it.
    pub device: String,
    /// Decay of a moving average of the weights; none is kept if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0, "x-unit" = "share an update"))]
    pub ema: Option<f64>,
    /// A run or a checkpoint whose weights a new run starts from, with a schedule and an optimizer of its own; fresh
    /// weights if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// Which weights of `init` these are.
    pub init_weights: InitWeights,
    /// Folder of the codec that made the latents; a copy is kept in each checkpoint if it is below 64 MiB; if not set,
    /// `transfusion sample` draws with `--codec` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codec: Option<PathBuf>,
    /// The model: a preset's name, a table, or the path of a file with the keys of that table.
    pub model: ModelChoice,
    /// The datasets: at least one.
    #[schemars(extend("x-required" = true))]
    pub data: Vec<DataConfig>,
    /// The optimizer, AdamW.
    pub optimizer: OptimizerConfig,
    /// The learning rate.
    pub schedule: ScheduleConfig,
    /// The diffusion objective.
    pub diffusion: ObjectiveConfig,
    /// When the state is saved.
    pub checkpoint: CheckpointConfig,
    /// How rows are read.
    pub stream: StreamConfig,
    /// What is sampled on the way.
    pub sample: SamplingConfig,
    /// What is logged.
    pub log: LogConfig,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            run: PathBuf::from("runs/train"),
            steps: 1000,
            batch: 32,
            micro_batch: None,
            lambda: 5.0,
            seed: 0,
            objective: ObjectiveKind::Transfusion,
            device: CPU.to_owned(),
            ema: None,
            init: None,
            init_weights: InitWeights::default(),
            codec: None,
            model: ModelChoice::default(),
            data: Vec::new(),
            optimizer: OptimizerConfig::default(),
            schedule: ScheduleConfig::default(),
            diffusion: ObjectiveConfig::default(),
            checkpoint: CheckpointConfig::default(),
            stream: StreamConfig::default(),
            sample: SamplingConfig::default(),
            log: LogConfig::default(),
        }
    }
}

/// What is learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectiveKind {
    /// Next tokens of text and the noise of images, as in the paper.
    #[default]
    Transfusion,
}

/// Which weights of the checkpoint `init` a run starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InitWeights {
    /// Those of its last step.
    #[default]
    Last,
    /// The average where there is one, else the last.
    Best,
}

/// The model: a preset's name or a table. A file's name is for the caller to resolve.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ModelChoice {
    /// A built-in model, or the path of a file.
    #[schemars(extend("x-presets" = presets()))]
    Preset(String),
    /// Sizes and switches of the model.
    Table(Box<ModelConfig>),
}

impl Default for ModelChoice {
    fn default() -> Self {
        Self::Preset("tiny".to_owned())
    }
}

impl<'de> Deserialize<'de> for ModelChoice {
    /// By hand, because serde's untagged enums hide which key is wrong.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Choice;
        impl<'de> Visitor<'de> for Choice {
            type Value = ModelChoice;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the name of a model or a table")
            }

            fn visit_str<E>(self, name: &str) -> Result<ModelChoice, E> {
                Ok(ModelChoice::Preset(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ModelChoice, A::Error> {
                let table = ModelConfig::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ModelChoice::Table(Box::new(table)))
            }
        }
        deserializer.deserialize_any(Choice)
    }
}

impl ModelChoice {
    /// The settings.
    ///
    /// # Errors
    ///
    /// If no preset has the name.
    pub fn config(&self) -> Result<ModelConfig, ConfigError> {
        match self {
            Self::Table(config) => Ok((**config).clone()),
            Self::Preset(name) => ModelConfig::preset(name).ok_or_else(|| {
                let known = presets().iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                ConfigError::new("model", name, &format!("one of {known}, a table, or a file"))
            }),
        }
    }
}

/// One `[[data]]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct DataConfig {
    /// Folder of the dataset: a path, `s3://`, `gs://`, `az://` or `https://`.
    #[schemars(extend("x-required" = true))]
    pub uri: String,
    /// Only the rows of this source; all rows if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Share of the positions, relative to the other tables.
    #[schemars(range(min = 1e-9, max = 1e9), extend("x-unit" = "share, relative to the other tables"))]
    pub weight: f64,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self { uri: String::new(), source: None, weight: 1.0 }
    }
}

/// The `[checkpoint]` table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Steps from one checkpoint to the next. The last step always has one.
    #[schemars(range(min = 1, max = *STEPS.end()), extend("x-unit" = "updates"))]
    pub every: u64,
    /// How many of the newest are kept, beside the best.
    #[schemars(range(min = 1, max = 1_000_000), extend("x-unit" = "checkpoints"))]
    pub keep: usize,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every: 500, keep: 3 }
    }
}

/// The `[stream]` table. Only the two `shuffle` keys decide which rows come when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct StreamConfig {
    /// Reading threads a dataset.
    #[schemars(range(min = 1, max = 256), extend("x-unit" = "threads"))]
    pub readers: usize,
    /// Rows held ready a dataset.
    #[schemars(range(min = 1, max = 1_000_000), extend("x-unit" = "rows"))]
    pub prefetch_rows: usize,
    /// Shards whose blocks of 64 rows are shuffled together.
    #[schemars(range(min = 1, max = 1_000_000), extend("x-unit" = "shards"))]
    pub shuffle_shards: usize,
    /// Blocks whose rows are shuffled together.
    #[schemars(range(min = 1, max = 1_000_000), extend("x-unit" = "blocks of 64 rows"))]
    pub shuffle_blocks: usize,
    /// Folder for copies of remote shards; `cache` in the run's folder if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Bytes that the folder of copies may hold.
    #[schemars(extend("x-unit" = "bytes"))]
    pub cache_bytes: u64,
}

impl Default for StreamConfig {
    fn default() -> Self {
        let settings = StreamSettings::default();
        Self {
            readers: settings.readers,
            prefetch_rows: settings.prefetch_rows,
            shuffle_shards: settings.shuffle.shards,
            shuffle_blocks: settings.shuffle.blocks,
            cache: None,
            cache_bytes: settings.cache_bytes,
        }
    }
}

/// The `[sample]` table: what is drawn into the run's folder while it goes on. It changes nothing that is learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct SamplingConfig {
    /// Steps from one time to the next; 0 for none.
    #[schemars(extend("x-unit" = "updates"))]
    pub every: u64,
    /// Captions to draw pictures for; a model of text alone goes on with them. Without any, one document from nothing.
    pub prompts: Vec<String>,
    /// Denoising steps of a picture.
    #[schemars(extend("x-unit" = "denoising steps"))]
    pub steps: u32,
    /// How to go from one denoising step to the next.
    pub method: Method,
    /// Weight of classifier-free guidance of a picture; 1 is none.
    #[schemars(range(min = 0.0, max = 100.0), extend("x-unit" = "none"))]
    pub guidance: f64,
    /// New tokens at most: behind a picture that was asked for none if not set, elsewhere 256 or what fits a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-unit" = "tokens"))]
    pub max_tokens: Option<usize>,
    /// Temperature of text; at 0 the likeliest token is chosen.
    #[schemars(range(min = 0.0), extend("x-unit" = "none"))]
    pub temperature: f64,
    /// Share of the probability that text is drawn from.
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0, "x-unit" = "share"))]
    pub top_p: f64,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            every: 0,
            prompts: Vec::new(),
            steps: 50,
            method: Method::default(),
            guidance: 3.0,
            max_tokens: None,
            temperature: 0.0,
            top_p: 1.0,
        }
    }
}

impl SamplingConfig {
    /// The settings of the sampler. The noise is the same each time: it comes from `seed`.
    pub fn settings(&self, seed: u64) -> SampleConfig {
        let default = SampleConfig::default();
        SampleConfig {
            seed,
            max_tokens: self.max_tokens.unwrap_or(default.max_tokens),
            temperature: self.temperature,
            top_p: self.top_p,
            steps: self.steps,
            method: self.method,
            guidance: self.guidance,
            ..default
        }
    }
}

/// The `[log]` table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct LogConfig {
    /// Steps from one line of `log.jsonl` to the next.
    #[schemars(range(min = 1, max = *STEPS.end()), extend("x-unit" = "updates"))]
    pub every: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { every: 1 }
    }
}

/// Weights of datasets. Shares outside of it would be lost in the last digits of a sum of positions.
const WEIGHTS: Reals = Reals::closed(1e-9, 1e9);

/// A value that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` is `{found}`, expected {expected}")]
pub struct ConfigError {
    /// The key, with the tables around it.
    pub key: String,
    /// Its value.
    pub found: String,
    /// The values allowed.
    pub expected: String,
}

impl ConfigError {
    fn new(key: &str, found: impl ToString, expected: &str) -> Self {
        Self { key: key.to_owned(), found: found.to_string(), expected: expected.to_owned() }
    }

    fn outside(key: &str, outside: Outside) -> Self {
        Self { key: key.to_owned(), found: outside.found, expected: outside.expected }
    }
}

impl TrainConfig {
    /// Whether every number is in its range. What depends on the data is checked when a plan is made.
    ///
    /// # Errors
    ///
    /// The first value that is not, by key.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_counts()?;
        self.check_numbers()?;
        let run = self.run.to_string_lossy();
        if run.is_empty() || run.contains("://") {
            return Err(ConfigError::new("run", run, "a folder on a local disk"));
        }
        if let Some(init) = self.init.as_ref().filter(|init| init.to_string_lossy().contains("://")) {
            return Err(ConfigError::new("init", init.display(), "a run or a checkpoint on a local disk"));
        }
        if self.data.is_empty() {
            return Err(ConfigError::new(
                "data",
                "[]",
                "at least one `[[data]]` table with the `uri` of a dataset",
            ));
        }
        for (index, data) in self.data.iter().enumerate() {
            if data.uri.is_empty() {
                return Err(ConfigError::new(&format!("data.{index}.uri"), "", "the place of a dataset"));
            }
            let key = format!("data.{index}.weight");
            limits::real(data.weight, WEIGHTS).map_err(|outside| ConfigError::outside(&key, outside))?;
        }
        self.model.config().map(|_| ())
    }

    fn check_counts(&self) -> Result<(), ConfigError> {
        const MILLION: u64 = 1_000_000;
        let counts = [
            ("steps", self.steps, STEPS),
            ("batch", self.batch as u64, 1..=MILLION),
            ("schedule.warm-up", self.schedule.warm_up.unwrap_or(0), 0..=*STEPS.end()),
            ("schedule.steps", self.schedule.steps.unwrap_or(1), STEPS),
            ("checkpoint.every", self.checkpoint.every, STEPS),
            ("checkpoint.keep", self.checkpoint.keep as u64, 1..=MILLION),
            ("stream.readers", self.stream.readers as u64, 1..=256),
            ("stream.prefetch-rows", self.stream.prefetch_rows as u64, 1..=MILLION),
            ("stream.shuffle-shards", self.stream.shuffle_shards as u64, 1..=MILLION),
            ("stream.shuffle-blocks", self.stream.shuffle_blocks as u64, 1..=MILLION),
            ("log.every", self.log.every, STEPS),
        ];
        for (key, value, range) in counts {
            limits::whole(value, range).map_err(|outside| ConfigError::outside(key, outside))?;
        }
        match self.micro_batch {
            Some(rows) if rows == 0 || rows > self.batch => {
                let expected = format!("at least 1 and at most `batch`, {}", self.batch);
                Err(ConfigError::new("micro-batch", rows, &expected))
            }
            _ => Ok(()),
        }
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        const SHARE: Reals = Reals::below(0.0, 1.0);
        let (optimizer, schedule) = (&self.optimizer, &self.schedule);
        let numbers = [
            ("lambda", self.lambda, Reals::closed(0.0, 1e6)),
            ("optimizer.betas.0", optimizer.betas[0], SHARE),
            ("optimizer.betas.1", optimizer.betas[1], SHARE),
            ("optimizer.epsilon", optimizer.epsilon, Reals::above(0.0, 1.0)),
            ("optimizer.decay", optimizer.decay, Reals::closed(0.0, 1000.0)),
            ("optimizer.clip", optimizer.clip, Reals::above(0.0, 1e9)),
            ("schedule.rate", schedule.rate, Reals::above(0.0, 1000.0)),
            ("schedule.floor", schedule.floor, Reals::closed(0.0, 1000.0)),
            ("ema", self.ema.unwrap_or(0.0), SHARE),
        ];
        for (key, value, range) in numbers {
            limits::real(value, range).map_err(|outside| ConfigError::outside(key, outside))?;
        }
        if schedule.floor > schedule.rate {
            let expected = format!("at most `schedule.rate`, {}", schedule.rate);
            return Err(ConfigError::new("schedule.floor", schedule.floor, &expected));
        }
        Ok(())
    }

    /// Settings of the stream.
    pub fn stream_settings(&self) -> StreamSettings {
        StreamSettings {
            seed: self.seed,
            shuffle: Shuffle { shards: self.stream.shuffle_shards, blocks: self.stream.shuffle_blocks },
            readers: self.stream.readers,
            prefetch_rows: self.stream.prefetch_rows,
            cache: Some(self.stream.cache.clone().unwrap_or_else(|| self.run.join("cache"))),
            cache_bytes: self.stream.cache_bytes,
            retry: Retry::default(),
        }
    }

    /// The first key, in order, whose value here differs from that in `saved` although it decides what is learned, with
    /// the saved and the new value. Where things are, how they are read, logged and saved, the device, and the number of
    /// steps may differ.
    pub(crate) fn first_change(&self, saved: &Self) -> Option<(String, String, String)> {
        differences(saved, self).into_iter().find(|(key, ..)| !may_change(key))
    }
}

/// Every key, in order, whose value in one config is not that in another, with both values.
pub(crate) fn differences<T: Serialize>(first: &T, second: &T) -> Vec<(String, String, String)> {
    let (first, second) = (flat(first), flat(second));
    let mut keys: Vec<&String> = first.keys().chain(second.keys()).collect();
    keys.sort();
    keys.dedup();
    let value = |map: &Flat, key| map.get(key).map_or_else(|| "nothing".to_owned(), ToString::to_string);
    let different = keys.into_iter().filter(|key| first.get(*key) != second.get(*key));
    different.map(|key| (key.clone(), value(&first, key), value(&second, key))).collect()
}

fn may_change(key: &str) -> bool {
    const WHOLE: [&str; 9] = [
        "steps",
        "schedule.steps",
        "run",
        "device",
        "codec",
        "stream.readers",
        "stream.prefetch-rows",
        "stream.cache",
        "stream.cache-bytes",
    ];
    let place_of_data = key.starts_with("data.") && key.ends_with(".uri");
    let table = ["log.", "sample.", "checkpoint."].iter().any(|table| key.starts_with(table));
    WHOLE.contains(&key) || place_of_data || table
}

type Flat = std::collections::BTreeMap<String, toml::Value>;

fn flat<T: Serialize>(config: &T) -> Flat {
    let mut found = Flat::new();
    let value = toml::Value::try_from(config).expect("a config holds nothing that TOML can't say");
    flatten(String::new(), value, &mut found);
    found
}

fn flatten(key: String, value: toml::Value, found: &mut Flat) {
    let below = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    match value {
        toml::Value::Table(table) => {
            table.into_iter().for_each(|(name, value)| flatten(below(&name), value, found))
        }
        toml::Value::Array(values) if values.iter().all(toml::Value::is_table) => {
            values
                .into_iter()
                .enumerate()
                .for_each(|(place, value)| flatten(below(&place.to_string()), value, found));
        }
        other => {
            found.insert(key, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TrainConfig, toml::de::Error> {
        toml::from_str(text)
    }

    const SMALL: &str = "run = 'r'\nsteps = 10\n[[data]]\nuri = 'd'\n";

    #[test]
    fn a_config_goes_through_toml_unchanged() {
        let text = "model = { layers = 2, width = 64, heads = 2 }\nema = 0.999\n\
                    [[data]]\nuri = 'a'\nsource = 'pairs'\n[[data]]\nuri = 'b'\nweight = 2.5\n[optimizer]\nbetas = [0.9, 0.98]\n\
                    [diffusion]\nprediction = 'velocity'\nloss-weight = { soft-snr = 4.0 }\n";
        let config = parse(text).unwrap();
        assert_eq!(config.model.config().unwrap().layers, 2);
        assert_eq!(parse(&toml::to_string(&config).unwrap()).unwrap(), config);
    }

    #[test]
    fn unknown_keys_are_named_also_in_the_model() {
        assert!(parse("stepz = 3").unwrap_err().to_string().contains("unknown field `stepz`"));
        assert!(parse("[model]\nlayerz = 3").unwrap_err().to_string().contains("unknown field `layerz`"));
        assert!(parse("objective = 'chameleon'").unwrap_err().to_string().contains("transfusion"));
    }

    #[test]
    fn values_out_of_range_are_named_by_key() {
        parse(SMALL).unwrap().check().unwrap();
        let cases = [
            ("steps = 0", "`steps` is `0`, expected 1 to 1,000,000,000,000"),
            ("steps = 1_000_000_000_001", "`steps` is `1,000,000,000,001`, expected 1 to 1,000,000,000,000"),
            ("batch = 1_000_000_000_000", "`batch` is `1,000,000,000,000`, expected 1 to 1,000,000"),
            ("stream.readers = 100_000", "`stream.readers` is `100,000`, expected 1 to 256"),
            ("stream.prefetch-rows = 9_223_372_036_854_775_807", "`stream.prefetch-rows` is `9,223,372,036,"),
            ("stream.shuffle-blocks = 1_000_001", "`stream.shuffle-blocks` is `1,000,001`"),
            ("checkpoint.keep = 0", "`checkpoint.keep` is `0`, expected 1 to 1,000,000"),
            ("checkpoint.every = 2_000_000_000_000", "`checkpoint.every` is `2,000,000,000,000`"),
            ("log.every = 0", "`log.every` is `0`"),
            ("schedule.warm-up = 2_000_000_000_000", "`schedule.warm-up` is `2,000,000,000,000`"),
            ("schedule.steps = 0", "`schedule.steps` is `0`"),
            ("schedule.rate = 1e300", "`schedule.rate` is `1e300`, expected a number above 0, 1000 at most"),
            ("schedule.rate = nan", "`schedule.rate` is `NaN`"),
            ("schedule.floor = -1e-9", "`schedule.floor` is `-1e-9`, expected a number from 0 to 1000"),
            ("schedule.floor = 1.0", "`schedule.floor` is `1`, expected at most `schedule.rate`, 0.0003"),
            (
                "optimizer.betas = [1.0, 0.9]",
                "`optimizer.betas.0` is `1`, expected a number from 0 to below 1",
            ),
            ("optimizer.betas = [0.9, -inf]", "`optimizer.betas.1` is `-inf`"),
            ("optimizer.epsilon = 0.0", "`optimizer.epsilon` is `0`"),
            ("optimizer.decay = inf", "`optimizer.decay` is `inf`"),
            ("optimizer.clip = 0.0", "`optimizer.clip` is `0`"),
            ("lambda = 1e7", "`lambda` is `10,000,000`, expected a number from 0 to 1,000,000"),
            ("init = 's3://bucket/run'", "`init` is `s3://bucket/run`, expected a run or a checkpoint"),
            (
                "batch = 4\nmicro-batch = 5",
                "`micro-batch` is `5`, expected at least 1 and at most `batch`, 4",
            ),
            ("lambda = -1.0", "`lambda` is `-1`"),
            ("ema = 1.0", "`ema` is `1`"),
            ("model = 'tyni'", "`model` is `tyni`"),
        ];
        for (line, expected) in cases {
            let rest = SMALL.lines().filter(|known| !line.starts_with(known.split(' ').next().unwrap()));
            let text = format!("{line}\n{}", rest.collect::<Vec<_>>().join("\n"));
            let error = parse(&text).unwrap().check().unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        assert_eq!(parse("run = 'r'").unwrap().check().unwrap_err().key, "data");
        for weight in ["0.0", "1e-300", "1e300", "-1.0", "nan", "inf"] {
            let weighted = parse(&format!("{SMALL}weight = {weight}")).unwrap();
            assert_eq!(weighted.check().unwrap_err().key, "data.0.weight", "{weight}");
        }
    }

    #[test]
    fn only_what_decides_nothing_may_change() {
        let saved = parse(SMALL).unwrap();
        let change =
            |text: &str| parse(&format!("{text}\n[[data]]\nuri = 'd'\n")).unwrap().first_change(&saved);
        assert_eq!(
            change("run = 'elsewhere'\nsteps = 99\nlog = { every = 5 }\nstream = { readers = 7 }"),
            None
        );
        let (key, old, new) = change("batch = 31").unwrap();
        assert_eq!((key.as_str(), old.as_str(), new.as_str()), ("batch", "32", "31"));
        assert_eq!(change("stream = { shuffle-blocks = 7 }").unwrap().0, "stream.shuffle-blocks");
        assert_eq!(change("[model]\nlayers = 3").unwrap().0, "model");
        let other = parse("[[data]]\nuri = 'e'\nsource = 'pairs'").unwrap().first_change(&saved).unwrap();
        assert_eq!((other.0.as_str(), other.1.as_str()), ("data.0.source", "nothing"));
    }
}
