//! The rows that were refused, from the tables beside the shards.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow};
use futures::TryStreamExt;
use pipeline::reject::RejectReason;
use pipeline::{RejectLine, RejectTable};

use crate::dataset::{Dataset, nothing_at};
use crate::errors::hinted;
use crate::session::Session;
use crate::settings::nearest;
use crate::store::Place;
use crate::terminal::{Palette, count, table, thousands, visible};

/// A table of refused rows.
struct Source {
    place: Place,
    /// Whether another unit has run its rows again.
    retried: bool,
}

/// Shows the rows that were refused for `reason`, or all of them if it is empty. Of a dataset that is not finished,
/// those that have been refused so far.
pub(super) async fn show(place: &Place, reason: &str, session: &Session) -> anyhow::Result<()> {
    check_reason(reason)?;
    let tables = tables(place, session).await?;
    let mut counts = BTreeMap::<(String, String), u64>::new();
    for source in &tables {
        let bytes = source.place.read().await?;
        let failed = || format!("cannot read the table `{}`", source.place.uri);
        for lines in RejectTable::open(bytes).with_context(failed)? {
            let lines = lines.with_context(failed)?;
            let wanted = |line: &&RejectLine| {
                line.stands(source.retried) && (reason.is_empty() || line.reason == reason)
            };
            let lines: Vec<&RejectLine> = lines.iter().filter(wanted).collect();
            for line in &lines {
                *counts.entry((line.source.clone(), line.reason.clone())).or_default() += 1;
            }
            print(&lines, session)?;
        }
    }
    if !session.printer.json() {
        session.printer.data(&totals(&counts, session.printer.palette(), session.printer.width()))?;
    }
    Ok(())
}

fn check_reason(reason: &str) -> anyhow::Result<()> {
    if reason.is_empty() || RejectReason::from_name(reason).is_some() {
        return Ok(());
    }
    let names = || RejectReason::ALL.into_iter().map(RejectReason::name);
    let known = names().collect::<Vec<_>>().join(", ");
    let hint = match nearest(reason, names()) {
        Some(near) => format!("did you mean `{near}`? known are {known}"),
        None => format!("known are {known}"),
    };
    Err(hinted(anyhow!("no row is refused for the reason `{reason}`"), hint))
}

async fn tables(place: &Place, session: &Session) -> anyhow::Result<Vec<Source>> {
    let Some(dataset) = Dataset::open(place).await? else { return unfinished(place, session).await };
    let rejected = dataset.manifest.sources.iter().any(|source| source.statistics.rejected > 0);
    if dataset.manifest.units.is_empty() && rejected {
        let what = anyhow!("the manifest of `{}` lists no tables of refused rows", place.uri);
        return Err(hinted(
            what,
            "an earlier version of the program wrote it: look into its folder `rejects`",
        ));
    }
    let retried = dataset.manifest.retried_units();
    let units = dataset.manifest.units.iter();
    let source = |unit: &schemas::UnitRecord| {
        let path = &unit.rejects.as_ref()?.path;
        Some(Source { place: place.join(path), retried: retried.contains(unit.unit.as_str()) })
    };
    Ok(units.filter_map(source).collect())
}

/// The tables of a job under way: no manifest lists them yet.
async fn unfinished(place: &Place, session: &Session) -> anyhow::Result<Vec<Source>> {
    let folder = place.join("rejects");
    let listed: Result<Vec<_>, _> = place.store.list(Some(&folder.path)).try_collect().await;
    let listed = match listed {
        Ok(listed) => listed,
        Err(object_store::Error::NotFound { .. }) => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot list `{}`", folder.uri)),
    };
    let mut names: Vec<String> = listed
        .iter()
        .filter_map(|object| object.location.filename())
        .filter(|name| name.ends_with(".parquet"))
        .map(str::to_owned)
        .collect();
    if names.is_empty() && place.join("job.json").read_if_there().await?.is_none() {
        return Err(nothing_at(place));
    }
    names.sort();
    session.printer.note("the dataset is not finished: these rows have been refused so far");
    Ok(names.iter().map(|name| Source { place: folder.join(name), retried: false }).collect())
}

fn print(lines: &[&RejectLine], session: &Session) -> anyhow::Result<()> {
    let mut text = String::new();
    for line in lines {
        if session.printer.json() {
            text.push_str(&format!("{}\n", serde_json::to_string(line)?));
        } else {
            text.push_str(&drawn(line, session.printer.palette()));
        }
    }
    if text.is_empty() { Ok(()) } else { session.printer.data(&text) }
}

fn drawn(line: &RejectLine, palette: Palette) -> String {
    let id = line.id.as_ref().map_or_else(String::new, |id| format!(" · id {}", visible(id)));
    let place =
        format!("{} · {} · row {}{id}", visible(&line.source), visible(&line.file), thousands(line.row));
    let excerpt = line
        .excerpt
        .as_ref()
        .map_or_else(String::new, |excerpt| format!("    {}\n", palette.dim(&visible(excerpt))));
    format!("{place}\n  {} {}\n{excerpt}", palette.warning(&line.reason), visible(&line.detail))
}

fn totals(counts: &BTreeMap<(String, String), u64>, palette: Palette, width: usize) -> String {
    let mut rows = vec![["source", "reason", "rows"].map(str::to_owned).to_vec()];
    for ((source, reason), number) in counts {
        rows.push(vec![visible(source), visible(reason), thousands(*number)]);
    }
    let all = count(counts.values().sum(), "row");
    if counts.is_empty() {
        return format!("{all} refused\n");
    }
    format!("{}{all} refused\n", table(&rows, palette, width))
}
