//! What mount(2) cannot say of a mount: attributes of everything below it, and whose files are
//! whose (mount_setattr(2), Linux 5.12).
//!
//! An id-mapped mount takes rights over its file system, which a container in a user namespace has
//! not: such mounts are made outside, belong nowhere yet, and are put in place by the container's
//! process.

use std::io;
use std::io::{Read, pipe};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use rustix::process::WaitOptions;

use crate::error::{Context, Error, Result};
use crate::namespaces;
use crate::options;
use crate::spec::{Config, Mount};
use crate::sys::{self, Fork};

/// `struct mount_attr` (`include/uapi/linux/mount.h`).
#[repr(C)]
#[derive(Debug, Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

fn set(mount: &OwnedFd, recursive: bool, attr: &MountAttr) -> io::Result<()> {
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is empty and ends in a zero; the kernel reads the attributes, of which the
    // size is passed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets and clears attributes (`MOUNT_ATTR_*`) of a mount and of all below it.
pub(crate) fn set_recursively(mount: &OwnedFd, attributes: (u64, u64)) -> Result<()> {
    let attr = MountAttr {
        set: attributes.0,
        clear: attributes.1,
        ..MountAttr::default()
    };
    set(mount, true, &attr).context(|| "recursive attributes")
}

/// Makes the id-mapped mounts of a container, none where a mount is an ordinary one.
pub(crate) fn id_mapped(config: &Config, bundle: &Path) -> Result<Vec<Option<OwnedFd>>> {
    let each = config.mounts.iter().enumerate();
    each.map(|(index, wanted)| {
        let parsed = options::parse(&wanted.options)?;
        let asked = parsed.id_map.is_some() || !wanted.uid_mappings.is_empty();
        let make = || id_mapped_mount(config, bundle, wanted, &parsed);
        asked
            .then(make)
            .transpose()
            .context(|| format!("config.json: mounts[{index}]: {}", wanted.destination))
    })
    .collect()
}

fn id_mapped_mount(
    config: &Config,
    bundle: &Path,
    wanted: &Mount,
    parsed: &options::Options,
) -> Result<OwnedFd> {
    if !parsed.is_bind() && wanted.kind != "bind" {
        return Err(Error::new("uidMappings: only a bind can have them"));
    }
    // Without maps of its own, a mount has the container's.
    let (uids, gids) = match wanted.uid_mappings.is_empty() {
        true => (&config.linux.uid_mappings, &config.linux.gid_mappings),
        false => (&wanted.uid_mappings, &wanted.gid_mappings),
    };
    let (mut gate, keeper) = pipe().context(|| "pipe")?;
    let pid = match sys::fork(libc::CLONE_NEWUSER as u64).context(|| "clone3")? {
        Fork::Child => {
            drop(keeper);
            let _ = gate.read(&mut [0]);
            sys::exit_now(0)
        }
        Fork::Parent(pid) => pid,
    };
    let namespace = namespaces::map(pid, uids, gids).and_then(|()| {
        let path = format!("/proc/{}/ns/user", pid.as_raw_nonzero());
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .context(|| "user namespace")
    });
    drop(keeper);
    let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
    let namespace = namespace?;

    let source = bundle.join(&wanted.source);
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if parsed.flags & options::REC != 0 {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = rustix::mount::open_tree(CWD, &source, flags)
        .context(|| format!("bind source {}", source.display()))?;
    let attr = MountAttr {
        set: MOUNT_ATTR_IDMAP,
        user_namespace: namespace.as_raw_fd() as u64,
        ..MountAttr::default()
    };
    set(&tree, parsed.id_map == Some(true), &attr).context(|| "id map")?;
    Ok(tree)
}

/// Puts a mount that was made outside in its place.
pub(crate) fn put(tree: &OwnedFd, target: &OwnedFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, "", target, "", flags).context(|| "put the id-mapped mount")
}
