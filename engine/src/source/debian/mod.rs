//! Debian packages as a source.

pub mod apt;
pub mod inflate;
pub mod packages;
pub mod relation;
pub mod release;
pub mod signed;
pub mod transport;
