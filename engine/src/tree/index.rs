//! The tree: a sorted index of a file system, read by mapping it.
//!
//! ```text
//! header   64 bytes: magic "kiln tree 1\0\0\0\0\0" (16), u64 packs, u64 entries, u64 heap bytes,
//!          zero padding
//! packs    32 bytes each: BLAKE3 names of the pack objects that entries point into
//! entries  128 bytes each (`Record`), sorted by path (see `path::compare`), one per path
//! heap     paths, link targets, extended attributes, extents
//! ```
//! All integers are little-endian. A tree of a layer may hold [`Kind::HardLink`],
//! [`Kind::Whiteout`] and opaque directories; a flattened tree holds none of them: every name of
//! a linked file is a [`Kind::File`] with the same non-zero `group`.

use std::collections::HashMap;
use std::io::Write;
use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use kiln_cache::{Cache, CacheError, Digest, Mapping};

use super::path::{self, TreePath};

const MAGIC: &[u8; 16] = b"kiln tree 1\0\0\0\0\0";
const HEADER_BYTES: usize = 64;
const NO_PACK: u32 = u32::MAX;
const FLAG_OPAQUE: u8 = 1;
/// The most entries one tree may hold; a real image has some 100,000.
pub const ENTRIES_MAX: usize = 16 << 20;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A regular file.
    File = 0,
    /// A directory.
    Directory = 1,
    /// A symbolic link; its target is data.
    Symlink = 2,
    /// A character device.
    CharDevice = 3,
    /// A block device.
    BlockDevice = 4,
    /// A named pipe.
    Fifo = 5,
    /// Another name of the file that `link` names, a path of the tree. Layers only.
    HardLink = 6,
    /// Removes this path from lower layers. Layers only.
    Whiteout = 7,
}

impl Kind {
    const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::File,
            1 => Self::Directory,
            2 => Self::Symlink,
            3 => Self::CharDevice,
            4 => Self::BlockDevice,
            5 => Self::Fifo,
            6 => Self::HardLink,
            7 => Self::Whiteout,
            _ => return None,
        })
    }
}

/// A run of a sparse file's data: bytes `file_offset..file_offset + len` stand at `pack_offset`
/// of the file's pack. What no extent covers is zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Extent {
    /// Where in the file, in bytes.
    pub file_offset: u64,
    /// Where in the pack, in bytes.
    pub pack_offset: u64,
    /// How many bytes.
    pub len: u64,
}

/// Where a regular file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The pack.
    pub pack: Digest,
    /// Offset of the first byte in the pack. Unused when there are extents.
    pub offset: u64,
    /// BLAKE3 of the file's bytes (of the whole file, holes included, when sparse).
    pub digest: Digest,
}

/// One entry, owned: what a [`TreeWriter`] takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub path: TreePath,
    /// What.
    pub kind: Kind,
    /// Permission bits (12).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds of the modification time.
    pub mtime_ns: u32,
    /// Length of a regular file, in bytes; 0 for everything else.
    pub size: u64,
    /// Bytes of a regular file; `None` when it is empty.
    pub content: Option<Content>,
    /// Data runs of a sparse file; empty when the content is one run.
    pub extents: Vec<Extent>,
    /// Target of a symbolic link (verbatim) or of a hard link (a path of the tree).
    pub link: Vec<u8>,
    /// Extended attributes, name and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Device number, major and minor.
    pub device: (u32, u32),
    /// Entries of one tree with the same non-zero number are names of one file.
    pub group: u32,
    /// Hides what lower layers have under this directory.
    pub opaque: bool,
}

impl Entry {
    /// Returns an entry of this kind and mode, owned by root, with time 0 and nothing else.
    #[must_use]
    pub fn new(path: TreePath, kind: Kind, mode: u16) -> Self {
        Self {
            path,
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: 0,
            mtime_ns: 0,
            size: 0,
            content: None,
            extents: Vec::new(),
            link: Vec::new(),
            xattrs: Vec::new(),
            device: (0, 0),
            group: 0,
            opaque: false,
        }
    }
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Record {
    digest: [u8; 32],
    size: u64,
    offset: u64,
    mtime: i64,
    mtime_ns: u32,
    uid: u32,
    gid: u32,
    mode: u16,
    kind: u8,
    flags: u8,
    path: Span,
    link: Span,
    xattrs: Span,
    extents: Span,
    pack: u32,
    major: u32,
    minor: u32,
    group: u32,
    reserved: [u32; 2],
}

const _: () = assert!(size_of::<Record>() == 128);

/// A range of the heap.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Span {
    offset: u32,
    len: u32,
}

