//! `NAME.lock`: the world as it was, written by `kiln lock`, honoured by every build.
//!
//! Enters and leaves: a short YAML text beside the system's YAML. An image is pinned to a
//! manifest per platform; a package list to versions and hashes per suite and architecture.
//! What the lock does not list is looked up as usual.

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::source::Located;

/// The format this code writes and reads.
const VERSION: u32 = 1;
/// A lock is a few kilobytes.
const SIZE_MAX_BYTES: usize = 16 << 20;

/// The content of a lock file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    version: u32,
    /// Pinned images, sorted.
    #[serde(default)]
    pub images: Vec<LockedImage>,
    /// Pinned package lists, sorted.
    #[serde(default)]
    pub packages: Vec<LockedPackages>,
}

/// An image on a platform.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedImage {
    /// Canonical name.
    pub image: String,
    /// `os/architecture[/variant]`.
    pub platform: String,
    /// `sha256:…` of the manifest for that platform.
    pub manifest: String,
    /// `sha256:…` of the manifests that attest what is in it.
    #[serde(default)]
    pub attestations: Vec<String>,
}

/// A list of packages, solved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPackages {
    /// What was asked for: mirror, suite, architecture and package list, in one line.
    pub request: String,
    /// What it came to: one line each, as the Debian source reads it back.
    pub resolved: Vec<String>,
}

/// Why a lock cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It is not the YAML that kiln writes.
    #[error("not a lock file: {0}")]
    Malformed(String),
    /// A newer kiln wrote it.
    #[error("lock format {0} is newer than this kiln knows ({VERSION})")]
    Newer(u32),
}

impl Lock {
    /// Parses a lock file.
    ///
    /// # Errors
    /// When it is no lock, or a newer one.
    pub fn parse(text: &str) -> Result<Self, LockError> {
        if text.len() > SIZE_MAX_BYTES {
            return Err(LockError::Malformed("it is larger than 16 MiB".into()));
        }
        let lock: Self = serde_saphyr::from_str(text)
            .map_err(|error| LockError::Malformed(error.to_string()))?;
        if lock.version > VERSION {
            return Err(LockError::Newer(lock.version));
        }
        for image in &lock.images {
            for digest in [&image.manifest].into_iter().chain(&image.attestations) {
                digest
                    .parse::<Sha256>()
                    .map_err(|error| LockError::Malformed(format!("{}: {error}", image.image)))?;
            }
        }
        Ok(lock)
    }

    /// Returns the text of the file: the same lock, the same bytes.
    #[must_use]
    pub fn render(&self) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut out = String::from(
            "# Written by `kiln lock`; `kiln build` honours it. Run `kiln lock` again to renew it.\n",
        );
        out.push_str(&format!(
            "version: {VERSION}\nimages:{}\n",
            none_if(self.images.is_empty())
        ));
        let mut images = self.images.clone();
        images.sort();
        images.dedup();
        for image in images {
            out.push_str(&format!(
                "  - image: {}\n    platform: {}\n    manifest: {}\n",
                quoted(&image.image),
                quoted(&image.platform),
                image.manifest
            ));
            if !image.attestations.is_empty() {
                let list = image.attestations.join("\n      - ");
                out.push_str(&format!("    attestations:\n      - {list}\n"));
            }
        }
        out.push_str(&format!("packages:{}\n", none_if(self.packages.is_empty())));
        let mut packages = self.packages.clone();
        packages.sort();
        packages.dedup();
        for list in packages {
            out.push_str(&format!(
                "  - request: {}\n    resolved:\n",
                quoted(&list.request)
            ));
            for line in &list.resolved {
                out.push_str(&format!("      - {}\n", quoted(line)));
            }
        }
        out
    }

    /// Returns what an image is pinned to.
    #[must_use]
    pub fn image(&self, image: &str, platform: &str) -> Option<Located> {
        let found = self
            .images
            .iter()
            .find(|entry| entry.image == image && entry.platform == platform)?;
        let attestations = found.attestations.iter().map(|text| text.parse().ok());
        Some(Located {
            manifest: found.manifest.parse().ok()?,
            attestations: attestations.collect::<Option<_>>()?,
        })
    }

    /// Returns what a package list came to.
    #[must_use]
    pub fn resolved(&self, request: &str) -> Option<&[String]> {
        let found = self
            .packages
            .iter()
            .find(|entry| entry.request == request)?;
        Some(&found.resolved)
    }
}

fn none_if(empty: bool) -> &'static str {
    if empty { " []" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Lock {
        let image = |name: &str| LockedImage {
            image: name.into(),
            platform: "linux/amd64".into(),
            manifest: Sha256::of(name.as_bytes()).to_string(),
            attestations: vec![Sha256::of(b"attestation").to_string(); name.len() % 3],
        };
        Lock {
            version: VERSION,
            images: vec![image("docker.io/library/b:1"), image("a: \"odd\" #name")],
            packages: vec![LockedPackages {
                request: "bookworm amd64 busybox-static=1:1.35.0".into(),
                resolved: vec!["busybox-static 1:1.35.0-4+b3 amd64 pool/x.deb 1 00".into()],
            }],
        }
    }

    #[test]
    fn reads_what_it_writes() {
        let lock = sample();
        let text = lock.render();
        let again = Lock::parse(&text).unwrap();
        assert_eq!(again.render(), text);
        let odd = again.image("a: \"odd\" #name", "linux/amd64").unwrap();
        assert_eq!(odd.attestations.len(), "a: \"odd\" #name".len() % 3);
        assert!(again.image("a", "linux/amd64").is_none());
        assert_eq!(
            again.resolved(&lock.packages[0].request),
            Some(&lock.packages[0].resolved[..])
        );
        assert!(
            Lock::parse(&Lock::default().render())
                .unwrap()
                .images
                .is_empty()
        );
    }

    #[test]
    fn refuses_what_is_no_lock() {
        assert!(Lock::parse("version: 2").is_err());
        assert!(Lock::parse("version: 1\nimage: []").is_err());
        assert!(Lock::parse(&sample().render().replace("sha256:", "md5:")).is_err());
        assert!(Lock::parse(":").is_err());
    }
}
