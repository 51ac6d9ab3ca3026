//! What a container is: `config.json` (OCI runtime-spec 1.2) and LinuxKit's `runtime.json`, as
//! far as kiln-init acts on them.
//!
//! Unknown members are passed over, as the specification demands. Members that would change how
//! confined a container is, and that we do not implement, are read as [`Unsupported`] and refused
//! by name: a container must not start with less than was asked for.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::{Context, Error, Result};

/// Largest config.json or runtime.json read, in bytes.
pub(crate) const SPEC_BYTES_MAX: u64 = 4 << 20;

/// A member that is refused when present, whatever it holds.
pub(crate) type Unsupported = Option<IgnoredAny>;

/// `config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Config {
    /// What to run.
    pub(crate) process: Process,
    /// Where its root is.
    pub(crate) root: Root,
    /// Host name inside; needs a new UTS namespace.
    pub(crate) hostname: String,
    /// NIS domain name inside.
    pub(crate) domainname: String,
    /// Mounts, in order.
    pub(crate) mounts: Vec<Mount>,
    /// Remarks; see [`Policy`](crate::policy::Policy).
    pub(crate) annotations: BTreeMap<String, String>,
    /// Linux parts.
    pub(crate) linux: Linux,
    /// Refused.
    pub(crate) hooks: Unsupported,
}

/// `process`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Process {
    /// Wants a terminal; refused.
    pub(crate) terminal: bool,
    /// Identity.
    pub(crate) user: User,
    /// Program and arguments.
    pub(crate) args: Vec<String>,
    /// `KEY=value` strings.
    pub(crate) env: Vec<String>,
    /// Working directory.
    pub(crate) cwd: String,
    /// The five capability sets; absent means none.
    pub(crate) capabilities: Capabilities,
    /// Resource limits.
    pub(crate) rlimits: Vec<Rlimit>,
    /// Sets `PR_SET_NO_NEW_PRIVS`.
    pub(crate) no_new_privileges: bool,
    /// Written to `/proc/self/oom_score_adj`.
    pub(crate) oom_score_adj: Option<i32>,
    /// Refused.
    pub(crate) apparmor_profile: Unsupported,
    /// Refused.
    pub(crate) selinux_label: Unsupported,
    /// Refused.
    pub(crate) scheduler: Unsupported,
    /// Refused.
    pub(crate) io_priority: Unsupported,
}

/// `process.user`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct User {
    /// User id.
    pub(crate) uid: u32,
    /// Group id.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) additional_gids: Vec<u32>,
    /// File creation mask; 0022 if absent.
    pub(crate) umask: Option<u32>,
}

/// `process.capabilities`: names such as `CAP_NET_ADMIN`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Capabilities {
    /// Limit for exec.
    pub(crate) bounding: Vec<String>,
    /// In force.
    pub(crate) effective: Vec<String>,
    /// Kept over exec of privileged files.
    pub(crate) inheritable: Vec<String>,
    /// May be put in force.
    pub(crate) permitted: Vec<String>,
    /// Kept over exec of ordinary files.
    pub(crate) ambient: Vec<String>,
}

/// One of `process.rlimits`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Rlimit {
    /// `RLIMIT_NOFILE` …
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Soft limit; 2⁶⁴−1 is unlimited.
    pub(crate) soft: u64,
    /// Hard limit.
    pub(crate) hard: u64,
}

/// `root`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Root {
    /// Relative to the bundle, or absolute.
    pub(crate) path: String,
    /// Makes `/` read-only.
    pub(crate) readonly: bool,
}

/// One mount, in either file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Mount {
    /// Where it goes.
    pub(crate) destination: String,
    /// File system type.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// What is mounted.
    pub(crate) source: String,
    /// Option words.
    pub(crate) options: Vec<String>,
    /// Id-mapped mount; refused.
    pub(crate) uid_mappings: Vec<IgnoredMember>,
    /// Id-mapped mount; refused.
    pub(crate) gid_mappings: Vec<IgnoredMember>,
}

/// A list element of which only the presence matters.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct IgnoredMember {}

