//! The whole way: Debian's packages from the host's mirrors, kiln's own init, a real boot in QEMU.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::support::Space;

/// Emulated machines are slow, and CI's are shared.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running `kiln run`; it ends with the test.
pub(super) struct Machine {
    child: Child,
    log: std::path::PathBuf,
}

impl Machine {
    pub(super) fn boot(space: &Space, args: &[&str]) -> Self {
        let log = space.path("console.log");
        let console = fs::File::create(&log).unwrap();
        let child = space
            .command()
            .arg("run")
            .args(args)
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// Waits until the machine has powered itself off; returns the console.
    pub(super) fn end(&mut self) -> String {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "it does not end:\n{}",
                self.console()
            );
            std::thread::sleep(Duration::from_millis(100));
        };
        let console = self.console();
        assert!(status.success(), "{status}:\n{console}");
        console
    }

    /// Waits until the console shows `text`.
    fn expect(&mut self, text: &str) {
        let began = Instant::now();
        while !self.console().contains(text) {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "the machine ended ({ended:?}) without \"{text}\":\n{}",
                self.console()
            );
            assert!(
                began.elapsed() < PATIENCE,
                "no \"{text}\" on the console:\n{}",
                self.console()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SIGTERM lets kiln end its QEMU.
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && began.elapsed() < Duration::from_secs(10)
        {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn the_example_boots_to_a_service_that_answers() {
    let space = Space::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/hello.yml");
    fs::copy(example, space.path("hello.yml")).unwrap();
    let built = space.build(&["hello.yml"]);
    for part in ["hello-kernel", "hello-initrd.img", "kiln run"] {
        assert!(
            built.stderr.contains(part),
            "no {part} in\n{}",
            built.stderr
        );
    }
    let sizes = String::from_utf8(space.kiln(&["size", "hello"]).stdout).unwrap();
    for part in [
        "kernel ",
        "initrd ",
        "  service hello ",
        "  modules ",
        "  init ",
    ] {
        assert!(sizes.contains(part), "no {part} in\n{sizes}");
    }
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let publish = format!("{port}:80");
    let mut machine = Machine::boot(
        &space,
        &["--accel", "tcg", "--publish", &publish, "hello.yml"],
    );
    machine.expect("hello from kiln");
    let began = Instant::now();
    let answer = loop {
        if let Some(answer) = get(port, "/").filter(|answer| answer.contains("200 OK")) {
            break answer;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "no answer on {port}:\n{}",
            machine.console()
        );
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(answer.contains("<h1>hello from kiln</h1>"), "{answer}");
}

#[test]
fn onboot_runs_in_order_and_the_system_ends_cleanly() {
    let space = Space::new();
    space.write(
        "order.yml",
        "kernel:\n  debian: {suite: bookworm, packages: [linux-image-cloud-amd64]}\n  modules: [overlay]\n  cmdline: console=ttyS0 quiet\n\
         init: [kiln]\n\
         onboot:\n  - &box\n    name: first\n    debian: {suite: bookworm, packages: [busybox-static]}\n    command: [/bin/busybox, sh, -c, \"echo the first; id -u\"]\n    uid: 1234\n\
         \x20 - name: second\n    debian: {suite: bookworm, packages: [busybox-static]}\n    binds: [\"/etc:/system\"]\n    command: [/bin/busybox, sh, -c, \"echo the second; /bin/busybox cat /system/mark\"]\n\
         services:\n  - name: ends\n    debian: {suite: bookworm, packages: [busybox-static]}\n    pid: host\n    capabilities: [CAP_KILL]\n\
         \x20   command: [/bin/busybox, sh, -c, \"echo the service; /bin/busybox kill -TERM 1\"]\n\
         onshutdown:\n  - name: last\n    debian: {suite: bookworm, packages: [busybox-static]}\n    command: [/bin/busybox, echo, the last]\n\
         files:\n  - path: etc/mark\n    contents: \"the bound file\"\n",
    );
    let mut machine = Machine::boot(&space, &["--accel", "tcg", "order.yml"]);
    let console = machine.end();
    assert_order(
        &console,
        &[
            "the first",
            "1234",
            "the second",
            "the bound file",
            "the service",
            "the last",
        ],
    );
}

/// The one with the network's rights waits for the card; the other does not, and is first although
/// its name is not.
#[test]
fn services_that_need_no_device_begin_before_the_devices() {
    let space = Space::new();
    let box_ = "debian: {suite: bookworm, packages: [busybox-static]}";
    space.write(
        "early.yml",
        &format!(
            "kernel:\n  debian: {{suite: bookworm, packages: [linux-image-cloud-amd64]}}\n  modules: [overlay, virtio_pci, virtio_net]\n  cmdline: console=ttyS0 quiet kiln.debug\n\
             init: [kiln]\n\
             services:\n  - name: admin\n    {box_}\n    pid: host\n    capabilities: [CAP_NET_ADMIN, CAP_KILL]\n\
             \x20   annotations: {{kiln.depends-on: plain}}\n\
             \x20   command: [/bin/busybox, sh, -c, \"/bin/busybox ls /sys/class/net; /bin/busybox kill -TERM 1\"]\n\
             \x20 - name: plain\n    {box_}\n    command: [/bin/busybox, sleep, \"1000\"]\n\
             files:\n  - path: etc/hostname\n    contents: early\n"
        ),
    );
    let mut machine = Machine::boot(&space, &["--accel", "tcg", "early.yml"]);
    let console = machine.end();
    let steps = ["first services begun", "module virtio_net", "admin | eth0"];
    assert_order(&console, &steps);
}

/// Asks as LinuxKit's `logread` does: one byte, and JSON until the end.
const LOGREAD: &str = r#"
kernel:
  debian: {suite: bookworm, packages: [linux-image-cloud-amd64]}
  modules: [overlay]
  cmdline: console=ttyS0 quiet kiln.net=off
init: [kiln]
onboot:
  - name: first
    debian: {suite: bookworm, packages: [busybox-static]}
    command: [/bin/busybox, sh, -c, "echo first words; echo complaint >&2"]
services:
  - name: read
    debian: {suite: bookworm, packages: [perl-base]}
    pid: host
    capabilities: [CAP_KILL]
    binds: ["/run:/run", "/var/log:/log"]
    command:
      - /usr/bin/perl
      - -MIO::Socket::UNIX
      - -e
      - |
        $| = 1;
        my $socket = IO::Socket::UNIX->new("/run/memlogdq.sock") or die $!;
        syswrite $socket, "\0";
        print "asked: $_" while <$socket>;
        print "files: @{[glob '/log/*.log']}.\n";
        kill "USR2", 1;
files:
  - {path: usr/bin/memlogd, contents: "its image is in init"}
"#;

#[test]
fn a_system_with_memlogd_answers_those_who_ask_it() {
    let space = Space::new();
    space.write("box.yml", LOGREAD);
    let arguments = ["--accel", "tcg", "--networking", "none", "box.yml"];
    let console = Machine::boot(&space, &arguments).end();
    assert_order(
        &console,
        &[
            "asked: {\"time\":\"20",
            "\"source\":\"onboot.000-first.out\",\"msg\":\"first words\"}",
            "\"source\":\"onboot.000-first\",\"msg\":\"complaint\"}",
            "files: .",
        ],
    );
}

pub(super) fn assert_order(console: &str, texts: &[&str]) {
    let at = |text: &&str| {
        console
            .find(text)
            .unwrap_or_else(|| panic!("no \"{text}\" in\n{console}"))
    };
    let order: Vec<usize> = texts.iter().map(at).collect();
    assert!(order.is_sorted(), "{order:?}:\n{console}");
}

/// What LinuxKit's init does with bundles, in shell: the mounts of runtime.json, then runc.
const FOREIGN_INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
busybox mkdir -p /proc /run /tmp
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
mount -t tmpfs run /run; mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
modprobe overlay
for volume in /containers/volumes/*; do
    mount -t tmpfs tmpfs $volume/tmp; mkdir $volume/tmp/upper $volume/tmp/work
    mount -t overlay -o lowerdir=$volume/lower,upperdir=$volume/tmp/upper,workdir=$volume/tmp/work overlay $volume/merged
done
for bundle in /containers/onboot/* /containers/services/*; do
    jq -r '.mounts[] | [.type // "none", .source // "none", .destination, (.options // ["rw"] | join(","))] | join(" ")' $bundle/runtime.json |
    while read type source destination options; do
        # LinuxKit's marks a new tmpfs private, which a remount cannot.
        [ $options = remount,private ] && continue
        for word in $(echo $options | tr , " "); do
            case $word in upperdir=* | workdir=*) mkdir -p ${word#*=} ;; esac
        done
        mount -t $type -o $options $source $destination
    done
    # The kernel's own root cannot be pivoted from.
    runc run --no-pivot --bundle $bundle $(basename $bundle) </dev/null
done
poweroff -f
"#;

/// LinuxKit's own init, when it was built: `KILN_LINUXKIT_INIT` is a directory with its root, that is
/// `init`, `bin`, `etc` and so on, merged into `usr`, and with the links that its `runc` and
/// `containerd` packages add to `etc/init.d`.
fn linuxkit_init() -> Option<String> {
    let root = std::env::var("KILN_LINUXKIT_INIT").ok()?;
    Some(format!(
        "init:\n  - directory:{root}\n  - debian: {{suite: bookworm, packages: [runc, containerd]}}\nfiles:\n"
    ))
}

#[test]
fn a_foreign_init_runs_the_bundles_with_runc() {
    let shell = "init:\n  - debian: {suite: bookworm, packages: [busybox-static, runc, jq, kmod]}\n\
                 files:\n  - {path: init, source: init, mode: \"0755\"}\n";
    run_bundles(shell, "1024");
    if let Some(init) = linuxkit_init() {
        run_bundles(&init, "3072");
    }
}

fn run_bundles(init_and_files: &str, memory: &str) {
    let space = Space::new();
    space.write("init", FOREIGN_INIT);
    let run = |command: &str| {
        format!(
            "    debian: {{suite: bookworm, packages: [busybox-static]}}\n    command: [/bin/busybox, sh, -c, \"{command}\"]\n"
        )
    };
    let touch = |path: &str| format!("/bin/busybox touch {path} 2>/dev/null");
    let console =
        "    devices: [{path: /dev/console, type: c, major: 5, minor: 1, mode: \"0666\"}]\n";
    let yaml = [
        "kernel:\n  debian: {suite: bookworm, packages: [linux-image-cloud-amd64]}\n  modules: [overlay]\n  cmdline: console=ttyS0 quiet\n",
        "onboot:\n  - name: first\n    readonly: true\n    uid: 1234\n",
        &run(&format!(
            "echo the first; /bin/busybox id -u; {} || echo no writing here",
            touch("/x")
        )),
        "  - name: second\n    binds: [\"/etc/mark:/mark\", \"data:/data\"]\n",
        &run(&format!(
            "echo the second; /bin/busybox cat /mark; echo kept > /data/word; {} && echo can write",
            touch("/x")
        )),
        "services:\n  - name: a-web\n    binds: [\"data:/data:ro\", \"runs:/runs\", \"/dev/console:/dev/console\"]\n    hostname: its-own-name\n    uts: new\n",
        console,
        &run(&format!(
            "exec > /dev/console; echo the service; /bin/busybox hostname; /bin/busybox cat /data/word; {} || echo only reads; echo > /runs/done",
            touch("/data/x")
        )),
        "  - name: b-end\n    pid: host\n    capabilities: [CAP_KILL]\n    binds: [\"runs:/runs:ro\"]\n",
        &run("until [ -e /runs/done ]; do /bin/busybox sleep 1; done; /bin/busybox kill -USR2 1"),
        "volumes:\n  - name: data\n  - name: runs\n",
        init_and_files,
        "  - {path: etc/mark, contents: \"the bound file\\n\", mode: \"0644\"}\n",
    ];
    space.write("foreign.yml", &yaml.concat());
    let arguments = ["--accel", "tcg", "--mem", memory, "foreign.yml"];
    let console = Machine::boot(&space, &arguments).end();
    assert_order(
        &console,
        &[
            "the first",
            "1234",
            "no writing here",
            "the second",
            "the bound file",
            "can write",
            "the service",
            "its-own-name",
            "kept",
            "only reads",
        ],
    );
}