/// Why a tree cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The cache failed.
    #[error("{0}")]
    Cache(#[from] CacheError),
    /// The object is not a tree of this format, or points outside itself.
    #[error("tree {digest}: {reason}")]
    Malformed {
        /// The object.
        digest: Digest,
        /// What is wrong.
        reason: &'static str,
    },
    /// More entries or text than a tree can hold.
    #[error("a tree cannot hold more than {ENTRIES_MAX} entries or 4 GiB of names")]
    TooLarge,
}

/// A tree, mapped.
#[derive(Debug)]
pub struct Tree {
    map: Mapping,
    packs: Vec<Digest>,
    records: Range<usize>,
    heap: Range<usize>,
}

impl Tree {
    /// Opens and checks a tree: every span lies inside, every kind is known.
    /// (That paths ascend is the writer's promise; the object's name vouches for its bytes.)
    ///
    /// # Errors
    /// When the object is missing or is no tree.
    pub fn open(cache: &Cache, digest: &Digest) -> Result<Self, TreeError> {
        let object = cache.open_object(digest)?;
        let map = object.map().map_err(CacheError::io(
            "map",
            &cache.root().join(digest.to_string()),
        ))?;
        Self::check(map).map_err(|reason| TreeError::Malformed {
            digest: *digest,
            reason,
        })
    }

    fn check(map: Mapping) -> Result<Self, &'static str> {
        if map.len() < HEADER_BYTES || &map[..16] != MAGIC {
            return Err("not a tree");
        }
        let number = |at: usize| {
            let bytes: [u8; 8] = map[at..at + 8].try_into().unwrap_or_default();
            usize::try_from(u64::from_le_bytes(bytes))
                .ok()
                .filter(|value| *value < 1 << 40)
        };
        let (packs, entries, heap) = number(16)
            .zip(number(24))
            .zip(number(32))
            .map(|((packs, entries), heap)| (packs, entries, heap))
            .ok_or("absurd header")?;
        let records_at = HEADER_BYTES + packs * 32;
        let heap_at = records_at + entries * size_of::<Record>();
        if heap_at + heap != map.len() {
            return Err("wrong length");
        }
        let packs = map[HEADER_BYTES..records_at]
            .chunks_exact(32)
            .map(|name| Digest::from_bytes(name.try_into().unwrap_or_default()))
            .collect();
        let tree = Self {
            map,
            packs,
            records: records_at..heap_at,
            heap: heap_at..heap_at + heap,
        };
        let heap = heap as u64;
        let inside = |span: Span| u64::from(span.offset) + u64::from(span.len) <= heap;
        let sound = tree.records().iter().all(|record| {
            Kind::from_u8(record.kind).is_some()
                && [record.path, record.link, record.xattrs, record.extents]
                    .into_iter()
                    .all(inside)
                && (record.pack == NO_PACK || (record.pack as usize) < tree.packs.len())
        });
        if !sound {
            return Err("an entry points outside the tree");
        }
        Ok(tree)
    }

    fn records(&self) -> &[Record] {
        // Records start at a multiple of 8 of a page-aligned mapping.
        bytemuck::cast_slice(&self.map[self.records.clone()])
    }

    fn text(&self, span: Span) -> &[u8] {
        &self.map[self.heap.clone()][span.offset as usize..][..span.len as usize]
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records().len()
    }

    /// Returns true for a tree without entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the entry at `index`, in path order. Panics beyond [`len`](Self::len).
    #[must_use]
    pub fn get(&self, index: usize) -> EntryRef<'_> {
        EntryRef {
            tree: self,
            record: &self.records()[index],
        }
    }

    /// Returns all entries in path order.
    pub fn iter(&self) -> impl Iterator<Item = EntryRef<'_>> {
        self.records()
            .iter()
            .map(|record| EntryRef { tree: self, record })
    }

    /// Returns the index of the entry at exactly this path.
    #[must_use]
    pub fn position(&self, wanted: &[u8]) -> Option<usize> {
        self.records()
            .binary_search_by(|record| path::compare(self.text(record.path), wanted))
            .ok()
    }

    /// Returns the entry at exactly this path.
    #[must_use]
    pub fn find(&self, wanted: &[u8]) -> Option<EntryRef<'_>> {
        self.position(wanted).map(|index| self.get(index))
    }

    /// Returns the packs that entries point into.
    #[must_use]
    pub fn packs(&self) -> &[Digest] {
        &self.packs
    }
}

