//! A packed row as the report draws it.

use schemas::shard::ShardMetadata;
use schemas::{Latent, Modality, Order, Provenance, Row, Span, Tokenizer};

use super::drawing::Picture;
use super::report::{DocumentDrawing, Part, RowDrawing};

/// Takes a row apart. `decode` turns a stored latent into a picture.
///
/// # Errors
///
/// What `decode` fails with.
pub(crate) fn row_drawing<E>(
    row: &Row,
    metadata: &ShardMetadata,
    tokenizer: &Tokenizer,
    place: String,
    mut decode: impl FnMut(&Latent) -> Result<Picture, E>,
) -> Result<RowDrawing, E> {
    let mut documents: Vec<DocumentDrawing> = row
        .sources()
        .iter()
        .map(|source| DocumentDrawing { label: label(source, metadata), parts: vec![] })
        .collect();
    for span in row.spans() {
        let Some(document) = documents.get_mut(span.document as usize) else { continue };
        match (span.modality, span.image.and_then(|image| row.images().get(image as usize))) {
            (Modality::Image, Some(latent)) => {
                document.parts.push(Part::Image { picture: decode(latent)?, patches: span.len as usize });
            }
            (Modality::Text, _) => document.parts.extend(tokens(row, span, metadata, tokenizer)),
            _ => {}
        }
    }
    let context = row.tokens().len();
    Ok(RowDrawing { place, context, documents, padding: context - row.used() as usize })
}

fn label(source: &Provenance, metadata: &ShardMetadata) -> String {
    let file = metadata.files.get(source.file as usize).map_or("", String::as_str);
    let order = match source.order {
        Order::CaptionFirst => ": caption first",
        Order::ImageFirst => ": image first",
        Order::Neither => "",
    };
    format!("{file}, row {}{order}", source.row)
}

fn tokens<'a>(
    row: &'a Row,
    span: &Span,
    metadata: &'a ShardMetadata,
    tokenizer: &'a Tokenizer,
) -> impl Iterator<Item = Part> + 'a {
    row.tokens()[span.range()].iter().map(move |&id| {
        let markers = [
            (tokenizer.bos(), "BOS"),
            (tokenizer.eos(), "EOS"),
            (metadata.vocabulary.boi(), "BOI"),
            (metadata.vocabulary.eoi(), "EOI"),
        ];
        match markers.into_iter().find(|&(marker, _)| marker == id) {
            Some((_, name)) => Part::Marker(name, id),
            None => Part::Token(tokenizer.piece(id), id),
        }
    })
}
