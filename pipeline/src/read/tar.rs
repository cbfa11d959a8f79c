//! WebDataset: consecutive members of an archive that share the name up to its first dot are one row.
//!
//! A member `KEY.txt` is the column `caption`, the fields of `KEY.json` are columns of their own, `KEY` is the column
//! `key`, and the first picture is the column `image`. Nothing is ever written under a member's name, so a name that
//! leads outside is harmless here and stays a key.

use std::io::{BufRead, Read};

use bytes::Bytes;
use serde_json::{Map, Value};

use super::json::{excerpt, parse_object};
use super::{ImageRef, MAX_PICTURE_BYTES, MAX_ROW_BYTES, Pick, RawRow, Visit, damaged};
use crate::PipelineError;
use crate::reject::{Reject, RejectReason};
use crate::units::InputFile;

const PICTURES: [&str; 9] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "img"];
const CAPTIONS: [&str; 3] = ["txt", "text", "caption"];

/// Visits the rows of an archive.
pub(crate) fn read(
    reader: Box<dyn BufRead + Send>,
    file: &InputFile,
    pick: &Pick,
    images: bool,
    visit: &mut Visit<'_>,
) -> Result<(), PipelineError> {
    let mut archive = tar::Archive::new(reader);
    let mut sample: Option<Sample> = None;
    let mut row = 0;
    let entries = match archive.entries() {
        Ok(entries) => entries,
        Err(error) => return visit(damaged(error, file, 0)?).map(|_| ()),
    };
    for entry in entries {
        let member = match entry.and_then(|entry| Member::read(entry, images)) {
            Ok(Some(member)) => member,
            Ok(None) => continue,
            Err(error) => {
                // What is whole before the damage is a row; the sample that was being read may lack parts.
                let next = row + u64::from(sample.is_some());
                if let Some(sample) = sample.take()
                    && !visit(sample.into_row(row, pick))?
                {
                    return Ok(());
                }
                return visit(damaged(error, file, next)?).map(|_| ());
            }
        };
        if sample.as_ref().is_some_and(|sample| sample.key != member.key)
            && let Some(whole) = sample.take()
        {
            if !visit(whole.into_row(row, pick))? {
                return Ok(());
            }
            row += 1;
        }
        sample.get_or_insert_with(|| Sample::new(&member.key)).add(member);
    }
    match sample {
        Some(sample) => visit(sample.into_row(row, pick)).map(|_| ()),
        None => Ok(()),
    }
}

struct Member {
    key: String,
    extension: String,
    content: Result<Vec<u8>, Reject>,
}

impl Member {
    fn read(mut entry: tar::Entry<'_, impl Read>, images: bool) -> std::io::Result<Option<Self>> {
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
        let picture = PICTURES.contains(&extension.as_str());
        let wanted = CAPTIONS.contains(&extension.as_str()) || extension == "json" || picture && images;
        if !wanted {
            return Ok(picture.then(|| Self { key, extension, content: Ok(Vec::new()) }));
        }
        let (size, limit) = (entry.size(), if picture { MAX_PICTURE_BYTES } else { MAX_ROW_BYTES as u64 });
        let content = if size > limit {
            let detail = format!("member `{name}` has {size} bytes, the limit is {limit}");
            Err(Reject::new(
                if picture { RejectReason::ImageTooLarge } else { RejectReason::RowTooLarge },
                detail,
            ))
        } else {
            let mut content = Vec::with_capacity(size as usize);
            entry.read_to_end(&mut content)?;
            // The archive's reader ends a member early where the archive does.
            if content.len() as u64 != size {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            Ok(content)
        };
        Ok(Some(Self { key, extension, content }))
    }
}

struct Sample {
    key: String,
    caption: Option<Vec<u8>>,
    json: Option<Vec<u8>>,
    image: ImageRef,
    reject: Option<Reject>,
}

impl Sample {
    fn new(key: &str) -> Self {
        Self { key: key.to_owned(), caption: None, json: None, image: ImageRef::Absent, reject: None }
    }

    fn add(&mut self, member: Member) {
        let content = match member.content {
            Ok(content) => content,
            Err(reject) => {
                self.reject.get_or_insert(reject);
                return;
            }
        };
        let extension = member.extension.as_str();
        if CAPTIONS.contains(&extension) {
            self.caption.get_or_insert(content);
        } else if extension == "json" {
            self.json.get_or_insert(content);
        } else if self.image == ImageRef::Absent {
            self.image = ImageRef::Bytes(Bytes::from(content));
        }
    }

