//! Debian packages as a source.

pub mod apt;
pub mod release;
pub mod signed;
pub mod transport;
