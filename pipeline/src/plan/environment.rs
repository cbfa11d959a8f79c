//! What a job is handed from outside.

use std::sync::Arc;
use std::time::Duration;

use crate::host::stop::Stop;
use crate::picture::codec::ImageCodec;
use crate::storage::location::Location;
use crate::storage::resolver::Resolver;

/// Everything a job needs from outside.
#[derive(Clone)]
pub struct Environment {
    /// Opens addresses.
    pub resolver: Arc<dyn Resolver>,
    /// Where the dataset goes.
    pub output: Location,
    /// The codec that `codec.path` names; needed where a source has images.
    pub codec: Option<Arc<dyn ImageCodec>>,
    /// Cores to use.
    pub threads: usize,
    /// Set it to stop the job: what is finished stays.
    pub stop: Stop,
    /// How often the right to write to a store is renewed.
    pub lease_period: Duration,
    /// Run nothing but those refused rows of a finished dataset again that may pass now.
    pub retry_rejects: bool,
}

impl Environment {
    /// A lease of five seconds, nothing to stop it.
    pub fn new(resolver: Arc<dyn Resolver>, output: Location, threads: usize) -> Self {
        Self {
            resolver,
            output,
            codec: None,
            threads: threads.max(1),
            stop: Stop::default(),
            lease_period: Duration::from_secs(5),
            retry_rejects: false,
        }
    }
}
