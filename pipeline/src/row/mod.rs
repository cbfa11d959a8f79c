//! The protocol of a row on its way through the plan: its own columns, and why it may be refused.
//!
//! A row is refused where it can't be used, with a [`reject::Reject`] and its reason, and goes on as a row of the kind
//! `Reject`; [`reject_table`] is the table that such rows end in. It knows nothing about files, readers or operators.

pub(crate) mod columns;
pub mod reject;
pub(crate) mod reject_table;
