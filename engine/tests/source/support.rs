//! Options that fail quickly, and images made by hand.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kiln_engine::digest::Sha256;
use kiln_engine::source::http::{Http, HttpOptions};
use kiln_engine::source::registry::{Registry, RegistryImage, RegistryOptions};
use serde_json::{Value, json};

use crate::server::{Reply, Request};

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub(crate) fn options() -> HttpOptions {
    HttpOptions {
        attempts: 3,
        backoff: Duration::from_millis(5),
        timeout_connect: Duration::from_secs(5),
        timeout_idle: Duration::from_millis(300),
        ..HttpOptions::default()
    }
}

pub(crate) fn http() -> Http {
    Http::new(options())
}

/// Bytes without a period that a wrong offset could hide behind.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

pub(crate) fn image(host: &str, name: &str, registry: RegistryOptions) -> RegistryImage {
    image_with(options(), host, name, registry)
}

pub(crate) fn image_with(
    options: HttpOptions,
    host: &str,
    name: &str,
    registry: RegistryOptions,
) -> RegistryImage {
    let reference = format!("{host}/{name}").parse().unwrap();
    Registry::new(Http::new(options), registry).image(&reference)
}

/// Blobs, manifests and tags of one repository, as a registry serves them.
#[derive(Clone, Default)]
pub(crate) struct Shelf {
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    pub(crate) tags: BTreeMap<String, (String, String)>,
    pub(crate) layers: Vec<Vec<u8>>,
}

impl Shelf {
    /// A repository with the tag `multi` (amd64 and arm64) and the tag `single` (amd64).
    pub(crate) fn sample() -> Self {
        let mut shelf = Self::default();
        let entries: Vec<Value> = ["amd64", "arm64"]
            .into_iter()
            .map(|architecture| {
                let layer = [architecture.as_bytes(), &noise(200_000)].concat();
                let mut entry = shelf.image(architecture, &layer);
                entry["platform"] = json!({"os": "linux", "architecture": architecture});
                entry
            })
            .collect();
        let single = entries[0]["digest"].as_str().unwrap().to_owned();
        shelf
            .tags
            .insert("single".into(), (single, OCI_MANIFEST.into()));
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
        let index = shelf.put(index.to_string().as_bytes());
        shelf.tags.insert("multi".into(), (index, OCI_INDEX.into()));
        shelf
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> String {
        let digest = Sha256::of(bytes).to_string();
        self.blobs.insert(digest.clone(), bytes.to_vec());
        digest
    }

    /// Adds an image of one layer; returns its descriptor.
    pub(crate) fn image(&mut self, architecture: &str, layer: &[u8]) -> Value {
        let diff_id = self.put(layer);
        self.layers.push(layer.to_vec());
        let config = json!({
            "architecture": architecture, "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [&diff_id]},
        })
        .to_string();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": self.put(config.as_bytes()), "size": config.len()},
            "layers": [{"mediaType": OCI_LAYER, "digest": diff_id, "size": layer.len()}],
        })
        .to_string();
        json!({"mediaType": OCI_MANIFEST, "digest": self.put(manifest.as_bytes()), "size": manifest.len()})
    }

    pub(crate) fn tagged(&self, tag: &str) -> Sha256 {
        self.tags[tag].0.parse().unwrap()
    }

    /// Answers below `/v2/team/app/` as a good registry does.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        if request.path == "/v2/" {
            return Reply::ok("{}");
        }
        let Some(object) = request.path.strip_prefix("/v2/team/app/") else {
            return Reply::status(404).body(error("NAME_UNKNOWN", "repository name not known"));
        };
        if object.starts_with("tags/list") {
            let tags: Vec<&String> = self.tags.keys().collect();
            return Reply::ok(json!({"name": "team/app", "tags": tags}).to_string());
        }
        let name = object.rsplit('/').next().unwrap();
        let (digest, media_type) = match self.tags.get(name) {
            Some((digest, media_type)) => (digest.as_str(), media_type.as_str()),
            None if object.starts_with("manifests/") => (name, OCI_MANIFEST),
            None => (name, "application/octet-stream"),
        };
        match self.blobs.get(digest) {
            // The lie must not matter: digests are computed.
            Some(bytes) => Reply::range(bytes, request)
                .header("Content-Type", media_type)
                .header("Docker-Content-Digest", Sha256::of(b"a lie").to_string()),
            None => Reply::status(404).body(error("MANIFEST_UNKNOWN", "manifest unknown")),
        }
    }
}

pub(crate) fn error(code: &str, message: &str) -> String {
    json!({"errors": [{"code": code, "message": message}]}).to_string()
}

/// A program the tests need.
pub(crate) fn tool(name: &str) -> Command {
    let package = match name {
        "docker-registry" | "skopeo" | "umoci" | "openssl" => name,
        other => panic!("no package is known for {other}"),
    };
    let found = ["/usr/bin", "/usr/local/bin", "/usr/sbin"]
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.exists());
    Command::new(found.unwrap_or_else(|| panic!("{name} is missing: apt-get install {package}")))
}

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
