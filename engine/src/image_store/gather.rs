//! All that belongs to an image: the documents from its name down, and the blobs they list.
//!
//! Enters: a digest and a way to read documents. Leaves: verified documents, digests and sizes of
//! blobs, and the images found. Of an index either one platform with its attestations is gathered,
//! or everything that is there.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::digest::Sha256;
use crate::source::error::SourceErrorKind;
use crate::source::manifest::{Descriptor, Document, Manifest, parse, parse_config};
use crate::source::resolve::{Documents, Kind, document, resolve};
use crate::source::{LayerDescriptor, Platform, ResolvedImage};

/// Indexes inside indexes, and documents in all, that are followed.
const DEPTH_MAX: usize = 4;
const DOCUMENTS_MAX: usize = 10_000;
/// Bytes of documents that are kept at once.
const DOCUMENT_BYTES_MAX: usize = 256 << 20;

/// A blob that is not read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Blob {
    pub(crate) digest: Sha256,
    pub(crate) size: u64,
}

/// An image that was found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// `None` when neither index nor config states one.
    pub(crate) platform: Option<Platform>,
    pub(crate) manifest: Sha256,
    /// Whether everything it lists is there.
    pub(crate) complete: bool,
}

/// All that belongs to an image.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// Manifests and indexes, what is listed before what lists it, with their kinds.
    pub(crate) documents: Vec<(Sha256, Arc<Vec<u8>>)>,
    /// Configs of images.
    pub(crate) configs: Vec<(Sha256, Arc<Vec<u8>>)>,
    /// Layers, and configs of what is no image; each once.
    pub(crate) blobs: BTreeSet<Blob>,
    /// The images, attestations aside.
    pub(crate) images: Vec<Found>,
}

impl Gathered {
    /// Gathers what is one image by itself.
    pub(super) fn of_image(image: &ResolvedImage, platform: Option<Platform>) -> Self {
        let blob = |layer: &LayerDescriptor| Blob {
            digest: layer.digest,
            size: layer.size,
        };
        Self {
            documents: vec![(image.manifest_digest, Arc::new(image.manifest.clone()))],
            configs: vec![(Sha256::of(&image.config), Arc::new(image.config.clone()))],
            blobs: image.layers.iter().map(blob).collect(),
            images: vec![Found {
                platform,
                manifest: image.manifest_digest,
                complete: true,
            }],
        }
    }
}

/// Gathers what `top` leads to: for `wanted` alone, or all that is there.
pub(crate) fn gather(
    from: &dyn Documents,
    top: &Sha256,
    stated: Option<&str>,
    wanted: Option<&Platform>,
) -> Result<Gathered, SourceErrorKind> {
    let manifest = match wanted {
        Some(platform) => Some(resolve(from, top, stated, platform)?.manifest),
        None => None,
    };
    let mut walk = Walk {
        from,
        manifest,
        found: Gathered::default(),
        seen: BTreeSet::new(),
        bytes: 0,
    };
    walk.document(top, stated, None, false, 0)?;
    Ok(walk.found)
}

struct Walk<'a> {
    from: &'a dyn Documents,
    /// The one image that is wanted.
    manifest: Option<Sha256>,
    found: Gathered,
    seen: BTreeSet<Sha256>,
    /// Bytes of what was found.
    bytes: usize,
}

impl Walk<'_> {
    fn document(
        &mut self,
        digest: &Sha256,
        stated: Option<&str>,
        platform: Option<&Platform>,
        attestation: bool,
        depth: usize,
    ) -> Result<(), SourceErrorKind> {
        if !self.seen.insert(*digest) {
            return Ok(());
        }
        let what = Kind::Manifest.name(digest);
        if depth > DEPTH_MAX || self.seen.len() > DOCUMENTS_MAX {
            return Err(SourceErrorKind::Malformed {
                what,
                reason: format!(
                    "more than {DEPTH_MAX} indexes inside each other, or {DOCUMENTS_MAX} manifests"
                ),
            });
        }
        let bytes = self.read(Kind::Manifest, digest)?;
        match parse(&bytes, stated, &what)? {
            Document::Index(entries) => {
                for entry in &entries {
                    if !self.is_wanted(entry) {
                        continue;
                    }
                    // A copy may lack other platforms; of one platform, all must be there.
                    if self.manifest.is_none() && !self.from.has(&entry.digest) {
                        continue;
                    }
                    self.document(
                        &entry.digest,
                        entry.media_type.as_deref(),
                        entry.platform.as_ref(),
                        entry.is_attestation(),
                        depth + 1,
                    )?;
                }
            }
            Document::Image(manifest) => self.image(digest, &manifest, platform, attestation)?,
        }
        self.found.documents.push((*digest, bytes));
        Ok(())
    }

    fn read(&mut self, kind: Kind, digest: &Sha256) -> Result<Arc<Vec<u8>>, SourceErrorKind> {
        let bytes = document(self.from, kind, digest)?;
        self.bytes += bytes.len();
        match self.bytes <= DOCUMENT_BYTES_MAX {
            true => Ok(bytes),
            false => Err(SourceErrorKind::Malformed {
                what: kind.name(digest),
                reason: format!(
                    "all documents together are longer than {} MiB",
                    DOCUMENT_BYTES_MAX >> 20
                ),
            }),
        }
    }

    fn is_wanted(&self, entry: &Descriptor) -> bool {
        match self.manifest {
            None => true,
            Some(manifest) => {
                entry.digest == manifest || entry.is_index() || entry.is_attestation_of(&manifest)
            }
        }
    }

    fn image(
        &mut self,
        digest: &Sha256,
        manifest: &Manifest,
        platform: Option<&Platform>,
        attestation: bool,
    ) -> Result<(), SourceErrorKind> {
        let blob = |one: &Descriptor| Blob {
            digest: one.digest,
            size: one.size,
        };
        let layers = manifest.layers.iter().map(blob);
        let complete = layers.clone().all(|layer| self.from.has(&layer.digest));
        self.found.blobs.extend(layers);
        if attestation {
            self.found.blobs.insert(blob(&manifest.config));
            return Ok(());
        }
        let bytes = self.read(Kind::Config, &manifest.config.digest)?;
        let stated = parse_config(&bytes, &Kind::Config.name(&manifest.config.digest))?.platform;
        self.found.configs.push((manifest.config.digest, bytes));
        self.found.images.push(Found {
            platform: platform.cloned().or(stated),
            manifest: *digest,
            complete,
        });
        Ok(())
    }
}
