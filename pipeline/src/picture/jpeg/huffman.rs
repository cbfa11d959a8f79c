//! Huffman codes of a JPEG, read for their lengths alone: what a coefficient's value is doesn't matter here.

/// Why no further code can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The data ends.
    Ended,
    /// No code begins so.
    BadCode,
}

/// Zero bytes behind the data, so that a whole word can be loaded wherever it ends.
const PADDING: usize = 8;
/// Bits that a lookup takes. Longer codes are rare by their nature.
const LOOK: u32 = 10;

/// The bits of a piece of data without stuffing.
pub(super) struct Bits<'a> {
    padded: &'a [u8],
    end: usize,
    /// The first unread bit.
    next: usize,
    /// The bits from there on, in its upper `valid` bits.
    word: u64,
    valid: u32,
}

impl<'a> Bits<'a> {
    /// Pads the data, so that it can be read.
    pub(super) fn new(data: &'a mut Vec<u8>) -> Self {
        let end = 8 * data.len();
        data.resize(data.len() + PADDING, 0);
        Self { padded: data, end, next: 0, word: 0, valid: 0 }
    }

    /// Makes at least 32 bits valid, those of the padding too.
    #[inline]
    fn fill(&mut self) -> Result<(), Fault> {
        if self.valid < 32 { self.load() } else { Ok(()) }
    }

    /// Makes at least 57 bits valid.
    #[inline]
    fn load(&mut self) -> Result<(), Fault> {
        let at = self.next / 8;
        let bytes = self.padded.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        let within = self.next % 8;
        self.word = u64::from_be_bytes(bytes.ok_or(Fault::Ended)?) << within;
        self.valid = 64 - within as u32;
        Ok(())
    }

    /// The next bits, at most 32 of them, which `fill` made valid.
    #[inline]
    fn peek(&self, count: u32) -> usize {
        (self.word >> (64 - count)) as usize
    }

    #[inline]
    fn pass(&mut self, count: u32) {
        self.word <<= count;
        self.valid -= count;
        self.next += count as usize;
    }

    /// Passes over any number of bits.
    pub(super) fn skip(&mut self, mut count: u32) -> Result<(), Fault> {
        while count > 0 {
            self.fill()?;
            let now = count.min(32);
            self.pass(now);
            count -= now;
        }
        Ok(())
    }

    /// A number of at most 16 bits.
    pub(super) fn number(&mut self, count: u32) -> Result<u32, Fault> {
        if count == 0 {
            return Ok(0);
        }
        self.fill()?;
        let number = self.peek(count) as u32;
        self.pass(count);
        Ok(number)
    }

    /// Whether all that was read is data and not padding.
    pub(super) fn within(&self) -> Result<(), Fault> {
        if self.next <= self.end { Ok(()) } else { Err(Fault::Ended) }
    }

    /// No code begins with these bits; behind the end that means nothing.
    fn no_code(&self) -> Fault {
        if self.next + 16 > self.end { Fault::Ended } else { Fault::BadCode }
    }
}

/// A table of codes.
pub(super) struct Codes {
    symbols: Vec<u8>,
    /// Length and symbol of the code that begins with so many bits; length 0 where it is longer.
    look: Box<[(u8, u8); 1 << LOOK]>,
    /// For each length the code behind its last one, and what its codes are away from their symbols' indexes.
    lengths: [(u32, i64); 17],
}

