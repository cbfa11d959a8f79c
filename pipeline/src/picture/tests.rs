//! Pictures made by code in every format, and the odd files of the sample data.

use image::codecs::gif::GifEncoder;
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, Frame, GrayAlphaImage, ImageBuffer, Luma, Rgb, Rgba, RgbaImage};
use proptest::prelude::*;

use super::*;
use crate::samples::{sample, sample_bytes};

fn rules(size: u32) -> PictureRules {
    PictureRules { size, ..PictureRules::default() }
}

pub(crate) fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

pub(crate) fn jpeg(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (width, height) = picture.dimensions();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 100);
    encoder.encode(picture.as_raw(), width, height, ExtendedColorType::Rgb8).unwrap();
    bytes
}

/// A JPEG with an EXIF block behind its first marker.
pub(crate) fn with_exif(jpeg: &[u8], exif: &[u8]) -> Vec<u8> {
    let length = (exif.len() + 8) as u16;
    [&jpeg[..2], &[0xFF, 0xE1], &length.to_be_bytes(), b"Exif\0\0", exif, &jpeg[2..]].concat()
}

/// A big-endian EXIF block of short and fraction entries `(tag, kind, value)`, with a fraction of 72/0 behind them.
pub(crate) fn exif(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = b"MM\0*\0\0\0\x08".to_vec();
    bytes.extend((entries.len() as u16).to_be_bytes());
    for (tag, kind, value) in entries {
        let value = if *kind == 3 { value << 16 } else { *value };
        bytes.extend([tag.to_be_bytes(), kind.to_be_bytes()].concat());
        bytes.extend([1u32.to_be_bytes(), value.to_be_bytes()].concat());
    }
    bytes.extend([0u32.to_be_bytes(), 72u32.to_be_bytes(), 0u32.to_be_bytes()].concat());
    bytes
}

/// 48 x 32 pixels with four different quarters.
pub(crate) fn quarters() -> RgbImage {
    RgbImage::from_fn(48, 32, |x, y| match (x < 24, y < 16) {
        (true, true) => Rgb([220, 30, 30]),
        (false, true) => Rgb([30, 200, 40]),
        (true, false) => Rgb([40, 50, 210]),
        (false, false) => Rgb([230, 220, 60]),
    })
}

fn furthest(one: &[u8], other: &[u8]) -> u8 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

fn reason(bytes: &[u8], rules: &PictureRules) -> RejectReason {
    rules.decode(bytes).expect_err("a refusal").reason
}

#[test]
fn all_eight_orientations_give_the_same_picture() {
    let upright = quarters();
    let (expected, _) = rules(16).decode(&jpeg(&upright)).unwrap();
    for value in 1..=8u8 {
        let orientation = Orientation::from_exif(value).unwrap();
        let back = match orientation {
            Orientation::Rotate90 => Orientation::Rotate270,
            Orientation::Rotate270 => Orientation::Rotate90,
            same => same,
        };
        let mut stored = DynamicImage::ImageRgb8(upright.clone());
        stored.apply_orientation(back);
        let bytes = with_exif(&jpeg(stored.as_rgb8().unwrap()), &exif(&[(0x0112, 3, value.into())]));
        let (picture, probe) = rules(16).decode(&bytes).unwrap();
        assert!(furthest(&picture.rgb, &expected.rgb) <= 6, "orientation {value}");
        assert_eq!((probe.width, probe.height, probe.warning), (48, 32, None));
        assert_eq!(rules(16).probe(&bytes).unwrap(), probe);
        let stays = PictureRules { orientation: false, ..rules(16) };
        let (as_stored, probe) = stays.decode(&bytes).unwrap();
        assert_eq!((probe.width, probe.height), (stored.width(), stored.height()));
        assert_eq!(value == 1, furthest(&as_stored.rgb, &expected.rgb) <= 6, "orientation {value}");
    }
}

#[test]
fn damaged_exif_costs_a_remark_and_not_the_picture() {
    let plain = jpeg(&quarters());
    let (expected, probe) = rules(16).decode(&plain).unwrap();
    assert_eq!(probe.warning, None);
    // XResolution of 72/0 at offset 22 of the block; then a block that is none.
    for block in [exif(&[(0x011A, 5, 26)]), b"garbage that is no block".to_vec()] {
        let (picture, probe) = rules(16).decode(&with_exif(&plain, &block)).unwrap();
        assert_eq!((picture, probe.warning), (expected.clone(), Some(Warning::ExifBad)));
    }
}

