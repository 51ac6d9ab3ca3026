//! What a container is: `config.json` (OCI runtime-spec 1.2) and LinuxKit's `runtime.json`, as
//! far as kiln-init acts on them.
//!
//! Unknown members are passed over, as the specification demands. Members that would change how
//! confined a container is, and that we do not implement, are refused by name: a
//! container must not start with less than was asked for.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::{Context, Error, Result};
use crate::json::{self, Fault, FromJson, Read, record};

/// Largest config.json or runtime.json read, in bytes. Parsed, it may take 20 times that.
pub(crate) const SPEC_BYTES_MAX: u64 = 1 << 20;

record! {
    /// `config.json`.
    Config {
        /// What to run.
        process: Process = "process",
        /// Where its root is.
        root: Root = "root",
        /// Host name inside; needs a new UTS namespace.
        hostname: String = "hostname",
        /// NIS domain name inside.
        domainname: String = "domainname",
        /// Mounts, in order.
        mounts: Vec<Mount> = "mounts",
        /// Remarks; see [`Policy`](crate::policy::Policy).
        annotations: BTreeMap<String, String> = "annotations",
        /// Linux parts.
        linux: Linux = "linux",
        /// Programs to run on the way.
        hooks: Hooks = "hooks",
    }
}

record! {
    /// `hooks`; see [`hooks`](crate::hooks).
    Hooks {
        /// Outside, before the program may start.
        prestart: Vec<Hook> = "prestart",
        /// The same.
        create_runtime: Vec<Hook> = "createRuntime",
        /// In the container's namespaces, its root not entered yet.
        create_container: Vec<Hook> = "createContainer",
        /// In the container.
        start_container: Vec<Hook> = "startContainer",
        /// Outside, once the program runs.
        poststart: Vec<Hook> = "poststart",
        /// Outside, once it has ended.
        poststop: Vec<Hook> = "poststop",
    }
}

record! {
    /// One program.
    Hook {
        /// Absolute path.
        path: String = "path",
        /// All arguments, its name included; empty for its path alone.
        args: Vec<String> = "args",
        /// All of its environment.
        env: Vec<String> = "env",
        /// Seconds after which it is killed.
        timeout: Option<u32> = "timeout",
    }
    required "path"
}

record! {
    /// `process`.
    Process {
        /// Wants a terminal.
        terminal: bool = "terminal",
        /// Its size.
        console_size: Option<ConsoleSize> = "consoleSize",
        /// Identity.
        user: User = "user",
        /// Program and arguments.
        args: Vec<String> = "args",
        /// `KEY=value` strings.
        env: Vec<String> = "env",
        /// Working directory.
        cwd: String = "cwd",
        /// The five capability sets; absent means none.
        capabilities: Capabilities = "capabilities",
        /// Resource limits.
        rlimits: Vec<Rlimit> = "rlimits",
        /// Sets `PR_SET_NO_NEW_PRIVS`.
        no_new_privileges: bool = "noNewPrivileges",
        /// Written to `/proc/self/oom_score_adj`.
        oom_score_adj: Option<i32> = "oomScoreAdj",
        /// Which of the processor's schedulers it has.
        scheduler: Option<Scheduler> = "scheduler",
        /// When its reads and writes are due.
        io_priority: Option<IoPriority> = "ioPriority",
    }
    refused "apparmorProfile" "selinuxLabel"
}

record! {
    /// `process.scheduler` (sched_setattr(2)).
    Scheduler {
        /// `SCHED_FIFO` …
        policy: String = "policy",
        /// Of ordinary policies, −20 to 19.
        nice: i32 = "nice",
        /// Of real-time policies, 1 to 99.
        priority: u32 = "priority",
        /// `SCHED_FLAG_RESET_ON_FORK` …
        flags: Vec<String> = "flags",
        /// Nanoseconds of `SCHED_DEADLINE`.
        runtime: u64 = "runtime",
        /// The same.
        deadline: u64 = "deadline",
        /// The same.
        period: u64 = "period",
    }
    required "policy"
}

record! {
    /// `process.ioPriority` (ioprio_set(2)).
    IoPriority {
        /// `IOPRIO_CLASS_BE` …
        class: String = "class",
        /// 0 to 7, the first of which is the highest.
        priority: u16 = "priority",
    }
    required "class"
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
    /// `process.consoleSize`, in characters.
    ConsoleSize {
        /// Rows.
        height: u16 = "height",
        /// Columns.
        width: u16 = "width",
    }
}

