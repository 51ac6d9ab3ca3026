//! Partition tables: dos and GPT, as far as one disk with one file system needs.
//!
//! In: a disk. Out: its partitions; a new table with one partition over the whole disk; a table
//! whose last partition reaches to the end. Formats: the MBR as Linux reads it
//! (`block/partitions/msdos.c`), GPT as in UEFI 2.10, 5.3. A GPT counts only if both of its
//! checksums are right; it is written back to front, so that the first header, which is looked at
//! first, never describes what is not there yet.

use std::os::unix::fs::FileExt;

use super::devices::{Disk, random, random_uuid};
use super::superblock;
use crate::error::{Context, Error, Result};

/// Sectors before the first partition: 1 MiB with sectors of 512 bytes, as sfdisk does it.
const ALIGN_BYTES: u64 = 1 << 20;
const LINUX: u8 = 0x83;
const PROTECTIVE: u8 = 0xee;
/// `0FC63DAF-8483-4772-8E79-3D69D8477DE4`, Linux file system data, as on disk.
const LINUX_GUID: [u8; 16] = [
    0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
];
const MBR_TABLE: usize = 446;
const MBR_ENTRIES: usize = 4;
const GPT_HEADER_BYTES: usize = 92;
const GPT_ENTRIES: usize = 128;
const GPT_ENTRY_BYTES: usize = 128;
/// Sizes that other tools may choose.
const GPT_TABLE_BYTES_MAX: usize = 1 << 20;

/// Which table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Dos,
    Gpt,
}

/// One partition, in sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) number: u32,
    pub(super) start: u64,
    pub(super) sectors: u64,
    /// For a Linux file system, by its type.
    pub(super) is_linux: bool,
}

/// A table that was read.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) partitions: Vec<Partition>,
    /// The boot sector.
    mbr: Vec<u8>,
    gpt: Option<Gpt>,
}

/// A GPT's header and entries, as they are on disk.
#[derive(Debug)]
struct Gpt {
    header: Vec<u8>,
    entries: Vec<u8>,
    entry_bytes: usize,
}

/// Reads a disk's table; nothing if there is none.
pub(super) fn read(disk: &Disk) -> Option<Table> {
    let mbr = read_at(disk, 0, 512)?;
    let entry = |n: usize| mbr.get(MBR_TABLE + 16 * n..MBR_TABLE + 16 * n + 16);
    let is_table = mbr.get(510..)? == [0x55, 0xaa]
        // The same mark ends a FAT boot sector, where code or text stands instead of entries.
        && (0..MBR_ENTRIES).all(|n| entry(n).is_some_and(|e| e[0] & 0x7f == 0));
    if !is_table {
        return None;
    }
    let mut partitions = Vec::new();
    for (number, n) in (1..).zip(0..MBR_ENTRIES) {
        let entry = entry(n)?;
        if entry[4] == PROTECTIVE {
            let gpt = read_gpt(disk)?;
            return Some(Table {
                partitions: gpt.partitions()?,
                mbr,
                gpt: Some(gpt),
            });
        }
        let sectors = u64::from(u32(entry, 12)?);
        if entry[4] != 0 && sectors > 0 {
            partitions.push(Partition {
                number,
                start: u64::from(u32(entry, 8)?),
                sectors,
                is_linux: entry[4] == LINUX,
            });
        }
    }
    // A boot sector without entries is no table.
    let has_any = !partitions.is_empty() || u32(&mbr, 440)? != 0;
    has_any.then_some(Table {
        partitions,
        mbr,
        gpt: None,
    })
}

