//! ZIP archives of tables and texts, such as `.jsonl.zip`: their members are read one after the other, as files of that form
//! put together, and rows are numbered on from member to member.
//!
//! The directory at the end of the archive says which members there are; they are read in the order in which they lie,
//! each as a stream, so an archive takes no more memory than what it holds would. A member that can't be read (encrypted,
//! larger than 4 GiB, compressed otherwise than usual, of another form) is one reject with its name.

use std::io::{BufRead, BufReader, Error, Read};
use std::sync::{Arc, Mutex, PoisonError};

use super::stream::{ZIP_END as END, ZIP_MEMBER as MEMBER};
use super::{Input, RawRow, Visit, damage, stream};
use crate::PipelineError;
use crate::config::Format;
use crate::row::reject::{Reject, RejectReason};
use crate::units::InputFile;

const ENTRY: &[u8] = b"PK\x01\x02";
/// Bytes of these without names and comments.
const MEMBER_BYTES: usize = 30;
const ENTRY_BYTES: usize = 46;
const END_BYTES: usize = 22;
/// Bytes of the comment behind the end, at most.
const COMMENT_BYTES: u64 = 0xffff;
/// Bytes of a directory, at most: the names of 65,535 members have some megabytes.
const DIRECTORY_BYTES: u64 = 64 << 20;

/// What reads the content of a member.
pub(super) type Each<'a> =
    dyn FnMut(Box<dyn BufRead + Send>, &InputFile, &mut Visit<'_>) -> Result<(), PipelineError> + 'a;

/// Reads each member of an archive that is read from its beginning.
pub(super) fn read(
    input: &Input,
    file: &InputFile,
    reader: Box<dyn BufRead + Send>,
    each: &mut Each<'_>,
    visit: &mut Visit<'_>,
) -> Result<(), PipelineError> {
    let bad = |row, detail: String| RawRow::bad(row, RejectReason::BadEntry, detail);
    let members = match members(input, file)? {
        Ok(members) => members,
        Err(what) => return visit(bad(0, format!("the ZIP archive can't be read: {what}"))).map(|_| ()),
    };
    let archive = Archive::new(reader);
    let (mut next, mut more) = (0, true);
    let several = members.len() > 1;
    for member in &members {
        let first = next;
        let content = match member.refusal(file) {
            Some(what) => Err(what),
            None => match archive.open(member) {
                Ok(content) => Ok(content),
                Err(error) => Err(format!("is damaged: {}", damage(error, file)?)),
            },
        };
        let content = match content {
            Ok(content) => content,
            Err(what) => {
                next += 1;
                match visit(bad(first, format!("member `{}` {what}", member.name)))? {
                    true => continue,
                    false => return Ok(()),
                }
            }
        };
        let mut numbered = |row: RawRow| {
            let reject =
                row.reject.map(|reject| if several { of_member(reject, &member.name) } else { reject });
            let row = RawRow { row: first + row.row, reject, ..row };
            next = next.max(row.row + 1);
            more = visit(row)?;
            Ok(more)
        };
        let member = member.file(file);
        each(stream::allowed(input, &member, content), &member, &mut numbered)?;
        if !more || input.allowance_of(&member).is_some_and(|allowance| allowance.left() == 0) {
            return Ok(());
        }
    }
    Ok(())
}

fn of_member(reject: Reject, name: &str) -> Reject {
    Reject {
        excerpt: reject.excerpt,
        ..Reject::new(reject.reason, format!("member `{name}`: {}", reject.detail))
    }
}

/// A member as the directory has it.
#[derive(Debug)]
struct ZipMember {
    name: String,
    /// Where its own header lies.
    start: u64,
    packed: u64,
    bytes: u64,
    checksum: u32,
    method: u16,
    encrypted: bool,
}

impl ZipMember {
    /// Why it can't be read.
    fn refusal(&self, file: &InputFile) -> Option<String> {
        if !is_of(file.format, &self.name) {
            return Some(format!(
                "is no file of the form `{}`, as which the archive is read",
                file.format.name()
            ));
        }
        if self.encrypted {
            return Some("is encrypted: pack it anew without a password".to_owned());
        }
        if [self.start, self.packed, self.bytes].contains(&u64::from(u32::MAX)) {
            return Some(
                "is larger than 4 GiB (ZIP64): unpack it, or compress it with gzip or zstd".to_owned(),
            );
        }
        match self.method {
            0 | 8 => None,
            other => {
                Some(format!("is compressed by the method {other}, known are 0 (stored) and 8 (deflate)"))
            }
        }
    }

    /// It as a file of its own. A name without an extension is that of the archive.
    fn file(&self, archive: &InputFile) -> InputFile {
        let below = if extension(&self.name).is_some() { &self.name } else { &archive.below };
        InputFile { below: below.clone(), part: None, ..archive.clone() }
    }
}

fn extension(name: &str) -> Option<String> {
    let name = name.rsplit('/').next().unwrap_or(name);
    name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase())
}

