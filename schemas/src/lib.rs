//! What the two sides of Transfusion agree on.
//!
//! The pipeline writes packed rows, the trainer reads them, and neither knows the other. Everything both must
//! read alike stands here and only here: the token ids of the markers ([`Vocabulary`]), a packed row and its
//! invariants ([`Row`], [`Span`]), the attention rule ([`AttentionRule`]), which text positions have a loss
//! ([`Row::text_targets`]), the Arrow columns and the file around them ([`shard`]), the check of Arrow bytes before they are followed ([`arrow_layout`]), the dataset's manifest
//! ([`Manifest`]), the text tokenizer ([`Tokenizer`]), the reader's position ([`StreamCursor`]) and the hash that every per-row choice is drawn from
//! ([`row_hash`]), the randomness without state ([`random::Stream`]), and how an address is shown without its secrets
//! ([`address`]).
//!
//! This crate does no I/O and has no async code: bytes come in, bytes go out.

pub mod address;
pub mod arrow_layout;
mod columns;
mod cursor;
mod hash;
mod manifest;
pub mod random;
mod sequence;
pub mod shard;
mod tokenizer;
mod vocabulary;

pub use columns::{
    ColumnsError, decode_latents, decode_rows, encode_latents, encode_rows, latents_type, row_bytes,
    shard_schema,
};
pub use cursor::{DatasetCursor, StreamCursor};
pub use hash::{content_hash, row_hash, share};
pub use manifest::{
    CodecRecord, DatasetStatistics, FORMAT_VERSION, FileRecord, Histogram, Manifest, ManifestError,
    ParentRecord, PartRecord, RejectsRecord, ShardRecord, SourceRecord, SourceStatistics, TokenizerRecord,
    UnitRecord, manifest_name, manifest_version,
};
pub use sequence::{
    AttentionRule, Latent, Modality, Order, Provenance, Row, RowError, RowLayout, Span, patches_of,
};
pub use tokenizer::{Markers, Tokenizer, TokenizerError};
pub use vocabulary::{TokenWidth, Vocabulary};
