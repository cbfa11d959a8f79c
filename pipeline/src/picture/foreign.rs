//! What lies under a picture's name and is none that can be read: named, so that a table of rejects says what to do.

/// What bytes are that no decoder takes.
pub(super) fn name(bytes: &[u8]) -> &'static str {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    let text = text_of(bytes);
    match bytes.get(4..8) {
        Some(b"ftyp") => return by_brand(bytes),
        Some(b"moov" | b"mdat" | b"wide") => return "a QuickTime video, no picture",
        _ => {}
    }
    if starts(&[0xFF, 0x0A]) || starts(b"\0\0\0\x0cJXL \r\n") {
        return "a JPEG XL picture, which is not read; convert it to PNG or JPEG";
    }
    if starts(b"\0\0\0\x0cjP  ") || starts(&[0xFF, 0x4F, 0xFF, 0x51]) {
        return "a JPEG 2000 picture, which is not read; convert it to PNG or JPEG";
    }
    let magics: [(&[u8], &'static str); 23] = [
        (b"%PDF", "a PDF document, no picture"),
        (b"8BPS", "a Photoshop document, which is not read; convert it to PNG or JPEG"),
        (b"v/1\x01", "an OpenEXR picture, which is not read; convert it to PNG"),
        (b"DDS ", "a DDS texture, which is not read; convert it to PNG"),
        (b"farbfeld", "a Farbfeld picture, which is not read; convert it to PNG"),
        (b"P5\n", "a PGM picture, which is not read; convert it to PNG"),
        (b"P6\n", "a PPM picture, which is not read; convert it to PNG"),
        (b"qoif", "a QOI picture, which is not read; convert it to PNG"),
        (b"\0\0\x01\0", "an ICO icon, which is not read; convert it to PNG"),
        (b"#?RADIANCE", "a Radiance HDR picture, which is not read; convert it to PNG"),
        (b"\x1f\x8b", "gzip data; unpack it first"),
        (b"\x28\xb5\x2f\xfd", "zstd data; unpack it first"),
        (b"BZh", "bzip2 data; unpack it first"),
        (b"\xfd7zXZ\0", "xz data; unpack it first"),
        (b"PK\x03\x04", "a ZIP archive; unpack it first"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
        (b"Rar!", "a RAR archive; unpack it first"),
        (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video, no picture"),
        (b"OggS", "Ogg sound or video, no picture"),
        (b"ID3", "MP3 sound, no picture"),
        (b"fLaC", "FLAC sound, no picture"),
        (
            b"version https://git-lfs",
            "a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`",
        ),
        (b"PAR1", "a Parquet file, no picture"),
    ];
    if let Some((_, name)) = magics.iter().find(|(magic, _)| starts(magic)) {
        return name;
    }
    if starts(b"RIFF") {
        return match bytes.get(8..12) {
            Some(b"AVI ") => "an AVI video, no picture",
            Some(b"WAVE") => "WAV sound, no picture",
            _ => "no known picture format",
        };
    }
    if bytes.iter().take(512).all(|&byte| byte == 0) {
        return "nothing but zeros";
    }
    if text.starts_with("<svg")
        || (text.starts_with("<?xml") && text.contains("<svg"))
        || (text.starts_with("<!--") && text.contains("<svg"))
        || text.starts_with("<!doctype svg")
    {
        return "an SVG drawing, which is not read; convert it to PNG";
    }
    if text.starts_with("<!doctype html")
        || text.starts_with("<html")
        || text.starts_with("<head")
        || text.starts_with("<body")
    {
        return "an HTML page, no picture; a server may have answered with it in the picture's place";
    }
    if text.starts_with("<?xml") || text.starts_with("<error") {
        return "an XML document, no picture; a store may have answered with an error in the picture's place";
    }
    if text.starts_with('{') || text.starts_with('[') {
        return "JSON, no picture; a server may have answered with an error in the picture's place";
    }
    if text.starts_with("data:") || text.starts_with("http://") || text.starts_with("https://") {
        return "an address, no picture";
    }
    if is_text(bytes) {
        return "a text, no picture";
    }
    "no known picture format"
}

/// Files of boxes say what they are by a brand of four letters.
fn by_brand(bytes: &[u8]) -> &'static str {
    // The main brand, then a number, then the others.
    let length = bytes.first_chunk::<4>().map_or(0, |length| u32::from_be_bytes(*length) as usize);
    let brands = bytes.get(8..length.clamp(8, 256).min(bytes.len())).unwrap_or_default().as_chunks::<4>().0;
    let has = |names: &[&[u8; 4]]| brands.iter().any(|brand| names.contains(&brand));
    match brands.first() {
        Some(b"crx ") => "a Canon raw photo, which is not read; convert it to PNG or JPEG",
        Some(b"jxl ") => "a JPEG XL picture, which is not read; convert it to PNG or JPEG",
        Some(b"jp2 " | b"jpx ") => "a JPEG 2000 picture, which is not read; convert it to PNG or JPEG",
        _ if has(&[b"avif", b"avis"]) => {
            "an AVIF picture, which is not read; convert it to PNG or JPEG, for example with `avifdec` or ImageMagick"
        }
        _ if has(&[b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"]) => {
            "a HEIC picture, which is not read; convert it to PNG or JPEG, for example with `heif-dec`"
        }
        Some(b"qt  ") => "a QuickTime video, no picture",
        _ => "an MP4 video, no picture",
    }
}

/// The beginning as lower-case letters, without the white space before it.
fn text_of(bytes: &[u8]) -> String {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]).to_ascii_lowercase()
}

fn is_text(bytes: &[u8]) -> bool {
    let beginning = &bytes[..bytes.len().min(512)];
    let valid = beginning.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    // A character may be cut at the end.
    valid.len() + 4 > beginning.len()
        && !valid.chars().any(|letter| letter.is_control() && !letter.is_whitespace())
}
