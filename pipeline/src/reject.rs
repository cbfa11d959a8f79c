//! Why a row of the input is not in the dataset.
//!
//! A bad row never stops the job and never vanishes: it is counted under one of these names and written to the table
//! of rejects. The names are part of the output format: they appear in manifests and reports and do not change.

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
    /// The store failed for this object, after all retries.
    Io,
}

impl RejectReason {
    /// All reasons, in the order of the report.
    pub const ALL: [Self; 17] = [
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
}

impl Reject {
    /// A reject with its detail.
    pub fn new(reason: RejectReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// A remark on an accepted row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Warning {
    /// The picture's EXIF data is damaged: it was taken as it is stored.
    ExifBad,
}

impl Warning {
    /// The name in manifests and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ExifBad => "exif_bad",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_those_of_serde() {
        for reason in RejectReason::ALL {
            assert_eq!(RejectReason::from_name(reason.name()), Some(reason));
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        }
    }
}
