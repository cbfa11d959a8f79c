//! The trainer's codec behind the pipeline's trait.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use pipeline::BoxError;
use pipeline::codec::{CodecInfo, CodecMemory, ImageCodec, LatentBatch, RgbBatch};
use pipeline::picture::Picture;
use trainer::codec::{CONFIG_FILE, CodecError, INDEX_FILES, WEIGHTS_FILES, part_names};
use trainer::device::device;

use crate::errors::hinted;
use crate::session::Session;
use crate::store::Place;

/// A codec on its device.
#[derive(Debug)]
pub(crate) struct Codec {
    inner: trainer::codec::Codec,
    info: CodecInfo,
}

/// Opens the codec at a URI for the pipeline, on a device by its name.
///
/// # Errors
///
/// If there is none, its files are damaged, or there is no such device.
pub(crate) async fn open(uri: &str, on: &str, session: &Session) -> anyhow::Result<Arc<dyn ImageCodec>> {
    Ok(Arc::new(fetch(uri, on, session).await?))
}

/// Loads the codec at a URI; files of a store are copied to a temporary folder first.
async fn fetch(uri: &str, on: &str, session: &Session) -> anyhow::Result<Codec> {
    let place = session.stores.place(uri)?;
    if let Some(path) = place.local {
        return Codec::load_on(&path, on);
    }
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    copy(&place, CONFIG_FILE, folder.path()).await?;
    copy_weights(&place, folder.path()).await?;
    Codec::load_on(folder.path(), on).with_context(|| format!("cannot use the codec `{uri}`"))
}

async fn copy(place: &Place, name: &str, folder: &Path) -> anyhow::Result<()> {
    let bytes = place.join(name).read().await?;
    std::fs::write(folder.join(name), &bytes).context("cannot write to the temporary folder")
}

/// Copies the weights in the first form that is there.
async fn copy_weights(place: &Place, folder: &Path) -> anyhow::Result<()> {
    for name in WEIGHTS_FILES.into_iter().chain(INDEX_FILES) {
        let Some(bytes) = place.join(name).read_if_there().await? else { continue };
        std::fs::write(folder.join(name), &bytes).context("cannot write to the temporary folder")?;
        if INDEX_FILES.contains(&name) {
            for part in part_names(&bytes, Path::new(name))? {
                copy(place, &part, folder).await?;
            }
        }
        return Ok(());
    }
    // The first name is the one to be missed.
    copy(place, WEIGHTS_FILES[0], folder).await
}

impl Codec {
    /// Loads a codec's folder.
    ///
    /// # Errors
    ///
    /// If there is none, or its files are damaged.
    pub(crate) fn load(path: &Path, session: &Session) -> anyhow::Result<Self> {
        Self::load_on(path, &session.device)
    }

    fn load_on(path: &Path, on: &str) -> anyhow::Result<Self> {
        let loaded = trainer::codec::Codec::load(path, &device(on)?);
        // The others say themselves what to do.
        let is_absent = matches!(loaded, Err(CodecError::File { .. }));
        let loaded = loaded.with_context(|| format!("cannot use the codec `{}`", path.display()));
        match loaded {
            Err(error) if is_absent => Err(hinted(error, "`transfusion vae train` makes one")),
            loaded => Ok(Self::on(loaded?, on)),
        }
    }

    /// Loads the codec at a URI.
    ///
    /// # Errors
    ///
    /// If there is none, or its files are damaged.
    pub(crate) fn at(uri: &str, session: &Session) -> anyhow::Result<Self> {
        session.runtime.block_on(fetch(uri, &session.device, session))
    }

    /// A codec that is loaded.
    pub(crate) fn new(inner: trainer::codec::Codec, session: &Session) -> Self {
        Self::on(inner, &session.device)
    }

    fn on(inner: trainer::codec::Codec, on: &str) -> Self {
        let info = CodecInfo {
            fingerprint: inner.fingerprint().to_owned(),
            kind: inner.kind().to_owned(),
            channels: inner.channels() as u16,
            downsampling: inner.downsampling() as u32,
            device: on.to_owned(),
            processor: inner.processor(),
        };
        Self { inner, info }
    }

