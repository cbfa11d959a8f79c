//! Arrow IPC files, the file form (Feather version 2 is that) and the stream form, with record numbers.
//!
//! The file form is the stream form between two magic numbers, with a footer that says where its batches are. Both are
//! read from front to back, so a file that is cut off keeps the batches before the cut, and a compressed stream is no
//! other case. The footer is asked for where a large file is cut into parts, and behind a damaged batch: its rows are
//! refused one by one, and the next batch is read. Where there is no footer, or it does not tell, one reject stands for
//! the rest of the file. One batch is held at a time, its memory reserved; what a file declares is checked against what
//! it has before memory is taken for it, and a batch that nobody should hold is an error that says what to do.
//!
//! Arrow's own reader trusts the layout that a file declares, so [`arrow_layout`] goes over each batch before it does.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::{BufRead, Read};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::reader::{RecordBatchDecoder, read_dictionary, read_footer_length};
use arrow::ipc::{self, MessageHeader, MetadataVersion, root_as_footer, root_as_message};
use bytes::{Buf, Bytes};
use datafusion::execution::memory_pool::MemoryReservation;
use futures::{StreamExt, TryStreamExt};
use schemas::arrow_layout;

use super::batch::{Emit, Target};
use super::columnar::{convert, refused, refused_rows};
use super::{Input, damage, stream};
use crate::PipelineError;
use crate::row::reject::{Reject, RejectReason};
use crate::units::{FilePart, InputFile};

/// What the file form begins with, and, without the two zeros, ends with.
const MAGIC: &[u8; 8] = b"ARROW1\0\0";
const MARKER: [u8; 4] = [0xff; 4];

/// What the files of Feather's first version begin with.
const OLD_FEATHER: &[u8] = b"FEA1";

/// A description of a batch, or a footer, that is longer than this is damaged.
const MAX_HEAD_BYTES: u64 = 64 << 20;

/// A batch that is larger than this is an error; one that claims to be when it is decompressed is damaged.
const MAX_BATCH_BYTES: u64 = 1 << 30;

/// Bytes of a file in which its columns are looked for first.
const SCHEMA_BYTES: u64 = 64 << 10;

/// Batches whose descriptions are asked for at a time.
const REQUESTS: usize = 8;

/// Why a file can't be read on.
enum Failure {
    /// It is not what it says.
    Damaged(String),
    /// The store failed, or there is not enough memory.
    Failed(PipelineError),
}

impl From<PipelineError> for Failure {
    fn from(error: PipelineError) -> Self {
        Self::Failed(error)
    }
}

impl From<ArrowError> for Failure {
    fn from(error: ArrowError) -> Self {
        Self::Damaged(error.to_string())
    }
}

fn damaged<T>(what: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Damaged(what.into()))
}

/// The columns of a file, or why it can't be read; then it is met again as a reject.
pub(crate) fn schema(input: &Input, file: &InputFile) -> Result<Result<SchemaRef, String>, PipelineError> {
    match head(input, file) {
        Ok(messages) => Ok(Ok(messages.schema)),
        Err(Failure::Damaged(what)) => Ok(Err(what)),
        Err(Failure::Failed(error)) => Err(error),
    }
}

fn head(input: &Input, file: &InputFile) -> Result<Messages, Failure> {
    let start = range(input, file, 0, SCHEMA_BYTES.min(file.bytes))?;
    match Messages::open(Box::new(start.reader()), file, Some(file.bytes)) {
        Err(Failure::Damaged(_)) => Messages::open_file(input, file),
        head => head,
    }
}

fn range(input: &Input, file: &InputFile, start: u64, end: u64) -> Result<Bytes, PipelineError> {
    if start == end {
        return Ok(Bytes::new());
    }
    input.handle.block_on(stream::get_range(input, file, start..end))
}

