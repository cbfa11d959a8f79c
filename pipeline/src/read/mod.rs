//! Reading files into rows.
//!
//! Every reader gives the same thing, a [`RawRow`] for each physical line or record, good or bad, in order. What can't
//! be used is a row with a [`Reject`] and goes through the plan like any other, so it is counted where all rows are
//! counted. Readers block, so they run on threads of their own and see a store as a plain stream of bytes
//! ([`stream`]); the memory that they hold is one row and a few chunks of the file, and of an archive whose rows lie
//! scattered a window of it. Parquet and Arrow alone give whole batches, because they have columns already.
//!
//! Each form of files has a file here (`json.rs`, `tar.rs`, `parquet.rs`, ...), and [`read_rows`] or the reading operator
//! calls it by [`Format`]. It knows nothing about plans, SQL or documents.

pub(crate) mod ahead;
pub(crate) mod batch;
pub(crate) mod buffer;
pub(crate) mod captioned;
pub(crate) mod coco;
pub(crate) mod columnar;
pub(crate) mod csv;
pub(crate) mod infer;
pub(crate) mod ipc;
pub(crate) mod json;
pub(crate) mod lines;
pub(crate) mod nested;
pub(crate) mod parquet;
pub(crate) mod parts;
pub(crate) mod pictures;
pub(crate) mod place;
pub(crate) mod request;
pub(crate) mod row_sink;
pub(crate) mod sample;
pub(crate) mod stream;
pub(crate) mod table;
pub(crate) mod tar;
pub(crate) mod text;
pub(crate) mod united;
mod values;
pub(crate) mod warc;
mod zip;

use std::collections::{BTreeMap, HashSet};
use std::io::BufRead;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;
use serde_json::{Map, Value};
use tokio::runtime::Handle;

use self::ahead::Held;
use self::buffer::RowMemory;
use self::lines::Lines;
use self::sample::{Allowance, SampleLimit};
use crate::PipelineError;
use crate::config::{Format, MEMORY_BYTES, TextSplit};
use crate::engine::memory::{Budget, Memory};
use crate::engine::meter::Meter;
use crate::host::stop::Stop;
use crate::row::reject::{Reject, RejectReason};
use crate::units::pointer::{POINTER, is_small};
use crate::units::{FilePart, InputFile};

/// A row longer than this is refused without being held in memory.
pub(crate) const MAX_ROW_BYTES: usize = 256 << 20;

/// A picture larger than this is refused without being read.
pub(crate) const MAX_PICTURE_BYTES: u64 = 32 << 20;

/// A store, and the runtime that its requests run on while a reader blocks.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) handle: Handle,
    pub(crate) split: TextSplit,
    /// What its CSV files are like.
    pub(crate) dialect: csv::Dialect,
    /// Bytes of files that were read, pictures beside them not counted.
    pub(crate) read: Arc<AtomicU64>,
    /// The counters of the units that run.
    pub(crate) meter: Meter,
    /// Where paths of pictures start, unless that is the folder of their table.
    pub(crate) folder: Option<PictureFolder>,
    /// The same for single files, by their paths.
    pub(crate) folders: Arc<BTreeMap<String, String>>,
    /// Extensions, as they are written, of captions and fields beside pictures.
    pub(crate) beside: Arc<[String]>,
    /// Files of a server that gives no ranges.
    pub(crate) whole: stream::WholeFiles,
    /// What large rows take their memory from.
    pub(crate) memory: Arc<Memory>,
    /// Set where no more than a sample is wanted.
    pub(crate) sample: Option<Arc<SampleLimit>>,
    /// How much may still be read where columns are looked for.
    pub(crate) allowance: Option<Arc<Allowance>>,
    /// Counts the lines before parts of files; `None` where their numbers don't matter, and each part has its own.
    pub(crate) lines: Option<Arc<Lines>>,
    /// Ends all reading.
    pub(crate) stop: Stop,
    /// What was fetched of the file that is read.
    pub(crate) held: Option<Arc<Held>>,
    /// For the pictures that are fetched ahead.
    pub(crate) pictures: Option<Budget>,
}

