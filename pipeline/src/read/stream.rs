//! An object as a plain [`Read`], decompressed.
//!
//! The object is asked for in ranges of 4 MiB, two ahead of the reader. Each range is a request of its own, so a
//! connection that breaks in the middle costs one range and not the file, and is retried here a bounded number of
//! times with growing pauses; the version that was listed is named in each request where the store has versions.

use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::{StreamExt, stream};
use object_store::{GetOptions, GetRange, ObjectStore};
use tokio::sync::mpsc::{Receiver, channel};

use super::{Input, Metered};
use crate::PipelineError;
use crate::units::InputFile;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const RANGE_BYTES: u64 = 4 << 20;
const RANGES_AHEAD: usize = 2;
const ATTEMPTS: u32 = 5;

/// Opens a file; gzip (every member) and zstd (every frame) are recognised by their first bytes and decompressed.
pub(crate) fn open(input: &Input, file: &InputFile) -> Box<dyn BufRead + Send> {
    // Only what is not compressed has parts. The byte before a part says whether a line starts with it.
    let start = file.part.map_or(0, |part| part.start.saturating_sub(1));
    let raw = BufReader::with_capacity(256 << 10, ObjectReader::new(input, file, start));
    let raw: Box<dyn BufRead + Send> = match &input.sample {
        Some(meter) => Box::new(Metered { inner: raw, meter: meter.clone() }),
        None => Box::new(raw),
    };
    if file.part.is_some() { raw } else { decompressed(raw) }
}

fn decompressed(mut raw: Box<dyn BufRead + Send>) -> Box<dyn BufRead + Send> {
    let first = match raw.fill_buf() {
        Ok(bytes) => bytes.get(..4).map(<[u8]>::to_vec).unwrap_or_else(|| bytes.to_vec()),
        Err(error) => return Box::new(BufReader::new(Failed(Some(error)))),
    };
    if first.starts_with(GZIP) {
        return Box::new(BufReader::with_capacity(256 << 10, flate2::bufread::MultiGzDecoder::new(raw)));
    }
    if first == ZSTD {
        return match zstd::Decoder::with_buffer(raw) {
            Ok(decoder) => Box::new(BufReader::with_capacity(256 << 10, decoder)),
            Err(error) => Box::new(BufReader::new(Failed(Some(error)))),
        };
    }
    raw
}

/// Whether the first bytes are those of a compressed stream.
pub(crate) async fn is_compressed(input: &Input, file: &InputFile) -> Result<bool, PipelineError> {
    let first = get_range(input, file, 0..file.bytes.min(4)).await?;
    Ok(first.starts_with(GZIP) || first == ZSTD)
}

/// Ends of lines in a range of a file.
pub(crate) async fn count_newlines(
    input: &Input,
    file: &InputFile,
    range: Range<u64>,
) -> Result<u64, PipelineError> {
    let mut lines = 0;
    for start in range.clone().step_by(RANGE_BYTES as usize) {
        let bytes = get_range(input, file, start..(start + RANGE_BYTES).min(range.end)).await?;
        lines += bytes.iter().filter(|&&byte| byte == b'\n').count() as u64;
    }
    Ok(lines)
}

/// A reader that gives an error, then nothing.
struct Failed(Option<io::Error>);

impl Read for Failed {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

struct ObjectReader {
    chunks: Receiver<Result<Bytes, PipelineError>>,
    current: Bytes,
}

impl ObjectReader {
    fn new(input: &Input, file: &InputFile, start: u64) -> Self {
        let (sender, chunks) = channel(1);
        let (input, file) = (input.clone(), file.clone());
        let handle = input.handle.clone();
        handle.spawn(async move {
            let starts = (start..file.bytes).step_by(RANGE_BYTES as usize);
            let ranges = stream::iter(starts)
                .map(|start| get_range(&input, &file, start..(start + RANGE_BYTES).min(file.bytes)))
                .buffered(RANGES_AHEAD);
            let mut ranges = std::pin::pin!(ranges);
            while let Some(range) = ranges.next().await {
                let failed = range.is_err();
                // The reader went away, or there is no use in going on.
                if sender.send(range).await.is_err() || failed {
                    return;
                }
            }
        });
        Self { chunks, current: Bytes::new() }
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let bytes = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..bytes]);
        Ok(bytes)
    }
}

/// A range of a file, asked for again a bounded number of times where the store fails.
pub(crate) async fn get_range(
    input: &Input,
    file: &InputFile,
    range: Range<u64>,
) -> Result<Bytes, PipelineError> {
    let Range { start, end } = range;
    let mut attempt = 0;
    loop {
        match try_range(&*input.store, file, start..end).await {
            Ok(bytes) if bytes.len() as u64 == end - start => return Ok(bytes),
            Ok(bytes) => {
                let found = start + bytes.len() as u64;
                return Err(PipelineError::Changed {
                    path: file.path.to_string(),
                    expected: file.bytes,
                    found,
                });
            }
            Err(object_store::Error::Precondition { .. }) => return Err(changed(input, file).await),
            Err(error @ object_store::Error::NotFound { .. }) => return Err(failed(file, error)),
            Err(error) if attempt + 1 == ATTEMPTS => return Err(failed(file, error)),
            Err(error) => {
                tracing::debug!(path = %file.path, start, %error, "range is asked for again");
                // A different pause for each range, so that many readers don't come back at once.
                let jitter = start / RANGE_BYTES % 7 * 10;
                tokio::time::sleep(Duration::from_millis((100 << attempt) + jitter)).await;
                attempt += 1;
            }
        }
    }
}

async fn try_range(
    store: &dyn ObjectStore,
    file: &InputFile,
    range: Range<u64>,
) -> Result<Bytes, object_store::Error> {
    let options = GetOptions {
        range: Some(GetRange::Bounded(range)),
        if_match: file.e_tag.clone(),
        ..GetOptions::default()
    };
    store.get_opts(&file.path, options).await?.bytes().await
}

async fn changed(input: &Input, file: &InputFile) -> PipelineError {
    use object_store::ObjectStoreExt;
    let found = input.store.head(&file.path).await.map_or(0, |meta| meta.size);
    PipelineError::Changed { path: file.path.to_string(), expected: file.bytes, found }
}

fn failed(file: &InputFile, source: object_store::Error) -> PipelineError {
    PipelineError::Store { operation: "read", path: file.path.to_string(), source }
}
