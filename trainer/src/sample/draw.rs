//! Diffusion mode: patches of noise become an image behind a cached prefix.

use super::{
    SampleError, SamplePlan,
    cache::{Cache, Keep, append},
    prompt::Input,
};
use crate::{
    diffusion::{Step, guide},
    model::Transfusion,
    patches::PatchGrid,
    random::Stream,
};

/// One image to be drawn.
pub(super) struct Canvas<'a> {
    /// Number of the prompt, for errors.
    pub(super) prompt: u64,
    /// What stands before the image, BOI included.
    pub(super) prefix: &'a mut Cache,
    /// Where its noise comes from.
    pub(super) stream: Stream,
}

/// Draws all canvases together, `grid.patches()` patches each, and gives their numbers, patch by patch. The prefixes stay as they
/// are. `observe` is told of each step.
pub(super) fn draw(
    model: &Transfusion,
    canvases: &mut [Canvas<'_>],
    grid: &PatchGrid,
    plan: &SamplePlan,
    mut observe: impl FnMut(usize),
) -> Result<Vec<Vec<f32>>, SampleError> {
    let count = grid.patches() * grid.numbers();
    let mut images: Vec<Vec<f64>> =
        canvases.iter_mut().map(|canvas| normals(&mut canvas.stream, count)).collect();
    let mut unguided = Unguided::new(model, canvases.len(), plan.guidance);
    for (index, &t) in plan.steps.iter().enumerate() {
        let step = Step {
            t,
            previous: plan.steps.get(index + 1).copied(),
            prediction: plan.prediction,
            sampler: plan.sampler,
        };
        let inputs: Vec<Input> = images.iter().map(|image| patches(model, grid, image, t)).collect();
        let predicted = predict(model, canvases, &mut unguided, &inputs, count);
        for ((canvas, image), predicted) in canvases.iter_mut().zip(&mut images).zip(predicted) {
            let fresh = normals(&mut canvas.stream, count);
            *image = plan.schedule.step(&step, image, &predicted, &fresh);
            if !image.iter().all(|value| value.is_finite()) {
                return Err(SampleError::NotFinite { prompt: canvas.prompt });
            }
        }
        observe(index + 1);
    }
    Ok(images.into_iter().map(|image| image.into_iter().map(|value| value as f32).collect()).collect())
}

fn normals(stream: &mut Stream, count: usize) -> Vec<f64> {
    (0..count).map(|_| stream.normal()).collect()
}

fn patches(model: &Transfusion, grid: &PatchGrid, image: &[f64], t: u32) -> Input {
    let mut input = Input::default();
    let values = image.iter().map(|&value| value as f32).collect();
    input.push_image(values, grid.patches(), t, model.plan().vocabulary());
    input
}

/// The prefixes of guidance: BOI alone, once for each canvas. Empty without guidance.
struct Unguided {
    caches: Vec<Cache>,
    weight: f64,
}

impl Unguided {
    fn new(model: &Transfusion, count: usize, weight: f64) -> Self {
        if weight == 1.0 {
            return Self { caches: Vec::new(), weight };
        }
        let mut cache = Cache::default();
        append(model, &mut [&mut cache], &[&Input::token(model.plan().vocabulary().boi())], Keep::Yes);
        Self { caches: vec![cache; count], weight }
    }
}

/// The prediction for each canvas, `count` numbers each, guided.
fn predict(
    model: &Transfusion,
    canvases: &mut [Canvas<'_>],
    unguided: &mut Unguided,
    inputs: &[Input],
    count: usize,
) -> Vec<Vec<f64>> {
    let prefixes = canvases.iter_mut().map(|canvas| &mut *canvas.prefix);
    let mut caches: Vec<&mut Cache> = prefixes.chain(unguided.caches.iter_mut()).collect();
    let inputs: Vec<&Input> = inputs.iter().cycle().take(caches.len()).collect();
    let predicted = model.decode(append(model, &mut caches, &inputs, Keep::No));
    let predicted = host(predicted);
    let (with, without) = predicted.split_at(canvases.len() * count);
    let with = with.chunks_exact(count);
    if without.is_empty() {
        return with.map(<[f64]>::to_vec).collect();
    }
    with.zip(without.chunks_exact(count))
        .map(|(with, without)| guide(with, without, unguided.weight))
        .collect()
}

/// Values of a tensor in memory order, in f64.
pub(super) fn host(tensor: burn::tensor::Tensor<2>) -> Vec<f64> {
    tensor.into_data().convert::<f64>().try_into_vec().expect("the data was converted to f64")
}
