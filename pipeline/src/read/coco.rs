//! The captions file of COCO: `images` with `id` and `file_name`, and `annotations` with `image_id` and `caption`.
//!
//! A row is an image; its column `captions` lists its captions in the order of the file and `caption` is the first. An
//! annotation without a caption, or of an image that is not there, says nothing of any row and is passed over; one that
//! can't be read is a reject, numbered behind the images. The file is one JSON object, so it is held in memory whole.

use std::collections::HashMap;
use std::io::{BufRead, Read};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::buffer::LARGE_ROW;
use super::infer::kind_name;
use super::json::BOM;
use super::{MAX_ROW_BYTES, RawRow, Visit, damaged};
use crate::PipelineError;
use crate::memory::Memory;
use crate::reject::{RejectReason, json_beginning};
use crate::units::InputFile;

#[derive(Deserialize)]
struct Captions {
    images: Vec<Value>,
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Annotation {
    Fields {
        #[serde(default)]
        image_id: Value,
        #[serde(default)]
        caption: Value,
    },
    /// What is no object.
    Other(IgnoredAny),
}

impl Annotation {
    /// The image and the caption, `None` without a caption; or what is wrong.
    fn take(self) -> Result<Option<(String, String)>, String> {
        let (image_id, caption) = match self {
            Self::Fields { image_id, caption } => (image_id, caption),
            Self::Other(_) => return Err("an annotation is no object".to_owned()),
        };
        let caption = match caption {
            Value::Null => return Ok(None),
            Value::String(caption) => caption,
            other => {
                return Err(format!("`caption` of an annotation is {}, expected a text", kind_name(&other)));
            }
        };
        match id(&image_id) {
            Some(image) => Ok(Some((image, caption))),
            None => {
                let kind = kind_name(&image_id);
                Err(format!("`image_id` of an annotation is {kind}, expected a number or a text"))
            }
        }
    }
}

/// An id as text: 7 and "7" are the same.
fn id(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        _ => None,
    }
}

/// Visits one row an image.
pub(crate) fn read(
    reader: Box<dyn BufRead + Send>,
    file: &InputFile,
    memory: &Memory,
    visit: &mut Visit<'_>,
) -> Result<(), PipelineError> {
    let mut text = Vec::new();
    // A file is read as a whole, and takes several times its size as values.
    let expected = usize::try_from(file.bytes).unwrap_or(usize::MAX).saturating_mul(4);
    let _memory = (expected > LARGE_ROW).then(|| memory.rows.take(expected));
    if let Err(error) = reader.take(MAX_ROW_BYTES as u64 + 1).read_to_end(&mut text) {
        return visit(damaged(error, file, 0)?).map(|_| ());
    }
    if text.len() > MAX_ROW_BYTES {
        let detail = format!("captions file is longer than {MAX_ROW_BYTES} bytes");
        return visit(RawRow::bad(0, RejectReason::RowTooLarge, detail)).map(|_| ());
    }
    // An empty file has no row, in this form as in any other.
    if text.trim_ascii().is_empty() {
        return Ok(());
    }
    let captions: Captions = match serde_json::from_slice(text.strip_prefix(BOM).unwrap_or(&text)) {
        Ok(captions) => captions,
        Err(error) => {
            let detail = format!("not a COCO captions file: {error}");
            return visit(RawRow::bad(0, RejectReason::InvalidJson, detail).showing(&text)).map(|_| ());
        }
    };
    drop(text);
    let images = captions.images.len() as u64;
    let annotated = !captions.annotations.is_empty();
    let mut by_image: HashMap<String, Vec<Value>> = HashMap::new();
    let mut bad = Vec::new();
    for (number, annotation) in (images..).zip(captions.annotations) {
        match annotation.take() {
            Ok(Some((image, caption))) => {
                by_image.entry(image).or_default().push(Value::String(caption));
            }
            Ok(None) => {}
            Err(what) => bad.push(RawRow::bad(number, RejectReason::WrongType, what)),
        }
    }
    // A file of instances has annotations too, and none of its images has captions.
    let captioned = !(annotated && by_image.is_empty() && bad.is_empty());
    let rows = (0..).zip(captions.images).map(|(row, image)| of_image(row, image, &by_image, captioned));
    for row in rows.chain(bad) {
        if !visit(row)? {
            break;
        }
    }
    Ok(())
}

