//! Images like those LinuxKit's YAML names, made here: the same labels and shapes, other bytes.
//!
//! Enters: a registry. Leaves: `HOST/lk/NAME:1` for every package below. Written by this file
//! alone, byte by byte the same each time, so that recorded facts stay true.

use std::path::Path;

use serde_json::json;

use crate::support::layout::{Layout, Tar};
use crate::support::tool;

/// A package: name, `org.mobyproject.config` label, command, further files.
struct Package {
    name: &'static str,
    label: &'static str,
    command: &'static [&'static str],
    files: &'static [(&'static str, &'static str)],
}

const fn package(
    name: &'static str,
    label: &'static str,
    command: &'static [&'static str],
    files: &'static [(&'static str, &'static str)],
) -> Package {
    Package {
        name,
        label,
        command,
        files,
    }
}

/// What LinuxKit's packages ask for, from its contract, and third parties' images without a label.
const PACKAGES: &[Package] = &[
    // Unpacked into the root.
    package(
        "init",
        "",
        &[],
        &[
            ("!init", "init"),
            ("!sbin/init", "busybox"),
            ("!bin/rc.init", "rc.init"),
            ("bin/rc.shutdown", "->rc.init"),
            ("!usr/bin/service", "service"),
            ("etc/init.d/005-volumes", "->/usr/bin/service"),
            ("etc/issue", "Welcome\n"),
            ("lib/apk/db/installed", "P:init\nV:1\n"),
            ("run/", ""),
            ("tmp/", ""),
            ("var/", ""),
        ],
    ),
    package(
        "runc",
        "",
        &[],
        &[
            ("!usr/bin/runc", "runc"),
            ("etc/init.d/010-onboot", "->/usr/bin/service"),
            ("etc/shutdown.d/010-onshutdown", "->/usr/bin/service"),
            ("lib/apk/db/installed", "P:runc\nV:1\n"),
        ],
    ),
    package(
        "containerd",
        "",
        &[],
        &[
            ("!usr/bin/containerd", "containerd"),
            ("!usr/bin/ctr", "ctr"),
            (
                "etc/containerd/config.toml",
                "state = \"/run/containerd\"\n",
            ),
            ("etc/init.d/020-containerd", "->/usr/bin/service"),
        ],
    ),
    package(
        "ca-certificates",
        "",
        &[],
        &[("etc/ssl/certs/ca-certificates.crt", "certificates")],
    ),
    package(
        "memlogd",
        r#"{"binds":["/var/run:/var/run"]}"#,
        &["/usr/bin/memlogd"],
        &[
            ("!usr/bin/memlogd", "memlogd"),
            ("!etc/init.d/002-logging", "#!/bin/sh\n"),
        ],
    ),
    package("firmware", "", &[], &[("lib/firmware/a.bin", "firmware")]),
    // Run in containers.
    package(
        "acpid",
        r#"{"pid":"host","binds":["/dev:/dev"],"devices":[{"path":"all","type":"c"}]}"#,
        &["acpid", "-f", "-d"],
        &[],
    ),
    package(
        "auditd",
        r#"{"pid":"host","binds":["/var/log:/var/log"],"capabilities":["CAP_AUDIT_CONTROL","CAP_AUDIT_READ","CAP_AUDIT_WRITE","CAP_SYS_NICE"]}"#,
        &["auditd"],
        &[],
    ),
    package(
        "binfmt",
        r#"{"binds":["/proc/sys/fs/binfmt_misc:/binfmt_misc"],"readonly":true,"capabilities":["CAP_SYS_ADMIN"],"net":"new","ipc":"new"}"#,
        &["/usr/bin/binfmt"],
        &[],
    ),
    package(
        "cadvisor",
        r#"{"pid":"host","capabilities":["all"],"binds":["/sys:/sys:ro","/var/run:/var/run","/var/lib/docker:/var/lib/docker:ro","/etc/resolv.conf:/etc/resolv.conf:ro"]}"#,
        &["cadvisor"],
        &[],
    ),
    package(
        "dhcpcd",
        r#"{"binds":["/run/resolvconf:/etc"],"capabilities":["CAP_NET_ADMIN","CAP_NET_BIND_SERVICE","CAP_NET_RAW","CAP_SYS_ADMIN"]}"#,
        &["/sbin/dhcpcd", "--nobackground", "-f", "/dhcpcd.conf"],
        &[("dhcpcd.conf", "nodelay\n"), ("etc/hosts", "own")],
    ),
    package(
        "dm-crypt",
        r#"{"binds":["/dev:/dev","/etc/dm-crypt:/etc/dm-crypt"],"devices":[{"path":"all","type":"a"}],"capabilities":["CAP_SYS_ADMIN","CAP_MKNOD"]}"#,
        &["crypto"],
        &[],
    ),
    package(
        "extend",
        r#"{"binds":["/dev:/dev"],"devices":[{"path":"all","type":"b"}],"capabilities":["CAP_SYS_ADMIN","CAP_MKNOD"],"net":"new","ipc":"new"}"#,
        &["extend"],
        &[],
    ),
    package(
        "format",
        r#"{"binds":["/dev:/dev"],"devices":[{"path":"all","type":"b"}],"capabilities":["CAP_SYS_ADMIN","CAP_MKNOD"],"net":"new","ipc":"new"}"#,
        &["format"],
        &[("!usr/bin/format", "format")],
    ),
    package(
        "getty",
        r#"{"pid":"host","net":"host","capabilities":["all"],"binds":["/run:/run","/tmp:/tmp","/etc:/hostroot/etc","/dev:/dev","/sys:/sys","/containers:/containers","/var/log:/var/log","/etc/resolv.conf:/etc/resolv.conf","/usr/bin/ctr:/usr/bin/ctr","/usr/bin/runc:/usr/bin/runc"],"devices":[{"path":"/dev/console","type":"c","major":5,"minor":1,"mode":"0666"},{"path":"/dev/tty0","type":"c","major":4,"minor":0,"mode":"0666"},{"path":"/dev/ttyS0","type":"c","major":4,"minor":64,"mode":"0666"}]}"#,
        &["/sbin/tini", "/usr/bin/rungetty.sh"],
        &[("etc/securetty", "console\n")],
    ),
    package(
        "host-timesync-daemon",
        r#"{"binds":["/dev/rtc0:/dev/rtc0"],"capabilities":["CAP_SYS_TIME"]}"#,
        &["timesync"],
        &[],
    ),
    package(
        "ip",
        r#"{"capabilities":["CAP_NET_ADMIN","CAP_NET_RAW"]}"#,
        &[],
        &[("!sbin/ip", "ip")],
    ),
    package(
        "kmsg",
        r#"{"binds":["/dev/kmsg:/dev/kmsg"],"devices":[{"path":"/dev/kmsg","type":"c","major":1,"minor":11,"mode":"0666"}],"capabilities":["CAP_SYSLOG"]}"#,
        &["/usr/bin/kmsg"],
        &[],
    ),
    package(
        "logwrite",
        r#"{"binds":["/var/run:/var/run","/var/log:/var/log"]}"#,
        &["/usr/bin/logwrite"],
        &[],
    ),
    package(
        "losetup",
        r#"{"binds":["/dev:/dev","/var:/var"],"devices":[{"path":"all","type":"b"}],"capabilities":["CAP_SYS_ADMIN"]}"#,
        &["loopy"],
        &[],
    ),
    package(
        "metadata",
        r#"{"binds":["/dev:/dev","/var:/var","/run:/run","/sys:/sys","/etc/resolv.conf:/etc/resolv.conf","/etc/ssl/certs:/etc/ssl/certs"],"devices":[{"path":"all","type":"b"}],"tmpfs":["/tmp"],"readonly":true,"capabilities":["CAP_SYS_ADMIN","CAP_NET_ADMIN","CAP_NET_BIND_SERVICE"]}"#,
        &["/usr/bin/metadata"],
        &[],
    ),
    package(
        "modprobe",
        r#"{"binds":["/lib/modules:/lib/modules","/sys:/sys"],"capabilities":["CAP_SYS_MODULE"]}"#,
        &[],
        &[],
    ),
    package(
        "mount",
        r#"{"binds":["/dev:/dev","/var:/var:rshared,rbind","/:/hostroot"],"devices":[{"path":"all","type":"b"}],"capabilities":["CAP_SYS_ADMIN"],"rootfsPropagation":"shared","net":"new","ipc":"new"}"#,
        &["mountie"],
        &[],
    ),
    package(
        "node_exporter",
        r#"{"pid":"host","capabilities":["all"],"binds":["/proc:/host/proc","/sys:/host/sys","/:/rootfs"]}"#,
        &["node_exporter"],
        &[],
    ),
    package(
        "open-vm-tools",
        r#"{"pid":"host","capabilities":["CAP_SYS_BOOT"]}"#,
        &["vmtoolsd"],
        &[],
    ),
    package(
        "openntpd",
        r#"{"binds":["/etc/resolv.conf:/etc/resolv.conf"],"capabilities":["CAP_SYS_TIME","CAP_SYS_NICE","CAP_SYS_CHROOT","CAP_SETUID","CAP_SETGID"]}"#,
        &["/usr/sbin/ntpd", "-d"],
        &[("etc/passwd", "root:x:0:0::/:/bin/sh\n")],
    ),
    package(
        "poweroff",
        r#"{"pid":"host","readonly":true,"capabilities":["CAP_SYS_BOOT"]}"#,
        &["/bin/sh", "/poweroff.sh"],
        &[("!poweroff.sh", "#!/bin/sh\n")],
    ),
    package("qemu-ga", r#"{"net":"host"}"#, &["qemu-ga"], &[]),
    package(
        "rngd",
        r#"{"capabilities":["CAP_SYS_ADMIN"],"oomScoreAdj":-800,"readonly":true,"net":"new","ipc":"new"}"#,
        &["/sbin/rngd"],
        &[("!sbin/rngd", "rngd")],
    ),
    package(
        "sshd",
        r#"{"pid":"host","net":"host","capabilities":["all"],"binds":["/run:/run","/tmp:/tmp","/etc:/hostroot/etc","/dev:/dev","/sys:/sys","/containers:/containers","/var/log:/var/log","/etc/resolv.conf:/etc/resolv.conf"],"devices":[{"path":"all","type":"a"}]}"#,
        &["/sbin/tini", "-s", "/usr/bin/ssh.sh"],
        &[("etc/ssh/sshd_config", "PasswordAuthentication no\n")],
    ),
    package(
        "swap",
        r#"{"binds":["/var:/var","/dev:/dev"],"devices":[{"path":"all","type":"a"}],"capabilities":["CAP_SYS_ADMIN","CAP_MKNOD"],"net":"new","ipc":"new"}"#,
        &["/swap.sh"],
        &[],
    ),
    package(
        "sysctl",
        r#"{"pid":"host","readonly":true,"capabilities":["CAP_SYS_ADMIN","CAP_NET_ADMIN"]}"#,
        &["/usr/bin/sysctl"],
        &[(
            "etc/sysctl.d/00-linuxkit.conf",
            "kernel.kptr_restrict = 2\n",
        )],
    ),
    package(
        "sysfs",
        r#"{"net":"new","ipc":"new"}"#,
        &["/usr/bin/sysfs"],
        &[],
    ),
    package(
        "trim-after-delete",
        r#"{"binds":["/var/run:/var/run","/var/lib/docker:/var/lib/docker"],"capabilities":["CAP_SYS_ADMIN"]}"#,
        &["trim"],
        &[],
    ),
    package(
        "tss",
        r#"{"pid":"host","net":"host","capabilities":["all"],"binds":["/dev:/dev"]}"#,
        &["tcsd", "-f"],
        &[],
    ),
    package(
        "vpnkit-expose-port",
        r#"{"capabilities":["CAP_NET_BIND_SERVICE"],"binds":["/port:/port"]}"#,
        &["vpnkit"],
        &[],
    ),
    package(
        "vsudd",
        r#"{"binds":["/var/run:/var/run"],"capabilities":["CAP_SYS_ADMIN"]}"#,
        &["/vsudd"],
        &[],
    ),
    package(
        "check",
        "",
        &["/bin/sh", "/check.sh"],
        &[("!check.sh", "#!/bin/sh\n")],
    ),
    package(
        "bindmerge",
        r#"{"binds":["/label:/label","/run:/run:ro"]}"#,
        &["/check.sh"],
        &[],
    ),
    package("test-ns", "", &["/bin/sh"], &[("!bin/sh", "sh")]),
    package(
        "docker",
        r"",
        &["dockerd"],
        &[("!usr/local/bin/dockerd", "dockerd")],
    ),
    package(
        "nginx",
        "",
        &["nginx", "-g", "daemon off;"],
        &[
            ("!usr/sbin/nginx", "nginx"),
            ("etc/resolv.conf", "nameserver 192.0.2.1\n"),
            ("etc/hostname", "build-host\n"),
            ("etc/mtab", "old\n"),
            (".dockerenv", ""),
        ],
    ),
    package(
        "redis",
        "",
        &["redis-server"],
        &[("!usr/bin/redis-server", "redis")],
    ),
    package(
        "busybox",
        "",
        &["sh"],
        &[("!bin/busybox", "busybox"), ("bin/sh", "->busybox")],
    ),
];

/// What LinuxKit's kernel images hold.
fn kernel() -> Vec<(String, u32, Vec<u8>)> {
    let mut modules = Tar::default();
    for directory in ["lib", "lib/modules", "lib/modules/6.12.0"] {
        modules.directory(directory);
    }
    modules.file("lib/modules/6.12.0/modules.dep", 0o644, b"");
    vec![
        ("kernel".into(), 0o644, b"a kernel".to_vec()),
        ("kernel.tar".into(), 0o644, modules.finish()),
        ("intel-ucode.cpio".into(), 0o644, b"microcode".to_vec()),
    ]
}

/// Puts everything into the registry at `host`; `work` is a directory for it.
pub(super) fn push(host: &str, work: &Path) {
    let packages = PACKAGES.iter().map(|package| {
        let mut tar = Tar::default();
        // A file of its own, so that no two images are the same tree.
        tar.file(
            &format!("usr/share/lk-{}", package.name),
            0o644,
            package.name.as_bytes(),
        );
        for (path, content) in package.files {
            let (path, mode) = path
                .strip_prefix('!')
                .map_or((*path, 0o644), |path| (path, 0o755));
            match (path.strip_suffix('/'), content.strip_prefix("->")) {
                (Some(directory), _) => tar.directory(directory),
                (None, Some(target)) => tar.link(path, target),
                (None, None) => tar.file(path, mode, content.as_bytes()),
            }
        }
        let labels = match package.label {
            "" => json!({}),
            label => json!({"org.mobyproject.config": label}),
        };
        let config = json!({
            "Cmd": package.command,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Labels": labels,
        });
        (package.name, tar.finish(), config)
    });
    let mut tar = Tar::default();
    for (path, mode, content) in kernel() {
        tar.file(&path, mode, &content);
    }
    let kernel = ("kernel", tar.finish(), json!({}));
    let mut commands: Vec<String> = packages
        .chain([kernel])
        .map(|(name, layer, config)| {
            let path = work.join(name);
            let layout = Layout::new(&path);
            let image = layout.image("linux/amd64", &layer, &config);
            layout.finish(&[("1", image)]);
            format!("oci:{}:1 docker://{host}/lk/{name}:1", path.display())
        })
        .collect();
    let path = work.join("many");
    let layout = Layout::new(&path);
    let platforms = ["linux/amd64", "linux/arm64"];
    let image = |platform: &&str| {
        let mut tar = Tar::default();
        tar.file("platform", 0o644, platform.as_bytes());
        layout.image(platform, &tar.finish(), &json!({}))
    };
    let index = layout.index(&platforms.iter().map(image).collect::<Vec<_>>());
    layout.finish(&[("1", index)]);
    commands.push(format!(
        "--all --preserve-digests oci:{}:1 docker://{host}/lk/many:1",
        path.display()
    ));
    // Two at a time: most of it is the start of skopeo.
    let script = format!(
        "printf '%s\\n' '{}' | xargs -P 2 -L 1 skopeo copy -q --dest-tls-verify=false",
        commands.join("' '")
    );
    tool("sh", &["-c", &script]);
}
