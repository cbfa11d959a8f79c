//! One packed row, drawn: a strip of its positions, then each document with its spans, text, pictures and origin.

use schemas::shard::ShardMetadata;
use schemas::{Latent, Modality, Order, Row, Span, Tokenizer};
use serde_json::{Value, json};

use super::palette::Palette;
use super::text::{columns_of, count, percent, thousands, visible, wrap};

/// A row and what is needed to read it.
pub(crate) struct RowView<'a> {
    /// The row.
    pub(crate) row: &'a Row,
    /// What its shard says.
    pub(crate) metadata: &'a ShardMetadata,
    /// Decodes text; without it ids are shown.
    pub(crate) tokenizer: Option<&'a Tokenizer>,
    /// Show pieces instead of text.
    pub(crate) pieces: bool,
    /// Show all text.
    pub(crate) full: bool,
}

/// The drawing.
pub(crate) fn drawn(view: &RowView<'_>, palette: Palette, width: usize) -> String {
    let mut text = format!("{}\n{}\n", summary(view), strip(view, palette, width));
    let spans = view.row.spans();
    for group in spans.chunk_by(|a, b| a.document == b.document) {
        text.push('\n');
        text.push_str(&heading(view, &group[0], palette));
        for span in group {
            text.push_str(&span_lines(view, span, palette, width));
        }
    }
    text
}

/// Positions, documents and images of a row in one line.
pub(crate) fn summary(view: &RowView<'_>) -> String {
    let row = view.row;
    let (all, used) = (row.tokens().len() as u64, u64::from(row.used()));
    format!(
        "{}: {} text, {} image, {} padding ({}) · {} · {}",
        count(all, "position"),
        thousands(row.text_positions().into()),
        thousands(row.patch_positions().into()),
        thousands(all - used),
        percent(all - used, all),
        count(row.sources().len() as u64, "document"),
        count(row.spans().iter().filter(|span| span.modality == Modality::Image).count() as u64, "image"),
    )
}

/// The row at a glance: `─` text, `█` image, `·` padding, `|` where a document begins.
fn strip(view: &RowView<'_>, palette: Palette, width: usize) -> String {
    let positions = view.row.tokens().len();
    let cells = width.min(positions).max(1);
    let starts: Vec<usize> = view.row.documents().map(|(_, range)| range.start).collect();
    let cell = |index: usize| {
        let (from, to) = (index * positions / cells, (index + 1) * positions / cells);
        match modality_of(view.row.spans(), (from + to) / 2) {
            _ if from > 0 && starts.iter().any(|start| (from..to).contains(start)) => palette.bold("|"),
            Modality::Text => palette.text("─"),
            Modality::Image => palette.image("█"),
            Modality::Padding => palette.dim("·"),
        }
    };
    (0..cells).map(cell).collect()
}

fn modality_of(spans: &[Span], position: usize) -> Modality {
    let span = spans.iter().find(|span| span.range().contains(&position));
    span.map_or(Modality::Padding, |span| span.modality)
}

fn heading(view: &RowView<'_>, span: &Span, palette: Palette) -> String {
    match origin(view, span) {
        None => format!("{}\n", palette.dim("padding")),
        Some(origin) => format!("{}  {origin}\n", palette.bold(&format!("document {}", span.document))),
    }
}

/// Where the document of a span came from; `None` for padding.
pub(crate) fn origin(view: &RowView<'_>, span: &Span) -> Option<String> {
    let source = view.row.sources().get(span.document as usize)?;
    let name = view.metadata.sources.get(usize::from(source.source)).map_or("?", String::as_str);
    let file = view.metadata.files.get(source.file as usize).map_or("?", String::as_str);
    let mut origin = format!("{} · {} · row {}", visible(name), visible(file), thousands(source.row));
    if let Some(id) = &source.id {
        origin.push_str(&format!(" · id {}", visible(id)));
    }
    match source.order {
        Order::CaptionFirst => origin.push_str(" · caption first"),
        Order::ImageFirst => origin.push_str(" · image first"),
        Order::Neither => {}
    }
    if source.first_token > 0 {
        origin.push_str(&format!(" · goes on from position {}", thousands(source.first_token)));
    }
    Some(origin)
}

