//! Files of both forms, whole, cut into parts, and damaged.

use arrow::array::{
    Array, AsArray, BinaryArray, DictionaryArray, Int64Array, ListArray, StringArray, StringViewArray,
    StructArray,
};
use arrow::datatypes::{Int32Type, UInt8Type, UInt64Type};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use arrow::util::display::array_value_to_string;
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryConsumer, MemoryPool};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use proptest::prelude::*;

use super::*;
use crate::config::{Format, TextSplit};
use crate::read::table::{FoundColumns, Table};
use crate::read::united::United;
use crate::row::columns::{KIND, REASON, ROW, system_fields};

fn batch(start: i64, rows: i64) -> RecordBatch {
    let numbers = start..start + rows;
    let texts: Vec<String> = numbers.clone().map(|number| format!("text {number}")).collect();
    let lists = numbers.clone().map(|number| Some((0..number % 3).map(|item| Some(item as i32))));
    let images: Vec<Vec<u8>> = numbers.clone().map(|number| vec![number as u8; 100]).collect();
    let images: ArrayRef = Arc::new(BinaryArray::from_iter_values(images));
    let structs = StructArray::from(vec![(
        Arc::new(arrow::datatypes::Field::new("bytes", images.data_type().clone(), true)),
        images,
    )]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("n", Arc::new(Int64Array::from_iter_values(numbers.clone()))),
        ("text", Arc::new(StringArray::from(texts.clone()))),
        (
            "view",
            Arc::new(StringViewArray::from_iter_values(texts.iter().map(|text| format!("a view of {text}")))),
        ),
        ("list", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists))),
        (
            "word",
            Arc::new(
                numbers
                    .map(|number| if number % 2 == 0 { Some("even") } else { None })
                    .collect::<DictionaryArray<Int32Type>>(),
            ),
        ),
        ("image", Arc::new(structs)),
    ];
    RecordBatch::try_from_iter(columns).expect("a batch")
}

fn options(compression: Option<CompressionType>) -> IpcWriteOptions {
    IpcWriteOptions::default().try_with_compression(compression).expect("options")
}

/// Three batches of 5, 7 and 600 rows.
fn batches() -> [RecordBatch; 3] {
    [batch(0, 5), batch(5, 7), batch(12, 600)]
}

fn file_form(compression: Option<CompressionType>) -> Vec<u8> {
    let batches = batches();
    let mut writer = FileWriter::try_new_with_options(Vec::new(), &batches[0].schema(), options(compression))
        .expect("a writer");
    batches.iter().for_each(|batch| writer.write(batch).expect("writes"));
    writer.into_inner().expect("finishes")
}

fn stream_form(compression: Option<CompressionType>) -> Vec<u8> {
    let batches = batches();
    let mut writer =
        StreamWriter::try_new_with_options(Vec::new(), &batches[0].schema(), options(compression))
            .expect("a writer");
    batches.iter().for_each(|batch| writer.write(batch).expect("writes"));
    writer.into_inner().expect("finishes")
}

/// A file in a store, and what it takes to read it.
struct Case {
    input: Input,
    file: InputFile,
}

impl Case {
    async fn new(bytes: Vec<u8>) -> Self {
        let store: Arc<dyn object_store::ObjectStore> = Arc::new(InMemory::new());
        let path = Path::from("a.arrow");
        let file = InputFile {
            path: path.clone(),
            below: "a.arrow".to_owned(),
            bytes: bytes.len() as u64,
            e_tag: None,
            format: Format::Arrow,
            part: None,
        };
        store.put(&path, bytes.into()).await.expect("put");
        Self { input: Input::new(store, TextSplit::File), file }
    }

    /// Its rows as text, a refused one as `!reason`.
    async fn rows(&self, part: Option<FilePart>, memory: usize) -> Result<Vec<String>, PipelineError> {
        let (input, file) = (self.input.clone(), InputFile { part, ..self.file.clone() });
        crate::host::threads::spawn(move || rows(&input, &file, memory)).expect("a thread").await
    }

    async fn parts(&self) -> Vec<(u64, u64)> {
        let (input, file) = (self.input.clone(), self.file.clone());
        crate::host::threads::blocking(move || super::batches(&input, &file)).await.expect("reads")
    }
}

const PLENTY: usize = 1 << 33;

