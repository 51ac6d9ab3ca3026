//! Content-addressed storage for a build engine: bytes and keys, nothing else.
//!
//! What is kept, in reading order: [`digest`] and [`key`] name things; [`layout`] is the directory;
//! [`object`] holds immutable bytes named by their content; [`action`] says what a key produced;
//! [`stamp`] is what an unchanged build reads, alone; [`lock`] lets two processes do a step once.
//!
//! A crash at any moment leaves whole objects and whole actions, and rubbish in `tmp/` that the
//! next process sweeps. Nothing in here knows Linux images, YAML or terminals.

pub mod action;
mod boot;
pub mod digest;
pub mod error;
pub mod key;
pub mod layout;
pub mod lease;
pub mod lock;
pub mod object;
pub mod record;
pub mod stamp;
mod temporary;

pub use action::Action;
pub use digest::Digest;
pub use error::CacheError;
pub use key::{Key, KeyBuilder};
pub use layout::Cache;
pub use object::{Mapping, Object, ObjectWriter};
pub use stamp::{FileStamp, Stale, Stamp};
