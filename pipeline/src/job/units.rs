//! Runs the units of a plan, as many at a time as there are threads and memory.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use futures::{StreamExt, TryStreamExt, stream};
use schemas::Tokenizer;

use super::deduplicate;
use super::limit::Limit;
use super::progress::{Progress, Tally};
use super::report::{OperatorReport, operators};
use crate::PipelineError;
use crate::host::observer::{Event, Observer};
use crate::operators::duplicates::Duplicates;
use crate::operators::runtime::Runtime;
use crate::operators::shards::receipts;
use crate::plan::PreprocessPlan;
use crate::source::SourcePlan;
use crate::storage::commit::Commit;
use crate::units::Unit;

/// Gives parts of files whose lines are counted the numbers of their first rows. Those of before commits had them are
/// counted once more.
pub(super) async fn number_parts(
    plan: &PreprocessPlan,
    done: &mut HashMap<String, Done>,
) -> Result<(), PipelineError> {
    for source in &plan.sources {
        let Some(lines) = &source.input.lines else { continue };
        for unit in source.units.iter().filter(|unit| unit.part.is_some_and(|part| part.first_row.is_none()))
        {
            let (Some(part), Some(file)) = (unit.part, source.listing.files.get(unit.files.start)) else {
                continue;
            };
            if let Some(done) = done.get_mut(&unit.id).filter(|done| done.commit.first_row.is_none()) {
                done.commit.first_row = Some(lines.first_row(&source.input, file, part.start).await?);
            }
        }
    }
    Ok(())
}

/// Takes over the numbers of lines that earlier starts have counted.
fn set_first_rows(plan: &PreprocessPlan, done: &HashMap<String, Done>) {
    for source in &plan.sources {
        for (unit, (path, start)) in source.counted_parts(&source.units) {
            let first_row = done.get(&unit).and_then(|done| done.commit.first_row);
            if let (Some(lines), Some(first_row)) = (&source.input.lines, first_row) {
                lines.set_first_row(&path, start, first_row);
            }
        }
    }
}

/// A commit, and whether an earlier start made it.
pub(super) struct Done {
    pub(super) commit: Commit,
    pub(super) reused: bool,
}

async fn committed(plan: &PreprocessPlan) -> Result<HashMap<String, Done>, PipelineError> {
    let output = &plan.environment.output;
    let units: Vec<String> = plan.units().into_iter().map(|unit| unit.unit).collect();
    let commits: Vec<Option<Commit>> = stream::iter(units)
        .map(|unit| async move { output.read_commit(&unit).await })
        .buffered(16)
        .try_collect()
        .await?;
    let done = |commit: Commit| (commit.unit.clone(), Done { commit, reused: true });
    Ok(commits.into_iter().flatten().map(done).collect())
}

/// All units in the order in which they are started: the first of each source, then the others.
pub(super) fn start_order(plan: &PreprocessPlan) -> Vec<(&SourcePlan, &Unit)> {
    let units = |from: usize, count: usize| {
        plan.sources.iter().flat_map(move |source| {
            source.units.iter().skip(from).take(count).map(move |unit| (source, unit))
        })
    };
    units(0, 1).chain(units(1, usize::MAX)).collect()
}

/// Checks that not too many rows are refused, as soon as the units of an unbroken beginning are done.
struct RejectWatch<'a> {
    limit: Limit,
    units: std::iter::Peekable<std::vec::IntoIter<(&'a SourcePlan, &'a Unit)>>,
}

impl<'a> RejectWatch<'a> {
    fn new(plan: &'a PreprocessPlan) -> Self {
        let bytes = |source: &SourcePlan| source.units.iter().map(|unit| unit.bytes).sum();
        // Rows that are run again can only make the share smaller.
        let share = if plan.environment.retry_rejects { 1.0 } else { plan.config.max_reject_share };
        let mut limit = Limit::new(share, plan.sources.iter().map(bytes));
        let base = plan.base.iter().flat_map(|base| &base.manifest.sources);
        base.for_each(|source| limit.add_base(&source.statistics));
        Self { limit, units: start_order(plan).into_iter().peekable() }
    }

    fn check(&mut self, done: &HashMap<String, Done>) -> Result<(), PipelineError> {
        while let Some((source, unit)) = self.units.peek().copied()
            && let Some(done) = done.get(&unit.id)
        {
            self.units.next();
            self.limit.add_unit(source.index, unit.bytes, &done.commit.report.statistics[0])?;
        }
        Ok(())
    }
}

