//! How long the demo will take here: a moment of each kind of work is done and timed.

use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use half::f16;
use rayon::prelude::*;
use schemas::{Latent, Modality, Order, Provenance, Row, RowLayout, Span, Vocabulary};
use trainer::codec::{Codec, Pictures, VaeEvent, VaeObserver, VaeTrainConfig};
use trainer::device::device;
use trainer::model::{DataShape, ImageShape, ModelConfig, Transfusion};
use trainer::objective::{Draw, ObjectiveConfig, counts, prepare};
use trainer::optimizer::{AdamW, Gradients, OptimizerConfig};

use super::drawing::{Corpus, SIDE, Subset};
use super::recipe::{BATCH, CODEC_BATCH, CONTEXT, Recipe, VOCABULARY};
use crate::session::Session;

/// Steps that are timed, after one that warms up.
const TIMED: usize = 4;
/// Pictures drawn and encoded for the estimate.
const SAMPLE: usize = 128;
/// What the questions at the end and the samples on the way take, in steps of the training: all positions of a denoising
/// step pass once forward, a third of what a training step does with them.
const QUESTION_STEPS: f64 = 0.75;

/// Seconds of each part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Estimate {
    /// Drawing and packing.
    pub(crate) data: f64,
    /// Training the codec.
    pub(crate) codec: f64,
    /// Training the model.
    pub(crate) train: f64,
    /// Drawing and describing.
    pub(crate) questions: f64,
}

impl Estimate {
    /// All of it.
    pub(crate) fn total(&self) -> f64 {
        self.data + self.codec + self.train + self.questions
    }
}

/// Times a moment of each kind of work. Nothing of it is kept.
///
/// # Errors
///
/// If there is no room for temporary files.
pub(crate) fn estimate(recipe: &Recipe, session: &Session) -> anyhow::Result<Estimate> {
    let corpus = Corpus { seed: recipe.seed, subset: Subset::Training };
    let begin = Instant::now();
    let drawn = Drawn::new(&corpus);
    let draw = begin.elapsed().as_secs_f64() / SAMPLE as f64;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let (codec_step, encode) = time_codec(&drawn, folder.path(), session)?;
    let step = time_step(session)?;
    let pictures = recipe.pictures as f64;
    let questions = 2.0 * (recipe.seen + recipe.held_out) as f64 + recipe.moments as f64 * 6.0;
    Ok(Estimate {
        // Reading a picture back costs about what drawing it did.
        data: pictures * (2.0 * draw + encode),
        codec: recipe.codec_steps as f64 * codec_step,
        train: recipe.steps as f64 * step,
        questions: questions * QUESTION_STEPS * step,
    })
}

struct Drawn(Vec<Vec<u8>>);

impl Drawn {
    fn new(corpus: &Corpus) -> Self {
        let draw = |index: u64| {
            let picture = corpus.sample(index).picture;
            // A file is made of each, too.
            let _ = picture.png();
            picture.bytes()
        };
        Self((0..SAMPLE as u64).into_par_iter().map(draw).collect())
    }
}

impl Pictures for Drawn {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn size(&self) -> usize {
        SIDE
    }

    fn rgb(&self, index: usize) -> &[u8] {
        &self.0[index]
    }
}

/// The time of each event.
struct Clock(std::sync::Mutex<Vec<Instant>>);

impl VaeObserver for Clock {
    fn event(&self, event: &VaeEvent) {
        if let VaeEvent::Step(_) = event {
            self.0.lock().expect("no holder of this lock panics").push(Instant::now());
        }
    }
}

