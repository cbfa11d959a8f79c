//! Documents with images.
//!
//! The rows of a batch become structs, their pictures are decoded, and they wait, in their order, until there are enough
//! crops for a batch of the codec or their unit ends. While the device computes full batches, the pictures of the rows
//! that came next are decoded. The cost: a full batch waits for the rows behind it. Rows without a crop at the front
//! leave as documents, composed on all threads of the pool.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::physical_plan::metrics::Time;
use rayon::prelude::*;
use schemas::Latent;

use super::batch::{DocumentBuilder, document_schema};
use super::crops::Decoder;
use super::latents::{Encoder, Encoding, crops};
use super::{DocumentRules, Outcome};
use crate::PipelineError;
use crate::config::Shape;
use crate::document::{Composer, Document, Origin, Part};
use crate::engine::stage::{Operator, Partition, Work};
use crate::operators::runtime::Runtime;
use crate::operators::source_rows::{Image, SourceRow, first_text};
use crate::picture::PictureRules;
use crate::row::columns::RowKind;
use crate::row::reject::{Reject, RejectReason, excerpt};

/// Makes documents of rows with images.
#[derive(Clone, Debug)]
pub(crate) struct ImageDocuments {
    pub(crate) rules: DocumentRules,
    pub(crate) pictures: PictureRules,
    pub(crate) encoding: Encoding,
}

impl Operator for ImageDocuments {
    fn name(&self) -> &'static str {
        "DocumentsExec"
    }

    fn describe(&self) -> String {
        let Encoding { codec, size, batch, latent } = &self.encoding;
        let (max_pixels, kind, device) = (self.pictures.max_pixels, &codec.kind, &codec.device);
        let rules = self.rules.describe();
        format!(
            "{rules}, size={size}, max_pixels={max_pixels}, codec={kind}, latent={latent:?}, batch={batch}, device={device}"
        )
    }

    fn schema(&self) -> SchemaRef {
        document_schema()
    }

    fn start(&self, partition: &Partition<'_>) -> Result<Box<dyn Work>, PipelineError> {
        let runtime = Runtime::of(partition.task)?;
        let Self { rules, pictures, encoding } = self.clone();
        let (codec, composer) = (runtime.codec()?, rules.composer(runtime.tokenizer()?));
        let decoder = Decoder { rules: pictures, pixels: runtime.memory.pixels.clone() };
        let hashes = rules.rows.hashes.clone();
        let encoder = Encoder { encoding, codec, runtime: runtime.clone(), hashes };
        let times = Times {
            decode: partition.time("decode_nanoseconds"),
            encode: partition.time("encode_nanoseconds"),
            compose: partition.time("compose_nanoseconds"),
        };
        let (waiting, waiting_crops) = (VecDeque::new(), 0);
        Ok(Box::new(ImageWork { rules, decoder, encoder, composer, runtime, waiting, waiting_crops, times }))
    }
}

struct ImageWork {
    rules: DocumentRules,
    decoder: Decoder,
    encoder: Encoder,
    composer: Composer,
    runtime: Arc<Runtime>,
    /// Rows that have not left, in their order.
    waiting: VecDeque<SourceRow>,
    /// Their crops that are not encoded.
    waiting_crops: usize,
    times: Times,
}

/// Times of the parts of the work.
struct Times {
    decode: Time,
    encode: Time,
    compose: Time,
}

impl Work for ImageWork {
    fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, PipelineError> {
        let mut rows = self.rules.rows.rows(&batch)?;
        drop(batch);
        let ends = rows.iter().any(|row| row.kind == RowKind::End);
        let Self { decoder, encoder, runtime, waiting, waiting_crops, times, .. } = self;
        let (decoder, times, full) = (&*decoder, &*times, encoder.encoding.batch);
        runtime.pool.in_place_scope(|scope| {
            scope.spawn(|_| {
                let _timer = times.decode.timer();
                decoder.decode(&mut rows);
            });
            encode(encoder, waiting, waiting_crops, full, &times.encode)
        })?;
        *waiting_crops += rows.iter().map(crops).sum::<usize>();
        waiting.extend(rows);
        if ends {
            encode(encoder, waiting, waiting_crops, 1, &times.encode)?;
        }
        self.documents()
    }

    fn held(&self, ready: usize) -> usize {
        let rows: usize = self.waiting.iter().map(SourceRow::bytes).sum();
        ready + rows + if self.waiting_crops > 0 { self.encoder.encoding.batch_bytes() } else { 0 }
    }
}

