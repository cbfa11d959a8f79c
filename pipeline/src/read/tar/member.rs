//! The members of an archive: what their names say, and their content.

use std::io::Read;
use std::ops::Range;

use super::WantedMembers;
use crate::read::{MAX_PICTURE_BYTES, MAX_ROW_BYTES};
use crate::row::reject::{Reject, RejectReason};
use crate::units::names::{is_about, is_picture};

/// The extensions of captions.
const CAPTIONS: [&str; 3] = ["txt", "text", "caption"];

/// The other way to read a name with more than one dot.
#[derive(Clone, Debug)]
pub(super) struct Dotted {
    /// The name up to the last dot.
    pub(super) key: String,
    /// What is behind it.
    pub(super) extension: String,
    /// Whether it is a caption of the shorter key unless something speaks against that.
    pub(super) number: bool,
}

/// What a member is for its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberKind {
    Picture,
    /// The caption of this number.
    Caption(u64),
    Json,
}

impl MemberKind {
    pub(super) fn of(extension: &str) -> Option<Self> {
        if is_picture(extension) {
            return Some(Self::Picture);
        }
        if extension == "json" {
            return Some(Self::Json);
        }
        caption_number(extension).map(Self::Caption)
    }

    /// A bit of its own for each kind.
    pub(super) const fn bit(self) -> u8 {
        match self {
            Self::Picture => 1,
            Self::Caption(_) => 2,
            Self::Json => 4,
        }
    }
}

/// The number of a text member: `txt` is 0, `1.txt`, `txt1`, `txt_1` and `caption.1` are 1.
pub(super) fn caption_number(extension: &str) -> Option<u64> {
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
pub(super) enum Entry {
    Member(Member),
    /// A file that is nothing for a row.
    Other(Other),
    /// A folder and the like.
    Nothing,
}

/// A file that is no picture, text or JSON.
pub(super) struct Other {
    pub(super) name: String,
    /// The names up to the first and to the last dot of a member that belongs to a row or stands for a lost one; `None`
    /// of a file that is about the archive.
    pub(super) keys: Option<(String, String)>,
}

/// A picture, a text or JSON.
pub(super) struct Member {
    pub(super) name: String,
    /// The name up to the first dot of its last part.
    pub(super) key: String,
    pub(super) extension: String,
    pub(super) kind: MemberKind,
    /// Its name up to the last dot, where it may be that of a row.
    pub(super) dotted: Option<Dotted>,
    pub(super) content: Result<Vec<u8>, Reject>,
    /// Where the content lies in the archive.
    pub(super) place: Range<u64>,
    /// Whether the content lies elsewhere; then `content` says so where it is wanted.
    pub(super) is_link: bool,
}

/// Extensions of files about an archive, beside those that any file about others has.
const ABOUT: [&str; 9] = ["md", "rst", "html", "yaml", "yml", "toml", "csv", "tsv", "log"];

impl Member {
    /// Reads a member of an archive that begins at `start` of the file.
    pub(super) fn read(
        mut entry: tar::Entry<'_, impl Read>,
        start: u64,
        wanted: &WantedMembers<'_>,
        is_further: impl FnOnce(&str, Option<&Dotted>) -> bool,
        make_room: impl FnOnce(usize),
    ) -> std::io::Result<Entry> {
        let of = entry.header().entry_type();
        if of.is_pax_global_extensions() || of.is_pax_local_extensions() {
            // What describes all members, or none: it says no names.
            return Ok(Entry::Nothing);
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
            return Ok(Entry::Nothing);
        };
        let Some(Name { key, extension, kind, dotted }) = Name::of(&name) else {
            let keys = other_keys(&name, &mut entry)?;
            return Ok(Entry::Other(Other { name, keys }));
        };
        let begin = start + entry.raw_file_position();
        let place = begin..begin + entry.size();
        // Whether a row has a picture, and which members belong together, is known without their content.
        let content = match (kind, link) {
            _ if is_further(&key, dotted.as_ref()) => Ok(Vec::new()),
            (MemberKind::Picture, _) if !wanted.images => Ok(Vec::new()),
            (MemberKind::Caption(_), Some(_)) if !wanted.caption() => Ok(Vec::new()),
            (MemberKind::Json, Some(_)) if !wanted.json() => Ok(Vec::new()),
            (_, Some(what)) => {
                let detail = format!(
                    "member `{name}` is {what}; links and sparse files are not followed: write the archive anew with \
                     the files themselves"
                );
                Err(Reject::new(RejectReason::BadEntry, detail))
            }
            (_, None) => content(&mut entry, &name, kind, make_room)?,
        };
        Ok(Entry::Member(Self {
            name,
            key,
            extension,
            kind,
            dotted,
            content,
            place,
            is_link: link.is_some(),
        }))
    }
}

/// What the name of a picture, a text or a JSON file says.
pub(super) struct Name {
    pub(super) key: String,
    pub(super) extension: String,
    pub(super) kind: MemberKind,
    pub(super) dotted: Option<Dotted>,
}

impl Name {
    pub(super) fn of(name: &str) -> Option<Self> {
        let (folder, file_name) = folder_and_name(name);
        let (stem, extension) = file_name.split_once('.').filter(|(stem, _)| !stem.is_empty())?;
        let extension = extension.to_ascii_lowercase();
        let further = file_name.rsplit_once('.').filter(|(longer, _)| longer.len() > stem.len());
        let further = further.and_then(|(longer, last)| {
            let last = last.to_ascii_lowercase();
            Some((longer, MemberKind::of(&last)?, last))
        });
        let key = in_folder(folder, stem);
        match (MemberKind::of(&extension), further) {
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
    kind: MemberKind,
    make_room: impl FnOnce(usize),
) -> std::io::Result<Result<Vec<u8>, Reject>> {
    let (limit, reason) = match kind {
        MemberKind::Picture => (MAX_PICTURE_BYTES, RejectReason::ImageTooLarge),
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
