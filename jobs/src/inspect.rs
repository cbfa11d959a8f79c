//! `inspect`: looks into a dataset or a shard.

mod page;
mod query;
mod rejects;
mod summary;

use std::path::Path;

use anyhow::{Context, anyhow};
use schemas::shard::Shard;
use schemas::{Row, Tokenizer};
use serde_json::json;

use crate::cli::InspectArgs;
use crate::dataset::{Dataset, Found, read_tokenizer, row_of};
use crate::errors::{Outcome, hinted};
use crate::session::Session;
use crate::store::{self, Place};
use crate::terminal::{RowView, count, drawn, row_json, thousands};

/// Runs the command.
pub(crate) fn run(args: &InspectArgs, session: &Session) -> anyhow::Result<Outcome> {
    session.runtime.block_on(inspect(args, session))
}

async fn inspect(args: &InspectArgs, session: &Session) -> anyhow::Result<Outcome> {
    if let Some(reason) = &args.rejects {
        rejects::show(&session.stores.place(&args.uri)?, reason, session).await?;
        return Ok(Outcome::Done);
    }
    let html = args.html.as_ref().map(|path| store::local_file("--html", path)).transpose()?;
    let found = Found::open(session.stores.place(&args.uri)?).await?;
    match (&html, args.row, &args.sql) {
        (Some(path), ..) => write_page(args, path, &found, session).await?,
        (_, Some(row), _) => show_row(args, &found, row, session).await?,
        (_, _, Some(sql)) => return query::run(&found, sql, session).await,
        _ => show_summary(&found, session)?,
    }
    Ok(Outcome::Done)
}

fn show_summary(found: &Found, session: &Session) -> anyhow::Result<()> {
    let printer = &session.printer;
    match found {
        Found::Dataset(dataset) if printer.json() => printer.document(&summary::dataset_json(dataset)),
        Found::Shard(place, shard) if printer.json() => printer.document(&summary::shard_json(place, shard)?),
        Found::Dataset(dataset) => {
            printer.data(&summary::dataset_text(dataset, printer.palette(), printer.width()))?;
            let uri = &dataset.place.uri;
            printer.note(&format!("one row drawn: transfusion inspect {uri} --row 0"));
            if dataset.manifest.sources.iter().any(|source| source.statistics.rejected > 0) {
                printer.note(&format!("what was refused: transfusion inspect {uri} --rejects"));
            }
            Ok(())
        }
        Found::Shard(place, shard) => {
            printer.data(&summary::shard_text(place, shard, printer.palette(), printer.width())?)
        }
    }
}

/// A row, where it stands, and the tokenizer that reads it.
struct Drawn {
    place: String,
    shard: Shard,
    row: Row,
    tokenizer: Option<Tokenizer>,
}

impl Drawn {
    fn view(&self, args: &InspectArgs) -> RowView<'_> {
        let (metadata, tokenizer) = (self.shard.metadata(), self.tokenizer.as_ref());
        RowView { row: &self.row, metadata, tokenizer, pieces: args.pieces, full: args.full }
    }
}

async fn find_row(args: &InspectArgs, found: &Found, index: u64, session: &Session) -> anyhow::Result<Drawn> {
    let given = match &args.tokenizer {
        Some(uri) => Some(read_tokenizer(&session.stores.place(uri)?).await?),
        None => None,
    };
    match found {
        Found::Dataset(dataset) => dataset_row(dataset, index, given).await,
        Found::Shard(place, shard) => shard_row(place, shard, index, given).await,
    }
}

/// The report as a page, with `--row` or the first rows drawn.
async fn write_page(args: &InspectArgs, path: &Path, found: &Found, session: &Session) -> anyhow::Result<()> {
    const ROWS: u64 = 3;
    let Found::Dataset(dataset) = found else {
        return Err(hinted(
            anyhow!("`--html` shows a dataset, not a lone shard"),
            "name the dataset's folder",
        ));
    };
    let rows = match args.row {
        Some(row) => vec![row],
        None => (0..dataset.manifest.statistics.rows.min(ROWS)).collect(),
    };
    let mut page = page::of_dataset(dataset);
    for index in rows {
        let drawn = find_row(args, found, index, session).await?;
        page::add_row(&mut page, index, &drawn.place, &drawn.view(args));
    }
    store::write_file(path, page.finish())?;
    session.printer.note(&format!("page: {}", path.display()));
    Ok(())
}

async fn show_row(args: &InspectArgs, found: &Found, index: u64, session: &Session) -> anyhow::Result<()> {
    let found = find_row(args, found, index, session).await?;
    let view = found.view(args);
    let printer = &session.printer;
    if printer.json() {
        let mut value = json!({ "uri": args.uri, "row": index, "shard": found.place });
        if let (Some(target), serde_json::Value::Object(row)) = (value.as_object_mut(), row_json(&view)) {
            target.extend(row);
        }
        return printer.document(&value);
    }
    let heading = printer.palette().bold(&format!("row {}", thousands(index)));
    printer.data(&format!(
        "{heading} · {}\n{}",
        found.place,
        drawn(&view, printer.palette(), printer.width())
    ))
}

async fn dataset_row(dataset: &Dataset, index: u64, given: Option<Tokenizer>) -> anyhow::Result<Drawn> {
    let rows = dataset.manifest.statistics.rows;
    let (number, in_shard) =
        dataset.find_row(index).ok_or_else(|| no_row(&dataset.place.uri, index, rows))?;
    let record = &dataset.manifest.shards[number];
    let shard = dataset.shard(number).await?;
    let row = row_of(&shard, in_shard)
        .with_context(|| format!("cannot read row {in_shard} of `{}`", record.path))?;
    let row = row.ok_or_else(|| anyhow!("shard `{}` ends before row {in_shard}", record.path))?;
    let tokenizer = match given {
        Some(tokenizer) => tokenizer,
        None => dataset.tokenizer().await?,
    };
    let place = format!("{} row {}", record.path, thousands(in_shard));
    Ok(Drawn { place, shard, row, tokenizer: Some(tokenizer) })
}

async fn shard_row(
    place: &Place,
    shard: &Shard,
    index: u64,
    tokenizer: Option<Tokenizer>,
) -> anyhow::Result<Drawn> {
    // Opened again, because a shard in use can't be given away; its bytes are in the page cache.
    let again = crate::dataset::open_shard(place, place.read().await?)?;
    let row = row_of(shard, index).with_context(|| format!("cannot read row {index} of `{}`", place.uri))?;
    let row = row.ok_or_else(|| no_row(&place.uri, index, summary::shard_rows(shard).unwrap_or(0)))?;
    Ok(Drawn { place: place.uri.clone(), shard: again, row, tokenizer })
}

fn no_row(uri: &str, index: u64, rows: u64) -> anyhow::Error {
    let last = rows
        .checked_sub(1)
        .map_or("it has none".to_owned(), |last| format!("rows are 0 to {}", thousands(last)));
    hinted(anyhow!("`{uri}` has {}, no row {}", count(rows, "row"), thousands(index)), last)
}
