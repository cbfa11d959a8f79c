//! `EncodeExec`: pixels to latents, in batches of the codec within a unit.
//!
//! Rows wait until there are enough pictures for a batch or their unit ends, and leave in the order in which they came.
//! The next pictures are decoded meanwhile. The device computes one batch of the job at a time, so its memory does not
//! depend on how many units run.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use rayon::ThreadPool;
use schemas::random::Stream;
use schemas::{Latent, row_hash};

use super::items::{Item, Part, from_batch, item_schema, to_batch};
use crate::PipelineError;
use crate::config::LatentKind;
use crate::document::latent;
use crate::engine::stage::{Operator, Partition, Work};
use crate::picture::codec::{ImageCodec, LatentBatch, RgbBatch};
use crate::row::columns::Kind;
use crate::row::reject::Reject;
use crate::units::UnitFiles;

/// Encodes pictures.
#[derive(Clone, Debug)]
pub(crate) struct Encode {
    pub(crate) codec: Arc<dyn ImageCodec>,
    pub(crate) size: u32,
    pub(crate) batch: usize,
    pub(crate) latent: LatentKind,
    /// Draws samples: seed, name of the source, and the paths of its files.
    pub(crate) seed: u64,
    pub(crate) source: String,
    pub(crate) files: Arc<UnitFiles>,
    /// Held by the unit whose batch is computed.
    pub(crate) device: Arc<Mutex<()>>,
    pub(crate) pool: Arc<ThreadPool>,
}

impl Operator for Encode {
    fn name(&self) -> &'static str {
        "EncodeExec"
    }

    fn describe(&self) -> String {
        let info = self.codec.info();
        let (kind, device) = (&info.kind, &info.device);
        format!(
            "codec={kind}, size={}, latent={:?}, batch={}, device={device}",
            self.size, self.latent, self.batch
        )
    }

    fn schema(&self) -> SchemaRef {
        item_schema()
    }

    fn ahead(&self) -> usize {
        1
    }

    fn start(&self, _: &Partition<'_>) -> Result<Box<dyn Work>, PipelineError> {
        Ok(Box::new(Encoding { operator: self.clone(), waiting: VecDeque::new(), pictures: 0, held: 0 }))
    }
}

struct Encoding {
    operator: Encode,
    waiting: VecDeque<Item>,
    /// Pictures of the waiting rows that are not encoded.
    pictures: usize,
    /// Bytes of the waiting rows.
    held: usize,
}

impl Work for Encoding {
    fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, PipelineError> {
        let items = from_batch(&batch)?;
        drop(batch);
        let ends = items.iter().any(|item| item.kind == Kind::End);
        self.pictures += items.iter().map(pictures).sum::<usize>();
        self.waiting.extend(items);
        while self.pictures >= self.operator.batch || ends && self.pictures > 0 {
            self.encode()?;
        }
        let ready = self.ready();
        self.held = self.waiting.iter().flat_map(|item| &item.parts).map(part_bytes).sum();
        if ready.is_empty() { Ok(Vec::new()) } else { Ok(vec![to_batch(&ready)?]) }
    }

    fn held(&self, ready: usize) -> usize {
        let planes = 4 * self.operator.batch * 3 * (self.operator.size as usize).pow(2);
        ready + self.held + if self.pictures > 0 { planes } else { 0 }
    }
}

fn pictures(item: &Item) -> usize {
    item.parts.iter().filter(|part| matches!(part, Part::Image(_))).count()
}

fn part_bytes(part: &Part) -> usize {
    match part {
        Part::Text(text) => text.len(),
        Part::Image(bytes) => bytes.len(),
        Part::Latent(latent) => 2 * latent.values.len(),
    }
}

impl Encoding {
    /// Encodes the first pictures that wait.
    fn encode(&mut self) -> Result<(), PipelineError> {
        let size = self.operator.size as usize;
        let mut batch = RgbBatch { images: 0, size, values: Vec::new() };
        let waiting = self.waiting.iter().flat_map(|item| &item.parts);
        let pixels =
            waiting.filter_map(|part| if let Part::Image(pixels) = part { Some(pixels) } else { None });
        pixels.take(self.operator.batch).for_each(|pixels| batch.push(pixels));
        let unit = self.waiting.front().map(|item| item.unit.clone()).unwrap_or_default();
        let failed = |source| PipelineError::Codec { unit, images: batch.images, source };
        let Encode { codec, pool, latent, device, .. } = &self.operator;
        let moments = *latent != LatentKind::Mean;
        let latents = {
            let _only = device.lock().unwrap_or_else(PoisonError::into_inner);
            pool.install(|| codec.encode(&batch, moments)).map_err(failed)?
        };
        self.fill(&latents);
        self.pictures = self.waiting.iter().map(pictures).sum();
        Ok(())
    }

