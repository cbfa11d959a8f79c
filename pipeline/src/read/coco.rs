//! The captions file of COCO: `images` with `id` and `file_name`, and `annotations` with `image_id` and `caption`.
//!
//! A row is an image; its column `captions` lists its captions in the order of the file and `caption` is the first. An
//! annotation without a caption, or of an image that is not there, says nothing of any row and is passed over; one that
//! can't be read is a reject, numbered behind the images. The file is one JSON object, so it is held in memory whole, first as
//! text and then as values; one that takes more than half of the job's memory so is an error.

use std::collections::HashMap;
use std::io::BufRead;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::buffer::RowBuffer;
use super::json::BOM;
use super::values::kind_name;
use super::{MAX_ROW_BYTES, RawRow, Visit, damaged};
use crate::PipelineError;
use crate::engine::memory::Memory;
use crate::row::reject::{RejectReason, json_beginning};
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
    fn into_caption(self) -> Result<Option<(String, String)>, String> {
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
    memory: &Arc<Memory>,
    visit: &mut Visit<'_>,
) -> Result<(), PipelineError> {
    let mut buffer = RowBuffer::new(memory);
    match append(reader, &mut buffer) {
        Ok(()) => {}
        Err(error) => return visit(damaged(error, file, 0)?).map(|_| ()),
    }
    if buffer.len() > MAX_ROW_BYTES {
        let detail = format!("captions file is longer than {MAX_ROW_BYTES} bytes");
        return visit(RawRow::bad(0, RejectReason::RowTooLarge, detail)).map(|_| ());
    }
    let held = buffer.len().saturating_add(values(&buffer).saturating_mul(size_of::<Value>()));
    if held > memory.limit() / 2 {
        let what = format!(
            "the captions file `{}` takes about {held} bytes while it is read, half of {} are there for one",
            file.below,
            memory.limit()
        );
        return Err(PipelineError::Memory { what });
    }
    let (text, _memory) = buffer.take_for(held)?;
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
        match annotation.into_caption() {
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

/// Reads all of a file, or the beginning of one that is too long.
fn append(mut reader: Box<dyn BufRead + Send>, buffer: &mut RowBuffer) -> std::io::Result<()> {
    while buffer.len() <= MAX_ROW_BYTES {
        let chunk = match reader.fill_buf() {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = chunk.len();
        if bytes == 0 {
            break;
        }
        buffer.extend(chunk)?;
        reader.consume(bytes);
    }
    Ok(())
}

/// The number of values in a text of JSON, at most: each but the first follows one of these characters.
fn values(text: &[u8]) -> usize {
    let (mut values, mut in_text, mut escaped) = (1, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            b',' | b'[' | b'{' if !in_text => values += 1,
            _ => {}
        }
    }
    values
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

    #[test]
    fn values_are_counted_outside_of_texts() {
        assert_eq!(values(br#"{"a": [1, "x, [{\",", {}], "b": ""}"#), 1 + 3 + 3);
        assert_eq!(values(b""), 1);
    }

    /// A list of small values takes far more memory than its text; that is found out before it is taken.
    #[test]
    fn a_file_that_takes_too_much_memory_is_an_error() {
        let memory = Arc::new(Memory::new(64 << 20));
        let read_in = |json: String| {
            let file = InputFile {
                path: "a.json".into(),
                below: "a.json".to_owned(),
                bytes: json.len() as u64,
                e_tag: None,
                format: Format::Coco,
                part: None,
            };
            let reader = Box::new(std::io::Cursor::new(json.into_bytes()));
            let (mut rows, mut reserved) = (0, 0);
            let mut visit = |_| {
                rows += 1;
                reserved = memory.pool().reserved();
                Ok(true)
            };
            read(reader, &file, &memory, &mut visit).map(|()| (rows, reserved))
        };
        let zeros =
            |count: usize| format!("{{\"images\": [0{}], \"annotations\": []}}", ",0".repeat(count - 1));
        let (rows, reserved) = read_in(zeros(150_000)).expect("fits");
        assert_eq!(rows, 150_000);
        assert!(reserved > 150_000 * size_of::<Value>(), "the values are reserved: {reserved}");
        let error = read_in(zeros(1_000_000)).expect_err("too much");
        assert!(error.to_string().contains("the captions file `a.json` takes about"), "{error}");
        assert!(error.hint().expect("a hint").contains("memory-bytes"), "{error}");
        assert_eq!(memory.pool().reserved(), 0);
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
