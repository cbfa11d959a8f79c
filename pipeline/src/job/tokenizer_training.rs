//! A tokenizer trained on the corpus, before its units are packed.
//!
//! It learns from the first texts of every unit, as many bytes of each as the sample divided by the units, so the
//! sample is a function of the corpus and the configuration; several units are read at a time. A job that is started again takes the file that the first
//! start has written.

use std::sync::Arc;

use datafusion::physical_plan::SendableRecordBatchStream;
use futures::{StreamExt, TryStreamExt, stream};
use schemas::Tokenizer;

use crate::PipelineError;
use crate::config::{Shape, TrainTokenizer};
use crate::host::error::BoxError;
use crate::host::observer::{Event, Observer};
use crate::host::threads::blocking;
use crate::plan::PreprocessPlan;
use crate::read::Input;
use crate::source::{Columns, SourcePlan};
use crate::storage::location::Location;

const FILE: &str = "tokenizer.json";

fn failed(source: impl Into<BoxError>) -> PipelineError {
    PipelineError::Tokenizer { uri: "tokenizer.train".to_owned(), source: source.into() }
}

pub(crate) async fn tokenizer(
    plan: &PreprocessPlan,
    settings: TrainTokenizer,
    output: &Location,
    observer: &Arc<dyn Observer>,
) -> Result<Tokenizer, PipelineError> {
    if let Some(bytes) = output.read(FILE).await? {
        return Tokenizer::with_markers(&bytes, &plan.config.tokenizer.markers()).map_err(failed);
    }
    let (tokenizer, bytes) = train(plan, settings).await?;
    observer.event(Event::TokenizerTrained { vocabulary: tokenizer.vocabulary_size(), bytes });
    Ok(tokenizer)
}

/// A trained tokenizer, and how many bytes of text it learned from.
pub(crate) async fn train(
    plan: &PreprocessPlan,
    settings: TrainTokenizer,
) -> Result<(Tokenizer, u64), PipelineError> {
    let units: usize = plan.sources.iter().map(|source| source.units.len()).sum();
    let sample = Spread { chosen: units, of: units, each: share(settings, units), sketch: false };
    learn(plan, settings, &sample).await
}

/// The same from as many units at most as the sample has shares of the least size, for an idea of the job.
pub(crate) async fn sketch(
    plan: &PreprocessPlan,
    settings: TrainTokenizer,
) -> Result<(Tokenizer, u64), PipelineError> {
    let units: usize = plan.sources.iter().map(|source| source.units.len()).sum();
    let chosen = units.min((settings.sample_bytes / LEAST_SHARE).max(1) as usize);
    let sample = Spread { chosen, of: units, each: share(settings, chosen), sketch: true };
    learn(plan, settings, &sample).await
}

/// Bytes of text that a unit gives at least, if it has them.
const LEAST_SHARE: u64 = 64 << 10;

fn share(settings: TrainTokenizer, units: usize) -> u64 {
    (settings.sample_bytes / units.max(1) as u64).max(LEAST_SHARE)
}

/// Which units give texts, evenly spread over all, and how many bytes each.
struct Spread {
    chosen: usize,
    of: usize,
    each: u64,
    /// Whether other texts would do as well.
    sketch: bool,
}

impl Spread {
    fn includes(&self, unit: usize) -> bool {
        // The multiples of `of / chosen`, rounded up, are chosen.
        unit * self.chosen % self.of.max(1) < self.chosen
    }
}

async fn learn(
    plan: &PreprocessPlan,
    settings: TrainTokenizer,
    sample: &Spread,
) -> Result<(Tokenizer, u64), PipelineError> {
    let (mut units, mut number) = (Vec::new(), 0);
    let mut runtime = plan.runtime.clone();
    for source in &plan.sources {
        if sample.sketch || source.config.shape != Shape::Pair {
            // Only the choice of one of several captions depends on the numbers of rows.
            let input = Input { lines: None, ..source.input.clone() };
            runtime.inputs.insert(source.config.name.clone(), input);
        }
        let physical = source.rows(&source.units, Columns::Texts).await?;
        for partition in 0..source.units.len() {
            if sample.includes(number) {
                units.push((source, physical.clone(), partition));
            }
            number += 1;
        }
    }
    let context = runtime.session()?.task_ctx();
    let samples = stream::iter(units)
        .map(|(source, physical, partition)| {
            let rows = physical.execute(partition, context.clone());
            async move { sample_unit(plan, source, rows?, sample.each).await }
        })
        .buffered(plan.units_at_once());
    let texts = samples.try_concat().await?;
    let bytes = texts.iter().map(String::len).sum::<usize>() as u64;
    let pool = plan.runtime.pool.clone();
    let trained = blocking(move || {
        pool.install(|| crate::job::bpe::train(&texts, settings.vocabulary)).map_err(failed)
    })
    .await?;
    Ok((Tokenizer::with_markers(&trained, &plan.config.tokenizer.markers()).map_err(failed)?, bytes))
}

/// The first texts of a unit.
async fn sample_unit(
    plan: &PreprocessPlan,
    source: &SourcePlan,
    mut batches: SendableRecordBatchStream,
    each: u64,
) -> Result<Vec<String>, PipelineError> {
    let (mut texts, mut bytes) = (Vec::new(), 0);
    let reader = source.row_reader(plan.config.seed, source.captions());
    while let Some(batch) = batches.next().await.transpose()? {
        for text in reader.texts(&batch)? {
            let wanted = text.floor_char_boundary(usize::try_from(each - bytes).unwrap_or(usize::MAX));
            bytes += text.len() as u64;
            if bytes >= each {
                // Of a long text the beginning is enough.
                texts.push(text[..wanted].to_owned());
                return Ok(texts);
            }
            texts.push(text);
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sketch_takes_units_from_everywhere() {
        let taken = |chosen, of| {
            let sample = Spread { chosen, of, each: 1, sketch: true };
            (0..of).filter(|&unit| sample.includes(unit)).collect::<Vec<_>>()
        };
        assert_eq!(taken(3, 3), [0, 1, 2]);
        assert_eq!(taken(3, 9), [0, 3, 6]);
        assert_eq!(taken(2, 5), [0, 3]);
        assert_eq!(taken(32, 100_000).len(), 32);
    }
}