    fn into_row(self, row: u64, pick: &Pick) -> RawRow {
        let image_bytes = if let ImageRef::Bytes(bytes) = &self.image { bytes.len() } else { 0 };
        let bytes =
            image_bytes + self.json.as_ref().map_or(0, Vec::len) + self.caption.as_ref().map_or(0, Vec::len);
        let fields = match self.reject {
            Some(reject) => Err(reject),
            None => fields(&self.key, self.caption, self.json, pick),
        };
        match fields {
            Ok(fields) => RawRow { image: self.image, ..RawRow::good(row, fields, bytes) },
            Err(reject) => {
                let fields: Map<String, Value> =
                    [("key".to_owned(), Value::String(self.key))].into_iter().collect();
                RawRow { reject: Some(reject), ..RawRow::good(row, fields, 64) }
            }
        }
    }
}

fn fields(
    key: &str,
    caption: Option<Vec<u8>>,
    json: Option<Vec<u8>>,
    pick: &Pick,
) -> Result<Map<String, Value>, Reject> {
    let mut fields = match json {
        Some(json) => json_fields(&json, pick)?,
        None => Map::new(),
    };
    if let Some(caption) = caption.filter(|_| pick.wants("caption")) {
        let caption = String::from_utf8(caption).map_err(|error| {
            Reject::new(RejectReason::InvalidUtf8, format!("caption: {}", excerpt(error.as_bytes())))
        })?;
        fields.insert("caption".to_owned(), Value::String(caption));
    }
    if pick.wants("key") {
        fields.insert("key".to_owned(), Value::String(key.to_owned()));
    }
    Ok(fields)
}

fn json_fields(json: &[u8], pick: &Pick) -> Result<Map<String, Value>, Reject> {
    let text =
        std::str::from_utf8(json).map_err(|_| Reject::new(RejectReason::InvalidUtf8, excerpt(json)))?;
    let text = text.trim_start_matches('\u{feff}');
    parse_object(text, pick)
        .map_err(|error| Reject::new(RejectReason::InvalidJson, format!("{error}: {}", excerpt(json))))
}

#[cfg(test)]
mod tests {
    use super::super::testing::rows;
    use super::*;
    use crate::config::{Format, TextSplit};

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in members {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *content).expect("appends");
        }
        builder.into_inner().expect("finishes")
    }

    #[tokio::test]
    async fn members_of_one_key_are_a_row() {
        let bytes = archive(&[
            ("b.json", br#"{"n": 1}"#),
            ("b.jpg", b"JPEG"),
            ("b.txt", b"a caption"),
            ("x/a.png", b"PNG"),
            ("x/a.seg.png", b"not the picture of a row"),
            ("README", b"no extension"),
            ("c.txt", b"no picture"),
            ("d.json", b"{broken"),
        ]);
        let rows = rows(bytes, Format::Tar, TextSplit::File).await;
        assert_eq!(rows.iter().map(|row| row.row).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(
            Value::Object(rows[0].fields.clone()).to_string(),
            r#"{"n":1,"caption":"a caption","key":"b"}"#
        );
        assert_eq!(rows[0].image, ImageRef::Bytes(Bytes::from_static(b"JPEG")));
        assert_eq!(
            (&rows[1].fields["key"], &rows[1].image),
            (&"x/a".into(), &ImageRef::Bytes(Bytes::from_static(b"PNG")))
        );
        assert_eq!(rows[2].image, ImageRef::Absent);
        assert_eq!(rows[3].reject.as_ref().map(|reject| reject.reason), Some(RejectReason::InvalidJson));
    }

    #[tokio::test]
    async fn an_archive_that_is_cut_off_keeps_its_whole_rows() {
        let bytes = archive(&[("a.txt", b"one"), ("b.txt", b"two"), ("c.txt", &[b'x'; 4096])]);
        let rows = rows(bytes[..3000].to_vec(), Format::Tar, TextSplit::File).await;
        let reasons: Vec<_> =
            rows.iter().map(|row| row.reject.as_ref().map(|reject| reject.reason)).collect();
        assert_eq!(reasons, [None, None, Some(RejectReason::BadEntry)]);
    }
}
