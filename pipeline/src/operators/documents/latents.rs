//! Crops to latents, in batches of the codec.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use schemas::Latent;
use schemas::random::Stream;

use crate::PipelineError;
use crate::config::LatentKind;
use crate::document::{Part, latent};
use crate::operators::runtime::Runtime;
use crate::operators::source_rows::{Image, RowHashes, SourceRow};
use crate::picture::codec::{CodecInfo, ImageCodec, LatentBatch, RgbBatch};
use crate::row::reject::Reject;

/// How crops are encoded.
#[derive(Clone, Debug)]
pub(crate) struct Encoding {
    pub(crate) codec: CodecInfo,
    /// Side of a crop, in pixels.
    pub(crate) size: u32,
    /// Crops that are encoded together.
    pub(crate) batch: usize,
    /// What is stored of the distribution that the codec gives.
    pub(crate) latent: LatentKind,
}

impl Encoding {
    /// Bytes of a crop.
    pub(crate) fn crop_bytes(&self) -> usize {
        3 * (self.size as usize).pow(2)
    }

    /// Bytes of a batch as the codec takes it.
    pub(crate) fn batch_bytes(&self) -> usize {
        size_of::<f32>() * self.batch * self.crop_bytes()
    }

    /// Bytes of a latent as it is stored.
    pub(crate) fn latent_bytes(&self) -> usize {
        let side = (self.size / self.codec.downsampling.max(1)) as usize;
        let moments = if self.latent == LatentKind::Moments { 2 } else { 1 };
        2 * moments * usize::from(self.codec.channels) * side * side
    }
}

/// Encodes the crops of rows.
pub(super) struct Encoder {
    pub(super) encoding: Encoding,
    pub(super) codec: Arc<dyn ImageCodec>,
    pub(super) runtime: Arc<Runtime>,
    /// Draws samples.
    pub(super) hashes: RowHashes,
}

/// Crops of a row that are not encoded.
pub(super) fn crops(row: &SourceRow) -> usize {
    row.parts.iter().filter(|part| matches!(part, Part::Image(Image::Crop(_)))).count()
}

impl Encoder {
    /// Encodes the first crops of rows, a batch of them at most. The device computes one batch of the job at a time, so its
    /// memory does not depend on how many units run. The lock is waited for here and not on a thread of the pool, which
    /// whoever holds it needs.
    pub(super) fn encode(&self, rows: &mut VecDeque<SourceRow>) -> Result<(), PipelineError> {
        let mut batch = RgbBatch { images: 0, size: self.encoding.size as usize, values: Vec::new() };
        let parts = rows.iter().flat_map(|row| &row.parts);
        let crops = parts.filter_map(|part| match part {
            Part::Image(Image::Crop(crop)) => Some(crop),
            _ => None,
        });
        crops.take(self.encoding.batch).for_each(|crop| batch.push(crop));
        let unit = rows.front().map(|row| row.unit.clone()).unwrap_or_default();
        let failed = |source| PipelineError::Codec { unit, images: batch.images, source };
        let moments = self.encoding.latent != LatentKind::Mean;
        let latents = {
            let _only = self.runtime.device.lock().unwrap_or_else(PoisonError::into_inner);
            self.runtime.pool.install(|| self.codec.encode(&batch, moments)).map_err(failed)?
        };
        self.fill(rows, &latents);
        Ok(())
    }

    /// Puts latents where their crops were.
    fn fill(&self, rows: &mut VecDeque<SourceRow>, latents: &LatentBatch) {
        let mut values = latents.images().peekable();
        for row in rows {
            if values.peek().is_none() {
                return;
            }
            let mut refused = None;
            for place in 0..row.parts.len() {
                if !matches!(row.parts[place], Part::Image(Image::Crop(_))) {
                    continue;
                }
                // The rest of the row's crops are in the next batch.
                let Some(values) = values.next() else { break };
                match self.stored(row, place, values, latents) {
                    Ok(latent) => row.parts[place] = Part::Image(Image::Latent(latent)),
                    // The crops behind it in this row are skipped with it, those of the batch are not lost.
                    Err(reject) => {
                        refused.get_or_insert(reject);
                        row.parts[place] = Part::Text(String::new());
                    }
                }
            }
            if let Some(reject) = refused {
                row.refuse(reject);
            }
        }
    }

    /// The latent of part `place` of a row, as it is stored.
    fn stored(
        &self,
        row: &SourceRow,
        place: usize,
        values: &[f32],
        batch: &LatentBatch,
    ) -> Result<Latent, Reject> {
        let shape = [batch.channels, batch.height, batch.width].map(|side| side as u16);
        if self.encoding.latent != LatentKind::Sample || !batch.moments {
            return latent(values, shape, batch.moments);
        }
        let hash = self.hashes.of(&row.unit, row.file, row.row, "latent");
        let image = row.parts[..place].iter().filter(|part| !matches!(part, Part::Text(_))).count();
        let (means, log_variances) = values.split_at(values.len() / 2);
        let noise = Stream::new(self.hashes.seed, "latent", &[hash, image as u64]).normals(means.len());
        let draw = |((mean, log), noise): ((&f32, &f32), f32)| mean + (0.5 * log).exp() * noise;
        let drawn: Vec<f32> = means.iter().zip(log_variances).zip(noise).map(draw).collect();
        latent(&drawn, shape, false)
    }
}
