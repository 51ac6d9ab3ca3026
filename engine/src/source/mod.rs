//! Where bytes come from: registries, layouts, archives, directories and Debian mirrors.
//!
//! Enters: a reference and a platform. Leaves: the manifest of one image, and its layers as
//! streams. Nothing in here knows what a layer holds.
//!
//! In reading order: [`image_name`] is what stands after `image:`; [`registry`], [`oci_layout`] and
//! [`docker_archive`] are the [`ImageSource`]s, and [`docker_engine`] is one before a registry; [`manifest`] and [`platform`] parse and choose;
//! [`http`], [`download`] and [`credentials`] are how bytes travel; [`error`] is what goes wrong.

mod auth;
mod challenge;
pub mod credentials;
pub mod debian;
pub mod docker_archive;
pub mod docker_engine;
pub mod download;
mod endpoint;
pub mod error;
mod exact;
pub mod http;
pub mod image_name;
pub mod manifest;
pub mod oci_layout;
pub mod platform;
pub mod reference;
pub mod registry;
pub(crate) mod resolve;
mod tar_index;
mod upload;

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

pub use credentials::{Credential, Credentials};
pub use endpoint::Mirror;
pub use error::{SourceError, SourceErrorKind};
pub use image_name::ImageName;
pub(crate) use manifest::LAYER_TYPES;
pub use manifest::{LayerDescriptor, ResolvedImage};
pub use platform::Platform;
pub use reference::{Reference, ReferenceError};

use crate::digest::Sha256;

/// A manifest, and what its index says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The manifest.
    pub manifest: Sha256,
    /// BuildKit's attestations of it.
    pub attestations: Vec<Sha256>,
}

impl From<Sha256> for Located {
    fn from(manifest: Sha256) -> Self {
        Self {
            manifest,
            attestations: Vec::new(),
        }
    }
}

/// One image somewhere, for any platform it has.
///
/// Sources cache what they verified for as long as they live, so asking twice costs nothing.
pub trait ImageSource: Send + Sync {
    /// Returns the digest of the one manifest for `platform`; an index is resolved down to it.
    ///
    /// # Errors
    /// When the image, or one for that platform, is not there, or cannot be reached.
    fn resolve(&self, platform: &Platform) -> Result<Sha256, SourceError>;

    /// As [`ImageSource::resolve`], with what stands beside the manifest.
    ///
    /// # Errors
    /// As [`ImageSource::resolve`].
    fn locate(&self, platform: &Platform) -> Result<Located, SourceError> {
        self.resolve(platform).map(Located::from)
    }

    /// Returns the SPDX documents of an attestation that [`ImageSource::locate`] found: layers for
    /// [`ImageSource::layer`], in-toto statements (BuildKit's attestation storage, `attestation-storage.md`).
    ///
    /// # Errors
    /// When the attestation is not there, has another digest, or is none.
    fn statements(&self, attestation: &Sha256) -> Result<Vec<LayerDescriptor>, SourceError> {
        let _ = attestation;
        Ok(Vec::new())
    }

    /// Returns manifest, config and layers of a resolved digest, verified.
    ///
    /// # Errors
    /// When they are not there, have another digest, or are no image kiln can unpack.
    fn image(&self, manifest: &Sha256) -> Result<ResolvedImage, SourceError>;

    /// Opens the bytes of a layer, as stored.
    ///
    /// The digest is **not** verified here: who unpacks verifies it while streaming. The length is:
    /// a read fails when the bytes go past, or end before, `layer.size`. Failures in reads are
    /// [`SourceError`]s inside [`std::io::Error`]s.
    ///
    /// # Errors
    /// When the layer is not there or cannot be opened.
    fn layer(&self, layer: &LayerDescriptor) -> Result<Box<dyn Read + Send>, SourceError>;

    /// Returns the canonical name, for messages and keys.
    fn name(&self) -> String;

    /// Returns the digest that the reference itself states, of a manifest or an index.
    fn digest(&self) -> Option<Sha256> {
        None
    }

    /// Returns the document that the name itself leads to, an index or a manifest, once
    /// [`ImageSource::resolve`] has read it.
    fn top(&self) -> Option<(Sha256, Arc<Vec<u8>>)> {
        None
    }

    /// Tells whether the image is somewhere that others can reach, under its name.
    fn is_published(&self) -> bool {
        self.inputs().is_empty()
    }

    /// Returns the local files whose change can change what [`ImageSource::resolve`] answers.
    fn inputs(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}
