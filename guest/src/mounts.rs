//! What PID 1 mounts before anything else, and how it leaves the initramfs.
//!
//! pivot_root(2) refuses to leave the kernel's own rootfs, which is why LinuxKit copies the whole
//! initramfs into a tmpfs. A bind of `/` moved over `/` is an ordinary mount, so containers can
//! pivot away from it and nothing is copied. The hidden rootfs below it stays private.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{self, MountFlags, MountPropagationFlags};

use crate::error::{Context, Result};
use crate::say;

/// `RAMFS_MAGIC` and `TMPFS_MAGIC` (`include/uapi/linux/magic.h`): what an initramfs is made of.
const INITRAMFS_MAGICS: [u64; 2] = [0x8584_58f6, 0x0102_1994];

/// `REMOUNT`, which rustix keeps internal.
const REMOUNT: MountFlags = MountFlags::from_bits_retain(crate::options::REMOUNT);

const NSX: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NOEXEC)
    .union(MountFlags::NODEV);
const NSXR: MountFlags = NSX.union(MountFlags::RELATIME);

/// One mount of the boot.
struct Boot {
    source: &'static str,
    target: &'static str,
    kind: &'static str,
    flags: MountFlags,
    data: &'static std::ffi::CStr,
    /// Absent in some kernels: passed over unless both type and target exist.
    optional: bool,
}

const fn boot(
    source: &'static str,
    target: &'static str,
    kind: &'static str,
    flags: MountFlags,
    data: &'static std::ffi::CStr,
) -> Boot {
    Boot {
        source,
        target,
        kind,
        flags,
        data,
        optional: false,
    }
}

const fn optional(
    source: &'static str,
    target: &'static str,
    kind: &'static str,
    flags: MountFlags,
) -> Boot {
    Boot {
        source,
        target,
        kind,
        flags,
        data: c"",
        optional: true,
    }
}

/// LinuxKit's table (`pkg/init/cmd/rc.init`), in its order; sizes and flags are part of the
/// contract with images.
const TABLE: &[Boot] = &[
    boot("tmpfs", "/run", "tmpfs", NSXR, c"size=10%,mode=755"),
    boot("tmpfs", "/tmp", "tmpfs", NSXR, c"size=10%,mode=1777"),
    boot("tmpfs", "/var", "tmpfs", NSXR, c"size=50%,mode=755"),
    boot("mqueue", "/dev/mqueue", "mqueue", NSX, c""),
    boot("shm", "/dev/shm", "tmpfs", NSX, c"mode=1777"),
    boot(
        "devpts",
        "/dev/pts",
        "devpts",
        MountFlags::NOSUID.union(MountFlags::NOEXEC),
        c"gid=5,mode=0620",
    ),
    boot("sysfs", "/sys", "sysfs", NSX, c""),
    optional("securityfs", "/sys/kernel/security", "securityfs", NSX),
    optional("debugfs", "/sys/kernel/debug", "debugfs", NSX),
    optional("configfs", "/sys/kernel/config", "configfs", NSX),
    optional("fusectl", "/sys/fs/fuse/connections", "fusectl", NSX),
    optional("pstore", "/sys/fs/pstore", "pstore", NSX),
    optional("efivarfs", "/sys/firmware/efi/efivars", "efivarfs", NSX),
    optional(
        "binfmt_misc",
        "/proc/sys/fs/binfmt_misc",
        "binfmt_misc",
        NSX,
    ),
    optional(
        "selinuxfs",
        "/sys/fs/selinux",
        "selinuxfs",
        MountFlags::NOSUID.union(MountFlags::NOEXEC),
    ),
    optional("bpffs", "/sys/fs/bpf", "bpf", MountFlags::NODEV),
    optional("cgroup2", "/sys/fs/cgroup", "cgroup2", NSX),
];

/// Directories of `/var`, which starts empty, with their modes.
const VAR: [(&str, u32); 9] = [
    ("cache", 0o755),
    ("lib", 0o755),
    ("local", 0o755),
    ("lock", 0o755),
    ("log", 0o755),
    ("opt", 0o755),
    ("spool", 0o755),
    ("empty", 0o555),
    ("tmp", 0o1777),
];

