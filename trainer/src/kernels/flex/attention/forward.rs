//! The forward pass: blocks of queries in parallel, their heads one after another.

use std::ops::Range;

use rayon::prelude::*;

use super::{KEYS, QUERIES, Slices, copy_head, copy_panel, padded, split_rows, tasks};
use crate::kernels::{
    flex::{
        tile::{add_product, add_product_transposed},
        vector::{LANES, exp, vectorized},
    },
    types::Segment,
};

/// A run of queries of one segment, and the rows of the output and of the normalizers that belong to it.
struct Block<'a> {
    segment: &'a Segment,
    /// Counted within the segment.
    queries: Range<usize>,
    output: &'a mut [f32],
    normalizers: &'a mut [f32],
}

/// The output of `n` rows, and the log-sum-exp of each row and head.
pub(super) fn attend(inputs: Slices<'_>, n: usize, segments: &[Segment]) -> (Vec<f32>, Vec<f32>) {
    let (mut output, mut normalizers) = (vec![0.0; n * inputs.stride()], vec![0.0; n * inputs.heads]);
    let blocks = split(inputs, segments, &mut output, &mut normalizers);
    let work = |block: &Block<'_>| {
        block.queries.len() * block.segment.visible(block.queries.end - 1) * inputs.stride()
    };
    tasks(blocks, work).into_par_iter().for_each_init(Scratch::default, |scratch, task| {
        task.into_iter().for_each(|block| scratch.attend(inputs, block));
    });
    (output, normalizers)
}

/// Cuts the output into the rows of each block.
fn split<'a>(
    inputs: Slices<'_>,
    segments: &'a [Segment],
    mut output: &'a mut [f32],
    mut normalizers: &'a mut [f32],
) -> Vec<Block<'a>> {
    let mut blocks = Vec::new();
    let mut done = 0;
    for segment in segments {
        for start in (0..segment.queries.len()).step_by(QUERIES) {
            let queries = start..segment.queries.len().min(start + QUERIES);
            let skipped = segment.queries.start + start - done;
            done += skipped + queries.len();
            let rows = split_rows(&mut output, skipped * inputs.stride(), queries.len() * inputs.stride());
            let logs = split_rows(&mut normalizers, skipped * inputs.heads, queries.len() * inputs.heads);
            blocks.push(Block { segment, queries, output: rows, normalizers: logs });
        }
    }
    blocks
}

/// Buffers of one task.
#[derive(Default)]
struct Scratch {
    /// Keys and values of a block, one head, contiguous.
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Queries and outputs by panel, `[dimension][query]`.
    queries: Vec<f32>,
    outputs: Vec<f32>,
    /// One panel of scores, `[key][query]`.
    scores: Vec<f32>,
    /// Running maximum and sum by query.
    running: Vec<Running>,
    /// Keys each query sees.
    visible: Vec<usize>,
}

/// The softmax of sixteen queries after some of their keys.
#[derive(Debug, Clone, Copy)]
struct Running {
    largest: [f32; LANES],
    sum: [f32; LANES],
}

impl Scratch {
    fn attend(&mut self, inputs: Slices<'_>, block: Block<'_>) {
        let panels = padded(block.queries.len()) / LANES;
        self.visible.clear();
        self.visible.extend(block.queries.clone().map(|query| block.segment.visible(query)));
        self.keys.resize(KEYS * inputs.width, 0.0);
        self.values.resize(KEYS * inputs.width, 0.0);
        self.scores.resize(KEYS * LANES, 0.0);
        self.queries.resize(panels * inputs.width * LANES, 0.0);
        self.outputs.resize(panels * inputs.width * LANES, 0.0);
        for head in 0..inputs.heads {
            self.begin(inputs, &block, head);
            self.pass_keys(inputs, &block, head);
            self.finish(inputs, block.output, block.normalizers, head);
        }
    }

    fn begin(&mut self, inputs: Slices<'_>, block: &Block<'_>, head: usize) {
        let (stride, width) = (inputs.stride(), inputs.width);
        let first = block.segment.queries.start + block.queries.start;
        let size = width * LANES;
        let panels = self.queries.chunks_exact_mut(size).enumerate();
        for (panel, queries) in panels {
            let rows = LANES.min(block.queries.len() - panel * LANES);
            let from = &inputs.q[(first + panel * LANES) * stride + head * width..];
            copy_panel(queries, from, stride, width, rows, inputs.scale());
        }
        self.outputs.fill(0.0);
        self.running.clear();
        let nothing = Running { largest: [f32::MIN; LANES], sum: [0.0; LANES] };
        self.running.resize(self.outputs.len() / size, nothing);
    }

