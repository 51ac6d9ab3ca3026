//! `mount`: a file system found by device, label, UUID or by itself, as LinuxKit's `mountie`.
//!
//! In: what to mount and where. Out: a mount, and `/dev/disk/by-uuid/UUID`. Without a device the
//! disks are searched for a Linux partition that is not mounted; of several disks the last one
//! counts, as with LinuxKit.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;

use super::arguments::Arguments;
use super::devices::{self, Devices, Disk};
use super::superblock::{self, Superblock};
use super::table::{self, Table};
use super::tell;
use crate::bundle::make_directories;
use crate::error::{Context, Error, Result};

/// What mounts: device, mount point, type. Tests note it instead.
type Mount<'a> = &'a dyn Fn(&Path, &Path, &str) -> Result<()>;

/// `mount [-device D] [-label L] [-uuid U] [DEVICE] MOUNTPOINT`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    find_and_mount(args, &Devices::default(), &kernel_mount)
}

/// Mounts without options.
pub(super) fn kernel_mount(device: &Path, at: &Path, kind: &str) -> Result<()> {
    rustix::mount::mount(device, at, kind, MountFlags::RELATIME, None)
        .context(|| format!("mount {} ({kind}) at {}", device.display(), at.display()))
}

fn find_and_mount(args: &[String], machine: &Devices, mount: Mount<'_>) -> Result<()> {
    let args = Arguments::parse(args, &["device", "label", "uuid"], &[])?;
    let (device, at) = match args.words.as_slice() {
        [at] => (args.value("device"), *at),
        [device, at] => (Some(*device), *at),
        _ => {
            return Err(Error::new(
                "needs a mount point, and at most a device before it",
            ));
        }
    };
    let wanted = |found: &Superblock| {
        args.value("label").is_none_or(|label| found.label == label)
            && args
                .value("uuid")
                .is_none_or(|uuid| found.uuid.eq_ignore_ascii_case(uuid))
    };
    let device = match device {
        Some(device) => PathBuf::from(device),
        None if args.value("label").or(args.value("uuid")).is_some() => {
            by_superblock(machine, wanted)?
        }
        None => last_linux_partition(machine)?,
    };
    let found = superblock::read(&device);
    let at = Path::new(at);
    make_directories(at)?;
    mount_as(&device, at, found.as_ref(), mount)?;
    tell!("mount: {} at {}", device.display(), at.display());
    if let Some(found) = found {
        link(machine, &device, &found.uuid);
    }
    Ok(())
}

/// Returns a device by its path, or by what it is or holds, once it is there: `/dev/sda1`, `LABEL=…`,
/// `UUID=…`, `PARTLABEL=…` or `PARTUUID=…`.
pub(crate) fn find_device(wanted: &str) -> Result<Option<PathBuf>> {
    find_in(&Devices::default(), wanted)
}

fn find_in(machine: &Devices, wanted: &str) -> Result<Option<PathBuf>> {
    Ok(match wanted.split_once('=') {
        None => Some(machine.dev.join(wanted)).filter(|device| device.exists()),
        Some(("LABEL", label)) => by_superblock(machine, |found| found.label == label).ok(),
        Some(("UUID", uuid)) => {
            by_superblock(machine, |found| found.uuid.eq_ignore_ascii_case(uuid)).ok()
        }
        Some(("PARTLABEL", label)) => {
            by_table(machine, |table, number| Some(table.name(number)? == label))
        }
        Some(("PARTUUID", uuid)) => by_table(machine, |table, number| {
            Some(table.uuid(number)?.eq_ignore_ascii_case(uuid))
        }),
        Some((kind, _)) => {
            return Err(Error::new(format!(
                "a device is found as /dev/NAME, LABEL=NAME, UUID=ID, PARTLABEL=NAME or \
                 PARTUUID=ID, not as {kind}="
            )));
        }
    })
}

/// Mounts a device by what is on it.
pub(crate) fn mount_found(device: &Path, at: &Path, mount: Mount<'_>) -> Result<()> {
    mount_as(device, at, superblock::read(device).as_ref(), mount)
}