/// Encodes as long as there are `least` crops.
fn encode(
    encoder: &Encoder,
    rows: &mut VecDeque<SourceRow>,
    waiting_crops: &mut usize,
    least: usize,
    time: &Time,
) -> Result<(), PipelineError> {
    let _timer = time.timer();
    while *waiting_crops >= least {
        encoder.encode(rows)?;
        *waiting_crops = rows.iter().map(crops).sum();
    }
    Ok(())
}

impl ImageWork {
    /// The documents of the rows at the front that wait for nothing.
    fn documents(&mut self) -> Result<Vec<RecordBatch>, PipelineError> {
        let count = self.waiting.iter().take_while(|row| crops(row) == 0).count();
        if count == 0 {
            return Ok(Vec::new());
        }
        let _timer = self.times.compose.timer();
        let rows: Vec<SourceRow> = self.waiting.drain(..count).collect();
        let made: Vec<_> =
            self.runtime.pool.install(|| rows.into_par_iter().map(|row| self.make(row)).collect());
        let mut builder = DocumentBuilder::default();
        for (row, outcome, documents) in made {
            builder.push(row, outcome, documents);
        }
        Ok(vec![builder.finish()?])
    }

    /// The documents of a row: all of them, or none.
    fn make(&self, mut row: SourceRow) -> (SourceRow, Outcome, Vec<Document>) {
        if row.kind != RowKind::Row {
            let outcome = Outcome::of(row.kind);
            return (row, outcome, Vec::new());
        }
        let parts = std::mem::take(&mut row.parts);
        let shown = excerpt(first_text(&parts));
        match self.compose(parts, &row) {
            Ok(mut documents) => {
                let outcome = self.rules.outcome(&row.unit, row.file, row.row);
                documents.retain(|_| outcome.kind == RowKind::Row);
                (row, outcome, documents)
            }
            Err(reject) => {
                row.refuse(Reject { excerpt: shown, ..reject });
                (row, Outcome::of(RowKind::Reject), Vec::new())
            }
        }
    }

    fn compose(&self, parts: Vec<Part<Image>>, row: &SourceRow) -> Result<Vec<Document>, Reject> {
        let hashes = &self.rules.rows.hashes;
        let origin = Origin {
            source: self.rules.source,
            source_name: &hashes.source,
            file: row.file,
            path: hashes.files.path(&row.unit, row.file),
            row: row.row,
            id: row.id.as_deref(),
        };
        let parts: Vec<Part> = parts.into_iter().filter_map(encoded).collect();
        if self.rules.rows.shape == Shape::Interleaved {
            return self.composer.interleaved(parts, &origin).map(|document| vec![document]);
        }
        self.pairs(parts, &origin)
    }

    /// The documents of a row's captions and the image behind them.
    fn pairs(&self, mut parts: Vec<Part>, origin: &Origin<'_>) -> Result<Vec<Document>, Reject> {
        let without_parts =
            || Reject::new(RejectReason::MissingText, "the row has not the parts of its shape");
        let Some(Part::Image(image)) = parts.pop() else { return Err(without_parts()) };
        let captions = parts.iter().enumerate().map(|(number, caption)| match caption {
            Part::Text(caption) => self.composer.numbered_pair(number, caption, image.clone(), origin),
            Part::Image(_) => Err(without_parts()),
        });
        let documents = captions.collect::<Result<Vec<_>, _>>()?;
        if documents.is_empty() { Err(without_parts()) } else { Ok(documents) }
    }
}

