//! The machine's block devices and what is mounted, for the jobs that work on disks.
//!
//! In: sysfs, `/dev`, `/proc/mounts`. Out: names and paths.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};

/// Where devices are found, and what only root can do; tests replace both.
pub(super) struct Devices {
    pub(super) sys: PathBuf,
    pub(super) dev: PathBuf,
    pub(super) mounts: PathBuf,
}

impl Default for Devices {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            dev: "/dev".into(),
            mounts: "/proc/mounts".into(),
        }
    }
}

impl Devices {
    /// Returns every block device, in the order of their places in the machine: the letters of SCSI
    /// disks are given in the order in which the kernel is done probing them, which is another one
    /// at the next boot.
    pub(super) fn all(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.sys.join("class/block"));
        let mut all: Vec<(PathBuf, PathBuf)> = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| {
                let place = fs::canonicalize(entry.path()).unwrap_or_default();
                (place, self.dev.join(entry.file_name()))
            })
            .collect();
        all.sort();
        all.into_iter().map(|(_, device)| device).collect()
    }

    /// Returns those that LinuxKit takes for disks, in that order: all but `loop*`, `nbd*` and
    /// letters followed by digits, which are partitions (`sda1`) and drives (`sr0`).
    pub(super) fn disks(&self) -> Vec<PathBuf> {
        let mut disks = self.all();
        disks.retain(|disk| {
            let name = disk.file_name().unwrap_or_default().to_string_lossy();
            let rest = name.trim_end_matches(|c: char| c.is_ascii_digit());
            let is_part = rest.len() < name.len() && rest.bytes().all(|b| b.is_ascii_lowercase());
            !is_part && !name.starts_with("loop") && !name.starts_with("nbd")
        });
        disks
    }

    /// Returns where a device is mounted.
    pub(super) fn mount_point(&self, device: &Path) -> Option<PathBuf> {
        let mounts = fs::read_to_string(&self.mounts).unwrap_or_default();
        mounts.lines().find_map(|line| {
            let mut words = line.split(' ');
            let is_ours = Path::new(words.next()?) == device;
            is_ours.then(|| words.next().map(PathBuf::from))?
        })
    }
}

/// Returns the device of a disk's partition: `sda1`, but `nvme0n1p1`.
pub(super) fn partition(disk: &Path, number: u32) -> PathBuf {
    let mut path = disk.as_os_str().to_owned();
    let last = path.as_encoded_bytes().last();
    if last.is_some_and(u8::is_ascii_digit) {
        path.push("p");
    }
    path.push(number.to_string());
    path.into()
}

/// A disk or an image of one, opened.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) file: File,
    /// Bytes.
    pub(super) size: u64,
    /// Bytes of a logical sector.
    pub(super) sector: u64,
}

impl Disk {
    /// Opens a device; for writing if asked.
    pub(super) fn open(path: &Path, write: bool) -> Result<Self> {
        let mut options = fs::OpenOptions::new();
        let opened = options.read(true).write(write).open(path);
        let mut file = opened.context(|| path.display())?;
        let size = file.seek(SeekFrom::End(0)).context(|| path.display())?;
        let kind = file.metadata().context(|| path.display())?.file_type();
        let sector = match kind.is_block_device() {
            true => rustix::fs::ioctl_blksszget(&file).context(|| path.display())?,
            false => 512,
        };
        Ok(Self {
            file,
            size,
            sector: u64::from(sector),
        })
    }
}

/// Fills a buffer with random bytes.
pub(super) fn random(bytes: &mut [u8]) -> Result<()> {
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(bytes))
        .context(|| "/dev/urandom")
}

/// A random UUID (RFC 9562, 5.4).
pub(super) fn random_uuid() -> Result<[u8; 16]> {
    let mut uuid = [0; 16];
    random(&mut uuid)?;
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    Ok(uuid)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A machine in a directory whose block devices have the names given.
    pub(in crate::jobs) fn machine(root: &Path, names: &[&str]) -> Devices {
        let devices = Devices {
            sys: root.join("sys"),
            dev: root.join("dev"),
            mounts: root.join("mounts"),
        };
        fs::create_dir_all(&devices.dev).unwrap();
        for name in names {
            fs::create_dir_all(devices.sys.join("class/block").join(name)).unwrap();
        }
        fs::write(&devices.mounts, "").unwrap();
        devices
    }

    #[test]
    fn disks_come_by_their_places() {
        let root = tempfile::tempdir().unwrap();
        let devices = machine(root.path(), &[]);
        let class = devices.sys.join("class/block");
        fs::create_dir_all(&class).unwrap();
        for (place, name) in [("0:0:1:0", "sda"), ("0:0:0:0", "sdb")] {
            let place = devices.sys.join("devices").join(place).join(name);
            fs::create_dir_all(&place).unwrap();
            std::os::unix::fs::symlink(place, class.join(name)).unwrap();
        }
        let disks = ["sdb", "sda"].map(|name| devices.dev.join(name));
        assert_eq!(devices.disks(), disks);
    }

    #[test]
    fn disks_as_linuxkit_sees_them() {
        let root = tempfile::tempdir().unwrap();
        let names = [
            "vda",
            "vda1",
            "sda",
            "sda15",
            "sr0",
            "nvme0n1",
            "nvme0n1p1",
            "dm-0",
            "md0",
            "loop0",
            "nbd0",
            "mmcblk0p1",
        ];
        let devices = machine(root.path(), &names);
        let disks: Vec<_> = devices
            .disks()
            .iter()
            .map(|d| d.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            disks,
            ["dm-0", "mmcblk0p1", "nvme0n1", "nvme0n1p1", "sda", "vda"]
        );
        let name = |disk: &str| partition(Path::new(disk), 1).display().to_string();
        assert_eq!(name("/dev/sda"), "/dev/sda1");
        assert_eq!(name("/dev/nvme0n1"), "/dev/nvme0n1p1");
        fs::write(&devices.mounts, "/dev/sda1 /var/lib ext4 rw 0 0\n").unwrap();
        let at = |device| devices.mount_point(Path::new(device));
        assert_eq!(at("/dev/sda1"), Some("/var/lib".into()));
        assert_eq!(at("/dev/sda"), None);
    }
}
