//! The backward pass. With weights `p = softmax(s)`, output `o`, its gradient `do` and `delta = sum(do o)` of a query:
//!
//! `dv = p^T do`, `dp = do v^T`, `ds = p (dp - delta)`, `dq = scale ds k`, `dk = scale ds^T q`.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    KEYS, QUERIES, copy_head, copy_panel,
    forward::{hide, seen},
    padded, split_rows, tasks,
};
use crate::kernels::{
    flex::{
        tile::{add_product, add_product_transposed},
        vector::{LANES, dot, exp, vectorized},
    },
    types::Segment,
};

/// A segment with more scores a head than this is shared out by heads.
const LONG: usize = 1 << 14;

/// The values that the backward pass reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct BackwardSlices<'a> {
    pub(super) forward: super::Slices<'a>,
    pub(super) output: &'a [f32],
    pub(super) d_output: &'a [f32],
    pub(super) normalizers: &'a [f32],
}

/// A segment and its rows of the three gradients.
struct SegmentRows<'a> {
    segment: &'a Segment,
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

/// The gradients of queries (`n` rows), keys and values (`m` rows).
pub(super) fn differentiate(
    inputs: BackwardSlices<'_>,
    n: usize,
    m: usize,
    segments: &[Segment],
) -> [Vec<f32>; 3] {
    let stride = inputs.forward.stride();
    let mut gradients = [vec![0.0; n * stride], vec![0.0; m * stride], vec![0.0; m * stride]];
    let [dq, dk, dv] = &mut gradients;
    let work = |rows: &SegmentRows<'_>| rows.segment.queries.len() * rows.segment.keys.len() * stride;
    let tasks = tasks(split(segments, stride, dq, dk, dv), work);
    tasks.into_par_iter().for_each_init(Scratch::default, |scratch, task| {
        for rows in task {
            if rows.segment.queries.len() * rows.segment.keys.len() > LONG {
                by_heads(inputs, rows);
            } else {
                (0..inputs.forward.heads).for_each(|head| {
                    scratch.differentiate(inputs, rows.segment, head);
                    scratch.write(inputs.forward, head, &mut *rows.dq, &mut *rows.dk, &mut *rows.dv);
                });
            }
        }
    });
    gradients
}

fn split<'a>(
    segments: &'a [Segment],
    stride: usize,
    mut dq: &'a mut [f32],
    mut dk: &'a mut [f32],
    mut dv: &'a mut [f32],
) -> Vec<SegmentRows<'a>> {
    let (mut queries, mut keys) = (0, 0);
    let mut all = Vec::with_capacity(segments.len());
    for segment in segments {
        assert!(segment.keys.start >= keys, "gradients of keys need segments with ascending, disjoint keys");
        let skip = |range: &Range<usize>, done: usize| ((range.start - done) * stride, range.len() * stride);
        let ((skipped_queries, query_values), (skipped_keys, key_values)) =
            (skip(&segment.queries, queries), skip(&segment.keys, keys));
        (queries, keys) = (segment.queries.end, segment.keys.end);
        all.push(SegmentRows {
            segment,
            dq: split_rows(&mut dq, skipped_queries, query_values),
            dk: split_rows(&mut dk, skipped_keys, key_values),
            dv: split_rows(&mut dv, skipped_keys, key_values),
        });
    }
    all
}

/// Each head is a task with buffers of its own; then the rows are put together.
fn by_heads(inputs: BackwardSlices<'_>, rows: SegmentRows<'_>) {
    let heads: Vec<Scratch> = (0..inputs.forward.heads)
        .into_par_iter()
        .map(|head| {
            let mut scratch = Scratch::default();
            scratch.differentiate(inputs, rows.segment, head);
            scratch
        })
        .collect();
    for (head, scratch) in heads.iter().enumerate() {
        scratch.write(inputs.forward, head, &mut *rows.dq, &mut *rows.dk, &mut *rows.dv);
    }
}

/// Buffers of one task. The gradients are those of one head of one segment, rows `wide` apart.
#[derive(Default)]
struct Scratch {
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    panels: Vec<Panel>,
    weights: Vec<f32>,
    d_scores: Vec<f32>,
    visible: Vec<usize>,
}

