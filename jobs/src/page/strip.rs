//! The positions of a packed row to scale, coloured by what stands there.

/// What stands at a run of positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// BOS, EOS, BOI or EOI.
    Marker,
    /// Tokens of text.
    Text,
    /// Patches of an image.
    Image,
    /// Nothing.
    Padding,
}

impl Kind {
    /// The class of the style, and the word in the legend.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Marker => "marker",
            Self::Text => "text",
            Self::Image => "image",
            Self::Padding => "padding",
        }
    }
}

/// A strip that is being drawn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Strip {
    blocks: String,
    /// Positions so far.
    end: usize,
    kinds: Vec<Kind>,
}

impl Strip {
    /// Adds a run of positions.
    pub(crate) fn add(&mut self, kind: Kind, positions: usize) {
        if positions > 0 {
            let (name, start) = (kind.name(), self.end);
            self.end += positions;
            let title = format!("{name}, positions {start} to {}", self.end - 1);
            self.blocks.push_str(&format!(
                "<span class=\"{name}\" style=\"flex:{positions}\" title=\"{title}\"></span>"
            ));
            if !self.kinds.contains(&kind) {
                self.kinds.push(kind);
            }
        }
    }

    /// The strip with a legend of the kinds in it.
    pub(crate) fn finish(self) -> String {
        let legend = |kind: &Kind| format!("<span class=\"{0}\"></span>{0}", kind.name());
        let legend: Vec<String> = self.kinds.iter().map(legend).collect();
        format!(
            "<div class=\"strip\" aria-hidden=\"true\">{}</div>\n<p class=\"legend\">{}</p>\n",
            self.blocks,
            legend.join(" ")
        )
    }
}
