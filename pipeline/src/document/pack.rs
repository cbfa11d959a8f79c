//! Documents into rows of a fixed length.
//!
//! A [`Packer`] is a pure function of the order of its documents: no thread, no clock, no randomness. Two ways exist.
//!
//! **Best fit** (Ding et al., arXiv 2404.10830, with a bounded window): a document goes to the open row with the least
//! space that still fits, ties to the row that was opened first. When none fits, a row is opened; when `window` rows
//! are open already, the fullest of them (ties again to the older) is closed before that. A row that becomes full is
//! closed at once. A document no longer than a row is never cut. A longer text is cut into whole rows and its rest is
//! placed like a document; a longer interleaved document is cut between parts, each piece as long as fits.
//!
//! **Sequence**: rows are filled one after the other. Text is cut anywhere; a row ends before an image, BOI to EOI,
//! that does not fit.
//!
//! Rows leave in the order in which they are closed; [`Packer::finish`] closes the open rows in the order in which they
//! were opened. Memory is `window` rows, never more, however long a text is: [`Packer::text`] takes it in parts of any
//! length and gives the same rows for all of them. A document costs O(log window).

use std::collections::BTreeMap;
use std::ops::Range;

use schemas::{Latent, Modality, Provenance, Row, RowLayout, Span};
use serde::{Deserialize, Serialize};

use crate::config::Shape;
use crate::document::{Document, Segment};

/// Rows that are open at the same time unless the configuration says otherwise.
pub const WINDOW: usize = 256;

/// How rows are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Packing {
    /// Best fit with at most `window` (1 or more) open rows.
    BestFit {
        /// Open rows.
        window: usize,
    },
    /// One row after the other, text cut anywhere.
    Sequence,
}

impl Default for Packing {
    fn default() -> Self {
        Self::BestFit { window: WINDOW }
    }
}

impl Packing {
    /// The length of a part that can't be cut and is longer than a row, if there is one.
    pub(crate) fn too_long(self, document: &Document, context: usize) -> Option<usize> {
        let longest = match (self, document.shape) {
            (Self::BestFit { .. }, Shape::Text) => 0,
            (Self::BestFit { .. }, Shape::Pair) => document.len(),
            (Self::BestFit { .. }, Shape::Interleaved) if document.len() <= context => 0,
            (Self::BestFit { .. }, Shape::Interleaved) => part_lengths(document).max().unwrap_or(0),
            (Self::Sequence, _) => images(&document.segments).map(|image| image.len()).max().unwrap_or(0),
        };
        (longest > context).then_some(longest)
    }
}

fn part_lengths(document: &Document) -> impl Iterator<Item = usize> + '_ {
    let starts = std::iter::once(0).chain(document.part_ends.iter().copied());
    document.part_ends.iter().zip(starts).map(|(end, start)| end - start)
}

/// The images among the segments of a document, BOI and EOI included.
fn images(segments: &[Segment]) -> impl Iterator<Item = Range<usize>> + '_ {
    let images = segments.iter().filter(|segment| segment.modality == Modality::Image);
    images.map(|image| image.start - 1..image.range().end + 1)
}

/// Fills rows.
#[derive(Debug)]
pub struct Packer {
    layout: RowLayout,
    packing: Packing,
    /// Open rows by (free positions, number of the row in order of opening).
    open: BTreeMap<(usize, u64), OpenRow>,
    opened: u64,
    bytes: usize,
    text: OpenText,
}

/// The text whose parts are coming.
#[derive(Debug, Default)]
struct OpenText {
    /// Ids that are in no row yet.
    pending: Vec<u32>,
    /// Offset of the first of them in the text.
    first: usize,
}

impl Packer {
    /// A packer without documents.
    pub fn new(layout: RowLayout, packing: Packing) -> Self {
        let (open, text) = (BTreeMap::new(), OpenText::default());
        Self { layout, packing, open, opened: 0, bytes: 0, text }
    }