/// An 8 x 8 JPEG of one colour: one DC coefficient for each component, all tables as small as they can be.
pub(crate) fn flat_jpeg(components: &[u8], adobe: Option<u8>) -> Vec<u8> {
    let count = components.len() as u8;
    let segment = |marker: u8, body: &[u8]| {
        [&[0xFF, marker], &((body.len() + 2) as u16).to_be_bytes()[..], body].concat()
    };
    let mut bytes = vec![0xFF, 0xD8];
    if let Some(transform) = adobe {
        bytes.extend(segment(0xEE, &[b"Adobe\0\x64\0\0\0\0".as_slice(), &[transform]].concat()));
    }
    bytes.extend(segment(0xDB, &[&[0], [1; 64].as_slice()].concat()));
    let ids = (1..=count).flat_map(|id| [id, 0x11, 0]);
    bytes.extend(segment(0xC0, &[vec![8, 0, 8, 0, 8, count], ids.collect()].concat()));
    // DC: twelve codes of four bits. AC: one code of one bit, the end of the block.
    bytes.extend(segment(
        0xC4,
        &[&[0, 0, 0, 0, 12][..], &[0; 12], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]].concat(),
    ));
    bytes.extend(segment(0xC4, &[&[0x10, 1][..], &[0; 15], &[0]].concat()));
    let ids = (1..=count).flat_map(|id| [id, 0]);
    bytes.extend(segment(0xDA, &[vec![count], ids.collect(), vec![0, 63, 0]].concat()));
    let mut bits = String::new();
    for &value in components {
        let level = (i32::from(value) - 128) * 8;
        let length = 32 - level.unsigned_abs().leading_zeros() as usize;
        let code = if level < 0 { level + (1 << length) - 1 } else { level };
        bits += &format!("{length:04b}");
        bits += &if length > 0 { format!("{code:0length$b}") } else { String::new() };
        bits += "0";
    }
    while !bits.len().is_multiple_of(8) {
        bits += "1";
    }
    for byte in bits.as_bytes().chunks(8) {
        let byte = byte.iter().fold(0u8, |byte, bit| byte << 1 | (bit - b'0'));
        bytes.push(byte);
        bytes.extend((byte == 0xFF).then_some(0));
    }
    bytes.extend([0xFF, 0xD9]);
    bytes
}

fn colour(bytes: &[u8]) -> [u8; 3] {
    let (picture, _) = rules(4).decode(bytes).unwrap();
    [picture.rgb[0], picture.rgb[1], picture.rgb[2]]
}

#[test]
fn every_kind_of_jpeg_colour_becomes_rgb() {
    let near = |bytes: Vec<u8>, expected: [u8; 3]| {
        let found = colour(&bytes);
        assert!(furthest(&found, &expected) <= 2, "{found:?}, {expected:?} expected");
    };
    near(flat_jpeg(&[200], None), [200; 3]);
    near(flat_jpeg(&[76, 85, 255], None), [255, 0, 0]);
    near(flat_jpeg(&[10, 120, 250], Some(0)), [10, 120, 250]);
    // Adobe stores inks inverted: 255 is none. Full cyan; then half black; then cyan as YCCK.
    near(flat_jpeg(&[0, 255, 255, 255], Some(0)), [0, 255, 255]);
    near(flat_jpeg(&[255, 255, 255, 128], Some(0)), [128; 3]);
    near(flat_jpeg(&[76, 85, 255, 255], Some(2)), [0, 255, 255]);
    near(flat_jpeg(&[76, 85, 255, 128], Some(2)), [0, 128, 128]);
}

