//! An object as a plain [`Read`], decompressed.
//!
//! The object is asked for in ranges of 4 MiB, two ahead of the reader. Each range is a request of its own; where a
//! connection breaks in the middle, the next request goes on at the byte that did not come, a bounded number of times
//! with growing pauses. The version that was listed is named in each request where the store has versions.

use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes};
use futures::{StreamExt, stream};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{Receiver, channel};

use super::Input;
use super::request::{Attempts, Task, append, joined, length};
use super::sample::{Allowed, Counted};
use crate::PipelineError;
use crate::host::stop::Stop;
use crate::units::InputFile;

/// What a member of a ZIP archive begins with, and its end.
pub(super) const ZIP_MEMBER: &[u8] = b"PK\x03\x04";
pub(super) const ZIP_END: &[u8] = b"PK\x05\x06";

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// What a frame of zstd begins with that is to be skipped, behind a byte from 0x50 to 0x5f; `pzstd` writes such.
const SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];
/// The largest window that the decoder holds, 128 MiB: what `zstd` asks for without `--long`, and with its default.
const MAX_WINDOW: u64 = 1 << 27;
const BUFFER_BYTES: usize = 256 << 10;
/// Bytes of a range; a file that is not larger is fetched whole.
pub(crate) const RANGE_BYTES: u64 = 4 << 20;
const RANGES_AHEAD: usize = 2;

/// A file that is read from its beginning.
pub(crate) struct Stream {
    /// Its content, decompressed.
    pub(crate) reader: Box<dyn BufRead + Send>,
    /// Whether the file is compressed, so that a place in the content is not one in the file.
    pub(crate) compressed: bool,
    /// Whether it is a ZIP archive, whose content its members have.
    pub(crate) zip: bool,
}

/// Opens a file; gzip (every member) and zstd (every frame) are recognised by their first bytes and decompressed. Where
/// there is an allowance, the file ends with it.
pub(crate) fn open(input: &Input, file: &InputFile) -> Stream {
    let stream = open_whole(input, file);
    match stream.zip {
        // Its members are what ends.
        true => stream,
        false => Stream { reader: allowed(input, file, stream.reader), ..stream },
    }
}

/// What is read of a content where there is an allowance.
pub(super) fn allowed(
    input: &Input,
    file: &InputFile,
    reader: Box<dyn BufRead + Send>,
) -> Box<dyn BufRead + Send> {
    match input.allowance_of(file).cloned() {
        Some(allowance) => Box::new(Allowed { inner: reader, allowance }),
        None => reader,
    }
}

fn open_whole(input: &Input, file: &InputFile) -> Stream {
    let plain = |reader| Stream { reader, compressed: false, zip: false };
    // The byte before a part says whether a line starts with it.
    let raw = open_at(input, file, file.part.map_or(0, |part| part.start.saturating_sub(1)));
    let mut raw: Box<dyn BufRead + Send> = match &input.sample {
        Some(sample) => Box::new(Counted { inner: raw, sample: sample.clone() }),
        None => raw,
    };
    if file.part.is_some() {
        // Only what is not compressed has parts.
        return plain(raw);
    }
    let first = match raw.fill_buf() {
        Ok(bytes) => bytes.get(..FILE_HEAD).unwrap_or(bytes).to_vec(),
        Err(error) => return plain(Box::new(BufReader::new(Failed(Some(error))))),
    };
    if first.starts_with(GZIP) {
        return decompressed(Box::new(flate2::bufread::MultiGzDecoder::new(raw)));
    }
    if is_zstd(&first) {
        return match zstd::Decoder::with_buffer(raw) {
            Ok(decoder) => decompressed(Box::new(Frames {
                decoder,
                window: window(first.get(..FRAME_HEAD).unwrap_or(&first)),
            })),
            Err(error) => decompressed(Box::new(Failed(Some(error)))),
        };
    }
    if is_zip(&first) {
        return Stream { reader: raw, compressed: true, zip: true };
    }
    match foreign(&first) {
        Some(what) => decompressed(Box::new(Failed(Some(foreign_error(what))))),
        None => plain(raw),
    }
}

