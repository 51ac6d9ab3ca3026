//! Where bytes come from: registries, layouts, archives, directories and Debian mirrors.
//!
//! Enters: a reference and a platform. Leaves: the manifest of one image, and its layers as
//! streams. Nothing in here knows what a layer holds.

pub mod debian;
pub mod download;
pub mod http;
