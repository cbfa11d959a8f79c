//! What a job would run, as DataFusion's EXPLAIN shows it.

use datafusion::physical_plan::displayable;
use schemas::Tokenizer;

use super::tokenizer_training;
use crate::PipelineError;
use crate::config::TrainTokenizer;
use crate::plan::PreprocessPlan;

/// Text that a tokenizer learns from when it is only to give an idea of the job.
const SKETCH_BYTES: u64 = 2 << 20;

impl PreprocessPlan {
    /// The plan of each source, as DataFusion's EXPLAIN shows it. A tokenizer that is still to be trained is trained on
    /// a small sample for it.
    ///
    /// # Errors
    ///
    /// If the plan can't be made, or it is told to stop.
    pub async fn explain(&self) -> Result<String, PipelineError> {
        self.environment.stop.until(self.explained()).await
    }

    async fn explained(&self) -> Result<String, PipelineError> {
        let tokenizer = self.some_tokenizer().await?;
        let mut text = String::new();
        for source in &self.sources {
            let plan = self.physical_plan(source, &source.units, &tokenizer).await?;
            text.push_str(&format!("source {}\n{}", source.config.name, displayable(&*plan).indent(false)));
        }
        Ok(text)
    }

    /// The job's tokenizer, or one of its size that has learned from little.
    pub(crate) async fn some_tokenizer(&self) -> Result<Tokenizer, PipelineError> {
        match (&self.tokenizer, self.config.tokenizer.train) {
            (Some(tokenizer), _) => Ok(tokenizer.clone()),
            (None, Some(settings)) => {
                let sample_bytes = settings.sample_bytes.min(SKETCH_BYTES);
                tokenizer_training::sketch(self, TrainTokenizer { sample_bytes, ..settings })
                    .await
                    .map(|(tokenizer, _)| tokenizer)
            }
            (None, None) => Err(PipelineError::Config {
                key: "tokenizer".to_owned(),
                expected: "`tokenizer.model` or `tokenizer.train`".to_owned(),
                found: "absent".to_owned(),
            }),
        }
    }
}
