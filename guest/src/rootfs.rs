//! A container's view of the file system: from a prepared root to `/`.
//!
//! Runs in the child, in its own mount namespace, in runc's order (`libcontainer/rootfs_linux.go`):
//! propagation, private parent, root bound to itself, mounts in order, devices, pivot_root, then
//! what has to become read-only. Every destination is resolved inside the root by the kernel
//! (openat2(2), `RESOLVE_IN_ROOT`), so that symbolic links of an image lead nowhere else.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{self, MountFlags, MountPropagationFlags, UnmountFlags};

use crate::bundle::Bundle;
use crate::error::{Context, Error, Result};
use crate::mount_attributes;
use crate::options::{self, BIND, Options, RDONLY, REC, REMOUNT};
use crate::spec::{Config, Device, Mount, NamespaceKind};

/// Symbolic links followed while a missing path is made.
const LINKS_MAX: usize = 40;

/// A directory out of which no path leads.
#[derive(Debug)]
pub(crate) struct Inside {
    root: OwnedFd,
}

impl Inside {
    /// Opens a root.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty())
            .context(|| format!("root {}", root.display()))?;
        Ok(Self { root })
    }

    /// Opens what exists at a path.
    pub(crate) fn existing(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        rustix::fs::openat2(
            &self.root,
            path,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// Returns whether something exists at a path.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.existing(path).is_ok()
    }

    /// Opens a directory, made with its parents if missing.
    pub(crate) fn directory(&self, path: impl AsRef<Path>) -> Result<OwnedFd> {
        let path = path.as_ref();
        self.make(path, true, LINKS_MAX)
            .context(|| format!("{}: make directory in the container", path.display()))
    }

    /// Opens a file, made empty (and its parents) if missing.
    pub(crate) fn file(&self, path: &str) -> Result<OwnedFd> {
        self.make(Path::new(path), false, LINKS_MAX)
            .context(|| format!("{path}: make file in the container"))
    }

    fn make(&self, path: &Path, directory: bool, links: usize) -> rustix::io::Result<OwnedFd> {
        match self.existing(path) {
            Err(Errno::NOENT) => {}
            found => return found,
        }
        let parent = path.parent().ok_or(Errno::NOENT)?;
        let Some(name) = path.file_name() else {
            // "missing/..": it exists once its parent does.
            self.make(parent, true, links)?;
            return self.existing(path);
        };
        let parent_fd = self.make(parent, true, links)?;
        let made = if directory {
            rustix::fs::mkdirat(&parent_fd, name, Mode::from_raw_mode(0o755))
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&parent_fd, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        };
        match made {
            Ok(()) => self.existing(path),
            // A link to something missing: make what it points to.
            Err(Errno::EXIST) if links > 0 => {
                let target = rustix::fs::readlinkat(&parent_fd, name, Vec::new())?;
                let target = parent.join(bytes_path(target.as_bytes()));
                self.make(&target, directory, links - 1)
            }
            Err(Errno::EXIST) => Err(Errno::LOOP),
            Err(cause) => Err(cause),
        }
    }
}

fn bytes_path(bytes: &[u8]) -> &Path {
    Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes))
}

/// Returns the path by which calls that take only paths reach an open file.
pub(crate) fn fd_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Mounts everything of `config.json` on the bundle's root.
///
/// `trees` are those of its mounts that had to be made outside.
pub(crate) fn mount(bundle: &Bundle, trees: &[Option<OwnedFd>]) -> Result<Inside> {
    let config = &bundle.config;
    let root = bundle.rootfs();
    let propagation = options::root_propagation(&config.linux.rootfs_propagation)?;
    mount::mount_change("/", MountPropagationFlags::from_bits_retain(propagation))
        .context(|| "propagation of /")?;
    make_parent_private(&root)?;
    mount::mount_bind_recursive(&root, &root).context(|| "bind the root to itself")?;

    let inside = Inside::open(&root)?;
    for (index, wanted) in config.mounts.iter().enumerate() {
        let tree = trees.get(index).and_then(Option::as_ref);
        mount_one(&inside, &bundle.directory, wanted, tree)
            .context(|| format!("config.json: mounts[{index}]: {}", wanted.destination))?;
    }
    if makes_devices(config) {
        let binds = config.namespace(NamespaceKind::User).is_some();
        devices(&inside, &config.linux.devices, binds)?;
    }
    Ok(inside)
}

/// Makes that root our `/`.
pub(crate) fn enter(bundle: &Bundle, inside: &Inside) -> Result<()> {
    let config = &bundle.config;
    pivot(inside)?;
    make_cwd(&config.process.cwd)
}

