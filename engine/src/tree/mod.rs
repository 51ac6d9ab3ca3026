//! What a file system holds: packs and trees, and the arithmetic on them.
//!
//! A layer becomes two objects: a pack (its uncompressed tar bytes) and a tree (a sorted,
//! mappable index of its entries). [`path`] is a checked path, [`index`] is the tree's format.

pub mod difference;
pub mod directory;
pub mod file;
pub mod flatten;
pub mod generate;
mod host;
pub mod index;
mod layer;
pub mod path;
pub mod tar;
mod tar_numbers;
pub mod unpack;
pub mod view;

pub use index::{Content, Entry, EntryRef, Extent, Kind, Tree, TreeError, TreeWriter};
pub use path::TreePath;