/// `linux`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Linux {
    /// Namespaces to make or join; those absent are shared with the host.
    pub(crate) namespaces: Vec<Namespace>,
    /// `net.ipv4.ip_forward` → value.
    pub(crate) sysctl: BTreeMap<String, String>,
    /// Limits.
    pub(crate) resources: Resources,
    /// Control group; empty means the container's name.
    pub(crate) cgroups_path: String,
    /// Device nodes besides the usual ones.
    pub(crate) devices: Vec<Device>,
    /// Propagation of the container's root; empty means rslave.
    pub(crate) rootfs_propagation: String,
    /// Paths hidden from the container.
    pub(crate) masked_paths: Vec<String>,
    /// Paths made read-only.
    pub(crate) readonly_paths: Vec<String>,
    /// User namespaces; refused.
    pub(crate) uid_mappings: Vec<IgnoredMember>,
    /// User namespaces; refused.
    pub(crate) gid_mappings: Vec<IgnoredMember>,
    /// Refused.
    pub(crate) seccomp: Unsupported,
    /// Refused.
    pub(crate) mount_label: Unsupported,
    /// Refused.
    pub(crate) intel_rdt: Unsupported,
    /// Refused.
    pub(crate) personality: Unsupported,
    /// Refused.
    pub(crate) time_offsets: Unsupported,
}

/// One of `linux.namespaces`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Namespace {
    /// Which kind.
    #[serde(rename = "type")]
    pub(crate) kind: NamespaceKind,
    /// An existing one to join; empty makes a new one.
    #[serde(default)]
    pub(crate) path: String,
}

/// Kinds of namespace (namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NamespaceKind {
    /// Process ids.
    Pid,
    /// Interfaces, routes, ports.
    Network,
    /// Mounts.
    Mount,
    /// System V IPC and POSIX queues.
    Ipc,
    /// Host name.
    Uts,
    /// User ids; refused.
    User,
    /// Control group root.
    Cgroup,
    /// Clock offsets; refused.
    Time,
}

/// One of `linux.devices`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Device {
    /// Path in the container.
    pub(crate) path: String,
    /// `c`, `u`, `b` or `p`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Major number.
    pub(crate) major: u32,
    /// Minor number.
    pub(crate) minor: u32,
    /// Permission bits; 0666 if absent.
    pub(crate) file_mode: Option<u32>,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
}

/// `linux.resources`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Resources {
    /// Device access rules, in order.
    pub(crate) devices: Vec<DeviceRule>,
    /// Memory.
    pub(crate) memory: Memory,
    /// Processor.
    pub(crate) cpu: Cpu,
    /// Number of processes.
    pub(crate) pids: Pids,
    /// cgroup v2 files, written as they are.
    pub(crate) unified: BTreeMap<String, String>,
    /// Refused.
    #[serde(rename = "blockIO")]
    pub(crate) block_io: Unsupported,
    /// Refused unless empty.
    pub(crate) hugepage_limits: Vec<IgnoredMember>,
    /// Refused.
    pub(crate) network: Unsupported,
    /// Refused.
    pub(crate) rdma: Unsupported,
}

/// One of `linux.resources.devices`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DeviceRule {
    /// Allow or deny.
    pub(crate) allow: bool,
    /// `a`, `b`, `c`; empty is `a`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Major number; absent is any.
    pub(crate) major: Option<i64>,
    /// Minor number; absent is any.
    pub(crate) minor: Option<i64>,
    /// Of `r`, `w`, `m`; empty is all.
    pub(crate) access: String,
}

/// `linux.resources.memory`, in bytes; −1 is unlimited.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Memory {
    /// Hard limit.
    pub(crate) limit: Option<i64>,
    /// Best-effort protection.
    pub(crate) reservation: Option<i64>,
    /// Memory plus swap.
    pub(crate) swap: Option<i64>,
}

/// `linux.resources.cpu`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Cpu {
    /// cgroup v1 weight, 2–262144.
    pub(crate) shares: Option<u64>,
    /// Microseconds of CPU per period; −1 is unlimited.
    pub(crate) quota: Option<i64>,
    /// Length of a period in microseconds.
    pub(crate) period: Option<u64>,
    /// CPU list such as `0-3,8`.
    pub(crate) cpus: String,
    /// Memory node list.
    pub(crate) mems: String,
    /// 1 makes the group idle.
    pub(crate) idle: Option<i64>,
    /// Refused: cgroup v1 only.
    pub(crate) realtime_runtime: Unsupported,
    /// Refused: cgroup v1 only.
    pub(crate) realtime_period: Unsupported,
}

