//! One file of a tree as a stream.
//!
//! Enters: an entry. Leaves: its bytes, the holes of a sparse file as zeros.

use std::io::{self, Read};

use kiln_cache::{Cache, Object};

use super::{EntryRef, Extent};

/// Reads a regular file of a tree.
pub struct FileReader {
    pack: Option<Object>,
    /// Data runs, the next one last.
    runs: Vec<Extent>,
    at: u64,
    size: u64,
}

impl FileReader {
    /// Opens a regular file.
    ///
    /// # Errors
    /// When its pack is missing.
    pub fn open(cache: &Cache, entry: &EntryRef<'_>) -> io::Result<Self> {
        let content = entry.content();
        let pack = content
            .as_ref()
            .map(|content| cache.open_object(&content.pack));
        let mut runs = entry.extents();
        if let Some(content) = content.filter(|_| runs.is_empty()) {
            runs.push(Extent {
                file_offset: 0,
                pack_offset: content.offset,
                len: entry.size(),
            });
        }
        runs.reverse();
        Ok(Self {
            pack: pack.transpose().map_err(io::Error::other)?,
            runs,
            at: 0,
            size: entry.size(),
        })
    }
}

impl Read for FileReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let ended = |run: &mut Extent| run.file_offset.saturating_add(run.len) <= self.at;
        while self.runs.pop_if(ended).is_some() {}
        let run = self.runs.last().filter(|run| run.file_offset <= self.at);
        let until = match (run, self.runs.last()) {
            (Some(run), _) => run.file_offset.saturating_add(run.len),
            (None, Some(next)) => next.file_offset,
            (None, None) => self.size,
        };
        let left = until.min(self.size) - self.at;
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(out.len());
        let out = &mut out[..count];
        match (run, &self.pack) {
            (Some(run), Some(pack)) => {
                let inside = self.at - run.file_offset;
                pack.read_exact_at(out, run.pack_offset.saturating_add(inside))?;
            }
            _ => out.fill(0),
        }
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Content, Entry, Kind, Tree, TreePath, TreeWriter};
    use kiln_cache::Digest;
    use std::io::Write;

    #[test]
    fn reads_holes_as_zeros() {
        let space = tempfile::tempdir().unwrap();
        let cache = Cache::open(space.path()).unwrap();
        let mut pack = cache.object_writer().unwrap();
        pack.write_all(b"..abc.defg").unwrap();
        let pack = pack.commit().unwrap();
        let mut writer = TreeWriter::new();
        let mut add = |name: &str, size, offset, runs: &[(u64, u64, u64)]| {
            let path = TreePath::parse(name.as_bytes()).unwrap();
            let mut entry = Entry::new(path, Kind::File, 0o644);
            entry.size = size;
            entry.content = (name != "hole").then_some(Content {
                pack,
                offset,
                digest: Digest::of(b""),
            });
            let extent = |&(file_offset, pack_offset, len)| Extent {
                file_offset,
                pack_offset,
                len,
            };
            entry.extents = runs.iter().map(extent).collect();
            writer.add(&entry).unwrap();
        };
        add("hole", 3, 0, &[]);
        add("plain", 3, 2, &[]);
        add("sparse", 12, 0, &[(1, 2, 3), (4, 6, 2), (8, 8, 2)]);
        let tree = Tree::open(&cache, &writer.finish(&cache).unwrap().0).unwrap();
        let read = |name: &[u8]| {
            let mut reader = FileReader::open(&cache, &tree.find(name).unwrap()).unwrap();
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(read(b"hole"), [0; 3]);
        assert_eq!(read(b"plain"), b"abc");
        assert_eq!(read(b"sparse"), b"\0abcde\0\0fg\0\0");
    }
}