/// What a file is that begins so and is compressed in a way that is not read.
fn foreign(first: &[u8]) -> Option<&'static str> {
    const KINDS: [(&[u8], &str); 6] = [
        (b"\xfd7zXZ\0", "compressed with xz"),
        (b"\x04\x22\x4d\x18", "compressed with lz4"),
        (b"\x1f\x9d", "compressed with `compress`"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"Rar!\x1a\x07", "a RAR archive"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    ];
    // `BZh`, a digit, and a block or the end of the stream.
    let bzip2 = first.starts_with(b"BZh")
        && first.get(4..).is_some_and(|rest| {
            rest.starts_with(b"\x31\x41\x59\x26\x53\x59") || rest.starts_with(b"\x17\x72\x45\x38\x50\x90")
        });
    let known = KINDS.iter().find(|(begin, _)| first.starts_with(begin)).map(|(_, what)| *what);
    if bzip2 { Some("compressed with bzip2") } else { known }
}

fn foreign_error(what: &str) -> io::Error {
    io::Error::other(format!("it is {what}; unpack it, or compress it with gzip or zstd"))
}

/// A reader of nothing but this error.
pub(crate) fn broken(error: io::Error) -> Box<dyn BufRead + Send> {
    Box::new(BufReader::new(Failed(Some(error))))
}

/// The content of a compressed file. What is compressed once more is no content that any reader knows.
fn decompressed(reader: Box<dyn Read + Send>) -> Stream {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    let failed = match reader.fill_buf() {
        Ok(first) if is_compressed(first) => {
            Some(io::Error::other("it is compressed twice; decompress it once"))
        }
        Ok(_) => None,
        Err(error) => Some(error),
    };
    match failed {
        Some(error) => {
            Stream { reader: Box::new(BufReader::new(Failed(Some(error)))), compressed: true, zip: false }
        }
        None => Stream { reader: Box::new(reader), compressed: true, zip: false },
    }
}

/// Frames of zstd, one after the other.
struct Frames<R: BufRead> {
    decoder: zstd::Decoder<'static, R>,
    /// The window of the first, where it is known.
    window: Option<u64>,
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buffer).map_err(|error| {
            // The decoder's own words for a window that is too large.
            if !error.to_string().contains("too much memory") {
                return error;
            }
            let bytes = match self.window.filter(|window| *window > MAX_WINDOW) {
                Some(window) => format!("{window} bytes"),
                None => format!("more than {MAX_WINDOW} bytes"),
            };
            let most = MAX_WINDOW.ilog2();
            io::Error::other(format!(
                "to decompress it takes a window of {bytes}, and {MAX_WINDOW} are held; compress it anew, with at most \
                 `zstd --long={most}`"
            ))
        })
    }
}

/// Bytes of a frame of zstd that say how large its window is.
const FRAME_HEAD: usize = 6;

/// Bytes that tell how a file is compressed.
const FILE_HEAD: usize = 16;

/// The window of a frame that begins so: a power of two and some eighths of it. A frame without one is held whole.
fn window(first: &[u8]) -> Option<u64> {
    const SINGLE_SEGMENT: u8 = 1 << 5;
    let &[descriptor, window] = first.strip_prefix(ZSTD)? else { return None };
    let base = 1_u64 << (10 + (window >> 3));
    (descriptor & SINGLE_SEGMENT == 0).then(|| base + base / 8 * u64::from(window & 7))
}

/// Whether the first bytes are those of a ZIP archive. One without members has nothing but its end.
fn is_zip(first: &[u8]) -> bool {
    first.starts_with(ZIP_MEMBER) || first.starts_with(ZIP_END)
}

fn is_zstd(first: &[u8]) -> bool {
    let skippable = |first: &[u8]| matches!(first, [0x50..=0x5f, rest @ ..] if rest.starts_with(SKIPPABLE));
    first.starts_with(ZSTD) || skippable(first)
}

/// The bytes of a file from one of them on, as they are.
pub(crate) fn open_at(input: &Input, file: &InputFile, start: u64) -> Box<dyn BufRead + Send> {
    Box::new(BufReader::with_capacity(BUFFER_BYTES, ObjectReader::new(input, file, start)))
}

