//! Manifests, indexes and configs: bytes in, checked values out.
//!
//! Enters: JSON of the OCI image specification (1.1) or of Docker's image manifest version 2,
//! schema 2. Leaves: descriptors with typed digests. Only fields that are used are looked at, so an
//! odd annotation or history entry of a real-world image never matters; what is used is checked
//! fully. Schema 1, foreign layers and unknown layer types are refused by name.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::SourceErrorKind;
use super::platform::Platform;
use crate::digest::Sha256;

/// Bytes of a manifest or index (registries accept 4 MiB).
pub const MANIFEST_SIZE_MAX: u64 = 4 << 20;
/// Bytes of an image config; long histories reach some hundred KiB.
pub const CONFIG_SIZE_MAX: u64 = 8 << 20;
/// Layers of one image; overlay file systems end at 500.
pub const LAYERS_MAX: usize = 1024;
/// Entries of one index.
pub const ENTRIES_MAX: usize = 4096;

/// `Accept` of a request for a manifest: every type [`parse`] knows.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const OCI_LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub(super) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(super) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LAYER_TAR: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// The media types of layers that kiln unpacks. Records of images name them by their place here.
pub(crate) const LAYER_TYPES: [&str; 6] = [
    OCI_LAYER_TAR,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    DOCKER_LAYER_TAR,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
];

/// A layer of an image: what to fetch, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerDescriptor {
    /// Digest of the bytes as stored, usually compressed.
    pub digest: Sha256,
    /// Bytes as stored.
    pub size: u64,
    /// Media type, one of OCI's or Docker's for tar, tar+gzip and tar+zstd.
    pub media_type: &'static str,
    /// Digest of the uncompressed tar.
    pub diff_id: Sha256,
}

/// One image, verified: the digests of manifest and config match, and there is one diff id per
/// layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedImage {
    /// Digest of `manifest`.
    pub manifest_digest: Sha256,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The config's bytes (JSON of the OCI image configuration).
    pub config: Vec<u8>,
    /// Layers, the lowest first.
    pub layers: Vec<LayerDescriptor>,
}

/// What a manifest or index says about something it points to.
#[derive(Clone, Debug)]
pub(crate) struct Descriptor {
    pub(crate) digest: Sha256,
    pub(crate) size: u64,
    pub(crate) media_type: Option<String>,
    pub(crate) platform: Option<Platform>,
    pub(crate) ref_name: Option<String>,
    /// containerd's and Docker's full name of the image, in the index of a layout.
    pub(crate) full_name: Option<String>,
    /// The in-toto predicate type of an attestation's layer.
    pub(crate) predicate_type: Option<String>,
    attestation: bool,
    /// What an attestation speaks of.
    speaks_of: Option<Sha256>,
}

impl Descriptor {
    pub(crate) fn is_index(&self) -> bool {
        matches!(self.media_type.as_deref(), Some(OCI_INDEX | DOCKER_INDEX))
    }

    /// BuildKit's attestations stand in indexes beside the images they speak of.
    pub(crate) fn is_attestation(&self) -> bool {
        self.attestation
            || self.platform.as_ref().is_some_and(|platform| {
                platform.os == "unknown" && platform.architecture == "unknown"
            })
    }

    /// Tells whether this is BuildKit's attestation of a manifest.
    pub(crate) fn is_attestation_of(&self, manifest: &Sha256) -> bool {
        self.attestation && self.speaks_of.as_ref() == Some(manifest)
    }
}

/// An image manifest.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// What a manifest's digest can lead to.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Image(Box<Manifest>),
}

/// What kiln reads of an image config.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Missing when the config states no architecture.
    pub(crate) platform: Option<Platform>,
    pub(crate) diff_ids: Vec<Sha256>,
}

#[derive(Deserialize)]
struct RawDocument {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u64>,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    manifests: Option<Vec<RawDescriptor>>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
struct RawDescriptor {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    digest: String,
    size: u64,
    platform: Option<RawPlatform>,
    annotations: Option<BTreeMap<String, serde_json::Value>>,
}

#[derive(Deserialize)]
struct RawPlatform {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(flatten)]
    platform: RawPlatform,
    rootfs: Option<RawRootfs>,
}