#[test]
fn alpha_is_laid_over_the_background() {
    let clear = RgbaImage::from_pixel(2, 2, Rgba([255, 0, 0, 0]));
    let bytes = encoded(&clear.into(), ImageFormat::Png);
    assert_eq!(colour(&bytes), [255; 3]);
    let blue = PictureRules { background: [0, 0, 255], ..rules(4) };
    assert_eq!(blue.decode(&bytes).unwrap().0.rgb[..3], [0, 0, 255]);
    let half = RgbaImage::from_pixel(3, 3, Rgba([255, 0, 0, 128]));
    assert_eq!(colour(&encoded(&half.into(), ImageFormat::Png)), [255, 127, 127]);
    let grey = GrayAlphaImage::from_pixel(2, 2, image::LumaA([0, 51]));
    assert_eq!(colour(&encoded(&grey.into(), ImageFormat::Png)), [204; 3]);
}

#[test]
fn deep_and_grey_pictures_become_rgb() {
    let deep: ImageBuffer<Luma<u16>, Vec<u16>> = ImageBuffer::from_pixel(5, 5, Luma([0x8080]));
    assert_eq!(colour(&encoded(&deep.into(), ImageFormat::Png)), [0x80; 3]);
    let deep: ImageBuffer<Rgba<u16>, Vec<u16>> =
        ImageBuffer::from_pixel(5, 5, Rgba([0xFFFF, 0, 0x4040, 0xFFFF]));
    assert_eq!(colour(&encoded(&deep.into(), ImageFormat::Png)), [255, 0, 0x40]);
    let grey = image::GrayImage::from_pixel(9, 5, Luma([77]));
    assert_eq!(colour(&encoded(&grey.into(), ImageFormat::Png)), [77; 3]);
}

#[test]
fn the_first_frame_of_an_animation_counts() {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    for pixel in [Rgba([255, 0, 0, 255]), Rgba([0, 0, 255, 255])] {
        encoder.encode_frame(Frame::new(RgbaImage::from_pixel(8, 8, pixel))).unwrap();
    }
    drop(encoder);
    assert_eq!(colour(&bytes), [255, 0, 0]);
}

#[test]
fn the_centre_of_the_longer_side_is_kept() {
    let stripes = |x: u32| if (100..200).contains(&x) { Rgb([0, 200, 0]) } else { Rgb([200, 0, 0]) };
    let wide = RgbImage::from_fn(300, 100, |x, _| stripes(x));
    let tall = RgbImage::from_fn(100, 300, |_, y| stripes(y));
    for picture in [wide, tall] {
        let (square, probe) = rules(50).decode(&encoded(&picture.clone().into(), ImageFormat::Png)).unwrap();
        assert_eq!((square.size, square.rgb.len()), (50, 50 * 50 * 3));
        assert_eq!((probe.width, probe.height), picture.dimensions());
        // The filter reaches two pixels over the edge of the crop, as if the picture were resized whole.
        let inner = |index: &usize| (2..48).contains(&(index % 50)) && (2..48).contains(&(index / 50));
        let mut pixels = square.rgb.chunks_exact(3).enumerate().filter(|(index, _)| inner(index));
        assert!(pixels.all(|(_, pixel)| pixel == [0, 200, 0]));
    }
    let dot = RgbImage::from_pixel(1, 1, Rgb([1, 2, 3]));
    assert_eq!(colour(&encoded(&dot.into(), ImageFormat::Bmp)), [1, 2, 3]);
}

#[test]
fn what_is_no_picture_is_refused_by_name() {
    assert_eq!(reason(b"", &rules(8)), RejectReason::ImageEmpty);
    assert_eq!(reason(b"<!DOCTYPE html><html>404</html>", &rules(8)), RejectReason::ImageUndecodable);
    assert_eq!(reason(b"\x89PNG\r\n\x1a\n", &rules(8)), RejectReason::ImageTruncated);
    let small = encoded(&quarters().into(), ImageFormat::Png);
    assert_eq!(reason(&small, &PictureRules { min_side: 33, ..rules(8) }), RejectReason::ImageTooSmall);
    assert!(PictureRules { min_side: 32, ..rules(8) }.decode(&small).is_ok());
    assert_eq!(
        reason(&small, &PictureRules { max_pixels: 48 * 32 - 1, ..rules(8) }),
        RejectReason::ImageTooLarge
    );
    assert!(PictureRules { max_pixels: 48 * 32, ..rules(8) }.decode(&small).is_ok());
}

