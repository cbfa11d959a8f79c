//! A dataset or shard in numbers.

use arrow::datatypes::Schema;
use schemas::shard::Shard;
use schemas::{CodecRecord, Histogram, Manifest, SourceRecord, shard_schema};
use serde_json::{Value, json};

use crate::dataset::Dataset;
use crate::store::Place;
use crate::terminal::{
    self, Counted, Palette, bars, bytes, count, elided, percent, short, table, thousands, visible, wrapped,
};

/// The whole manifest, the columns, and the share of padding.
pub(super) fn dataset_json(dataset: &Dataset) -> Value {
    let manifest = &dataset.manifest;
    json!({
        "kind": "dataset",
        "uri": dataset.place.uri,
        "manifest": dataset.name,
        "checksum": dataset.checksum,
        "bytes": shard_bytes(manifest),
        "padding_share": padding_share(manifest),
        "columns": columns(&shard_schema(&manifest.layout())),
        "content": manifest,
    })
}

/// What a lone shard says of itself, and its counts.
pub(super) fn shard_json(place: &Place, shard: &Shard) -> anyhow::Result<Value> {
    let metadata = shard.metadata();
    Ok(json!({
        "kind": "shard",
        "uri": place.uri,
        "rows": shard_rows(shard)?,
        "batches": shard.batches(),
        "columns": columns(&shard_schema(&metadata.layout())),
        "metadata": metadata,
    }))
}

fn columns(schema: &Schema) -> Vec<Value> {
    let fields = schema.fields().iter();
    fields.map(|field| json!({ "name": field.name(), "type": field.data_type().to_string() })).collect()
}

fn shard_bytes(manifest: &Manifest) -> u64 {
    manifest.shards.iter().map(|shard| shard.bytes).sum()
}

fn padding_share(manifest: &Manifest) -> f64 {
    let counts = &manifest.statistics;
    let all = counts.tokens + counts.patches + counts.padding;
    if all == 0 { 0.0 } else { counts.padding as f64 / all as f64 }
}

/// Rows of a shard, counted by its batches.
pub(super) fn shard_rows(shard: &Shard) -> anyhow::Result<u64> {
    let mut rows = 0;
    for batch in 0..shard.batches() {
        rows += shard.batch(batch)?.num_rows() as u64;
    }
    Ok(rows)
}

/// The dataset for a terminal.
pub(super) fn dataset_text(dataset: &Dataset, palette: Palette, width: usize) -> String {
    let manifest = &dataset.manifest;
    let mut text = format!("{} {}\n", palette.bold("dataset"), dataset.place.uri);
    text.push_str(&facts(&dataset_facts(dataset), palette, width));
    text.push_str(&format!("\n{}\n{}", palette.bold("counts"), table(&counts(manifest), palette, width)));
    let refused = rejects(&manifest.sources);
    if refused.len() > 1 {
        text.push_str(&format!(
            "\n{}\n{}",
            palette.bold("rejected and remarked"),
            table(&refused, palette, width)
        ));
    }
    for (title, entries) in manifest.sources.iter().flat_map(histograms) {
        text.push_str(&format!("\n{}\n{}", palette.bold(&elided(&title, width)), bars(&entries, width)));
    }
    text.push_str(&format!(
        "\n{}\n{}",
        palette.bold("columns"),
        column_lines(&shard_schema(&manifest.layout()), width)
    ));
    text.push_str(&format!("\n{}\n{}", palette.bold("shards"), shards(manifest, palette, width)));
    text
}