/// Makes the mount that holds the root private: pivot_root(2) refuses a shared parent.
fn make_parent_private(root: &Path) -> Result<()> {
    for directory in root.ancestors() {
        match mount::mount_change(directory, MountPropagationFlags::PRIVATE) {
            Ok(()) => return Ok(()),
            // Not a mount point.
            Err(Errno::INVAL) => {}
            Err(cause) => {
                return Err(cause).context(|| format!("make {} private", directory.display()));
            }
        }
    }
    Ok(())
}

fn mount_one(inside: &Inside, bundle: &Path, wanted: &Mount, tree: Option<&OwnedFd>) -> Result<()> {
    let mut parsed = options::parse(&wanted.options)?;
    if wanted.kind == "bind" {
        parsed.flags |= BIND;
    }
    if parsed.is_bind() {
        bind(inside, bundle, wanted, &parsed, tree)?;
    } else {
        filesystem(inside, wanted, parsed.clone())?;
    }
    let reopen = || {
        inside
            .existing(Path::new(&wanted.destination))
            .context(|| "reopen")
    };
    if parsed.recursive != (0, 0) {
        mount_attributes::set_recursively(&reopen()?, parsed.recursive)?;
    }
    for change in &parsed.propagation {
        let target = reopen()?;
        let change = MountPropagationFlags::from_bits_retain(*change);
        mount::mount_change(fd_path(&target), change).context(|| "propagation")?;
    }
    Ok(())
}

fn bind(
    inside: &Inside,
    bundle: &Path,
    wanted: &Mount,
    parsed: &Options,
    tree: Option<&OwnedFd>,
) -> Result<()> {
    let source = bundle.join(&wanted.source);
    let metadata = fs::metadata(&source).context(|| format!("bind source {}", source.display()))?;
    let target = if metadata.is_dir() {
        inside.directory(&wanted.destination)?
    } else {
        inside.file(&wanted.destination)?
    };
    let bind_flags = MountFlags::from_bits_retain(parsed.flags & (BIND | REC));
    match tree {
        Some(tree) => mount_attributes::put(tree, &target)?,
        None => mount::mount(&source, fd_path(&target), "", bind_flags, None)
            .context(|| format!("bind {}", source.display()))?,
    }
    // The first call takes no flags; the second sets exactly those asked for (as runc ≥ 1.2:
    // also when a word only clears some, e.g. "rw").
    let extra = parsed.flags & !(BIND | REC | REMOUNT);
    if extra != 0 || parsed.cleared != 0 {
        let target = inside
            .existing(Path::new(&wanted.destination))
            .context(|| "reopen")?;
        remount(&target, extra)?;
    }
    Ok(())
}

/// Sets the flags of a mount, of this one alone (not of its superblock). Those that it has from
/// outside our user namespace cannot be taken away, and stay.
fn remount(target: &OwnedFd, flags: u32) -> Result<()> {
    let set = |flags: u32| {
        let flags = MountFlags::from_bits_retain(flags | BIND | REMOUNT);
        mount::mount("", fd_path(target), "", flags, None)
    };
    match set(flags) {
        Err(Errno::PERM) => set(flags | existing_flags(target)?),
        done => done,
    }
    .context(|| "remount")
}

fn filesystem(inside: &Inside, wanted: &Mount, mut parsed: Options) -> Result<()> {
    let target = inside.directory(&wanted.destination)?;
    let kind = match wanted.kind.as_str() {
        "cgroup" => "cgroup2",
        "tmpfs" => {
            // Nodes and mount points are still to be made in it; see make_readonly.
            parsed.flags &= !RDONLY;
            if parsed.data_value("mode").is_none() {
                let covered = rustix::fs::fstat(&target).context(|| "stat")?;
                let mode = format!("mode={:o}", covered.st_mode & 0o7777);
                parsed.data = match parsed.data.as_str() {
                    "" => mode,
                    data => format!("{data},{mode}"),
                };
            }
            "tmpfs"
        }
        "" => return Err(Error::new("type is missing")),
        kind => kind,
    };
    let flags = MountFlags::from_bits_retain(parsed.flags);
    let data = CString::new(parsed.data).context(|| "options")?;
    let source = wanted.source.as_str();
    match mount::mount(source, fd_path(&target), kind, flags, data.as_c_str()) {
        // In a user namespace, but not in a control group namespace of its own: as runc.
        Err(Errno::PERM | Errno::BUSY) if kind == "cgroup2" => {
            mount::mount_bind_recursive("/sys/fs/cgroup", fd_path(&target))
        }
        done => done,
    }
    .context(|| format!("mount {kind}"))
}

