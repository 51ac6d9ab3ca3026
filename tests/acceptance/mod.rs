//! What LinuxKit's examples and test cases do inside a machine, done by kiln-init in real boots.
//!
//! Each description beside this file is one boot and holds many cases. A container proves its case
//! by itself, command by command, and says `NAME suite PASSED` on the console, as LinuxKit's own
//! tests do. Their images are made here: a static busybox with its applets, and labels.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::boot::Machine;
use super::support::layout::{Layout, Tar};
use super::support::{Space, tool};

/// `check NAME SCRIPT`: stops at the first command that fails, and shows each before it is run.
/// Where `/done` is, it tells others that it has ended.
const CHECK: &str = r#"#!/bin/sh
if sh -exc "$2"; then echo "$1 suite PASSED"; else echo "$1 suite FAILED"; fi
[ ! -d /done ] || echo > "/done/$1"
"#;

/// `fails COMMAND…`: succeeds if the command does not; the shell's own `!` never ends a script.
const FAILS: &str = r#"#!/bin/sh
if "$@"; then echo "not refused: $*" >&2; exit 1; fi
"#;

/// `until-there PATH…`: waits for them, half a minute at most.
const UNTIL_THERE: &str = r#"#!/bin/sh
left=150
for path; do
    until [ -e "$path" ]; do
        [ $left -gt 0 ] || { echo "never there: $path" >&2; exit 1; }
        left=$((left - 1))
        sleep 0.2
    done
done
"#;

/// Directories that containers with a read-only root may have something mounted on.
const DIRECTORIES: [&str; 9] = [
    "dev", "done", "etc", "mnt", "proc", "run", "sys", "tmp", "var",
];

/// Returns the path of the host's busybox.
fn busybox() -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let candidates = env::split_paths(&path).map(|directory| directory.join("busybox"));
    let found = candidates.into_iter().find(|path| path.is_file());
    found.expect("no busybox in PATH; install the Debian package busybox-static (tests/run does)")
}

/// The root of every image.
fn layer() -> Vec<u8> {
    let busybox = busybox();
    let mut tar = Tar::default();
    tar.file("bin/busybox", 0o755, &fs::read(&busybox).unwrap());
    for applet in tool(busybox.to_str().unwrap(), &["--list"]).lines() {
        if applet != "busybox" {
            tar.link(&format!("bin/{applet}"), "busybox");
        }
    }
    for (name, script) in [
        ("check", CHECK),
        ("fails", FAILS),
        ("until-there", UNTIL_THERE),
    ] {
        tar.file(&format!("bin/{name}"), 0o755, script.as_bytes());
    }
    for name in DIRECTORIES {
        tar.directory(name);
    }
    tar.finish()
}

/// Writes the images: one without a label, and some with those of LinuxKit's packages.
fn write_images(directory: &Path) {
    let layout = Layout::new(directory);
    let root = layer();
    let image = |label: &Value| {
        let labels = json!({"org.mobyproject.config": label.to_string()});
        let config = json!({"Env": ["PATH=/bin"], "Labels": labels});
        layout.image("linux/amd64", &root, &config)
    };
    let node = |path: &str, major: u32, minor: u32| json!({"path": path, "type": "c", "major": major, "minor": minor, "mode": "0666"});
    let mount = json!({
        "binds": ["/dev:/dev", "/var:/var:rshared,rbind", "/:/hostroot"],
        "devices": [{"path": "all", "type": "b"}],
        "capabilities": ["CAP_SYS_ADMIN"],
        "rootfsPropagation": "shared",
        "net": "new",
        "ipc": "new",
    });
    let exporter = json!({
        "pid": "host",
        "binds": ["/proc:/host/proc", "/sys:/host/sys", "/:/rootfs"],
        "capabilities": ["all"],
    });
    let cadvisor = json!({
        "pid": "host",
        "binds": ["/var/lib/docker:/var/lib/docker:ro", "/var/run:/var/run", "/sys:/sys:ro",
            "/etc/resolv.conf:/etc/resolv.conf:ro"],
        "capabilities": ["all"],
    });
    let getty = json!({
        "pid": "host",
        "net": "host",
        "binds": ["/etc/resolv.conf:/etc/resolv.conf", "/run:/run", "/tmp:/tmp",
            "/etc:/hostroot/etc", "/usr/bin/ctr:/usr/bin/ctr", "/usr/bin/runc:/usr/bin/runc",
            "/containers:/containers", "/var/log:/var/log",
            "/var/lib/containerd:/var/lib/containerd", "/dev:/dev", "/sys:/sys"],
        "devices": [node("/dev/console", 5, 1), node("/dev/tty0", 4, 0), node("/dev/ttyS0", 4, 64),
            node("/dev/ttyAMA0", 204, 64), node("/dev/hvc0", 229, 0)],
        "capabilities": ["all"],
    });
    layout.finish(&[
        ("plain", image(&json!({}))),
        ("mount", image(&mount)),
        ("exporter", image(&exporter)),
        ("cadvisor", image(&cadvisor)),
        ("getty", image(&getty)),
    ]);
}

