//! LM mode, and when to leave it.

use std::{ops::ControlFlow, sync::Arc};

use burn::{module::Module, tensor::Tensor};
use schemas::Vocabulary;

use super::{
    End, LatentImage, LatentSize, Part, Prompt, Sample, SampleError, SamplePlan,
    cache::{Keep, KeyValueCache, append},
    draw::{Canvas, draw, host},
    prompt::Appended,
};
use crate::{kernels::gather_rows, model::Transfusion, patches::PatchGrid, random::Stream};

/// Prompts to continue.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The prompts.
    pub prompts: &'a [Prompt],
    /// Number of the first prompt: draws come from these numbers, so a long list gives the same in pieces of any size.
    pub first: u64,
    /// Size of the pictures that are drawn; not read where none can be.
    pub size: LatentSize,
}

/// How far prompts that are continued side by side have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many prompts got their next token.
    Wrote {
        /// Prompts.
        prompts: usize,
    },
    /// A denoising step was made.
    Drew {
        /// Images that are drawn together.
        images: usize,
        /// Steps made.
        step: usize,
        /// Steps in all.
        steps: usize,
    },
}

/// Continues prompts, all side by side; one sample a prompt, in their order. `observe` sees each pass, and may break off.
///
/// # Errors
///
/// A prompt that the model can't read, a size that it can't draw, numbers that are not finite, or [`SampleError::Stopped`].
pub fn sample(
    model: &Transfusion,
    request: &Request<'_>,
    plan: &SamplePlan,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<Sample>, SampleError> {
    let model = model.valid();
    let may_draw = plan.max_images > 0 || request.prompts.iter().any(|prompt| prompt.draw);
    let grid = model.plan().image().filter(|_| may_draw).map(|image| request.size.grid(image)).transpose()?;
    // Behind the sequences of the prompts stand those of guidance, empty until something is drawn.
    let cache = KeyValueCache::new(2 * request.prompts.len());
    let mut decoding = Decoding { sequences: Vec::new(), cache, model: &model, plan, grid };
    decoding.read(request)?;
    while decoding.sequences.iter().any(|sequence| sequence.state.is_open()) {
        while decoding.write(observe)? {}
        decoding.draw(observe)?;
    }
    Ok(decoding.sequences.into_iter().map(Sequence::finish).collect())
}

/// The next thing that a sequence does.
enum State {
    /// Choose a token from these scores.
    Write(Vec<f64>),
    /// Draw an image: its last token is BOI.
    Draw,
    /// Nothing.
    Done(End),
}

impl State {
    fn is_open(&self) -> bool {
        !matches!(self, Self::Done(_))
    }
}

/// A prompt on its way.
struct Sequence {
    number: u64,
    end: u32,
    state: State,
    /// New tokens at most.
    limit: usize,
    parts: Vec<Part>,
    tokens: usize,
    images: usize,
    /// Of the choice of tokens.
    stream: Stream,
}

impl Sequence {
    fn push(&mut self, token: u32) {
        self.tokens += 1;
        match self.parts.last_mut() {
            Some(Part::Text(ids)) => ids.push(token),
            _ => self.parts.push(Part::Text(vec![token])),
        }
    }

    fn finish(self) -> Sample {
        let end = if let State::Done(end) = self.state { end } else { End::Tokens };
        Sample { parts: self.parts, end }
    }

    fn waits(&self) -> bool {
        matches!(self.state, State::Draw)
    }

    fn is_full(&self) -> bool {
        self.tokens >= self.limit
    }

    /// The next token, if it is time for one.
    fn choose(&mut self, plan: &SamplePlan, vocabulary: Vocabulary, can_draw: bool) -> Option<u32> {
        let State::Write(scores) = &mut self.state else { return None };
        // EOI is appended, never chosen: nothing taught the model its score.
        scores[vocabulary.eoi() as usize] = f64::NEG_INFINITY;
        if !can_draw || self.images >= plan.max_images {
            scores[vocabulary.boi() as usize] = f64::NEG_INFINITY;
        }
        Some(plan.choice.choose(scores, &mut self.stream) as u32)
    }
}

/// Prompts that are continued side by side.
struct Decoding<'a> {
    sequences: Vec<Sequence>,
    cache: KeyValueCache,
    model: &'a Transfusion,
    plan: &'a SamplePlan,
    /// How drawn images are cut; `None` where nothing will be drawn.
    grid: Option<PatchGrid>,
}

