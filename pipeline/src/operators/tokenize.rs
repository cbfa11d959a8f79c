//! `TokenizeExec`: rows to documents, their texts and captions as ids.
//!
//! What becomes of a row is decided here, by its content and by hashes of its place: whether it is refused, set aside by a
//! weight below 1, for which dataset it is and how often it is packed. The ids are made on all
//! threads of the job and keep the order of the rows. A long text is given on in parts as they are made, so its ids are
//! never held together; a text that is packed several times is encoded as often.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{SchemaRef, UInt8Type, UInt32Type, UInt64Type};
use rayon::ThreadPool;
use rayon::prelude::*;
use schemas::{Order, Tokenizer, row_hash, share};

use super::documents::{Contents, Fate, ImageContents, document_schema, to_batch};
use super::items::{Item, Part, first_text, from_batch};
use crate::PipelineError;
use crate::config::Shape;
use crate::document::{Composer, Document, Origin, Part as DocumentPart, not_blank};
use crate::engine::stage::{Operator, Partition, Work};
use crate::row::columns::{FILE, KIND, Kind, ROW, UNIT, texts};
use crate::row::reject::{Reject, RejectReason, excerpt};
use crate::units::UnitFiles;

/// Bytes of text that a thread encodes at a time.
const CHUNK_BYTES: usize = 128 << 10;

/// Texts longer than this are encoded in parts.
const LONG_TEXT: usize = 1 << 20;

/// Makes documents.
#[derive(Clone, Debug)]
pub(crate) struct Tokenize {
    pub(crate) source: u16,
    pub(crate) name: String,
    pub(crate) shape: Shape,
    pub(crate) weight: f64,
    pub(crate) validation: f64,
    pub(crate) composer: Composer,
    pub(crate) files: Arc<UnitFiles>,
    pub(crate) pool: Arc<ThreadPool>,
}

impl Operator for Tokenize {
    fn name(&self) -> &'static str {
        "TokenizeExec"
    }

    fn describe(&self) -> String {
        let vocabulary = self.composer.tokenizer.vocabulary_size();
        let (shape, weight) = (self.shape.name(), self.weight);
        format!("shape={shape}, vocabulary={vocabulary}, weight={weight}, validation={}", self.validation)
    }

    fn schema(&self) -> SchemaRef {
        document_schema()
    }

    fn start(&self, _: &Partition<'_>) -> Result<Box<dyn Work>, PipelineError> {
        Ok(Box::new(Tokenizing { operator: self.clone(), texts: None }))
    }
}

struct Tokenizing {
    operator: Tokenize,
    /// A batch of texts that is not all given on.
    texts: Option<Texts>,
}

/// A batch of texts on its way.
struct Texts {
    batch: RecordBatch,
    column: Option<StringArray>,
    fates: Vec<Fate>,
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

impl Work for Tokenizing {
    fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, PipelineError> {
        if self.operator.shape.has_images() {
            return Ok(vec![self.operator.compose(&batch)?]);
        }
        let (places, column) = (Places::of(&batch), texts(&batch, "text")?);
        let fates =
            (0..batch.num_rows()).map(|row| self.operator.text_fate(&places, row, column.as_ref())).collect();
        self.texts = Some(Texts { batch, column, fates, row: 0, long: LongText::default() });
        self.rest()
    }

    fn has_rest(&self) -> bool {
        self.texts.is_some()
    }

    fn rest(&mut self) -> Result<Vec<RecordBatch>, PipelineError> {
        let Some(texts) = &mut self.texts else { return Ok(Vec::new()) };
        let ready = match texts.long_text() {
            Some(row) => vec![texts.go_on(row, &self.operator)?],
            None => texts.short_texts(&self.operator)?,
        };
        if texts.row == texts.fates.len() {
            self.texts = None;
        }
        Ok(ready)
    }
}

/// The columns that say where rows stand.
struct Places<'a> {
    units: StringArray,
    files: &'a [u32],
    rows: &'a [u64],
    kinds: &'a [u8],
}

impl<'a> Places<'a> {
    fn of(batch: &'a RecordBatch) -> Self {
        Self {
            units: batch[UNIT].as_string::<i32>().clone(),
            files: batch[FILE].as_primitive::<UInt32Type>().values(),
            rows: batch[ROW].as_primitive::<UInt64Type>().values(),
            kinds: batch[KIND].as_primitive::<UInt8Type>().values(),
        }
    }
}

