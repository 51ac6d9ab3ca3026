//! The build engine of kiln: from a YAML description to the bytes of a bootable system.
//!
//! In reading order: [`spec`] is what people wrote, with positions; [`package`] names the images
//! of LinuxKit's packages; [`source`] is where bytes come
//! from; [`tree`] turns layers into packs and trees and merges them; [`system`] is LinuxKit's
//! contract (bundles, files, kernel); [`sbom`] is what the system is made of; [`step`] is the graph
//! that does all of it once; [`format`] writes outputs; [`image_store`] is images as things in the
//! cache. No terminal, no argv and no environment in here.

pub mod build;
pub mod causes;
pub mod digest;
pub mod event;
pub mod format;
pub mod image_store;
pub mod lockfile;
pub mod package;
pub mod sbom;
pub mod source;
pub mod spec;
pub mod step;
pub mod system;
pub mod tree;
