//! Providers that are a disk: LinuxKit's CD-ROM, cloud-init's NoCloud and OpenStack's config drive.
//!
//! In: the block devices of the machine. Out: what one of them holds, as [`Found`]. A device counts
//! by its file system's label (`cidata`, `config-2`, in either case), for CD-ROMs by its name. It
//! is mounted read-only for as long as it takes to read a few files; links on it are not followed.
//! Layouts: cloud-init's documentation, "NoCloud" and "ConfigDrive".

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::documents::Shape;
use super::{Found, Places, json, nocloud};
use crate::bundle::make_directories;
use crate::error::{Context, Error, Result};
use crate::jobs::superblock;
use crate::jobs::tell;

/// Largest file read.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// LinuxKit's `cdrom`: devices labelled `cidata`, then CD-ROM drives.
pub(super) fn cdrom(places: &Places) -> Option<Found> {
    let mut devices = labelled(places, "cidata");
    let mut drives: Vec<PathBuf> = names(&places.dev)
        .filter(|name| {
            name.strip_prefix("sr")
                .is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit()))
        })
        .map(|name| places.dev.join(name))
        .collect();
    drives.sort();
    drives.retain(|drive| !devices.contains(drive));
    devices.extend(drives);
    first(places, "CDROM", &devices, cidata)
}

/// `nocloud`: the same, but only devices that are labelled.
pub(super) fn no_cloud(places: &Places) -> Option<Found> {
    first(places, "NoCloud", &labelled(places, "cidata"), cidata)
}

/// `configdrive`: devices labelled `config-2`.
pub(super) fn config_drive(places: &Places) -> Option<Found> {
    first(
        places,
        "ConfigDrive",
        &labelled(places, "config-2"),
        config_2,
    )
}

/// Returns what the first device with anything useful holds.
fn first(
    places: &Places,
    title: &str,
    devices: &[PathBuf],
    read: fn(&Path, &mut Found) -> Result<()>,
) -> Option<Found> {
    devices.iter().find_map(|device| {
        let title = format!("{title} {}", device.display());
        tell!("metadata: trying {title}");
        let mut found = Found::new(&title);
        let done = with_mounted(places, device, |root| read(root, &mut found));
        match done {
            Ok(()) if found.is_empty() => tell!("metadata: {title}: nothing there"),
            Ok(()) => return Some(found),
            Err(cause) => tell!("metadata: {title}: {cause}"),
        }
        None
    })
}

/// Returns the devices whose file system has a label, in name order.
fn labelled(places: &Places, label: &str) -> Vec<PathBuf> {
    let mut devices: Vec<PathBuf> = names(&places.sys.join("class/block"))
        .filter(|name| !name.starts_with("loop") && !name.starts_with("ram"))
        .map(|name| places.dev.join(name))
        .filter(|device| {
            let found = superblock::read(device);
            found.is_some_and(|s| s.label.eq_ignore_ascii_case(label))
        })
        .collect();
    devices.sort();
    devices
}

fn names(directory: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// Mounts a device, reads from it and takes it away again.
fn with_mounted(
    places: &Places,
    device: &Path,
    read: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let kind = superblock::read(device).map(|found| found.kind);
    let kind = kind.filter(|kind| matches!(*kind, "iso9660" | "vfat"));
    let kind = kind.ok_or_else(|| Error::new("neither ISO 9660 nor FAT"))?;
    make_directories(&places.mount_point)?;
    (places.mount)(device, &places.mount_point, kind)?;
    let done = read(&places.mount_point);
    (places.unmount)(&places.mount_point)?;
    let _ = fs::remove_dir(&places.mount_point);
    done
}

/// `user-data`, LinuxKit's `config` in its place, and `meta-data`.
fn cidata(root: &Path, found: &mut Found) -> Result<()> {
    found.userdata = match file(root, "user-data")? {
        Some(data) => Some(data),
        None => file(root, "config")?,
    };
    if let Some(meta) = file(root, "meta-data")? {
        nocloud::read(&meta, found);
    }
    Ok(())
}

/// `openstack/latest/meta_data.json` and `user_data`.
fn config_2(root: &Path, found: &mut Found) -> Result<()> {
    const SHAPE: Shape = Shape {
        hostname: ["/hostname", "/name"],
        files: &[
            ("/uuid", "instance_id"),
            ("/availability_zone", "availability_zone"),
        ],
        keys: "/public_keys",
    };
    found.userdata = file(root, "openstack/latest/user_data")?;
    if let Some(meta) = file(root, "openstack/latest/meta_data.json")? {
        SHAPE.read(&json(&meta)?, found);
    }
    Ok(())
}

/// Reads a file below `root`; `None` if there is none.
fn file(root: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let directory = File::open(root).context(|| root.display())?;
    let opened = rustix::fs::openat2(
        &directory,
        name,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    );
    let file = match opened {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(cause) => return Err(cause).context(|| name),
    };
    let metadata = file.metadata().context(|| name)?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(Error::new(format!(
            "{name}: no file of at most {FILE_BYTES_MAX} bytes"
        )));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .context(|| name)?;
    Ok(Some(bytes))
}
