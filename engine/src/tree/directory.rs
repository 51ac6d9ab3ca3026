//! A plain directory of the host as a layer.
//!
//! Enters: a path. Leaves: a pack and a tree of everything below it, in path order. Owners become
//! root: who checks files out as a user means the system's files, not that user's. Devices are
//! kept, sockets refused, times kept to the second. Of the extended attributes, those stay that
//! belong to the file (`user.*` and capabilities), not those of the host's policy.

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
        entry.xattrs = xattrs(&full).map_err(|errno| read(errno.into()))?;
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

/// Returns the extended attributes of a file that mean the same on any system.
fn xattrs(path: &Path) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // No list and no value is longer (linux/limits.h: XATTR_LIST_MAX, XATTR_SIZE_MAX).
    let mut buffer = [0; 64 << 10];
    let len = match rustix::fs::llistxattr(path, &mut buffer) {
        Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
        listed => listed?,
    };
    let names = buffer[..len].split(|byte| *byte == 0);
    let kept = |name: &&[u8]| name.starts_with(b"user.") || *name == b"security.capability";
    let names: Vec<Vec<u8>> = names.filter(kept).map(<[u8]>::to_vec).collect();
    names
        .into_iter()
        .map(|name| {
            let len = rustix::fs::lgetxattr(path, name.as_slice(), &mut buffer)?;
            Ok((name, buffer[..len].to_vec()))
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    #[test]
    fn keeps_attributes_of_files_not_of_hosts() {
        let space = tempfile::tempdir().unwrap();
        let cache = Cache::open(space.path().join("cache")).unwrap();
        let root = space.path().join("root");
        fs::create_dir(&root).unwrap();
        let file = root.join("ping");
        fs::write(&file, b"x").unwrap();
        // VFS_CAP_REVISION_2, CAP_NET_RAW permitted (linux/capability.h).
        let capability = [
            1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let set = |path: &Path, name: &str, value: &[u8]| {
            rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty())
                .unwrap_or_else(|errno| panic!("{name} on {}: {errno}", path.display()));
        };
        set(&file, "user.origin", b"here");
        set(&file, "user.empty", b"");
        set(&file, "security.capability", &capability);
        set(&file, "trusted.overlay.opaque", b"y");
        set(&root, "user.top", b"1");
        let tree = index(&cache, &root).unwrap().tree.0;
        let tree = Tree::open(&cache, &tree).unwrap();
        let of =
            |path: &[u8]| -> Vec<(Vec<u8>, Vec<u8>)> { tree.find(path).unwrap().to_entry().xattrs };
        let pair = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
        assert_eq!(
            of(b"ping"),
            [
                pair("security.capability", &capability),
                pair("user.empty", b""),
                pair("user.origin", b"here"),
            ]
        );
        assert_eq!(of(b""), [pair("user.top", b"1")]);
    }
}