fn span_lines(view: &RowView<'_>, span: &Span, palette: Palette, width: usize) -> String {
    let place = format!("  {:>6}-{:<6}", span.start, span.end() - 1);
    let text = content(view, span);
    match span.modality {
        Modality::Padding => format!("{}\n", palette.dim(&format!("{place} ·  padding  {text}"))),
        Modality::Image => format!("{place} {}  {}    {text}\n", palette.image("█"), palette.image("image")),
        Modality::Text => {
            let label = format!("{place} {}  {}     ", palette.text("─"), palette.text("text"));
            let indent = columns_of(&place) + 13;
            let room = width.saturating_sub(indent).max(20);
            let lines = if view.full { wrap(&text, room) } else { shorten(wrap(&text, room)) };
            let joined = lines.join(&format!("\n{}", " ".repeat(indent)));
            format!("{label}{joined}\n")
        }
    }
}

/// What stands in a span: its text, or the size of its picture.
pub(crate) fn content(view: &RowView<'_>, span: &Span) -> String {
    let context = if span.loss { "" } else { " (context only)" };
    match span.modality {
        Modality::Padding => count(span.len.into(), "position"),
        Modality::Image => {
            let what = span.image.map_or_else(String::new, |image| image_text(view, image, span));
            format!("{what}{context}")
        }
        Modality::Text => format!("{}{context}", span_text(view, span)),
    }
}

fn image_text(view: &RowView<'_>, image: u32, span: &Span) -> String {
    let patch = view.metadata.patch;
    match view.row.images().get(image as usize) {
        None => format!("{image}: {}", count(span.len.into(), "code")),
        Some(latent) => {
            let (mean, deviation) = moments(latent);
            format!(
                "{image}: {} x {} x {} {}, {} of {patch} x {patch}, mean {mean:.2}, deviation {deviation:.2}",
                latent.channels,
                latent.height,
                latent.width,
                if latent.moments { "distribution" } else { "latent" },
                if span.len == 1 {
                    "1 patch".to_owned()
                } else {
                    format!("{} patches", thousands(span.len.into()))
                },
            )
        }
    }
}

/// Mean and deviation over the values of a latent, over the means where it is a distribution.
fn moments(latent: &Latent) -> (f64, f64) {
    let values = &latent.values[..latent.values.len() / if latent.moments { 2 } else { 1 }];
    let count = values.len().max(1) as f64;
    let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
    let square = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
    (mean, square.sqrt())
}

/// Text of a span with its markers spelled `‹BOS›`, `‹EOS›`, `‹BOI›`, `‹EOI›`.
fn span_text(view: &RowView<'_>, span: &Span) -> String {
    let ids = &view.row.tokens()[span.range()];
    let marker = |id: u32| marker(view, id);
    let parts = ids.chunk_by(|&a, &b| marker(a).is_none() && marker(b).is_none());
    let shown = parts.map(|part| match part.first().and_then(|&id| marker(id)) {
        Some(name) => format!("‹{name}›"),
        None => plain_text(view, part),
    });
    shown.collect::<Vec<_>>().join(" ")
}

