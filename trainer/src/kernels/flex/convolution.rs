//! Convolution as a product of matrices, a tile of output rows at a time.
//!
//! The *columns* of a tile are the windows that its outputs see, one a row: `[outputs, kernel x kernel x in]`, with zeros
//! beyond the picture's edge. They stay in the cache between being laid out and being multiplied, and are laid out again
//! in the backward pass rather than kept, so that memory holds the pictures only. The price is the copying, about
//! a tenth of the product at 64 channels.

use std::ops::Range;

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{
    product::{Matrix, Threads, product_into},
    tensors::{Gradients, dense, sizes, tensor, values},
};
use crate::kernels::types::Window;

/// Values of a tile's columns: half a megabyte, which a core's second cache holds.
const TILE: usize = 1 << 17;

/// Bytes that the partial gradients of the weights may take together.
const PARTIAL_BYTES: usize = 1 << 26;

pub(crate) type Kept = (FlexTensor, FlexTensor, Window);

pub(crate) fn forward(
    x_nhwc: FlexTensor,
    weight_oikk: FlexTensor,
    bias_o: FlexTensor,
    window: Window,
) -> (FlexTensor, Kept) {
    let (x, weight, bias) = (dense(x_nhwc), dense(weight_oikk), dense(bias_o));
    let shape = Shape::new(&x, &weight, window);
    let taps = shape.taps_by_input(values(&weight));
    let y = shape.convolve(values(&x), &taps, values(&bias));
    (tensor(y, [shape.images, shape.out_height, shape.out_width, shape.outputs]), (x, weight, window))
}

pub(crate) fn backward((x, weight, window): Kept, dy_nhwo: FlexTensor, wanted: [bool; 3]) -> Gradients<3> {
    let dy = dense(dy_nhwo);
    let shape = Shape::new(&x, &weight, window);
    let taps = shape.taps_by_output(values(&weight));
    let (dx, d_taps, d_bias) = shape.gradients(values(&x), &taps, values(&dy), wanted[0], wanted[1]);
    let dx = dx.map(|dx| tensor(dx, [shape.images, shape.height, shape.width, shape.inputs]));
    let d_weight = || {
        let sizes = [shape.outputs, shape.inputs, window.kernel, window.kernel];
        tensor(shape.weight_of_taps(&d_taps), sizes)
    };
    [dx, wanted[1].then(d_weight), wanted[2].then(|| tensor(d_bias, [shape.outputs]))]
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    images: usize,
    height: usize,
    width: usize,
    inputs: usize,
    out_height: usize,
    out_width: usize,
    outputs: usize,
    window: Window,
    /// Output rows of a tile.
    tile: usize,
}

impl Shape {
    fn new(x: &FlexTensor, weight: &FlexTensor, window: Window) -> Self {
        let [images, height, width, inputs] = sizes(x);
        let [outputs, expected, rows, columns] = sizes(weight);
        assert_eq!(expected, inputs, "a convolution of {expected} channels was given {inputs}");
        assert_eq!([rows, columns], [window.kernel; 2], "the kernel has the window's size");
        let (out_height, out_width) = (window.outputs(height), window.outputs(width));
        let row = (out_width * window.kernel * window.kernel * inputs).max(1);
        let tile = (TILE / row).clamp(1, out_height.max(1));
        Self { images, height, width, inputs, out_height, out_width, outputs, window, tile }
    }

    /// Values of one output's window.
    fn depth(&self) -> usize {
        self.window.kernel * self.window.kernel * self.inputs
    }

    fn out_image(&self) -> usize {
        self.out_height * self.out_width * self.outputs
    }

    fn image(&self) -> usize {
        self.height * self.width * self.inputs
    }

    /// Whether the columns are the picture itself.
    fn is_point(&self) -> bool {
        self.window == Window::POINT
    }

    /// The weights as `[kernel, kernel, in, out]`.
    fn taps_by_input(&self, weight: &[f32]) -> Vec<f32> {
        let mut taps = vec![0.0; weight.len()];
        self.each_weight(|weight_at, depth, output| taps[depth * self.outputs + output] = weight[weight_at]);
        taps
    }

