//! `inspect --sql`: DataFusion over exactly the shards that the manifest names, as the table `rows`.
//!
//! Rows are printed as they come. What a query has to hold (a sort, a grouping) is bounded and spills to the disk.

mod grid;

use std::sync::Arc;

use anyhow::{Context, anyhow};
use arrow::record_batch::RecordBatch;
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use futures::StreamExt;
use schemas::{RowLayout, shard_schema};
use tokio::signal::unix::{SignalKind, signal};
use url::Url;

use crate::dataset::Found;
use crate::errors::{Outcome, hinted};
use crate::session::Session;
use crate::store::Place;
use grid::Grid;

/// What a query may hold before it spills.
const MEMORY: usize = 1 << 30;

/// Rows that travel together: some have megabytes of latents.
const BATCH_ROWS: usize = 64;

/// Runs the query and prints its rows: a table, or with `--json` one object a line.
pub(super) async fn run(found: &Found, sql: &str, session: &Session) -> anyhow::Result<Outcome> {
    let context = context(session)?;
    let (places, layout) = shards(found);
    context.register_table("rows", table(&context, &places, layout)?)?;
    let read_only =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let frame =
        context.sql_with_options(sql, read_only).await.map_err(|error| hinted(failed(error), columns()))?;
    let batches = frame.execute_stream().await.map_err(failed)?;
    print(batches, session).await
}

fn context(session: &Session) -> anyhow::Result<SessionContext> {
    // A sort keeps some of it for the merge; the rest of the memory is for rows.
    let config = SessionConfig::new()
        .with_target_partitions(session.threads.min(16))
        .with_batch_size(BATCH_ROWS)
        .with_sort_spill_reservation_bytes(4 << 20);
    let runtime = RuntimeEnvBuilder::new().with_memory_limit(MEMORY, 1.0).build_arc();
    Ok(SessionContext::new_with_config_rt(config, runtime.context("cannot prepare the query")?))
}

fn failed(error: DataFusionError) -> anyhow::Error {
    anyhow!("cannot run the query: {}", error.find_root().message())
}

fn columns() -> String {
    "the table is `rows`, its columns are tokens, spans, images and sources; e.g. \
     `select count(*), sum(cardinality(images)) from rows`. All four are lists: `tokens[1]` is the first token, \
     `spans[1]['start']` a field of the first span, and `select span['start'] from (select unnest(spans) as span from \
     rows)` gives a row for each span"
        .to_owned()
}

/// Prints batches until there are no more, or a signal comes.
async fn print(mut batches: SendableRecordBatchStream, session: &Session) -> anyhow::Result<Outcome> {
    let mut signals = [
        signal(SignalKind::interrupt()).context("cannot listen to signals")?,
        signal(SignalKind::terminate()).context("cannot listen to signals")?,
    ];
    let mut grid = Grid::new(&batches.schema(), session.printer.width());
    let [interrupt, terminate] = &mut signals;
    loop {
        let batch = tokio::select! {
            biased;
            _ = interrupt.recv() => return Ok(Outcome::Stopped(SignalKind::interrupt().as_raw_value())),
            _ = terminate.recv() => return Ok(Outcome::Stopped(SignalKind::terminate().as_raw_value())),
            batch = batches.next() => batch,
        };
        let Some(batch) = batch.transpose().map_err(failed)? else { break };
        match session.printer.json() {
            true => print_json(&batch, session)?,
            false => session.printer.data(&grid.add(&batch)?)?,
        }
    }
    if !session.printer.json() {
        session.printer.data(&grid.finish())?;
        if grid.has_cut() {
            session.printer.note("long values are cut; `--json` shows them whole");
        }
    }
    Ok(Outcome::Done)
}

fn shards(found: &Found) -> (Vec<Place>, RowLayout) {
    match found {
        Found::Dataset(dataset) => {
            let shards = dataset.manifest.shards.iter();
            (shards.map(|shard| dataset.place.join(&shard.path)).collect(), dataset.manifest.layout())
        }
        Found::Shard(place, shard) => (vec![place.clone()], shard.metadata().layout()),
    }
}

fn table(context: &SessionContext, places: &[Place], layout: RowLayout) -> anyhow::Result<Arc<ListingTable>> {
    let mut urls = Vec::with_capacity(places.len());
    for place in places {
        urls.push(ListingTableUrl::parse(register(context, place)?.as_str())?);
    }
    let options = ListingOptions::new(Arc::new(ArrowFormat)).with_file_extension(".arrow");
    let config = ListingTableConfig::new_with_multi_paths(urls).with_listing_options(options);
    Ok(Arc::new(ListingTable::try_new(config.with_schema(Arc::new(shard_schema(&layout))))?))
}

fn register(context: &SessionContext, place: &Place) -> anyhow::Result<Url> {
    if let Some(path) = &place.local {
        return Url::from_file_path(path).map_err(|()| anyhow!("`{}` is no path of a file", path.display()));
    }
    let url = Url::parse(&place.uri)?;
    let root = Url::parse(&format!("{}://{}", url.scheme(), url.authority()))?;
    context.register_object_store(&root, place.store.clone());
    Ok(url)
}

fn print_json(batch: &RecordBatch, session: &Session) -> anyhow::Result<()> {
    let mut writer = datafusion::arrow::json::LineDelimitedWriter::new(Vec::new());
    writer.write(batch)?;
    writer.finish()?;
    session.printer.data(&String::from_utf8_lossy(&writer.into_inner()))
}
