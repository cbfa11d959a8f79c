//! A preprocessing job from start to manifest.
//!
//! ```text
//! lease        one writer an output
//! job.json     create-only: the configuration; another one is refused
//! tokenizer    create-only: the copy that belongs to the dataset
//! shards/      under names made from their content, when they are whole
//! rejects/     one table a unit
//! commits/     create-only, one a unit: what is here is done
//! manifest     create-only, last: the dataset exists
//! ```
//!
//! Whatever instant a job is killed at, the same command goes on behind the last commit and ends with the same bytes.
//! When the dataset exists, the same command adds what is new in its input as a further version ([`crate::storage::version`]).
//!
//! This is the top: it may use every other folder. It knows nothing about arguments, terminals or clocks.

pub(crate) mod bpe;
mod deduplicate;
pub(crate) mod estimate;
mod explain;
mod limit;
mod manifest;
pub(crate) mod report;
pub(crate) mod tokenizer_training;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use futures::{StreamExt, TryStreamExt, stream};
use schemas::{Manifest, Tokenizer, content_hash, manifest_name};

use crate::PipelineError;
use crate::engine::meter::Meter;
use crate::host::observer::{Event, Observer};
use crate::job::limit::Limit;
use crate::job::manifest::{Commits, compose};
use crate::job::report::{OperatorReport, Report, RetryReport, operators};
use crate::operators::deduplicate::Duplicates;
use crate::operators::runtime::Runtime;
use crate::operators::write::receipts;
use crate::plan::identity::claim;
use crate::plan::{Environment, PreprocessPlan};
use crate::row::reject_table::{RejectLine, RejectTable};
use crate::source::SourcePlan;
use crate::storage::commit::{Commit, SPLITS};
use crate::storage::lease::Lease;
use crate::storage::location::Location;
use crate::storage::version::Version;
use crate::units::Unit;

/// Does what was planned.
///
/// # Errors
///
/// If the output belongs to another configuration or another process, a store or the codec fails, too many rows are
/// refused, or the job is told to stop. What was finished is kept and used by the next start.
pub async fn preprocess(plan: PreprocessPlan, observer: Arc<dyn Observer>) -> Result<Report, PipelineError> {
    let Environment { output, lease_period, stop, .. } = &plan.environment;
    let tally = Tally::default();
    let lease = tally.told(stop.until(Lease::acquire(output, *lease_period, &observer)).await)?;
    let work = async {
        tokio::select! {
            done = run(&plan, &observer, &tally) => done,
            lost = lease.lost() => Err(lost),
        }
    };
    let done = stop.until(work).await;
    lease.release().await;
    match tally.told(done) {
        Err(PipelineError::TooManyRejects { rejected, read, limit, unread_bytes, top, .. }) => {
            let first = first_refused(&plan).await;
            Err(PipelineError::TooManyRejects { rejected, read, limit, unread_bytes, top, first })
        }
        done => done,
    }
}

/// Where the first row stands that this job refused, in the order in which units are started, and why; `None` where no
/// table says so.
async fn first_refused(plan: &PreprocessPlan) -> Option<String> {
    let output = &plan.environment.output;
    for (_, unit) in start_order(plan) {
        let table = output.read_commit(&unit.id).await.ok()?.and_then(|commit| commit.rejects);
        let Some(table) = table else { continue };
        let bytes = output.read(&table.path).await.ok()??;
        let RejectLine { source, file, row, reason, detail, .. } =
            RejectTable::open(bytes).ok()?.next()?.ok()?.into_iter().next()?;
        return Some(format!("row {row} of `{file}` of source `{source}`: {reason}: {detail}"));
    }
    None
}

/// How many units are done, for the message of a job that is stopped.
#[derive(Debug, Default)]
struct Tally {
    done: AtomicUsize,
    total: AtomicUsize,
}