#[derive(Deserialize)]
struct RawRootfs {
    diff_ids: Option<Vec<String>>,
}

/// Parses a manifest or index; `stated` is the media type that a header or descriptor gives it,
/// for documents that do not name their own. `what` names the document in errors.
pub(crate) fn parse(
    bytes: &[u8],
    stated: Option<&str>,
    what: &str,
) -> Result<Document, SourceErrorKind> {
    let stated = stated.map(|text| text.split(';').next().unwrap_or_default().trim());
    let raw: RawDocument = serde_json::from_slice(bytes)
        .map_err(|error| SourceErrorKind::malformed(what, format!("no manifest: {error}")))?;
    let own = raw.media_type.as_deref();
    if raw.schema_version == Some(1) || own.or(stated).is_some_and(is_schema1) {
        return Err(SourceErrorKind::unsupported(
            what,
            "a Docker schema 1 manifest, obsolete since 2017; push the image again with a current tool",
        ));
    }
    // CVE-2021-41190: a document that is both would mean one thing here and another elsewhere.
    match (raw.manifests, raw.config, raw.layers) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => Err(SourceErrorKind::malformed(
            what,
            "is an index and an image manifest at once",
        )),
        (Some(entries), None, None) => {
            check_type(own, &[OCI_INDEX, DOCKER_INDEX], "an index", what)?;
            if entries.len() > ENTRIES_MAX {
                return Err(SourceErrorKind::malformed(
                    what,
                    format!("more than {ENTRIES_MAX} entries"),
                ));
            }
            let entries = entries.into_iter().enumerate();
            entries
                .map(|(at, entry)| descriptor(entry, &format!("{what}: entry {at}")))
                .collect::<Result<_, _>>()
                .map(Document::Index)
        }
        (None, Some(config), layers) => {
            check_type(
                own,
                &[OCI_MANIFEST, DOCKER_MANIFEST],
                "an image manifest",
                what,
            )?;
            let layers = layers.unwrap_or_default();
            if layers.len() > LAYERS_MAX {
                return Err(SourceErrorKind::malformed(
                    what,
                    format!("more than {LAYERS_MAX} layers"),
                ));
            }
            let layers = layers.into_iter().enumerate();
            Ok(Document::Image(Box::new(Manifest {
                config: descriptor(config, &format!("{what}: config"))?,
                layers: layers
                    .map(|(at, layer)| descriptor(layer, &format!("{what}: layer {at}")))
                    .collect::<Result<_, _>>()?,
            })))
        }
        (None, None, _) => Err(SourceErrorKind::unsupported(
            what,
            format!(
                "neither an image nor an index, but {}",
                own.or(stated).unwrap_or("something else")
            ),
        )),
    }
}

/// Parses an image config.
pub(crate) fn parse_config(bytes: &[u8], what: &str) -> Result<Config, SourceErrorKind> {
    let raw: RawConfig = serde_json::from_slice(bytes)
        .map_err(|error| SourceErrorKind::malformed(what, format!("no image config: {error}")))?;
    let Some(diff_ids) = raw.rootfs.and_then(|rootfs| rootfs.diff_ids) else {
        return Err(SourceErrorKind::unsupported(
            what,
            "no image config: it has no rootfs.diff_ids",
        ));
    };
    let diff_ids = diff_ids.iter().enumerate().map(|(at, text)| {
        text.parse().map_err(|error| {
            SourceErrorKind::malformed(what, format!("rootfs.diff_ids[{at}]: {error}"))
        })
    });
    let diff_ids: Vec<Sha256> = diff_ids.collect::<Result<_, _>>()?;
    Ok(Config {
        platform: platform(raw.platform),
        diff_ids,
    })
}

