//! Raw text and images to packed shards, as a DataFusion plan.

pub mod bpe;
pub mod codec;
pub mod document;
pub mod pack;
pub mod picture;
pub mod reject;
#[cfg(test)]
pub(crate) mod samples;
