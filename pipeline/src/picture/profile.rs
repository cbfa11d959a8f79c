//! Colour profiles: a picture whose numbers mean other colours than sRGB's is brought to sRGB.
//!
//! A profile says nothing new if it is sRGB under another name, of which there are many; pixels stay as they are then, bit for bit. Profiles of
//! inks (CMYK) are not used: such pictures are converted after Adobe's convention. A damaged profile leaves the pixels as
//! they are.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use moxcms::{ColorProfile, DataColorSpace, Layout, Transform8BitExecutor, TransformOptions};

use crate::row::reject::Warning;

/// Larger profiles are not read: those of cameras and screens have a few thousand bytes, those of printers up to 3 MB.
const LARGEST_BYTES: u64 = 4 << 20;

/// A profile is sRGB if no colour moves by more than this, of 255: what rounding and the short curves of small profiles make.
const SAME: u8 = 2;

/// Profiles that are remembered.
const MOST_KNOWN: usize = 64;

/// What a profile does to pixels.
#[derive(Clone)]
pub(super) enum Profile {
    /// Nothing: there is none, it is sRGB's, or one of inks.
    Unused,
    /// Nothing: it can't be understood.
    Bad,
    Colours(Arc<Transform8BitExecutor>),
    Greys(Box<[u8; 256]>),
}

/// Profiles by their content: there are few, and understanding one takes longer than using it.
static KNOWN: LazyLock<Mutex<HashMap<[u8; 32], Profile>>> = LazyLock::new(Mutex::default);

impl Profile {
    /// The profile of a picture that has one.
    pub(super) fn read(bytes: &[u8]) -> Self {
        if bytes.len() as u64 > LARGEST_BYTES {
            return Self::Bad;
        }
        let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let key = *blake3::hash(bytes).as_bytes();
        if let Some(profile) = known().get(&key) {
            return profile.clone();
        }
        let profile = Self::understand(bytes).unwrap_or(Self::Bad);
        let mut known = known();
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(key, profile.clone());
        profile
    }

    /// The profile in the content of a PNG's `iCCP`: a name, a zero, the method 0, and the profile compressed.
    pub(super) fn read_chunk(content: &[u8]) -> Self {
        let Some(name) = content.iter().take(80).position(|&byte| byte == 0) else { return Self::Bad };
        let Some([0, compressed @ ..]) = content.get(name + 1..) else { return Self::Bad };
        let mut bytes = Vec::new();
        let unpacked =
            flate2::read::ZlibDecoder::new(compressed).take(LARGEST_BYTES + 1).read_to_end(&mut bytes);
        if unpacked.is_ok() { Self::read(&bytes) } else { Self::Bad }
    }

    fn understand(bytes: &[u8]) -> Option<Self> {
        let profile = ColorProfile::new_from_slice(bytes).ok()?;
        let (srgb, options) = (ColorProfile::new_srgb(), TransformOptions::default());
        match profile.color_space {
            DataColorSpace::Rgb => {
                let transform =
                    profile.create_transform_8bit(Layout::Rgb, &srgb, Layout::Rgb, options).ok()?;
                let levels = || (0..=15u8).map(|level| level * 17);
                let grid: Vec<u8> = levels()
                    .flat_map(|red| {
                        levels().flat_map(move |green| levels().flat_map(move |blue| [red, green, blue]))
                    })
                    .collect();
                let mut moved = vec![0; grid.len()];
                transform.transform(&grid, &mut moved).ok()?;
                Some(if is_same(&grid, &moved) { Self::Unused } else { Self::Colours(transform) })
            }
            DataColorSpace::Gray => {
                let transform =
                    profile.create_transform_8bit(Layout::Gray, &srgb, Layout::Rgb, options).ok()?;
                let greys: [u8; 256] = std::array::from_fn(|grey| grey as u8);
                let mut rgb = vec![0; 3 * 256];
                transform.transform(&greys, &mut rgb).ok()?;
                let moved: [u8; 256] = std::array::from_fn(|grey| rgb[3 * grey + 1]);
                Some(if is_same(&greys, &moved) { Self::Unused } else { Self::Greys(Box::new(moved)) })
            }
            DataColorSpace::Cmyk => Some(Self::Unused),
            _ => None,
        }
    }

    /// The remark that a picture with this profile gets.
    pub(super) fn warning(&self) -> Option<Warning> {
        match self {
            Self::Unused => None,
            Self::Bad => Some(Warning::ProfileBad),
            Self::Colours(_) | Self::Greys(_) => Some(Warning::ProfileConverted),
        }
    }

    /// Brings pixels of red, green and blue, with whatever stands behind them, to sRGB.
    pub(super) fn apply(&self, pixels: &mut [u8], bytes_per_pixel: usize) {
        match self {
            Self::Unused | Self::Bad => {}
            Self::Greys(table) => {
                for pixel in pixels.chunks_exact_mut(bytes_per_pixel) {
                    pixel[..3].iter_mut().for_each(|value| *value = table[usize::from(*value)]);
                }
            }
            Self::Colours(transform) => {
                let colours = pixels.chunks_exact(bytes_per_pixel).flat_map(|pixel| &pixel[..3]);
                let colours: Vec<u8> = colours.copied().collect();
                let mut moved = vec![0; colours.len()];
                // It fails for buffers of unequal length only.
                if transform.transform(&colours, &mut moved).is_ok() {
                    let pairs = pixels.chunks_exact_mut(bytes_per_pixel).zip(moved.chunks_exact(3));
                    pairs.for_each(|(pixel, moved)| pixel[..3].copy_from_slice(moved));
                }
            }
        }
    }
}

fn is_same(before: &[u8], after: &[u8]) -> bool {
    before.iter().zip(after).all(|(before, after)| before.abs_diff(*after) <= SAME)
}
