//! The SQL of a source: its `where` and `select` as expressions over the columns of one row.
//!
//! A clause is planned by itself, over a table that has the columns a person knows and none of ours. Nothing but
//! expressions is taken from that plan, so no clause reaches our columns or brings a step of its own into the job. What
//! is wrong with a clause shows here, before a row is read; what is wrong with the value of a row shows in
//! [`crate::operators::sql`].

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Volatility};
use datafusion::prelude::SessionContext;

use crate::PipelineError;
use crate::host::error::root_cause;

const ONE_ROW: &str = "aggregates, window functions, subqueries and `unnest` see more than one row: compute what they give \
                       before, and add it with `join`";
const REPEATABLE: &str = "the same input gives the same dataset: compute such a value before, as a column of the source or of \
                          a table for `join`";
const TRUE_OR_FALSE: &str = "a row is kept where it is true: compare with something, as in `score > 0.5`";
const SYNTAX: &str =
    "texts stand in single quotes; names stand in double quotes where they are no plain words";
const TRY_CAST: &str =
    "`try_cast(x as int)` is null where `x` is no number, `nullif(x, 0)` is null where it is 0";
const ONCE: &str = "a name is given once: `* exclude (text), upper(text) as text`";
const TYPES: &str =
    "change a type with `cast(x as varchar)` or `try_cast(x as double)`; functions are those of DataFusion";

/// A clause of a source's SQL.
#[derive(Clone, Debug)]
pub(crate) struct Clause {
    /// Name of the source.
    pub(crate) source: String,
    /// `where` or `select`.
    pub(crate) name: &'static str,
    /// The columns that it can name.
    pub(crate) available: Vec<String>,
}

impl Clause {
    /// The condition of a `where` over the table `source` of the session.
    pub(crate) async fn condition(&self, sql: &str, context: &SessionContext) -> Result<Expr, PipelineError> {
        let failed = |error| self.failed(&error);
        let frame = context.table("source").await?;
        let condition = frame.parse_sql_expr(sql).map_err(failed)?;
        self.check(&condition)?;
        let of = condition.get_type(frame.schema()).map_err(failed)?;
        if !matches!(of, DataType::Boolean | DataType::Null) {
            return Err(self.unusable(format!("it is {of}, expected true or false"), TRUE_OR_FALSE));
        }
        let filtered = frame.filter(condition.clone()).map_err(failed)?;
        let plan = filtered.into_optimized_plan().map_err(failed)?;
        self.check_constants(&plan, &context.state())?;
        Ok(condition)
    }

    /// The columns of a `select` over the table `source` of the session, and their names and types.
    pub(crate) async fn columns(
        &self,
        sql: &str,
        context: &SessionContext,
    ) -> Result<(Vec<Expr>, DFSchema), PipelineError> {
        let failed = |error| self.failed(&error);
        let state = context.state();
        let plan = state.create_logical_plan(&format!("SELECT {sql}\nFROM source")).await.map_err(failed)?;
        let LogicalPlan::Projection(projection) = &plan else { return Err(self.more_rows()) };
        if !matches!(&*projection.input, LogicalPlan::TableScan(_)) {
            return Err(self.more_rows());
        }
        projection.expr.iter().try_for_each(|column| self.check(column))?;
        self.check_constants(&state.optimize(&plan).map_err(failed)?, &state)?;
        Ok((projection.expr.clone(), projection.schema.as_ref().clone()))
    }

