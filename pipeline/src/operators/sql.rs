//! `WhereExec` and `SelectExec`: a person's SQL over rows, of which one that it fails on doesn't fail the others.
//!
//! They stand where DataFusion has planned a filter and a projection, and hold what it made of the SQL. A batch is
//! computed as a whole; if that fails, row by row, and the rows that fail alone are refused. Which rows these are is a
//! matter of the rows alone, not of the batch that they come in. What is refused already, and the end of a unit, is
//! never the reason for anything: where the SQL fails on it, its value is null.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, UInt8Array, new_null_array,
};
use arrow::compute::{concat, filter_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef, UInt8Type};
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::projection::ProjectionExpr;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};

use crate::PipelineError;
use crate::engine::stage::{Operator, Partition, Work, stage};
use crate::host::error::root_cause;
use crate::row::columns::{DETAIL, KIND, REASON, RowKind, is_own, texts};
use crate::row::reject::{RejectReason, excerpt};

/// The nodes of a person's SQL, down to the reader or the join, as ours. `clause` is what the plan's top computes.
pub(crate) fn row_by_row(
    node: Arc<dyn ExecutionPlan>,
    clause: &'static str,
) -> PlanResult<Arc<dyn ExecutionPlan>> {
    if let Some(filter) = node.downcast_ref::<FilterExec>() {
        let input = row_by_row(filter.input().clone(), "where")?;
        let columns = filter.projection().as_ref().map(|columns| columns.to_vec());
        let schema = match &columns {
            Some(columns) => Arc::new(input.schema().project(columns)?),
            None => input.schema(),
        };
        return Ok(stage(Where { condition: filter.predicate().clone(), columns, schema }, input));
    }
    let Some(projection) = node.downcast_ref::<ProjectionExec>() else { return Ok(node) };
    let input = row_by_row(projection.input().clone(), clause)?;
    if projection.expr().iter().all(|column| is_column(&column.expr)) {
        let recompute = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        return node.replace_children(vec![input], recompute);
    }
    let columns = projection.expr().to_vec();
    let schema = Arc::new(Schema::new(projection.schema().fields().iter().map(may_fail).collect::<Vec<_>>()));
    Ok(stage(Select { columns, clause, schema }, input))
}

fn is_column(expr: &Arc<dyn PhysicalExpr>) -> bool {
    expr.downcast_ref::<Column>().is_some()
}

/// A column of which a row that fails has no value.
fn may_fail(field: &Arc<Field>) -> Field {
    let field = field.as_ref().clone();
    let nullable = field.is_nullable() || !is_own(field.name());
    field.with_nullable(nullable)
}

/// Leaves rows out. `condition` is true for whatever is no row of the source.
#[derive(Clone, Debug)]
struct Where {
    condition: Arc<dyn PhysicalExpr>,
    /// The columns that are kept; all of them if `None`.
    columns: Option<Vec<usize>>,
    schema: SchemaRef,
}

impl Operator for Where {
    fn name(&self) -> &'static str {
        "WhereExec"
    }

    fn describe(&self) -> String {
        self.condition.to_string()
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn start(&self, _: &Partition<'_>) -> Result<Box<dyn Work>, PipelineError> {
        Ok(Box::new(Filtering { operator: self.clone() }))
    }
}

struct Filtering {
    operator: Where,
}

impl Work for Filtering {
    fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, PipelineError> {
        let mut failures = Failures::default();
        let values = failures.evaluate(&self.operator.condition, &batch)?;
        let values = values.as_boolean_opt().ok_or_else(|| not_boolean(&values))?;
        let batch = failures.refuse("where", batch)?;
        let passes: BooleanArray = kinds(&batch)
            .iter()
            .enumerate()
            .map(|(row, kind)| {
                Some(RowKind::of(*kind) != RowKind::Row || values.is_valid(row) && values.value(row))
            })
            .collect();
        let batch = filter_record_batch(&batch, &passes)?;
        let batch = match &self.operator.columns {
            Some(columns) => batch.project(columns)?,
            None => batch,
        };
        Ok(if batch.num_rows() > 0 { vec![batch] } else { Vec::new() })
    }

    /// What passes is what was read, which the reader has reserved memory for.
    fn held(&self, _: usize) -> usize {
        0
    }
}

fn not_boolean(values: &ArrayRef) -> PipelineError {
    let what = format!("a condition gave {}", values.data_type());
    PipelineError::Plan(DataFusionError::Internal(what))
}

/// Makes columns.
#[derive(Clone, Debug)]
struct Select {
    columns: Vec<ProjectionExpr>,
    clause: &'static str,
    schema: SchemaRef,
}

