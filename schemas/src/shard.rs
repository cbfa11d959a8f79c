//! A shard: an Arrow IPC file of packed rows that can be read without anything beside it.
//!
//! [`ShardWriter`] and [`Shard`] are the two halves of one definition. Record batches hold [`BATCH_ROWS`] rows and
//! body buffers are aligned to 64 bytes, so the rows of an uncompressed shard are used where its bytes lie: opening one
//! reads the footer, reading a row touches only that row's batch. [`ShardIndex`] is what the footer says, for readers
//! that fetch batches one by one. There are no dictionary columns.

mod check;

use std::io::Write;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileDecoder, read_footer_length};
use arrow::ipc::writer::{FileWriter, IpcWriteOptions};
use arrow::ipc::{Block, CompressionType, MetadataVersion, root_as_footer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ColumnsError, FORMAT_VERSION, Row, RowLayout, Vocabulary, decode_rows, encode_rows, shard_schema,
};

/// Rows of a record batch; the last batch of a shard may have fewer.
pub const BATCH_ROWS: usize = 64;

/// The key of the schema's metadata that holds a [`ShardMetadata`] as JSON.
pub const METADATA_KEY: &str = "transfusion";

/// What a lone shard says of itself. No unknown key is refused here: new keys are additions, and what changes the
/// meaning of a row raises the format version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardMetadata {
    /// Version of the format.
    pub format: u32,
    /// Positions of a row.
    pub context: u32,
    /// Side of a patch in latent pixels.
    pub patch: u32,
    /// The id space.
    pub vocabulary: Vocabulary,
    /// Fingerprint of the tokenizer.
    pub tokenizer: String,
    /// Fingerprint of the codec, where there are images.
    pub codec: Option<String>,
    /// Names of the sources that `sources.source` points into.
    pub sources: Vec<String>,
    /// Paths, below their source's fixed prefix, that `sources.file` points into.
    pub files: Vec<String>,
}

impl ShardMetadata {
    /// What its rows are checked against.
    pub const fn layout(&self) -> RowLayout {
        RowLayout { context: self.context, patch: self.patch, vocabulary: self.vocabulary }
    }
}

/// Why bytes are not a shard.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The file is too short, or its magic or footer is damaged.
    #[error("not a whole Arrow IPC file: {what}")]
    Damaged {
        /// What was found.
        what: String,
    },
    /// An Arrow file of somebody else.
    #[error("schema has no readable `transfusion` metadata: {what}")]
    Metadata {
        /// What was found.
        what: String,
    },
    /// A later format.
    #[error("shard has format version {found}, this program reads up to {FORMAT_VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// A batch that is not there.
    #[error("batch {index} asked for, the shard has {batches}")]
    NoBatch {
        /// The index.
        index: usize,
        /// Batches of the shard.
        batches: usize,
    },
    /// Columns or rows that break the format.
    #[error(transparent)]
    Columns(#[from] ColumnsError),
    /// Arrow's own complaint.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

/// Body compression of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Usable without being unpacked.
    #[default]
    None,
    /// About a quarter of the bytes for text; for object storage.
    Zstd,
}

/// Writes rows into an Arrow IPC file. Rows are buffered up to one batch.
pub struct ShardWriter<W: Write> {
    writer: FileWriter<W>,
    schema: SchemaRef,
    layout: RowLayout,
    pending: Vec<Row>,
    rows: u64,
}

impl<W: Write> ShardWriter<W> {
    /// Starts a shard on `output`.
    ///
    /// # Errors
    ///
    /// If `output` can't be written to.
    pub fn try_new(
        output: W,
        metadata: &ShardMetadata,
        compression: Compression,
    ) -> Result<Self, ShardError> {
        let json =
            serde_json::to_string(metadata).map_err(|error| ArrowError::JsonError(error.to_string()))?;
        let layout = metadata.layout();
        let pairs = [(METADATA_KEY.to_owned(), json)].into();
        let schema = Arc::new(shard_schema(&layout).with_metadata(pairs));
        let codec = (compression == Compression::Zstd).then_some(CompressionType::ZSTD);
        let options =
            IpcWriteOptions::try_new(64, false, MetadataVersion::V5)?.try_with_compression(codec)?;
        let writer = FileWriter::try_new_with_options(output, &schema, options)?;
        Ok(Self { writer, schema, layout, pending: Vec::with_capacity(BATCH_ROWS), rows: 0 })
    }

