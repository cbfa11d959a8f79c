//! A packed row as the report shows it: its strip, then each document token by token with its decoded pictures.

use schemas::shard::ShardMetadata;
use schemas::{Latent, Modality, Order, Provenance, Row, Span, Tokenizer};

use crate::page::{Kind, Strip, escape, img};
use crate::shapes::Picture;

/// A row with what is needed to read it.
pub(super) struct PackedRow<'a> {
    pub(super) row: &'a Row,
    pub(super) metadata: &'a ShardMetadata,
    pub(super) tokenizer: &'a Tokenizer,
}

impl PackedRow<'_> {
    /// The row as HTML. `decode` turns a stored latent into a picture.
    pub(super) fn html(
        &self,
        mut decode: impl FnMut(&Latent) -> anyhow::Result<Picture>,
    ) -> anyhow::Result<String> {
        let (row, mut strip) = (self.row, Strip::default());
        let mut documents: Vec<String> = vec![String::new(); row.sources().len()];
        for span in row.spans() {
            let image = span.image.and_then(|image| row.images().get(image as usize));
            let chips = match (span.modality, image) {
                (Modality::Image, Some(latent)) => {
                    strip.add(Kind::Image, span.len as usize);
                    chip(Kind::Image, &img(&decode(latent)?.png()), &format!("{} patches", span.len))
                }
                (Modality::Text, _) => self.tokens(span, &mut strip),
                _ => {
                    strip.add(Kind::Padding, span.len as usize);
                    continue;
                }
            };
            if let Some(document) = documents.get_mut(span.document as usize) {
                document.push_str(&chips);
            }
        }
        let boxes: String = row
            .sources()
            .iter()
            .zip(documents)
            .map(|(source, chips)| document(&self.label(source), &chips))
            .collect();
        Ok(format!("{}<ol class=\"documents\">\n{boxes}</ol>\n", strip.finish()))
    }

    fn label(&self, source: &Provenance) -> String {
        let file = self.metadata.files.get(source.file as usize).map_or("", String::as_str);
        let order = match source.order {
            Order::CaptionFirst => ": caption first",
            Order::ImageFirst => ": image first",
            Order::Neither => "",
        };
        format!("{file}, row {}{order}", source.row)
    }

    fn tokens(&self, span: &Span, strip: &mut Strip) -> String {
        let vocabulary = self.metadata.vocabulary;
        let markers = [
            (self.tokenizer.bos(), "BOS"),
            (self.tokenizer.eos(), "EOS"),
            (vocabulary.boi(), "BOI"),
            (vocabulary.eoi(), "EOI"),
        ];
        let mut token = |&id: &u32| {
            let marker = markers.iter().find(|&&(marker, _)| marker == id);
            let kind = if marker.is_some() { Kind::Marker } else { Kind::Text };
            strip.add(kind, 1);
            let piece = marker.map_or_else(|| self.piece(id), |&(_, name)| name.to_owned());
            chip(kind, &piece, &id.to_string())
        };
        self.row.tokens()[span.range()].iter().map(&mut token).collect()
    }

    /// The piece of an id, its spaces made visible.
    fn piece(&self, id: u32) -> String {
        escape(&self.tokenizer.piece(id)).replace([' ', '\u{2581}', '\u{120}'], "\u{b7}")
    }
}

/// A thing in the row with a small line below; both are HTML.
fn chip(kind: Kind, content: &str, below: &str) -> String {
    format!("<span class=\"{}\">{content}<small>{below}</small></span>", kind.name())
}

fn document(label: &str, chips: &str) -> String {
    let label = escape(label);
    format!("<li class=\"document\"><p class=\"note\">{label}</p><div class=\"parts\">{chips}</div></li>\n")
}
