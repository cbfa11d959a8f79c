//! Whether a shard's flatbuffers describe the columns of the format, before Arrow follows them.

use arrow::datatypes::Schema;
use arrow::ipc::{self, convert::fb_to_schema};

use crate::arrow_layout;

/// Whether the file's schema has exactly the columns of the format; else the first that is different.
pub(super) fn schema(found: &ipc::Schema<'_>, expected: &Schema) -> Result<(), String> {
    arrow_layout::schema(found)?;
    let found = fb_to_schema(*found);
    let (count, expected_count) = (found.fields().len(), expected.fields().len());
    if count != expected_count {
        return Err(format!("{count} columns, the format has {expected_count}"));
    }
    match found.fields().iter().zip(expected.fields()).find(|(found, expected)| found != expected) {
        None => Ok(()),
        Some((found, expected)) => Err(format!(
            "column `{}` is not `{}`, `{}` of the format",
            found.name(),
            expected.name(),
            expected.data_type()
        )),
    }
}

/// Whether the message at the head of `block` describes a batch of the format whose buffers lie inside its body.
pub(super) fn batch(block: &[u8], metadata_bytes: usize, schema: &Schema) -> Result<(), String> {
    let (message, body) =
        block.split_at_checked(metadata_bytes).ok_or("the block is shorter than its metadata")?;
    let message = match message {
        [0xFF, 0xFF, 0xFF, 0xFF, _, _, _, _, message @ ..] => message,
        _ => return Err("the block does not start with a message".to_owned()),
    };
    let message = ipc::root_as_message(message).map_err(|error| error.to_string())?;
    if message.version() != ipc::MetadataVersion::V5 {
        return Err(format!("the message has version {:?}", message.version()));
    }
    let batch = message.header_as_record_batch().ok_or("the message is no record batch")?;
    let is_known = |body: ipc::BodyCompression<'_>| {
        body.codec() == ipc::CompressionType::ZSTD && body.method() == ipc::BodyCompressionMethod::BUFFER
    };
    if !batch.compression().is_none_or(is_known) {
        return Err("the body is compressed in a way that the format does not have".to_owned());
    }
    arrow_layout::own_batch(&batch, body, schema)
}
