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
struct Machine {
    child: Child,
    log: std::path::PathBuf,
}

impl Machine {
    fn boot(space: &Space, args: &[&str]) -> Self {
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
    let began = Instant::now();
    let status = loop {
        if let Some(status) = machine.child.try_wait().unwrap() {
            break status;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "it does not end:\n{}",
            machine.console()
        );
        std::thread::sleep(Duration::from_millis(100));
    };
    let console = machine.console();
    assert!(status.success(), "{status}:\n{console}");
    let at = |text: &str| {
        console
            .find(text)
            .unwrap_or_else(|| panic!("no \"{text}\" in\n{console}"))
    };
    let order = [
        at("the first"),
        at("1234"),
        at("the second"),
        at("the bound file"),
        at("the service"),
        at("the last"),
    ];
    assert!(order.is_sorted(), "{order:?}:\n{console}");
}
