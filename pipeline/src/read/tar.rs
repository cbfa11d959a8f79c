//! WebDataset: members of an archive that share the name up to its first dot are one row. Where that would leave
//! members without a row, as of `photo.2020.jpg`, names go up to their last dot: see [`dotted`].
//!
//! The text members of a row (`KEY.txt`, `.text`, `.caption`; several as `KEY.1.txt`, `KEY.txt2`, `KEY.caption_3`) are
//! its captions, by number: the column `caption` is the first, `captions` the list of all. The fields of `KEY.json`
//! are columns of their own, `KEY` is the column `key`, and the first picture is the column `image`. A list `captions`
//! in `KEY.json` is taken as it is. Rows are numbered by the first appearance of their key.
//!
//! The members of a row usually stand together. Where they don't, rows wait for the rest of them, as [`window`] says.
//!
//! Archives that were put together are read on behind the end mark of the first. Links and sparse files have no content
//! of their own: a row that lacks what one of them stands for is refused and says so.
//!
//! Nothing is ever written under a member's name, so a name that leads outside is harmless here and stays a key.

mod dotted;
mod window;

use std::cell::RefCell;
use std::io::{BufRead, Read};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};

use self::dotted::{Dotted, Sorter};
use self::window::Window;
use super::json::{parse_object, reason};
use super::{ImageRef, MAX_PICTURE_BYTES, MAX_ROW_BYTES, Pick, RawRow, Visit, damaged};
use crate::PipelineError;
use crate::engine::memory::Memory;
use crate::row::reject::{Reject, RejectReason};
use crate::units::InputFile;
use crate::units::names::{is_about, is_picture};

const CAPTIONS: [&str; 3] = ["txt", "text", "caption"];

/// What of an archive is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// The fields.
    pub(crate) pick: &'a Pick,
    /// Whether the bytes of pictures are.
    pub(crate) images: bool,
    /// Whether a place in the archive is one in the file, so that a picture can be read again later.
    pub(crate) pieces: bool,
}

impl Wanted<'_> {
    fn caption(&self) -> bool {
        self.pick.wants("caption") || self.pick.wants("captions")
    }

    /// Whether a field is wanted that only `KEY.json` can have.
    fn json(&self) -> bool {
        match self.pick {
            Pick::All => true,
            Pick::Only(names) => {
                names.iter().any(|name| !["caption", "captions", "key"].contains(&name.as_str()))
            }
        }
    }

    /// Whether somebody looks for the fields that there are: then what they are matters, not whose they are, and no
    /// member has to wait for another.
    fn looks(&self) -> bool {
        matches!(self.pick, Pick::All) && !self.images
    }

    /// Whether a row has all that is wanted of it.
    fn is_whole(&self, sample: &Sample) -> bool {
        let json = sample.json.as_ref();
        let captioned = json.is_some_and(|json| {
            json.as_ref()
                .is_ok_and(|fields| fields.contains_key("caption") || fields.contains_key("captions"))
        });
        let pictured = !self.images || sample.kinds & Kind::Picture.bit() != 0;
        let links = |of: fn(&Kind) -> bool| sample.links.iter().any(|(kind, _)| of(kind));
        let captioned = !self.caption()
            || !sample.captions.is_empty()
            || captioned
            || links(|kind| matches!(kind, Kind::Caption(_)));
        let described = !self.json() || json.is_some() || links(|kind| *kind == Kind::Json);
        sample.reject.is_some() || pictured && captioned && described
    }
}

/// Visits the rows of an archive.
pub(crate) fn read(
    reader: Box<dyn BufRead + Send>,
    file: &InputFile,
    wanted: &Wanted<'_>,
    memory: &Arc<Memory>,
    visit: &mut Visit<'_>,
) -> Result<(), PipelineError> {
    let blocks = Blocks::shared(reader);
    let window = Window::new(*wanted, Arc::new(file.clone()), memory);
    let (looked, sorter) = (Looked::default(), Sorter::default());
    let mut rows = Rows { wanted, window, looked, sorter, nameless: None };
    loop {
        let end = match rows.archive(&blocks, visit)? {
            // The reader of archives would hold such a name; another one goes on behind it.
            End::LongName => match blocks.borrow_mut().skip_name() {
                Ok(bytes) => {
                    rows.nameless = Some(bytes);
                    continue;
                }
                Err(error) => End::Damaged(error),
            },
            end => end,
        };
        return rows.finish(end, file, visit);
    }
}

/// Why the members of an archive came to an end.
enum End {
    /// There are no more.
    Whole,
    /// No more rows are wanted.
    Enough,
    /// The name of the next one is too long.
    LongName,
    Damaged(std::io::Error),
}

/// The rows of an archive, as its members come.
struct Rows<'a> {
    wanted: &'a Wanted<'a>,
    window: Window<'a>,
    looked: Looked,
    sorter: Sorter,
    /// The bytes of what describes the next member, where these are too many to be held.
    nameless: Option<u64>,
}

