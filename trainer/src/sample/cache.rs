//! Keys and values of the sequences that are continued side by side, and passes that append to them.
//!
//! All sequences share two tensors a layer. Each owns a stretch of their rows with room to grow, a pass writes its new rows in place behind
//! those that the sequence holds, and segments say where they lie. Where one needs more than its room, all sequences
//! of the pass get twice what they need and everything moves once: the rows that n tokens copy are a multiple of n, not of its square.
//! The cost is memory for up to twice the rows.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};

use super::prompt::Appended;
use crate::{
    kernels::{Segment, scatter_rows},
    model::{Inputs, PatchInput, Transfusion},
};

/// Keys (rotated) and values of some sequences, layer by layer.
#[derive(Debug)]
pub(super) struct KeyValueCache {
    stretches: Vec<Stretch>,
    /// Keys and values of each layer, `[rows, width]`; empty before the first pass.
    layers: Vec<[Rows; 2]>,
}

/// The rows of a sequence.
#[derive(Debug, Clone, Copy, Default)]
struct Stretch {
    start: usize,
    room: usize,
    held: usize,
}

/// Whether a pass leaves its keys and values behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// The sequences grow.
    Yes,
    /// The sequences stay as they are: the rows behind them will be overwritten.
    No,
}

impl KeyValueCache {
    /// For so many sequences, all of them empty.
    pub(super) fn new(sequences: usize) -> Self {
        Self { stretches: vec![Stretch::default(); sequences], layers: Vec::new() }
    }

    /// Positions that a sequence holds.
    pub(super) fn held(&self, sequence: usize) -> usize {
        self.stretches[sequence].held
    }

    /// Makes room behind each of these sequences for its new positions.
    fn make_room(&mut self, appended: &[(usize, &Appended)]) {
        let needed = |(sequence, new): &(usize, &Appended)| self.stretches[*sequence].held + new.ids.len();
        if appended.iter().all(|one| needed(one) <= self.stretches[one.0].room) {
            return;
        }
        let mut moved = self.stretches.clone();
        appended.iter().for_each(|one| moved[one.0].room = moved[one.0].room.max(2 * needed(one)));
        let mut start = 0;
        for stretch in &mut moved {
            stretch.start = start;
            start += stretch.room;
        }
        for rows in self.layers.iter_mut().flatten() {
            rows.move_to(&self.stretches, &moved);
        }
        self.stretches = moved;
    }

    /// Rows of all stretches.
    fn rows(&self) -> usize {
        self.stretches.iter().map(|stretch| stretch.room).sum()
    }
}

/// Keys or values of a layer. Moved out while they are written to, so that nobody else holds them and they are written in place.
#[derive(Debug, Default)]
struct Rows(Option<Tensor<2>>);

impl Rows {
    /// Replaces the rows `places`, and gives all.
    fn write(&mut self, places: &Arc<[u32]>, fresh_nd: Tensor<2>, rows: usize) -> Tensor<2> {
        let zeros = || Tensor::zeros([rows, fresh_nd.dims()[1]], &fresh_nd.device());
        let base_md = self.0.take().unwrap_or_else(zeros);
        let written_md = scatter_rows(base_md, places, fresh_nd);
        self.0.insert(written_md).clone()
    }

    fn move_to(&mut self, from: &[Stretch], to: &[Stretch]) {
        let Some(rows_md) = self.0.take() else { return };
        let (width, device) = (rows_md.dims()[1], rows_md.device());
        let held =
            from.iter().map(|from| (from.held > 0).then(|| rows_md.clone().narrow(0, from.start, from.held)));
        let free = from.iter().zip(to).map(|(from, to)| zeros(to.room - from.held, width, &device));
        let pieces = held.zip(free).flat_map(|(held, free)| held.into_iter().chain(free));
        self.0 = Some(Tensor::cat(pieces.collect(), 0));
    }
}

fn zeros(rows: usize, width: usize, device: &Device) -> Option<Tensor<2>> {
    (rows > 0).then(|| Tensor::zeros([rows, width], device))
}

