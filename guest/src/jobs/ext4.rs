//! A new ext4 file system, empty but for `lost+found`.
//!
//! In: a partition or image, its size, a label. Out: what mke2fs(8) would write with LinuxKit's
//! features. Format: `fs/ext4/ext4.h` and `Documentation/filesystems/ext4/`, the journal
//! `include/linux/jbd2.h`.
//!
//! ```text
//! group 0            │ superblock │ descriptors │ bitmaps │ inodes │ / │ lost+found │ journal │ …
//! groups 1, 3ⁿ 5ⁿ 7ⁿ │ copies of both           │ bitmaps │ inodes │ …
//! other groups       │ bitmaps │ inodes │ …
//! ```
//!
//! Every group has its own bitmaps and inodes. Those of groups that hold nothing are not written
//! but marked so (`uninit_bg`), and the kernel fills them in later: a disk of any size takes the
//! same few writes. There is no `resize_inode`: without one the kernel grows the file system by
//! further descriptor groups (`meta_bg`), and no room has to be kept for that. The superblock is
//! written last, so a crash leaves no file system rather than half of one.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;

use crate::error::{Context, Error, Result};

/// Partitions from this size on have blocks of 4 KiB, smaller ones of 1 KiB.
const LARGE_BYTES: u64 = 64 << 20;
const INODE_BYTES: u64 = 256;
const DESCRIPTOR_BYTES: usize = 64;
/// Inodes that the format uses itself, `lost+found` being the last.
const FIRST_INODE: u32 = 11;
const ROOT_INODE: u32 = 2;
const JOURNAL_INODE: u32 = 8;
/// `JBD2_MIN_JOURNAL_BLOCKS`.
const JOURNAL_BLOCKS_MIN: u64 = 1024;
const JOURNAL_BLOCKS_MAX: u64 = 16384;
/// A last group with less room than this, in blocks, is left out (as mke2fs does).
const LAST_GROUP_MIN: u64 = 50;
const EXTENTS_FLAG: u32 = 0x8_0000;

/// `has_journal ext_attr dir_index`.
const COMPATIBLE: u32 = 0x4 | 0x8 | 0x20;
/// `filetype extent 64bit flex_bg`.
const INCOMPATIBLE: u32 = 0x2 | 0x40 | 0x80 | 0x200;
/// `sparse_super large_file huge_file uninit_bg dir_nlink extra_isize`.
const READ_ONLY: u32 = 0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40;

/// Descriptor flags.
const INODES_UNUSED: u16 = 1;
const BLOCKS_UNUSED: u16 = 2;
const INODES_ZEROED: u16 = 4;

/// What tells one file system from another.
#[derive(Debug)]
pub(super) struct Identity<'a> {
    /// At most sixteen bytes.
    pub(super) label: &'a str,
    pub(super) uuid: [u8; 16],
    /// Seed of directory hashes.
    pub(super) seed: [u8; 16],
    /// Seconds since 1970.
    pub(super) now: u32,
}

/// Where everything is, in blocks.
#[derive(Debug)]
struct Layout {
    block: u64,
    blocks: u64,
    first: u64,
    per_group: u64,
    groups: u64,
    descriptors: u64,
    inodes_per_group: u64,
    inode_blocks: u64,
    journal: u64,
}

/// Writes a file system of at most `size` bytes.
pub(super) fn create(file: &File, size: u64, identity: &Identity<'_>) -> Result<()> {
    if identity.label.len() > 16 {
        return Err(Error::new(format!(
            "label {:?}: more than 16 bytes",
            identity.label
        )));
    }
    let layout = Layout::of(size)?;
    let image = Image {
        file,
        layout: &layout,
    };
    // Whatever was recognised here before is not any more.
    image.zero(0, layout.first.max(1) + 1)?;
    image.group_0(identity)?;
    let last = layout.groups - 1;
    if last > 0 {
        image.write(layout.bitmaps(last), &layout.block_bitmap(last))?;
    }
    let descriptors = layout.descriptors(&identity.uuid);
    for group in (0..layout.groups).filter(|g| has_copy(*g)).rev() {
        let at = layout.start(group);
        image.write(at + 1, &descriptors)?;
        let superblock = layout.superblock(identity, group as u16);
        let offset = if group == 0 { 1024 } else { at * layout.block };
        file.sync_all().context(|| "sync")?;
        file.write_all_at(&superblock, offset).context(|| "write")?;
    }
    file.sync_all().context(|| "sync")
}

