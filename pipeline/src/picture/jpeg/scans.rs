//! Whether the data of a JPEG is all there.
//!
//! The decoder fills missing data up with grey and says nothing, so the codes of each scan are counted before: a scan,
//! or a piece of it between restart markers, that ends before its last block is a picture that was cut off. Nothing is
//! computed from the codes, so this takes a small part of the time of decoding them.
//!
//! The decoder's strict mode does not replace this: of 2,904 copies of 121 pictures that were cut off and given an end
//! marker, it finds 2, of 968 with 512 bytes zeroed 23 where the walk finds 539, and it finds next to nothing that the walk does
//! not (docs/experiments.md, "Damaged JPEGs").
//!
//! What is superfluous is let pass (bytes between headers, fill bytes, whatever follows the end), and what the decoder
//! refuses by itself is left to it. Of a progressive picture each scan that is there must be whole, and each component
//! needs one of its first coefficients; that later scans are left out altogether is a matter of the format.

use std::rc::Rc;

use super::huffman::{Bits, Codes, Fault, Leaps};
use crate::row::reject::{Reject, RejectReason};

const END: u8 = 0xD9;
/// Scans of a file that the decoder takes.
const MOST_SCANS: usize = 100;

/// Refuses a JPEG whose markers don't lead to the end-of-image marker, or whose scans lack data.
pub(super) fn check(bytes: &[u8]) -> Result<(), Reject> {
    let mut walk =
        Walk { markers: Markers::new(bytes), tables: Tables::default(), frame: None, clean: Vec::new() };
    let mut scans = 0;
    while let Some((marker, segment)) = walk.markers.next() {
        match marker {
            END => return walk.finish(),
            0xDA if scans < MOST_SCANS => {
                scans += 1;
                walk.scan(segment, scans)?;
            }
            // What the picture's header was checked for is the first.
            0xC0..=0xC2 if walk.frame.is_some() => return Err(super::undecodable("more than one frame")),
            0xC0..=0xC2 => walk.frame = Frame::new(marker, segment),
            _ => walk.tables.read(marker, segment).unwrap_or_default(),
        }
    }
    Err(truncated("no end-of-image marker"))
}

/// What a file is coded with that no decoder here can read.
pub(super) fn unsupported(bytes: &[u8]) -> Option<&'static str> {
    std::iter::from_fn({
        let mut markers = Markers::new(bytes);
        move || markers.next()
    })
    .take_while(|(marker, _)| !matches!(*marker, 0xDA | END))
    .find_map(|(marker, _)| match marker {
        0xC3 | 0xC7 | 0xCB | 0xCF => Some("lossless coding is not supported"),
        0xC9 | 0xCA | 0xCD | 0xCE => Some("arithmetic coding is not supported"),
        0xC5 | 0xC6 => Some("hierarchical coding is not supported"),
        _ => None,
    })
}

/// Blocks of a progressive picture, whose coefficients the decoder holds all at once; 0 for another.
pub(super) fn progressive_blocks(bytes: &[u8]) -> u64 {
    let mut markers = Markers::new(bytes);
    while let Some((marker, segment)) = markers.next() {
        match marker {
            0xC2 => return Frame::new(marker, segment).map_or(0, |frame| frame.padded_blocks()),
            0xC0 | 0xC1 | 0xDA | END => return 0,
            _ => {}
        }
    }
    0
}

fn truncated(detail: impl Into<String>) -> Reject {
    Reject::new(RejectReason::ImageTruncated, detail)
}

/// The markers of a file and what their segments hold.
struct Markers<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Markers<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 2 }
    }

    /// The next marker that has a segment, or the end-of-image marker.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        loop {
            let rest = self.bytes.get(self.at..)?;
            self.at += memchr::memchr(0xFF, rest)? + 1;
            match *self.bytes.get(self.at)? {
                // A fill byte: the marker follows.
                0xFF => {}
                // Stuffing in the data, markers without a segment.
                0x00 | 0x01 | 0xD0..=0xD8 => self.at += 1,
                END => return Some((END, &[])),
                marker => {
                    let length = self.bytes.get(self.at + 1..self.at + 3)?;
                    let start = self.at + 3;
                    self.at += 1 + usize::from(u16::from_be_bytes([length[0], length[1]]));
                    return Some((marker, self.bytes.get(start..self.at).unwrap_or_default()));
                }
            }
        }
    }

    /// Reads the data up to the next marker, without its stuffing.
    fn data(&mut self, clean: &mut Vec<u8>) {
        clean.clear();
        while let Some(rest) = self.bytes.get(self.at..) {
            let Some(found) = memchr::memchr(0xFF, rest) else {
                clean.extend_from_slice(rest);
                self.at = self.bytes.len();
                return;
            };
            clean.extend_from_slice(&rest[..found]);
            let fill = rest[found..].iter().take_while(|&&byte| byte == 0xFF).count();
            if rest.get(found + fill) != Some(&0) {
                self.at += found;
                return;
            }
            clean.push(0xFF);
            self.at += found + fill + 1;
        }
    }

    /// Passes over a restart marker, if one is next.
    fn restart(&mut self) -> bool {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let fill = rest.iter().take_while(|&&byte| byte == 0xFF).count();
        let found = fill > 0 && rest.get(fill).is_some_and(|byte| (0xD0..=0xD7).contains(byte));
        if found {
            self.at += fill + 1;
        }
        found
    }
}