    /// Places a document, made by a composer of the same layout and packing, and gives each row that is closed by it
    /// to `emit`.
    ///
    /// # Errors
    ///
    /// Whatever `emit` returns; the packer is of no use after that.
    ///
    /// # Panics
    ///
    /// If the document was made for another layout or packing, or a text has not ended.
    pub fn push<E>(
        &mut self,
        document: Document,
        mut emit: impl FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let Document { tokens, segments, images, part_ends, shape, provenance } = document;
        if shape == Shape::Text {
            return self.text(&tokens, &provenance, true, emit);
        }
        assert!(self.text.first == 0 && self.text.pending.is_empty(), "a text has not ended");
        let (mut images, context) = (images.into_iter(), self.layout.context as usize);
        let piece = |range: &Range<usize>| Piece {
            tokens: &tokens[range.clone()],
            first: range.start,
            segments: &segments,
            provenance: &provenance,
        };
        match self.packing {
            Packing::BestFit { window } => {
                for range in pieces(&part_ends, context) {
                    self.place(&piece(&range), &mut images, window, &mut emit)?;
                }
            }
            Packing::Sequence => {
                let mut start = 0;
                while start < tokens.len() {
                    let end = cut(&segments, start, (start + self.room()).min(tokens.len()));
                    if end == start {
                        let (_, row) = self.next_row();
                        self.emit(row, &mut emit)?;
                        continue;
                    }
                    self.fill(&piece(&(start..end)), &mut images, &mut emit)?;
                    start = end;
                }
            }
        }
        Ok(())
    }

    /// Takes the next part of a text, BOS and EOS included, and gives each row that is closed by it to `emit`.
    /// `provenance` is that of the whole text; no other document may come before it `ends`.
    ///
    /// # Errors
    ///
    /// Whatever `emit` returns; the packer is of no use after that.
    pub fn text<E>(
        &mut self,
        mut tokens: &[u32],
        provenance: &Provenance,
        ends: bool,
        mut emit: impl FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let OpenText { mut pending, mut first } = std::mem::take(&mut self.text);
        // Whether what fills a row is its last piece is known only when there is more.
        while pending.len() + tokens.len() > self.room() {
            let (head, tail) = tokens.split_at(self.room() - pending.len());
            self.text_piece(&mut pending, head, &mut first, provenance, &mut emit)?;
            tokens = tail;
        }
        if ends {
            self.text_piece(&mut pending, tokens, &mut first, provenance, &mut emit)?;
            first = 0;
        } else {
            pending.extend_from_slice(tokens);
        }
        self.text = OpenText { pending, first };
        Ok(())
    }

    /// Closes the open rows in the order in which they were opened.
    ///
    /// # Errors
    ///
    /// Whatever `emit` returns.
    pub fn finish<E>(&mut self, mut emit: impl FnMut(Row) -> Result<(), E>) -> Result<(), E> {
        let open = std::mem::take(&mut self.open);
        let mut rows: Vec<_> = open.into_iter().map(|((_, number), row)| (number, row)).collect();
        rows.sort_unstable_by_key(|(number, _)| *number);
        rows.into_iter().try_for_each(|(_, row)| self.emit(row, &mut emit))
    }

    /// Bytes that the open rows hold, for memory budgets.
    pub fn bytes(&self) -> usize {
        self.bytes + 4 * self.text.pending.len()
    }

    /// Rows that are open.
    pub fn open_rows(&self) -> usize {
        self.open.len()
    }

    /// Positions of the longest piece of text that may be placed next.
    fn room(&self) -> usize {
        let context = self.layout.context as usize;
        match self.packing {
            Packing::BestFit { .. } => context,
            Packing::Sequence => self.open.first_key_value().map_or(context, |((free, _), _)| *free),
        }
    }

    /// Places what is pending of a text and the ids behind it.
    fn text_piece<E>(
        &mut self,
        pending: &mut Vec<u32>,
        tokens: &[u32],
        first: &mut usize,
        provenance: &Provenance,
        emit: &mut impl FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let tokens = if pending.is_empty() {
            tokens
        } else {
            pending.extend_from_slice(tokens);
            pending.as_slice()
        };
        let segments = [Segment { start: *first, len: tokens.len(), modality: Modality::Text }];
        let piece = Piece { tokens, first: *first, segments: &segments, provenance };
        *first += tokens.len();
        match self.packing {
            Packing::BestFit { window } => self.place(&piece, &mut std::iter::empty(), window, emit)?,
            Packing::Sequence => self.fill(&piece, &mut std::iter::empty(), emit)?,
        }
        pending.clear();
        Ok(())
    }

    /// Best fit of one piece.
    fn place<E>(
        &mut self,
        piece: &Piece<'_>,
        images: &mut impl Iterator<Item = Latent>,
        window: usize,
        emit: &mut impl FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let len = piece.tokens.len();
        let fitting = self.open.range((len, 0)..).next().map(|(key, _)| *key);
        if fitting.is_none()
            && len < self.layout.context as usize
            && self.open.len() >= window.max(1)
            && let Some((_, fullest)) = self.open.pop_first()
        {
            self.emit(fullest, emit)?;
        }
        let (number, row) = match fitting.and_then(|key| self.open.remove_entry(&key)) {
            Some(((_, number), row)) => (number, row),
            None => self.new_row(),
        };
        self.put(number, row, piece, images, emit)
    }

