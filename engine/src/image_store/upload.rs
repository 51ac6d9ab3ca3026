//! All that belongs to an image, to a registry: blobs several at once, then documents.
//!
//! Enters: what was gathered, and where its blobs are. Leaves: the same in the registry, under
//! digests; the tag is the caller's. Every byte is hashed on its way: a blob whose bytes are not
//! those of its digest breaks off before its end, so that no registry can keep it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use kiln_cache::{Action, Key, KeyBuilder};
use sha2::Digest as _;

use super::export::media_type;
use super::gather::{Blob, Gathered};
use super::store::{bare, open};
use super::{Images, failed};
use crate::build::BuildError;
use crate::digest::Sha256;
use crate::source::registry::RegistryImage;
use crate::source::{ImageSource, SourceErrorKind};
use crate::step::{Lane, Next, Results, Reuse, Scope, Step, StepError, Task};

/// Where a blob's bytes are.
#[derive(Clone)]
pub(super) enum Held {
    /// In the cache.
    Cache,
    /// In a layout or an archive.
    Source(Arc<dyn ImageSource>),
    /// Here.
    Memory(Arc<Vec<u8>>),
}

impl Images<'_> {
    /// Uploads everything that was gathered, manifests last. `layers` holds its blobs.
    pub(super) fn upload(
        &self,
        target: &Arc<RegistryImage>,
        gathered: &[Gathered],
        layers: &Held,
    ) -> Result<(), BuildError> {
        let mut blobs: BTreeMap<Blob, Held> = BTreeMap::new();
        for one in gathered {
            blobs.extend(one.blobs.iter().map(|blob| (*blob, layers.clone())));
            blobs.extend(one.configs.iter().map(|(digest, bytes)| {
                let size = bytes.len() as u64;
                let digest = *digest;
                (Blob { digest, size }, Held::Memory(bytes.clone()))
            }));
        }
        let step = |(blob, held)| {
            Arc::new(Upload {
                target: target.clone(),
                blob,
                held,
            }) as Arc<dyn Step>
        };
        self.run(blobs.into_iter().map(step).collect())?;
        for (digest, bytes) in gathered.iter().flat_map(|one| &one.documents) {
            target
                .put_manifest(&digest.to_string(), bytes, &media_type(bytes))
                .map_err(|kind| failed(&target.name(), kind))?;
        }
        Ok(())
    }
}

/// Uploads one blob.
struct Upload {
    target: Arc<RegistryImage>,
    blob: Blob,
    held: Held,
}

impl Step for Upload {
    fn kind(&self) -> &'static str {
        "upload"
    }

    fn label(&self) -> String {
        format!("{} {}", self.target.name(), &self.blob.digest.hex()[..12])
    }

    fn id(&self) -> Key {
        KeyBuilder::new("upload", 1)
            .field("target", self.target.name())
            .field("digest", self.blob.digest.as_bytes())
            .finish()
    }

    fn next(&self, _got: &Results<'_>) -> Result<Next, StepError> {
        let (target, blob, held) = (self.target.clone(), self.blob, self.held.clone());
        Ok(Next::Run(Task {
            key: self.id(),
            lane: Lane::Network,
            reuse: Reuse::Never,
            work: Box::new(move |scope| {
                let name = target.name();
                let read = || match bytes(scope, &held, &blob) {
                    Ok(inner) => Ok(Box::new(Verified::new(inner, &blob)) as Box<dyn Read + Send>),
                    Err(kind) => Err(kind.of(&name)),
                };
                target
                    .put_blob(&blob.digest, blob.size, &read)
                    .map_err(|kind| StepError::new(format!("image {name}"), kind.of(&name)))?;
                Ok(Action::default())
            }),
        }))
    }
}

fn bytes(
    scope: &Scope<'_>,
    held: &Held,
    blob: &Blob,
) -> Result<Box<dyn Read + Send>, SourceErrorKind> {
    let missing = |reason: String| SourceErrorKind::Unsupported {
        what: format!("blob {}", blob.digest),
        reason,
    };
    match held {
        Held::Memory(bytes) => Ok(Box::new(io::Cursor::new(bytes.to_vec()))),
        Held::Source(source) => source
            .layer(&bare(blob.digest, blob.size))
            .map_err(|error| *error.kind),
        Held::Cache => match open(scope.cache, &blob.digest) {
            Ok(Some(found)) => Ok(Box::new(found)),
            Ok(None) => Err(missing("is not in the cache".to_owned())),
            Err(error) => Err(missing(error.to_string())),
        },
    }
}

/// Hashes what passes. The read that would complete a blob fails when its digest is another.
struct Verified<R> {
    inner: R,
    hasher: sha2::Sha256,
    left: u64,
    digest: Sha256,
}

impl<R: Read> Verified<R> {
    fn new(inner: R, blob: &Blob) -> Self {
        Self {
            inner,
            hasher: sha2::Sha256::new(),
            left: blob.size,
            digest: blob.digest,
        }
    }

    fn found(&self) -> Sha256 {
        Sha256::from_bytes(self.hasher.clone().finalize().into())
    }

    fn is_wrong(&self) -> bool {
        self.found() != self.digest
    }

    fn other_digest(&self) -> io::Error {
        let (digest, found) = (self.digest, self.found());
        let text = format!("blob {digest}: the digest of its bytes is {found}");
        io::Error::new(io::ErrorKind::InvalidData, text)
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read == 0 {
            // Of no bytes there is no last one to hold back.
            return match self.left == 0 && self.is_wrong() {
                true => Err(self.other_digest()),
                false => Ok(0),
            };
        }
        self.hasher.update(&buffer[..read]);
        let Some(left) = self.left.checked_sub(read as u64) else {
            let text = format!("blob {}: is longer than it should be", self.digest);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        };
        self.left = left;
        match left == 0 && self.is_wrong() {
            true => Err(self.other_digest()),
            false => Ok(read),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(bytes: &[u8], of: &[u8]) -> io::Result<Vec<u8>> {
        let (digest, size) = (Sha256::of(of), of.len() as u64);
        let mut out = Vec::new();
        let read = Verified::new(bytes, &Blob { digest, size }).read_to_end(&mut out);
        read.map(|_| out)
    }

    #[test]
    fn a_blob_of_other_bytes_never_becomes_whole() {
        assert_eq!(pass(b"layer", b"layer").unwrap(), b"layer");
        assert_eq!(pass(b"", b"").unwrap(), b"");
        let error = pass(b"LAYER", b"layer").unwrap_err().to_string();
        assert!(error.contains("the digest of its bytes is"), "{error}");
        assert!(pass(b"layers", b"layer").is_err());
        let (digest, size) = (Sha256::of(b"layer"), 0);
        let mut empty = Verified::new(&b""[..], &Blob { digest, size });
        assert!(empty.read_to_end(&mut Vec::new()).is_err());
    }
}
