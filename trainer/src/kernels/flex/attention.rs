//! Softmax attention within segments, in memory linear in the number of positions.
//!
//! Sixteen queries of one head are worked on side by side: the *panel* `s[key][query]` of their scores against a block of keys
//! is small enough for the first-level cache, and the maximum, the exponentials and the sums over keys are all elementwise
//! operations over its rows. Keys are passed block by block with a running maximum and sum (Milakov & Gimelshein 2018, as in
//! FlashAttention); the backward pass computes the panels again from the saved log-sum-exp.
//!
//! A query sees a prefix of its segment's keys that grows with its position ([`Segment::visible`]), so what a panel must
//! not see is the end of the keys, and is skipped.
//!
//! Forward, a task owns up to [`QUERIES`] output rows. Backward, a task owns the segment's rows of all three
//! gradients, or one head of them where the segment is long. Results don't depend on who computes what.

mod backward;
mod forward;

use std::sync::Arc;

use burn_flex::FlexTensor;

use super::{
    tensors::{Gradients, dense, sizes, tensor, values},
    vector::LANES,
};
use crate::kernels::types::Segment;

/// Queries that share a copy of a block of keys and values.
const QUERIES: usize = 128;

/// Keys whose scores exist at once for a panel: 8 KiB.
const KEYS: usize = 128;

/// Work (scores times head size) below which neighbouring tasks are joined.
const LITTLE: usize = 1 << 18;

#[derive(Debug, Clone)]
pub(crate) struct Kept {
    q_nhd: FlexTensor,
    k_mhd: FlexTensor,
    v_mhd: FlexTensor,
    output_nhd: FlexTensor,
    /// Log of the softmax's denominator by query and head.
    normalizers_nh: Arc<[f32]>,
    segments: Arc<[Segment]>,
}

/// Queries, keys and values, and how to find a head in them.
#[derive(Debug, Clone, Copy)]
struct Slices<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    heads: usize,
    width: usize,
}

impl Slices<'_> {
    /// Values from one position to the next.
    fn stride(&self) -> usize {
        self.heads * self.width
    }

    /// `1 / sqrt(width)`.
    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }
}

pub(crate) fn forward(
    q_nhd: FlexTensor,
    k_mhd: FlexTensor,
    v_mhd: FlexTensor,
    segments: Arc<[Segment]>,
) -> (FlexTensor, Kept) {
    let (q_nhd, k_mhd, v_mhd) = (dense(q_nhd), dense(k_mhd), dense(v_mhd));
    let ([n, heads, width], [m, ..]) = (sizes::<3>(&q_nhd), sizes::<3>(&k_mhd));
    assert_eq!([m, heads, width], sizes(&k_mhd), "keys have the queries' heads");
    assert_eq!([m, heads, width], sizes(&v_mhd), "values have the keys' shape");
    check(&segments, n, m);
    let inputs = Slices { q: values(&q_nhd), k: values(&k_mhd), v: values(&v_mhd), heads, width };
    let (output, normalizers) = forward::attend(inputs, n, &segments);
    let output_nhd = tensor(output, [n, heads, width]);
    let normalizers_nh = normalizers.into();
    (output_nhd.clone(), Kept { q_nhd, k_mhd, v_mhd, output_nhd, normalizers_nh, segments })
}

pub(crate) fn backward(kept: Kept, dy_nhd: FlexTensor, _: [bool; 3]) -> Gradients<3> {
    let dy_nhd = dense(dy_nhd);
    let ([n, heads, width], [m, ..]) = (sizes::<3>(&kept.q_nhd), sizes::<3>(&kept.k_mhd));
    let (q, k, v) = (values(&kept.q_nhd), values(&kept.k_mhd), values(&kept.v_mhd));
    let inputs = backward::BackwardSlices {
        forward: Slices { q, k, v, heads, width },
        output: values(&kept.output_nhd),
        d_output: values(&dy_nhd),
        normalizers: &kept.normalizers_nh,
    };
    let [dq, dk, dv] = backward::differentiate(inputs, n, m, &kept.segments);
    let shape = |values, rows| Some(tensor(values, [rows, heads, width]));
    [shape(dq, n), shape(dk, m), shape(dv, m)]
}

/// Panics unless the segments lie in the tensors, and their queries ascend.
fn check(segments: &[Segment], queries: usize, keys: usize) {
    let mut end = 0;
    for segment in segments {
        segment.check(queries, keys);
        assert!(segment.queries.start >= end, "segments must have ascending, disjoint queries");
        end = segment.queries.end;
    }
}

/// How many columns of panels `queries` queries need.
fn padded(queries: usize) -> usize {
    queries.next_multiple_of(LANES)
}

/// Copies one head of `rows` rows into a contiguous block, `to` wide, the columns past `width` zero.
fn copy_head(block: &mut [f32], to: usize, from: &[f32], stride: usize, width: usize) {
    for (block, from) in block.chunks_exact_mut(to).zip(from.chunks(stride)) {
        block[..width].copy_from_slice(&from[..width]);
        block[width..].fill(0.0);
    }
}

/// Writes one head of up to [`LANES`] rows into a panel: row d of the panel is dimension d of all of them, times
/// `factor`; columns without a row are zero.
fn copy_panel(panel: &mut [f32], from: &[f32], stride: usize, width: usize, rows: usize, factor: f32) {
    // A column without a row reads the first one, times zero.
    let sources: [&[f32]; LANES] =
        std::array::from_fn(|row| &from[if row < rows { row * stride } else { 0 }..][..width]);
    let factors: [f32; LANES] = std::array::from_fn(|row| if row < rows { factor } else { 0.0 });
    for (dimension, slots) in panel.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        for row in 0..LANES {
            slots[row] = sources[row][dimension] * factors[row];
        }
    }
}

/// Joins neighbouring items that are little work, so that short documents cost no more than long ones.
fn tasks<T>(items: Vec<T>, work_of: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut tasks: Vec<Vec<T>> = Vec::new();
    let mut work = LITTLE;
    for item in items {
        if work >= LITTLE {
            tasks.push(Vec::new());
            work = 0;
        }
        work += work_of(&item);
        tasks.last_mut().expect("a task was begun").push(item);
    }
    tasks
}

/// Splits `count` values off `rest`, behind `skipped` that are dropped.
fn split_rows<'a>(rest: &mut &'a mut [f32], skipped: usize, count: usize) -> &'a mut [f32] {
    let (_, after) = std::mem::take(rest).split_at_mut(skipped);
    let (rows, after) = after.split_at_mut(count);
    *rest = after;
    rows
}
