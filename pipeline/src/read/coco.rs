//! The captions file of COCO: `images` with `id` and `file_name`, and `annotations` with `image_id` and `caption`.
//!
//! A row is an image; its column `captions` lists its captions in the order of the file and `caption` is the first.
//! The file is one JSON object, so it is held in memory whole.

use std::collections::HashMap;
use std::io::{BufRead, Read};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{MAX_ROW_BYTES, RawRow, Visit, damaged};
use crate::PipelineError;
use crate::reject::RejectReason;
use crate::units::InputFile;

#[derive(Deserialize)]
struct Captions {
    images: Vec<Map<String, Value>>,
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: Value,
    caption: String,
}

/// Visits one row an image.
pub(crate) fn read(
    reader: Box<dyn BufRead + Send>,
    file: &InputFile,
    visit: &mut Visit<'_>,
) -> Result<(), PipelineError> {
    let mut text = Vec::new();
    if let Err(error) = reader.take(MAX_ROW_BYTES as u64 + 1).read_to_end(&mut text) {
        return visit(damaged(error, file, 0)?).map(|_| ());
    }
    if text.len() > MAX_ROW_BYTES {
        let detail = format!("captions file is longer than {MAX_ROW_BYTES} bytes");
        return visit(RawRow::bad(0, RejectReason::RowTooLarge, detail)).map(|_| ());
    }
    let captions: Captions = match serde_json::from_slice(&text) {
        Ok(captions) => captions,
        Err(error) => {
            let detail = format!("not a COCO captions file: {error}");
            return visit(RawRow::bad(0, RejectReason::InvalidJson, detail)).map(|_| ());
        }
    };
    let mut by_image: HashMap<String, Vec<Value>> = HashMap::new();
    for annotation in captions.annotations {
        by_image.entry(annotation.image_id.to_string()).or_default().push(Value::String(annotation.caption));
    }
    for (row, mut fields) in captions.images.into_iter().enumerate() {
        let id = fields.get("id").map(Value::to_string).unwrap_or_default();
        let captions = by_image.remove(&id).unwrap_or_default();
        if let Some(first) = captions.first() {
            fields.insert("caption".to_owned(), first.clone());
            fields.insert("captions".to_owned(), Value::Array(captions));
        } else {
            // An image may carry a caption of its own.
            fields.entry("caption").or_insert(Value::Null);
            fields.entry("captions").or_insert(Value::Array(captions));
        }
        if !visit(RawRow::good(row as u64, fields, 512))? {
            break;
        }
    }
    Ok(())
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
}
