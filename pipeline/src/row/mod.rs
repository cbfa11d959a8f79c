//! The protocol of a row on its way through the plan: its own columns, and why it may be refused.
//!
//! It knows Arrow, and nothing about sources, files or operators.

pub(crate) mod columns;
pub mod reject;
pub(crate) mod reject_table;