/// A part as it stands in a document.
fn encoded(part: Part<Image>) -> Option<Part<Latent>> {
    match part {
        Part::Text(text) => Some(Part::Text(text)),
        Part::Image(Image::Latent(latent)) => Some(Part::Image(latent)),
        Part::Image(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        ArrayRef, BinaryBuilder, ListBuilder, StringArray, StringBuilder, UInt8Array, UInt32Array,
        UInt64Array, new_null_array,
    };
    use arrow::datatypes::{DataType, Field, Schema};
    use schemas::{RowLayout, Tokenizer, Vocabulary};

    use super::super::batch::Documents;
    use super::*;
    use crate::config::LatentKind;
    use crate::document::pack::Packing;
    use crate::engine::memory::Memory;
    use crate::engine::session::thread_pool;
    use crate::host::stop::Stop;
    use crate::operators::source_rows::{CaptionRules, RowHashes, RowReader};
    use crate::picture::codec::ImageCodec;
    use crate::row::columns::system_fields;
    use crate::tests::fixtures::{AveragePool, byte_tokenizer, png};

    /// Rows of a text and grey pictures behind it.
    fn batch(rows: &[(u64, RowKind, &[u8])]) -> RecordBatch {
        let mut texts = ListBuilder::new(StringBuilder::new());
        let mut pictures = ListBuilder::new(BinaryBuilder::new());
        for (_, _, greys) in rows {
            texts.values().append_value("t");
            texts.append(true);
            pictures.values().append_null();
            greys.iter().for_each(|&grey| pictures.values().append_value(png(8, 8, [grey; 3])));
            pictures.append(true);
        }
        let null = || new_null_array(&DataType::Utf8, rows.len());
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["u"; rows.len()])),
            Arc::new(UInt32Array::from_value(0, rows.len())),
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.0))),
            Arc::new(UInt8Array::from_iter_values(rows.iter().map(|row| row.1 as u8))),
            null(),
            null(),
            null(),
            Arc::new(texts.finish()),
            Arc::new(pictures.finish()),
        ];
        let mut fields = system_fields();
        for (name, column) in [("texts", &columns[7]), ("images", &columns[8])] {
            fields.push(Field::new(name, column.data_type().clone(), true));
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("a batch")
    }

    /// Work with batches of two crops of 8 x 8 pixels.
    fn work() -> ImageWork {
        let codec = Arc::new(AveragePool::new());
        let tokenizer = Tokenizer::from_bytes(&byte_tokenizer()).expect("a tokenizer");
        let vocabulary = Vocabulary::text(tokenizer.vocabulary_size());
        let hashes = RowHashes::default();
        let rows = RowReader {
            shape: Shape::Interleaved,
            captions: CaptionRules::default(),
            hashes: hashes.clone(),
        };
        let rules = DocumentRules {
            source: 0,
            rows,
            weight: 1.0,
            validation: 0.0,
            layout: RowLayout { context: 64, patch: 1, vocabulary },
            packing: Packing::Sequence,
            caption_first: 1.0,
        };
        let pool = thread_pool(1).expect("a pool");
        let runtime = Arc::new(Runtime::new(Memory::new(1 << 20), pool, Stop::default()));
        let pictures = PictureRules { size: 8, ..PictureRules::default() };
        let info = codec.info().clone();
        let encoding = Encoding { codec: info, size: 8, batch: 2, latent: LatentKind::Mean };
        ImageWork {
            composer: rules.composer(tokenizer),
            rules,
            decoder: Decoder { rules: pictures, pixels: runtime.memory.pixels.clone() },
            encoder: Encoder { encoding, codec, runtime: runtime.clone(), hashes },
            runtime,
            waiting: VecDeque::new(),
            waiting_crops: 0,
            times: Times { decode: Time::new(), encode: Time::new(), compose: Time::new() },
        }
    }

    #[test]
    fn rows_wait_for_a_batch_and_keep_their_order() {
        let mut work = work();
        let mut push = |rows: &[(u64, RowKind, &[u8])]| work.push(batch(rows)).expect("works");
        let rows = |batches: &[RecordBatch]| -> Vec<u64> {
            let rows = batches.iter().map(Documents::of);
            rows.flat_map(|batch| (0..batch.len()).map(|row| batch.row(row)).collect::<Vec<_>>()).collect()
        };
        assert_eq!(rows(&push(&[(0, RowKind::Row, &[]), (1, RowKind::Row, &[1])])), [0]);
        assert!(push(&[(2, RowKind::Reject, &[])]).is_empty());
        // The batch is full, and is encoded while the next rows are decoded.
        assert!(push(&[(3, RowKind::Row, &[100, 200])]).is_empty());
        assert_eq!(rows(&push(&[(4, RowKind::Row, &[])])), [1, 2]);
        let last = push(&[(9, RowKind::End, &[])]);
        assert_eq!(rows(&last), [3, 4, 9]);
        let (documents, layout) = (Documents::of(&last[0]), work.rules.layout);
        let document = documents.document(0, Shape::Interleaved, 0, &layout);
        let values: Vec<f32> = document.images().iter().map(|image| image.values[0].to_f32()).collect();
        assert_eq!(values.len(), 2);
        assert!(values[0] < values[1]);
    }
}