/// Returns whether the usual nodes are made: not when `/dev` is somebody else's.
fn makes_devices(config: &Config) -> bool {
    !config.mounts.iter().any(|m| {
        let is_dev = Path::new(&m.destination) == Path::new("/dev");
        let is_bind = m.kind == "bind" || m.options.iter().any(|o| o == "bind" || o == "rbind");
        is_dev && is_bind
    })
}

/// The nodes every container has (runtime-spec, "Default Devices"), in runc's order.
const USUAL_DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/random", 1, 8),
    ("/dev/full", 1, 7),
    ("/dev/tty", 5, 0),
    ("/dev/zero", 1, 5),
    ("/dev/urandom", 1, 9),
];

/// Makes nodes; in a user namespace nobody can, so the host's are bound instead.
fn devices(inside: &Inside, extra: &[Device], binds: bool) -> Result<()> {
    let node = |device: &Device| match binds {
        true => bind_node(inside, device),
        false => node(inside, device),
    };
    rustix::process::umask(Mode::empty());
    for (path, major, minor) in USUAL_DEVICES {
        let device = Device {
            path: path.to_owned(),
            kind: "c".to_owned(),
            major,
            minor,
            ..Device::default()
        };
        node(&device)?;
    }
    for device in extra {
        node(device)?;
    }
    let dev = inside.directory("/dev")?;
    let links = [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("/proc/kcore", "core"),
    ];
    for (target, name) in links {
        if name == "core" && !Path::new("/proc/kcore").exists() {
            continue;
        }
        match rustix::fs::symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(cause) => return Err(cause).context(|| format!("/dev/{name}")),
        }
    }
    let _ = rustix::fs::unlinkat(&dev, "ptmx", rustix::fs::AtFlags::empty());
    rustix::fs::symlinkat("pts/ptmx", &dev, "ptmx").context(|| "/dev/ptmx")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(())
}

fn bind_node(inside: &Inside, device: &Device) -> Result<()> {
    let path = &device.path;
    let target = inside.file(path)?;
    mount::mount_bind(path.as_str(), fd_path(&target)).context(|| format!("device {path}: bind"))
}

fn node(inside: &Inside, device: &Device) -> Result<()> {
    let kind = match device.kind.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        other => {
            return Err(Error::new(format!(
                "device {}: unknown type {other:?}",
                device.path
            )));
        }
    };
    let path = Path::new(&device.path);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(format!("device {:?}: not a path", device.path)));
    };
    let make = || -> Result<()> {
        let parent = inside.directory(parent)?;
        let mode = Mode::from_raw_mode(device.file_mode.unwrap_or(0o666) & 0o7777);
        let number = rustix::fs::makedev(device.major, device.minor);
        match rustix::fs::mknodat(&parent, name, kind, mode, number) {
            Ok(()) => {}
            // As runc: an image's own node stays if the root is not a fresh tmpfs.
            Err(Errno::EXIST) => return Ok(()),
            Err(cause) => return Err(cause).context(|| "make node"),
        }
        let owner = (
            Some(Uid::from_raw(device.uid)),
            Some(Gid::from_raw(device.gid)),
        );
        rustix::fs::chownat(
            &parent,
            name,
            owner.0,
            owner.1,
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )
        .context(|| "owner")
    };
    make().context(|| format!("device {}", device.path))
}

/// Swaps `/` for the root without a directory for the old one: both are stacked on `.`, and the
/// old one is detached (pivot_root(2), "pivot_root(".", ".")").
pub(crate) fn pivot(inside: &Inside) -> Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let old = rustix::fs::open("/", flags, Mode::empty()).context(|| "open /")?;
    rustix::process::fchdir(inside.root.as_fd()).context(|| "enter the root")?;
    rustix::process::pivot_root(".", ".").context(|| "pivot_root")?;
    rustix::process::fchdir(&old).context(|| "enter the old root")?;
    // Unmounting must not reach the host.
    mount::mount_change(
        ".",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .context(|| "make the old root a slave")?;
    mount::unmount(".", UnmountFlags::DETACH).context(|| "detach the old root")?;
    rustix::process::chdir("/").context(|| "chdir /")
}

/// Makes standard input the container's own `/dev/null` if it has one.
pub(crate) fn reopen_null() -> Result<()> {
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        rustix::stdio::dup2_stdin(&null).context(|| "standard input")?;
    }
    Ok(())
}