/// Whether a member of that name may be of the form of its archive.
fn is_of(format: Format, name: &str) -> bool {
    let known: &[&str] = match format {
        Format::JsonLines => &["jsonl", "ndjson", "json"],
        Format::Csv => &["csv", "tsv"],
        Format::Text => &["txt", "text", "md"],
        _ => &[],
    };
    !known.is_empty() && extension(name).is_none_or(|extension| known.contains(&extension.as_str()))
}

/// The members of an archive in the order in which they lie, without folders and what a Mac adds; or what is wrong.
fn members(input: &Input, file: &InputFile) -> Result<Result<Vec<ZipMember>, String>, PipelineError> {
    let bytes = |range| input.handle.block_on(stream::get_range(input, file, range));
    let tail_start = file.bytes.saturating_sub(END_BYTES as u64 + COMMENT_BYTES);
    let tail = bytes(tail_start..file.bytes)?;
    let Some(at) = end_of(&tail) else {
        return Ok(Err("it is cut off, its directory is missing".to_owned()));
    };
    let end = &tail[at..];
    if u16_at(end, 4) != 0 || u16_at(end, 6) != 0 {
        return Ok(Err("it is one of several volumes".to_owned()));
    }
    let (size, start) = (u64::from(u32_at(end, 12)), u64::from(u32_at(end, 16)));
    if u16_at(end, 10) == u16::MAX || size == u64::from(u32::MAX) || start == u64::from(u32::MAX) {
        return Ok(Err(
            "it is larger than 4 GiB (ZIP64); unpack it, or compress with gzip or zstd".to_owned()
        ));
    }
    let end_place = tail_start + at as u64;
    // Something may stand before the archive.
    let Some(before) = end_place.checked_sub(size).and_then(|place| place.checked_sub(start)) else {
        return Ok(Err("its directory is damaged".to_owned()));
    };
    if size > DIRECTORY_BYTES {
        return Ok(Err(format!("its directory has {size} bytes, the limit is {DIRECTORY_BYTES}")));
    }
    let directory = bytes(end_place - size..end_place)?;
    let Some(mut members) = entries(&directory, before) else {
        return Ok(Err("its directory is damaged".to_owned()));
    };
    members.sort_by_key(|member| member.start);
    // A few bytes can stand for any number of members that share them.
    if members.windows(2).any(|pair| pair[1].start < pair[0].start + MEMBER_BYTES as u64 + pair[0].packed) {
        return Ok(Err("its members lie over each other".to_owned()));
    }
    let is_file = |member: &ZipMember| {
        let hidden = |part: &str| part.starts_with('.') || part == "__MACOSX";
        !member.name.ends_with('/') && !member.name.split('/').any(hidden)
    };
    members.retain(is_file);
    Ok(Ok(members))
}

/// Where the end of the directory begins.
fn end_of(tail: &[u8]) -> Option<usize> {
    let last = tail.len().checked_sub(END_BYTES)?;
    let is_end = |at: &usize| {
        tail[*at..].starts_with(END) && at + END_BYTES + usize::from(u16_at(&tail[*at..], 20)) <= tail.len()
    };
    (0..=last).rev().find(is_end)
}

