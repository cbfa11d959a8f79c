//! The orientation in an EXIF block, and whether the block is sound.
//!
//! Cameras and editors write damaged EXIF often and decoders have died of it, so nothing here trusts an offset, and
//! what is damaged costs a remark, never the picture.

use image::metadata::Orientation;

/// What an EXIF block says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Exif {
    /// The orientation, if it names one of the eight.
    pub(super) orientation: Option<Orientation>,
    /// Whether something in it can't be right.
    pub(super) bad: bool,
}

const ORIENTATION: u16 = 0x0112;
/// Tags that point to further directories: EXIF, GPS.
const DIRECTORIES: [u16; 2] = [0x8769, 0x8825];

/// Reads an EXIF block, with or without the `Exif` signature before it.
pub(super) fn read(chunk: &[u8]) -> Exif {
    let chunk = chunk.strip_prefix(b"Exif\0\0").unwrap_or(chunk);
    let mut exif = Exif::default();
    exif.bad = walk(chunk, &mut exif.orientation).is_none();
    exif
}

/// Walks the first directory and those it names; `None` as soon as something is wrong.
fn walk(chunk: &[u8], orientation: &mut Option<Orientation>) -> Option<()> {
    let big = match chunk.get(..4)? {
        b"MM\0*" => true,
        b"II*\0" => false,
        _ => return None,
    };
    let block = Block { chunk, big };
    let mut sound = Some(());
    let mut further = Vec::new();
    for entry in block.entries(block.long(4)?)? {
        match block.check(&entry) {
            Some(()) if entry.tag == ORIENTATION => {
                *orientation = Orientation::from_exif(block.orientation(&entry)?)
            }
            Some(()) if DIRECTORIES.contains(&entry.tag) => further.push(block.long(entry.at + 8)?),
            Some(()) => {}
            None => sound = None,
        }
    }
    for directory in further {
        for entry in block.entries(directory)? {
            block.check(&entry)?;
        }
    }
    sound
}

struct Block<'a> {
    chunk: &'a [u8],
    big: bool,
}

struct Entry {
    at: usize,
    tag: u16,
    kind: u16,
    count: u32,
}

impl Block<'_> {
    fn short(&self, at: usize) -> Option<u16> {
        let bytes: [u8; 2] = self.chunk.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn long(&self, at: usize) -> Option<u32> {
        let bytes: [u8; 4] = self.chunk.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// The entries of the directory at `offset`.
    fn entries(&self, offset: u32) -> Option<Vec<Entry>> {
        let start = offset as usize;
        let entry = |index: usize| {
            let at = start.checked_add(2 + 12 * index)?;
            let (tag, kind, count) = (self.short(at)?, self.short(at + 2)?, self.long(at + 4)?);
            // The value itself, four bytes, is part of the entry.
            self.long(at + 8).map(|_| Entry { at, tag, kind, count })
        };
        (0..usize::from(self.short(start)?)).map(entry).collect()
    }

    fn orientation(&self, entry: &Entry) -> Option<u8> {
        let value =
            if entry.kind == 4 { self.long(entry.at + 8)? } else { u32::from(self.short(entry.at + 8)?) };
        // 0 is written for "unknown" and means upright.
        (value <= 8).then_some(value.max(1) as u8)
    }

    /// Whether the value lies inside the block and, if it is a fraction, has a denominator. 0/0 means "unknown".
    fn check(&self, entry: &Entry) -> Option<()> {
        let width: usize = match entry.kind {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 => 4,
            5 | 10 | 12 => 8,
            _ => return None,
        };
        let bytes = width.checked_mul(entry.count as usize)?;
        if bytes <= 4 {
            return Some(());
        }
        let start = self.long(entry.at + 8)? as usize;
        let value = self.chunk.get(start..start.checked_add(bytes)?)?;
        let whole = |at: usize| Some((self.long(start + at)?, self.long(start + at + 4)?));
        let fraction = entry.kind == 5 || entry.kind == 10;
        let divides = |at: usize| whole(at).is_some_and(|(above, below)| below != 0 || above == 0);
        (!fraction || (0..value.len()).step_by(8).all(divides)).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A little-endian block of the given entries `(tag, kind, count, value)`, followed by `rest`.
    fn block(entries: &[(u16, u16, u32, u32)], rest: &[u8]) -> Vec<u8> {
        let mut bytes = b"II*\0\x08\0\0\0".to_vec();
        bytes.extend((entries.len() as u16).to_le_bytes());
        for (tag, kind, count, value) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(kind.to_le_bytes());
            bytes.extend(count.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend([0; 4]);
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn every_orientation_is_read() {
        for value in 1..=8 {
            let exif = read(&block(&[(ORIENTATION, 3, 1, value)], &[]));
            assert_eq!(exif, Exif { orientation: Orientation::from_exif(value as u8), bad: false });
        }
    }

    #[test]
    fn a_fraction_over_zero_is_bad_but_the_orientation_is_kept() {
        let fraction = [72u32.to_le_bytes(), 0u32.to_le_bytes()].concat();
        let exif = read(&block(&[(0x011A, 5, 1, 38), (ORIENTATION, 3, 1, 6)], &fraction));
        assert_eq!(exif, Exif { orientation: Some(Orientation::Rotate90), bad: true });
        let unknown = read(&block(&[(0x011A, 5, 1, 38), (ORIENTATION, 3, 1, 6)], &[0; 8]));
        assert!(!unknown.bad);
    }

    #[test]
    fn what_points_outside_is_bad() {
        assert!(read(&block(&[(0x010F, 2, 100, 5000)], &[])).bad);
        assert!(read(&block(&[(0x8769, 4, 1, 9_999_999)], &[])).bad);
        assert!(read(&block(&[(ORIENTATION, 3, 1, 9)], &[])).bad);
        assert!(read(b"not exif").bad);
    }

    proptest! {
        #[test]
        fn nothing_panics(head in any::<bool>(), mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if bytes.len() > 4 {
                bytes[..4].copy_from_slice(if head { b"MM\0*" } else { b"II*\0" });
            }
            read(&bytes);
        }
    }
}
