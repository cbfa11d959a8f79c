//! What to do about an error.

use super::{BoxError, OWN, PipelineError, quoted};
use crate::host::passed_over::PassedOver;

impl PipelineError {
    /// What to do about it, for a line `hint: ...` behind the message.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Config { key, .. } => format!("set `{key}` in the config, or with `--set KEY=VALUE`"),
            Self::Address { .. } => "check the address, and the region, endpoint and credentials of the environment".to_owned(),
            Self::List { source, .. } if is_bad_name(source) => {
                "a name there can't be used (an empty part between two `/`, a control character): move it, or give \
                 the exact address of a file"
                    .to_owned()
            }
            Self::List { .. } => "check the bucket and what may be done there".to_owned(),
            Self::NoFiles { passed, .. } if !passed.is_empty() => {
                let passed: Vec<String> = passed.iter().map(PassedOver::describe).collect();
                format!("passed over: {}", passed.join("; "))
            }
            Self::Unclear { uri, of, kinds, .. } => clear_address(uri, of, kinds),
            Self::Pointer { .. } => {
                "fetch the files with `git lfs pull` in the repository, or download them from where it is published"
                    .to_owned()
            }
            Self::NoFiles { nearby, .. } if nearby.is_empty() => {
                "check the address: there is nothing below its fixed part".to_owned()
            }
            Self::NoFiles { nearby, .. } => format!("there is {}", quoted(nearby)),
            Self::UnknownFormat { foreign: Some(foreign), .. } => format!("that is {foreign}"),
            Self::UnknownFormat { .. } => {
                let known = "known are .jsonl, .json, .txt, .csv, .tsv, .warc.wet, .tar, .arrow, .arrows, .feather, .ipc, \
                             also with .gz or .zst, .jsonl.zip and the like, and .parquet; say `format = \"json-lines\"` \
                             for files that are named otherwise";
                known.to_owned()
            }
            Self::Unreadable { .. } => {
                "look at the file; if it is of another form than its name says, set `format` (`json-lines` is an object a \
                 line, or a list in a file named `.json`)"
                    .to_owned()
            }
            Self::Repeated { .. } => "give each column of the file a name of its own".to_owned(),
            Self::NoColumn { column, .. } if column.starts_with(OWN) => {
                format!("names that begin with `{OWN}` are kept for columns of the program: rename the column")
            }
            Self::NoColumn { available, .. } if is_undivided(available) => {
                "the names stand in one: say what is between them, `delimiter = \";\"`".to_owned()
            }
            Self::NoColumn { .. } => {
                "name the column with the source's keys `text`, `caption`, `image`, `texts`, `images`, `id`, or with `select`; \
                 `a.b` is the field `b` of the column `a`; names are case-sensitive"
                    .to_owned()
            }
            Self::NoCaptions { coco: true, .. } => {
                "COCO has its captions in files of their own: set `uri` to `annotations/captions_train2017.json`, not to the \
                 instances or key points"
                    .to_owned()
            }
            Self::NoCaptions { .. } => {
                "put the caption of `a.jpg` into `a.txt` or `a.caption` beside it, name a field of `a.json` with `caption`, or \
                 add captions with `join`"
                    .to_owned()
            }
            Self::NotMet { column, .. } => format!(
                "name one of these; if the column comes later, say its type: `types = {{ {column} = \"varchar\" }}` \
                 (`varchar`, `bigint`, `double`, `boolean`)"
            ),
            Self::UnknownType { column, .. } => format!(
                "say its type: `types = {{ {column} = \"varchar\" }}` (`varchar`, `bigint`, `double`, `boolean`); files \
                 with lists in it can be a source of their own"
            ),
            Self::WrongColumn { .. } => {
                "name another column, or make one of it with `select` (`cast(n as varchar) as text`)".to_owned()
            }
            Self::Columns { .. } => {
                "take the files as two sources, or write them again with one type".to_owned()
            }
            Self::Join { hint, .. } | Self::Sql { hint, .. } => (*hint).to_owned(),
            Self::LargeBatch { .. } => {
                "write the file again in smaller record batches, or as Parquet".to_owned()
            }
            Self::Tokenizer { source, .. } if is_marker(source) => {
                "name a control piece of its vocabulary with `tokenizer.bos` and `tokenizer.eos`, or leave both out for \
                 the file's own"
                    .to_owned()
            }
            Self::Tokenizer { .. } => {
                "set `tokenizer.model` to a SentencePiece model or a `tokenizer.json`, or have one trained with \
                 `tokenizer.train = { vocabulary = 1024 }`"
                    .to_owned()
            }
            Self::NoCodec { .. } => "set `codec.path` to a codec; `transfusion vae train` makes one".to_owned(),
            Self::CodecShape { .. } => "change `codec.size` or `codec.patch`".to_owned(),
            Self::OtherConfig { .. } => "choose another `output`, or delete what is there".to_owned(),
            Self::InputChanged { .. } => {
                "a dataset can't forget: put the files back as they were, or pack into another `output`; what is new \
                 goes into new files"
                    .to_owned()
            }
            Self::NotFinished { .. } => "run the command without `--retry-rejects` first".to_owned(),
            Self::Busy { .. } => "wait until it is done, or stop it; what it finished is kept".to_owned(),
            Self::LeaseLost { .. } | Self::Stopped { .. } => {
                "run the same command again: it goes on with the units that are not done".to_owned()
            }
            Self::Changed { .. } => "preprocess a corpus that nobody writes to".to_owned(),
            Self::TooManyRejects { top, .. } if top.first().is_some_and(|top| top.ends_with(" missing_image")) => {
                "set `folder` of the source to where its pictures lie (`folder = \"coco/train2017\"`): they are looked for \
                 beside the file that names them; `transfusion inspect OUTPUT --rejects` lists what is missing"
                    .to_owned()
            }
            Self::TooManyRejects { .. } => {
                "look at them with `transfusion inspect OUTPUT --rejects`; raise `max-reject-share` if that is expected, \
                 and run again: what was read is kept"
                    .to_owned()
            }
            Self::Store { source: object_store::Error::NotFound { .. }, .. }
            | Self::Read { source: object_store::Error::NotFound { .. }, .. } => {
                "check the bucket and the key".to_owned()
            }
            Self::Store { source: object_store::Error::NotSupported { .. }, .. }
            | Self::Read { source: object_store::Error::NotSupported { .. }, .. } => {
                "the server gives no parts of a file: copy the file to a disk or an object store".to_owned()
            }
            Self::Store { source, .. } if is_no_folder(source) => {
                "a file is in the way where a folder should be: choose another `output`".to_owned()
            }
            Self::Store { .. } | Self::Read { .. } => "run the same command again: what was finished is kept".to_owned(),
            Self::Io { operation: "lock", .. } => {
                "the output must lie on a file system that knows locks; pack to a local disk, or to an object store".to_owned()
            }
            Self::Io { .. } => {
                "check that the folder can be written to and has space left; what was finished is kept".to_owned()
            }
            Self::Memory { .. } => "raise `memory-bytes` of the config, or use fewer `--threads`".to_owned(),
            Self::Damaged { .. } => "delete this file and run the same command again".to_owned(),
            _ => return None,
        };
        Some(hint)
    }
}