/// Bytes and rows of each batch, for cutting a file into parts; empty for a file that has no footer to trust.
pub(crate) fn batches(input: &Input, file: &InputFile) -> Result<Vec<(u64, u64)>, PipelineError> {
    let found = match Footer::read(input, file) {
        Ok(footer) => batch_rows(input, file, &footer.batches),
        Err(stop) => Err(stop),
    };
    match found {
        Ok(batches) => Ok(batches),
        Err(Failure::Damaged(_)) => Ok(Vec::new()),
        Err(Failure::Failed(error)) => Err(error),
    }
}

fn batch_rows(input: &Input, file: &InputFile, blocks: &[Block]) -> Result<Vec<(u64, u64)>, Failure> {
    let heads = futures::stream::iter(blocks)
        .map(|block| stream::get_range(input, file, block.offset..block.offset + block.head))
        .buffered(REQUESTS);
    let heads: Vec<Bytes> = input.handle.block_on(heads.try_collect())?;
    blocks.iter().zip(heads).map(|(block, head)| Ok((block.bytes(), rows_of(&head)?))).collect()
}

fn rows_of(head: &[u8]) -> Result<u64, Failure> {
    let message = match head {
        [0xff, 0xff, 0xff, 0xff, _, _, _, _, message @ ..] => message.to_vec(),
        _ => return damaged("a batch does not begin where the footer says"),
    };
    let message = root_as_message(&message).map_err(|error| Failure::Damaged(error.to_string()))?;
    let rows = message.header_as_record_batch().and_then(|batch| u64::try_from(batch.length()).ok());
    rows.ok_or(Failure::Damaged("the footer names a batch that is none".to_owned()))
}

/// Reads a file; gives the number of rows and whether more are wanted.
pub(crate) fn read(
    input: &Input,
    file: &InputFile,
    target: &Target,
    memory: &MemoryReservation,
    emit: &mut Emit<'_>,
) -> Result<(u64, bool), PipelineError> {
    let (batch, row) = file.part.map_or((0, 0), |part| (part.start, part.first_row.unwrap_or(0)));
    let mut reading = BatchReader { input, target, batch, row, read: 0, emit };
    let mut file = file.clone();
    loop {
        let done = reading.batches(&file, memory);
        memory.free();
        let what = match done {
            Ok(more) => return Ok((reading.read, more)),
            Err(Failure::Failed(error)) => return Err(error),
            Err(Failure::Damaged(what)) => what,
        };
        let bad = |detail| Reject::new(RejectReason::BadEntry, detail);
        let Some((rows, rest)) = lost(input, &file, reading.batch)? else {
            let reject = bad(format!("the rest of the file is damaged: {what}"));
            return Ok((reading.read + 1, refused(target, reading.row, reject, reading.emit)?));
        };
        let reject = bad(format!("record batch {} is damaged: {what}", reading.batch));
        if !reading.refuse(rows, &reject)? {
            return Ok((reading.read, false));
        }
        if rest.start >= rest.end {
            return Ok((reading.read, true));
        }
        file.part = Some(FilePart { first_row: Some(reading.row), ..rest });
    }
}

/// The rows of a batch that can't be read, and the batches behind it, where the footer tells.
fn lost(input: &Input, file: &InputFile, batch: u64) -> Result<Option<(u64, FilePart)>, PipelineError> {
    let found = || {
        let footer = Footer::read(input, file)?;
        let Some(block) = footer.batches.get(batch as usize) else {
            return damaged("there is no such batch");
        };
        let rows = rows_of(&range(input, file, block.offset, block.offset + block.head)?)?;
        // Few rows have less than a bit; a damaged number should not be believed.
        if rows > 8 * block.body {
            return damaged("a batch claims more rows than it has bits");
        }
        let end = file.part.map_or(footer.batches.len() as u64, |part| part.end);
        Ok((rows, FilePart { start: batch + 1, end, first_row: Some(0) }))
    };
    match found() {
        Ok(found) => Ok(Some(found)),
        Err(Failure::Damaged(_)) => Ok(None),
        Err(Failure::Failed(error)) => Err(error),
    }
}

