//! What BuildKit attests: an SPDX document beside an image in its index.

use std::fs;
use std::path::Path;

use kiln_engine::digest::Sha256;
use serde_json::{Value, json};

use super::images::Image;

impl Image<'_> {
    /// Makes the layout's only image an index with an SPDX document for it.
    pub(crate) fn attested(self, document: &Value) -> Self {
        self.attest(document, false)
    }

    /// As [`Image::attested`], with a second platform that nobody must fetch, nor its attestation:
    /// their blobs are not there.
    pub(crate) fn attested_among_others(self, document: &Value) -> Self {
        self.attest(document, true)
    }

    fn attest(self, document: &Value, others: bool) -> Self {
        let layout = self.layout();
        let root = Path::new(&layout);
        let index = root.join("index.json");
        let mut top: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
        let mut image = top["manifests"][0].clone();
        image.as_object_mut().unwrap().remove("annotations");
        image["platform"] = json!({"os": "linux", "architecture": "amd64"});
        let attestation = attestation(root, &image, document);
        let missing = |text: &str, platform: &str| {
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": sha256(text.as_bytes()), "size": 7,
                "platform": {"os": platform, "architecture": platform},
            })
        };
        let (other, mut theirs) = (missing("other", "linux"), missing("theirs", "unknown"));
        theirs["annotations"] = json!({
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": other["digest"],
        });
        let mut entries = vec![image, attestation];
        if others {
            entries.extend([other, theirs]);
        }
        let inner = blob(
            root,
            &json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": entries,
            }),
        );
        top["manifests"][0]["mediaType"] = "application/vnd.oci.image.index.v1+json".into();
        top["manifests"][0]["digest"] = inner["digest"].clone();
        top["manifests"][0]["size"] = inner["size"].clone();
        fs::write(&index, top.to_string()).unwrap();
        self
    }
}

/// Writes the attestation of an image; returns its entry in the index.
fn attestation(root: &Path, image: &Value, document: &Value) -> Value {
    let statement = |predicate_type: &str, predicate: &Value| {
        let mut layer = blob(
            root,
            &json!({
                "_type": "https://in-toto.io/Statement/v0.1",
                "predicateType": predicate_type,
                "subject": [],
                "predicate": predicate,
            }),
        );
        layer["mediaType"] = "application/vnd.in-toto+json".into();
        layer["annotations"] = json!({"in-toto.io/predicate-type": predicate_type});
        layer
    };
    let layers = [
        statement("https://slsa.dev/provenance/v0.2", &json!({"builder": {}})),
        statement("https://spdx.dev/Document", document),
    ];
    let mut config = blob(
        root,
        &json!({
            "architecture": "unknown", "os": "unknown", "config": {},
            "rootfs": {"type": "layers", "diff_ids": layers.each_ref().map(|layer| &layer["digest"])},
        }),
    );
    config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
    let mut entry = blob(
        root,
        &json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layers,
        }),
    );
    entry["mediaType"] = "application/vnd.oci.image.manifest.v1+json".into();
    entry["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    entry["annotations"] = json!({
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": image["digest"],
    });
    entry
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::of(bytes).to_string()
}

/// Stores a document; returns its digest and size.
fn blob(root: &Path, value: &Value) -> Value {
    let bytes = value.to_string().into_bytes();
    let digest = sha256(&bytes);
    let name = digest.trim_start_matches("sha256:");
    fs::write(root.join("blobs/sha256").join(name), &bytes).unwrap();
    json!({"digest": digest, "size": bytes.len()})
}
