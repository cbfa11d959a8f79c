//! Rows of a file as record batches of the plan.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanArray, ListBuilder, RecordBatch, RecordBatchOptions, StringArray,
    UInt8Array, UInt32Array, UInt64Array, new_null_array,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, SchemaRef};
use bytes::Bytes;

use super::pictures::Fetching;
use super::table::{ImageColumns, Table};
use super::{ImageRef, Input, MAX_ROW_BYTES};
use crate::PipelineError;
use crate::engine::session::TEXT_ROWS;
use crate::picture::PictureRules;
use crate::row::columns::{DETAIL, EXCERPT, FILE, KIND, REASON, ROW, RowKind, UNIT};
use crate::row::reject::{Reject, RejectReason};

/// Rows of a batch with pictures.
pub(crate) const PICTURE_ROWS: usize = 32;

/// Bytes that a batch is closed at.
pub(crate) const BATCH_BYTES: usize = 4 << 20;

/// Bytes of encoded pictures that a batch is closed at.
const BATCH_PICTURE_BYTES: usize = 8 << 20;

/// Takes a batch on; `false` ends the reading.
pub(crate) type Emit<'a> = dyn FnMut(RecordBatch) -> Result<bool, PipelineError> + 'a;

/// Where the rows of a batch come from and which columns it has.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) table: Arc<Table>,
    /// The columns of `table` that are asked for.
    pub(crate) schema: SchemaRef,
    pub(crate) unit: String,
    pub(crate) file: u32,
    /// Folder of the file, which paths of pictures are relative to unless the source names another.
    pub(crate) folder: String,
    /// The rows that are asked for; all of them if `None`.
    pub(crate) only: Option<Arc<BTreeSet<u64>>>,
}

/// Everything but the columns that a reader makes itself.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) rows: Vec<u64>,
    pub(crate) rejects: Vec<Option<Reject>>,
    /// Images of each row: at most one for a pair.
    pub(crate) images: Vec<Vec<Option<Bytes>>>,
    pub(crate) scalars: HashMap<String, ArrayRef>,
}

impl Parts {
    /// Some of the rows, with these images.
    fn part(&self, rows: Range<usize>, images: Vec<Vec<Option<Bytes>>>) -> Self {
        let slice =
            |(name, column): (&String, &ArrayRef)| (name.clone(), column.slice(rows.start, rows.len()));
        Self {
            rows: self.rows[rows.clone()].to_vec(),
            rejects: self.rejects[rows.clone()].to_vec(),
            images,
            scalars: self.scalars.iter().map(slice).collect(),
        }
    }
}

impl Target {
    fn wants_images(&self) -> bool {
        self.table.wants_images(&self.schema)
    }

    /// Those rows of a batch as it lies in a file that are asked for, and their numbers. `first` is that of its first.
    pub(crate) fn asked_for(
        &self,
        batch: &RecordBatch,
        first: u64,
    ) -> Result<(RecordBatch, Vec<u64>), PipelineError> {
        let numbers = first..first + batch.num_rows() as u64;
        let Some(only) = &self.only else { return Ok((batch.clone(), numbers.collect())) };
        let chosen: BooleanArray = numbers.clone().map(|row| Some(only.contains(&row))).collect();
        let batch = filter_record_batch(batch, &chosen)?;
        Ok((batch, numbers.filter(|row| only.contains(row)).collect()))
    }

    /// Rows of a batch.
    pub(crate) fn batch_rows(&self) -> usize {
        if self.wants_images() { PICTURE_ROWS } else { TEXT_ROWS }
    }

    /// Fetches the images of rows and gives the rows on, in as many batches as their images fill; a row whose image can't be
    /// had is a reject.
    pub(crate) fn emit_with_images(
        &self,
        input: &Input,
        mut parts: Parts,
        images: Vec<Vec<ImageRef>>,
        emit: &mut Emit<'_>,
    ) -> Result<bool, PipelineError> {
        if !self.wants_images() {
            return emit(self.assemble(&parts)?);
        }
        let lengths: Vec<usize> = images.iter().map(Vec::len).collect();
        let flat = images.into_iter().flatten().collect();
        let mut fetched = Fetching::new(input, &self.folder, flat);
        let (mut first, mut pending, mut bytes) = (0, Vec::new(), 0);
        for (row, &length) in lengths.iter().enumerate() {
            let (mut images, mut of_row) = (Vec::with_capacity(length), 0);
            for _ in 0..length {
                match fetched.next()? {
                    Ok(image) => {
                        of_row += image.as_ref().map_or(0, Bytes::len);
                        if of_row <= MAX_ROW_BYTES {
                            images.push(image);
                        }
                    }
                    Err(error) => {
                        parts.rejects[row].get_or_insert(error);
                    }
                }
            }
            if of_row > MAX_ROW_BYTES {
                images.clear();
                let detail = format!("its pictures have {of_row} bytes, the limit is {MAX_ROW_BYTES}");
                parts.rejects[row].get_or_insert_with(|| Reject::new(RejectReason::RowTooLarge, detail));
            }
            bytes += of_row;
            pending.push(images);
            if bytes >= BATCH_PICTURE_BYTES || row + 1 == lengths.len() {
                let part = parts.part(first..row + 1, std::mem::take(&mut pending));
                if !emit(self.assemble(&part)?)? {
                    return Ok(false);
                }
                (first, bytes) = (row + 1, 0);
            }
        }
        Ok(true)
    }