/// The first bytes of a reader, at most so many, and all of it as before. An error comes where it came.
pub(crate) fn beginning(
    mut reader: Box<dyn BufRead + Send>,
    bytes: usize,
) -> (Vec<u8>, Box<dyn BufRead + Send>) {
    let mut first = Vec::new();
    let failed = (&mut reader).take(bytes as u64).read_to_end(&mut first).err();
    let read = io::Cursor::new(first.clone());
    match failed {
        Some(error) => (first, Box::new(Read::chain(read, BufReader::new(Failed(Some(error)))))),
        None => (first, Box::new(Read::chain(read, reader))),
    }
}

/// Whether the first bytes are those of a compressed stream.
pub(crate) fn is_compressed(first: &[u8]) -> bool {
    first.starts_with(GZIP) || is_zstd(first) || is_zip(first)
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
    /// Bytes that have not come yet.
    left: u64,
    stop: Stop,
    _task: Option<Task>,
}

impl ObjectReader {
    fn new(input: &Input, file: &InputFile, start: u64) -> Self {
        let (sender, chunks) = channel(1);
        if let Some(bytes) = input.held(file) {
            let current = bytes.slice(bytes.len().min(start as usize)..);
            return Self { chunks, current, left: 0, stop: input.stop.clone(), _task: None };
        }
        let (input, file) = (input.clone(), file.clone());
        // What is beyond an allowance is not even fetched.
        let allowed = input.allowance_of(&file).map_or(u64::MAX, |allowance| allowance.left());
        let end = file.bytes.min(start.saturating_add(allowed));
        let (left, stop) = (end.saturating_sub(start), input.stop.clone());
        let task = Task::spawn(&input.handle.clone(), async move {
            let starts = (start..end).step_by(RANGE_BYTES as usize);
            let ranges = stream::iter(starts)
                .map(|start| get_range(&input, &file, start..(start + RANGE_BYTES).min(end)))
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
        Self { chunks, current: Bytes::new(), left, stop, _task: Some(task) }
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // What was fetched ahead is not worked through first.
        if self.stop.is_set() {
            return Err(io::Error::other(PipelineError::Stopped { done: 0, total: 0 }));
        }
        if self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk.map_err(io::Error::other)?,
                None if self.left == 0 => return Ok(0),
                // Whoever fetches has gone: that is never the end of the file.
                None => return Err(io::Error::other(PipelineError::Stopped { done: 0, total: 0 })),
            }
            self.left = self.left.saturating_sub(self.current.len() as u64);
        }
        let bytes = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..bytes]);
        Ok(bytes)
    }
}

/// A range of a file. Where the store fails or the connection breaks, the rest is asked for again, from the last byte
/// that came, a bounded number of times.
pub(crate) async fn get_range(
    input: &Input,
    file: &InputFile,
    range: Range<u64>,
) -> Result<Bytes, PipelineError> {
    if let Some(bytes) = input.held(file).filter(|bytes| range.end <= bytes.len() as u64) {
        return Ok(bytes.slice(range.start as usize..range.end as usize));
    }
    input.stop.until(whole_range(input, file, range)).await
}

async fn whole_range(input: &Input, file: &InputFile, range: Range<u64>) -> Result<Bytes, PipelineError> {
    let mut parts = Vec::new();
    let mut attempts = Attempts::new(range.start / RANGE_BYTES);
    loop {
        let at = range.start + length(&parts);
        match read_on(input, file, at..range.end, &mut parts).await {
            Ok(()) => break,
            Err(object_store::Error::Precondition { .. }) => return Err(changed(input, file).await),
            Err(error @ object_store::Error::NotSupported { .. }) => {
                return input.whole.range(input, file, range, error).await;
            }
            Err(error) if attempts.again(&error).await => {}
            Err(error) => return Err(failed(file, range.start + length(&parts), error)),
        }
    }
    let found = length(&parts);
    if found != range.end - range.start {
        return Err(PipelineError::Changed {
            path: file.path.to_string(),
            expected: file.bytes,
            found: range.start + found,
        });
    }
    input.read.fetch_add(found, Ordering::Relaxed);
    Ok(joined(parts))
}

/// Appends what comes of a range.
async fn read_on(
    input: &Input,
    file: &InputFile,
    range: Range<u64>,
    parts: &mut Vec<Bytes>,
) -> Result<(), object_store::Error> {
    if range.is_empty() {
        return Ok(());
    }
    let options = GetOptions {
        range: Some(GetRange::Bounded(range)),
        if_match: file.e_tag.clone(),
        ..GetOptions::default()
    };
    let _request = input.memory.request().await;
    append(input.store.get_opts(&file.path, options).await?, parts).await
}