/// A lone shard for a terminal.
pub(super) fn shard_text(
    place: &Place,
    shard: &Shard,
    palette: Palette,
    width: usize,
) -> anyhow::Result<String> {
    let metadata = shard.metadata();
    let lines = vec![
        ("rows", format!("{} in {}", thousands(shard_rows(shard)?), batches(shard.batches()))),
        ("format", metadata.format.to_string()),
        ("context", format!("{} positions, patch {}", thousands(metadata.context.into()), metadata.patch)),
        ("vocabulary", vocabulary(metadata.vocabulary)),
        ("tokenizer", short(&metadata.tokenizer).to_owned()),
        ("codec", metadata.codec.as_deref().map_or("none", short).to_owned()),
        ("sources", metadata.sources.join(", ")),
        ("files", count(metadata.files.len() as u64, "file")),
    ];
    let schema = shard_schema(&metadata.layout());
    Ok(format!(
        "{} {}\n{}\n{}\n{}",
        palette.bold("shard"),
        place.uri,
        facts(&lines, palette, width),
        palette.bold("columns"),
        column_lines(&schema, width)
    ))
}

fn batches(number: usize) -> String {
    if number == 1 { "1 batch".to_owned() } else { format!("{number} batches") }
}

fn facts(lines: &[(&str, String)], palette: Palette, width: usize) -> String {
    const INDENT: usize = 14;
    let line = |(name, value): &(&str, String)| {
        let value = wrapped(value, width.saturating_sub(INDENT), 0)
            .replace('\n', &format!("\n{}", " ".repeat(INDENT)));
        format!("  {} {value}\n", palette.dim(&format!("{name:<11}")))
    };
    lines.iter().map(line).collect()
}

/// What the dataset is, as names and values.
pub(super) fn dataset_facts(dataset: &Dataset) -> Vec<(&'static str, String)> {
    let manifest = &dataset.manifest;
    vec![
        ("manifest", version(dataset)),
        ("format", format!("{}, written by version {}", manifest.format, manifest.program)),
        ("context", format!("{} positions, patch {}", thousands(manifest.context.into()), manifest.patch)),
        ("vocabulary", vocabulary(manifest.vocabulary)),
        (
            "tokenizer",
            format!(
                "{}, BOS {}, EOS {}, fingerprint {}",
                manifest.tokenizer.path,
                manifest.tokenizer.bos,
                manifest.tokenizer.eos,
                short(&manifest.tokenizer.fingerprint)
            ),
        ),
        ("codec", manifest.codec.as_ref().map_or_else(|| "none".to_owned(), codec)),
        ("seed", manifest.seed.to_string()),
    ]
}

fn version(dataset: &Dataset) -> String {
    let name = format!("{}, checksum {}", dataset.name, short(&dataset.checksum));
    match &dataset.manifest.parent {
        Some(parent) => format!("{name}, after {} ({})", parent.name, short(&parent.checksum)),
        None => name,
    }
}

fn vocabulary(vocabulary: schemas::Vocabulary) -> String {
    let codes = if vocabulary.codes > 0 {
        format!(", {}", count(vocabulary.codes.into(), "code"))
    } else {
        String::new()
    };
    format!(
        "{} text ids{codes}, BOI {}, EOI {}",
        thousands(vocabulary.size.into()),
        vocabulary.boi(),
        vocabulary.eoi()
    )
}

fn codec(codec: &CodecRecord) -> String {
    let side = codec.size / codec.downsampling.max(1);
    format!(
        "{}, {} px to {} x {side} x {side}, computed on {} ({}), fingerprint {}",
        codec.kind,
        codec.size,
        codec.channels,
        codec.device,
        codec.processor,
        short(&codec.fingerprint)
    )
}

/// The counts of each source and of all, below a heading.
pub(super) fn counts(manifest: &Manifest) -> Vec<Vec<String>> {
    terminal::counts(&counted(&manifest.sources))
}

/// Rows that were refused, or taken with a remark, below a heading.
pub(super) fn rejects(sources: &[SourceRecord]) -> Vec<Vec<String>> {
    terminal::refused(&counted(sources))
}

fn counted(sources: &[SourceRecord]) -> Vec<Counted<'_>> {
    sources.iter().map(|source| (source.name.as_str(), &source.statistics)).collect()
}

