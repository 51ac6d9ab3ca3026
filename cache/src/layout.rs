//! The cache directory: names, format number, opening.
//!
//! ```text
//! version        format number, decimal; written last, synced
//! CACHEDIR.TAG   tells backup programs to skip all this
//! objects/ab/…   immutable files named by the BLAKE3 of their content
//! actions/ab/…   one small self-checksummed file per key: what the step produced
//! builds/…       up-to-date stamps, what builds used, and the epoch of stamps
//! leases/…       one locked file per running process that writes
//! locks/…        taken by whoever does a step
//! index/HOST/    a catalogue that can be rebuilt from the above, and its spool
//! quarantine/…   damaged objects
//! tmp/           files being written
//! old-…/         what an older format left, set aside
//! layout.lock    taken to set an older format aside
//! ```
//!
//! No absolute path is kept inside: the directory can be moved, copied and shared. A directory of
//! these that was removed by hand is made again by whoever next writes into it. A directory with
//! anything else in it and no `version` is somebody else's and is refused.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::boot::{self, Boot};
use crate::error::{CacheError, Result};
use crate::lease::Lease;
use crate::tier::Tier;
use crate::{Digest, Key};

/// The format this code writes.
pub const FORMAT: u32 = 1;

const DIRECTORIES: &[&str] = &[
    "objects",
    "actions",
    "builds",
    "leases",
    "locks",
    "index",
    "quarantine",
    "tmp",
];

const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This directory is a kiln cache. See https://bford.info/cachedir/ for what this file is.\n";

/// An open cache directory. Cheap to open: one small file is read.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
    serial: AtomicU64,
    /// How often this process waited for a sweep.
    pub(crate) waited: AtomicU32,
    pub(crate) boot: Boot,
    pub(crate) lease: OnceLock<Lease>,
    /// Objects hashed by this process that it cannot mark (they are another user's, or the medium
    /// is read-only).
    pub(crate) hashed: Mutex<HashSet<(Digest, u64)>>,
    local: OnceLock<bool>,
    set_aside: Option<PathBuf>,
    /// Further caches that are only read.
    pub(crate) tiers: Vec<Tier>,
    /// Set for those: nothing is written here.
    pub(crate) is_read_only: bool,
}

impl Cache {
    /// Opens `root`, making it when it is not there. A cache of an older format is set aside
    /// inside `root`; see [`set_aside`](Self::set_aside).
    ///
    /// # Errors
    /// When the directory cannot be made or read, was made by a newer kiln, or is not a cache.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        Self::open_in(root.into(), Boot::current())
    }

    /// Opens a cache that is there already; makes and sets aside nothing.
    ///
    /// # Errors
    /// When there is no such directory, or it is not a cache.
    pub fn open_existing(root: &Path) -> Result<Self> {
        if let Version::Missing = read_version(root)? {
            // An empty directory, or one whose maker died, is a cache that holds nothing.
            if let Some(found) = foreign(root)? {
                return Err(CacheError::NotACache {
                    path: root.to_owned(),
                    found,
                });
            }
        }
        Ok(Self::at(root.to_owned(), Boot::current(), None))
    }

    /// Opens `root` as if in another boot of the machine, which began at `since_ns`. For tests.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    #[doc(hidden)]
    pub fn open_in_boot(root: impl Into<PathBuf>, id: &str, since_ns: i64) -> Result<Self> {
        let id = id.to_owned();
        Self::open_in(root.into(), Boot { id, since_ns })
    }

    fn open_in(root: PathBuf, boot: Boot) -> Result<Self> {
        let set_aside = match read_version(&root)? {
            Version::Is(FORMAT) => None,
            Version::Missing => {
                make(&root)?;
                None
            }
            Version::Is(found) if found > FORMAT => {
                return Err(CacheError::NewerFormat {
                    path: root,
                    found,
                    known: FORMAT,
                });
            }
            Version::Is(_) | Version::Damaged => set_aside(&root)?,
        };
        Ok(Self::at(root, boot, set_aside))
    }

    fn at(root: PathBuf, boot: Boot, set_aside: Option<PathBuf>) -> Self {
        Self {
            root,
            serial: AtomicU64::new(0),
            waited: AtomicU32::new(0),
            boot,
            lease: OnceLock::new(),
            hashed: Mutex::default(),
            local: OnceLock::new(),
            set_aside,
            tiers: Vec::new(),
            is_read_only: false,
        }
    }

    /// Makes the view of a cache that is only read.
    pub(crate) fn read_only(root: PathBuf, boot: Boot) -> Self {
        Self {
            is_read_only: true,
            ..Self::at(root, boot, None)
        }
    }

    /// Returns the directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns where opening put what an older kiln had left, when it did. Nothing reads it
    /// again: it may be deleted.
    #[must_use]
    pub fn set_aside(&self) -> Option<&Path> {
        self.set_aside.as_deref()
    }

    /// Returns a path under `tmp/` that no other process or thread uses. A file there is swept
    /// when this process has closed the cache.
    pub fn temporary(&self) -> PathBuf {
        // Without a lease there is no writing here: whoever makes the file will be told why.
        let lease = self.lease().map_or("unleased", Lease::name);
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        self.root.join("tmp").join(format!("{lease}.{serial}"))
    }

    /// True when no other machine can be using this directory.
    pub(crate) fn is_local(&self) -> bool {
        *self.local.get_or_init(|| boot::is_local(&self.root))
    }

    pub(crate) fn object_path(&self, digest: &Digest) -> PathBuf {
        self.fan_out("objects", &digest.to_string())
    }

    pub(crate) fn action_path(&self, key: &Key) -> PathBuf {
        self.fan_out("actions", &key.to_string())
    }

    fn fan_out(&self, directory: &str, hex: &str) -> PathBuf {
        let mut path = self.root.join(directory);
        path.push(&hex[..2]);
        path.push(&hex[2..]);
        path
    }
}

