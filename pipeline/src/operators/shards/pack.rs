//! The documents of a unit to packed rows of both datasets, and the counts of the unit.
//!
//! Placing documents is sequential within a unit.

use schemas::{Row, RowLayout, SourceStatistics};

use crate::PipelineError;
use crate::config::Shape;
use crate::document::pack::{Packer, Packing};
use crate::operators::documents::batch::Documents;
use crate::row::columns::RowKind;
use crate::storage::commit::{SPLITS, UnitReport};

/// Takes packed rows, each with the dataset that it belongs to.
type Emit<'a> = dyn FnMut(usize, Row) -> Result<(), PipelineError> + 'a;

/// Packs a unit.
pub(crate) struct UnitPacker {
    source: u16,
    shape: Shape,
    layout: RowLayout,
    packers: [Packer; SPLITS],
    /// Positions of the texts whose parts are coming.
    positions: [usize; SPLITS],
    report: UnitReport,
}

impl UnitPacker {
    pub(crate) fn new(source: u16, shape: Shape, layout: RowLayout, packing: Packing) -> Self {
        let packers = [0; SPLITS].map(|_| Packer::new(layout, packing));
        Self { source, shape, layout, packers, positions: [0; SPLITS], report: UnitReport::default() }
    }

    /// Bytes of the open rows.
    pub(crate) fn bytes(&self) -> usize {
        self.packers.iter().map(Packer::bytes).sum()
    }

    /// Counts a row, and places it if it is a document.
    pub(crate) fn add(
        &mut self,
        documents: &Documents<'_>,
        row: usize,
        emit: &mut Emit<'_>,
    ) -> Result<(), PipelineError> {
        let statistics = &mut self.report.statistics[0];
        if documents.counts(row)
            && let Some(warnings) = documents.warnings(row)
        {
            *statistics.warnings.entry(warnings.to_owned()).or_default() += 1;
        }
        match documents.kind(row) {
            RowKind::Row => self.place(documents, row, emit)?,
            RowKind::Reject => {
                statistics.rejected += 1;
                *statistics.rejects.entry(documents.reason(row).name().to_owned()).or_default() += 1;
            }
            RowKind::Duplicate => statistics.deduplicated += 1,
            RowKind::Aside | RowKind::End => {}
        }
        Ok(())
    }

    fn place(
        &mut self,
        documents: &Documents<'_>,
        row: usize,
        emit: &mut Emit<'_>,
    ) -> Result<(), PipelineError> {
        let (split, copies) = (documents.split(row), documents.copies(row));
        for _ in 0..copies {
            self.place_once(documents, row, emit)?;
        }
        self.positions[split] += documents.tokens(row).len();
        if documents.ends(row) {
            let positions = std::mem::take(&mut self.positions[split]) as u64;
            let statistics = &mut self.report.statistics[split];
            statistics.kept += u64::from(documents.counts(row));
            statistics.documents += u64::from(copies);
            statistics.images += documents.images(row) as u64 * u64::from(copies);
            (0..copies).for_each(|_| statistics.document_length.add(positions));
        }
        Ok(())
    }

    /// Places a document, or a part of a text, once.
    fn place_once(
        &mut self,
        documents: &Documents<'_>,
        row: usize,
        emit: &mut Emit<'_>,
    ) -> Result<(), PipelineError> {
        let split = documents.split(row);
        let (packer, statistics) = (&mut self.packers[split], &mut self.report.statistics[split]);
        let emit = |row| emit_row(statistics, split, row, emit);
        if self.shape.has_images() {
            return packer.push(documents.document(row, self.shape, self.source, &self.layout), emit);
        }
        let provenance = documents.provenance(row, self.source);
        packer.text(documents.tokens(row), &provenance, documents.ends(row), emit)
    }

    /// Closes the open rows at the end of the unit, of which `read` rows were read, and gives its counts.
    pub(crate) fn finish(&mut self, read: u64, emit: &mut Emit<'_>) -> Result<UnitReport, PipelineError> {
        for (split, packer) in self.packers.iter_mut().enumerate() {
            let statistics = &mut self.report.statistics[split];
            packer.finish(|row| emit_row(statistics, split, row, emit))?;
        }
        let mut report = std::mem::take(&mut self.report);
        let [main, validation] = &mut report.statistics;
        main.read = read;
        main.filtered = read.saturating_sub(main.kept + main.rejected + main.deduplicated);
        validation.read = validation.kept;
        Ok(report)
    }
}

/// Counts a row and gives it on.
fn emit_row(
    statistics: &mut SourceStatistics,
    split: usize,
    row: Row,
    emit: &mut Emit<'_>,
) -> Result<(), PipelineError> {
    statistics.tokens += u64::from(row.text_positions());
    statistics.patches += u64::from(row.patch_positions());
    statistics.padding += row.tokens().len() as u64 - u64::from(row.used());
    statistics.images_per_row.add(row.images().len() as u64);
    emit(split, row)
}