/// How many codes of each length a table has, and its symbols.
type Written = ([u8; 16], Vec<u8>);

/// The tables that scans name, as their segments give them.
#[derive(Default)]
struct Tables {
    /// Of first coefficients, then of the others.
    codes: [[Option<Written>; 4]; 2],
    /// Units between restart markers, 0 for none.
    restart: usize,
}

impl Tables {
    /// `None` where a segment is no proper one.
    fn read(&mut self, marker: u8, segment: &[u8]) -> Option<()> {
        match marker {
            0xC4 => self.read_codes(segment),
            0xDD => {
                let &[high, low] = segment.get(..2)? else { return None };
                self.restart = usize::from(u16::from_be_bytes([high, low]));
                Some(())
            }
            _ => Some(()),
        }
    }

    fn read_codes(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&place, rest)) = segment.split_first() {
            let counts: [u8; 16] = rest.get(..16)?.try_into().ok()?;
            let total = counts.iter().map(|&count| usize::from(count)).sum::<usize>();
            let symbols = rest.get(16..16 + total)?.to_vec();
            *self.codes.get_mut(usize::from(place >> 4))?.get_mut(usize::from(place & 15))? =
                Some((counts, symbols));
            segment = &rest[16 + total..];
        }
        Some(())
    }

    /// The tables of each component; components often share theirs.
    fn pairs(&self, indexes: impl Iterator<Item = u8>) -> Option<Vec<Rc<(Codes, Leaps)>>> {
        let mut known: Vec<(u8, Rc<(Codes, Leaps)>)> = Vec::new();
        for index in indexes {
            let same = known.iter().find(|(other, _)| *other == index).map(|(_, pair)| pair.clone());
            let made = || Some(Rc::new((self.table(0, index >> 4)?, Leaps::new(self.table(1, index & 15)?))));
            known.push((index, same.or_else(made)?));
        }
        Some(known.into_iter().map(|(_, pair)| pair).collect())
    }

    fn table(&self, class: usize, index: u8) -> Option<Codes> {
        let (counts, symbols) = self.codes[class].get(usize::from(index))?.as_ref()?;
        Codes::new(counts, symbols)
    }
}

struct Component {
    id: u8,
    /// Blocks of a unit of all components, across and down.
    sampling: (usize, usize),
    /// Blocks of the component alone, across times down.
    blocks: usize,
    /// Whether its first coefficients are there.
    seen: bool,
    /// Of a progressive picture the coefficients of each block that are not zero so far, a bit each.
    nonzero: Vec<u64>,
}

struct Frame {
    progressive: bool,
    /// Units of all components.
    units: usize,
    components: Vec<Component>,
}

impl Frame {
    fn new(marker: u8, segment: &[u8]) -> Option<Self> {
        let (head, rest) = segment.split_at_checked(6)?;
        let side = |at: usize| usize::from(u16::from_be_bytes([head[at], head[at + 1]]));
        let (height, width) = (side(1), side(3));
        let parts: Vec<&[u8]> = rest.chunks_exact(3).take(usize::from(head[5])).collect();
        let most = |of: fn(&[u8]) -> u8| parts.iter().map(|part| usize::from(of(part))).max();
        let (across, down) = (most(|part| part[1] >> 4)?, most(|part| part[1] & 15)?);
        if across == 0 || down == 0 {
            return None;
        }
        let component = |part: &&[u8]| {
            let sampling = (usize::from(part[1] >> 4), usize::from(part[1] & 15));
            let blocks = (width * sampling.0).div_ceil(8 * across) * (height * sampling.1).div_ceil(8 * down);
            Component { id: part[0], sampling, blocks, seen: false, nonzero: Vec::new() }
        };
        let components = parts.iter().map(component).collect();
        let units = width.div_ceil(8 * across) * height.div_ceil(8 * down);
        Some(Self { progressive: marker == 0xC2, units, components })
    }

