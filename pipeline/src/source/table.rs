//! The files of a source as a table that DataFusion can plan over.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use crate::engine::stage::stage;
use crate::operators::unit_read::{UnitRead, description_schema};
use crate::read::table::Table;

/// The table of files, a partition for each description.
#[derive(Debug)]
pub(crate) struct SourceTable {
    /// The name of its input in the runtime.
    pub(super) source: String,
    pub(super) table: Arc<Table>,
    pub(super) descriptions: Vec<Vec<RecordBatch>>,
}

impl SourceTable {
    /// Reads these columns of the files.
    pub(super) fn read(&self, columns: &[usize]) -> Result<Arc<dyn ExecutionPlan>> {
        let leaf = MemorySourceConfig::try_new_exec(&self.descriptions, description_schema(), None)?;
        let schema: SchemaRef = Arc::new(self.table.schema.project(columns)?);
        let (source, table) = (self.source.clone(), self.table.clone());
        Ok(stage(UnitRead { source, table, schema }, leaf))
    }
}

#[async_trait]
impl TableProvider for SourceTable {
    fn schema(&self) -> SchemaRef {
        self.table.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all = || (0..self.table.schema.fields().len()).collect();
        self.read(&projection.cloned().unwrap_or_else(all))
    }
}