impl Input {
    /// A store whose tables lie beside their pictures, and memory of its own.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, split: TextSplit) -> Self {
        Self {
            store,
            handle: Handle::current(),
            split,
            dialect: csv::Dialect::default(),
            read: Arc::default(),
            meter: Meter::default(),
            folder: None,
            folders: Arc::default(),
            beside: Arc::default(),
            whole: stream::WholeFiles::default(),
            memory: Arc::new(Memory::new(MEMORY_BYTES as usize)),
            sample: None,
            allowance: None,
            lines: None,
            stop: Stop::default(),
            held: None,
            pictures: None,
        }
    }

    /// Whether the file that is read was fetched already.
    #[cfg(test)]
    pub(crate) fn has_held(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.is_whole())
    }

    /// The bytes of a file, where they were fetched already.
    fn held(&self, file: &InputFile) -> Option<&Bytes> {
        self.held.as_ref().and_then(|held| held.of(file))
    }

    /// Whether the sample is large enough.
    pub(crate) fn is_enough(&self) -> bool {
        self.sample.as_ref().is_some_and(|sample| sample.is_full())
    }

    /// The file with the number of its first row. Blocks where lines are to be counted for it.
    pub(crate) fn numbered(&self, file: &InputFile) -> Result<InputFile, PipelineError> {
        let mut file = file.clone();
        if let Some(part) = file.part.filter(|part| part.first_row.is_none()) {
            let first_row = match &self.lines {
                Some(lines) => self.handle.block_on(lines.first_row(self, &file, part.start))?,
                None => 0,
            };
            file.part = Some(FilePart { first_row: Some(first_row), ..part });
        }
        Ok(file)
    }

    /// What may still be read of a file where columns are looked for. A COCO file is one value, and has no beginning to
    /// look at.
    fn allowance_of(&self, file: &InputFile) -> Option<&Arc<Allowance>> {
        self.allowance.as_ref().filter(|_| file.format != Format::Coco)
    }

    /// The folder that the paths of pictures start from, in a file.
    pub(crate) fn folder_of(&self, file: &InputFile) -> String {
        let path = file.path.as_ref();
        let own = || path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        self.folders.get(path).cloned().unwrap_or_else(own)
    }

    /// The same with the counter of a unit, and memory for the pictures that it fetches, if it does.
    ///
    /// # Errors
    ///
    /// If the job has not so much memory.
    pub(crate) fn of_unit(&self, unit: &str, pictures: bool) -> Result<Self, PipelineError> {
        let budget = || self.memory.budget("pictures that are fetched", picture_bytes(&self.memory));
        let pictures = pictures.then(budget).transpose()?;
        Ok(Self { read: self.meter.start(unit), pictures, ..self.clone() })
    }
}

/// Bytes of encoded pictures that a reader may fetch ahead: one of the largest, where there is memory for that.
pub(crate) fn picture_bytes(memory: &Memory) -> usize {
    (memory.limit() / 32).min(MAX_PICTURE_BYTES as usize)
}

/// A folder of pictures.
#[derive(Clone, Debug)]
pub(crate) struct PictureFolder {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) path: Path,
}

/// An image of a row, as the reader met it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ImageRef {
    /// No image.
    Absent,
    /// An entry of a list that stands for an image and names none.
    Nameless,
    /// Its bytes.
    Bytes(Bytes),
    /// A path relative to the folder of the table.
    Path(String),
    /// A piece of a file.
    Piece(Arc<InputFile>, Range<u64>),
}

impl ImageRef {
    /// Takes it out of a list of images alone, in which every entry stands for one.
    pub(crate) fn take_listed(&mut self) -> Self {
        match std::mem::replace(self, Self::Absent) {
            Self::Absent => Self::Nameless,
            image => image,
        }
    }
}

