//! Trees for this room's tests.

use kiln_cache::{Cache, Digest};
use std::io::Write;

use crate::tree::{Content, Entry, Kind, TreePath, TreeWriter};

/// Returns an entry of this kind and mode.
pub(crate) fn entry(path: &str, kind: Kind, mode: u16) -> Entry {
    let mut entry = Entry::new(TreePath::parse(path.as_bytes()).unwrap(), kind, mode);
    entry.mtime = 1_600_000_000;
    entry
}

/// Returns a regular file whose bytes are an object of their own.
pub(crate) fn file(cache: &Cache, path: &str, bytes: &[u8]) -> Entry {
    let mut file = entry(path, Kind::File, 0o644);
    file.size = bytes.len() as u64;
    if !bytes.is_empty() {
        let mut pack = cache.object_writer().unwrap();
        pack.write_all(b"before").unwrap();
        pack.write_all(bytes).unwrap();
        pack.write_all(b"after").unwrap();
        file.content = Some(Content {
            pack: pack.commit().unwrap(),
            offset: 6,
            digest: Digest::of(bytes),
        });
    }
    file
}

/// Stores a tree.
pub(crate) fn tree(cache: &Cache, entries: &[Entry]) -> Digest {
    let mut writer = TreeWriter::new();
    for entry in entries {
        writer.add(entry).unwrap();
    }
    writer.finish(cache).unwrap().0
}

/// Stores a tree of directories (`name/`) and files (`name`, whose content is their path).
pub(crate) fn tree_of(cache: &Cache, paths: &[&str]) -> Digest {
    let entries: Vec<Entry> = paths
        .iter()
        .map(|path| match path.strip_suffix('/') {
            Some(directory) => entry(directory, Kind::Directory, 0o755),
            None => file(cache, path, path.as_bytes()),
        })
        .collect();
    tree(cache, &entries)
}