    /// Sequence: a piece for which the open row has room.
    fn fill<E>(
        &mut self,
        piece: &Piece<'_>,
        images: &mut impl Iterator<Item = Latent>,
        emit: &mut impl FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let (number, row) = self.next_row();
        self.put(number, row, piece, images, emit)
    }

    /// The open row of sequence packing, or a new one.
    fn next_row(&mut self) -> (u64, OpenRow) {
        match self.open.pop_first() {
            Some(((_, number), row)) => (number, row),
            None => self.new_row(),
        }
    }

    fn new_row(&mut self) -> (u64, OpenRow) {
        self.opened += 1;
        (self.opened, OpenRow::default())
    }

    fn put<E>(
        &mut self,
        number: u64,
        mut row: OpenRow,
        piece: &Piece<'_>,
        images: &mut impl Iterator<Item = Latent>,
        emit: &mut impl FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let before = row.bytes;
        row.append(piece, images);
        self.bytes += row.bytes - before;
        match (self.layout.context as usize).checked_sub(row.tokens.len()) {
            Some(0) => self.emit(row, emit),
            Some(free) => {
                self.open.insert((free, number), row);
                Ok(())
            }
            None => panic!("a piece was placed where it does not fit"),
        }
    }

    fn emit<E>(&mut self, row: OpenRow, emit: &mut impl FnMut(Row) -> Result<(), E>) -> Result<(), E> {
        self.bytes -= row.bytes;
        emit(row.close(&self.layout))
    }
}

/// Positions of one document that stand in one row.
struct Piece<'a> {
    tokens: &'a [u32],
    /// Offset of the first of them in the document.
    first: usize,
    /// All segments of the document.
    segments: &'a [Segment],
    provenance: &'a Provenance,
}

/// Where a document that is no text and longer than a row is cut: between its parts.
fn pieces(part_ends: &[usize], context: usize) -> Vec<Range<usize>> {
    let mut pieces: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    for &end in part_ends {
        match pieces.last_mut() {
            Some(piece) if end - piece.start <= context => piece.end = end,
            _ => pieces.push(start..end),
        }
        start = end;
    }
    pieces
}

/// The last place up to `end` where sequence packing may cut: not inside an image.
fn cut(segments: &[Segment], start: usize, end: usize) -> usize {
    let inside = images(segments).find(|image| image.start < end && end < image.end);
    inside.map_or(end, |image| image.start.max(start))
}

#[derive(Debug, Default)]
struct OpenRow {
    tokens: Vec<u32>,
    spans: Vec<Span>,
    images: Vec<Latent>,
    sources: Vec<Provenance>,
    bytes: usize,
}

impl OpenRow {
    fn append(&mut self, piece: &Piece<'_>, images: &mut impl Iterator<Item = Latent>) {
        let images_before = self.images.len();
        let range = piece.first..piece.first + piece.tokens.len();
        let first = piece.segments.partition_point(|segment| segment.range().end <= range.start);
        for segment in piece.segments[first..].iter().take_while(|segment| segment.start < range.end) {
            self.span(segment, &range);
            if segment.modality == Modality::Image {
                self.images.extend(images.next());
            }
        }
        self.tokens.extend_from_slice(piece.tokens);
        self.sources.push(Provenance { first_token: piece.first as u64, ..piece.provenance.clone() });
        let latents: usize = self.images[images_before..].iter().map(|image| 2 * image.values.len()).sum();
        self.bytes += 4 * piece.tokens.len() + latents + 128;
    }

    fn span(&mut self, segment: &Segment, piece: &Range<usize>) {
        let (start, end) = (segment.start.max(piece.start), segment.range().end.min(piece.end));
        self.spans.push(Span {
            document: self.sources.len() as u32,
            start: (self.tokens.len() + start - piece.start) as u32,
            len: (end - start) as u32,
            modality: segment.modality,
            image: (segment.modality == Modality::Image).then_some(self.images.len() as u32),
            loss: true,
        });
    }

    fn close(mut self, layout: &RowLayout) -> Row {
        let (start, context) = (self.tokens.len() as u32, layout.context);
        if start < context {
            self.spans.push(Span {
                document: self.sources.len() as u32,
                start,
                len: context - start,
                modality: Modality::Padding,
                image: None,
                loss: false,
            });
            self.tokens.resize(context as usize, layout.vocabulary.padding());
        }
        let row = Row::try_new(self.tokens, self.spans, self.images, self.sources, layout);
        row.expect("documents of this layout give valid rows")
    }
}

#[cfg(test)]
mod tests;
