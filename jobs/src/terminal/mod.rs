//! What people read in a terminal: numbers, tables, a packed row, progress.
//!
//! Knows nothing of stores, configs and jobs. Only [`printer`] prints and only [`progress`] keeps time; the other files
//! are pure functions from data to text.

mod counts;
mod palette;
mod printer;
mod progress;
mod row;
mod table;
mod text;

pub(crate) use counts::{Counted, balance, counts, refused};
pub(crate) use palette::Palette;
pub(crate) use printer::{Printer, Style, When};
pub(crate) use progress::{Progress, Unit, duration, time};
pub(crate) use row::{RowView, content, drawn, name_of, origin, row_json, summary};
pub(crate) use table::{bars, table};
pub(crate) use text::{
    NARROW, bytes, columns_of, count, elided, percent, short, thousands, visible, wrap, wrapped,
};