impl Tokenize {
    /// Which dataset a row goes to and how often. Asks for no hash where there is no choice.
    fn shares(&self, unit: &str, file: u32, row: u64) -> Fate {
        let hash =
            |purpose| row_hash(self.composer.seed, &self.name, self.files.path(unit, file), row, purpose);
        let split = self.validation > 0.0 && share(hash("split")) < self.validation;
        let rest = self.weight.fract();
        let extra = u32::from(rest > 0.0 && share(hash("repeat")) < rest);
        // What a model is judged by is not weighted.
        let copies = if split { 1 } else { (self.weight.trunc() as u32).saturating_add(extra) };
        let kind = if copies > 0 { Kind::Row } else { Kind::Aside };
        Fate { kind, split: split.into(), copies, reject: None }
    }

    fn text_fate(&self, places: &Places<'_>, row: usize, column: Option<&StringArray>) -> Fate {
        match Kind::of(places.kinds[row]) {
            Kind::Row => {}
            other => return Fate::of(other),
        }
        let text = column.filter(|column| column.is_valid(row)).map(|column| column.value(row));
        let missing = || Reject::new(RejectReason::MissingText, "absent or null");
        let usable =
            |text: &str| not_blank(text).map(|_| ()).map_err(|reject| reject.showing(text.as_bytes()));
        match text.ok_or_else(missing).and_then(usable) {
            Ok(()) => self.shares(places.units.value(row), places.files[row], places.rows[row]),
            Err(reject) => Fate { reject: Some(reject), ..Fate::of(Kind::Reject) },
        }
    }

    /// Documents with images.
    fn compose(&self, batch: &RecordBatch) -> Result<RecordBatch, PipelineError> {
        let items = from_batch(batch)?;
        let made: Vec<(Fate, Vec<Document>)> =
            self.pool.install(|| items.into_par_iter().map(|item| self.make(item)).collect());
        let mut composed = Composed::default();
        for (row, (fate, documents)) in made.into_iter().enumerate() {
            composed.add(row as u32, fate, documents);
        }
        let own: Vec<usize> =
            (0..batch.num_columns()).filter(|&at| batch.schema().field(at).name() != "parts").collect();
        let heads = batch
            .project(&own)
            .and_then(|heads| take_record_batch(&heads, &UInt32Array::from(composed.rows)));
        let contents = Contents {
            ids: composed.ids,
            lengths: composed.lengths,
            ends: true,
            earlier: composed.earlier,
            images: Some(composed.images),
        };
        to_batch(&heads?, &composed.fates, contents)
    }

    /// The documents of a row: all of them, or none.
    fn make(&self, mut item: Item) -> (Fate, Vec<Document>) {
        match item.kind {
            Kind::Row => {}
            other => return (Fate::of(other), Vec::new()),
        }
        let parts = std::mem::take(&mut item.parts);
        let beginning = excerpt(first_text(&parts));
        let origin = Origin {
            source: self.source,
            source_name: &self.name,
            file: item.file,
            path: self.files.path(&item.unit, item.file),
            row: item.row,
            id: item.id.as_deref(),
        };
        match self.documents(parts, &origin) {
            Ok(documents) => {
                let fate = self.shares(&item.unit, item.file, item.row);
                let kept = fate.kind == Kind::Row;
                (fate, if kept { documents } else { Vec::new() })
            }
            Err(reject) => {
                let reject = Some(Reject { excerpt: beginning, ..reject });
                (Fate { reject, ..Fate::of(Kind::Reject) }, Vec::new())
            }
        }
    }

    fn documents(&self, mut parts: Vec<Part>, origin: &Origin<'_>) -> Result<Vec<Document>, Reject> {
        if self.shape == Shape::Interleaved {
            let part = |part| match part {
                Part::Text(text) => Some(DocumentPart::Text(text)),
                Part::Latent(image) => Some(DocumentPart::Image(image)),
                Part::Image(_) => None,
            };
            let parts = parts.into_iter().filter_map(part).collect();
            return self.composer.interleaved(parts, origin).map(|document| vec![document]);
        }
        let without_parts =
            || Reject::new(RejectReason::MissingText, "the row has not the parts of its shape");
        let Some(Part::Latent(image)) = parts.pop() else { return Err(without_parts()) };
        let captions = parts.iter().enumerate().map(|(number, caption)| match caption {
            Part::Text(caption) => self.composer.numbered_pair(number, caption, image.clone(), origin),
            _ => Err(without_parts()),
        });
        let documents = captions.collect::<Result<Vec<_>, _>>()?;
        if documents.is_empty() { Err(without_parts()) } else { Ok(documents) }
    }
}

