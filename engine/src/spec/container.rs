//! Containers as written: what a YAML entry or an image label says about how to run an image.
//!
//! Every field is optional, because presence decides which of entry, label and default counts
//! (`system::label` merges them).

use std::collections::BTreeMap;

use super::grammar::{Bind, Rlimit, Tmpfs};
use super::model::{Id, ImageSource};
use super::oci::{Device, IdMapping, Mount, Resources};
use super::position::{Position, Spanned};

/// A value that was given, with its place.
pub type Field<T> = Option<Spanned<T>>;

/// A list that was given, with the places of its items.
pub type ListField<T> = Field<Vec<Spanned<T>>>;

/// One item of `onboot`, `onshutdown` or `services`.
#[derive(Debug, Clone)]
pub struct Container {
    /// The entry's first key.
    pub at: Position,
    /// A path component: not empty, without `/`, spaces or control characters.
    pub name: Spanned<String>,
    /// What it runs: files, or a job of kiln-init's.
    pub image: Spanned<ImageSource>,
    /// How.
    pub config: Config,
}

/// How to run an image: the fields of LinuxKit's `ImageConfig`, by their YAML names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// `capabilities`: known `CAP_` names, or `all`, or `none` alone.
    pub capabilities: ListField<String>,
    /// `capabilities.add`
    pub capabilities_add: ListField<String>,
    /// `ambient`
    pub ambient: ListField<String>,
    /// `mounts`
    pub mounts: ListField<Mount>,
    /// `binds`
    pub binds: ListField<Bind>,
    /// `binds.add`
    pub binds_add: ListField<Bind>,
    /// `devices`
    pub devices: Field<Vec<Device>>,
    /// `tmpfs`
    pub tmpfs: Field<Vec<Tmpfs>>,
    /// `command`
    pub command: Field<Vec<String>>,
    /// `env`
    pub env: Field<Vec<String>>,
    /// `cwd`
    pub cwd: Field<String>,
    /// `net`
    pub net: Field<String>,
    /// `pid`
    pub pid: Field<String>,
    /// `ipc`
    pub ipc: Field<String>,
    /// `uts`
    pub uts: Field<String>,
    /// `userns`
    pub userns: Field<String>,
    /// `hostname`
    pub hostname: Field<String>,
    /// `readonly`
    pub readonly: Field<bool>,
    /// `maskedPaths`
    pub masked_paths: Field<Vec<String>>,
    /// `readonlyPaths`
    pub readonly_paths: Field<Vec<String>>,
    /// `uid`
    pub uid: Field<Id>,
    /// `gid`
    pub gid: Field<Id>,
    /// `additionalGids`
    pub additional_gids: ListField<Id>,
    /// `noNewPrivileges`
    pub no_new_privileges: Field<bool>,
    /// `oomScoreAdj`
    pub oom_score_adj: Field<i32>,
    /// `rootfsPropagation`
    pub rootfs_propagation: Field<String>,
    /// `cgroupsPath`
    pub cgroups_path: Field<String>,
    /// `resources`
    pub resources: Field<Resources>,
    /// `sysctl`
    pub sysctl: Field<BTreeMap<String, String>>,
    /// `rlimits`
    pub rlimits: Field<Vec<Rlimit>>,
    /// `uidMappings`
    pub uid_mappings: Field<Vec<IdMapping>>,
    /// `gidMappings`
    pub gid_mappings: Field<Vec<IdMapping>>,
    /// `annotations`
    pub annotations: Field<BTreeMap<String, String>>,
    /// `runtime`
    pub runtime: Field<Runtime>,
}

/// `runtime`: what the guest does around the container; goes into runtime.json only.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Runtime {
    /// Control groups to create.
    pub cgroups: Field<Vec<String>>,
    /// Mounts made in the root namespace before the start.
    pub mounts: Field<Vec<Mount>>,
    /// Directories made in the root namespace.
    pub mkdir: Field<Vec<String>>,
    /// Network interfaces to create or move.
    pub interfaces: Field<Vec<Interface>>,
    /// Where to bind the namespaces of the new container.
    pub bind_ns: BindNs,
    /// containerd namespace.
    pub namespace: Field<String>,
}

/// One network interface of `runtime.interfaces`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Name inside the container.
    pub name: String,
    /// Kind to create, such as `veth`; moved when empty.
    pub add: String,
    /// Name of the other end of a veth pair.
    pub peer: String,
    /// Create it in the root namespace instead.
    pub create_in_root: bool,
}

/// Paths to bind namespaces to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BindNs {
    /// `cgroup`
    pub cgroup: Field<String>,
    /// `ipc`
    pub ipc: Field<String>,
    /// `mnt`
    pub mnt: Field<String>,
    /// `net`
    pub net: Field<String>,
    /// `pid`
    pub pid: Field<String>,
    /// `user`
    pub user: Field<String>,
    /// `uts`
    pub uts: Field<String>,
}
