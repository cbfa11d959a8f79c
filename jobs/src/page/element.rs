//! The smallest pieces of HTML.

/// Text from anywhere, as it may stand in HTML, in attributes too.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A command with a button that copies it.
pub(crate) fn command(text: &str) -> String {
    format!("<pre class=\"command\"><code>{}</code></pre>", escape(text))
}

/// A bar whose filled part is `percent` of it, with ticks at other shares; `class` colours it.
pub(crate) fn share_bar(class: &str, percent: f64, ticks: &[f64]) -> String {
    let ticks: String = ticks.iter().map(|tick| format!("<span style=\"left:{tick:.1}%\"></span>")).collect();
    format!(
        "<div class=\"bar {class}\"><div class=\"fill\" style=\"width:{percent:.1}%\"></div>{ticks}</div>"
    )
}
