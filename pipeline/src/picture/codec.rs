//! The border to the image codec: the pipeline owns the trait, somebody else owns the network.

use crate::picture::Picture;

/// Pictures for a codec: images x 3 x size x size in memory order, channels red, green, blue, values -1..1.
#[derive(Clone, Debug, PartialEq)]
pub struct RgbBatch {
    /// Number of pictures.
    pub images: usize,
    /// Width and height of each, in pixels.
    pub size: usize,
    /// `images * 3 * size * size` values.
    pub values: Vec<f32>,
}

impl RgbBatch {
    /// Planes from interleaved bytes; all pictures must have the side `size`.
    pub fn from_pictures<'a>(pictures: impl IntoIterator<Item = &'a Picture>, size: usize) -> Self {
        let mut batch = Self { images: 0, size, values: Vec::new() };
        for picture in pictures {
            assert_eq!(picture.rgb.len(), 3 * size * size, "a picture of another size");
            batch.push(&picture.rgb);
        }
        batch
    }

    /// Appends one picture given as rows of red, green, blue bytes.
    pub fn push(&mut self, rgb: &[u8]) {
        for channel in 0..3 {
            self.values
                .extend(rgb.iter().skip(channel).step_by(3).map(|&value| f32::from(value) / 127.5 - 1.0));
        }
        self.images += 1;
    }
}

/// What a codec gives for a batch: images x channels x height x width in memory order, normalised as the dataset
/// stores them. With `moments`, each image has twice the channels: means, then log variances.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentBatch {
    /// Channels of a latent.
    pub channels: usize,
    /// Rows of a latent.
    pub height: usize,
    /// Columns of a latent.
    pub width: usize,
    /// Whether log variances stand behind the means of each image.
    pub moments: bool,
    /// `images * channels * height * width` values, twice that with moments.
    pub values: Vec<f32>,
}

impl LatentBatch {
    /// Values of one image.
    pub const fn image_values(&self) -> usize {
        self.channels * self.height * self.width * if self.moments { 2 } else { 1 }
    }

    /// The values of one image after the other.
    pub fn images(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.image_values().max(1))
    }
}

/// Memory of a codec, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CodecMemory {
    /// Its weights.
    pub weights: u64,
    /// What it holds at a time while it encodes a batch, about.
    pub activations: u64,
}

/// What a dataset says of its codec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodecInfo {
    /// BLAKE3 over configuration and weights.
    pub fingerprint: String,
    /// Kind of network, e.g. `AutoencoderKL`.
    pub kind: String,
    /// Channels of a latent.
    pub channels: u16,
    /// Pixels of a picture for each latent pixel, in one direction.
    pub downsampling: u32,
    /// The device that computes, e.g. `cpu`.
    pub device: String,
    /// The kind of processor: the last bits of a latent depend on it.
    pub processor: String,
}

/// Turns pictures into latents.
///
/// The latent of a picture must not depend on the other pictures of its batch, or the bytes of a dataset would depend
/// on how batches were formed.
pub trait ImageCodec: Send + Sync + std::fmt::Debug {
    /// What it is.
    fn info(&self) -> &CodecInfo;

    /// Encodes a batch, to the means of the latents' distributions or with `moments` to the distributions. Blocks while
    /// it computes; the same pictures give the same values. Log variances lie in -30..20.
    ///
    /// # Errors
    ///
    /// If the network can't take pictures of this size or the device fails.
    fn encode(
        &self,
        images: &RgbBatch,
        moments: bool,
    ) -> Result<LatentBatch, Box<dyn std::error::Error + Send + Sync>>;

    /// The memory of batches of `images` pictures of `size` x `size` pixels.
    fn memory(&self, images: usize, size: usize) -> CodecMemory;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_planes_between_minus_one_and_one() {
        let mut batch = RgbBatch { images: 0, size: 1, values: Vec::new() };
        batch.push(&[0, 255, 51]);
        batch.push(&[255, 0, 204]);
        assert_eq!(batch.images, 2);
        let expected = [-1.0, 1.0, -0.6, 1.0, -1.0, 0.6];
        assert!(batch.values.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{:?}", batch.values);
    }
}
