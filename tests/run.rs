//! `kiln run` with monitors and guests that do not behave: a program in QEMU's place.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
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

/// A running `kiln run`; it ends with the test.
struct Run {
    space: Space,
    child: Child,
}

impl Run {
    fn start(space: Space, manner: &str, args: &[&str]) -> Self {
        fs::create_dir_all(space.path("run")).unwrap();
        space.write("bin/manner", manner);
        let qemu = space.write("bin/qemu-system-x86_64", QEMU);
        fs::set_permissions(qemu, fs::Permissions::from_mode(0o755)).unwrap();
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

    fn said(&self) -> String {
        fs::read_to_string(self.space.path("said")).unwrap()
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