/// `linux.resources.pids`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pids {
    /// Most processes; 0 or −1 is unlimited.
    pub(crate) limit: Option<i64>,
}

/// `runtime.json`: what LinuxKit's starter does on the host before a container runs.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Runtime {
    /// Mounts: the root file system's first, then the user's.
    pub(crate) mounts: Vec<Mount>,
    /// Directories to make.
    pub(crate) mkdir: Vec<String>,
    /// Control groups to make.
    pub(crate) cgroups: Vec<String>,
    /// Network interfaces to make or move in.
    pub(crate) interfaces: Vec<Interface>,
    /// Files to bind the new namespaces to.
    #[serde(rename = "bindNS")]
    pub(crate) bind_ns: BindNs,
    /// containerd namespace; meaningless here.
    pub(crate) namespace: String,
}

/// One of `interfaces`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Interface {
    /// Its name, on both sides.
    pub(crate) name: String,
    /// Link kind to make (`veth`, `wireguard`, …); empty moves an existing one.
    pub(crate) add: String,
    /// Name of the other end of a veth, which stays outside.
    pub(crate) peer: String,
    /// Make it outside, then move it.
    pub(crate) create_in_root: bool,
}

/// `bindNS`: one path per kind, empty for none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct BindNs {
    pub(crate) cgroup: String,
    pub(crate) ipc: String,
    pub(crate) mnt: String,
    pub(crate) net: String,
    pub(crate) pid: String,
    pub(crate) user: String,
    pub(crate) uts: String,
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

impl Config {
    /// Parses and checks `config.json`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let config: Self = serde_json::from_slice(bytes).context(|| "config.json")?;
        config.check()?;
        Ok(config)
    }

    /// Refuses what we would not honour, by name.
    fn check(&self) -> Result<()> {
        let (process, linux, resources) = (&self.process, &self.linux, &self.linux.resources);
        let has = |kind| linux.namespaces.iter().any(|n| n.kind == kind);
        let joins = |kind| {
            let mut all = linux.namespaces.iter();
            all.any(|n| n.kind == kind && !n.path.is_empty())
        };
        let id_mapped = |m: &Mount| !m.uid_mappings.is_empty() || !m.gid_mappings.is_empty();
        let refused = [
            ("hooks", self.hooks.is_some()),
            ("process.terminal", process.terminal),
            (
                "process.apparmorProfile",
                process.apparmor_profile.is_some(),
            ),
            ("process.selinuxLabel", process.selinux_label.is_some()),
            ("process.scheduler", process.scheduler.is_some()),
            ("process.ioPriority", process.io_priority.is_some()),
            ("linux.uidMappings", !linux.uid_mappings.is_empty()),
            ("linux.gidMappings", !linux.gid_mappings.is_empty()),
            ("linux.seccomp", linux.seccomp.is_some()),
            ("linux.mountLabel", linux.mount_label.is_some()),
            ("linux.intelRdt", linux.intel_rdt.is_some()),
            ("linux.personality", linux.personality.is_some()),
            ("linux.timeOffsets", linux.time_offsets.is_some()),
            ("linux.namespaces: user", has(NamespaceKind::User)),
            ("linux.namespaces: time", has(NamespaceKind::Time)),
            (
                "linux.namespaces: path of a mount namespace",
                joins(NamespaceKind::Mount),
            ),
            ("linux.resources.blockIO", resources.block_io.is_some()),
            (
                "linux.resources.hugepageLimits",
                !resources.hugepage_limits.is_empty(),
            ),
            ("linux.resources.network", resources.network.is_some()),
            ("linux.resources.rdma", resources.rdma.is_some()),
            (
                "linux.resources.cpu.realtimeRuntime",
                resources.cpu.realtime_runtime.is_some() || resources.cpu.realtime_period.is_some(),
            ),
            ("mounts: uidMappings", self.mounts.iter().any(id_mapped)),
        ];
        if let Some((member, _)) = refused.iter().find(|(_, present)| *present) {
            return Err(Error::new(format!(
                "config.json: {member} is not supported"
            )));
        }
        let missing = [
            ("root.path is empty", self.root.path.is_empty()),
            ("process.args is empty", process.args.is_empty()),
            ("process.cwd is not absolute", !process.cwd.starts_with('/')),
            (
                "linux.namespaces has no mount namespace",
                !has(NamespaceKind::Mount),
            ),
            (
                "hostname without a uts namespace",
                !self.hostname.is_empty() && !has(NamespaceKind::Uts),
            ),
        ];
        match missing.iter().find(|(_, wrong)| *wrong) {
            Some((what, _)) => Err(Error::new(format!("config.json: {what}"))),
            None => Ok(()),
        }
    }

    /// Returns the namespace entry of a kind.
    pub(crate) fn namespace(&self, kind: NamespaceKind) -> Option<&Namespace> {
        self.linux.namespaces.iter().find(|n| n.kind == kind)
    }

    /// Returns whether a namespace of this kind is made anew.
    pub(crate) fn is_new(&self, kind: NamespaceKind) -> bool {
        self.namespace(kind).is_some_and(|n| n.path.is_empty())
    }
}