/// Groups that have copies of superblock and descriptors (`sparse_super`).
fn has_copy(group: u64) -> bool {
    let is_power = |base: u64| {
        let mut power = base;
        while power < group {
            power *= base;
        }
        power == group
    };
    group <= 1 || is_power(3) || is_power(5) || is_power(7)
}

impl Layout {
    fn of(size: u64) -> Result<Self> {
        let block = if size >= LARGE_BYTES { 4096 } else { 1024 };
        let (first, per_group) = (u64::from(block == 1024), 8 * block);
        let mut blocks = size / block;
        let inode_ratio = 4 * block;
        loop {
            let groups = blocks.saturating_sub(first).div_ceil(per_group).max(1);
            // Whole blocks of inodes, and whole bytes of bitmap.
            let step = block / INODE_BYTES * 2;
            let wanted = (blocks * block / inode_ratio).div_ceil(groups);
            let inodes_per_group = wanted.next_multiple_of(step).clamp(step, per_group);
            let layout = Self {
                block,
                blocks,
                first,
                per_group,
                groups,
                descriptors: (groups * DESCRIPTOR_BYTES as u64).div_ceil(block),
                inodes_per_group,
                inode_blocks: inodes_per_group * INODE_BYTES / block,
                journal: (blocks / 32)
                    .next_power_of_two()
                    .clamp(JOURNAL_BLOCKS_MIN, JOURNAL_BLOCKS_MAX)
                    .min(per_group / 2),
            };
            let last = groups - 1;
            if last > 0 && layout.length(last) < layout.overhead(last) + LAST_GROUP_MIN {
                blocks = layout.start(last);
                continue;
            }
            if layout.length(0) < layout.used(0) + LAST_GROUP_MIN
                || layout.inodes_per_group < u64::from(FIRST_INODE)
                || layout.inodes_per_group * groups > u64::from(u32::MAX)
            {
                return Err(Error::new(format!("ext4 does not fit {size} bytes")));
            }
            return Ok(layout);
        }
    }

    /// First block of a group.
    fn start(&self, group: u64) -> u64 {
        self.first + group * self.per_group
    }

    /// Blocks of a group.
    fn length(&self, group: u64) -> u64 {
        self.per_group
            .min(self.blocks.saturating_sub(self.start(group)))
    }

    /// A group's block bitmap; the inode bitmap and inodes are behind it.
    fn bitmaps(&self, group: u64) -> u64 {
        let copies = if has_copy(group) {
            1 + self.descriptors
        } else {
            0
        };
        self.start(group) + copies
    }

    /// Blocks of a group that hold the file system itself.
    fn overhead(&self, group: u64) -> u64 {
        self.bitmaps(group) - self.start(group) + 2 + self.inode_blocks
    }

    /// Blocks of a group in use: they are its first ones.
    fn used(&self, group: u64) -> u64 {
        // The two directories have a block each.
        let data = if group == 0 { 2 + self.journal } else { 0 };
        self.overhead(group) + data
    }

    fn free_blocks(&self) -> u64 {
        (0..self.groups)
            .map(|group| self.length(group) - self.used(group))
            .sum()
    }

    fn block_bitmap(&self, group: u64) -> Vec<u8> {
        // Blocks behind the end of the last group count as used.
        bitmap(
            self.block,
            &[0..self.used(group), self.length(group)..self.per_group],
        )
    }

