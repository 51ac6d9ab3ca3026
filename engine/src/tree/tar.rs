//! A streaming tar parser that knows where every member's bytes are.
//!
//! Enters: uncompressed bytes, in pieces of any size. Leaves: one [`Member`] after the other, with
//! the offset of its data in the stream. Formats: POSIX.1-1988 ustar, POSIX.1-2001 pax (with
//! `SCHILY.xattr`, `LIBARCHIVE.xattr` and GNU sparse 0.0, 0.1, 1.0), GNU tar (long names, base-256
//! numbers, old sparse) and v7. Paths and links leave as written; who indexes them checks them.

use std::collections::BTreeMap;

use kiln_cache::Digest;

use super::Extent;
use super::tar_numbers::{decimal, number, pax_time, unbase64};

/// One tar block, in bytes.
pub const BLOCK: usize = 512;
/// The largest pax header or GNU long name, in bytes.
pub const META_MAX_BYTES: u64 = 4 << 20;
/// The most runs of data in one sparse file.
pub const EXTENTS_MAX: usize = 1 << 16;
/// The largest sparse file, holes included: its holes are hashed.
pub const SPARSE_MAX_BYTES: u64 = 16 << 30;
/// The largest file.
pub const FILE_MAX_BYTES: u64 = 1 << 42;

/// Extended attributes, name and value.
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberKind {
    /// A regular file.
    File,
    /// A hard link to an earlier member.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// One member, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Offset of its (last) header, in bytes.
    pub header_offset: u64,
    /// Path, as written.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
    /// Permission bits (12).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970.
    pub mtime: i64,
    /// Its nanoseconds.
    pub mtime_ns: u32,
    /// Length of a file, holes included, in bytes.
    pub size: u64,
    /// Link target, as written.
    pub link: Vec<u8>,
    /// Device number, major and minor.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Offset of a file's data in the stream.
    pub offset: u64,
    /// Data runs of a sparse file, `pack_offset` in the stream.
    pub extents: Vec<Extent>,
    /// BLAKE3 of a file's content.
    pub digest: Digest,
}

/// Why bytes are not a tar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tar: byte {offset}: {reason}")]
pub struct TarError {
    /// Where, in the uncompressed stream.
    pub offset: u64,
    /// What is wrong there.
    pub reason: String,
}

/// Whoever takes members; its error ends the parse.
pub trait Sink {
    /// Takes one member.
    ///
    /// # Errors
    /// The reason it cannot be taken.
    fn member(&mut self, member: Member) -> Result<(), String>;
}

impl<F: FnMut(Member) -> Result<(), String>> Sink for F {
    fn member(&mut self, member: Member) -> Result<(), String> {
        self(member)
    }
}

enum State {
    /// Collecting a header block.
    Header,
    /// Collecting an extension header's data.
    Meta { kind: u8, left: u64 },
    /// Collecting an old GNU sparse extension block.
    SparseBlock,
    /// Reading the map that precedes a pax 1.0 sparse file's data.
    SparseMap { left: u64 },
    /// Passing over a file's data.
    Data { left: u64 },
    /// Passing over what an ignored member holds.
    Skip { left: u64 },
    /// Passing over what fills a file's last block.
    Padding { left: u64 },
    /// After the end marker: whatever follows is not looked at.
    End,
}

/// The parser. Feed it everything, then [`finish`](Self::finish).
pub struct Parser {
    state: State,
    offset: u64,
    header_offset: u64,
    block: [u8; BLOCK],
    filled: usize,
    zero_blocks: u32,
    meta: Vec<u8>,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    global: BTreeMap<Vec<u8>, Vec<u8>>,
    local: BTreeMap<Vec<u8>, Vec<u8>>,
    sparse_pairs: Vec<u64>,
    current: Option<Current>,
}

