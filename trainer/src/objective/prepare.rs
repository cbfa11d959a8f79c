//! From packed rows to a [`MicroBatch`].

use std::ops::Range;

use schemas::{Latent, Modality, Order, Row, Span};

use super::{LearnedImage, MicroBatch, Objective};
use crate::{
    diffusion::Prediction,
    kernels::{Segment, Target},
    model::{ImagePlan, Inputs, ModelPlan, PatchInput},
    patches::PatchGrid,
    random::Stream,
};

/// Where the draws of a micro-batch come from: the seed, the step, and the place of its first row in the global batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// Seed of the run.
    pub seed: u64,
    /// Step of the run.
    pub step: u64,
    /// Place of the first row in the global batch.
    pub first_row: u64,
}

/// Rows that don't fit the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// An id that the model has no embedding for.
    #[error(
        "row {row} of the batch has token {token} at position {position}, the model knows ids below {expected}"
    )]
    Token {
        /// Row of the global batch.
        row: u64,
        /// The position.
        position: usize,
        /// The id.
        token: u32,
        /// Rows of the embedding.
        expected: u32,
    },
    /// An image that the model's image ends have no room for.
    #[error("row {row} of the batch, image {image}: {found}, the model takes {expected}")]
    Image {
        /// Row of the global batch.
        row: u64,
        /// Index in the row.
        image: usize,
        /// The images that the model has room for.
        expected: String,
        /// The image found.
        found: String,
    },
}

/// Turns rows into a micro-batch. Pure: the same arguments give the same one.
///
/// - Each document is a segment of its own, unless the model sees across documents; an image whose caption is dropped starts
///   a new one at its BOI, with positions from 0 (targets stay).
/// - An image gets one t, uniform over the schedule or up to the noise limit if it stands before its caption, and is noised before
///   it is cut into patches. An image without loss stays clean, at t = 0.
///
/// # Errors
///
/// A row that doesn't fit the model.
pub fn prepare(
    rows: &[Row],
    objective: &Objective,
    model: &ModelPlan,
    draw: Draw,
) -> Result<MicroBatch, PrepareError> {
    let mut builder = Builder::new(objective, model);
    for (index, row) in rows.iter().enumerate() {
        RowDraw { draw, row: draw.first_row + index as u64 }.add(&mut builder, row)?;
    }
    Ok(builder.finish())
}

/// Grows a micro-batch row by row.
struct Builder<'a> {
    objective: &'a Objective,
    model: &'a ModelPlan,
    ids: Vec<u32>,
    positions: Vec<u32>,
    segments: Vec<Segment>,
    targets: Vec<Target>,
    patch_places: Vec<u32>,
    values: Vec<f32>,
    times: Vec<u32>,
    image_of_patch: Vec<u32>,
    learned_places: Vec<u32>,
    goals: Vec<f32>,
    image_ranges: Vec<Range<usize>>,
    images: Vec<LearnedImage>,
}

impl<'a> Builder<'a> {
    fn new(objective: &'a Objective, model: &'a ModelPlan) -> Self {
        Self {
            objective,
            model,
            ids: Vec::new(),
            positions: Vec::new(),
            segments: Vec::new(),
            targets: Vec::new(),
            patch_places: Vec::new(),
            values: Vec::new(),
            times: Vec::new(),
            image_of_patch: Vec::new(),
            learned_places: Vec::new(),
            goals: Vec::new(),
            image_ranges: Vec::new(),
            images: Vec::new(),
        }
    }

    fn finish(self) -> MicroBatch {
        let patches =
            PatchInput { values: self.values, times: self.times, image_of_patch: self.image_of_patch.into() };
        let inputs = Inputs {
            ids: self.ids.into(),
            positions: self.positions,
            segments: self.segments.into(),
            patch_places: self.patch_places.into(),
            patches,
        };
        MicroBatch {
            inputs,
            targets: self.targets.into(),
            learned_places: self.learned_places.into(),
            goals: self.goals,
            numbers: self.model.image().map_or(1, ImagePlan::numbers),
            image_ranges: self.image_ranges.into(),
            images: self.images,
        }
    }
}