/// One entry of a mapped tree.
#[derive(Clone, Copy)]
pub struct EntryRef<'a> {
    tree: &'a Tree,
    record: &'a Record,
}

impl<'a> EntryRef<'a> {
    /// Returns the path, clean and relative.
    #[must_use]
    pub fn path(&self) -> &'a [u8] {
        self.tree.text(self.record.path)
    }
    /// Returns what it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::from_u8(self.record.kind).unwrap_or(Kind::File)
    }
    /// Returns the 12 permission bits.
    #[must_use]
    pub fn mode(&self) -> u16 {
        self.record.mode
    }
    /// Returns the owner.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.record.uid
    }
    /// Returns the group.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.record.gid
    }
    /// Returns the modification time: seconds since 1970, nanoseconds.
    #[must_use]
    pub fn mtime(&self) -> (i64, u32) {
        (self.record.mtime, self.record.mtime_ns)
    }
    /// Returns a regular file's length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.record.size
    }
    /// Returns the link's target.
    #[must_use]
    pub fn link(&self) -> &'a [u8] {
        self.tree.text(self.record.link)
    }
    /// Returns the device number, major and minor.
    #[must_use]
    pub fn device(&self) -> (u32, u32) {
        (self.record.major, self.record.minor)
    }
    /// Returns the hard-link group, 0 for none.
    #[must_use]
    pub fn group(&self) -> u32 {
        self.record.group
    }
    /// Returns true when lower layers' entries under this directory are hidden.
    #[must_use]
    pub fn opaque(&self) -> bool {
        self.record.flags & FLAG_OPAQUE != 0
    }
    /// Returns where the file's bytes are, `None` when there are none.
    #[must_use]
    pub fn content(&self) -> Option<Content> {
        let pack = self.tree.packs.get(self.record.pack as usize)?;
        Some(Content {
            pack: *pack,
            offset: self.record.offset,
            digest: Digest::from_bytes(self.record.digest),
        })
    }
    /// Returns the index of the file's pack in [`Tree::packs`] and the offset there.
    #[must_use]
    pub fn place(&self) -> Option<(usize, u64)> {
        (self.record.pack != NO_PACK).then_some((self.record.pack as usize, self.record.offset))
    }
    /// Returns BLAKE3 of the content; zeros when the file is empty.
    #[must_use]
    pub fn content_digest(&self) -> &'a [u8; 32] {
        &self.record.digest
    }
    /// Returns the data runs of a sparse file.
    #[must_use]
    pub fn extents(&self) -> Vec<Extent> {
        let text = self.tree.text(self.record.extents);
        text.chunks_exact(size_of::<Extent>())
            .map(bytemuck::pod_read_unaligned)
            .collect()
    }
    /// Returns the encoded extended attributes: equal bytes mean equal attributes.
    #[must_use]
    pub fn xattr_bytes(&self) -> &'a [u8] {
        self.tree.text(self.record.xattrs)
    }
    /// Returns the extended attributes, sorted by name.
    pub fn xattrs(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let mut rest = self.xattr_bytes();
        std::iter::from_fn(move || {
            let (name, tail) = split_framed(rest)?;
            let (value, tail) = split_framed(tail)?;
            rest = tail;
            Some((name, value))
        })
    }
    /// Returns an owned copy.
    #[must_use]
    pub fn to_entry(&self) -> Entry {
        Entry {
            path: TreePath::from_clean(self.path()),
            kind: self.kind(),
            mode: self.mode(),
            uid: self.uid(),
            gid: self.gid(),
            mtime: self.record.mtime,
            mtime_ns: self.record.mtime_ns,
            size: self.size(),
            content: self.content(),
            extents: self.extents(),
            link: self.link().to_vec(),
            xattrs: self
                .xattrs()
                .map(|(name, value)| (name.to_vec(), value.to_vec()))
                .collect(),
            device: self.device(),
            group: self.group(),
            opaque: self.opaque(),
        }
    }
}