    /// Appends a row.
    ///
    /// # Errors
    ///
    /// If a full batch can't be written.
    pub fn push(&mut self, row: Row) -> Result<(), ShardError> {
        self.pending.push(row);
        self.rows += 1;
        if self.pending.len() == BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Writes what is pending and the footer, and gives the output back.
    ///
    /// # Errors
    ///
    /// If the output can't be written to.
    pub fn finish(mut self) -> Result<W, ShardError> {
        self.flush()?;
        self.writer.finish()?;
        Ok(self.writer.into_inner()?)
    }

    fn flush(&mut self) -> Result<(), ShardError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let batch = encode_rows(&self.pending, &self.layout, self.schema.clone())?;
        self.pending.clear();
        Ok(self.writer.write(&batch)?)
    }
}

/// Bytes at the end of a shard that say how long the footer before them is.
pub const TRAILER_BYTES: usize = 10;

/// Bytes of the footer, which ends where the trailer begins.
///
/// # Errors
///
/// If `trailer` is not the end of an Arrow IPC file.
pub fn footer_bytes(trailer: [u8; TRAILER_BYTES]) -> Result<usize, ShardError> {
    read_footer_length(trailer).map_err(damaged)
}

/// What the footer of a shard says: where its batches lie and how they are read.
pub struct ShardIndex {
    decoder: FileDecoder,
    schema: SchemaRef,
    blocks: Vec<Block>,
    metadata: ShardMetadata,
}

impl std::fmt::Debug for ShardIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardIndex").field("metadata", &self.metadata).finish_non_exhaustive()
    }
}

impl ShardIndex {
    /// Reads the footer of a shard of `file_bytes` bytes.
    ///
    /// # Errors
    ///
    /// If the bytes are not the footer of a shard of a format version that this program reads.
    pub fn from_footer(footer: &[u8], file_bytes: u64) -> Result<Self, ShardError> {
        let footer = root_as_footer(footer).map_err(damaged)?;
        let found = footer.schema().ok_or_else(|| damaged("footer without a schema"))?;
        let metadata = read_metadata(&found)?;
        let schema = Arc::new(shard_schema(&metadata.layout()));
        check::schema(&found, &schema).map_err(damaged)?;
        let blocks: Vec<Block> = footer.recordBatches().iter().flatten().copied().collect();
        let decoder = FileDecoder::new(schema.clone(), footer.version());
        let index = Self { decoder, schema, blocks, metadata };
        index.check_blocks(file_bytes)?;
        Ok(index)
    }

    /// What the shard says of itself.
    pub fn metadata(&self) -> &ShardMetadata {
        &self.metadata
    }

    /// Number of record batches.
    pub fn batches(&self) -> usize {
        self.blocks.len()
    }

    /// Where the bytes of a batch lie in the file: the first one, and how many.
    ///
    /// # Errors
    ///
    /// If there is no such batch.
    pub fn range(&self, index: usize) -> Result<(usize, usize), ShardError> {
        block_range(self.block(index)?).ok_or_else(|| damaged("a block with a negative range"))
    }

    /// One batch as Arrow columns, from its bytes; without a copy where these are aligned and not compressed.
    ///
    /// # Errors
    ///
    /// If there is no such batch or it is damaged.
    pub fn batch(&self, index: usize, bytes: &Buffer) -> Result<RecordBatch, ShardError> {
        let block = self.block(index)?;
        let inside = |what: String| damaged(format!("block {index}: {what}"));
        check::batch(bytes, block.metaDataLength() as usize, &self.schema).map_err(inside)?;
        let batch = self.decoder.read_record_batch(block, bytes)?;
        batch.ok_or_else(|| damaged(format!("block {index} is empty")))
    }

    fn block(&self, index: usize) -> Result<&Block, ShardError> {
        self.blocks.get(index).ok_or(ShardError::NoBatch { index, batches: self.blocks.len() })
    }

