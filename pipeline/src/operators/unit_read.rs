//! `UnitReadExec`: from descriptions of units to their rows.
//!
//! Its input says what to read, so a scheduler that gives partitions to machines needs to know nothing of readers.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, RecordBatch, StringArray, StructArray, UInt32Array, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, UInt32Type, UInt64Type};
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::memory_pool::MemoryConsumer;
use object_store::path::Path;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::runtime::Runtime;
use crate::PipelineError;
use crate::config::Format;
use crate::engine::stage::{Operator, Partition, Work};
use crate::host::threads;
use crate::read::ahead::{AHEAD_BYTES, Ahead};
use crate::read::batch::{BATCH_BYTES, Target};
use crate::read::row_sink::RowSink;
use crate::read::table::Table;
use crate::read::{Input, Pick, ipc, parquet, read_rows};
use crate::row::columns::{ID, is_own};
use crate::units::{FilePart, InputFile, Unit};

/// The columns of a description: one row a unit, which DataFusion can't cut, however many files it has.
pub(crate) fn description_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("unit", DataType::Utf8, false),
        Field::new("files", DataType::List(file_item()), false),
    ]))
}

fn file_item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Struct(file_fields()), false))
}

fn file_fields() -> Fields {
    Fields::from(vec![
        Field::new("path", DataType::Utf8, false),
        Field::new("below", DataType::Utf8, false),
        Field::new("bytes", DataType::UInt64, false),
        Field::new("e_tag", DataType::Utf8, true),
        Field::new("format", DataType::UInt32, false),
        Field::new("start", DataType::UInt64, true),
        Field::new("end", DataType::UInt64, true),
        Field::new("first_row", DataType::UInt64, true),
        Field::new("only", DataType::List(Arc::new(Field::new("item", DataType::UInt64, true))), true),
    ])
}

const FORMATS: [Format; 9] = [
    Format::JsonLines,
    Format::Text,
    Format::Csv,
    Format::Parquet,
    Format::Arrow,
    Format::Tar,
    Format::Coco,
    Format::Pictures,
    Format::Warc,
];

/// The description of a unit.
pub(crate) fn describe(unit: &Unit, files: &[InputFile]) -> PlanResult<RecordBatch> {
    let files = &unit.inputs(files);
    let only = |file: usize| {
        let rows = unit.only.as_ref().map(|only| only.get(&(file as u32)).cloned().unwrap_or_default());
        rows.map(|rows| rows.into_iter().map(Some).collect::<Vec<_>>())
    };
    let part = |of: fn(&FilePart) -> Option<u64>| -> ArrayRef {
        Arc::new(UInt64Array::from_iter(files.iter().map(|file| file.part.as_ref().and_then(of))))
    };
    fn text<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(values))
    }
    let format =
        |file: &InputFile| FORMATS.iter().position(|format| *format == file.format).unwrap_or(0) as u32;
    let columns: Vec<ArrayRef> = vec![
        text(files.iter().map(|file| file.path.as_ref())),
        text(files.iter().map(|file| file.below.as_str())),
        Arc::new(UInt64Array::from_iter_values(files.iter().map(|file| file.bytes))),
        Arc::new(StringArray::from_iter(files.iter().map(|file| file.e_tag.as_deref()))),
        Arc::new(UInt32Array::from_iter_values(files.iter().map(format))),
        part(|part| Some(part.start)),
        part(|part| Some(part.end)),
        part(|part| part.first_row),
        Arc::new(ListArray::from_iter_primitive::<UInt64Type, _, _>((0..files.len()).map(only))),
    ];
    let offsets = OffsetBuffer::from_lengths([files.len()]);
    let files = StructArray::try_new(file_fields(), columns, None)?;
    let files = ListArray::try_new(file_item(), offsets, Arc::new(files), None)?;
    Ok(RecordBatch::try_new(description_schema(), vec![text(std::iter::once(&*unit.id)), Arc::new(files)])?)
}

