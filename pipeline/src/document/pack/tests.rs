//! Packing against the obvious version of it, and the promises that hold for any documents and any window.

use std::convert::Infallible;
use std::sync::LazyLock;

use proptest::prelude::*;
use schemas::{Order, Tokenizer, Vocabulary};

use super::*;
use crate::document::{Composer, Origin, Part};
use crate::row::reject::RejectReason;

const CONTEXT: u32 = 24;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    Tokenizer::from_bytes(&crate::job::bpe::train(["a b c d e f g"], 300).unwrap()).unwrap()
});

fn composer(packing: Packing) -> Composer {
    let vocabulary = Vocabulary::text(TOKENIZER.vocabulary_size());
    let layout = RowLayout { context: CONTEXT, patch: 2, vocabulary };
    Composer { tokenizer: TOKENIZER.clone(), layout, packing, caption_first: 0.8, seed: 7 }
}

fn origin(row: u64) -> Origin<'static> {
    Origin { source: 0, source_name: "s", file: 0, path: "p", row, id: None }
}

/// A latent whose values all say `mark`.
fn latent(height: u16, width: u16, mark: u64) -> Latent {
    let values = vec![half::f16::from_f32(mark as f32); usize::from(height * width)];
    Latent { channels: 1, height, width, moments: false, values }
}

/// What a test packs: words of text, and images by their size in patches.
#[derive(Clone, Debug)]
enum Input {
    Text(usize),
    Pair(usize, u16),
    Interleaved(Vec<Piece>),
}

#[derive(Clone, Debug)]
enum Piece {
    Text(usize),
    Image(u16),
}

/// `count` words, one id each.
fn words(count: usize) -> String {
    let letters = ["a", "b", "c", "d", "e", "f", "g"];
    (0..count).map(|index| letters[index % 7]).collect::<Vec<_>>().join(" ")
}

fn document(input: &Input, row: u64, composer: &Composer) -> Result<Document, RejectReason> {
    let part = |piece: &Piece| match piece {
        Piece::Text(count) => Part::Text(words(*count)),
        Piece::Image(patches) => Part::Image(latent(2, 2 * patches, row)),
    };
    match input {
        Input::Text(count) => composer.text(&words(*count), &origin(row)),
        Input::Pair(count, patches) => {
            composer.pair(&words(*count), latent(2, 2 * patches, row), &origin(row))
        }
        Input::Interleaved(pieces) => composer.interleaved(pieces.iter().map(part).collect(), &origin(row)),
    }
    .map_err(|reject| reject.reason)
}

fn documents(inputs: &[Input], composer: &Composer) -> Vec<Document> {
    let numbered = inputs.iter().enumerate();
    numbered.filter_map(|(row, input)| document(input, row as u64, composer).ok()).collect()
}

fn pack(documents: &[Document], composer: &Composer) -> Vec<Row> {
    let mut packer = Packer::new(composer.layout, composer.packing);
    let mut rows = Vec::new();
    let mut emit = |row| -> Result<(), Infallible> {
        rows.push(row);
        Ok(())
    };
    for document in documents {
        packer.push(document.clone(), &mut emit).unwrap();
    }
    packer.finish(&mut emit).unwrap();
    rows
}

/// Best fit as the text at the head of the module says it, in the plainest way: lengths in, for each row the pieces
/// in it, rows in the order in which they are closed.
fn obvious_best_fit(pieces: &[usize], window: usize) -> Vec<Vec<usize>> {
    let context = CONTEXT as usize;
    let (mut open, mut closed): (Vec<Vec<usize>>, Vec<Vec<usize>>) = (Vec::new(), Vec::new());
    let free = |row: &Vec<usize>| context - row.iter().map(|&piece| pieces[piece]).sum::<usize>();
    for (piece, &len) in pieces.iter().enumerate() {
        if len == context {
            closed.push(vec![piece]);
            continue;
        }
        let mut best: Option<usize> = None;
        for (index, row) in open.iter().enumerate() {
            if free(row) >= len && best.is_none_or(|best| free(row) < free(&open[best])) {
                best = Some(index);
            }
        }
        match best {
            Some(index) => {
                open[index].push(piece);
                if free(&open[index]) == 0 {
                    closed.push(open.remove(index));
                }
            }
            None => {
                if open.len() == window {
                    let least = open.iter().map(free).min().unwrap();
                    let fullest = open.iter().position(|row| free(row) == least).unwrap();
                    closed.push(open.remove(fullest));
                }
                open.push(vec![piece]);
            }
        }
    }
    closed.extend(open);
    closed
}

