//! The table of a source with the columns of its joined table behind its own.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::expressions::col;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;

use super::join::Join;
use super::table::SourceTable;
use crate::PipelineError;

/// A source's files and a table that is joined to them.
#[derive(Debug)]
pub(super) struct JoinedTable {
    own: SourceTable,
    join: Arc<Join>,
    schema: SchemaRef,
}

impl JoinedTable {
    pub(super) fn new(own: SourceTable, join: Arc<Join>) -> Self {
        let fields = own.table.schema.fields().iter().map(|field| field.as_ref().clone());
        let schema = Arc::new(Schema::new(fields.chain(join.fields.iter().cloned()).collect::<Vec<_>>()));
        Self { own, join, schema }
    }
}

#[async_trait]
impl TableProvider for JoinedTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
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
        let wanted = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let count = self.own.table.schema.fields().len();
        let (mut own, others): (Vec<usize>, Vec<usize>) =
            wanted.iter().copied().partition(|column| *column < count);
        if others.is_empty() {
            // A key has one row at most, so without its columns the joined table changes nothing.
            return self.own.read(&own);
        }
        for key in self.join.own_keys() {
            let key = self.own.table.schema.index_of(key)?;
            if !own.contains(&key) {
                own.push(key);
            }
        }
        let names: Vec<&str> =
            others.iter().map(|column| self.schema.field(*column).name().as_str()).collect();
        let joined = self.join.over(self.own.read(&own)?, &names).await.map_err(PipelineError::into_plan)?;
        let columns = wanted.iter().map(|column| {
            let name = self.schema.field(*column).name();
            Ok((col(name, &joined.schema())?, name.clone()))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(ProjectionExec::try_new(columns, joined)?))
    }
}
