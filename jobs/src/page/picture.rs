//! Pictures inside the page: PNG files as `data:` addresses, alone or with words below, shown with hard pixels.

use base64::Engine;

/// A picture with its words. All strings are HTML.
#[derive(Clone, Debug)]
pub(crate) struct Card {
    /// The picture as a PNG file.
    pub(crate) png: Vec<u8>,
    /// What stands below it.
    pub(crate) caption: String,
    /// Whether it is right.
    pub(crate) right: bool,
    /// What is wrong, or nothing.
    pub(crate) why: String,
}

/// A picture as an element.
pub(crate) fn img(png: &[u8]) -> String {
    let data = base64::engine::general_purpose::STANDARD.encode(png);
    format!("<img alt=\"\" src=\"data:image/png;base64,{data}\">")
}

/// A tick or a cross, readable without colour.
pub(crate) fn mark(right: bool) -> &'static str {
    match right {
        true => "<b class=\"right\" title=\"right\">\u{2713}</b>",
        false => "<b class=\"wrong\" title=\"wrong\">\u{2717}</b>",
    }
}

/// Cards side by side; nothing without any.
pub(crate) fn cards(cards: &[Card]) -> String {
    if cards.is_empty() {
        return String::new();
    }
    let cards: String = cards.iter().map(figure).collect();
    format!("<div class=\"grid\">\n{cards}</div>\n")
}

fn figure(card: &Card) -> String {
    let why = if card.why.is_empty() { String::new() } else { format!(" <small>{}</small>", card.why) };
    format!(
        "<figure class=\"{}\">{}<figcaption>{}&nbsp;{}{why}</figcaption></figure>\n",
        if card.right { "right" } else { "wrong" },
        img(&card.png),
        card.caption,
        mark(card.right)
    )
}