#[test]
fn a_declared_size_costs_nothing() {
    let header = [&60_000u32.to_be_bytes()[..], &60_000u32.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let mut crc = flate2::Crc::new();
    crc.update(&[b"IHDR", header.as_slice()].concat());
    let png =
        [b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", header.as_slice(), &crc.sum().to_be_bytes(), b"\0\0\0\0IDAT"]
            .concat();
    let gif = b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0".to_vec();
    let mut bmp = encoded(&quarters().into(), ImageFormat::Bmp);
    bmp[18..26].copy_from_slice(&[60_000u32.to_le_bytes(), 60_000u32.to_le_bytes()].concat());
    let mut jpg = jpeg(&quarters());
    let frame = jpg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    jpg[frame + 5..frame + 9].copy_from_slice(&[0xEA, 0x60, 0xEA, 0x60]);
    for (name, bytes) in [("png", png), ("gif", gif), ("bmp", bmp), ("jpeg", jpg)] {
        assert_eq!(rules(8).probe(&bytes).unwrap_err().reason, RejectReason::ImageTooLarge, "{name}");
        assert_eq!(reason(&bytes, &rules(8)), RejectReason::ImageTooLarge, "{name}");
    }
}

/// The same picture in all formats, with noise, so that it takes some bytes.
fn in_all_formats() -> Vec<(ImageFormat, Vec<u8>)> {
    let picture =
        RgbImage::from_fn(40, 30, |x, y| Rgb([(x * 37 + y * 91) as u8, (x * y) as u8, (x * 5) as u8]));
    let formats =
        [ImageFormat::Png, ImageFormat::Gif, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP];
    let mut all: Vec<_> = formats.map(|format| (format, encoded(&picture.clone().into(), format))).into();
    all.push((ImageFormat::Jpeg, jpeg(&picture)));
    all
}

#[test]
fn a_cut_picture_is_refused_or_whole() {
    for (format, bytes) in in_all_formats() {
        let (whole, _) = rules(8).decode(&bytes).unwrap();
        for length in (0..bytes.len()).step_by(7).chain(bytes.len().saturating_sub(8)..bytes.len()) {
            match rules(8).decode(&bytes[..length]) {
                Ok((picture, _)) => assert_eq!(picture, whole, "{format:?} at {length} of {}", bytes.len()),
                Err(reject) => {
                    assert_ne!(reject.reason, RejectReason::ImageTooLarge, "{format:?} at {length}")
                }
            }
        }
        let cut = &bytes[..bytes.len() * 6 / 10];
        let found = reason(cut, &rules(8));
        // TIFF looks for what stands at the end first, so a cut file may look damaged.
        let either = format == ImageFormat::Tiff;
        let named =
            found == RejectReason::ImageTruncated || (either && found == RejectReason::ImageUndecodable);
        assert!(named, "{format:?}: {:?}", rules(8).decode(cut));
    }
}

proptest! {
    #[test]
    fn no_damage_panics(index in 0usize..6, at in any::<prop::sample::Index>(), new in prop::collection::vec(any::<u8>(), 1..5)) {
        let (_, mut bytes) = in_all_formats().swap_remove(index);
        let at = at.index(bytes.len() - 5);
        bytes[at..at + new.len()].copy_from_slice(&new);
        if let Ok((picture, _)) = rules(8).decode(&bytes) {
            prop_assert_eq!(picture.rgb.len(), 8 * 8 * 3);
        }
    }
}

/// A chunk of a PNG.
fn chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut checksum = flate2::Crc::new();
    checksum.update(name);
    checksum.update(content);
    [&(content.len() as u32).to_be_bytes(), name.as_slice(), content, &checksum.sum().to_be_bytes()].concat()
}

fn deflated(length: usize, value: u8) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut encoder, &vec![value; length]).unwrap();
    encoder.finish().unwrap()
}