/// How far a file is read.
struct BatchReader<'a, 'e> {
    input: &'a Input,
    target: &'a Target,
    /// Number of the next batch.
    batch: u64,
    /// Number of the next row.
    row: u64,
    read: u64,
    emit: &'a mut Emit<'e>,
}

impl BatchReader<'_, '_> {
    fn batches(&mut self, file: &InputFile, memory: &MemoryReservation) -> Result<bool, Failure> {
        let needed = self.target.table.needed(&self.target.schema);
        let mut messages = match file.part {
            Some(part) => Messages::open_part(self.input, file, part.start as usize, part.end as usize)?,
            None => Messages::open_file(self.input, file)?,
        };
        let columns = messages.schema.fields().iter().enumerate();
        let columns: Vec<usize> =
            columns.filter(|(_, field)| needed.contains(field.name())).map(|(index, _)| index).collect();
        while let Some(batch) = messages.next_batch(&columns, memory)? {
            let rows = batch.num_rows() as u64;
            self.batch += 1;
            if !self.emit(&batch)? {
                return Ok(false);
            }
            if let Some(sample) = &self.input.sample {
                sample.add_rows(rows);
            }
            if self.input.is_enough() {
                break;
            }
        }
        Ok(true)
    }

    fn emit(&mut self, batch: &RecordBatch) -> Result<bool, PipelineError> {
        for start in (0..batch.num_rows()).step_by(self.target.batch_rows()) {
            let slice = batch.slice(start, self.target.batch_rows().min(batch.num_rows() - start));
            let (chosen, numbers) = self.target.asked_for(&slice, self.row)?;
            self.row += slice.num_rows() as u64;
            self.read += numbers.len() as u64;
            if !numbers.is_empty() && !convert(self.input, self.target, &chosen, numbers, self.emit)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Refuses the rows of the next batch; gives whether more are wanted.
    fn refuse(&mut self, rows: u64, reject: &Reject) -> Result<bool, PipelineError> {
        let end = self.row.saturating_add(rows);
        let (read, more) = refused_rows(self.target, self.row..end, reject, self.emit)?;
        (self.batch, self.row, self.read) = (self.batch + 1, end, self.read + read);
        Ok(more)
    }
}

/// Where a message lies in a file.
#[derive(Clone, Copy, Debug)]
struct Block {
    offset: u64,
    /// Bytes of its description.
    head: u64,
    body: u64,
}

impl Block {
    fn bytes(&self) -> u64 {
        self.head + self.body
    }

    /// The block, if it lies between the magic number and `end`.
    fn inside(block: &ipc::Block, end: u64) -> Option<Self> {
        let offset = u64::try_from(block.offset()).ok().filter(|offset| *offset >= MAGIC.len() as u64)?;
        let head = u64::try_from(block.metaDataLength()).ok().filter(|head| *head <= MAX_HEAD_BYTES)?;
        let body = u64::try_from(block.bodyLength()).ok()?;
        let stop = offset.checked_add(head)?.checked_add(body)?;
        (stop <= end).then_some(Self { offset, head, body })
    }
}

/// The end of a file of the file form.
struct Footer {
    schema: SchemaRef,
    dictionaries: Vec<Block>,
    batches: Vec<Block>,
}

impl Footer {
    fn read(input: &Input, file: &InputFile) -> Result<Self, Failure> {
        const TRAILER: u64 = 10;
        if file.bytes < MAGIC.len() as u64 + TRAILER {
            return damaged(format!("it has {} bytes", file.bytes));
        }
        let end = file.bytes - TRAILER;
        let (magic, trailer) = (range(input, file, 0, 8)?, range(input, file, end, file.bytes)?);
        if *magic != MAGIC[..] {
            return damaged("it is not of the file form");
        }
        let trailer: [u8; TRAILER as usize] =
            trailer.as_ref().try_into().map_err(|_| Failure::Damaged("it has no end".to_owned()))?;
        let bytes = read_footer_length(trailer)? as u64;
        let start = end.checked_sub(bytes).filter(|start| *start >= 8 && bytes <= MAX_HEAD_BYTES);
        let Some(start) = start else { return damaged(format!("its footer claims to have {bytes} bytes")) };
        // A copy of its own is aligned, a piece of a store's answer need not be.
        let footer = range(input, file, start, end)?.to_vec();
        Self::parse(&footer, start)
    }

    fn parse(bytes: &[u8], start: u64) -> Result<Self, Failure> {
        let footer = root_as_footer(bytes).map_err(|error| Failure::Damaged(error.to_string()))?;
        let dictionaries = blocks(footer.dictionaries().into_iter().flatten(), start)?;
        let batches = blocks(footer.recordBatches().into_iter().flatten(), start)?;
        if !batches.is_sorted_by(|a, b| a.offset + a.bytes() <= b.offset) {
            return damaged("its batches lie in another order than in the footer");
        }
        let Some(found) = footer.schema() else { return damaged("its footer has no columns") };
        arrow_layout::schema(&found).map_err(Failure::Damaged)?;
        Ok(Self { schema: Arc::new(fb_to_schema(found)), dictionaries, batches })
    }
}

/// The blocks that a footer at `end` names.
fn blocks<'a>(found: impl Iterator<Item = &'a ipc::Block>, end: u64) -> Result<Vec<Block>, Failure> {
    let blocks = found.map(|block| Block::inside(block, end)).collect::<Option<Vec<_>>>();
    blocks.ok_or(Failure::Damaged("a block of its footer lies outside the file".to_owned()))
}

/// The messages of a file, from front to back.
struct Messages {
    reader: Box<dyn BufRead + Send>,
    /// Bytes that are left, where the file's size says so.
    left: Option<u64>,
    /// Batches that are wanted.
    wanted: usize,
    schema: SchemaRef,
    dictionaries: HashMap<i64, ArrayRef>,
    /// Whether the file is of the file form, which has something behind its last message.
    framed: bool,
    file: InputFile,
}

/// A message without its body.
struct Head {
    bytes: Vec<u8>,
    body: u64,
}

impl Head {
    fn message(&self) -> Result<ipc::Message<'_>, Failure> {
        root_as_message(&self.bytes).map_err(|error| Failure::Damaged(error.to_string()))
    }
}

