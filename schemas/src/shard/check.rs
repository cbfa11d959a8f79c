//! Whether a shard's flatbuffers describe what the format has, before Arrow follows them.
//!
//! Arrow's reader trusts the layout that a file declares: a damaged one makes it panic or ask for as much memory as the
//! damage says. The columns of the format are fixed, so every node and buffer of a batch is known beforehand, and so
//! is how long each must be. What passes here can only be wrong in its values, which Arrow and
//! [`Row::try_new`](crate::Row::try_new) check.

use arrow::datatypes::{DataType, Field, Fields, Schema};
use arrow::ipc;

/// Whether the file's schema has exactly the columns of the format; else what is different.
pub(super) fn schema(found: &ipc::Schema<'_>, expected: &Schema) -> Result<(), String> {
    if found.endianness() != ipc::Endianness::Little {
        return Err("columns are not little-endian".to_owned());
    }
    fields(found.fields().into_iter().flatten().collect(), expected.fields())
}

fn fields(found: Vec<ipc::Field<'_>>, expected: &Fields) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{} columns or children, the format has {}", found.len(), expected.len()));
    }
    found.iter().zip(expected).try_for_each(|(found, expected)| field(found, expected))
}

fn field(found: &ipc::Field<'_>, expected: &Field) -> Result<(), String> {
    let name = found.name().unwrap_or_default();
    let same = name == expected.name()
        && found.nullable() == expected.is_nullable()
        && found.dictionary().is_none()
        && same_type(found, expected.data_type());
    if !same {
        return Err(format!(
            "column `{name}` is not `{}`, `{}` of the format",
            expected.name(),
            expected.data_type()
        ));
    }
    let children = found.children().into_iter().flatten().collect();
    match expected.data_type() {
        DataType::List(item) | DataType::FixedSizeList(item, _) => {
            fields(children, &Fields::from(vec![item.clone()]))
        }
        DataType::Struct(expected) => fields(children, expected),
        _ => fields(children, &Fields::empty()),
    }
}

/// Compares the types that the format uses, without their children.
fn same_type(found: &ipc::Field<'_>, expected: &DataType) -> bool {
    let unsigned = |bits| found.type_as_int().is_some_and(|int| !int.is_signed() && int.bitWidth() == bits);
    match expected {
        DataType::Boolean => found.type_type() == ipc::Type::Bool,
        DataType::Utf8 => found.type_type() == ipc::Type::Utf8,
        DataType::List(_) => found.type_type() == ipc::Type::List,
        DataType::Struct(_) => found.type_type() == ipc::Type::Struct_,
        DataType::UInt8 => unsigned(8),
        DataType::UInt16 => unsigned(16),
        DataType::UInt32 => unsigned(32),
        DataType::UInt64 => unsigned(64),
        DataType::Float16 => {
            found.type_as_floating_point().is_some_and(|float| float.precision() == ipc::Precision::HALF)
        }
        DataType::FixedSizeList(_, size) => {
            found.type_as_fixed_size_list().is_some_and(|list| list.listSize() == *size)
        }
        _ => false,
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
    let compressed = match batch.compression() {
        None => false,
        Some(body)
            if body.codec() == ipc::CompressionType::ZSTD
                && body.method() == ipc::BodyCompressionMethod::BUFFER =>
        {
            true
        }
        Some(_) => return Err("the body is compressed in a way that the format does not have".to_owned()),
    };
    let rows = usize::try_from(batch.length()).map_err(|_| "a negative number of rows")?;
    let mut walk = Walk {
        body,
        compressed,
        nodes: batch.nodes().into_iter().flatten(),
        buffers: batch.buffers().into_iter().flatten(),
    };
    schema.fields().iter().try_for_each(|field| walk.column(field, Some(rows)))?;
    let of_views = batch.variadicBufferCounts().is_some_and(|counts| !counts.is_empty());
    if walk.nodes.next().is_some() || walk.buffers.next().is_some() || of_views {
        return Err("the batch has more parts than the format".to_owned());
    }
    Ok(())
}

/// Nodes and buffers of a batch in the order of its columns, depth first.
struct Walk<'a, N, B> {
    body: &'a [u8],
    compressed: bool,
    nodes: N,
    buffers: B,
}