/// A file of a description.
#[derive(Clone)]
struct Described {
    file: InputFile,
    /// The rows that are asked for; all of them if `None`.
    only: Option<Arc<BTreeSet<u64>>>,
}

/// The units of a description, with their files.
fn units(batch: &RecordBatch) -> PlanResult<Vec<(String, Vec<Described>)>> {
    let (names, lists) = (batch.column(0).as_string::<i32>(), batch.column(1).as_list::<i32>());
    let unit = |row| Ok((names.value(row).to_owned(), files(lists.value(row).as_struct())?));
    (0..batch.num_rows()).map(unit).collect()
}

fn files(files: &StructArray) -> PlanResult<Vec<Described>> {
    let text = |column: usize| files.column(column).as_string::<i32>();
    let number = |column: usize| files.column(column).as_primitive::<UInt64Type>();
    let part = |row: usize| FilePart {
        start: number(5).value(row),
        end: number(6).value(row),
        first_row: number(7).is_valid(row).then(|| number(7).value(row)),
    };
    let formats = files.column(4).as_primitive::<UInt32Type>();
    let only = |row: usize| {
        let lists = files.column(8).as_list::<i32>();
        let rows = || lists.value(row).as_primitive::<UInt64Type>().values().iter().copied().collect();
        lists.is_valid(row).then(|| Arc::new(rows()))
    };
    let file = |row: usize| {
        let path =
            Path::parse(text(0).value(row)).map_err(|error| DataFusionError::External(Box::new(error)))?;
        let file = InputFile {
            path,
            below: text(1).value(row).to_owned(),
            bytes: number(2).value(row),
            e_tag: text(3).is_valid(row).then(|| text(3).value(row).to_owned()),
            format: FORMATS[formats.value(row) as usize % FORMATS.len()],
            part: number(5).is_valid(row).then(|| part(row)),
        };
        Ok(Described { file, only: only(row) })
    };
    (0..files.len()).map(file).collect()
}

/// Reads units. A reader calls whoever wants its rows, so it has a thread of its own that is one batch ahead.
#[derive(Clone, Debug)]
pub(crate) struct UnitRead {
    /// Name of the source, whose input the runtime has.
    pub(crate) source: String,
    pub(crate) table: Arc<Table>,
    /// The columns of `table` that are asked for.
    pub(crate) schema: SchemaRef,
}

/// The rows of a batch as they are read, as columns, and on their way. The reader reserves what it fetches ahead.
const HELD_BYTES: usize = 3 * BATCH_BYTES;

impl Operator for UnitRead {
    fn name(&self) -> &'static str {
        "UnitReadExec"
    }

    fn describe(&self) -> String {
        let names = self.schema.fields().iter().map(|field| field.name().as_str());
        let names =
            names.map(|name| if name == ID { self.table.id.as_deref().unwrap_or(name) } else { name });
        let names: Vec<&str> = names.filter(|name| !is_own(name)).collect();
        format!("source={}, columns=[{}]", self.source, names.join(", "))
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn start(&self, partition: &Partition<'_>) -> Result<Box<dyn Work>, PipelineError> {
        let input = Runtime::of(partition.task)?.input(&self.source)?.clone();
        Ok(Box::new(ReadingUnits { operator: self.clone(), input, running: None }))
    }
}

struct ReadingUnits {
    operator: UnitRead,
    input: Input,
    running: Option<OpenUnits>,
}

struct OpenUnits {
    batches: Receiver<RecordBatch>,
    reader: threads::Running<Result<(), PipelineError>>,
}

impl Work for ReadingUnits {
    fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, PipelineError> {
        let units = units(&batch)?;
        let (sender, batches) = channel(1);
        let unit_reader = UnitReader { operator: self.operator.clone(), input: self.input.clone(), sender };
        let reader = threads::spawn(move || unit_reader.units(units))?;
        self.running = Some(OpenUnits { batches, reader });
        Ok(Vec::new())
    }

    fn has_rest(&self) -> bool {
        self.running.is_some()
    }

