//! Machines of other monitors than QEMU: what they cannot do, and the vsock by which they are spoken
//! to.
//!
//! Firecracker and Cloud Hypervisor need KVM, which machines that test seldom have. What kiln says to
//! them is in the tests of `cli/src/vm/`; here QEMU boots a system as it is built for Firecracker,
//! and vhost-device-vsock gives the same socket to its vsock as they do.

use std::fs;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::support::Space;
use super::vm::{Machine, PATIENCE, service};

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &str, args: &[&str]) -> Running {
    let started = Command::new(program).args(args).spawn();
    Running(started.unwrap_or_else(|error| panic!("{program}: {error}; tests/run installs it")))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

const SYSTEM: &str = "\
kernel:
  debian: {suite: bookworm, packages: [linux-image-cloud-amd64]}
  modules: [overlay, virtio_pci, vmw_vsock_virtio_transport, vsock_loopback]
  cmdline: console=ttyS0 quiet panic=-1 kiln.net=off modules=vsock_loopback
init: [kiln]
services:
  - name: web
    debian: {suite: bookworm, packages: [busybox-static, socat]}
    env: [\"PATH=/bin:/usr/bin\"]
    command: [/bin/busybox, sleep, \"100000\"]
";

/// Boots the system as Firecracker would, and gives it a vsock.
fn boot() -> (Machine, [Running; 2]) {
    let space = Space::new();
    space.write("box.yml", SYSTEM);
    space.build(&["--no-sbom", "--decompress-kernel", "box.yml"]);
    let place = space.path("run/kiln/box");
    fs::create_dir(space.path("run")).unwrap();
    let mut private = fs::DirBuilder::new();
    private.recursive(true).mode(0o700).create(&place).unwrap();
    let [vsock, server] = [place.join("vsock.sock"), space.path("server.sock")];
    let server_args = ["--socket", text(&server), "--uds-path", text(&vsock)];
    let server_process = start("vhost-device-vsock", &server_args);
    let began = Instant::now();
    while !server.exists() {
        assert!(
            began.elapsed() < PATIENCE,
            "vhost-device-vsock does not start"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    // What kiln adds for Firecracker, which ends at a reset and knows no power-off.
    let cmdline = fs::read_to_string(space.path("box-cmdline")).unwrap();
    let cmdline = format!("{} reboot=k kiln.poweroff=reset", cmdline.trim());
    let console = format!("file:{}", text(&place.join("console.log")));
    let qmp = format!("unix:{},server=on,wait=off", text(&place.join("qmp.sock")));
    let chardev = format!("socket,id=vsock,path={}", text(&server));
    let (kernel, initrd) = (space.path("box-kernel"), space.path("box-initrd.img"));
    let qemu = start(
        "qemu-system-x86_64",
        &[
            &["-M", "q35,memory-backend=mem", "-m", "512M"][..],
            &["-object", "memory-backend-memfd,id=mem,size=512M,share=on"],
            &["-accel", "tcg", "-cpu", "max,la57=off"],
            &[
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ],
            &["-kernel", text(&kernel), "-initrd", text(&initrd)],
            &["-append", &cmdline, "-serial", &console, "-qmp", &qmp],
            &[
                "-chardev",
                &chardev,
                "-device",
                "vhost-user-vsock-pci,chardev=vsock",
            ],
        ]
        .concat(),
    );
    let began = Instant::now();
    while !place.join("qmp.sock").exists() {
        assert!(began.elapsed() < PATIENCE, "QEMU does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    (Machine::of(space, "box"), [qemu, server_process])
}

#[test]
fn a_machine_is_spoken_to_over_its_vsock() {
    let (machine, [mut qemu, _server]) = boot();
    // Asked before it listens.
    machine.until("web is up", |all| service(all, "web")["state"] == "running");
    assert!(machine.ask(&["ls"]).starts_with("box "));

    // Much both ways, and a status.
    let many = machine.ask(&["exec", "web", "/bin/busybox", "seq", "1", "200000"]);
    assert_eq!(many.lines().count(), 200_000);
    let input: Vec<u8> = (0..3_000_000_u32)
        .map(|n| (n.wrapping_mul(n) / 7) as u8)
        .collect();
    for _ in 0..5 {
        let mut child = machine
            .space
            .command()
            .args(["vm", "exec", "web", "/bin/busybox", "sh", "-c"])
            .arg("/bin/busybox cat; exit 7")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let bytes = input.clone();
        let writer = std::thread::spawn(move || stdin.write_all(&bytes));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(
            output.stdout == input,
            "{} bytes came back",
            output.stdout.len()
        );
        assert_eq!(output.status.code(), Some(7));
    }

    // As many as want to, each for itself.
    let number = |number: usize| {
        let script = format!("/bin/busybox sleep 1; echo {number}");
        let args = ["exec", "web", "/bin/busybox", "sh", "-c", &script];
        assert_eq!(machine.ask(&args).trim(), number.to_string());
    };
    std::thread::scope(|scope| {
        for index in 0..20 {
            scope.spawn(move || number(index));
        }
    });

    // Who is not the host is hung up on, by whichever of the machine's addresses he comes.
    for address in ["1", "3"] {
        let script = format!(
            "(printf '\\377\\001{{\"args\":[\"ps\"]}}\\n'; /bin/busybox sleep 1) | \
             socat -t 5 - VSOCK-CONNECT:{address}:1010"
        );
        let said = machine.vm(&["exec", "web", "/bin/busybox", "sh", "-c", &script]);
        let (out, error) = (String::from_utf8_lossy(&said.stdout), &said.stderr);
        assert_eq!(out, "", "{address}: {error}");
        // It was there.
        assert!(!error.contains("No such device"), "{address}: {error}");
    }

    assert_eq!(
        machine.vm(&["stop"]).code,
        Some(0),
        "{}",
        machine.space.names("run/kiln").join(" ")
    );
    let status = qemu.0.wait().unwrap();
    assert!(status.success(), "{status}");
}

/// Everything is refused before anything is built, with what to do instead.
#[test]
fn what_a_monitor_cannot_do_is_refused() {
    let space = Space::new();
    let net = "--networking=none";
    for (vmm, args, message, instead) in [
        (
            "firecracker",
            &["box.yml"][..],
            "--networking user",
            "tap,NAME",
        ),
        (
            "cloud-hypervisor",
            &["--networking=bridge,br0", "box.yml"],
            "bridge",
            "tap,NAME",
        ),
        (
            "firecracker",
            &[net, "-p8080:80", "box.yml"],
            "--publish",
            "tap,NAME",
        ),
        (
            "firecracker",
            &[net, "--virtiofs=.", "box.yml"],
            "shares no",
            "cloud-hypervisor",
        ),
        (
            "firecracker",
            &[net, "--volume=.:/a", "image"],
            "shares no",
            "cloud-hypervisor",
        ),
        (
            "firecracker",
            &[net, "--cpus=33", "box.yml"],
            "up to 32",
            "",
        ),
        (
            "firecracker",
            &[net, "--disk=a.qcow2", "box.yml"],
            "qcow2",
            "qemu-img",
        ),
        (
            "cloud-hypervisor",
            &[net, "--disk=a.vdi", "box.yml"],
            "vdi",
            "qemu-img",
        ),
        (
            "cloud-hypervisor",
            &[net, "--data=x", "box.yml"],
            "--data",
            "--disk",
        ),
        (
            "cloud-hypervisor",
            &[net, "--accel=tcg", "box.yml"],
            "--accel",
            "--vmm qemu",
        ),
        (
            "firecracker",
            &[net, "--arch=riscv64", "box.yml"],
            "riscv64",
            "--vmm qemu",
        ),
        ("hyperv", &["box.yml"], "cannot boot box.yml", ".iso"),
        (
            "hyperv",
            &["--networking=tap,a", "box.iso"],
            "switches",
            "bridge,",
        ),
        ("hyperv", &["-p8080:80", "box.iso"], "--publish", "switch"),
        ("hyperv", &["--virtiofs=.", "box.iso"], "shares no", "disk"),
        ("hyperv", &["--disk=a.qcow2", "box.iso"], "vhdx", "qemu-img"),
        ("hyperv", &["--disk=a.img,size=1G", "box.iso"], "vhdx", ""),
        (
            "hyperv",
            &["--disk=size=1G,format=qcow2", "box.iso"],
            "vhdx",
            "",
        ),
        ("hyperv", &["--accel=tcg", "box.iso"], "--accel", ""),
        ("hyperv", &["--state=a", "box.iso"], "--state", ""),
        ("hyperv", &["--docker", "box.iso"], "--docker", ""),
        ("hyperv", &["--uefi", "box.iso"], "--uefi", ""),
        ("hyperv", &["--fw=a", "box.iso"], "--fw", ""),
        ("hyperv", &["--squashfs", "box.iso"], "--squashfs", ""),
        ("hyperv", &["--kernel", "box.iso"], "--kernel", ""),
        ("hyperv", &["-t", "box.iso"], "--tty", ""),
        ("hyperv", &["-e", "A=1", "box.iso"], "--env", ""),
        ("hyperv", &["box.iso", "--", "ls"], "arguments", ""),
        (
            "qemu",
            &["--networking=bridge,External Switch", "box.yml"],
            "\"External Switch\"",
            "bridge",
        ),
        ("xen", &["box.yml"], "xen", "firecracker"),
    ] {
        let all = [&["run", "--vmm", vmm][..], args].concat();
        let said = space.kiln(&all);
        assert_eq!(said.code, Some(2), "{all:?}: {}", said.stderr);
        assert!(said.stderr.contains(message), "{all:?}: {}", said.stderr);
        assert!(said.stderr.contains(instead), "{all:?}: {}", said.stderr);
    }
}

/// Neither is on a `PATH` without anything; one of the two things that are missing is said.
#[test]
fn a_monitor_that_is_not_there_is_named() {
    let space = Space::new();
    for vmm in ["firecracker", "cloud-hypervisor"] {
        let mut command = space.command();
        let command = command.env("PATH", space.path("empty"));
        let args = ["run", "--vmm", vmm, "--networking=none", "box.yml"];
        let said = super::support::said(command.args(args));
        assert_eq!(said.code, Some(1), "{}", said.stderr);
        let text = said.stderr.to_lowercase();
        let installed =
            text.contains(&format!("{vmm} is not installed")) && text.contains("/releases");
        let kvm = text.contains("needs kvm") && text.contains("--vmm qemu");
        assert!(installed || kvm, "{text}");
    }
}

/// A process that listens at the machine's socket, and says on its standard output what it is told.
const ECHO: &str = "\
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen()
os.write(1, b'it begins\\n')
while True: os.write(1, os.read(0, 4096).upper())
";

/// Firecracker's serial line is its standard streams, which kiln makes a pipe and a file.
#[test]
fn standard_streams_are_a_console_for_all_who_come() {
    let space = Space::new();
    let place = space.path("run/kiln/box");
    fs::create_dir(space.path("run")).unwrap();
    let mut private = fs::DirBuilder::new();
    private.recursive(true).mode(0o700).create(&place).unwrap();
    fs::write(place.join("about.json"), r#"{"monitor": "firecracker"}"#).unwrap();
    let [input, shown, socket] = ["console.in", "console.log", "api.sock"].map(|n| place.join(n));
    super::support::tool("mkfifo", &[text(&input)]);
    let mut options = fs::OpenOptions::new();
    let mut command = Command::new("python3");
    command
        .args(["-c", ECHO, text(&socket)])
        .stdin(options.read(true).write(true).open(&input).unwrap())
        .stdout(fs::File::create(&shown).unwrap());
    let mut monitor = Running(command.spawn().unwrap());
    let began = Instant::now();
    while fs::metadata(&shown).unwrap().len() == 0 {
        assert!(began.elapsed() < PATIENCE, "python3 does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    let console = || {
        space
            .command()
            .args(["vm", "console"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let [mut first, second] = [console(), console()];
    let mut typed = first.stdin.take().unwrap();
    typed.write_all(b"hello\n").unwrap();
    while !fs::read_to_string(&shown).unwrap().ends_with("HELLO\n") {
        assert!(began.elapsed() < PATIENCE, "nothing is typed");
        std::thread::sleep(Duration::from_millis(10));
    }
    // Standard input that has ended is not the end.
    drop(typed);
    let said = space.kiln(&["vm", "rm", "box"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    monitor.0.wait().unwrap();
    for console in [first, second] {
        let output = console.wait_with_output().unwrap();
        let out = String::from_utf8_lossy(&output.stdout);
        assert_eq!(out, "it begins\nHELLO\n");
        assert_eq!(output.status.code(), Some(0));
    }
    assert!(!place.exists(), "its files are gone");
}

/// A monitor that hangs answers nobody, and is ended nevertheless.
#[test]
fn a_monitor_that_hangs_is_ended() {
    let space = Space::new();
    let place = space.path("run/kiln/box");
    fs::create_dir(space.path("run")).unwrap();
    let mut private = fs::DirBuilder::new();
    private.recursive(true).mode(0o700).create(&place).unwrap();
    let [qmp, console, port] = ["qmp.sock", "console.sock", "control.0"].map(|n| place.join(n));
    let socket = |path: &Path| format!("unix:{},server=on,wait=off", text(path));
    let chardev = format!("socket,id=c,path={},server=on,wait=off", text(&port));
    let mut qemu = start(
        "qemu-system-x86_64",
        &[
            &["-M", "none", "-display", "none", "-nodefaults"][..],
            &["-qmp", &socket(&qmp), "-serial", &socket(&console)],
            &["-chardev", &chardev],
        ]
        .concat(),
    );
    let began = Instant::now();
    while !port.exists() {
        assert!(began.elapsed() < PATIENCE, "QEMU does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    super::support::tool("kill", &["-STOP", &qemu.0.id().to_string()]);
    // Whoever looks stays in the queue before its socket, which is short.
    for _ in 0..5 {
        let said = space.kiln(&["vm", "ls"]);
        assert!(String::from_utf8_lossy(&said.stdout).starts_with("box "));
    }
    let said = space.kiln(&["vm", "rm", "box"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(qemu.0.wait().unwrap().code().is_none(), "by a signal");
    assert!(!place.exists(), "its files are gone");
}

/// What is to be known of a machine is there before the machine is.
#[test]
fn a_machine_is_described_before_it_begins() {
    let space = Space::new();
    space.write("box-kernel", "");
    space.write("box-cmdline", "");
    let qemu = space.write(
        "bin/qemu-system-x86_64",
        "#!/bin/sh\ncat \"$LOOK\" >&2\nexit 3\n",
    );
    super::support::tool("chmod", &["+x", text(&qemu)]);
    fs::create_dir(space.path("run")).unwrap();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", text(&space.path("bin")));
    let mut command = space.command();
    let command = command.env("PATH", path);
    let command = command.env("LOOK", space.path("run/kiln/box/about.json"));
    let args = ["run", "--detach", "--accel=tcg", "--arch=amd64", "box"];
    let said = super::support::said(command.args(args));
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains(r#""system":"box""#), "{}", said.stderr);
    assert!(!space.path("run/kiln/box").exists());
}

/// What a monitor does not boot is refused before disks are made for it; that there is KVM is a lie
/// which nobody looks through before.
#[test]
fn a_medium_is_refused_before_anything_is_made() {
    let space = Space::new();
    let mut disk = vec![0; 1024];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(space.path("box.img"), disk).unwrap();
    let lie = "mount -t tmpfs none /dev && : > /dev/kvm && export PATH=bin && exec \"$@\"";
    let lie = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        lie,
        "sh",
    ];
    for vmm in ["firecracker", "cloud-hypervisor"] {
        let program = space.write(&format!("bin/{vmm}"), "#!/bin/sh\n");
        super::support::tool("chmod", &["+x", text(&program)]);
        let mut command = space.command_in(&lie);
        let machine = ["run", "--vmm", vmm, "--networking=none", "--disk=size=1M"];
        let said = super::support::said(command.args(machine).arg("box.img"));
        assert_eq!(said.code, Some(2), "{}", said.stderr);
        let message = "boots only a kernel";
        assert!(said.stderr.contains(message), "{}", said.stderr);
        assert!(!space.path("box.img-state").exists());
    }
}

#[test]
fn hyper_v_gets_a_script() {
    let space = Space::new();
    let machine = ["run", "--vmm", "hyperv", "--mem", "2048"];
    let switch = ["--networking", "bridge,External Switch"];
    let disks = [
        "--disk",
        "size=1G",
        "--disk",
        "D:\\a.VHDX",
        "--iso",
        "it's-efi.iso",
    ];
    let said = space.kiln(&[&machine[..], &switch, &disks].concat());
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let script = String::from_utf8(said.stdout).unwrap();
    for line in [
        "$name = 'it''s'\n",
        "-LiteralPath 'it''s-efi.iso')",
        " 2048MB ",
        "$wanted = 'External Switch'\n",
        "'it''s-disk.vhdx'",
        "'D:\\a.VHDX'",
    ] {
        assert!(script.contains(line), "{script}");
    }
}
