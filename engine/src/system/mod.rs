//! LinuxKit's contract: what a description and its images come to inside the system.
//!
//! Enters: a [`crate::spec::Spec`] and, per container, the image's own configuration. Leaves:
//! resolved containers, the bytes of their config.json and runtime.json, the nodes of `files`, and
//! the metadata file. Pure functions; trees and outputs are made elsewhere.

pub mod bundle;
pub mod container;
pub mod files;
pub mod ids;
pub mod job;
mod json;
pub mod kernel;
pub mod label;
mod lz4;
pub mod metadata;
pub mod modules;
pub mod volumes;
mod yaml_text;

#[cfg(test)]
mod recorded_tests;
#[cfg(test)]
mod tests;