/// Sixteen queries of one head.
#[derive(Default)]
struct Panel {
    /// Scaled queries and gradients of the output, `[dimension][query]`.
    queries: Vec<f32>,
    d_outputs: Vec<f32>,
    /// The same, `[query][dimension]`, padded to whole panels.
    query_rows: Vec<f32>,
    d_output_rows: Vec<f32>,
    /// Gradient of the queries before scaling, `[dimension][query]`.
    dq: Vec<f32>,
    normalizers: [f32; LANES],
    deltas: [f32; LANES],
}

impl Scratch {
    /// Fills `dq`, `dk` and `dv` with one head of one segment.
    fn differentiate(&mut self, inputs: BackwardSlices<'_>, segment: &Segment, head: usize) {
        let width = inputs.forward.width;
        let wide = padded(width);
        resize_zeroed(&mut self.dq, segment.queries.len() * width);
        resize_zeroed(&mut self.dk, segment.keys.len() * wide);
        resize_zeroed(&mut self.dv, segment.keys.len() * wide);
        self.keys.resize(KEYS * width, 0.0);
        self.values.resize(KEYS * width, 0.0);
        self.weights.resize(KEYS * LANES, 0.0);
        self.d_scores.resize(KEYS * LANES, 0.0);
        for start in (0..segment.queries.len()).step_by(QUERIES) {
            let queries = start..segment.queries.len().min(start + QUERIES);
            self.begin(inputs, segment, queries.clone(), head);
            self.pass_keys(inputs.forward, segment, head);
            self.finish(inputs.forward, queries);
        }
    }

    fn begin(&mut self, inputs: BackwardSlices<'_>, segment: &Segment, queries: Range<usize>, head: usize) {
        self.visible.clear();
        self.visible.extend(queries.clone().map(|query| segment.visible(query)));
        self.panels.resize_with(padded(queries.len()) / LANES, Panel::default);
        for (index, panel) in self.panels.iter_mut().enumerate() {
            let first = segment.queries.start + queries.start + index * LANES;
            panel.begin(inputs, first, LANES.min(queries.len() - index * LANES), head);
        }
    }

    fn pass_keys(&mut self, inputs: super::Slices<'_>, segment: &Segment, head: usize) {
        let (stride, width) = (inputs.stride(), inputs.width);
        let limit = *self.visible.last().expect("a block has queries");
        for start in (0..limit).step_by(KEYS) {
            let keys = KEYS.min(limit - start);
            let from = (segment.keys.start + start) * stride + head * width;
            copy_head(&mut self.keys[..keys * width], width, &inputs.k[from..], stride, width);
            copy_head(&mut self.values[..keys * width], width, &inputs.v[from..], stride, width);
            self.pass_panels(width, start, keys);
        }
    }

    fn pass_panels(&mut self, width: usize, start: usize, keys: usize) {
        let wide = padded(width);
        for (index, panel) in self.panels.iter_mut().enumerate() {
            let visible = seen(&self.visible, index, start, keys);
            let most = visible[LANES - 1];
            if most > 0 {
                let rows = start * wide..(start + most) * wide;
                pass(
                    panel,
                    &mut self.dk[rows.clone()],
                    &mut self.dv[rows],
                    &mut self.weights[..most * LANES],
                    &mut self.d_scores[..most * LANES],
                    &self.keys,
                    &self.values,
                    &visible,
                    width,
                );
            }
        }
    }

    fn finish(&mut self, inputs: super::Slices<'_>, queries: Range<usize>) {
        let (width, scale) = (inputs.width, inputs.scale());
        for (row, query) in queries.enumerate() {
            let column = self.panels[row / LANES].dq.iter().skip(row % LANES).step_by(LANES);
            let out = self.dq[query * width..][..width].iter_mut();
            out.zip(column).for_each(|(out, sum)| *out = sum * scale);
        }
    }

