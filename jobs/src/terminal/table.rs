//! Tables and bars, in columns.

use super::palette::Palette;
use super::text::{columns_of, elided, thousands};

/// Columns side by side: the first left, the others right, two spaces between; the first line is the heading. A table
/// that is wider than `width` goes on below, with the first column again; a long name in that column is cut.
pub(crate) fn table(rows: &[Vec<String>], palette: Palette, width: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let natural = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| columns_of(cell)).max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..columns).map(natural).collect();
    let Some((first, others)) = widths.split_first_mut() else { return String::new() };
    let room = (width / 3).max(width.saturating_sub(others.iter().map(|width| width + 2).sum::<usize>() + 2));
    *first = (*first).min(room);
    let parts = parts(*first, others, width);
    parts.into_iter().map(|part| block(rows, &widths, part, palette)).collect::<Vec<_>>().join("\n")
}

/// Which columns stand side by side, beside the first.
fn parts(first: usize, others: &[usize], width: usize) -> Vec<std::ops::Range<usize>> {
    let (mut parts, mut start, mut taken) = (Vec::new(), 1, first + 2);
    for (column, other) in (1..).zip(others) {
        if taken + other + 2 > width && column > start {
            parts.push(start..column);
            (start, taken) = (column, first + 2);
        }
        taken += other + 2;
    }
    parts.push(start..others.len() + 1);
    parts
}

fn block(rows: &[Vec<String>], widths: &[usize], part: std::ops::Range<usize>, palette: Palette) -> String {
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let name = elided(row.first().map_or("", String::as_str), widths[0]);
        let mut line = format!("  {name}{}", " ".repeat(widths[0] - columns_of(&name)));
        for column in part.clone() {
            let cell = row.get(column).map_or("", String::as_str);
            line.push_str(&format!("  {}{cell}", " ".repeat(widths[column] - columns_of(cell))));
        }
        let line = line.trim_end();
        text.push_str(&if index == 0 { palette.dim(line) } else { line.to_owned() });
        text.push('\n');
    }
    text
}

/// One bar a line: label, bar, count.
pub(crate) fn bars(entries: &[(String, u64)], width: usize) -> String {
    let labels = entries.iter().map(|(label, _)| columns_of(label)).max().unwrap_or(0);
    let numbers = entries.iter().map(|(_, value)| thousands(*value).len()).max().unwrap_or(0);
    let most = entries.iter().map(|(_, value)| *value).max().unwrap_or(0).max(1);
    let room = width.saturating_sub(labels + numbers + 6).clamp(8, 50);
    let mut text = String::new();
    for (label, value) in entries {
        let padding = " ".repeat(labels - columns_of(label));
        text.push_str(&format!(
            "  {padding}{label}  {:>numbers$}  {}\n",
            thousands(*value),
            bar(*value, most, room)
        ));
    }
    text
}

/// A bar in eighths of a column; what is more than nothing shows.
fn bar(value: u64, most: u64, room: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (value as f64 / most as f64 * room as f64 * 8.0).round() as usize;
    let eighths = if value > 0 { eighths.max(1) } else { 0 };
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_proportional_and_never_invisible() {
        let text = bars(&[("a".into(), 800), ("b".into(), 400), ("c".into(), 1), ("d".into(), 0)], 25);
        let lengths: Vec<usize> =
            text.lines().map(|line| line.chars().filter(|c| !c.is_ascii()).count()).collect();
        assert_eq!(lengths, [15, 8, 1, 0]);
    }

    #[test]
    fn wide_tables_go_on_below() {
        let row = |name: &str| {
            std::iter::once(name.to_owned()).chain((0..12).map(|n| format!("number {n}"))).collect::<Vec<_>>()
        };
        let rows = [row("source"), row("short"), row(&"a-very-long-name".repeat(8))];
        for width in [40, 80, 100] {
            let text = table(&rows, Palette::new(false), width);
            assert!(text.lines().all(|line| columns_of(line) <= width), "{text}");
            assert!((0..12).all(|n| text.contains(&format!("number {n}"))) && text.contains('…'), "{text}");
        }
        assert_eq!(table(&rows[..2], Palette::new(false), 160).lines().count(), 2);
    }

    #[test]
    fn wide_letters_keep_the_columns() {
        let rows = [
            vec!["name".into(), "n".into()],
            vec!["漢字".into(), "10".into()],
            vec!["ab".into(), "5".into()],
        ];
        assert_eq!(table(&rows, Palette::new(false), 80), "  name   n\n  漢字  10\n  ab     5\n");
    }
}
