//! Why a row of the input is not in the dataset.
//!
//! A bad row never stops the job and never vanishes: it is counted under one of these names and written to the table
//! of rejects, with an excerpt that is safe to look at. The names are part of the output format: they appear in
//! manifests and reports and do not change.

use std::io::{self, Write};

/// Why a row was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RejectReason {
    /// A line or a text file that is not UTF-8.
    InvalidUtf8,
    /// A line that is not JSON, or not a JSON object.
    InvalidJson,
    /// A field of another type than the source's shape needs.
    WrongType,
    /// The text field is absent or null.
    MissingText,
    /// The caption is absent or null.
    MissingCaption,
    /// The image is absent, null, or names a file that is not there.
    MissingImage,
    /// A text or caption without a character.
    Empty,
    /// A row that is longer than the reader takes.
    RowTooLarge,
    /// An image of 0 bytes.
    ImageEmpty,
    /// Bytes that no decoder knows, or that are damaged.
    ImageUndecodable,
    /// An image that ends before its last pixel.
    ImageTruncated,
    /// More pixels declared than the limit.
    ImageTooLarge,
    /// A side shorter than the minimum.
    ImageTooSmall,
    /// The codec gave a value that is not finite or beyond the range of a half float.
    LatentNotFinite,
    /// A pair, or one part of an interleaved document, that is longer than a row.
    TooLong,
    /// A member of an archive, or a path, that is damaged or leads outside its place.
    BadEntry,
    /// A row that `where` or `select` fails on.
    SqlError,
    /// The store failed for this object, after all retries.
    Io,
}

impl RejectReason {
    /// All reasons, in the order of the report.
    pub const ALL: [Self; 18] = [
        Self::InvalidUtf8,
        Self::InvalidJson,
        Self::WrongType,
        Self::MissingText,
        Self::MissingCaption,
        Self::MissingImage,
        Self::Empty,
        Self::RowTooLarge,
        Self::ImageEmpty,
        Self::ImageUndecodable,
        Self::ImageTruncated,
        Self::ImageTooLarge,
        Self::ImageTooSmall,
        Self::LatentNotFinite,
        Self::TooLong,
        Self::BadEntry,
        Self::SqlError,
        Self::Io,
    ];

    /// The name in manifests, reports and the table of rejects.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidUtf8 => "invalid_utf8",
            Self::InvalidJson => "invalid_json",
            Self::WrongType => "wrong_type",
            Self::MissingText => "missing_text",
            Self::MissingCaption => "missing_caption",
            Self::MissingImage => "missing_image",
            Self::Empty => "empty",
            Self::RowTooLarge => "row_too_large",
            Self::ImageEmpty => "image_empty",
            Self::ImageUndecodable => "image_undecodable",
            Self::ImageTruncated => "image_truncated",
            Self::ImageTooLarge => "image_too_large",
            Self::ImageTooSmall => "image_too_small",
            Self::LatentNotFinite => "latent_not_finite",
            Self::TooLong => "too_long",
            Self::BadEntry => "bad_entry",
            Self::SqlError => "sql_error",
            Self::Io => "io",
        }
    }

    /// The reason of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// Whether another attempt on the same input may succeed.
    pub const fn may_pass_later(self) -> bool {
        matches!(self, Self::Io | Self::MissingImage)
    }
}

impl std::fmt::Display for RejectReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A refused row: the reason, and what exactly was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Reject {
    /// The reason.
    pub reason: RejectReason,
    /// What was found, for the table of rejects; without bytes of the row itself.
    pub detail: String,
    /// The beginning of what was refused, as [`excerpt`] shows it; empty where there is nothing to show.
    pub excerpt: String,
}

impl Reject {
    /// A reject with its detail, which becomes one line of at most 300 characters.
    pub fn new(reason: RejectReason, detail: impl Into<String>) -> Self {
        let detail = shortened(detail.into().trim().as_bytes(), DETAIL);
        Self { reason, detail, excerpt: String::new() }
    }

    /// With the beginning of what was refused, unless it has one.
    #[must_use]
    pub fn showing(mut self, bytes: &[u8]) -> Self {
        if self.excerpt.is_empty() {
            self.excerpt = excerpt(bytes);
        }
        self
    }
}

/// Characters of an excerpt.
const EXCERPT: usize = 100;
/// Characters of a detail: it may name a path, whose length is anybody's.
const DETAIL: usize = 300;

/// The beginning of a row as one line of at most 100 characters, `…` behind it where there was more. What is no text
/// is escaped: `\xff` for a byte that is no UTF-8, `\n` and `\u{1b}` for characters that would move a terminal.
pub fn excerpt(bytes: &[u8]) -> String {
    shortened(bytes, EXCERPT)
}

