//! `extend`: a partition and its ext4 file system grown to the end of a disk, as LinuxKit's
//! `pkg/extend` does for disks that were made larger.
//!
//! In: disks; without names, those whose only partition is Linux. Out: a table whose last partition
//! reaches to the end, and a file system of that size. The file system grows while it is mounted
//! (`EXT4_IOC_RESIZE_FS`), so it need not be checked first and may be in use.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;

use super::arguments::Arguments;
use super::devices::{self, Devices, Disk};
use super::mount::kernel_mount;
use super::table::Partition;
use super::{superblock, table, tell};
use crate::bundle::make_directories;
use crate::error::{Context, Error, Result};
use crate::sys;

/// What the kernel does; tests have Debian's tools do it.
struct Acts {
    resize_partition: fn(&Disk, &Partition, &Path) -> Result<()>,
    mount: fn(&Path, &Path, &str) -> Result<()>,
    unmount: fn(&Path) -> Result<()>,
    resize: fn(&Path, u64) -> Result<()>,
    /// Where a file system is mounted that is not.
    mount_point: PathBuf,
}

/// `extend [-type ext4] [-stop-on-error=true] [DEVICE…]`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let acts = Acts {
        resize_partition: |disk, partition, _| {
            let (start, length) = (
                partition.start * disk.sector,
                partition.sectors * disk.sector,
            );
            sys::resize_partition(disk.file.as_fd(), partition.number, start, length)
                .context(|| "tell the kernel")
        },
        mount: kernel_mount,
        unmount: |at| rustix::mount::unmount(at, UnmountFlags::empty()).context(|| "unmount"),
        resize: |at, blocks| {
            let inside = File::open(at).context(|| at.display())?;
            sys::resize_ext4(inside.as_fd(), blocks).context(|| "grow")
        },
        mount_point: "/run/kiln-extend".into(),
    };
    extend(args, &Devices::default(), &acts)
}

fn extend(args: &[String], machine: &Devices, acts: &Acts) -> Result<()> {
    let args = Arguments::parse(args, &["type"], &["stop-on-error", "verbose"])?;
    let kind = args.value("type").unwrap_or("ext4");
    if kind != "ext4" {
        return Err(Error::new(format!(
            "{kind} is not built in; use LinuxKit's image linuxkit/extend for it"
        )));
    }
    let is_named = !args.words.is_empty();
    let disks = match is_named {
        true => args.words.iter().map(PathBuf::from).collect(),
        false => machine.disks(),
    };
    let stops = args.value("stop-on-error") != Some("false");
    for disk in disks {
        match extend_disk(&disk, is_named, machine, acts) {
            Ok(done) => tell!("extend: {}: {done}", disk.display()),
            Err(cause) if stops => return Err(cause).context(|| disk.display()),
            Err(cause) => tell!("extend: {}: {cause}", disk.display()),
        }
    }
    Ok(())
}

/// Grows the last partition of a disk and what is in it; says what was done or why nothing was.
fn extend_disk(path: &Path, is_named: bool, machine: &Devices, acts: &Acts) -> Result<String> {
    let skip = |why: &str| match is_named {
        true => Err(Error::new(why)),
        false => Ok(format!("{why}, skipped")),
    };
    let disk = match Disk::open(path, true) {
        Ok(disk) => disk,
        Err(cause) => return skip(&cause.to_string()),
    };
    let Some(mut table) = table::read(&disk) else {
        return skip("no partition table");
    };
    if !is_named && table.partitions.len() != 1 {
        return skip("not exactly one partition");
    }
    let Some(last) = table.partitions.iter().max_by_key(|p| p.start).copied() else {
        return skip("no partition");
    };
    let device = devices::partition(path, last.number);
    // Looked at before anything is changed.
    let is_ext4 = superblock::read(&device).is_some_and(|found| found.kind == "ext4");
    if !last.is_linux || !is_ext4 {
        return skip("the last partition is no Linux partition with ext4");
    }
    let grown = table::grow_last(&disk, &mut table)?;
    if let Some(grown) = &grown {
        (acts.resize_partition)(&disk, grown, &device)?;
    }
    let (blocks, block) = size(&device)?;
    let bytes = grown.unwrap_or(last).sectors * disk.sector;
    if bytes / block <= blocks {
        return Ok(format!("fills the disk already ({bytes} bytes)"));
    }
    match machine.mount_point(&device) {
        Some(at) => (acts.resize)(&at, bytes / block)?,
        None => {
            let at = &acts.mount_point;
            make_directories(at)?;
            (acts.mount)(&device, at, "ext4")?;
            let done = (acts.resize)(at, bytes / block);
            (acts.unmount)(at)?;
            let _ = std::fs::remove_dir(at);
            done?;
        }
    }
    Ok(format!("grown from {} to {bytes} bytes", blocks * block))
}

