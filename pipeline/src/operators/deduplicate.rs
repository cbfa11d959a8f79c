//! `DeduplicateExec`: marks the rows that are copies of earlier ones, before anything is computed for them.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, UInt8Array};
use arrow::datatypes::{SchemaRef, UInt8Type, UInt32Type, UInt64Type};

use super::duplicates::{Duplicates, UnitDuplicates};
use super::runtime::Runtime;
use crate::PipelineError;
use crate::engine::stage::{Operator, Partition, Work};
use crate::row::columns::{FILE, KIND, ROW, RowKind, UNIT};

/// Marks copies.
#[derive(Clone, Debug)]
pub(crate) struct Deduplicate {
    pub(crate) schema: SchemaRef,
}

impl Operator for Deduplicate {
    fn name(&self) -> &'static str {
        "DeduplicateExec"
    }

    fn describe(&self) -> String {
        "keep=first".to_owned()
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn start(&self, partition: &Partition<'_>) -> Result<Box<dyn Work>, PipelineError> {
        let duplicates = Runtime::of(partition.task)?.duplicates.clone();
        let schema = self.schema.clone();
        Ok(Box::new(Deduplicating { schema, duplicates, copies: UnitDuplicates::default() }))
    }
}

struct Deduplicating {
    schema: SchemaRef,
    duplicates: Arc<Duplicates>,
    /// The copies of the unit that is read.
    copies: UnitDuplicates,
}

impl Work for Deduplicating {
    fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, PipelineError> {
        let Self { schema, duplicates, copies } = self;
        let units = batch[UNIT].as_string::<i32>();
        let files = batch[FILE].as_primitive::<UInt32Type>().values();
        let rows = batch[ROW].as_primitive::<UInt64Type>().values();
        let mut kinds = batch[KIND].as_primitive::<UInt8Type>().values().to_vec();
        for (row, kind) in
            kinds.iter_mut().enumerate().filter(|(_, kind)| RowKind::of(**kind) == RowKind::Row)
        {
            if duplicates.contains(copies, units.value(row), files[row], rows[row])? {
                *kind = RowKind::Duplicate as u8;
            }
        }
        let place = batch.schema().index_of(KIND)?;
        let mut columns = batch.columns().to_vec();
        columns[place] = Arc::new(UInt8Array::from(kinds));
        Ok(vec![RecordBatch::try_new(schema.clone(), columns)?])
    }
}
