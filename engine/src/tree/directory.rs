//! A plain directory of the host as a layer.
//!
//! Enters: a path. Leaves: a pack and a tree of everything below it, in path order. Owners become
//! root: who checks files out as a user means the system's files, not that user's. Devices are
//! kept, sockets refused, times kept to the second.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use kiln_cache::{Cache, CacheError, Digest};

use super::generate::Generated;
use super::path::PathError;
use super::{Content, Entry, Kind, TreeError, TreePath, TreeWriter};

/// Stands for the pack's name, which is known only at its end.
const PACK: Digest = Digest::from_bytes([0; 32]);

/// Why a directory cannot be indexed.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The system refused.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file changed meanwhile.
    #[error("{} changed while it was being read", .0.display())]
    Changed(PathBuf),
    /// A socket, or something newer.
    #[error("{} is no kind of file a system can hold", .0.display())]
    Kind(PathBuf),
    /// A name that no tree can hold.
    #[error("{}: {reason}", path.display())]
    Name {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: PathError,
    },
    /// The index cannot hold it.
    #[error("{0}")]
    Tree(#[from] TreeError),
    /// The cache cannot take it.
    #[error("{0}")]
    Cache(#[from] CacheError),
}

/// Lists `root` and everything below it, sorted: the inputs of [`index`].
///
/// # Errors
/// When a directory cannot be read.
pub fn files(root: &Path) -> Result<Vec<PathBuf>, DirectoryError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| DirectoryError::Read { path, source }
    };
    let mut found = vec![root.to_owned()];
    let mut at = 0;
    while at < found.len() {
        let path = found[at].clone();
        at += 1;
        if fs::symlink_metadata(&path).map_err(read(&path))?.is_dir() {
            for entry in fs::read_dir(&path).map_err(read(&path))? {
                found.push(entry.map_err(read(&path))?.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Indexes everything below `root`.
///
/// # Errors
/// When a file cannot be read, changes meanwhile, or is of no kind a system can hold.
pub fn index(cache: &Cache, root: &Path) -> Result<Generated, DirectoryError> {
    let mut pack = cache.object_writer()?;
    let mut writer = TreeWriter::new();
    let mut inodes: HashMap<(u64, u64), usize> = HashMap::new();
    for full in files(root)? {
        let read = |source| DirectoryError::Read {
            path: full.clone(),
            source,
        };
        let metadata = fs::symlink_metadata(&full).map_err(read)?;
        let relative = full
            .strip_prefix(root)
            .unwrap_or(&full)
            .as_os_str()
            .as_bytes();
        let path = TreePath::parse(relative).map_err(|reason| DirectoryError::Name {
            path: full.clone(),
            reason,
        })?;
        if !metadata.is_dir() && metadata.nlink() > 1 {
            if let Some(first) = inodes.get(&(metadata.dev(), metadata.ino())) {
                writer.link(*first, path.as_bytes())?;
                continue;
            }
            inodes.insert((metadata.dev(), metadata.ino()), writer.len());
        }
        let kind = kind(&metadata).ok_or_else(|| DirectoryError::Kind(full.clone()))?;
        let mut entry = Entry::new(path, kind, (metadata.mode() & 0o7777) as u16);
        entry.mtime = metadata.mtime();
        match kind {
            Kind::File => {
                entry.size = metadata.size();
                let offset = pack.len();
                let digest = copy(&full, &metadata, &mut pack, cache)?;
                entry.content = (entry.size > 0).then_some(Content {
                    pack: PACK,
                    offset,
                    digest,
                });
            }
            Kind::Symlink => {
                entry.link = fs::read_link(&full)
                    .map_err(read)?
                    .as_os_str()
                    .as_bytes()
                    .to_vec();
            }
            Kind::CharDevice | Kind::BlockDevice => {
                let device = metadata.rdev();
                entry.device = (rustix::fs::major(device), rustix::fs::minor(device));
            }
            _ => {}
        }
        writer.add(&entry)?;
    }
    let pack_size = pack.len();
    let pack = pack.commit()?;
    writer.rename_pack(&PACK, pack);
    Ok(Generated {
        pack: (pack, pack_size),
        tree: writer.finish(cache)?,
    })
}

fn kind(metadata: &Metadata) -> Option<Kind> {
    let kind = metadata.file_type();
    Some(match () {
        () if kind.is_file() => Kind::File,
        () if kind.is_dir() => Kind::Directory,
        () if kind.is_symlink() => Kind::Symlink,
        () if kind.is_fifo() => Kind::Fifo,
        () if kind.is_char_device() => Kind::CharDevice,
        () if kind.is_block_device() => Kind::BlockDevice,
        () => return None,
    })
}

/// Copies a file's bytes; they must be those that `before` speaks of.
fn copy(
    path: &Path,
    before: &Metadata,
    out: &mut impl Write,
    cache: &Cache,
) -> Result<Digest, DirectoryError> {
    let read = |source| DirectoryError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(read)?;
    let copied = super::host::copy(&mut file, out);
    let (digest, length) = copied.map_err(|error| error.into(cache, read))?;
    let after = file.metadata().map_err(read)?;
    let seen = |metadata: &Metadata| {
        (
            metadata.ino(),
            metadata.size(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        )
    };
    if seen(before) != seen(&after) || length != before.size() {
        return Err(DirectoryError::Changed(path.to_owned()));
    }
    Ok(digest)
}