impl Tally {
    fn is(&self, done: usize, total: usize) {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// The same outcome, with the counts in the message of a stop.
    fn told<T>(&self, outcome: Result<T, PipelineError>) -> Result<T, PipelineError> {
        outcome.map_err(|error| match error {
            PipelineError::Stopped { .. } => PipelineError::Stopped {
                done: self.done.load(Ordering::Relaxed),
                total: self.total.load(Ordering::Relaxed),
            },
            other => other,
        })
    }
}

async fn run(
    plan: &PreprocessPlan,
    observer: &Arc<dyn Observer>,
    tally: &Tally,
) -> Result<Report, PipelineError> {
    let outputs = plan.outputs();
    outputs.iter().try_for_each(Location::remove_unfinished)?;
    plan.passed_over().into_iter().for_each(|passed| observer.event(Event::PassedOver(passed)));
    claim(&outputs[0], &plan.portable).await?;
    check_base(plan, &outputs[0]).await?;
    if let Some(base) = plan.base.as_ref().filter(|_| plan.unit_count() == 0) {
        return unchanged(plan, base, &outputs, RetryReport::default()).await;
    }
    let tokenizer = tokenizer(plan, &outputs, observer).await?;
    let (mut done, operators) = run_units(plan, &tokenizer, observer, tally).await?;
    number_parts(plan, &mut done).await?;
    let retried = retry_report(&done);
    let commits: Commits<'_> = (done.iter().filter(|(_, done)| !done.commit.is_in_vain()))
        .map(|(unit, done)| (unit.as_str(), &done.commit))
        .collect();
    let mut report = match &plan.base {
        Some(base) if commits.is_empty() => unchanged(plan, base, &outputs, retried).await?,
        _ => write_versions(plan, &tokenizer, &outputs, &commits).await?,
    };
    outputs.iter().try_for_each(Location::remove_unfinished)?;
    report.units = done.len();
    report.reused_units = done.values().filter(|done| done.reused).count();
    report.retried = plan.environment.retry_rejects.then_some(retried);
    report.operators = operators;
    report.peak_memory = plan.runtime.memory.peak() as u64;
    observer.event(Event::Finished);
    Ok(report)
}

/// The version that was planned on must still be the newest one, now that nobody else can write.
async fn check_base(plan: &PreprocessPlan, output: &Location) -> Result<(), PipelineError> {
    // Versions are put create-only, one behind the other.
    let next = plan.base.as_ref().map_or(1, |base| base.number + 1);
    if output.read(&manifest_name(next)).await?.is_none() {
        return Ok(());
    }
    let what = "it finished a version while this one was planned".to_owned();
    Err(PipelineError::Busy { output: output.show(""), what })
}

/// The report of a dataset to which nothing was added.
async fn unchanged(
    plan: &PreprocessPlan,
    base: &Version,
    outputs: &[Location; SPLITS],
    retried: RetryReport,
) -> Result<Report, PipelineError> {
    let has_validation = plan.config.split.validation > 0.0;
    let validation = if has_validation { Version::newest(&outputs[1]).await? } else { None };
    let validation = validation.as_ref().map(|version| &version.manifest);
    let mut report = Report::new(base.name(), &base.manifest, &base.checksum, validation);
    report.already_complete = true;
    report.waiting_files = plan.waiting_files();
    report.passed_over = plan.passed_over();
    report.retried = plan.environment.retry_rejects.then_some(retried);
    Ok(report)
}

fn retry_report(done: &HashMap<String, Done>) -> RetryReport {
    let mut report = RetryReport::default();
    for commit in done.values().map(|done| &done.commit) {
        let Some(retried) = &commit.retries else { continue };
        let rejected = commit.report.statistics[0].rejected;
        report.rows += retried.rows();
        report.rejected += rejected;
        report.passed += retried.rows().saturating_sub(rejected);
    }
    report
}

/// The tokenizer, and its copy in the datasets.
async fn tokenizer(
    plan: &PreprocessPlan,
    outputs: &[Location; SPLITS],
    observer: &Arc<dyn Observer>,
) -> Result<Tokenizer, PipelineError> {
    let tokenizer = match (&plan.tokenizer, plan.config.tokenizer.train) {
        (Some(tokenizer), _) => tokenizer.clone(),
        (None, Some(settings)) => {
            tokenizer_training::tokenizer(plan, settings, &outputs[0], observer).await?
        }
        (None, None) => {
            return Err(PipelineError::Config {
                key: "tokenizer".to_owned(),
                expected: "`tokenizer.model` or `tokenizer.train`".to_owned(),
                found: "absent".to_owned(),
            });
        }
    };
    let copies = if plan.config.split.validation > 0.0 { SPLITS } else { 1 };
    for output in &outputs[..copies] {
        let name = tokenizer.file_name();
        if !output.create(name, tokenizer.bytes().to_vec()).await? {
            let there = output.read(name).await?.unwrap_or_default();
            if content_hash(&there) != tokenizer.fingerprint() {
                let what = "it is not the tokenizer of this job".to_owned();
                return Err(PipelineError::Damaged { path: output.show(name), what });
            }
        }
    }
    Ok(tokenizer)
}

/// Gives parts of files whose lines are counted the numbers of their first rows. Those of before commits had them are
/// counted once more.
async fn number_parts(plan: &PreprocessPlan, done: &mut HashMap<String, Done>) -> Result<(), PipelineError> {
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

/// Takes over what earlier starts have counted.
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
struct Done {
    commit: Commit,
    reused: bool,
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
fn start_order(plan: &PreprocessPlan) -> Vec<(&SourcePlan, &Unit)> {
    let units = |from: usize, count: usize| {
        plan.sources.iter().flat_map(move |source| {
            source.units.iter().skip(from).take(count).map(move |unit| (source, unit))
        })
    };
    units(0, 1).chain(units(1, usize::MAX)).collect()
}

/// Looks whether too many rows are refused, as soon as the units of an unbroken beginning are done.
struct Watch<'a> {
    limit: Limit,
    units: std::iter::Peekable<std::vec::IntoIter<(&'a SourcePlan, &'a Unit)>>,
}

impl<'a> Watch<'a> {
    fn new(plan: &'a PreprocessPlan) -> Self {
        let bytes = |source: &SourcePlan| source.units.iter().map(|unit| unit.bytes).sum();
        // Rows that are run again can only make the share smaller.
        let share = if plan.environment.retry_rejects { 1.0 } else { plan.config.max_reject_share };
        let mut limit = Limit::new(share, plan.sources.iter().map(bytes));
        let base = plan.base.iter().flat_map(|base| &base.manifest.sources);
        base.for_each(|source| limit.add_base(&source.statistics));
        Self { limit, units: start_order(plan).into_iter().peekable() }
    }

    fn look(&mut self, done: &HashMap<String, Done>) -> Result<(), PipelineError> {
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
async fn run_units(
    plan: &PreprocessPlan,
    tokenizer: &Tokenizer,
    observer: &Arc<dyn Observer>,
    tally: &Tally,
) -> Result<(HashMap<String, Done>, Vec<OperatorReport>), PipelineError> {
    let mut done = committed(plan).await?;
    set_first_rows(plan, &done);
    tally.is(done.len(), plan.unit_count());
    let mut watch = Watch::new(plan);
    watch.look(&done)?;
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
        tally.is(done.len(), total);
        progress.finished(unit);
        watch.look(&done)?;
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

/// Tells how many bytes are read whenever rows went through.
struct Progress {
    observer: Arc<dyn Observer>,
    meters: Vec<Meter>,
    sizes: HashMap<String, u64>,
    finished: AtomicU64,
}

impl Progress {
    fn new(plan: &PreprocessPlan, observer: Arc<dyn Observer>) -> Self {
        let meters: Vec<Meter> = plan.sources.iter().map(|source| source.input.meter.clone()).collect();
        // What was read before, to train a tokenizer or to find copies, is no progress of the units.
        meters.iter().for_each(Meter::clear);
        let units = plan.sources.iter().flat_map(|source| &source.units);
        let sizes = units.map(|unit| (unit.id.clone(), unit.bytes)).collect();
        Self { observer, meters, sizes, finished: AtomicU64::new(0) }
    }

    fn finished(&self, unit: &Unit) {
        self.finished.fetch_add(unit.bytes, Ordering::Relaxed);
        self.meters.iter().for_each(|meter| meter.finish(&unit.id));
        self.observer.event(Event::UnitDone { unit: unit.id.clone(), bytes: unit.bytes });
    }
}

impl Observer for Progress {
    fn event(&self, event: Event) {
        self.observer.event(event);
        let size = |unit: &str| self.sizes.get(unit).copied().unwrap_or(0);
        let under_way: u64 = self.meters.iter().map(|meter| meter.under_way(size)).sum();
        self.observer.event(Event::Read { bytes: self.finished.load(Ordering::Relaxed) + under_way });
    }
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

/// Puts the manifest of the validation dataset and then that of the dataset: when it is there, all is there.
async fn write_versions(
    plan: &PreprocessPlan,
    tokenizer: &Tokenizer,
    outputs: &[Location; SPLITS],
    commits: &Commits<'_>,
) -> Result<Report, PipelineError> {
    let base = plan.base.as_ref().map(|base| &base.manifest);
    let manifest = compose(plan, tokenizer, base, commits, 0);
    let statistics = manifest.sources.iter().map(|source| &source.statistics);
    limit::check(plan.config.max_reject_share, statistics)?;
    let validation = if plan.config.split.validation > 0.0 {
        Some(write_validation(plan, tokenizer, &outputs[1], commits).await?)
    } else {
        None
    };
    let files = |manifest: &Manifest| manifest.sources.iter().map(|source| source.files.len()).sum::<usize>();
    let added = base.map_or(0, |base| files(&manifest) - files(base));
    let written = Version::write(&outputs[0], plan.base.as_ref(), manifest).await?;
    let validation = validation.as_ref().map(|version| &version.manifest);
    let mut report = Report::new(written.name(), &written.manifest, &written.checksum, validation);
    report.added_files = added;
    report.waiting_files = plan.waiting_files();
    report.passed_over = plan.passed_over();
    Ok(report)
}

async fn write_validation(
    plan: &PreprocessPlan,
    tokenizer: &Tokenizer,
    output: &Location,
    commits: &Commits<'_>,
) -> Result<Version, PipelineError> {
    let newest = Version::newest(output).await?;
    let base = match &plan.base {
        Some(base) => Version::beside(output, newest.as_ref(), &base.manifest).await?,
        None => None,
    };
    let manifest = compose(plan, tokenizer, base.as_ref().map(|base| &base.manifest), commits, 1);
    Version::write(output, newest.as_ref(), manifest).await
}
