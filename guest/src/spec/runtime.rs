//! LinuxKit's `runtime.json`.

use super::Mount;
use crate::error::{Context, Result};
use crate::json::{self, record};

record! {
    /// `runtime.json`: what LinuxKit's starter does on the host before a container runs.
    Runtime {
        /// Mounts: the root file system's first, then the user's.
        mounts: Vec<Mount> = "mounts",
        /// Directories to make.
        mkdir: Vec<String> = "mkdir",
        /// Control groups to make.
        cgroups: Vec<String> = "cgroups",
        /// Network interfaces to make or move in.
        interfaces: Vec<Interface> = "interfaces",
        /// Files to bind the new namespaces to.
        bind_ns: BindNs = "bindNS",
        /// containerd namespace; meaningless here.
        namespace: String = "namespace",
    }
}

impl Runtime {
    /// Parses `runtime.json`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        json::parse(bytes).context(|| "runtime.json")
    }
}

record! {
    /// One of `interfaces`.
    #[derive(Clone, PartialEq, Eq)]
    Interface {
        /// Its name, on both sides.
        name: String = "name",
        /// Link kind to make (`veth`, `wireguard`, …); empty moves an existing one.
        add: String = "add",
        /// Name of the other end of a veth, which stays outside.
        peer: String = "peer",
        /// Make it outside, then move it.
        create_in_root: bool = "createInRoot",
    }
}

record! {
    /// `bindNS`: one path per kind, empty for none.
    #[derive(Clone, PartialEq, Eq)]
    BindNs {
        cgroup: String = "cgroup",
        ipc: String = "ipc",
        mnt: String = "mnt",
        net: String = "net",
        pid: String = "pid",
        user: String = "user",
        uts: String = "uts",
    }
}

impl BindNs {
    /// Returns what is to be bound: the name in `/proc/PID/ns` and the path.
    pub(crate) fn wanted(&self) -> Vec<(&'static str, &str)> {
        [
            ("cgroup", &self.cgroup),
            ("ipc", &self.ipc),
            ("mnt", &self.mnt),
            ("net", &self.net),
            ("pid", &self.pid),
            ("user", &self.user),
            ("uts", &self.uts),
        ]
        .into_iter()
        .filter(|(_, path)| !path.is_empty())
        .map(|(kind, path)| (kind, path.as_str()))
        .collect()
    }
}