/// Makes the working directory if missing, as runc does.
fn make_cwd(cwd: &str) -> Result<()> {
    crate::bundle::make_directories(Path::new(cwd)).context(|| "process.cwd")
}

/// Makes read-only what is to be so, now that nothing is made in there any more.
pub(crate) fn make_readonly(config: &Config) -> Result<()> {
    for wanted in &config.mounts {
        let parsed = options::parse(&wanted.options)?;
        if wanted.kind == "tmpfs" && parsed.flags & RDONLY != 0 {
            let target = open_path(&wanted.destination)
                .context(|| format!("reopen {}", wanted.destination))?;
            remount(&target, parsed.flags & !(REC | REMOUNT))?;
        }
    }
    if config.root.readonly {
        let root = open_path("/").context(|| "reopen /")?;
        let kept = existing_flags(&root)?;
        remount(&root, kept | RDONLY).context(|| "root.readonly")?;
    }
    Ok(())
}

/// Returns the flags a mount has now, as a remount wants them (`ST_*` equals `MS_*` but for
/// `ST_RELATIME`; statvfs(3)).
fn existing_flags(target: &OwnedFd) -> Result<u32> {
    let flags = rustix::fs::fstatvfs(target).context(|| "statvfs")?.f_flag;
    use rustix::fs::StatVfsMountFlags as S;
    Ok([
        (S::RDONLY, MountFlags::RDONLY),
        (S::NOSUID, MountFlags::NOSUID),
        (S::NODEV, MountFlags::NODEV),
        (S::NOEXEC, MountFlags::NOEXEC),
        (S::NOATIME, MountFlags::NOATIME),
        (S::NODIRATIME, MountFlags::NODIRATIME),
        (S::RELATIME, MountFlags::RELATIME),
    ]
    .into_iter()
    .filter(|(set, _)| flags.contains(*set))
    .fold(0, |all, (_, flag)| all | flag.bits()))
}

fn open_path(path: &str) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// Makes `readonlyPaths` read-only and hides `maskedPaths`; absent ones are passed over.
pub(crate) fn confine(config: &Config) -> Result<()> {
    for path in &config.linux.readonly_paths {
        match mount::mount_bind_recursive(path.as_str(), path.as_str()) {
            Ok(()) => {
                let target = open_path(path).context(|| path)?;
                remount(&target, existing_flags(&target)? | RDONLY | REC)
                    .context(|| format!("linux.readonlyPaths: {path}"))?;
            }
            Err(Errno::NOENT) => {}
            Err(cause) => return Err(cause).context(|| format!("linux.readonlyPaths: {path}")),
        }
    }
    for path in &config.linux.masked_paths {
        let hidden = match mount::mount_bind("/dev/null", path.as_str()) {
            Err(Errno::NOTDIR) => {
                mount::mount("tmpfs", path.as_str(), "tmpfs", MountFlags::RDONLY, None)
            }
            other => other,
        };
        match hidden {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(cause) => return Err(cause).context(|| format!("linux.maskedPaths: {path}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_of_an_image_lead_nowhere_else() {
        let outside = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        symlink(outside.path(), root.path().join("out")).unwrap();
        symlink("../../../../new", root.path().join("up")).unwrap();
        symlink("loop-b", root.path().join("loop-a")).unwrap();
        symlink("loop-a", root.path().join("loop-b")).unwrap();
        let inside = Inside::open(root.path()).unwrap();

        inside.directory("/out/etc").unwrap();
        inside.file("/up/file").unwrap();
        inside.directory("../../../x/../y").unwrap();
        assert!(inside.directory("/loop-a/x").is_err());

        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        let made = root.path().join(outside.path().strip_prefix("/").unwrap());
        assert!(made.join("etc").is_dir());
        assert!(root.path().join("new/file").is_file());
        assert!(root.path().join("y").is_dir());
    }

    #[test]
    fn a_bound_dev_gets_no_nodes() {
        let config = |kind: &str, options: &[&str]| Config {
            mounts: vec![Mount {
                destination: "/dev/".into(),
                kind: kind.into(),
                options: options.iter().map(|o| (*o).to_owned()).collect(),
                ..Mount::default()
            }],
            ..Config::default()
        };
        assert!(makes_devices(&config("tmpfs", &[])));
        assert!(!makes_devices(&config("bind", &[])));
        assert!(!makes_devices(&config("none", &["rbind"])));
    }
}
