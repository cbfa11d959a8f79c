//! `LookupExec`: the columns of a joined table beside the rows of a source.
//!
//! A key has one row of the table at most, so every row of the source stays where it is and none is added; a batch
//! leaves as it came, with further columns. (DataFusion's own hash join gathers rows until it has a whole batch of
//! them, however long they are, and puts rows without a match behind the others.) The table is read by DataFusion once
//! for all units of a plan, when the first row comes, and its memory is reserved as long as the plan lives.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, AsArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt;
use tokio::runtime::Handle;

use super::runtime::Runtime;
use crate::PipelineError;
use crate::engine::stage::{Operator, Partition, Work};

/// Looks rows up.
#[derive(Clone)]
pub(crate) struct Lookup {
    /// Name of the table, and of the columns of the source that are its keys.
    pub(crate) name: String,
    pub(crate) keys: Vec<String>,
    /// The keys of a row of the source, as texts.
    pub(crate) own: Vec<Arc<dyn PhysicalExpr>>,
    /// Which keys of the source, and of the table, are floats.
    floats: [Vec<bool>; 2],
    /// The table in one partition: as many columns of keys, then those that are asked for.
    pub(crate) table: Arc<dyn ExecutionPlan>,
    /// The columns of the source, then those of the table.
    schema: SchemaRef,
    /// Of this process, for all partitions.
    loaded: Arc<Mutex<Option<Arc<Loaded>>>>,
}

/// A table in memory.
struct Loaded {
    /// The columns that are asked for.
    rows: RecordBatch,
    /// The row of each key.
    places: HashMap<u128, u32>,
    _memory: MemoryReservation,
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").field("name", &self.name).field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl Lookup {
    pub(crate) fn new(
        (name, keys): (String, Vec<String>),
        (own, source): (Vec<Arc<dyn PhysicalExpr>>, SchemaRef),
        floats: [Vec<bool>; 2],
        table: Arc<dyn ExecutionPlan>,
    ) -> Self {
        let given = table.schema();
        let further =
            given.fields()[own.len()..].iter().map(|field| field.as_ref().clone().with_nullable(true));
        let fields = source.fields().iter().map(|field| field.as_ref().clone()).chain(further);
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Self { name, keys, own, floats, table, schema, loaded: Arc::default() }
    }

    /// The table, which whoever comes first loads. Blocks.
    fn table(&self, runtime: &Runtime) -> Result<Arc<Loaded>, PipelineError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = &*loaded {
            return Ok(table.clone());
        }
        let table = Arc::new(Handle::current().block_on(self.load(runtime))?);
        *loaded = Some(table.clone());
        Ok(table)
    }

    async fn load(&self, runtime: &Runtime) -> Result<Loaded, PipelineError> {
        let context = runtime.session()?.task_ctx();
        let memory = MemoryConsumer::new("LookupExec").register(&runtime.memory.pool());
        let mut stream = self.table.execute(0, context)?;
        let (mut batches, mut places, mut row) = (Vec::new(), HashMap::new(), 0);
        while let Some(batch) = stream.try_next().await? {
            let keys: Vec<&StringArray> =
                (0..self.own.len()).map(|column| batch.column(column).as_string::<i32>()).collect();
            for place in 0..batch.num_rows() {
                if let Some(key) = key_of(&keys, &self.floats[1], place) {
                    places.insert(key, row + place as u32);
                }
            }
            row += batch.num_rows() as u32;
            let columns: Vec<usize> = (self.own.len()..batch.num_columns()).collect();
            let batch = batch.project(&columns)?;
            // Once as it comes, once as it stays, and the places of its keys.
            memory.try_grow(2 * batch.get_array_memory_size() + 64 * batch.num_rows())?;
            batches.push(batch);
        }
        let columns: Vec<usize> = (self.own.len()..self.table.schema().fields().len()).collect();
        let schema = Arc::new(self.table.schema().project(&columns)?);
        let rows = concat_batches(&schema, &batches)?;
        drop(batches);
        memory.try_resize(rows.get_array_memory_size() + 64 * rows.num_rows())?;
        Ok(Loaded { rows, places, _memory: memory })
    }
}

/// The hash of a row's keys, if it has them all.
pub(crate) fn key_of(keys: &[&StringArray], floats: &[bool], row: usize) -> Option<u128> {
    let mut values = Vec::with_capacity(keys.len());
    for (key, is_float) in keys.iter().zip(floats) {
        let value = key.is_valid(row).then(|| key.value(row))?;
        // Whole numbers are floats where a column has nulls too, as pandas writes them.
        values.push(value.strip_suffix(".0").filter(|_| *is_float).unwrap_or(value));
    }
    Some(key_hash(&values))
}

/// What stands for the keys of a row.
fn key_hash(keys: &[&str]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    for key in keys {
        hasher.update(&(key.len() as u64).to_le_bytes()).update(key.as_bytes());
    }
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    u128::from_le_bytes(hash)
}

impl Operator for Lookup {
    fn name(&self) -> &'static str {
        "LookupExec"
    }

    fn describe(&self) -> String {
        let given = &self.table.schema();
        let columns: Vec<&str> =
            given.fields()[self.own.len()..].iter().map(|field| field.name().as_str()).collect();
        format!("table={}, on=[{}], columns=[{}]", self.name, self.keys.join(", "), columns.join(", "))
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn start(&self, partition: &Partition<'_>) -> Result<Box<dyn Work>, PipelineError> {
        Ok(Box::new(LookupWork { operator: self.clone(), runtime: Runtime::of(partition.task)? }))
    }
}

struct LookupWork {
    operator: Lookup,
    runtime: Arc<Runtime>,
}

impl Work for LookupWork {
    fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, PipelineError> {
        let Self { operator, runtime } = self;
        let table = operator.table(runtime)?;
        let own = operator.own.iter().map(|key| key.evaluate(&batch)?.into_array(batch.num_rows()));
        let own = own.collect::<datafusion::error::Result<Vec<_>>>()?;
        let own: Vec<&StringArray> = own.iter().map(|key| key.as_string::<i32>()).collect();
        let place =
            |row| key_of(&own, &operator.floats[0], row).and_then(|key| table.places.get(&key).copied());
        let places: UInt32Array = (0..batch.num_rows()).map(place).collect();
        let mut columns = batch.columns().to_vec();
        for column in table.rows.columns() {
            columns.push(take(column, &places, None)?);
        }
        Ok(vec![RecordBatch::try_new(operator.schema.clone(), columns)?])
    }
}