/// The lengths of the pieces of a document, computed from its parts alone.
fn piece_lengths(document: &Document) -> Vec<usize> {
    let context = CONTEXT as usize;
    if document.len() <= context {
        return vec![document.len()];
    }
    if document.shape() == Shape::Text {
        let whole = vec![context; document.len() / context];
        return whole.into_iter().chain(Some(document.len() % context).filter(|&rest| rest > 0)).collect();
    }
    let mut lengths = vec![0];
    let mut start = 0;
    for &end in &document.part_ends {
        if lengths.last().unwrap() + (end - start) > context {
            lengths.push(0);
        }
        *lengths.last_mut().unwrap() += end - start;
        start = end;
    }
    lengths
}

fn any_input() -> impl Strategy<Value = Input> {
    let piece = prop_oneof![(1usize..12).prop_map(Piece::Text), (1u16..12).prop_map(Piece::Image)];
    prop_oneof![
        4 => (1usize..22).prop_map(Input::Text),
        1 => (22usize..90).prop_map(Input::Text),
        4 => (1usize..16, 1u16..16).prop_map(|(count, patches)| Input::Pair(count, patches)),
        2 => prop::collection::vec(piece, 1..8).prop_map(Input::Interleaved),
    ]
}

fn any_packing() -> impl Strategy<Value = Packing> {
    prop_oneof![
        (1usize..6).prop_map(|window| Packing::BestFit { window }),
        Just(Packing::Sequence),
        Just(Packing::default())
    ]
}

/// A document put together again from all rows: tokens, and how many images with the right values.
fn reassembled(rows: &[Row], documents: &[Document]) -> Vec<(Vec<u32>, usize)> {
    let mut found = vec![(Vec::new(), 0); documents.len()];
    let index_of = |row: u64| documents.iter().position(|document| document.provenance().row == row).unwrap();
    let mut pieces: Vec<(u64, u64, Vec<u32>, usize)> = Vec::new();
    for row in rows {
        for (index, range) in row.documents() {
            let source = &row.sources()[index];
            let spans = row.spans().iter().filter(|span| span.document as usize == index);
            let images: Vec<u32> = spans.filter_map(|span| span.image).collect();
            let right = |image: &&u32| {
                row.images()[**image as usize].values.iter().all(|value| value.to_f32() == source.row as f32)
            };
            let right = images.iter().filter(right).count();
            pieces.push((source.row, source.first_token, row.tokens()[range].to_vec(), right));
        }
    }
    pieces.sort_by_key(|(row, first_token, _, _)| (*row, *first_token));
    for (row, first_token, tokens, images) in pieces {
        let (all, count) = &mut found[index_of(row)];
        assert_eq!(first_token as usize, all.len(), "first_token is the offset in the document");
        all.extend(tokens);
        *count += images;
    }
    found
}

