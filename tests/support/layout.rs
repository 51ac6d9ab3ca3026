//! OCI layouts written byte by byte (OCI image-spec, `image-layout.md`): the same each time, with
//! indexes of any shape. Where a real tool's work is wanted, see `images`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The time of every file in a [`Tar`].
pub(crate) const MTIME: u64 = 1_600_000_000;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A layout being written.
pub(crate) struct Layout {
    directory: PathBuf,
}

impl Layout {
    pub(crate) fn new(directory: &Path) -> Self {
        fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        Self {
            directory: directory.to_owned(),
        }
    }

    /// Stores a blob; returns its descriptor.
    pub(crate) fn blob(&self, media: &str, bytes: &[u8]) -> Value {
        let digest = hex(bytes);
        fs::write(self.directory.join("blobs/sha256").join(&digest), bytes).unwrap();
        json!({"mediaType": media, "digest": format!("sha256:{digest}"), "size": bytes.len()})
    }

    /// Stores an image of one layer for `os/architecture[/variant]`; returns its descriptor.
    pub(crate) fn image(&self, platform: &str, layer: &[u8], config: &Value) -> Value {
        let parts: Vec<&str> = platform.split('/').collect();
        let mut image = json!({"os": parts[0], "architecture": parts[1]});
        if let Some(variant) = parts.get(2) {
            image["variant"] = json!(variant);
        }
        let platform = image.clone();
        image["config"] = config.clone();
        let diff_id = format!("sha256:{}", hex(layer));
        image["rootfs"] = json!({"type": "layers", "diff_ids": [diff_id]});
        let config = self.blob(
            "application/vnd.oci.image.config.v1+json",
            image.to_string().as_bytes(),
        );
        let layer = self.blob("application/vnd.oci.image.layer.v1.tar", layer);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
        });
        let mut descriptor = self.blob(MANIFEST, manifest.to_string().as_bytes());
        descriptor["platform"] = platform;
        descriptor
    }

    /// Stores an index; returns its descriptor.
    pub(crate) fn index(&self, manifests: &[Value]) -> Value {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        self.blob(INDEX, index.to_string().as_bytes())
    }

    /// Ends the layout: tags, each with what it names.
    pub(crate) fn finish(&self, tags: &[(&str, Value)]) {
        let named = |(tag, descriptor): &(&str, Value)| {
            let mut descriptor = descriptor.clone();
            descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
            descriptor
        };
        let manifests: Vec<Value> = tags.iter().map(named).collect();
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(self.directory.join("index.json"), index.to_string()).unwrap();
        let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
        fs::write(self.directory.join("oci-layout"), version).unwrap();
    }
}

/// SHA-256 in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// A tar being written, with the directories above every entry, as Docker writes layers.
pub(crate) struct Tar {
    builder: tar::Builder<Vec<u8>>,
    made: Vec<String>,
}

impl Default for Tar {
    fn default() -> Self {
        Self {
            builder: tar::Builder::new(Vec::new()),
            made: Vec::new(),
        }
    }
}

impl Tar {
    fn append(&mut self, path: &str, kind: tar::EntryType, mode: u32, link: &str, content: &[u8]) {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(MTIME);
        header.set_size(content.len() as u64);
        if kind == tar::EntryType::Symlink {
            header.set_link_name(link).unwrap();
        }
        self.builder
            .append_data(&mut header, path, content)
            .unwrap();
    }

    fn parents(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            let above = &path[..at];
            if !self.made.iter().any(|made| made == above) {
                self.made.push(above.to_owned());
                self.append(
                    &format!("{above}/"),
                    tar::EntryType::Directory,
                    0o755,
                    "",
                    b"",
                );
            }
        }
    }

    pub(crate) fn directory(&mut self, path: &str) {
        self.parents(&format!("{path}/"));
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.parents(path);
        self.append(path, tar::EntryType::Regular, mode, "", content);
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.append(path, tar::EntryType::Symlink, 0o777, target, b"");
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.builder.into_inner().unwrap()
    }
}
