//! JPEGs of every kind of scan, made by code from the same coefficients, whole and cut.

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, Rgb, RgbImage};
use proptest::prelude::*;

use super::*;
use crate::picture::tests::{jpeg, quarters};

/// A block's coefficients in zigzag order.
type Block = [i32; 64];

/// A frame without subsampling: blocks across and down, and those of each component.
#[derive(Debug)]
struct Coefficients {
    across: usize,
    down: usize,
    components: Vec<Vec<Block>>,
}

/// Bits with the stuffing of a JPEG.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    bits: u64,
    count: u32,
}

impl Writer {
    fn put(&mut self, value: u32, count: u32) {
        for bit in (0..count).rev() {
            self.bits = self.bits << 1 | u64::from(value >> bit & 1);
            self.count += 1;
            if self.count == 8 {
                self.bytes.push(self.bits as u8);
                self.bytes.extend((self.bits as u8 == 0xFF).then_some(0));
                (self.bits, self.count) = (0, 0);
            }
        }
    }

    /// A value as its size, which its code holds, and its bits.
    fn value(&mut self, symbol: u32, table: Table, value: i32) {
        let size = size(value);
        self.symbol(symbol << 4 | size, table);
        self.put(if value < 0 { (value - 1) as u32 } else { value as u32 }, size);
    }

    fn symbol(&mut self, symbol: u32, table: Table) {
        match table {
            Table::Direct => self.put(symbol, 4),
            Table::Further => self.put(symbol, 9),
            // Short codes for what is frequent: the end of a block, then values of one bit.
            Table::Long => match symbol {
                0 => self.put(0, 1),
                1 => self.put(2, 2),
                _ => self.put(0b11_0000_0000_0000 | symbol, 14),
            },
        }
    }

    fn finish(mut self) -> Vec<u8> {
        while self.count > 0 {
            self.put(1, 1);
        }
        self.bytes
    }
}

fn size(value: i32) -> u32 {
    32 - value.unsigned_abs().leading_zeros()
}

#[derive(Clone, Copy)]
enum Table {
    /// Sixteen codes of four bits but the last, for sizes of first coefficients.
    Direct,
    /// All symbols, nine bits each.
    Further,
    /// Codes from one bit to fourteen, longer than a lookup.
    Long,
}

fn segment(marker: u8, content: &[u8]) -> Vec<u8> {
    [&[0xFF, marker], &((content.len() + 2) as u16).to_be_bytes()[..], content].concat()
}

fn tables() -> Vec<u8> {
    let codes = |place: u8, lengths: &[(usize, Vec<u8>)]| {
        let mut counts = [0; 16];
        lengths.iter().for_each(|(length, symbols)| counts[length - 1] = symbols.len() as u8);
        let symbols = lengths.iter().flat_map(|(_, symbols)| symbols.iter().copied()).collect::<Vec<_>>();
        segment(0xC4, &[&[place], &counts[..], &symbols].concat())
    };
    let direct = codes(0, &[(4, (0..12).collect())]);
    let further = codes(0x10, &[(9, (0..255).collect())]);
    let long = codes(0x11, &[(1, vec![0]), (2, vec![1]), (14, (0..254).collect())]);
    let steps = segment(0xDB, &[&[0], [1; 64].as_slice()].concat());
    [steps, direct, further, long].concat()
}

/// A scan of these components: header and data, with a restart marker behind each `restart` units.
fn scan(
    image: &Coefficients,
    components: &[usize],
    [first, last, high, low]: [u8; 4],
    restart: usize,
    mut unit: impl FnMut(&mut Writer, usize, &[&Block]),
) -> Vec<u8> {
    let table = if cfg_long(first, last, high) { 1 } else { 0 };
    let ids = components.iter().flat_map(|&component| [component as u8 + 1, table]);
    let header = [vec![components.len() as u8], ids.collect(), vec![first, last, high << 4 | low]].concat();
    let mut bytes = segment(0xDA, &header);
    let mut writer = Writer::default();
    let units = image.across * image.down;
    for place in 0..units {
        if restart > 0 && place > 0 && place % restart == 0 {
            bytes.extend(std::mem::take(&mut writer).finish());
            bytes.extend([0xFF, 0xD0 + ((place / restart - 1) % 8) as u8]);
        }
        let blocks: Vec<&Block> =
            components.iter().map(|&component| &image.components[component][place]).collect();
        unit(&mut writer, place, &blocks);
    }
    bytes.extend(writer.finish());
    bytes
}