fn read_gpt(disk: &Disk) -> Option<Gpt> {
    let header = read_at(disk, disk.sector, GPT_HEADER_BYTES)?;
    let is_gpt = header.starts_with(b"EFI PART")
        && u32(&header, 12)? as usize == GPT_HEADER_BYTES
        && u32(&header, 16)? == header_sum(&header);
    let (count, entry_bytes) = (u32(&header, 80)? as usize, u32(&header, 84)? as usize);
    let bytes = count.checked_mul(entry_bytes)?;
    if !is_gpt || entry_bytes < GPT_ENTRY_BYTES || bytes > GPT_TABLE_BYTES_MAX {
        return None;
    }
    let at = u64(&header, 72)?.checked_mul(disk.sector)?;
    let entries = read_at(disk, at, bytes)?;
    let gpt = Gpt {
        entries,
        entry_bytes,
        header,
    };
    (u32(&gpt.header, 88)? == crc32(&gpt.entries)).then_some(gpt)
}

impl Table {
    /// Returns a partition's UUID as the kernel's `PARTUUID=` has it (`block/partitions/*.c`): what a
    /// GPT says, and of dos the disk's signature and the number.
    pub(super) fn uuid(&self, number: u32) -> Option<String> {
        match &self.gpt {
            Some(gpt) => {
                let uuid = gpt.entry(number)?.get(16..32)?.try_into().ok()?;
                Some(superblock::uuid(&mixed_endian(uuid)))
            }
            None => Some(format!("{:08x}-{number:02x}", u32(&self.mbr, 440)?)),
        }
    }

    /// Returns a partition's name, of which dos has none.
    pub(super) fn name(&self, number: u32) -> Option<String> {
        let name = self.gpt.as_ref()?.entry(number)?.get(56..128)?;
        let units = name
            .chunks_exact(2)
            .map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
        let units = char::decode_utf16(units.take_while(|unit| *unit != 0));
        units.collect::<std::result::Result<_, _>>().ok()
    }
}

impl Gpt {
    fn entry(&self, number: u32) -> Option<&[u8]> {
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        self.entries.chunks(self.entry_bytes).nth(index)
    }

    fn partitions(&self) -> Option<Vec<Partition>> {
        let mut all = Vec::new();
        for (number, entry) in (1..).zip(self.entries.chunks(self.entry_bytes)) {
            let kind = entry.get(..16)?;
            let (first, last) = (u64(entry, 32)?, u64(entry, 40)?);
            if kind != [0; 16] && first <= last {
                all.push(Partition {
                    number,
                    start: first,
                    sectors: (last - first).checked_add(1)?,
                    is_linux: kind == LINUX_GUID,
                });
            }
        }
        Some(all)
    }

    /// Puts the table and both headers where a disk of this size has them.
    fn write(&mut self, disk: &Disk) -> Result<()> {
        let last = disk.size / disk.sector - 1;
        let table = (self.entries.len() as u64).div_ceil(disk.sector);
        self.set(48, last - 1 - table);
        let sum = crc32(&self.entries);
        self.header[88..92].copy_from_slice(&sum.to_le_bytes());
        // The second header and table at the end, then the first ones.
        for (own, other, entries) in [(last, 1, last - table), (1, last, 2)] {
            self.set(24, own);
            self.set(32, other);
            self.set(72, entries);
            let sum = header_sum(&self.header);
            self.header[16..20].copy_from_slice(&sum.to_le_bytes());
            let mut sector = self.header.clone();
            sector.resize(disk.sector as usize, 0);
            write_at(disk, entries * disk.sector, &self.entries)?;
            write_at(disk, own * disk.sector, &sector)?;
        }
        Ok(())
    }