/// A profile of a few kilobytes that is 500 MB when it is unpacked: it is never unpacked.
#[test]
fn compressed_profiles_and_texts_do_not_reach_the_decoder() {
    let bytes = encoded(&quarters().into(), ImageFormat::Png);
    let (head, rest) = bytes.split_at(33);
    let packed = deflated(1 << 20, 0);
    let profile = chunk(b"iCCP", &[b"name\0\0".as_slice(), &packed].concat());
    let text = chunk(b"zTXt", &[b"name\0\0".as_slice(), &packed].concat());
    let international = chunk(b"iTXt", &[b"name\0\x01\0\0\0".as_slice(), &packed].concat());
    let laden = [head, &profile, &text, &international, rest].concat();
    assert_eq!(png::Chunks::read(&laden).needed, bytes);
    assert_eq!(rules(16).decode(&laden).unwrap().0, rules(16).decode(&bytes).unwrap().0);
    assert!(matches!(png::Chunks::read(&bytes).needed, Cow::Borrowed(_)));
    // What follows a cut chunk, or the end, is left to the decoder.
    for length in [34, 40, head.len() + profile.len() - 1] {
        let cut = &laden[..length];
        assert_eq!(png::Chunks::read(cut).needed, cut);
    }
}

#[test]
fn the_orientation_of_a_png_may_stand_behind_its_pixels() {
    let bytes = encoded(&quarters().into(), ImageFormat::Png);
    let block = chunk(b"eXIf", &exif(&[(0x0112, 3, 6)]));
    let (pixels, end) = bytes.split_at(bytes.len() - 12);
    let before = [&bytes[..33], &block, &bytes[33..]].concat();
    let behind = [pixels, &block, end].concat();
    let turned = rules(16).decode(&behind).unwrap();
    assert_eq!(turned, rules(16).decode(&before).unwrap());
    assert_eq!((turned.1.width, turned.1.height), (32, 48));
    // A chunk whose checksum is wrong says nothing.
    let mut damaged = behind;
    damaged[pixels.len() + 10] ^= 1;
    assert_eq!(rules(16).probe(&damaged).unwrap().width, 48);
}

#[test]
fn pixels_that_end_early_are_a_cut_picture() {
    let header = [&48u32.to_be_bytes()[..], &32u32.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let rows = deflated((1 + 3 * 48) * 20, 0);
    let short =
        [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", &rows), chunk(b"IEND", &[])];
    assert_eq!(reason(&short.concat(), &rules(8)), RejectReason::ImageTruncated);
    let webp = encoded(&quarters().into(), ImageFormat::WebP);
    // The last byte is padding.
    for length in 12..webp.len() - 1 {
        assert_eq!(reason(&webp[..length], &rules(8)), RejectReason::ImageTruncated, "{length}");
    }
}

/// Pixels of 16 bits and their copy of 8 bits are in memory together.
#[test]
fn the_memory_of_a_picture_is_that_of_all_its_copies() {
    let pixels = 48 * 32;
    let memory =
        |picture: DynamicImage, format| rules(8).probe(&encoded(&picture, format)).unwrap().decoded_bytes;
    let plain = DynamicImage::from(quarters());
    for (picture, bytes) in [
        (plain.to_luma8().into(), 1),
        (plain.to_luma_alpha8().into(), 2 + 4),
        (plain.to_luma16().into(), 2 + 1),
        (plain.to_luma_alpha16().into(), 4 + 4),
        (plain.to_rgb8().into(), 3),
        (plain.to_rgb16().into(), 6 + 3),
        (plain.to_rgba8().into(), 4),
        (plain.to_rgba16().into(), 8 + 4),
    ] {
        assert_eq!(memory(picture, ImageFormat::Png), bytes * pixels, "{bytes}");
    }
    assert_eq!(memory(plain.clone(), ImageFormat::Tiff), 6 * pixels);
    assert_eq!(memory(plain, ImageFormat::WebP), 7 * pixels);
    assert_eq!(rules(8).probe(&jpeg(&quarters())).unwrap().decoded_bytes, 3 * pixels);
    // The limit goes by the pixels alone: 8 bytes for each.
    let deep = DynamicImage::from(quarters()).to_rgba16().into();
    let exact = PictureRules { max_pixels: pixels, ..rules(8) };
    assert!(exact.decode(&encoded(&deep, ImageFormat::Png)).is_ok());
}

#[test]
fn bytes_between_jpeg_headers_are_no_reason_to_refuse() {
    let bytes = jpeg(&quarters());
    let tables = bytes.windows(2).position(|pair| pair == [0xFF, 0xDB]).unwrap();
    let filled = [&bytes[..tables], &[0; 9], &bytes[tables..]].concat();
    assert_eq!(rules(8).decode(&filled).unwrap().0, rules(8).decode(&bytes).unwrap().0);
}

#[test]
fn odd_files_meet_their_fate() {
    #[derive(serde::Deserialize)]
    struct Odd {
        file_name: String,
        decodable: bool,
    }
    let Some(list) = sample_bytes("images/odd/captions.jsonl") else { return };
    let expected = |name: &str| match name {
        "truncated.jpg" => RejectReason::ImageTruncated,
        "empty.jpg" => RejectReason::ImageEmpty,
        "huge_declared.png" => RejectReason::ImageTooLarge,
        _ => RejectReason::ImageUndecodable,
    };
    for line in list.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let odd: Odd = serde_json::from_slice(line).unwrap();
        if odd.file_name == "missing.jpg" {
            continue;
        }
        let bytes = sample_bytes(&format!("images/odd/{}", odd.file_name)).unwrap();
        match rules(64).decode(&bytes) {
            Ok((picture, _)) => {
                assert!(odd.decodable && picture.rgb.len() == 64 * 64 * 3, "{}", odd.file_name)
            }
            Err(reject) => {
                assert!(!odd.decodable, "{}: {reject}", odd.file_name);
                assert_eq!(reject.reason, expected(&odd.file_name), "{}: {reject}", odd.file_name);
            }
        }
    }
    let turned = sample_bytes("images/odd/exif_orientation6.jpg").unwrap();
    let probe = rules(64).probe(&turned).unwrap();
    assert_eq!((probe.width, probe.height), (148, 224));
}

#[test]
fn every_good_picture_of_the_samples_is_kept() {
    let Some(folder) = sample("images/folder") else { return };
    let mut kept = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "jpg" || end == "png") {
            let decoded = rules(32).decode(&std::fs::read(&path).unwrap());
            assert!(decoded.is_ok(), "{}: {:?}", path.display(), decoded.err());
            kept += 1;
        }
    }
    assert_eq!(kept, 210);
    let archive = sample_bytes("images/cc12m/cc12m-12samples.tar").unwrap();
    let mut kept = 0;
    for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap().extension().is_some_and(|end| end == "jpg") {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            rules(32).decode(&bytes).unwrap();
            kept += 1;
        }
    }
    assert_eq!(kept, 12);
}

