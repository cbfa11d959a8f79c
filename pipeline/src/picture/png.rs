//! PNG: the chunks of a file before a decoder sees them.
//!
//! Profiles and texts can be compressed a thousand times over, so they don't reach the decoder, which would unpack them; the profile is
//! unpacked elsewhere, up to a limit. The EXIF block is looked for in the whole file: it may stand behind the pixels too.

use std::borrow::Cow;

/// What of a file is of use.
pub(super) struct Chunks<'a> {
    /// The file without profiles and texts.
    pub(super) needed: Cow<'a, [u8]>,
    /// The EXIF block.
    pub(super) exif: Option<&'a [u8]>,
    /// The content of the chunk of the colour profile.
    pub(super) profile: Option<&'a [u8]>,
}

/// Length, name and checksum around a chunk's content.
const AROUND: usize = 12;
const UNUSED: [&[u8]; 4] = [b"iCCP", b"zTXt", b"iTXt", b"tEXt"];

impl<'a> Chunks<'a> {
    /// Goes through the chunks of a file. From where they are damaged on, it is the decoder's.
    pub(super) fn read(bytes: &'a [u8]) -> Self {
        let (mut exif, mut profile) = (None, None);
        let (mut kept, mut left_out) = (Vec::new(), false);
        let mut at = 8;
        let mut start = 0;
        while let Some(chunk) = Chunk::at(bytes, at) {
            let end = at + AROUND + chunk.content.len();
            if UNUSED.contains(&chunk.name) {
                kept.push(&bytes[start..at]);
                (start, left_out) = (end, true);
            }
            if chunk.name == b"eXIf" && exif.is_none() && chunk.is_sound() {
                exif = Some(chunk.content);
            }
            if chunk.name == b"iCCP" && profile.is_none() {
                profile = Some(chunk.content);
            }
            at = end;
            if chunk.name == b"IEND" {
                break;
            }
        }
        kept.push(bytes.get(start..).unwrap_or_default());
        let needed = if left_out { Cow::Owned(kept.concat()) } else { Cow::Borrowed(bytes) };
        Self { needed, exif, profile }
    }
}

struct Chunk<'a> {
    name: &'a [u8],
    content: &'a [u8],
    checksum: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// The chunk that begins there, if it is whole.
    fn at(bytes: &'a [u8], at: usize) -> Option<Self> {
        let (length, rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
        let (name, rest) = rest.split_at_checked(4)?;
        let (content, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        Some(Self { name, content, checksum: rest.get(..4)? })
    }

    fn is_sound(&self) -> bool {
        let mut checksum = flate2::Crc::new();
        checksum.update(self.name);
        checksum.update(self.content);
        checksum.sum().to_be_bytes() == *self.checksum
    }
}
