//! Tables. The first cell of a row is its heading.

use super::element::escape;

/// A table that is being written.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    class: &'static str,
    head: String,
    rows: String,
}

impl Table {
    /// A table of a class of the style: `facts`, `numbers` (right-aligned), `scores`, `timeline`, `spans`, or none.
    pub(crate) fn new(class: &'static str) -> Self {
        Self { class, head: String::new(), rows: String::new() }
    }

    /// With a heading over each column, as text.
    pub(crate) fn heading<T: AsRef<str>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        let cells: String =
            names.into_iter().map(|name| format!("<th>{}</th>", escape(name.as_ref()))).collect();
        self.head = format!("<thead><tr>{cells}</tr></thead>\n");
        self
    }

    /// Adds a row of texts.
    pub(crate) fn texts<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.row(cells.into_iter().map(|cell| escape(cell.as_ref())));
    }

    /// Adds a row of cells that are HTML.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push_str("<tr>");
        for (index, cell) in cells.into_iter().enumerate() {
            self.rows.push_str(&match index {
                0 => format!("<th scope=\"row\">{cell}</th>"),
                _ => format!("<td>{cell}</td>"),
            });
        }
        self.rows.push_str("</tr>\n");
    }

    /// The table; nothing without rows.
    pub(crate) fn finish(self) -> String {
        let Self { class, head, rows } = self;
        if rows.is_empty() {
            return String::new();
        }
        let table = format!("<table class=\"{class}\">\n{head}<tbody>\n{rows}</tbody></table>");
        format!("<div class=\"scroll\">{table}</div>\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_text_are_escaped() {
        let mut table = Table::new("facts").heading(["a", "<b>"]);
        table.texts(["x", "1 < 2"]);
        table.row(["y".to_owned(), "<b>bold</b>".to_owned()]);
        let html = table.finish();
        assert!(html.contains("<thead><tr><th>a</th><th>&lt;b&gt;</th></tr></thead>"), "{html}");
        assert!(html.contains("<th scope=\"row\">x</th><td>1 &lt; 2</td>"), "{html}");
        assert!(html.contains("<td><b>bold</b></td>"), "{html}");
        assert_eq!(Table::new("").heading(["a"]).finish(), "");
    }
}
