//! The blocks of an archive, read so that no name is begun that is too long to be held.

use std::cell::RefCell;
use std::io::{BufRead, Read};
use std::rc::Rc;

/// Bytes of a block.
const BLOCK: u64 = 512;

/// Bytes of what describes a member (a long name, or the fields of a newer archive) that are held, at most. No file
/// system has names of a hundredth of that; an archive of a few kilobytes can claim any number.
pub(super) const MAX_NAME_BYTES: u64 = 1 << 20;

/// What an archive is read from. It follows the headers, so that no name is begun that is too long, and knows whether what
/// it has read of the last block is nothing but zeros.
pub(super) struct Blocks {
    inner: Box<dyn BufRead + Send>,
    pub(super) place: u64,
    pub(super) zeros: bool,
    /// Where the next header begins, unless that is not known.
    header_at: Option<u64>,
    /// What has been read of it.
    header: Vec<u8>,
    /// Where the name ends that is too long, and its length.
    pub(super) long_name: Option<(u64, u64)>,
}

impl Blocks {
    pub(super) fn shared(inner: Box<dyn BufRead + Send>) -> Rc<RefCell<Self>> {
        let header = Vec::with_capacity(BLOCK as usize);
        let header_at = Some(0);
        Rc::new(RefCell::new(Self { inner, place: 0, zeros: false, header_at, header, long_name: None }))
    }

    /// Looks at the headers in what was read from `start` on.
    fn follow(&mut self, read: &[u8], start: u64) -> std::io::Result<()> {
        let end = start + read.len() as u64;
        while let Some(at) = self.header_at.filter(|at| *at < end) {
            let from = at + self.header.len() as u64;
            let to = end.min(at + BLOCK);
            let Some(piece) = read.get(from.saturating_sub(start) as usize..(to - start) as usize) else {
                break;
            };
            self.header.extend_from_slice(piece);
            if (self.header.len() as u64) < BLOCK {
                break;
            }
            self.header_at = self.behind(at)?;
            self.header.clear();
        }
        Ok(())
    }

    /// Where the header behind that at `at` begins, which is not known of a member's.
    fn behind(&mut self, at: u64) -> std::io::Result<Option<u64>> {
        if self.header.iter().all(|byte| *byte == 0) {
            return Ok(Some(at + BLOCK));
        }
        let header = tar::Header::from_byte_slice(&self.header);
        let of = header.entry_type();
        let describes = of.is_gnu_longname() || of.is_gnu_longlink() || of.is_pax_local_extensions();
        let Some(bytes) = header.entry_size().ok().filter(|_| describes) else { return Ok(None) };
        let end = blocks_behind(at + BLOCK, bytes);
        if bytes > MAX_NAME_BYTES {
            self.long_name = Some((end, bytes));
            return Err(std::io::Error::other("a name is too long"));
        }
        Ok(Some(end))
    }

    /// Expects the next header behind this member, whose content begins here.
    pub(super) fn expect_behind(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> std::io::Result<()> {
        let of = entry.header().entry_type();
        let mut bytes = entry.header().entry_size()?;
        if !of.is_pax_local_extensions() && !of.is_pax_global_extensions() {
            let extensions = entry.pax_extensions()?.into_iter().flatten().filter_map(Result::ok);
            let size = extensions
                .filter(|field| field.key_bytes() == b"size")
                .find_map(|field| field.value().ok()?.parse().ok());
            bytes = size.unwrap_or(bytes);
        }
        self.header_at = Some(blocks_behind(self.place, bytes));
        Ok(())
    }

    /// Reads on to behind the name that is too long, and gives its length.
    pub(super) fn skip_name(&mut self) -> std::io::Result<u64> {
        let Some((end, bytes)) = self.long_name.take() else { return Ok(0) };
        let left = end.saturating_sub(self.place);
        let skipped = std::io::copy(&mut Read::by_ref(&mut self.inner).take(left), &mut std::io::sink())?;
        if skipped < left {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        (self.place, self.zeros, self.header_at) = (end, false, Some(end));
        self.header.clear();
        Ok(bytes)
    }
}

/// The first block behind so many bytes.
fn blocks_behind(start: u64, bytes: u64) -> u64 {
    start.saturating_add(bytes.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX))
}

/// The blocks for a reader of archives that has them to itself for a while.
pub(super) struct Shared(pub(super) Rc<RefCell<Blocks>>);

impl Read for Shared {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut blocks = self.0.borrow_mut();
        let bytes = blocks.inner.read(buffer)?;
        let start = blocks.place;
        let end = start + bytes as u64;
        let block = end - end % BLOCK;
        let new = buffer[block.saturating_sub(start) as usize..bytes].iter().all(|byte| *byte == 0);
        blocks.zeros = new && (block >= start || blocks.zeros);
        blocks.place = end;
        blocks.follow(&buffer[..bytes], start)?;
        Ok(bytes)
    }
}