    fn rest(&mut self) -> Result<Vec<RecordBatch>, PipelineError> {
        let Some(running) = &mut self.running else { return Ok(Vec::new()) };
        if let Some(batch) = running.batches.blocking_recv() {
            return Ok(vec![batch]);
        }
        self.running.take().map_or(Ok(()), |running| running.reader.join()).map(|()| Vec::new())
    }

    /// Rows beyond the size of a batch are taken from a share of their own.
    fn held(&self, _: usize) -> usize {
        if self.running.is_some() { HELD_BYTES } else { 0 }
    }
}

struct UnitReader {
    operator: UnitRead,
    input: Input,
    sender: Sender<RecordBatch>,
}

impl UnitReader {
    /// Gives a batch on; `false` if nobody wants it any more.
    fn send(&self, batch: RecordBatch) -> Result<bool, PipelineError> {
        Ok(self.sender.blocking_send(batch).is_ok())
    }

    fn units(&self, units: Vec<(String, Vec<Described>)>) -> Result<(), PipelineError> {
        units.into_iter().try_for_each(|(unit, files)| self.unit(&unit, &files).map(|_| ()))
    }

    fn unit(&self, unit: &str, files: &[Described]) -> Result<bool, PipelineError> {
        let Some(last) = files.last() else { return Ok(true) };
        let UnitRead { table, schema, .. } = &self.operator;
        let input = self.input.of_unit(unit, table.wants_images(schema))?;
        let budget = input.memory.budget("files that are fetched", AHEAD_BYTES)?;
        let wanted = |described: &Described| described.only.as_ref().is_none_or(|only| !only.is_empty());
        // Of a sample nobody knows how many files it needs.
        let mut ahead = input.sample.is_none().then(|| {
            let files = files.iter().filter(|described| wanted(described));
            Ahead::new(&input, budget.clone(), files.map(|described| described.file.clone()).collect())
        });
        let mut read = 0;
        for (index, described) in files.iter().enumerate().filter(|(_, described)| wanted(described)) {
            let input = match &mut ahead {
                Some(ahead) => ahead.next(&input)?,
                None => input.clone(),
            };
            let (rows, more) = self.file(&input, &described.file, self.target(unit, described, index))?;
            read += rows;
            if !more {
                return Ok(false);
            }
            if input.is_enough() {
                break;
            }
        }
        self.send(self.target(unit, last, 0).end(read)?)
    }

    fn target(&self, unit: &str, described: &Described, index: usize) -> Target {
        Target {
            table: self.operator.table.clone(),
            schema: self.operator.schema.clone(),
            unit: unit.to_owned(),
            file: index as u32,
            folder: self.input.folder_of(&described.file),
            only: described.only.clone(),
        }
    }

    fn file(&self, input: &Input, file: &InputFile, target: Target) -> Result<(u64, bool), PipelineError> {
        let UnitRead { table, schema, .. } = &self.operator;
        let mut emit = |batch| self.send(batch);
        let file = &input.numbered(file)?;
        match file.format {
            Format::Parquet => return parquet::read(input, file, &target, &mut emit),
            Format::Arrow => {
                let memory = MemoryConsumer::new("UnitReadExec").register(&input.memory.pool());
                return ipc::read(input, file, &target, &memory, &mut emit);
            }
            _ => {}
        }
        let pick = Pick::Only(table.needed(schema));
        let images = table.wants_images(schema);
        let only = target.only.clone();
        let mut sink = RowSink::new(target, input, file.format, &mut emit);
        let (mut more, mut left) = (true, only.as_ref().map(|only| only.len()));
        read_rows(input, file, &pick, images, &mut |row| {
            if only.as_ref().is_some_and(|only| !only.contains(&row.row)) {
                return Ok(true);
            }
            more = sink.push(row)?;
            left = left.map(|left| left.saturating_sub(1));
            if let Some(sample) = &input.sample {
                sample.add_rows(1);
            }
            // Behind the last row that is asked for the file is done with.
            Ok(more && left != Some(0) && !input.is_enough())
        })?;
        let (rows, last) = sink.finish()?;
        Ok((rows, more && last))
    }
}