    fn descriptors(&self, uuid: &[u8; 16]) -> Vec<u8> {
        let mut all = Vec::new();
        for group in 0..self.groups {
            let mut bytes = Fields(vec![0; DESCRIPTOR_BYTES]);
            let bitmaps = self.bitmaps(group);
            for (at, block) in [(0, bitmaps), (4, bitmaps + 1), (8, bitmaps + 2)] {
                bytes.u32(at, block as u32);
                bytes.u32(at + 32, (block >> 32) as u32);
            }
            let used = if group == 0 {
                u64::from(FIRST_INODE)
            } else {
                0
            };
            let free_inodes = (self.inodes_per_group - used) as u16;
            bytes.u16(12, (self.length(group) - self.used(group)) as u16);
            bytes.u16(14, free_inodes);
            bytes.u16(16, if group == 0 { 2 } else { 0 });
            bytes.u16(
                18,
                match group {
                    0 => INODES_ZEROED,
                    // The last group's bitmap has an end, which the kernel does not make up.
                    _ if group + 1 == self.groups => INODES_UNUSED,
                    _ => INODES_UNUSED | BLOCKS_UNUSED,
                },
            );
            bytes.u16(28, free_inodes);
            let sum = crc16(0xffff, uuid);
            let sum = crc16(sum, &(group as u32).to_le_bytes());
            let sum = crc16(crc16(sum, &bytes.0[..30]), &bytes.0[32..]);
            bytes.u16(30, sum);
            all.extend_from_slice(&bytes.0);
        }
        all
    }

    fn superblock(&self, identity: &Identity<'_>, group: u16) -> Vec<u8> {
        let mut bytes = Fields(vec![0; 1024]);
        let inodes = self.inodes_per_group * self.groups;
        let (free, reserved) = (self.free_blocks(), self.blocks / 20);
        bytes.u32(0, inodes as u32);
        for (low, high, value) in [(4, 336, self.blocks), (8, 340, reserved), (12, 344, free)] {
            bytes.u32(low, value as u32);
            bytes.u32(high, (value >> 32) as u32);
        }
        bytes.u32(16, inodes as u32 - FIRST_INODE);
        bytes.u32(20, self.first as u32);
        // Blocks and clusters, as powers of two of 1 KiB.
        bytes.u32(24, self.block.trailing_zeros() - 10);
        bytes.u32(28, self.block.trailing_zeros() - 10);
        bytes.u32(32, self.per_group as u32);
        bytes.u32(36, self.per_group as u32);
        bytes.u32(40, self.inodes_per_group as u32);
        for at in [48, 64, 264] {
            bytes.u32(at, identity.now);
        }
        bytes.u16(54, u16::MAX);
        bytes.u16(56, 0xef53);
        // Clean; go on after errors; dynamic revision.
        bytes.u16(58, 1);
        bytes.u16(60, 1);
        bytes.u32(76, 1);
        bytes.u32(84, FIRST_INODE);
        bytes.u16(88, INODE_BYTES as u16);
        bytes.u16(90, group);
        bytes.u32(92, COMPATIBLE);
        bytes.u32(96, INCOMPATIBLE);
        bytes.u32(100, READ_ONLY);
        bytes.put(104, &identity.uuid);
        bytes.put(120, identity.label.as_bytes());
        bytes.u32(224, JOURNAL_INODE);
        bytes.put(236, &identity.seed);
        // Half MD4; the journal's blocks are repeated below.
        bytes.0[252] = 1;
        bytes.0[253] = 1;
        bytes.u16(254, DESCRIPTOR_BYTES as u16);
        // Extended attributes and access lists are on.
        bytes.u32(256, 0xc);
        let journal = self.inode(0o100_600, 1, self.journal_at(), self.journal, identity.now);
        bytes.put(268, &journal[40..100]);
        // Behind them its size, high half first.
        bytes.u32(332, (self.journal * self.block) as u32);
        bytes.u16(348, 32);
        bytes.u16(350, 32);
        // Hashes of signed characters.
        bytes.u32(352, 1);
        // 2⁴ groups to a flexible one.
        bytes.0[372] = 4;
        bytes.0
    }

