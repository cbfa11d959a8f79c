//! The form of a file, by its name.

use super::names::{extension, is_picture};
use crate::config::{Format, Shape, SourceConfig};

/// The form that a source says its files have, or that its name shows.
pub(crate) fn format_of(source: &SourceConfig, path: &str) -> Option<Format> {
    source.format.or_else(|| form_of(source.shape, path))
}

/// The form that the name of a file shows, in a source of this shape.
pub(crate) fn form_of(shape: Shape, path: &str) -> Option<Format> {
    let extension = extension(path)?;
    match extension.name.as_str() {
        "json" if shape == Shape::Pair && !extension.compressed => Some(Format::Coco),
        "jsonl" | "ndjson" | "json" => Some(Format::JsonLines),
        "csv" | "tsv" => Some(Format::Csv),
        "txt" | "text" | "md" => Some(Format::Text),
        "parquet" if !extension.compressed => Some(Format::Parquet),
        "arrow" | "arrows" | "feather" | "ipc" => Some(Format::Arrow),
        "tar" | "tgz" => Some(Format::Tar),
        "warc" | "wet" | "wat" => Some(Format::Warc),
        name if shape == Shape::Pair && is_picture(name) && !extension.compressed => Some(Format::Pictures),
        _ => None,
    }
}