    /// BLAKE3 over configuration and weights.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.info.fingerprint
    }

    /// Kind of network.
    pub(crate) fn kind(&self) -> &str {
        &self.info.kind
    }

    /// Channels of a latent.
    pub(crate) fn channels(&self) -> usize {
        self.inner.channels()
    }

    /// Bytes of its weights in memory.
    pub(crate) fn weight_bytes(&self) -> usize {
        self.inner.weight_bytes()
    }

    /// Side of the pictures that it was trained on, in pixels, where it says so.
    pub(crate) fn picture_size(&self) -> Option<u32> {
        self.inner.config().sample_size.map(|size| size as u32)
    }

    /// Pixels for each latent pixel, in one direction.
    pub(crate) fn downsampling(&self) -> usize {
        self.inner.downsampling()
    }

    /// About the bytes that encoding one picture of this side takes, weights and all.
    pub(crate) fn encoding_bytes(&self, size: u32) -> u64 {
        let memory = self.memory(1, size as usize);
        memory.weights + memory.activations
    }

    /// Encodes one picture.
    ///
    /// # Errors
    ///
    /// If the network can't take pictures of this size, or the latent has values that are no numbers.
    pub(crate) fn encode_picture(&self, picture: &Picture) -> anyhow::Result<LatentBatch> {
        let batch = RgbBatch::from_pictures([picture], picture.size as usize);
        let latent =
            self.encode(&batch, false).map_err(|error| anyhow!(error).context("the codec failed"))?;
        check_finite(&latent.values, "latent")?;
        Ok(latent)
    }

    /// Decodes one latent.
    ///
    /// # Errors
    ///
    /// If the values are not those of such a latent, or a value is no number.
    pub(crate) fn decode_latent(
        &self,
        values: &[f32],
        height: usize,
        width: usize,
    ) -> anyhow::Result<Decoded> {
        check_finite(values, "latent")?;
        let planes = self.inner.decode(values, 1, height, width).context("the codec failed")?;
        check_finite(&planes, "picture")?;
        let (height, width) = (height * self.downsampling(), width * self.downsampling());
        Ok(Decoded { height, width, rgb: interleave(&planes, height * width) })
    }
}

/// Refuses what would become a flat picture or a latent of nothing.
fn check_finite(values: &[f32], of: &str) -> anyhow::Result<()> {
    let bad = values.iter().filter(|value| !value.is_finite()).count();
    if bad == 0 {
        return Ok(());
    }
    let error = anyhow!(
        "{bad} of the {} values of the {of} are no finite numbers; nothing was written",
        values.len()
    );
    Err(hinted(
        error,
        "the model or the codec that made them had diverged: use an earlier checkpoint or another codec",
    ))
}

/// A picture that a codec made.
pub(crate) struct Decoded {
    /// Rows.
    pub(crate) height: usize,
    /// Columns.
    pub(crate) width: usize,
    /// Rows of red, green, blue bytes.
    pub(crate) rgb: Vec<u8>,
}

/// A picture as the bytes of a PNG file.
///
/// # Errors
///
/// If it has no pixels.
pub(crate) fn png(picture: &Decoded) -> anyhow::Result<Vec<u8>> {
    use image::ImageEncoder;
    let mut bytes = Vec::new();
    let (width, height) = (picture.width as u32, picture.height as u32);
    image::codecs::png::PngEncoder::new(&mut bytes)
        .write_image(&picture.rgb, width, height, image::ExtendedColorType::Rgb8)
        .context("cannot make a PNG file")?;
    Ok(bytes)
}

/// Planes of -1..1 to rows of red, green, blue bytes.
fn interleave(planes: &[f32], pixels: usize) -> Vec<u8> {
    let byte = |value: f32| ((value.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8;
    (0..pixels).flat_map(|pixel| (0..3).map(move |channel| byte(planes[channel * pixels + pixel]))).collect()
}

impl ImageCodec for Codec {
    fn info(&self) -> &CodecInfo {
        &self.info
    }

    fn encode(&self, images: &RgbBatch, moments: bool) -> Result<LatentBatch, BoxError> {
        let RgbBatch { images, size, values } = images;
        let values = match moments {
            true => self.inner.encode_moments(values, *images, *size)?,
            false => self.inner.encode(values, *images, *size)?,
        };
        let side = size / self.downsampling();
        Ok(LatentBatch { channels: self.inner.channels(), height: side, width: side, moments, values })
    }

    fn memory(&self, images: usize, size: usize) -> CodecMemory {
        let activations = self.inner.activation_bytes(images, size) as u64;
        CodecMemory { weights: self.inner.weight_bytes() as u64, activations }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_counted() {
        assert!(check_finite(&[0.0, -1.0, f32::MAX], "latent").is_ok());
        let error = check_finite(&[0.0, f32::NAN, f32::NEG_INFINITY], "picture").unwrap_err();
        assert!(error.to_string().contains("2 of the 3 values of the picture"), "{error}");
    }

    #[test]
    fn planes_become_pixels() {
        let planes = [-1.0, 1.0, 0.0, 2.0, 1.0, -9.0];
        assert_eq!(interleave(&planes, 2), [0, 128, 255, 255, 255, 0]);
    }
}
