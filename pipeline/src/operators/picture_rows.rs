//! `PictureRowsExec`: fewer rows a batch below it.
//!
//! Filters and joins gather rows up to the batch size of the session. A batch of rows with pictures is large with far
//! fewer of them, so below this node the size is [`PICTURE_ROWS`].

use std::fmt;
use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};

use crate::engine::unary::unary_methods;
use crate::read::batch::PICTURE_ROWS;

/// Runs its input with small batches.
#[derive(Debug)]
pub(crate) struct PictureRowsExec {
    input: Arc<dyn ExecutionPlan>,
}

impl PictureRowsExec {
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        Self { input }
    }

    fn over(&self, input: Arc<dyn ExecutionPlan>) -> Self {
        Self::new(input)
    }
}

impl DisplayAs for PictureRowsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PictureRowsExec: rows={PICTURE_ROWS}")
    }
}

impl ExecutionPlan for PictureRowsExec {
    fn name(&self) -> &str {
        "PictureRowsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    unary_methods!();

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let config = context.session_config().clone().with_batch_size(PICTURE_ROWS);
        let small = TaskContext::new(
            context.task_id(),
            context.session_id(),
            config,
            context.scalar_functions().clone(),
            context.higher_order_functions().clone(),
            context.aggregate_functions().clone(),
            context.window_functions().clone(),
            context.runtime_env(),
        );
        self.input.execute(partition, Arc::new(small))
    }
}
