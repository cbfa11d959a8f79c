//! The bytes of one row while it is read. A row that grows beyond the size of a batch takes its memory from the job's share for such
//! rows, and waits until there is some; the memory goes with the bytes to where they are used up.

use std::io;
use std::ops::Deref;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use bytes::Bytes;

use super::MAX_ROW_BYTES;
use crate::PipelineError;
use crate::engine::memory::{Memory, Taken};

/// Rows beyond this are taken from the share for large rows, and are a batch of their own.
pub(crate) const LARGE_ROW: usize = 8 << 20;

/// The memory of a large row.
pub(crate) type RowMemory = Option<Arc<Taken>>;

/// A growing row.
#[derive(Debug)]
pub(crate) struct RowBuffer {
    bytes: Vec<u8>,
    memory: Arc<Memory>,
    taken: Option<Taken>,
}

impl RowBuffer {
    pub(crate) fn new(memory: &Arc<Memory>) -> Self {
        Self { bytes: Vec::new(), memory: memory.clone(), taken: None }
    }

    /// Forgets the row, and what a large one took.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        if self.bytes.capacity() > LARGE_ROW {
            self.bytes = Vec::new();
        }
        self.taken = None;
    }

    /// Appends bytes. Blocks where the row becomes a large one and there is no memory for it yet.
    ///
    /// # Errors
    ///
    /// If the job's memory is too small for the row.
    pub(crate) fn extend(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = self.bytes.len() + bytes.len();
        if length > LARGE_ROW {
            // How long it will be is not known yet. All is asked for at once: two rows that grew side by side could
            // wait for each other.
            let taken = self.taken.get_or_insert_with(|| self.memory.rows.take(MAX_ROW_BYTES));
            if length > self.memory.rows.total() {
                taken.settle(length).map_err(io::Error::other)?;
            }
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Takes the last byte away.
    pub(crate) fn pop(&mut self) {
        self.bytes.pop();
    }

    /// Keeps the first bytes only.
    pub(crate) fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }

    /// The row, with its memory where it is a large one.
    ///
    /// # Errors
    ///
    /// None in practice: less memory is kept than was taken.
    pub(crate) fn take(&mut self) -> Result<(Vec<u8>, RowMemory), PipelineError> {
        let bytes = std::mem::take(&mut self.bytes);
        let taken = self.taken.take().map(|mut taken| taken.settle(bytes.len()).map(|()| Arc::new(taken)));
        Ok((bytes, taken.transpose()?))
    }

    /// The row with memory for `held` bytes, which it is going to take as something else. Waits for them where the row
    /// has no memory yet.
    pub(crate) fn take_for(&mut self, held: usize) -> Result<(Vec<u8>, Option<Taken>), PipelineError> {
        let bytes = std::mem::take(&mut self.bytes);
        let taken = self.taken.take().or_else(|| (held > LARGE_ROW).then(|| self.memory.rows.take(held)));
        let taken = taken.map(|mut taken| {
            let counted = taken.count(held);
            if held < counted { taken.settle(held).map(|()| taken) } else { Ok(taken) }
        });
        Ok((bytes, taken.transpose()?))
    }
}

impl Deref for RowBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A text that keeps its memory for as long as a column holds it.
struct Owned {
    text: String,
    _memory: RowMemory,
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// A column of one text, without a copy of it.
pub(crate) fn column_of_one(text: String, memory: RowMemory) -> Result<ArrayRef, PipelineError> {
    let length = i32::try_from(text.len()).map_err(|error| PipelineError::Format(Box::new(error)))?;
    let offsets = OffsetBuffer::new(ScalarBuffer::from(vec![0, length]));
    let values = Buffer::from(Bytes::from_owner(Owned { text, _memory: memory }));
    Ok(Arc::new(StringArray::try_new(offsets, values, None)?))
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;

    use super::*;

    #[test]
    fn a_large_row_holds_its_memory_until_its_column_is_gone() {
        let memory = Arc::new(Memory::new(1 << 30));
        let mut buffer = RowBuffer::new(&memory);
        buffer.extend(&[b'a'; 1000]).expect("small");
        assert_eq!(memory.pool().reserved(), 0);
        buffer.extend(&vec![b'b'; LARGE_ROW]).expect("large");
        assert_eq!(memory.pool().reserved(), 256 << 20);
        let (bytes, taken) = buffer.take().expect("a row");
        let column = column_of_one(String::from_utf8(bytes).expect("text"), taken).expect("a column");
        assert_eq!(memory.pool().reserved(), LARGE_ROW + 1000);
        let slice = column.slice(0, 1);
        drop(column);
        assert_eq!(memory.pool().reserved(), LARGE_ROW + 1000);
        drop(slice);
        assert_eq!((memory.pool().reserved(), memory.peak()), (0, 256 << 20));
    }

    #[test]
    fn a_row_that_is_larger_than_the_memory_is_an_error() {
        let memory = Arc::new(Memory::new(32 << 20));
        let mut buffer = RowBuffer::new(&memory);
        buffer.extend(&vec![b'a'; 30 << 20]).expect("what is free is taken");
        let error = buffer.extend(&vec![b'a'; 4 << 20]).expect_err("more than all");
        let error = error.downcast::<PipelineError>().expect("ours");
        assert!(error.hint().expect("a hint").contains("memory-bytes"), "{error}");
    }
}
