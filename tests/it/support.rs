//! What the tests share: the repository, the optional parts of the machine, and rows made by code.

use std::path::{Path, PathBuf};

use half::f16;
use schemas::{Latent, Modality, Order, Provenance, Row, RowLayout, Span, Vocabulary};

/// The root of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("jobs lies in the repository")
}

/// An optional part of the machine: `None` where the variable is unset, and then the test has nothing to do.
///
/// # Panics
///
/// If the variable is set and the file it names is absent: a promise that isn't kept is a failure, not a skip.
pub(crate) fn optional_file(variable: &str) -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os(variable)?);
    assert!(path.exists(), "{variable} names {}, which does not exist", path.display());
    Some(path)
}

/// The folder of sample data.
pub(crate) fn samples() -> Option<PathBuf> {
    optional_file("TRANSFUSION_SAMPLES")
}

/// A Python with pyarrow, polars and boto3.
pub(crate) fn python() -> Option<PathBuf> {
    optional_file("TRANSFUSION_PYTHON")
}

/// The address of an S3 server.
pub(crate) fn s3() -> Option<String> {
    std::env::var("TRANSFUSION_S3").ok()
}

/// Headless Chromium.
pub(crate) fn chromium() -> Option<PathBuf> {
    optional_file("TRANSFUSION_CHROMIUM")
}

/// The layout of [`rows`].
pub(crate) const LAYOUT: RowLayout = RowLayout { context: 16, patch: 2, vocabulary: Vocabulary::text(100) };

/// `count` different rows: a text, a picture of 4 x 4 latent pixels before its caption, padding.
pub(crate) fn rows(count: u32) -> Vec<Row> {
    (0..count).map(row).collect()
}

fn row(number: u32) -> Row {
    let vocabulary = LAYOUT.vocabulary;
    let text = |offset: u32| (number * 7 + offset) % 100;
    let mut tokens = vec![text(0), text(1), text(2), 1, vocabulary.boi()];
    tokens.extend([vocabulary.patch(); 4]);
    tokens.extend([vocabulary.eoi(), text(3), text(4), 2]);
    tokens.resize(16, vocabulary.padding());
    let span =
        |document, start, len, modality, image, loss| Span { document, start, len, modality, image, loss };
    let spans = vec![
        span(0, 0, 3, Modality::Text, None, true),
        span(1, 3, 2, Modality::Text, None, true),
        span(1, 5, 4, Modality::Image, Some(0), number % 3 != 0),
        span(1, 9, 4, Modality::Text, None, true),
        span(2, 13, 3, Modality::Padding, None, false),
    ];
    let values = (0..32).map(|index| f16::from_f32((number as f32 - index as f32) / 8.0)).collect();
    let latent = Latent { channels: 2, height: 4, width: 4, moments: false, values };
    let source = |row: u64, id: Option<String>, order| Provenance {
        source: 0,
        file: number % 2,
        row,
        id,
        first_token: 0,
        order,
    };
    let sources = vec![
        source(u64::from(number), None, Order::Neither),
        source(1 << 40 | u64::from(number), Some(format!("picture-{number}-ü")), Order::ImageFirst),
    ];
    Row::try_new(tokens, spans, vec![latent], sources, &LAYOUT).expect("the row keeps the format")
}