/// The first `most` characters as one line.
fn shortened(bytes: &[u8], most: usize) -> String {
    let mut short = String::new();
    let mut room = most;
    // No character has more than 4 bytes; one byte more tells a cut character from a broken one.
    let beginning = &bytes[..bytes.len().min(4 * most + 4)];
    for chunk in beginning.utf8_chunks() {
        let valid = chunk.valid().chars().map(shown);
        let invalid = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
        for piece in valid.chain(invalid) {
            let Some(left) = room.checked_sub(1) else {
                short.push('…');
                return short;
            };
            room = left;
            short.push_str(&piece);
        }
    }
    if beginning.len() < bytes.len() {
        short.push('…');
    }
    short
}

/// A character, or its escape where a terminal would obey it instead of showing it.
fn shown(character: char) -> String {
    let moves = character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if moves { character.escape_default().to_string() } else { character.to_string() }
}

/// The beginning of a JSON value, without writing out all of it.
pub(crate) fn json_beginning(value: &serde_json::Value) -> Vec<u8> {
    let mut beginning = Beginning(Vec::new());
    // The error is the writer's own: it has seen enough.
    let _ = serde_json::to_writer(&mut beginning, value);
    beginning.0
}

struct Beginning(Vec<u8>);

impl Write for Beginning {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = 8 * EXCERPT - self.0.len();
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if bytes.len() > room { Err(io::ErrorKind::WriteZero.into()) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A remark on an accepted row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Warning {
    /// The picture's EXIF data is damaged: it was taken as it is stored.
    ExifBad,
    /// The picture's colour profile is not sRGB's: its colours were converted.
    ProfileConverted,
    /// The picture's colour profile is damaged or of a kind that pictures don't have: its colours were taken for sRGB's.
    ProfileBad,
}

impl Warning {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ExifBad, Self::ProfileConverted, Self::ProfileBad];

    /// The name in manifests and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ExifBad => "exif_bad",
            Self::ProfileConverted => "profile_converted",
            Self::ProfileBad => "profile_bad",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_short_and_safe() {
        let cases: [(&[u8], &str); 6] = [
            (b"", ""),
            (b"{\"a\": 1}", "{\"a\": 1}"),
            (b"a\xffb\xc3", "a\\xffb\\xc3"),
            ("a\tb\r\n\u{1b}[31m\u{202e}c\u{0}".as_bytes(), "a\\tb\\r\\n\\u{1b}[31m\\u{202e}c\\u{0}"),
            ("日本語 ünïcödé".as_bytes(), "日本語 ünïcödé"),
            (b"\x89PNG\r\n", "\\x89PNG\\r\\n"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(excerpt(bytes), expected);
        }
        assert_eq!(excerpt("x".repeat(EXCERPT).as_bytes()), "x".repeat(EXCERPT));
        assert_eq!(excerpt("x".repeat(EXCERPT + 1).as_bytes()), format!("{}…", "x".repeat(EXCERPT)));
    }

    /// A path, or what stands where one should, may be as long as a picture.
    #[test]
    fn a_detail_is_one_short_line() {
        let detail = |text: String| Reject::new(RejectReason::BadEntry, text).detail;
        assert_eq!(detail("a `naïve` detail\n".to_owned()), "a `naïve` detail");
        assert_eq!(detail("two\nlines\r".to_owned()), "two\\nlines");
        assert_eq!(detail("é".repeat(DETAIL)), "é".repeat(DETAIL));
        for offset in 0..4 {
            let long = detail("a".repeat(offset) + &"é".repeat(4_000_000));
            assert_eq!((long.chars().count(), long.ends_with('…')), (DETAIL + 1, true));
        }
    }

    /// Wherever a text is cut, it is cut between characters.
    #[test]
    fn an_excerpt_ends_between_characters() {
        for (piece, length) in [("é", 1000), ("😀", 1000), ("日", 101)] {
            for offset in 0..4 {
                let text = format!("{}{}", "a".repeat(offset), piece.repeat(length));
                let short = excerpt(text.as_bytes());
                assert_eq!(short.chars().count(), EXCERPT + 1, "{short}");
                assert!(text.starts_with(short.trim_end_matches('…')), "{short}");
            }
        }
    }

    #[test]
    fn a_large_value_is_not_written_out() {
        for value in [serde_json::json!(vec!["word"; 100_000]), serde_json::json!(["word".repeat(100_000)])] {
            assert_eq!(json_beginning(&value).len(), 8 * EXCERPT);
        }
        assert_eq!(json_beginning(&serde_json::json!({"a": [1, null]})), br#"{"a":[1,null]}"#);
    }

    #[test]
    fn names_are_unique_and_those_of_serde() {
        for reason in RejectReason::ALL {
            assert_eq!(RejectReason::from_name(reason.name()), Some(reason));
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        }
    }
}
