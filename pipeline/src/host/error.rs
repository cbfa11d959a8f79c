//! What can stop a preprocessing job. Bad rows are no errors: they become rejects.

use datafusion::error::DataFusionError;
use schemas::address::shown;

use crate::host::passed_over::PassedOver;
mod hint;

use arrow::error::ArrowError;
use datafusion::common::SchemaError;

/// An error of a store, codec or resolver, whatever its type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a preprocessing job can't start or go on. [`PipelineError::hint`] says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// A value of the configuration that can't be.
    #[error("`{key}` is {found}, expected {expected}")]
    Config {
        /// The key, as a person writes it.
        key: String,
        /// What is possible.
        expected: String,
        /// What was written.
        found: String,
    },
    /// An address that can't be opened.
    #[error("`{}` of source `{name}` can't be opened", shown(uri))]
    Address {
        /// Name of the source, or of the key.
        name: String,
        /// The address.
        uri: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// An address with nothing behind it.
    #[error("source `{name}` has no files: nothing matches `{}`", shown(uri))]
    NoFiles {
        /// Name of the source.
        name: String,
        /// The address.
        uri: String,
        /// What lies there instead, at most a few names.
        nearby: Vec<String>,
        /// What the address leads to and is not read.
        passed: Vec<PassedOver>,
    },
    /// A folder in which it is not clear which files are meant.
    #[error("`{uri}` of source `{name}` has files of several {of}: {}", kinds_of(kinds))]
    Unclear {
        /// Name of the source.
        name: String,
        /// The address.
        uri: String,
        /// What there are several of: `forms` or `splits`.
        of: &'static str,
        /// Each of them: its name, its files, and a glob below the address that takes no others.
        kinds: Vec<(String, usize, Option<String>)>,
    },
    /// Files of which nothing but their place has been fetched.
    #[error("`{path}` of source `{name}` is a pointer of Git LFS, not the file itself")]
    Pointer {
        /// Name of the source.
        name: String,
        /// The file.
        path: String,
    },
    /// A folder or bucket that can't be listed.
    #[error("the files of source `{name}` at `{}` can't be listed", shown(uri))]
    List {
        /// Name of the source.
        name: String,
        /// The address.
        uri: String,
        /// Why.
        #[source]
        source: object_store::Error,
    },
    /// A file of a form that no reader knows.
    #[error("`{path}` of source `{name}` has a form that is not known")]
    UnknownFormat {
        /// Name of the source.
        name: String,
        /// Path of the file.
        path: String,
        /// What it is by its name, and what to do with it, where that is known.
        foreign: Option<String>,
    },
    /// A source of which no file can be read.
    #[error("no file of source `{name}` can be read; `{path}` {what}")]
    Unreadable {
        /// Name of the source.
        name: String,
        /// Path of the first of them that can't.
        path: String,
        /// What is wrong with that: `is damaged: ...`, or why its first row is refused.
        what: String,
    },
    /// A file that has two columns of a name that is asked for.
    #[error("`{path}` has more than one column `{column}`")]
    Repeated {
        /// The file.
        path: String,
        /// The column.
        column: String,
    },
    /// A column that the rows don't have.
    #[error("source `{name}` has no column `{column}`; its columns are {}", quoted(available))]
    NoColumn {
        /// Name of the source.
        name: String,
        /// The column.
        column: String,
        /// The columns that are there.
        available: Vec<String>,
    },
    /// Pictures without any caption.
    #[error("no picture of source `{name}` has a caption; the first file is `{path}`")]
    NoCaptions {
        /// Name of the source.
        name: String,
        /// Its first file.
        path: String,
        /// Whether they are COCO files, which may lie beside those with the captions.
        coco: bool,
    },
    /// A column that no row has as far as was looked.
    #[error("source `{name}` has no column `{column}` in the first {} MiB of its rows; its columns there are {}", bytes >> 20, quoted(available))]
    NotMet {
        /// Name of the source.
        name: String,
        /// The column.
        column: String,
        /// The columns that are there.
        available: Vec<String>,
        /// Bytes that were looked through.
        bytes: u64,
    },
    /// A column that is null as far as was looked.
    #[error("column `{column}` of source `{name}` is null in all of the first {} MiB of its rows", bytes >> 20)]
    UnknownType {
        /// Name of the source.
        name: String,
        /// The column.
        column: String,
        /// Bytes that were looked through.
        bytes: u64,
    },
    /// A column whose type can't be what the source takes it for.
    #[error("column `{column}` of source `{name}` is {found}, expected {expected}")]
    WrongColumn {
        /// Name of the source.
        name: String,
        /// The column.
        column: String,
        /// Its type.
        found: String,
        /// What is possible.
        expected: &'static str,
    },
    /// A column that is of another kind in another file.
    #[error("column `{column}` of source `{name}` is {there} and {here}")]
    Columns {
        /// Name of the source.
        name: String,
        /// The column.
        column: String,
        /// Its type in a file: `TYPE in FILE`.
        there: String,
        /// Its type in another file.
        here: String,
    },
    /// A joined table that can't be used.
    #[error("`join` of source `{name}` can't be used: {what}")]
    Join {
        /// Name of the source.
        name: String,
        /// The complaint.
        what: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A record batch that no memory should be taken for.
    #[error("a record batch of `{path}` has {bytes} bytes, more than the {limit} that are held at a time")]
    LargeBatch {
        /// The file.
        path: String,
        /// Bytes of the batch.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A `where` or `select` that is no SQL, or doesn't fit the columns.
    #[error("`{clause}` of source `{name}` is not usable: {what}")]
    Sql {
        /// Name of the source.
        name: String,
        /// `where` or `select`.
        clause: &'static str,
        /// The complaint.
        what: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// Images without something to encode them.
    #[error("source `{name}` has images, but no codec is configured")]
    NoCodec {
        /// Name of the source.
        name: String,
    },
    /// A codec whose latents don't fit the configuration.
    #[error("codec gives latents of {height} x {width}, which patches of {patch} x {patch} don't tile")]
    CodecShape {
        /// Rows of a latent.
        height: u32,
        /// Columns of a latent.
        width: u32,
        /// Side of a patch.
        patch: u32,
    },
    /// The codec failed.
    #[error("codec failed on a batch of {images} pictures of unit `{unit}`")]
    Codec {
        /// The unit that was read.
        unit: String,
        /// Pictures of the batch.
        images: usize,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// A tokenizer that can't be used.
    #[error("tokenizer `{}` can't be used", shown(uri))]
    Tokenizer {
        /// Where it came from.
        uri: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// The output holds another dataset.
    #[error("`{output}` was begun with another configuration: `{key}` is {there} there and {here} here")]
    OtherConfig {
        /// The output.
        output: String,
        /// The first key that differs.
        key: String,
        /// Its value in the output.
        there: String,
        /// Its value now.
        here: String,
    },
    /// Somebody else writes there.
    #[error("another process is writing to `{output}`: {what}")]
    Busy {
        /// The output.
        output: String,
        /// By what it was noticed.
        what: String,
    },
    /// The right to write is gone.
    #[error("the right to write to `{output}` was lost: {what}")]
    LeaseLost {
        /// The output.
        output: String,
        /// What happened to the lease.
        what: String,
    },
    /// Input that a finished dataset has is not what it was.
    #[error("{} of the dataset `{output}` changed since: {}{}", files(*count), changed.join(", "), more(*count, changed))]
    InputChanged {
        /// The output.
        output: String,
        /// How many files changed.
        count: usize,
        /// What happened to the first of them.
        changed: Vec<String>,
    },
    /// Rows can only be run again in a dataset that is there.
    #[error("`{output}` is not finished, so none of its rows can be run again")]
    NotFinished {
        /// The output.
        output: String,
    },
    /// A store failed.
    #[error("{operation} `{path}` failed")]
    Store {
        /// `read`, `list`, `write`.
        operation: &'static str,
        /// The object.
        path: String,
        /// Why.
        #[source]
        source: object_store::Error,
    },
    /// An input file that can't be read on.
    #[error("reading `{path}` failed at byte {offset}")]
    Read {
        /// The file.
        path: String,
        /// The byte that did not come.
        offset: u64,
        /// Why.
        #[source]
        source: object_store::Error,
    },
    /// An object that changed under the reader.
    #[error("`{path}` changed while it was read: {expected} bytes when listed, {found} now")]
    Changed {
        /// The object.
        path: String,
        /// Bytes when it was listed.
        expected: u64,
        /// Bytes now.
        found: u64,
    },
    /// A disk failed.
    #[error("{operation} `{path}` failed")]
    Io {
        /// `read`, `write`, `lock`, ...
        operation: &'static str,
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of the dataset that is not what it should be.
    #[error("`{path}` of the dataset is damaged: {what}")]
    Damaged {
        /// The file.
        path: String,
        /// What was found.
        what: String,
    },
    /// Too much was refused.
    #[error("{rejected} of {read} rows were refused, over the share of {limit} that `max-reject-share` allows{}: {}{}", unread(*unread_bytes), top.join(", "), first_row(first.as_deref()))]
    TooManyRejects {
        /// Rows refused.
        rejected: u64,
        /// Rows read.
        read: u64,
        /// The share that is allowed.
        limit: f64,
        /// Bytes that were not read, because no likely rest would have changed it.
        unread_bytes: u64,
        /// The commonest reasons with their counts.
        top: Vec<String>,
        /// Where the first of the rows stands, and why it was refused.
        first: Option<String>,
    },
    /// The job's memory is too small.
    #[error("memory is not enough: {what}")]
    Memory {
        /// Who asked for how much, and what there is.
        what: String,
    },
    /// Asked to stop.
    #[error("stopped{}", after(*done, *total))]
    Stopped {
        /// Units that are done.
        done: usize,
        /// Units of the job; 0 where it had not come to them.
        total: usize,
    },
    /// A shard or manifest can't be written.
    #[error("dataset can't be written")]
    Format(#[source] BoxError),
    /// DataFusion's own complaint.
    #[error("plan failed")]
    Plan(#[source] DataFusionError),
}

/// How the names of the program's own columns begin. Columns of files that begin so are not seen.
pub(crate) const OWN: &str = "__transfusion_";

fn after(done: usize, total: usize) -> String {
    if total == 0 { String::new() } else { format!(" after {done} of {total} units") }
}

fn quoted(names: &[String]) -> String {
    if names.is_empty() {
        return "none that can be read".to_owned();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The kinds of files that a folder has, with their counts.
fn kinds_of(kinds: &[(String, usize, Option<String>)]) -> String {
    let counted = |(kind, files, _): &(String, usize, Option<String>)| format!("{files} of `{kind}`");
    kinds.iter().map(counted).collect::<Vec<_>>().join(", ")
}

fn files(count: usize) -> String {
    if count == 1 { "an input file".to_owned() } else { format!("{count} input files") }
}

fn more(count: usize, shown: &[String]) -> String {
    match count - shown.len().min(count) {
        0 => String::new(),
        more => format!(", and {more} more"),
    }
}

fn unread(bytes: u64) -> String {
    if bytes == 0 {
        String::new()
    } else {
        format!(", and the {bytes} bytes not read yet would not change that")
    }
}

fn first_row(first: Option<&str>) -> String {
    first.map_or_else(String::new, |first| format!("; the first is {first}"))
}

impl PipelineError {
    /// The error of a job whose files all lie on a disk. In a store of the whole disk, paths have no leading `/`.
    pub fn on_disk(mut self) -> Self {
        match &mut self {
            Self::UnknownFormat { path, .. }
            | Self::Unreadable { path, .. }
            | Self::Repeated { path, .. }
            | Self::LargeBatch { path, .. }
            | Self::Store { path, .. }
            | Self::Read { path, .. }
            | Self::Io { operation: "read", path, .. }
            | Self::Changed { path, .. }
                if !path.starts_with('/') =>
            {
                path.insert(0, '/');
            }
            _ => {}
        }
        self
    }

    /// As an error of DataFusion, to travel through a plan.
    pub(crate) fn into_plan(self) -> DataFusionError {
        DataFusionError::External(Box::new(self))
    }

    /// The error that travelled through a plan.
    pub(crate) fn from_plan(error: DataFusionError) -> Self {
        match error {
            DataFusionError::External(inner) => match inner.downcast::<Self>() {
                Ok(error) => *error,
                Err(inner) => Self::Plan(DataFusionError::External(inner)),
            },
            DataFusionError::Context(_, inner) => Self::from_plan(*inner),
            DataFusionError::ResourcesExhausted(what) => {
                Self::Memory { what: what.lines().next().unwrap_or_default().to_owned() }
            }
            other => Self::Plan(other),
        }
    }
}

impl From<DataFusionError> for PipelineError {
    fn from(error: DataFusionError) -> Self {
        Self::from_plan(error)
    }
}

impl From<ArrowError> for PipelineError {
    fn from(error: ArrowError) -> Self {
        Self::Plan(error.into())
    }
}

/// What an error comes from, in one line, without the steps that it went through.
pub(crate) fn root_cause(error: &DataFusionError) -> String {
    let said = match error.find_root() {
        DataFusionError::SQL(error, _) => error.to_string(),
        DataFusionError::ArrowError(error, _) => error.to_string(),
        DataFusionError::SchemaError(error, _) => match &**error {
            SchemaError::AmbiguousReference { field } => {
                format!("it gives the column `{}` twice", field.name)
            }
            other => other.to_string(),
        },
        DataFusionError::Internal(said) => said.clone(),
        other => other.message().into_owned(),
    };
    // A feature is nothing that a person can enable.
    let ends = [DataFusionError::BACK_TRACE_SEP, " Hint: Please try with"];
    let said = ends.iter().fold(said.as_str(), |said, end| said.split(end).next().unwrap_or_default());
    // Regular expressions are shown between lines of `~`.
    let is_line = |word: &&str| word.len() > 8 && word.bytes().all(|byte| byte == b'~');
    said.split_whitespace().filter(|word| !is_line(word)).collect::<Vec<_>>().join(" ")
}
