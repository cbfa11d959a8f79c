//! Sessions of DataFusion: the settings that all plans of a job run with.

use std::sync::Arc;

use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::functions::datetime::planner::DatetimeFunctionPlanner;
use datafusion::functions::unicode::planner::UnicodeFunctionPlanner;
use datafusion::logical_expr::registry::FunctionRegistry;
use datafusion::prelude::{SessionConfig, SessionContext};
use rayon::ThreadPool;

use super::memory::Memory;
use crate::PipelineError;

/// Rows of a batch, unless they are large.
pub(crate) const TEXT_ROWS: usize = 512;

/// A session to make plans in.
pub(crate) fn session(batch_rows: usize) -> Result<SessionContext, PipelineError> {
    make_session(SessionConfig::new().with_batch_size(batch_rows), None)
}

/// A session to run plans in. Their operators find `runtime` in it.
pub(crate) fn run_session<R: Send + Sync + 'static>(
    memory: &Memory,
    runtime: Arc<R>,
) -> Result<SessionContext, PipelineError> {
    let config = SessionConfig::new().with_batch_size(TEXT_ROWS).with_extension(runtime);
    make_session(config, Some(memory.pool()))
}

/// A session to sort in, with so much of the memory: a sort takes all it gets before it spills.
pub(crate) fn sort_session(memory: &Memory, bytes: usize) -> Result<SessionContext, PipelineError> {
    let config = SessionConfig::new().with_batch_size(8192).with_sort_spill_reservation_bytes(bytes / 8);
    make_session(config, Some(memory.part(bytes)))
}

/// The one place that makes sessions. Four settings keep DataFusion from moving rows between partitions or out of their
/// order, and one takes column names as they are written.
fn make_session(
    config: SessionConfig,
    pool: Option<Arc<dyn MemoryPool>>,
) -> Result<SessionContext, PipelineError> {
    let mut config = config
        .with_target_partitions(1)
        .with_repartition_file_scans(false)
        .with_round_robin_repartition(false);
    let options = config.options_mut();
    options.execution.enable_file_stream_work_stealing = false;
    options.sql_parser.enable_ident_normalization = false;
    // A source's rows stay on the side of a join that streams and keeps their order.
    options.optimizer.join_reordering = false;
    let mut runtime = RuntimeEnvBuilder::new();
    if let Some(pool) = pool {
        runtime = runtime.with_memory_pool(pool);
    }
    let mut context = SessionContext::new_with_config_rt(config, runtime.build_arc()?);
    // The functions are there by default; these turn `substr`, `position` and `extract` into them.
    context.register_expr_planner(Arc::new(UnicodeFunctionPlanner))?;
    context.register_expr_planner(Arc::new(DatetimeFunctionPlanner))?;
    Ok(context)
}

pub(crate) fn thread_pool(threads: usize) -> Result<Arc<ThreadPool>, PipelineError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).build();
    pool.map(Arc::new).map_err(|error| PipelineError::Format(Box::new(error)))
}
