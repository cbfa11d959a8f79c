//! Where the pictures of a COCO file lie.
//!
//! A COCO download has `annotations/captions_train2017.json` and its pictures in `train2017/` beside that folder, while
//! the file names them without a folder. Where the source names no `folder`, the places that such downloads have are tried
//! with the first picture of the file; if it lies in exactly one of them, that is the folder.

use std::collections::BTreeMap;

use object_store::{ObjectStore, ObjectStoreExt};

use crate::PipelineError;
use crate::config::Format;
use crate::read::pictures::inside;
use crate::read::{Input, stream};
use crate::units::Listing;
use crate::units::names::stem;

/// Bytes of a COCO file in which its first picture is looked for.
const FIRST_BYTES: u64 = 1 << 20;

/// COCO files of a source whose pictures are looked for.
const FILES: usize = 16;

/// Folders of pictures by the paths of the files that name them, where that is not the file's own folder.
pub(crate) async fn find(
    listing: &Listing,
    input: &Input,
) -> Result<BTreeMap<String, String>, PipelineError> {
    let mut folders = BTreeMap::new();
    for file in listing.files.iter().filter(|file| file.format == Format::Coco).take(FILES) {
        let beginning = stream::get_range(input, file, 0..file.bytes.min(FIRST_BYTES)).await?;
        let Some(picture) = first_picture(&beginning) else { continue };
        let mut found = Vec::new();
        for folder in places(file.path.as_ref()) {
            if has(&*listing.store, &folder, &picture).await {
                found.push(folder);
            }
        }
        if let [folder] = found.as_slice() {
            folders.insert(file.path.to_string(), folder.clone());
        }
    }
    Ok(folders)
}

async fn has(store: &dyn ObjectStore, folder: &str, picture: &str) -> bool {
    match inside(folder, picture) {
        Ok(path) => store.head(&path).await.is_ok(),
        Err(_) => false,
    }
}

/// The first `file_name` of a file that begins so.
fn first_picture(beginning: &[u8]) -> Option<String> {
    const KEY: &[u8] = b"\"file_name\"";
    let at = memchr::memmem::find(beginning, KEY)? + KEY.len();
    let value = beginning[at..].trim_ascii_start().strip_prefix(b":")?;
    serde_json::Deserializer::from_slice(value).into_iter::<String>().next()?.ok()
}

/// Where the pictures of a COCO file may lie: beside it; in the folder that its name ends in (`captions_train2017.json`),
/// or in `images`, below its own folder and below the folder around that.
fn places(path: &str) -> Vec<String> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let name = stem(name).map_or(name, |(stem, _)| stem);
    let split = name.rsplit_once('_').map(|(_, split)| split).filter(|split| !split.is_empty());
    let mut roots = vec![folder];
    // The file may lie at the root of its store.
    roots.extend((!folder.is_empty()).then(|| folder.rsplit_once('/').map_or("", |(root, _)| root)));
    let mut places = Vec::new();
    for root in roots {
        let below = |name: &str| if root.is_empty() { name.to_owned() } else { format!("{root}/{name}") };
        places.push(root.to_owned());
        places.extend(split.map(below));
        places.extend(split.map(|split| below(&format!("images/{split}"))));
        places.push(below("images"));
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_looked_for_where_downloads_have_them() {
        let expected = [
            "d/annotations",
            "d/annotations/train2017",
            "d/annotations/images/train2017",
            "d/annotations/images",
            "d",
            "d/train2017",
            "d/images/train2017",
            "d/images",
        ];
        assert_eq!(places("d/annotations/captions_train2017.json"), expected);
        assert_eq!(places("captions.json"), ["", "images"]);
        let json = br#"{"info": {}, "images": [{"license": 3, "file_name" : "a \u00fc.jpg"}, {"file_na"#;
        assert_eq!(first_picture(json).as_deref(), Some("a ü.jpg"));
        assert_eq!(first_picture(br#"{"images": [{"file_name": "a"#), None);
    }
}