    fn padded_blocks(&self) -> u64 {
        let of_unit = self.components.iter().map(|component| component.sampling.0 * component.sampling.1);
        (self.units * of_unit.sum::<usize>()) as u64
    }
}

/// What one scan brings.
struct Scan {
    /// Indexes of its components.
    components: Vec<usize>,
    /// The first and the last of its coefficients.
    first: u32,
    last: u32,
    /// Whether it gives a further bit of coefficients that were there before.
    refines: bool,
    reader: Reader,
}

/// The codes of a scan.
enum Reader {
    /// All coefficients, the tables of each component.
    Sequential(Vec<Rc<(Codes, Leaps)>>),
    /// First coefficients.
    Direct(Vec<Codes>),
    /// One bit of each first coefficient.
    DirectBits,
    /// Further coefficients of one component.
    Further(Box<Codes>),
}

impl Scan {
    /// `None` where the decoder will refuse it.
    fn new(segment: &[u8], frame: &Frame, tables: &Tables) -> Option<Self> {
        let (&count, rest) = segment.split_first()?;
        let (parts, rest) = rest.split_at_checked(2 * usize::from(count))?;
        let &[first, last, bits] = rest.get(..3)? else { return None };
        let parts = || parts.chunks_exact(2);
        let index = |id: u8| frame.components.iter().position(|component| component.id == id);
        let components = parts().map(|part| index(part[0])).collect::<Option<Vec<_>>>()?;
        let refines = bits >> 4 != 0;
        let direct = parts().map(|part| tables.table(0, part[1] >> 4));
        let mut further = parts().map(|part| tables.table(1, part[1] & 15));
        let reader = match (frame.progressive, first) {
            (false, _) => Reader::Sequential(tables.pairs(parts().map(|part| part[1]))?),
            (true, 0) if refines => Reader::DirectBits,
            (true, 0) => Reader::Direct(direct.collect::<Option<_>>()?),
            (true, _) => Reader::Further(Box::new(further.next()??)),
        };
        let fits = !components.is_empty() && first <= last && last < 64;
        let alone = components.len() == 1 || !matches!(reader, Reader::Further(_));
        (fits && alone).then_some(Self {
            components,
            first: first.into(),
            last: last.into(),
            refines,
            reader,
        })
    }
}

struct Walk<'a> {
    markers: Markers<'a>,
    tables: Tables,
    frame: Option<Frame>,
    /// The data that is read, without stuffing.
    clean: Vec<u8>,
}

impl Walk<'_> {
    fn finish(self) -> Result<(), Reject> {
        let components = self.frame.iter().flat_map(|frame| &frame.components);
        match components.into_iter().find(|component| !component.seen) {
            Some(component) => Err(truncated(format!("there is no data for component {}", component.id))),
            None => Ok(()),
        }
    }

    /// Reads the data of a scan, piece by piece.
    fn scan(&mut self, segment: &[u8], number: usize) -> Result<(), Reject> {
        let Some(frame) = &mut self.frame else { return Ok(()) };
        let Some(scan) = Scan::new(segment, frame, &self.tables) else {
            // Not to be counted: its data is passed over in search of the next marker.
            frame.components.iter_mut().for_each(|component| component.seen = true);
            return Ok(());
        };
        let units = match scan.components.as_slice() {
            [alone] => frame.components[*alone].blocks,
            _ => frame.units,
        };
        let mut done = 0;
        while done < units {
            let piece = if self.tables.restart == 0 { units } else { self.tables.restart.min(units - done) };
            self.markers.data(&mut self.clean);
            let mut bits = Bits::new(&mut self.clean);
            let read = frame.read(&scan, &mut bits, done..done + piece).and_then(|()| bits.within());
            done += piece;
            let restarts = done == units || self.markers.restart();
            match read {
                Ok(()) if restarts => {}
                Err(Fault::BadCode) => {
                    let detail = format!("the data of scan {number} is damaged: no code begins so");
                    return Err(super::undecodable(detail));
                }
                _ => {
                    let detail = format!("the data of scan {number} ends before its {units} units are there");
                    return Err(truncated(detail));
                }
            }
        }
        if scan.first == 0 {
            scan.components.iter().for_each(|&component| frame.components[component].seen = true);
        }
        Ok(())
    }
}