    fn pass_keys(&mut self, inputs: Slices<'_>, block: &Block<'_>, head: usize) {
        let (stride, width) = (inputs.stride(), inputs.width);
        let limit = *self.visible.last().expect("a block has queries");
        for start in (0..limit).step_by(KEYS) {
            let keys = KEYS.min(limit - start);
            let from = (block.segment.keys.start + start) * stride + head * width;
            copy_head(&mut self.keys[..keys * width], width, &inputs.k[from..], stride, width);
            copy_head(&mut self.values[..keys * width], width, &inputs.v[from..], stride, width);
            for panel in 0..self.running.len() {
                self.pass_panel(width, panel, start, keys);
            }
        }
    }

    fn pass_panel(&mut self, width: usize, panel: usize, start: usize, keys: usize) {
        let visible = seen(&self.visible, panel, start, keys);
        let most = visible[LANES - 1];
        if most > 0 {
            let range = panel * width * LANES..(panel + 1) * width * LANES;
            pass(
                &mut self.outputs[range.clone()],
                &mut self.running[panel],
                &mut self.scores[..most * LANES],
                &self.queries[range],
                &self.keys,
                &self.values,
                &visible,
                width,
            );
        }
    }

    fn finish(&mut self, inputs: Slices<'_>, output: &mut [f32], normalizers: &mut [f32], head: usize) {
        let width = inputs.width;
        let rows = output.chunks_exact_mut(inputs.stride()).zip(normalizers.chunks_exact_mut(inputs.heads));
        for (row, (output, normalizers)) in rows.enumerate() {
            let (panel, lane) = (row / LANES, row % LANES);
            let Running { largest, sum } = &self.running[panel];
            normalizers[head] = largest[lane] + sum[lane].ln();
            let factor = 1.0 / sum[lane];
            let column = self.outputs[panel * width * LANES..].iter().skip(lane).step_by(LANES);
            output[head * width..][..width].iter_mut().zip(column).for_each(|(out, sum)| *out = sum * factor);
        }
    }
}

/// How many of the `keys` keys from `start` on each query of the panel sees; columns without a query see as much as the last one.
pub(super) fn seen(visible: &[usize], panel: usize, start: usize, keys: usize) -> [usize; LANES] {
    let last = visible.len() - 1;
    std::array::from_fn(|lane| visible[(panel * LANES + lane).min(last)].saturating_sub(start).min(keys))
}

/// Moves the running softmax of a panel and its sums of values past a block of keys. The number of rows of `scores` says how
/// many keys at least one of the queries sees.
#[allow(clippy::too_many_arguments)]
fn pass(
    outputs: &mut [f32],
    running: &mut Running,
    scores: &mut [f32],
    queries: &[f32],
    keys: &[f32],
    values: &[f32],
    visible: &[usize; LANES],
    width: usize,
) {
    let count = scores.len() / LANES;
    scores.fill(0.0);
    add_product(scores, LANES, keys, width, queries, LANES, count, width);
    hide(scores, visible, f32::MIN);
    weigh(outputs, scores, running);
    add_product_transposed(outputs, LANES, values, width, scores, LANES, width, count);
}

/// Overwrites what the queries must not see: for each column the keys from `visible` on.
pub(super) fn hide(panel: &mut [f32], visible: &[usize; LANES], value: f32) {
    for (lane, &visible) in visible.iter().enumerate() {
        panel.iter_mut().skip(visible * LANES + lane).step_by(LANES).for_each(|slot| *slot = value);
    }
}

vectorized! {
    /// Turns scores into weights relative to the new maximum, and brings everything summed before to that maximum.
    fn weigh(outputs: &mut [f32], scores: &mut [f32], running: &mut Running) {
        let rows = scores.as_chunks_mut::<LANES>().0;
        let mut largest = running.largest;
        for row in rows.iter() {
            for lane in 0..LANES {
                largest[lane] = if row[lane] > largest[lane] { row[lane] } else { largest[lane] };
            }
        }
        let mut factors = [0.0; LANES];
        for lane in 0..LANES {
            factors[lane] = exp::<FUSED>(running.largest[lane] - largest[lane]);
        }
        let mut sum = [0.0f32; LANES];
        for row in rows {
            for lane in 0..LANES {
                row[lane] = exp::<FUSED>(row[lane] - largest[lane]);
                sum[lane] += row[lane];
            }
        }
        for lane in 0..LANES {
            running.sum[lane] = running.sum[lane] * factors[lane] + sum[lane];
        }
        running.largest = largest;
        for row in outputs.as_chunks_mut::<LANES>().0 {
            for lane in 0..LANES {
                row[lane] *= factors[lane];
            }
        }
    }
}