/// Returns the number and size of an ext4 file system's blocks (`struct ext4_super_block`).
fn size(device: &Path) -> Result<(u64, u64)> {
    let mut bytes = [0; 1024];
    File::open(device)
        .and_then(|file| file.read_exact_at(&mut bytes, 1024))
        .context(|| device.display())?;
    let word = |at: usize| {
        let word = bytes.get(at..at + 4).unwrap_or_default();
        word.iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    };
    // The high half counts with the feature 64bit only.
    let high = if word(96) & 0x80 == 0 { 0 } else { word(336) };
    Ok((high << 32 | word(4), 1024 << word(24).min(6)))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};

    use super::super::arguments::strings;
    use super::super::devices::tests::machine;
    use super::super::superblock::tests::{image, tool};
    use super::super::table::Kind;
    use super::*;

    fn grow_file(path: &Path, size: u64) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(size).unwrap();
    }

    fn acts(root: &Path) -> Acts {
        Acts {
            resize_partition: |disk, partition, device| {
                grow_file(device, partition.sectors * disk.sector);
                Ok(())
            },
            mount: |device, at, kind| {
                assert_eq!(kind, "ext4");
                fs::write(at.join("device"), device.to_str().unwrap()).unwrap();
                Ok(())
            },
            unmount: |at| {
                fs::remove_file(at.join("device")).unwrap();
                Ok(())
            },
            resize: |at, blocks| {
                let device = fs::read_to_string(at.join("device")).unwrap();
                tool("e2fsck", "e2fsprogs", &["-fp", &device]);
                tool("resize2fs", "e2fsprogs", &[&device, &blocks.to_string()]);
                Ok(())
            },
            mount_point: root.join("mnt"),
        }
    }

    /// A disk of 9 MiB with one partition that has ext4, made 32 MiB large.
    fn disk(machine: &Devices, root: &Path, name: &str, kind: Kind) {
        let path = image(root, 9);
        let partition = table::create(&Disk::open(&path, true).unwrap(), kind).unwrap();
        grow_file(&path, 32 << 20);
        fs::rename(path, machine.dev.join(name)).unwrap();
        let path = image(root, 1);
        grow_file(&path, partition.sectors * 512);
        tool(
            "mke2fs",
            "e2fsprogs",
            &["-q", "-t", "ext4", path.to_str().unwrap()],
        );
        let part = devices::partition(&machine.dev.join(name), 1);
        fs::rename(path, part).unwrap();
    }

    #[test]
    fn a_larger_disk_gets_a_larger_file_system() {
        let root = tempfile::tempdir().unwrap();
        let machine = machine(root.path(), &["vda", "vdb", "vdc"]);
        disk(&machine, root.path(), "vda", Kind::Dos);
        disk(&machine, root.path(), "vdc", Kind::Gpt);
        fs::write(machine.dev.join("vdb"), vec![0; 1 << 20]).unwrap();
        extend(&[], &machine, &acts(root.path())).unwrap();
        for (part, bytes) in [("vda1", 31 << 20), ("vdc1", 30 << 20)] {
            let part = machine.dev.join(part);
            let (blocks, block) = size(&part).unwrap();
            assert_eq!(blocks * block, bytes);
            tool("e2fsck", "e2fsprogs", &["-fn", part.to_str().unwrap()]);
        }
        assert!(!root.path().join("mnt").exists());
        let path = machine.dev.join("vda");
        let done = extend_disk(&path, true, &machine, &acts(root.path())).unwrap();
        assert!(done.contains("fills the disk already"), "{done}");
    }

    #[test]
    fn what_is_no_ext4_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let machine = machine(root.path(), &["vda"]);
        disk(&machine, root.path(), "vda", Kind::Dos);
        let (path, part) = (machine.dev.join("vda"), machine.dev.join("vda1"));
        fs::write(&part, vec![0; 8 << 20]).unwrap();
        let before = fs::read(&path).unwrap();
        let acts = acts(root.path());
        extend(&[], &machine, &acts).unwrap();
        let named = strings(&[path.to_str().unwrap()]);
        let error = extend(&named, &machine, &acts).unwrap_err().to_string();
        assert!(error.contains("no Linux partition with ext4"), "{error}");
        let error = extend(&strings(&["-type", "xfs"]), &machine, &acts).unwrap_err();
        assert!(error.to_string().contains("linuxkit/extend"));
        assert!(fs::read(&path).unwrap() == before, "the table was changed");
    }
}