record! {
    /// `process.user`.
    User {
        /// User id.
        uid: u32 = "uid",
        /// Group id.
        gid: u32 = "gid",
        /// Supplementary groups.
        additional_gids: Vec<u32> = "additionalGids",
        /// File creation mask; 0022 if absent.
        umask: Option<u32> = "umask",
    }
}

record! {
    /// `process.capabilities`: names such as `CAP_NET_ADMIN`.
    Capabilities {
        /// Limit for exec.
        bounding: Vec<String> = "bounding",
        /// In force.
        effective: Vec<String> = "effective",
        /// Kept over exec of privileged files.
        inheritable: Vec<String> = "inheritable",
        /// May be put in force.
        permitted: Vec<String> = "permitted",
        /// Kept over exec of ordinary files.
        ambient: Vec<String> = "ambient",
    }
}

record! {
    /// One of `process.rlimits`.
    Rlimit {
        /// `RLIMIT_NOFILE` …
        kind: String = "type",
        /// Soft limit; 2⁶⁴−1 is unlimited.
        soft: u64 = "soft",
        /// Hard limit.
        hard: u64 = "hard",
    }
    required "type" "soft" "hard"
}

record! {
    /// `root`.
    Root {
        /// Relative to the bundle, or absolute.
        path: String = "path",
        /// Makes `/` read-only.
        readonly: bool = "readonly",
    }
}

record! {
    /// One mount, in either file.
    #[derive(Clone, PartialEq, Eq)]
    Mount {
        /// Where it goes.
        destination: String = "destination",
        /// File system type.
        kind: String = "type",
        /// What is mounted.
        source: String = "source",
        /// Option words.
        options: Vec<String> = "options",
        /// Whose files are whose: of an id-mapped mount.
        uid_mappings: Vec<IdMapping> = "uidMappings",
        /// The same for groups.
        gid_mappings: Vec<IdMapping> = "gidMappings",
    }
}

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

record! {
    /// `linux.resources`.
    Resources {
        /// Device access rules, in order.
        devices: Vec<DeviceRule> = "devices",
        /// Memory.
        memory: Memory = "memory",
        /// Processor.
        cpu: Cpu = "cpu",
        /// Number of processes.
        pids: Pids = "pids",
        /// Reads and writes of disks.
        block_io: BlockIo = "blockIO",
        /// Huge pages.
        hugepage_limits: Vec<HugepageLimit> = "hugepageLimits",
        /// RDMA, by device.
        rdma: BTreeMap<String, Rdma> = "rdma",
        /// cgroup v2 files, written as they are.
        unified: BTreeMap<String, String> = "unified",
    }
    refused "network"
}

record! {
    /// One of `linux.resources.devices`.
    DeviceRule {
        /// Allow or deny.
        allow: bool = "allow",
        /// `a`, `b`, `c`; empty is `a`.
        kind: String = "type",
        /// Major number; absent is any.
        major: Option<i64> = "major",
        /// Minor number; absent is any.
        minor: Option<i64> = "minor",
        /// Of `r`, `w`, `m`; empty is all.
        access: String = "access",
    }
}

record! {
    /// `linux.resources.memory`, in bytes; −1 is unlimited.
    Memory {
        /// Hard limit.
        limit: Option<i64> = "limit",
        /// Best-effort protection.
        reservation: Option<i64> = "reservation",
        /// Memory plus swap.
        swap: Option<i64> = "swap",
    }
}

record! {
    /// `linux.resources.cpu`.
    Cpu {
        /// cgroup v1 weight, 2–262144.
        shares: Option<u64> = "shares",
        /// Microseconds of CPU per period; −1 is unlimited.
        quota: Option<i64> = "quota",
        /// Length of a period in microseconds.
        period: Option<u64> = "period",
        /// CPU list such as `0-3,8`.
        cpus: String = "cpus",
        /// Memory node list.
        mems: String = "mems",
        /// 1 makes the group idle.
        idle: Option<i64> = "idle",
    }
    refused "realtimeRuntime" "realtimePeriod"
}

