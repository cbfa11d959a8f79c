//! The memory of a run, counted before it starts.

use serde::Serialize;

use crate::config::TrainConfig;
use crate::model::ModelPlan;
use crate::stream::Ingredient;

/// Bytes of a number.
const F32: u64 = 4;

/// Memory of a run by what it is for, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The weights.
    pub weights: u64,
    /// Their gradients; twice where a batch is made of several micro-batches, whose gradients are added up.
    pub gradients: u64,
    /// The two moments of the optimizer.
    pub optimizer: u64,
    /// The moving average of the weights.
    pub average: u64,
    /// Activations of a micro-batch whose rows are full, kept for the backward pass.
    pub activations: u64,
    /// Rows that are held ready.
    pub rows: u64,
    /// The copy of the largest tensor while a checkpoint is written.
    pub save: u64,
}

impl Memory {
    /// All of it. A save happens between two steps, when there are neither gradients nor activations.
    pub fn total(&self) -> u64 {
        let step = self.gradients.saturating_add(self.activations);
        let held = [self.weights, self.optimizer, self.average, self.rows];
        held.into_iter().fold(step.max(self.save), u64::saturating_add)
    }
}

/// The memory of a run. `filled` is the share of a row that is not padding: 1 for the largest rows there can be.
pub(super) fn needed(
    config: &TrainConfig,
    model: &ModelPlan,
    ingredients: &[Ingredient],
    filled: f64,
) -> Memory {
    let parameters = F32 * model.parameters().total();
    let micro_batch = config.micro_batch.unwrap_or(config.batch);
    Memory {
        weights: parameters,
        gradients: if micro_batch < config.batch { 2 * parameters } else { parameters },
        optimizer: 2 * parameters,
        average: if config.ema.is_some() { parameters } else { 0 },
        activations: (activations(model, ingredients, micro_batch as u64) as f64 * filled) as u64,
        rows: rows(ingredients, config.stream.prefetch_rows as u64),
        save: F32 * model.largest_parameter(),
    }
}

/// The share of the positions of all rows that is not padding.
pub(super) fn filled(ingredients: &[Ingredient]) -> f64 {
    let shards = ingredients.iter().filter_map(|one| one.dataset.shards(one.source.as_deref()).ok());
    let (mut used, mut all) = (0.0, 0.0);
    for shard in shards.flatten() {
        used += (shard.tokens + shard.patches) as f64;
        all += (shard.tokens + shard.patches + shard.padding) as f64;
    }
    if all > 0.0 { used / all } else { 1.0 }
}

/// By count of the tensors that the operations keep: eight of the width of the model and three of the feed-forward's in
/// each layer.
fn activations(model: &ModelPlan, ingredients: &[Ingredient], rows: u64) -> u64 {
    let context = ingredients.iter().map(|one| one.dataset.manifest().context).max().unwrap_or(0);
    let layer = (8 * model.width() + 3 * model.feed_forward()) as u64;
    (F32 * layer * model.layers() as u64).saturating_mul(u64::from(context).saturating_mul(rows))
}

/// Rows held ready: of each dataset as many as are to be held, of the size that its rows have on disk.
fn rows(ingredients: &[Ingredient], held: u64) -> u64 {
    let of = |one: &Ingredient| {
        let shards = one.dataset.shards(one.source.as_deref()).unwrap_or_default();
        let (bytes, rows) =
            shards.iter().fold((0, 0), |(bytes, rows), shard| (bytes + shard.bytes, rows + shard.rows));
        held.saturating_mul(bytes / rows.max(1))
    };
    ingredients.iter().map(of).fold(0, u64::saturating_add)
}