fn split_framed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_at_checked(4)?;
    rest.split_at_checked(u32::from_le_bytes(len.try_into().ok()?) as usize)
}

/// Collects entries and writes them as a tree object.
#[derive(Default)]
pub struct TreeWriter {
    packs: Vec<Digest>,
    records: Vec<Record>,
    heap: Vec<u8>,
    sorted: bool,
}

impl TreeWriter {
    /// Returns a writer for entries in any order.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sorted: true,
            ..Self::default()
        }
    }

    /// Returns the number of entries so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Returns true when nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn pack_index(&mut self, pack: Digest) -> u32 {
        // A flattened image has a few dozen packs at most, and runs of entries share one.
        let found = self.packs.iter().rposition(|known| *known == pack);
        let index = found.unwrap_or_else(|| {
            self.packs.push(pack);
            self.packs.len() - 1
        });
        u32::try_from(index).unwrap_or(NO_PACK)
    }

    fn store(&mut self, bytes: &[u8]) -> Result<Span, TreeError> {
        let span = Span {
            offset: u32::try_from(self.heap.len()).map_err(|_| TreeError::TooLarge)?,
            len: u32::try_from(bytes.len()).map_err(|_| TreeError::TooLarge)?,
        };
        self.heap.extend_from_slice(bytes);
        Ok(span)
    }

    fn push(&mut self, record: Record) -> Result<(), TreeError> {
        if self.records.len() >= ENTRIES_MAX {
            return Err(TreeError::TooLarge);
        }
        let text = |span: Span| &self.heap[span.offset as usize..][..span.len as usize];
        if let Some(last) = self.records.last() {
            self.sorted &= path::compare(text(last.path), text(record.path)).is_lt();
        }
        self.records.push(record);
        Ok(())
    }

    /// Adds an entry. Of several with one path, the last added stays; what is no directory takes
    /// with it what was added below it before.
    ///
    /// # Errors
    /// [`TreeError::TooLarge`].
    pub fn add(&mut self, entry: &Entry) -> Result<(), TreeError> {
        let mut xattrs = entry.xattrs.clone();
        xattrs.sort();
        let mut encoded = Vec::new();
        for bytes in xattrs.iter().flat_map(|(name, value)| [name, value]) {
            let len = u32::try_from(bytes.len()).map_err(|_| TreeError::TooLarge)?;
            encoded.extend(len.to_le_bytes());
            encoded.extend(bytes);
        }
        let record = Record {
            digest: entry
                .content
                .as_ref()
                .map_or([0; 32], |content| *content.digest.as_bytes()),
            size: entry.size,
            offset: entry.content.as_ref().map_or(0, |content| content.offset),
            mtime: entry.mtime,
            mtime_ns: entry.mtime_ns,
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode,
            kind: entry.kind as u8,
            flags: if entry.opaque { FLAG_OPAQUE } else { 0 },
            path: self.store(entry.path.as_bytes())?,
            link: self.store(&entry.link)?,
            xattrs: self.store(&encoded)?,
            extents: self.store(bytemuck::cast_slice(&entry.extents))?,
            pack: entry
                .content
                .as_ref()
                .map_or(NO_PACK, |content| self.pack_index(content.pack)),
            major: entry.device.0,
            minor: entry.device.1,
            group: entry.group,
            reserved: [0; 2],
        };
        self.push(record)
    }

    /// Copies an entry of another tree, with another hard-link group: the fast way, for merges.
    ///
    /// # Errors
    /// [`TreeError::TooLarge`].
    pub fn copy(&mut self, entry: &EntryRef<'_>, group: u32) -> Result<(), TreeError> {
        self.copy_as(entry, entry.path(), group)
    }

    /// Copies an entry to another path.
    ///
    /// # Errors
    /// [`TreeError::TooLarge`].
    pub fn copy_as(
        &mut self,
        entry: &EntryRef<'_>,
        path: &[u8],
        group: u32,
    ) -> Result<(), TreeError> {
        let mut record = *entry.record;
        record.path = self.store(path)?;
        if record.link.len + record.xattrs.len + record.extents.len > 0 {
            record.link = self.store(entry.link())?;
            record.xattrs = self.store(entry.xattr_bytes())?;
            record.extents = self.store(entry.tree.text(entry.record.extents))?;
        } else {
            let empty = Span { offset: 0, len: 0 };
            (record.link, record.xattrs, record.extents) = (empty, empty, empty);
        }
        if record.pack != NO_PACK {
            record.pack = self.pack_index(entry.tree.packs[record.pack as usize]);
        }
        record.group = group;
        record.flags = 0;
        self.push(record)
    }

    /// Adds another name for the entry added `index`-th: one file, one group.
    ///
    /// # Errors
    /// [`TreeError::TooLarge`].
    pub fn link(&mut self, index: usize, path: &[u8]) -> Result<(), TreeError> {
        let group = u32::try_from(index + 1).map_err(|_| TreeError::TooLarge)?;
        let target = &mut self.records[index];
        if target.group == 0 {
            target.group = group;
        }
        let mut record = *target;
        record.path = self.store(path)?;
        self.push(record)
    }

    /// Returns the kind of the entry added `index`-th.
    #[must_use]
    pub fn kind(&self, index: usize) -> Option<Kind> {
        self.records
            .get(index)
            .and_then(|record| Kind::from_u8(record.kind))
    }

    /// Gives a pack its name, now that it has one.
    pub fn rename_pack(&mut self, placeholder: &Digest, name: Digest) {
        for pack in self.packs.iter_mut().filter(|pack| *pack == placeholder) {
            *pack = name;
        }
    }

    /// Marks the directories at these paths opaque. Where there is none, an entry of `marker`'s
    /// kind takes its place.
    ///
    /// # Errors
    /// [`TreeError::TooLarge`].
    pub fn hide_below(&mut self, paths: &[TreePath], marker: &Entry) -> Result<(), TreeError> {
        if paths.is_empty() {
            return Ok(());
        }
        self.sort();
        let mut missing = Vec::new();
        for wanted in paths {
            let heap = &self.heap;
            let at = self.records.binary_search_by(|record| {
                path::compare(text(heap, record.path), wanted.as_bytes())
            });
            match at {
                Ok(at) if self.records[at].kind == Kind::Directory as u8 => {
                    self.records[at].flags |= FLAG_OPAQUE;
                }
                // A file replaces what lower layers have here by itself.
                Ok(_) => {}
                Err(_) => missing.push(wanted),
            }
        }
        for path in missing {
            self.add(&Entry {
                path: path.clone(),
                ..marker.clone()
            })?;
        }
        Ok(())
    }

    /// Sorts, and plays the entries in the order they were added, as extraction would: of each
    /// path the last stays; what is no directory takes with it what was below it, in lower
    /// layers too should a directory follow.
    fn sort(&mut self) {
        if self.sorted {
            return;
        }
        let heap = &self.heap;
        let path = |at: usize| text(heap, self.records[at].path);
        let mut order: Vec<usize> = (0..self.records.len()).collect();
        order.sort_unstable_by(|left, right| {
            path::compare(path(*left), path(*right)).then(left.cmp(right))
        });
        let replaces = |at: &usize| {
            let kind = self.records[*at].kind;
            kind != Kind::Directory as u8 && kind != Kind::Whiteout as u8
        };
        let mut kept: Vec<Record> = Vec::with_capacity(order.len());
        // What is no directory above the path at hand, and since when.
        let mut above: Vec<(&[u8], usize)> = Vec::new();
        for versions in order.chunk_by(|left, right| path(*left) == path(*right)) {
            let here = path(versions[0]);
            while above
                .pop_if(|(top, _)| !path::is_under(here, top))
                .is_some()
            {}
            let since = above.last().map_or(0, |(_, since)| *since);
            let versions = &versions[versions.partition_point(|at| *at < since)..];
            let Some(last) = versions.last() else {
                continue;
            };
            let mut record = self.records[*last];
            if let Some(replaced) = versions.iter().rfind(|at| replaces(at)) {
                above.push((here, since.max(*replaced)));
                if record.kind == Kind::Directory as u8 {
                    record.flags |= FLAG_OPAQUE;
                }
            }
            kept.push(record);
        }
        self.records = kept;
        self.sorted = true;
    }

    /// Numbers groups in path order from 1; a group of one is none.
    fn number_groups(&mut self) {
        let mut counts: HashMap<u32, (u32, u32)> = HashMap::new();
        for record in self.records.iter().filter(|record| record.group != 0) {
            counts.entry(record.group).or_default().0 += 1;
        }
        if counts.is_empty() {
            return;
        }
        let mut next = 0;
        for record in self.records.iter_mut().filter(|record| record.group != 0) {
            let (count, number) = counts.entry(record.group).or_default();
            record.group = match *count {
                0 | 1 => 0,
                _ => {
                    if *number == 0 {
                        next += 1;
                        *number = next;
                    }
                    *number
                }
            };
        }
    }

    /// Sorts, keeps the last of each path, and stores the tree. Returns its name and size.
    ///
    /// # Errors
    /// When the object cannot be written.
    pub fn finish(mut self, cache: &Cache) -> Result<(Digest, u64), TreeError> {
        self.sort();
        self.number_groups();
        let mut header = [0; HEADER_BYTES];
        header[..16].copy_from_slice(MAGIC);
        for (at, count) in [
            (16, self.packs.len()),
            (24, self.records.len()),
            (32, self.heap.len()),
        ] {
            header[at..at + 8].copy_from_slice(&(count as u64).to_le_bytes());
        }
        let mut object = cache.object_writer()?;
        let packs: Vec<u8> = self
            .packs
            .iter()
            .flat_map(|pack| *pack.as_bytes())
            .collect();
        for part in [
            &header[..],
            &packs,
            bytemuck::cast_slice(&self.records),
            &self.heap,
        ] {
            object
                .write_all(part)
                .map_err(CacheError::io("write", cache.root()))?;
        }
        let len = object.len();
        Ok((object.commit()?, len))
    }
}