/// The documents of a batch, one behind the other.
#[derive(Default)]
struct Composed {
    /// The row of the batch that each comes from.
    rows: Vec<u32>,
    fates: Vec<Fate>,
    ids: Vec<u32>,
    lengths: Vec<usize>,
    earlier: Vec<u32>,
    images: ImageContents,
}

impl Composed {
    fn add(&mut self, row: u32, fate: Fate, documents: Vec<Document>) {
        if documents.is_empty() {
            self.push(row, 0, fate, None);
            return;
        }
        for (earlier, document) in documents.into_iter().enumerate() {
            self.push(row, earlier as u32, fate.clone(), Some(document));
        }
    }

    fn push(&mut self, row: u32, earlier: u32, fate: Fate, document: Option<Document>) {
        self.rows.push(row);
        self.fates.push(fate);
        self.earlier.push(earlier);
        let (mut tokens, mut images, mut part_ends, mut order) =
            (Vec::new(), Vec::new(), Vec::new(), Order::Neither);
        if let Some(document) = document {
            (tokens, images, part_ends) = (document.tokens, document.images, document.part_ends);
            order = document.provenance.order;
        }
        self.lengths.push(tokens.len());
        self.ids.extend(tokens);
        self.images.orders.push(order as u8);
        self.images.part_ends.push(part_ends.into_iter().map(|end| end as u32).collect());
        self.images.images.push(images);
    }
}

impl Texts {
    fn text(&self, row: usize) -> &str {
        self.column.as_ref().map_or("", |column| column.value(row))
    }

    fn is_long(&self, row: usize) -> bool {
        self.fates[row].kind == Kind::Row && self.text(row).len() > LONG_TEXT
    }

    /// The next row, if it is a long text.
    fn long_text(&self) -> Option<usize> {
        Some(self.row).filter(|&row| row < self.fates.len() && self.is_long(row))
    }

    /// The rows up to the next long text, a batch for each chunk.
    fn short_texts(&mut self, operator: &Tokenize) -> Result<Vec<RecordBatch>, PipelineError> {
        let end = (self.row..self.fates.len()).find(|&row| self.is_long(row)).unwrap_or(self.fates.len());
        let chunks = self.chunks(self.row..end);
        self.row = end;
        let tokenizer = &operator.composer.tokenizer;
        operator.pool.install(|| chunks.into_par_iter().map(|rows| self.encode(rows, tokenizer)).collect())
    }

    fn chunks(&self, rows: Range<usize>) -> Vec<Range<usize>> {
        let mut chunks = Vec::new();
        let (mut start, mut bytes) = (rows.start, 0);
        for row in rows.clone() {
            bytes += if self.fates[row].kind == Kind::Row { self.text(row).len() } else { 0 };
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
            if self.fates[row].kind == Kind::Row {
                ids.push(tokenizer.bos());
                tokenizer.encode_into(self.text(row), &mut ids);
                ids.push(tokenizer.eos());
            }
            lengths.push(ids.len() - before);
        }
        let batch = self.batch.slice(rows.start, rows.len());
        let earlier = vec![0; rows.len()];
        let contents = Contents { ids, lengths, ends: true, earlier, images: None };
        to_batch(&batch, &self.fates[rows], contents)
    }

    /// The next parts of a long text, one for each thread.
    fn go_on(&mut self, row: usize, operator: &Tokenize) -> Result<RecordBatch, PipelineError> {
        let (tokenizer, mut long) = (&operator.composer.tokenizer, self.long);
        let text = self.text(row);
        let has_parts = *long.has_parts.get_or_insert_with(|| tokenizer.has_parts(text));
        let mut ids = Vec::new();
        if long.at == 0 {
            ids.push(tokenizer.bos());
        }
        if has_parts {
            let parts = parts(text, long.at, operator.pool.current_num_threads(), tokenizer);
            long.at = parts.last().map_or(text.len(), |part| part.end);
            let encode = |part: Range<usize>| {
                let mut ids = Vec::with_capacity(part.len() / 2);
                tokenizer.encode_part(text, part, &mut ids);
                ids
            };
            let encoded: Vec<Vec<u32>> =
                operator.pool.install(|| parts.into_par_iter().map(encode).collect());
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
        let contents = Contents { ids, lengths, ends, earlier: vec![long.copy], images: None };
        let fate = Fate { copies: 1, ..self.fates[row].clone() };
        let documents = to_batch(&self.batch.slice(row, 1), &[fate], contents)?;
        self.long = match ends {
            true if long.copy + 1 < self.fates[row].copies => LongText { at: 0, copy: long.copy + 1, ..long },
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
