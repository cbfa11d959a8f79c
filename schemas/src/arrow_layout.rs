//! Whether an Arrow message describes what Arrow can follow, before Arrow follows it: the one place that knows how long the
//! buffers of a column must be, for shards as for files of other origin.
//!
//! Arrow's reader trusts the layout that a file declares: a damaged one makes it panic, or ask for as much memory as
//! the damage says. A message that passes can only be wrong in its values, which Arrow checks.

use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc;

/// Whether every column is of a kind that is read.
///
/// # Errors
///
/// The first thing that is not.
pub fn schema(found: &ipc::Schema<'_>) -> Result<(), String> {
    if found.endianness() != ipc::Endianness::Little {
        return Err("its columns are not little-endian".to_owned());
    }
    found.fields().ok_or("it has no columns")?.iter().try_for_each(|found| field(&found))
}

fn field(found: &ipc::Field<'_>) -> Result<(), String> {
    let name = found.name().unwrap_or_default();
    if let Some(dictionary) = found.dictionary()
        && !dictionary.indexType().is_some_and(|int| is_width(int.bitWidth()))
    {
        return Err(format!("column `{name}` has a dictionary without numbers"));
    }
    if !is_known(found) {
        return Err(format!("column `{name}` has a type that is not read: {:?}", found.type_type()));
    }
    found.children().into_iter().flatten().try_for_each(|child| field(&child))
}

const fn is_width(bits: i32) -> bool {
    matches!(bits, 8 | 16 | 32 | 64)
}

/// Whether the type, without its children, is one that Arrow's conversion takes.
fn is_known(found: &ipc::Field<'_>) -> bool {
    use ipc::{DateUnit, IntervalUnit, Precision, TimeUnit, Type};
    let units = [TimeUnit::SECOND, TimeUnit::MILLISECOND, TimeUnit::MICROSECOND, TimeUnit::NANOSECOND];
    let children = found.children().map_or(0, |children| children.len());
    match found.type_type() {
        Type::Null | Type::Bool | Type::Struct_ => true,
        Type::Binary | Type::LargeBinary | Type::BinaryView => true,
        Type::Utf8 | Type::LargeUtf8 | Type::Utf8View => true,
        Type::Int => found.type_as_int().is_some_and(|int| is_width(int.bitWidth())),
        Type::FloatingPoint => found.type_as_floating_point().is_some_and(|float| {
            [Precision::HALF, Precision::SINGLE, Precision::DOUBLE].contains(&float.precision())
        }),
        Type::FixedSizeBinary => {
            found.type_as_fixed_size_binary().is_some_and(|binary| binary.byteWidth() > 0)
        }
        Type::Date => found
            .type_as_date()
            .is_some_and(|date| [DateUnit::DAY, DateUnit::MILLISECOND].contains(&date.unit())),
        Type::Time => found.type_as_time().is_some_and(|time| match time.bitWidth() {
            32 => units[..2].contains(&time.unit()),
            64 => units[2..].contains(&time.unit()),
            _ => false,
        }),
        Type::Timestamp => found.type_as_timestamp().is_some_and(|time| units.contains(&time.unit())),
        Type::Duration => found.type_as_duration().is_some_and(|time| units.contains(&time.unit())),
        Type::Interval => found.type_as_interval().is_some_and(|interval| {
            [IntervalUnit::YEAR_MONTH, IntervalUnit::DAY_TIME, IntervalUnit::MONTH_DAY_NANO]
                .contains(&interval.unit())
        }),
        Type::Decimal => found.type_as_decimal().is_some_and(|decimal| {
            matches!(decimal.bitWidth(), 32 | 64 | 128 | 256)
                && u8::try_from(decimal.precision()).is_ok()
                && i8::try_from(decimal.scale()).is_ok()
        }),
        Type::List | Type::LargeList => children == 1,
        Type::Map => children == 1 && found.type_as_map().is_some() && found.children().is_some_and(is_entry),
        Type::FixedSizeList => {
            children == 1 && found.type_as_fixed_size_list().is_some_and(|list| list.listSize() >= 0)
        }
        _ => false,
    }
}

/// Whether the child of a map is a struct of a key and a value.
fn is_entry<'a>(children: impl IntoIterator<Item = ipc::Field<'a>>) -> bool {
    children.into_iter().all(|child| {
        child.type_type() == ipc::Type::Struct_ && child.children().is_some_and(|fields| fields.len() == 2)
    })
}

/// Whether a batch has these columns, with buffers that lie inside its body and are as long as they must be. Gives
/// the bytes of the columns `wanted` once they are decompressed, 0 where nothing is compressed.
///
/// # Errors
///
/// The first thing that is wrong with it.
pub fn batch(
    batch: &ipc::RecordBatch<'_>,
    body: &[u8],
    schema: &Schema,
    wanted: &[usize],
) -> Result<u64, String> {
    walk(batch, body, schema, wanted, false)
}

