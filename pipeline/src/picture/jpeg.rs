//! JPEG: strict about what is missing, lenient about what is superfluous.
//!
//! The `image` crate sets the decoder to give a grey half where a file was cut off, so it is called here directly. A
//! file counts as whole if its markers can be followed to the end-of-image marker and every scan has all its data
//! ([`scans`]); decoding is strict after that, but bytes between headers, which some cameras leave, are allowed.

mod huffman;
mod scans;
#[cfg(test)]
mod tests;

use image::DynamicImage;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use super::undecodable;
use crate::row::reject::{Reject, RejectReason};

/// What stands before the pixels.
pub(super) struct Header {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) exif: Option<Vec<u8>>,
    /// The colour profile, put together from its segments.
    pub(super) profile: Option<Vec<u8>>,
    /// Memory that decoding takes.
    pub(super) memory: u64,
}

fn decoder(bytes: &[u8], strict: bool) -> JpegDecoder<ZCursor<&[u8]>> {
    let options =
        DecoderOptions::default().set_strict_mode(strict).set_max_width(65_535).set_max_height(65_535);
    JpegDecoder::new_with_options(ZCursor::new(bytes), options)
}

fn refusal(error: DecodeErrors) -> Reject {
    let reason = match error {
        DecodeErrors::ExhaustedData | DecodeErrors::IoErrors(_) => RejectReason::ImageTruncated,
        DecodeErrors::LargeDimensions(_) => RejectReason::ImageTooLarge,
        _ => RejectReason::ImageUndecodable,
    };
    Reject::new(reason, error.to_string())
}

impl Header {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Reject> {
        let mut decoder = decoder(bytes, false);
        decoder.decode_headers().map_err(|error| match scans::unsupported(bytes) {
            Some(detail) => undecodable(detail),
            None => refusal(error),
        })?;
        let (width, height) = decoder.dimensions().ok_or_else(|| undecodable("no size in the header"))?;
        let (width, height) = (width as u32, height as u32);
        // Of a progressive picture, 64 coefficients of two bytes a block, and what the check of its scans remembers.
        let coefficients = scans::progressive_blocks(bytes) * (128 + 8);
        let memory = memory_of_pixel(&decoder) * u64::from(width) * u64::from(height) + coefficients;
        Ok(Self { width, height, exif: decoder.exif().cloned(), profile: decoder.icc_profile(), memory })
    }
}

/// Bytes that a pixel takes.
fn memory_of_pixel(decoder: &JpegDecoder<ZCursor<&[u8]>>) -> u64 {
    match decoder.input_colorspace() {
        Some(ColorSpace::Luma) => 1,
        // Four inks, and then what becomes of them.
        Some(ColorSpace::YCCK) => 4 + 3,
        _ => 3,
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<DynamicImage, Reject> {
    scans::check(bytes)?;
    match decode_as(bytes, true) {
        Err(DecodeErrors::FormatStatic(text)) if text.starts_with("[strict-mode]") => decode_as(bytes, false),
        result => result,
    }
    .map_err(refusal)
}

fn decode_as(bytes: &[u8], strict: bool) -> Result<DynamicImage, DecodeErrors> {
    let mut decoder = decoder(bytes, strict);
    decoder.decode_headers()?;
    let (width, height) = decoder.dimensions().ok_or(DecodeErrors::ZeroError)?;
    let stored = decoder.input_colorspace().unwrap_or(ColorSpace::YCbCr);
    let wanted = match stored {
        ColorSpace::Luma => ColorSpace::Luma,
        // The decoder's own way from YCCK to RGB gives inverted colours (zune-image issue 442).
        ColorSpace::YCCK => ColorSpace::YCCK,
        _ => ColorSpace::RGB,
    };
    let options = decoder.options().jpeg_set_out_colorspace(wanted);
    decoder.set_options(options);
    let mut pixels = decoder.decode()?;
    if wanted == ColorSpace::YCCK {
        pixels = pixels.chunks_exact(4).flat_map(ycck_to_rgb).collect();
    }
    let (width, height) = (width as u32, height as u32);
    let picture = match wanted {
        ColorSpace::Luma => image::GrayImage::from_raw(width, height, pixels).map(DynamicImage::ImageLuma8),
        _ => image::RgbImage::from_raw(width, height, pixels).map(DynamicImage::ImageRgb8),
    };
    picture.ok_or(DecodeErrors::FormatStatic("fewer pixels than declared"))
}

/// Adobe's YCCK: luma and chroma of the inverted CMY values, and K inverted, so that 255 is no ink.
fn ycck_to_rgb(pixel: &[u8]) -> [u8; 3] {
    let [y, cb, cr, k] = [0, 1, 2, 3].map(|index| f32::from(pixel[index]));
    let (cb, cr) = (cb - 128.0, cr - 128.0);
    let inks = [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb];
    inks.map(|value| ((255.0 - value.round().clamp(0.0, 255.0)) * k / 255.0).round() as u8)
}
