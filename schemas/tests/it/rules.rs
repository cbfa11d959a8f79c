//! The attention rule, positions and text targets on rows made by hand.

use proptest::prelude::*;
use schemas::{AttentionRule, Modality, Order, Row, RowError, RowLayout, Span, Vocabulary};

use crate::rows::{Builder, Document, Part, any_row, latent, layout, source};

/// Two documents: caption and image, then image and caption; then padding.
fn two_pairs() -> (Row, RowLayout) {
    let layout = layout(40);
    let text = |ids: &[u32], image| Part { text: ids.to_vec(), image, loss: true };
    let caption_first = vec![text(&[1, 5, 6], Some(latent(4, 4))), text(&[2], None)];
    let image_first = vec![text(&[1], Some(latent(2, 4))), text(&[7, 8, 2], None)];
    let documents = [
        Document { parts: caption_first, source: source(0, Order::CaptionFirst) },
        Document { parts: image_first, source: source(1, Order::ImageFirst) },
    ];
    (Builder::row(&documents, &layout), layout)
}

fn seen(row: &Row, rule: AttentionRule, query: usize) -> Vec<usize> {
    (0..row.tokens().len()).filter(|&key| rule.may_attend(row.spans(), query, key)).collect()
}

#[test]
fn text_sees_only_the_past_of_its_document() {
    let (row, _) = two_pairs();
    let rule = AttentionRule::default();
    assert_eq!(seen(&row, rule, 2), [0, 1, 2]);
    // BOI at 3 does not see the image behind it, EOI at 8 sees all of it.
    assert_eq!(seen(&row, rule, 3), [0, 1, 2, 3]);
    assert_eq!(seen(&row, rule, 8), (0..9).collect::<Vec<_>>());
    // The second document starts at 10 and sees nothing of the first.
    assert_eq!(seen(&row, rule, 10), [10]);
    assert_eq!(seen(&row, rule, 15), (10..16).collect::<Vec<_>>());
}

#[test]
fn a_patch_sees_its_whole_image_and_what_stands_before() {
    let (row, _) = two_pairs();
    for patch in 4..8 {
        assert_eq!(seen(&row, AttentionRule::default(), patch), (0..8).collect::<Vec<_>>());
    }
    for patch in 12..14 {
        assert_eq!(seen(&row, AttentionRule::default(), patch), (10..14).collect::<Vec<_>>());
    }
}

#[test]
fn the_switches_do_what_they_say() {
    let (row, _) = two_pairs();
    let causal = AttentionRule { causal_images: true, ..AttentionRule::default() };
    assert_eq!(seen(&row, causal, 5), (0..6).collect::<Vec<_>>());
    let across = AttentionRule { across_documents: true, ..AttentionRule::default() };
    assert_eq!(seen(&row, across, 10), (0..11).collect::<Vec<_>>());
    assert_eq!(seen(&row, across, 12), (0..14).collect::<Vec<_>>());
}

#[test]
fn padding_neither_sees_nor_is_seen() {
    let (row, _) = two_pairs();
    let used = row.used() as usize;
    for rule in [AttentionRule::default(), AttentionRule { across_documents: true, causal_images: false }] {
        assert!(seen(&row, rule, used).is_empty());
        assert!((0..used).all(|query| seen(&row, rule, query).iter().all(|&key| key < used)));
    }
}

#[test]
fn positions_restart_in_each_document() {
    let (row, _) = two_pairs();
    let expected: Vec<u32> = (0..10).chain(0..8).chain(std::iter::repeat_n(0, 30)).collect();
    assert_eq!(row.positions(), expected);
}

/// The row of the reference file `loss.safetensors`: `ids`, `document` and `targets`, -100 where there is none.
#[test]
fn text_targets_are_those_of_the_reference() {
    let vocabulary = Vocabulary::text(38);
    let layout = RowLayout { context: 42, patch: 2, vocabulary };
    #[rustfmt::skip]
    let ids: [i64; 42] = [
        1, 5, 9, 17, 4, 38, -1, -1, -1, -1, 39, 2,
        1, 38, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 39, 23, 8, 31, 38, -1, 39, 12, 2,
        0, 0, 0,
    ];
    #[rustfmt::skip]
    let targets: [i64; 42] = [
        5, 9, 17, 4, 38, -100, -100, -100, -100, -100, 2, -100,
        38, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, 23,
        8, 31, 38, -100, -100, 12, 2, -100,
        -100, -100, -100,
    ];
    let span = |document, start, len, modality, image| {
        let loss = modality != Modality::Padding;
        Span { document, start, len, modality, image, loss }
    };
    let spans = vec![
        span(0, 0, 6, Modality::Text, None),
        span(0, 6, 4, Modality::Image, Some(0)),
        span(0, 10, 2, Modality::Text, None),
        span(1, 12, 2, Modality::Text, None),
        span(1, 14, 16, Modality::Image, Some(1)),
        span(1, 30, 5, Modality::Text, None),
        span(1, 35, 1, Modality::Image, Some(2)),
        span(1, 36, 3, Modality::Text, None),
        span(2, 39, 3, Modality::Padding, None),
    ];
    let tokens = ids.iter().enumerate().map(|(position, &id)| match u32::try_from(id) {
        Ok(_) if position >= 39 => vocabulary.padding(),
        Ok(id) => id,
        Err(_) => vocabulary.patch(),
    });
    let images = vec![latent(4, 4), latent(8, 8), latent(2, 2)];
    let sources = vec![source(0, Order::CaptionFirst), source(1, Order::ImageFirst)];
    let row = Row::try_new(tokens.collect(), spans, images, sources, &layout).unwrap();
    let expected: Vec<Option<u32>> = targets.iter().map(|&target| u32::try_from(target).ok()).collect();
    assert_eq!(row.text_targets(vocabulary), expected);
    assert_eq!(expected.iter().flatten().count(), 13);
}

