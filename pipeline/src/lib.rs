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

mod config;
pub mod document;
mod engine;
mod host;
mod job;
mod operators;
pub mod picture;
mod plan;
mod read;
mod row;
#[cfg(test)]
pub(crate) mod samples;
mod source;
mod storage;
#[cfg(test)]
mod tests;
mod units;

pub use config::{
    CaptionChoice, CodecConfig, ColumnType, Format, JoinConfig, JoinKeys, LatentKind, PackingMethod,
    PictureConfig, PreprocessConfig, Shape, SourceConfig, SplitConfig, Template, TextSplit, TokenizerConfig,
    TrainTokenizer,
};
pub use document::pack;
pub use host::error::{BoxError, PipelineError};
pub use host::observer::{Event, Observer, Silent};
pub use host::passed_over::PassedOver;
pub use host::stop::Stop;
pub use job::bpe::{BpeError, train as train_tokenizer};
pub use job::estimate::{Estimate, SourceEstimate};
pub use job::preprocess;
pub use job::report::{OperatorReport, Report, RetryReport, SourceReport};
pub use picture::codec;
pub use plan::{Environment, PreprocessPlan, UnitSummary};
pub use row::reject;
pub use row::reject_table::{RejectLine, RejectTable};
pub use source::pictures::{PictureRequest, PictureSet, pictures};
pub use storage::location::{Location, is_written};
pub use storage::resolver::Resolver;
