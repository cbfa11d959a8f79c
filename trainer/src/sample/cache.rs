//! Sequences with their keys and values, and passes that append to them.
//!
//! Each sequence has its own cache; a pass lays the caches of its sequences one behind another, each with its new positions behind
//! it, and tells attention by segments. The copy this takes is as large as what attention reads anyway.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::prompt::Input;
use crate::{
    kernels::Segment,
    model::{PatchInput, Transfusion},
};

/// Keys (rotated) and values of a sequence, layer by layer.
#[derive(Debug, Clone, Default)]
pub(super) struct Cache {
    layers: Vec<[Tensor<3>; 2]>,
    positions: usize,
}

/// Whether a pass leaves its keys and values behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// The sequences grow.
    Yes,
    /// The sequences stay as they are: the positions will be overwritten.
    No,
}

/// Runs the new positions of each sequence, behind what its cache holds: hidden states of all new positions, one sequence behind
/// another.
pub(super) fn append(
    model: &Transfusion,
    caches: &mut [&mut Cache],
    inputs: &[&Input],
    keep: Keep,
) -> Tensor<2> {
    let layout = Layout::new(caches, inputs, model.plan().rule().causal_images);
    let input_nd = embed(model, inputs);
    let rotary = model.rotary(&layout.positions);
    let hidden_nd = model.model.forward(input_nd, &rotary, &layout.segments, |layer, k_nhd, v_nhd| {
        let fresh = [k_nhd, v_nhd];
        let all = [0, 1].map(|kind| {
            let pieces = caches.iter().zip(layout.segments.iter()).flat_map(|(cache, segment)| {
                let old = cache.layers.get(layer).map(|pair| pair[kind].clone());
                old.into_iter().chain([fresh[kind].clone().slice([segment.queries.clone()])])
            });
            Tensor::cat(pieces.collect(), 0)
        });
        if keep == Keep::Yes {
            for (cache, segment) in caches.iter_mut().zip(layout.segments.iter()) {
                let grown = all.clone().map(|rows| rows.slice([segment.keys.clone()]));
                if layer < cache.layers.len() {
                    cache.layers[layer] = grown;
                } else {
                    cache.layers.push(grown);
                }
            }
        }
        let [k_mhd, v_mhd] = all;
        (k_mhd, v_mhd)
    });
    if keep == Keep::Yes {
        let grow = |(cache, input): (&mut &mut Cache, &&Input)| cache.positions += input.ids.len();
        caches.iter_mut().zip(inputs).for_each(grow);
    }
    hidden_nd
}

/// Where everything stands in a pass.
struct Layout {
    positions: Vec<u32>,
    segments: Arc<[Segment]>,
}

impl Layout {
    fn new(caches: &[&mut Cache], inputs: &[&Input], causal_images: bool) -> Self {
        let (mut positions, mut segments) = (Vec::new(), Vec::new());
        let (mut query, mut key) = (0, 0);
        for (cache, input) in caches.iter().zip(inputs) {
            let (old, new) = (cache.positions, input.ids.len());
            positions.extend((old..old + new).map(|position| position as u32));
            let images = input.images.iter().filter(|_| !causal_images);
            segments.push(Segment {
                queries: query..query + new,
                keys: key..key + old + new,
                images: images.map(|image| old + image.start..old + image.start + image.patches).collect(),
            });
            query += new;
            key += old + new;
        }
        Self { positions, segments: segments.into() }
    }
}

fn embed(model: &Transfusion, inputs: &[&Input]) -> Tensor<2> {
    let ids: Arc<[u32]> = inputs.iter().flat_map(|input| input.ids.iter().copied()).collect();
    let (mut places, mut image_of_patch, mut values, mut times) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut first = 0;
    for input in inputs {
        for image in &input.images {
            let start = first + image.start;
            places.extend((start..start + image.patches).map(|place| place as u32));
            image_of_patch.extend(vec![times.len() as u32; image.patches]);
            values.extend_from_slice(&image.values);
            times.push(image.t);
        }
        first += input.ids.len();
    }
    let patches = PatchInput { values, times, image_of_patch: image_of_patch.into() };
    model.embed(&ids, &places.into(), &patches)
}
