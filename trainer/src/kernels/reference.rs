//! The operations of [`super`] made of ordinary tensor operations: slow, obvious, differentiable on every backend.
//!
//! They run on backends without operations of our own, and tests hold the fast ones against them.
//! Axes: n query positions, m key positions, h heads, d head dimension or width, i in, o out, f feed-forward, v vocabulary,
//! k targets, p patches.

use std::ops::Range;

use burn::tensor::{
    Bool, Device, IndexingUpdateOp, Int, Tensor, TensorData,
    activation::{log_softmax, silu, softmax},
    module::conv2d,
    ops::ConvOptions,
};

use super::types::{NormSettings, Rotary, Segment, Target, Window};

/// [`super::linear()`].
pub fn linear(x_ni: Tensor<2>, weight_oi: Tensor<2>) -> Tensor<2> {
    x_ni.matmul(weight_oi.transpose())
}

/// [`super::rms_norm`].
pub fn rms_norm(x_nd: Tensor<2>, gain_d: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let scale_n1 = (x_nd.clone().square().mean_dim(1) + epsilon).sqrt().recip();
    x_nd * scale_n1 * gain_d.unsqueeze()
}

/// [`super::swiglu()`].
pub fn swiglu(gate_nf: Tensor<2>, up_nf: Tensor<2>) -> Tensor<2> {
    silu(gate_nf) * up_nf
}

/// [`super::rotate()`].
pub fn rotate(x_nhd: Tensor<3>, rotary: &Rotary) -> Tensor<3> {
    let [n, h, d] = x_nhd.dims();
    let half = d / 2;
    let device = x_nhd.device();
    let table =
        |values: &[f32]| Tensor::<3>::from_data(TensorData::new(values.to_vec(), [n, 1, half]), &device);
    let (cosine_n1d, sine_n1d) = (table(&rotary.cosines), table(&rotary.sines));
    let first = x_nhd.clone().slice([0..n, 0..h, 0..half]);
    let second = x_nhd.slice([0..n, 0..h, half..d]);
    Tensor::cat(
        vec![
            first.clone() * cosine_n1d.clone() - second.clone() * sine_n1d.clone(),
            second * cosine_n1d + first * sine_n1d,
        ],
        2,
    )
}

/// [`super::attention()`].
pub fn attention(q_nhd: Tensor<3>, k_mhd: Tensor<3>, v_mhd: Tensor<3>, segments: &[Segment]) -> Tensor<3> {
    let [n, h, d] = q_nhd.dims();
    let device = q_nhd.device();
    let mut parts = Vec::new();
    let mut done = 0;
    for segment in segments.iter().filter(|segment| !segment.queries.is_empty()) {
        if segment.queries.start > done {
            parts.push(Tensor::zeros([segment.queries.start - done, h, d], &device));
        }
        done = segment.queries.end;
        parts.push(attend_segment(q_nhd.clone(), k_mhd.clone(), v_mhd.clone(), segment));
    }
    if done < n {
        parts.push(Tensor::zeros([n - done, h, d], &device));
    }
    Tensor::cat(parts, 0)
}

fn attend_segment(q_nhd: Tensor<3>, k_mhd: Tensor<3>, v_mhd: Tensor<3>, segment: &Segment) -> Tensor<3> {
    let [_, _, d] = q_nhd.dims();
    let rows = |x: Tensor<3>, range: &Range<usize>| x.slice([range.clone()]).swap_dims(0, 1);
    let (q_hnd, k_hmd, v_hmd) =
        (rows(q_nhd, &segment.queries), rows(k_mhd, &segment.keys), rows(v_mhd, &segment.keys));
    let scores_hnm = q_hnd.matmul(k_hmd.swap_dims(1, 2)) / (d as f64).sqrt();
    let hidden_1nm = hidden(segment, &scores_hnm.device()).unsqueeze::<3>();
    let hidden_hnm = hidden_1nm.expand(scores_hnm.dims());
    softmax(scores_hnm.mask_fill(hidden_hnm, f32::NEG_INFINITY), 2).matmul(v_hmd).swap_dims(0, 1)
}

