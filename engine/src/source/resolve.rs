//! From a digest down to one image: index walking that every source shares.
//!
//! Enters: a way to read verified documents, and a platform. Leaves: the digest of the one
//! manifest, or a [`ResolvedImage`]. Sources differ only in how they read ([`Documents`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Located;
use super::error::SourceErrorKind;
use super::manifest::{
    CONFIG_SIZE_MAX, Descriptor, Document, LayerDescriptor, MANIFEST_SIZE_MAX, Manifest,
    ResolvedImage, assemble, parse, parse_config,
};
use super::platform::{Platform, available, candidates};
use crate::digest::Sha256;
use crate::sbom::statement::PREDICATE_TYPE;

/// Indexes inside indexes that are followed.
const DEPTH_MAX: usize = 4;
/// Indexes read for one image.
const INDEXES_MAX: usize = 16;
/// Attestations of one manifest; BuildKit makes one.
const ATTESTATIONS_MAX: usize = 8;
/// The media type of an attestation's layer.
const IN_TOTO: &str = "application/vnd.in-toto+json";
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

/// Returns the layers of an attestation that hold SPDX documents.
pub(crate) fn statements(
    documents: &dyn Documents,
    digest: &Sha256,
) -> Result<Vec<LayerDescriptor>, SourceErrorKind> {
    let bytes = document(documents, Kind::Manifest, digest)?;
    let what = Kind::Manifest.name(digest);
    let Document::Image(manifest) = parse(&bytes, None, &what)? else {
        return Err(SourceErrorKind::unsupported(
            what,
            "is an index, not an attestation",
        ));
    };
    let is_spdx = |layer: &&Descriptor| {
        layer.media_type.as_deref() == Some(IN_TOTO)
            && layer.predicate_type.as_deref() == Some(PREDICATE_TYPE)
    };
    let statement = |layer: &Descriptor| LayerDescriptor {
        digest: layer.digest,
        size: layer.size,
        media_type: IN_TOTO,
        diff_id: layer.digest,
    };
    let found = manifest.layers.iter().filter(is_spdx);
    Ok(found.map(statement).collect())
}

/// Returns the one manifest for `platform` that `digest` leads to, and its attestations. `stated` is the
/// media type a header or descriptor gives it.
pub(crate) fn resolve(
    documents: &dyn Documents,
    digest: &Sha256,
    stated: Option<&str>,
    platform: &Platform,
) -> Result<Located, SourceErrorKind> {
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
) -> Result<Located, SourceErrorKind> {
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
    ) -> Result<Option<Located>, SourceErrorKind> {
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
                Ok(Some(Located::from(*digest)))
            }
        }
    }

    fn entries(
        &mut self,
        entries: &[Descriptor],
        depth: usize,
    ) -> Result<Option<Located>, SourceErrorKind> {
        for name in available(entries) {
            if !self.seen.contains(&name) {
                self.seen.push(name);
            }
        }
        for entry in candidates(entries, self.platform) {
            // An index vouches for the platform of what it lists; the rest is looked into.
            let found = match entry.platform.is_some() && !entry.is_index() {
                true => Some(Located::from(entry.digest)),
                false => self.document(&entry.digest, entry.media_type.as_deref(), depth)?,
            };
            if let Some(mut found) = found {
                let beside = entries
                    .iter()
                    .filter(|entry| entry.is_attestation_of(&found.manifest))
                    .map(|entry| entry.digest);
                found.attestations.extend(beside);
                found.attestations.truncate(ATTESTATIONS_MAX);
                return Ok(Some(found));
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
            self.locate(top, platform).map(|found| found.manifest)
        }

        fn locate(&self, top: &Value, platform: &str) -> Result<Located, SourceErrorKind> {
            resolve(self, &digest(top), None, &platform.parse().unwrap())
        }
    }

    fn digest(entry: &Value) -> Sha256 {
        entry["digest"].as_str().unwrap().parse().unwrap()
    }

    #[test]
    fn finds_the_attestations_of_the_wanted_platform_alone() {
        let mut shelf = Shelf::default();
        let (amd64, arm) = (shelf.image("amd64", ""), shelf.image("arm", "v7"));
        let attest = |shelf: &mut Shelf, of: &Value, variant: &str| {
            let mut entry = shelf.image("unknown", variant);
            entry["platform"] = json!({"os": "unknown", "architecture": "unknown"});
            entry["annotations"] = json!({
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": of["digest"],
            });
            entry
        };
        let (ours, theirs) = (
            attest(&mut shelf, &amd64, "a"),
            attest(&mut shelf, &arm, "b"),
        );
        let mut stray = attest(&mut shelf, &amd64, "c");
        stray["annotations"]["vnd.docker.reference.type"] = "something-else".into();
        let index = shelf.index(&[amd64.clone(), arm, theirs, ours.clone(), stray]);
        let top = shelf.index(&[index]);
        let found = shelf.locate(&top, "linux/amd64").unwrap();
        assert_eq!(found.manifest, digest(&amd64));
        assert_eq!(found.attestations, [digest(&ours)]);
        // An image by itself has none.
        assert!(
            shelf
                .locate(&amd64, "linux/amd64")
                .unwrap()
                .attestations
                .is_empty()
        );
    }

    #[test]
    fn of_an_attestation_only_spdx_counts() {
        let mut shelf = Shelf::default();
        let config = shelf.put(&json!({}));
        let layer = |kind: &str, predicate: &str| {
            json!({
                "mediaType": kind, "digest": Sha256::of(predicate.as_bytes()).to_string(), "size": 3,
                "annotations": {"in-toto.io/predicate-type": predicate},
            })
        };
        let attestation = shelf.put(&json!({"config": config, "layers": [
            layer(IN_TOTO, "https://slsa.dev/provenance/v0.2"),
            layer(IN_TOTO, PREDICATE_TYPE),
            layer("text/plain", PREDICATE_TYPE),
        ]}));
        let found = statements(&shelf, &digest(&attestation)).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].digest, Sha256::of(PREDICATE_TYPE.as_bytes()));
        let index = shelf.index(&[]);
        assert!(statements(&shelf, &digest(&index)).is_err());
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