pub(crate) enum Version {
    /// Not there, or made by a process that died before the first byte.
    Missing,
    Is(u32),
    Damaged,
}

pub(crate) fn read_version(root: &Path) -> Result<Version> {
    let path = root.join("version");
    match fs::read_to_string(&path) {
        Ok(text) if text.is_empty() => Ok(Version::Missing),
        Ok(text) => Ok(text.trim().parse().map_or(Version::Damaged, Version::Is)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Version::Missing),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Version::Damaged),
        Err(error) => Err(CacheError::io("read", &path)(error)),
    }
}

/// Makes the directory, or finishes one whose maker died. Any number of processes may do so at
/// once: every step can be repeated, and `version` appears last, whole.
fn make(root: &Path) -> Result<()> {
    fs::create_dir_all(root).map_err(|error| {
        let parent = root.ancestors().find(|parent| parent.is_dir());
        CacheError::unwritable(parent.unwrap_or(root), root, error)
    })?;
    if let Some(found) = foreign(root)? {
        return Err(CacheError::NotACache {
            path: root.to_owned(),
            found,
        });
    }
    fill(root)
}

/// Makes what is missing of a cache; `version` last.
pub(crate) fn fill(root: &Path) -> Result<()> {
    for directory in DIRECTORIES {
        let path = root.join(directory);
        fs::create_dir_all(&path).map_err(|error| CacheError::unwritable(root, &path, error))?;
    }
    put_file(root, "CACHEDIR.TAG", TAG)?;
    put_file(root, "version", &format!("{FORMAT}\n"))
}

/// True for the names that a cache gives to files and directories in its root.
pub(crate) fn is_ours(name: &str) -> bool {
    DIRECTORIES.contains(&name)
        || ["version", "CACHEDIR.TAG", "layout.lock"].contains(&name)
        || name.starts_with("old-")
}

/// Returns a name in `root` that no cache has.
fn foreign(root: &Path) -> Result<Option<String>> {
    for entry in fs::read_dir(root).map_err(CacheError::io("read", root))? {
        let entry = entry.map_err(CacheError::io("read", root))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let known = is_ours(&name)
            || name == "lost+found"
            // What file systems and network shares put anywhere.
            || name.starts_with('.');
        if !known {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn put_file(root: &Path, name: &str, content: &str) -> Result<()> {
    // Not a name that leases give, and swept as such when this process dies.
    let temporary = root
        .join("tmp")
        .join(format!("making-{:016x}", boot::random()));
    let written = File::create_new(&temporary).and_then(|mut file| {
        file.write_all(content.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| CacheError::unwritable(root, &temporary, error))?;
    let path = root.join(name);
    fs::rename(&temporary, &path).or_else(|error| {
        let _ = fs::remove_file(&temporary);
        // Swept from under us by a process that found the cache finished: it is.
        if error.kind() == io::ErrorKind::NotFound && path.exists() {
            return Ok(());
        }
        Err(CacheError::io("write", &path)(error))
    })
}

/// Moves everything of an older format into `old-…/` and starts afresh. Nothing is deleted: the
/// older kiln may still be wanted.
fn set_aside(root: &Path) -> Result<Option<PathBuf>> {
    let path = root.join("layout.lock");
    let lock = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| CacheError::unwritable(root, &path, error))?;
    lock.lock().map_err(CacheError::io("lock", &path))?;
    if matches!(read_version(root)?, Version::Is(FORMAT)) {
        return Ok(None); // someone else did it meanwhile
    }
    let aside = root.join(format!("old-{:016x}", boot::random()));
    fs::create_dir(&aside).map_err(|error| CacheError::unwritable(root, &aside, error))?;
    for name in DIRECTORIES {
        match fs::rename(root.join(name), aside.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(CacheError::io("set aside", &root.join(name))(error));
            }
            _ => {}
        }
    }
    // Last: a crash before this leaves an older format, to be set aside again.
    let old = fs::read(root.join("version")).unwrap_or_default();
    fs::write(aside.join("version"), old)
        .map_err(CacheError::io("write", &aside.join("version")))?;
    fill(root)?;
    Ok(Some(aside))
}