    fn root_at(&self) -> u64 {
        self.start(0) + self.overhead(0)
    }

    fn journal_at(&self) -> u64 {
        self.root_at() + 2
    }

    /// An inode with one extent.
    fn inode(&self, mode: u16, links: u16, at: u64, length: u64, now: u32) -> Vec<u8> {
        let mut bytes = Fields(vec![0; INODE_BYTES as usize]);
        let size = length * self.block;
        bytes.u16(0, mode);
        bytes.u32(4, size as u32);
        for time in [8, 12, 16, 144] {
            bytes.u32(time, now);
        }
        bytes.u16(26, links);
        bytes.u32(28, (size / 512) as u32);
        bytes.u32(32, EXTENTS_FLAG);
        // One of four extents, in the inode itself.
        bytes.put(40, &[0x0a, 0xf3, 1, 0, 4, 0, 0, 0]);
        bytes.u16(56, length as u16);
        bytes.u16(58, (at >> 32) as u16);
        bytes.u32(60, at as u32);
        bytes.u16(128, 32);
        bytes.0
    }
}

/// A file that a layout is written to.
struct Image<'a> {
    file: &'a File,
    layout: &'a Layout,
}

impl Image<'_> {
    /// Writes the bitmaps, inodes, directories and journal.
    fn group_0(&self, identity: &Identity<'_>) -> Result<()> {
        let layout = self.layout;
        let now = identity.now;
        let bitmaps = layout.bitmaps(0);
        self.write(bitmaps, &layout.block_bitmap(0))?;
        let inodes = [
            0..u64::from(FIRST_INODE),
            layout.inodes_per_group..layout.per_group,
        ];
        self.write(bitmaps + 1, &bitmap(layout.block, &inodes))?;

        self.zero(bitmaps + 2, layout.inode_blocks)?;
        let (root, journal) = (layout.root_at(), layout.journal_at());
        for (number, inode) in [
            (ROOT_INODE, layout.inode(0o040_755, 3, root, 1, now)),
            (
                JOURNAL_INODE,
                layout.inode(0o100_600, 1, journal, layout.journal, now),
            ),
            (FIRST_INODE, layout.inode(0o040_700, 2, root + 1, 1, now)),
        ] {
            let at = (bitmaps + 2) * layout.block + u64::from(number - 1) * INODE_BYTES;
            self.file.write_all_at(&inode, at).context(|| "write")?;
        }
        let names: [(u32, &[u8]); 3] = [
            (ROOT_INODE, b"."),
            (ROOT_INODE, b".."),
            (FIRST_INODE, b"lost+found"),
        ];
        self.write(root, &directory(layout.block, &names))?;
        let names: [(u32, &[u8]); 2] = [(FIRST_INODE, b"."), (ROOT_INODE, b"..")];
        self.write(root + 1, &directory(layout.block, &names))?;

        // An old journal's blocks must never look like this one's.
        self.zero(journal, layout.journal)?;
        let mut head = Fields(vec![0; 1024]);
        let words = [
            (0, 0xc03b_3998),
            // Superblock, version 2.
            (4, 4),
            (12, layout.block as u32),
            (16, layout.journal as u32),
            // The log begins at block 1, its first transaction has number 1.
            (20, 1),
            (24, 1),
            // One user.
            (64, 1),
        ];
        for (at, word) in words {
            head.put(at, &word.to_be_bytes());
        }
        head.put(48, &identity.uuid);
        self.write(journal, &head.0)
    }

    fn write(&self, block: u64, bytes: &[u8]) -> Result<()> {
        let at = block * self.layout.block;
        self.file
            .write_all_at(bytes, at)
            .context(|| format!("write at {at}"))
    }

    /// Zeros blocks, by the device itself where it can.
    fn zero(&self, block: u64, count: u64) -> Result<()> {
        let (at, length) = (block * self.layout.block, count * self.layout.block);
        if rustix::fs::fallocate(self.file, FallocateFlags::ZERO_RANGE, at, length).is_ok() {
            return Ok(());
        }
        let zeros = vec![0; self.layout.block as usize];
        (block..block + count).try_for_each(|block| self.write(block, &zeros))
    }
}

