//! `swap`: a swap file, as LinuxKit's `pkg/swap` makes it.
//!
//! In: a path below `/var`, a size, conditions. Out: a file with a swap header (`union
//! swap_header` in `include/linux/swap.h`), in use. A file that is swap already and has the size
//! is used as it is. Encryption needs a device mapper and is LinuxKit's image's.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, IFlags, OFlags};

use super::arguments::Arguments;
use super::devices::random_uuid;
use super::{superblock, tell};
use crate::bundle::make_directories;
use crate::error::{Context, Error, Result};
use crate::sys;

/// The kernel refuses less (`mm/swapfile.c`), and so does mkswap(8).
const PAGES_MIN: u64 = 10;
/// Where the header is, behind room for a boot loader.
const HEADER: usize = 1024;

/// What tests replace.
struct Machine {
    /// Where swap files may be.
    var: PathBuf,
    mounts: PathBuf,
    swap_on: fn(&Path) -> Result<()>,
}

/// `swap --path /var/FILE --size N[K|M|G] [--condition …]…`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let machine = Machine {
        var: "/var".into(),
        mounts: "/proc/mounts".into(),
        swap_on: |path| match sys::swap_on(path) {
            // It is in use already.
            Err(cause) if cause.kind() == std::io::ErrorKind::ResourceBusy => Ok(()),
            Err(cause) if cause.kind() == std::io::ErrorKind::InvalidInput => {
                Err(Error::new(format!(
                    "swapon {}: {cause}; is it on a disk? (/var is in RAM where none is mounted)",
                    path.display()
                )))
            }
            done => done.context(|| format!("swapon {}", path.display())),
        },
    };
    make(args, &machine)
}

fn make(args: &[String], machine: &Machine) -> Result<()> {
    let args = Arguments::parse(args, &["path", "size", "condition"], &["debug", "encrypt"])?;
    if args.is_on("encrypt") {
        return Err(Error::new(
            "--encrypt is not built in; use LinuxKit's image linuxkit/swap for it",
        ));
    }
    let path = args
        .value("path")
        .ok_or_else(|| Error::new("needs --path"))?;
    let size = args
        .value("size")
        .ok_or_else(|| Error::new("needs --size"))?;
    let (path, size) = (Path::new(path), bytes(size)?);
    let below = path.strip_prefix(&machine.var);
    let plain = |part| matches!(part, std::path::Component::Normal(_));
    if !below.is_ok_and(|p| p.components().count() > 0 && p.components().all(plain)) {
        let (path, var) = (path.display(), machine.var.display());
        return Err(Error::new(format!("{path}: not below {var}")));
    }
    for condition in args.values("condition") {
        if let Some((unmet, required)) = unmet(condition, &machine.mounts)? {
            if required {
                return Err(Error::new(unmet));
            }
            tell!("swap: {unmet}, no swap");
            return Ok(());
        }
    }
    let page = rustix::param::page_size() as u64;
    if size / page < PAGES_MIN {
        return Err(Error::new(format!(
            "--size {size}: less than {} bytes",
            page * PAGES_MIN
        )));
    }
    let is_there = fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.len() == size)
        && superblock::read(path).is_some_and(|found| found.kind == "swap");
    if !is_there {
        create(path, size, page).context(|| path.display())?;
        tell!("swap: made {} of {size} bytes", path.display());
    }
    (machine.swap_on)(path)?;
    tell!("swap: {} in use", path.display());
    Ok(())
}

/// Reads `N`, `NK`, `NM` or `NG`.
fn bytes(size: &str) -> Result<u64> {
    let (digits, shift) = match size.as_bytes().last() {
        Some(b'K') => (&size[..size.len() - 1], 10),
        Some(b'M') => (&size[..size.len() - 1], 20),
        Some(b'G') => (&size[..size.len() - 1], 30),
        _ => (size, 0),
    };
    let number = digits.parse::<u64>().ok();
    number
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| Error::new(format!("{size:?} is no size (N, NK, NM or NG)")))
}

/// Returns what is not as a condition wants it, and whether that is a failure.
fn unmet(condition: &str, mounts: &Path) -> Result<Option<(String, bool)>> {
    let words: Vec<&str> = condition.split(':').collect();
    let (unmet, required) = match words.as_slice() {
        ["part", path, required @ ..] => {
            let mounts = fs::read_to_string(mounts).context(|| mounts.display())?;
            let is_mounted = mounts.lines().any(|l| l.split(' ').nth(1) == Some(path));
            let unmet = (!is_mounted).then(|| format!("{path} is no mount point"));
            (unmet, required)
        }
        ["partsize", path, size, required @ ..] => {
            let found = rustix::fs::statvfs(*path).context(|| path)?;
            let has = found.f_blocks.saturating_mul(found.f_frsize);
            let is_less = has < bytes(size)?;
            let unmet = is_less.then(|| format!("{path} has {has} bytes, not {size}"));
            (unmet, required)
        }
        _ => return Err(Error::new(format!("unknown condition {condition:?}"))),
    };
    Ok(unmet.map(|unmet| (unmet, required == ["true"])))
}

