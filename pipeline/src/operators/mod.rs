//! The operators of the plan.
//!
//! ```text
//! ShardWriteExec                  one receipt a unit
//!   PackExec                      rows of a fixed length
//!     TokenizeExec                documents: texts and captions as ids
//!       EncodeExec                latents, only where a source has images
//!         DecodeExec              pixels, only where a source has images
//!           DeduplicateExec       copies marked, only with `deduplicate`
//!             PictureRowsExec     small batches, only where a source has images
//!               SelectExec        what `select` computes
//!                 WhereExec       `where`
//!                   LookupExec    columns of the joined table, only with `join`
//!                     UnitReadExec  lines, text, archives, Parquet, Arrow
//!                       DataSourceExec  what to read, one partition a unit
//! ```
//!
//! All of ours take one input, keep its order and its partitions, and know a unit by its name in the rows, never by
//! the number of its partition. Refused rows go through all of them; a row of the kind `End` ends a unit.
//!
//! They hold settings and know rows. They know nothing about sources, configurations as a whole, or the plan that they
//! stand in.

pub(crate) mod decode;
pub(crate) mod deduplicate;
pub(crate) mod documents;
pub(crate) mod duplicates;
pub(crate) mod encode;
pub(crate) mod items;
pub(crate) mod lookup;
pub(crate) mod pack;
pub(crate) mod picture_rows;
pub(crate) mod runtime;
pub(crate) mod sql;
pub(crate) mod tokenize;
pub(crate) mod unit_read;
pub(crate) mod write;
