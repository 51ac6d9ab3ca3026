//! Which segments make which output.
//!
//! Enters: the fragments, their finished segments or members, and the output's format. Leaves:
//! files, by the end of their name, each a list of segments for [`assemble`](super::assemble()).

use kiln_cache::Cache;

use super::recipe::RecipeWriter;
use super::{FormatError, Fragment, Segment, cpio, padding, tar};
use crate::tree::generate::MTIME;
use crate::tree::{Kind, Tree};

/// What the kernel section leaves beside the root file system. Absent where the system has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Boot {
    /// `boot/kernel`.
    pub kernel: Option<Segment>,
    /// `boot/cmdline`, without newline.
    pub cmdline: Option<Segment>,
    /// `boot/ucode.cpio`.
    pub ucode: Option<Segment>,
}

/// One file of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputFile {
    /// What follows the output's base name, such as `-initrd.img`.
    pub suffix: &'static str,
    /// Its bytes.
    pub segments: Vec<Segment>,
}

/// Finds the boot files; where several fragments have one, the last counts. Empty files count
/// as absent, since outputs of them are not written.
///
/// # Errors
/// When a tree is missing or the file is not a regular one.
pub fn boot(cache: &Cache, fragments: &[Fragment]) -> Result<Boot, FormatError> {
    Ok(Boot {
        kernel: find(cache, fragments, b"boot/kernel")?,
        cmdline: find(cache, fragments, b"boot/cmdline")?,
        ucode: find(cache, fragments, b"boot/ucode.cpio")?,
    })
}

fn find(
    cache: &Cache,
    fragments: &[Fragment],
    wanted: &[u8],
) -> Result<Option<Segment>, FormatError> {
    let parts = fragments.iter().flat_map(|fragment| &fragment.parts);
    for part in parts.rev() {
        let prefix = part.prefix.as_bytes();
        let rest = match prefix.is_empty() {
            true => wanted,
            false => match wanted.strip_prefix(prefix) {
                Some([b'/', rest @ ..]) => rest,
                _ => continue,
            },
        };
        let tree = Tree::open(cache, &part.tree)?;
        let Some(entry) = tree.find(rest) else {
            continue;
        };
        if entry.kind() != Kind::File {
            return Err(FormatError::BadEntry {
                path: String::from_utf8_lossy(wanted).into_owned(),
                reason: "is not a regular file",
            });
        }
        if entry.size() == 0 {
            return Ok(None);
        }
        let mut writer = RecipeWriter::new(cache)?;
        tar::file_data(&mut writer, &entry, wanted)?;
        return writer.finish().map(Some);
    }
    Ok(None)
}

/// Returns the segments of a tar: those given, in order, and the end.
///
/// # Errors
/// When the cache cannot be written.
pub fn tar_segments(cache: &Cache, segments: &[Segment]) -> Result<Vec<Segment>, FormatError> {
    let mut all = present(segments);
    all.push(tar::end(cache)?);
    Ok(all)
}

/// Returns the segments of an initrd: microcode, raw, and then the members, in order.
///
/// # Errors
/// When the cache cannot be written.
pub fn initrd_segments(
    cache: &Cache,
    ucode: Option<&Segment>,
    members: &[Segment],
) -> Result<Vec<Segment>, FormatError> {
    let mut all = Vec::new();
    if let Some(ucode) = ucode {
        all.push(cpio::raw(cache, ucode)?);
    }
    all.extend(present(members));
    Ok(all)
}

fn present(segments: &[Segment]) -> Vec<Segment> {
    segments
        .iter()
        .filter(|segment| segment.len > 0)
        .copied()
        .collect()
}

/// Returns the files of `kernel+initrd`: `-kernel`, `-initrd.img`, `-cmdline`, those that are not
/// empty. `initrd` comes from [`initrd_segments`].
#[must_use]
pub fn kernel_initrd(boot: &Boot, initrd: &[Segment]) -> Vec<OutputFile> {
    let one = |segment: Option<Segment>| segment.into_iter().collect();
    let mut files = vec![
        OutputFile {
            suffix: "-kernel",
            segments: one(boot.kernel),
        },
        OutputFile {
            suffix: "-initrd.img",
            segments: initrd.to_vec(),
        },
        OutputFile {
            suffix: "-cmdline",
            segments: one(boot.cmdline),
        },
    ];
    files.retain(|file| !file.segments.is_empty());
    files
}

/// Returns the file of `tar-kernel-initrd`: `-initrd.tar` with `kernel`, `initrd.img`, `cmdline`
/// and `ucode.cpio`, those that are not empty, 0644, without PAX records. The initrd in it has no
/// microcode in front, since that is a member of its own.
///
/// # Errors
/// When the cache cannot be written.
pub fn tar_kernel_initrd(
    cache: &Cache,
    boot: &Boot,
    members: &[Segment],
) -> Result<OutputFile, FormatError> {
    let one = |segment: Option<Segment>| segment.into_iter().collect::<Vec<_>>();
    let mut segments = Vec::new();
    for (name, content) in [
        ("kernel", one(boot.kernel)),
        ("initrd.img", present(members)),
        ("cmdline", one(boot.cmdline)),
        ("ucode.cpio", one(boot.ucode)),
    ] {
        let len: u64 = content.iter().map(|segment| segment.len).sum();
        if len == 0 {
            continue;
        }
        segments.push(bytes(cache, &tar::plain_header(name, 0o644, MTIME, len))?);
        segments.extend(content);
        let fill = padding(len, 512);
        if fill > 0 {
            segments.push(bytes(cache, &vec![0; usize::try_from(fill).unwrap_or(0)])?);
        }
    }
    segments.push(tar::end(cache)?);
    Ok(OutputFile {
        suffix: "-initrd.tar",
        segments,
    })
}

/// Returns a segment of bytes at hand, such as a header.
///
/// # Errors
/// When the cache cannot be written.
pub fn bytes(cache: &Cache, bytes: &[u8]) -> Result<Segment, FormatError> {
    Ok(Segment {
        digest: cache.put(bytes)?,
        len: bytes.len() as u64,
        form: super::Form::Bytes,
    })
}