/// One row and where its draws come from.
struct RowDraw {
    draw: Draw,
    row: u64,
}

impl RowDraw {
    fn stream(&self, purpose: &str, image: usize) -> Stream {
        Stream::new(self.draw.seed, purpose, &[self.draw.step, self.row, image as u64])
    }

    fn add(&self, builder: &mut Builder<'_>, row: &Row) -> Result<(), PrepareError> {
        let first = builder.ids.len();
        let dropped = self.dropped(builder, row);
        let cuts = cuts(row, &dropped, builder.model.rule().across_documents);
        let segments = stretches(&cuts, row.used() as usize)
            .map(|stretch| segment(row, stretch, first, builder.model.rule().causal_images));
        builder.segments.extend(segments);
        builder.positions.extend(positions(row, &dropped));
        self.add_text(builder, row, first)?;
        for span in row.spans().iter().filter(|span| span.modality == Modality::Image) {
            self.add_image(builder, row, span, first, &dropped)?;
        }
        Ok(())
    }

    /// The image spans whose caption is hidden this time.
    fn dropped(&self, builder: &Builder<'_>, row: &Row) -> Vec<Span> {
        let share = builder.objective.config().caption_dropout;
        let drops = |span: &&Span| {
            span.image.is_some_and(|image| {
                span.loss
                    && row.sources()[span.document as usize].order == Order::CaptionFirst
                    && self.stream("caption dropout", image as usize).uniform() < share
            })
        };
        row.spans().iter().filter(drops).copied().collect()
    }

    fn add_text(&self, builder: &mut Builder<'_>, row: &Row, first: usize) -> Result<(), PrepareError> {
        let vocabulary = builder.model.vocabulary();
        let expected = vocabulary.embedding_rows();
        // Ids at patches are replaced; they only have to exist.
        builder.ids.resize(first + row.used() as usize, vocabulary.boi());
        for span in row.spans().iter().filter(|span| span.modality == Modality::Text) {
            for position in span.range() {
                let token = row.tokens()[position];
                if token >= expected {
                    return Err(PrepareError::Token { row: self.row, position, token, expected });
                }
                builder.ids[first + position] = token;
            }
        }
        let targets = row.text_targets(vocabulary).into_iter().enumerate();
        builder.targets.extend(
            targets.filter_map(|(position, id)| Some(Target { row: (first + position) as u32, id: id? })),
        );
        Ok(())
    }

    fn add_image(
        &self,
        builder: &mut Builder<'_>,
        row: &Row,
        span: &Span,
        first: usize,
        dropped: &[Span],
    ) -> Result<(), PrepareError> {
        let image = span.image.unwrap_or_default() as usize;
        let (grid, clean) = self.latent(builder.model, row, span, image)?;
        let places = first as u32 + span.start..first as u32 + span.end();
        builder.patch_places.extend(places.clone());
        builder.image_of_patch.extend(places.clone().map(|_| builder.times.len() as u32));
        if !span.loss {
            builder.times.push(0);
            builder.values.extend(grid.patchify(&clean));
            return Ok(());
        }
        let order = row.sources()[span.document as usize].order;
        let objective = builder.objective;
        let t = self.time(objective, order, image);
        let noise = self.stream("noise", image).normals(clean.len());
        let noisy = objective.schedule().add_noise(&clean, &noise, t);
        let goal = match objective.config().prediction {
            Prediction::Noise => noise,
            Prediction::Velocity => objective.schedule().velocity(&clean, &noise, t),
        };
        builder.times.push(t);
        builder.values.extend(grid.patchify(&noisy));
        builder.goals.extend(grid.patchify(&goal));
        let start = builder.learned_places.len();
        builder.learned_places.extend(places);
        builder.image_ranges.push(start..builder.learned_places.len());
        builder.images.push(LearnedImage {
            row: self.row,
            image: image as u32,
            order,
            t,
            weight: objective.weight(t),
            dropped: dropped.contains(span),
        });
        Ok(())
    }

