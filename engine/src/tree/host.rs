//! Files of the host on their way into a pack.

use std::fs::File;
use std::io::{self, Read, Write};

use kiln_cache::{CacheError, Digest};

/// Why a file cannot be copied.
pub(super) enum CopyError {
    /// It cannot be read.
    Read(io::Error),
    /// The pack cannot be written.
    Write(io::Error),
}

impl CopyError {
    /// Makes the error of the room that copies: `read` for the file, the cache's for the pack.
    pub(super) fn into<E: From<CacheError>>(
        self,
        cache: &kiln_cache::Cache,
        read: impl FnOnce(io::Error) -> E,
    ) -> E {
        match self {
            Self::Read(error) => read(error),
            Self::Write(error) => CacheError::io("write", cache.root())(error).into(),
        }
    }
}

/// Copies what is left of a file; returns the digest of what was copied, and its length in bytes.
pub(super) fn copy(file: &mut File, out: &mut impl Write) -> Result<(Digest, u64), CopyError> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = file.read(&mut buffer).map_err(CopyError::Read)?;
        if count == 0 {
            return Ok((Digest::from(hasher.finalize()), hasher.count()));
        }
        hasher.update(&buffer[..count]);
        out.write_all(&buffer[..count]).map_err(CopyError::Write)?;
    }
}