fn rows(input: &Input, file: &InputFile, memory: usize) -> Result<Vec<String>, PipelineError> {
    let mut united = United::default();
    if let Ok(schema) = schema(input, file)? {
        united.add(file, &schema);
    }
    let table = Arc::new(Table::plain(FoundColumns { typed: united.finish().0, ..FoundColumns::default() }));
    let target = Target {
        schema: table.schema.clone(),
        table,
        unit: "u".to_owned(),
        file: 0,
        folder: String::new(),
        only: None,
    };
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(memory));
    let reservation = MemoryConsumer::new("test").register(&pool);
    let mut rows = Vec::new();
    let mut emit = |batch: RecordBatch| {
        rows.extend((0..batch.num_rows()).map(|row| show(&batch, row)));
        Ok(true)
    };
    let (read, more) = read(input, file, &target, &reservation, &mut emit)?;
    assert!(more);
    assert_eq!(read as usize, rows.len());
    assert_eq!(pool.reserved(), 0, "what was reserved is given back");
    Ok(rows)
}

fn show(batch: &RecordBatch, row: usize) -> String {
    let number = batch[ROW].as_primitive::<UInt64Type>().value(row);
    if batch[KIND].as_primitive::<UInt8Type>().value(row) != 0 {
        return format!("{number} !{}", batch[REASON].as_string::<i32>().value(row));
    }
    let columns = batch.columns().iter().skip(system_fields().len());
    let values: Vec<String> =
        columns.map(|column| array_value_to_string(column, row).expect("a value")).collect();
    format!("{number} {}", values.join(" | "))
}

async fn expected() -> Vec<String> {
    let rows = Case::new(file_form(None)).await.rows(None, PLENTY).await.expect("reads");
    assert_eq!(rows.len(), 612);
    assert!(
        rows[13].starts_with("13 13 | text 13 | a view of text 13 | [0] |  | {bytes: 0d0d"),
        "{}",
        rows[13]
    );
    assert!(rows[14].contains(" | [0, 1] | even | "), "{}", rows[14]);
    rows
}

#[tokio::test]
async fn both_forms_have_the_same_rows_however_they_are_compressed() {
    let expected = expected().await;
    let gzip = |bytes: &[u8]| {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("writes");
        encoder.finish().expect("finishes")
    };
    let plain = stream_form(None);
    let cases = [
        file_form(Some(CompressionType::ZSTD)),
        file_form(Some(CompressionType::LZ4_FRAME)),
        stream_form(Some(CompressionType::ZSTD)),
        zstd::encode_all(plain.as_slice(), 1).expect("compresses"),
        gzip(&plain),
        gzip(&file_form(None)),
        // A stream may end without a word.
        plain[..plain.len() - 8].to_vec(),
        plain,
    ];
    for (index, bytes) in cases.into_iter().enumerate() {
        let rows = Case::new(bytes).await.rows(None, PLENTY).await.expect("reads");
        assert!(rows == expected, "case {index}: {} rows", rows.len());
    }
}

#[tokio::test]
async fn a_file_is_cut_into_parts_at_its_batches() {
    let expected = expected().await;
    let case = Case::new(file_form(Some(CompressionType::ZSTD))).await;
    let parts = case.parts().await;
    assert_eq!(parts.iter().map(|(_, rows)| *rows).collect::<Vec<_>>(), [5, 7, 600]);
    assert!(parts.iter().map(|(bytes, _)| bytes).sum::<u64>() < case.file.bytes);
    let mut rows = Vec::new();
    for (start, end, first_row) in [(0, 1, 0), (1, 3, 5)] {
        rows.extend(
            case.rows(Some(FilePart { start, end, first_row: Some(first_row) }), PLENTY)
                .await
                .expect("reads"),
        );
    }
    assert!(rows == expected);
    assert_eq!(Case::new(stream_form(None)).await.parts().await, [], "a stream has no footer");
}

#[tokio::test]
async fn what_stands_before_a_cut_is_kept_and_the_rest_is_one_reject() {
    let expected = expected().await;
    for bytes in [file_form(None), stream_form(None)] {
        let mut kept = std::collections::BTreeSet::new();
        let places = [0, 3, 7, 100].into_iter().chain((500..bytes.len() / 2).step_by(701));
        for cut in places {
            let rows = Case::new(bytes[..cut].to_vec()).await.rows(None, PLENTY).await.expect("reads");
            let (last, good) = rows.split_last().expect("a reject at least");
            assert_eq!(*last, format!("{} !bad_entry", good.len()), "cut at {cut}");
            assert!(good == &expected[..good.len()], "cut at {cut}");
            kept.insert(good.len());
        }
        assert_eq!(kept.into_iter().collect::<Vec<_>>(), [0, 5, 12]);
    }
}

