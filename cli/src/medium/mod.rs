//! What a file is that a machine could boot, told from its bytes and never from its name.
//!
//! Enters: a path. Leaves: a [`Medium`]. What is read is bounded: the first 68 KiB, the boot
//! catalogue of an ISO image, the last sector. Sources of the numbers stand beside them.

mod efi;
mod head;
mod iso;
mod partitions;

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use kiln_engine::system::kernel::kind_of_image;

use self::head::Head;
pub(crate) use self::partitions::{HEAD as PARTITIONS_HEAD, is_for_efi_alone};

/// As far as the signature of btrfs, which comes last (65,600).
const HEAD_MAX: usize = 68 << 10;

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Medium {
    /// An ISO 9660 image, and what its boot catalogue (El Torito) has entries for.
    Iso { bios: bool, efi: bool },
    /// A disk, in QEMU's name of the format.
    Disk(Format),
    /// A program for EFI, such as a unified kernel image; its architecture in Go's spelling.
    Program(Option<&'static str>),
    /// A file system on its own: a root for a kernel that comes from elsewhere.
    Root(&'static str),
    /// A kernel without its initrd and command line.
    Kernel,
    /// Text, hence a description.
    Text,
    /// Something else: what it is, if that is known, and what to do about it.
    Other(&'static str, Option<&'static str>),
}

/// How a disk is stored in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    /// QEMU's name of it.
    pub(crate) name: &'static str,
    /// Whether the image says that parts of the disk are in other files. A guest could have written
    /// that into what it had as a raw disk, to see files of this machine at the next boot.
    pub(crate) names_files: bool,
}

impl Format {
    pub(crate) const RAW: Self = Self::plain("raw");

    const fn plain(name: &'static str) -> Self {
        Self {
            name,
            names_files: false,
        }
    }
}

/// Returns what a file or a block device is.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn of(path: &Path) -> io::Result<Medium> {
    let file = File::open(path)?;
    if file.metadata()?.file_type().is_block_device() {
        // What is on it was not always ours; see [`Format::names_files`].
        return Ok(Medium::Disk(Format::RAW));
    }
    let mut bytes = vec![0; HEAD_MAX];
    let len = read(&file, &mut bytes, 0)?;
    bytes.truncate(len);
    let head = Head(&bytes);
    if head.has(iso::AT, iso::MAGIC) {
        return iso::of(&file);
    }
    if let Some(format) = container(head) {
        return Ok(Medium::Disk(format));
    }
    if let Some(medium) = single(head) {
        return Ok(medium);
    }
    if head.has(510, &[0x55, 0xaa]) || head.has(512, partitions::GPT) {
        return Ok(Medium::Disk(raw_or_vhd(&file)?));
    }
    Ok(file_system(head)
        .map(Medium::Root)
        .unwrap_or_else(|| rest(head)))
}

/// Reads until the buffer is full or the file at its end.
fn read(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut len = 0;
    while let Some(rest) = buffer.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + len as u64) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// Formats that say at their beginning what they are.
fn container(head: Head<'_>) -> Option<Format> {
    // QEMU docs/interop/qcow2.rst, "Header": the backing file's name, and external data files.
    if head.has(0, b"QFI\xfb") {
        let version = head.be32(4)?;
        let features = if version >= 3 { head.be64(72)? } else { 0 };
        return Some(Format {
            name: "qcow2",
            names_files: head.be64(8)? != 0 || features & 1 << 2 != 0,
        });
    }
    let is_vmdk = [&b"KDMV"[..], b"COWD", b"# Disk DescriptorFile"];
    if is_vmdk.iter().any(|magic| head.has(0, magic)) {
        return Some(Format {
            name: "vmdk",
            names_files: !is_whole_vmdk(head),
        });
    }
    // MS-VHDX 2.2.1; MS "Virtual Hard Disk Image Format Specification", "Dynamic Disk": a copy of
    // the footer comes first; VirtualBox `VDICore.h`. QEMU follows the parents of none of them.
    let plain = [
        (0, &b"vhdxfile"[..], "vhdx"),
        (0, b"conectix", "vpc"),
        (64, &[0x7f, 0x10, 0xda, 0xbe], "vdi"),
    ];
    let (_, _, name) = plain.iter().find(|(at, magic, _)| head.has(*at, magic))?;
    Some(Format::plain(name))
}