    fn check_blocks(&self, file_bytes: u64) -> Result<(), ShardError> {
        let inside = |block: &Block| {
            block_range(block)
                .and_then(|(start, len)| start.checked_add(len))
                .is_some_and(|end| end as u64 <= file_bytes)
        };
        match self.blocks.iter().position(|block| !inside(block)) {
            Some(index) => Err(damaged(format!("block {index} lies outside the file"))),
            None => Ok(()),
        }
    }
}

/// A whole shard in memory.
pub struct Shard {
    bytes: Buffer,
    index: ShardIndex,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let metadata = self.metadata();
        f.debug_struct("Shard").field("bytes", &self.bytes.len()).field("metadata", metadata).finish()
    }
}

fn damaged(what: impl ToString) -> ShardError {
    ShardError::Damaged { what: what.to_string() }
}

impl Shard {
    /// Reads footer and metadata; batches are read when asked for, without a copy where `bytes` is aligned and the
    /// shard is not compressed. The checksum is the manifest's affair and not checked here.
    ///
    /// # Errors
    ///
    /// If the bytes are not a shard of a format version that this program reads.
    pub fn open(bytes: Buffer) -> Result<Self, ShardError> {
        let trailer_start = bytes
            .len()
            .checked_sub(TRAILER_BYTES)
            .ok_or_else(|| damaged(format!("{} bytes", bytes.len())))?;
        let trailer = bytes[trailer_start..].try_into().map_err(damaged)?;
        let start = trailer_start
            .checked_sub(footer_bytes(trailer)?)
            .ok_or_else(|| damaged("footer is longer than the file"))?;
        let index = ShardIndex::from_footer(&bytes[start..trailer_start], bytes.len() as u64)?;
        Ok(Self { bytes, index })
    }

    /// What the shard says of itself.
    pub fn metadata(&self) -> &ShardMetadata {
        self.index.metadata()
    }

    /// Number of record batches.
    pub fn batches(&self) -> usize {
        self.index.batches()
    }

    /// One batch as Arrow columns.
    ///
    /// # Errors
    ///
    /// If there is no such batch or it is damaged.
    pub fn batch(&self, index: usize) -> Result<RecordBatch, ShardError> {
        let (start, len) = self.index.range(index)?;
        self.index.batch(index, &self.bytes.slice_with_length(start, len))
    }

    /// The rows of one batch.
    ///
    /// # Errors
    ///
    /// If there is no such batch, or it or a row in it is damaged.
    pub fn rows(&self, index: usize) -> Result<Vec<Row>, ShardError> {
        Ok(decode_rows(&self.batch(index)?, &self.metadata().layout())?)
    }
}

fn block_range(block: &Block) -> Option<(usize, usize)> {
    let start = usize::try_from(block.offset()).ok()?;
    let len = usize::try_from(block.metaDataLength())
        .ok()?
        .checked_add(usize::try_from(block.bodyLength()).ok()?)?;
    Some((start, len))
}

fn read_metadata(schema: &arrow::ipc::Schema<'_>) -> Result<ShardMetadata, ShardError> {
    let wrong = |what: String| ShardError::Metadata { what };
    let mut pairs = schema.custom_metadata().into_iter().flatten();
    let pair = pairs.find(|pair| pair.key() == Some(METADATA_KEY));
    let json = pair.and_then(|pair| pair.value()).ok_or_else(|| wrong("key is absent".to_owned()))?;
    let value: serde_json::Value = serde_json::from_str(json).map_err(|error| wrong(error.to_string()))?;
    let format = value.get("format").and_then(serde_json::Value::as_u64);
    let metadata: ShardMetadata = match format.and_then(|format| u32::try_from(format).ok()) {
        Some(found) if found > FORMAT_VERSION => return Err(ShardError::Version { found }),
        Some(_) => serde_json::from_value(value).map_err(|error| wrong(error.to_string()))?,
        None => return Err(wrong("no format version".to_owned())),
    };
    if metadata.layout().is_possible() {
        return Ok(metadata);
    }
    Err(wrong(format!("{:?} is no layout of rows", metadata.layout())))
}