fn marker(view: &RowView<'_>, id: u32) -> Option<&'static str> {
    let vocabulary = view.metadata.vocabulary;
    let of_tokenizer = |tokenizer: &Tokenizer| match id {
        id if id == tokenizer.bos() => Some("BOS"),
        id if id == tokenizer.eos() => Some("EOS"),
        _ => None,
    };
    match id {
        id if id == vocabulary.boi() => Some("BOI"),
        id if id == vocabulary.eoi() => Some("EOI"),
        _ => view.tokenizer.and_then(of_tokenizer),
    }
}

fn plain_text(view: &RowView<'_>, ids: &[u32]) -> String {
    match view.tokenizer {
        None => ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
        Some(tokenizer) if view.pieces => {
            ids.iter().map(|&id| visible(&tokenizer.piece(id))).collect::<Vec<_>>().join("|")
        }
        Some(tokenizer) => visible(&tokenizer.decode(ids)),
    }
}

/// Beginning and end of a long text.
fn shorten(mut lines: Vec<String>) -> Vec<String> {
    const HEAD: usize = 3;
    if lines.len() > HEAD + 2 {
        let hidden = lines.len() - HEAD - 1;
        lines.splice(HEAD..HEAD + hidden, [format!("… {hidden} more lines …")]);
    }
    lines
}

/// The row as JSON: every id, span with its text, picture size and origin.
pub(crate) fn row_json(view: &RowView<'_>) -> Value {
    let row = view.row;
    let span = |span: &Span| {
        let text =
            (span.modality == Modality::Text && view.tokenizer.is_some()).then(|| span_text_raw(view, span));
        json!({
            "document": span.document, "start": span.start, "len": span.len, "modality": name_of(span.modality),
            "image": span.image, "loss": span.loss, "text": text,
        })
    };
    let image = |latent: &Latent| {
        let (mean, deviation) = moments(latent);
        json!({
            "channels": latent.channels, "height": latent.height, "width": latent.width, "moments": latent.moments,
            "mean": mean, "deviation": deviation,
        })
    };
    let sources = row.sources().iter().map(|source| {
        json!({
            "source": view.metadata.sources.get(usize::from(source.source)),
            "file": view.metadata.files.get(source.file as usize),
            "row": source.row, "id": source.id, "first_token": source.first_token, "order": order_name(source.order),
        })
    });
    json!({
        "positions": row.tokens().len(),
        "text": row.text_positions(),
        "patches": row.patch_positions(),
        "padding": row.tokens().len() as u32 - row.used(),
        "spans": row.spans().iter().map(span).collect::<Vec<_>>(),
        "images": row.images().iter().map(image).collect::<Vec<_>>(),
        "sources": sources.collect::<Vec<_>>(),
        "tokens": row.tokens(),
    })
}

/// Decoded text without the markers.
fn span_text_raw(view: &RowView<'_>, span: &Span) -> Option<String> {
    let ids = view.row.tokens()[span.range()].iter().copied();
    let ids: Vec<u32> = ids.filter(|&id| marker(view, id).is_none()).collect();
    view.tokenizer.map(|tokenizer| tokenizer.decode(&ids))
}

/// `text`, `image` or `padding`.
pub(crate) fn name_of(modality: Modality) -> &'static str {
    match modality {
        Modality::Text => "text",
        Modality::Image => "image",
        Modality::Padding => "padding",
    }
}

fn order_name(order: Order) -> &'static str {
    match order {
        Order::CaptionFirst => "caption-first",
        Order::ImageFirst => "image-first",
        Order::Neither => "neither",
    }
}

#[cfg(test)]
mod tests {
    use half::f16;
    use schemas::{Provenance, RowLayout, Vocabulary};

    use super::*;

    fn metadata() -> ShardMetadata {
        ShardMetadata {
            format: 1,
            context: 20,
            patch: 1,
            vocabulary: Vocabulary::text(100),
            tokenizer: "t".into(),
            codec: Some("c".into()),
            sources: vec!["pairs".into(), "books".into()],
            files: vec!["a/pairs.tar".into(), "b\u{1b}.txt".into()],
        }
    }

    fn span(document: u32, start: u32, len: u32, modality: Modality) -> Span {
        let image = (modality == Modality::Image).then_some(0);
        Span { document, start, len, modality, image, loss: modality != Modality::Padding }
    }

