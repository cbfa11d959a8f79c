//! Encoded pictures to square RGB crops.
//!
//! [`PictureRules::decode`] goes by the content, never by a file's name, and either gives a whole picture or says why
//! there is none: a half picture padded with grey is not one. What the header declares is checked before memory is
//! taken. Colour is brought to 8-bit RGB (grey, palette, 16 bits, CMYK after Adobe's convention) and from the
//! picture's colour profile to sRGB, alpha is laid over a background, the EXIF orientation is applied, of an animation the first frame is taken.
//! The shorter side is resized to `size` with the Catmull-Rom filter and the centre of the longer one is kept.
//!
//! The picture is cropped and resized as it is stored; then its colours are brought to sRGB and it is turned, because both cost nothing for a
//! small square. Against turning first, a value differs by rounding at most.
//!
//! It knows nothing about rows, files or plans: bytes in, pixels or a reason out. [`codec`] is the border to who encodes them.

pub mod codec;
mod exif;
mod foreign;
mod jpeg;
mod png;
mod profile;

use std::borrow::Cow;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};

use self::profile::Profile;
pub use crate::config::PictureRules;
use crate::row::reject::{Reject, RejectReason, Warning};

/// The formats that are read.
const READ: [ImageFormat; 6] = [
    ImageFormat::Jpeg,
    ImageFormat::Png,
    ImageFormat::Gif,
    ImageFormat::WebP,
    ImageFormat::Bmp,
    ImageFormat::Tiff,
];

/// A square crop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Width and height, in pixels.
    pub size: u32,
    /// Rows of red, green, blue bytes, `size * size * 3` of them.
    pub rgb: Vec<u8>,
}

/// What a picture's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Width as shown, in pixels.
    pub width: u32,
    /// Height as shown, in pixels.
    pub height: u32,
    /// Memory that it takes while it is decoded and its pixels are brought to 8 bits.
    pub decoded_bytes: u64,
    /// A remark, if there is one.
    pub warning: Option<Warning>,
    orientation: Orientation,
}

impl PictureRules {
    /// Reads the header and checks it against the rules; no pixel is decoded and no memory taken for any.
    ///
    /// # Errors
    ///
    /// If there is no picture of a known format, or it is larger or smaller than the rules allow.
    pub fn probe(&self, bytes: &[u8]) -> Result<Probe, Reject> {
        shielded(|| Ok(self.open(bytes)?.probe))
    }

    /// Decodes, resizes, crops and turns a picture.
    ///
    /// # Errors
    ///
    /// As [`Self::probe`], and if the picture is damaged or ends early.
    pub fn decode(&self, bytes: &[u8]) -> Result<(Picture, Probe), Reject> {
        shielded(|| {
            let opened = self.open(bytes)?;
            let (probe, profile) = (opened.probe, opened.profile.clone());
            let square = self.square(&opened.read()?, &profile)?;
            let mut square = DynamicImage::ImageRgb8(square);
            square.apply_orientation(probe.orientation);
            Ok((Picture { size: self.size, rgb: square.into_bytes() }, probe))
        })
    }