/// Whether the only column is named as if several were not told apart.
fn is_undivided(columns: &[String]) -> bool {
    matches!(columns, [name] if name.contains([';', '|', '\t']))
}

/// How an address is written that leads to one of the kinds.
fn clear_address(uri: &str, of: &str, kinds: &[(String, usize, Option<String>)]) -> String {
    // A glob that names no form, `data/*`, ends where its folder does.
    let root = match uri.find(['*', '?', '[', '{']) {
        Some(glob) => uri[..glob].rsplit_once('/').map_or("", |(root, _)| root),
        None => uri.trim_end_matches('/'),
    };
    let between = if root.is_empty() { "" } else { "/" };
    let globs: Vec<String> = (kinds.iter().filter_map(|(_, _, glob)| glob.as_ref()))
        .map(|glob| format!("`uri = \"{root}{between}{glob}\"`"))
        .collect();
    if globs.is_empty() {
        return format!("write a glob that takes the files of one of the {of}");
    }
    format!(
        "say which: {}; several are sources of their own, or alternatives in braces, `{{a,b}}`",
        globs.join(" or ")
    )
}

/// Whether a store failed of a name rather than of a bucket or a connection.
fn is_bad_name(error: &object_store::Error) -> bool {
    let text = error.to_string();
    matches!(error, object_store::Error::InvalidPath { .. })
        || ["walk dir", "Encountered", "non unicode", "illegal character", "empty path segment"]
            .iter()
            .any(|sign| text.contains(sign))
}

/// Whether a path leads through a file.
fn is_no_folder(error: &object_store::Error) -> bool {
    let mut cause = Some(error as &(dyn std::error::Error + 'static));
    while let Some(current) = cause {
        let io = current.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::NotADirectory) {
            return true;
        }
        cause = current.source();
    }
    false
}

/// Whether a tokenizer can't be used for want of BOS or EOS.
fn is_marker(error: &BoxError) -> bool {
    use schemas::TokenizerError as E;
    let error = error.downcast_ref::<E>();
    matches!(error, Some(E::UnknownMarker { .. } | E::TextMarker { .. } | E::NoMarker { .. }))
}
