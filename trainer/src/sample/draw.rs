//! Diffusion mode: patches of noise become an image behind a cached prefix.

use std::ops::ControlFlow;

use super::{
    SampleError, SamplePlan,
    cache::{Keep, KeyValueCache, append},
    prompt::Appended,
};
use crate::{
    diffusion::{Step, guide},
    model::Transfusion,
    patches::PatchGrid,
    random::Stream,
};

/// One image to be drawn.
pub(super) struct Canvas {
    /// Number of the prompt, for errors.
    pub(super) prompt: u64,
    /// The sequence before the image, BOI included.
    pub(super) prefix: usize,
    /// The sequence of BOI alone that guidance draws behind; not read without guidance.
    pub(super) unguided: usize,
    /// Where its noise comes from.
    pub(super) stream: Stream,
}

/// Draws all canvases together, `grid.patches()` patches each, and gives their numbers, patch by patch. The prefixes stay as they
/// are. `observe` sees each step, and may break off.
pub(super) fn draw(
    model: &Transfusion,
    cache: &mut KeyValueCache,
    canvases: &mut [Canvas],
    grid: &PatchGrid,
    plan: &SamplePlan,
    mut observe: impl FnMut(usize) -> ControlFlow<()>,
) -> Result<Vec<Vec<f32>>, SampleError> {
    let count = grid.patches() * grid.numbers();
    let mut images: Vec<Vec<f64>> =
        canvases.iter_mut().map(|canvas| normals(&mut canvas.stream, count)).collect();
    let prefixes = Prefixes::new(model, cache, canvases, plan.guidance);
    for (index, &t) in plan.steps.iter().enumerate() {
        let step = Step {
            t,
            previous: plan.steps.get(index + 1).copied(),
            prediction: plan.prediction,
            sampler: plan.sampler,
        };
        let inputs: Vec<Appended> = images.iter().map(|image| patches(model, grid, image, t)).collect();
        let predicted = prefixes.predict(model, cache, &inputs, count);
        for ((canvas, image), predicted) in canvases.iter_mut().zip(&mut images).zip(predicted) {
            let fresh = normals(&mut canvas.stream, count);
            *image = plan.schedule.step(&step, image, &predicted, &fresh);
            if !image.iter().all(|value| value.is_finite()) {
                return Err(SampleError::NotFinite { prompt: canvas.prompt });
            }
        }
        if observe(index + 1).is_break() {
            return Err(SampleError::Stopped);
        }
    }
    Ok(images.into_iter().map(|image| image.into_iter().map(|value| value as f32).collect()).collect())
}

fn normals(stream: &mut Stream, count: usize) -> Vec<f64> {
    (0..count).map(|_| stream.normal()).collect()
}

fn patches(model: &Transfusion, grid: &PatchGrid, image: &[f64], t: u32) -> Appended {
    let mut input = Appended::default();
    let values = image.iter().map(|&value| value as f32).collect();
    input.push_image(values, grid.patches(), t, model.plan().vocabulary());
    input
}

/// The sequences that images are drawn behind: those of the canvases, then, with guidance, as many of BOI alone.
struct Prefixes {
    sequences: Vec<usize>,
    canvases: usize,
    weight: f64,
}

impl Prefixes {
    fn new(model: &Transfusion, cache: &mut KeyValueCache, canvases: &[Canvas], weight: f64) -> Self {
        let mut sequences: Vec<usize> = canvases.iter().map(|canvas| canvas.prefix).collect();
        if weight != 1.0 {
            let boi = Appended::token(model.plan().vocabulary().boi());
            let unguided = canvases.iter().map(|canvas| canvas.unguided);
            // A sequence that has drawn before has its BOI.
            let fresh: Vec<(usize, &Appended)> =
                unguided.clone().filter(|&one| cache.held(one) == 0).map(|one| (one, &boi)).collect();
            if !fresh.is_empty() {
                append(model, cache, &fresh, Keep::Yes);
            }
            sequences.extend(unguided);
        }
        Self { sequences, canvases: canvases.len(), weight }
    }

    /// The prediction for each canvas, `count` numbers each, guided.
    fn predict(
        &self,
        model: &Transfusion,
        cache: &mut KeyValueCache,
        inputs: &[Appended],
        count: usize,
    ) -> Vec<Vec<f64>> {
        let inputs: Vec<(usize, &Appended)> =
            self.sequences.iter().copied().zip(inputs.iter().cycle()).collect();
        let predicted = host(model.decode(append(model, cache, &inputs, Keep::No)));
        let (with, without) = predicted.split_at(self.canvases * count);
        let with = with.chunks_exact(count);
        if without.is_empty() {
            return with.map(<[f64]>::to_vec).collect();
        }
        with.zip(without.chunks_exact(count))
            .map(|(with, without)| guide(with, without, self.weight))
            .collect()
    }
}

/// Values of a tensor in memory order, in f64.
pub(super) fn host(tensor: burn::tensor::Tensor<2>) -> Vec<f64> {
    tensor.into_data().convert::<f64>().try_into_vec().expect("the data was converted to f64")
}