    /// Sees that an expression is a function of one row and of nothing else.
    fn check(&self, expr: &Expr) -> Result<(), PipelineError> {
        let mut found = Ok(());
        let visited = expr.apply(|node| {
            found = self.check_node(node);
            Ok(if found.is_ok() { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
        });
        visited.map_err(|error| self.failed(&error))?;
        found
    }

    fn check_node(&self, node: &Expr) -> Result<(), PipelineError> {
        match node {
            Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
                let what = format!("`{}` gives something else in every run", call.func.name());
                Err(self.unusable(what, REPEATABLE))
            }
            Expr::AggregateFunction(_)
            | Expr::WindowFunction(_)
            | Expr::GroupingSet(_)
            | Expr::Unnest(_)
            | Expr::Exists(_)
            | Expr::InSubquery(_)
            | Expr::SetComparison(_)
            | Expr::ScalarSubquery(_)
            | Expr::OuterReferenceColumn(..) => Err(self.more_rows()),
            Expr::Placeholder(_) | Expr::ScalarVariable(..) => {
                Err(self.unusable(format!("there is no value for `{node}`"), SYNTAX))
            }
            _ => Ok(()),
        }
    }

    /// Sees that what depends on no column has a value: it would fail on every row. DataFusion has put values in the place
    /// of what has one.
    fn check_constants(&self, plan: &LogicalPlan, state: &SessionState) -> Result<(), PipelineError> {
        let mut failure = None;
        let visited = plan.apply(|node| {
            node.apply_expressions(|expr| {
                expr.apply(|part| {
                    match part {
                        // What a condition or a lambda stands before may never be asked for.
                        Expr::Case(_) | Expr::HigherOrderFunction(_) => return Ok(TreeNodeRecursion::Jump),
                        Expr::BinaryExpr(_) | Expr::Cast(_) | Expr::ScalarFunction(_)
                            if !part.any_column_refs() =>
                        {
                            failure = failure.take().or(evaluate(part, state).err());
                        }
                        _ => return Ok(TreeNodeRecursion::Continue),
                    }
                    Ok(TreeNodeRecursion::Jump)
                })
            })
        });
        visited.map_err(|error| self.failed(&error))?;
        failure.map_or(Ok(()), |error| Err(self.unusable(root_cause(&error), TRY_CAST)))
    }

    fn more_rows(&self) -> PipelineError {
        self.unusable("only expressions over the columns of one row are possible".to_owned(), ONE_ROW)
    }

    pub(crate) fn unusable(&self, what: String, hint: &'static str) -> PipelineError {
        PipelineError::Sql { name: self.source.clone(), clause: self.name, what, hint }
    }

    /// What DataFusion has against it.
    pub(crate) fn failed(&self, error: &DataFusionError) -> PipelineError {
        match missing_field(error) {
            Some(column) => PipelineError::NoColumn {
                name: self.source.clone(),
                column,
                available: self.available.clone(),
            },
            None if names_table(error) => self.more_rows(),
            None => self.unusable(root_cause(error), hint(error)),
        }
    }
}

/// Computes what depends on no column.
fn evaluate(constant: &Expr, state: &SessionState) -> Result<(), DataFusionError> {
    let one = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &one)?;
    state.create_physical_expr(constant.clone(), &DFSchema::empty())?.evaluate(&row).map(|_| ())
}

fn hint(error: &DataFusionError) -> &'static str {
    match error.find_root() {
        DataFusionError::SQL(..) => SYNTAX,
        DataFusionError::SchemaError(..) => ONCE,
        DataFusionError::Plan(said) if said.starts_with("Projections require unique") => ONCE,
        DataFusionError::ArrowError(error, _)
            if matches!(
                **error,
                ArrowError::CastError(_)
                    | ArrowError::ParseError(_)
                    | ArrowError::DivideByZero
                    | ArrowError::ArithmeticOverflow(_)
            ) =>
        {
            TRY_CAST
        }
        _ => TYPES,
    }
}

/// Whether it is about a table that is not there; the only one that is there is the source.
fn names_table(error: &DataFusionError) -> bool {
    let said = root_cause(error);
    said.starts_with("table '") && said.ends_with("not found")
}

fn missing_field(error: &DataFusionError) -> Option<String> {
    match error {
        DataFusionError::SchemaError(inner, _) => match &**inner {
            SchemaError::FieldNotFound { field, .. } => Some(field.name.clone()),
            _ => None,
        },
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => missing_field(inner),
        DataFusionError::Collection(errors) => errors.iter().find_map(missing_field),
        _ => None,
    }
}
