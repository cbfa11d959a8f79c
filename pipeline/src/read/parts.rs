//! Where a large file can be cut into parts that are read alone: at lines, row groups or record batches.

use super::{Input, ipc, json, parquet, stream};
use crate::PipelineError;
use crate::config::Format;
use crate::host::threads::blocking;
use crate::units::{FilePart, InputFile};

/// Parts of about `bytes` of a file, with their sizes; none where its form can't be cut.
pub(crate) async fn parts(
    input: &Input,
    file: &InputFile,
    bytes: u64,
) -> Result<Vec<(FilePart, u64)>, PipelineError> {
    match file.format {
        Format::JsonLines => line_parts(input, file, bytes).await,
        Format::Parquet | Format::Arrow => group_parts(input, file, bytes).await,
        _ => Ok(Vec::new()),
    }
}

/// Parts of a file of lines, none if it is compressed or no lines but a list.
async fn line_parts(
    input: &Input,
    file: &InputFile,
    bytes: u64,
) -> Result<Vec<(FilePart, u64)>, PipelineError> {
    let first = stream::get_range(input, file, 0..file.bytes.min(json::FIRST_BYTES as u64)).await?;
    if stream::is_compressed(&first) || json::spans_lines(file, &first) {
        return Ok(Vec::new());
    }
    let starts: Vec<u64> = (0..file.bytes).step_by(usize::try_from(bytes).unwrap_or(usize::MAX)).collect();
    let part = |start: u64| {
        let end = start.saturating_add(bytes).min(file.bytes);
        (FilePart { start, end, first_row: (start == 0).then_some(0) }, end - start)
    };
    Ok(starts.into_iter().map(part).collect())
}

/// Parts of a file that has groups of rows, none if it can't be opened.
async fn group_parts(
    input: &Input,
    file: &InputFile,
    bytes: u64,
) -> Result<Vec<(FilePart, u64)>, PipelineError> {
    let (reading, reader) = (input.clone(), file.clone());
    let groups = blocking(move || match reader.format {
        Format::Arrow => ipc::batches(&reading, &reader),
        _ => parquet::row_groups(&reading, &reader),
    })
    .await?;
    let mut parts: Vec<(FilePart, u64)> = Vec::new();
    let mut row = 0;
    for (index, (size, rows)) in groups.into_iter().enumerate() {
        let first_row = Some(row);
        match parts.last_mut() {
            Some((part, total)) if *total + size <= bytes => {
                part.end += 1;
                *total += size;
            }
            _ => parts.push((FilePart { start: index as u64, end: index as u64 + 1, first_row }, size)),
        }
        row += rows;
    }
    Ok(parts)
}