impl Rows<'_> {
    /// Reads on as an archive of its own, which it is as far as the place is concerned where its members begin.
    fn archive(&mut self, blocks: &Rc<RefCell<Blocks>>, visit: &mut Visit<'_>) -> Result<End, PipelineError> {
        let start = blocks.borrow().place;
        let mut archive = tar::Archive::new(Shared(Rc::clone(blocks)));
        archive.set_ignore_zeros(true);
        let entries = match archive.entries() {
            Ok(entries) => entries,
            Err(error) => return Ok(End::Damaged(error)),
        };
        for entry in entries {
            let member = entry.and_then(|mut entry| {
                blocks.borrow_mut().expect_behind(&mut entry)?;
                let room = |bytes| self.window.make_room(bytes);
                Member::read(entry, start, self.wanted, &self.sorter, room)
            });
            let more = match (member, self.nameless.take()) {
                (Ok(Met::Member(Member { name, .. }) | Met::Other(Other { name, .. })), Some(bytes)) => {
                    self.refuse(name, bytes, visit)?
                }
                (Ok(Met::Member(member)), None) => {
                    let ready = self.sorter.add(member);
                    self.add(ready, visit)?
                }
                (Ok(Met::Other(other)), None) => {
                    self.looked.other.get_or_insert_with(|| other.name.clone());
                    let ready = self.sorter.pass_over(other);
                    self.add(ready, visit)?
                }
                (Ok(Met::Nothing), _) => true,
                (Err(_), _) if blocks.borrow().long_name.is_some() => return Ok(End::LongName),
                // The end mark need not fill its block.
                (Err(error), None) if blocks.borrow().zeros && error.to_string() == CUT_BLOCK => break,
                (Err(error), _) => return Ok(End::Damaged(error)),
            };
            if !more {
                return Ok(End::Enough);
            }
        }
        match self.nameless.take() {
            Some(_) => Ok(End::Damaged(std::io::Error::other("a name is followed by no member"))),
            None => Ok(End::Whole),
        }
    }

    /// Takes members whose rows are known.
    fn add(&mut self, members: Vec<Member>, visit: &mut Visit<'_>) -> Result<bool, PipelineError> {
        for member in members {
            let more = match self.wanted.looks() {
                true => self.looked.look(member, self.wanted, visit)?,
                false => self.window.add(member, visit)?,
            };
            if !more {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A row that stands for a member of which only the beginning of its name is known.
    fn refuse(&mut self, name: String, bytes: u64, visit: &mut Visit<'_>) -> Result<bool, PipelineError> {
        if self.wanted.looks() {
            self.looked.other.get_or_insert(name);
            return Ok(true);
        }
        let detail = format!(
            "the name of member `{name}` and what else describes it have {bytes} bytes, the limit is {MAX_NAME_BYTES}"
        );
        self.window.refuse(&name, Reject::new(RejectReason::BadEntry, detail), visit)
    }

    fn finish(mut self, end: End, file: &InputFile, visit: &mut Visit<'_>) -> Result<(), PipelineError> {
        let last = self.sorter.finish();
        if !matches!(end, End::Enough) && !self.add(last, visit)? {
            return Ok(());
        }
        match end {
            End::Whole if self.wanted.looks() => self.looked.finish(visit),
            End::Whole => {
                let next = self.window.rows();
                let mut more = self.window.finish(visit)?;
                // Behind the rows, which keep their numbers.
                for (row, detail) in (next..).zip(self.sorter.lost()) {
                    more = more && visit(RawRow::bad(row, RejectReason::BadEntry, detail))?;
                }
                Ok(())
            }
            End::Damaged(error) => {
                // What is whole before the damage is a row; rows that were still waiting may lack parts.
                let next = self.window.rows();
                match self.window.finish(visit)? {
                    true => visit(damaged(plain(error), file, next)?).map(|_| ()),
                    false => Ok(()),
                }
            }
            End::Enough | End::LongName => Ok(()),
        }
    }
}

/// What the archive's reader says of a block of which only a part is there.
const CUT_BLOCK: &str = "failed to read entire block";

/// An error of the archive's reader. Of what stands where a header should be it would show the bytes, whatever they are.
fn plain(error: std::io::Error) -> std::io::Error {
    let said = error.to_string();
    let no_header = ["numeric field was not a number", "archive header checksum mismatch"];
    if no_header.iter().any(|what| said.starts_with(what)) {
        return std::io::Error::other("something else stands where a member should begin");
    }
    error
}

const BLOCK: u64 = 512;

/// Bytes of what describes a member (a long name, or the fields of a newer archive) that are held, at most. No file
/// system has names of a hundredth of that; an archive of a few kilobytes can claim any number.
const MAX_NAME_BYTES: u64 = 1 << 20;

/// What an archive is read from. It follows the headers, so that no name is begun that is too long, and knows whether what
/// it has read of the last block is nothing but zeros.
struct Blocks {
    inner: Box<dyn BufRead + Send>,
    place: u64,
    zeros: bool,
    /// Where the next header begins, unless that is not known.
    header_at: Option<u64>,
    /// What has been read of it.
    header: Vec<u8>,
    /// Where the name ends that is too long, and its length.
    long_name: Option<(u64, u64)>,
}

impl Blocks {
    fn shared(inner: Box<dyn BufRead + Send>) -> Rc<RefCell<Self>> {
        let header = Vec::with_capacity(BLOCK as usize);
        let header_at = Some(0);
        Rc::new(RefCell::new(Self { inner, place: 0, zeros: false, header_at, header, long_name: None }))
    }

    /// Looks at the headers in what was read from `start` on.
    fn follow(&mut self, read: &[u8], start: u64) -> std::io::Result<()> {
        let end = start + read.len() as u64;
        while let Some(at) = self.header_at.filter(|at| *at < end) {
            let from = at + self.header.len() as u64;
            let to = end.min(at + BLOCK);
            let Some(piece) = read.get(from.saturating_sub(start) as usize..(to - start) as usize) else {
                break;
            };
            self.header.extend_from_slice(piece);
            if (self.header.len() as u64) < BLOCK {
                break;
            }
            self.header_at = self.behind(at)?;
            self.header.clear();
        }
        Ok(())
    }

    /// Where the header behind that at `at` begins, which is not known of a member's.
    fn behind(&mut self, at: u64) -> std::io::Result<Option<u64>> {
        if self.header.iter().all(|byte| *byte == 0) {
            return Ok(Some(at + BLOCK));
        }
        let header = tar::Header::from_byte_slice(&self.header);
        let of = header.entry_type();
        let describes = of.is_gnu_longname() || of.is_gnu_longlink() || of.is_pax_local_extensions();
        let Some(bytes) = header.entry_size().ok().filter(|_| describes) else { return Ok(None) };
        let end = blocks_behind(at + BLOCK, bytes);
        if bytes > MAX_NAME_BYTES {
            self.long_name = Some((end, bytes));
            return Err(std::io::Error::other("a name is too long"));
        }
        Ok(Some(end))
    }

    /// Expects the next header behind this member, whose content begins here.
    fn expect_behind(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> std::io::Result<()> {
        let of = entry.header().entry_type();
        let mut bytes = entry.header().entry_size()?;
        if !of.is_pax_local_extensions() && !of.is_pax_global_extensions() {
            let extensions = entry.pax_extensions()?.into_iter().flatten().filter_map(Result::ok);
            let size = extensions
                .filter(|field| field.key_bytes() == b"size")
                .find_map(|field| field.value().ok()?.parse().ok());
            bytes = size.unwrap_or(bytes);
        }
        self.header_at = Some(blocks_behind(self.place, bytes));
        Ok(())
    }

    /// Reads on to behind the name that is too long, and gives its length.
    fn skip_name(&mut self) -> std::io::Result<u64> {
        let Some((end, bytes)) = self.long_name.take() else { return Ok(0) };
        let left = end.saturating_sub(self.place);
        let skipped = std::io::copy(&mut Read::by_ref(&mut self.inner).take(left), &mut std::io::sink())?;
        if skipped < left {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        (self.place, self.zeros, self.header_at) = (end, false, Some(end));
        self.header.clear();
        Ok(bytes)
    }
}

/// The first block behind so many bytes.
fn blocks_behind(start: u64, bytes: u64) -> u64 {
    start.saturating_add(bytes.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX))
}

/// The blocks for a reader of archives that has them to itself for a while.
struct Shared(Rc<RefCell<Blocks>>);

impl Read for Shared {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut blocks = self.0.borrow_mut();
        let bytes = blocks.inner.read(buffer)?;
        let start = blocks.place;
        let end = start + bytes as u64;
        let block = end - end % BLOCK;
        let new = buffer[block.saturating_sub(start) as usize..bytes].iter().all(|byte| *byte == 0);
        blocks.zeros = new && (block >= start || blocks.zeros);
        blocks.place = end;
        blocks.follow(&buffer[..bytes], start)?;
        Ok(bytes)
    }
}

/// What was met by somebody who looks for fields.
#[derive(Default)]
struct Looked {
    rows: bool,
    /// The first picture.
    picture: Option<Member>,
    /// The name of the first member that is for no row.
    other: Option<String>,
}

impl Looked {
    fn look(
        &mut self,
        member: Member,
        wanted: &Wanted<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<bool, PipelineError> {
        if member.kind == Kind::Picture {
            self.picture.get_or_insert(member);
            return Ok(true);
        }
        self.rows = true;
        visit(Sample::alone(member, wanted.pick))
    }

    /// An archive of pictures alone has rows, and one of which no member is for a row has a reason for that.
    fn finish(self, visit: &mut Visit<'_>) -> Result<(), PipelineError> {
        let row = match (self.rows, self.picture, self.other) {
            (false, Some(picture), _) => Sample::alone(picture, &Pick::All),
            (false, None, Some(name)) => {
                let detail = format!("no member is a picture, a text or JSON; the first is `{name}`");
                RawRow::bad(0, RejectReason::BadEntry, detail)
            }
            _ => return Ok(()),
        };
        visit(row).map(|_| ())
    }
}

/// What a member is for its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Picture,
    /// The caption of this number.
    Caption(u64),
    Json,
}

impl Kind {
    fn of(extension: &str) -> Option<Self> {
        if is_picture(extension) {
            return Some(Self::Picture);
        }
        if extension == "json" {
            return Some(Self::Json);
        }
        caption_number(extension).map(Self::Caption)
    }

    /// A bit of its own for each kind.
    const fn bit(self) -> u8 {
        match self {
            Self::Picture => 1,
            Self::Caption(_) => 2,
            Self::Json => 4,
        }
    }
}

/// The number of a text member: `txt` is 0, `1.txt`, `txt1`, `txt_1` and `caption.1` are 1.
fn caption_number(extension: &str) -> Option<u64> {
    let (mut names, mut number) = (Vec::new(), None);
    for part in extension.split('.') {
        let name = part.trim_end_matches(|c: char| c.is_ascii_digit());
        if name.len() < part.len() {
            number = Some(part[name.len()..].parse().ok()?);
        }
        let name = name.trim_end_matches(['_', '-']);
        if !name.is_empty() {
            names.push(name);
        }
    }
    match names.as_slice() {
        [name] if CAPTIONS.contains(name) => Some(number.unwrap_or(0)),
        _ => None,
    }
}

/// What stands in an archive.
enum Met {
    Member(Member),
    /// A file that is nothing for a row.
    Other(Other),
    /// A folder and the like.
    Nothing,
}

/// A file that is no picture, text or JSON.
struct Other {
    name: String,
    /// The names up to the first and to the last dot of a member that belongs to a row or stands for a lost one; `None`
    /// of a file that is about the archive.
    keys: Option<(String, String)>,
}

/// The row of files that lie beside each other in a folder as the members of a sample do in an archive: extensions and
/// contents.
pub(crate) fn row_of_files(key: &str, files: Vec<(String, Result<Vec<u8>, Reject>)>, pick: &Pick) -> RawRow {
    let mut sample = Sample::new(key, 0);
    for (extension, content) in files {
        let extension = extension.to_ascii_lowercase();
        if let Some(kind) = Kind::of(&extension) {
            let (name, key) = (String::new(), String::new());
            let (dotted, place) = (None, 0..0);
            sample.add(Member { name, key, extension, kind, dotted, content, place, is_link: false }, pick);
        }
    }
    sample.into_row(pick)
}

struct Member {
    name: String,
    /// The name up to the first dot of its last part.
    key: String,
    extension: String,
    kind: Kind,
    /// Its name up to the last dot, where it may be that of a row.
    dotted: Option<Dotted>,
    content: Result<Vec<u8>, Reject>,
    /// Where the content lies in the archive.
    place: Range<u64>,
    /// Whether the content lies elsewhere; then `content` says so where it is wanted.
    is_link: bool,
}

/// Extensions of files about an archive, beside those that any file about others has.
const ABOUT: [&str; 9] = ["md", "rst", "html", "yaml", "yml", "toml", "csv", "tsv", "log"];

impl Member {
    /// Reads a member of an archive that begins at `start` of the file.
    fn read(
        mut entry: tar::Entry<'_, impl Read>,
        start: u64,
        wanted: &Wanted<'_>,
        sorter: &Sorter,
        make_room: impl FnOnce(usize),
    ) -> std::io::Result<Met> {
        let of = entry.header().entry_type();
        if of.is_pax_global_extensions() || of.is_pax_local_extensions() {
            // What describes all members, or none: it says no names.
            return Ok(Met::Nothing);
        }
        let (name, sparse) = name(&mut entry)?;
        let link = if of.is_hard_link() {
            Some("a hard link")
        } else if of.is_symlink() {
            Some("a symbolic link")
        } else if of.is_gnu_sparse() || sparse {
            Some("a sparse file")
        } else if of.is_file() || of.is_contiguous() {
            None
        } else {
            return Ok(Met::Nothing);
        };
        let Some(Name { key, extension, kind, dotted }) = Name::of(&name) else {
            let keys = other_keys(&name, &mut entry)?;
            return Ok(Met::Other(Other { name, keys }));
        };
        let begin = start + entry.raw_file_position();
        let place = begin..begin + entry.size();
        // Whether a row has a picture, and which members belong together, is known without their content.
        let content = match (kind, link) {
            _ if sorter.is_further(&key, dotted.as_ref()) => Ok(Vec::new()),
            (Kind::Picture, _) if !wanted.images => Ok(Vec::new()),
            (Kind::Caption(_), Some(_)) if !wanted.caption() => Ok(Vec::new()),
            (Kind::Json, Some(_)) if !wanted.json() => Ok(Vec::new()),
            (_, Some(what)) => {
                let detail = format!(
                    "member `{name}` is {what}; links and sparse files are not followed: write the archive anew with \
                     the files themselves"
                );
                Err(Reject::new(RejectReason::BadEntry, detail))
            }
            (_, None) => content(&mut entry, &name, kind, make_room)?,
        };
        Ok(Met::Member(Self { name, key, extension, kind, dotted, content, place, is_link: link.is_some() }))
    }
}

/// What the name of a picture, a text or a JSON file says.
struct Name {
    key: String,
    extension: String,
    kind: Kind,
    dotted: Option<Dotted>,
}

impl Name {
    fn of(name: &str) -> Option<Self> {
        let (folder, file_name) = folder_and_name(name);
        let (stem, extension) = file_name.split_once('.').filter(|(stem, _)| !stem.is_empty())?;
        let extension = extension.to_ascii_lowercase();
        let further = file_name.rsplit_once('.').filter(|(longer, _)| longer.len() > stem.len());
        let further = further.and_then(|(longer, last)| {
            let last = last.to_ascii_lowercase();
            Some((longer, Kind::of(&last)?, last))
        });
        let key = in_folder(folder, stem);
        match (Kind::of(&extension), further) {
            (Some(kind), None) => Some(Self { key, extension, kind, dotted: None }),
            (Some(kind), Some((longer, _, last))) => {
                let dotted = Dotted { key: in_folder(folder, longer), extension: last, number: true };
                Some(Self { key, extension, kind, dotted: Some(dotted) })
            }
            (None, Some((longer, kind, last))) => {
                let dotted = Dotted { key: in_folder(folder, longer), extension: last, number: false };
                Some(Self { key, extension, kind, dotted: Some(dotted) })
            }
            (None, None) => None,
        }
    }
}

/// The folder of a member and its name in it.
fn folder_and_name(name: &str) -> (&str, &str) {
    let (folder, file_name) = name.rsplit_once('/').unwrap_or(("", name));
    (folder.trim_start_matches("./"), file_name)
}

fn in_folder(folder: &str, stem: &str) -> String {
    if folder.is_empty() || folder == "." { stem.to_owned() } else { format!("{folder}/{stem}") }
}

/// The keys of a member that is no picture, text or JSON by its name.
fn other_keys(
    name: &str,
    entry: &mut tar::Entry<'_, impl Read>,
) -> std::io::Result<Option<(String, String)>> {
    let (folder, file_name) = folder_and_name(name);
    match file_name.split_once('.') {
        // Hidden files, as a Mac puts beside each other one.
        Some(("", _)) => Ok(None),
        Some((stem, _)) => {
            let (longer, last) = file_name.rsplit_once('.').unwrap_or((file_name, ""));
            let about = is_about(name) || ABOUT.contains(&last.to_ascii_lowercase().as_str());
            Ok((!about).then(|| (in_folder(folder, stem), in_folder(folder, longer))))
        }
        // Without an extension it is no member of a sample, but a picture must not be lost.
        None => {
            let mut first = Vec::new();
            entry.take(PICTURE_HEAD).read_to_end(&mut first)?;
            let key = || in_folder(folder, file_name);
            Ok(image::guess_format(&first).is_ok().then(|| (key(), key())))
        }
    }
}

/// Bytes that tell a picture.
const PICTURE_HEAD: u64 = 32;

/// The name of a member, and whether it is a sparse file as newer archives have them: those stand under another name.
fn name(entry: &mut tar::Entry<'_, impl Read>) -> std::io::Result<(String, bool)> {
    let (mut name, mut sparse) = (entry.path_bytes().into_owned(), false);
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        sparse |= extension.key_bytes().starts_with(b"GNU.sparse.");
        if extension.key_bytes() == b"GNU.sparse.name" {
            name = extension.value_bytes().to_vec();
        }
    }
    Ok((String::from_utf8_lossy(&name).into_owned(), sparse))
}

fn content(
    entry: &mut tar::Entry<'_, impl Read>,
    name: &str,
    kind: Kind,
    make_room: impl FnOnce(usize),
) -> std::io::Result<Result<Vec<u8>, Reject>> {
    let (limit, reason) = match kind {
        Kind::Picture => (MAX_PICTURE_BYTES, RejectReason::ImageTooLarge),
        _ => (MAX_ROW_BYTES as u64, RejectReason::RowTooLarge),
    };
    let size = entry.size();
    if size > limit {
        let detail = format!("member `{name}` has {size} bytes, the limit is {limit}");
        return Ok(Err(Reject::new(reason, detail)));
    }
    make_room(size as usize);
    let mut content = Vec::new();
    entry.read_to_end(&mut content)?;
    // The archive's reader ends a member early where the archive does.
    if content.len() as u64 != size {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Ok(content))
}

/// Members of a row, at most.
const MOST_MEMBERS: usize = 8192;

/// Bytes of the members of a row, at most: a text or JSON of the largest and a picture of the largest.
const MAX_SAMPLE_BYTES: usize = MAX_ROW_BYTES + MAX_PICTURE_BYTES as usize + (1 << 20);

/// A row that is being put together.
struct Sample {
    key: String,
    row: u64,
    /// The extensions of its members so far.
    extensions: Vec<String>,
    /// Their kinds, a bit each.
    kinds: u8,
    captions: Vec<(u64, Result<String, Reject>)>,
    caption_bytes: usize,
    json: Option<Result<Map<String, Value>, Reject>>,
    json_bytes: usize,
    image: ImageRef,
    /// Where the picture lies in the archive.
    place: Range<u64>,
    /// Members whose content lies elsewhere.
    links: Vec<(Kind, Reject)>,
    reject: Option<Reject>,
    /// Whether no more members are taken.
    closed: bool,
}

impl Sample {
    fn new(key: &str, row: u64) -> Self {
        Self {
            key: key.to_owned(),
            row,
            extensions: Vec::new(),
            kinds: 0,
            captions: Vec::new(),
            caption_bytes: 0,
            json: None,
            json_bytes: 0,
            image: ImageRef::Absent,
            place: 0..0,
            links: Vec::new(),
            reject: None,
            closed: false,
        }
    }

    /// The fields of one member.
    fn alone(member: Member, pick: &Pick) -> RawRow {
        let mut sample = Self::new(&member.key, 0);
        sample.add(member, pick);
        sample.into_row(pick)
    }

    fn has(&self, extension: &str) -> bool {
        self.extensions.iter().any(|known| known == extension)
    }

    fn add(&mut self, member: Member, pick: &Pick) {
        self.add_content(member, pick);
        let what = match (self.extensions.len(), self.bytes()) {
            (members, _) if members > MOST_MEMBERS => format!("it has more than {MOST_MEMBERS} members"),
            (_, bytes) if bytes > MAX_SAMPLE_BYTES => {
                format!("its members have {bytes} bytes, the limit is {MAX_SAMPLE_BYTES}")
            }
            _ => return,
        };
        self.reject.get_or_insert_with(|| Reject::new(RejectReason::RowTooLarge, what));
        // What comes now is read and let go of.
        self.extensions.truncate(MOST_MEMBERS);
        (self.captions, self.caption_bytes) = (Vec::new(), 0);
        (self.json, self.json_bytes, self.image) = (None, 0, ImageRef::Absent);
    }

    fn add_content(&mut self, member: Member, pick: &Pick) {
        self.extensions.push(member.extension);
        self.kinds |= member.kind.bit();
        if member.is_link {
            self.links.extend(member.content.err().map(|reject| (member.kind, reject)));
            return;
        }
        let content = match member.content {
            Ok(content) => content,
            Err(reject) => {
                self.reject.get_or_insert(reject);
                return;
            }
        };
        match member.kind {
            Kind::Picture if self.image == ImageRef::Absent => {
                self.image = ImageRef::Bytes(Bytes::from(content));
                self.place = member.place;
            }
            // One picture a row.
            Kind::Picture => {}
            Kind::Caption(number) => {
                let caption = caption(content);
                self.caption_bytes += caption.as_ref().map_or(0, String::len);
                self.captions.push((number, caption));
            }
            Kind::Json => {
                self.json_bytes = content.len();
                self.json = Some(json_fields(&content, pick));
            }
        }
    }

    /// About how much memory it takes.
    fn bytes(&self) -> usize {
        let image = if let ImageRef::Bytes(bytes) = &self.image { bytes.len() } else { 0 };
        256 + self.key.len() + image + self.caption_bytes + self.json_bytes
    }

    /// Whether nothing but a link is there for a kind of members.
    fn lacks(&self, kind: Kind) -> bool {
        match kind {
            Kind::Picture => self.image == ImageRef::Absent,
            Kind::Caption(_) => self.captions.is_empty(),
            Kind::Json => self.json.is_none(),
        }
    }

    fn into_row(mut self, pick: &Pick) -> RawRow {
        let (row, bytes) = (self.row, self.bytes());
        let lacking = self.links.iter().find(|(kind, _)| self.lacks(*kind));
        self.reject = self.reject.or_else(|| lacking.map(|(_, reject)| reject.clone()));
        let image = std::mem::replace(&mut self.image, ImageRef::Absent);
        let key = self.key.clone();
        match self.fields(pick) {
            Ok(fields) => RawRow { image, ..RawRow::good(row, fields, bytes) },
            Err(reject) => {
                let fields = Map::from_iter([("key".to_owned(), Value::String(key))]);
                RawRow { reject: Some(reject), ..RawRow::good(row, fields, 64) }
            }
        }
    }

    fn fields(mut self, pick: &Pick) -> Result<Map<String, Value>, Reject> {
        if let Some(reject) = self.reject {
            return Err(reject);
        }
        let mut fields = self.json.unwrap_or_else(|| Ok(Map::new()))?;
        self.captions.sort_by_key(|(number, _)| *number);
        let captions = self.captions.into_iter().map(|(_, caption)| caption.map(Value::String));
        let captions = captions.collect::<Result<Vec<_>, _>>()?;
        if let Some(first) = captions.first().filter(|_| pick.wants("caption")) {
            fields.insert("caption".to_owned(), first.clone());
        }
        if !captions.is_empty() && pick.wants("captions") {
            match fields.get("captions") {
                Some(Value::Array(listed)) if !listed.is_empty() => {}
                Some(Value::String(_)) => {}
                _ => drop(fields.insert("captions".to_owned(), Value::Array(captions))),
            }
        }
        if pick.wants("key") {
            fields.insert("key".to_owned(), Value::String(self.key));
        }
        Ok(fields)
    }
}

/// The text of a caption, as of any text file: the end of the last line and a byte order mark are not part of it.
fn caption(content: Vec<u8>) -> Result<String, Reject> {
    let text = String::from_utf8(content).map_err(|error| {
        Reject::new(RejectReason::InvalidUtf8, "the caption is not UTF-8").showing(error.as_bytes())
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    Ok(text.to_owned())
}

fn json_fields(json: &[u8], pick: &Pick) -> Result<Map<String, Value>, Reject> {
    let invalid = |_| Reject::new(RejectReason::InvalidUtf8, "the JSON is not UTF-8").showing(json);
    let text = std::str::from_utf8(json).map_err(invalid)?;
    let text = text.trim_start_matches('\u{feff}');
    parse_object(text, pick).map_err(|error| Reject::new(reason(&error), error.to_string()).showing(json))
}

#[cfg(test)]
mod tests {
    use super::super::testing::rows;
    use super::*;
    use crate::config::{Format, TextSplit};

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *content).expect("appends");
        }
        builder.into_inner().expect("finishes")
    }

    fn show(row: &RawRow) -> String {
        match &row.reject {
            Some(reject) => reject.reason.name().to_owned(),
            None => Value::Object(row.fields.clone()).to_string(),
        }
    }

    async fn read_tar(bytes: Vec<u8>) -> Vec<RawRow> {
        rows(bytes, Format::Tar, TextSplit::File).await
    }

    fn picture(bytes: &'static [u8]) -> ImageRef {
        ImageRef::Bytes(Bytes::from_static(bytes))
    }

    #[tokio::test]
    async fn members_of_one_key_are_a_row() {
        let bytes = archive(&[
            ("b.json", br#"{"n": 1}"#),
            ("b.jpg", b"JPEG"),
            ("b.txt", b"a caption\n"),
            ("x/a.png", b"PNG"),
            ("x/a.seg.png", b"not the picture of a row"),
            ("README", b"no extension"),
            ("c.txt", b"no picture"),
            ("d.json", b"{broken"),
        ]);
        let rows = read_tar(bytes).await;
        assert_eq!(rows.iter().map(|row| row.row).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(show(&rows[0]), r#"{"n":1,"caption":"a caption","captions":["a caption"],"key":"b"}"#);
        assert_eq!(rows[0].image, picture(b"JPEG"));
        assert_eq!((&rows[1].fields["key"], &rows[1].image), (&"x/a".into(), &picture(b"PNG")));
        assert_eq!(rows[2].image, ImageRef::Absent);
        assert_eq!(show(&rows[3]), "invalid_json");
    }

    #[tokio::test]
    async fn an_archive_that_is_cut_off_keeps_its_whole_rows() {
        let bytes = archive(&[("a.txt", b"one"), ("b.txt", b"two"), ("c.txt", &[b'x'; 4096])]);
        let rows = read_tar(bytes[..3000].to_vec()).await;
        let reasons: Vec<_> =
            rows.iter().map(|row| row.reject.as_ref().map(|reject| reject.reason)).collect();
        assert_eq!(reasons, [None, None, Some(RejectReason::BadEntry)]);
        assert_eq!(rows[2].row, 2);
    }

    /// What stood behind the end mark of an archive used to vanish.
    #[tokio::test]
    async fn archives_that_were_put_together_are_read_on() {
        let (one, two) = (archive(&[("a.txt", b"one")]), archive(&[("b.txt", b"two")]));
        let captions = async |pieces: &[&[u8]]| {
            let rows = read_tar(pieces.concat()).await;
            let caption = |row: &RawRow| match &row.reject {
                Some(reject) => format!("{} {}", row.row, reject.reason),
                None => row.fields["caption"].as_str().expect("a text").to_owned(),
            };
            rows.iter().map(caption).collect::<Vec<_>>()
        };
        assert_eq!(captions(&[&one, &two]).await, ["one", "two"]);
        assert_eq!(captions(&[&one, &[0; 10_240], &two, &[0; 300]]).await, ["one", "two"]);
        assert_eq!(captions(&[&one[..1024], &[0; 100]]).await, ["one"]);
        for garbage in [&[7; 512][..], b"text\n", &[&[0; 600][..], b"x"].concat()] {
            assert_eq!(captions(&[&one, garbage]).await, ["one", "1 bad_entry"]);
        }
    }

    /// Links were passed over without a word, and sparse files made rows under made-up names.
    #[tokio::test]
    async fn a_row_that_needs_a_link_is_refused_and_says_so() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut file = |name: &str, content: &[u8], of: tar::EntryType| {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(of);
            header.set_size(content.len() as u64);
            if content.is_empty() {
                builder.append_link(&mut header, name, "x.txt").expect("appends");
            } else {
                builder.append_data(&mut header, name, content).expect("appends");
            }
        };
        use tar::EntryType::{Link, Regular, Symlink};
        file("a.jpg", b"JPEG", Regular);
        file("a.txt", b"", Link);
        file("b.jpg", b"", Symlink);
        file("b.txt", b"two", Regular);
        file("c.1.txt", b"", Symlink);
        file("c.txt", b"three", Regular);
        let sparse = [("GNU.sparse.major", b"1".as_slice()), ("GNU.sparse.name", b"d.jpg")];
        builder.append_pax_extensions(sparse).expect("appends");
        let mut header = tar::Header::new_ustar();
        header.set_size(4);
        builder.append_data(&mut header, "GNUSparseFile.1/d.jpg", b"hole".as_slice()).expect("appends");
        let rows = read_tar(builder.into_inner().expect("finishes")).await;
        let detail =
            |row: &RawRow| row.reject.as_ref().map(|reject| reject.detail.clone()).unwrap_or_default();
        let found: Vec<_> = rows.iter().map(|row| (row.fields["key"].clone(), detail(row))).collect();
        assert_eq!(found.len(), 4, "{found:?}");
        for (index, what) in
            [(0, "`a.txt` is a hard link"), (1, "`b.jpg` is a symbolic"), (3, "`d.jpg` is a sparse")]
        {
            assert!(found[index].1.contains(what), "{found:?}");
        }
        assert_eq!(show(&rows[2]), r#"{"caption":"three","captions":["three"],"key":"c"}"#);
    }

    /// A header that describes the next member with so many bytes, of which some are there.
    fn describing(of: tar::EntryType, bytes: u64, there: usize) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_path("@LongLink").expect("a path");
        header.set_entry_type(of);
        header.set_size(bytes);
        header.set_cksum();
        [header.as_bytes().as_slice(), &vec![b'n'; there], &vec![0; there.next_multiple_of(512) - there]]
            .concat()
    }

    /// Fifty gigabytes of a name used to be held, however small the archive was.
    #[tokio::test]
    async fn a_name_that_is_too_long_is_skipped_and_its_member_refused() {
        use tar::EntryType::{GNULongLink, GNULongName, XHeader};
        let part = |name: &str, content: &[u8]| archive(&[(name, content)])[..1024].to_vec();
        let end = [0; 1024];
        let limit = MAX_NAME_BYTES as usize;
        for of in [GNULongName, GNULongLink, XHeader] {
            let long = describing(of, 3 * MAX_NAME_BYTES + 5, 3 * limit + 5);
            let short = describing(GNULongName, 5, 5);
            let pieces = [
                part("a.txt", b"one"),
                long.clone(),
                part("cut.txt", b"two"),
                short,
                part("x.txt", b"no extension"),
                part("b.jpg", b"JPEG"),
                long,
                part("folder/c.bin", b"of no row"),
                part("b.txt", b"three"),
            ];
            let bytes = [pieces.concat(), end.to_vec()].concat();
            let rows = read_tar(bytes.clone()).await;
            let shown = |row: &RawRow| match &row.reject {
                Some(reject) => format!("{} {}", row.row, reject.detail),
                None => format!("{} {}", row.row, row.fields["caption"]),
            };
            let refused = |name: &str| {
                format!(
                    "the name of member `{name}` and what else describes it have 3145733 bytes, the limit is 1048576"
                )
            };
            let expected = [
                "0 \"one\"".to_owned(),
                format!("1 {}", refused("cut.txt")),
                "2 \"three\"".to_owned(),
                format!("3 {}", refused("folder/c.bin")),
            ];
            assert_eq!(rows.iter().map(shown).collect::<Vec<_>>(), expected, "{of:?}");
            assert_eq!(rows[2].image, picture(b"JPEG"));
            assert_eq!(read_tar(zstd::encode_all(&*bytes, 1).expect("compresses")).await.len(), 4);
        }
        // A name up to the limit is read, one that the archive does not have is damage, as is one without a member.
        let whole =
            [describing(GNULongName, MAX_NAME_BYTES, limit), part("x", b"one"), end.to_vec()].concat();
        assert!(read_tar(whole).await.is_empty(), "a name without an extension is of no row");
        for there in [0, 4 * limit] {
            let cut = [part("a.txt", b"one"), describing(GNULongName, 4 * MAX_NAME_BYTES, there)].concat();
            let cut = if there == 0 { cut } else { [cut, end.to_vec()].concat() };
            let rows = read_tar(cut).await;
            assert_eq!(rows.len(), 2, "{there}");
            assert_eq!(rows[1].reject.as_ref().map(|reject| reject.reason), Some(RejectReason::BadEntry));
        }
    }

    /// Headers are followed behind members whose size says something else than their header, and behind sparse files.
    #[tokio::test]
    async fn names_are_looked_at_behind_every_kind_of_member() {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_pax_extensions([("size", b"700".as_slice())]).expect("appends");
        let mut header = tar::Header::new_ustar();
        header.set_path("a.txt").expect("a path");
        header.set_size(0);
        header.set_cksum();
        let mut bytes = builder.into_inner().expect("finishes");
        bytes.truncate(bytes.len() - 1024);
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&[[b'a'; 700].as_slice(), &[0; 324]].concat());
        let long = describing(tar::EntryType::GNULongName, 2 << 20, 2 << 20);
        bytes.extend_from_slice(&[long, archive(&[("b.txt", b"two")])].concat());
        let rows = read_tar(bytes).await;
        assert_eq!(rows[0].fields["caption"], "a".repeat(700));
        assert_eq!(rows.iter().map(|row| row.reject.is_some()).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn text_members_have_numbers() {
        let cases = [
            ("txt", Some(0)),
            ("1.txt", Some(1)),
            ("txt2", Some(2)),
            ("caption_3", Some(3)),
            ("caption.4", Some(4)),
            ("05.text", Some(5)),
            ("seg.txt", None),
            ("ocr_1", None),
            ("1", None),
            ("99999999999999999999.txt", None),
        ];
        for (extension, number) in cases {
            assert_eq!(caption_number(extension), number, "{extension}");
        }
    }

    #[tokio::test]
    async fn several_captions_are_a_list_in_the_order_of_their_numbers() {
        let rows = read_tar(archive(&[
            ("a.2.txt", b"two"),
            ("a.jpg", b"JPEG"),
            ("a.txt", b"zero"),
            ("a.1.txt", b"\xef\xbb\xbfone\r\n"),
            ("b.txt", b"short"),
            ("b.json", br#"{"captions": ["x", "y"], "caption": "z"}"#),
        ]))
        .await;
        assert_eq!(show(&rows[0]), r#"{"caption":"zero","captions":["zero","one","two"],"key":"a"}"#);
        assert_eq!(show(&rows[1]), r#"{"captions":["x","y"],"caption":"short","key":"b"}"#);
    }

    /// Keys out of order, and all pictures before all texts.
    #[tokio::test]
    async fn members_that_stand_apart_are_one_row() {
        let rows = read_tar(archive(&[
            ("b.jpg", b"B"),
            ("a.jpg", b"A"),
            ("a.txt", b"first"),
            ("b.json", b"{}"),
            ("b.txt", b"second"),
        ]))
        .await;
        let found: Vec<_> =
            rows.iter().map(|row| (row.row, row.fields["caption"].clone(), row.image.clone())).collect();
        assert_eq!(found, [(0, "second".into(), picture(b"B")), (1, "first".into(), picture(b"A"))]);
    }

    /// Who looks for columns sees those of all members, wherever they stand.
    #[test]
    fn fields_are_found_without_waiting() {
        let bytes =
            archive(&[("a.jpg", b"A"), ("b.jpg", b"B"), ("a.txt", b"one"), ("b.json", b"{\"n\": 1}")]);
        let file = InputFile {
            path: "a.tar".into(),
            below: "a.tar".to_owned(),
            bytes: bytes.len() as u64,
            e_tag: None,
            format: Format::Tar,
            part: None,
        };
        let wanted = Wanted { pick: &Pick::All, images: false, pieces: true };
        let mut found = Vec::new();
        let mut visit = |row: RawRow| {
            found.push(show(&row));
            Ok(found.len() < 2)
        };
        let memory = Arc::new(Memory::new(1 << 20));
        read(Box::new(std::io::Cursor::new(bytes)), &file, &wanted, &memory, &mut visit).expect("reads");
        assert_eq!(found, [r#"{"caption":"one","captions":["one"],"key":"a"}"#, r#"{"n":1,"key":"b"}"#]);
    }

    /// Names over 100 bytes, as GNU tar and as pax write them; compressed archives.
    #[tokio::test]
    async fn long_names_and_compressed_archives_are_read() {
        let long = format!("{}/{}", "folder".repeat(30), "ü".repeat(60));
        let gnu = archive(&[(&format!("{long}.txt"), b"gnu"), ("b.txt", b"short")]);
        let pax = {
            let mut builder = tar::Builder::new(Vec::new());
            let name = format!("{long}.txt");
            builder.append_pax_extensions([("path", name.as_bytes())]).expect("appends");
            let mut header = tar::Header::new_ustar();
            header.set_size(3);
            builder.append_data(&mut header, "cut.txt", b"pax".as_slice()).expect("appends");
            builder.into_inner().expect("finishes")
        };
        let gzip = {
            use std::io::Write;
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&gnu).expect("writes");
            encoder.finish().expect("finishes")
        };
        let zstd = zstd::encode_all(gnu.as_slice(), 1).expect("compresses");
        for (bytes, captions) in [(gnu, 2), (pax, 1), (gzip, 2), (zstd, 2)] {
            let rows = read_tar(bytes).await;
            assert_eq!(rows.len(), captions);
            assert_eq!(rows[0].fields["key"], Value::String(long.clone()));
        }
    }
}