/// One physical line or record.
#[derive(Clone, Debug)]
pub(crate) struct RawRow {
    /// Number of the line or record, from 0.
    pub(crate) row: u64,
    /// Its fields.
    pub(crate) fields: Map<String, Value>,
    /// Its image, where the form of the file keeps images beside the fields.
    pub(crate) image: ImageRef,
    /// Why it can't be used.
    pub(crate) reject: Option<Reject>,
    /// About how much memory it takes.
    pub(crate) bytes: usize,
    /// That memory, where it is so much that it was waited for.
    pub(crate) memory: RowMemory,
}

impl RawRow {
    pub(crate) fn good(row: u64, fields: Map<String, Value>, bytes: usize) -> Self {
        Self { row, fields, image: ImageRef::Absent, reject: None, bytes, memory: None }
    }

    pub(crate) fn bad(row: u64, reason: RejectReason, detail: impl Into<String>) -> Self {
        let reject = Some(Reject::new(reason, detail));
        Self { row, fields: Map::new(), image: ImageRef::Absent, reject, bytes: 64, memory: None }
    }

    /// With the beginning of what was refused.
    pub(crate) fn showing(mut self, bytes: &[u8]) -> Self {
        self.reject = self.reject.map(|reject| reject.showing(bytes));
        self
    }
}

/// Which fields a reader has to give.
#[derive(Clone, Debug)]
pub(crate) enum Pick {
    /// All of them, for finding out which there are.
    All,
    /// These.
    Only(Vec<String>),
}

impl Pick {
    pub(crate) fn wants(&self, field: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|name| name == field),
        }
    }
}

/// What to do with a row; `false` ends the file.
pub(crate) type Visit<'a> = dyn FnMut(RawRow) -> Result<bool, PipelineError> + 'a;

/// Reads one file of a form that has no columns of its own. `images` off: bytes of pictures are skipped over.
pub(crate) fn read_rows(
    input: &Input,
    file: &InputFile,
    pick: &Pick,
    images: bool,
    visit: &mut Visit<'_>,
) -> Result<(), PipelineError> {
    if file.format == Format::Pictures {
        return captioned::read(input, file, pick, images, visit);
    }
    let stream = stream::open(input, file);
    let (reader, compressed) = (stream.reader, stream.compressed);
    let mut content = |reader, file: &InputFile, visit: &mut Visit<'_>| {
        let wanted = tar::WantedMembers { pick, images, pieces: !compressed };
        read_content(input, reader, file, &wanted, visit)
    };
    match stream.zip {
        true => zip::read(input, file, reader, &mut content, visit),
        false => content(reader, file, visit),
    }
}

fn read_content(
    input: &Input,
    mut reader: Box<dyn BufRead + Send>,
    file: &InputFile,
    wanted: &tar::WantedMembers<'_>,
    visit: &mut Visit<'_>,
) -> Result<(), PipelineError> {
    let pick = wanted.pick;
    if file.part.is_none() {
        match reader.fill_buf() {
            Ok(first) if is_utf16(first) && file.format != Format::Tar => {
                return visit(utf16(first)).map(|_| ());
            }
            Ok(first) if is_small(file) && first.starts_with(POINTER) => {
                let detail =
                    "the file is a pointer of Git LFS, not the file itself; `git lfs pull` fetches it";
                return visit(RawRow::bad(0, RejectReason::BadEntry, detail)).map(|_| ());
            }
            Ok(_) => {}
            Err(error) => reader = stream::broken(error),
        }
    }
    match file.format {
        Format::JsonLines => json::read(reader, file, pick, &input.memory, visit),
        Format::Text => text::read(reader, file, input.split, &input.memory, visit),
        Format::Csv => csv::read(reader, file, input.dialect, pick, visit),
        Format::Tar => tar::read(reader, file, wanted, &input.memory, visit),
        Format::Coco => coco::read(reader, file, &input.memory, visit),
        Format::Warc => warc::read(reader, file, pick, &input.memory, visit),
        // These are read by modules of their own.
        Format::Parquet | Format::Arrow | Format::Pictures => Ok(()),
    }
}