impl Decoding<'_> {
    fn vocabulary(&self) -> Vocabulary {
        self.model.plan().vocabulary()
    }

    /// Reads all prompts in one pass.
    fn read(&mut self, request: &Request<'_>) -> Result<(), SampleError> {
        let numbered = || request.prompts.iter().zip(request.first..);
        let inputs: Vec<Appended> = numbered()
            .map(|(prompt, number)| prompt.input(number, self.model.plan()))
            .collect::<Result<_, _>>()?;
        self.sequences = numbered().map(|(prompt, number)| self.sequence(prompt, number)).collect();
        self.feed((0..inputs.len()).zip(inputs).collect())
    }

    fn sequence(&self, prompt: &Prompt, number: u64) -> Sequence {
        Sequence {
            number,
            end: prompt.end,
            limit: prompt.limit.map_or(self.plan.max_tokens, |limit| limit.min(self.plan.max_tokens)),
            state: if prompt.draw { State::Draw } else { State::Write(Vec::new()) },
            parts: Vec::new(),
            tokens: 0,
            images: 0,
            stream: Stream::new(self.plan.seed, "sample text", &[number]),
        }
    }

    /// Appends to the sequences with these indexes, and gives those in LM mode their next scores.
    fn feed(&mut self, inputs: Vec<(usize, Appended)>) -> Result<(), SampleError> {
        if inputs.is_empty() {
            return Ok(());
        }
        let ends = inputs.iter().scan(0, |end, (_, input)| {
            *end += input.ids.len();
            Some(*end as u32 - 1)
        });
        let last: Vec<u32> = ends.collect();
        let named: Vec<(usize, &Appended)> = inputs.iter().map(|(index, input)| (*index, input)).collect();
        let hidden_nd = append(self.model, &mut self.cache, &named, Keep::Yes);
        let writing = |index: usize| matches!(self.sequences[index].state, State::Write(_));
        let asked: Vec<(usize, u32)> =
            inputs.iter().map(|(index, _)| *index).zip(last).filter(|(index, _)| writing(*index)).collect();
        self.score(hidden_nd, &asked)
    }

    /// Scores of the next token of some sequences, from rows of hidden states.
    fn score(&mut self, hidden_nd: Tensor<2>, asked: &[(usize, u32)]) -> Result<(), SampleError> {
        if asked.is_empty() {
            return Ok(());
        }
        let rows: Arc<[u32]> = asked.iter().map(|(_, row)| *row).collect();
        let scores = host(self.model.logits(gather_rows(hidden_nd, &rows)));
        let each = scores.len() / asked.len();
        for ((index, _), scores) in asked.iter().zip(scores.chunks_exact(each)) {
            let sequence = &mut self.sequences[*index];
            if !scores.iter().all(|score| score.is_finite()) {
                return Err(SampleError::NotFinite { prompt: sequence.number });
            }
            sequence.state = State::Write(scores.to_vec());
        }
        Ok(())
    }

    /// Gives every sequence in LM mode one token. Whether there was one.
    fn write(&mut self, observe: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<bool, SampleError> {
        let (vocabulary, can_draw) = (self.vocabulary(), self.grid.is_some());
        let mut inputs = Vec::new();
        for (index, sequence) in self.sequences.iter_mut().enumerate() {
            if sequence.is_full() && matches!(sequence.state, State::Write(_)) {
                sequence.state = State::Done(End::Tokens);
            }
            let Some(token) = sequence.choose(self.plan, vocabulary, can_draw) else { continue };
            if token == sequence.end {
                sequence.state = State::Done(End::Document);
                continue;
            }
            if token == vocabulary.boi() {
                sequence.state = State::Draw;
            } else {
                sequence.push(token);
            }
            if token == vocabulary.boi() || !sequence.is_full() {
                inputs.push((index, Appended::token(token)));
            }
        }
        let wrote = !inputs.is_empty();
        if wrote && observe(Progress::Wrote { prompts: inputs.len() }).is_break() {
            return Err(SampleError::Stopped);
        }
        self.feed(inputs)?;
        Ok(wrote)
    }

    /// Draws an image for every sequence that waits for one, and puts it, clean, and EOI behind it.
    fn draw(&mut self, observe: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<(), SampleError> {
        let waiting: Vec<usize> =
            (0..self.sequences.len()).filter(|&index| self.sequences[index].waits()).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let grid = self.grid.expect("BOI is no choice, and in no prompt, where nothing can be drawn");
        let mut canvases: Vec<Canvas> = waiting.iter().map(|&index| self.canvas(index)).collect();
        let (images, steps) = (canvases.len(), self.plan.steps.len());
        let drawn = draw(self.model, &mut self.cache, &mut canvases, &grid, self.plan, |step| {
            observe(Progress::Drew { images, step, steps })
        })?;
        let inputs = waiting
            .into_iter()
            .zip(drawn)
            .filter_map(|(index, patches)| Some((index, self.put_image(index, patches, &grid)?)))
            .collect();
        self.feed(inputs)
    }

    /// The next image of a sequence.
    fn canvas(&self, index: usize) -> Canvas {
        let sequence = &self.sequences[index];
        let place = [sequence.number, sequence.images as u64];
        let stream = Stream::new(self.plan.seed, "sample image", &place);
        Canvas { prompt: sequence.number, prefix: index, unguided: self.sequences.len() + index, stream }
    }

    /// Puts a drawn image into its sample: what must be appended for the model to go on, unless the sample is done.
    fn put_image(&mut self, index: usize, patches: Vec<f32>, grid: &PatchGrid) -> Option<Appended> {
        let vocabulary = self.vocabulary();
        let sequence = &mut self.sequences[index];
        let size = LatentSize { height: grid.height, width: grid.width };
        sequence.parts.push(Part::Image(LatentImage { size, values: grid.unpatchify(&patches) }));
        sequence.images += 1;
        if sequence.is_full() {
            sequence.state = State::Done(End::Tokens);
            return None;
        }
        sequence.state = State::Write(Vec::new());
        let mut input = Appended::default();
        input.push_image(patches, grid.patches(), 0, vocabulary);
        input.ids.push(vocabulary.eoi());
        Some(input)
    }
}
