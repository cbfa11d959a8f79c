//! `inspect --html`: the summary and some rows as a page.

use schemas::Modality;

use super::summary::{counts, dataset_facts, histograms, rejects};
use crate::dataset::Dataset;
use crate::page::{Kind, Page, Strip, Table, bars, escape};
use crate::terminal::{RowView, content, name_of, origin, summary, thousands};

/// A page with everything that the manifest says.
pub(super) fn of_dataset(dataset: &Dataset) -> Page {
    let manifest = &dataset.manifest;
    let mut page = Page::new("transfusion inspect", &format!("dataset {}", dataset.place.uri), &[]);
    let mut facts = Table::new("facts");
    dataset_facts(dataset).iter().for_each(|(name, value)| facts.texts([name, value.as_str()]));
    page.section("What it is", "", &facts.finish());
    page.section("Counts", "", &numbers(&counts(manifest)));
    page.section("Rejected and remarked", "", &numbers(&rejects(&manifest.sources)));
    for (title, entries) in manifest.sources.iter().flat_map(histograms) {
        page.section(&title, "", &bars(&entries, thousands));
    }
    page
}

/// Adds a row: its strip, and its spans with their content.
pub(super) fn add_row(page: &mut Page, index: u64, place: &str, view: &RowView<'_>) {
    let mut strip = Strip::default();
    view.row.spans().iter().for_each(|span| strip.add(kind(span.modality), span.len as usize));
    let mut html = strip.finish();
    for group in view.row.spans().chunk_by(|a, b| a.document == b.document) {
        if let Some(from) = origin(view, &group[0]) {
            html.push_str(&format!("<p><b>document {}</b> {}</p>\n", group[0].document, escape(&from)));
        }
        let mut spans = Table::new("spans");
        for span in group {
            let place = format!("{}-{}", span.start, span.end() - 1);
            spans.texts([place.as_str(), name_of(span.modality), &content(view, span)]);
        }
        html.push_str(&spans.finish());
    }
    page.section(&format!("Row {} ({place})", thousands(index)), &summary(view), &html);
}

/// Rows of texts below a heading; nothing if there is only the heading.
fn numbers(rows: &[Vec<String>]) -> String {
    let Some((heading, rows)) = rows.split_first() else { return String::new() };
    let mut table = Table::new("numbers").heading(heading);
    rows.iter().for_each(|row| table.texts(row));
    table.finish()
}

const fn kind(modality: Modality) -> Kind {
    match modality {
        Modality::Text => Kind::Text,
        Modality::Image => Kind::Image,
        Modality::Padding => Kind::Padding,
    }
}