impl Operator for Select {
    fn name(&self) -> &'static str {
        "SelectExec"
    }

    fn describe(&self) -> String {
        let computed = self.columns.iter().filter(|column| !is_column(&column.expr));
        let columns: Vec<String> =
            computed.map(|column| format!("{} as {}", column.expr, column.alias)).collect();
        columns.join(", ")
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn start(&self, _: &Partition<'_>) -> Result<Box<dyn Work>, PipelineError> {
        Ok(Box::new(Selecting { operator: self.clone(), computed: 0 }))
    }
}

struct Selecting {
    operator: Select,
    /// Bytes of the columns that are not those of the input.
    computed: usize,
}

impl Work for Selecting {
    fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, PipelineError> {
        let Select { columns, clause, schema } = &self.operator;
        let mut failures = Failures::default();
        let mut values = Vec::with_capacity(columns.len());
        self.computed = 0;
        for column in columns {
            let value = failures.evaluate(&column.expr, &batch)?;
            if !is_column(&column.expr) {
                self.computed += value.get_array_memory_size();
            }
            values.push(value);
        }
        let batch = RecordBatch::try_new(schema.clone(), values)?;
        Ok(vec![failures.refuse(clause, batch)?])
    }

    fn held(&self, _: usize) -> usize {
        self.computed
    }
}

fn kinds(batch: &RecordBatch) -> &[u8] {
    batch[KIND].as_primitive::<UInt8Type>().values()
}

/// The rows of a batch that an expression failed on, and what it said.
#[derive(Debug, Default)]
struct Failures(BTreeMap<usize, String>);

impl Failures {
    /// The values of an expression, null where it fails.
    fn evaluate(
        &mut self,
        expr: &Arc<dyn PhysicalExpr>,
        batch: &RecordBatch,
    ) -> Result<ArrayRef, PipelineError> {
        match evaluate(expr, batch) {
            Ok(values) => Ok(values),
            Err(_) => self.each(expr, batch),
        }
    }

    fn each(&mut self, expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef, PipelineError> {
        let null = new_null_array(&expr.data_type(&batch.schema())?, 1);
        let mut values = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            values.push(match evaluate(expr, &batch.slice(row, 1)) {
                Ok(value) => value,
                Err(error) => {
                    self.0.entry(row).or_insert_with(|| root_cause(&error));
                    null.clone()
                }
            });
        }
        let values: Vec<&dyn Array> = values.iter().map(AsRef::as_ref).collect();
        concat(&values).map_err(PipelineError::from)
    }

    /// The batch, in which the rows of the source that failed are refused.
    fn refuse(&self, clause: &str, batch: RecordBatch) -> Result<RecordBatch, PipelineError> {
        if self.0.is_empty() {
            return Ok(batch);
        }
        let before = kinds(&batch);
        let failure =
            |row: usize| self.0.get(&row).filter(|_| before.get(row).is_some_and(|kind| is_row(*kind)));
        let kind = |row: usize| if failure(row).is_some() { RowKind::Reject as u8 } else { before[row] };
        let (reasons, details) = (texts(&batch, REASON)?, texts(&batch, DETAIL)?);
        let was = |column: &Option<StringArray>, row: usize| {
            column.as_ref().filter(|column| column.is_valid(row)).map(|column| column.value(row).to_owned())
        };
        let reason = |row: usize| match failure(row) {
            Some(_) => Some(RejectReason::SqlError.name().to_owned()),
            None => was(&reasons, row),
        };
        let detail = |row: usize| match failure(row) {
            Some(said) => Some(format!("`{clause}`: {}", excerpt(said.as_bytes()))),
            None => was(&details, row),
        };
        let rows = 0..batch.num_rows();
        let schema = batch.schema();
        let column = |(field, column): (&Arc<Field>, &ArrayRef)| -> ArrayRef {
            match field.name().as_str() {
                KIND => Arc::new(UInt8Array::from_iter_values(rows.clone().map(kind))),
                REASON => Arc::new(StringArray::from_iter(rows.clone().map(reason))),
                DETAIL => Arc::new(StringArray::from_iter(rows.clone().map(detail))),
                _ => column.clone(),
            }
        };
        let columns = schema.fields().iter().zip(batch.columns()).map(column).collect();
        RecordBatch::try_new(schema.clone(), columns).map_err(PipelineError::from)
    }
}

fn is_row(kind: u8) -> bool {
    RowKind::of(kind) == RowKind::Row
}

/// A function that panics, as one does that is to pad a text to a length below 0, fails on the row like any other.
fn evaluate(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> PlanResult<ArrayRef> {
    let values = || expr.evaluate(batch)?.into_array(batch.num_rows());
    let panicked = |what: Box<dyn std::any::Any + Send>| {
        let said = what.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| what.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        Err(DataFusionError::Execution(format!("a function can't do that: {said}")))
    };
    catch_unwind(AssertUnwindSafe(values)).unwrap_or_else(panicked)
}
