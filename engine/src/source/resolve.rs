//! From a digest down to one image: index walking that every source shares.
//!
//! Enters: a way to read verified documents, and a platform. Leaves: the digest of the one
//! manifest, or a [`ResolvedImage`]. Sources differ only in how they read ([`Documents`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::SourceErrorKind;
use super::manifest::{
    CONFIG_SIZE_MAX, Descriptor, Document, MANIFEST_SIZE_MAX, Manifest, ResolvedImage, assemble,
    parse, parse_config,
};
use super::platform::{Platform, available, candidates};
use crate::digest::Sha256;

/// Indexes inside indexes that are followed.
const DEPTH_MAX: usize = 4;
/// Indexes read for one image.
const INDEXES_MAX: usize = 16;
/// Documents kept in memory by one source.
const KEPT_MAX: usize = 64;

/// A small document that is read whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Manifest,
    Config,
}

impl Kind {
    pub(crate) const fn size_max(self) -> u64 {
        match self {
            Self::Manifest => MANIFEST_SIZE_MAX,
            Self::Config => CONFIG_SIZE_MAX,
        }
    }

    /// Names a document in messages.
    pub(crate) fn name(self, digest: &Sha256) -> String {
        match self {
            Self::Manifest => format!("manifest {digest}"),
            Self::Config => format!("config {digest}"),
        }
    }
}

/// Where documents are read.
pub(crate) trait Documents {
    /// Reads a document, at most `kind.size_max()` bytes of it. The caller verifies it.
    fn read(&self, kind: Kind, digest: &Sha256) -> Result<Vec<u8>, SourceErrorKind>;

    /// Names the place, for messages.
    fn place(&self) -> String;

    /// What was read and verified before.
    fn kept(&self) -> &Kept;

    /// Tells whether a document or blob is there, where that can be told without a network.
    fn has(&self, _digest: &Sha256) -> bool {
        true
    }
}

/// Verified documents, so that asking twice costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<BTreeMap<Sha256, Arc<Vec<u8>>>>);

impl Kept {
    pub(crate) fn put(&self, digest: Sha256, bytes: Arc<Vec<u8>>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX {
            kept.insert(digest, bytes);
        }
    }

    pub(crate) fn get(&self, digest: &Sha256) -> Option<Arc<Vec<u8>>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(digest)
            .cloned()
    }
}

/// Returns a document whose bytes have that digest.
pub(crate) fn document(
    documents: &dyn Documents,
    kind: Kind,
    digest: &Sha256,
) -> Result<Arc<Vec<u8>>, SourceErrorKind> {
    if let Some(bytes) = documents.kept().get(digest) {
        return Ok(bytes);
    }
    let bytes = Arc::new(documents.read(kind, digest)?);
    let is = Sha256::of(&bytes);
    if is != *digest {
        return Err(SourceErrorKind::Digest {
            what: kind.name(digest),
            place: documents.place(),
            is,
        });
    }
    documents.kept().put(is, Arc::clone(&bytes));
    Ok(bytes)
}

/// Returns manifest, config and layers of an image.
pub(crate) fn image(
    documents: &dyn Documents,
    digest: &Sha256,
) -> Result<ResolvedImage, SourceErrorKind> {
    let bytes = document(documents, Kind::Manifest, digest)?;
    let what = Kind::Manifest.name(digest);
    match parse(&bytes, None, &what)? {
        Document::Index(_) => Err(SourceErrorKind::unsupported(
            what,
            "is an index, not the manifest of one image",
        )),
        Document::Image(manifest) => {
            let config = config_of(documents, &manifest)?;
            assemble(*digest, bytes.to_vec(), &manifest, config.to_vec())
        }
    }
}

/// Returns the digest of the one manifest for `platform` that `digest` leads to. `stated` is the
/// media type a header or descriptor gives it.
pub(crate) fn resolve(
    documents: &dyn Documents,
    digest: &Sha256,
    stated: Option<&str>,
    platform: &Platform,
) -> Result<Sha256, SourceErrorKind> {
    let mut walk = Walk {
        documents,
        platform,
        indexes: 0,
        seen: Vec::new(),
    };
    match walk.document(digest, stated, 0)? {
        Some(found) => Ok(found),
        None => Err(SourceErrorKind::NoPlatform {
            wanted: platform.clone(),
            available: walk.seen,
        }),
    }
}

