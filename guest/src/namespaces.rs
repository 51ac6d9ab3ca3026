//! Namespaces of a container: those it joins, those made for it, and who is who in a user
//! namespace.
//!
//! A namespace belongs to the user namespace its maker is in, and whoever has joined a user
//! namespace cannot come back. So joining is done by a process between: it joins everything, the
//! user namespace last, and clones the container's process as a child of its own parent.

use std::fs;
use std::io::{Read, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, WaitOptions};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::container::STATUS_BYTES_MAX;
use crate::error::{Context, Error, Result};
use crate::spec::{Config, IdMapping, NamespaceKind};
use crate::sys::{self, Fork};

/// Namespaces to join, opened while their paths are visible, in the order to join them.
#[derive(Debug)]
pub(crate) struct Joins(Vec<(OwnedFd, LinkNameSpaceType)>);

impl Joins {
    pub(crate) fn open(config: &Config) -> Result<Self> {
        let mut joins = Vec::new();
        let named = config.linux.namespaces.iter();
        for namespace in named.filter(|n| !n.path.is_empty()) {
            let kind = match namespace.kind {
                NamespaceKind::Pid => LinkNameSpaceType::ProcessID,
                NamespaceKind::Network => LinkNameSpaceType::Network,
                NamespaceKind::Ipc => LinkNameSpaceType::InterProcessCommunication,
                NamespaceKind::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
                NamespaceKind::Cgroup => LinkNameSpaceType::ControlGroup,
                NamespaceKind::User => LinkNameSpaceType::User,
                NamespaceKind::Time => LinkNameSpaceType::Time,
                NamespaceKind::Mount => {
                    return Err(Error::new(format!(
                        "config.json: linux.namespaces: joining a {:?} namespace is not supported",
                        namespace.kind
                    )));
                }
            };
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let fd = rustix::fs::open(&namespace.path, flags, Mode::empty())
                .context(|| format!("namespace {}", namespace.path))?;
            joins.push((fd, kind));
        }
        joins.sort_by_key(|(_, kind)| *kind == LinkNameSpaceType::User);
        Ok(Self(joins))
    }

    /// Forks into the container's namespaces, joined and new, and its control group.
    pub(crate) fn fork(&self, config: &Config, group: Option<BorrowedFd<'_>>) -> Result<Fork> {
        let flags = new_namespaces(config);
        let time = config.is_new(NamespaceKind::Time);
        if self.0.is_empty() && !time {
            return sys::fork_into(flags, group).context(|| "clone3");
        }
        let (mut answer, mut report) = pipe().context(|| "pipe")?;
        let between = match sys::fork(0).context(|| "clone3")? {
            Fork::Parent(pid) => pid,
            Fork::Child => {
                drop(answer);
                let text = match self.join_and_clone(config, flags, group) {
                    Ok(Fork::Child) => return Ok(Fork::Child),
                    Ok(Fork::Parent(pid)) => format!("={}", pid.as_raw_nonzero()),
                    Err(cause) => cause.to_string(),
                };
                let _ = report.write_all(&text.as_bytes()[..text.len().min(STATUS_BYTES_MAX)]);
                sys::exit_now(0)
            }
        };
        drop(report);
        // Written at once, and shorter than a pipe's buffer: one read.
        let mut text = [0; STATUS_BYTES_MAX];
        let length = answer.read(&mut text).context(|| "join namespaces")?;
        let _ = rustix::process::waitpid(Some(between), WaitOptions::empty());
        let text = String::from_utf8_lossy(&text[..length]);
        let pid = text.strip_prefix('=').and_then(|pid| pid.parse().ok());
        match pid.and_then(Pid::from_raw) {
            Some(pid) => Ok(Fork::Parent(pid)),
            None => Err(Error::new(text)),
        }
    }

    fn join_and_clone(
        &self,
        config: &Config,
        flags: u64,
        group: Option<BorrowedFd<'_>>,
    ) -> Result<Fork> {
        if config.is_new(NamespaceKind::Time) {
            new_time(config).context(|| "linux.timeOffsets")?;
        }
        for (fd, kind) in &self.0 {
            rustix::thread::move_into_link_name_space(fd.as_fd(), Some(*kind))
                .context(|| format!("join {kind:?} namespace"))?;
        }
        sys::fork_into(flags | libc::CLONE_PARENT as u64, group).context(|| "clone3")
    }
}

/// Makes a time namespace for our children: its offsets can be set until the first of them is in
/// there (time_namespaces(7)).
fn new_time(config: &Config) -> Result<()> {
    sys::unshare(UnshareFlags::NEWTIME).context(|| "new time namespace")?;
    let offsets = config.linux.time_offsets.iter();
    let text: String = offsets
        .map(|(clock, offset)| format!("{clock} {} {}\n", offset.secs, offset.nanosecs))
        .collect();
    if text.is_empty() {
        return Ok(());
    }
    fs::write("/proc/self/timens_offsets", text).context(|| "/proc/self/timens_offsets")
}

/// Returns the `CLONE_NEW*` flags of a container. A control group namespace comes later, since
/// its root is the group one is in when making it.
fn new_namespaces(config: &Config) -> u64 {
    [
        (NamespaceKind::User, libc::CLONE_NEWUSER),
        (NamespaceKind::Pid, libc::CLONE_NEWPID),
        (NamespaceKind::Network, libc::CLONE_NEWNET),
        (NamespaceKind::Mount, libc::CLONE_NEWNS),
        (NamespaceKind::Ipc, libc::CLONE_NEWIPC),
        (NamespaceKind::Uts, libc::CLONE_NEWUTS),
    ]
    .into_iter()
    .filter(|(kind, _)| config.is_new(*kind))
    .fold(0, |flags, (_, flag)| flags | flag as u64)
}

/// Says which users and groups of a new user namespace are which outside (user_namespaces(7)).
pub(crate) fn map_ids(config: &Config, pid: Pid) -> Result<()> {
    if !config.is_new(NamespaceKind::User) {
        return Ok(());
    }
    map(pid, &config.linux.uid_mappings, &config.linux.gid_mappings)
}

/// Writes the maps of a process's user namespace.
pub(crate) fn map(pid: Pid, uids: &[IdMapping], gids: &[IdMapping]) -> Result<()> {
    let write = |file: &str, mappings: &[IdMapping]| {
        let path = format!("/proc/{}/{file}", pid.as_raw_nonzero());
        fs::write(path, map_text(mappings))
    };
    write("gid_map", gids).context(|| "gidMappings")?;
    write("uid_map", uids).context(|| "uidMappings")
}

/// Returns mappings as the kernel reads them, one a line.
fn map_text(mappings: &[IdMapping]) -> String {
    let line = |m: &IdMapping| format!("{} {} {}\n", m.container_id, m.host_id, m.size);
    mappings.iter().map(line).collect()
}

/// Returns whether a process is in another user namespace than we are.
pub(crate) fn is_other_user_namespace(pid: Pid) -> bool {
    let of = |who: &str| fs::read_link(Path::new("/proc").join(who).join("ns/user")).ok();
    of(&pid.as_raw_nonzero().to_string()) != of("self")
}