/// Puts manifest and config together; both must have been verified against their digests.
pub(super) fn assemble(
    manifest_digest: Sha256,
    manifest_bytes: Vec<u8>,
    manifest: &Manifest,
    config_bytes: Vec<u8>,
) -> Result<ResolvedImage, SourceErrorKind> {
    let what = format!("config {}", manifest.config.digest);
    let config = parse_config(&config_bytes, &what).map_err(|error| {
        // An artefact (a chart, a signature, a WASM module) has a config of its own kind.
        match (&error, manifest.config.media_type.as_deref()) {
            (
                SourceErrorKind::Unsupported { .. } | SourceErrorKind::Malformed { .. },
                Some(media_type),
            ) if !is_image_config(media_type) => SourceErrorKind::unsupported(
                format!("manifest {manifest_digest}"),
                format!("is no container image: its config is {media_type}"),
            ),
            _ => error,
        }
    })?;
    if config.diff_ids.len() != manifest.layers.len() {
        return Err(SourceErrorKind::malformed(
            what,
            format!(
                "has {} diff ids for {} layers",
                config.diff_ids.len(),
                manifest.layers.len()
            ),
        ));
    }
    let layers = manifest.layers.iter().zip(config.diff_ids);
    let layers = layers.map(|(layer, diff_id)| {
        let media_type = layer_type(layer)?;
        Ok(LayerDescriptor {
            digest: layer.digest,
            size: layer.size,
            media_type,
            diff_id,
        })
    });
    Ok(ResolvedImage {
        manifest_digest,
        manifest: manifest_bytes,
        config: config_bytes,
        layers: layers.collect::<Result<_, _>>()?,
    })
}

/// Returns a layer's media type when kiln can unpack it.
fn layer_type(layer: &Descriptor) -> Result<&'static str, SourceErrorKind> {
    let what = || format!("layer {}", layer.digest);
    let Some(media_type) = layer.media_type.as_deref() else {
        return Err(SourceErrorKind::malformed(what(), "has no media type"));
    };
    if let Some(known) = LAYER_TYPES.iter().find(|known| **known == media_type) {
        return Ok(known);
    }
    let reason = match media_type.contains("nondistributable") || media_type.contains(".foreign.") {
        true => format!(
            "{media_type} is a foreign layer, which registries do not hold (Windows base images)"
        ),
        false => {
            format!("unknown layer type {media_type:?}, expected a tar, plain or with gzip or zstd")
        }
    };
    Err(SourceErrorKind::unsupported(what(), reason))
}

fn is_schema1(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.distribution.manifest.v1+")
}

fn is_image_config(media_type: &str) -> bool {
    matches!(
        media_type,
        OCI_CONFIG | "application/vnd.docker.container.image.v1+json"
    )
}

fn check_type(
    own: Option<&str>,
    known: &[&str],
    is: &str,
    what: &str,
) -> Result<(), SourceErrorKind> {
    match own {
        Some(own) if !own.is_empty() && !known.contains(&own) => Err(SourceErrorKind::malformed(
            what,
            format!("calls itself {own:?} but is {is}"),
        )),
        _ => Ok(()),
    }
}

fn descriptor(raw: RawDescriptor, what: &str) -> Result<Descriptor, SourceErrorKind> {
    let digest = raw
        .digest
        .parse()
        .map_err(|error| SourceErrorKind::malformed(what, format!("{error}")))?;
    let annotation = |name: &str| {
        raw.annotations
            .as_ref()
            .and_then(|all| all.get(name))
            .and_then(|value| value.as_str())
    };
    Ok(Descriptor {
        digest,
        size: raw.size,
        ref_name: annotation("org.opencontainers.image.ref.name").map(str::to_owned),
        full_name: annotation("io.containerd.image.name").map(str::to_owned),
        predicate_type: annotation("in-toto.io/predicate-type").map(str::to_owned),
        speaks_of: annotation("vnd.docker.reference.digest").and_then(|text| text.parse().ok()),
        attestation: annotation("vnd.docker.reference.type") == Some("attestation-manifest"),
        media_type: raw.media_type.filter(|text| !text.is_empty()),
        platform: raw.platform.and_then(platform),
    })
}