/// Returns whether a vmdk is one file: a sparse extent whose embedded descriptor names no parent
/// (VMware Virtual Disk Format 5.0, "Hosted Sparse Extent"; QEMU's `block/vmdk.c` asks the
/// descriptor for extents only when the header has no capacity, and reads another header when the
/// grain directory is at the end).
fn is_whole_vmdk(head: Head<'_>) -> bool {
    const SECTOR: u64 = 512;
    const DESCRIPTOR_BYTES: usize = 20 * 512;
    let is_sparse = head.has(0, b"KDMV")
        && head.le64(12).is_some_and(|capacity| capacity != 0)
        && head.le64(56).is_some_and(|directory| directory != u64::MAX);
    let at = head.le64(28).and_then(|sector| sector.checked_mul(SECTOR));
    let descriptor = at
        .and_then(|at| usize::try_from(at).ok())
        .filter(|at| *at > 0)
        .and_then(|at| head.0.get(at..at.checked_add(DESCRIPTOR_BYTES)?));
    let parent = b"parentFileNameHint";
    let names_none = |text: &[u8]| {
        !text
            .windows(parent.len())
            .any(|word| word.eq_ignore_ascii_case(parent))
    };
    is_sparse && descriptor.is_some_and(names_none)
}

/// Returns the format of a disk that begins as raw ones do: a fixed VHD has its footer behind.
fn raw_or_vhd(file: &File) -> io::Result<Format> {
    let len = file.metadata()?.len();
    let mut footer = [0; 8];
    let read = read(file, &mut footer, len.saturating_sub(512))?;
    Ok(match read == footer.len() && &footer == b"conectix" {
        true => Format::plain("vpc"),
        false => Format::RAW,
    })
}

/// Files of one piece, whose beginnings could be taken for a boot sector.
fn single(head: Head<'_>) -> Option<Medium> {
    // Linux fs/squashfs/squashfs_fs.h, fs/erofs/erofs_fs.h.
    if head.has(0, b"hsqs") {
        return Some(Medium::Root("squashfs"));
    }
    if head.has(1024, &[0xe2, 0xe1, 0xf5, 0xe0]) {
        return Some(Medium::Root("erofs"));
    }
    match kind_of_image(head.0) {
        Some(_) => Some(Medium::Kernel),
        None => efi::of(head),
    }
}

/// File systems without a boot sector.
fn file_system(head: Head<'_>) -> Option<&'static str> {
    // Linux fs/ext4/ext4.h, fs/xfs/libxfs/xfs_format.h, include/uapi/linux/btrfs_tree.h.
    [
        (1080, &[0x53, 0xef][..], "ext4"),
        (0, b"XFSB", "xfs"),
        (0x1_0040, b"_BHRfS_M", "btrfs"),
    ]
    .iter()
    .find(|(at, magic, _)| head.has(*at, magic))
    .map(|(_, _, name)| *name)
}

/// What does not boot, by what it may have been taken for.
fn rest(head: Head<'_>) -> Medium {
    const UNPACK: Option<&str> = Some("unpack it first");
    let known = [
        (
            257,
            &b"ustar"[..],
            "a tar",
            Some(
                "what boots is a description or what kiln build -f kernel+initrd writes; an image in a tar is docker-archive:FILE or oci-archive:FILE",
            ),
        ),
        (0, b"\x1f\x8b", "compressed with gzip", UNPACK),
        (0, b"\xfd7zXZ\0", "compressed with xz", UNPACK),
        (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", UNPACK),
        (0, b"BZh", "compressed with bzip2", UNPACK),
        (0, b"PK\x03\x04", "a zip archive", UNPACK),
        (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
        (0, b"070701", "a cpio archive, as initrds are", None),
        (0, b"\x7fELF", "a program of Linux (ELF)", None),
    ];
    if let Some((_, _, what, hint)) = known.iter().find(|(at, magic, ..)| head.has(*at, magic)) {
        return Medium::Other(what, *hint);
    }
    if head.0.is_empty() {
        return Medium::Other("empty", None);
    }
    if head.is_text() {
        return Medium::Text;
    }
    Medium::Other(
        "none of what kiln boots",
        Some(
            "that is a description, an ISO image, a disk (raw, qcow2, vmdk, vhd, vhdx, vdi) with a boot sector or a partition table, or a program for EFI",
        ),
    )
}

#[cfg(test)]
mod tests;