fn mount_as(device: &Path, at: &Path, found: Option<&Superblock>, mount: Mount<'_>) -> Result<()> {
    match found {
        Some(found) => mount(device, at, found.kind),
        None => mount_as_any(device, at, mount),
    }
}

fn by_superblock(machine: &Devices, wanted: impl Fn(&Superblock) -> bool) -> Result<PathBuf> {
    let mut devices = machine.all().into_iter();
    devices
        .find(|device| superblock::read(device).is_some_and(|found| wanted(&found)))
        .ok_or_else(|| Error::new("no device has that label or UUID"))
}

/// Returns the first partition that the table of its disk says this of, and the kernel has.
fn by_table(machine: &Devices, wanted: impl Fn(&Table, u32) -> Option<bool>) -> Option<PathBuf> {
    machine.disks().into_iter().find_map(|disk| {
        let table = table::read(&Disk::open(&disk, false).ok()?)?;
        let mut partitions = table.partitions.iter();
        let found = partitions.find(|found| wanted(&table, found.number) == Some(true))?;
        let partition = devices::partition(&disk, found.number);
        partition.exists().then_some(partition)
    })
}

/// Returns the first free Linux partition of the last disk that has one.
fn last_linux_partition(machine: &Devices) -> Result<PathBuf> {
    let mut last = None;
    for disk in machine.disks() {
        let Some(table) = Disk::open(&disk, false).ok().and_then(|d| table::read(&d)) else {
            continue;
        };
        let mut free = table
            .partitions
            .iter()
            .filter(|partition| partition.is_linux)
            .map(|partition| devices::partition(&disk, partition.number))
            .filter(|partition| machine.mount_point(partition).is_none());
        last = free.next().or(last);
    }
    last.ok_or_else(|| Error::new("no disk has a Linux partition that is not mounted"))
}

/// Tries each type that the kernel has, as mount(8) does with what it does not know.
fn mount_as_any(device: &Path, at: &Path, mount: Mount<'_>) -> Result<()> {
    let kinds = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let kinds = kinds.lines().filter_map(|line| line.strip_prefix('\t'));
    for kind in kinds {
        if mount(device, at, kind).is_ok() {
            return Ok(());
        }
    }
    Err(Error::new(format!(
        "{}: no known file system",
        device.display()
    )))
}

