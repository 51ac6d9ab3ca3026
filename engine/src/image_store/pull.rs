//! `cache pull`: an image from its registry into the cache, for one platform.
//!
//! Enters: a reference and a platform. Leaves: index, manifest, config, layers and attestations as
//! blobs, and the name's record, in this order: what a name leads to is always there. Layers
//! stream; documents are small and bounded.

use std::sync::Arc;

use super::gather::gather;
use super::name::Name;
use super::{Images, failed};
use crate::build::BuildError;
use crate::digest::Sha256;
use crate::source::{ImageSource, Platform, Reference};

/// What was pulled or imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The name's key.
    pub name: String,
    /// What the name leads to.
    pub top: Sha256,
    /// The platforms that are complete here.
    pub platforms: Vec<Platform>,
    /// Bytes of all blobs.
    pub bytes: u64,
}

impl Images<'_> {
    /// Looks a name up anew and fetches its image; what the cache has already is not fetched.
    ///
    /// # Errors
    /// When the registry does not have it, or the cache cannot take it.
    pub fn pull(&self, reference: &Reference, platform: &Platform) -> Result<Pulled, BuildError> {
        let name = reference.key();
        let image = Arc::new(self.registry.image(reference));
        let found = image
            .locate(platform)
            .map_err(|error| failed(&name, *error.kind))?;
        let top = image.top().map_or(found.manifest, |(digest, _)| digest);
        let gathered =
            gather(&*image, &top, None, Some(platform)).map_err(|kind| failed(&name, kind))?;
        let source: Arc<dyn ImageSource> = image;
        self.keep(&name, &source, &gathered)?;
        let record = Name {
            name: name.clone(),
            platform: platform.clone(),
            found,
            top,
        };
        self.record(&[record])?;
        let documents = gathered.documents.iter().chain(&gathered.configs);
        let documents: usize = documents.map(|(_, bytes)| bytes.len()).sum();
        let blobs: u64 = gathered.blobs.iter().map(|blob| blob.size).sum();
        Ok(Pulled {
            name,
            top,
            platforms: vec![platform.clone()],
            bytes: blobs + documents as u64,
        })
    }

    /// Writes records of names; what only the names' old meaning used goes.
    pub(super) fn record(&self, records: &[Name]) -> Result<(), BuildError> {
        let mut replaced = Vec::new();
        for record in records {
            replaced.extend(record.keep(&self.cache)?);
        }
        replaced.retain(|old| {
            let same = |new: &Name| (&new.found, new.top) == (&old.found, old.top);
            !records.iter().any(same)
        });
        self.release(&replaced).map(drop)
    }
}
