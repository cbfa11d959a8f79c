//! Operations on whole rows: picking them (an embedding), replacing them (patches among text), and the mean squared error of
//! an image's rows.

use std::{ops::Range, sync::Arc};

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::tensors::{Gradients, dense, sizes, tensor, values};

/// Rows a task works on.
const ROWS: usize = 64;

/// The rows that were picked and the number of rows there were.
pub(crate) type Picked = (Arc<[u32]>, usize);

pub(crate) fn gather(x_nd: FlexTensor, rows: Arc<[u32]>) -> (FlexTensor, Picked) {
    let x_nd = dense(x_nd);
    let [n, d] = sizes(&x_nd);
    (tensor(pick(values(&x_nd), d, &rows), [rows.len(), d]), (rows, n))
}

pub(crate) fn gather_backward((rows, n): Picked, dy_kd: FlexTensor, _: [bool; 1]) -> Gradients<1> {
    let dy_kd = dense(dy_kd);
    let [_, d] = sizes(&dy_kd);
    let dy = values(&dy_kd);
    let mut dx = vec![0.0; n * d];
    // A task owns the rows of one chunk and adds what belongs to them in the order of the list.
    let chunk = n.div_ceil(ROWS).max(ROWS);
    dx.par_chunks_mut((chunk * d).max(1)).enumerate().for_each(|(index, part)| {
        let owned = index * chunk..(index + 1) * chunk;
        for (source, &row) in rows.iter().enumerate().filter(|(_, row)| owned.contains(&(**row as usize))) {
            let target = (row as usize - owned.start) * d;
            let sums = part[target..target + d].iter_mut();
            sums.zip(&dy[source * d..(source + 1) * d]).for_each(|(sum, dy)| *sum += dy);
        }
    });
    [Some(tensor(dx, [n, d]))]
}

pub(crate) fn scatter(
    base_nd: FlexTensor,
    values_kd: FlexTensor,
    rows: Arc<[u32]>,
) -> (FlexTensor, Arc<[u32]>) {
    let (mut base_nd, values_kd) = (dense(base_nd), dense(values_kd));
    let [n, d] = sizes(&base_nd);
    assert_eq!([rows.len(), d], sizes(&values_kd), "one row of values for each row to replace");
    if base_nd.layout().start_offset() != 0 || !base_nd.is_unique() {
        base_nd = tensor(values(&base_nd).to_vec(), [n, d]);
    }
    let out = base_nd.storage_mut::<f32>();
    for (&row, value) in rows.iter().zip(values(&values_kd).chunks(d.max(1))) {
        out[row as usize * d..][..d].copy_from_slice(value);
    }
    (base_nd, rows)
}

pub(crate) fn scatter_backward(rows: Arc<[u32]>, dy_nd: FlexTensor, wanted: [bool; 2]) -> Gradients<2> {
    let dy_nd = dense(dy_nd);
    let [_, d] = sizes(&dy_nd);
    let d_values = wanted[1].then(|| tensor(pick(values(&dy_nd), d, &rows), [rows.len(), d]));
    let zeros = tensor(vec![0.0; rows.len() * d], [rows.len(), d]);
    [wanted[0].then(|| scatter(dy_nd, zeros, rows).0), d_values]
}

fn pick(x: &[f32], width: usize, rows: &[u32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows.len() * width);
    for &row in rows {
        out.extend_from_slice(&x[row as usize * width..][..width]);
    }
    out
}

/// `prediction - target`, and the rows of each image.
pub(crate) type Errors = (FlexTensor, Arc<[Range<usize>]>);

pub(crate) fn image_losses(
    prediction_pd: FlexTensor,
    target_pd: FlexTensor,
    images: Arc<[Range<usize>]>,
) -> (FlexTensor, Errors) {
    let (prediction_pd, target_pd) = (dense(prediction_pd), dense(target_pd));
    let [p, d] = sizes(&prediction_pd);
    assert_eq!([p, d], sizes(&target_pd), "prediction and target have one shape");
    let pairs = values(&prediction_pd).iter().zip(values(&target_pd));
    let errors: Vec<f32> = pairs.map(|(prediction, target)| prediction - target).collect();
    let losses = images.iter().map(|image| mean_square(&errors[image.start * d..image.end * d])).collect();
    (tensor(losses, [images.len()]), (tensor(errors, [p, d]), images))
}

/// The target is a constant: nothing flows back to it.
pub(crate) fn image_losses_backward(
    (errors_pd, images): Errors,
    dy_i: FlexTensor,
    _: [bool; 2],
) -> Gradients<2> {
    let dy_i = dense(dy_i);
    let [p, d] = sizes(&errors_pd);
    let errors = values(&errors_pd);
    let mut gradient = vec![0.0; p * d];
    for (image, dy) in images.iter().zip(values(&dy_i)) {
        let range = image.start * d..image.end * d;
        let factor = 2.0 * dy / range.len() as f32;
        let pairs = gradient[range.clone()].iter_mut().zip(&errors[range]);
        pairs.for_each(|(gradient, error)| *gradient += factor * error);
    }
    [Some(tensor(gradient, [p, d])), None]
}

/// In f64, so that the size of the image doesn't cost precision.
fn mean_square(errors: &[f32]) -> f32 {
    let sum: f64 = errors.iter().map(|&error| f64::from(error) * f64::from(error)).sum();
    (sum / errors.len() as f64) as f32
}
