//! `UnitReadExec`: from descriptions of units to their rows.
//!
//! Its input says what to read, so a scheduler that gives partitions to machines needs to know nothing of readers.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type, UInt64Type};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};
use futures::TryStreamExt;
use object_store::path::Path;
use tokio::sync::mpsc::Sender;

use super::unary::{properties, unary_methods};
use crate::PipelineError;
use crate::config::Format;
use crate::read::batch::{RowSink, Target};
use crate::read::table::Table;
use crate::read::{Input, Pick, ipc, parquet, read_rows};
use crate::units::{FilePart, InputFile, Unit};

/// The columns of a description: one row a file.
pub(crate) fn description_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("unit", DataType::Utf8, false),
        Field::new("path", DataType::Utf8, false),
        Field::new("below", DataType::Utf8, false),
        Field::new("bytes", DataType::UInt64, false),
        Field::new("e_tag", DataType::Utf8, true),
        Field::new("format", DataType::UInt32, false),
        Field::new("start", DataType::UInt64, true),
        Field::new("end", DataType::UInt64, true),
        Field::new("first_row", DataType::UInt64, true),
        Field::new("only", DataType::List(Arc::new(Field::new("item", DataType::UInt64, true))), true),
    ]))
}

const FORMATS: [Format; 7] =
    [Format::JsonLines, Format::Text, Format::Csv, Format::Parquet, Format::Arrow, Format::Tar, Format::Coco];

/// The description of a unit.
pub(crate) fn describe(unit: &Unit, files: &[InputFile]) -> Result<RecordBatch> {
    let files = &unit.inputs(files);
    let only = |file: usize| {
        let rows = unit.only.as_ref().map(|only| only.get(&(file as u32)).cloned().unwrap_or_default());
        rows.map(|rows| rows.into_iter().map(Some).collect::<Vec<_>>())
    };
    let part = |of: fn(&FilePart) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter(files.iter().map(|file| file.part.as_ref().map(of))))
    };
    fn text<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(values))
    }
    let format =
        |file: &InputFile| FORMATS.iter().position(|format| *format == file.format).unwrap_or(0) as u32;
    let columns: Vec<ArrayRef> = vec![
        text(files.iter().map(|_| unit.id.as_str())),
        text(files.iter().map(|file| file.path.as_ref())),
        text(files.iter().map(|file| file.below.as_str())),
        Arc::new(UInt64Array::from_iter_values(files.iter().map(|file| file.bytes))),
        Arc::new(StringArray::from_iter(files.iter().map(|file| file.e_tag.as_deref()))),
        Arc::new(UInt32Array::from_iter_values(files.iter().map(format))),
        part(|part| part.start),
        part(|part| part.end),
        part(|part| part.first_row),
        Arc::new(ListArray::from_iter_primitive::<UInt64Type, _, _>((0..files.len()).map(only))),
    ];
    Ok(RecordBatch::try_new(description_schema(), columns)?)
}

/// A file of a description.
#[derive(Clone)]
struct Described {
    unit: String,
    file: InputFile,
    /// The rows that are asked for; all of them if `None`.
    only: Option<Arc<BTreeSet<u64>>>,
}

/// The files of a description.
fn files(batch: &RecordBatch) -> Result<Vec<Described>> {
    let text = |column: usize| batch.column(column).as_string::<i32>();
    let number = |column: usize| batch.column(column).as_primitive::<UInt64Type>();
    let part = |row: usize| FilePart {
        start: number(6).value(row),
        end: number(7).value(row),
        first_row: number(8).value(row),
    };
    let formats = batch.column(5).as_primitive::<UInt32Type>();
    let only = |row: usize| {
        let lists = batch.column(9).as_list::<i32>();
        let rows = || lists.value(row).as_primitive::<UInt64Type>().values().iter().copied().collect();
        lists.is_valid(row).then(|| Arc::new(rows()))
    };
    let file = |row: usize| {
        let path =
            Path::parse(text(1).value(row)).map_err(|error| DataFusionError::External(Box::new(error)))?;
        let file = InputFile {
            path,
            below: text(2).value(row).to_owned(),
            bytes: number(3).value(row),
            e_tag: text(4).is_valid(row).then(|| text(4).value(row).to_owned()),
            format: FORMATS[formats.value(row) as usize % FORMATS.len()],
            part: number(6).is_valid(row).then(|| part(row)),
        };
        Ok(Described { unit: text(0).value(row).to_owned(), file, only: only(row) })
    };
    (0..batch.num_rows()).map(file).collect()
}