#[test]
fn colour_kinds_that_the_decoders_give_are_all_known() {
    // `ColorType` is open-ended; these are the ones of image 0.25, and all find their way through `square`.
    let kinds =
        [ColorType::L8, ColorType::La8, ColorType::Rgb8, ColorType::Rgba8, ColorType::L16, ColorType::Rgb32F];
    for kind in kinds {
        let picture = DynamicImage::new(4, 4, kind);
        assert_eq!(rules(4).square(&picture, &Profile::Unused).unwrap().dimensions(), (4, 4));
    }
}

/// A profile and colours that littlecms converted with it; see `tests/python/colour_profiles.py`.
fn golden_profile(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/profiles");
    std::fs::read(format!("{folder}/{name}")).unwrap()
}

/// A PNG of one colour with a profile.
fn png_with_profile(colour: [u8; 3], profile: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    image::ImageEncoder::set_icc_profile(&mut encoder, profile.to_vec()).unwrap();
    let pixels = RgbImage::from_pixel(8, 8, Rgb(colour));
    image::ImageEncoder::write_image(encoder, pixels.as_raw(), 8, 8, ExtendedColorType::Rgb8).unwrap();
    bytes
}

/// A JPEG with a profile in segments of so many bytes.
fn jpeg_with_profile(jpeg: &[u8], profile: &[u8], segment: usize) -> Vec<u8> {
    let chunks: Vec<&[u8]> = profile.chunks(segment).collect();
    let mut bytes = jpeg[..2].to_vec();
    for (index, chunk) in chunks.iter().enumerate() {
        bytes.extend([0xFF, 0xE2]);
        bytes.extend(((chunk.len() + 16) as u16).to_be_bytes());
        bytes.extend(b"ICC_PROFILE\0");
        bytes.extend([index as u8 + 1, chunks.len() as u8]);
        bytes.extend(*chunk);
    }
    bytes.extend(&jpeg[2..]);
    bytes
}

