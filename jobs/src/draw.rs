//! Text for a terminal: colours, numbers, tables, bars. Pure; nothing here prints.

mod counts;
mod row;

pub(crate) use counts::{Counted, balance, counts, refused};
pub(crate) use row::{RowView, content, drawn, name_of, origin, row_json, summary, wrap};

/// Colours, or none. Every use marks what is readable without them too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Palette {
    colour: bool,
}

impl Palette {
    /// With or without colour.
    pub(crate) fn new(colour: bool) -> Self {
        Self { colour }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Headings.
    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// What may be overlooked.
    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// `error:` and damage.
    pub(crate) fn error(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    /// `warning:`.
    pub(crate) fn warning(self, text: &str) -> String {
        self.paint("1;33", text)
    }

    /// `hint:`.
    pub(crate) fn hint(self, text: &str) -> String {
        self.paint("1;36", text)
    }

    /// What is in order.
    pub(crate) fn good(self, text: &str) -> String {
        self.paint("1;32", text)
    }

    /// Text positions.
    pub(crate) fn text(self, text: &str) -> String {
        self.paint("36", text)
    }

    /// Image positions.
    pub(crate) fn image(self, text: &str) -> String {
        self.paint("35", text)
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes with a decimal unit: `256.0 MB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1000.0, 0);
    while value >= 999.95 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1000.0, unit + 1);
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `1 row`, `2 rows`.
pub(crate) fn count(number: u64, what: &str) -> String {
    format!("{} {what}{}", thousands(number), if number == 1 { "" } else { "s" })
}

/// `part` of `whole` in per cent; `-` of nothing.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", 100.0 * part as f64 / whole as f64) }
}

/// First digits of a checksum.
pub(crate) fn short(checksum: &str) -> &str {
    checksum.get(..12).unwrap_or(checksum)
}

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

/// A text of at most `width` columns: of a longer one, beginning and end.
pub(crate) fn elided(text: &str, width: usize) -> String {
    if columns_of(text) <= width {
        return text.to_owned();
    }
    let room = width.saturating_sub(1);
    let end: String = taken(text.chars().rev(), room / 3).chars().rev().collect();
    format!("{}…{end}", taken(text.chars(), room - columns_of(&end)))
}

/// The first letters that fit.
fn taken(letters: impl Iterator<Item = char>, width: usize) -> String {
    let mut text = String::new();
    for letter in letters {
        text.push(letter);
        if columns_of(&text) > width {
            text.pop();
            break;
        }
    }
    text
}

/// A text in lines of at most `width` columns, broken at spaces, the further ones indented. What has no space stays whole.
pub(crate) fn wrapped(text: &str, width: usize, indent: usize) -> String {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split(' ') {
        if line.is_empty() {
            line.push_str(word);
        } else if columns_of(&line) + 1 + columns_of(word) <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(std::mem::replace(&mut line, format!("{}{word}", " ".repeat(indent))));
        }
    }
    lines.push(line);
    lines.join("\n")
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

/// Columns of the narrowest terminal that lines for people are made for.
pub(crate) const NARROW: usize = 80;

/// A line in pieces of at most [`NARROW`] columns, broken at spaces, the later ones indented. A word that is longer stays whole,
/// so that a path can be copied.
pub(crate) fn folded(line: &str) -> Vec<String> {
    wrapped(line, NARROW, 2).lines().map(str::to_owned).collect()
}

/// Columns that a text takes in a terminal.
pub(crate) fn columns_of(text: &str) -> usize {
    unicode_width::UnicodeWidthStr::width(text)
}

/// Text from outside, made safe for a terminal: control characters and direction overrides become visible.
pub(crate) fn visible(text: &str) -> String {
    let shown = |character: char| match character {
        '\n' => '⏎',
        '\t' => '⇥',
        '\u{0}'..='\u{1f}' => char::from_u32(0x2400 + character as u32).unwrap_or('�'),
        '\u{7f}' => '␡',
        '\u{80}'..='\u{9f}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            '�'
        }
        other => other,
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            (thousands(0), thousands(999), thousands(1_234_567)),
            ("0".into(), "999".into(), "1,234,567".into())
        );
        assert_eq!(
            (bytes(999), bytes(1_500), bytes(999_960)),
            ("999 B".into(), "1.5 kB".into(), "1.0 MB".into())
        );
        assert_eq!((count(1, "row"), count(1_000, "row")), ("1 row".into(), "1,000 rows".into()));
        assert_eq!((percent(1, 8), percent(0, 0)), ("12.5 %".into(), "-".into()));
    }

    #[test]
    fn bars_are_proportional_and_never_invisible() {
        let text = bars(&[("a".into(), 800), ("b".into(), 400), ("c".into(), 1), ("d".into(), 0)], 25);
        let lengths: Vec<usize> =
            text.lines().map(|line| line.chars().filter(|c| !c.is_ascii()).count()).collect();
        assert_eq!(lengths, [15, 8, 1, 0]);
    }

    #[test]
    fn long_lines_are_folded_at_spaces() {
        assert_eq!(folded("a short line"), ["a short line"]);
        let line = format!("data: {} b c", "x".repeat(90));
        assert_eq!(folded(&line), ["data:".to_owned(), format!("  {}", "x".repeat(90)), "  b c".to_owned()]);
        let words = "word ".repeat(40);
        let lines = folded(words.trim_end());
        assert!(lines.iter().all(|line| line.len() <= NARROW) && lines.len() == 3, "{lines:?}");
        assert_eq!(lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" "), words.trim_end());
    }

    #[test]
    fn outside_text_cannot_drive_the_terminal() {
        assert_eq!(visible("a\x1b[31m\n\u{202e}b"), "a␛[31m⏎�b");
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
    fn long_texts_are_cut_in_the_middle_and_wrapped_at_spaces() {
        assert_eq!(elided("shards/0123456789.arrow", 12), "shards/0…row");
        assert_eq!(elided("short", 12), "short");
        assert_eq!(columns_of(&elided(&"漢".repeat(20), 12)), 11);
        assert_eq!(wrapped("one two three four", 9, 2), "one two\n  three\n  four");
        assert_eq!(wrapped("s3://a/very/long/address then", 9, 2), "s3://a/very/long/address\n  then");
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