/// Reads units.
#[derive(Debug)]
pub(crate) struct UnitReadExec {
    source: String,
    table: Arc<Table>,
    store: Input,
    schema: SchemaRef,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl UnitReadExec {
    /// Reads the columns `schema` of `table` from what `input` describes.
    pub(crate) fn new(
        source: String,
        table: Arc<Table>,
        store: Input,
        schema: SchemaRef,
        input: Arc<dyn ExecutionPlan>,
    ) -> Self {
        let properties = properties(&input, schema.clone());
        Self { source, table, store, schema, input, properties, metrics: ExecutionPlanMetricsSet::new() }
    }

    fn over(&self, input: Arc<dyn ExecutionPlan>) -> Self {
        let (source, table, store) = (self.source.clone(), self.table.clone(), self.store.clone());
        Self::new(source, table, store, self.schema.clone(), input)
    }
}

impl DisplayAs for UnitReadExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        let names: Vec<&str> = names.into_iter().filter(|name| !name.starts_with('_')).collect();
        write!(f, "UnitReadExec: source={}, columns=[{}]", self.source, names.join(", "))
    }
}

impl ExecutionPlan for UnitReadExec {
    fn name(&self) -> &str {
        "UnitReadExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    unary_methods!();

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let consumer = MemoryConsumer::new(format!("UnitReadExec[{partition}]"));
        let memory = consumer.register(context.memory_pool());
        let descriptions = self.input.execute(partition, context)?;
        let mut builder = RecordBatchReceiverStreamBuilder::new(self.schema.clone(), 1);
        let reading = Reading {
            table: self.table.clone(),
            input: self.store.clone(),
            schema: self.schema.clone(),
            sender: builder.tx(),
            memory: Arc::new(memory),
            metrics: BaselineMetrics::new(&self.metrics, partition),
        };
        builder.spawn_blocking(move || {
            let batches: Vec<RecordBatch> = reading.input.handle.block_on(descriptions.try_collect())?;
            let files = batches.iter().map(files).collect::<Result<Vec<_>>>()?.concat();
            files
                .chunk_by(|a, b| a.unit == b.unit)
                .try_for_each(|unit| reading.clone().unit(unit).map(|_| ()))
                .map_err(PipelineError::into_plan)
        });
        Ok(builder.build())
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

#[derive(Clone)]
struct Reading {
    table: Arc<Table>,
    input: Input,
    schema: SchemaRef,
    sender: Sender<Result<RecordBatch>>,
    memory: Arc<MemoryReservation>,
    metrics: BaselineMetrics,
}

impl Reading {
    /// Gives a batch on; `false` if nobody wants it any more.
    fn send(&self, batch: RecordBatch) -> Result<bool, PipelineError> {
        self.metrics.record_output(batch.num_rows());
        Ok(self.sender.blocking_send(Ok(batch)).is_ok())
    }

    fn unit(mut self, files: &[Described]) -> Result<bool, PipelineError> {
        let Some(last) = files.last() else { return Ok(true) };
        self.input = self.input.of_unit(&last.unit);
        let mut read = 0;
        for (index, described) in files.iter().enumerate() {
            if described.only.as_ref().is_some_and(|only| only.is_empty()) {
                continue;
            }
            let (rows, more) = self.file(&described.file, self.target(described, index))?;
            read += rows;
            if !more {
                return Ok(false);
            }
        }
        self.send(self.target(last, 0).end(read)?)
    }

    fn target(&self, described: &Described, index: usize) -> Target {
        let path = described.file.path.as_ref();
        Target {
            table: self.table.clone(),
            schema: self.schema.clone(),
            unit: described.unit.clone(),
            file: index as u32,
            folder: path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned(),
            only: described.only.clone(),
        }
    }

    fn file(&self, file: &InputFile, target: Target) -> Result<(u64, bool), PipelineError> {
        let mut emit = |batch| self.send(batch);
        match file.format {
            Format::Parquet => return parquet::read(&self.input, file, &target, &mut emit),
            Format::Arrow => return ipc::read(&self.input, file, &target, &self.memory, &mut emit),
            _ => {}
        }
        let pick = Pick::Only(self.table.needed(&self.schema));
        let images = self.table.wants_images(&self.schema);
        let only = target.only.clone();
        let mut sink = RowSink::new(target, &self.input, &mut emit);
        let (mut more, mut left) = (true, only.as_ref().map(|only| only.len()));
        read_rows(&self.input, file, &pick, images, &mut |row| {
            if only.as_ref().is_some_and(|only| !only.contains(&row.row)) {
                return Ok(true);
            }
            more = sink.push(row)?;
            left = left.map(|left| left.saturating_sub(1));
            // Behind the last row that is asked for the file is done with.
            Ok(more && left != Some(0))
        })?;
        let (rows, last) = sink.finish()?;
        Ok((rows, more && last))
    }
}