    fn set(&mut self, at: usize, value: u64) {
        self.header[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
}

/// Writes a new table with one Linux partition over everything; returns it.
pub(super) fn create(disk: &Disk, kind: Kind) -> Result<Partition> {
    let align = ALIGN_BYTES / disk.sector;
    let end = last_end(
        disk,
        reserve_of(kind, GPT_ENTRIES * GPT_ENTRY_BYTES, disk),
        align,
    )?;
    let partition = Partition {
        number: 1,
        start: align,
        sectors: end - align,
        is_linux: true,
    };
    let mut mbr = vec![0; 512];
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    match kind {
        Kind::Dos => {
            random(&mut mbr[440..444])?;
            set_entry(&mut mbr, 0, LINUX, partition.start, partition.sectors);
        }
        Kind::Gpt => {
            let all = (disk.size / disk.sector - 1).min(u64::from(u32::MAX));
            set_entry(&mut mbr, 0, PROTECTIVE, 1, all);
            let mut header = vec![0; GPT_HEADER_BYTES];
            header[..16].copy_from_slice(b"EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00");
            header[56..72].copy_from_slice(&mixed_endian(random_uuid()?));
            header[80..84].copy_from_slice(&(GPT_ENTRIES as u32).to_le_bytes());
            header[84..88].copy_from_slice(&(GPT_ENTRY_BYTES as u32).to_le_bytes());
            let mut entries = vec![0; GPT_ENTRIES * GPT_ENTRY_BYTES];
            entries[..16].copy_from_slice(&LINUX_GUID);
            entries[16..32].copy_from_slice(&mixed_endian(random_uuid()?));
            entries[32..40].copy_from_slice(&partition.start.to_le_bytes());
            entries[40..48].copy_from_slice(&(end - 1).to_le_bytes());
            let table = (entries.len() as u64).div_ceil(disk.sector);
            let mut gpt = Gpt {
                header,
                entries,
                entry_bytes: GPT_ENTRY_BYTES,
            };
            gpt.set(40, 2 + table);
            gpt.write(disk)?;
        }
    }
    write_at(disk, 0, &mbr)?;
    disk.file.sync_all().context(|| "sync")?;
    Ok(partition)
}

/// Lets the last partition reach to the end of the disk; returns it, or nothing if there is no
/// room behind it.
pub(super) fn grow_last(disk: &Disk, table: &mut Table) -> Result<Option<Partition>> {
    let last = table.partitions.iter_mut().max_by_key(|p| p.start);
    let Some(last) = last else {
        return Err(Error::new("no partition"));
    };
    let reserve = match &table.gpt {
        Some(gpt) => reserve_of(Kind::Gpt, gpt.entries.len(), disk),
        None => reserve_of(Kind::Dos, 0, disk),
    };
    let end = last_end(disk, reserve, last.start)?;
    if end <= last.start.saturating_add(last.sectors) {
        return Ok(None);
    }
    last.sectors = end - last.start;
    let index = last.number as usize - 1;
    match &mut table.gpt {
        Some(gpt) => {
            let at = index * gpt.entry_bytes + 40;
            gpt.entries[at..at + 8].copy_from_slice(&(end - 1).to_le_bytes());
            gpt.write(disk)?;
            let all = (disk.size / disk.sector - 1).min(u64::from(u32::MAX)) as u32;
            for entry in table.mbr[MBR_TABLE..510].chunks_mut(16) {
                if entry[4] == PROTECTIVE {
                    entry[12..16].copy_from_slice(&all.to_le_bytes());
                }
            }
        }
        None => {
            let at = MBR_TABLE + 16 * index + 12;
            let sectors = last.sectors as u32;
            table.mbr[at..at + 4].copy_from_slice(&sectors.to_le_bytes());
        }
    }
    write_at(disk, 0, &table.mbr)?;
    disk.file.sync_all().context(|| "sync")?;
    Ok(Some(*last))
}

/// Sectors at the end of a disk that belong to the table; `None` for dos, whose numbers have 32
/// bits instead.
fn reserve_of(kind: Kind, table_bytes: usize, disk: &Disk) -> Option<u64> {
    (kind == Kind::Gpt).then(|| (table_bytes as u64).div_ceil(disk.sector) + 1)
}

/// Returns where a partition that begins at `start` can end, aligned.
fn last_end(disk: &Disk, reserve: Option<u64>, start: u64) -> Result<u64> {
    let sectors = disk.size / disk.sector;
    let end = match reserve {
        Some(reserve) => sectors.saturating_sub(reserve),
        None => sectors.min(start.saturating_add(u64::from(u32::MAX))),
    };
    let align = ALIGN_BYTES / disk.sector;
    let end = end / align * align;
    if end <= start {
        return Err(Error::new(format!(
            "{} bytes are too few for a partition",
            disk.size
        )));
    }
    Ok(end)
}

/// Fills an entry of the MBR. Cylinders and heads say "too large", as every tool writes them now.
fn set_entry(mbr: &mut [u8], n: usize, kind: u8, start: u64, sectors: u64) {
    let entry = &mut mbr[MBR_TABLE + 16 * n..MBR_TABLE + 16 * n + 16];
    entry[..8].copy_from_slice(&[0, 0xfe, 0xff, 0xff, kind, 0xfe, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&(start as u32).to_le_bytes());
    entry[12..16].copy_from_slice(&(sectors as u32).to_le_bytes());
}

/// GUIDs have their first three fields in little-endian order (UEFI 2.10, appendix A).
fn mixed_endian(mut uuid: [u8; 16]) -> [u8; 16] {
    uuid[..4].reverse();
    uuid[4..6].reverse();
    uuid[6..8].reverse();
    uuid
}

/// The checksum of a header, whose own field counts as zeros.
fn header_sum(header: &[u8]) -> u32 {
    let mut header = header.to_vec();
    header[16..20].fill(0);
    crc32(&header)
}

/// CRC-32 as in Ethernet.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

fn read_at(disk: &Disk, at: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    disk.file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

fn write_at(disk: &Disk, at: u64, bytes: &[u8]) -> Result<()> {
    disk.file
        .write_all_at(bytes, at)
        .context(|| "write the partition table")
}

fn u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::path::Path;

    use proptest::prelude::*;

    use super::super::superblock::tests::{image, tool};
    use super::*;

    fn disk(path: &Path) -> Disk {
        Disk::open(path, true).unwrap()
    }

    /// The partitions of a table as sfdisk reads them: start, size and type.
    fn sfdisk(path: &Path) -> (String, Vec<String>) {
        let path = path.to_str().unwrap();
        let verified = tool("sfdisk", "fdisk", &["--verify", path]);
        assert!(verified.contains("No errors detected"), "{verified}");
        let dump = tool("sfdisk", "fdisk", &["-d", path]);
        let label = dump.lines().next().unwrap().to_owned();
        let partitions = dump.lines().filter_map(|line| line.strip_prefix(path));
        let partitions = partitions.map(|line| {
            let line: String = line.split_whitespace().collect();
            line.split(",uuid").next().unwrap().to_owned()
        });
        (label, partitions.collect())
    }

    #[test]
    fn what_is_created_others_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = image(directory.path(), 8);
        let dos = create(&disk(&path), Kind::Dos).unwrap();
        assert_eq!((dos.start, dos.sectors), (2048, 7 * 2048));
        let expected = ["1:start=2048,size=14336,type=83"];
        assert_eq!(
            sfdisk(&path),
            ("label: dos".into(), expected.map(String::from).to_vec())
        );
        assert_eq!(read(&disk(&path)).unwrap().partitions, [dos]);

        let gpt = create(&disk(&path), Kind::Gpt).unwrap();
        assert_eq!((gpt.start, gpt.sectors), (2048, 6 * 2048));
        let expected = "1:start=2048,size=12288,type=0FC63DAF-8483-4772-8E79-3D69D8477DE4";
        assert_eq!(sfdisk(&path), ("label: gpt".into(), vec![expected.into()]));
        assert_eq!(read(&disk(&path)).unwrap().partitions, [gpt]);

        let small = image(directory.path(), 1);
        assert!(create(&disk(&small), Kind::Dos).is_err());
    }

    #[test]
    fn a_dos_table_ends_at_two_tebibytes() {
        let directory = tempfile::tempdir().unwrap();
        let path = image(directory.path(), 3 << 20);
        let dos = create(&disk(&path), Kind::Dos).unwrap();
        assert!(dos.sectors <= u64::from(u32::MAX) && dos.sectors > u64::from(u32::MAX) - 4096);
        assert_eq!(sfdisk(&path).1.len(), 1);
        let gpt = create(&disk(&path), Kind::Gpt).unwrap();
        assert!(gpt.sectors * 512 > (3 << 40) - (3 << 20));
        assert_eq!(sfdisk(&path).1.len(), 1);
    }

    #[test]
    fn the_last_partition_grows_with_the_disk() {
        for script in [
            "label: dos\n2048,2048,c\n4096,4096,83\n",
            "label: gpt\n2048,2048,U\n4096,4096,L\n",
        ] {
            let directory = tempfile::tempdir().unwrap();
            let path = image(directory.path(), 6);
            let file = directory.path().join("script");
            std::fs::write(&file, script).unwrap();
            let command = format!("sfdisk -q {} < {}", path.display(), file.display());
            tool("sh", "fdisk", &["-c", &command]);
            let before = sfdisk(&path);
            OpenOptions::new()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(64 << 20)
                .unwrap();
            let mut table = read(&disk(&path)).unwrap();
            assert!(!table.partitions[0].is_linux && table.partitions[1].is_linux);
            let grown = grow_last(&disk(&path), &mut table).unwrap().unwrap();
            assert_eq!((grown.number, grown.start), (2, 4096));
            let after = sfdisk(&path);
            assert_eq!((&after.0, &after.1[0]), (&before.0, &before.1[0]));
            assert!(after.1[1].contains(&format!("size={}", grown.sectors)));
            assert!(grown.start + grown.sectors >= (63 << 20) / 512 - 1);
            let mut table = read(&disk(&path)).unwrap();
            assert_eq!(grow_last(&disk(&path), &mut table).unwrap(), None);
        }
    }

    #[test]
    fn no_table_is_no_table() {
        let directory = tempfile::tempdir().unwrap();
        let path = image(directory.path(), 8);
        assert!(read(&disk(&path)).is_none());
        tool("mkfs.vfat", "dosfstools", &[path.to_str().unwrap()]);
        assert!(
            read(&disk(&path)).is_none(),
            "a FAT boot sector is no table"
        );
        create(&disk(&path), Kind::Gpt).unwrap();
        disk(&path).file.write_all_at(b"x", 512 + 60).unwrap();
        assert!(read(&disk(&path)).is_none(), "a GPT with a wrong checksum");
    }

    proptest! {
        #[test]
        fn any_disk_is_fine(mut bytes in proptest::collection::vec(any::<u8>(), 512..2048), entry: [u8; 16]) {
            bytes[MBR_TABLE..510].fill(0);
            bytes[MBR_TABLE..MBR_TABLE + 16].copy_from_slice(&entry);
            bytes[MBR_TABLE] &= 0x80;
            bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("disk");
            std::fs::write(&path, &bytes).unwrap();
            let disk = disk(&path);
            if let Some(mut table) = read(&disk) {
                let _ = grow_last(&disk, &mut table);
            }
            // A header whose checksum is right and whose contents are anything.
            let mut header = vec![0; 1536];
            header.extend_from_slice(&bytes);
            header[512..604].copy_from_slice(&bytes[..92]);
            header[512..520].copy_from_slice(b"EFI PART");
            header[524..528].copy_from_slice(&92u32.to_le_bytes());
            let sum = header_sum(&header[512..604]);
            header[528..532].copy_from_slice(&sum.to_le_bytes());
            header[MBR_TABLE + 4] = PROTECTIVE;
            header[510..512].copy_from_slice(&[0x55, 0xaa]);
            std::fs::write(&path, &header).unwrap();
            let _ = read(&Disk::open(&path, true).unwrap());
        }
    }
}
