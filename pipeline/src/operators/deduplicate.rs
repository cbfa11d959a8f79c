//! `DeduplicateExec`: marks the rows that are copies of earlier ones, before anything is computed for them.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, UInt8Array};
use arrow::datatypes::{SchemaRef, UInt8Type, UInt32Type, UInt64Type};

use super::items::failed;
use super::stage::{Operator, Work};
use crate::PipelineError;
use crate::deduplicate::{Duplicates, UnitDuplicates};
use crate::read::table::{FILE, KIND, Kind, ROW, UNIT};

/// Marks copies.
#[derive(Clone, Debug)]
pub(crate) struct Deduplicate {
    pub(crate) schema: SchemaRef,
    pub(crate) duplicates: Arc<Duplicates>,
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

    fn start(&self) -> Box<dyn Work> {
        Box::new(Deduplicating { operator: self.clone(), copies: UnitDuplicates::default() })
    }
}

struct Deduplicating {
    operator: Deduplicate,
    /// The copies of the unit that is read.
    copies: UnitDuplicates,
}

impl Work for Deduplicating {
    fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, PipelineError> {
        let Self { operator, copies } = self;
        let units = batch[UNIT].as_string::<i32>();
        let files = batch[FILE].as_primitive::<UInt32Type>().values();
        let rows = batch[ROW].as_primitive::<UInt64Type>().values();
        let mut kinds = batch[KIND].as_primitive::<UInt8Type>().values().to_vec();
        for (row, kind) in kinds.iter_mut().enumerate().filter(|(_, kind)| Kind::of(**kind) == Kind::Row) {
            if operator.duplicates.contains(copies, units.value(row), files[row], rows[row])? {
                *kind = Kind::Duplicate as u8;
            }
        }
        let place = batch.schema().index_of(KIND).map_err(failed)?;
        let mut columns = batch.columns().to_vec();
        columns[place] = Arc::new(UInt8Array::from(kinds));
        Ok(vec![RecordBatch::try_new(operator.schema.clone(), columns).map_err(failed)?])
    }
}
