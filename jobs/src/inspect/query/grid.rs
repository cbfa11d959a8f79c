//! A table of rows that are not all known: the first batch decides the widths of the columns, and longer values are cut.

use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::terminal::{columns_of, elided, visible};

/// Less than this shows no value.
const LEAST_WIDTH: usize = 8;

/// Letters of a value that are looked at: a picture's latent has many thousands of numbers.
const MOST_LETTERS: usize = 400;

/// A table under way.
pub(super) struct Grid {
    names: Vec<String>,
    /// Columns of the terminal.
    width: usize,
    /// Widths of the columns, once the first rows have been seen.
    widths: Option<Vec<usize>>,
    cut: bool,
}

impl Grid {
    /// An empty table.
    pub(super) fn new(schema: &Schema, width: usize) -> Self {
        let names = schema.fields().iter().map(|field| visible(field.name())).collect();
        Self { names, width, widths: None, cut: false }
    }

    /// The lines of further rows.
    ///
    /// # Errors
    ///
    /// If a value can't be shown.
    pub(super) fn add(&mut self, batch: &RecordBatch) -> anyhow::Result<String> {
        let rows = cells(batch)?;
        let head = if self.widths.is_none() && !rows.is_empty() { self.begin(&rows) } else { String::new() };
        let lines: String = rows.into_iter().map(|row| self.line(row)).collect();
        Ok(head + &lines)
    }

    /// The last line.
    pub(super) fn finish(&mut self) -> String {
        let head = if self.widths.is_none() { self.begin(&[]) } else { String::new() };
        head + &self.border()
    }

    /// Whether a value was cut.
    pub(super) fn has_cut(&self) -> bool {
        self.cut
    }

    fn begin(&mut self, rows: &[Vec<String>]) -> String {
        let natural = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.chain([&self.names[column]]).map(|cell| columns_of(cell)).max().unwrap_or(0)
        };
        let natural: Vec<usize> = (0..self.names.len()).map(natural).collect();
        let room = self.width.saturating_sub(3 * natural.len() + 1);
        let most = (LEAST_WIDTH..=room)
            .rev()
            .find(|&most| natural.iter().map(|&width| width.min(most)).sum::<usize>() <= room);
        let most = most.unwrap_or(LEAST_WIDTH);
        self.widths = Some(natural.iter().map(|&width| width.min(most)).collect());
        let (border, names) = (self.border(), self.names.clone());
        format!("{border}{}{border}", self.line(names))
    }

    fn border(&self) -> String {
        let widths = self.widths.iter().flatten();
        format!("+{}\n", widths.map(|width| format!("{}+", "-".repeat(width + 2))).collect::<String>())
    }

    fn line(&mut self, cells: Vec<String>) -> String {
        let mut line = "|".to_owned();
        for (cell, &width) in cells.iter().zip(self.widths.iter().flatten()) {
            let shown = elided(cell, width);
            self.cut |= shown != *cell;
            line.push_str(&format!(" {shown}{} |", " ".repeat(width.saturating_sub(columns_of(&shown)))));
        }
        line + "\n"
    }
}

fn cells(batch: &RecordBatch) -> anyhow::Result<Vec<Vec<String>>> {
    let options = FormatOptions::default().with_display_error(true);
    let formatters = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
    let formatters = formatters.collect::<Result<Vec<_>, _>>()?;
    let cell = |formatter: &ArrayFormatter<'_>, row: usize| {
        let text = formatter.value(row).to_string();
        let mut letters = text.chars();
        let shown: String = letters.by_ref().take(MOST_LETTERS).collect();
        // A value that goes on is longer than any column.
        visible(&if letters.next().is_some() { format!("{shown}…") } else { shown })
    };
    Ok((0..batch.num_rows())
        .map(|row| formatters.iter().map(|formatter| cell(formatter, row)).collect())
        .collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    fn batch(numbers: &[i64], texts: &[&str]) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
        let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        RecordBatch::try_from_iter([("n", numbers), ("text", texts)]).expect("a batch")
    }

    #[test]
    fn rows_are_drawn_as_they_come() {
        let first = batch(&[1, 22], &["a", "漢字"]);
        let mut grid = Grid::new(&first.schema(), 80);
        let mut text = grid.add(&first).expect("rows");
        text += &grid.add(&batch(&[3], &["longer"])).expect("rows");
        text += &grid.finish();
        let expected = "+----+------+\n| n  | text |\n+----+------+\n| 1  | a    |\n| 22 | 漢字 |\n| 3  | lo…r |\n+----+------+\n";
        assert_eq!(text, expected);
        assert!(grid.has_cut());
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let first = batch(&[1], &[&"x".repeat(10_000)]);
        let mut grid = Grid::new(&first.schema(), 80);
        let text = grid.add(&first).expect("rows") + &grid.finish();
        assert!(text.lines().all(|line| columns_of(line) == 80), "{text}");
    }

    #[test]
    fn no_rows_are_a_heading() {
        let first = batch(&[], &[]);
        let mut grid = Grid::new(&first.schema(), 80);
        let text = grid.add(&first).expect("rows") + &grid.finish();
        assert_eq!(text, "+---+------+\n| n | text |\n+---+------+\n+---+------+\n");
    }
}