/// A bitmap of one block with ranges of bits set.
fn bitmap(block: u64, ranges: &[std::ops::Range<u64>]) -> Vec<u8> {
    let mut bytes = vec![0; block as usize];
    for bit in ranges.iter().cloned().flatten() {
        bytes[bit as usize / 8] |= 1 << (bit % 8);
    }
    bytes
}

/// A directory block; the last entry reaches to its end.
fn directory(block: u64, names: &[(u32, &[u8])]) -> Vec<u8> {
    let mut bytes = Fields(vec![0; block as usize]);
    let mut at = 0;
    for (index, (inode, name)) in names.iter().enumerate() {
        let length = match index + 1 == names.len() {
            true => block as usize - at,
            false => (8 + name.len()).next_multiple_of(4),
        };
        bytes.u32(at, *inode);
        bytes.u16(at + 4, length as u16);
        // 2: a directory.
        bytes.put(at + 6, &[name.len() as u8, 2]);
        bytes.put(at + 8, name);
        at += length;
    }
    bytes.0
}

/// A structure whose fields are set by offset.
struct Fields(Vec<u8>);

impl Fields {
    // Out of line: inlined, the checks of a hundred fields are most of this file's code.
    #[inline(never)]
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    #[inline(never)]
    fn u16(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_le_bytes());
    }

    #[inline(never)]
    fn u32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }
}

