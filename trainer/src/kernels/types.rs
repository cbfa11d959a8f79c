//! The plain data that operations get beside their tensors: which queries see which keys, rotary angles, targets, windows of
//! convolutions, groups of norms.

use std::{ops::Range, sync::Arc};

/// One stretch of queries that sees one stretch of keys: a document, or what is left of one.
///
/// Query `i` of the segment stands at key position `keys.len() - queries.len() + i`, so that a document seen whole
/// (`queries == keys`) and the newest positions behind a key-value cache are the same thing.
///
/// A query sees the keys up to its own position; inside an image it sees the whole image too. Either way it sees a
/// *prefix* of the segment's keys, [`Segment::visible`] long, and that is all the operations need to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Rows of the query tensor.
    pub queries: Range<usize>,
    /// Rows of the key and value tensors, at least as many as queries.
    pub keys: Range<usize>,
    /// Ranges of key positions, counted from the segment's first key, that are images: ascending, apart.
    /// Empty for causal attention everywhere.
    pub images: Vec<Range<usize>>,
}

impl Segment {
    /// A document without images whose keys are its own positions.
    pub fn causal(positions: Range<usize>) -> Self {
        Self { queries: positions.clone(), keys: positions, images: Vec::new() }
    }

    /// How many of the segment's first keys query `query` (counted within the segment) sees.
    pub fn visible(&self, query: usize) -> usize {
        let position = self.keys.len() - self.queries.len() + query;
        let image = self.images.iter().find(|image| image.contains(&position));
        image.map_or(position + 1, |image| image.end.min(self.keys.len()))
    }

    /// Panics unless the segment fits `queries` and `keys` rows.
    pub(crate) fn check(&self, queries: usize, keys: usize) {
        assert!(
            self.queries.start <= self.queries.end && self.queries.end <= queries,
            "queries {:?} of a segment lie outside the {queries} rows",
            self.queries
        );
        assert!(
            self.keys.start <= self.keys.end && self.keys.end <= keys,
            "keys {:?} of a segment lie outside the {keys} rows",
            self.keys
        );
        assert!(
            self.queries.len() <= self.keys.len(),
            "a segment has {} queries but {} keys",
            self.queries.len(),
            self.keys.len()
        );
    }
}

/// Cosines and sines of the rotary embedding at given positions, in Hugging Face's layout: dimension `i` of a head
/// turns together with dimension `i + head_dim / 2`, by the angle `position * theta^(-2 i / head_dim)`.
///
/// Angles are computed in f64 and rounded once. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rotary {
    /// One row of `head_dim / 2` cosines a position.
    pub(crate) cosines: Arc<[f32]>,
    /// One row of `head_dim / 2` sines a position.
    pub(crate) sines: Arc<[f32]>,
    half: usize,
}

impl Rotary {
    /// Angles for the positions `positions`, one a row of the tensor that is turned.
    ///
    /// # Panics
    /// If `head_dim` is odd or zero.
    pub fn new(positions: &[u32], head_dim: usize, theta: f64) -> Self {
        assert!(
            head_dim > 0 && head_dim.is_multiple_of(2),
            "rotary embedding needs an even head, got {head_dim}"
        );
        let half = head_dim / 2;
        let rates: Vec<f64> = (0..half).map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64)).collect();
        let angles =
            positions.iter().flat_map(|&position| rates.iter().map(move |rate| f64::from(position) * rate));
        let (sines, cosines): (Vec<f32>, Vec<f32>) =
            angles.map(|angle| (angle.sin() as f32, angle.cos() as f32)).unzip();
        Self { cosines: cosines.into(), sines: sines.into(), half }
    }

    /// Half the size of a head.
    pub fn half(&self) -> usize {
        self.half
    }

    /// The number of positions.
    pub fn positions(&self) -> usize {
        self.cosines.len() / self.half
    }
}

/// One next-token target: the row of hidden states that predicts, and the token it should predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Row of the hidden states.
    pub row: u32,
    /// Token id, a row of the output matrix.
    pub id: u32,
}

/// How a convolution's window moves: a square of `kernel` x `kernel`, every `stride` pixels, with rows and columns of
/// zeros before (top, left) and after (bottom, right) the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) before: usize,
    pub(crate) after: usize,
}

impl Window {
    /// One pixel.
    pub(crate) const POINT: Self = Self { kernel: 1, stride: 1, before: 0, after: 0 };
    /// 3 x 3, the picture keeps its size.
    pub(crate) const SAME: Self = Self { kernel: 3, stride: 1, before: 1, after: 1 };
    /// 3 x 3 that halves the picture; zeros at the bottom and on the right only, as the diffusers layout has it.
    pub(crate) const HALVE: Self = Self { kernel: 3, stride: 2, before: 0, after: 1 };

    /// Outputs along an axis of `length` pixels.
    pub(crate) fn outputs(self, length: usize) -> usize {
        (length + self.before + self.after + self.stride).saturating_sub(self.kernel) / self.stride
    }
}

/// The settings of a group norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NormSettings {
    pub(crate) groups: usize,
    /// Added to the variance.
    pub(crate) epsilon: f32,
    /// Whether SiLU follows.
    pub(crate) silu: bool,
}