    fn open<'a>(&self, bytes: &'a [u8]) -> Result<Opened<'a>, Reject> {
        if bytes.is_empty() {
            return Err(Reject::new(RejectReason::ImageEmpty, "0 bytes"));
        }
        let format = image::guess_format(bytes).ok().filter(|format| READ.contains(format));
        let format = format.ok_or_else(|| undecodable(foreign::name(bytes)))?;
        let (decoder, width, height, chunk, own, profile) = match format {
            ImageFormat::Jpeg => {
                let header = jpeg::Header::read(bytes)?;
                let profile = header.profile.as_deref().map(Profile::read);
                (Decoder::Jpeg(bytes, header.memory), header.width, header.height, header.exif, None, profile)
            }
            _ => {
                let png = (format == ImageFormat::Png).then(|| png::Chunks::read(bytes));
                let (packed, bytes, chunk) = match png {
                    Some(chunks) => (chunks.profile, chunks.needed, chunks.exif.map(<[u8]>::to_vec)),
                    None => (None, Cow::Borrowed(bytes), None),
                };
                let cut = format == ImageFormat::WebP && is_cut_riff(&bytes);
                let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
                reader.limits(self.limits());
                let mut decoder = reader.into_decoder().map_err(|error| refusal(error, cut))?;
                let (width, height) = decoder.dimensions();
                // A damaged EXIF chunk is no reason to lose the picture.
                let chunk = chunk.or_else(|| decoder.exif_metadata().unwrap_or_default());
                let own = (format == ImageFormat::Tiff).then(|| decoder.orientation().ok()).flatten();
                let profile = match packed {
                    Some(chunk) => Some(Profile::read_chunk(chunk)),
                    None => decoder.icc_profile().unwrap_or_default().as_deref().map(Profile::read),
                };
                (
                    Decoder::Other { decoder: Box::new(decoder), format, cut },
                    width,
                    height,
                    chunk,
                    own,
                    profile,
                )
            }
        };
        let exif = chunk.as_deref().map(exif::read).unwrap_or_default();
        let orientation =
            own.or(exif.orientation).filter(|_| self.orientation).unwrap_or(Orientation::NoTransforms);
        let turned = orientation.to_exif() >= 5;
        let (width, height) = if turned { (height, width) } else { (width, height) };
        let profile = profile.unwrap_or(Profile::Unused);
        let warning = profile.warning().or(exif.bad.then_some(Warning::ExifBad));
        let decoded_bytes = decoder.memory(u64::from(width) * u64::from(height));
        let opened =
            Opened { decoder, profile, probe: Probe { width, height, decoded_bytes, warning, orientation } };
        self.check(&opened).map(|()| opened)
    }

    /// Memory for a decoder: 8 bytes a pixel, and room for its tables.
    fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.max_alloc = Some(self.max_pixels.saturating_mul(8).saturating_add(64 << 20));
        limits
    }

    fn check(&self, opened: &Opened<'_>) -> Result<(), Reject> {
        let Probe { width, height, .. } = opened.probe;
        let size = format!("{width} x {height}");
        if width == 0 || height == 0 {
            return Err(undecodable(format!("{size} pixels")));
        }
        let pixels = u64::from(width) * u64::from(height);
        if pixels > self.max_pixels || opened.decoder.pixel_bytes() > self.max_pixels.saturating_mul(8) {
            let detail = format!("{size} pixels, the limit is {} pixels", self.max_pixels);
            return Err(Reject::new(RejectReason::ImageTooLarge, detail));
        }
        if width.min(height) < self.min_side {
            let detail = format!("{size} pixels, the shorter side must have {}", self.min_side);
            return Err(Reject::new(RejectReason::ImageTooSmall, detail));
        }
        Ok(())
    }

    /// Shorter side to `size`, centre of the longer one, colours to sRGB, alpha over the background.
    fn square(&self, stored: &DynamicImage, profile: &Profile) -> Result<RgbImage, Reject> {
        let (pixels, kind) = match stored {
            DynamicImage::ImageLuma8(grey) => (grey.as_raw().as_slice(), PixelType::U8),
            DynamicImage::ImageRgb8(rgb) => (rgb.as_raw().as_slice(), PixelType::U8x3),
            DynamicImage::ImageRgba8(rgba) => (rgba.as_raw().as_slice(), PixelType::U8x4),
            other if other.color().has_alpha() => return self.square(&other.to_rgba8().into(), profile),
            other if other.color().has_color() => return self.square(&other.to_rgb8().into(), profile),
            other => return self.square(&other.to_luma8().into(), profile),
        };
        let source = ImageRef::new(stored.width(), stored.height(), pixels, kind).map_err(undecodable)?;
        let mut square = Image::new(self.size, self.size, kind);
        let filter = ResizeAlg::Convolution(FilterType::CatmullRom);
        let options = ResizeOptions::new().resize_alg(filter).fit_into_destination(None);
        Resizer::new().resize(&source, &mut square, &options).map_err(undecodable)?;
        let mut pixels = match kind {
            PixelType::U8 => square.buffer().iter().flat_map(|&value| [value; 3]).collect(),
            _ => square.into_vec(),
        };
        let rgb = match kind {
            PixelType::U8x4 => {
                profile.apply(&mut pixels, 4);
                pixels.chunks_exact(4).flat_map(|pixel| self.over(pixel)).collect()
            }
            _ => {
                profile.apply(&mut pixels, 3);
                pixels
            }
        };
        RgbImage::from_raw(self.size, self.size, rgb)
            .ok_or_else(|| undecodable("the resized picture is incomplete"))
    }

    /// One RGBA pixel over the background, rounded to the nearest.
    fn over(&self, pixel: &[u8]) -> [u8; 3] {
        let alpha = u32::from(pixel[3]);
        std::array::from_fn(|channel| {
            let sum = u32::from(pixel[channel]) * alpha + u32::from(self.background[channel]) * (255 - alpha);
            ((sum + 127) / 255) as u8
        })
    }
}