impl Codes {
    /// The table of a segment: how many codes there are of each length from 1 to 16, and the symbols. `None` if no such
    /// codes are possible.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut codes =
            Self { symbols: symbols.to_vec(), look: Box::new([(0, 0); 1 << LOOK]), lengths: [(0, 0); 17] };
        let (mut code, mut index) = (0u32, 0usize);
        for (length, &count) in (1u32..).zip(counts) {
            let (first, count) = (code, u32::from(count));
            codes.lengths[length as usize] = (first + count, index as i64 - i64::from(first));
            if first + count > 1 << length {
                return None;
            }
            for &symbol in symbols.get(index..index + count as usize)? {
                if length <= LOOK {
                    let start = (code << (LOOK - length)) as usize;
                    codes.look[start..start + (1 << (LOOK - length))].fill((length as u8, symbol));
                }
                code += 1;
            }
            index += count as usize;
            code <<= 1;
        }
        Some(codes)
    }

    /// Passes over a first coefficient: its code says how many bits follow.
    #[inline]
    pub(super) fn value(&self, bits: &mut Bits<'_>) -> Result<(), Fault> {
        bits.load()?;
        let count = self.symbol(bits)?;
        bits.pass(count.min(16).into());
        Ok(())
    }

    /// The next symbol.
    #[inline]
    pub(super) fn symbol(&self, bits: &mut Bits<'_>) -> Result<u8, Fault> {
        bits.fill()?;
        match self.look[bits.peek(LOOK)] {
            (0, _) => self.long_symbol(bits),
            (length, symbol) => {
                bits.pass(u32::from(length));
                Ok(symbol)
            }
        }
    }

    #[cold]
    fn long_symbol(&self, bits: &mut Bits<'_>) -> Result<u8, Fault> {
        for length in LOOK + 1..=16 {
            let (code, (behind, away)) = (bits.peek(length) as u32, self.lengths[length as usize]);
            if code < behind {
                bits.pass(length);
                let symbol = usize::try_from(i64::from(code) + away).ok();
                return symbol.and_then(|index| self.symbols.get(index)).copied().ok_or(Fault::BadCode);
            }
        }
        Err(bits.no_code())
    }
}

/// As many whole coefficients as begin with the bits of a lookup.
#[derive(Clone, Copy, Default)]
#[repr(align(8))]
struct Leap {
    /// Bits of all of them; 0 where the first code is longer than the lookup.
    bits: u8,
    /// Coefficients that all of them pass, 64 and more where they end the block.
    passed: u8,
    /// Those that all but the last one pass.
    before: u8,
    /// The same of the first one alone.
    first_bits: u8,
    first_passed: u8,
}

/// The codes of the coefficients of a sequential JPEG, several at a time.
pub(super) struct Leaps {
    codes: Codes,
    leaps: Box<[Leap; 1 << LOOK]>,
}

/// What ends a block passes all of it.
const BLOCK: u8 = 64;

/// The bits of the value behind a symbol's code, and the coefficients that it passes.
fn meaning(symbol: u8) -> (u8, u8) {
    match (symbol >> 4, symbol & 15) {
        (15, 0) => (0, 16),
        (_, 0) => (0, BLOCK),
        (zeros, bits) => (bits, zeros + 1),
    }
}

impl Leaps {
    pub(super) fn new(codes: Codes) -> Self {
        let leaps = Box::new(std::array::from_fn(|bits| leap(&codes, bits)));
        Self { codes, leaps }
    }

    /// Passes over the coefficients of a block behind its first.
    #[inline]
    pub(super) fn block(&self, bits: &mut Bits<'_>) -> Result<(), Fault> {
        let mut place = 1;
        loop {
            bits.load()?;
            // Two leaps of 25 bits at most are valid; a value of 15 bits stands behind a lookup of 10.
            for _ in 0..2 {
                let leap = self.leaps[bits.peek(LOOK)];
                let (count, passed) = if leap.bits == 0 {
                    bits.load()?;
                    meaning(self.codes.long_symbol(bits)?)
                } else if place + u32::from(leap.before) < u32::from(BLOCK) {
                    (leap.bits, leap.passed)
                } else {
                    (leap.first_bits, leap.first_passed)
                };
                bits.pass(count.into());
                place += u32::from(passed);
                if place >= u32::from(BLOCK) {
                    return Ok(());
                }
            }
        }
    }
}

fn leap(codes: &Codes, bits: usize) -> Leap {
    let mut leap = Leap::default();
    while leap.passed < BLOCK {
        let rest = (bits << leap.bits) & ((1 << LOOK) - 1);
        let (length, symbol) = codes.look[rest];
        if length == 0 || u32::from(leap.bits + length) > LOOK {
            break;
        }
        let (value, passed) = meaning(symbol);
        leap.before = leap.passed;
        leap.bits += length + value;
        leap.passed += passed;
        if leap.first_bits == 0 {
            (leap.first_bits, leap.first_passed) = (leap.bits, leap.passed);
        }
        if u32::from(leap.bits) >= LOOK {
            break;
        }
    }
    leap
}
