//! `kiln run` and `kiln vm` with monitors and guests that do not behave: a program in QEMU's place,
//! and sockets of the test's own in a machine's.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::support::Space;
use super::vm::PATIENCE;

/// QEMU as far as kiln sees it, in the ways that the file `manner` beside it names: it makes `no
/// sockets`, its console `closes`, or its ports are `hung up`.
const QEMU: &str = r#"#!/usr/bin/env python3
import os, re, socket, sys, threading, time
here = os.path.dirname(os.path.abspath(sys.argv[0]))
manner = open(here + '/manner').read()
def note(word): open(here + '/' + word, 'w').write(str(os.getpid()))
def listen(name):
    s = socket.socket(socket.AF_UNIX)
    s.bind(re.search('path=([^,]*' + re.escape(name) + ')', ' '.join(sys.argv)).group(1))
    s.listen()
    return s
def console(s):
    stream = s.accept()[0]
    stream.send(b'shown\n')
    if manner == 'closes': stream.close()
    else: time.sleep(600)
def port(s):
    while True:
        stream = s.accept()[0]
        if manner == 'hung up': stream.close()
        else: kept.append(stream)
def qmp(s):
    while True:
        stream = s.accept()[0]
        try:
            stream.send(b'{"QMP": {}}\n')
            for line in stream.makefile():
                for word in ['system_powerdown', 'quit']:
                    if word in line: note(word)
                stream.send(b'{"return": {}}\n')
                if 'capabilities' not in line: os._exit(0)
        except OSError: pass
kept = []
note('began')
if manner == 'no sockets': time.sleep(600)
all = [(console, listen('console.sock')), (qmp, listen('qmp.sock'))]
all += [(port, listen('control.%d' % n)) for n in range(8)]
for work, s in all: threading.Thread(target=work, args=[s]).start()
"#;

/// A virtiofsd that makes its socket and stays.
const VIRTIOFSD: &str = "#!/bin/sh
for word in \"$@\"; do
    case $word in --socket-path=*) : > \"${word#*=}\"; echo $$ > \"$0.pid\"; exec sleep 600;; esac
done
";

/// A running `kiln run`; it ends with the test.
struct Run {
    space: Space,
    child: Child,
}