    fn fill(&mut self, latents: &LatentBatch) {
        let Self { operator, waiting, .. } = self;
        let mut values = latents.images().peekable();
        for item in waiting {
            if values.peek().is_none() {
                return;
            }
            let mut refused = None;
            for place in 0..item.parts.len() {
                if !matches!(item.parts[place], Part::Image(_)) {
                    continue;
                }
                // The rest of the row's pictures are in the next batch.
                let Some(values) = values.next() else { break };
                match operator.stored(item, place, values, latents) {
                    Ok(latent) => item.parts[place] = Part::Latent(latent),
                    // The pictures behind it in this row are skipped with it, those of the batch are not lost.
                    Err(reject) => {
                        refused.get_or_insert(reject);
                        item.parts[place] = Part::Text(String::new());
                    }
                }
            }
            if let Some(reject) = refused {
                item.refuse(reject);
            }
        }
    }

    /// The rows at the front that wait for nothing.
    fn ready(&mut self) -> Vec<Item> {
        let count = self.waiting.iter().take_while(|item| pictures(item) == 0).count();
        self.waiting.drain(..count).collect()
    }
}

impl Encode {
    /// The latent of part `place` of a row, as it is stored.
    fn stored(
        &self,
        item: &Item,
        place: usize,
        values: &[f32],
        batch: &LatentBatch,
    ) -> Result<Latent, Reject> {
        let shape = [batch.channels, batch.height, batch.width].map(|side| side as u16);
        if self.latent != LatentKind::Sample || !batch.moments {
            return latent(values, shape, batch.moments);
        }
        let path = self.files.path(&item.unit, item.file);
        let row = row_hash(self.seed, &self.source, path, item.row, "latent");
        let image = item.parts[..place].iter().filter(|part| !matches!(part, Part::Text(_))).count();
        let (means, log_variances) = values.split_at(values.len() / 2);
        let noise = Stream::new(self.seed, "latent", &[row, image as u64]).normals(means.len());
        let draw = |((mean, log), noise): ((&f32, &f32), f32)| mean + (0.5 * log).exp() * noise;
        let drawn: Vec<f32> = means.iter().zip(log_variances).zip(noise).map(draw).collect();
        latent(&drawn, shape, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixtures::AveragePool;

    fn item(row: u64, kind: Kind, parts: Vec<Part>) -> Item {
        Item { unit: "u".to_owned(), file: 0, row, kind, reject: None, warnings: None, id: None, parts }
    }

    fn rows(batches: &[RecordBatch]) -> Vec<u64> {
        batches.iter().flat_map(|batch| from_batch(batch).expect("items")).map(|item| item.row).collect()
    }

    #[test]
    fn rows_wait_for_a_batch_and_keep_their_order() {
        let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool"));
        let codec = Arc::new(AveragePool::new());
        let encode = Encode {
            codec,
            size: 8,
            batch: 2,
            latent: LatentKind::Mean,
            seed: 0,
            source: "s".to_owned(),
            files: Arc::default(),
            device: Arc::default(),
            pool,
        };
        let mut work = Encoding { operator: encode, waiting: VecDeque::new(), pictures: 0, held: 0 };
        let picture = |value: u8| Part::Image(vec![value; 8 * 8 * 3]);
        let text = || Part::Text("t".to_owned());
        let mut push = |items: &[Item]| work.push(to_batch(items).expect("a batch")).expect("works");
        assert_eq!(
            rows(&push(&[item(0, Kind::Row, vec![text()]), item(1, Kind::Row, vec![picture(1)])])),
            [0]
        );
        assert!(push(&[item(2, Kind::Reject, Vec::new())]).is_empty());
        assert_eq!(rows(&push(&[item(3, Kind::Row, vec![picture(2), text(), picture(3)])])), [1, 2]);
        let last = push(&[item(9, Kind::End, Vec::new())]);
        assert_eq!(rows(&last), [3, 9]);
        let items = from_batch(&last[0]).expect("items");
        let values: Vec<f32> = items[0]
            .parts
            .iter()
            .filter_map(|part| match part {
                Part::Latent(latent) => Some(latent.values[0].to_f32()),
                _ => None,
            })
            .collect();
        assert_eq!(values.len(), 2);
        assert!(values[0] < values[1]);
    }
}
