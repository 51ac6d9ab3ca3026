//! What is on a block device: the file system's kind, label and UUID, from its first sectors.
//!
//! In: a device or image. Out: a [`Superblock`], or nothing known. Offsets: ext4
//! `fs/ext4/ext4.h` (`struct ext4_super_block`), xfs `fs/xfs/libxfs/xfs_format.h`
//! (`struct xfs_dsb`), squashfs `fs/squashfs/squashfs_fs.h`, erofs `fs/erofs/erofs_fs.h`
//! (`struct erofs_super_block`), btrfs `include/uapi/linux/btrfs_tree.h` (`struct btrfs_super_block`), FAT
//! `include/uapi/linux/msdos_fs.h` (`struct fat_boot_sector`), ISO 9660 ECMA-119 8.4, swap
//! `include/linux/swap.h`. A FAT label is the boot sector's, where every formatter writes it; one
//! that was changed later by another system may stand in the root directory alone.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    /// Its name in the kernel (`/proc/filesystems`), or `swap`.
    pub(super) kind: &'static str,
    /// Label, empty if it has none.
    pub(super) label: String,
    /// UUID as `blkid` writes it.
    pub(super) uuid: String,
}

/// Reads a device; one that cannot be read holds nothing known.
pub(super) fn read(device: &Path) -> Option<Superblock> {
    probe(&File::open(device).ok()?)
}

/// Looks for each kind in turn. FAT comes last: its mark is the weakest.
pub(super) fn probe(device: &File) -> Option<Superblock> {
    type Parse = fn(&[u8]) -> Option<Superblock>;
    const PARSERS: [(u64, usize, Parse); 8] = [
        (0, 96, squashfs),
        (1024, 128, erofs),
        (0, 512, xfs),
        (1024, 1024, ext4),
        (64 << 10, 4096, btrfs),
        (32 << 10, 2048, iso9660),
        (0, 4096, swap),
        (0, 512, fat),
    ];
    PARSERS.iter().find_map(|(offset, length, parse)| {
        let mut bytes = vec![0; *length];
        device.read_exact_at(&mut bytes, *offset).ok()?;
        parse(&bytes)
    })
}

fn xfs(bytes: &[u8]) -> Option<Superblock> {
    has(bytes, 0, b"XFSB")?;
    Some(Superblock {
        kind: "xfs",
        label: text(bytes.get(108..120)?),
        uuid: uuid(bytes.get(32..48)?),
    })
}

/// One without a label and a UUID.
fn squashfs(bytes: &[u8]) -> Option<Superblock> {
    has(bytes, 0, b"hsqs")?;
    Some(Superblock {
        kind: "squashfs",
        label: String::new(),
        uuid: String::new(),
    })
}

fn erofs(bytes: &[u8]) -> Option<Superblock> {
    has(bytes, 0, &[0xe2, 0xe1, 0xf5, 0xe0])?;
    Some(Superblock {
        kind: "erofs",
        label: text(bytes.get(64..80)?),
        uuid: uuid(bytes.get(48..64)?),
    })
}

fn ext4(bytes: &[u8]) -> Option<Superblock> {
    has(bytes, 56, &[0x53, 0xef])?;
    // The ext4 driver mounts ext2 and ext3 too.
    Some(Superblock {
        kind: "ext4",
        label: text(bytes.get(120..136)?),
        uuid: uuid(bytes.get(104..120)?),
    })
}

fn btrfs(bytes: &[u8]) -> Option<Superblock> {
    has(bytes, 64, b"_BHRfS_M")?;
    Some(Superblock {
        kind: "btrfs",
        label: text(bytes.get(299..555)?),
        uuid: uuid(bytes.get(32..48)?),
    })
}

fn iso9660(bytes: &[u8]) -> Option<Superblock> {
    has(bytes, 0, b"\x01CD001\x01")?;
    // Time of the last change, else of the making: "2026010203040500" as 2026-01-02-03-04-05-00.
    let digits = |at: usize| {
        let digits = bytes.get(at..at + 16)?;
        let is_time = digits.iter().all(u8::is_ascii_digit) && digits.iter().any(|d| *d != b'0');
        is_time.then(|| text(digits))
    };
    let time = digits(830).or_else(|| digits(813)).unwrap_or_default();
    let mut uuid = String::new();
    for (at, digit) in time.char_indices() {
        if at >= 4 && at % 2 == 0 {
            uuid.push('-');
        }
        uuid.push(digit);
    }
    Some(Superblock {
        kind: "iso9660",
        label: text(bytes.get(40..72)?),
        uuid,
    })
}

fn swap(bytes: &[u8]) -> Option<Superblock> {
    has(bytes, 4086, b"SWAPSPACE2")?;
    Some(Superblock {
        kind: "swap",
        label: text(bytes.get(1052..1068)?),
        uuid: uuid(bytes.get(1036..1052)?),
    })
}

fn fat(bytes: &[u8]) -> Option<Superblock> {
    has(bytes, 510, &[0x55, 0xaa])?;
    matches!(bytes.first()?, 0xeb | 0xe9).then_some(())?;
    // FAT32 has a longer head in front of the same fields.
    let at = match (has(bytes, 82, b"FAT32   "), has(bytes, 54, b"FAT1")) {
        (Some(()), _) => 67,
        (_, Some(())) => 39,
        _ => return None,
    };
    let serial = bytes.get(at..at + 4)?;
    let label = text(bytes.get(at + 4..at + 15)?);
    Some(Superblock {
        kind: "vfat",
        label: if label == "NO NAME" {
            String::new()
        } else {
            label
        },
        uuid: format!(
            "{:02X}{:02X}-{:02X}{:02X}",
            serial[3], serial[2], serial[1], serial[0]
        ),
    })
}