/// [`batch`] of a file that this program wrote: no buffer is absurdly longer than it must be, and no column has nulls that may
/// have none.
pub(crate) fn own_batch(batch: &ipc::RecordBatch<'_>, body: &[u8], schema: &Schema) -> Result<(), String> {
    walk(batch, body, schema, &[], true).map(drop)
}

fn walk(
    batch: &ipc::RecordBatch<'_>,
    body: &[u8],
    schema: &Schema,
    wanted: &[usize],
    is_own: bool,
) -> Result<u64, String> {
    let rows = usize::try_from(batch.length()).ok().filter(|rows| *rows <= i32::MAX as usize);
    let rows = rows.ok_or_else(|| format!("a batch claims {} rows", batch.length()))?;
    let mut walk = Walk {
        body,
        is_own,
        compressed: batch.compression().is_some(),
        nodes: batch.nodes().into_iter().flatten(),
        buffers: batch.buffers().into_iter().flatten(),
        variadic: batch.variadicBufferCounts().into_iter().flatten(),
        unpacked: 0,
    };
    let mut unpacked = 0;
    for (index, field) in schema.fields().iter().enumerate() {
        walk.unpacked = 0;
        walk.column(field, Some(rows))?;
        unpacked += if wanted.contains(&index) { walk.unpacked } else { 0 };
    }
    if walk.nodes.next().is_some() || walk.buffers.next().is_some() || walk.variadic.next().is_some() {
        return Err("a batch has more parts than its columns".to_owned());
    }
    Ok(unpacked)
}

/// [`batch`] for the values of a dictionary.
///
/// # Errors
///
/// The first thing that is wrong with them.
pub fn dictionary(found: &ipc::DictionaryBatch<'_>, body: &[u8], schema: &Schema) -> Result<(), String> {
    // Dictionaries are known by numbers that Arrow is about to keep to itself; its own reader asks in this way.
    #[allow(deprecated)]
    let fields = schema.fields_with_dict_id(found.id());
    let values = fields.first().and_then(|field| match field.data_type() {
        DataType::Dictionary(_, values) => Some(values.as_ref().clone()),
        _ => None,
    });
    let values = values.ok_or_else(|| format!("no column has the dictionary {}", found.id()))?;
    let data = found.data().ok_or("a dictionary without values")?;
    batch(&data, body, &Schema::new(vec![Field::new("dictionary", values, true)]), &[]).map(drop)
}

/// Nodes and buffers of a batch in the order of its columns, depth first.
struct Walk<'a, N, B, V> {
    body: &'a [u8],
    is_own: bool,
    compressed: bool,
    nodes: N,
    buffers: B,
    variadic: V,
    unpacked: u64,
}