fn text(heap: &[u8], span: Span) -> &[u8] {
    &heap[span.offset as usize..][..span.len as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_it_is_given_sorted_and_last() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let mut writer = TreeWriter::new();
        let path = |text: &str| TreePath::parse(text.as_bytes()).unwrap();
        let mut file = Entry::new(path("b/file"), Kind::File, 0o4755);
        file.size = 10;
        file.content = Some(Content {
            pack: Digest::of(b"p"),
            offset: 512,
            digest: Digest::of(b"c"),
        });
        file.extents = vec![Extent {
            file_offset: 1,
            pack_offset: 2,
            len: 3,
        }];
        file.xattrs = vec![
            (b"user.b".to_vec(), vec![0, 1]),
            (b"user.a".to_vec(), vec![]),
        ];
        file.group = 9;
        writer.add(&file).unwrap();
        let mut other = file.clone();
        other.path = path("c");
        writer.add(&other).unwrap();
        file.group = 1;
        let mut link = Entry::new(path("a"), Kind::Symlink, 0o777);
        writer.add(&link).unwrap();
        link.link = b"/absolute/../x".to_vec();
        writer.add(&link).unwrap();
        writer
            .add(&Entry::new(path("b"), Kind::Directory, 0o755))
            .unwrap();
        let (digest, _) = writer.finish(&cache).unwrap();
        let tree = Tree::open(&cache, &digest).unwrap();
        assert_eq!(tree.len(), 4);
        assert_eq!(tree.get(0).to_entry(), link);
        file.xattrs.sort();
        assert_eq!(tree.find(b"b/file").unwrap().to_entry(), file);
        assert!(tree.find(b"b/fil").is_none());

        let mut copy = TreeWriter::new();
        for entry in tree.iter() {
            copy.copy(&entry, entry.group()).unwrap();
        }
        let copied = Tree::open(&cache, &copy.finish(&cache).unwrap().0).unwrap();
        assert!(
            copied
                .iter()
                .map(|e| e.to_entry())
                .eq(tree.iter().map(|e| e.to_entry()))
        );
    }
}