impl Run {
    fn start(space: Space, manner: &str, args: &[&str]) -> Self {
        fs::create_dir_all(space.path("run")).unwrap();
        space.write("bin/manner", manner);
        for (name, text) in [("qemu-system-x86_64", QEMU), ("virtiofsd", VIRTIOFSD)] {
            let path = space.write(&format!("bin/{name}"), text);
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = format!(
            "{}:{}",
            space.path("bin").display(),
            std::env::var("PATH").unwrap()
        );
        let said = fs::File::create(space.path("said")).unwrap();
        let child = space
            .command()
            .args(["run", "--accel", "tcg", "--arch", "amd64"])
            .args(args)
            .env("PATH", path)
            .stdin(Stdio::piped())
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .spawn()
            .unwrap();
        Self { space, child }
    }

    /// Of outputs that nothing will look into.
    fn of_outputs(manner: &str, args: &[&str]) -> Self {
        let space = Space::new();
        for part in ["kernel", "initrd.img", "cmdline"] {
            space.write(&format!("box-{part}"), "nothing");
        }
        Self::start(space, manner, &[args, &["box"]].concat())
    }

    fn said(&self) -> String {
        fs::read_to_string(self.space.path("said")).unwrap()
    }

    fn has(&self, file: &str) -> bool {
        self.space.path(file).exists()
    }

    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        until(what, is_so, || self.said());
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; returns its exit code.
    fn end(&mut self) -> Option<i32> {
        let said = self.space.path("said");
        end(&mut self.child, || fs::read_to_string(&said).unwrap())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until(what: &str, is_so: impl Fn() -> bool, said: impl Fn() -> String) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "not {what}: {}", said());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn end(child: &mut Child, said: impl Fn() -> String) -> Option<i32> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if began.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("it does not end: {}", said());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_signal_ends_a_machine_whose_console_has_closed() {
    let mut run = Run::of_outputs("closes", &[]);
    run.until("shown", || run.said().contains("shown\n"));
    run.until("told", || run.said().contains("Waiting for box"));
    run.signal(Signal::TERM);
    assert_eq!(run.end(), Some(143), "{}", run.said());
    assert!(run.has("bin/system_powerdown"), "in order");
    assert!(!run.has("run/kiln/box"), "its files are gone");
}

/// The shell sends a SIGHUP, and the kernel another one when the shell has ended.
#[test]
fn a_machine_ends_in_order_when_its_terminal_is_closed() {
    let mut run = Run::of_outputs("", &[]);
    run.until("shown", || run.said().contains("shown\n"));
    for _ in 0..3 {
        run.signal(Signal::HUP);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(run.end(), Some(129), "{}", run.said());
    assert!(run.has("bin/system_powerdown"), "in order");

    // Not with nohup.
    let space = Space::new();
    fs::create_dir(space.path("served")).unwrap();
    let mut child = space
        .command_in(&["env", "--ignore-signal=HUP"])
        .args(["serve", "--port", "127.0.0.1:0", "--directory", "served"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.read_line(&mut said).unwrap();
    assert!(said.contains("Serving"), "{said}");
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "it ended");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(end(&mut child, String::new), Some(0));
}

#[test]
fn a_signal_ends_a_monitor_that_does_not_start() {
    let mut run = Run::of_outputs("no sockets", &["--virtiofs", "."]);
    run.until("begun", || run.has("bin/began"));
    let began = Instant::now();
    run.signal(Signal::TERM);
    assert_eq!(run.end(), Some(143), "{}", run.said());
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(!run.has("run/kiln/box"), "its files are gone");
    gone(&run, "virtiofsd.pid");
    gone(&run, "began");

    // Nor is anything left when kiln is killed.
    let mut run = Run::of_outputs("no sockets", &["--virtiofs", "."]);
    run.until("begun", || run.has("bin/began"));
    run.child.kill().unwrap();
    run.child.wait().unwrap();
    gone(&run, "virtiofsd.pid");
    gone(&run, "began");
}

/// Waits until a process that has left its number is no more, or waits for nobody to reap it.
fn gone(run: &Run, file: &str) {
    let pid = fs::read_to_string(run.space.path("bin").join(file)).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    run.until(file, || {
        fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "))
    });
}

/// A description whose kernel nobody boots.
#[test]
fn a_watcher_says_that_nobody_answers() {
    let space = Space::new();
    space.write("kernel/kernel", "nothing");
    space.write("tree/bin/program", "nothing");
    space.write(
        "box.yml",
        "kernel: {image: 'directory:./kernel', tar: none, cmdline: quiet}\n\
         services: [{name: web, image: 'directory:./tree', command: [/bin/program]}]\n",
    );
    let mut run = Run::start(space, "hung up", &["--watch", "box.yml"]);
    let told = || run.said().matches("cannot talk to box").count();
    run.until("told", || told() > 0);
    // It is asked several times a second.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(told(), 1, "{}", run.said());
    run.signal(Signal::TERM);
    assert_eq!(run.end(), Some(143), "{}", run.said());
}

/// What kiln takes for a machine: sockets of ours.
struct Machine {
    space: Space,
    place: PathBuf,
    alive: UnixListener,
}

impl Machine {
    /// One that such a monitor runs.
    fn of(monitor: &str) -> Self {
        let space = Space::new();
        let place = space.path("run/kiln/box");
        fs::create_dir(space.path("run")).unwrap();
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700).create(&place).unwrap();
        let about = format!(r#"{{"monitor": "{monitor}"}}"#);
        fs::write(place.join("about.json"), about).unwrap();
        let socket = if monitor == "qemu" { "qmp" } else { "api" };
        let alive = UnixListener::bind(place.join(format!("{socket}.sock"))).unwrap();
        Self {
            space,
            place,
            alive,
        }
    }

    fn listen(&self, name: &str) -> UnixListener {
        UnixListener::bind(self.place.join(name)).unwrap()
    }

    /// Runs `kiln vm`, which is heard while it runs.
    fn vm(&self, args: &[&str]) -> Child {
        self.space
            .command()
            .arg("vm")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

fn read_until(from: &mut impl Read, text: &str) {
    let mut all = Vec::new();
    while !String::from_utf8_lossy(&all).contains(text) {
        let mut buffer = [0; 4096];
        let count = from.read(&mut buffer).unwrap();
        assert!(
            count > 0,
            "no {text:?} in {:?}",
            String::from_utf8_lossy(&all)
        );
        all.extend(&buffer[..count]);
    }
}

/// Types until nothing is taken any more.
fn fill(mut typed: ChildStdin) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || while typed.write_all(&[b'x'; 4096]).is_ok() {})
}

#[test]
fn a_console_that_takes_nothing_is_shown_and_left() {
    let machine = Machine::of("qemu");
    let console = machine.listen("console.sock");
    let mut child = machine.vm(&["console"]);
    let typist = fill(child.stdin.take().unwrap());
    let (mut guest, _) = console.accept().unwrap();
    // Until every buffer is full.
    std::thread::sleep(Duration::from_secs(1));
    guest.write_all(b"still here\n").unwrap();
    read_until(child.stdout.as_mut().unwrap(), "still here");

    // QEMU would let a second one wait.
    let second = machine.space.kiln(&["vm", "console"]);
    assert_eq!(second.code, Some(1), "{}", second.stderr);
    assert!(second.stderr.contains("another kiln"), "{}", second.stderr);

    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(end(&mut child, String::new), Some(0));
    typist.join().unwrap();
}

/// An image's, when it has this terminal: its console is only a file.
#[test]
fn a_console_that_is_a_file_is_shown() {
    let machine = Machine::of("cloud-hypervisor");
    fs::write(machine.place.join("console.log"), "it begins\n").unwrap();
    let mut child = machine.vm(&["console"]);
    read_until(child.stdout.as_mut().unwrap(), "it begins\n");
    read_until(child.stderr.as_mut().unwrap(), "hears nothing");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(end(&mut child, String::new), Some(0));
}

fn frame(kind: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
    [&[kind][..], &length, bytes].concat()
}

/// Takes a request as kiln-init does, and begins to answer.
fn begin(port: &UnixListener) -> (BufReader<UnixStream>, serde_json::Value) {
    let (mut stream, _) = port.accept().unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut asked = Vec::new();
    reader.read_until(b'\n', &mut asked).unwrap();
    let asked: serde_json::Value = serde_json::from_slice(&asked[2..]).unwrap();
    let number = asked["number"].as_u64().unwrap();
    stream.write_all(&frame(7, &number.to_le_bytes())).unwrap();
    (reader, asked)
}

#[test]
fn a_guest_that_has_no_end_of_words_is_not_heard_out() {
    let machine = Machine::of("qemu");
    let port = machine.listen("control.0");
    for kind in [1, 2] {
        let guest = std::thread::spawn({
            let port = port.try_clone().unwrap();
            move || {
                let (guest, asked) = begin(&port);
                assert_eq!(asked["args"][0], "replace");
                let words = frame(kind, &[b'x'; 4096]);
                while guest.get_ref().write_all(&words).is_ok() {}
            }
        });
        let said = machine
            .space
            .kiln(&["vm", "replace", "--file", "box.yml", "web"]);
        assert_eq!(said.code, Some(1), "{}", said.stderr);
        assert!(
            said.stderr.contains("more than 65536 bytes"),
            "{}",
            said.stderr
        );
        guest.join().unwrap();
    }
}

/// Runs `kiln vm exec -t` on a terminal of its own.
fn exec_on_terminal(machine: &Machine) -> Child {
    machine
        .space
        .command_in(&[
            "sh",
            "-c",
            "export KILN=$0; exec script -qec '$KILN vm exec -t web sh' /dev/null",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script (Debian's package bsdutils)")
}

#[test]
fn a_terminal_is_its_owners_until_a_guest_answers_and_can_be_taken_back() {
    let machine = Machine::of("qemu");
    let port = machine.listen("control.0");
    // Nobody answers: Ctrl-C is Ctrl-C.
    let mut child = exec_on_terminal(&machine);
    let (silent, _) = port.accept().unwrap();
    let mut typed = child.stdin.take().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    typed.write_all(b"\x03").unwrap();
    assert_eq!(end(&mut child, String::new), Some(130));
    drop(silent);

    // Once it answers every key is the program's, but for three Ctrl-].
    let mut child = exec_on_terminal(&machine);
    let (mut guest, asked) = begin(&port);
    assert!(asked["terminal"].is_array(), "{asked}");
    let mut typed = child.stdin.take().unwrap();
    let hello = frame(1, b"hello");
    guest.get_ref().write_all(&hello).unwrap();
    read_until(child.stdout.as_mut().unwrap(), "hello");
    typed.write_all(b"\x03\x1d").unwrap();
    read_until(&mut guest, "\x1d");
    std::thread::sleep(Duration::from_millis(1100));
    typed.write_all(b"\x1d\x1d\x1d").unwrap();
    assert_eq!(end(&mut child, String::new), Some(130));
}

/// Firecracker has no power button on arm64.
#[test]
fn who_cannot_be_asked_to_end_can_be_ended() {
    let machine = Machine::of("firecracker");
    let api = machine.alive.try_clone().unwrap();
    std::thread::spawn(move || {
        for stream in api.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut asked = String::new();
            // Who only looks whether it is there asks nothing; a body follows an empty line.
            while stream.read_line(&mut asked).is_ok_and(|count| count > 2) {}
            let answer = "HTTP/1.1 400 \r\nContent-Length: 2\r\n\r\nno";
            let _ = stream.get_ref().write_all(answer.as_bytes());
        }
    });
    let said = machine.space.kiln(&["vm", "stop"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    for text in ["cannot end box", "400 no", "kiln vm rm box ends it"] {
        assert!(said.stderr.contains(text), "{}", said.stderr);
    }
}