#[test]
fn colours_of_other_profiles_become_those_of_littlecms() {
    type Colours = std::collections::BTreeMap<String, Vec<([u8; 3], [u8; 3])>>;
    let expected: Colours = serde_json::from_slice(&golden_profile("expected.json")).unwrap();
    for (name, colours) in expected {
        let profile = golden_profile(&format!("{name}.icc"));
        for (before, after) in colours {
            let png = png_with_profile(before, &profile);
            let (picture, probe) = rules(4).decode(&png).unwrap();
            assert_eq!(rules(4).probe(&png).unwrap(), probe);
            if name == "srgb" {
                assert_eq!((&picture.rgb[..3], probe.warning), (&before[..], None));
                continue;
            }
            assert_eq!(probe.warning, Some(Warning::ProfileConverted), "{name}");
            // Two libraries round a table, a matrix and a curve differently.
            assert!(
                furthest(&picture.rgb[..3], &after) <= 2,
                "{name} of {before:?}: {:?} for {after:?}",
                &picture.rgb[..3]
            );
            let jpeg = jpeg(&RgbImage::from_pixel(8, 8, Rgb(before)));
            let (plain, _) = rules(4).decode(&jpeg).unwrap();
            for segment in [65_519, 100] {
                let (picture, probe) = rules(4).decode(&jpeg_with_profile(&jpeg, &profile, segment)).unwrap();
                assert_eq!(probe.warning, Some(Warning::ProfileConverted), "{name}");
                let moved = furthest(&plain.rgb[..3], &before);
                assert!(furthest(&picture.rgb[..3], &after) <= 2 + 4 * moved, "{name} of {before:?} as JPEG");
            }
        }
    }
}

#[test]
fn profiles_that_are_srgb_and_damaged_ones_change_no_pixel() {
    let plain = jpeg(&quarters());
    let (expected, _) = rules(16).decode(&plain).unwrap();
    let p3 = golden_profile("display_p3.icc");
    let cases = [
        (golden_profile("srgb.icc"), None),
        (golden_profile("srgb_of_littlecms.icc"), None),
        (p3[..200].to_vec(), Some(Warning::ProfileBad)),
        (b"no profile".to_vec(), Some(Warning::ProfileBad)),
    ];
    for (profile, warning) in cases {
        let (picture, probe) = rules(16).decode(&jpeg_with_profile(&plain, &profile, 60_000)).unwrap();
        assert_eq!((picture, probe.warning), (expected.clone(), warning));
    }
    // What unpacks to more than a profile may have is not unpacked.
    let png = png_with_profile([1, 2, 3], &vec![0; 20 << 20]);
    let (picture, probe) = rules(4).decode(&png).unwrap();
    assert_eq!((&picture.rgb[..3], probe.warning), (&[1, 2, 3][..], Some(Warning::ProfileBad)));
}

#[test]
fn what_is_no_picture_is_named() {
    let cases: [(&[u8], &str); 20] = [
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", "an AVIF picture, which is not read; convert it"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "an AVIF picture"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC picture"),
        (b"\xff\x0a\x00\x10", "a JPEG XL picture"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
        (b"\xff\x4f\xff\x51\0\x2f", "a JPEG 2000 picture"),
        (b"<?xml version=\"1.0\"?>\n<svg xmlns=\"x\"></svg>", "an SVG drawing"),
        (b"  <svg></svg>", "an SVG drawing"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"\n<!DOCTYPE html><html></html>", "an HTML page"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp41", "an MP4 video"),
        (b"\x1a\x45\xdf\xa3webm", "a Matroska or WebM video"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "gzip data"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        (b"{\"error\": \"not found\"}", "JSON, no picture"),
        (b"<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code></Error>", "an XML document"),
        (b"\0\0\0\0\0\0\0\0\0\0\0\0", "nothing but zeros"),
        (b"Not Found", "a text, no picture"),
        (b"\x9a\x01\xfe\x00\x03\x88", "no known picture format"),
    ];
    for (bytes, name) in cases {
        let reject = rules(4).decode(bytes).unwrap_err();
        assert_eq!(reject.reason, RejectReason::ImageUndecodable);
        assert!(reject.detail.contains(name), "{}: {name}", reject.detail);
    }
    assert_eq!(reason(b"", &rules(4)), RejectReason::ImageEmpty);
}
