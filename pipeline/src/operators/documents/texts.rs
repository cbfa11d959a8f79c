//! Documents of texts.
//!
//! The ids are made on all threads of the job and keep the order of the rows. A long text is given on in parts as they
//! are made, so its ids are never held together; a text that is packed several times is encoded as often.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{SchemaRef, UInt8Type, UInt32Type, UInt64Type};
use rayon::prelude::*;
use schemas::Tokenizer;

use super::batch::{DocumentColumns, RowColumns, document_schema};
use super::{DocumentRules, Outcome};
use crate::PipelineError;
use crate::document::not_blank;
use crate::engine::stage::{Operator, Partition, Work};
use crate::operators::runtime::Runtime;
use crate::row::columns::{FILE, KIND, ROW, RowKind, UNIT, texts};
use crate::row::reject::{Reject, RejectReason};

/// Bytes of text that a thread encodes at a time.
const CHUNK_BYTES: usize = 128 << 10;

/// Texts longer than this are encoded in parts.
const LONG_TEXT: usize = 1 << 20;

/// Makes documents of texts.
#[derive(Clone, Debug)]
pub(crate) struct TextDocuments {
    pub(crate) rules: DocumentRules,
}

impl Operator for TextDocuments {
    fn name(&self) -> &'static str {
        "DocumentsExec"
    }

    fn describe(&self) -> String {
        self.rules.describe()
    }

    fn schema(&self) -> SchemaRef {
        document_schema()
    }

    fn start(&self, partition: &Partition<'_>) -> Result<Box<dyn Work>, PipelineError> {
        let runtime = Runtime::of(partition.task)?;
        let (rules, tokenizer) = (self.rules.clone(), runtime.tokenizer()?);
        Ok(Box::new(TextWork { rules, tokenizer, runtime, texts: None }))
    }
}

struct TextWork {
    rules: DocumentRules,
    tokenizer: Tokenizer,
    runtime: Arc<Runtime>,
    /// A batch of texts that is not all given on.
    texts: Option<Texts>,
}

/// A batch of texts on its way.
struct Texts {
    batch: RecordBatch,
    column: Option<StringArray>,
    outcomes: Vec<Outcome>,
    /// The first row that is not given on.
    row: usize,
    long: LongText,
}

/// How far a long text is given on.
#[derive(Clone, Copy, Default)]
struct LongText {
    at: usize,
    copy: u32,
    /// Whether it has parts, once that is known.
    has_parts: Option<bool>,
}

impl Work for TextWork {
    fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, PipelineError> {
        let (places, column) = (Places::of(&batch), texts(&batch, "text")?);
        let outcomes =
            (0..batch.num_rows()).map(|row| self.rules.of_text(&places, row, column.as_ref())).collect();
        self.texts = Some(Texts { batch, column, outcomes, row: 0, long: LongText::default() });
        self.rest()
    }

    fn has_rest(&self) -> bool {
        self.texts.is_some()
    }

    fn rest(&mut self) -> Result<Vec<RecordBatch>, PipelineError> {
        let Self { tokenizer, runtime, texts: Some(texts), .. } = self else { return Ok(Vec::new()) };
        let ready = match texts.long_text() {
            Some(row) => vec![texts.next_parts(row, tokenizer, runtime)?],
            None => texts.short_texts(tokenizer, runtime)?,
        };
        if texts.row == texts.outcomes.len() {
            self.texts = None;
        }
        Ok(ready)
    }
}

/// The columns that say where rows stand.
struct Places<'a> {
    units: &'a StringArray,
    files: &'a [u32],
    rows: &'a [u64],
    kinds: &'a [u8],
}

impl<'a> Places<'a> {
    fn of(batch: &'a RecordBatch) -> Self {
        Self {
            units: batch[UNIT].as_string::<i32>(),
            files: batch[FILE].as_primitive::<UInt32Type>().values(),
            rows: batch[ROW].as_primitive::<UInt64Type>().values(),
            kinds: batch[KIND].as_primitive::<UInt8Type>().values(),
        }
    }
}

impl DocumentRules {
    fn of_text(&self, places: &Places<'_>, row: usize, column: Option<&StringArray>) -> Outcome {
        match RowKind::of(places.kinds[row]) {
            RowKind::Row => {}
            other => return Outcome::of(other),
        }
        let text = column.filter(|column| column.is_valid(row)).map(|column| column.value(row));
        let missing = || Reject::new(RejectReason::MissingText, "absent or null");
        let usable =
            |text: &str| not_blank(text).map(|_| ()).map_err(|reject| reject.showing(text.as_bytes()));
        match text.ok_or_else(missing).and_then(usable) {
            Ok(()) => self.outcome(places.units.value(row), places.files[row], places.rows[row]),
            Err(reject) => Outcome { reject: Some(reject), ..Outcome::of(RowKind::Reject) },
        }
    }
}