    /// The batch of these rows.
    pub(crate) fn assemble(&self, parts: &Parts) -> Result<RecordBatch, PipelineError> {
        let rows = parts.rows.len();
        let columns: Vec<ArrayRef> =
            self.schema.fields().iter().map(|field| self.column(field, parts, rows)).collect();
        batch(self.schema.clone(), columns, rows)
    }

    fn column(&self, field: &Field, parts: &Parts, rows: usize) -> ArrayRef {
        let text = |of: fn(&Reject) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter(parts.rejects.iter().map(|reject| reject.as_ref().map(of))))
        };
        match field.name().as_str() {
            UNIT => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&self.unit, rows))),
            FILE => Arc::new(UInt32Array::from_value(self.file, rows)),
            ROW => Arc::new(UInt64Array::from(parts.rows.clone())),
            KIND => {
                let kind =
                    |reject: &Option<Reject>| if reject.is_some() { RowKind::Reject } else { RowKind::Row };
                Arc::new(UInt8Array::from_iter_values(parts.rejects.iter().map(|reject| kind(reject) as u8)))
            }
            REASON => text(|reject| reject.reason.name()),
            DETAIL => text(|reject| &reject.detail),
            EXCERPT => text(|reject| &reject.excerpt),
            name => match (&self.table.images, name) {
                (ImageColumns::One { .. }, "image") => Arc::new(arrow::array::BinaryArray::from_iter(
                    parts.images.iter().map(|images| first(images)),
                )),
                (ImageColumns::One { .. }, "width" | "height") => {
                    let side = |images: &Vec<Option<Bytes>>| {
                        let (width, height) = first(images).and_then(|bytes| header(bytes))?;
                        Some(if name == "width" { width } else { height })
                    };
                    Arc::new(UInt32Array::from_iter(parts.images.iter().map(side)))
                }
                (ImageColumns::Many { name: many, .. }, name) if name == many => image_lists(&parts.images),
                _ => match parts.scalars.get(name) {
                    Some(column) => column.clone(),
                    None => new_null_array(field.data_type(), rows),
                },
            },
        }
    }

    /// The row that ends a unit and says how many rows were read.
    pub(crate) fn end(&self, read: u64) -> Result<RecordBatch, PipelineError> {
        let column = |field: &Arc<Field>| -> ArrayRef {
            match field.name().as_str() {
                UNIT => Arc::new(StringArray::from(vec![self.unit.as_str()])),
                FILE => Arc::new(UInt32Array::from(vec![0])),
                ROW => Arc::new(UInt64Array::from(vec![read])),
                KIND => Arc::new(UInt8Array::from(vec![RowKind::End as u8])),
                _ => new_null_array(field.data_type(), 1),
            }
        };
        batch(self.schema.clone(), self.schema.fields().iter().map(column).collect(), 1)
    }
}

/// Width and height as shown, whatever the picture's size.
fn header(bytes: &[u8]) -> Option<(u32, u32)> {
    let rules = PictureRules { min_side: 0, max_pixels: u64::MAX, ..PictureRules::default() };
    rules.probe(bytes).ok().map(|probe| (probe.width, probe.height))
}

fn first(images: &[Option<Bytes>]) -> Option<&Bytes> {
    images.first().and_then(Option::as_ref)
}

fn image_lists(rows: &[Vec<Option<Bytes>>]) -> ArrayRef {
    let mut lists = ListBuilder::new(BinaryBuilder::new());
    for row in rows {
        for image in row {
            lists.values().append_option(image.as_deref());
        }
        lists.append(true);
    }
    Arc::new(lists.finish())
}

/// A batch, also of no columns.
pub(crate) fn batch(
    schema: SchemaRef,
    columns: Vec<ArrayRef>,
    rows: usize,
) -> Result<RecordBatch, PipelineError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}

/// Where a text stands, an entry that names no image is there to keep the place, like null.
pub(super) fn without_place_holders(
    mut images: Vec<ImageRef>,
    text: impl Fn(usize) -> bool,
) -> Vec<ImageRef> {
    for (place, image) in images.iter_mut().enumerate() {
        if *image == ImageRef::Nameless && text(place) {
            *image = ImageRef::Absent;
        }
    }
    images
}