    /// The weights as `[out, kernel, kernel, in]`.
    fn taps_by_output(&self, weight: &[f32]) -> Vec<f32> {
        let mut taps = vec![0.0; weight.len()];
        self.each_weight(|weight_at, depth, output| taps[output * self.depth() + depth] = weight[weight_at]);
        taps
    }

    /// The inverse of [`Shape::taps_by_input`].
    fn weight_of_taps(&self, taps: &[f32]) -> Vec<f32> {
        let mut weight = vec![0.0; taps.len()];
        self.each_weight(|weight_at, depth, output| weight[weight_at] = taps[depth * self.outputs + output]);
        weight
    }

    fn each_weight(&self, mut place: impl FnMut(usize, usize, usize)) {
        let area = self.window.kernel * self.window.kernel;
        for output in 0..self.outputs {
            for input in 0..self.inputs {
                for tap in 0..area {
                    place((output * self.inputs + input) * area + tap, tap * self.inputs + input, output);
                }
            }
        }
    }

    fn convolve(&self, x: &[f32], taps: &[f32], bias: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; self.images * self.out_image()];
        if y.is_empty() || x.is_empty() {
            return y;
        }
        let tile = self.tile * self.out_width * self.outputs;
        let images = y.chunks_mut(self.out_image()).zip(x.chunks(self.image()));
        let tiles: Vec<_> =
            images.flat_map(|(y, x)| y.chunks_mut(tile).enumerate().map(move |(at, y)| (at, x, y))).collect();
        tiles.into_par_iter().for_each_init(Vec::new, |scratch, (at, x, y)| {
            let first = at * self.tile;
            let rows = first..(first + self.tile).min(self.out_height);
            y.chunks_exact_mut(self.outputs).for_each(|y| y.copy_from_slice(bias));
            let columns = self.columns(x, rows.clone(), scratch);
            let columns = Matrix::new(columns, rows.len() * self.out_width, self.depth());
            product_into(y, columns, Matrix::new(taps, self.depth(), self.outputs), true, Threads::One);
        });
        y
    }

    /// Gradients of the pictures, the taps and the bias. A task has a fixed run of pictures, its share of the weights'
    /// gradients is added to the others' in order.
    fn gradients(
        &self,
        x: &[f32],
        taps: &[f32],
        dy: &[f32],
        of_x: bool,
        of_taps: bool,
    ) -> (Option<Vec<f32>>, Vec<f32>, Vec<f32>) {
        let mut dx = vec![0.0; if of_x { x.len() } else { 0 }];
        let mut sums = vec![0.0; (self.depth() + 1) * self.outputs];
        if !x.is_empty() && !dy.is_empty() {
            let run = self.images.div_ceil(self.runs());
            let mut dx_runs: Vec<&mut [f32]> = dx.chunks_mut(run * self.image()).collect();
            dx_runs.resize_with(self.images.div_ceil(run), Default::default);
            let inputs = x.par_chunks(run * self.image()).zip(dy.par_chunks(run * self.out_image()));
            let partial: Vec<Vec<f32>> = dx_runs
                .into_par_iter()
                .zip(inputs)
                .map(|(dx, (x, dy))| self.run_gradients(x, taps, dy, dx, of_taps))
                .collect();
            for partial in &partial {
                sums.iter_mut().zip(partial).for_each(|(sum, partial)| *sum += partial);
            }
        }
        let d_bias = sums.split_off(self.depth() * self.outputs);
        (of_x.then_some(dx), sums, d_bias)
    }

    /// Runs of pictures: a number that depends on the shapes alone.
    fn runs(&self) -> usize {
        let bytes = size_of::<f32>() * (self.depth() + 1) * self.outputs;
        (PARTIAL_BYTES / bytes).clamp(4, 32).min(self.images)
    }

    /// Writes the gradient of some pictures and returns their share of those of taps and bias.
    fn run_gradients(&self, x: &[f32], taps: &[f32], dy: &[f32], dx: &mut [f32], of_taps: bool) -> Vec<f32> {
        let mut sums = vec![0.0; (self.depth() + 1) * self.outputs];
        let (d_taps, d_bias) = sums.split_at_mut(self.depth() * self.outputs);
        let mut scratch = Vec::new();
        let mut dx_images = dx.chunks_mut(self.image());
        for (x, dy) in x.chunks(self.image()).zip(dy.chunks(self.out_image())) {
            let mut dx = dx_images.next();
            for first in (0..self.out_height).step_by(self.tile) {
                let rows = first..(first + self.tile).min(self.out_height);
                let (count, row) = (rows.len() * self.out_width, self.out_width * self.outputs);
                let dy = &dy[rows.start * row..rows.end * row];
                let dy_matrix = Matrix::new(dy, count, self.outputs);
                if of_taps {
                    let columns =
                        Matrix::new(self.columns(x, rows.clone(), &mut scratch), count, self.depth());
                    product_into(d_taps, columns.transposed(), dy_matrix, true, Threads::One);
                }
                for dy in dy.chunks_exact(self.outputs) {
                    d_bias.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
                }
                if let Some(dx) = dx.as_deref_mut() {
                    let taps = Matrix::new(taps, self.outputs, self.depth());
                    self.add_input_gradient(dx, dy_matrix, taps, rows, &mut scratch);
                }
            }
        }
        sums
    }

    fn add_input_gradient(
        &self,
        dx: &mut [f32],
        dy: Matrix<'_>,
        taps: Matrix<'_>,
        rows: Range<usize>,
        scratch: &mut Vec<f32>,
    ) {
        if self.is_point() {
            let row = self.width * self.inputs;
            let dx = &mut dx[rows.start * row..rows.end * row];
            return product_into(dx, dy, taps, false, Threads::One);
        }
        scratch.resize(rows.len() * self.out_width * self.depth(), 0.0);
        product_into(scratch, dy, taps, false, Threads::One);
        self.each_stretch(rows, |columns, before, pixel, length| {
            let columns = &scratch[columns][before..before + length];
            dx[pixel..][..length].iter_mut().zip(columns).for_each(|(dx, column)| *dx += column);
        });
    }

    /// The columns of the output rows `rows`.
    fn columns<'a>(&self, x: &'a [f32], rows: Range<usize>, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        if self.is_point() {
            let row = self.width * self.inputs;
            return &x[rows.start * row..rows.end * row];
        }
        // Values of another tile are overwritten: a stretch of the picture, and zeros around it.
        scratch.resize(rows.len() * self.out_width * self.depth(), 0.0);
        self.each_stretch(rows, |columns, before, pixel, length| {
            let columns = &mut scratch[columns];
            columns[..before].fill(0.0);
            columns[before..before + length].copy_from_slice(&x[pixel..][..length]);
            columns[before + length..].fill(0.0);
        });
        scratch
    }

    /// For every row of every window of the output rows `rows`: its range in the columns, and of what it sees of the
    /// picture the offset in that range, the place in the picture, and the length.
    #[inline(always)]
    fn each_stretch(&self, rows: Range<usize>, mut each: impl FnMut(Range<usize>, usize, usize, usize)) {
        let Window { kernel, stride, before, .. } = self.window;
        let length = kernel * self.inputs;
        let mut column = 0;
        for out_row in rows {
            for out_column in 0..self.out_width {
                // In pixels, from `before` to the left of the picture's first.
                let left = out_column * stride;
                let start = left.max(before);
                let end = (left + kernel).min(before + self.width);
                for tap in 0..kernel {
                    let row = (out_row * stride + tap).wrapping_sub(before);
                    let columns = column..column + length;
                    if row < self.height && start < end {
                        let pixel = (row * self.width + start - before) * self.inputs;
                        each(columns, (start - left) * self.inputs, pixel, (end - start) * self.inputs);
                    } else {
                        each(columns, 0, 0, 0);
                    }
                    column += length;
                }
            }
        }
    }
}