impl<'a, N, B, V> Walk<'a, N, B, V>
where
    N: Iterator<Item = &'a ipc::FieldNode>,
    B: Iterator<Item = &'a ipc::Buffer>,
    V: Iterator<Item = i64>,
{
    /// One column of `length` values; any number where `length` is `None`, as for the items of lists.
    fn column(&mut self, field: &Field, length: Option<usize>) -> Result<(), String> {
        let wrong = |what: String| Err(format!("column `{}` {what}", field.name()));
        let node = self.nodes.next().ok_or("a batch has fewer parts than its columns")?;
        let count = usize::try_from(node.length()).ok().filter(|count| *count <= i64::MAX as usize / 64);
        let count = count.ok_or("a column claims an impossible number of values")?;
        let nulls = node.null_count();
        if length.is_some_and(|length| length != count) {
            return wrong(format!("has {count} values, {} belong there", length.unwrap_or_default()));
        }
        if !(0..=node.length()).contains(&nulls) || (self.is_own && nulls > 0 && !field.is_nullable()) {
            return wrong(format!("has {nulls} nulls of {count} values"));
        }
        if field.data_type() == &DataType::Null {
            return Ok(());
        }
        let validity = self.buffer()?;
        if validity < count.div_ceil(8) && (nulls > 0 || (self.is_own && validity > 0)) {
            return wrong("has too short a list of nulls".to_owned());
        }
        match self.values(field, count) {
            Ok(true) => Ok(()),
            Ok(false) if self.is_own => {
                wrong(format!("has too few bytes for {count} values, or far too many"))
            }
            Ok(false) => wrong(format!("has fewer bytes than {count} values need")),
            Err(what) => Err(what),
        }
    }

    /// Whether the values of a column are there.
    fn values(&mut self, field: &Field, count: usize) -> Result<bool, String> {
        match field.data_type() {
            DataType::Boolean => self.buffer().map(|found| self.fits(found, count.div_ceil(8))),
            DataType::Utf8 | DataType::Binary => self.offsets(count, 4, true),
            DataType::LargeUtf8 | DataType::LargeBinary => self.offsets(count, 8, true),
            DataType::Utf8View | DataType::BinaryView => self.views(count),
            DataType::List(item) | DataType::Map(item, _) => {
                Ok(self.offsets(count, 4, false)? && self.column(item, None).map(|()| true)?)
            }
            DataType::LargeList(item) => {
                Ok(self.offsets(count, 8, false)? && self.column(item, None).map(|()| true)?)
            }
            DataType::FixedSizeList(item, size) => {
                let items = count.checked_mul(*size as usize).ok_or("a list is too long")?;
                self.column(item, Some(items)).map(|()| true)
            }
            DataType::Struct(fields) => {
                fields.iter().try_for_each(|child| self.column(child, Some(count))).map(|()| true)
            }
            DataType::Dictionary(keys, _) => self.fixed(count, keys.primitive_width()),
            DataType::FixedSizeBinary(width) => {
                let width = usize::try_from(*width).ok();
                let bytes = width.and_then(|width| count.checked_mul(width)).ok_or("a column is too long")?;
                self.buffer().map(|found| self.fits(found, bytes))
            }
            other => self.fixed(count, other.primitive_width()),
        }
    }

    fn fixed(&mut self, count: usize, width: Option<usize>) -> Result<bool, String> {
        let width = width.filter(|width| *width > 0).ok_or("a column without a width")?;
        let bytes = count.checked_mul(width).ok_or("a column is too long")?;
        self.whole(width).map(|found| self.fits(found, bytes))
    }

    /// Whether a buffer of `found` bytes serves for `needed`.
    fn fits(&self, found: usize, needed: usize) -> bool {
        found >= needed && (!self.is_own || found <= needed.saturating_mul(2).saturating_add(4096))
    }

    /// The next buffer, which holds whole values: Arrow takes one that doesn't for a fault of the program.
    fn whole(&mut self, width: usize) -> Result<usize, String> {
        let bytes = self.buffer()?;
        if !bytes.is_multiple_of(width) {
            return Err(format!("a buffer of {bytes} bytes for values of {width}"));
        }
        Ok(bytes)
    }

    /// `count + 1` offsets, of no values there may be none; `data`: what they lead to is a buffer.
    fn offsets(&mut self, count: usize, width: usize, data: bool) -> Result<bool, String> {
        let found = self.whole(width)?;
        if data {
            self.buffer()?;
        }
        let needed = (count + 1).saturating_mul(width);
        Ok((count == 0 && found < needed) || self.fits(found, needed))
    }

    fn views(&mut self, count: usize) -> Result<bool, String> {
        let found = self.whole(16)?;
        let buffers = self.variadic.next().filter(|buffers| *buffers >= 0);
        for _ in 0..buffers.ok_or("a column of views without a number of buffers")? {
            self.buffer()?;
        }
        Ok(self.fits(found, count.saturating_mul(16)))
    }

    /// Bytes of the next buffer once it is decompressed.
    fn buffer(&mut self) -> Result<usize, String> {
        let buffer = self.buffers.next().ok_or("a batch has fewer buffers than its columns")?;
        let start = usize::try_from(buffer.offset()).ok();
        let end =
            start.zip(usize::try_from(buffer.length()).ok()).and_then(|(start, len)| start.checked_add(len));
        let range = start.zip(end).and_then(|(start, end)| self.body.get(start..end));
        let bytes = range.ok_or("a buffer lies outside its batch")?;
        if !self.compressed || bytes.is_empty() {
            return Ok(bytes.len());
        }
        let unpacked = unpacked(bytes)?;
        self.unpacked += unpacked as u64;
        Ok(unpacked)
    }
}

/// No buffer shrinks by more than this: zstd's largest block is 128 KiB and takes at least 3 bytes.
const MOST_EXPANSION: usize = 1 << 16;

/// The length that a compressed buffer says at its head.
fn unpacked(bytes: &[u8]) -> Result<usize, String> {
    let Some((head, rest)) = bytes.split_first_chunk::<8>() else {
        return Err("a compressed buffer without its length".to_owned());
    };
    match i64::from_le_bytes(*head) {
        -1 => Ok(rest.len()),
        length => usize::try_from(length)
            .ok()
            .filter(|&length| length <= rest.len().saturating_mul(MOST_EXPANSION))
            .ok_or(format!("a compressed buffer of {} bytes that claims {length}", rest.len())),
    }
}
