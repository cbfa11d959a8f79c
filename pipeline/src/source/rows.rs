//! The part of a plan that gives the rows of a source, filtered, with the columns of its shape.

use std::sync::Arc;

use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::empty::EmptyTable;
use datafusion::logical_expr::{Expr, lit};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::prelude::{SessionContext, ident};

use super::SourcePlan;
use super::clause::Clause;
use super::joined::JoinedTable;
use super::table::SourceTable;
use crate::PipelineError;
use crate::config::{Format, Shape};
use crate::engine::session::{TEXT_ROWS, session};
use crate::operators::picture_rows::PictureRowsExec;
use crate::operators::sql::row_by_row;
use crate::operators::unit_read::describe;
use crate::read::batch::PICTURE_ROWS;
use crate::row::columns::{
    ID, KIND, RowKind, SINGLE_CAPTION, pictures_type, system_fields, texts_type, visible,
};
use crate::units::{InputFile, Unit};

/// Which columns of a source are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    /// All that a document needs.
    Document,
    /// Texts only, to learn a vocabulary from.
    Texts,
}

impl SourcePlan {
    /// Sees that expressions ask for no column that files have in types that don't go together.
    fn check_united<'a>(&self, exprs: impl IntoIterator<Item = &'a Expr>) -> Result<(), PipelineError> {
        let clashes = &self.table.clashes;
        if clashes.is_empty() {
            return Ok(());
        }
        let keys = self.join.iter().flat_map(|join| join.own_keys());
        let asked = exprs.into_iter().flat_map(Expr::column_refs).map(|column| column.name.as_str());
        // The id is a text whatever it is in the files.
        let asked = asked.chain(keys).filter(|name| *name != ID);
        let fields: Vec<Field> = asked.map(|name| Field::new(name, DataType::Null, true)).collect();
        let roots = self.table.needed(&Schema::new(fields));
        match clashes.iter().find(|clash| roots.contains(&clash.column)) {
            Some(clash) => Err(clash.error(&self.config.name)),
            None => Ok(()),
        }
    }

    /// The plan that gives these units' rows, filtered, with the columns of the shape. A unit is a partition.
    pub(crate) async fn rows(
        &self,
        units: &[Unit],
        columns: Columns,
    ) -> Result<Arc<dyn ExecutionPlan>, PipelineError> {
        let images = self.config.shape.has_images() && columns == Columns::Document;
        let context = session(if images { PICTURE_ROWS } else { TEXT_ROWS })?;
        let descriptions = units
            .iter()
            .map(|unit| describe(unit, &self.listing.files).map(|batch| vec![batch]))
            .collect::<Result<_, _>>()?;
        context.register_table("source", Arc::new(EmptyTable::new(Arc::new(self.visible()))))?;
        let filter = match self.filter() {
            Some(sql) => Some(self.clause("where").condition(sql, &context).await?),
            None => None,
        };
        let wanted = self.wanted(&context, columns).await?;
        self.check_united(filter.iter().chain(&wanted))?;
        context.deregister_table("source")?;
        let (source, table) = (self.config.name.clone(), self.table.clone());
        let own = SourceTable { source, table, descriptions };
        let provider: Arc<dyn TableProvider> = match &self.join {
            Some(join) => Arc::new(JoinedTable::new(own, join.clone())),
            None => Arc::new(own),
        };
        context.register_table("source", provider)?;
        let mut frame = context.table("source").await?;
        if let Some(condition) = filter {
            // Refused rows and the ends of units pass every filter.
            frame = frame.filter(ident(KIND).not_eq(lit(RowKind::Row as u8)).or(condition))?;
        }
        let own = system_fields().into_iter().map(|field| ident(field.name()));
        let frame = frame.select(own.chain(wanted).collect::<Vec<_>>())?;
        let clause = if self.select().is_some() { "select" } else { "where" };
        let plan = frame.create_physical_plan().await.map_err(|error| self.clause(clause).failed(&error))?;
        let plan = row_by_row(plan, clause)?.transform_up(filter_as_it_comes)?.data;
        Ok(if images { Arc::new(PictureRowsExec::new(plan)) } else { plan })
    }

    /// The SQL of the source. Of files without a row nobody knows the columns that it names, and there is nothing to
    /// apply it to.
    fn filter(&self) -> Option<&str> {
        self.config.filter.as_deref().filter(|_| !self.is_empty)
    }

    fn select(&self) -> Option<&str> {
        self.config.select.as_deref().filter(|_| !self.is_empty)
    }

    /// The columns that SQL can name.
    fn visible(&self) -> Schema {
        let joined = self.join.iter().flat_map(|join| &join.fields);
        Schema::new(self.table.visible_fields().chain(joined).cloned().collect::<Vec<_>>())
    }

    fn clause(&self, name: &'static str) -> Clause {
        let available = visible(self.visible().fields().iter().map(AsRef::as_ref));
        Clause { source: self.config.name.clone(), name, available }
    }

    /// The columns that are needed of those that `select` gives, or that the keys name.
    async fn wanted(&self, context: &SessionContext, columns: Columns) -> Result<Vec<Expr>, PipelineError> {
        let wanted: &[&str] = match (self.config.shape, columns) {
            (Shape::Text, _) => &["text", "id"],
            (Shape::Pair, Columns::Document) => &["caption", SINGLE_CAPTION, "image", "id"],
            (Shape::Pair, Columns::Texts) => &["caption", SINGLE_CAPTION, "id"],
            (Shape::Interleaved, Columns::Document) => &["texts", "images", "id"],
            (Shape::Interleaved, Columns::Texts) => &["texts", "id"],
        };
        let Some(select) = self.select() else { return self.named_by_keys(wanted) };
        let clause = self.clause("select");
        let (mut given, schema) = clause.columns(select, context).await?;
        for expr in &mut given {
            self.id_as_text(expr);
        }
        self.check_united(&given)?;
        let place = |name: &str| schema.fields().iter().position(|field| field.name() == name);
        // The list stands before the caption where it is asked for.
        let is_list = |at: &usize| can_be("texts", schema.field(*at).data_type());
        let list = self.config.captions.and_then(|_| place("captions")).filter(is_list);
        let mut exprs = Vec::with_capacity(wanted.len());
        for name in wanted {
            let at = match (*name, list) {
                ("caption", Some(list)) => Some(list),
                (SINGLE_CAPTION, Some(_)) => place("caption"),
                _ => place(name),
            };
            let Some(at) = at else {
                if ["id", SINGLE_CAPTION].contains(name) {
                    continue;
                }
                let shape = self.config.shape.name();
                let what = format!("it gives no column `{name}`, which the shape `{shape}` needs");
                return Err(clause.unusable(what, "name what it gives: `body as text`"));
            };
            let of = schema.field(at).data_type();
            if !can_be(name, of) {
                let what = format!("its column `{name}` is {of}, which is no {}", meant(name));
                return Err(clause.unusable(what, "make another of it with an expression"));
            }
            exprs.push(if schema.field(at).name() == name {
                given[at].clone()
            } else {
                given[at].clone().alias(*name)
            });
        }
        Ok(exprs)
    }

    /// Puts the text that an id is in the place of the id's column, where that is given as it is.
    fn id_as_text(&self, expr: &mut Expr) {
        let column = match &*expr {
            Expr::Alias(alias) if alias.name == "id" => &*alias.expr,
            Expr::Column(column) if column.name == "id" => expr,
            _ => return,
        };
        if let Expr::Column(column) = column
            && self.table.id.as_ref() == Some(&column.name)
        {
            *expr = ident(ID).alias("id");
        }
    }

    fn named_by_keys(&self, wanted: &[&str]) -> Result<Vec<Expr>, PipelineError> {
        let known = self.visible();
        let mut exprs = Vec::with_capacity(wanted.len());
        for (name, column) in &self.table.parts {
            if known.field_with_name(column).is_err() && column != ID {
                if *name == "caption"
                    && self.config.caption.is_none()
                    && let Some(file) = self.uncaptioned()
                {
                    let (name, path) = (self.config.name.clone(), file.below.clone());
                    return Err(PipelineError::NoCaptions { name, path, coco: file.format == Format::Coco });
                }
                // The image of a pair is always there: the table has been made around it.
                return Err(self.no_column(column, name));
            }
            if wanted.contains(name) {
                exprs.push(ident(column).alias(*name));
            }
        }
        Ok(exprs)
    }

    /// The first file of a source whose files have captions or not, whatever their columns are called.
    fn uncaptioned(&self) -> Option<&InputFile> {
        let has_captions = |file: &&InputFile| matches!(file.format, Format::Coco | Format::Pictures);
        self.listing.files.first().filter(has_captions)
    }

    pub(super) fn no_column(&self, column: &str, key: &str) -> PipelineError {
        tracing::debug!(source = self.config.name, key, column, "column is absent");
        PipelineError::NoColumn {
            name: self.config.name.clone(),
            column: column.to_owned(),
            available: self.clause("select").available,
        }
    }
}

/// Whether values of this type can become what a column of that name is.
fn can_be(name: &str, of: &DataType) -> bool {
    let is_list = matches!(of, DataType::List(_) | DataType::LargeList(_));
    match name {
        "image" => can_cast_types(of, &DataType::Binary),
        "texts" => is_list && can_cast_types(of, &texts_type()),
        "images" => is_list && can_cast_types(of, &pictures_type()),
        "caption" if is_list => can_cast_types(of, &texts_type()),
        _ => !of.is_nested() && can_cast_types(of, &DataType::Utf8),
    }
}

fn meant(name: &str) -> &'static str {
    match name {
        "image" => "picture",
        "texts" => "list of texts",
        "images" => "list of pictures",
        _ => "text",
    }
}

/// A filter otherwise waits until it has as many rows as a batch is asked to have, however long the rows are.
fn filter_as_it_comes(
    node: Arc<dyn ExecutionPlan>,
) -> datafusion::error::Result<Transformed<Arc<dyn ExecutionPlan>>> {
    match node.downcast_ref::<FilterExec>() {
        Some(filter) => Ok(Transformed::yes(Arc::new(filter.with_batch_size(1)?))),
        None => Ok(Transformed::no(node)),
    }
}
