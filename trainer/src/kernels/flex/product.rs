//! Matrix products through the `gemm` crate, behind slices that are checked.
//!
//! The one place of the kernels that hands out raw pointers: `gemm` wants pointers and strides, [`Matrix`] proves that they
//! stay inside its slice. Each element of a product is summed in an order that only depends on the shapes, so that the number
//! of threads changes nothing but the time.
#![allow(unsafe_code)]

use rayon::prelude::*;

/// Rows of a single output column block when there are too few rows to share out (decoding one token at a time).
const COLUMN_BLOCK: usize = 128;

/// Up to this many rows a product is bound by reading the right-hand matrix, and is shared out by its columns.
const FEW_ROWS: usize = 4;

/// Products of fewer multiplications are not worth waking another thread.
const SMALL: usize = 1 << 17;

/// A matrix seen in a slice: element (r, c) is `values[r * row_stride + c * column_stride]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `rows` rows of `columns` values, one after another.
    pub(crate) fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(values.len(), rows * columns, "a matrix of {rows} x {columns} needs that many values");
        Self { values, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The same values with rows and columns exchanged; nothing is copied.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// The columns `start..end`.
    fn columns(self, start: usize, end: usize) -> Self {
        debug_assert!(start < end && end <= self.columns);
        Self { values: &self.values[start * self.column_stride..], columns: end - start, ..self }
    }

    /// Whether every element lies in the slice.
    fn is_inside(&self) -> bool {
        let last = self.rows.saturating_sub(1) * self.row_stride
            + self.columns.saturating_sub(1) * self.column_stride;
        self.rows == 0 || self.columns == 0 || last < self.values.len()
    }
}

/// Whether a product may use every thread of the pool, or runs inside a task that is one of many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    One,
    All,
}

/// The product as a fresh row-major buffer, on all threads.
pub(crate) fn product(left: Matrix<'_>, right: Matrix<'_>) -> Vec<f32> {
    let mut out = Vec::with_capacity(left.rows * right.columns);
    let length = left.rows * right.columns;
    let spare = &mut out.spare_capacity_mut()[..length];
    if left.columns == 0 {
        spare.fill(std::mem::MaybeUninit::new(0.0));
    } else if left.rows <= FEW_ROWS && left.columns * right.columns > SMALL {
        few_rows(spare.as_mut_ptr().cast(), left, right);
    } else {
        // SAFETY: `spare` is `length` floats that nothing else sees; they are written before they are read.
        unsafe { raw(spare.as_mut_ptr().cast(), right.columns, left, right, false, Threads::All) };
    }
    // SAFETY: every element of the product, `length` in all, was written above.
    unsafe { out.set_len(length) };
    out
}

/// `out = left * right`, or `out += left * right`; `out` is row-major.
pub(crate) fn product_into(
    out: &mut [f32],
    left: Matrix<'_>,
    right: Matrix<'_>,
    add: bool,
    threads: Threads,
) {
    assert_eq!(out.len(), left.rows * right.columns, "the output has the product's size");
    if left.columns == 0 {
        if !add {
            out.fill(0.0);
        }
        return;
    }
    // SAFETY: `out` is exclusively borrowed, initialised, and as large as the product.
    unsafe { raw(out.as_mut_ptr(), right.columns, left, right, add, threads) };
}

/// A product with few rows, its columns shared out in blocks of fixed size.
fn few_rows(out: *mut f32, left: Matrix<'_>, right: Matrix<'_>) {
    struct Start(*mut f32);
    // SAFETY: each task below writes columns of its own.
    unsafe impl Sync for Start {}
    let start = &Start(out);
    let (columns, blocks) = (right.columns, right.columns.div_ceil(COLUMN_BLOCK));
    (0..blocks).into_par_iter().with_min_len(SMALL.div_ceil(COLUMN_BLOCK * left.columns)).for_each(|block| {
        let first = block * COLUMN_BLOCK;
        let part = right.columns(first, columns.min(first + COLUMN_BLOCK));
        // SAFETY: the block's columns lie inside the output, and no other task has them.
        unsafe { raw(start.0.add(first), columns, left, part, false, Threads::One) };
    });
}

/// # Safety
/// `out` points at rows of `stride` floats, `left.rows` of them, of which the first `right.columns` of each may be
/// written; with `add` they are initialised. Both inner dimensions are not zero.
unsafe fn raw(
    out: *mut f32,
    stride: usize,
    left: Matrix<'_>,
    right: Matrix<'_>,
    add: bool,
    threads: Threads,
) {
    assert_eq!(left.columns, right.rows, "inner sizes of a product agree");
    assert!(left.is_inside() && right.is_inside(), "a matrix lies inside its slice");
    let (m, n, k) = (left.rows, right.columns, left.columns);
    let parallelism = match threads {
        Threads::All if m * n * k > SMALL => gemm::Parallelism::Rayon(0),
        _ => gemm::Parallelism::None,
    };
    // SAFETY: the caller vouches for `out`; the inputs were checked above.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            stride as isize,
            add,
            left.values.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.values.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}
