//! Tiers: further caches that this one only reads.
//!
//! Enters: the directory of a cache that somebody else keeps, such as one baked into a CI image or
//! mounted read-only. Leaves: its actions and objects, for whoever asks this cache for something
//! that it has not itself. The cache is asked first, then its tiers in the order they were added.
//!
//! - **Nothing is written to a tier**: no lease, no lock, no mark, no catalogue; its damaged
//!   objects stay where they are. Objects are read in place, never copied, and neither are actions
//!   that name any: they would lack them when the tier goes. So collecting the cache and losing a
//!   tier are both safe. An action without objects (what a tag means) is copied when it is used: a
//!   tier that goes takes no decision with it.
//! - **Trust** is that of [`crate::object`]: an object whose mark says so is as it was written,
//!   any other is hashed once by each process that uses it. Marks name the inode, so a copied tier
//!   (a container image) has none. A damaged object is not there: its step is done again, and from
//!   then on the cache has it.
//! - **An action of a tier counts only with all its objects**, wherever they are.
//! - **A tier may go away** or be collected by its own kiln at any moment. What cannot be read is
//!   not there; the first failure of the medium ends the use of the tier
//!   ([`Cache::tier_troubles`]), and the build goes on without it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::error::Result;
use crate::layout::{FORMAT, Version, read_version};
use crate::{Cache, CacheError};

/// What went wrong with a tier first, shared with the objects that are open in it.
pub(crate) type Trouble = Arc<OnceLock<String>>;

/// A cache that is only read.
#[derive(Debug)]
pub(crate) struct Tier {
    cache: Cache,
    trouble: Trouble,
}

/// Why a directory is no tier. The cache is as it was without it.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    /// There is no such directory.
    #[error("{}: there is no such directory", .0.display())]
    Missing(PathBuf),
    /// It has no `version`.
    #[error("{}: not a kiln cache", .0.display())]
    NotACache(PathBuf),
    /// It has another format; `None` when its `version` is no number.
    #[error("{}: its format is {}, this kiln reads {known}", path.display(),
        found.map_or_else(|| "unknown".to_owned(), |found| found.to_string()))]
    Format {
        /// The directory.
        path: PathBuf,
        /// Its format number.
        found: Option<u32>,
        /// The one this code reads.
        known: u32,
    },
    /// It cannot be looked at.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// What cannot be read.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl TierError {
    /// Returns the directory, or what in it cannot be read.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Missing(path) | Self::NotACache(path) => path,
            Self::Format { path, .. } | Self::Unreadable { path, .. } => path,
        }
    }
}

/// Looks whether `root` is a cache that can be read.
fn check(root: &Path) -> std::result::Result<(), TierError> {
    let unreadable = |path: &Path, source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => TierError::Missing(root.to_owned()),
        _ => TierError::Unreadable {
            path: path.to_owned(),
            source,
        },
    };
    fs::read_dir(root).map_err(|error| unreadable(root, error))?;
    let other = |found| TierError::Format {
        path: root.to_owned(),
        found,
        known: FORMAT,
    };
    match read_version(root) {
        Ok(Version::Is(FORMAT)) => {}
        Ok(Version::Is(found)) => return Err(other(Some(found))),
        Ok(Version::Damaged) => return Err(other(None)),
        Ok(Version::Missing) => return Err(TierError::NotACache(root.to_owned())),
        Err(CacheError::Io { path, source, .. }) => return Err(unreadable(&path, source)),
        Err(error) => return Err(unreadable(root, io::Error::other(error))),
    }
    for name in ["actions", "objects"] {
        let path = root.join(name);
        match fs::read_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(unreadable(&path, error));
            }
            _ => {} // one that holds nothing yet
        }
    }
    Ok(())
}

impl Cache {
    /// Adds a tier after those there are. The cache's own directory is none, and ignored.
    ///
    /// # Errors
    /// When the directory is not a cache of this format, or cannot be read.
    pub fn add_tier(&mut self, root: &Path) -> std::result::Result<(), TierError> {
        check(root)?;
        let id = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
        if let (Ok(own), Ok(other)) = (id(self.root()), id(root))
            && own == other
        {
            return Ok(());
        }
        let tier = Tier {
            cache: Self::read_only(root.to_owned(), self.boot.clone()),
            trouble: Trouble::default(),
        };
        self.tiers.push(tier);
        Ok(())
    }

    /// Returns the tiers that are used no more, and what went wrong with them.
    pub fn tier_troubles(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.tiers
            .iter()
            .filter_map(|tier| Some((tier.cache.root(), tier.trouble.get()?.as_str())))
    }

    /// Returns the first thing that a tier has. `ask` is given a cache that it must not write to;
    /// its errors end the use of that tier.
    pub(crate) fn from_tiers<T>(
        &self,
        ask: impl Fn(&Self, &Trouble) -> Result<Option<T>>,
    ) -> Option<T> {
        for tier in &self.tiers {
            if tier.trouble.get().is_some() {
                continue;
            }
            match ask(&tier.cache, &tier.trouble) {
                Ok(Some(found)) => return Some(found),
                Ok(None) | Err(CacheError::MissingObject(_)) => {}
                Err(error) => {
                    // Only the first one is told.
                    let _ = tier.trouble.set(error.to_string());
                }
            }
        }
        None
    }
}