/// Boots a description until its machine ends by itself, and looks for each case's word.
fn passes(description: &str, cases: &[&str]) -> String {
    let space = Space::new();
    write_images(&space.path("images"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/acceptance");
    fs::copy(source.join(description), space.path(description)).unwrap();
    let console = Machine::boot(&space, &["--accel", "tcg", description]).end();
    let passed = |case: &&&str| {
        let line = format!(" | {case} suite PASSED");
        console.lines().any(|l| l.trim_end().ends_with(&line))
    };
    let missing: Vec<_> = cases.iter().filter(|case| !passed(case)).collect();
    assert!(missing.is_empty(), "not passed: {missing:?}\n{console}");
    console
}

/// Looks for a line of the kernel or of a container that wrote to the terminal itself.
fn says(console: &str, text: &str) {
    let is_there = |line: &str| !line.contains(" | ") && line.trim_end().ends_with(text);
    assert!(console.lines().any(is_there), "no \"{text}\":\n{console}");
}

#[test]
fn a_system_lives_from_boot_to_power_off() {
    let console = passes(
        "life.yml",
        &[
            "ports",
            "order",
            "sysctl",
            "own sysctl",
            "binds",
            "host sysctl",
            "wire",
            "other end",
            "kept namespaces",
            "moved device",
            "ports of services",
            "logs",
            "authorized keys",
            "inside",
            "outside",
            "wireguard",
            "shutdown",
        ],
    );
    says(&console, "Welcome to LinuxKit");
    // The service whose bind has no source, and what did not start with it: nothing else.
    let missing = "/run/config/no-such-file";
    let lines: Vec<&str> = console.lines().filter(|l| l.contains(missing)).collect();
    assert_eq!(lines.len(), 1, "{console}");
    assert!(lines[0].contains("missing: not started"), "{console}");
    assert_eq!(console.matches("not started").count(), 1, "{console}");
}

#[test]
fn containers_share_what_they_are_told_to() {
    passes(
        "storage.yml",
        &[
            "blank volume",
            "writes",
            "rw on rw",
            "ro on rw",
            "ro on ro",
            "filled volumes",
            "filled mount",
            "filled bind",
            "overlay",
            "mounts",
            "mount from onboot",
            "own mount",
            "no mount of another",
            "modprobe",
            "losetup",
            "loop",
            "no device",
            "format",
            "mounts for services",
            "mount while it runs",
            "mounts late",
            "twin a",
            "twin b",
        ],
    );
}

#[test]
fn a_container_gets_what_it_asks_for_and_no_more() {
    let console = passes(
        "process.yml",
        &[
            "user",
            "powerless",
            "powerful",
            "own hostname",
            "renames",
            "hostname of host",
            "locked",
            "open",
            "devices",
            "kmsg",
            "no kmsg",
            "console",
            "cgroups",
            "cgroups to write",
            "limits",
            "no limits left",
            "goes on",
        ],
    );
    says(&console, "] spoken to the kernel");
    says(&console, "spoken to the console");
}

#[test]
fn containers_look_after_the_machine() {
    let console = passes(
        "host.yml",
        &[
            "boot mounts",
            "kept mounts",
            "insmod",
            "no insmod",
            "nested",
            "node exporter",
            "cadvisor",
            "getty",
        ],
    );
    says(&console, "spoken to the terminal");
}