fn entries(mut directory: &[u8], before: u64) -> Option<Vec<ZipMember>> {
    let mut members = Vec::new();
    while !directory.is_empty() {
        let entry = directory.get(..ENTRY_BYTES).filter(|entry| entry.starts_with(ENTRY))?;
        let name_end = ENTRY_BYTES + usize::from(u16_at(entry, 28));
        let end = name_end + usize::from(u16_at(entry, 30)) + usize::from(u16_at(entry, 32));
        members.push(ZipMember {
            name: String::from_utf8_lossy(directory.get(ENTRY_BYTES..name_end)?).into_owned(),
            start: before + u64::from(u32_at(entry, 42)),
            packed: u32_at(entry, 20).into(),
            bytes: u32_at(entry, 24).into(),
            checksum: u32_at(entry, 16),
            method: u16_at(entry, 10),
            encrypted: u16_at(entry, 8) & 1 != 0,
        });
        directory = directory.get(end..)?;
    }
    Some(members)
}

/// The number at a place that is inside: the callers' slices have the length of what they are read from.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

/// The bytes of an archive, which are gone through once.
#[derive(Clone)]
struct Archive(Arc<Mutex<Cursor>>);

struct Cursor {
    reader: Box<dyn BufRead + Send>,
    at: u64,
}

impl Archive {
    fn new(reader: Box<dyn BufRead + Send>) -> Self {
        Self(Arc::new(Mutex::new(Cursor { reader, at: 0 })))
    }

    /// The content of a member behind those before.
    fn open(&self, member: &ZipMember) -> std::io::Result<Box<dyn BufRead + Send>> {
        self.skip_to(member.start)?;
        let mut header = [0; MEMBER_BYTES];
        self.clone().read_exact(&mut header)?;
        if !header.starts_with(MEMBER) {
            return Err(Error::other("something else stands where it should begin"));
        }
        let names = u64::from(u16_at(&header, 26)) + u64::from(u16_at(&header, 28));
        self.skip_to(member.start + MEMBER_BYTES as u64 + names)?;
        let packed = BufReader::new(self.clone().take(member.packed));
        let content: Box<dyn Read + Send> = match member.method {
            0 => Box::new(packed),
            _ => Box::new(flate2::bufread::DeflateDecoder::new(packed)),
        };
        let checked =
            Checked { content, left: member.bytes, sum: flate2::Crc::new(), checksum: member.checksum };
        Ok(Box::new(BufReader::with_capacity(CONTENT_BYTES, checked)))
    }

    fn skip_to(&self, place: u64) -> std::io::Result<()> {
        let at = self.0.lock().unwrap_or_else(PoisonError::into_inner).at;
        let bytes = place.checked_sub(at).ok_or_else(|| Error::other("it lies over another one"))?;
        std::io::copy(&mut self.clone().take(bytes), &mut std::io::sink()).map(|_| ())
    }
}

const CONTENT_BYTES: usize = 256 << 10;

impl Read for Archive {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = place.reader.read(buffer)?;
        place.at += bytes as u64;
        Ok(bytes)
    }
}

/// The content of a member, which has as many bytes as the directory says and its checksum.
struct Checked {
    content: Box<dyn Read + Send>,
    left: u64,
    sum: flate2::Crc,
    checksum: u32,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.content.read(buffer)?;
        self.sum.update(&buffer[..bytes]);
        match self.left.checked_sub(bytes as u64) {
            Some(left) => self.left = left,
            None => return Err(Error::other("a member has more bytes than the ZIP archive says")),
        }
        if bytes == 0 && !buffer.is_empty() && (self.left > 0 || self.sum.sum() != self.checksum) {
            self.left = 0;
            return Err(Error::other(
                "a member of the ZIP archive is cut off, or its checksum is another one",
            ));
        }
        Ok(bytes)
    }
}
