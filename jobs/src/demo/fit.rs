//! How long a demo takes on this machine, and how many steps fill a time: a moment of each kind of work is done and timed.

use std::path::Path;
use std::sync::Mutex;
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

use super::recipe::{BATCH, CODEC_BATCH, CODEC_STEPS, CONTEXT, Recipe, VOCABULARY};
use crate::session::Session;
use crate::shapes::{Corpus, SIDE, Subset};

/// Steps that are timed, after one that warms up.
const TIMED: usize = 12;
/// Pictures drawn and encoded.
const PICTURES: usize = 256;
/// What a question at the end or a sample on the way costs, in steps of the training.
const QUESTION_STEPS: f64 = 1.5;
/// Share of the time that the codec may have: a better one is of no use to a model that had no time to learn.
const CODEC_SHARE: f64 = 0.25;
/// Fitted steps of the model are a multiple of this.
const ROUND: u64 = 100;

/// Seconds that each kind of work takes on this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speed {
    /// Drawing, writing, reading and encoding a picture.
    picture: f64,
    /// An update of the codec.
    pub(super) codec_step: f64,
    /// An update of the model.
    pub(super) step: f64,
}

/// Seconds of each part of a demo.
#[derive(Clone, Copy, Debug)]
pub(super) struct Estimate {
    pub(super) data: f64,
    pub(super) codec: f64,
    pub(super) model: f64,
    pub(super) questions: f64,
}

impl Estimate {
    /// All of it.
    pub(super) fn total(&self) -> f64 {
        self.data + self.codec + self.model + self.questions
    }
}

impl Speed {
    /// Times a moment of each kind of work. Nothing of it is kept.
    pub(super) fn measure(session: &Session) -> anyhow::Result<Self> {
        let begin = Instant::now();
        let drawings = Drawings::new();
        let draw = begin.elapsed().as_secs_f64() / PICTURES as f64;
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let (codec_step, encode) = time_codec(&drawings, folder.path(), session)?;
        // Reading a picture back costs about what drawing it did.
        Ok(Self { picture: 2.0 * draw + encode, codec_step, step: time_step(session)? })
    }

    /// How long a recipe takes.
    pub(super) fn estimate(&self, recipe: &Recipe) -> Estimate {
        let questions = 2 * (recipe.seen + recipe.held_out);
        let on_the_way = recipe.moments * 6;
        Estimate {
            data: recipe.pictures as f64 * self.picture,
            // Each drawing that is tried is encoded and decoded.
            codec: recipe.codec_steps as f64 * self.codec_step
                + recipe.codec_drawings as f64 * 2.0 * self.picture,
            model: recipe.steps as f64 * self.step + on_the_way as f64 * QUESTION_STEPS * self.step,
            questions: questions as f64 * QUESTION_STEPS * self.step,
        }
    }

    /// The recipe of most steps that takes no more than so many minutes, and [`ROUND`] steps at least.
    pub(super) fn fit(&self, seed: u64, minutes: u32) -> Recipe {
        let seconds = 60.0 * f64::from(minutes);
        let codec_steps = (CODEC_SHARE * seconds / self.codec_step) as u64 / 10 * 10;
        let codec_steps = codec_steps.clamp(100, CODEC_STEPS);
        let recipe = |rounds| Recipe::of_steps(seed, rounds * ROUND, codec_steps);
        let fits = |recipe: &Recipe| self.estimate(recipe).total() <= seconds;
        (1..).map(recipe).take_while(fits).last().unwrap_or(recipe(1))
    }
}

/// Bytes of a picture.
const BYTES: usize = 3 * SIDE * SIDE;

/// Drawings to train a codec on: rows of red, green, blue bytes.
struct Drawings(Vec<u8>);

impl Drawings {
    fn new() -> Self {
        let corpus = Corpus { seed: 0, subset: Subset::Training };
        let draw = |index: u64| {
            let picture = corpus.example(index).picture;
            // A file is made of each, too.
            let _ = picture.png();
            picture.bytes()
        };
        Self((0..PICTURES as u64).into_par_iter().flat_map_iter(draw).collect())
    }
}

impl Pictures for Drawings {
    fn len(&self) -> usize {
        self.0.len() / BYTES
    }

    fn size(&self) -> usize {
        SIDE
    }

    fn rgb(&self, index: usize) -> &[u8] {
        &self.0[index * BYTES..][..BYTES]
    }
}

/// The time of each step.
struct Clock(Mutex<Vec<Instant>>);

impl VaeObserver for Clock {
    fn event(&self, event: &VaeEvent) {
        if let VaeEvent::Step(_) = event {
            self.0.lock().expect("no holder of this lock panics").push(Instant::now());
        }
    }
}

/// Seconds of an update of the codec, and of encoding a picture.
fn time_codec(pictures: &Drawings, folder: &Path, session: &Session) -> anyhow::Result<(f64, f64)> {
    let config = VaeTrainConfig {
        output: folder.join("codec"),
        steps: TIMED as u64 + 1,
        batch: CODEC_BATCH as usize,
        ..VaeTrainConfig::demo()
    };
    let clock = Clock(Mutex::default());
    let codec: Codec = trainer::codec::train(pictures, &config, &device(&session.device)?, &clock)?;
    let times = clock.0.into_inner().expect("no holder of this lock panics");
    let step = times[TIMED].duration_since(times[0]).as_secs_f64() / TIMED as f64;
    let rgb: Vec<f32> = pictures.0.iter().map(|&byte| f32::from(byte) / 127.5 - 1.0).collect();
    let begin = Instant::now();
    codec.encode(&rgb, PICTURES, SIDE).context("the codec failed")?;
    Ok((step, begin.elapsed().as_secs_f64() / PICTURES as f64))
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
    fn a_fitted_recipe_fills_the_time() {
        let speed = Speed { picture: 1e-4, codec_step: 0.027, step: 0.035 };
        for minutes in [4, 10, 60] {
            let recipe = speed.fit(5, minutes);
            let (seconds, estimate) = (60.0 * f64::from(minutes), speed.estimate(&recipe));
            assert!(estimate.total() <= seconds && estimate.total() > 0.97 * seconds, "{recipe:?}");
            let codec = recipe.codec_steps as f64 * speed.codec_step;
            assert!(codec <= CODEC_SHARE * seconds && recipe.codec_steps <= CODEC_STEPS);
            assert_eq!(recipe, Recipe::of_steps(5, recipe.steps, recipe.codec_steps));
        }
        // A machine that is too slow for the time does the least that there is.
        assert_eq!(Speed { step: 10.0, ..speed }.fit(0, 1).steps, ROUND);
    }

    #[test]
    fn the_row_is_one() {
        let row = row(Vocabulary::text(VOCABULARY)).unwrap();
        assert_eq!(row.images().len(), 6);
        assert!(row.used() > 150);
    }
}