/// The last file of a server that gives no ranges, whole. Simple web servers are like that; a corpus on one is a few
/// files of moderate size.
#[derive(Clone, Debug, Default)]
pub(crate) struct WholeFiles(Arc<Mutex<Option<(Path, Bytes)>>>);

/// A file larger than this is not taken from a server that gives no ranges.
const MAX_WHOLE_BYTES: u64 = 256 << 20;

impl WholeFiles {
    async fn range(
        &self,
        input: &Input,
        file: &InputFile,
        range: Range<u64>,
        error: object_store::Error,
    ) -> Result<Bytes, PipelineError> {
        let mut last = self.0.lock().await;
        let bytes = match &*last {
            Some((path, bytes)) if *path == file.path => bytes.clone(),
            _ if file.bytes > MAX_WHOLE_BYTES => return Err(failed(file, range.start, error)),
            _ => {
                let found = input.store.get(&file.path).await.map_err(|error| failed(file, 0, error))?;
                found.bytes().await.map_err(|error| failed(file, 0, error))?
            }
        };
        *last = Some((file.path.clone(), bytes.clone()));
        let found = bytes.len() as u64;
        if found != file.bytes {
            let path = file.path.to_string();
            return Err(PipelineError::Changed { path, expected: file.bytes, found });
        }
        Ok(bytes.slice(range.start as usize..range.end as usize))
    }
}

async fn changed(input: &Input, file: &InputFile) -> PipelineError {
    let found = input.store.head(&file.path).await.map_or(0, |meta| meta.size);
    PipelineError::Changed { path: file.path.to_string(), expected: file.bytes, found }
}

fn failed(file: &InputFile, offset: u64, source: object_store::Error) -> PipelineError {
    PipelineError::Read { path: file.path.to_string(), offset, source }
}

#[cfg(test)]
mod tests {
    use super::super::testing::rows;
    use super::*;
    use crate::config::{Format, TextSplit};

    fn frame(text: &str) -> Vec<u8> {
        zstd::encode_all(text.as_bytes(), 1).expect("compresses")
    }

    fn skippable(kind: u8, content: &[u8]) -> Vec<u8> {
        let length = (content.len() as u32).to_le_bytes();
        [&[kind][..], SKIPPABLE, &length, content].concat()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::read::GzEncoder::new(bytes, flate2::Compression::fast());
        let mut found = Vec::new();
        encoder.read_to_end(&mut found).expect("compresses");
        found
    }

    /// Frames that are to be skipped used to make plain text of a file.
    #[tokio::test]
    async fn frames_that_are_to_be_skipped_are() {
        let size = skippable(0x50, &[1, 2, 3, 4]);
        let (one, two) = (frame("one\n"), frame("two\n"));
        let files = [
            (vec![&size, &one, &size, &two], vec!["one", "two"]),
            (vec![&one, &two, &size], vec!["one", "two"]),
            (vec![&size, &size], vec![]),
        ];
        for (frames, expected) in files {
            let bytes = frames.into_iter().flatten().copied().collect();
            let found = rows(bytes, Format::Text, TextSplit::Line).await;
            let found: Vec<&str> = found.iter().filter_map(|row| row.fields["text"].as_str()).collect();
            assert_eq!(found, expected);
        }
        assert!(is_compressed(&skippable(0x5f, b"")) && !is_compressed(b"P*M"));
    }

    #[tokio::test]
    async fn what_can_not_be_decompressed_says_what_to_do() {
        let long = {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
            encoder.window_log(30).expect("set");
            io::Write::write_all(&mut encoder, b"text\n").expect("writes");
            encoder.finish().expect("finishes")
        };
        let cases = [
            (long, "a window of 1073741824 bytes"),
            (gzip(&gzip(b"text\n")), "it is compressed twice"),
            (gzip(&frame("text\n")), "it is compressed twice"),
        ];
        for (bytes, expected) in cases {
            let found = rows(bytes, Format::Text, TextSplit::Line).await;
            let reject = found[0].reject.as_ref().expect("refused");
            assert!(found.len() == 1 && reject.detail.contains(expected), "{reject}");
        }
    }
}
