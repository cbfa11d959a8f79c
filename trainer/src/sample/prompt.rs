//! Prompts, and the samples that continue them.

use schemas::Vocabulary;

use super::SampleError;
use crate::{
    model::{ImagePlan, ModelPlan},
    patches::PatchGrid,
};

/// A clean latent, normalised as the dataset's: channel, row, column.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentImage {
    /// Rows and columns.
    pub size: LatentSize,
    /// channels x height x width values.
    pub values: Vec<f32>,
}

/// Size of a latent in latent pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatentSize {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl LatentSize {
    /// How latents of this size are cut.
    ///
    /// # Errors
    ///
    /// If the patches don't fit.
    pub(super) fn grid(self, image: &ImagePlan) -> Result<PatchGrid, SampleError> {
        let (Self { height, width }, patch) = (self, image.patch);
        if height == 0 || width == 0 || !height.is_multiple_of(patch) || !width.is_multiple_of(patch) {
            return Err(SampleError::Size { height, width, patch });
        }
        Ok(PatchGrid { channels: image.channels, height, width, patch })
    }
}

/// A run of text, or an image.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Ids of the tokenizer.
    Text(Vec<u32>),
    /// An image; BOI and EOI around it go without saying.
    Image(LatentImage),
}

/// The beginning of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    pub(super) parts: Vec<Part>,
    pub(super) draw: bool,
    pub(super) end: u32,
    pub(super) limit: Option<usize>,
}

impl Prompt {
    /// A document of nothing but `begin`, the tokenizer's BOS, that ends where the model chooses `end`, its EOS.
    pub fn new(begin: u32, end: u32) -> Self {
        Self { parts: vec![Part::Text(vec![begin])], draw: false, end, limit: None }
    }

    /// With text behind it.
    #[must_use]
    pub fn text(mut self, ids: &[u32]) -> Self {
        self.parts.push(Part::Text(ids.to_vec()));
        self
    }

    /// With an image behind it: clean, seen by all that follows.
    #[must_use]
    pub fn image(mut self, image: LatentImage) -> Self {
        self.parts.push(Part::Image(image));
        self
    }

    /// With BOI at its end: the model draws before it writes.
    #[must_use]
    pub fn draw(mut self) -> Self {
        self.draw = true;
        self
    }

    /// With so many new tokens at most, where the settings allow more.
    #[must_use]
    pub fn at_most(mut self, tokens: usize) -> Self {
        self.limit = Some(tokens);
        self
    }

    /// Its positions, markers included, where an image is cut into patches of `patch` x `patch`.
    pub fn positions(&self, patch: usize) -> usize {
        let of_part = |part: &Part| match part {
            Part::Text(ids) => ids.len(),
            Part::Image(image) => (image.size.height / patch) * (image.size.width / patch) + 2,
        };
        self.parts.iter().map(of_part).sum::<usize>() + usize::from(self.draw)
    }

    /// Checks the prompt against the model, and puts the markers in.
    pub(super) fn input(&self, number: u64, model: &ModelPlan) -> Result<Appended, SampleError> {
        let vocabulary = model.vocabulary();
        let mut input = Appended::default();
        for part in &self.parts {
            match part {
                Part::Text(ids) => {
                    if let Some(id) = ids.iter().find(|&&id| id >= vocabulary.size) {
                        let what = format!("token {id} is not one of the tokenizer's {}", vocabulary.size);
                        return Err(SampleError::Prompt { prompt: number, what });
                    }
                    input.ids.extend(ids);
                }
                Part::Image(image) => {
                    let (grid, patches) = image.patches(number, model)?;
                    input.ids.push(vocabulary.boi());
                    input.push_image(patches, grid.patches(), 0, vocabulary);
                    input.ids.push(vocabulary.eoi());
                }
            }
        }
        if self.draw {
            images_of(model, number)?;
            input.ids.push(vocabulary.boi());
        }
        Ok(input)
    }
}

fn images_of(model: &ModelPlan, prompt: u64) -> Result<&ImagePlan, SampleError> {
    let what = || "it has a picture, the model knows text alone".to_owned();
    model.image().ok_or_else(|| SampleError::Prompt { prompt, what: what() })
}

impl LatentImage {
    fn patches(&self, prompt: u64, model: &ModelPlan) -> Result<(PatchGrid, Vec<f32>), SampleError> {
        let grid = self.size.grid(images_of(model, prompt)?)?;
        let expected = grid.channels * grid.height * grid.width;
        if self.values.len() != expected {
            let what = format!("a latent has {} values, expected {expected}", self.values.len());
            return Err(SampleError::Prompt { prompt, what });
        }
        Ok((grid, grid.patchify(&self.values)))
    }
}

/// Positions that are appended to a sequence in one pass.
#[derive(Debug, Clone, Default)]
pub(super) struct Appended {
    /// One id a position; at patches one that is not read.
    pub(super) ids: Vec<u32>,
    /// Images among these positions.
    pub(super) images: Vec<AppendedImage>,
}

#[derive(Debug, Clone)]
pub(super) struct AppendedImage {
    /// First position, counted from the first that is appended.
    pub(super) start: usize,
    /// Number of patches.
    pub(super) patches: usize,
    /// Their numbers.
    pub(super) values: Vec<f32>,
    /// Timestep.
    pub(super) t: u32,
}

impl Appended {
    pub(super) fn token(id: u32) -> Self {
        Self { ids: vec![id], images: Vec::new() }
    }

    pub(super) fn push_image(&mut self, values: Vec<f32>, patches: usize, t: u32, vocabulary: Vocabulary) {
        self.images.push(AppendedImage { start: self.ids.len(), patches, values, t });
        self.ids.resize(self.ids.len() + patches, vocabulary.boi());
    }
}

/// The continuation of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// New text (without markers) and new images, in order.
    pub parts: Vec<Part>,
    /// Why it ends.
    pub end: End,
}

/// Why a sample ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The model ended the document.
    Document,
    /// All allowed tokens are used.
    Tokens,
}

impl Sample {
    /// All new ids of the tokenizer, across images.
    pub fn tokens(&self) -> Vec<u32> {
        let text =
            self.parts.iter().filter_map(|part| if let Part::Text(ids) = part { Some(ids) } else { None });
        text.flatten().copied().collect()
    }

    /// All new images.
    pub fn images(&self) -> impl Iterator<Item = &LatentImage> {
        self.parts.iter().filter_map(|part| if let Part::Image(image) = part { Some(image) } else { None })
    }
}