/// As [`resolve`], for entries of an index that has no digest of its own (a layout's).
pub(super) fn resolve_entries(
    documents: &dyn Documents,
    entries: &[Descriptor],
    platform: &Platform,
) -> Result<Sha256, SourceErrorKind> {
    let mut walk = Walk {
        documents,
        platform,
        indexes: 0,
        seen: Vec::new(),
    };
    match walk.entries(entries, 0)? {
        Some(found) => Ok(found),
        None => Err(SourceErrorKind::NoPlatform {
            wanted: platform.clone(),
            available: walk.seen,
        }),
    }
}

struct Walk<'a> {
    documents: &'a dyn Documents,
    platform: &'a Platform,
    indexes: usize,
    /// Platforms met on the way, for the message.
    seen: Vec<String>,
}

impl Walk<'_> {
    fn document(
        &mut self,
        digest: &Sha256,
        stated: Option<&str>,
        depth: usize,
    ) -> Result<Option<Sha256>, SourceErrorKind> {
        let bytes = document(self.documents, Kind::Manifest, digest)?;
        match parse(&bytes, stated, &Kind::Manifest.name(digest))? {
            Document::Index(entries) => {
                self.indexes += 1;
                if depth >= DEPTH_MAX || self.indexes > INDEXES_MAX {
                    return Err(SourceErrorKind::malformed(
                        Kind::Manifest.name(digest),
                        format!(
                            "more than {DEPTH_MAX} indexes inside each other, or {INDEXES_MAX} in all"
                        ),
                    ));
                }
                self.entries(&entries, depth + 1)
            }
            Document::Image(manifest) => {
                self.check_machine(&manifest)?;
                Ok(Some(*digest))
            }
        }
    }

    fn entries(
        &mut self,
        entries: &[Descriptor],
        depth: usize,
    ) -> Result<Option<Sha256>, SourceErrorKind> {
        for name in available(entries) {
            if !self.seen.contains(&name) {
                self.seen.push(name);
            }
        }
        for entry in candidates(entries, self.platform) {
            // An index vouches for the platform of what it lists; the rest is looked into.
            if entry.platform.is_some() && !entry.is_index() {
                return Ok(Some(entry.digest));
            }
            let found = self.document(&entry.digest, entry.media_type.as_deref(), depth)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// A single image states its machine in its config alone.
    fn check_machine(&self, manifest: &Manifest) -> Result<(), SourceErrorKind> {
        let bytes = config_of(self.documents, manifest)?;
        // An artefact's config is of another kind: `image` says so better than this could.
        let Ok(config) = parse_config(&bytes, "") else {
            return Ok(());
        };
        check_platform(config.platform.as_ref(), self.platform)
    }
}

/// Refuses a config of another machine; one that states none is taken at its word.
pub(super) fn check_platform(
    is: Option<&Platform>,
    wanted: &Platform,
) -> Result<(), SourceErrorKind> {
    match is {
        Some(is) if is.rank(wanted).is_none() => Err(SourceErrorKind::WrongPlatform {
            wanted: wanted.clone(),
            is: is.to_string(),
        }),
        _ => Ok(()),
    }
}

fn config_of(
    documents: &dyn Documents,
    manifest: &Manifest,
) -> Result<Arc<Vec<u8>>, SourceErrorKind> {
    let digest = &manifest.config.digest;
    if manifest.config.size > CONFIG_SIZE_MAX {
        return Err(SourceErrorKind::malformed(
            Kind::Config.name(digest),
            format!(
                "{} bytes are more than the {CONFIG_SIZE_MAX} a config may have",
                manifest.config.size
            ),
        ));
    }
    document(documents, Kind::Config, digest)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::manifest::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
    use super::*;

    #[derive(Default)]
    struct Shelf {
        blobs: BTreeMap<Sha256, Vec<u8>>,
        kept: Kept,
    }

    impl Documents for Shelf {
        fn read(&self, kind: Kind, digest: &Sha256) -> Result<Vec<u8>, SourceErrorKind> {
            let missing = || SourceErrorKind::malformed(kind.name(digest), "missing");
            self.blobs.get(digest).cloned().ok_or_else(missing)
        }

        fn place(&self) -> String {
            "shelf".to_owned()
        }

        fn kept(&self) -> &Kept {
            &self.kept
        }
    }

    impl Shelf {
        fn put(&mut self, value: &Value) -> Value {
            let bytes = value.to_string().into_bytes();
            let (digest, size) = (Sha256::of(&bytes), bytes.len());
            self.blobs.insert(digest, bytes);
            json!({"digest": digest.to_string(), "size": size})
        }

        fn image(&mut self, architecture: &str, variant: &str) -> Value {
            let mut config = self.put(&json!({
                "os": "linux", "architecture": architecture, "variant": variant,
                "rootfs": {"diff_ids": []},
            }));
            config["mediaType"] = OCI_CONFIG.into();
            let mut entry = self.put(&json!({"config": config, "layers": []}));
            entry["mediaType"] = OCI_MANIFEST.into();
            entry["platform"] =
                json!({"os": "linux", "architecture": architecture, "variant": variant});
            entry
        }

        fn index(&mut self, entries: &[Value]) -> Value {
            let mut entry = self.put(&json!({"manifests": entries}));
            entry["mediaType"] = OCI_INDEX.into();
            entry
        }

        fn resolve(&self, top: &Value, platform: &str) -> Result<Sha256, SourceErrorKind> {
            resolve(self, &digest(top), None, &platform.parse().unwrap())
        }
    }

    fn digest(entry: &Value) -> Sha256 {
        entry["digest"].as_str().unwrap().parse().unwrap()
    }

    #[test]
    fn walks_nested_indexes_past_attestations() {
        let mut shelf = Shelf::default();
        let (amd64, arm) = (shelf.image("amd64", ""), shelf.image("arm", "v7"));
        let mut attestation = shelf.image("amd64", "x");
        attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        let mut nameless = shelf.image("amd64", "y");
        nameless.as_object_mut().unwrap().remove("platform");
        let inner = shelf.index(std::slice::from_ref(&arm));
        let top = shelf.index(&[attestation, nameless, inner, amd64.clone()]);
        assert_eq!(shelf.resolve(&top, "linux/amd64").unwrap(), digest(&amd64));
        assert_eq!(shelf.resolve(&top, "linux/arm").unwrap(), digest(&arm));
        let error = shelf
            .resolve(&top, "linux/riscv64")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "no manifest for linux/riscv64; there are: one without a platform, linux/amd64, linux/arm/v7"
        );
    }

    #[test]
    fn a_single_image_must_fit() {
        let mut shelf = Shelf::default();
        let arm = shelf.image("arm64", "v8");
        assert_eq!(shelf.resolve(&arm, "linux/arm64").unwrap(), digest(&arm));
        let error = shelf.resolve(&arm, "linux/amd64").unwrap_err().to_string();
        assert_eq!(error, "is for linux/arm64/v8, not for linux/amd64");
        // So must the only entry of an index that states no platform.
        let mut sole = arm.clone();
        sole.as_object_mut().unwrap().remove("platform");
        let top = shelf.index(&[sole]);
        assert_eq!(shelf.resolve(&top, "linux/arm64").unwrap(), digest(&arm));
        assert!(shelf.resolve(&top, "linux/amd64").is_err());
    }

    #[test]
    fn endless_nesting_ends() {
        let mut shelf = Shelf::default();
        let mut top = shelf.image("arm64", "");
        for _ in 0..8 {
            top = shelf.index(&[top]);
        }
        assert!(
            shelf
                .resolve(&top, "linux/arm64")
                .unwrap_err()
                .to_string()
                .contains("inside each other")
        );
        let wide: Vec<Value> = (0..40)
            .map(|n| {
                shelf.index(&[json!({"digest": Sha256::of(&[n]).to_string(), "size": 0,
                "platform": {"architecture": "mips"}})])
            })
            .collect();
        let top = shelf.index(&wide);
        assert!(
            shelf
                .resolve(&top, "linux/arm64")
                .unwrap_err()
                .to_string()
                .contains("in all")
        );
    }

    #[test]
    fn wrong_bytes_are_refused() {
        let mut shelf = Shelf::default();
        let image = shelf.image("amd64", "");
        shelf.blobs.insert(digest(&image), b"{}".to_vec());
        let error = shelf
            .resolve(&image, "linux/amd64")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("the digest of what shelf holds is sha256:44136fa3"),
            "{error}"
        );
    }
}
