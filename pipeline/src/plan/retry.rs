//! Refused rows that may pass later: a store that failed after all retries, a picture's file that was not there.
//!
//! A unit's table of refused rows says which they are. Run again, they form a unit of their own, named by the unit that
//! refused them and by their numbers; what it packs is added to the dataset as a new version, and its own table takes
//! over for these rows. So one unit runs another's rows again at most once in a version, and the table that counts for
//! a row is that of the last unit that ran it.

use std::collections::{BTreeMap, HashMap};

use schemas::{Manifest, UnitRecord};

use crate::PipelineError;
use crate::row::reject::RejectReason;
use crate::row::reject_table::RejectTable;
use crate::source::SourcePlan;
use crate::storage::commit::Retried;
use crate::storage::location::Location;
use crate::units::{Rows, Unit};

/// Refused rows of a unit that may pass later.
#[derive(Debug)]
pub(crate) struct Pending {
    /// The unit that refused them last.
    pub(crate) retried: Retried,
    /// The unit that read their files.
    pub(crate) root: Unit,
    pub(crate) rows: Rows,
}

impl Pending {
    /// The unit that runs them again.
    pub(crate) fn unit(&self, source: &SourcePlan) -> Unit {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"retry").update(self.retried.unit.as_bytes());
        for (file, rows) in &self.rows {
            for row in rows {
                hasher.update(&file.to_le_bytes()).update(&row.to_le_bytes());
            }
        }
        let files = &source.listing.files[self.root.files.clone()];
        let read = self.rows.keys().filter_map(|&file| files.get(file as usize));
        Unit {
            id: crate::units::unit_id(&source.config.name, &hasher),
            bytes: read.map(|file| file.bytes).sum(),
            only: Some(self.rows.clone()),
            ..self.root.clone()
        }
    }
}

/// Finds them in the tables of a version.
pub(crate) async fn pending(
    output: &Location,
    base: &Manifest,
    source: &SourcePlan,
) -> Result<Vec<Pending>, PipelineError> {
    let may_pass =
        |reason: &String| RejectReason::from_name(reason).is_some_and(RejectReason::may_pass_later);
    let statistics = base.sources.get(usize::from(source.index)).map(|source| &source.statistics);
    if !statistics.is_some_and(|statistics| statistics.rejects.keys().any(may_pass)) {
        return Ok(Vec::new());
    }
    let (retried, roots) = (base.retried_units(), roots(base, source));
    let mut found = Vec::new();
    for unit in base.units.iter().filter(|unit| unit.source == source.index) {
        if retried.contains(unit.unit.as_str()) {
            continue;
        }
        let Some(root) = roots.get(unit.unit.as_str()) else { continue };
        found.extend(of_unit(output, source, unit, root).await?);
    }
    Ok(found)
}

/// The unit that read the files of each unit.
fn roots<'a>(base: &'a Manifest, source: &'a SourcePlan) -> HashMap<&'a str, &'a Unit> {
    let mut roots: HashMap<&str, &Unit> =
        source.settled.units.iter().map(|unit| (unit.id.as_str(), unit)).collect();
    for unit in base.units.iter().filter(|unit| unit.source == source.index) {
        // A unit stands behind the one whose rows it runs again.
        if let Some(root) = unit.retries.as_deref().and_then(|first| roots.get(first).copied()) {
            roots.insert(&unit.unit, root);
        }
    }
    roots
}

async fn of_unit(
    output: &Location,
    source: &SourcePlan,
    unit: &UnitRecord,
    root: &Unit,
) -> Result<Option<Pending>, PipelineError> {
    let Some(record) = &unit.rejects else { return Ok(None) };
    let damaged = |what: String| PipelineError::Damaged { path: output.show(&record.path), what };
    let bytes = output.read(&record.path).await?.ok_or_else(|| damaged("it is missing".to_owned()))?;
    let found = schemas::content_hash(&bytes);
    if found != record.checksum {
        return Err(damaged(format!("its checksum is `{found}`, the manifest has `{}`", record.checksum)));
    }
    let files: HashMap<&str, u32> = source.listing.files[root.files.clone()]
        .iter()
        .enumerate()
        .map(|(index, file)| (file.below.as_str(), index as u32))
        .collect();
    let (mut rows, mut rejects) = (Rows::new(), BTreeMap::<String, u64>::new());
    for lines in RejectTable::open(bytes)? {
        for line in lines? {
            if !line.may_pass_later() {
                continue;
            }
            let file = files.get(line.file.as_str());
            let file = file.ok_or_else(|| damaged(format!("its unit did not read `{}`", line.file)))?;
            rows.entry(*file).or_default().insert(line.row);
            *rejects.entry(line.reason).or_default() += 1;
        }
    }
    let retried = Retried { unit: unit.unit.clone(), rejects };
    Ok((!rows.is_empty()).then(|| Pending { retried, root: root.clone(), rows }))
}
