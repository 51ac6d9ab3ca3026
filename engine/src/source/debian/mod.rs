//! Debian packages as a source.

pub mod apt;
