//! `inspect --html`: the summary and some rows as one page that needs nothing beside it.

use std::fmt::Write;

use crate::dataset::Dataset;
use crate::draw::{RowView, content, name_of, origin, summary, thousands};

use super::summary::{counts, dataset_facts, histograms, rejects};

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse}\
th,td{padding:.15rem .8rem .15rem 0;text-align:right;vertical-align:top}\
th:first-child,td:first-child,table.spans td,table.facts td{text-align:left}th{font-weight:600;color:#666}\
table.spans td:last-child{white-space:pre-wrap;overflow-wrap:anywhere}\
.strip{display:flex;height:1.2rem;margin:.5rem 0}.strip div{min-width:1px;border-left:1px solid #fff}\
.text{background:#7cc4d8}.image{background:#b06fc4}.padding{background:#e4e4e4}\
.bar{background:#7cc4d8;height:.9rem;display:inline-block;vertical-align:middle}\
.key span{padding:0 .6rem;margin-right:.4rem}\
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}th{color:#999}.strip div{border-color:#181818}\
.text,.bar{background:#2f7f96}.image{background:#87489b}.padding{background:#3a3a3a}}";

/// A page that is being written.
pub(super) struct Page {
    text: String,
}

impl Page {
    /// With everything that the manifest says.
    pub(super) fn of(dataset: &Dataset) -> Self {
        let title = escape(&format!("dataset {}", dataset.place.uri));
        let head = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">";
        let mut page =
            Self { text: format!("{head}<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>") };
        let facts = dataset_facts(dataset).into_iter().map(|(name, value)| vec![name.to_owned(), value]);
        page.table("facts", &facts.collect::<Vec<_>>(), false);
        page.heading("Counts");
        page.table("", &counts(&dataset.manifest), true);
        let refused = rejects(&dataset.manifest.sources);
        if refused.len() > 1 {
            page.heading("Rejected and remarked");
            page.table("", &refused, true);
        }
        for (title, entries) in dataset.manifest.sources.iter().flat_map(histograms) {
            page.histogram(&title, &entries);
        }
        page
    }

    /// A row: its strip, and its spans with their content.
    pub(super) fn row(&mut self, index: u64, place: &str, view: &RowView<'_>) {
        self.heading(&format!("Row {} ({place})", thousands(index)));
        self.write(format_args!("<p>{}</p><div class=\"strip\">", escape(&summary(view))));
        for span in view.row.spans() {
            let (kind, len) = (name_of(span.modality), span.len);
            let title = format!("{kind}, positions {} to {}", span.start, span.end() - 1);
            self.write(format_args!("<div class=\"{kind}\" style=\"flex:{len}\" title=\"{title}\"></div>"));
        }
        self.write(format_args!(
            "</div><p class=\"key\"><span class=\"text\">text</span><span class=\"image\">image</span>"
        ));
        self.write(format_args!("<span class=\"padding\">padding</span></p>"));
        for group in view.row.spans().chunk_by(|a, b| a.document == b.document) {
            if let Some(from) = origin(view, &group[0]) {
                self.write(format_args!("<p><b>document {}</b> {}</p>", group[0].document, escape(&from)));
            }
            let line = |span: &schemas::Span| {
                vec![
                    format!("{}-{}", span.start, span.end() - 1),
                    name_of(span.modality).to_owned(),
                    content(view, span),
                ]
            };
            self.table("spans", &group.iter().map(line).collect::<Vec<_>>(), false);
        }
    }

    /// The whole page.
    pub(super) fn finish(mut self) -> String {
        self.text.push_str("</html>\n");
        self.text
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("a string takes everything");
    }

    fn heading(&mut self, text: &str) {
        self.write(format_args!("<h2>{}</h2>", escape(text)));
    }

    fn table(&mut self, class: &str, rows: &[Vec<String>], heading: bool) {
        self.write(format_args!("<table class=\"{class}\">"));
        for (index, row) in rows.iter().enumerate() {
            let cell = if heading && index == 0 { "th" } else { "td" };
            self.text.push_str("<tr>");
            row.iter().for_each(|text| self.write(format_args!("<{cell}>{}</{cell}>", escape(text))));
            self.text.push_str("</tr>");
        }
        self.text.push_str("</table>");
    }

    fn histogram(&mut self, title: &str, entries: &[(String, u64)]) {
        self.heading(title);
        let most = entries.iter().map(|(_, value)| *value).max().unwrap_or(0).max(1);
        self.text.push_str("<table>");
        for (label, value) in entries {
            let width = 24.0 * *value as f64 / most as f64;
            let bar = format!("<div class=\"bar\" style=\"width:{width:.2}rem\"></div>");
            let cells = format!("<td>{}</td><td>{}</td>", escape(label), thousands(*value));
            self.write(format_args!("<tr>{cells}<td style=\"text-align:left\">{bar}</td></tr>"));
        }
        self.text.push_str("</table>");
    }
}

/// Text from anywhere, as text of a page.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_stays_text() {
        assert_eq!(escape("<script>\"&\"</script>"), "&lt;script&gt;&quot;&amp;&quot;&lt;/script&gt;");
    }
}
