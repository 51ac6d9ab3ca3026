//! What can go wrong with a cache directory.

use std::io;
use std::path::{Path, PathBuf};

use crate::Digest;

/// A failure of the cache directory, with the file at fault.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The system refused an operation on a file.
    #[error("cache: cannot {verb} {}: {source}", path.display())]
    Io {
        /// What was tried ("write", "read", …).
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory was made by a newer kiln.
    #[error("cache: {} has format {found}, this kiln knows up to {known}", path.display())]
    NewerFormat {
        /// The cache directory.
        path: PathBuf,
        /// Its format number.
        found: u32,
        /// The newest this code reads.
        known: u32,
    },
    /// An object that a record names is not there, or is damaged and was set aside.
    #[error("cache: object {0} is missing or damaged")]
    MissingObject(Digest),
}

impl CacheError {
    /// Returns a closure that wraps an I/O error with what was tried on which file.
    pub fn io(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { verb, path, source }
    }

    /// Returns true when the cause is a full disk or an exhausted quota.
    #[must_use]
    pub fn is_full_disk(&self) -> bool {
        matches!(self, Self::Io { source, .. } if matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ))
    }
}

/// The result of a cache operation.
pub type Result<T> = std::result::Result<T, CacheError>;
