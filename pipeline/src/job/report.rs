//! What a job has done.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricsSet;
use schemas::{DatasetStatistics, Manifest, SourceStatistics};
use serde::Serialize;

use crate::host::passed_over::PassedOver;

/// What a job has done.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Whether the dataset was finished before, and nothing was done.
    pub already_complete: bool,
    /// The most bytes that the job's operators had reserved at a time; 0 where nothing was done.
    pub peak_memory: u64,
    /// File name of the manifest.
    pub manifest_name: String,
    /// Checksum of the manifest.
    pub manifest: String,
    /// Units that this version adds.
    pub units: usize,
    /// Of these, units that an earlier start had finished.
    pub reused_units: usize,
    /// Input files that this version adds to the one before; 0 for the first.
    pub added_files: usize,
    /// Input files that are new and were left for a start that packs them.
    pub waiting_files: usize,
    /// Files that the addresses of the sources lead to and that were not read.
    pub passed_over: Vec<PassedOver>,
    /// What became of rows that were run again.
    pub retried: Option<RetryReport>,
    /// Bytes of the shards.
    pub bytes: u64,
    /// Shards.
    pub shards: usize,
    /// Counts of the dataset.
    pub statistics: DatasetStatistics,
    /// Counts by source.
    pub sources: Vec<SourceReport>,
    /// Counts of the validation dataset, where there is one.
    pub validation: Option<DatasetStatistics>,
    /// What the operators of the plan measured, from the first to the last.
    pub operators: Vec<OperatorReport>,
}

/// The counts of one source.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SourceReport {
    /// Its name.
    pub name: String,
    /// Its counts.
    pub statistics: SourceStatistics,
}

/// What became of refused rows that were run again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RetryReport {
    /// Rows that were run again.
    pub rows: u64,
    /// Rows that are refused no more.
    pub passed: u64,
    /// Rows that were refused again, for whatever reason.
    pub rejected: u64,
}

/// What all instances of an operator measured together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct OperatorReport {
    /// Its name, as in EXPLAIN.
    pub name: String,
    /// Rows that it gave, if it counts them.
    pub output_rows: Option<u64>,
    /// Time that it worked, summed over what ran at the same time.
    pub compute_nanoseconds: Option<u64>,
    /// All its other measures by name: rows, bytes, or nanoseconds, as the name says.
    pub measures: BTreeMap<String, u64>,
}

impl Report {
    pub(crate) fn new(
        name: String,
        manifest: &Manifest,
        checksum: &str,
        validation: Option<&Manifest>,
    ) -> Self {
        let source = |source: &schemas::SourceRecord| SourceReport {
            name: source.name.clone(),
            statistics: source.statistics.clone(),
        };
        Self {
            already_complete: false,
            manifest_name: name,
            manifest: checksum.to_owned(),
            units: 0,
            reused_units: 0,
            added_files: 0,
            waiting_files: 0,
            passed_over: Vec::new(),
            retried: None,
            peak_memory: 0,
            bytes: manifest.shards.iter().map(|shard| shard.bytes).sum(),
            shards: manifest.shards.len(),
            statistics: manifest.statistics.clone(),
            sources: manifest.sources.iter().map(source).collect(),
            validation: validation.map(|manifest| manifest.statistics.clone()),
            operators: Vec::new(),
        }
    }
}

/// What the operators of some plans measured, those of the same name together, from what reads to what writes.
pub(crate) fn operators(plans: &[Arc<dyn ExecutionPlan>]) -> Vec<OperatorReport> {
    let mut reports = Vec::new();
    plans.iter().for_each(|plan| collect(plan, &mut reports));
    reports
}

fn collect(plan: &Arc<dyn ExecutionPlan>, reports: &mut Vec<OperatorReport>) {
    plan.children().into_iter().for_each(|child| collect(child, reports));
    let Some(metrics) = plan.metrics() else { return };
    let index = match reports.iter().position(|report| report.name == plan.name()) {
        Some(index) => index,
        None => {
            let (name, measures) = (plan.name().to_owned(), BTreeMap::new());
            reports.push(OperatorReport { name, output_rows: None, compute_nanoseconds: None, measures });
            reports.len() - 1
        }
    };
    add(&mut reports[index], &metrics.aggregate_by_name());
}

fn add(report: &mut OperatorReport, metrics: &MetricsSet) {
    for metric in metrics.iter().map(|metric| metric.value()).filter(|value| !value.is_timestamp()) {
        let value = metric.as_usize() as u64;
        match metric.name() {
            "output_rows" => *report.output_rows.get_or_insert(0) += value,
            "elapsed_compute" => *report.compute_nanoseconds.get_or_insert(0) += value,
            name => *report.measures.entry(name.to_owned()).or_default() += value,
        }
    }
}
