//! Small matrix products with sixteen columns, from which attention is built.
//!
//! A *panel* is a matrix of [`LANES`] columns: sixteen queries side by side. The products here are `out += A B` with `B` (and
//! often `out`) panels, four rows of `out` at a time held in registers. `A` is read a value at a time and may be
//! stored either way round, so that nothing has to be transposed but the queries.

use super::vector::{LANES, multiply_add, vectorized};

/// Rows of the output that are held in registers.
const ROWS: usize = 4;

vectorized! {
    /// `out[r][c] += sum over p of a[r][p] b[p][c]`, for [`LANES`] columns, `rows` rows and `depth` values of `p`. Rows of each
    /// matrix start its stride apart.
    ///
    /// Not inlined into anything: only in a small function does the compiler keep the sums in vector registers.
    pub(crate) fn add_product(
        out: &mut [f32], out_stride: usize, a: &[f32], a_stride: usize, b: &[f32], b_stride: usize, rows: usize, depth: usize,
    ) {
        let mut row = 0;
        while row + ROWS <= rows {
            let (out, a) = (&mut out[row * out_stride..], &a[row * a_stride..]);
            along::<FUSED, ROWS>(out, out_stride, a, a_stride, b, b_stride, depth);
            row += ROWS;
        }
        while row < rows {
            let (out, a) = (&mut out[row * out_stride..], &a[row * a_stride..]);
            along::<FUSED, 1>(out, out_stride, a, a_stride, b, b_stride, depth);
            row += 1;
        }
    }
}

vectorized! {
    /// [`add_product`] with `a` stored the other way round: `out[r][c] += sum over p of a[p][r] b[p][c]`.
    pub(crate) fn add_product_transposed(
        out: &mut [f32], out_stride: usize, a: &[f32], a_stride: usize, b: &[f32], b_stride: usize, rows: usize, depth: usize,
    ) {
        let mut row = 0;
        while row + ROWS <= rows {
            across::<FUSED, ROWS>(&mut out[row * out_stride..], out_stride, &a[row..], a_stride, b, b_stride, depth);
            row += ROWS;
        }
        while row < rows {
            across::<FUSED, 1>(&mut out[row * out_stride..], out_stride, &a[row..], a_stride, b, b_stride, depth);
            row += 1;
        }
    }
}

#[inline(always)]
fn along<const FUSED: bool, const R: usize>(
    out: &mut [f32],
    out_stride: usize,
    a: &[f32],
    a_stride: usize,
    b: &[f32],
    b_stride: usize,
    depth: usize,
) {
    let rows: [&[f32]; R] = std::array::from_fn(|row| &a[row * a_stride..][..depth]);
    let mut sums = load::<R>(out, out_stride);
    for (p, b) in b.chunks(b_stride).take(depth).enumerate() {
        let b: &[f32; LANES] = b.first_chunk().expect("a row of a panel");
        // Side by side as in `across`: with loads and checks between the rows' products the compiler gives up on vectors.
        let a: [f32; R] = std::array::from_fn(|row| rows[row][p]);
        add_multiples::<FUSED, R>(&mut sums, &a, b);
    }
    store(out, out_stride, &sums);
}

#[inline(always)]
fn across<const FUSED: bool, const R: usize>(
    out: &mut [f32],
    out_stride: usize,
    a: &[f32],
    a_stride: usize,
    b: &[f32],
    b_stride: usize,
    depth: usize,
) {
    let mut sums = load::<R>(out, out_stride);
    for (a, b) in a.chunks(a_stride).zip(b.chunks(b_stride)).take(depth) {
        let a: &[f32; R] = a.first_chunk().expect("a row of the left matrix");
        let b: &[f32; LANES] = b.first_chunk().expect("a row of a panel");
        add_multiples::<FUSED, R>(&mut sums, a, b);
    }
    store(out, out_stride, &sums);
}

/// `sums[r] += a[r] b`.
#[inline(always)]
fn add_multiples<const FUSED: bool, const R: usize>(
    sums: &mut [[f32; LANES]; R],
    a: &[f32; R],
    b: &[f32; LANES],
) {
    for row in 0..R {
        for lane in 0..LANES {
            sums[row][lane] = multiply_add::<FUSED>(a[row], b[lane], sums[row][lane]);
        }
    }
}

#[inline(always)]
fn load<const R: usize>(out: &[f32], stride: usize) -> [[f32; LANES]; R] {
    std::array::from_fn(|row| *out[row * stride..].first_chunk().expect("a row of the output"))
}

#[inline(always)]
fn store<const R: usize>(out: &mut [f32], stride: usize, sums: &[[f32; LANES]; R]) {
    for (row, sums) in sums.iter().enumerate() {
        out[row * stride..][..LANES].copy_from_slice(sums);
    }
}