/// Runs new positions of some sequences, behind what they hold: hidden states of all new positions, one sequence behind
/// another.
pub(super) fn append(
    model: &Transfusion,
    cache: &mut KeyValueCache,
    appended: &[(usize, &Appended)],
    keep: Keep,
) -> Tensor<2> {
    cache.make_room(appended);
    let (inputs, places) = side_by_side(cache, appended, model.plan().rule().causal_images);
    let rotary = model.rotary(&inputs.positions);
    let rows = cache.rows();
    let layers = &mut cache.layers;
    let hidden_nd =
        model.model.forward(model.embed(&inputs), &rotary, &inputs.segments, |layer, k_nhd, v_nhd| {
            if layers.len() == layer {
                layers.push(Default::default());
            }
            let [n, heads, width] = k_nhd.dims();
            let fresh = [k_nhd, v_nhd].map(|fresh_nhd| fresh_nhd.reshape([n, heads * width]));
            let mut fresh = layers[layer].iter_mut().zip(fresh);
            let mut all = || {
                let (kept, fresh_nd) = fresh.next().expect("keys and values are two");
                kept.write(&places, fresh_nd, rows).reshape([rows, heads, width])
            };
            (all(), all())
        });
    if keep == Keep::Yes {
        appended.iter().for_each(|(sequence, new)| cache.stretches[*sequence].held += new.ids.len());
    }
    hidden_nd
}

/// The network's inputs in a pass, and the rows of the new keys and values.
fn side_by_side(
    cache: &KeyValueCache,
    appended: &[(usize, &Appended)],
    causal_images: bool,
) -> (Inputs, Arc<[u32]>) {
    let (mut ids, mut positions, mut segments, mut rows) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut patch_places, mut values, mut times, mut image_of_patch) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (sequence, new) in appended {
        let Stretch { start, held, .. } = cache.stretches[*sequence];
        let (first, end) = (ids.len(), held + new.ids.len());
        positions.extend(held as u32..end as u32);
        rows.extend((start + held) as u32..(start + end) as u32);
        for image in &new.images {
            let place = first + image.start;
            patch_places.extend(place as u32..(place + image.patches) as u32);
            image_of_patch.extend(std::iter::repeat_n(times.len() as u32, image.patches));
            values.extend_from_slice(&image.values);
            times.push(image.t);
        }
        ids.extend_from_slice(&new.ids);
        let images = new.images.iter().filter(|_| !causal_images);
        segments.push(Segment {
            queries: first..ids.len(),
            keys: start..start + end,
            images: images.map(|image| held + image.start..held + image.start + image.patches).collect(),
        });
    }
    let patches = PatchInput { values, times, image_of_patch: image_of_patch.into() };
    let (ids, segments, patch_places) = (ids.into(), segments.into(), patch_places.into());
    (Inputs { ids, positions, segments, patch_places, patches }, rows.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(positions: usize) -> Appended {
        Appended { ids: vec![0; positions], images: Vec::new() }
    }

    /// A copy of everything for each token, as there once was, would move 500,000 rows here.
    #[test]
    fn rows_that_are_moved_are_a_multiple_of_those_that_are_held() {
        let (mut cache, one) = (KeyValueCache::new(3), new(1));
        let mut moved = 0;
        for _ in 0..1000 {
            let appended = [(0, &one), (2, &one)];
            let before = cache.rows();
            cache.make_room(&appended);
            if cache.rows() != before {
                moved += cache.held(0) + cache.held(2);
            }
            appended.iter().for_each(|(sequence, _)| cache.stretches[*sequence].held += 1);
        }
        assert_eq!((cache.held(0), cache.held(1), cache.held(2)), (1000, 0, 1000));
        assert!(moved <= 2 * 2000, "{moved} rows were moved");
        assert!(cache.rows() <= 2 * 2 * 1000 + 2, "{} rows for 2000", cache.rows());
    }

    #[test]
    fn stretches_lie_behind_one_another() {
        let mut cache = KeyValueCache::new(3);
        for (sequence, positions) in [(1, 5), (0, 3), (1, 9), (2, 1)] {
            cache.make_room(&[(sequence, &new(positions))]);
            cache.stretches[sequence].held += positions;
        }
        let mut end = 0;
        for stretch in &cache.stretches {
            assert!(stretch.start == end && stretch.held <= stretch.room, "{:?}", cache.stretches);
            end += stretch.room;
        }
    }
}
