//! Blobs of images as they are transferred: objects under an action per `sha256:` digest.
//!
//! Enters: bytes, verified against their digest before anything refers to them. Leaves: the same
//! bytes. An object is named by its own hash, so what was right when it was stored is right when it
//! is read; nothing is trusted for its size or its place.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_cache::{Action, Cache, CacheError, Digest, Key, KeyBuilder, Object};
use sha2::Digest as _;

use crate::digest::Sha256;
use crate::source::error::SourceErrorKind;
use crate::source::resolve::{self, Documents, Kept, Kind};
use crate::source::{LayerDescriptor, Located, Platform, ResolvedImage};

/// The kind of these actions, and the role of their one object.
const KIND: &str = "blob";
/// Bytes read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Why a blob was not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlobError {
    /// The bytes are others than promised.
    #[error("its digest is {0}")]
    Digest(Sha256),
    /// The bytes are not as many as promised.
    #[error("it has {found} bytes, not {expected}")]
    Size {
        /// Bytes that came.
        found: u64,
        /// Bytes promised.
        expected: u64,
    },
    /// The stream broke.
    #[error("cannot read it: {0}")]
    Read(#[source] io::Error),
    /// The cache cannot take it.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The caller gave up.
    #[error("interrupted")]
    Cancelled,
}

/// Returns the key of a blob's action.
pub(crate) fn blob_key(digest: &Sha256) -> Key {
    KeyBuilder::new(KIND, 1)
        .field("digest", digest.as_bytes())
        .finish()
}

fn action(digest: &Sha256, object: Digest, size: u64) -> Action {
    Action {
        kind: KIND.to_owned(),
        label: digest.to_string(),
        outputs: vec![(KIND.to_owned(), object, size)],
        ..Action::default()
    }
}

/// Stores a small document; returns its digest and its object.
pub(crate) fn put(cache: &Cache, bytes: &[u8]) -> Result<(Sha256, Digest), CacheError> {
    let digest = Sha256::of(bytes);
    let object = cache.put(bytes)?;
    let key = blob_key(&digest);
    let action = action(&digest, object, bytes.len() as u64);
    // Rewriting what is there would only cost time.
    if cache
        .action(&key)?
        .is_none_or(|known| known.outputs != action.outputs)
    {
        cache.put_action(&key, &action)?;
    }
    Ok((digest, object))
}

/// Streams a blob into an object, and returns the action that names it: only when the bytes are
/// those of `digest`. `progress` hears how many have come.
pub(crate) fn stream(
    cache: &Cache,
    digest: &Sha256,
    size: u64,
    mut input: impl Read,
    cancel: &AtomicBool,
    progress: &dyn Fn(u64),
) -> Result<Action, BlobError> {
    let mut writer = cache.object_writer()?;
    writer.expect_len(size);
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(BlobError::Cancelled);
        }
        let read = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(BlobError::Read(error)),
        };
        hasher.update(&buffer[..read]);
        writer
            .write_all(&buffer[..read])
            .map_err(CacheError::io("write", cache.root()))?;
        progress(writer.len());
        if writer.len() > size {
            break;
        }
    }
    if writer.len() != size {
        return Err(BlobError::Size {
            found: writer.len(),
            expected: size,
        });
    }
    let found = Sha256::from_bytes(hasher.finalize().into());
    if found != *digest {
        return Err(BlobError::Digest(found));
    }
    let object = writer.commit()?;
    Ok(action(digest, object, size))
}

/// Returns the object of a blob that the cache has, whole, and holds it.
pub(crate) fn object(cache: &Cache, digest: &Sha256) -> Result<Option<Digest>, CacheError> {
    let action = cache.action(&blob_key(digest))?;
    let output = action.and_then(|action| action.outputs.first().cloned());
    if let Some((_, object, _)) = &output {
        cache.hold(&[*object])?;
    }
    Ok(output
        .filter(|(_, object, size)| cache.has_object_sized(object, *size))
        .map(|(_, object, _)| object))
}

/// Opens a blob when the cache has it, whole.
pub(crate) fn open(cache: &Cache, digest: &Sha256) -> Result<Option<BlobReader>, CacheError> {
    let Some(action) = cache.action(&blob_key(digest))? else {
        return Ok(None);
    };
    let Some((_, object, size)) = action.outputs.first() else {
        return Ok(None);
    };
    match cache.open_sized(object, *size) {
        Ok(object) => Ok(Some(BlobReader { object, offset: 0 })),
        Err(CacheError::MissingObject(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a blob from its beginning.
#[derive(Debug)]
pub(crate) struct BlobReader {
    object: Object,
    offset: u64,
}

impl BlobReader {
    /// Returns the blob's size in bytes.
    pub(crate) const fn len(&self) -> u64 {
        self.object.len()
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.object.len() - self.offset;
        let read = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        self.object
            .read_exact_at(&mut buffer[..read], self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// The blobs of the cache, read as a source of images.
pub(crate) struct Store<'a> {
    cache: &'a Cache,
    kept: Kept,
}

impl<'a> Store<'a> {
    pub(crate) fn new(cache: &'a Cache) -> Self {
        Self {
            cache,
            kept: Kept::default(),
        }
    }

    /// Returns the manifest for a platform that a digest leads to, and its attestations, when all
    /// on the way is here.
    pub(crate) fn resolve(&self, digest: &Sha256, platform: &Platform) -> Option<Located> {
        resolve::resolve(self, digest, None, platform).ok()
    }

    /// Returns an attestation's SPDX documents, when it is here.
    pub(crate) fn statements(&self, attestation: &Sha256) -> Option<Vec<LayerDescriptor>> {
        resolve::statements(self, attestation).ok()
    }

    /// Returns an image, when manifest and config are here.
    pub(crate) fn image(&self, manifest: &Sha256) -> Option<ResolvedImage> {
        resolve::image(self, manifest).ok()
    }
}

impl Documents for Store<'_> {
    fn read(&self, kind: Kind, digest: &Sha256) -> Result<Vec<u8>, SourceErrorKind> {
        let fail = |reason: String| SourceErrorKind::Unsupported {
            what: kind.name(digest),
            reason,
        };
        let blob = open(self.cache, digest).map_err(|error| fail(error.to_string()))?;
        let mut blob = blob.ok_or_else(|| fail("is not in the cache".to_owned()))?;
        if blob.len() > kind.size_max() {
            return Err(fail(format!("is longer than {} bytes", kind.size_max())));
        }
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes)
            .map_err(|error| fail(error.to_string()))?;
        Ok(bytes)
    }

    fn place(&self) -> String {
        "the cache".to_owned()
    }

    fn kept(&self) -> &Kept {
        &self.kept
    }

    fn has(&self, digest: &Sha256) -> bool {
        open(self.cache, digest).is_ok_and(|blob| blob.is_some())
    }
}

/// Describes a blob of which only digest and size matter.
pub(crate) fn bare(digest: Sha256, size: u64) -> LayerDescriptor {
    LayerDescriptor {
        digest,
        size,
        media_type: "",
        diff_id: digest,
    }
}
