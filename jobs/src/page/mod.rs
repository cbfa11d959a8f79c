//! HTML: one page that needs nothing beside it, for every report of the program.
//!
//! A [`Page`] has the skeleton, the style and the one small script (copy buttons); [`Table`]s, [`Curve`]s, [`bars`],
//! [`Strip`]s and [`Card`]s fill its sections. Texts, numbers and PNG files come in, HTML goes out: nothing here knows what
//! a page is about, and nothing is loaded from anywhere, so that a page can be sent as a file.

mod chart;
mod element;
mod picture;
mod strip;
mod table;

pub(crate) use chart::{Curve, bars, charts};
pub(crate) use element::{command, escape, share_bar};
pub(crate) use picture::{Card, cards, img, mark};
pub(crate) use strip::{Kind, Strip};
pub(crate) use table::Table;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("copy.js");

/// A page that is being written.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    title: String,
    body: String,
}

impl Page {
    /// A page with its heading: a small line, a large one, and paragraphs. All of it is text.
    pub(crate) fn new(title: &str, lead: &str, paragraphs: &[String]) -> Self {
        let (title, lead) = (escape(title), escape(lead));
        let rest: String = paragraphs.iter().map(|text| format!("<p>{}</p>\n", escape(text))).collect();
        let body = format!("<header>\n<p class=\"kicker\">{title}</p>\n<h1>{lead}</h1>\n{rest}</header>\n");
        Self { title, body }
    }

    /// A section below a heading; `title` and `note` are text, `content` is HTML. Nothing where there is no content.
    pub(crate) fn section(&mut self, title: &str, note: &str, content: &str) {
        if content.is_empty() {
            return;
        }
        let note = match note {
            "" => String::new(),
            note => format!("<p class=\"note\">{}</p>\n", escape(note)),
        };
        self.body.push_str(&format!("<section>\n<h2>{}</h2>\n{note}{content}</section>\n", escape(title)));
    }

    /// The whole page.
    pub(crate) fn finish(self) -> String {
        let Self { title, body } = self;
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n\
             <script>\n{SCRIPT}</script>\n</body>\n</html>\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_stays_text() {
        assert_eq!(escape("<script>\"&\"</script>"), "&lt;script&gt;&quot;&amp;&quot;&lt;/script&gt;");
        let mut page = Page::new("a <b>", "\"lead\"", &["x & y".to_owned()]);
        page.section("s <i>", "n <i>", "<p>content</p>");
        page.section("empty", "never shown", "");
        let page = page.finish();
        assert!(page.contains("<title>a &lt;b&gt;</title>") && page.contains("<h1>&quot;lead&quot;</h1>"));
        assert!(page.contains("<h2>s &lt;i&gt;</h2>") && page.contains("<p>content</p>"));
        assert!(!page.contains("never shown"));
    }
}
