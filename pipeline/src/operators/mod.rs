//! The operators of the plan.
//!
//! ```text
//! ShardsExec                    packed rows, shards, rejects; one receipt a unit
//!   DocumentsExec               texts as ids, pictures as latents
//!     DeduplicateExec           copies marked, only with `deduplicate`
//!       PictureRowsExec         small batches, only where a source has images
//!         SelectExec            what `select` computes
//!           WhereExec           `where`
//!             LookupExec        columns of the joined table, only with `join`
//!               UnitReadExec    lines, text, archives, Parquet, Arrow
//!                 DataSourceExec  what to read, one partition a unit
//! ```
//!
//! All of ours take one input, keep its order and its partitions, and know a unit by its name in the rows, never by
//! the number of its partition. Refused rows go through all of them; a row of the kind `End` ends a unit. They hold plain
//! data, and find what belongs to the process in its [`runtime`]. This folder knows nothing about sources,
//! configurations as a whole, or the plan that its operators stand in.

pub(crate) mod deduplicate;
pub(crate) mod documents;
pub(crate) mod duplicates;
pub(crate) mod lookup;
pub(crate) mod picture_rows;
pub(crate) mod runtime;
pub(crate) mod shards;
pub(crate) mod source_rows;
pub(crate) mod sql;
pub(crate) mod unit_read;
