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
//! were opened. Memory is `window` rows, never more; a document costs O(log window).

use std::collections::BTreeMap;
use std::ops::Range;

use schemas::{Latent, Modality, Provenance, Row, RowLayout, Span};
use serde::{Deserialize, Serialize};

use crate::document::{Document, Segment, Shape};

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
            (Self::Sequence, _) => images(document).map(|image| image.len()).max().unwrap_or(0),
        };
        (longest > context).then_some(longest)
    }
}

fn part_lengths(document: &Document) -> impl Iterator<Item = usize> + '_ {
    let starts = std::iter::once(0).chain(document.part_ends.iter().copied());
    document.part_ends.iter().zip(starts).map(|(end, start)| end - start)
}

/// The images of a document, BOI and EOI included.
fn images(document: &Document) -> impl Iterator<Item = Range<usize>> + '_ {
    let images = document.segments.iter().filter(|segment| segment.modality == Modality::Image);
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
}

impl Packer {
    /// A packer without documents.
    pub fn new(layout: RowLayout, packing: Packing) -> Self {
        Self { layout, packing, open: BTreeMap::new(), opened: 0, bytes: 0 }
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
    /// If the document was made for another layout or packing.
    pub fn push<E>(
        &mut self,
        document: Document,
        mut emit: impl FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let context = self.layout.context as usize;
        let mut taken = Taken::new(document);
        match self.packing {
            Packing::Sequence => self.fill(&mut taken, &mut emit),
            Packing::BestFit { window } => {
                for piece in pieces(&taken.document, context) {
                    self.place(&mut taken, piece, window, &mut emit)?;
                }
                Ok(())
            }
        }
    }

    /// Closes the open rows in the order in which they were opened.
    ///
    /// # Errors
    ///
    /// Whatever `emit` returns.
    pub fn finish<E>(self, mut emit: impl FnMut(Row) -> Result<(), E>) -> Result<(), E> {
        let mut rows: Vec<_> = self.open.into_iter().map(|((_, number), row)| (number, row)).collect();
        rows.sort_unstable_by_key(|(number, _)| *number);
        rows.into_iter().try_for_each(|(_, row)| emit(row.close(&self.layout)))
    }

    /// Bytes that the open rows hold, for memory budgets.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Rows that are open.
    pub fn open_rows(&self) -> usize {
        self.open.len()
    }

    /// Best fit of one piece.
    fn place<E>(
        &mut self,
        taken: &mut Taken,
        piece: Range<usize>,
        window: usize,
        emit: &mut impl FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let fitting = self.open.range((piece.len(), 0)..).next().map(|(key, _)| *key);
        if fitting.is_none() && piece.len() < self.layout.context as usize && self.open.len() >= window.max(1)
        {
            let fullest = self.open.pop_first().map(|(_, row)| row);
            self.emit(fullest, emit)?;
        }
        let (number, row) = match fitting.and_then(|key| self.open.remove_entry(&key)) {
            Some(((_, number), row)) => (number, row),
            None => self.new_row(),
        };
        self.put(number, row, taken, piece, emit)
    }

    /// Sequence: the rest of the open row, then row by row.
    fn fill<E>(&mut self, taken: &mut Taken, emit: &mut impl FnMut(Row) -> Result<(), E>) -> Result<(), E> {
        let context = self.layout.context as usize;
        let mut start = 0;
        while start < taken.document.len() {
            let (number, row) = match self.open.pop_first() {
                Some(((_, number), row)) => (number, row),
                None => self.new_row(),
            };
            let end = cut(&taken.document, start, start + context - row.tokens.len());
            if end == start {
                self.emit(Some(row), emit)?;
                continue;
            }
            self.put(number, row, taken, start..end, emit)?;
            start = end;
        }
        Ok(())
    }

    fn new_row(&mut self) -> (u64, OpenRow) {
        self.opened += 1;
        (self.opened, OpenRow::default())
    }

    fn put<E>(
        &mut self,
        number: u64,
        mut row: OpenRow,
        taken: &mut Taken,
        piece: Range<usize>,
        emit: &mut impl FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let before = row.bytes;
        row.append(taken, piece);
        self.bytes += row.bytes - before;
        match (self.layout.context as usize).checked_sub(row.tokens.len()) {
            Some(0) => self.emit(Some(row), emit),
            Some(free) => {
                self.open.insert((free, number), row);
                Ok(())
            }
            None => panic!("a piece was placed where it does not fit"),
        }
    }

    fn emit<E>(
        &mut self,
        row: Option<OpenRow>,
        emit: &mut impl FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(row) = row else { return Ok(()) };
        self.bytes -= row.bytes;
        emit(row.close(&self.layout))
    }
}

/// Where a document that is longer than a row is cut.
fn pieces(document: &Document, context: usize) -> Vec<Range<usize>> {
    let len = document.len();
    if len <= context {
        return std::iter::once(0..len).collect();
    }
    if document.shape == Shape::Text {
        return (0..len).step_by(context).map(|start| start..len.min(start + context)).collect();
    }
    let mut pieces: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    for &end in &document.part_ends {
        match pieces.last_mut() {
            Some(piece) if end - piece.start <= context => piece.end = end,
            _ => pieces.push(start..end),
        }
        start = end;
    }
    pieces
}

/// The last place up to `end` where sequence packing may cut: not inside an image.
fn cut(document: &Document, start: usize, end: usize) -> usize {
    let end = end.min(document.len());
    let inside = images(document).find(|image| image.start < end && end < image.end);
    inside.map_or(end, |image| image.start.max(start))
}

/// A document whose images are moved into rows one after the other.
struct Taken {
    document: Document,
    images: std::vec::IntoIter<Latent>,
}

impl Taken {
    fn new(mut document: Document) -> Self {
        let images = std::mem::take(&mut document.images).into_iter();
        Self { document, images }
    }
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
    fn append(&mut self, taken: &mut Taken, piece: Range<usize>) {
        let images_before = self.images.len();
        let first = taken.document.segments.partition_point(|segment| segment.range().end <= piece.start);
        for segment in &taken.document.segments[first..] {
            if segment.start >= piece.end {
                break;
            }
            self.span(segment, &piece);
            if segment.modality == Modality::Image {
                self.images.extend(taken.images.next());
            }
        }
        self.tokens.extend_from_slice(&taken.document.tokens[piece.clone()]);
        let first_token = piece.start as u64;
        self.sources.push(Provenance { first_token, ..taken.document.provenance.clone() });
        let latents: usize = self.images[images_before..].iter().map(|image| 2 * image.values.len()).sum();
        self.bytes += 4 * piece.len() + latents + 128;
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
