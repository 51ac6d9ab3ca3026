//! What can go wrong with a cache directory.

use std::io;
use std::os::unix::fs::MetadataExt;
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
    /// No room: a full disk or an exhausted quota.
    #[error("cache: cannot write {}: {}: {} free{}", path.display(),
        if *quota { "quota exhausted" } else { "disk full" }, Bytes(*free), and_needed(*needed))]
    Full {
        /// The file being written; nothing is left of it.
        path: PathBuf,
        /// At least this many more bytes were to be written; 0 when that is not known.
        needed: u64,
        /// What the file system has free for this user, in bytes.
        free: u64,
        /// It is the user's quota that is exhausted, not the disk.
        quota: bool,
    },
    /// The directory cannot be written to.
    #[error("cache: {} is not writable{}: {source}", root.display(),
        owner.as_ref().map(|(owner, user)| format!(" (it belongs to user {owner}, this is user {user})")).unwrap_or_default())]
    Unwritable {
        /// The cache directory.
        root: PathBuf,
        /// Its owner and the user asking, where these differ.
        owner: Option<(u32, u32)>,
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
    /// The directory holds something else, and nothing was changed in it.
    #[error("cache: {} is not a cache: it holds {found:?}", path.display())]
    NotACache {
        /// The directory.
        path: PathBuf,
        /// A name found in it.
        found: String,
    },
    /// Living processes use the cache, so it cannot be removed.
    #[error("cache: {} is in use by {}", path.display(),
        if *processes == 1 { "another process".to_owned() } else { format!("{processes} other processes") })]
    InUse {
        /// The cache directory.
        path: PathBuf,
        /// How many of them.
        processes: usize,
    },
    /// Another process keeps the catalogue open.
    #[error("cache: the catalogue is in use by another process ({} is locked)", .0.display())]
    CatalogueBusy(PathBuf),
    /// The catalogue cannot be used. It can be deleted: it is rebuilt from the files.
    #[error("cache: catalogue {}: {reason}", path.display())]
    Catalogue {
        /// Its directory.
        path: PathBuf,
        /// What the database said.
        reason: String,
    },
    /// An object that a record names is not there, or is damaged and was set aside.
    #[error("cache: object {0} is missing or damaged")]
    MissingObject(Digest),
}

impl CacheError {
    /// Returns a closure that wraps an I/O error with what was tried on which file. An error of
    /// this type that travelled inside the I/O error comes out as it was.
    pub fn io(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.downcast::<Self>() {
            Ok(inner) => inner,
            Err(source) => Self::Io { verb, path, source },
        }
    }

    /// Wraps the failure of a write of which at least `needed` bytes were still to come.
    pub(crate) fn write(path: &Path, needed: u64, source: io::Error) -> Self {
        let quota = source.kind() == io::ErrorKind::QuotaExceeded;
        if !quota && source.kind() != io::ErrorKind::StorageFull {
            return Self::io("write", path)(source);
        }
        let directory = path.parent().unwrap_or(path);
        let free = rustix::fs::statvfs(directory)
            .map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        Self::Full {
            path: path.to_owned(),
            needed,
            free,
            quota,
        }
    }

    /// Wraps the failure to make `path` inside the cache `root`.
    pub(crate) fn unwritable(root: &Path, path: &Path, source: io::Error) -> Self {
        if !matches!(
            source.kind(),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
        ) {
            return Self::write(path, 0, source);
        }
        let user = rustix::process::geteuid().as_raw();
        let owner = std::fs::metadata(root)
            .ok()
            .map(|metadata| (metadata.uid(), user))
            .filter(|(owner, user)| owner != user);
        Self::Unwritable {
            root: root.to_owned(),
            owner,
            source,
        }
    }

    /// Makes an I/O error to pass through interfaces that know no other; see [`CacheError::io`].
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Self::Io { source, .. } => source,
            Self::Full { .. } => io::Error::new(io::ErrorKind::StorageFull, self),
            other => io::Error::other(other),
        }
    }

    /// Returns true when the cause is a full disk or an exhausted quota.
    #[must_use]
    pub fn is_full_disk(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }
}

/// True for what a damaged medium or file system answers.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::IO, Errno::UCLEAN, Errno::BADMSG]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// True when a file was removed on another machine while it was open here (NFS).
pub(crate) fn is_stale(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::STALE.raw_os_error())
}

/// Says how much was to come, when that is known.
fn and_needed(bytes: u64) -> String {
    match bytes {
        0 => String::new(),
        bytes => format!(", at least {} needed", Bytes(bytes)),
    }
}

/// Prints a number of bytes for people.
struct Bytes(u64);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let units = ["B", "KiB", "MiB", "GiB", "TiB"];
        let unit = (self.0.checked_ilog2().unwrap_or(0) / 10).min(4);
        let tenths = (u128::from(self.0) * 10) >> (10 * unit);
        match unit {
            0 => write!(f, "{} B", self.0),
            unit => write!(
                f,
                "{}.{} {}",
                tenths / 10,
                tenths % 10,
                units[unit as usize]
            ),
        }
    }
}

/// The result of a cache operation.
pub type Result<T> = std::result::Result<T, CacheError>;
