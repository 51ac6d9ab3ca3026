//! Built-in jobs in a description: what is written for them, and what becomes of them at boot.

use super::boot::{self, assert_order};
use super::support::{Space, read_tar};
use super::vm::{Machine, service};

const KERNEL: &str = "\
kernel:
  debian: {suite: bookworm, packages: [linux-image-cloud-amd64]}
  modules: [overlay, virtio_pci, virtio_console, dummy]
  cmdline: console=ttyS0 quiet kiln.net=off
";

/// A setting that nobody else makes.
const SETTING: &str = "\
files:
  - {path: etc/sysctl.d/x.conf, contents: \"kernel.panic = 77\\n\", mode: \"0644\"}
";

#[test]
fn a_job_is_one_file_and_needs_init_kiln() {
    let space = Space::new();
    let jobs = "onboot: [{name: data, builtin: mount, command: [/var]}]\n\
                services: [{name: time, builtin: ntp, command: [pool.example]}]\n";
    space.write("jobs.yml", &format!("init: [kiln]\n{jobs}"));
    space.build(&["--format", "tar", "-o", "jobs.tar", "jobs.yml"]);
    let entries = read_tar(&space.path("jobs.tar"));
    let below = |path: &str| -> Vec<&str> {
        let names = entries.keys().map(String::as_str);
        let names = names.filter(|name| name.starts_with(path) && !name.ends_with('/'));
        names.filter(|name| *name != path).collect()
    };
    let config = "containers/onboot/000-data/config.json";
    assert_eq!(below("containers/onboot/000-data"), [config]);
    assert_eq!(
        below("containers/services/time"),
        ["containers/services/time/config.json"]
    );
    let text = String::from_utf8_lossy(&entries[config].content);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["annotations"]["kiln.builtin"], "mount");
    assert_eq!(value["process"]["args"], serde_json::json!(["/var"]));
    assert!(value.get("root").is_none(), "{text}");

    space.write("foreign.yml", jobs);
    let said = space.kiln(&["build", "--format", "tar", "-o", "x.tar", "foreign.yml"]);
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    for part in [
        "foreign.yml:1:32",
        "builtin: mount: kiln's own init does it, which init does not name",
        "write init: [kiln]",
    ] {
        assert!(said.stderr.contains(part), "no {part} in\n{}", said.stderr);
    }
}

#[test]
fn jobs_run_in_the_machine_itself_and_are_supervised() {
    let yaml = format!(
        "{KERNEL}init: [kiln]
onboot:
  - {{name: settings, builtin: sysctl}}
  - {{name: cards, builtin: modprobe, command: [dummy, numdummies=3]}}
  - {{name: data, builtin: mount, command: [-label, nowhere, /var/data]}}
services:
  - name: again
    builtin: sysctl
    annotations: {{kiln.restart: always}}
    resources: {{pids: {{limit: 5}}}}
  - name: shell
    debian: {{suite: bookworm, packages: [busybox-static]}}
    env: [PATH=/bin]
    command: [/bin/busybox, sh, -c, \"busybox cat /proc/sys/kernel/panic; busybox ls /sys/class/net; busybox sleep 9999\"]
{SETTING}"
    );
    let machine = Machine::boot(&yaml, &[]);
    machine.until("started again", |all| {
        service(all, "again")["restarts"].as_u64() >= Some(2)
    });
    let console = machine.console();
    assert_order(
        &console,
        &[
            "sysctl: 1 of 1 settings made",
            "modprobe: dummy",
            "mount: no device has that label or UUID",
            "onboot data: exited with status 1",
        ],
    );
    let seen = machine.ask(&["logs", "shell"]);
    assert!(seen.starts_with("77\n"), "{seen}");
    assert!(seen.contains("dummy2"), "{seen}");
    assert!(machine.ask(&["logs", "again"]).contains("1 of 1 settings"));
    let said = machine.vm(&["replace", "again"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(
        said.stderr.contains("kiln-init's own job sysctl"),
        "{}",
        said.stderr
    );
    machine.ask(&["stop", "again"]);
    machine.until("stopped", |all| service(all, "again")["state"] == "stopped");
}

#[test]
fn a_job_that_fails_can_stop_the_boot() {
    let space = Space::new();
    space.write(
        "stop.yml",
        &format!(
            "{KERNEL}init: [kiln]
onboot:
  - {{name: first, builtin: sysctl}}
  - {{name: cards, builtin: modprobe, command: [nothing_like_it], annotations: {{kiln.on-failure: stop}}}}
  - {{name: after, builtin: modprobe, command: [dummy]}}
services:
  - {{name: time, builtin: ntp, command: [pool.example]}}
onshutdown:
  - {{name: last, builtin: sysctl}}
{SETTING}"
        ),
    );
    let mut machine = boot::Machine::boot(&space, &["--accel", "tcg", "stop.yml"]);
    let console = machine.end();
    assert_order(
        &console,
        &[
            "sysctl: 1 of 1",
            "modprobe: nothing_like_it",
            "onboot cards: exited with status 1",
            "onboot cards: kiln.on-failure is stop",
            "last",
        ],
    );
    for absent in ["modprobe: dummy", "ntp:"] {
        assert!(!console.contains(absent), "{absent} in\n{console}");
    }
}
