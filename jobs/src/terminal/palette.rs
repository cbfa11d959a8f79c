//! Colours of a terminal, or none. Whatever is coloured can be read without colour too.

/// Colours, or none.
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

    /// Rows of red, green, blue bytes, `width` pixels wide, as lines of half blocks; nothing without colour.
    pub(crate) fn pixels(self, rgb: &[u8], width: usize) -> Vec<String> {
        // The cube of 6 x 6 x 6 colours that nearly every terminal has.
        let code = |pixel: &[u8]| {
            pixel.iter().fold(0, |code, &byte| 6 * code + (usize::from(byte) * 5 + 127) / 255) + 16
        };
        let line = |rows: &[u8]| {
            let (upper, lower) = rows.split_at(3 * width);
            let cells = upper.chunks(3).zip(lower.chunks(3));
            let cell = |(upper, lower)| format!("\x1b[38;5;{};48;5;{}m▀", code(upper), code(lower));
            format!("{}\x1b[0m", cells.map(cell).collect::<String>())
        };
        if self.colour { rgb.chunks_exact(6 * width).map(line).collect() } else { vec![] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_rows_of_pixels_are_a_line() {
        let rgb = [[255, 0, 0], [0, 0, 0], [0, 0, 255], [255, 255, 255]].concat();
        assert_eq!(
            Palette::new(true).pixels(&rgb, 2),
            ["\x1b[38;5;196;48;5;21m▀\x1b[38;5;16;48;5;231m▀\x1b[0m"]
        );
        assert!(Palette::new(false).pixels(&rgb, 2).is_empty());
    }
}