impl<'a, N, B> Walk<'a, N, B>
where
    N: Iterator<Item = &'a ipc::FieldNode>,
    B: Iterator<Item = &'a ipc::Buffer>,
{
    /// One column of `length` values; any number where `length` is `None`, as for the items of lists.
    fn column(&mut self, field: &Field, length: Option<usize>) -> Result<(), String> {
        let node = self.nodes.next().ok_or("the batch has fewer parts than the format")?;
        let found = usize::try_from(node.length()).map_err(|_| "a column of negative length")?;
        let nulls = node.null_count();
        let wrong = |what: String| Err(format!("column `{}` {what}", field.name()));
        if length.is_some_and(|length| length != found) {
            return wrong(format!("has {found} values, {length:?} belong there"));
        }
        if !(0..=node.length()).contains(&nulls) || (nulls > 0 && !field.is_nullable()) {
            return wrong(format!("has {nulls} nulls"));
        }
        let validity = self.buffer()?;
        if validity < found.div_ceil(8) && (nulls > 0 || validity > 0) {
            return wrong("has too short a list of nulls".to_owned());
        }
        self.values(field, found)
    }

    fn values(&mut self, field: &Field, count: usize) -> Result<(), String> {
        let fixed = |width: usize| count.checked_mul(width).ok_or("a column is too long".to_owned());
        match field.data_type() {
            DataType::Boolean => self.exact(count.div_ceil(8)),
            DataType::FixedSizeList(item, size) => self.column(item, Some(fixed(*size as usize)?)),
            DataType::Struct(children) => {
                children.iter().try_for_each(|child| self.column(child, Some(count)))
            }
            DataType::List(item) => {
                self.offsets(count)?;
                self.column(item, None)
            }
            DataType::Utf8 => {
                self.offsets(count)?;
                self.buffer().map(drop)
            }
            other => {
                let width = other.primitive_width().ok_or("a type that the format does not have")?;
                self.exact(fixed(width)?)
            }
        }
    }

    /// `count + 1` offsets of 32 bits; of no values there may be none.
    fn offsets(&mut self, count: usize) -> Result<(), String> {
        let expected = count.saturating_add(1).saturating_mul(4);
        match self.buffer()? {
            0 if count == 0 => Ok(()),
            found => enough(found, expected),
        }
    }

    fn exact(&mut self, expected: usize) -> Result<(), String> {
        let found = self.buffer()?;
        enough(found, expected)
    }

    /// Bytes of the next buffer once it is decompressed.
    fn buffer(&mut self) -> Result<usize, String> {
        let buffer = self.buffers.next().ok_or("the batch has fewer buffers than the format")?;
        let start = usize::try_from(buffer.offset()).ok();
        let end =
            start.zip(usize::try_from(buffer.length()).ok()).and_then(|(start, len)| start.checked_add(len));
        let range = start.zip(end).and_then(|(start, end)| self.body.get(start..end));
        let bytes = range.ok_or("a buffer lies outside its block")?;
        if !self.compressed || bytes.is_empty() {
            return Ok(bytes.len());
        }
        let Some((head, rest)) = bytes.split_first_chunk::<8>() else {
            return Err("a compressed buffer without its length".to_owned());
        };
        match i64::from_le_bytes(*head) {
            -1 => Ok(rest.len()),
            len => usize::try_from(len)
                .ok()
                .filter(|&len| len <= rest.len().saturating_mul(MOST_EXPANSION))
                .ok_or(format!("a compressed buffer of {} bytes that claims {len}", rest.len())),
        }
    }
}

/// No buffer of a shard shrinks by more than this: zstd's largest block is 128 KiB and takes at least 3 bytes.
const MOST_EXPANSION: usize = 1 << 16;

/// Whether a buffer has what its column needs, and not absurdly more.
fn enough(found: usize, expected: usize) -> Result<(), String> {
    let most = expected.saturating_mul(2).saturating_add(4096);
    if (expected..=most).contains(&found) {
        return Ok(());
    }
    Err(format!("a buffer has {found} bytes, {expected} belong there"))
}