/// A member whose data is passing.
struct Current {
    member: Member,
    /// Bytes of data in the archive, less than the size when sparse.
    stored: u64,
    hasher: blake3::Hasher,
    /// Index into the extents and how much of that extent was hashed.
    extent: (usize, u64),
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// Returns a parser at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Header,
            offset: 0,
            header_offset: 0,
            block: [0; BLOCK],
            filled: 0,
            zero_blocks: 0,
            meta: Vec::new(),
            long_path: None,
            long_link: None,
            global: BTreeMap::new(),
            local: BTreeMap::new(),
            sparse_pairs: Vec::new(),
            current: None,
        }
    }

    fn error(&self, reason: impl Into<String>) -> TarError {
        TarError {
            offset: self.header_offset,
            reason: reason.into(),
        }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When they are no tar, or the sink refuses a member.
    pub fn feed(&mut self, mut bytes: &[u8], sink: &mut dyn Sink) -> Result<(), TarError> {
        while !bytes.is_empty() {
            let taken = match self.state {
                State::Header | State::SparseBlock => self.fill_block(bytes, sink)?,
                State::Meta { kind, left } => self.take_meta(kind, left, bytes)?,
                State::SparseMap { left } => self.take_sparse_map(left, bytes, sink)?,
                State::Data { left } => self.take_data(left, bytes, sink)?,
                State::Skip { left } => {
                    let taken = clamp(left, bytes.len());
                    let left = left - taken as u64;
                    self.state = if left == 0 {
                        State::Header
                    } else {
                        State::Skip { left }
                    };
                    taken
                }
                State::Padding { left } => {
                    let taken = clamp(left, bytes.len());
                    let left = left - taken as u64;
                    self.state = match left {
                        0 => State::Header,
                        left => State::Padding { left },
                    };
                    taken
                }
                State::End => bytes.len(),
            };
            self.offset += taken as u64;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Says that the stream has ended.
    ///
    /// # Errors
    /// When it ended inside a member.
    pub fn finish(&self) -> Result<(), TarError> {
        // A missing end marker is common and harmless; half a member is not.
        let whole = match self.state {
            State::Header => self.filled == 0 && self.local.is_empty(),
            // Archives whose writer was not closed lack the last padding; umoci makes such.
            State::End | State::Padding { .. } => true,
            _ => false,
        };
        if whole {
            return Ok(());
        }
        Err(TarError {
            offset: self.offset,
            reason: "truncated: the archive ends inside a member".into(),
        })
    }

    fn fill_block(&mut self, bytes: &[u8], sink: &mut dyn Sink) -> Result<usize, TarError> {
        if self.filled == 0 {
            self.header_offset = self.offset;
        }
        let taken = (BLOCK - self.filled).min(bytes.len());
        self.block[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
        self.filled += taken;
        if self.filled == BLOCK {
            self.filled = 0;
            let after = self.offset + taken as u64;
            if matches!(self.state, State::SparseBlock) {
                self.sparse_block(after, sink)?;
            } else {
                self.header(after, sink)?;
            }
        }
        Ok(taken)
    }

    /// Looks at a header block; the data begins at `data`.
    fn header(&mut self, data: u64, sink: &mut dyn Sink) -> Result<(), TarError> {
        if self.block.iter().all(|byte| *byte == 0) {
            self.zero_blocks += 1;
            if self.zero_blocks == 2 {
                self.state = State::End;
            }
            return Ok(());
        }
        self.zero_blocks = 0;
        self.checksum()?;
        let kind = self.block[156];
        let size = self.field(124, 12, "size")?;
        match kind {
            b'x' | b'g' | b'L' | b'K' | b'X' => {
                if size > META_MAX_BYTES {
                    return Err(self.error(format!("an extension header of {size} bytes")));
                }
                self.meta.clear();
                self.state = State::Meta {
                    kind,
                    left: round_up(size),
                };
                // What counts is `size`; the padding is cut off at the end.
                self.meta.reserve(size as usize);
                self.sparse_pairs = vec![size];
                if size == 0 {
                    self.state = State::Header;
                }
                Ok(())
            }
            // Volume labels and the like describe the archive, not a file.
            b'V' | b'I' => {
                self.state = State::Skip {
                    left: round_up(size),
                };
                if size == 0 {
                    self.state = State::Header;
                }
                Ok(())
            }
            _ => self.member(kind, size, data, sink),
        }
    }

    fn checksum(&self) -> Result<(), TarError> {
        let stored = self.field(148, 8, "checksum")?;
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (at, byte) in self.block.iter().enumerate() {
            let byte = if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if i64::try_from(stored).is_ok_and(|stored| stored == unsigned || stored == signed) {
            return Ok(());
        }
        Err(self.error("header checksum does not match: damaged, or not a tar archive"))
    }

    fn field(&self, at: usize, len: usize, name: &str) -> Result<u64, TarError> {
        let value = number(&self.block[at..at + len]);
        value
            .and_then(|value| u64::try_from(value).ok())
            .ok_or_else(|| self.error(format!("header field \"{name}\" is not a number")))
    }

    fn text(&self, at: usize, len: usize) -> &[u8] {
        let field = &self.block[at..at + len];
        &field[..field.iter().position(|byte| *byte == 0).unwrap_or(len)]
    }

    fn record(&self, key: &str) -> Option<&[u8]> {
        let key = key.as_bytes();
        // An empty value takes a global record back.
        let found = self.local.get(key).or_else(|| self.global.get(key))?;
        (!found.is_empty()).then_some(found.as_slice())
    }

    fn record_number(&self, key: &str) -> Result<Option<u64>, TarError> {
        let Some(text) = self.record(key) else {
            return Ok(None);
        };
        decimal(text)
            .map(Some)
            .ok_or_else(|| self.error(format!("pax record \"{key}\" is not a number")))
    }

    /// Puts a member together from its header and the extension headers before it.
    fn member(
        &mut self,
        kind: u8,
        size: u64,
        data: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), TarError> {
        let magic = &self.block[257..265];
        let mut path = self.text(0, 100).to_vec();
        if magic.starts_with(b"ustar\0") && !self.text(345, 155).is_empty() {
            path = [self.text(345, 155), b"/", &path].concat();
        }
        let mut member_kind = match kind {
            b'0' | 0 | b'7' | b'S' => MemberKind::File,
            b'1' => MemberKind::HardLink,
            b'2' => MemberKind::Symlink,
            b'3' => MemberKind::CharDevice,
            b'4' => MemberKind::BlockDevice,
            b'5' | b'D' => MemberKind::Directory,
            b'6' => MemberKind::Fifo,
            other => {
                return Err(self.error(format!(
                    "member type \"{}\" is not known",
                    other.escape_ascii()
                )));
            }
        };
        let mut link = self.text(157, 100).to_vec();
        let small = |parser: &Self, name: &str, at: usize, record: &str| -> Result<u32, TarError> {
            let value = match parser.record_number(record)? {
                Some(value) => value,
                None => parser.field(at, 8, name)?,
            };
            u32::try_from(value)
                .map_err(|_| parser.error(format!("{name} {value} does not fit 32 bits")))
        };
        let (uid, gid) = (
            small(self, "uid", 108, "uid")?,
            small(self, "gid", 116, "gid")?,
        );
        let device = match member_kind {
            MemberKind::CharDevice | MemberKind::BlockDevice => (
                small(self, "major", 329, "SCHILY.devmajor")?,
                small(self, "minor", 337, "SCHILY.devminor")?,
            ),
            _ => (0, 0),
        };
        let mode = (self.field(100, 8, "mode")? & 0o7777) as u16;
        let (mtime, mtime_ns) = match self.record("mtime") {
            Some(text) => {
                pax_time(text).ok_or_else(|| self.error("pax record \"mtime\" is not a time"))?
            }
            None => (
                number(&self.block[136..148])
                    .and_then(|value| i64::try_from(value).ok())
                    .ok_or_else(|| self.error("header field \"mtime\" is not a number"))?,
                0,
            ),
        };
        if let Some(long) = self.long_path.take() {
            path = long;
        }
        if let Some(long) = self.record("path") {
            path = long.to_vec();
        }
        if let Some(long) = self.long_link.take() {
            link = long;
        }
        if let Some(long) = self.record("linkpath") {
            link = long.to_vec();
        }
        if member_kind == MemberKind::File && kind == 0 && path.ends_with(b"/") {
            member_kind = MemberKind::Directory;
        }
        let mut stored = self.record_number("size")?.unwrap_or(size);
        if member_kind != MemberKind::File {
            // Some archivers give links the size of their target, without any data.
            let has_data = member_kind == MemberKind::Directory;
            stored = if has_data { stored } else { 0 };
        }
        if stored > FILE_MAX_BYTES {
            return Err(self.error(format!("a file of {stored} bytes")));
        }
        let xattrs = self.xattrs()?;
        let member = Member {
            header_offset: self.header_offset,
            path,
            kind: member_kind,
            mode,
            uid,
            gid,
            mtime,
            mtime_ns,
            size: stored,
            link,
            device,
            xattrs,
            offset: data,
            extents: Vec::new(),
            digest: Digest::of(b""),
        };
        let current = Current {
            member,
            stored,
            hasher: blake3::Hasher::new(),
            extent: (0, 0),
        };
        self.begin(current, kind, data, sink)
    }

    /// Decides how a member's data passes.
    fn begin(
        &mut self,
        mut current: Current,
        kind: u8,
        data: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), TarError> {
        let stored = current.stored;
        if current.member.kind != MemberKind::File {
            current.member.size = 0;
            self.current = Some(current);
            self.complete(sink)?;
            self.state = if stored == 0 {
                State::Header
            } else {
                State::Skip {
                    left: round_up(stored),
                }
            };
            return Ok(());
        }
        if kind == b'S' {
            self.sparse_pairs.clear();
            current.member.size = self.field(483, 12, "realsize")?;
            let more = self.old_sparse_pairs(386, 4)?;
            self.current = Some(current);
            if self.block[482] != 0 && more {
                self.state = State::SparseBlock;
                return Ok(());
            }
            return self.begin_sparse(data, sink);
        }
        if let Some(name) = self.record("GNU.sparse.name") {
            current.member.path = name.to_vec();
        }
        if let Some(size) = self
            .record_number("GNU.sparse.realsize")?
            .or(self.record_number("GNU.sparse.size")?)
        {
            current.member.size = size;
        }
        let version_1 = self.record("GNU.sparse.major") == Some(b"1");
        let map = self.record("GNU.sparse.map").map(<[u8]>::to_vec);
        self.current = Some(current);
        if version_1 {
            self.meta.clear();
            self.sparse_pairs.clear();
            self.state = State::SparseMap { left: stored };
            return Ok(());
        }
        if let Some(map) = map {
            let pairs: Option<Vec<u64>> = map.split(|byte| *byte == b',').map(decimal).collect();
            self.sparse_pairs =
                pairs.ok_or_else(|| self.error("GNU.sparse.map is not a list of numbers"))?;
            return self.begin_sparse(data, sink);
        }
        self.state = State::Data { left: stored };
        if stored == 0 {
            self.state = State::Header;
            self.complete(sink)?;
        }
        Ok(())
    }

    /// Reads `count` pairs of an old GNU sparse map; false when the list ended early.
    fn old_sparse_pairs(&mut self, at: usize, count: usize) -> Result<bool, TarError> {
        for pair in 0..count {
            let at = at + pair * 24;
            if self.block[at] == 0 && self.block[at + 12] == 0 {
                return Ok(false);
            }
            let (offset, len) = (
                self.field(at, 12, "sparse offset")?,
                self.field(at + 12, 12, "sparse length")?,
            );
            self.sparse_pairs.extend([offset, len]);
            if self.sparse_pairs.len() > 2 * EXTENTS_MAX {
                return Err(self.error("a sparse file in too many pieces"));
            }
        }
        Ok(true)
    }

    fn sparse_block(&mut self, data: u64, sink: &mut dyn Sink) -> Result<(), TarError> {
        let more = self.old_sparse_pairs(0, 21)?;
        if self.block[504] != 0 && more {
            return Ok(());
        }
        self.begin_sparse(data, sink)
    }

    /// Turns the collected pairs into extents; the data begins at `data`.
    fn begin_sparse(&mut self, data: u64, sink: &mut dyn Sink) -> Result<(), TarError> {
        let Some(mut current) = self.current.take() else {
            return Err(self.error("a sparse map without a file"));
        };
        let size = current.member.size;
        if size > SPARSE_MAX_BYTES {
            return Err(self.error(format!("a sparse file of {size} bytes")));
        }
        let (mut at, mut end) = (data, 0);
        for pair in self.sparse_pairs.chunks_exact(2) {
            let (file_offset, len) = (pair[0], pair[1]);
            let fits =
                file_offset >= end && file_offset.checked_add(len).is_some_and(|end| end <= size);
            if !fits {
                return Err(self.error("a sparse map that does not ascend or exceeds its file"));
            }
            end = file_offset + len;
            if len > 0 {
                current.member.extents.push(Extent {
                    file_offset,
                    pack_offset: at,
                    len,
                });
            }
            at += len;
        }
        if at - data != current.stored {
            return Err(self.error("a sparse map that does not match its data"));
        }
        // Extents of none would read as one run.
        if current.member.extents.is_empty() && size > 0 {
            current.member.extents.push(Extent {
                file_offset: 0,
                pack_offset: data,
                len: 0,
            });
        }
        current.member.offset = data;
        let stored = current.stored;
        self.current = Some(current);
        if stored == 0 {
            self.state = State::Header;
            return self.complete(sink);
        }
        self.state = State::Data { left: stored };
        Ok(())
    }

    /// Reads the map of a pax 1.0 sparse file: decimal lines, padded to a block.
    fn take_sparse_map(
        &mut self,
        left: u64,
        bytes: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<usize, TarError> {
        // One block at a time: the map says itself when it is complete.
        let room = BLOCK - self.meta.len() % BLOCK;
        let taken = clamp(left, bytes.len()).min(room);
        if taken == 0 || self.meta.len() as u64 > META_MAX_BYTES {
            return Err(self.error("a sparse map that does not end"));
        }
        self.meta.extend_from_slice(&bytes[..taken]);
        let left = left - taken as u64;
        self.state = State::SparseMap { left };
        if !self.meta.len().is_multiple_of(BLOCK) {
            return Ok(taken);
        }
        let mut lines = self.meta.split(|byte| *byte == b'\n').map(decimal);
        let bad = "a sparse map that is not a list of numbers";
        let count = lines.next().flatten().ok_or_else(|| self.error(bad))?;
        if count > EXTENTS_MAX as u64 {
            return Err(self.error("a sparse file in too many pieces"));
        }
        let wanted = 2 * count as usize;
        // The last piece may be half a number: only a line that was ended counts.
        let ended = self.meta.iter().filter(|byte| **byte == b'\n').count();
        if ended <= wanted {
            return Ok(taken);
        }
        let pairs: Option<Vec<u64>> = lines.take(wanted).collect();
        self.sparse_pairs = pairs.ok_or_else(|| self.error(bad))?;
        if let Some(current) = &mut self.current {
            current.stored = left;
        }
        let data = self.offset + taken as u64;
        self.begin_sparse(data, sink)?;
        Ok(taken)
    }

    fn take_meta(&mut self, kind: u8, left: u64, bytes: &[u8]) -> Result<usize, TarError> {
        let taken = clamp(left, bytes.len());
        self.meta.extend_from_slice(&bytes[..taken]);
        let left = left - taken as u64;
        self.state = State::Meta { kind, left };
        if left > 0 {
            return Ok(taken);
        }
        self.state = State::Header;
        let size = self.sparse_pairs.first().copied().unwrap_or_default();
        self.meta.truncate(clamp(size, self.meta.len()));
        let meta = std::mem::take(&mut self.meta);
        let text = |meta: &[u8]| {
            meta.split(|byte| *byte == 0)
                .next()
                .unwrap_or_default()
                .to_vec()
        };
        match kind {
            b'L' => self.long_path = Some(text(&meta)),
            b'K' => self.long_link = Some(text(&meta)),
            b'g' => {
                let mut global = std::mem::take(&mut self.global);
                self.records(&meta, &mut global)?;
                self.global = global;
            }
            _ => {
                let mut local = BTreeMap::new();
                self.records(&meta, &mut local)?;
                self.local = local;
            }
        }
        Ok(taken)
    }

    /// Parses `LEN KEY=VALUE\n` records.
    fn records(
        &self,
        mut bytes: &[u8],
        into: &mut BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<(), TarError> {
        let bad = || self.error("a malformed pax record");
        let mut pairs = Vec::new();
        while !bytes.is_empty() {
            let space = bytes
                .iter()
                .take(20)
                .position(|byte| *byte == b' ')
                .ok_or_else(bad)?;
            let len = decimal(&bytes[..space]).ok_or_else(bad)?;
            let len = usize::try_from(len)
                .ok()
                .filter(|len| *len > space + 1 && *len <= bytes.len())
                .ok_or_else(bad)?;
            let record = bytes[space + 1..len].strip_suffix(b"\n").ok_or_else(bad)?;
            let equals = record
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or_else(bad)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            if key == b"GNU.sparse.offset" || key == b"GNU.sparse.numbytes" {
                // Sparse 0.0 repeats its keys; as one list they read like a 0.1 map.
                pairs.push(value.to_vec());
            } else {
                into.insert(key.to_vec(), value.to_vec());
            }
            bytes = &bytes[len..];
        }
        if !pairs.is_empty() {
            into.insert(b"GNU.sparse.map".to_vec(), pairs.join(&b','));
        }
        Ok(())
    }

    fn xattrs(&self) -> Result<Xattrs, TarError> {
        let mut found = Vec::new();
        for (key, value) in self
            .global
            .iter()
            .filter(|(key, _)| !self.local.contains_key(*key))
            .chain(&self.local)
        {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                found.push((name.to_vec(), value.clone()));
            } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                let schily = [b"SCHILY.xattr.", name].concat();
                if !self.local.contains_key(&schily) {
                    let value = unbase64(value)
                        .ok_or_else(|| self.error("a LIBARCHIVE.xattr that is not base64"))?;
                    found.push((name.to_vec(), value));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    fn take_data(
        &mut self,
        left: u64,
        bytes: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<usize, TarError> {
        let taken = clamp(left, bytes.len());
        let left = left - taken as u64;
        self.state = State::Data { left };
        let mut padding = 0;
        if let Some(current) = &mut self.current {
            current.hash(&bytes[..taken]);
            padding = round_up(current.stored) - current.stored;
        }
        if left == 0 {
            self.state = match padding {
                0 => State::Header,
                left => State::Padding { left },
            };
            self.complete(sink)?;
        }
        Ok(taken)
    }

    /// Hands the current member over.
    fn complete(&mut self, sink: &mut dyn Sink) -> Result<(), TarError> {
        self.local.clear();
        if let Some(mut current) = self.current.take() {
            current.hash_hole(current.member.size);
            current.member.digest = Digest::from(current.hasher.finalize());
            let offset = current.member.header_offset;
            sink.member(current.member)
                .map_err(|reason| TarError { offset, reason })?;
        }
        Ok(())
    }
}

impl Current {
    /// Hashes the next bytes of data, and the holes before them.
    fn hash(&mut self, mut bytes: &[u8]) {
        if self.member.extents.is_empty() {
            self.hasher.update(bytes);
            return;
        }
        while !bytes.is_empty() {
            let Some(extent) = self.member.extents.get(self.extent.0).copied() else {
                return;
            };
            if self.extent.1 == 0 {
                self.hash_hole(extent.file_offset);
            }
            let taken = clamp(extent.len - self.extent.1, bytes.len());
            self.hasher.update(&bytes[..taken]);
            self.extent.1 += taken as u64;
            if self.extent.1 == extent.len {
                self.extent = (self.extent.0 + 1, 0);
            }
            bytes = &bytes[taken..];
        }
    }

    /// Hashes zeros up to `end` of a sparse file.
    fn hash_hole(&mut self, end: u64) {
        if self.member.extents.is_empty() {
            return;
        }
        let zeros = [0_u8; 64 << 10];
        while self.hasher.count() < end {
            let len = clamp(end - self.hasher.count(), zeros.len());
            self.hasher.update(&zeros[..len]);
        }
    }
}

fn clamp(left: u64, available: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(available)
}

fn round_up(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64)
}
