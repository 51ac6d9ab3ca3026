//! `cache ls`: the images of the cache, by name.
//!
//! Enters: the records of names. Leaves: one line for each thing a name leads to, with the
//! platforms it was looked up for and what all its objects take together.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use kiln_cache::{Cache, Digest, Key};

use super::Images;
use super::gather::gather;
use super::name::{self, Name};
use super::store::{Store, blob_key};
use crate::build::BuildError;
use crate::digest::Sha256;
use crate::source::Platform;
use crate::step::image::manifest_key;
use crate::step::layer::{self, layer_key};

/// An image of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name's key.
    pub name: String,
    /// What it leads to: an index, or the one manifest.
    pub digest: Sha256,
    /// Platforms and their manifests.
    pub platforms: Vec<(Platform, Sha256)>,
    /// Bytes of its blobs, layers and indexes in the cache; what images share counts for each.
    pub bytes: u64,
}

impl Images<'_> {
    /// Lists all images, sorted by name.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, BuildError> {
        let mut found: BTreeMap<(String, Sha256), Vec<Name>> = BTreeMap::new();
        for name in name::all(&self.cache)? {
            found
                .entry((name.name.clone(), name.top))
                .or_default()
                .push(name);
        }
        let mut listed = Vec::new();
        for ((name, digest), names) in found {
            listed.push(Listed {
                name,
                digest,
                bytes: bytes(&self.cache, &names)?,
                platforms: names
                    .into_iter()
                    .map(|name| (name.platform, name.found.manifest))
                    .collect(),
            });
        }
        Ok(listed)
    }
}

fn bytes(cache: &Cache, names: &[Name]) -> Result<u64, BuildError> {
    let mut objects: BTreeMap<Digest, u64> = BTreeMap::new();
    for key in keys(cache, names)? {
        if let Some(action) = cache.action(&key)? {
            for (_, digest, size) in action.outputs {
                if cache.has_object_sized(&digest, size) {
                    objects.insert(digest, size);
                }
            }
        }
    }
    Ok(objects.values().sum())
}

/// Returns the keys of all that belongs to images: blobs, manifests, layers.
pub(super) fn keys(cache: &Cache, names: &[Name]) -> Result<BTreeSet<Key>, BuildError> {
    let store = Store::new(cache);
    let mut keys = BTreeSet::new();
    for name in names {
        for digest in [&name.top, &name.found.manifest] {
            keys.insert(blob_key(digest));
            // What is not complete here, a build's image without its blobs, has its records below.
            let gathered = gather(&store, digest, None, None).unwrap_or_default();
            let documents = gathered.documents.iter().chain(&gathered.configs);
            keys.extend(documents.map(|(digest, _)| blob_key(digest)));
            keys.extend(gathered.blobs.iter().map(|blob| blob_key(&blob.digest)));
            let images = gathered.images.iter().map(|image| image.manifest);
            for manifest in images.chain([name.found.manifest]) {
                let key = manifest_key(&manifest);
                match store.image(&manifest) {
                    Some(image) => keys.extend(image.layers.iter().map(layer_key)),
                    None => {
                        let action = cache.action(&key)?;
                        let layers = action.and_then(|it| layer::decode(it.value("layers")?));
                        // A record may come from elsewhere: only keys of layers go with an image.
                        let layers = layers.iter().flatten().map(|(_, layer)| layer_key(layer));
                        keys.extend(layers);
                    }
                }
                keys.insert(key);
            }
        }
    }
    Ok(keys)
}