/// True where a query of the segment must not see a key.
fn hidden(segment: &Segment, device: &Device) -> Tensor<2, Bool> {
    let keys = segment.keys.len();
    let hidden: Vec<bool> = (0..segment.queries.len())
        .flat_map(|query| (0..keys).map(move |key| (key, query)))
        .map(|(key, query)| key >= segment.visible(query))
        .collect();
    Tensor::from_data(TensorData::new(hidden, [segment.queries.len(), keys]), device)
}

/// [`super::cross_entropy()`].
pub fn cross_entropy(hidden_nd: Tensor<2>, weight_vd: Tensor<2>, targets: &[Target]) -> Tensor<1> {
    let device = hidden_nd.device();
    let rows: Vec<u32> = targets.iter().map(|target| target.row).collect();
    let ids: Vec<u32> = targets.iter().map(|target| target.id).collect();
    let logits_kv = linear(gather_rows(hidden_nd, &rows), weight_vd);
    let picked_k1 = log_softmax(logits_kv, 1).gather(1, indices(&ids, &device).unsqueeze_dim(1));
    picked_k1.neg().reshape([targets.len()])
}

/// [`super::image_losses`].
pub fn image_losses(prediction_pd: Tensor<2>, target_pd: Tensor<2>, images: &[Range<usize>]) -> Tensor<1> {
    let squares_pd = (prediction_pd - target_pd).square();
    Tensor::cat(images.iter().map(|image| squares_pd.clone().slice([image.clone()]).mean()).collect(), 0)
}

/// [`super::gather_rows`].
pub fn gather_rows(x_nd: Tensor<2>, rows: &[u32]) -> Tensor<2> {
    let rows = indices(rows, &x_nd.device());
    x_nd.select(0, rows)
}

/// [`super::scatter_rows`].
pub fn scatter_rows(base_nd: Tensor<2>, rows: &[u32], values_kd: Tensor<2>) -> Tensor<2> {
    let [n, _] = base_nd.dims();
    let device = base_nd.device();
    let mut kept = vec![1.0f32; n];
    rows.iter().for_each(|&row| kept[row as usize] = 0.0);
    let kept_n1 = Tensor::<2>::from_data(TensorData::new(kept, [n, 1]), &device);
    (base_nd * kept_n1).select_assign(0, indices(rows, &device), values_kd, IndexingUpdateOp::Add)
}

/// [`super::convolve`].
pub(crate) fn convolve(x_nhwc: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, window: Window) -> Tensor<4> {
    let x_nchw = x_nhwc.permute([0, 3, 1, 2]);
    let padding = (window.before, window.after, window.before, window.after);
    let padded = x_nchw.pad(padding, 0.0);
    let options = ConvOptions::new([window.stride; 2], [0, 0], [1, 1], 1);
    conv2d(padded, weight, Some(bias), options).permute([0, 2, 3, 1])
}

/// [`super::group_norm`].
pub(crate) fn group_norm(
    x_nhwc: Tensor<4>,
    gain: Tensor<1>,
    shift: Tensor<1>,
    settings: NormSettings,
) -> Tensor<4> {
    let [n, h, w, c] = x_nhwc.dims();
    let width = c / settings.groups;
    let x_ngv = x_nhwc.reshape([n, h * w, settings.groups, width]).swap_dims(1, 2);
    let x_ngv = x_ngv.reshape([n, settings.groups, h * w * width]);
    let centred = x_ngv.clone() - x_ngv.mean_dim(2);
    let variance = centred.clone().square().mean_dim(2);
    let normal = centred / (variance + settings.epsilon).sqrt();
    let normal = normal.reshape([n, settings.groups, h * w, width]).swap_dims(1, 2).reshape([n, h, w, c]);
    let y = normal * gain.reshape([1, 1, 1, c]) + shift.reshape([1, 1, 1, c]);
    if settings.silu { silu(y) } else { y }
}

fn indices(values: &[u32], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.iter().map(|&value| i64::from(value)).collect();
    Tensor::from_data(TensorData::new(values.clone(), [values.len()]), device)
}
