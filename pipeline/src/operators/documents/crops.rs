//! Pictures to crops: rows of red, green, blue bytes of one size.

use rayon::prelude::*;

use crate::document::Part;
use crate::engine::memory::Share;
use crate::operators::source_rows::{Image, SourceRow};
use crate::picture::PictureRules;
use crate::row::columns::RowKind;
use crate::row::reject::Reject;

/// Decodes the pictures of rows.
pub(crate) struct Decoder {
    pub(crate) rules: PictureRules,
    /// Memory for large pictures while they are decoded.
    pub(crate) pixels: Share,
}

/// Pictures up to this size take their memory without asking.
const SMALL_PICTURE: u64 = 4 << 20;

impl Decoder {
    /// Decodes all pictures of rows on the pool's threads. A row with one that can't be used is refused.
    pub(crate) fn decode(&self, rows: &mut [SourceRow]) {
        rows.par_iter_mut().filter(|row| row.kind == RowKind::Row).for_each(|row| {
            if let Err(reject) = self.decode_row(row) {
                row.refuse(reject);
            }
        });
    }

    fn decode_row(&self, row: &mut SourceRow) -> Result<(), Reject> {
        for part in &mut row.parts {
            let Part::Image(Image::File(bytes)) = part else { continue };
            let size = self.rules.probe(bytes)?.decoded_bytes;
            let _memory = (size > SMALL_PICTURE).then(|| self.pixels.take(size as usize));
            let (picture, probe) = self.rules.decode(bytes)?;
            *part = Part::Image(Image::Crop(picture.rgb));
            if let Some(warning) = probe.warning {
                row.warnings.get_or_insert_with(|| warning.name().to_owned());
            }
        }
        Ok(())
    }
}
