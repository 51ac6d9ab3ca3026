//! `cache push`: an image of the cache to a registry.
//!
//! Enters: a reference and where to. Leaves: blobs, manifests and, last, the tag. An index whose
//! images are all here is sent as it is, with its digest. Over a tag that leads to an index, the
//! platforms of both are merged as LinuxKit does: those of the cache win, others stay, and what is
//! attested of a manifest that goes, goes with it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::export::media_type;
use super::gather::{Gathered, gather};
use super::name::Name;
use super::store::Store;
use super::upload::Held;
use super::{Images, failed};
use crate::build::BuildError;
use crate::digest::Sha256;
use crate::source::manifest::{Document, OCI_INDEX, parse};
use crate::source::resolve::Documents;
use crate::source::{ImageSource, Platform, Reference, SourceErrorKind};
use crate::step::StepError;

/// How to push.
#[derive(Debug, Clone, Default)]
pub struct PushOptions {
    /// The name there; the image's own without.
    pub to: Option<Reference>,
    /// Whether a tag that is there is changed.
    pub replace: bool,
    /// Whether each platform's image gets the tag `TAG-ARCHITECTURE`, too.
    pub arch_tags: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    /// The tag leads to this now.
    Sent(Reference, Sha256),
    /// The tag was there, and leads to this still.
    Kept(Reference, Sha256),
}

impl Images<'_> {
    /// Pushes an image with all platforms that the cache has of it.
    ///
    /// # Errors
    /// When it is not in the cache, or the registry refuses it.
    pub fn push(&self, reference: &Reference, options: &PushOptions) -> Result<Pushed, BuildError> {
        let names = self.named(reference)?;
        let own: Reference = names[0]
            .name
            .parse()
            .map_err(|error| StepError::new(format!("image {reference}"), error))?;
        let to = options.to.clone().unwrap_or_else(|| own.clone());
        if to.digest().is_some() {
            return Err(BuildError::usage(
                format!("{to} is a digest: only a tag can be pushed to"),
                "name a tag with --remote-name NAME:TAG",
            ));
        }
        let key = to.key();
        let fail = |kind: SourceErrorKind| failed(&key, kind);
        let tag = to.tag().unwrap_or("latest").to_owned();
        let target = Arc::new(self.registry.image(&to));
        let there = target.there(&tag).map_err(fail)?;
        if let Some((digest, _)) = there.as_ref().filter(|_| !options.replace) {
            return Ok(Pushed::Kept(to, *digest));
        }
        self.complete_all(&own, &names)?;
        let store = Store::new(&self.cache);
        let local = self.entries(&store, &names).map_err(fail)?;
        let remote = match &there {
            Some((_, bytes)) => kept(bytes, &local.entries),
            None => Vec::new(),
        };
        let bytes = local.document(&remote);
        let gathered = local.gathered(&store).map_err(fail)?;
        self.upload(&target, &gathered, &Held::Cache)?;
        target
            .put_manifest(&tag, &bytes, &media_type(&bytes))
            .map_err(fail)?;
        if options.arch_tags {
            for name in &names {
                let found =
                    store.read(crate::source::resolve::Kind::Manifest, &name.found.manifest);
                let bytes = found.map_err(fail)?;
                let tag = format!("{tag}-{}", name.platform.architecture);
                target
                    .put_manifest(&tag, &bytes, &media_type(&bytes))
                    .map_err(fail)?;
            }
        }
        Ok(Pushed::Sent(to, Sha256::of(&bytes)))
    }

    /// Fetches what the cache lacks of images that it has names of.
    pub(super) fn complete_all(&self, own: &Reference, names: &[Name]) -> Result<(), BuildError> {
        let source: Arc<dyn ImageSource> = Arc::new(self.registry.image(own));
        let manifests: BTreeSet<Sha256> = names.iter().map(|name| name.found.manifest).collect();
        for manifest in manifests {
            let image = match Store::new(&self.cache).image(&manifest) {
                Some(image) => image,
                None => source
                    .image(&manifest)
                    .map_err(|error| failed(&own.key(), *error.kind))?,
            };
            self.complete(&own.key(), &source, &image)?;
        }
        Ok(())
    }

    /// Returns what the cache has of an image, as entries of an index.
    pub(super) fn entries(
        &self,
        store: &Store<'_>,
        names: &[Name],
    ) -> Result<Local, SourceErrorKind> {
        let read = |digest: &Sha256| store.read(crate::source::resolve::Kind::Manifest, digest);
        let mut local = Local::default();
        let top = names[0].top;
        if names.iter().all(|name| name.top == top)
            && let Ok(bytes) = read(&top)
        {
            match parse(&bytes, None, "index")? {
                Document::Image(_) => local.whole = Some(bytes),
                Document::Index(_) => {
                    let index: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                    let listed = index["manifests"].as_array().cloned().unwrap_or_default();
                    let count = listed.len();
                    local.entries = listed
                        .into_iter()
                        .filter(|entry| {
                            digest_of(entry).is_some_and(|it| self.is_whole(store, &it))
                        })
                        .collect();
                    if local.entries.len() == count {
                        local.whole = Some(bytes);
                    }
                    return Ok(local);
                }
            }
        }
        let mut seen = BTreeSet::new();
        for name in names.iter().filter(|name| seen.insert(name.found.manifest)) {
            let bytes = read(&name.found.manifest)?;
            let mut platform = json!({
                "architecture": name.platform.architecture,
                "os": name.platform.os,
            });
            if let Some(variant) = &name.platform.variant {
                platform["variant"] = json!(variant);
            }
            local.entries.push(json!({
                "mediaType": media_type(&bytes),
                "digest": name.found.manifest.to_string(),
                "size": bytes.len(),
                "platform": platform,
            }));
        }
        Ok(local)
    }

    /// Tells whether everything below a digest is in the cache.
    fn is_whole(&self, store: &Store<'_>, digest: &Sha256) -> bool {
        gather(store, digest, None, None)
            .is_ok_and(|gathered| gathered.blobs.iter().all(|blob| store.has(&blob.digest)))
    }
}

