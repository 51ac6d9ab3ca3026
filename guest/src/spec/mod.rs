//! What a container is: `config.json` (OCI runtime-spec 1.2) and LinuxKit's `runtime.json`, as
//! far as kiln-init acts on them.
//!
//! Unknown members are passed over, as the specification demands. Members that would change how
//! confined a container is, and that we do not implement, are refused by name: a
//! container must not start with less than was asked for.

mod linux;
mod process;
mod resources;
mod runtime;

use std::collections::BTreeMap;

use crate::builtin;
use crate::error::{Context, Error, Result};
use crate::json::{self, record};
pub(crate) use linux::{
    Device, IdMapping, Linux, Namespace, NamespaceKind, Personality, Seccomp, SyscallArg,
    SyscallRule,
};
pub(crate) use process::{Capabilities, ConsoleSize, IoPriority, Process, Scheduler, User};
pub(crate) use resources::{BlockIo, Cpu, DeviceRule, Memory, Resources};
pub(crate) use runtime::{Interface, Runtime};

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

impl Hooks {
    /// Returns those of every point.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Hook> {
        let points = [
            &self.prestart,
            &self.create_runtime,
            &self.create_container,
            &self.start_container,
            &self.poststart,
            &self.poststop,
        ];
        points.into_iter().flatten()
    }
}

impl Config {
    /// Parses and checks `config.json`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let mut config: Self = json::parse(bytes).context(|| "config.json")?;
        match builtin::is_job(&config) {
            true => builtin::settle(&mut config)?,
            false => config.check()?,
        }
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
        let mut hooks = self.hooks.all();
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
