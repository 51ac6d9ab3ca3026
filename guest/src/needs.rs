//! Which containers have to wait for the machine's devices: those that could tell.
//!
//! In: a bundle. Out: yes, when in doubt. The modules of devices are loaded beside the others.

use std::fs;
use std::path::Path;

use crate::builtin;
use crate::bundle::Bundle;
use crate::spec::{Config, Mount};

/// Capabilities by which a program sees or sets up the machine's devices, its network among them.
const POWERS: [&str; 6] = [
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_SYS_ADMIN",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
];

/// Where devices are to be seen, and where the socket is by which the machine is asked for them.
const PLACES: [&str; 3] = ["/dev", "/sys", "/run/kiln"];

/// File systems that are on no device; one without a type is a bind, or changes another mount.
const IN_MEMORY: [&str; 11] = [
    "", "bind", "cgroup", "cgroup2", "devpts", "mqueue", "none", "overlay", "proc", "sysfs",
    "tmpfs",
];

/// Returns whether a container may want devices whose modules are loaded by and by: it can see them
/// all, or one that is not there yet, or may set up the machine or its network.
pub(crate) fn needs_devices(bundle: &Bundle) -> bool {
    let (config, runtime) = (&bundle.config, &bundle.runtime);
    let mounts = || config.mounts.iter().chain(&runtime.mounts);
    let sources = mounts().map(|mount| mount.source.as_str());
    let devices = config.linux.devices.iter();
    let devices = devices.map(|device| device.path.as_str());
    let powers = &config.process.capabilities.bounding;
    sources
        .chain(devices)
        .any(|path| is_still_to_come(Path::new(path)))
        || mounts().any(is_on_a_device)
        || allows_all_devices(config)
        || builtin::is_job(config)
        || config.hooks.all().next().is_some()
        || !runtime.interfaces.is_empty()
        || POWERS
            .iter()
            .any(|power| powers.iter().any(|has| has == power))
}

/// Returns whether what a path names, or contains, is there only when all devices are.
fn is_still_to_come(path: &Path) -> bool {
    let meets = |place: &&str| path.starts_with(place) || Path::new(place).starts_with(path);
    path.is_absolute()
        && PLACES.iter().any(meets)
        && !fs::metadata(path).is_ok_and(|node| !node.is_dir())
}

fn is_on_a_device(mount: &Mount) -> bool {
    let is_bind = mount
        .options
        .iter()
        .any(|word| word == "bind" || word == "rbind");
    !is_bind && !IN_MEMORY.contains(&mount.kind.as_str())
}

fn allows_all_devices(config: &Config) -> bool {
    let mut rules = config.linux.resources.devices.iter();
    rules.any(|rule| rule.allow && matches!(rule.kind.as_str(), "" | "a") && rule.major.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Phase;

    fn needs(config: &str, runtime: &str) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let whole = format!(
            r#"{{"process":{{"args":["a"],"cwd":"/"}},"root":{{"path":"rootfs"}},
              "linux":{{"namespaces":[{{"type":"mount"}}]}}{config}}}"#
        );
        fs::write(directory.path().join("config.json"), whole).unwrap();
        fs::write(directory.path().join("runtime.json"), runtime).unwrap();
        needs_devices(&Bundle::read(directory.path(), Phase::Service).unwrap())
    }

    fn mounts(kind: &str, source: &str) -> String {
        format!(r#""mounts":[{{"destination":"/x","type":"{kind}","source":"{source}"}}]"#)
    }

    #[test]
    fn binds_and_mounts_tell() {
        for (kind, source, waits) in [
            ("bind", "/dev/null", false),
            ("bind", "/device", false),
            ("tmpfs", "tmpfs", false),
            ("", "", false),
            ("bind", "/dev", true),
            ("bind", "/", true),
            ("bind", "/run", true),
            ("bind", "/run/kiln", true),
            ("bind", "/dev/not-there-yet", true),
            ("virtiofs", "virtiofs0", true),
            ("ext4", "/dev/sda1", true),
        ] {
            let mounts = mounts(kind, source);
            assert_eq!(needs(&format!(",{mounts}"), "{}"), waits, "{kind} {source}");
            assert_eq!(
                needs("", &format!("{{{mounts}}}")),
                waits,
                "{kind} {source}"
            );
        }
    }

    #[test]
    fn powers_rules_and_hooks_tell() {
        let process = |power: &str| {
            format!(
                r#","process":{{"args":["a"],"cwd":"/","capabilities":{{"bounding":["{power}"]}}}}"#
            )
        };
        let linux =
            |rest: &str| format!(r#","linux":{{"namespaces":[{{"type":"mount"}}],{rest}}}"#);
        for (config, waits) in [
            (process("CAP_NET_BIND_SERVICE"), false),
            (process("CAP_NET_ADMIN"), true),
            (process("CAP_NET_RAW"), true),
            (
                linux(r#""devices":[{"path":"/dev/zero","type":"c"}]"#),
                false,
            ),
            (
                linux(r#""devices":[{"path":"/dev/not-there-yet","type":"c"}]"#),
                true,
            ),
            (linux(r#""resources":{"devices":[{"allow":false}]}"#), false),
            (
                linux(r#""resources":{"devices":[{"allow":true,"type":"a"}]}"#),
                true,
            ),
            (r#","hooks":{"poststop":[{"path":"/x"}]}"#.to_owned(), true),
        ] {
            assert_eq!(needs(&config, "{}"), waits, "{config}");
        }
        let interfaces = r#"{"interfaces":[{"name":"eth0"}]}"#;
        assert!(needs("", interfaces));
    }
}