#[test]
fn what_is_context_only_is_no_target() {
    let layout = layout(40);
    let part = |ids: &[u32], loss| Part { text: ids.to_vec(), image: Some(latent(2, 2)), loss };
    let parts = vec![part(&[1, 5], false), part(&[6, 7], true)];
    let row = Builder::row(&[Document { parts, source: source(0, Order::Neither) }], &layout);
    let targets = row.text_targets(layout.vocabulary);
    // BOS 5 BOI patch | EOI 6 7 BOI patch | EOI
    assert_eq!(targets[..4], [None; 4]);
    assert_eq!(targets[4..7], [Some(6), Some(7), Some(layout.vocabulary.boi())]);
    assert!(targets[7..].iter().all(Option::is_none));
}

/// A row taken apart, so that a test can break it.
type Parts = (Vec<u32>, Vec<Span>, Vec<schemas::Latent>, Vec<schemas::Provenance>);

fn broken(break_it: impl FnOnce(&mut Parts)) -> RowError {
    let (row, layout) = two_pairs();
    let mut parts =
        (row.tokens().to_vec(), row.spans().to_vec(), row.images().to_vec(), row.sources().to_vec());
    break_it(&mut parts);
    Row::try_new(parts.0, parts.1, parts.2, parts.3, &layout).expect_err("a broken row")
}

#[test]
fn every_broken_invariant_is_refused() {
    let span = |error: &RowError| matches!(error, RowError::Span { .. });
    assert!(matches!(broken(|row| row.0.truncate(47)), RowError::Length { expected: 48, found: 47 }));
    assert!(matches!(broken(|row| row.1[1].start += 1), RowError::Tiling { span: 1, expected: 4, found: 5 }));
    assert!(matches!(broken(|row| row.1.truncate(6)), RowError::Tiling { .. }));
    assert!(span(&broken(|row| row.1[0].len = 0)));
    assert!(span(&broken(|row| row.1[6].len = u32::MAX)));
    assert!(span(&broken(|row| row.1[3].document = 2)));
    assert!(span(&broken(|row| row.1[1].image = None)));
    assert!(span(&broken(|row| row.1[1].image = Some(1))));
    assert!(span(&broken(|row| row.1[0].image = Some(0))));
    assert!(span(&broken(|row| row.1[6].loss = true)));
    assert!(span(&broken(|row| drop(row.3.pop()))));
    assert!(span(&broken(|row| row.0[3] = 5)));
    assert!(matches!(broken(|row| row.0[1] = 42), RowError::Token { position: 1, token: 42, .. }));
    assert!(matches!(broken(|row| row.0[5] = 1), RowError::Token { position: 5, .. }));
    assert!(matches!(broken(|row| row.0[47] = 0), RowError::Token { position: 47, .. }));
    assert!(matches!(broken(|row| drop(row.2.pop())), RowError::Image { .. }));
    assert!(matches!(broken(|row| row.2[0].values.truncate(31)), RowError::Image { image: 0, .. }));
    assert!(matches!(broken(|row| row.2[1].values[0] = half::f16::NAN), RowError::Image { image: 1, .. }));
    assert!(matches!(broken(|row| row.2[0].moments = true), RowError::Image { image: 0, .. }));
    assert!(matches!(broken(|row| row.2.swap(0, 1)), RowError::Image { image: 0, .. }));
}

proptest! {
    #[test]
    fn documents_tile_what_is_used(row in any_row(layout(300))) {
        let ranges: Vec<_> = row.documents().collect();
        prop_assert_eq!(ranges.len(), row.sources().len());
        let mut end = 0;
        for (index, (document, range)) in ranges.into_iter().enumerate() {
            prop_assert_eq!((document, range.start), (index, end));
            end = range.end;
        }
        prop_assert_eq!(end as u32, row.used());
        prop_assert_eq!(row.text_positions() + row.patch_positions(), row.used());
    }

    #[test]
    fn attention_keeps_the_paper_s_rule(row in any_row(layout(300)), query in 0usize..48, key in 0usize..48) {
        let may = AttentionRule::default().may_attend(row.spans(), query, key);
        let of = |position: usize| row.spans().iter().find(|span| span.range().contains(&position)).unwrap();
        let (from, to) = (of(query), of(key));
        let padded = from.modality == Modality::Padding || to.modality == Modality::Padding;
        let one_image = from.modality == Modality::Image && from.start == to.start;
        prop_assert_eq!(may, !padded && from.document == to.document && (key <= query || one_image));
    }
}