fn has(bytes: &[u8], at: usize, magic: &[u8]) -> Option<()> {
    bytes.get(at..)?.starts_with(magic).then_some(())
}

/// Returns a name up to its first NUL, without the blanks that fill it.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let name = bytes.get(..end).unwrap_or_default();
    String::from_utf8_lossy(name).trim().to_owned()
}

/// Writes sixteen bytes as 8-4-4-4-12 digits.
pub(super) fn uuid(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// Runs a program that Debian has; its absence is a failure that names the package.
    pub(in crate::jobs) fn tool(program: &str, package: &str, args: &[&str]) -> String {
        let path = format!(
            "{}:/usr/sbin:/sbin",
            std::env::var("PATH").unwrap_or_default()
        );
        let output = Command::new("env")
            .args([&format!("PATH={path}"), program])
            .args(args)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_ne!(output.status.code(), Some(127), "needs Debian's {package}");
        assert!(output.status.success(), "{program} {args:?}: {said}");
        text(&output.stdout)
    }

    /// An image file of a size in MiB.
    pub(in crate::jobs) fn image(directory: &Path, mebibytes: u64) -> std::path::PathBuf {
        let path = directory.join("image");
        File::create(&path)
            .unwrap()
            .set_len(mebibytes << 20)
            .unwrap();
        path
    }

    #[test]
    fn what_blkid_says() {
        for (program, package, size, kind, args) in [
            (
                "mke2fs",
                "e2fsprogs",
                8,
                "ext4",
                &["-q", "-t", "ext4", "-L", "data one"][..],
            ),
            ("mkfs.vfat", "dosfstools", 8, "vfat", &["-n", "CIDATA"]),
            (
                "mkfs.vfat",
                "dosfstools",
                64,
                "vfat",
                &["-F", "32", "-n", "cidata"],
            ),
            ("mkfs.vfat", "dosfstools", 8, "vfat", &[]),
            ("mkswap", "util-linux", 8, "swap", &["-L", "swp"]),
            ("mkfs.xfs", "xfsprogs", 300, "xfs", &["-q", "-L", "xlabel"]),
            (
                "mkfs.btrfs",
                "btrfs-progs",
                200,
                "btrfs",
                &["-q", "-L", "blabel"],
            ),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let path = image(directory.path(), size);
            let path = path.to_str().unwrap();
            tool(program, package, &[args, &[path]].concat());
            let found = read(Path::new(path)).unwrap_or_else(|| panic!("{program}: nothing"));
            let blkid = |tag| {
                let said = Command::new("/usr/sbin/blkid")
                    .args(["-p", "-s", tag, "-o", "value", path])
                    .output()
                    .expect("needs Debian's util-linux");
                String::from_utf8(said.stdout)
                    .unwrap()
                    .trim_end()
                    .to_owned()
            };
            let theirs = (blkid("TYPE"), blkid("LABEL"), blkid("UUID"));
            assert_eq!(
                (kind.to_owned(), found.label, found.uuid),
                theirs,
                "{program}"
            );
            assert_eq!(found.kind, kind);
        }
    }

    #[test]
    fn a_root_that_is_only_read() {
        let directory = tempfile::tempdir().unwrap();
        let (path, tree) = (
            directory.path().join("image"),
            directory.path().join("tree"),
        );
        std::fs::create_dir(&tree).unwrap();
        let (path, tree) = (path.to_str().unwrap(), tree.to_str().unwrap());
        tool("mkfs.erofs", "erofs-utils", &["-U", UUID, path, tree]);
        let found = read(Path::new(path)).unwrap();
        assert_eq!((found.kind, &*found.uuid), ("erofs", UUID));
        std::fs::remove_file(path).unwrap();
        tool("mksquashfs", "squashfs-tools", &[tree, path, "-quiet"]);
        assert_eq!(read(Path::new(path)).unwrap().kind, "squashfs");
    }

    const UUID: &str = "6c0b32d4-8b1b-4a5e-a2b3-0123456789ab";

    #[test]
    fn an_iso_image() {
        let directory = tempfile::tempdir().unwrap();
        let path = iso(directory.path(), "cidata");
        let found = read(&path).unwrap();
        assert_eq!((found.kind, &*found.label), ("iso9660", "cidata"));
        assert_eq!(found.uuid, "2026-01-02-03-04-05-00");
        assert_eq!(
            tool(
                "blkid",
                "util-linux",
                &["-p", "-o", "value", "-s", "LABEL", path.to_str().unwrap()]
            ),
            "cidata\n"
        );
    }

    /// The one sector of an ISO image that is looked at (ECMA-119, 8.4).
    pub(in crate::jobs) fn iso(directory: &Path, label: &str) -> std::path::PathBuf {
        let path = directory.join(label);
        let mut bytes = vec![0; 36 << 10];
        let volume = &mut bytes[32 << 10..];
        volume[..7].copy_from_slice(b"\x01CD001\x01");
        volume[40..72].fill(b' ');
        volume[40..40 + label.len()].copy_from_slice(label.as_bytes());
        volume[813..829].copy_from_slice(b"2026010203040500");
        volume[830..846].copy_from_slice(b"0000000000000000");
        bytes[34 << 10..(34 << 10) + 7].copy_from_slice(b"\xffCD001\x01");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    proptest! {
        #[test]
        fn any_bytes_are_fine(bytes in proptest::collection::vec(any::<u8>(), 0..4200), at in 0usize..600) {
            for parse in [squashfs, erofs, xfs, ext4, btrfs, iso9660, swap, fat] {
                let _ = parse(&bytes);
                let mut marked = bytes.clone();
                if let Some(room) = marked.get_mut(at..at + 2) {
                    room.copy_from_slice(&[0x55, 0xaa]);
                }
                let _ = parse(&marked);
            }
        }
    }
}