/// Seconds of an update of the codec, and of encoding a picture.
fn time_codec(pictures: &Drawn, folder: &Path, session: &Session) -> anyhow::Result<(f64, f64)> {
    let config = VaeTrainConfig {
        output: folder.join("codec"),
        steps: TIMED as u64 + 1,
        batch: CODEC_BATCH as usize,
        ..VaeTrainConfig::demo()
    };
    let clock = Clock(std::sync::Mutex::default());
    let codec: Codec = trainer::codec::train(pictures, &config, &device(&session.device)?, &clock)?;
    let times = clock.0.into_inner().expect("no holder of this lock panics");
    let step = times[TIMED].duration_since(times[0]).as_secs_f64() / TIMED as f64;
    let rgb: Vec<f32> = pictures.0.iter().flatten().map(|&byte| f32::from(byte) / 127.5 - 1.0).collect();
    let begin = Instant::now();
    codec.encode(&rgb, SAMPLE, SIDE).context("the codec failed")?;
    Ok((step, begin.elapsed().as_secs_f64() / SAMPLE as f64))
}

/// Seconds of an update of the model.
fn time_step(session: &Session) -> anyhow::Result<f64> {
    let vocabulary = Vocabulary::text(VOCABULARY);
    let data = DataShape { vocabulary: VOCABULARY, image: Some(ImageShape { channels: 4, patch: 2 }) };
    let plan = ModelConfig::preset("demo").context("the model of the demo is built in")?.plan(&data)?;
    let objective = ObjectiveConfig::default().plan()?;
    let rows: Vec<Row> = (0..BATCH).map(|_| row(vocabulary)).collect::<Result<_, _>>()?;
    let counts = counts(&rows, vocabulary);
    let mut model = Transfusion::new(&plan, 0, &device(&session.device)?.autodiff());
    let mut optimizer = AdamW::new(&model, OptimizerConfig::default());
    let mut begin = Instant::now();
    for step in 0..=TIMED {
        let micro_batch =
            prepare(&rows, &objective, &plan, Draw { seed: 0, step: step as u64, first_row: 0 })?;
        let mut gradients = Gradients::default();
        if let Some(loss) = micro_batch.losses(&model).total(&counts, 5.0) {
            gradients.add(&model, &mut loss.backward());
        }
        let clip = optimizer.clip_scale(gradients.norm());
        model = optimizer.update(model, &gradients, clip, 1e-4, None);
        if step == 0 {
            begin = Instant::now();
        }
    }
    Ok(begin.elapsed().as_secs_f64() / TIMED as f64)
}

/// A row as the demo's are: six documents of 24 to 27 positions.
fn row(vocabulary: Vocabulary) -> Result<Row, schemas::RowError> {
    let layout = RowLayout { context: CONTEXT, patch: 2, vocabulary };
    let (mut tokens, mut spans, mut images, mut sources) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (document, words) in [4, 7, 4, 7, 4, 7].into_iter().enumerate() {
        let document = document as u32;
        let text = |start: usize, end: usize| Span {
            document,
            start: start as u32,
            len: (end - start) as u32,
            modality: Modality::Text,
            image: None,
            loss: true,
        };
        let start = tokens.len();
        tokens.extend((0..=words).map(|word| 40 * word + 1));
        tokens.push(vocabulary.boi());
        let image = tokens.len();
        tokens.extend([vocabulary.patch(); 16]);
        tokens.extend([vocabulary.eoi(), 2]);
        spans.push(text(start, image));
        spans.push(Span { modality: Modality::Image, image: Some(document), ..text(image, image + 16) });
        spans.push(text(image + 16, image + 18));
        let values = (0..256u16).map(|value| f16::from_f32(f32::from(value % 7) - 3.0)).collect();
        images.push(Latent { channels: 4, height: 8, width: 8, moments: false, values });
        let order = Order::CaptionFirst;
        sources.push(Provenance { source: 0, file: 0, row: 0, id: None, first_token: 0, order });
    }
    let used = tokens.len() as u32;
    let rest = CONTEXT - used;
    if rest > 0 {
        let document = sources.len() as u32;
        let modality = Modality::Padding;
        spans.push(Span { document, start: used, len: rest, modality, image: None, loss: false });
    }
    tokens.resize(CONTEXT as usize, vocabulary.padding());
    Row::try_new(tokens, spans, images, sources, &layout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_is_one() {
        let row = row(Vocabulary::text(VOCABULARY)).unwrap();
        assert_eq!(row.images().len(), 6);
        assert!(row.used() > 150);
    }
}