/// A platform is one when it names an architecture; Linux is what a missing system means.
fn platform(raw: RawPlatform) -> Option<Platform> {
    let architecture = raw.architecture.filter(|text| !text.is_empty())?;
    let os = raw
        .os
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| "linux".to_owned());
    Some(Platform::new(&os, &architecture, raw.variant.as_deref()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(text: &str) -> String {
        Sha256::of(text.as_bytes()).to_string()
    }

    fn image(layer_type: &str, diff_ids: usize) -> Result<ResolvedImage, SourceErrorKind> {
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "history": [{"odd": true}],
            "rootfs": {"type": "layers", "diff_ids": vec![digest("tar"); diff_ids]},
        })
        .to_string();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "config": {"mediaType": OCI_CONFIG, "digest": digest(&config), "size": config.len()},
            "layers": [{"mediaType": layer_type, "digest": digest("gz"), "size": 2, "annotations": null}],
        })
        .to_string();
        let Document::Image(parsed) = parse(manifest.as_bytes(), None, "manifest")? else {
            panic!("an index")
        };
        let digest = Sha256::of(manifest.as_bytes());
        assemble(digest, manifest.into_bytes(), &parsed, config.into_bytes())
    }

    fn refusal(result: Result<impl std::fmt::Debug, SourceErrorKind>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn assembles_what_belongs_together() {
        let image = image(OCI_LAYER_GZIP, 1).unwrap();
        assert_eq!(image.layers.len(), 1);
        assert_eq!(image.layers[0].diff_id, Sha256::of(b"tar"));
        assert_eq!(image.layers[0].size, 2);
    }

    #[test]
    fn refuses_layers_it_cannot_unpack() {
        let gz = digest("gz");
        for (layer_type, words) in [
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                "foreign layer",
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "foreign layer",
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+encrypted",
                "unknown layer type",
            ),
            ("", "no media type"),
        ] {
            let message = refusal(image(layer_type, 1));
            assert!(
                message.contains(words) && message.contains(&gz),
                "{message}"
            );
        }
        assert!(refusal(image(OCI_LAYER_TAR, 2)).contains("2 diff ids for 1 layers"));
    }

    #[test]
    fn refuses_what_is_no_image() {
        let refuse = |json: &str| refusal(parse(json.as_bytes(), None, "manifest"));
        assert!(refuse(r#"{"schemaVersion":1,"fsLayers":[]}"#).contains("schema 1"));
        assert!(
            refuse(r#"{"mediaType":"application/vnd.docker.distribution.manifest.v1+prettyjws"}"#)
                .contains("schema 1")
        );
        assert!(refuse(r#"{"schemaVersion":2}"#).contains("neither an image nor an index"));
        assert!(refuse("[]").contains("no manifest"));
        assert!(refuse(r#"{"manifests":[],"layers":[]}"#).contains("at once"));
        let typed = format!(r#"{{"mediaType":"{OCI_MANIFEST}","manifests":[]}}"#);
        assert!(refuse(&typed).contains("calls itself"));
        let short = r#"{"manifests":[{"digest":"sha256:00","size":1}]}"#;
        assert!(refuse(short).contains("entry 0"));
        assert!(refuse(r#"{"manifests":[{"digest":"x","size":-1}]}"#).contains("no manifest"));
    }

    #[test]
    fn reads_the_content_type_when_the_document_is_silent() {
        let json = br#"{"signatures":[]}"#;
        let stated =
            Some("application/vnd.docker.distribution.manifest.v1+prettyjws; charset=utf-8");
        assert!(refusal(parse(json, stated, "m")).contains("schema 1"));
    }

    #[test]
    fn a_config_may_be_silent_about_its_machine() {
        let config = parse_config(br#"{"architecture":"","rootfs":{"diff_ids":[]}}"#, "c").unwrap();
        assert!(config.platform.is_none() && config.diff_ids.is_empty());
        assert!(refusal(parse_config(b"{}", "c")).contains("diff_ids"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_harmless(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, None, "m");
            let _ = parse_config(&bytes, "c");
        }

        #[test]
        fn damaged_manifests_are_harmless(at in 0usize..400, byte: u8) {
            let mut json = serde_json::json!({
                "schemaVersion": 2, "mediaType": OCI_MANIFEST,
                "config": {"mediaType": OCI_CONFIG, "digest": digest("c"), "size": 1},
                "layers": [{"mediaType": OCI_LAYER_TAR, "digest": digest("l"), "size": 1}],
            }).to_string().into_bytes();
            let at = at % json.len();
            json[at] = byte;
            let _ = parse(&json, None, "m");
        }
    }
}