proptest! {
    #[test]
    fn every_token_stands_exactly_once_and_in_order(
        inputs in prop::collection::vec(any_input(), 0..60),
        packing in any_packing(),
    ) {
        let composer = composer(packing);
        let documents = documents(&inputs, &composer);
        let rows = pack(&documents, &composer);
        for (document, (tokens, images)) in documents.iter().zip(reassembled(&rows, &documents)) {
            prop_assert_eq!(&tokens, &document.tokens);
            prop_assert_eq!(images, document.images().len());
        }
        let used: u32 = rows.iter().map(Row::used).sum();
        let padding: u32 = rows.iter().map(|row| CONTEXT - row.used()).sum();
        prop_assert_eq!(used as usize, documents.iter().map(Document::len).sum::<usize>());
        prop_assert_eq!((used + padding) as usize, rows.len() * CONTEXT as usize);
        prop_assert!(rows.iter().all(|row| row.used() > 0));
        let text: u32 = rows.iter().map(Row::text_positions).sum();
        prop_assert_eq!(text as usize, documents.iter().map(Document::text_positions).sum::<usize>());
        prop_assert_eq!(&rows, &pack(&documents, &composer), "the same again");
    }

    #[test]
    fn a_text_in_parts_gives_the_rows_of_the_whole(
        inputs in prop::collection::vec((1usize..120).prop_map(Input::Text), 0..40),
        lengths in prop::collection::vec(1usize..60, 1..6),
        packing in any_packing(),
    ) {
        let composer = composer(packing);
        let documents = documents(&inputs, &composer);
        let mut packer = Packer::new(composer.layout, composer.packing);
        let mut rows = Vec::new();
        let mut emit = |row| -> Result<(), Infallible> {
            rows.push(row);
            Ok(())
        };
        let mut lengths = lengths.iter().cycle();
        for document in &documents {
            let mut rest = document.tokens();
            while !rest.is_empty() {
                let (part, tail) = rest.split_at(rest.len().min(*lengths.next().unwrap()));
                packer.text(part, document.provenance(), tail.is_empty(), &mut emit).unwrap();
                rest = tail;
            }
        }
        packer.finish(&mut emit).unwrap();
        prop_assert_eq!(rows, pack(&documents, &composer));
    }

    #[test]
    fn best_fit_is_the_obvious_one(inputs in prop::collection::vec(any_input(), 0..80), window in 1usize..9) {
        let composer = composer(Packing::BestFit { window });
        let documents = documents(&inputs, &composer);
        let pieces: Vec<(u64, usize)> = documents
            .iter()
            .flat_map(|document| piece_lengths(document).into_iter().map(|len| (document.provenance().row, len)))
            .collect();
        let lengths: Vec<usize> = pieces.iter().map(|(_, len)| *len).collect();
        let expected: Vec<Vec<(u64, usize)>> = obvious_best_fit(&lengths, window)
            .into_iter()
            .map(|row| row.into_iter().map(|piece| pieces[piece]).collect())
            .collect();
        let found: Vec<Vec<(u64, usize)>> = pack(&documents, &composer)
            .iter()
            .map(|row| row.documents().map(|(index, range)| (row.sources()[index].row, range.len())).collect())
            .collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn best_fit_never_cuts_what_fits(inputs in prop::collection::vec(any_input(), 0..60), window in 1usize..6) {
        let composer = composer(Packing::BestFit { window });
        let documents = documents(&inputs, &composer);
        let rows = pack(&documents, &composer);
        for document in documents.iter().filter(|document| document.len() <= CONTEXT as usize) {
            let of = |row: &Row| row.sources().iter().filter(|source| source.row == document.provenance().row).count();
            prop_assert_eq!(rows.iter().map(of).sum::<usize>(), 1);
        }
    }

    #[test]
    fn the_window_bounds_what_is_held(inputs in prop::collection::vec(any_input(), 0..100), window in 1usize..6) {
        let composer = composer(Packing::BestFit { window });
        let mut packer = Packer::new(composer.layout, composer.packing);
        for document in documents(&inputs, &composer) {
            packer.push(document, |_| Ok::<_, Infallible>(())).unwrap();
            prop_assert!(packer.open_rows() <= window);
            prop_assert!((packer.bytes() > 0) == (packer.open_rows() > 0));
        }
    }

    #[test]
    fn sequence_packing_pads_only_before_images_and_at_the_end(inputs in prop::collection::vec(any_input(), 0..60)) {
        let composer = composer(Packing::Sequence);
        let rows = pack(&documents(&inputs, &composer), &composer);
        for (row, next) in rows.iter().zip(rows.iter().skip(1)) {
            let starts_with_image = next.tokens()[0] == composer.layout.vocabulary.boi();
            prop_assert!(row.used() == CONTEXT || starts_with_image);
        }
    }
}

fn tokens_of(rows: &[Row]) -> Vec<Vec<String>> {
    let name = |id: &u32| match id.checked_sub(TOKENIZER.vocabulary_size()) {
        None => TOKENIZER.piece(*id).replace('▁', ""),
        Some(marker) => ["BOI", "EOI", "#", "."][marker as usize].to_owned(),
    };
    rows.iter().map(|row| row.tokens().iter().map(name).collect()).collect()
}

#[test]
fn a_long_text_fills_whole_rows_and_its_rest_is_packed_like_a_document() {
    let composer = composer(Packing::default());
    let inputs = [Input::Text(10), Input::Text(50), Input::Text(5)];
    let rows = pack(&documents(&inputs, &composer), &composer);
    // 52 positions: two whole rows leave first, the rest of 4 goes to the row of the first text.
    let kept: Vec<Vec<(u64, u64, usize)>> = rows
        .iter()
        .map(|row| {
            let piece = |(index, range): (usize, Range<usize>)| {
                let source = &row.sources()[index];
                (source.row, source.first_token, range.len())
            };
            row.documents().map(piece).collect()
        })
        .collect();
    assert_eq!(kept, [vec![(1, 0, 24)], vec![(1, 24, 24)], vec![(0, 0, 12), (1, 48, 4), (2, 0, 7)]]);
    // Nothing was added at the cuts, positions start anew there, and the last token before a cut has no target.
    let markers = rows
        .iter()
        .flat_map(|row| row.tokens())
        .filter(|&&id| id == TOKENIZER.bos() || id == TOKENIZER.eos());
    assert_eq!(markers.count(), 6);
    assert_eq!(rows[1].positions()[..3], [0, 1, 2]);
    let targets = rows[0].text_targets(composer.layout.vocabulary);
    assert!(targets[..23].iter().all(Option::is_some) && targets[23].is_none());
}

#[test]
fn an_interleaved_document_is_cut_between_its_parts() {
    let composer = composer(Packing::default());
    let pieces = vec![Piece::Text(3), Piece::Image(8), Piece::Image(9), Piece::Text(2)];
    let rows = pack(&documents(&[Input::Interleaved(pieces)], &composer), &composer);
    let text = |row: &Vec<String>| row.join(" ");
    let texts: Vec<String> = tokens_of(&rows).iter().map(text).collect();
    assert_eq!(
        texts,
        [
            "<s> a b c BOI # # # # # # # # EOI . . . . . . . . . .",
            "BOI # # # # # # # # # EOI a b </s> . . . . . . . . . .",
        ]
    );
    assert_eq!(rows[1].sources()[0].first_token, 14);
}

#[test]
fn sequence_packing_ends_a_row_before_an_image_that_does_not_fit() {
    let composer = composer(Packing::Sequence);
    let pieces = vec![Piece::Text(3), Piece::Image(8), Piece::Image(9), Piece::Text(30)];
    let rows = pack(&documents(&[Input::Interleaved(pieces)], &composer), &composer);
    let used: Vec<u32> = rows.iter().map(Row::used).collect();
    assert_eq!(used, [14, 24, 18]);
}

#[test]
fn what_can_not_be_cut_and_is_longer_than_a_row_is_refused() {
    let too_long =
        |packing, input| document(&input, 0, &composer(packing)).err() == Some(RejectReason::TooLong);
    let best_fit = Packing::default();
    // BOS, 8 words, BOI, 12 patches, EOI, EOS: 24 positions, and one more.
    assert!(!too_long(best_fit, Input::Pair(8, 12)) && too_long(best_fit, Input::Pair(9, 12)));
    assert!(!too_long(best_fit, Input::Text(1000)));
    assert!(too_long(best_fit, Input::Interleaved(vec![Piece::Image(23), Piece::Text(1)])));
    assert!(too_long(best_fit, Input::Interleaved(vec![Piece::Text(30), Piece::Text(1)])));
    assert!(
        !too_long(Packing::Sequence, Input::Pair(900, 22)) && too_long(Packing::Sequence, Input::Pair(1, 23))
    );
}

#[test]
fn blank_texts_are_empty_and_shift_nothing() {
    let composer = composer(Packing::default());
    for blank in ["", " ", "\n\t\u{3000}"] {
        assert_eq!(composer.text(blank, &origin(1)).unwrap_err().reason, RejectReason::Empty);
        assert_eq!(
            composer.pair(blank, latent(2, 2, 1), &origin(1)).unwrap_err().reason,
            RejectReason::Empty
        );
    }
    assert_eq!(
        composer.interleaved(vec![Part::Text(String::new())], &origin(1)).unwrap_err().reason,
        RejectReason::Empty
    );
    let kept = [composer.text("a", &origin(0)).unwrap(), composer.text("b", &origin(2)).unwrap()];
    let rows = pack(&kept, &composer);
    let found: Vec<u64> = rows[0].sources().iter().map(|source| source.row).collect();
    assert_eq!(found, [0, 2]);
}

#[test]
fn no_documents_give_no_rows() {
    assert!(pack(&[], &composer(Packing::default())).is_empty());
    assert!(pack(&[], &composer(Packing::Sequence)).is_empty());
}

#[test]
fn the_order_of_a_pair_is_drawn_from_its_row() {
    let composer = Composer {
        layout: RowLayout { context: 64, ..composer(Packing::default()).layout },
        ..composer(Packing::default())
    };
    let orders: Vec<Order> = (0..2000).map(|row| composer.order(&origin(row))).collect();
    let first = orders.iter().filter(|&&order| order == Order::CaptionFirst).count();
    // 1,600 expected, standard deviation 18.
    assert!((1510..1690).contains(&first), "{first}");
    let row = orders.iter().position(|&order| order == Order::ImageFirst).unwrap() as u64;
    let document = composer.pair("a b", latent(2, 4, row), &origin(row)).unwrap();
    let (v, t) = (composer.layout.vocabulary, &composer.tokenizer);
    let caption = t.encode("a b");
    let expected = [&[t.bos(), v.boi(), v.patch(), v.patch(), v.eoi()][..], &caption, &[t.eos()]].concat();
    assert_eq!((document.tokens(), document.provenance().order), (&expected[..], Order::ImageFirst));
    let never = Composer { caption_first: 0.0, ..composer.clone() };
    assert!((0..100).all(|row| never.order(&origin(row)) == Order::ImageFirst));
    let always = Composer { caption_first: 1.0, ..composer };
    assert!((0..100).all(|row| always.order(&origin(row)) == Order::CaptionFirst));
}

#[test]
fn latents_that_no_half_float_can_hold_are_refused() {
    let latent =
        |values: &[f32]| crate::document::latent(values, [1, 1, 2], false).map_err(|reject| reject.reason);
    assert_eq!(latent(&[65_504.0, -65_504.0]).unwrap().values.len(), 2);
    for bad in [65_505.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -70_000.0] {
        assert_eq!(latent(&[0.0, bad]), Err(RejectReason::LatentNotFinite));
    }
}
