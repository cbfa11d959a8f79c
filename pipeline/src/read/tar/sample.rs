//! A sample of an archive: the members of one key, which become a row.

use std::ops::Range;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::member::{Member, MemberKind};
use crate::read::json::{parse_object, reason};
use crate::read::{ImageRef, MAX_PICTURE_BYTES, MAX_ROW_BYTES, Pick, RawRow};
use crate::row::reject::{Reject, RejectReason};

/// Members of a row, at most.
const MOST_MEMBERS: usize = 8192;

/// Bytes of the members of a row, at most: a text or JSON of the largest and a picture of the largest.
const MAX_SAMPLE_BYTES: usize = MAX_ROW_BYTES + MAX_PICTURE_BYTES as usize + (1 << 20);

/// A row that is being put together.
pub(super) struct Sample {
    pub(super) key: String,
    pub(super) row: u64,
    /// The extensions of its members so far.
    pub(super) extensions: Vec<String>,
    /// Their kinds, a bit each.
    pub(super) kinds: u8,
    pub(super) captions: Vec<(u64, Result<String, Reject>)>,
    pub(super) caption_bytes: usize,
    pub(super) json: Option<Result<Map<String, Value>, Reject>>,
    pub(super) json_bytes: usize,
    pub(super) image: ImageRef,
    /// Where the picture lies in the archive.
    pub(super) place: Range<u64>,
    /// Members whose content lies elsewhere.
    pub(super) links: Vec<(MemberKind, Reject)>,
    pub(super) reject: Option<Reject>,
    /// Whether no more members are taken.
    pub(super) closed: bool,
}

impl Sample {
    pub(super) fn new(key: &str, row: u64) -> Self {
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
    pub(super) fn alone(member: Member, pick: &Pick) -> RawRow {
        let mut sample = Self::new(&member.key, 0);
        sample.add(member, pick);
        sample.into_row(pick)
    }

    pub(super) fn has(&self, extension: &str) -> bool {
        self.extensions.iter().any(|known| known == extension)
    }

    pub(super) fn add(&mut self, member: Member, pick: &Pick) {
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
            MemberKind::Picture if self.image == ImageRef::Absent => {
                self.image = ImageRef::Bytes(Bytes::from(content));
                self.place = member.place;
            }
            // One picture a row.
            MemberKind::Picture => {}
            MemberKind::Caption(number) => {
                let caption = caption(content);
                self.caption_bytes += caption.as_ref().map_or(0, String::len);
                self.captions.push((number, caption));
            }
            MemberKind::Json => {
                self.json_bytes = content.len();
                self.json = Some(json_fields(&content, pick));
            }
        }
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        let image = if let ImageRef::Bytes(bytes) = &self.image { bytes.len() } else { 0 };
        256 + self.key.len() + image + self.caption_bytes + self.json_bytes
    }

    /// Whether nothing but a link is there for a kind of members.
    fn lacks(&self, kind: MemberKind) -> bool {
        match kind {
            MemberKind::Picture => self.image == ImageRef::Absent,
            MemberKind::Caption(_) => self.captions.is_empty(),
            MemberKind::Json => self.json.is_none(),
        }
    }

    pub(super) fn into_row(mut self, pick: &Pick) -> RawRow {
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