/// Makes udev's link by UUID, where udev is not; a mount without one is as good.
fn link(machine: &Devices, device: &Path, uuid: &str) {
    let Ok(name) = device.strip_prefix(&machine.dev) else {
        return;
    };
    let links = machine.dev.join("disk/by-uuid");
    let is_plain = uuid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if is_plain && !uuid.is_empty() && make_directories(&links).is_ok() {
        let target = Path::new("../..").join(name);
        let _ = std::os::unix::fs::symlink(target, links.join(uuid));
    }
    let _ = make_directories(&machine.dev.join("disk/by-label"));
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::super::arguments::strings;
    use super::super::devices::tests::machine;
    use super::super::superblock::tests::{image, tool};
    use super::*;

    thread_local! {
        static MOUNTED: RefCell<String> = const { RefCell::new(String::new()) };
    }

    fn note(device: &Path, at: &Path, kind: &str) -> Result<()> {
        assert!(at.is_dir());
        let device = device.file_name().unwrap().to_str().unwrap();
        MOUNTED.with(|m| *m.borrow_mut() = format!("{device} {kind}"));
        Ok(())
    }

    const UUID: &str = "6c0b32d4-8b1b-4a5e-a2b3-0123456789ab";

    /// sda: two partitions, dos; vda: one, GPT; vdb: none; sr0, sda2, vda1: file systems.
    fn disks(root: &Path) -> Devices {
        let names = ["sda", "sda1", "sda2", "sr0", "vda", "vda1", "vdb"];
        let machine = machine(root, &names);
        for (name, table) in [
            ("sda", "label: dos\n2048,2048,c\n4096,,83\n"),
            (
                "vda",
                "label: gpt\nstart=2048,type=0FC63DAF-8483-4772-8E79-3D69D8477DE4,name=\"the name\"\n",
            ),
        ] {
            let path = image(root, 8);
            let script = root.join("script");
            fs::write(&script, table).unwrap();
            let command = format!("sfdisk -q {} < {}", path.display(), script.display());
            tool("sh", "fdisk", &["-c", &command]);
            fs::rename(path, machine.dev.join(name)).unwrap();
        }
        for (name, label) in [("sda2", "one"), ("vda1", "two"), ("sr0", "three")] {
            let path = image(root, 8);
            let args = ["-q", "-t", "ext4", "-L", label, path.to_str().unwrap()];
            let args = if name == "sda2" {
                [&args[..], &["-U", UUID][..]].concat()
            } else {
                args.to_vec()
            };
            tool("mke2fs", "e2fsprogs", &args);
            fs::rename(path, machine.dev.join(name)).unwrap();
        }
        fs::write(machine.dev.join("vdb"), vec![7; 1 << 20]).unwrap();
        machine
    }

    #[test]
    fn by_device_label_uuid_and_by_itself() {
        let root = tempfile::tempdir().unwrap();
        let machine = disks(root.path());
        let at = root.path().join("var/lib/data");
        let mount = |words: &[&str]| {
            let words = [words, &[at.to_str().unwrap()]].concat();
            find_and_mount(&strings(&words), &machine, &note).map_err(|c| c.to_string())?;
            Ok::<_, String>(MOUNTED.with(|m| m.borrow().clone()))
        };
        let device = machine.dev.join("sda2");
        let device = device.to_str().unwrap();
        assert_eq!(mount(&[device]).unwrap(), "sda2 ext4");
        assert_eq!(mount(&["-device", device]).unwrap(), "sda2 ext4");
        assert_eq!(mount(&["-label", "three"]).unwrap(), "sr0 ext4");
        assert_eq!(
            mount(&["--uuid", &UUID.to_uppercase()]).unwrap(),
            "sda2 ext4"
        );
        assert_eq!(mount(&[]).unwrap(), "vda1 ext4", "the last disk counts");
        let link = fs::read_link(machine.dev.join("disk/by-uuid").join(UUID)).unwrap();
        assert_eq!(link, Path::new("../../sda2"));

        let mounted = format!("{}/vda1 /x ext4 rw 0 0\n", machine.dev.display());
        fs::write(&machine.mounts, &mounted).unwrap();
        assert_eq!(
            mount(&[]).unwrap(),
            "sda2 ext4",
            "what is mounted is not free"
        );
        let both = format!("{mounted}{device} /y ext4 rw 0 0\n");
        fs::write(&machine.mounts, both).unwrap();
        assert!(mount(&[]).unwrap_err().contains("no disk has"));
        let find = |wanted: &str| {
            let found = find_in(&machine, wanted).map_err(|cause| cause.to_string())?;
            Ok::<_, String>(
                found.map(|device| device.strip_prefix(&machine.dev).unwrap().to_owned()),
            )
        };
        let listed = |disk: &str| {
            let disk = machine.dev.join(disk).display().to_string();
            tool("sfdisk", "fdisk", &["--dump", &disk])
        };
        let dump = listed("vda");
        let uuid = dump.rsplit_once("uuid=").unwrap().1;
        let uuid = uuid.split(',').next().unwrap();
        assert_eq!(find(&format!("PARTUUID={uuid}")), Ok(Some("vda1".into())));
        let dump = listed("sda");
        let id = dump
            .lines()
            .find_map(|line| line.strip_prefix("label-id: 0x"));
        let id = format!("PARTUUID={}-02", id.unwrap().to_uppercase());
        assert_eq!(find(&id), Ok(Some("sda2".into())));
        assert_eq!(find("PARTLABEL=the name"), Ok(Some("vda1".into())));
        assert_eq!(find("PARTLABEL=name"), Ok(None));
        assert_eq!(find("sda1"), Ok(None), "not there yet");
        assert_eq!(find("LABEL=two"), Ok(Some("vda1".into())));
        assert!(find("SERIAL=1").unwrap_err().contains("not as SERIAL="));
        assert!(
            mount(&["-label", "four"])
                .unwrap_err()
                .contains("no device has")
        );
        assert!(
            mount(&["a", "b"])
                .unwrap_err()
                .contains("needs a mount point")
        );
    }
}
