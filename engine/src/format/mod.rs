//! Outputs: what the built system's bytes are, and how they reach a file.
//!
//! Enters: [`fragment`]s (trees under prefixes, one fragment per component). Leaves: files.
//! In reading order: [`share`] plans which identical files are stored once; [`tar`] and [`cpio`]
//! turn a fragment into a [`Segment`], that is a [`recipe`] (headers, ranges of packs, zeros) or,
//! where [`compress`] was at work, an object of finished bytes; [`read`] turns segments back into
//! bytes; [`assemble`] writes them to a file, by way of [`splice`] when only some of them changed.
//! [`output`] says which segments make which format. [`initrd`] reads what others may have written.

pub mod assemble;
pub mod compress;
pub mod cpio;
pub mod fragment;
pub mod initrd;
mod lease;
pub mod metadata_iso;
pub mod output;
pub mod read;
pub mod recipe;
pub mod share;
pub mod splice;
pub mod tar;

use std::io;
use std::path::PathBuf;

use kiln_cache::{CacheError, Digest};

use crate::tree::TreeError;

pub use assemble::{PlacedSegment, Target, assemble};
pub use compress::Compressor;
pub use fragment::{Fragment, Part, Place};
pub use share::{FragmentPlan, Plan, SharedGroup, share};

/// Segments start at multiples of this many bytes, so that `fallocate` can take one out of a
/// file or put one in without moving what follows (4 KiB is the block size of ext4 and XFS).
pub const ALIGN_BYTES: u64 = 4096;

/// How a segment's object gives its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// The object is a [`recipe`].
    Recipe,
    /// The object is the bytes.
    Bytes,
}

/// A run of an output's bytes, usually those of one component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Segment {
    /// The object.
    pub digest: Digest,
    /// Length of the bytes it stands for (not of a recipe's object).
    pub len: u64,
    /// What the object is.
    pub form: Form,
}

/// Why an output cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The cache failed.
    #[error("{0}")]
    Cache(#[from] CacheError),
    /// A tree cannot be read.
    #[error("{0}")]
    Tree(#[from] TreeError),
    /// The object is not a recipe of this format, or points outside itself.
    #[error("recipe {digest}: {reason}")]
    MalformedRecipe {
        /// The object.
        digest: Digest,
        /// What is wrong.
        reason: &'static str,
    },
    /// A segment's object has another length than the segment says.
    #[error("segment {digest}: {found} bytes where {expected} were recorded")]
    WrongLength {
        /// The object.
        digest: Digest,
        /// What the segment said.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// An object is shorter than a recipe or a tree that points into it believes.
    #[error("object {digest}: cannot read {len} bytes at offset {offset}: {source}")]
    Unreadable {
        /// The object.
        digest: Digest,
        /// First byte wanted.
        offset: u64,
        /// How many.
        len: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A tree's entry contradicts itself.
    #[error("{path}: {reason}")]
    BadEntry {
        /// The entry's path in the output.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A file does not fit the format.
    #[error("{path}: {size} bytes; a cpio archive (initrd) holds files below 4 GiB only")]
    FileTooLarge {
        /// The file's path in the output.
        path: String,
        /// Its length.
        size: u64,
    },
    /// A path does not fit the format.
    #[error("{path}: path of {len} bytes; Linux reads at most 4095 in an initrd")]
    PathTooLong {
        /// The path.
        path: String,
        /// Its length.
        len: usize,
    },
    /// The output cannot be written.
    #[error("cannot {verb} {}: {source}", path.display())]
    Output {
        /// What was tried.
        verb: &'static str,
        /// The output.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The output is a stream, which broke.
    #[error("cannot write the output: {0}")]
    Stream(io::Error),
    /// A compressor failed.
    #[error("cannot compress with {compressor}: {source}")]
    Compress {
        /// The compressor's name.
        compressor: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl FormatError {
    pub(crate) fn output(
        verb: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Output { verb, path, source }
    }

    /// Returns true when the cause is a full disk or an exhausted quota.
    #[must_use]
    pub fn is_full_disk(&self) -> bool {
        let full = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        };
        match self {
            Self::Cache(error) => error.is_full_disk(),
            Self::Output { source, .. } | Self::Stream(source) => full(source),
            _ => false,
        }
    }
}

/// Returns how many bytes bring `len` to a multiple of `align`.
pub(crate) const fn padding(len: u64, align: u64) -> u64 {
    (align - len % align) % align
}

#[cfg(test)]
mod tests;