    /// Copies the gradients to their places among the other heads.
    fn write(&self, inputs: super::Slices<'_>, head: usize, dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
        let (stride, width) = (inputs.stride(), inputs.width);
        let place = |out: &mut [f32], from: &[f32], from_stride: usize| {
            for (out, from) in out.chunks_exact_mut(stride).zip(from.chunks_exact(from_stride)) {
                out[head * width..][..width].copy_from_slice(&from[..width]);
            }
        };
        place(dq, &self.dq, width);
        place(dk, &self.dk, padded(width));
        place(dv, &self.dv, padded(width));
    }
}

impl Panel {
    /// Begins with `rows` queries of one head from row `first` on.
    fn begin(&mut self, inputs: BackwardSlices<'_>, first: usize, rows: usize, head: usize) {
        let BackwardSlices { forward, output, d_output, normalizers } = inputs;
        let (stride, width, wide) = (forward.stride(), forward.width, padded(forward.width));
        let at = first * stride + head * width;
        self.queries.resize(width * LANES, 0.0);
        self.d_outputs.resize(width * LANES, 0.0);
        copy_panel(&mut self.queries, &forward.q[at..], stride, width, rows, forward.scale());
        copy_panel(&mut self.d_outputs, &d_output[at..], stride, width, rows, 1.0);
        resize_zeroed(&mut self.query_rows, LANES * wide);
        resize_zeroed(&mut self.d_output_rows, LANES * wide);
        copy_head(&mut self.query_rows[..rows * wide], wide, &forward.q[at..], stride, width);
        copy_head(&mut self.d_output_rows[..rows * wide], wide, &d_output[at..], stride, width);
        self.query_rows.iter_mut().for_each(|value| *value *= forward.scale());
        resize_zeroed(&mut self.dq, width * LANES);
        // Columns without a query: a normalizer that makes every weight zero.
        self.normalizers = [f32::MAX; LANES];
        self.deltas = [0.0; LANES];
        for row in 0..rows {
            let place = at + row * stride..at + row * stride + width;
            self.normalizers[row] = normalizers[(first + row) * forward.heads + head];
            self.deltas[row] = inner(&output[place.clone()], &d_output[place]);
        }
    }
}

fn resize_zeroed(buffer: &mut Vec<f32>, length: usize) {
    buffer.clear();
    buffer.resize(length, 0.0);
}

vectorized! {
    fn inner(a: &[f32], b: &[f32]) -> f32 {
        dot::<FUSED>(a, b)
    }
}

/// Adds what sixteen queries and a block of keys give to all three gradients.
#[allow(clippy::too_many_arguments)]
fn pass(
    panel: &mut Panel,
    dk: &mut [f32],
    dv: &mut [f32],
    weights: &mut [f32],
    d_scores: &mut [f32],
    keys: &[f32],
    values: &[f32],
    visible: &[usize; LANES],
    width: usize,
) {
    let (count, wide) = (weights.len() / LANES, padded(width));
    weights.fill(0.0);
    d_scores.fill(0.0);
    add_product(weights, LANES, keys, width, &panel.queries, LANES, count, width);
    add_product(d_scores, LANES, values, width, &panel.d_outputs, LANES, count, width);
    hide(weights, visible, f32::MIN);
    score_gradients(weights, d_scores, &panel.normalizers, &panel.deltas);
    for column in (0..wide).step_by(LANES) {
        let (d_outputs, queries) = (&panel.d_output_rows[column..], &panel.query_rows[column..]);
        add_product(&mut dv[column..], wide, weights, LANES, d_outputs, wide, count, LANES);
        add_product(&mut dk[column..], wide, d_scores, LANES, queries, wide, count, LANES);
    }
    add_product_transposed(&mut panel.dq, LANES, keys, width, d_scores, LANES, width, count);
}

vectorized! {
    /// Scores become weights, and gradients of the weights gradients of the scores.
    fn score_gradients(
        weights: &mut [f32], d_scores: &mut [f32], normalizers: &[f32; LANES], deltas: &[f32; LANES],
    ) {
        let rows = weights.as_chunks_mut::<LANES>().0.iter_mut().zip(d_scores.as_chunks_mut::<LANES>().0);
        for (weights, d_scores) in rows {
            for lane in 0..LANES {
                weights[lane] = exp::<FUSED>(weights[lane] - normalizers[lane]);
                d_scores[lane] = weights[lane] * (d_scores[lane] - deltas[lane]);
            }
        }
    }
}