/// What the cache has of an image.
#[derive(Default)]
pub(super) struct Local {
    /// Entries of an index.
    entries: Vec<Value>,
    /// The document that lists them all, when there is one.
    whole: Option<Vec<u8>>,
}

impl Local {
    /// Tells whether the cache has a document that lists them all, and nothing else.
    pub(super) const fn is_whole(&self) -> bool {
        self.whole.is_some()
    }

    /// Returns all that the entries lead to.
    pub(super) fn gathered(&self, store: &Store<'_>) -> Result<Vec<Gathered>, SourceErrorKind> {
        let digests = self.entries.iter().filter_map(digest_of);
        digests
            .map(|digest| gather(store, &digest, None, None))
            .collect()
    }

    /// Returns the document that lists the entries, and those of a registry beside them.
    pub(super) fn document(&self, remote: &[Value]) -> Vec<u8> {
        match &self.whole {
            Some(bytes) if remote.is_empty() => bytes.clone(),
            _ => {
                let entries: Vec<&Value> = self.entries.iter().chain(remote).collect();
                let index = json!({
                    "schemaVersion": 2,
                    "mediaType": OCI_INDEX,
                    "manifests": entries,
                });
                index.to_string().into_bytes()
            }
        }
    }
}

fn digest_of(entry: &Value) -> Option<Sha256> {
    entry["digest"].as_str()?.parse().ok()
}

fn platform_of(entry: &Value) -> Option<Platform> {
    let text = |key: &str| entry["platform"][key].as_str();
    let (os, architecture) = (text("os")?, text("architecture")?);
    Some(Platform::new(os, architecture, text("variant")))
}

fn subject_of(entry: &Value) -> Option<Sha256> {
    entry["annotations"]["vnd.docker.reference.digest"]
        .as_str()?
        .parse()
        .ok()
}

/// Returns the entries of a registry's index that stay beside those of the cache.
fn kept(there: &[u8], local: &[Value]) -> Vec<Value> {
    let index: Value = serde_json::from_slice(there).unwrap_or_default();
    let listed = index["manifests"].as_array().cloned().unwrap_or_default();
    let is_replaced = |entry: &Value| {
        let theirs = platform_of(entry);
        local.iter().any(|own| {
            let ours = platform_of(own);
            let same = theirs.iter().zip(&ours).any(|(a, b)| a.is_same(b));
            same || own["digest"] == entry["digest"]
        })
    };
    let stays = |entry: &Value| subject_of(entry).is_none() && !is_replaced(entry);
    let manifests: BTreeSet<Sha256> = listed
        .iter()
        .filter(|entry| stays(entry))
        .filter_map(digest_of)
        .collect();
    listed
        .into_iter()
        .filter(|entry| match subject_of(entry) {
            Some(subject) => manifests.contains(&subject),
            None => stays(entry),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_merged_and_attestations_follow_their_manifests() {
        let digest = |text: &str| Sha256::of(text.as_bytes()).to_string();
        let entry = |name: &str, architecture: &str| json!({"digest": digest(name), "platform": {"os": "linux", "architecture": architecture}});
        let attest = |name: &str, subject: &str| {
            json!({
                "digest": digest(name),
                "platform": {"os": "unknown", "architecture": "unknown"},
                "annotations": {
                    "vnd.docker.reference.type": "attestation-manifest",
                    "vnd.docker.reference.digest": digest(subject),
                },
            })
        };
        let there = json!({"manifests": [
            entry("old amd64", "amd64"),
            entry("arm64", "arm64"),
            attest("of amd64", "old amd64"),
            attest("of arm64", "arm64"),
        ]});
        let local = [entry("new amd64", "amd64")];
        assert_eq!(
            kept(there.to_string().as_bytes(), &local),
            [entry("arm64", "arm64"), attest("of arm64", "arm64")]
        );
        assert!(kept(b"{}", &local).is_empty());
        assert!(kept(b"rubbish", &local).is_empty());
    }
}
