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
mod progress;
pub(crate) mod report;
pub(crate) mod tokenizer_training;
mod units;
mod versions;

use std::sync::Arc;

use schemas::{Tokenizer, content_hash};

use self::manifest::Commits;
use self::progress::Tally;
use self::report::{Report, RetryReport};
use self::units::{number_parts, run_units, start_order};
use self::versions::{check_base, retry_report, unchanged, write_versions};
use crate::PipelineError;
use crate::host::observer::{Event, Observer};
use crate::plan::identity::claim;
use crate::plan::{Environment, PreprocessPlan};
use crate::row::reject_table::{RejectLine, RejectTable};
use crate::storage::commit::SPLITS;
use crate::storage::lease::Lease;
use crate::storage::location::Location;

/// Does what was planned.
///
/// # Errors
///
/// If the output belongs to another configuration or another process, a store or the codec fails, too many rows are
/// refused, or the job is told to stop. What was finished is kept and used by the next start.
pub async fn preprocess(plan: PreprocessPlan, observer: Arc<dyn Observer>) -> Result<Report, PipelineError> {
    let Environment { output, lease_period, stop, .. } = &plan.environment;
    let tally = Tally::default();
    let lease = tally.counted(stop.until(Lease::acquire(output, *lease_period, &observer)).await)?;
    let work = async {
        tokio::select! {
            done = run(&plan, &observer, &tally) => done,
            lost = lease.lost() => Err(lost),
        }
    };
    let done = stop.until(work).await;
    lease.release().await;
    match tally.counted(done) {
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