/// Sequential scans use the table of long codes.
fn cfg_long(first: u8, last: u8, high: u8) -> bool {
    (first, last, high) == (0, 63, 0)
}

fn file(image: &Coefficients, marker: u8, restart: usize, scans: &[Vec<u8>]) -> Vec<u8> {
    let side = |blocks: usize| (8 * blocks as u16).to_be_bytes();
    let ids = (1..=image.components.len() as u8).flat_map(|id| [id, 0x11, 0]);
    let frame = [&[8][..], &side(image.down), &side(image.across), &[image.components.len() as u8]].concat();
    let frame = [frame, ids.collect()].concat();
    let restart = segment(0xDD, &(restart as u16).to_be_bytes());
    [&[0xFF, 0xD8], &*tables(), &*segment(marker, &frame), &*restart, &*scans.concat(), &[0xFF, 0xD9]]
        .concat()
}

/// One scan of all components, or one for each.
fn sequential(image: &Coefficients, together: bool, restart: usize) -> Vec<u8> {
    let all: Vec<usize> = (0..image.components.len()).collect();
    let groups = if together { vec![all] } else { all.iter().map(|&component| vec![component]).collect() };
    let scans: Vec<Vec<u8>> = groups
        .iter()
        .map(|group| {
            let mut before = vec![0; group.len()];
            scan(image, group, [0, 63, 0, 0], restart, |writer, place, blocks| {
                if restart > 0 && place % restart == 0 {
                    before.fill(0);
                }
                for (block, before) in blocks.iter().zip(&mut before) {
                    writer.value(0, Table::Direct, block[0] - *before);
                    *before = block[0];
                    further_values(writer, Table::Long, &block[1..]);
                }
            })
        })
        .collect();
    file(image, 0xC0, restart, &scans)
}

fn further_values(writer: &mut Writer, table: Table, values: &[i32]) {
    let mut zeros = 0;
    for &value in values {
        match value {
            0 => zeros += 1,
            value => {
                for _ in 0..zeros / 16 {
                    writer.symbol(0xF0, table);
                }
                writer.value(zeros % 16, table, value);
                zeros = 0;
            }
        }
    }
    if zeros > 0 {
        writer.symbol(0, table);
    }
}

/// First coefficients in two steps; the others whole up to the fifth, in two steps from there.
fn progressive(image: &Coefficients, restart: usize) -> Vec<u8> {
    let all: Vec<usize> = (0..image.components.len()).collect();
    let mut before = vec![0; all.len()];
    let mut scans = vec![scan(image, &all, [0, 0, 0, 1], restart, |writer, place, blocks| {
        if restart > 0 && place % restart == 0 {
            before.fill(0);
        }
        for (block, before) in blocks.iter().zip(&mut before) {
            writer.value(0, Table::Direct, (block[0] >> 1) - *before);
            *before = block[0] >> 1;
        }
    })];
    for &component in &all {
        scans.push(further_scan(image, component, [1, 5, 0, 0], restart));
        scans.push(further_scan(image, component, [6, 63, 0, 1], restart));
    }
    scans.push(scan(image, &all, [0, 0, 1, 0], restart, |writer, _, blocks| {
        blocks.iter().for_each(|block| writer.put((block[0] & 1) as u32, 1));
    }));
    for &component in &all {
        scans.push(refining_scan(image, component, restart));
    }
    file(image, 0xC2, restart, &scans)
}