impl Runtime {
    /// Parses `runtime.json`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).context(|| "runtime.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINUXKIT: &str = r#"{"ociVersion":"1.2.1","process":{"user":{"uid":0,"gid":0},
      "args":["/bin/sh"],"cwd":"/","capabilities":{"bounding":["CAP_SYS_ADMIN"]},
      "rlimits":[{"type":"RLIMIT_NOFILE","hard":18446744073709551615,"soft":100}]},
      "root":{"path":"rootfs","readonly":true},
      "mounts":[{"destination":"/proc","type":"proc","source":"proc","options":["nosuid"]}],
      "linux":{"resources":{},"namespaces":[{"type":"pid"},{"type":"mount"},{"type":"network","path":"/run/netns/a"}]}}"#;

    #[test]
    fn what_linuxkit_writes() {
        let config = Config::parse(LINUXKIT.as_bytes()).unwrap();
        assert_eq!(config.process.rlimits[0].hard, u64::MAX);
        assert!(config.root.readonly);
        assert!(config.is_new(NamespaceKind::Pid));
        assert!(!config.is_new(NamespaceKind::Network));
        assert!(config.namespace(NamespaceKind::Uts).is_none());
    }

    #[test]
    fn what_we_would_not_honour_is_refused_by_name() {
        for (from, to, word) in [
            (r#""resources":{}"#, r#""seccomp":{"x":1}"#, "linux.seccomp"),
            (r#""type":"pid""#, r#""type":"user""#, "user"),
            (r#""ociVersion":"1.2.1""#, r#""hooks":{}"#, "hooks"),
            (r#"["/bin/sh"]"#, "[]", "process.args"),
            (r#""type":"mount""#, r#""type":"ipc""#, "no mount namespace"),
            (r#""ociVersion":"1.2.1""#, r#""hostname":"x""#, "uts"),
        ] {
            let text = LINUXKIT.replace(from, to);
            assert_ne!(text, LINUXKIT);
            let error = Config::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn runtime_of_linuxkit() {
        let runtime = Runtime::parse(
            br#"{"cgroups":[],"mounts":[{"destination":"/c/tmp","options":["remount","private"]}],
            "mkdir":["a"],"interfaces":[{"name":"wg0","add":"wireguard","createInRoot":true}],
            "bindNS":{"cgroup":"","ipc":"","mnt":"","net":"/run/netns/wg","pid":"","user":"","uts":""},"namespace":""}"#,
        )
        .unwrap();
        assert_eq!(runtime.bind_ns.wanted(), [("net", "/run/netns/wg")]);
        assert!(runtime.interfaces[0].create_in_root);
    }

    proptest! {
        #[test]
        fn any_bytes_are_fine(bytes: Vec<u8>) {
            let _ = (Config::parse(&bytes), Runtime::parse(&bytes));
        }

        #[test]
        fn damaged_files_are_errors_not_panics(at in 0..LINUXKIT.len(), byte: u8) {
            let mut bytes = LINUXKIT.as_bytes().to_vec();
            bytes[at] = byte;
            let _ = Config::parse(&bytes);
        }
    }
}