    fn time(&self, objective: &Objective, order: Order, image: usize) -> u32 {
        let last = objective.schedule().steps() - 1;
        let limit = match order {
            Order::ImageFirst => objective.config().noise_limit.min(last),
            Order::CaptionFirst | Order::Neither => last,
        };
        self.stream("time", image).below(limit + 1)
    }

    /// The clean latent, drawn from its moments where these are stored.
    fn latent(
        &self,
        model: &ModelPlan,
        row: &Row,
        span: &Span,
        image: usize,
    ) -> Result<(PatchGrid, Vec<f32>), PrepareError> {
        let wrong = |found: String, expected: String| {
            Err(PrepareError::Image { row: self.row, image, expected, found })
        };
        let Some(plan) = model.image() else {
            return wrong("an image".to_owned(), "text alone".to_owned());
        };
        let Some(latent) = row.images().get(image) else {
            return wrong("codes".to_owned(), "latents".to_owned());
        };
        let grid = PatchGrid {
            channels: usize::from(latent.channels),
            height: usize::from(latent.height),
            width: usize::from(latent.width),
            patch: plan.patch,
        };
        if grid.channels != plan.channels {
            return wrong(format!("{} channels", grid.channels), format!("{} channels", plan.channels));
        }
        if grid.patches() != span.len as usize {
            return wrong(format!("{} positions", span.len), format!("{} patches", grid.patches()));
        }
        Ok((grid, self.values(latent, image)))
    }

    fn values(&self, latent: &Latent, image: usize) -> Vec<f32> {
        let stored: Vec<f32> = latent.values.iter().map(|value| value.to_f32()).collect();
        if !latent.moments {
            return stored;
        }
        let (means, log_variances) = stored.split_at(stored.len() / 2);
        let drawn = self.stream("moments", image).normals(means.len());
        let draw =
            |((&mean, &log_variance), noise): ((&f32, &f32), f32)| mean + (0.5 * log_variance).exp() * noise;
        means.iter().zip(log_variances).zip(drawn).map(draw).collect()
    }
}

/// The BOI before an image span.
fn boi(span: &Span) -> usize {
    span.start as usize - 1
}

/// Where nothing earlier is seen: starts of documents (unless they see across), and the BOI of images without caption. Where documents
/// see across, those behind such an image begin to see there too, because what a position sees must be one stretch.
fn cuts(row: &Row, dropped: &[Span], across_documents: bool) -> Vec<usize> {
    let documents = row.documents().filter(|_| !across_documents).map(|(_, range)| range.start);
    let mut cuts: Vec<usize> = documents.chain(dropped.iter().map(boi)).chain([0]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

fn stretches(cuts: &[usize], end: usize) -> impl Iterator<Item = Range<usize>> + '_ {
    let ends = cuts.iter().skip(1).copied().chain([end]);
    cuts.iter().copied().zip(ends).map(|(start, end)| start..end).filter(|stretch| !stretch.is_empty())
}

fn segment(row: &Row, stretch: Range<usize>, first: usize, causal_images: bool) -> Segment {
    let inside = |span: &&Span| span.modality == Modality::Image && stretch.contains(&(span.start as usize));
    let relative = |span: &Span| span.start as usize - stretch.start..span.end() as usize - stretch.start;
    let images = row.spans().iter().filter(|_| !causal_images).filter(inside).map(relative).collect();
    let places = first + stretch.start..first + stretch.end;
    Segment { queries: places.clone(), keys: places, images }
}

/// Rotary positions of the used part of a row.
fn positions(row: &Row, dropped: &[Span]) -> Vec<u32> {
    let mut positions = row.positions();
    positions.truncate(row.used() as usize);
    for span in dropped {
        let end = row.documents().find(|(document, _)| *document == span.document as usize);
        let end = end.map_or(positions.len(), |(_, range)| range.end);
        for (offset, position) in positions[boi(span)..end].iter_mut().enumerate() {
            *position = offset as u32;
        }
    }
    positions
}