impl Messages {
    fn open_file(input: &Input, file: &InputFile) -> Result<Self, Failure> {
        let stream = stream::open(input, file);
        Self::open(stream.reader, file, (!stream.compressed).then_some(file.bytes))
    }

    /// Reads the columns. `left` are the bytes of the file.
    fn open(
        mut reader: Box<dyn BufRead + Send>,
        file: &InputFile,
        left: Option<u64>,
    ) -> Result<Self, Failure> {
        let start = reader.fill_buf().map_err(|error| stopped(error, file))?;
        if start.starts_with(OLD_FEATHER) {
            return damaged("it is of Feather version 1; write it again as version 2 or as Parquet");
        }
        let framed = start.starts_with(&MAGIC[..6]);
        let mut messages = Self {
            reader,
            left,
            wanted: usize::MAX,
            schema: Arc::new(arrow::datatypes::Schema::empty()),
            dictionaries: HashMap::new(),
            framed,
            file: file.clone(),
        };
        if framed {
            messages.read(MAGIC.len() as u64)?;
        }
        let mut word = messages.word()?;
        // Writers fill up with zeros behind the magic number, some more than others.
        while framed && word == Some([0; 4]) {
            word = messages.word()?;
        }
        let Some(head) = messages.head(word)? else { return damaged("there is nothing in it") };
        let message = head.message()?;
        let Some(found) = message.header_as_schema() else {
            return damaged("it does not begin with its columns");
        };
        if ![MetadataVersion::V4, MetadataVersion::V5].contains(&message.version()) {
            return damaged(format!("it is of version {:?}", message.version()));
        }
        arrow_layout::schema(&found).map_err(Failure::Damaged)?;
        messages.schema = Arc::new(fb_to_schema(found));
        messages.read(head.body)?;
        Ok(messages)
    }

