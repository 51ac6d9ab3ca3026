//! Trees that kiln writes itself: bundles, files, the kernel's corner of a system.
//!
//! Enters: a list of nodes. Leaves: a pack with their contents, one after the other, and a tree.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use kiln_cache::{Cache, CacheError, Digest};

use super::{Content, Entry, Kind, TreeError, TreePath, TreeWriter};

/// The time of everything kiln makes: 2017-04-18T16:30:00Z, as LinuxKit has it.
pub const MTIME: i64 = 1_492_533_000;

/// One thing to make.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where.
    pub path: TreePath,
    /// What.
    pub body: Body,
    /// Permission bits (12).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a node is.
#[derive(Debug, Clone)]
pub enum Body {
    /// A directory.
    Directory,
    /// A file with these bytes.
    Bytes(Vec<u8>),
    /// A file with the bytes of a file of the host, which have this digest.
    Host(PathBuf, Digest),
    /// A file that is an object of the cache, of this many bytes: it is not copied.
    Object(Digest, u64),
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
}

impl Node {
    /// Returns a node owned by root.
    #[must_use]
    pub fn new(path: TreePath, body: Body, mode: u16) -> Self {
        Self {
            path,
            body,
            mode,
            uid: 0,
            gid: 0,
        }
    }

    /// Returns a directory, 0755.
    #[must_use]
    pub fn directory(path: TreePath) -> Self {
        Self::new(path, Body::Directory, 0o755)
    }
}

/// What was made.
#[derive(Debug, Clone, Copy)]
pub struct Generated {
    /// The pack, and its size in bytes.
    pub pack: (Digest, u64),
    /// The tree, and its size in bytes.
    pub tree: (Digest, u64),
}

/// Why a tree could not be made.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A file of the host cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Host {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the host is not what it was when the build began.
    #[error("{} changed while it was being read", .0.display())]
    Changed(PathBuf),
    /// The tree cannot be written.
    #[error("{0}")]
    Tree(#[from] TreeError),
    /// The pack cannot be written.
    #[error("{0}")]
    Cache(#[from] CacheError),
}

/// Writes the nodes. Of several with one path, the last stays.
///
/// # Errors
/// When a file of the host cannot be read, or the cache cannot be written.
pub fn generate(cache: &Cache, nodes: &[Node]) -> Result<Generated, GenerateError> {
    let mut pack = cache.object_writer()?;
    let mut places = Vec::with_capacity(nodes.len());
    for node in nodes {
        let offset = pack.len();
        let digest = match &node.body {
            Body::Bytes(bytes) => {
                pack.write_all(bytes)
                    .map_err(CacheError::io("write", cache.root()))?;
                Digest::of(bytes)
            }
            Body::Host(path, expected) => {
                let host = |source| GenerateError::Host {
                    path: path.clone(),
                    source,
                };
                let mut file = File::open(path).map_err(host)?;
                let copied = super::host::copy(&mut file, &mut pack);
                let (digest, _) = copied.map_err(|error| error.into(cache, host))?;
                if digest != *expected {
                    return Err(GenerateError::Changed(path.clone()));
                }
                digest
            }
            Body::Object(digest, size) => {
                places.push((0, *size, *digest));
                continue;
            }
            Body::Directory | Body::Symlink(_) => Digest::of(b""),
        };
        places.push((offset, pack.len() - offset, digest));
    }
    let pack_size = pack.len();
    let pack = pack.commit()?;
    let mut writer = TreeWriter::new();
    for (node, (offset, size, digest)) in nodes.iter().zip(places) {
        let kind = match node.body {
            Body::Directory => Kind::Directory,
            Body::Bytes(_) | Body::Host(..) | Body::Object(..) => Kind::File,
            Body::Symlink(_) => Kind::Symlink,
        };
        let mut entry = Entry::new(node.path.clone(), kind, node.mode);
        (entry.uid, entry.gid, entry.mtime, entry.size) = (node.uid, node.gid, MTIME, size);
        if size > 0 {
            entry.content = Some(Content {
                pack: match node.body {
                    Body::Object(object, _) => object,
                    _ => pack,
                },
                offset,
                digest,
            });
        }
        if let Body::Symlink(target) = &node.body {
            entry.link.clone_from(target);
        }
        writer.add(&entry)?;
    }
    Ok(Generated {
        pack: (pack, pack_size),
        tree: writer.finish(cache)?,
    })
}