/// Ends of blocks are written as runs where nothing stands between them.
fn further_scan(image: &Coefficients, component: usize, band: [u8; 4], restart: usize) -> Vec<u8> {
    let [first, last, _, low] = band.map(usize::from);
    let values =
        |block: &Block| -> Vec<i32> { block[first..=last].iter().map(|value| value / (1 << low)).collect() };
    let blocks = &image.components[component];
    scan(image, &[component], band, restart, |writer, place, current| {
        let ended = |block: &Block| values(block).iter().all(|&value| value == 0);
        let interval = if restart == 0 { blocks.len() } else { restart };
        let piece =
            &blocks[place / interval * interval..(place / interval * interval + interval).min(blocks.len())];
        let within = place % interval;
        if ended(current[0]) {
            // A run is written at its first block and covers the following ones.
            if within == 0 || !ended(&piece[within - 1]) {
                let run = piece[within..].iter().take_while(|block| ended(block)).count() as u32;
                let power = 31 - run.leading_zeros();
                writer.symbol(power << 4, Table::Further);
                writer.put(run - (1 << power), power);
            }
        } else {
            further_values(writer, Table::Further, &values(current[0]));
        }
    })
}

/// The last bit of the coefficients from the sixth on (T.81, G.1.2.3), each block ended by itself.
fn refining_scan(image: &Coefficients, component: usize, restart: usize) -> Vec<u8> {
    scan(image, &[component], [6, 63, 1, 0], restart, |writer, _, blocks| {
        let block = &blocks[0][6..];
        let (mut zeros, mut corrections) = (0, Vec::new());
        let last_new = block.iter().rposition(|value| value.abs() == 1);
        for (place, &value) in block.iter().enumerate() {
            match value.abs() {
                0 if last_new.is_some_and(|last| place < last) => {
                    if zeros == 15 {
                        writer.symbol(0xF0, Table::Further);
                        corrections.drain(..).for_each(|bit| writer.put(bit, 1));
                        zeros = 0;
                    } else {
                        zeros += 1;
                    }
                }
                0 => zeros += 1,
                1 => {
                    writer.symbol(zeros << 4 | 1, Table::Further);
                    writer.put(u32::from(value > 0), 1);
                    corrections.drain(..).for_each(|bit| writer.put(bit, 1));
                    zeros = 0;
                }
                known => corrections.push((known & 1) as u32),
            }
        }
        if zeros > 0 || !corrections.is_empty() {
            writer.symbol(0, Table::Further);
            corrections.drain(..).for_each(|bit| writer.put(bit, 1));
        }
    })
}

/// Coefficients of all kinds: empty blocks, long runs of zeros, large values, drawn from a number.
fn coefficients() -> impl Strategy<Value = Coefficients> {
    (1..4usize, 1..4usize, prop_oneof![Just(1), Just(3)], any::<u64>()).prop_map(
        |(across, down, count, seed)| {
            let mut state = seed;
            let mut draw = move |below: u64| {
                state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
                ((state >> 33) % below) as i32
            };
            let mut block = || {
                let sparse = [1, 3, 20, 200][draw(4) as usize];
                std::array::from_fn(|_| match (draw(sparse), draw(6)) {
                    (1.., _) => 0,
                    (_, 0) if sparse > 1 => draw(121) - 60,
                    (_, _) if sparse > 1 => draw(7) - 3,
                    _ => 0,
                })
            };
            let mut blocks = || (0..across * down).map(|_| block()).collect();
            Coefficients { across, down, components: (0..count).map(|_| blocks()).collect() }
        },
    )
}

fn pixels(bytes: &[u8]) -> Vec<u8> {
    decode(bytes).unwrap_or_else(|reject| panic!("{reject}")).into_bytes()
}

fn reason(bytes: &[u8]) -> Option<RejectReason> {
    decode(bytes).err().map(|reject| reject.reason)
}

/// Where the data of the first scan begins.
fn data_of(bytes: &[u8]) -> usize {
    let header = bytes.windows(2).position(|pair| pair == [0xFF, 0xDA]).expect("a scan");
    header + 2 + usize::from(u16::from_be_bytes([bytes[header + 2], bytes[header + 3]]))
}

