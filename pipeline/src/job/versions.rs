//! The versions of the datasets that a job makes: what it adds to, and what it writes last.

use std::collections::HashMap;

use schemas::{Manifest, Tokenizer, manifest_name};

use super::limit;
use super::manifest::{Commits, compose};
use super::report::{Report, RetryReport};
use super::units::Done;
use crate::PipelineError;
use crate::plan::PreprocessPlan;
use crate::storage::commit::SPLITS;
use crate::storage::location::Location;
use crate::storage::version::Version;

/// The version that was planned on must still be the newest one, now that nobody else can write.
pub(super) async fn check_base(plan: &PreprocessPlan, output: &Location) -> Result<(), PipelineError> {
    // Versions are put create-only, one behind the other.
    let next = plan.base.as_ref().map_or(1, |base| base.number + 1);
    if output.read(&manifest_name(next)).await?.is_none() {
        return Ok(());
    }
    let what = "it finished a version while this one was planned".to_owned();
    Err(PipelineError::Busy { output: output.show(""), what })
}

/// The report of a dataset to which nothing was added.
pub(super) async fn unchanged(
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

pub(super) fn retry_report(done: &HashMap<String, Done>) -> RetryReport {
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

/// Puts the manifest of the validation dataset and then that of the dataset: when it is there, all is there.
pub(super) async fn write_versions(
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
