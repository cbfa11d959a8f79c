//! Writing whole objects: a reader never sees half of one.

use std::fs;
use std::path::Path as FsPath;

use anyhow::Context;
use bytes::Bytes;
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::Place;

impl Place {
    /// Writes the object, in the place of an earlier one.
    ///
    /// # Errors
    ///
    /// If the disk or the store refuses.
    pub(crate) async fn write(&self, bytes: Bytes) -> anyhow::Result<()> {
        let written = match &self.local {
            Some(path) => write_whole(path, &bytes).map_err(anyhow::Error::from),
            None => self.store.put(&self.path, PutPayload::from(bytes)).await.map(drop).map_err(Into::into),
        };
        written.with_context(|| format!("cannot write `{}`", self.uri))
    }

    /// Writes the object of a store unless there is one.
    ///
    /// # Errors
    ///
    /// If there is one, or the store refuses.
    pub(crate) async fn create(&self, bytes: Bytes) -> anyhow::Result<()> {
        let options = PutOptions::from(PutMode::Create);
        let written = self.store.put_opts(&self.path, PutPayload::from(bytes), options).await;
        written.map(drop).with_context(|| format!("cannot write `{}`", self.uri))
    }

    /// Removes the object of a store, if it can.
    pub(crate) async fn remove(&self) {
        // Called for what is of no use and harms nobody where it stays.
        let _ = self.store.delete(&self.path).await;
    }
}

/// Writes a file beside its place and moves it there.
fn write_whole(path: &FsPath, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let beside = path.with_file_name(name);
    fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path)).inspect_err(|_| {
        // The first error is the one to report.
        let _ = fs::remove_file(&beside);
    })
}
