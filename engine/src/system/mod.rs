//! LinuxKit's contract: what the parts of a description become in the output tree.

pub mod kernel;
mod lz4;
