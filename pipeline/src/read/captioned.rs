//! Pictures in a folder, each with its caption and its fields in files of the same name: `a.jpg`, `a.txt` (or `.caption`),
//! `a.json`.
//!
//! A picture is a file with one row, made as that of a sample of an archive: the text is its caption, the fields of the
//! JSON are columns, the path without an extension is the column `key`. A picture without a text has no caption, and its
//! row is refused where the source needs one.

use std::sync::atomic::Ordering;

use futures::future::try_join_all;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt};

use super::tar::row_of_files;
use super::{ImageRef, Input, MAX_ROW_BYTES, Pick, RawRow, Visit};
use crate::PipelineError;
use crate::row::reject::{Reject, RejectReason};
use crate::units::InputFile;
use crate::units::names::{file_name, stem};

/// Visits the row of a picture.
pub(crate) fn read(
    input: &Input,
    file: &InputFile,
    pick: &Pick,
    images: bool,
    visit: &mut Visit<'_>,
) -> Result<(), PipelineError> {
    let (path, _) = stem(file.path.as_ref()).unwrap_or((file.path.as_ref(), ""));
    let (key, _) = stem(&file.below).unwrap_or((&file.below, ""));
    let wanted = input.beside.iter().filter(|extension| is_wanted(extension, pick));
    let contents = wanted.map(async |extension| {
        let found = content(input, &format!("{path}.{extension}")).await?;
        Ok::<_, PipelineError>(found.map(|content| (extension.clone(), content)))
    });
    let files = input.handle.block_on(try_join_all(contents))?.into_iter().flatten().collect();
    let row = row_of_files(key, files, pick);
    input.read.fetch_add(file.bytes, Ordering::Relaxed);
    if let Some(sample) = &input.sample {
        sample.add_bytes(file.bytes);
    }
    let image =
        if images { ImageRef::Path(file_name(file.path.as_ref()).to_owned()) } else { ImageRef::Absent };
    visit(RawRow { image, ..row }).map(|_| ())
}

/// Whether what lies in a file of this extension is asked for.
fn is_wanted(extension: &str, pick: &Pick) -> bool {
    let of_json = |name: &String| !["caption", "captions", "key"].contains(&name.as_str());
    match pick {
        Pick::Only(names) if extension.eq_ignore_ascii_case("json") => {
            // Fields may hold the caption too.
            names.iter().any(of_json) || pick.wants("caption") || pick.wants("captions")
        }
        _ => pick.wants("caption") || pick.wants("captions"),
    }
}

/// The content of a file beside a picture, `None` if there is no such file.
async fn content(input: &Input, path: &str) -> Result<Option<Result<Vec<u8>, Reject>>, PipelineError> {
    let failed = |source| PipelineError::Store { operation: "read", path: path.to_owned(), source };
    let location = Path::parse(path).map_err(|error| failed(error.into()))?;
    let found = match input.store.get(&location).await {
        Ok(found) => found,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if found.meta.size > MAX_ROW_BYTES as u64 {
        let detail =
            format!("`{}` has {} bytes, the limit is {MAX_ROW_BYTES}", file_name(path), found.meta.size);
        return Ok(Some(Err(Reject::new(RejectReason::RowTooLarge, detail))));
    }
    found.bytes().await.map(|bytes| Some(Ok(bytes.to_vec()))).map_err(failed)
}