record! {
    /// `linux.resources.blockIO`.
    BlockIo {
        /// 10–1000.
        weight: Option<u16> = "weight",
        /// The same for one disk.
        weight_device: Vec<DeviceLimit> = "weightDevice",
        /// Bytes a second.
        read_bps: Vec<DeviceLimit> = "throttleReadBpsDevice",
        /// The same.
        write_bps: Vec<DeviceLimit> = "throttleWriteBpsDevice",
        /// Operations a second.
        read_iops: Vec<DeviceLimit> = "throttleReadIOPSDevice",
        /// The same.
        write_iops: Vec<DeviceLimit> = "throttleWriteIOPSDevice",
    }
    refused "leafWeight"
}

record! {
    /// What is so of one disk.
    DeviceLimit {
        /// Its number.
        major: u32 = "major",
        /// Its number.
        minor: u32 = "minor",
        /// Of `throttle…`.
        rate: u64 = "rate",
        /// Of `weightDevice`.
        weight: u16 = "weight",
    }
    required "major" "minor"
    refused "leafWeight"
}

record! {
    /// One of `linux.resources.hugepageLimits`.
    HugepageLimit {
        /// `2MB` …
        page_size: String = "pageSize",
        /// Bytes.
        limit: u64 = "limit",
    }
    required "pageSize" "limit"
}

record! {
    /// One of `linux.resources.rdma`.
    Rdma {
        /// Most handles.
        handles: Option<u32> = "hcaHandles",
        /// Most objects.
        objects: Option<u32> = "hcaObjects",
    }
}

record! {
    /// `linux.resources.pids`.
    Pids {
        /// Most processes; 0 or −1 is unlimited.
        limit: Option<i64> = "limit",
    }
}

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
        let config: Self = json::parse(bytes).context(|| "config.json")?;
        config.check()?;
        Ok(config)
    }

    /// Refuses what we would not honour, by name.
    fn check(&self) -> Result<()> {
        let (process, linux) = (&self.process, &self.linux);
        let has = |kind| linux.namespaces.iter().any(|n| n.kind == kind);
        let joins = |kind| {
            let mut all = linux.namespaces.iter();
            all.any(|n| n.kind == kind && !n.path.is_empty())
        };
        let refused = [(
            "linux.namespaces: path of a mount namespace",
            joins(NamespaceKind::Mount),
        )];
        if let Some((member, _)) = refused.iter().find(|(_, present)| *present) {
            return Err(Error::new(format!("config.json: {member}: not supported")));
        }
        let hooks = &self.hooks;
        let mut hooks = [
            &hooks.prestart,
            &hooks.create_runtime,
            &hooks.create_container,
            &hooks.start_container,
            &hooks.poststart,
            &hooks.poststop,
        ]
        .into_iter()
        .flatten();
        let mapped = [&linux.uid_mappings, &linux.gid_mappings];
        let missing = [
            ("root.path is empty", self.root.path.is_empty()),
            ("process.args is empty", process.args.is_empty()),
            ("process.cwd is not absolute", !process.cwd.starts_with('/')),
            (
                "hooks: path is not absolute",
                hooks.any(|hook| !hook.path.starts_with('/')),
            ),
            (
                "linux.namespaces has no mount namespace",
                !has(NamespaceKind::Mount),
            ),
            (
                "linux.uidMappings and linux.gidMappings: a new user namespace needs both",
                self.is_new(NamespaceKind::User) && mapped.iter().any(|m| m.is_empty()),
            ),
            (
                "linux.uidMappings without a user namespace",
                !has(NamespaceKind::User) && mapped.iter().any(|m| !m.is_empty()),
            ),
            (
                "linux.timeOffsets without a new time namespace",
                !linux.time_offsets.is_empty() && !self.is_new(NamespaceKind::Time),
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
        json::parse(bytes).context(|| "runtime.json")
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
            (
                r#""resources":{}"#,
                r#""intelRdt":{}"#,
                "linux.intelRdt: not supported",
            ),
            (r#""type":"pid""#, r#""type":"user""#, "gidMappings"),
            (
                r#""ociVersion":"1.2.1""#,
                r#""hooks":{"poststop":[{"path":"a"}]}"#,
                "hooks: path is not absolute",
            ),
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
