//! What the operators share: a unary node of the plan around work that takes a batch and gives batches.
//!
//! The work blocks, so it runs on [`threads`] of its own; its memory is reserved from the pool of the session.
//! An operator may let its input work ahead of it by a batch or two, so that one unit keeps several cores busy.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, Time,
};
use datafusion::physical_plan::stream::{RecordBatchReceiverStreamBuilder, RecordBatchStreamAdapter};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};
use futures::{StreamExt, stream};

use super::unary::{properties, unary_methods};
use crate::PipelineError;
use crate::host::threads;

/// What an operator is.
pub(crate) trait Operator: fmt::Debug + Send + Sync + 'static {
    /// Its name in EXPLAIN.
    fn name(&self) -> &'static str;

    /// Its settings in EXPLAIN.
    fn describe(&self) -> String;

    /// The columns that it gives.
    fn schema(&self) -> SchemaRef;

    /// Batches that its input may be ahead of it, at most.
    fn ahead(&self) -> usize {
        0
    }

    /// Its work on one partition.
    ///
    /// # Errors
    ///
    /// If the session lacks what the work needs.
    fn start(&self, partition: &Partition<'_>) -> std::result::Result<Box<dyn Work>, PipelineError>;
}

/// A partition of a plan that runs.
pub(crate) struct Partition<'a> {
    pub(crate) task: &'a Arc<TaskContext>,
    metrics: &'a ExecutionPlanMetricsSet,
    number: usize,
}

impl Partition<'_> {
    /// A measure of time beside that of the whole work.
    pub(crate) fn time(&self, name: &'static str) -> Time {
        MetricBuilder::new(self.metrics).subset_time(name, self.number)
    }
}

/// The work on one partition. Blocks.
pub(crate) trait Work: Send {
    /// Takes a batch and gives what is ready.
    fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, PipelineError>;

    /// Whether there is more to come of the last batch, which was too much for one go.
    fn has_rest(&self) -> bool {
        false
    }

    /// The next of it.
    fn rest(&mut self) -> Result<Vec<RecordBatch>, PipelineError> {
        Ok(Vec::new())
    }

    /// Bytes held between batches, with those of `ready`, which wait to be taken.
    fn held(&self, ready: usize) -> usize {
        ready
    }
}

/// An operator over its input.
#[derive(Debug)]
pub(crate) struct StageExec {
    operator: Arc<dyn Operator>,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl StageExec {
    pub(crate) fn new(operator: Arc<dyn Operator>, input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = properties(&input, operator.schema());
        Self { operator, input, properties, metrics: ExecutionPlanMetricsSet::new() }
    }

    fn over(&self, input: Arc<dyn ExecutionPlan>) -> Self {
        Self::new(self.operator.clone(), input)
    }
}

/// An operator as a node over its input.
pub(crate) fn stage(operator: impl Operator, input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    Arc::new(StageExec::new(Arc::new(operator), input))
}

impl DisplayAs for StageExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operator.name(), self.operator.describe())
    }
}

impl ExecutionPlan for StageExec {
    fn name(&self) -> &str {
        self.operator.name()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    unary_methods!();

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let consumer = MemoryConsumer::new(format!("{}[{partition}]", self.operator.name()));
        let started = Partition { task: &context, metrics: &self.metrics, number: partition };
        let work = self.operator.start(&started).map_err(PipelineError::into_plan)?;
        let input = self.input.execute(partition, context.clone())?;
        let run = Run {
            input: if self.operator.ahead() > 0 { ahead(input, self.operator.ahead()) } else { input },
            work: Some(work),
            ready: VecDeque::new(),
            reservation: consumer.register(context.memory_pool()),
            metrics: BaselineMetrics::new(&self.metrics, partition),
        };
        let batches = stream::try_unfold(run, Run::next);
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.operator.schema(), batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

struct Run {
    input: SendableRecordBatchStream,
    /// Away while it works.
    work: Option<Box<dyn Work>>,
    ready: VecDeque<RecordBatch>,
    reservation: MemoryReservation,
    metrics: BaselineMetrics,
}

/// A stream that is worked on by a task of its own, which ends with whoever reads it.
pub(crate) fn ahead(mut input: SendableRecordBatchStream, batches: usize) -> SendableRecordBatchStream {
    let mut builder = RecordBatchReceiverStreamBuilder::new(input.schema(), batches);
    let sender = builder.tx();
    builder.spawn(async move {
        while let Some(batch) = input.next().await {
            let failed = batch.is_err();
            if sender.send(batch).await.is_err() || failed {
                break;
            }
        }
        Ok(())
    });
    builder.build()
}

impl Run {
    async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                self.metrics.record_output(batch.num_rows());
                return Ok(Some((batch, self)));
            }
            if self.work.as_ref().is_some_and(|work| work.has_rest()) {
                self.work_on(None).await?;
                continue;
            }
            let Some(batch) = self.input.next().await.transpose()? else {
                self.metrics.done();
                return Ok(None);
            };
            self.work_on(Some(batch)).await?;
        }
    }

    /// Works on a batch, or on the rest of the last one.
    async fn work_on(&mut self, batch: Option<RecordBatch>) -> Result<()> {
        let Some(mut work) = self.work.take() else {
            return Err(DataFusionError::Internal(
                "an operator was asked again after it had failed".to_owned(),
            ));
        };
        let elapsed = self.metrics.elapsed_compute().clone();
        let task = threads::spawn(move || {
            let timer = elapsed.timer();
            let ready = match batch {
                Some(batch) => work.push(batch),
                None => work.rest(),
            };
            timer.done();
            (work, ready)
        });
        let (work, ready) = task.map_err(PipelineError::into_plan)?.await;
        self.ready.extend(ready.map_err(PipelineError::into_plan)?);
        let ready: usize = self.ready.iter().map(RecordBatch::get_array_memory_size).sum();
        self.reservation.try_resize(work.held(ready))?;
        self.work = Some(work);
        Ok(())
    }
}