    fn row() -> Row {
        let vocabulary = Vocabulary::text(100);
        let layout = RowLayout { context: 20, patch: 1, vocabulary };
        let mut tokens = vec![1, 7, 8, vocabulary.boi()];
        tokens.extend([vocabulary.patch(); 4]);
        tokens.extend([vocabulary.eoi(), 2, 1, 9, 10, 11, 2]);
        tokens.extend([vocabulary.padding(); 5]);
        let spans = vec![
            span(0, 0, 4, Modality::Text),
            span(0, 4, 4, Modality::Image),
            span(0, 8, 2, Modality::Text),
            span(1, 10, 5, Modality::Text),
            span(2, 15, 5, Modality::Padding),
        ];
        let values = [-1.0, 1.0, -1.0, 1.0].map(f16::from_f32).to_vec();
        let images = vec![Latent { channels: 1, height: 2, width: 2, moments: false, values }];
        let source = |source, file, row, id: Option<&str>, first_token, order| Provenance {
            source,
            file,
            row,
            id: id.map(str::to_owned),
            first_token,
            order,
        };
        let sources = vec![
            source(0, 0, 3, Some("k1"), 0, Order::CaptionFirst),
            source(1, 1, 1_200, None, 40, Order::Neither),
        ];
        Row::try_new(tokens, spans, images, sources, &layout).expect("the row is whole")
    }

    #[test]
    fn a_row_is_drawn_so_that_it_reads_without_colour() {
        let (row, metadata) = (row(), metadata());
        let view = RowView { row: &row, metadata: &metadata, tokenizer: None, pieces: false, full: false };
        let expected = "\
20 positions: 11 text, 4 image, 5 padding (25.0 %) · 2 documents · 1 image
────████──|────·····

document 0  pairs · a/pairs.tar · row 3 · id k1 · caption first
       0-3      ─  text     1 7 8 ‹BOI›
       4-7      █  image    0: 1 x 2 x 2 latent, 4 patches of 1 x 1, mean 0.00, deviation 1.00
       8-9      ─  text     ‹EOI› 2

document 1  books · b␛.txt · row 1,200 · goes on from position 40
      10-14     ─  text     1 9 10 11 2

padding
      15-19     ·  padding  5 positions
";
        assert_eq!(drawn(&view, Palette::new(false), 80), expected);
    }

    #[test]
    fn colour_adds_nothing_but_escape_codes() {
        let (row, metadata) = (row(), metadata());
        let view = RowView { row: &row, metadata: &metadata, tokenizer: None, pieces: false, full: false };
        let coloured = drawn(&view, Palette::new(true), 80);
        let mut plain = String::new();
        for (index, part) in coloured.split('\x1b').enumerate() {
            plain.push_str(if index == 0 { part } else { part.split_once('m').expect("a code ends in m").1 });
        }
        assert_eq!(plain, drawn(&view, Palette::new(false), 80));
    }

    #[test]
    fn long_text_keeps_beginning_and_end() {
        let text = (0..200).map(|number| number.to_string()).collect::<Vec<_>>().join(" ");
        let lines = shorten(wrap(&text, 40));
        assert_eq!(lines.len(), 5);
        assert!(lines[0].starts_with("0 1 2") && lines[4].ends_with("199"), "{lines:?}");
        assert!(wrap(&"x".repeat(90), 40).iter().all(|line| line.len() <= 40));
    }

    #[test]
    fn json_has_every_span_and_origin() {
        let (row, metadata) = (row(), metadata());
        let view = RowView { row: &row, metadata: &metadata, tokenizer: None, pieces: false, full: false };
        let value = row_json(&view);
        assert_eq!(value["spans"].as_array().map(Vec::len), Some(5));
        assert_eq!(value["sources"][0]["file"], "a/pairs.tar");
        assert_eq!(value["sources"][1]["order"], "neither");
    }
}
