//! `linux` of `config.json`, without its resources.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Resources;
use crate::json::{self, Fault, FromJson, Read, record};

record! {
    /// `linux`.
    Linux {
        /// Namespaces to make or join; those absent are shared with the host.
        namespaces: Vec<Namespace> = "namespaces",
        /// `net.ipv4.ip_forward` → value.
        sysctl: BTreeMap<String, String> = "sysctl",
        /// Limits.
        resources: Resources = "resources",
        /// Control group; empty means the container's name.
        cgroups_path: String = "cgroupsPath",
        /// Device nodes besides the usual ones.
        devices: Vec<Device> = "devices",
        /// Propagation of the container's root; empty means rslave.
        rootfs_propagation: String = "rootfsPropagation",
        /// Paths hidden from the container.
        masked_paths: Vec<String> = "maskedPaths",
        /// Paths made read-only.
        readonly_paths: Vec<String> = "readonlyPaths",
        /// Users of a new user namespace.
        uid_mappings: Vec<IdMapping> = "uidMappings",
        /// Its groups.
        gid_mappings: Vec<IdMapping> = "gidMappings",
        /// System calls it may make.
        seccomp: Option<Seccomp> = "seccomp",
        /// Which kernel it is told it runs on.
        personality: Option<Personality> = "personality",
        /// By clock (`monotonic`, `boottime`), in a new time namespace.
        time_offsets: BTreeMap<String, TimeOffset> = "timeOffsets",
    }
    refused "mountLabel" "intelRdt"
}

record! {
    /// `linux.personality` (personality(2)).
    Personality {
        /// `LINUX` or `LINUX32`.
        domain: String = "domain",
        /// Refused if any.
        flags: Vec<String> = "flags",
    }
    required "domain"
}

record! {
    /// One of `linux.timeOffsets`.
    TimeOffset {
        /// Seconds, any sign.
        secs: i64 = "secs",
        /// And nanoseconds.
        nanosecs: u32 = "nanosecs",
    }
}

record! {
    /// One of `linux.namespaces`.
    #[derive(Clone, PartialEq, Eq)]
    Namespace {
        /// Which kind.
        kind: NamespaceKind = "type",
        /// An existing one to join; empty makes a new one.
        path: String = "path",
    }
    required "type"
}

/// Kinds of namespace (namespaces(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum NamespaceKind {
    /// Process ids.
    #[default]
    Pid,
    /// Interfaces, routes, ports.
    Network,
    /// Mounts.
    Mount,
    /// System V IPC and POSIX queues.
    Ipc,
    /// Host name.
    Uts,
    /// User ids.
    User,
    /// Control group root.
    Cgroup,
    /// Clock offsets.
    Time,
}

record! {
    /// One of `linux.devices`.
    Device {
        /// Path in the container.
        path: String = "path",
        /// `c`, `u`, `b` or `p`.
        kind: String = "type",
        /// Major number.
        major: u32 = "major",
        /// Minor number.
        minor: u32 = "minor",
        /// Permission bits; 0666 if absent.
        file_mode: Option<u32> = "fileMode",
        /// Owner.
        uid: u32 = "uid",
        /// Group.
        gid: u32 = "gid",
    }
}

record! {
    /// One of `uidMappings` and `gidMappings`: a range of ids.
    #[derive(Clone, PartialEq, Eq)]
    IdMapping {
        /// The first one inside.
        container_id: u32 = "containerID",
        /// The first one outside.
        host_id: u32 = "hostID",
        /// How many there are.
        size: u32 = "size",
    }
    required "containerID" "hostID" "size"
}

record! {
    /// `linux.seccomp`; see [`seccomp`](crate::seccomp).
    Seccomp {
        /// What becomes of calls that no rule is about.
        default_action: String = "defaultAction",
        /// Error number for it; EPERM if absent.
        default_errno_ret: Option<u32> = "defaultErrnoRet",
        /// `SCMP_ARCH_X86_64` …
        architectures: Vec<String> = "architectures",
        /// `SECCOMP_FILTER_FLAG_LOG` …
        flags: Vec<String> = "flags",
        /// Rules.
        syscalls: Vec<SyscallRule> = "syscalls",
    }
    refused "listenerPath"
}

record! {
    /// One of `linux.seccomp.syscalls`.
    SyscallRule {
        /// The calls it is about.
        names: Vec<String> = "names",
        /// `SCMP_ACT_ALLOW` …
        action: String = "action",
        /// Error number, or message to a tracer; EPERM if absent.
        errno_ret: Option<u32> = "errnoRet",
        /// What the arguments have to be for the rule to hold.
        args: Vec<SyscallArg> = "args",
    }
    required "names" "action"
}

record! {
    /// One of `args`.
    SyscallArg {
        /// Which argument, from 0.
        index: u32 = "index",
        /// Compared with it; the mask of `SCMP_CMP_MASKED_EQ`.
        value: u64 = "value",
        /// What is left behind that mask.
        value_two: u64 = "valueTwo",
        /// `SCMP_CMP_EQ` …
        op: String = "op",
    }
    required "index" "value" "op"
}

impl FromJson for NamespaceKind {
    fn read(&mut self, value: &Value) -> Read {
        *self = match json::text(value)? {
            "pid" => Self::Pid,
            "network" => Self::Network,
            "mount" => Self::Mount,
            "ipc" => Self::Ipc,
            "uts" => Self::Uts,
            "user" => Self::User,
            "cgroup" => Self::Cgroup,
            "time" => Self::Time,
            other => return Err(Fault::new(format!("unknown kind {other:?}"))),
        };
        Ok(())
    }
}
