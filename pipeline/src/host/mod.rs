//! What passes between the pipeline and the program and machine around it: errors, events, the request to stop, threads.
//!
//! It knows nothing about rows, files or configurations.

pub(crate) mod error;
pub(crate) mod observer;
pub(crate) mod passed_over;
pub(crate) mod stop;
pub(crate) mod threads;