/// Runs the units that are not committed, as many at a time as there are threads and memory.
pub(super) async fn run_units(
    plan: &PreprocessPlan,
    tokenizer: &Tokenizer,
    observer: &Arc<dyn Observer>,
    tally: &Tally,
) -> Result<(HashMap<String, Done>, Vec<OperatorReport>), PipelineError> {
    let mut done = committed(plan).await?;
    set_first_rows(plan, &done);
    tally.set(done.len(), plan.unit_count());
    let mut watch = RejectWatch::new(plan);
    watch.check(&done)?;
    let total = plan.unit_count();
    let duplicates = if plan.config.deduplicate && done.len() < total {
        deduplicate::find(plan).await?
    } else {
        Duplicates::default()
    };
    let progress = Arc::new(Progress::new(plan, observer.clone()));
    let runtime = Runtime {
        observer: progress.clone(),
        duplicates: Arc::new(duplicates),
        tokenizer: Some(tokenizer.clone()),
        ..plan.runtime.clone()
    };
    let context = runtime.session()?.task_ctx();
    let (plans, pending) = pending(plan, &done, tokenizer).await?;
    let bytes = pending.iter().map(|(_, _, unit)| unit.bytes).sum();
    let version = plan.base.as_ref().map_or(1, |base| base.number + 1);
    observer.event(Event::Planned { version, units: total, reused: done.len(), bytes });
    let running = stream::iter(pending).map(|(physical, partition, unit)| {
        let context = context.clone();
        async move { (unit, run_unit(physical, partition, context).await) }
    });
    let mut running = std::pin::pin!(running.buffer_unordered(plan.units_at_once()));
    while let Some((unit, result)) = running.next().await {
        let commit = result.and_then(|commits| checked(unit, commits))?;
        done.insert(unit.id.clone(), Done { commit, reused: false });
        tally.set(done.len(), total);
        progress.finished(unit);
        watch.check(&done)?;
    }
    Ok((done, operators(&plans)))
}

/// A unit that is to run: its plan, its partition there, and itself.
type Pending<'a> = (Arc<dyn ExecutionPlan>, usize, &'a Unit);

/// The plans of the units that are not done, and these units in the order in which they are started.
async fn pending<'a>(
    plan: &'a PreprocessPlan,
    done: &HashMap<String, Done>,
    tokenizer: &Tokenizer,
) -> Result<(Vec<Arc<dyn ExecutionPlan>>, Vec<Pending<'a>>), PipelineError> {
    let (mut plans, mut places) = (Vec::new(), HashMap::new());
    for source in &plan.sources {
        let units: Vec<Unit> =
            source.units.iter().filter(|unit| !done.contains_key(&unit.id)).cloned().collect();
        if units.is_empty() {
            continue;
        }
        let physical = plan.physical_plan(source, &units, tokenizer).await?;
        for (partition, unit) in units.into_iter().enumerate() {
            places.insert(unit.id, (physical.clone(), partition));
        }
        plans.push(physical);
    }
    let pending = start_order(plan).into_iter().filter_map(|(_, unit)| {
        let (physical, partition) = places.remove(&unit.id)?;
        Some((physical, partition, unit))
    });
    let pending = pending.collect();
    Ok((plans, pending))
}

async fn run_unit(
    physical: Arc<dyn ExecutionPlan>,
    partition: usize,
    context: Arc<TaskContext>,
) -> Result<Vec<Commit>, PipelineError> {
    // A task of its own, so that filters of several units run on several cores; dropped, it is aborted.
    let task = SpawnedTask::spawn(async move {
        let batches: Vec<_> = physical.execute(partition, context)?.try_collect().await?;
        Ok::<_, PipelineError>(batches)
    });
    let batches = match task.join_unwind().await {
        Ok(batches) => batches?,
        Err(error) => return Err(PipelineError::Format(Box::new(error))),
    };
    Ok(batches.iter().map(receipts).collect::<Result<Vec<_>, _>>()?.concat())
}

/// The one commit of a unit, in which no row is lost.
fn checked(unit: &Unit, mut commits: Vec<Commit>) -> Result<Commit, PipelineError> {
    let wrong = |what: &str| PipelineError::Format(format!("unit `{}` {what}", unit.id).into());
    let commit = commits.pop().filter(|commit| commits.is_empty() && commit.unit == unit.id);
    let commit = commit.ok_or_else(|| wrong("has not one commit"))?;
    let [rows, validation] = &commit.report.statistics;
    if !rows.is_balanced() || !validation.is_balanced() {
        return Err(wrong("has rows that were neither kept nor set aside"));
    }
    match &commit.retries {
        Some(retried) if retried.rows() != rows.read => {
            let what = "no longer finds the rows that are to be run again: its files changed";
            Err(wrong(what))
        }
        _ => Ok(commit),
    }
}