struct Opened<'a> {
    decoder: Decoder<'a>,
    profile: Profile,
    probe: Probe,
}

enum Decoder<'a> {
    /// The file, and the memory that decoding it takes.
    Jpeg(&'a [u8], u64),
    Other {
        decoder: Box<dyn ImageDecoder + 'a>,
        format: ImageFormat,
        /// Whether the file is shorter than it says.
        cut: bool,
    },
}

impl Decoder<'_> {
    /// Memory of the pixels that come out; of a JPEG it goes by their number.
    fn pixel_bytes(&self) -> u64 {
        match self {
            Self::Jpeg(..) => 0,
            Self::Other { decoder, .. } => decoder.total_bytes(),
        }
    }

    /// All memory that `pixels` pixels take until they are of 8 bits.
    fn memory(&self, pixels: u64) -> u64 {
        let (decoder, format) = match self {
            Self::Jpeg(_, memory) => return *memory,
            Self::Other { decoder, format, .. } => (decoder, format),
        };
        let colour = decoder.color_type();
        let converted = match colour {
            ColorType::L8 | ColorType::Rgb8 | ColorType::Rgba8 => 0,
            _ if colour.has_alpha() => 4,
            _ if colour.has_color() => 3,
            _ => 1,
        };
        // What decoders hold beside the pixels that they give: a copy of them, planes of colour.
        let own = match format {
            ImageFormat::Tiff | ImageFormat::Gif => decoder.total_bytes(),
            ImageFormat::WebP => pixels.saturating_mul(4),
            _ => 0,
        };
        // The copies of a decoder are gone before the pixels are converted.
        decoder.total_bytes().saturating_add(own.max(pixels.saturating_mul(converted)))
    }
}

impl Opened<'_> {
    fn read(self) -> Result<DynamicImage, Reject> {
        match self.decoder {
            Decoder::Jpeg(bytes, _) => jpeg::decode(bytes),
            Decoder::Other { decoder, cut, .. } => {
                DynamicImage::from_decoder(decoder).map_err(|error| refusal(error, cut))
            }
        }
    }
}

fn undecodable(detail: impl ToString) -> Reject {
    Reject::new(RejectReason::ImageUndecodable, detail.to_string())
}

/// Runs a decoder of somebody else's on data of somebody else's: a panic in it costs the picture, not the job.
fn shielded<T>(work: impl FnOnce() -> Result<T, Reject>) -> Result<T, Reject> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(undecodable("the decoder panicked")))
}

/// Whether a file of chunks is shorter than its header says.
fn is_cut_riff(bytes: &[u8]) -> bool {
    let length = bytes.get(4..8).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes);
    length.is_none_or(|length| (bytes.len() as u64) < 8 + u64::from(length))
}

/// `cut` says that the file is known to be shorter than it should be.
fn refusal(error: ImageError, cut: bool) -> Reject {
    let reason = match &error {
        ImageError::Limits(_) => RejectReason::ImageTooLarge,
        error if cut || ends_early(error) => RejectReason::ImageTruncated,
        _ => RejectReason::ImageUndecodable,
    };
    Reject::new(reason, error.to_string())
}

/// Whether the end of the data lies at the bottom of an error. The decoders of GIF and PNG say so in words only.
fn ends_early(error: &ImageError) -> bool {
    let words = error.to_string();
    if words.ends_with("Unexpected End of File") || words.contains("does not have enough data") {
        return true;
    }
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        let io = match error.downcast_ref::<ImageError>() {
            Some(ImageError::IoError(io)) => Some(io),
            _ => error.downcast_ref::<std::io::Error>(),
        };
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::UnexpectedEof) {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
pub(crate) mod tests;