fn of_image(row: u64, image: Value, by_image: &HashMap<String, Vec<Value>>, captioned: bool) -> RawRow {
    let mut fields: Map<String, Value> = match image {
        Value::Object(fields) => fields,
        other => {
            let detail = format!("an image is {}, expected an object", kind_name(&other));
            return RawRow::bad(row, RejectReason::WrongType, detail).showing(&json_beginning(&other));
        }
    };
    let captions =
        fields.get("id").and_then(id).and_then(|id| by_image.get(&id).cloned()).unwrap_or_default();
    if let Some(first) = captions.first() {
        fields.insert("caption".to_owned(), first.clone());
        fields.insert("captions".to_owned(), Value::Array(captions));
    } else if captioned {
        // An image may carry a caption of its own.
        fields.entry("caption").or_insert(Value::Null);
        fields.entry("captions").or_insert(Value::Array(captions));
    }
    RawRow::good(row, fields, 512)
}

#[cfg(test)]
mod tests {
    use super::super::testing::rows;
    use super::*;
    use crate::config::{Format, TextSplit};

    #[tokio::test]
    async fn captions_are_joined_to_their_image() {
        let json = br#"{"images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}],
            "annotations": [{"image_id": 9, "caption": "x"}, {"image_id": 7, "caption": "y"}, {"image_id": 7, "caption": "z"}]}"#;
        let own = br#"{"images": [{"id": 7, "file_name": "a.jpg", "caption": "own"}], "annotations": []}"#;
        let of_image = rows(own.to_vec(), Format::Coco, TextSplit::File).await;
        assert_eq!(of_image[0].fields["caption"], "own");
        let rows = rows(json.to_vec(), Format::Coco, TextSplit::File).await;
        let show: Vec<String> =
            rows.iter().map(|row| Value::Object(row.fields.clone()).to_string()).collect();
        assert_eq!(show[0], r#"{"id":7,"file_name":"a.jpg","caption":"y","captions":["y","z"]}"#);
        assert_eq!(show[1], r#"{"id":9,"file_name":"b.jpg","caption":"x","captions":["x"]}"#);
    }

    /// One bad entry, or a byte order mark, used to lose the whole file.
    #[tokio::test]
    async fn a_bad_entry_is_refused_alone() {
        let json = "\u{feff}{\"images\": [{\"id\": 1, \"file_name\": \"a.jpg\"}, null, {\"id\": \"2\", \"file_name\": \"b.jpg\"},
            {\"id\": 1, \"file_name\": \"c.jpg\"}, {\"file_name\": \"d.jpg\"}],
            \"annotations\": [{\"image_id\": \"1\", \"caption\": \"x\"}, {\"image_id\": 1}, {\"caption\": \"lost\"}, 5,
            {\"image_id\": 2, \"caption\": [\"y\"]}, {\"image_id\": 2, \"caption\": \"z\"}, {\"image_id\": 9, \"caption\": \"w\"}]}";
        let rows = rows(json.as_bytes().to_vec(), Format::Coco, TextSplit::File).await;
        let show = |row: &RawRow| match &row.reject {
            Some(reject) => format!("{} {}", row.row, reject.detail),
            None => format!("{} {} {}", row.row, row.fields["file_name"], row.fields["captions"]),
        };
        let expected = [
            "0 \"a.jpg\" [\"x\"]",
            "1 an image is null, expected an object",
            "2 \"b.jpg\" [\"z\"]",
            "3 \"c.jpg\" [\"x\"]",
            "4 \"d.jpg\" []",
            "7 `image_id` of an annotation is null, expected a number or a text",
            "8 an annotation is no object",
            "9 `caption` of an annotation is a list, expected a text",
        ];
        assert_eq!(rows.iter().map(show).collect::<Vec<_>>(), expected);
    }
}
