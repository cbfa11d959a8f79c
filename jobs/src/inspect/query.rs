//! `inspect --sql`: DataFusion over exactly the shards that the manifest names, as the table `rows`.

use std::sync::Arc;

use anyhow::anyhow;
use arrow::record_batch::RecordBatch;
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::DataFusionError;
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use futures::StreamExt;
use schemas::{RowLayout, shard_schema};
use url::Url;

use crate::dataset::Found;
use crate::errors::Hint;
use crate::session::Session;
use crate::store::Place;

/// Runs the query and prints its rows: a table, or with `--json` one object a line.
pub(super) async fn run(found: &Found, sql: &str, session: &Session) -> anyhow::Result<()> {
    let context =
        SessionContext::new_with_config(SessionConfig::new().with_target_partitions(session.threads));
    let (places, layout) = shards(found);
    context.register_table("rows", table(&context, &places, layout)?)?;
    let read_only =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let failed = |error: DataFusionError| anyhow!("cannot run the query: {}", error.find_root().message());
    let frame = context.sql_with_options(sql, read_only).await.map_err(failed).hint(columns)?;
    if session.printer.json() {
        let mut batches = frame.execute_stream().await.map_err(failed)?;
        while let Some(batch) = batches.next().await {
            print_json(&batch.map_err(failed)?, session)?;
        }
        return Ok(());
    }
    let shown = frame.to_string().await.map_err(failed)?;
    session.printer.data(&format!("{shown}\n"))
}

fn columns() -> String {
    "the table is `rows`, its columns are tokens, spans, images and sources; e.g. \
     `select count(*), sum(cardinality(images)) from rows`"
        .to_owned()
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
