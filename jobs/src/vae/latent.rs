//! A latent in a file: `.safetensors` with one tensor `latent`, channels x height x width, normalised as datasets are.

use std::path::Path;

use anyhow::{Context, bail};
use pipeline::codec::LatentBatch;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::store;

const NAME: &str = "latent";

/// Writes one latent.
pub(super) fn write(path: &Path, latent: &LatentBatch) -> anyhow::Result<()> {
    let bytes: Vec<u8> = latent.values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![latent.channels, latent.height, latent.width], &bytes)?;
    let file = safetensors::serialize([(NAME, view)], None)?;
    store::write_file(path, file)
}

/// Reads one latent of `channels` channels.
pub(super) fn read(bytes: &[u8], channels: usize) -> anyhow::Result<LatentBatch> {
    let file = SafeTensors::deserialize(bytes).context("it is no safetensors file")?;
    let view = file.tensor(NAME).context("it has no tensor `latent`")?;
    let &[found, height, width] = view.shape() else {
        bail!("`latent` has {} axes, expected 3", view.shape().len())
    };
    if found != channels {
        bail!("`latent` has {found} channels, the codec has {channels}");
    }
    if view.dtype() != Dtype::F32 {
        bail!("`latent` is {:?}, expected F32", view.dtype());
    }
    let values =
        view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    Ok(LatentBatch { channels, height, width, moments: false, values: values.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latent_survives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let latent = LatentBatch {
            channels: 2,
            height: 1,
            width: 3,
            moments: false,
            values: vec![0.5, -1.0, 2.0, 0.0, 1e-9, -7.0],
        };
        write(&path, &latent).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(read(&bytes, 2).unwrap(), latent);
        assert!(read(&bytes, 4).unwrap_err().to_string().contains("2 channels, the codec has 4"));
        assert!(read(b"not one", 2).unwrap_err().to_string().contains("no safetensors"));
    }
}
