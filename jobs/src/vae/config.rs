//! The config of `vae train`: the trainer's settings, and the pipeline's sources beside them.

use std::fmt;

use pipeline::{PictureConfig, SourceConfig};
use schemars::JsonSchema;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use trainer::codec::VaeTrainConfig;

/// One file with the keys of [`VaeTrainConfig`], `[[source]]`, `[pictures]` and `max-pictures`.
#[derive(Clone, Debug, PartialEq, JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub(crate) struct VaeConfig {
    /// How the codec is trained.
    #[schemars(flatten)]
    pub(crate) train: VaeTrainConfig,
    /// Where pictures come from.
    #[schemars(rename = "source", extend("x-required" = true))]
    pub(crate) sources: Vec<SourceConfig>,
    /// Which pictures are taken and how.
    #[schemars(default)]
    pub(crate) pictures: PictureConfig,
    /// Pictures, at most: their crops are held in memory.
    #[schemars(default = "max_pictures", extend("x-unit" = "pictures"))]
    pub(crate) max_pictures: usize,
}

const fn max_pictures() -> usize {
    20_000
}

impl<'de> Deserialize<'de> for VaeConfig {
    /// By hand: `flatten` would blunt the check of unknown keys.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Keys)
    }
}

struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = VaeConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the table of a codec's training")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<VaeConfig, A::Error> {
        let (mut sources, mut pictures, mut max_pictures) =
            (Vec::new(), PictureConfig::default(), max_pictures());
        let mut others = toml::Table::new();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "source" => sources = map.next_value()?,
                "pictures" => pictures = map.next_value()?,
                "max-pictures" => max_pictures = map.next_value()?,
                _ => drop(others.insert(key, map.next_value()?)),
            }
        }
        let train = others.try_into().map_err(|error: toml::de::Error| {
            // Only the table at the top has these three.
            let listed = error.message().replace(
                "expected one of `output`, ",
                "expected one of `source`, `pictures`, `max-pictures`, `output`, ",
            );
            serde::de::Error::custom(listed)
        })?;
        Ok(VaeConfig { train, sources, pictures, max_pictures })
    }
}
