//! A tokenizer trained on the corpus, before its units are packed.
//!
//! It learns from the first texts of every unit, as many bytes of each as the sample divided by the units, so the
//! sample is a function of the corpus and the configuration. A job that is started again takes the file that the first
//! start has written.

use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;
use schemas::Tokenizer;

use crate::commit::Location;
use crate::config::TrainTokenizer;
use crate::error::{BoxError, PipelineError};
use crate::observer::{Event, Observer};
use crate::operators::items::{Choice, texts_from_columns};
use crate::plan::PreprocessPlan;
use crate::source::{Columns, SourcePlan};
use crate::threads::blocking;

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
    let each = (settings.sample_bytes / units.max(1) as u64).max(64 << 10);
    let mut texts = Vec::new();
    for source in &plan.sources {
        sample(plan, source, each, &mut texts).await?;
    }
    let bytes = texts.iter().map(String::len).sum::<usize>() as u64;
    let pool = plan.pool.clone();
    let trained =
        blocking(move || pool.install(|| crate::bpe::train(&texts, settings.vocabulary)).map_err(failed))
            .await?;
    Ok((Tokenizer::with_markers(&trained, &plan.config.tokenizer.markers()).map_err(failed)?, bytes))
}

/// Texts of every unit of a source, in order.
async fn sample(
    plan: &PreprocessPlan,
    source: &SourcePlan,
    each: u64,
    texts: &mut Vec<String>,
) -> Result<(), PipelineError> {
    let physical = source.rows(&source.units, Columns::Texts).await?;
    for partition in 0..source.units.len() {
        sample_unit(plan, source, &physical, partition, each, texts).await?;
    }
    Ok(())
}

async fn sample_unit(
    plan: &PreprocessPlan,
    source: &SourcePlan,
    physical: &Arc<dyn ExecutionPlan>,
    partition: usize,
    each: u64,
    texts: &mut Vec<String>,
) -> Result<(), PipelineError> {
    let context = plan.session()?.task_ctx();
    let mut batches = physical.execute(partition, context)?;
    let mut bytes = 0;
    let path = |unit: &str, file: u32| source.files.path(unit, file).to_owned();
    let captioning = source.captioning();
    let choice =
        Choice { seed: plan.config.seed, source: &source.config.name, path: &path, captioning: &captioning };
    while let Some(batch) = batches.next().await.transpose()? {
        for text in texts_from_columns(&batch, source.config.shape, &choice)? {
            let wanted = text.floor_char_boundary(usize::try_from(each - bytes).unwrap_or(usize::MAX));
            bytes += text.len() as u64;
            if bytes >= each {
                // Of a long text the beginning is enough.
                texts.push(text[..wanted].to_owned());
                return Ok(());
            }
            texts.push(text);
        }
    }
    Ok(())
}