/// The names of the columns of a CSV file, or of those in an archive; none if they can't be read.
///
/// # Errors
///
/// If one of the names that are asked for stands in a file twice.
pub(crate) fn csv_names(
    input: &Input,
    file: &InputFile,
    asked: &HashSet<String>,
) -> Result<Vec<String>, PipelineError> {
    let stream = stream::open(input, file);
    let mut names = Vec::new();
    let mut content = |reader, file: &InputFile, _: &mut Visit<'_>| {
        names.extend(csv::names(reader, file, input.dialect, asked)?);
        Ok(())
    };
    match stream.zip {
        true => zip::read(input, file, stream.reader, &mut content, &mut |_| Ok(true))?,
        false => content(stream.reader, file, &mut |_| Ok(true))?,
    }
    Ok(names)
}

/// Whether a file that begins so is text of 16 bits a character, with a mark or without.
fn is_utf16(first: &[u8]) -> bool {
    let ascii = |byte: u8| byte != 0 && byte.is_ascii();
    match first {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => true,
        [a, 0, b, 0, ..] | [0, a, 0, b, ..] => ascii(*a) && ascii(*b),
        _ => false,
    }
}

fn utf16(first: &[u8]) -> RawRow {
    let detail = "the file is UTF-16, expected UTF-8; `iconv -f UTF-16 -t UTF-8` makes it that";
    RawRow::bad(0, RejectReason::InvalidUtf8, detail).showing(&first[..first.len().min(64)])
}

/// A damaged stream is a reject of the row that could not be read; a failing store is an error.
pub(crate) fn damaged(error: std::io::Error, file: &InputFile, row: u64) -> Result<RawRow, PipelineError> {
    let error = damage(error, file)?;
    Ok(RawRow::bad(row, RejectReason::BadEntry, format!("the rest of the file is damaged: {error}")))
}

/// The damage that a reader met; a failing store is an error.
pub(crate) fn damage(error: std::io::Error, file: &InputFile) -> Result<std::io::Error, PipelineError> {
    let error = match error.downcast::<PipelineError>() {
        Ok(error) => return Err(error),
        Err(error) => error,
    };
    if store_failed(&error) {
        return Err(PipelineError::Io { operation: "read", path: file.path.to_string(), source: error });
    }
    Ok(error)
}

/// Whether an error of a reader goes back to the store; readers wrap the errors of what they read from.
fn store_failed(error: &std::io::Error) -> bool {
    let mut cause = error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
    while let Some(inner) = cause {
        if inner.is::<PipelineError>() || inner.downcast_ref().is_some_and(store_failed) {
            return true;
        }
        cause = inner.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_store_is_never_a_damaged_file() {
        let lost = || PipelineError::Changed { path: "a".to_owned(), expected: 2, found: 1 };
        assert!(store_failed(&std::io::Error::other(lost())));
        assert!(store_failed(&std::io::Error::other(std::io::Error::other(lost()))));
        assert!(!store_failed(&std::io::Error::other("bad block")));
        assert!(!store_failed(&std::io::ErrorKind::UnexpectedEof.into()));
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Rows of a file that lies in memory.

    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    pub(crate) async fn rows(bytes: Vec<u8>, format: Format, split: TextSplit) -> Vec<RawRow> {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        read("file", bytes, format, Input::new(store, split)).await
    }

    /// Of a file of that name, and of a CSV file of that dialect.
    pub(crate) async fn rows_of(
        name: &str,
        bytes: Vec<u8>,
        format: Format,
        dialect: csv::Dialect,
    ) -> Vec<RawRow> {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        read(name, bytes, format, Input { dialect, ..Input::new(store, TextSplit::File) }).await
    }

    async fn read(name: &str, bytes: Vec<u8>, format: Format, input: Input) -> Vec<RawRow> {
        let file = InputFile {
            path: Path::from(name),
            below: name.to_owned(),
            bytes: bytes.len() as u64,
            e_tag: None,
            format,
            part: None,
        };
        input.store.put(&file.path, bytes.into()).await.expect("put");
        crate::host::threads::blocking(move || {
            let mut rows = Vec::new();
            let mut visit = |row| {
                rows.push(row);
                Ok(true)
            };
            read_rows(&input, &file, &Pick::All, true, &mut visit)?;
            Ok(rows)
        })
        .await
        .expect("reads")
    }
}
