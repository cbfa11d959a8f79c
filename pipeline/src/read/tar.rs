//! WebDataset: members of an archive that share the name up to its first dot are one row.
//!
//! The text members of a row (`KEY.txt`, `.text`, `.caption`; several as `KEY.1.txt`, `KEY.txt2`, `KEY.caption_3`) are
//! its captions, by number: the column `caption` is the first, `captions` the list of all. The fields of `KEY.json`
//! are columns of their own, `KEY` is the column `key`, and the first picture is the column `image`. A list `captions`
//! in `KEY.json` is taken as it is. Rows are numbered by the first appearance of their key.
//!
//! The members of a row usually stand together. Where they don't, rows wait for the rest of them, as [`window`] says.
//!
//! Nothing is ever written under a member's name, so a name that leads outside is harmless here and stays a key.

mod window;

use std::io::{BufRead, Read};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};

use self::window::Window;
use super::json::parse_object;
use super::{ImageRef, MAX_PICTURE_BYTES, MAX_ROW_BYTES, Pick, RawRow, Visit, damaged};
use crate::PipelineError;
use crate::reject::{Reject, RejectReason};
use crate::units::InputFile;

const PICTURES: [&str; 9] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "img"];
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
        let captioned = !self.caption() || !sample.captions.is_empty() || captioned;
        let described = !self.json() || json.is_some();
        sample.reject.is_some() || pictured && captioned && described
    }
}

/// Visits the rows of an archive.
pub(crate) fn read(
    reader: Box<dyn BufRead + Send>,
    file: &InputFile,
    wanted: &Wanted<'_>,
    visit: &mut Visit<'_>,
) -> Result<(), PipelineError> {
    let mut archive = tar::Archive::new(reader);
    let mut window = Window::new(*wanted, Arc::new(file.clone()));
    let entries = match archive.entries() {
        Ok(entries) => entries,
        Err(error) => return visit(damaged(error, file, 0)?).map(|_| ()),
    };
    for entry in entries {
        let member = match entry.and_then(|entry| Member::read(entry, wanted)) {
            Ok(Some(member)) => member,
            Ok(None) => continue,
            Err(error) => {
                // What is whole before the damage is a row; rows that were still waiting may lack parts.
                let next = window.rows();
                return match window.finish(visit)? {
                    true => visit(damaged(error, file, next)?).map(|_| ()),
                    false => Ok(()),
                };
            }
        };
        let more = if wanted.looks() {
            member.kind == Kind::Picture || visit(Sample::alone(member, wanted.pick))?
        } else {
            window.add(member, visit)?
        };
        if !more {
            return Ok(());
        }
    }
    window.finish(visit).map(|_| ())
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
        if PICTURES.contains(&extension) {
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

struct Member {
    name: String,
    key: String,
    extension: String,
    kind: Kind,
    content: Result<Vec<u8>, Reject>,
    /// Where the content lies in the archive.
    place: Range<u64>,
}

impl Member {
    fn read(mut entry: tar::Entry<'_, impl Read>, wanted: &Wanted<'_>) -> std::io::Result<Option<Self>> {
        if !entry.header().entry_type().is_file() {
            return Ok(None);
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let (folder, file_name) = name.rsplit_once('/').unwrap_or(("", &name));
        let Some((stem, extension)) = file_name.split_once('.').filter(|(stem, _)| !stem.is_empty()) else {
            return Ok(None);
        };
        let folder = folder.trim_start_matches("./");
        let key =
            if folder.is_empty() || folder == "." { stem.to_owned() } else { format!("{folder}/{stem}") };
        let extension = extension.to_ascii_lowercase();
        let Some(kind) = Kind::of(&extension) else { return Ok(None) };
        let place = entry.raw_file_position()..entry.raw_file_position() + entry.size();
        // Whether a row has a picture, and which members belong together, is known without their content.
        let content = match kind {
            Kind::Picture if !wanted.images => Ok(Vec::new()),
            _ => content(&mut entry, &name, kind)?,
        };
        Ok(Some(Self { name, key, extension, kind, content, place }))
    }
}

fn content(
    entry: &mut tar::Entry<'_, impl Read>,
    name: &str,
    kind: Kind,
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
    let mut content = Vec::new();
    entry.read_to_end(&mut content)?;
    // The archive's reader ends a member early where the archive does.
    if content.len() as u64 != size {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Ok(content))
}

/// A row that is being put together.
struct Sample {
    key: String,
    row: u64,
    /// The extensions of its members so far.
    extensions: Vec<String>,
    /// Their kinds, a bit each.
    kinds: u8,
    captions: Vec<(u64, Result<String, Reject>)>,
    json: Option<Result<Map<String, Value>, Reject>>,
    json_bytes: usize,
    image: ImageRef,
    /// Where the picture lies in the archive.
    place: Range<u64>,
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
            json: None,
            json_bytes: 0,
            image: ImageRef::Absent,
            place: 0..0,
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
        self.extensions.push(member.extension);
        self.kinds |= member.kind.bit();
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
            Kind::Caption(number) => self.captions.push((number, caption(content))),
            Kind::Json => {
                self.json_bytes = content.len();
                self.json = Some(json_fields(&content, pick));
            }
        }
    }

    /// About how much memory it takes.
    fn bytes(&self) -> usize {
        let image = if let ImageRef::Bytes(bytes) = &self.image { bytes.len() } else { 0 };
        let captions = self.captions.iter().map(|(_, caption)| caption.as_ref().map_or(0, String::len));
        256 + self.key.len() + image + captions.sum::<usize>() + self.json_bytes
    }

    fn into_row(mut self, pick: &Pick) -> RawRow {
        let (row, bytes) = (self.row, self.bytes());
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
    parse_object(text, pick)
        .map_err(|error| Reject::new(RejectReason::InvalidJson, error.to_string()).showing(json))
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
        read(Box::new(std::io::Cursor::new(bytes)), &file, &wanted, &mut visit).expect("reads");
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
