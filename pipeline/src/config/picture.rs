//! Pictures: which are taken, how, and the codec that encodes them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::check_range;
use crate::PipelineError;

/// The image codec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct CodecConfig {
    /// Folder of the codec, as `transfusion vae train` writes it or as diffusers does.
    #[schemars(extend("x-required" = true))]
    pub path: String,
    /// Side of the pictures: the shorter side is resized to it, the longer one cropped in the middle.
    #[schemars(range(min = 1, max = 16_384), extend("x-unit" = "pixels"))]
    pub size: u32,
    /// Side of a patch, in latent pixels. A property of the dataset: it decides the length of a row.
    #[schemars(range(min = 1, max = 1_024), extend("x-unit" = "latent pixels"))]
    pub patch: u32,
    /// Pictures that are encoded together; more takes more memory.
    #[schemars(range(min = 1, max = 65_536), extend("x-unit" = "pictures"))]
    pub batch: usize,
    /// What is stored of the distribution that the codec gives for a picture.
    pub latent: LatentKind,
    /// Where the codec runs, e.g. `cpu` or `cuda:0`; by default where `--device` says.
    pub device: Option<String>,
}

impl CodecConfig {
    pub(super) fn check(&self) -> Result<(), PipelineError> {
        check_range("codec.size", self.size.into(), 1..=16_384, "pixels")?;
        check_range("codec.patch", self.patch.into(), 1..=1_024, "latent pixels")?;
        check_range("codec.batch", self.batch as u64, 1..=65_536, "pictures")
    }
}

/// What is stored of the distribution that a codec gives for a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LatentKind {
    /// Its mean.
    #[default]
    Mean,
    /// One draw from it, by hash of the row and the image.
    Sample,
    /// Mean and log variance, so that each use in training draws anew. Twice the bytes.
    Moments,
}

impl Default for CodecConfig {
    fn default() -> Self {
        Self { path: String::new(), size: 256, patch: 2, batch: 16, latent: LatentKind::Mean, device: None }
    }
}

/// Which pictures are taken and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct PictureConfig {
    /// Pictures with a shorter side than this are refused.
    #[schemars(range(min = 0, max = 1_000_000), extend("x-unit" = "pixels"))]
    pub min_side: u32,
    /// Pictures with more pixels than this are refused before they are decoded.
    #[schemars(range(min = 1, max = 1_000_000_000), extend("x-unit" = "pixels"))]
    pub max_pixels: u64,
    /// Colour behind transparent pixels: red, green, blue.
    #[schemars(extend("x-unit" = "red, green, blue"))]
    pub background: [u8; 3],
    /// Whether the EXIF orientation is applied.
    pub orientation: bool,
}

impl Default for PictureConfig {
    fn default() -> Self {
        let PictureRules { min_side, max_pixels, background, orientation, .. } = PictureRules::default();
        Self { min_side, max_pixels, background, orientation }
    }
}

impl PictureConfig {
    pub(super) fn check(&self) -> Result<(), PipelineError> {
        check_range("pictures.min-side", self.min_side.into(), 0..=1_000_000, "pixels")?;
        // A billion pixels take 4 GB when they are decoded.
        check_range("pictures.max-pixels", self.max_pixels, 1..=1_000_000_000, "pixels")
    }

    /// The rules for crops of `size` pixels.
    pub fn rules(&self, size: u32) -> PictureRules {
        let Self { min_side, max_pixels, background, orientation } = *self;
        PictureRules { size, min_side, max_pixels, background, orientation }
    }
}

/// What is done to every picture of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct PictureRules {
    /// Side of the square that comes out, in pixels.
    pub size: u32,
    /// Pictures with a shorter side than this, in pixels as shown, are refused.
    pub min_side: u32,
    /// Pictures with more pixels than this are refused before they are decoded.
    pub max_pixels: u64,
    /// Colour behind transparent pixels: red, green, blue.
    pub background: [u8; 3],
    /// Whether the EXIF orientation is applied.
    pub orientation: bool,
}

impl Default for PictureRules {
    fn default() -> Self {
        Self { size: 256, min_side: 1, max_pixels: 64_000_000, background: [255; 3], orientation: true }
    }
}
