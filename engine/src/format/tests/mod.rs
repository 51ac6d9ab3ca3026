//! Tests of whole outputs.

mod files;
mod plan;
mod readers;
pub(crate) mod support;