/// Title and buckets of each histogram that says something.
pub(super) fn histograms(source: &SourceRecord) -> Vec<(String, Vec<(String, u64)>)> {
    let (name, of) = (visible(&source.name), &source.statistics);
    let both = [
        (format!("{name}: documents by length in positions"), &of.document_length),
        (format!("{name}: rows by number of images"), &of.images_per_row),
    ];
    // Nothing but zeros says nothing.
    let telling = both.into_iter().filter(|(_, histogram)| histogram.buckets.keys().any(|&bound| bound > 0));
    telling.map(|(title, histogram)| (title, buckets(histogram))).collect()
}

/// Every bucket from the first to the last, empty ones too, so that the shape is true.
fn buckets(histogram: &Histogram) -> Vec<(String, u64)> {
    let mut bounds: Vec<u64> = vec![];
    let (Some((&first, _)), Some((&last, _))) =
        (histogram.buckets.first_key_value(), histogram.buckets.last_key_value())
    else {
        return vec![];
    };
    let mut bound = first;
    while bound <= last {
        bounds.push(bound);
        bound = if bound == 0 { 1 } else { bound.saturating_mul(2) };
        if bound == u64::MAX {
            break;
        }
    }
    let label = |bound: u64| {
        if bound < 2 {
            thousands(bound)
        } else {
            format!("{} to {}", thousands(bound), thousands(bound * 2 - 1))
        }
    };
    bounds.iter().map(|&bound| (label(bound), histogram.buckets.get(&bound).copied().unwrap_or(0))).collect()
}

fn column_lines(schema: &Schema, width: usize) -> String {
    const INDENT: usize = 13;
    let line = |field: &std::sync::Arc<arrow::datatypes::Field>| {
        let line = format!("  {:<8} {}", field.name(), type_text(field.data_type()));
        // Broken at commas where it is too long, with the spaces of the beginning kept.
        format!(
            "  {}\n",
            wrapped(line.trim_start(), width.saturating_sub(2), INDENT - 2).replace('\n', "\n  ")
        )
    };
    schema.fields().iter().map(line).collect()
}

/// An Arrow type as docs/format.md writes it.
fn type_text(kind: &arrow::datatypes::DataType) -> String {
    use arrow::datatypes::DataType;
    match kind {
        DataType::FixedSizeList(item, length) => {
            format!("FixedSizeList of {length} {}", type_text(item.data_type()))
        }
        DataType::List(item) => format!("List of {}", type_text(item.data_type())),
        DataType::Struct(fields) => {
            let field = |field: &std::sync::Arc<arrow::datatypes::Field>| {
                let null = if field.is_nullable() { " or null" } else { "" };
                format!("{} {}{null}", field.name(), type_text(field.data_type()))
            };
            format!("{{ {} }}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

fn shards(manifest: &Manifest, palette: Palette, width: usize) -> String {
    const SHOWN: usize = 10;
    let mut rows =
        vec![["path", "rows", "text", "patches", "padding", "size", "checksum"].map(str::to_owned).to_vec()];
    for shard in manifest.shards.iter().take(SHOWN) {
        let all = shard.tokens + shard.patches + shard.padding;
        let numbers = [shard.rows, shard.tokens, shard.patches].map(thousands);
        let rest = vec![percent(shard.padding, all), bytes(shard.bytes), short(&shard.checksum).to_owned()];
        rows.push([vec![shard.path.clone()], numbers.to_vec(), rest].concat());
    }
    let more = manifest.shards.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!("  and {more} more\n") } else { String::new() };
    let total = format!(
        "  {}, {}, {}\n",
        count(manifest.shards.len() as u64, "shard"),
        count(manifest.statistics.rows, "row"),
        bytes(shard_bytes(manifest))
    );
    format!("{}{more}{total}", table(&rows, palette, width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_buckets_between_full_ones_are_shown() {
        let mut histogram = Histogram::default();
        [0, 1, 9].iter().for_each(|&value| histogram.add(value));
        let shown = buckets(&histogram);
        let labels: Vec<&str> = shown.iter().map(|(label, _)| label.as_str()).collect();
        assert_eq!(labels, ["0", "1", "2 to 3", "4 to 7", "8 to 15"]);
        assert_eq!(shown.iter().map(|(_, number)| number).sum::<u64>(), 3);
    }
}
