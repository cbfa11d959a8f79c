//! Reading no more of a unit than a sample, and no more of a source than it takes to find its columns.

use std::io::{BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much of a unit was used, of as much as is wanted.
#[derive(Debug)]
pub(crate) struct SampleLimit {
    bytes: AtomicU64,
    rows: AtomicU64,
    most_bytes: u64,
    most_rows: u64,
}

impl SampleLimit {
    pub(crate) fn new(most_bytes: u64, most_rows: u64) -> Self {
        Self { bytes: AtomicU64::new(0), rows: AtomicU64::new(0), most_bytes, most_rows }
    }

    /// Bytes of the files, as they lie in the store, that were used.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_rows(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }

    /// Whether it is large enough.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes() >= self.most_bytes || self.rows.load(Ordering::Relaxed) >= self.most_rows
    }
}

/// A reader that counts the bytes that are used of another one.
pub(super) struct Counted<R> {
    pub(super) inner: R,
    pub(super) sample: Arc<SampleLimit>,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.sample.add_bytes(bytes as u64);
        Ok(bytes)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.inner.consume(bytes);
        self.sample.add_bytes(bytes as u64);
    }
}

/// Bytes that may still be read of a source, decompressed.
#[derive(Debug)]
pub(crate) struct Allowance(AtomicU64);

impl Allowance {
    pub(crate) fn new(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }

    pub(crate) fn left(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) {
        self.0.fetch_sub(self.left().min(bytes as u64), Ordering::Relaxed);
    }
}

/// A reader that ends where its allowance does.
pub(super) struct Allowed<R> {
    pub(super) inner: R,
    pub(super) allowance: Arc<Allowance>,
}

impl<R: BufRead> Read for Allowed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.allowance.left()).unwrap_or(usize::MAX).min(buffer.len());
        let bytes = self.inner.read(&mut buffer[..most])?;
        self.allowance.take(bytes);
        Ok(bytes)
    }
}

impl<R: BufRead> BufRead for Allowed<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        let most = usize::try_from(self.allowance.left()).unwrap_or(usize::MAX);
        if most == 0 {
            return Ok(&[]);
        }
        let bytes = self.inner.fill_buf()?;
        Ok(&bytes[..bytes.len().min(most)])
    }

    fn consume(&mut self, bytes: usize) {
        self.inner.consume(bytes);
        self.allowance.take(bytes);
    }
}
