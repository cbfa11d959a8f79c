//! `DecodeExec`: pictures to pixels.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use rayon::ThreadPool;
use rayon::prelude::*;

use super::items::{Captioning, Choice, Item, Part, from_columns, item_schema, to_batch};
use crate::PipelineError;
use crate::config::Shape;
use crate::engine::memory::Share;
use crate::engine::stage::{Operator, Partition, Work};
use crate::picture::PictureRules;
use crate::row::columns::Kind;
use crate::row::reject::Reject;
use crate::units::UnitFiles;

/// Decodes the pictures of a source's rows, many at a time, and keeps their order.
#[derive(Clone, Debug)]
pub(crate) struct Decode {
    pub(crate) source: String,
    pub(crate) seed: u64,
    pub(crate) shape: Shape,
    pub(crate) captioning: Captioning,
    pub(crate) rules: PictureRules,
    pub(crate) files: Arc<UnitFiles>,
    /// Memory for large pictures while they are decoded.
    pub(crate) pixels: Share,
    pub(crate) pool: Arc<ThreadPool>,
}

/// Pictures up to this size take their memory without asking.
const SMALL_PICTURE: u64 = 4 << 20;

impl Operator for Decode {
    fn name(&self) -> &'static str {
        "DecodeExec"
    }

    fn describe(&self) -> String {
        format!("size={}, max_pixels={}", self.rules.size, self.rules.max_pixels)
    }

    fn schema(&self) -> SchemaRef {
        item_schema()
    }

    fn start(&self, _: &Partition<'_>) -> Result<Box<dyn Work>, PipelineError> {
        Ok(Box::new(self.clone()))
    }
}

impl Work for Decode {
    fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, PipelineError> {
        let path = |unit: &str, file: u32| self.files.path(unit, file).to_owned();
        let choice =
            Choice { seed: self.seed, source: &self.source, path: &path, captioning: &self.captioning };
        let mut items = from_columns(&batch, self.shape, &choice)?;
        drop(batch);
        self.pool.install(|| items.par_iter_mut().for_each(|item| self.decode(item)));
        Ok(vec![to_batch(&items)?])
    }
}

impl Decode {
    fn decode(&self, item: &mut Item) {
        if item.kind == Kind::Row
            && let Err(reject) = self.decode_parts(item)
        {
            item.refuse(reject);
        }
    }

    fn decode_parts(&self, item: &mut Item) -> Result<(), Reject> {
        for part in &mut item.parts {
            if let Part::Image(bytes) = part {
                let size = self.rules.probe(bytes)?.decoded_bytes;
                let _memory = (size > SMALL_PICTURE).then(|| self.pixels.take(size as usize));
                let (picture, probe) = self.rules.decode(bytes)?;
                *bytes = picture.rgb;
                if let Some(warning) = probe.warning {
                    item.warnings.get_or_insert_with(|| warning.name().to_owned());
                }
            }
        }
        Ok(())
    }
}
