//! initrd members: newc cpio archives (Linux, Documentation/driver-api/early-userspace/
//! buffer-format.rst), each with its own `TRAILER!!!`, compressed, padded with zeros to 4 KiB.
//!
//! Enters: a fragment and its plan, or a group of shared files. Leaves: a segment.
//!
//! Hard links are real: names of one file have one inode number and `nlink` names, and the data
//! stands with the last name, as the kernel's own `usr/gen_init_cpio.c` writes it. Any place would
//! do for the kernel (`maybe_link` and `do_name` in init/initramfs.c: a linked name is opened
//! without `O_TRUNC` and changes the file only when it brings data), and for GNU cpio, which puts
//! names without data off. Inode numbers count from 1 in each member; the kernel forgets them at
//! the trailer.
//!
//! `boot/*` stays out (BUILD 7.1: kernel, command line and microcode are files of their own).
//! newc has no extended attributes: entries that had some are counted.

use std::collections::HashMap;

use kiln_cache::Cache;

use super::compress::{self, Compressor};
use super::fragment::{OpenFragment, Place};
use super::recipe::{Recipe, RecipeWriter, Sink};
use super::{ALIGN_BYTES, FormatError, Fragment, FragmentPlan, Segment, SharedGroup, padding};
use crate::tree::{EntryRef, Kind};

/// The longest name Linux takes, its NUL included (`PATH_MAX`).
pub(super) const NAME_MAX_BYTES: usize = 4096;

/// Version of the bytes: raised whenever a member may come out differently.
pub const VERSION: u32 = 1;

/// A finished member, and what it could not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its bytes. Of length 0 when there was nothing to put in.
    pub segment: Segment,
    /// How many entries lost extended attributes.
    pub dropped_xattrs: u64,
    /// How many entries under `boot/` were left out, besides `kernel`, `cmdline` and
    /// `ucode.cpio`, which are outputs of their own.
    pub dropped_boot: u64,
}

/// Writes a fragment's member.
///
/// # Errors
/// When a file or path does not fit newc, a tree is missing, or the object cannot be written.
pub fn member(
    cache: &Cache,
    fragment: &Fragment,
    plan: &FragmentPlan,
    compressor: Compressor,
) -> Result<Member, FormatError> {
    let open = OpenFragment::open(cache, &fragment.parts)?;
    let mut order = open.order();
    let mut dropped_boot = 0;
    let mut path = Vec::new();
    order.retain(|place| {
        if plan.is_skipped(*place) {
            return false;
        }
        open.path_into(*place, &mut path);
        let Some(name) = path.strip_prefix(b"boot/") else {
            return !plan.is_moved(*place);
        };
        if !matches!(name, b"kernel" | b"cmdline" | b"ucode.cpio") {
            dropped_boot += 1;
        }
        false
    });
    let mut first_of_group = HashMap::new();
    let names: Vec<(Place, Place)> = order
        .into_iter()
        .map(|place| {
            let twin = plan.twin(place).unwrap_or(place);
            let group = open.entry(twin).group();
            let file = match group {
                0 => twin,
                _ => *first_of_group.entry((twin.part, group)).or_insert(twin),
            };
            (place, file)
        })
        .collect();
    let (segment, dropped_xattrs) = archive(cache, &open, &names, compressor)?;
    Ok(Member {
        segment,
        dropped_xattrs,
        dropped_boot,
    })
}

/// Writes the member of files that several fragments share. It must come after theirs, which
/// make the directories.
///
/// # Errors
/// As [`member`].
pub fn shared_member(
    cache: &Cache,
    group: &SharedGroup,
    compressor: Compressor,
) -> Result<Member, FormatError> {
    let open = OpenFragment::open(cache, &group.parts)?;
    let names: Vec<(Place, Place)> = group
        .files
        .iter()
        .flat_map(|names| names.iter().map(|name| (*name, names[0])))
        .collect();
    let (segment, dropped_xattrs) = archive(cache, &open, &names, compressor)?;
    Ok(Member {
        segment,
        dropped_xattrs,
        dropped_boot: 0,
    })
}

/// Returns bytes as a raw segment padded with zeros to 4 KiB: for microcode, which the kernel
/// looks for in the first, uncompressed archive. (The padding is a multiple of the 4 bytes that
/// the unpacker asks for.)
///
/// # Errors
/// When the object cannot be written.
pub fn raw(cache: &Cache, segment: &Segment) -> Result<Segment, FormatError> {
    let mut writer = RecipeWriter::new(cache)?;
    match segment.form {
        super::Form::Bytes => writer.range(&segment.digest, 0, segment.len)?,
        super::Form::Recipe => Recipe::open(cache, &segment.digest)?.replay(&mut writer)?,
    }
    writer.zeros(padding(segment.len, ALIGN_BYTES))?;
    writer.finish()
}