/// Leaves the initramfs and mounts `/proc` and `/dev`.
///
/// Only what nothing can work without is an error; the rest is said and passed over.
pub(crate) fn first_mounts() -> Result<()> {
    leave_initramfs()?;
    for directory in ["/proc", "/sys", "/dev", "/run", "/tmp", "/var"] {
        // On a disk that is mounted read-only they exist or the mount below says so.
        let _ = make_directory(directory, 0o755);
    }
    let proc_flags = NSXR;
    mount::mount("proc", "/proc", "proc", proc_flags, None).context(|| "mount /proc")?;
    let dev_flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::RELATIME;
    match mount::mount("dev", "/dev", "devtmpfs", dev_flags, c"mode=755") {
        // A kernel with DEVTMPFS_MOUNT has done it already when the root is a disk.
        Ok(()) | Err(Errno::BUSY) => {}
        Err(cause) => return Err(cause).context(|| "mount /dev"),
    }
    crate::console::close_standard_streams();
    Ok(())
}

/// Mounts the rest; afterwards `/` is read-only and the tree is shared.
pub(crate) fn other_mounts() -> Result<()> {
    for (name, mode) in [("mqueue", 0o1777), ("shm", 0o1777), ("pts", 0o755)] {
        let _ = make_directory(&format!("/dev/{name}"), mode);
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("kcore", "/proc/kcore"),
    ] {
        let _ = symlink(target, format!("/dev/{name}"));
    }
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    for entry in TABLE {
        mount_one(entry, &known);
    }
    for (name, mode) in VAR {
        make_directory(&format!("/var/{name}"), mode).context(|| format!("/var/{name}"))?;
    }
    let _ = symlink("/run", "/var/run");
    make_root_readonly();
    mount::mount_change(
        "/",
        MountPropagationFlags::SHARED | MountPropagationFlags::REC,
    )
    .context(|| "make / shared")
}

/// Returns whether `/` is in memory; if nothing says so, it is a disk.
pub(crate) fn is_initramfs() -> bool {
    rustix::fs::statfs("/").is_ok_and(|root| INITRAMFS_MAGICS.contains(&(root.f_type as u64)))
}

/// Makes `/` an ordinary mount if it is the initramfs.
fn leave_initramfs() -> Result<()> {
    if !is_initramfs() {
        return Ok(());
    }
    // /run exists in every system with services and is about to be covered anyway.
    let _ = make_directory("/run", 0o755);
    mount::mount_bind("/", "/run").context(|| "bind / to leave the initramfs")?;
    rustix::process::chdir("/run").context(|| "enter the bind of /")?;
    mount::mount_move(".", "/").context(|| "move the bind of / over /")?;
    rustix::process::chroot(".").context(|| "chroot to the bind of /")?;
    rustix::process::chdir("/").context(|| "chdir /")
}

fn mount_one(entry: &Boot, known: &str) {
    if entry.optional {
        let is_known = known
            .lines()
            .any(|line| line.split_whitespace().next_back() == Some(entry.kind));
        // Asking for an unknown type would make the kernel run modprobe, in vain, every boot.
        if !is_known || !Path::new(entry.target).is_dir() {
            return;
        }
    }
    match mount::mount(
        entry.source,
        entry.target,
        entry.kind,
        entry.flags,
        entry.data,
    ) {
        Ok(()) => {}
        Err(_) if entry.optional => {}
        Err(cause) => say!("mount {}: {cause}", entry.target),
    }
}

/// Makes the file system of `/` read-only as a whole, and not its mount alone: a container that
/// binds a part of it with "rw" would get a writable mount again.
fn make_root_readonly() {
    let flags = MountFlags::RDONLY | REMOUNT;
    if let Err(cause) = mount::mount("", "/", "", flags, None) {
        say!("make / read-only: {cause}");
    }
}

/// Makes a directory with exactly this mode, whatever the umask; one that exists is left alone.
pub(crate) fn make_directory(path: &str, mode: u32) -> std::io::Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode)),
        Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(cause) => Err(cause),
    }
}
