//! Requests to a store, again where they fail: the one rule for tables, archives and pictures.
//!
//! What a store says for certain (there is no such object, it has changed, it may not be read) is not asked again. Anything
//! else is, a bounded number of times with growing pauses, from the last byte that came.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use object_store::{Error, GetResult, GetResultPayload};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// Requests for the same bytes, at most.
const ATTEMPTS: u32 = 5;

/// How often something was asked for.
#[derive(Debug)]
pub(crate) struct Attempts {
    made: u32,
    jitter_ms: u64,
}

impl Attempts {
    /// `place` tells apart what many readers ask for at once, so that they don't come back at once.
    pub(crate) fn new(place: u64) -> Self {
        Self { made: 0, jitter_ms: place % 7 * 10 }
    }

    /// Whether to ask again after this error; pauses first.
    pub(crate) async fn again(&mut self, error: &Error) -> bool {
        self.made += 1;
        if self.made >= ATTEMPTS || is_certain(error) {
            return false;
        }
        tracing::debug!(%error, attempts = self.made, "the rest is asked for again");
        tokio::time::sleep(Duration::from_millis((50 << self.made) + self.jitter_ms)).await;
        true
    }
}

/// Whether asking again can't help.
fn is_certain(error: &Error) -> bool {
    let said = matches!(
        error,
        Error::NotFound { .. }
            | Error::Precondition { .. }
            | Error::NotModified { .. }
            | Error::NotSupported { .. }
            | Error::PermissionDenied { .. }
            | Error::InvalidPath { .. }
    );
    said || is_no_path(error) || refuses_everything(error)
}

/// Whether the file system says that nothing can ever lie at such a path.
pub(crate) fn is_no_path(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename)) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether a store's answer is about who asks and not about the object. (403 alone is not: S3 says so of an object that
/// is not there to somebody who may not list the bucket.)
pub(crate) fn refuses_everything(error: &Error) -> bool {
    let says = |text: &str| {
        ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"].iter().any(|code| text.contains(code))
    };
    matches!(error, Error::Unauthenticated { .. }) || says(&error.to_string())
}

/// Appends what comes of an answer.
pub(crate) async fn append(found: GetResult, parts: &mut Vec<Bytes>) -> Result<(), Error> {
    if let GetResultPayload::File(..) = found.payload {
        // One read instead of one every few kilobytes.
        parts.push(found.bytes().await?);
        return Ok(());
    }
    let mut chunks = found.into_stream();
    while let Some(chunk) = chunks.next().await {
        parts.push(chunk?);
    }
    Ok(())
}

/// Bytes of parts.
pub(crate) fn length(parts: &[Bytes]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

/// The parts as one.
pub(crate) fn joined(mut parts: Vec<Bytes>) -> Bytes {
    match parts.len() {
        1 => parts.swap_remove(0),
        _ => parts.concat().into(),
    }
}

/// A task that ends with whoever waits for what it fetches.
#[derive(Debug)]
pub(crate) struct Task(AbortHandle);

impl Task {
    pub(crate) fn spawn(handle: &Handle, work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(handle.spawn(work).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
