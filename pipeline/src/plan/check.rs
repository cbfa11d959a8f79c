//! What can be known of codec and tokenizer before any source is listed.

use bytes::Bytes;
use object_store::ObjectStoreExt;
use schemas::Tokenizer;

use crate::PipelineError;
use crate::config::{PreprocessConfig, TokenizerConfig};
use crate::picture::codec::ImageCodec;
use crate::storage::resolver::Resolver;

pub(super) fn check_codec(
    config: &PreprocessConfig,
    codec: Option<&dyn ImageCodec>,
) -> Result<(), PipelineError> {
    let Some(source) = config.sources.iter().find(|source| source.shape.has_images()) else { return Ok(()) };
    let (Some(codec), Some(settings)) = (codec, &config.codec) else {
        return Err(PipelineError::NoCodec { name: source.name.clone() });
    };
    let factor = codec.info().downsampling.max(1);
    if !settings.size.is_multiple_of(factor) {
        return Err(PipelineError::Config {
            key: "codec.size".to_owned(),
            found: settings.size.to_string(),
            expected: format!(
                "a multiple of {factor}: the codec makes one position of {factor} x {factor} pixels"
            ),
        });
    }
    let side = settings.size / factor;
    if side == 0 || !side.is_multiple_of(settings.patch) {
        return Err(PipelineError::CodecShape { height: side, width: side, patch: settings.patch });
    }
    let patches = u64::from(side / settings.patch).pow(2);
    if patches + 4 > u64::from(config.context) {
        return Err(PipelineError::Config {
            key: "context".to_owned(),
            found: config.context.to_string(),
            expected: format!("more than the {patches} patches of an image and its markers"),
        });
    }
    Ok(())
}

pub(super) async fn open_tokenizer(
    uri: &str,
    config: &TokenizerConfig,
    resolver: &dyn Resolver,
) -> Result<Tokenizer, PipelineError> {
    let failed = |source| PipelineError::Tokenizer { uri: uri.to_owned(), source };
    let (store, path) = resolver.resolve(uri).map_err(failed)?;
    let found = store.get(&path).await.map_err(|error| failed(Box::new(error)))?;
    let bytes: Bytes = found.bytes().await.map_err(|error| failed(Box::new(error)))?;
    Tokenizer::with_markers(&bytes, &config.markers()).map_err(|error| failed(Box::new(error)))
}