/// Writes an archive of `names`: each an entry, and the entry that stands for its file.
fn archive(
    cache: &Cache,
    open: &OpenFragment,
    names: &[(Place, Place)],
    compressor: Compressor,
) -> Result<(Segment, u64), FormatError> {
    if compressor == Compressor::None || names.is_empty() {
        let mut sink = RecipeWriter::new(cache)?;
        let mut dropped = 0;
        if !names.is_empty() {
            dropped = entries(&mut sink, open, names)?;
            let fill = padding(sink.len(), ALIGN_BYTES);
            sink.zeros(fill)?;
        }
        return Ok((sink.finish()?, dropped));
    }
    let mut dropped = 0;
    let segment = compress::to_object(cache, compressor, |sink| {
        dropped = entries(sink, open, names)?;
        Ok(())
    })?;
    Ok((segment, dropped))
}

/// The names of one file.
struct Names {
    ino: u32,
    total: u32,
    left: u32,
}

/// Writes all entries and the trailer. Returns how many had extended attributes.
fn entries(
    sink: &mut impl Sink,
    open: &OpenFragment,
    names: &[(Place, Place)],
) -> Result<u64, FormatError> {
    let mut files: HashMap<Place, Names> = HashMap::new();
    for (_, file) in names.iter().filter(|(place, file)| place != file) {
        // The file's first name counts too.
        let names = files.entry(*file).or_insert(Names {
            ino: 0,
            total: 1,
            left: 1,
        });
        names.total += 1;
        names.left += 1;
    }
    let mut dropped = 0;
    let mut next_ino = 1_u32;
    let mut path = Vec::new();
    let mut header = Vec::with_capacity(512);
    for (place, file) in names {
        let entry = open.entry(*place);
        open.path_into(*place, &mut path);
        if path.is_empty() {
            path.push(b'.');
        }
        dropped += u64::from(!entry.xattr_bytes().is_empty());
        let mut nlink = if entry.kind() == Kind::Directory {
            2
        } else {
            1
        };
        let mut ino = next_ino;
        let mut has_data = true;
        if let Some(names) = files.get_mut(file) {
            if names.ino == 0 {
                names.ino = next_ino;
                next_ino += 1;
            }
            names.left -= 1;
            (nlink, ino, has_data) = (names.total, names.ino, names.left == 0);
        } else {
            next_ino += 1;
        }
        put_entry(sink, &mut header, &entry, &path, (ino, nlink, has_data))?;
    }
    header.clear();
    put_header(
        &mut header,
        &Fields {
            nlink: 1,
            ..Fields::default()
        },
        b"TRAILER!!!",
    );
    sink.literal(&header)?;
    Ok(dropped)
}

/// Writes one entry; `(ino, nlink, has_data)` is its place among its file's names.
fn put_entry(
    sink: &mut impl Sink,
    header: &mut Vec<u8>,
    entry: &EntryRef<'_>,
    path: &[u8],
    (ino, nlink, has_data): (u32, u32, bool),
) -> Result<(), FormatError> {
    let shown = || String::from_utf8_lossy(path).into_owned();
    if path.len() >= NAME_MAX_BYTES {
        return Err(FormatError::PathTooLong {
            path: shown(),
            len: path.len(),
        });
    }
    let type_bits = match entry.kind() {
        Kind::File => 0o100_000,
        Kind::Directory => 0o040_000,
        Kind::Symlink => 0o120_000,
        Kind::CharDevice => 0o020_000,
        Kind::BlockDevice => 0o060_000,
        Kind::Fifo => 0o010_000,
        Kind::HardLink | Kind::Whiteout => {
            return Err(FormatError::BadEntry {
                path: shown(),
                reason: "a layer's entry in a flattened tree",
            });
        }
    };
    let size = match entry.kind() {
        Kind::File if has_data => entry.size(),
        Kind::Symlink => entry.link().len() as u64,
        _ => 0,
    };
    let fields = Fields {
        ino,
        mode: type_bits | u32::from(entry.mode() & 0o7777),
        uid: entry.uid(),
        gid: entry.gid(),
        nlink,
        // The field holds 1970 to 2106; what lies outside becomes the nearer end.
        mtime: u32::try_from(entry.mtime().0.max(0)).unwrap_or(u32::MAX),
        size: u32::try_from(size).map_err(|_| FormatError::FileTooLarge {
            path: shown(),
            size,
        })?,
        device: match entry.kind() {
            Kind::CharDevice | Kind::BlockDevice => entry.device(),
            _ => (0, 0),
        },
    };
    header.clear();
    put_header(header, &fields, path);
    sink.literal(header)?;
    match entry.kind() {
        Kind::Symlink => sink.literal(entry.link())?,
        Kind::File if size > 0 => super::tar::file_data(sink, entry, path)?,
        _ => {}
    }
    sink.zeros(padding(size, 4))
}

#[derive(Default)]
struct Fields {
    ino: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    mtime: u32,
    size: u32,
    device: (u32, u32),
}

/// Writes a header and name, padded to 4 bytes.
fn put_header(out: &mut Vec<u8>, fields: &Fields, name: &[u8]) {
    let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
    out.extend(b"070701");
    for value in [
        fields.ino,
        fields.mode,
        fields.uid,
        fields.gid,
        fields.nlink,
        fields.mtime,
        fields.size,
        0,
        0,
        fields.device.0,
        fields.device.1,
        name_size,
        0,
    ] {
        out.extend(format!("{value:08x}").as_bytes());
    }
    out.extend(name);
    out.push(0);
    while !out.len().is_multiple_of(4) {
        out.push(0);
    }
}
