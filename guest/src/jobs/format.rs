//! `format`: an empty disk gets a partition table and an ext4 file system, as with LinuxKit's
//! `pkg/format`.
//!
//! In: a disk, or none: then the first empty one. Out: a table with one partition, and in it a new
//! file system. Empty means zeros where file systems, tables, volume managers and RAID sets have
//! their marks: in the first and last mebibyte. Anything else needs `-force` and a name.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::arguments::Arguments;
use super::devices::{self, Devices, Disk, random_uuid};
use super::ext4::{self, Identity};
use super::table::{self, Kind};
use super::tell;
use crate::error::{Context, Error, Result};
use crate::sys;

/// Bytes at both ends that an empty disk has zero.
const EMPTY_BYTES: u64 = 1 << 20;
/// How long a new partition's device may take to appear.
const DEVICE_WAIT_MAX: Duration = Duration::from_secs(6);

/// Has the kernel see the new table; tests make the partition's device.
type Reread = fn(&Disk, &Path) -> Result<()>;

/// `format [-force] [-label L] [-type ext4] [-partition dos|gpt] [DEVICE]`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    format(args, &Devices::default(), |disk, device| {
        sys::reread_partitions(disk.file.as_fd()).context(|| "read the new table")?;
        let end = Instant::now() + DEVICE_WAIT_MAX;
        while !device.exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    })
}

fn format(args: &[String], machine: &Devices, reread: Reread) -> Result<()> {
    let valued = ["label", "type", "partition"];
    let args = Arguments::parse(args, &valued, &["force", "verbose"])?;
    let kind = args.value("type").unwrap_or("ext4");
    if kind != "ext4" {
        return Err(Error::new(format!(
            "{kind} is not built in; use LinuxKit's image linuxkit/format for it"
        )));
    }
    let kind = match args.value("partition").unwrap_or("dos") {
        "dos" => Kind::Dos,
        "gpt" => Kind::Gpt,
        other => {
            return Err(Error::new(format!(
                "-partition {other}: neither dos nor gpt"
            )));
        }
    };
    let identity = Identity {
        label: args.value("label").unwrap_or_default(),
        uuid: random_uuid()?,
        seed: random_uuid()?,
        now: rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec as u32,
    };
    let path = match args.words.as_slice() {
        [] => first_empty(machine)?,
        [device] => PathBuf::from(device),
        _ => return Err(Error::new("formats one disk at a time")),
    };
    let disk = Disk::open(&path, true)?;
    if !args.is_on("force") && !is_empty(&disk) {
        return Err(Error::new(format!(
            "{}: not empty; -force formats it",
            path.display()
        )));
    }
    check_unused(&path)?;
    let device = devices::partition(&path, 1);
    let done = make(&disk, kind, &device, &identity, reread);
    done.context(|| path.display())?;
    tell!(
        "format: partition {} successfully created!",
        device.display()
    );
    Ok(())
}

fn make(
    disk: &Disk,
    kind: Kind,
    device: &Path,
    identity: &Identity<'_>,
    reread: Reread,
) -> Result<()> {
    // Old marks of any kind, so that nobody sees two things in one disk.
    let zeros = vec![0; EMPTY_BYTES.min(disk.size) as usize];
    for at in [0, disk.size - zeros.len() as u64] {
        disk.file.write_all_at(&zeros, at).context(|| "write")?;
    }
    let partition = table::create(disk, kind)?;
    reread(disk, device)?;
    let opened = Disk::open(device, true)?;
    // Never more than the table says, whatever the device is.
    let size = opened.size.min(partition.sectors * disk.sector);
    ext4::create(&opened.file, size, identity).context(|| device.display())
}

fn first_empty(machine: &Devices) -> Result<PathBuf> {
    let mut disks = machine.disks().into_iter();
    disks
        .find(|disk| Disk::open(disk, false).is_ok_and(|disk| is_empty(&disk)))
        .ok_or_else(|| Error::new("no eligible disk found: none is empty"))
}

