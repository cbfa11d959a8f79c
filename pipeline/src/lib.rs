//! Raw text and images to packed shards, as a DataFusion plan.
//!
//! A [`PreprocessConfig`] is what a person wrote, a [`PreprocessPlan`] what will be done, and [`preprocess`] does it:
//! files of any store become units, units become rows, rows documents, documents packed rows, packed rows shards, and
//! when all units are committed the manifest makes the dataset visible. Reading, decoding, encoding, packing and
//! writing are operators of a physical plan, so EXPLAIN shows the whole job and one memory limit holds for all of it.
//!
//! The bytes of a dataset depend on the sources, the configuration and the seed. They do not depend on threads, on the
//! order in which units are done, on how often the job was killed, or on where its output and its inputs' roots lie.
//!
//! The crate knows no network: latents come from an [`codec::ImageCodec`] that somebody else brings. It touches no
//! arguments, environment, terminal or clock: it is handed stores, a seed and an [`Observer`].

pub mod bpe;
mod braces;
pub mod codec;
mod commit;
mod config;
mod deduplicate;
pub mod document;
mod error;
mod estimate;
mod folder;
mod identity;
mod job;
mod join;
mod lease;
mod limit;
mod memory;
mod meter;
mod names;
mod observer;
mod operators;
pub mod pack;
mod passed;
pub mod picture;
mod picture_folder;
mod pictures;
mod plan;
mod read;
pub mod reject;
mod rejects;
mod report;
mod retry;
#[cfg(test)]
pub(crate) mod samples;
mod source;
mod sql;
mod stop;
#[cfg(test)]
mod tests;
mod threads;
mod train;
mod units;
mod version;
mod walk;

pub use commit::{Location, is_written};
pub use config::{
    CaptionChoice, CodecConfig, ColumnType, Filling, Format, JoinConfig, JoinKeys, LatentKind, PictureConfig,
    PreprocessConfig, SourceConfig, SplitConfig, Template, TextSplit, TokenizerConfig, TrainTokenizer,
};
pub use document::Shape;
pub use error::{BoxError, PipelineError};
pub use estimate::{Estimate, SourceEstimate};
pub use job::preprocess;
pub use observer::{Event, Observer, Silent};
pub use passed::PassedOver;
pub use pictures::{PictureRequest, PictureSet, pictures};
pub use plan::{Environment, PreprocessPlan, UnitSummary};
pub use rejects::{RejectLine, RejectTable};
pub use report::{OperatorReport, Report, RetryReport, SourceReport};
pub use stop::Stop;
pub use units::Resolver;