/// CRC-16 of `lib/crc16.c`.
fn crc16(sum: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(sum, |sum, byte| {
        (0..8).fold(sum ^ u16::from(*byte), |sum, _| {
            (sum >> 1) ^ if sum & 1 == 1 { 0xa001 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::superblock::{self, tests::tool};
    use super::*;

    const IDENTITY: Identity<'static> = Identity {
        label: "sixteen bytes ok",
        uuid: *b"\x01\x23\x45\x67\x89\xab\x4c\xde\x8f\x01\x23\x45\x67\x89\xab\xcd",
        seed: *b"0123456789abcdef",
        now: 1_796_000_000,
    };

    /// An image with a file system, over whatever stood there before.
    fn made(directory: &std::path::Path, size: u64, before: Option<u8>) -> String {
        let path = directory.join("image");
        let file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        file.set_len(size).unwrap();
        if let Some(byte) = before {
            file.write_all_at(&vec![byte; size as usize], 0).unwrap();
        }
        create(&file, size, &IDENTITY).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn check(path: &str) -> String {
        tool("e2fsck", "e2fsprogs", &["-fn", path])
    }

    fn facts(path: &str) -> impl Fn(&str) -> String {
        let said = tool("dumpe2fs", "e2fsprogs", &["-h", path]);
        move |name: &str| {
            let line = said
                .lines()
                .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_else(|| panic!("{name} in {said}"))
                .trim()
                .to_owned()
        }
    }

    #[test]
    fn e2fsck_finds_nothing_at_any_size() {
        let directory = tempfile::tempdir().unwrap();
        // Tiny; one group and a bit; around the change of block size; many groups; where 32 bits
        // of sectors end.
        for size in [
            2 << 20,
            3 << 20,
            7 << 20,
            (8 << 20) + 1024,
            (8 << 20) + 40_960,
            9 << 20,
            24 << 20,
            63 << 20,
            (64 << 20) - 512,
            64 << 20,
            (128 << 20) + 4096,
            129 << 20,
            1 << 30,
            (40 << 30) + 12_345,
            3 << 40,
        ] {
            let path = made(directory.path(), size, None);
            let said = check(&path);
            assert!(said.contains("11/"), "{size}: {said}");
        }
    }

    #[test]
    fn what_mke2fs_would_have_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = made(directory.path(), 1 << 30, None);
        let fact = facts(&path);
        assert_eq!(fact("Filesystem volume name"), "sixteen bytes ok");
        assert_eq!(
            fact("Filesystem UUID"),
            "01234567-89ab-4cde-8f01-23456789abcd"
        );
        assert_eq!(fact("Filesystem state"), "clean");
        assert_eq!(fact("Block size"), "4096");
        assert_eq!(fact("Block count"), "262144");
        assert_eq!(fact("Total journal blocks"), "8192");
        assert_eq!(
            fact("Filesystem features"),
            "has_journal ext_attr dir_index filetype extent 64bit flex_bg sparse_super \
             large_file huge_file uninit_bg dir_nlink extra_isize"
        );
        let found = superblock::read(std::path::Path::new(&path)).unwrap();
        assert_eq!((found.kind, &*found.label), ("ext4", "sixteen bytes ok"));
        let names = tool("debugfs", "e2fsprogs", &["-R", "ls -p /", &path]);
        assert!(names.contains("/11/040700/0/0/lost+found/"), "{names}");
        // The copies are whole: the first one repairs a lost superblock.
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[0; 8192], 0).unwrap();
        let command = format!("e2fsck -fy -b 32768 {path}; test $? -le 1");
        tool("sh", "e2fsprogs", &["-c", &command]);
        check(&path);
    }

    #[test]
    fn it_takes_files_and_grows() {
        let directory = tempfile::tempdir().unwrap();
        let path = made(directory.path(), 200 << 20, None);
        let big = directory.path().join("big");
        std::fs::write(&big, vec![5; 150 << 20]).unwrap();
        let write = format!("write {} big", big.display());
        for command in ["mkdir /d", &write] {
            tool("debugfs", "e2fsprogs", &["-w", "-R", command, &path]);
        }
        check(&path);
        tool("resize2fs", "e2fsprogs", &[&path, "3G"]);
        check(&path);
        assert_eq!(facts(&path)("Block count"), "786432");
        let out = directory.path().join("out");
        let dump = format!("dump /big {}", out.display());
        tool("debugfs", "e2fsprogs", &["-R", &dump, &path]);
        assert!(std::fs::read(&out).unwrap() == std::fs::read(&big).unwrap());
    }

    #[test]
    fn nothing_of_what_was_there_matters() {
        let directory = tempfile::tempdir().unwrap();
        for size in [10 << 20, 70 << 20] {
            check(&made(directory.path(), size, Some(0xff)));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let file = tempfile::tempfile().unwrap();
        for size in [0, 1 << 20] {
            assert!(create(&file, size, &IDENTITY).is_err());
        }
        let identity = Identity {
            label: "seventeen bytes!!",
            ..IDENTITY
        };
        assert!(create(&file, 1 << 30, &identity).is_err());
        assert_eq!(file.metadata().unwrap().len(), 0);
    }

    proptest! {
        #[test]
        fn every_size_has_a_sound_layout(size in 0u64..1 << 46) {
            for size in [size, size >> 10, size >> 20] {
                let Ok(layout) = Layout::of(size) else { continue };
                prop_assert!(layout.blocks * layout.block <= size);
                for group in [0, 1, layout.groups / 2, layout.groups - 1] {
                    let group = group.min(layout.groups - 1);
                    prop_assert!(layout.used(group) <= layout.length(group));
                }
                prop_assert!(layout.inode_blocks * layout.block == layout.inodes_per_group * 256);
            }
        }
    }
}