/// Refuses a disk that is mounted or held, in whole or in part: the kernel opens a block device
/// exclusively for nobody else then (open(2), `O_EXCL`), and would keep the old partitions.
fn check_unused(path: &Path) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    options.read(true).custom_flags(OFlags::EXCL.bits() as i32);
    let opened = options.open(path);
    opened.map(drop).context(|| path.display())
}

/// Returns whether both ends are zeros; a disk that cannot be read is not empty.
fn is_empty(disk: &Disk) -> bool {
    let mut bytes = vec![0; EMPTY_BYTES as usize];
    disk.size >= EMPTY_BYTES
        && [0, disk.size - EMPTY_BYTES].into_iter().all(|at| {
            let read = disk.file.read_exact_at(&mut bytes, at);
            read.is_ok() && bytes.iter().all(|byte| *byte == 0)
        })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::arguments::strings;
    use super::super::devices::tests::machine;
    use super::super::superblock::tests::{image, tool};
    use super::*;

    /// The partition's device: a file as large as the partition.
    fn appear(disk: &Disk, device: &Path) -> Result<()> {
        let partitions = table::read(disk).unwrap().partitions;
        File::create(device)
            .unwrap()
            .set_len(partitions[0].sectors * 512)
            .unwrap();
        Ok(())
    }

    fn add(root: &Path, machine: &Devices, name: &str) -> String {
        let path = machine.dev.join(name);
        fs::rename(image(root, 100), &path).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn the_first_empty_disk_and_no_other() {
        let root = tempfile::tempdir().unwrap();
        let machine = machine(root.path(), &["sda", "sdb", "sdc", "sr0"]);
        let used = add(root.path(), &machine, "sda");
        tool("mke2fs", "e2fsprogs", &["-q", &used]);
        let empty = add(root.path(), &machine, "sdb");
        add(root.path(), &machine, "sdc");
        let before = fs::read(&used).unwrap();
        for (name, args) in [
            ("sdb", &["-label", "data"][..]),
            ("sdc", &["-partition", "gpt", "-force"]),
        ] {
            format(&strings(args), &machine, appear).unwrap();
            let part = machine.dev.join(format!("{name}1"));
            tool("e2fsck", "e2fsprogs", &["-fn", part.to_str().unwrap()]);
            let disk = machine.dev.join(name);
            tool("sfdisk", "fdisk", &["--verify", disk.to_str().unwrap()]);
        }
        let label = tool("e2label", "e2fsprogs", &[&format!("{empty}1")]);
        assert_eq!(label, "data\n");
        let error = format(&[], &machine, appear).unwrap_err().to_string();
        assert!(error.contains("no eligible disk"), "{error}");
        assert!(
            fs::read(&used).unwrap() == before,
            "a disk in use was written to"
        );
    }

    #[test]
    fn a_disk_in_use_needs_force() {
        let root = tempfile::tempdir().unwrap();
        let machine = machine(root.path(), &[]);
        let path = add(root.path(), &machine, "vda");
        tool("mkfs.xfs", "xfsprogs", &["-q", "--unsupported", &path]);
        let error = |words: &[&str]| {
            format(&strings(words), &machine, appear)
                .unwrap_err()
                .to_string()
        };
        let before = fs::read(&path).unwrap();
        assert!(error(&[&path]).contains("-force"));
        assert!(error(&["-type", "xfs", &path]).contains("linuxkit/format"));
        assert!(error(&["-partition", "bsd", &path]).contains("neither"));
        assert!(fs::read(&path).unwrap() == before);
        // A mark at the end alone, as of a RAID set, is enough.
        let end = add(root.path(), &machine, "vdb");
        let file = File::options().write(true).open(&end).unwrap();
        file.write_all_at(b"x", (100 << 20) - 8192).unwrap();
        assert!(error(&[&end]).contains("-force"));

        format(&strings(&["-force", &path]), &machine, appear).unwrap();
        let said = tool("blkid", "util-linux", &["-p", &path]);
        assert!(
            said.contains("PTTYPE=\"dos\"") && !said.contains("xfs"),
            "{said}"
        );
    }
}