/// A file that was cut there and given an end.
fn cut(bytes: &[u8], length: usize) -> Vec<u8> {
    let length = if bytes[length - 1] == 0xFF { length - 1 } else { length };
    [&bytes[..length], &[0xFF, 0xD9]].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The same coefficients give the same picture, in whatever scans they come; a cut file is refused wherever it is
    /// cut, but between two scans of a progressive one, behind its first.
    #[test]
    fn whole_scans_are_kept_and_cut_ones_are_not(image in coefficients(), restart in 0..4usize) {
        let expected = pixels(&sequential(&image, true, 0));
        let files = [
            sequential(&image, true, restart),
            sequential(&image, false, restart),
            progressive(&image, restart),
        ];
        for (number, bytes) in files.iter().enumerate() {
            prop_assert_eq!(scans::check(bytes), Ok(()), "file {}", number);
            // Of several small scans the decoder loses some rows, and of restart markers in them others.
            if number == 0 || number == 2 && restart == 0 {
                let found = decode(bytes).map(DynamicImage::into_bytes);
                prop_assert_eq!(found.as_ref(), Ok(&expected), "file {}", number);
            }
            let scans: Vec<usize> = bytes.windows(2).enumerate()
                .filter_map(|(at, pair)| (pair == [0xFF, 0xDA]).then_some(at)).collect();
            for length in data_of(bytes)..bytes.len() - 2 {
                let between_scans = number == 2 && scans[1..].iter().any(|&scan| (scan..scan + 12).contains(&length));
                if !between_scans {
                    let found = scans::check(&cut(bytes, length)).map_err(|reject| reject.reason);
                    prop_assert_eq!(found, Err(RejectReason::ImageTruncated), "file {} at {}", number, length);
                }
            }
        }
    }

    /// What an ordinary encoder writes, with any subsampling and at any quality.
    #[test]
    fn what_an_encoder_writes_is_whole_and_its_beginnings_are_not(
        width in 1..50u32, height in 1..50u32, quality in 1..=100u8, noise in any::<u32>(), grey in any::<bool>(),
    ) {
        let value = |x: u32, y: u32| (((x * 31) ^ (y * 17)).wrapping_mul(noise | 1) >> 7) as u8;
        let picture = RgbImage::from_fn(width, height, |x, y| Rgb([value(x, y), value(y, x), value(x + 9, y)]));
        let mut bytes = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
        if grey {
            let pixels: Vec<u8> = picture.pixels().map(|pixel| pixel.0[0]).collect();
            encoder.encode(&pixels, width, height, ExtendedColorType::L8).expect("encodes");
        } else {
            encoder.encode(picture.as_raw(), width, height, ExtendedColorType::Rgb8).expect("encodes");
        }
        prop_assert_eq!(reason(&bytes), None);
        for length in data_of(&bytes)..bytes.len() - 2 {
            let found = scans::check(&cut(&bytes, length)).map_err(|reject| reject.reason);
            prop_assert_eq!(found, Err(RejectReason::ImageTruncated), "at {} of {}", length, bytes.len());
        }
    }

    #[test]
    fn no_data_panics(image in coefficients(), at in any::<prop::sample::Index>(), new in prop::collection::vec(any::<u8>(), 1..6), kind in 0..3) {
        let mut bytes = match kind {
            0 => sequential(&image, true, 2),
            1 => sequential(&image, false, 0),
            _ => progressive(&image, 3),
        };
        let at = at.index(bytes.len() - 8);
        bytes[at..at + new.len()].copy_from_slice(&new);
        let _ = scans::check(&bytes);
    }
}

/// A picture with restart markers behind every second unit.
fn with_restarts() -> Vec<u8> {
    let block = |place: usize| std::array::from_fn(|index| (place * 7 + index * 3) as i32 % 5 - 2);
    let image = Coefficients { across: 4, down: 4, components: vec![(0..16).map(block).collect()] };
    sequential(&image, true, 2)
}