    /// The batches from `start` to before `end`.
    fn open_part(input: &Input, file: &InputFile, start: usize, end: usize) -> Result<Self, Failure> {
        let footer = Footer::read(input, file)?;
        let Some(block) = footer.batches.get(start) else {
            return damaged(format!("it has no batch {start}"));
        };
        let mut messages = Self {
            reader: stream::open_at(input, file, block.offset),
            left: Some(file.bytes - block.offset),
            wanted: end - start,
            schema: footer.schema,
            dictionaries: HashMap::new(),
            framed: true,
            file: file.clone(),
        };
        for block in footer.dictionaries {
            let bytes = range(input, file, block.offset, block.offset + block.bytes())?;
            messages.add_dictionary(Box::new(bytes.reader()), block.bytes())?;
        }
        Ok(messages)
    }

    /// Reads a dictionary that lies elsewhere.
    fn add_dictionary(&mut self, reader: Box<dyn BufRead + Send>, bytes: u64) -> Result<(), Failure> {
        let reader = std::mem::replace(&mut self.reader, reader);
        let left = self.left.replace(bytes);
        if let Some(head) = self.next_head()? {
            let body = self.body(&head)?;
            self.dictionary(&head, &body)?;
        }
        (self.reader, self.left) = (reader, left);
        Ok(())
    }

    /// The next batch, with these columns; `None` at the end.
    fn next_batch(
        &mut self,
        columns: &[usize],
        memory: &MemoryReservation,
    ) -> Result<Option<RecordBatch>, Failure> {
        while self.wanted > 0 {
            let Some(head) = self.next_head()? else { return Ok(None) };
            let message = head.message()?;
            if head.body > MAX_BATCH_BYTES {
                let path = self.file.below.clone();
                let large = PipelineError::LargeBatch { path, bytes: head.body, limit: MAX_BATCH_BYTES };
                return Err(large.into());
            }
            reserve(memory, head.body)?;
            let body = self.body(&head)?;
            match message.header_type() {
                MessageHeader::RecordBatch => {
                    self.wanted -= 1;
                    return self.decode(&message, &body, columns, memory).map(Some);
                }
                MessageHeader::DictionaryBatch => self.dictionary(&head, &body)?,
                other => return damaged(format!("it has a message of the kind {other:?}")),
            }
        }
        Ok(None)
    }

    fn decode(
        &self,
        message: &ipc::Message<'_>,
        body: &Buffer,
        columns: &[usize],
        memory: &MemoryReservation,
    ) -> Result<RecordBatch, Failure> {
        let Some(batch) = message.header_as_record_batch() else { return damaged("a batch is empty") };
        let unpacked = arrow_layout::batch(&batch, body, &self.schema, columns).map_err(Failure::Damaged)?;
        if unpacked > MAX_BATCH_BYTES {
            return damaged(format!("a batch claims {unpacked} bytes once it is decompressed"));
        }
        reserve(memory, body.len() as u64 + unpacked)?;
        let version = message.version();
        let decoder =
            RecordBatchDecoder::try_new(body, batch, self.schema.clone(), &self.dictionaries, &version)?;
        Ok(decoder.with_projection(Some(columns)).read_record_batch()?)
    }

