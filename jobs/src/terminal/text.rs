//! Numbers and strings as people read them.

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

/// A text of at most `width` columns: of a longer one, beginning and end.
pub(crate) fn elided(text: &str, width: usize) -> String {
    if columns_of(text) <= width {
        return text.to_owned();
    }
    let room = width.saturating_sub(1);
    let end: String = fitting(text.chars().rev(), room / 3).chars().rev().collect();
    format!("{}…{end}", fitting(text.chars(), room - columns_of(&end)))
}

/// The first letters that fit.
fn fitting(letters: impl Iterator<Item = char>, width: usize) -> String {
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

/// Lines of at most `room` columns, broken at spaces where there is one.
pub(crate) fn wrap(text: &str, room: usize) -> Vec<String> {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split_inclusive(' ') {
        if !line.is_empty() && columns_of(&line) + columns_of(word.trim_end()) > room {
            lines.push(std::mem::take(&mut line));
        }
        for character in word.chars() {
            if columns_of(&line) + columns_of(character.encode_utf8(&mut [0; 4])) > room && character != ' ' {
                lines.push(std::mem::take(&mut line));
            }
            line.push(character);
        }
    }
    lines.push(line);
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
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
    fn long_texts_are_cut_in_the_middle_and_wrapped_at_spaces() {
        assert_eq!(elided("shards/0123456789.arrow", 12), "shards/0…row");
        assert_eq!(elided("short", 12), "short");
        assert_eq!(columns_of(&elided(&"漢".repeat(20), 12)), 11);
        assert_eq!(wrapped("one two three four", 9, 2), "one two\n  three\n  four");
        assert_eq!(wrapped("s3://a/very/long/address then", 9, 2), "s3://a/very/long/address\n  then");
    }
}