#[test]
fn what_is_superfluous_is_let_pass() {
    let whole = with_restarts();
    let expected = pixels(&whole);
    let (body, end) = whole.split_at(whole.len() - 2);
    let second = whole.windows(2).position(|pair| pair == [0xFF, 0xD1]).expect("a restart marker");
    let cases = [
        ("another picture behind the end", [&*whole, &*jpeg(&quarters())].concat()),
        ("zeros behind the end", [&*whole, &[0; 300]].concat()),
        ("a second end", [&*whole, end].concat()),
        ("fill bytes before the end", [body, &[0xFF; 5], end].concat()),
        ("a restart marker behind the last unit", [body, &[0xFF, 0xD7], end].concat()),
        ("fill bytes before a restart marker", [&whole[..second], &[0xFF; 3], &whole[second..]].concat()),
    ];
    for (what, bytes) in cases {
        assert_eq!(pixels(&bytes), expected, "{what}");
    }
}

/// What decoders fill up with grey: intervals that are gone, a piece of zeros, more rows than there is data for.
#[test]
fn lost_data_within_a_file_is_noticed() {
    let whole = with_restarts();
    let marker = |number: u8| whole.windows(2).position(|pair| pair == [0xFF, 0xD0 + number]).expect("there");
    let lost = [&whole[..marker(1)], &whole[marker(4)..]].concat();
    assert_eq!(reason(&lost), Some(RejectReason::ImageTruncated));
    let short = [&whole[..marker(1) - 3], &whole[marker(1)..]].concat();
    assert_eq!(reason(&short), Some(RejectReason::ImageTruncated));
    let noise =
        RgbImage::from_fn(200, 200, |x, y| Rgb([(x * y) as u8, (x * 7 + y * 31) as u8, (y * y + x) as u8]));
    let mut tall = jpeg(&noise);
    let mut zeros = tall.clone();
    let middle = tall.len() / 2;
    zeros[middle..middle + 2000].fill(0);
    assert!(reason(&zeros).is_some());
    let frame = tall.windows(2).position(|pair| pair == [0xFF, 0xC0]).expect("a frame");
    tall[frame + 5..frame + 7].copy_from_slice(&2000u16.to_be_bytes());
    assert_eq!(reason(&tall), Some(RejectReason::ImageTruncated));
}

/// Coefficients of a whole frame are held at once, unlike those of a sequential picture.
#[test]
fn the_memory_of_a_progressive_picture_holds_its_coefficients() {
    let image = Coefficients { across: 3, down: 2, components: vec![vec![[1; 64]; 6]; 3] };
    let memory = |bytes: &[u8]| Header::read(bytes).expect("a header").memory;
    assert_eq!(memory(&sequential(&image, true, 0)), 6 * 64 * 3);
    assert_eq!(memory(&progressive(&image, 0)), 6 * 64 * 3 + 18 * 136);
}

#[test]
fn coding_that_nobody_reads_is_named() {
    let whole = with_restarts();
    let frame = whole.windows(2).position(|pair| pair == [0xFF, 0xC0]).expect("a frame");
    for (marker, expected) in [
        (0xC3, "lossless coding is not supported"),
        (0xC9, "arithmetic coding is not supported"),
        (0xCA, "arithmetic coding is not supported"),
    ] {
        let mut bytes = whole.clone();
        bytes[frame + 1] = marker;
        let reject = Header::read(&bytes).map(|_| ()).expect_err("not supported");
        assert_eq!((reject.reason, reject.detail.as_str()), (RejectReason::ImageUndecodable, expected));
    }
}

/// The header of a file is checked by its first frame; a larger one behind a scan would be believed.
#[test]
fn a_second_frame_is_refused() {
    let mut bytes = jpeg(&quarters());
    let frame = bytes.windows(2).position(|pair| pair == [0xFF, 0xC0]).expect("a frame");
    let length = usize::from(u16::from_be_bytes([bytes[frame + 2], bytes[frame + 3]])) + 2;
    let mut second = bytes[frame..frame + length].to_vec();
    second[1] = 0xC2;
    second[5..9].fill(0xFF);
    let end = bytes.len() - 2;
    bytes.splice(end..end, second);
    let reject = scans::check(&bytes).expect_err("two frames");
    assert!(reject.detail.contains("more than one frame"), "{}", reject.detail);
}