/// A damaged batch used to lose all later ones as one refused row.
#[tokio::test]
async fn behind_a_damaged_batch_the_next_one_is_read() {
    let expected = expected().await;
    let bytes = file_form(None);
    let parts = Case::new(bytes.clone()).await.parts().await;
    let first = bytes.windows(6).position(|text| text == b"text 5").expect("a text of the second batch");
    // The offsets of a column of texts: they no longer grow.
    let mut damaged = bytes;
    let offsets: Vec<u8> = [0_i32, 6, 12, 18].iter().flat_map(|offset| offset.to_le_bytes()).collect();
    let place = damaged[first - 400..first].windows(offsets.len()).rposition(|bytes| *bytes == offsets);
    let place = first - 400 + place.expect("offsets of texts of 6 bytes");
    damaged[place..place + 12].fill(0xff);
    let case = Case::new(damaged).await;
    let refused: Vec<String> = (5..12).map(|row| format!("{row} !bad_entry")).collect();
    let rows = case.rows(None, PLENTY).await.expect("reads");
    assert!(rows == [&expected[..5], &refused, &expected[12..]].concat(), "{:?}", &rows[..14]);
    assert_eq!(parts.len(), 3);
    let rows =
        case.rows(Some(FilePart { start: 1, end: 3, first_row: Some(5) }), PLENTY).await.expect("reads");
    assert!(rows == [&refused, &expected[12..]].concat());
    let rows =
        case.rows(Some(FilePart { start: 1, end: 2, first_row: Some(5) }), PLENTY).await.expect("reads");
    assert_eq!(rows, refused);
}

#[tokio::test]
async fn the_first_version_of_feather_is_called_so() {
    let Case { input, file } = Case::new(b"FEA1 and so on, and so on".to_vec()).await;
    let found = crate::host::threads::spawn(move || head(&input, &file).map(drop)).expect("a thread").await;
    assert!(matches!(found, Err(Failure::Damaged(what)) if what.contains("of Feather version 1")));
}

/// A length that a file claims and does not have costs no memory; one that it has is reserved.
#[tokio::test]
async fn memory_is_reserved_for_what_is_there() {
    let case = Case::new(file_form(None)).await;
    let error = case.rows(None, 20_000).await.expect_err("a batch of 600 rows needs more");
    assert!(matches!(error, PipelineError::Memory { .. }), "{error}");
    let mut claims = stream_form(None);
    let place =
        claims.windows(8).position(|window| window == 600_i64.to_le_bytes()).expect("a number of rows");
    claims[place..place + 8].copy_from_slice(&(1_i64 << 40).to_le_bytes());
    let rows = Case::new(claims).await.rows(None, PLENTY).await.expect("reads");
    assert_eq!(rows.last().map(String::as_str), Some("12 !bad_entry"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever is damaged, nothing panics, and every row has the number of its place.
    #[test]
    fn no_damage_panics(
        form in 0_usize..3,
        places in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
        new in any::<u8>(),
        head in any::<bool>(),
    ) {
        let mut bytes = match form {
            0 => file_form(None),
            1 => file_form(Some(CompressionType::ZSTD)),
            _ => stream_form(Some(CompressionType::LZ4_FRAME)),
        };
        // Most damage should hit what describes, not the values.
        let range = if head { bytes.len().min(4000) } else { bytes.len() };
        for place in places {
            bytes[place.index(range)] = new;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let rows = runtime.block_on(async { Case::new(bytes).await.rows(None, PLENTY).await });
        let rows = rows.expect("the store is well");
        let in_place = |(place, row): (usize, &String)| row.starts_with(&format!("{place} "));
        prop_assert!(rows.iter().enumerate().all(in_place));
    }
}

#[test]
fn columns_of_no_known_type_are_refused() {
    use arrow::array::{Int32Array, RunArray};
    let runs = RunArray::<Int32Type>::try_new(&Int32Array::from(vec![2]), &Int64Array::from(vec![7]));
    let batch =
        RecordBatch::try_from_iter([("runs", Arc::new(runs.expect("runs")) as ArrayRef)]).expect("a batch");
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).expect("a writer");
    writer.write(&batch).expect("writes");
    let bytes = writer.into_inner().expect("finishes");
    let file = InputFile {
        path: Path::from("a"),
        below: "a".to_owned(),
        bytes: bytes.len() as u64,
        e_tag: None,
        format: Format::Arrow,
        part: None,
    };
    let found = Messages::open(Box::new(std::io::Cursor::new(bytes)), &file, None).map(drop);
    assert!(matches!(found, Err(Failure::Damaged(what)) if what.contains("column `runs` has a type")));
}