impl Frame {
    /// Reads the codes of these units of a scan.
    fn read(&mut self, scan: &Scan, bits: &mut Bits<'_>, units: std::ops::Range<usize>) -> Result<(), Fault> {
        let alone = scan.components.len() == 1;
        let count = |&component: &usize| {
            let (across, down) = self.components[component].sampling;
            if alone { 1 } else { across * down }
        };
        let counts: Vec<usize> = scan.components.iter().map(count).collect();
        match &scan.reader {
            Reader::Sequential(tables) => each_unit(bits, units, &counts, |bits, part| {
                let (direct, leaps) = &*tables[part];
                direct.value(bits)?;
                leaps.block(bits)
            }),
            Reader::Direct(tables) => each_unit(bits, units, &counts, |bits, part| tables[part].value(bits)),
            Reader::DirectBits => each_unit(bits, units, &counts, |bits, _| bits.skip(1)),
            Reader::Further(codes) => {
                let component = &mut self.components[scan.components[0]];
                component.nonzero.resize(component.blocks, 0);
                let mut further = Further { codes, bits, scan, ended_blocks: 0 };
                component.nonzero[units].iter_mut().try_for_each(|nonzero| further.block(nonzero))
            }
        }
    }
}

/// Reads the blocks of units: of each component as many as `counts` says.
fn each_unit(
    bits: &mut Bits<'_>,
    units: std::ops::Range<usize>,
    counts: &[usize],
    block: impl Fn(&mut Bits<'_>, usize) -> Result<(), Fault>,
) -> Result<(), Fault> {
    for _ in units {
        for (part, &count) in counts.iter().enumerate() {
            for _ in 0..count {
                block(bits, part)?;
            }
        }
        bits.within()?;
    }
    Ok(())
}

/// Further coefficients of a progressive picture (ITU-T T.81, G.1.2.2 and G.1.2.3).
struct Further<'a, 'b> {
    codes: &'a Codes,
    bits: &'a mut Bits<'b>,
    scan: &'a Scan,
    /// Blocks from here on that have no code of their own.
    ended_blocks: u32,
}

impl Further<'_, '_> {
    fn block(&mut self, nonzero: &mut u64) -> Result<(), Fault> {
        let mut place = self.scan.first;
        while self.ended_blocks == 0 && place <= self.scan.last {
            let symbol = self.codes.symbol(self.bits)?;
            match (u32::from(symbol >> 4), symbol & 15) {
                (power, 0) if power < 15 => self.ended_blocks = (1 << power) + self.bits.number(power)?,
                (zeros, value) => place = self.coefficient(place, zeros, value, nonzero)?,
            }
        }
        if self.ended_blocks > 0 {
            self.ended_blocks -= 1;
            if self.scan.refines {
                self.bits.skip((*nonzero & band(place, self.scan.last)).count_ones())?;
            }
        }
        self.bits.within()
    }

    /// One coefficient behind `zeros` that are zero; gives the place behind it.
    fn coefficient(&mut self, place: u32, zeros: u32, value: u8, nonzero: &mut u64) -> Result<u32, Fault> {
        let at = if self.scan.refines {
            self.bits.skip(u32::from(value != 0))?;
            let (at, passed) = self.behind_zeros(place, zeros, *nonzero);
            self.bits.skip(passed)?;
            at
        } else {
            self.bits.skip(value.into())?;
            place + zeros
        };
        if value != 0 && at < 64 {
            *nonzero |= 1 << at;
        }
        Ok(at + 1)
    }

    /// The place of the next zero behind `zeros` others, and how many coefficients before it have a further bit.
    fn behind_zeros(&self, place: u32, mut zeros: u32, nonzero: u64) -> (u32, u32) {
        let (mut at, mut passed) = (place, 0);
        while at <= self.scan.last {
            let empty = (nonzero >> at).trailing_zeros();
            if zeros < empty {
                return (at + zeros, passed);
            }
            zeros -= empty;
            at += empty;
            let full = (nonzero & band(at, self.scan.last)).checked_shr(at).unwrap_or(0).trailing_ones();
            passed += full;
            at += full;
        }
        (at, passed)
    }
}

/// The bits from `first` to `last`.
fn band(first: u32, last: u32) -> u64 {
    if first > last { 0 } else { (u64::MAX >> (63 - last)) & (u64::MAX << first) }
}