/// Makes the file and its header; nothing of what was there stays.
fn create(path: &Path, size: u64, page: u64) -> Result<()> {
    if let Some(parent) = path.parent() {
        make_directories(parent)?;
    }
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
            return Err(cause).context(|| "remove");
        }
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.custom_flags(OFlags::NOFOLLOW.bits() as i32);
    let mut file = options.open(path).context(|| "create")?;
    file.set_permissions(fs::Permissions::from_mode(0o600))
        .context(|| "mode")?;
    // btrfs takes a swap file only without copy-on-write; others do not know the flag.
    let _ = rustix::fs::ioctl_setflags(&file, IFlags::NOCOW);
    // Swap files have no holes. Where the file system cannot reserve, zeros do.
    if rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size).is_err() {
        let zeros = vec![0; 1 << 20];
        let mut left = size;
        while left > 0 {
            let count = left.min(zeros.len() as u64);
            file.write_all(&zeros[..count as usize])
                .context(|| "write")?;
            left -= count;
        }
    }
    file.write_all_at(&header(size, page, random_uuid()?)?, 0)
        .context(|| "write")?;
    file.sync_all().context(|| "sync")
}

/// Returns the first page: version 1, the last page's number, no bad pages, a UUID, the mark.
fn header(size: u64, page: u64, uuid: [u8; 16]) -> Result<Vec<u8>> {
    let last = u32::try_from(size / page - 1).context(|| format!("{size} bytes"))?;
    let mut header = vec![0; page as usize];
    header[HEADER..HEADER + 4].copy_from_slice(&1u32.to_ne_bytes());
    header[HEADER + 4..HEADER + 8].copy_from_slice(&last.to_ne_bytes());
    header[HEADER + 12..HEADER + 28].copy_from_slice(&uuid);
    let end = header.len();
    header[end - 10..].copy_from_slice(b"SWAPSPACE2");
    Ok(header)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::unix::fs::MetadataExt;

    use super::super::arguments::strings;
    use super::super::superblock::tests::tool;
    use super::*;

    thread_local! {
        static USED: Cell<u32> = const { Cell::new(0) };
    }

    fn machine(root: &Path) -> Machine {
        let mounts = root.join("mounts");
        fs::write(&mounts, "/dev/a /var/lib ext4 rw 0 0\n").unwrap();
        Machine {
            var: root.to_owned(),
            mounts,
            swap_on: |_| {
                USED.set(USED.get() + 1);
                Ok(())
            },
        }
    }

    #[test]
    fn a_file_that_others_know_as_swap() {
        let root = tempfile::tempdir().unwrap();
        let machine = machine(root.path());
        let path = root.path().join("sub/swap");
        let text = path.to_str().unwrap();
        fs::create_dir(root.path().join("sub")).unwrap();
        fs::write(&path, "another file").unwrap();
        let args = strings(&[
            "--path",
            text,
            "--size",
            "1M",
            "--condition",
            "part:/var/lib",
        ]);
        make(&args, &machine).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.len(), metadata.mode() & 0o7777), (1 << 20, 0o600));
        assert!(metadata.blocks() * 512 >= 1 << 20, "it has holes");
        let said = tool("swaplabel", "util-linux", &[text]);
        let uuid = superblock::read(&path).unwrap().uuid;
        assert!(said.contains(&uuid), "{said}");
        let said = tool("blkid", "util-linux", &["-p", "-o", "export", text]);
        assert!(
            said.contains("TYPE=swap") && said.contains("VERSION=1"),
            "{said}"
        );
        let theirs = root.path().join("theirs");
        fs::File::create(&theirs).unwrap().set_len(1 << 20).unwrap();
        tool(
            "mkswap",
            "util-linux",
            &["-U", &uuid, theirs.to_str().unwrap()],
        );
        assert!(
            fs::read(&theirs).unwrap() == fs::read(&path).unwrap(),
            "mkswap writes another header"
        );

        // The same again: used, not made anew. Another size: made anew.
        make(&args, &machine).unwrap();
        assert_eq!(superblock::read(&path).unwrap().uuid, uuid);
        make(&strings(&["--path", text, "--size", "2048K"]), &machine).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 2 << 20);
        assert_ne!(superblock::read(&path).unwrap().uuid, uuid);
        assert_eq!(USED.get(), 3);
    }

    #[test]
    fn conditions_and_mistakes() {
        let root = tempfile::tempdir().unwrap();
        let machine = machine(root.path());
        let path = root.path().join("swap");
        let text = path.to_str().unwrap();
        let with = |more: &[&str]| {
            let words = [&["--path", text, "--size", "1M"], more].concat();
            make(&strings(&words), &machine).map_err(|cause| cause.to_string())
        };
        with(&["--condition", "part:/var"]).unwrap();
        with(&["--condition", "partsize:/:900000000G"]).unwrap();
        assert!(!path.exists(), "made although a condition was not met");
        for (more, why) in [
            (
                &["--condition", "part:/var:true"][..],
                "/var is no mount point",
            ),
            (&["--condition", "partsize:/:900000000G:true"], "has"),
            (&["--condition", "moon:full"], "unknown condition"),
            (&["--encrypt"], "not built in"),
            (&["--size", "1T"], "no size"),
            (&["--size", "99999999999999G"], "no size"),
            (&["--size", "39999"], "less than"),
            (&["--path", "/etc/passwd"], "not below"),
            (
                &["--path", &format!("{}/../x", root.path().display())],
                "not below",
            ),
            (&["--path", root.path().to_str().unwrap()], "not below"),
        ] {
            let error = with(more).unwrap_err();
            assert!(error.contains(why), "{more:?}: {error}");
        }
        with(&["--condition", "partsize:/:1K:true"]).unwrap();
        assert!(path.exists());
    }
}