    fn dictionary(&mut self, head: &Head, body: &Buffer) -> Result<(), Failure> {
        let message = head.message()?;
        let Some(batch) = message.header_as_dictionary_batch() else {
            return damaged("a dictionary is none");
        };
        arrow_layout::dictionary(&batch, body, &self.schema).map_err(Failure::Damaged)?;
        Ok(read_dictionary(body, batch, &self.schema, &mut self.dictionaries, &message.version())?)
    }

    /// The next message; `None` at the end.
    fn next_head(&mut self) -> Result<Option<Head>, Failure> {
        let word = self.word()?;
        self.head(word)
    }

    /// The message that begins with this word.
    fn head(&mut self, word: Option<[u8; 4]>) -> Result<Option<Head>, Failure> {
        let Some(mut length) = word else {
            // A stream may end without a word, a file may not.
            return if self.framed { damaged("it ends without a footer") } else { Ok(None) };
        };
        if length == MARKER {
            length = self.word()?.ok_or(Failure::Damaged("it ends in the middle of a message".to_owned()))?;
        }
        let length = match u64::try_from(i32::from_le_bytes(length)) {
            Ok(0) => return Ok(None),
            Ok(length) if length <= MAX_HEAD_BYTES => length,
            _ => return damaged("a message says an impossible length"),
        };
        let head = self.read(length)?;
        let message = root_as_message(&head).map_err(|error| Failure::Damaged(error.to_string()))?;
        let Some(body) = u64::try_from(message.bodyLength()).ok().filter(|body| self.has(*body)) else {
            return damaged(format!("a message claims a body of {} bytes", message.bodyLength()));
        };
        Ok(Some(Head { bytes: head, body }))
    }

    /// Whether so many bytes can still come.
    fn has(&self, bytes: u64) -> bool {
        self.left.map_or(bytes <= MAX_BATCH_BYTES, |left| bytes <= left)
    }

    /// The next four bytes; `None` at the end.
    fn word(&mut self) -> Result<Option<[u8; 4]>, Failure> {
        let start = self.reader.fill_buf().map_err(|error| stopped(error, &self.file))?;
        if start.is_empty() {
            return Ok(None);
        }
        let word = self.read(4)?;
        Ok(word.as_slice().try_into().ok())
    }

    /// The next bytes; memory is taken as they come.
    fn read(&mut self, bytes: u64) -> Result<Vec<u8>, Failure> {
        let mut taken = Vec::new();
        let read = Read::by_ref(&mut self.reader).take(bytes).read_to_end(&mut taken);
        read.map_err(|error| stopped(error, &self.file))?;
        self.count(taken.len() as u64, bytes)?;
        Ok(taken)
    }

    /// The body of a message, as Arrow wants it aligned.
    fn body(&mut self, head: &Head) -> Result<Buffer, Failure> {
        let known = if self.left.is_some() { head.body as usize } else { 0 };
        let mut body = MutableBuffer::with_capacity(known);
        while (body.len() as u64) < head.body {
            let chunk = self.reader.fill_buf().map_err(|error| stopped(error, &self.file))?;
            if chunk.is_empty() {
                break;
            }
            let taken = chunk.len().min(head.body as usize - body.len());
            body.extend_from_slice(&chunk[..taken]);
            self.reader.consume(taken);
        }
        self.count(body.len() as u64, head.body)?;
        Ok(body.into())
    }

    fn count(&mut self, found: u64, expected: u64) -> Result<(), Failure> {
        if found != expected {
            return damaged(format!("it ends {} bytes early", expected - found));
        }
        self.left = self.left.map(|left| left.saturating_sub(found));
        Ok(())
    }
}

fn reserve(memory: &MemoryReservation, bytes: u64) -> Result<(), Failure> {
    memory.try_resize(bytes as usize).map_err(|error| Failure::Failed(error.into()))
}

fn stopped(error: std::io::Error, file: &InputFile) -> Failure {
    match damage(error, file) {
        Ok(error) => Failure::Damaged(error.to_string()),
        Err(error) => Failure::Failed(error),
    }
}