impl Texts {
    fn text(&self, row: usize) -> &str {
        self.column.as_ref().map_or("", |column| column.value(row))
    }

    fn is_long(&self, row: usize) -> bool {
        self.outcomes[row].kind == RowKind::Row && self.text(row).len() > LONG_TEXT
    }

    /// The next row, if it is a long text.
    fn long_text(&self) -> Option<usize> {
        Some(self.row).filter(|&row| row < self.outcomes.len() && self.is_long(row))
    }

    /// The rows up to the next long text, a batch for each chunk.
    fn short_texts(
        &mut self,
        tokenizer: &Tokenizer,
        runtime: &Runtime,
    ) -> Result<Vec<RecordBatch>, PipelineError> {
        let count = self.outcomes.len();
        let end = (self.row..count).find(|&row| self.is_long(row)).unwrap_or(count);
        let chunks = self.chunks(self.row..end);
        self.row = end;
        let encode = || chunks.into_par_iter().map(|rows| self.encode(rows, tokenizer)).collect();
        runtime.pool.install(encode)
    }

    fn chunks(&self, rows: Range<usize>) -> Vec<Range<usize>> {
        let mut chunks = Vec::new();
        let (mut start, mut bytes) = (rows.start, 0);
        for row in rows.clone() {
            bytes += if self.outcomes[row].kind == RowKind::Row { self.text(row).len() } else { 0 };
            if bytes >= CHUNK_BYTES {
                chunks.push(start..row + 1);
                (start, bytes) = (row + 1, 0);
            }
        }
        chunks.extend((start < rows.end).then_some(start..rows.end));
        chunks
    }

    fn encode(&self, rows: Range<usize>, tokenizer: &Tokenizer) -> Result<RecordBatch, PipelineError> {
        let bytes: usize = rows.clone().map(|row| self.text(row).len()).sum();
        let (mut ids, mut lengths) = (Vec::with_capacity(bytes / 3), Vec::with_capacity(rows.len()));
        for row in rows.clone() {
            let before = ids.len();
            if self.outcomes[row].kind == RowKind::Row {
                ids.push(tokenizer.bos());
                tokenizer.encode_into(self.text(row), &mut ids);
                ids.push(tokenizer.eos());
            }
            lengths.push(ids.len() - before);
        }
        let batch = self.batch.slice(rows.start, rows.len());
        let earlier = vec![0; rows.len()];
        let documents = DocumentColumns { ids, lengths, ends: true, earlier, images: None };
        let outcomes = &self.outcomes[rows];
        documents.batch(RowColumns::of_batch(&batch, outcomes)?, outcomes)
    }

    /// The next parts of a long text, one for each thread.
    fn next_parts(
        &mut self,
        row: usize,
        tokenizer: &Tokenizer,
        runtime: &Runtime,
    ) -> Result<RecordBatch, PipelineError> {
        let mut long = self.long;
        let text = self.text(row);
        let has_parts = *long.has_parts.get_or_insert_with(|| tokenizer.has_parts(text));
        let mut ids = Vec::new();
        if long.at == 0 {
            ids.push(tokenizer.bos());
        }
        if has_parts {
            let parts = parts(text, long.at, runtime.pool.current_num_threads(), tokenizer);
            long.at = parts.last().map_or(text.len(), |part| part.end);
            let encode = |part: Range<usize>| {
                let mut ids = Vec::with_capacity(part.len() / 2);
                tokenizer.encode_part(text, part, &mut ids);
                ids
            };
            let encoded: Vec<Vec<u32>> = runtime.pool.install(|| parts.into_par_iter().map(encode).collect());
            encoded.into_iter().for_each(|part| ids.extend(part));
        } else {
            long.at = text.len();
            tokenizer.encode_into(text, &mut ids);
        }
        let ends = long.at == text.len();
        if ends {
            ids.push(tokenizer.eos());
        }
        let lengths = vec![ids.len()];
        let documents = DocumentColumns { ids, lengths, ends, earlier: vec![long.copy], images: None };
        let outcome = [Outcome { copies: 1, ..self.outcomes[row].clone() }];
        let rows = RowColumns::of_batch(&self.batch.slice(row, 1), &outcome)?;
        let documents = documents.batch(rows, &outcome)?;
        self.long = match ends {
            true if long.copy + 1 < self.outcomes[row].copies => {
                LongText { at: 0, copy: long.copy + 1, ..long }
            }
            true => {
                self.row += 1;
                LongText::default()
            }
            false => long,
        };
        Ok(documents)
    }
}

/// The next `count` parts of a text behind `start`.
fn parts(text: &str, mut start: usize, count: usize, tokenizer: &Tokenizer) -> Vec<Range<usize>> {
    let mut parts = Vec::with_capacity(count);
    while parts.len() < count && start < text.len() {
        let from = text.floor_char_boundary((start + CHUNK_BYTES).min(text.len()));
        let end = tokenizer.part_end(text, from);
        parts.push(start..end);
        start = end;
    }
    parts
}
