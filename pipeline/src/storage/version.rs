//! Versions of a dataset: what is added to one makes a new manifest beside the old ones.
//!
//! A version begins with the units and shards of the one before, untouched and in their order, and names its checksum;
//! so a row of an old version has the same number in a new one, and a reader that holds on to an old version goes on
//! undisturbed.

use schemas::{Manifest, ParentRecord, manifest_name};

use super::location::Location;
use crate::PipelineError;

/// A version of a dataset.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    /// Its number, from 1.
    pub(crate) number: u32,
    pub(crate) manifest: Manifest,
    pub(crate) checksum: String,
}

impl Version {
    /// The file name of its manifest.
    pub(crate) fn name(&self) -> String {
        manifest_name(self.number)
    }

    /// The newest version; `None` if the dataset is not finished. Versions are probed by name, never listed.
    pub(crate) async fn newest(output: &Location) -> Result<Option<Self>, PipelineError> {
        let mut number = 0;
        let mut newest = None;
        while let Some(bytes) = output.read(&manifest_name(number + 1)).await? {
            number += 1;
            newest = Some(bytes);
        }
        newest.map(|bytes| Self::parse(output, number, &bytes)).transpose()
    }

    async fn read(output: &Location, number: u32) -> Result<Option<Self>, PipelineError> {
        match output.read(&manifest_name(number)).await? {
            Some(bytes) => Self::parse(output, number, &bytes).map(Some),
            None => Ok(None),
        }
    }

    fn parse(output: &Location, number: u32, bytes: &[u8]) -> Result<Self, PipelineError> {
        let damaged = |error: schemas::ManifestError| PipelineError::Damaged {
            path: output.show(&manifest_name(number)),
            what: error.to_string(),
        };
        let (manifest, checksum) = Manifest::from_bytes(bytes).map_err(damaged)?;
        Ok(Self { number, manifest, checksum })
    }

    /// Of `newest` and the versions before it, the one that holds the very units of `other`.
    pub(crate) async fn beside(
        output: &Location,
        newest: Option<&Self>,
        other: &Manifest,
    ) -> Result<Option<Self>, PipelineError> {
        let names = |manifest: &Manifest| -> Vec<String> {
            manifest.units.iter().map(|unit| unit.unit.clone()).collect()
        };
        let wanted = names(other);
        let mut candidate = newest.cloned();
        while let Some(version) = candidate {
            if names(&version.manifest) == wanted {
                return Ok(Some(version));
            }
            candidate = match version.number {
                1 => None,
                number => Self::read(output, number - 1).await?,
            };
        }
        Ok(None)
    }

    /// Puts the version behind `newest`, unless that is it already, written by a process that died behind it.
    pub(crate) async fn write(
        output: &Location,
        newest: Option<&Self>,
        mut manifest: Manifest,
    ) -> Result<Self, PipelineError> {
        if let Some(newest) = newest {
            manifest.parent.clone_from(&newest.manifest.parent);
            if manifest == newest.manifest {
                return Ok(newest.clone());
            }
            manifest.parent = Some(ParentRecord { name: newest.name(), checksum: newest.checksum.clone() });
        }
        let number = newest.map_or(1, |newest| newest.number + 1);
        let name = manifest_name(number);
        let (bytes, checksum) =
            manifest.to_bytes().map_err(|error| PipelineError::Format(Box::new(error)))?;
        if output.create(&name, bytes.clone()).await?
            || output.read(&name).await?.is_some_and(|there| there == bytes)
        {
            return Ok(Self { number, manifest, checksum });
        }
        let what = format!("`{name}` was written meanwhile");
        Err(PipelineError::Busy { output: output.show(""), what })
    }
}
